//! Writes that the engine does not hold yet, as one sorted map for each table.

use std::collections::BTreeMap;
use std::collections::btree_map;
use std::ops::Bound;

use bytes::Bytes;

use crate::storage::Batch;
use crate::storage::Table;
use crate::storage::Write;

/// What a map entry costs beside its key and value, roughly.
const ENTRY_BYTES: usize = 96;

/// A key and what became of it; `None` is a deletion.
pub(super) type Change = (Bytes, Option<Bytes>);

/// The newest change of each key written since the last generation was taken.
#[derive(Default)]
pub(super) struct Generation {
    tables: [BTreeMap<Bytes, Option<Bytes>>; Table::ALL.len()],
    /// Memory it takes, roughly.
    pub bytes: usize,
    /// Log index of the newest write.
    pub applied: u64,
    /// How many batches were ever written, this generation and all before it.
    pub batches: u64,
}

impl Generation {
    /// An empty generation that continues the counts of `self`.
    pub fn successor(&self) -> Generation {
        Generation {
            applied: self.applied,
            batches: self.batches,
            ..Generation::default()
        }
    }

    pub fn is_empty(&self) -> bool {
        self.tables.iter().all(BTreeMap::is_empty)
    }

    pub fn apply(&mut self, batch: Batch, applied: u64) {
        assert!(applied >= self.applied, "{applied} after {}", self.applied);
        self.applied = applied;
        self.batches += 1;
        for write in batch.writes {
            match write {
                Write::Put { table, key, value } => self.set(table, key, Some(value)),
                Write::Delete { table, key } => self.set(table, key, None),
            }
        }
    }

    fn set(&mut self, table: Table, key: Bytes, value: Option<Bytes>) {
        let size = value.as_ref().map_or(0, Bytes::len);
        match self.tables[table.index()].entry(key) {
            btree_map::Entry::Vacant(entry) => {
                self.bytes += ENTRY_BYTES + entry.key().len() + size;
                entry.insert(value);
            }
            btree_map::Entry::Occupied(mut entry) => {
                let old = entry.insert(value);
                self.bytes += size;
                self.bytes -= old.map_or(0, |old| old.len());
            }
        }
    }

    /// The newest change of `key`, if it was changed at all.
    pub fn get(&self, table: Table, key: &[u8]) -> Option<&Option<Bytes>> {
        self.tables[table.index()].get(key)
    }

    /// The changes of a table in key order.
    pub fn changes(&self, table: Table) -> impl Iterator<Item = (&Bytes, &Option<Bytes>)> {
        self.tables[table.index()].iter()
    }

    /// The changes of `[from, to)` in key order. The range must not be empty.
    pub fn range(
        &self,
        table: Table,
        from: &[u8],
        to: Option<&[u8]>,
    ) -> btree_map::Range<'_, Bytes, Option<Bytes>> {
        let end = to.map_or(Bound::Unbounded, Bound::Excluded);
        self.tables[table.index()].range::<[u8], _>((Bound::Included(from), end))
    }
}

/// Merges two runs in key order; `newer` wins where both have a key. At most `limit` changes.
pub(super) fn merge<'a>(
    newer: impl Iterator<Item = (&'a Bytes, &'a Option<Bytes>)>,
    older: impl Iterator<Item = (&'a Bytes, &'a Option<Bytes>)>,
    limit: usize,
) -> Vec<Change> {
    let (mut newer, mut older) = (newer.peekable(), older.peekable());
    let mut merged = Vec::new();
    while merged.len() < limit {
        let next = match (newer.peek(), older.peek()) {
            (Some((new, _)), Some((old, _))) if new > old => older.next(),
            (Some((new, _)), Some((old, _))) if new == old => {
                older.next();
                newer.next()
            }
            (Some(_), _) => newer.next(),
            (None, _) => older.next(),
        };
        let Some((key, value)) = next else { break };
        merged.push((key.clone(), value.clone()));
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(writes: &[(&'static str, Option<&'static str>)]) -> Batch {
        let mut batch = Batch::default();
        for (key, value) in writes {
            match value {
                Some(value) => batch.put(Table::Meta, *key, *value),
                None => batch.delete(Table::Meta, *key),
            }
        }
        batch
    }

    #[test]
    fn overwritten_keys_take_no_more_memory() {
        let mut generation = Generation::default();
        generation.apply(batch(&[("applied", Some("1"))]), 1);
        let once = generation.bytes;
        for index in 2..100 {
            generation.apply(batch(&[("applied", Some("2"))]), index);
        }
        assert_eq!(generation.bytes, once);
        assert_eq!((generation.applied, generation.batches), (99, 99));
        generation.apply(batch(&[("applied", None)]), 100);
        assert_eq!(generation.bytes, once - 1);
    }

    #[test]
    fn newer_changes_win_a_merge() {
        let (mut older, mut newer) = (Generation::default(), Generation::default());
        older.apply(batch(&[("a", Some("1")), ("b", Some("1")), ("d", None)]), 1);
        newer.apply(batch(&[("b", None), ("c", Some("2"))]), 2);
        let merged = |limit| {
            let run = merge(
                newer.range(Table::Meta, b"", None),
                older.range(Table::Meta, b"", None),
                limit,
            );
            run.into_iter()
                .map(|(key, value)| format!("{key:?}={value:?}"))
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(
            merged(9),
            r#"b"a"=Some(b"1") b"b"=None b"c"=Some(b"2") b"d"=None"#
        );
        assert_eq!(merged(2), r#"b"a"=Some(b"1") b"b"=None"#);
    }
}
