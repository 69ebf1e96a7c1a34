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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Engine;
    use crate::storage::engine::memory::Memory;

    fn below(keys: &[&'static str]) -> Memory {
        let memory = Memory::new();
        let mut batch = Batch::default();
        for key in keys {
            batch.put(Table::Leases, *key, "old");
        }
        batch.put(Table::Meta, "b", "other table");
        memory.commit(&batch).unwrap();
        memory
    }

    fn show(pairs: Vec<Pair>) -> String {
        let shown = pairs.iter().map(|(key, value)| {
            let (key, value) = (String::from_utf8_lossy(key), String::from_utf8_lossy(value));
            format!("{key}={value}")
        });
        shown.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn later_operations_see_earlier_ones() {
        let memory = below(&["a", "b", "c", "d"]);
        let mut draft = Draft::over(&memory);
        assert!(draft.is_empty());
        draft.put(Table::Leases, "b", "new");
        draft.put(Table::Leases, "bb", "new");
        draft.delete(Table::Leases, "c");
        draft.put(Table::Leases, "e", "new");
        draft.delete(Table::Leases, "e");
        draft.delete(Table::Leases, "x");
        draft.put(Table::Members, "b", "elsewhere");
        let get = |key: &str| draft.get(Table::Leases, key.as_bytes()).unwrap();
        let cases = [
            ("a", Some("old")),
            ("b", Some("new")),
            ("bb", Some("new")),
            ("c", None),
            ("e", None),
            ("y", None),
        ];
        for (key, expected) in cases {
            assert_eq!(get(key).as_deref(), expected.map(str::as_bytes), "{key}");
        }
        let cases: [(&str, Option<&str>, usize, &str); 7] = [
            ("", None, 9, "a=old b=new bb=new d=old"),
            ("", None, 3, "a=old b=new bb=new"),
            ("b", Some("d"), 9, "b=new bb=new"),
            ("ba", Some("d"), 9, "bb=new"),
            ("c", None, 1, "d=old"),
            ("e", None, 9, ""),
            ("", None, 0, ""),
        ];
        for (from, to, limit, expected) in cases {
            let found = draft.scan(Table::Leases, from.as_bytes(), to.map(str::as_bytes), limit);
            assert_eq!(show(found.unwrap()), expected, "[{from}, {to:?}) {limit}");
        }
        assert_eq!(
            draft.get(Table::Meta, b"b").unwrap().unwrap(),
            "other table"
        );
    }

    #[test]
    fn the_batch_keeps_every_change_in_order() {
        let memory = below(&["a"]);
        let mut draft = Draft::over(&memory);
        draft.put(Table::Leases, "k", "1");
        draft.delete(Table::Leases, "k");
        draft.put(Table::Leases, "k", "2");
        assert!(!draft.is_empty());
        let seen = draft.scan(Table::Leases, b"", None, 9).unwrap();
        let batch = draft.into_batch();
        assert_eq!(batch.writes.len(), 3);
        memory.commit(&batch).unwrap();
        assert_eq!(memory.scan(Table::Leases, b"", None, 9).unwrap(), seen);
    }
}
