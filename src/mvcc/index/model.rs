//! The index as plain ordered maps: obviously right, linear where it counts.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::ops::ControlFlow;

use super::Freed;
use super::Handle;
use super::Version;
use super::Visit;
use crate::mvcc::Revision;
use crate::proto::KeyRange;

#[derive(Default)]
struct Chain {
    /// Oldest first, never empty.
    versions: Vec<Version>,
    value: Option<Handle>,
}

impl Chain {
    fn newest(&self) -> Version {
        *self.versions.last().expect("a chain is never empty")
    }

    fn at(&self, revision: i64) -> Option<(Version, Handle)> {
        let known = self
            .versions
            .partition_point(|version| version.modified.main <= revision);
        let found = *self.versions.get(known.checked_sub(1)?)?;
        let newest = known == self.versions.len();
        let value = self.value.filter(|_| newest).unwrap_or(Handle::NONE);
        (!found.is_tombstone()).then_some((found, value))
    }

    /// How many versions, from the oldest on, a compaction at `revision` frees.
    fn garbage(&self, revision: i64) -> usize {
        let known = self
            .versions
            .partition_point(|version| version.modified.main <= revision);
        let Some(last) = known.checked_sub(1) else {
            return 0;
        };
        let found = &self.versions[last];
        // A tombstone exactly at the compacted revision stays until a later compaction.
        match found.is_tombstone() && found.modified.main < revision {
            true => known,
            false => last,
        }
    }
}

/// Every version of every key since the last compaction.
#[derive(Default)]
pub struct Index {
    keys: BTreeMap<Vec<u8>, Chain>,
    live: u64,
}

impl Index {
    pub fn new() -> Index {
        Index::default()
    }

    /// The newest version of `key`, if the key is live.
    pub fn get(&self, key: &[u8]) -> Option<(Version, Handle)> {
        self.get_at(key, i64::MAX)
    }

    /// The version of `key` that was live at `revision`.
    pub fn get_at(&self, key: &[u8], revision: i64) -> Option<(Version, Handle)> {
        self.keys.get(key)?.at(revision)
    }

    /// Adds a version and returns it.
    pub fn put(&mut self, key: &[u8], at: Revision, value: Handle) -> Version {
        let made = match self.get(key) {
            Some((last, _)) => Version {
                modified: at,
                created: last.created,
                version: last.version + 1,
            },
            None => Version {
                modified: at,
                created: at.main,
                version: 1,
            },
        };
        self.push(key, made, value);
        made
    }

    /// Ends the life of `key`. Returns false, and changes nothing, if it is not live.
    pub fn delete(&mut self, key: &[u8], at: Revision) -> bool {
        let live = self.get(key).is_some();
        if live {
            let tombstone = Version {
                modified: at,
                ..Version::default()
            };
            self.push(key, tombstone, Handle::NONE);
        }
        live
    }

    /// Remembers where the value of the version `modified` is, if that is still the newest.
    pub fn set_handle(&mut self, key: &[u8], modified: Revision, value: Handle) {
        let Some(chain) = self.keys.get_mut(key) else {
            return;
        };
        let newest = chain.newest();
        if newest.modified == modified && !newest.is_tombstone() {
            chain.value = Some(value);
        }
    }

    fn push(&mut self, key: &[u8], version: Version, value: Handle) {
        if self.get(key).is_some() {
            self.live -= 1;
        }
        if !version.is_tombstone() {
            self.live += 1;
        }
        let chain = match self.keys.get_mut(key) {
            Some(chain) => chain,
            None => self.keys.entry(key.to_vec()).or_default(),
        };
        if let Some(last) = chain.versions.last() {
            assert!(last.modified < version.modified, "revisions only grow");
        }
        chain.versions.push(version);
        chain.value = Some(value);
    }

    /// How many keys of `range` were live at `revision`, which must not be compacted.
    pub fn count(&self, range: &KeyRange, revision: i64) -> u64 {
        let mut count = 0;
        self.walk(range, revision, &mut |_, _, _| {
            count += 1;
            ControlFlow::Continue(())
        });
        count
    }

    /// Visits the keys of `range` that were live at `revision`, in ascending order.
    pub fn walk(&self, range: &KeyRange, revision: i64, visit: &mut Visit<'_>) {
        if range.is_empty() {
            return;
        }
        let end = range
            .end
            .as_deref()
            .map_or(Bound::Unbounded, Bound::Excluded);
        let bounds = (Bound::Included(&range.start[..]), end);
        for (key, chain) in self.keys.range::<[u8], _>(bounds) {
            if let Some((version, value)) = chain.at(revision)
                && visit(key, version, value).is_break()
            {
                return;
            }
        }
    }

    /// Frees what a compaction at `revision` frees, up to 64 keys for each of `leaves`.
    ///
    /// Returns true when nothing is left to free.
    pub fn compact(&mut self, revision: i64, leaves: usize, freed: &mut Vec<Freed>) -> bool {
        let limit = leaves.saturating_mul(64);
        let (mut cleaned, mut emptied) = (0, Vec::new());
        for (key, chain) in &mut self.keys {
            let garbage = chain.garbage(revision);
            if garbage == 0 {
                continue;
            }
            if cleaned == limit {
                break;
            }
            cleaned += 1;
            freed.extend(chain.versions.drain(..garbage).map(|old| Freed {
                at: old.modified,
                tombstone: old.is_tombstone(),
            }));
            if chain.versions.is_empty() {
                emptied.push(key.clone());
            }
        }
        for key in emptied {
            self.keys.remove(&key);
        }
        cleaned < limit
    }

    /// Visits what a compaction at `revision` would keep of each key live at `revision`.
    pub fn retained(&self, revision: i64, visit: &mut dyn FnMut(Revision)) {
        for chain in self.keys.values() {
            if let Some((version, _)) = chain.at(revision) {
                visit(version.modified);
            }
        }
    }

    /// Every version, in the order of revisions: what a disk would replay.
    pub fn stored(&self) -> Vec<(Vec<u8>, Version)> {
        let each = self.keys.iter();
        let mut all: Vec<_> = each
            .flat_map(|(key, chain)| chain.versions.iter().map(|v| (key.clone(), *v)))
            .collect();
        all.sort_by_key(|(_, version)| version.modified);
        all
    }

    /// As after a restart: no value is cached.
    pub fn forget_handles(&mut self) {
        self.keys.values_mut().for_each(|chain| chain.value = None);
    }

    /// The number of live keys.
    pub fn live(&self) -> u64 {
        self.live
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(main: i64) -> Revision {
        Revision { main, sub: 0 }
    }

    #[test]
    fn tombstone_at_the_compacted_revision_stays_until_a_later_one() {
        let mut index = Index::new();
        index.put(b"a", at(2), Handle::NONE);
        assert!(index.delete(b"a", at(3)));
        assert!(!index.delete(b"a", at(4)));
        let mut freed = Vec::new();
        assert!(index.compact(3, usize::MAX, &mut freed));
        let ats = |freed: &[Freed]| freed.iter().map(|it| it.at).collect::<Vec<_>>();
        assert_eq!(ats(&freed), [at(2)]);
        assert!(index.compact(4, usize::MAX, &mut freed));
        assert_eq!(ats(&freed), [at(2), at(3)]);
        assert!(freed[1].tombstone && !freed[0].tombstone);
    }

    #[test]
    fn put_after_delete_in_one_revision_begins_a_new_life() {
        let mut index = Index::new();
        index.put(b"a", at(2), Handle::NONE);
        index.delete(b"a", Revision { main: 3, sub: 0 });
        let made = index.put(b"a", Revision { main: 3, sub: 1 }, Handle::new(7));
        assert_eq!((made.created, made.version), (3, 1));
        assert_eq!(index.get_at(b"a", 3), Some((made, Handle::new(7))));
        assert_eq!(index.get_at(b"a", 2).map(|(v, _)| v.modified), Some(at(2)));
    }
}
