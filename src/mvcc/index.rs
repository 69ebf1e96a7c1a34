//! Key to versions, in memory: who is live now, who was at a revision, and what compaction may free.
//!
//! A counted B+tree. A leaf holds keys and all their versions since the last compaction; an inner node
//! holds, for each child, how many keys are live and when one was last born or died, and a log of how
//! many were live at each revision. So a count costs two paths from the root at any revision that is
//! not compacted, a page costs its own keys, and compaction finds what it may free without a queue.
//!
//! A deleted key stays as a tombstone until a compaction passes it. Nothing here knows where values
//! are: a [`Handle`] is carried for whoever caches them.

mod blocks;
mod build;
mod bytes;
mod entry;
mod leaf;
mod log;
#[cfg(test)]
mod model;
mod node;
mod separators;
mod stamp;
#[cfg(test)]
mod tests;

use std::ops::ControlFlow;

pub use self::build::Builder;
pub use self::entry::Versions;
use self::node::Allowance;
use self::node::Node;
use self::node::Span;
use self::node::Write;
use crate::mvcc::Revision;
use crate::proto::KeyRange;

/// What a walk calls for each key. `Break` ends the walk.
pub type Visit<'a> = dyn FnMut(&[u8], Version, Handle) -> ControlFlow<()> + 'a;

/// What an export calls for each key.
pub type Export<'a> = dyn FnMut(&[u8], Versions<'_>) -> ControlFlow<()> + 'a;

/// A version that left the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Freed {
    pub at: Revision,
    pub tombstone: bool,
}

/// One version of a key. `version` 0 is a tombstone, which has no `created` either.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    pub modified: Revision,
    pub created: i64,
    pub version: i64,
}

impl Version {
    #[inline]
    pub fn is_tombstone(&self) -> bool {
        self.version == 0
    }
}

/// Where the newest value of a key is cached. The index carries it and never looks inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handle(u64);

impl Handle {
    /// Not cached.
    pub const NONE: Handle = Handle(u64::MAX);

    #[inline]
    pub fn new(raw: u64) -> Handle {
        Handle(raw)
    }

    #[inline]
    pub fn get(self) -> u64 {
        self.0
    }

    #[inline]
    pub fn is_none(self) -> bool {
        self == Handle::NONE
    }
}

/// Every version of every key since the last compaction, in nodes of up to `N`.
#[derive(Debug)]
pub struct Index<const N: usize = 64> {
    root: Node<N>,
    live: u64,
    compacted: i64,
}

impl Index {
    pub fn new() -> Index {
        Index::with_nodes()
    }
}

impl Default for Index {
    fn default() -> Index {
        Index::new()
    }
}

impl<const N: usize> Index<N> {
    fn with_nodes() -> Index<N> {
        Index {
            root: Node::new(),
            live: 0,
            compacted: 0,
        }
    }

    /// The newest version of `key`, if the key is live.
    #[inline]
    pub fn get(&self, key: &[u8]) -> Option<(Version, Handle)> {
        self.get_at(key, i64::MAX)
    }

    /// The version of `key` that was live at `revision`, with a handle if it is the newest.
    #[inline]
    pub fn get_at(&self, key: &[u8], revision: i64) -> Option<(Version, Handle)> {
        self.root.entry(key)?.at(revision)
    }

    /// Adds a version and returns it.
    pub fn put(&mut self, key: &[u8], at: Revision, value: Handle) -> Version {
        let made = self.write(key, Change::Put { at, value });
        made.expect("a put always makes a version")
    }

    /// Ends the life of `key`. Returns false, and changes nothing, if it is not live.
    pub fn delete(&mut self, key: &[u8], at: Revision) -> bool {
        self.write(key, Change::Delete { at }).is_some()
    }

    /// Remembers where the value of the version `modified` is, if that is still the newest.
    pub fn set_handle(&mut self, key: &[u8], modified: Revision, value: Handle) {
        if let Some(entry) = self.root.entry_mut(key) {
            entry.set_value(modified, value);
        }
    }

    /// Replays a stored version. Revisions of one key must come in ascending order.
    ///
    /// After a [`compact`](Index::compact) of the still empty index, revisions before the compacted
    /// one take no room in the logs.
    pub fn restore(&mut self, key: &[u8], version: Version) {
        self.write(key, Change::Restore(version));
    }

    fn write(&mut self, key: &[u8], change: Change) -> Option<Version> {
        let outcome = self.root.write(&Write {
            key,
            change,
            compacted: self.compacted,
        })?;
        self.live = self.live.wrapping_add_signed(outcome.delta.into());
        if let Some(split) = outcome.split {
            self.root.grow_root(split);
        }
        Some(outcome.made)
    }

    /// How many keys of `range` were live at `revision`, which must not be compacted.
    pub fn count(&self, range: &KeyRange, revision: i64) -> u64 {
        match range.is_empty() {
            true => 0,
            false => self.root.count(span(range), revision, false),
        }
    }

    /// Visits the keys of `range` that were live at `revision`, in ascending order.
    pub fn walk(&self, range: &KeyRange, revision: i64, visit: &mut Visit<'_>) {
        if !range.is_empty() {
            // Whoever broke the walk off knows why.
            let _ = self
                .root
                .walk(span(range), revision, &mut Vec::new(), visit);
        }
    }

    /// Frees, in a slice that looks into about `leaves` leaves, what a compaction at `revision` frees.
    ///
    /// Adds the versions the engine may drop to `freed`. Returns true when nothing is left to free.
    /// Begin anew where the last slice ended by calling again: the tree itself knows what is left.
    pub fn compact(&mut self, revision: i64, leaves: usize, freed: &mut Vec<Freed>) -> bool {
        self.compacted = self.compacted.max(revision);
        let leaves = leaves.max(1);
        let mut allowed = Allowance {
            nodes: leaves,
            versions: leaves.saturating_mul(blocks::BLOCK),
        };
        if self.root.garbage() <= revision {
            self.root.compact(revision, &mut allowed, freed);
            self.root.shrink_root();
        }
        self.root.garbage() > revision
    }

    /// Nobody will ask about revisions before `revision` any more: what is restored needs no room for them.
    pub fn begin_at(&mut self, revision: i64) {
        self.compacted = self.compacted.max(revision);
    }

    /// Returns true if the version of `key` written at `at` is here.
    pub fn holds(&self, key: &[u8], at: Revision) -> bool {
        self.root.entry(key).is_some_and(|entry| entry.holds(at))
    }

    /// Visits the keys from `from` on in ascending order, each with its versions up to `revision`, of
    /// which there may be none.
    pub fn export(&self, from: &[u8], revision: i64, visit: &mut Export<'_>) {
        let range = Span {
            from: Some(from),
            to: None,
        };
        // Whoever broke the walk off knows why.
        let _ = self.root.export(range, revision, &mut Vec::new(), visit);
    }

    /// Visits what a compaction at `revision` would keep of each key live at `revision`.
    pub fn retained(&self, revision: i64, visit: &mut dyn FnMut(Revision)) {
        self.root.retained(revision, visit);
    }

    /// The number of live keys.
    #[inline]
    pub fn live(&self) -> u64 {
        self.live
    }
}

fn span(range: &KeyRange) -> Span<'_> {
    Span {
        from: Some(&range.start[..]).filter(|start| !start.is_empty()),
        to: range.end.as_deref(),
    }
}

/// What a write does to a key.
#[derive(Clone, Copy)]
enum Change {
    Put { at: Revision, value: Handle },
    Delete { at: Revision },
    Restore(Version),
}

impl Change {
    /// The version that follows `prior`, or `None` if nothing changes.
    fn after(self, prior: Option<Version>) -> Option<Version> {
        let prior = prior.filter(|prior| !prior.is_tombstone());
        match self {
            Change::Put { at, .. } => Some(Version {
                modified: at,
                created: prior.map_or(at.main, |prior| prior.created),
                version: prior.map_or(1, |prior| prior.version + 1),
            }),
            Change::Delete { at } => prior.map(|_| Version {
                modified: at,
                ..Version::default()
            }),
            Change::Restore(version) => Some(version),
        }
    }

    fn value(self) -> Handle {
        match self {
            Change::Put { value, .. } => value,
            Change::Delete { .. } | Change::Restore(_) => Handle::NONE,
        }
    }
}
