//! One key: its newest version, and the ones before it that compaction has not passed.

use super::Freed;
use super::Handle;
use super::Version;
use super::blocks::Blocks;
use super::stamp::Stamp;
use crate::mvcc::Revision;

/// The versions of a key that were superseded, oldest first. Never empty.
///
/// The newest of them is in the box itself: most keys have only that one.
#[derive(Debug)]
struct History {
    last: Stamp,
    older: Option<Box<Blocks<Stamp>>>,
}

impl History {
    fn push(&mut self, stamp: Stamp) {
        let older = self.older.get_or_insert_with(|| Box::new(Blocks::new()));
        older.push(std::mem::replace(&mut self.last, stamp));
    }

    fn len(&self) -> usize {
        1 + self.older.as_ref().map_or(0, |older| older.len())
    }

    fn get(&self, index: usize) -> &Stamp {
        match &self.older {
            Some(older) if index < older.len() => older.get(index),
            _ => &self.last,
        }
    }

    /// How many of the leading versions are of revision `main` or before.
    fn known(&self, main: i64) -> usize {
        if self.last.main() <= main {
            return self.len();
        }
        let older = self.older.as_ref();
        older.map_or(0, |older| older.partition_point(|s| s.main() <= main))
    }

    /// Drops the first `count` versions, which are not all.
    fn drop_front(&mut self, count: usize) {
        let Some(older) = &mut self.older else {
            return;
        };
        older.drop_front(count);
        if older.is_empty() {
            self.older = None;
        }
    }
}

/// A key's versions: the ground truth that everything above a leaf summarises.
#[derive(Debug)]
pub(super) struct Entry {
    newest: Stamp,
    value: Handle,
    history: Option<Box<History>>,
}

const _: () = assert!(size_of::<Entry>() == 40);

impl Entry {
    pub(super) fn new(version: Version, value: Handle) -> Entry {
        Entry {
            newest: Stamp::new(version),
            value,
            history: None,
        }
    }

    #[inline]
    pub(super) fn newest(&self) -> Version {
        self.newest.version()
    }

    #[inline]
    pub(super) fn is_live(&self) -> bool {
        self.newest.is_live()
    }

    pub(super) fn push(&mut self, version: Version, value: Handle) {
        let old = std::mem::replace(&mut self.newest, Stamp::new(version));
        assert!(
            old.modified() < version.modified,
            "{:?} written after {:?}",
            version.modified,
            old.modified()
        );
        self.value = value;
        match &mut self.history {
            Some(history) => history.push(old),
            None => {
                self.history = Some(Box::new(History {
                    last: old,
                    older: None,
                }))
            }
        }
    }

    pub(super) fn set_value(&mut self, modified: Revision, value: Handle) {
        if self.is_live() && self.newest.modified() == modified {
            self.value = value;
        }
    }

    /// The version that is live at `revision`.
    #[inline]
    pub(super) fn at(&self, revision: i64) -> Option<(Version, Handle)> {
        let stamp = self.stamp_at(revision)?;
        let value = match self.newest.main() <= revision {
            true => self.value,
            false => Handle::NONE,
        };
        stamp.is_live().then(|| (stamp.version(), value))
    }

    #[inline]
    pub(super) fn live_at(&self, revision: i64) -> bool {
        // A life goes on until its end: no need to look for the version of that time.
        if self.is_live() && self.newest.created() <= revision {
            return true;
        }
        self.stamp_at(revision).is_some_and(Stamp::is_live)
    }

    #[inline]
    fn stamp_at(&self, revision: i64) -> Option<&Stamp> {
        if self.newest.main() <= revision {
            return Some(&self.newest);
        }
        let history = self.history.as_ref()?;
        let last = history.known(revision).checked_sub(1)?;
        Some(history.get(last))
    }

    fn len(&self) -> usize {
        1 + self.history.as_ref().map_or(0, |history| history.len())
    }

    fn get(&self, index: usize) -> &Stamp {
        match &self.history {
            Some(history) if index < history.len() => history.get(index),
            _ => &self.newest,
        }
    }

    /// Returns true if the version written at `at` is here.
    pub(super) fn holds(&self, at: Revision) -> bool {
        let index = super::bytes::bisect(0..self.len(), |i| self.get(i).modified() < at);
        index < self.len() && self.get(index).modified() == at
    }

    /// The versions of revisions up to `revision`, oldest first.
    pub(super) fn versions(&self, revision: i64) -> Versions<'_> {
        let end = super::bytes::bisect(0..self.len(), |i| self.get(i).main() <= revision);
        Versions {
            entry: self,
            next: 0,
            end,
        }
    }

    /// The revision of the key's last birth or death.
    pub(super) fn turned(&self) -> i64 {
        match self.is_live() {
            true => self.newest.created(),
            false => self.newest.main(),
        }
    }

    /// Adds the births (+1) and deaths (−1) that the versions tell of, netted by revision or not.
    ///
    /// Goes back life by life: a key that was written a million times in one costs one search.
    pub(super) fn turns(&self, turns: &mut Vec<(i64, i32)>) {
        let mut end = self.len();
        while let Some(last) = end.checked_sub(1) {
            let stamp = self.get(last);
            if !stamp.is_live() {
                if last > 0 && self.get(last - 1).is_live() {
                    turns.push((stamp.main(), -1));
                }
                end = last;
                continue;
            }
            let created = stamp.created();
            let mut first = super::bytes::bisect(0..last, |i| self.get(i).main() < created);
            // An earlier life may have ended in the revision that began this one.
            while self.get(first).created() != created {
                first += 1;
            }
            turns.push((self.get(first).main(), 1));
            end = first;
        }
    }

    /// The lowest revision at which a compaction frees a version of this key.
    pub(super) fn garbage(&self) -> i64 {
        let oldest = self.get(0);
        let alone = match oldest.is_live() {
            true => i64::MAX,
            false => oldest.main() + 1,
        };
        match self.len() {
            1 => alone,
            _ => alone.min(self.get(1).main()),
        }
    }

    /// Frees, oldest first and at most `limit` of them, the versions a compaction at `revision`
    /// has no use for. Returns true if the key itself is gone.
    pub(super) fn compact(
        &mut self,
        revision: i64,
        limit: &mut usize,
        freed: &mut Vec<Freed>,
    ) -> bool {
        let garbage = self.superseded(revision);
        let count = garbage.min(*limit);
        freed.extend((0..count).map(|index| self.get(index).freed()));
        *limit -= count;
        match &mut self.history {
            Some(history) if count < history.len() => history.drop_front(count),
            history => *history = None,
        }
        let gone = self.history.is_none() && ends_before(&self.newest, revision) && *limit > 0;
        if gone {
            *limit -= 1;
            freed.push(self.newest.freed());
        }
        gone
    }

    /// How many versions of the history a compaction at `revision` frees.
    fn superseded(&self, revision: i64) -> usize {
        let Some(history) = &self.history else {
            return 0;
        };
        if self.newest.main() <= revision {
            return history.len();
        }
        let known = history.known(revision);
        match known.checked_sub(1) {
            Some(last) if !ends_before(history.get(last), revision) => last,
            _ => known,
        }
    }

    /// Bytes on the heap.
    #[cfg(test)]
    pub(super) fn heap_bytes(&self) -> usize {
        let Some(history) = &self.history else {
            return 0;
        };
        let older = history.older.as_ref();
        size_of::<History>()
            + older.map_or(0, |older| size_of::<Blocks<Stamp>>() + older.heap_bytes())
    }
}

/// Versions of one key, oldest first.
pub struct Versions<'a> {
    entry: &'a Entry,
    next: usize,
    end: usize,
}

impl Versions<'_> {
    /// Leaves out the versions up to `at`.
    pub fn skip_to_after(&mut self, at: Revision) {
        let range = self.next..self.end;
        self.next = super::bytes::bisect(range, |i| self.entry.get(i).modified() <= at);
    }
}

impl Iterator for Versions<'_> {
    type Item = Version;

    fn next(&mut self) -> Option<Version> {
        let index = self.next;
        (index < self.end).then(|| {
            self.next += 1;
            self.entry.get(index).version()
        })
    }
}

/// A tombstone exactly at the compacted revision stays until a later compaction.
fn ends_before(stamp: &Stamp, revision: i64) -> bool {
    !stamp.is_live() && stamp.main() < revision
}
