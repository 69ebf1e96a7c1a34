//! Key to versions, in memory: who is live now, who was at a revision, and what compaction may free.

mod model;

pub use model::Index;

use std::ops::ControlFlow;

use crate::mvcc::Revision;

/// What a walk calls for each key. `Break` ends the walk.
pub type Visit<'a> = dyn FnMut(&[u8], Version, Handle) -> ControlFlow<()> + 'a;

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
