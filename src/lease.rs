//! Leases: who holds which keys until when. Pure; time comes in as an argument.

use std::time::Duration;

use crate::error::ApiError;
use crate::util::clock::Uptime;

/// A lease as clients name it; any int64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

/// What is known of one lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    pub id: LeaseId,
    pub granted: Duration,
    /// Seconds left when last checkpointed; zero if never.
    pub checkpoint: Duration,
}

/// Every lease and the keys attached to it.
#[derive(Default)]
pub struct Lessor {}

impl Lessor {
    /// Largest TTL a client may ask for.
    pub const MAX_TTL: i64 = 9_000_000_000;

    /// Adds a lease; `ttl` is already raised to the minimum. Deadlines run only on the leader.
    pub fn grant(&mut self, _id: LeaseId, _ttl: i64, _now: Uptime) -> Result<(), ApiError> {
        todo!()
    }

    /// Removes the lease and returns its keys, sorted.
    pub fn revoke(&mut self, _id: LeaseId) -> Result<Vec<Vec<u8>>, ApiError> {
        todo!()
    }

    pub fn exists(&self, _id: LeaseId) -> bool {
        todo!()
    }

    /// Moves `key` to lease `id`; `None` detaches it.
    pub fn attach(&mut self, _key: &[u8], _id: Option<LeaseId>) {
        todo!()
    }
}
