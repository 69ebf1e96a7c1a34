//! The write-ahead log: the truth of a member.
//!
//! Entries, votes, the commit mark, truncations and purges are records of one ordered stream in segments of
//! 64 MiB. One thread writes: what queued up while it synced goes out in one write and one fdatasync, then
//! the callbacks run in order. A torn tail is cut; damage anywhere else refuses to open and names file and
//! offset. A failed write or sync is final.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::Result;
use super::disk::Disk;
use crate::error::Fault;

/// One log entry: its position, and bytes that mean nothing here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub index: u64,
    pub term: u64,
    pub data: Bytes,
}

/// Position of an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub term: u64,
    pub index: u64,
}

/// Told once the records before it are durable, or why they never will be.
pub type Done = Box<dyn FnOnce(std::result::Result<(), Arc<Fault>>) + Send>;

pub struct Options {
    pub segment_bytes: u64,
    /// Skips every sync. For tests and throw-away data only.
    pub no_sync: bool,
    /// Written to each segment; opening with another identity is refused. Zero matches any.
    pub cluster_id: u64,
    pub member_id: u64,
}

/// What the log held when it was opened.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    pub cluster_id: u64,
    pub member_id: u64,
    pub vote: Option<Bytes>,
    pub committed: Option<Bytes>,
    /// The last purged position, if any entry was ever purged.
    pub purged: Option<Position>,
    pub last: Option<Position>,
    /// True if a torn tail was cut.
    pub repaired: bool,
}

pub struct Wal {}

impl Wal {
    /// Opens or creates the log in `dir` and starts its thread. `fatal` is called once, with the reason, when
    /// a write or sync fails.
    pub fn open(
        _disk: Arc<dyn Disk>,
        _dir: &Path,
        _options: Options,
        _fatal: Box<dyn Fn(&Fault) + Send + Sync>,
    ) -> Result<(Wal, Recovered)> {
        todo!()
    }

    /// Queues entries; their indexes follow the last one without a gap. `done` is called when they are durable.
    /// `lone` allows writing and syncing on the calling thread when the queue is empty (see the module text).
    pub fn append(&self, _entries: Vec<Entry>, _lone: bool, _done: Done) {
        todo!()
    }

    /// Queues the vote; `done` is called when it is durable.
    pub fn save_vote(&self, _vote: Bytes, _done: Done) {
        todo!()
    }

    /// Queues the commit mark; it becomes durable with whatever is synced next.
    pub fn save_committed(&self, _committed: Bytes) {
        todo!()
    }

    /// Queues the removal of every entry after `last` (all of them if `None`).
    pub fn truncate_after(&self, _last: Option<Position>) {
        todo!()
    }

    /// Queues the removal of entries up to `upto`; whole segments are recycled once nothing in them is needed.
    pub fn purge(&self, _upto: Position) {
        todo!()
    }

    /// Reads entries of `range` that are on disk, from the first on, until about `max_bytes` (at least one).
    pub fn read(&self, _range: Range<u64>, _max_bytes: usize) -> Result<Vec<Entry>> {
        todo!()
    }

    /// Index up to which entries are durable on this member.
    pub fn durable(&self) -> u64 {
        todo!()
    }

    /// Writes out and syncs everything queued, then stops the thread.
    pub fn close(&self) -> Result<()> {
        todo!()
    }
}
