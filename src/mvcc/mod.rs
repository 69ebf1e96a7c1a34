//! Many versions of every key. Pure: bytes come from a `View`, changes leave in a `Draft`.
//!
//! Every transaction that changes something gets the next revision, and every change inside it a place in
//! that revision. Nothing is overwritten: a put adds a version, a deletion adds a tombstone, and reads may
//! ask for any revision since the last compaction. [`Store`] holds, in memory, where each version is (the
//! [`index`]) and the newest values (the [`cache`]); the records themselves are in the tables.
//!
//! What always holds:
//! - The current revision grows by exactly one for each transaction that writes, however deeply nested.
//! - Every check comes before the first change, so a refused request leaves nothing behind.
//! - What is visible at a revision never changes, until a compaction passes it.
//! - A version in the index has its record in the tables; a missing one is damage, not absence.

pub mod audit;
pub mod cache;
pub mod checkpoint;
pub mod compact;
pub mod event;
pub mod hash;
pub mod index;
pub mod range;
pub mod record;
pub mod store;
pub mod txn;
pub mod watchers;

pub use audit::Audit;
pub use checkpoint::Checkpoint;
pub use checkpoint::Loaded;
pub use compact::Pin;
pub use compact::Progress;
pub use event::Event;
pub use event::EventType;
pub use hash::HashKv;
pub use hash::HashScan;
pub use range::Chunks;
pub use range::Found;
pub use range::RangeScan;
pub use range::Slice;
pub use range::Window;
pub use range::check as check_range;
pub use range::check_stream;
pub use store::Store;
pub use store::check_delete;
pub use store::check_put;
pub use watchers::Watchers;

use crate::proto::etcdserverpb::PutRequest;
use crate::proto::kvpb::internal_raft_request::Command;

/// Where a version stands in history: the revision of its transaction, and its place inside it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    pub main: i64,
    pub sub: u32,
}

/// What a put is charged beside its key and value.
const PUT_OVERHEAD: u64 = 256;
const LEASE_COST: u64 = 64;

/// The bytes a command may add, which are held against the quota. Zero is always allowed.
pub fn cost(command: &Command) -> u64 {
    match command {
        Command::Put(put) => put_cost(put),
        Command::Txn(txn) => txn::cost(txn),
        Command::LeaseGrant(_) => LEASE_COST,
        _ => 0,
    }
}

fn put_cost(put: &PutRequest) -> u64 {
    PUT_OVERHEAD + put.key.len() as u64 + put.value.len() as u64
}
