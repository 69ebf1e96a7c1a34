//! Writes laid over a view, so that later operations of one command see earlier ones.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::Batch;
use super::Pair;
use super::Result;
use super::Table;
use super::View;
use super::Write;

/// A view and the changes one command has made to it so far.
pub struct Draft<'a> {
    view: &'a dyn View,
    batch: Batch,
    newest: BTreeMap<(Table, Bytes), Option<Bytes>>,
}

impl<'a> Draft<'a> {
    pub fn over(view: &'a dyn View) -> Draft<'a> {
        Draft {
            view,
            batch: Batch::default(),
            newest: BTreeMap::new(),
        }
    }

    pub fn put(&mut self, table: Table, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        let (key, value) = (key.into(), value.into());
        self.newest
            .insert((table, key.clone()), Some(value.clone()));
        self.batch.put(table, key, value);
    }

    pub fn delete(&mut self, table: Table, key: impl Into<Bytes>) {
        let key = key.into();
        self.newest.insert((table, key.clone()), None);
        self.batch.delete(table, key);
    }

    pub fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    /// How many changes were made so far.
    pub fn len(&self) -> usize {
        self.batch.writes.len()
    }

    pub fn into_batch(self) -> Batch {
        self.batch
    }
}

impl View for Draft<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>> {
        if self.newest.is_empty() {
            return self.view.get(table, key);
        }
        match self.newest.get(&(table, Bytes::copy_from_slice(key))) {
            Some(value) => Ok(value.clone()),
            None => self.view.get(table, key),
        }
    }

    fn scan(
        &self,
        table: Table,
        from: &[u8],
        to: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Pair>> {
        let lower = Bound::Included((table, Bytes::copy_from_slice(from)));
        let ours: Vec<_> = self
            .newest
            .range((lower, Bound::Unbounded))
            .take_while(|((other, key), _)| *other == table && to.is_none_or(|to| &key[..] < to))
            .map(|((_, key), value)| (key.clone(), value.clone()))
            .collect();
        // Each deletion of ours can hide one pair of the view's.
        let hidden = ours.iter().filter(|(_, value)| value.is_none()).count();
        let theirs = self
            .view
            .scan(table, from, to, limit.saturating_add(hidden))?;
        Ok(overlay(ours, theirs, limit))
    }
}

/// Merges two runs in key order; `ours` wins, and a value of `None` hides the key.
pub(super) fn overlay(
    ours: Vec<(Bytes, Option<Bytes>)>,
    theirs: Vec<Pair>,
    limit: usize,
) -> Vec<Pair> {
    let mut merged = Vec::with_capacity(limit.min(ours.len() + theirs.len()));
    let mut ours = ours.into_iter().peekable();
    let mut theirs = theirs.into_iter().peekable();
    while merged.len() < limit {
        let take_ours = match (ours.peek(), theirs.peek()) {
            (Some((own, _)), Some((other, _))) => {
                if own == other {
                    theirs.next();
                    continue;
                }
                own < other
            }
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (None, None) => break,
        };
        if take_ours {
            if let Some((key, Some(value))) = ours.next() {
                merged.push((key, value));
            }
        } else {
            merged.extend(theirs.next());
        }
    }
    merged
}

/// The changes as [`Write`]s, for tests that look at them one by one.
impl IntoIterator for Batch {
    type Item = Write;
    type IntoIter = std::vec::IntoIter<Write>;

    fn into_iter(self) -> Self::IntoIter {
        self.writes.into_iter()
    }
}
