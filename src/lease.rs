//! Leases: who holds which keys until when. Pure; time comes in as an argument.
//!
//! Which leases exist, their TTLs, their checkpoints and their keys are the same on every member and follow
//! from the log alone. Deadlines exist only between [`Lessor::promote`] and [`Lessor::demote`], on the member
//! that leads; everywhere else a lease never expires. A lease whose time is up stays in place until the
//! command that revokes it is applied.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use prost::Message;

use crate::error::ApiError;
use crate::error::Fault;
use crate::proto::etcdserverpb::LeaseCheckpoint;
use crate::proto::kvpb::LeaseRecord;
use crate::storage;
use crate::storage::Table;
use crate::storage::View;
use crate::storage::draft::Draft;
use crate::util::clock::Uptime;

/// How often the remaining time of a long lease is told to the other members.
pub const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(300);

/// From this many leases on, a new leader spreads the deadlines that bunch up.
const SPREAD_FROM: usize = 1000;

/// How many leases may then expire within one second.
const SPREAD_PER_SECOND: usize = 750;

/// Whole seconds of a lease without a deadline, as etcd computes it from its longest duration.
const FOREVER: i64 = i64::MAX / 1_000_000_000;

/// Leases read from the table at a time.
const PAGE: usize = 4096;

/// A lease as clients name it; any int64 but 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

impl LeaseId {
    fn table_key(self) -> [u8; 8] {
        self.0.to_be_bytes()
    }
}

/// How an attempt to renew a lease ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// The lease has its full time again.
    Renewed {
        ttl: i64,
        /// A checkpoint is on record and no longer true: propose one with remaining time 0.
        stale_checkpoint: bool,
    },
    /// Its time is up and the revocation is on its way; wait for it, then answer a TTL of 0.
    Expired,
    NotFound,
    /// Only the leader renews.
    NotPrimary,
}

#[derive(Debug)]
struct Lease {
    ttl: i64,
    /// Seconds left at the last checkpoint; 0 without one.
    remaining: i64,
    keys: BTreeSet<Bytes>,
    deadline: Option<Uptime>,
    checkpoint_at: Option<Uptime>,
}

impl Lease {
    /// The time it has left as far as every member knows.
    fn known_left(&self) -> Duration {
        let seconds = if self.remaining > 0 {
            self.remaining
        } else {
            self.ttl
        };
        Duration::from_secs(seconds.unsigned_abs())
    }
}

/// Every lease and the keys attached to it.
#[derive(Debug, Default)]
pub struct Lessor {
    leases: HashMap<LeaseId, Lease>,
    /// Which lease a key hangs on. Shares the keys' bytes with the leases.
    holders: HashMap<Bytes, LeaseId>,
    primary: bool,
    deadlines: BTreeSet<(Uptime, LeaseId)>,
    checkpoints: BTreeSet<(Uptime, LeaseId)>,
}

impl Lessor {
    /// Largest TTL a client may ask for.
    pub const MAX_TTL: i64 = 9_000_000_000;

    /// Reads the leases back. Their keys are attached afterwards, from the live key-values.
    pub fn restore(view: &dyn View) -> storage::Result<Lessor> {
        let mut lessor = Lessor::default();
        let mut from: Vec<u8> = Vec::new();
        loop {
            let page = view.scan(Table::Leases, &from, None, PAGE)?;
            for (key, value) in &page {
                lessor.restore_one(key, value)?;
            }
            match page.last() {
                Some((last, _)) if page.len() == PAGE => from = [&last[..], &[0]].concat(),
                _ => return Ok(lessor),
            }
        }
    }

    fn restore_one(&mut self, key: &[u8], value: &[u8]) -> storage::Result<()> {
        let damaged = |reason: String| Fault::damaged("table of leases", reason);
        let record = LeaseRecord::decode(value).map_err(|error| damaged(error.to_string()))?;
        let id = LeaseId(record.id);
        if key != id.table_key() {
            return Err(damaged(format!("lease {:x} under another key", record.id)));
        }
        self.insert(id, record.ttl, record.remaining_ttl);
        Ok(())
    }

    fn insert(&mut self, id: LeaseId, ttl: i64, remaining: i64) {
        let lease = Lease {
            ttl,
            remaining,
            keys: BTreeSet::new(),
            deadline: None,
            checkpoint_at: None,
        };
        self.leases.insert(id, lease);
    }

    /// The checks of a grant, in etcd's order.
    pub fn check_grant(&self, id: LeaseId, ttl: i64) -> Result<(), ApiError> {
        if id.0 == 0 {
            return Err(ApiError::LeaseNotFound);
        }
        if ttl > Lessor::MAX_TTL {
            return Err(ApiError::LeaseTTLTooLarge);
        }
        if self.exists(id) {
            return Err(ApiError::LeaseExist);
        }
        Ok(())
    }

    /// Adds a lease and returns its TTL. The minimum that follows from a member's election timeout has been
    /// settled before the proposal, for it may differ between members; one second is the least here.
    pub fn grant(
        &mut self,
        draft: &mut Draft<'_>,
        id: LeaseId,
        ttl: i64,
        now: Uptime,
    ) -> Result<i64, ApiError> {
        self.check_grant(id, ttl)?;
        let ttl = ttl.max(1);
        self.insert(id, ttl, 0);
        self.persist(draft, id);
        if self.primary {
            self.refresh(id, now, Duration::ZERO);
        }
        Ok(ttl)
    }

    /// Removes the lease; its keys are the caller's to delete.
    pub fn revoke(&mut self, draft: &mut Draft<'_>, id: LeaseId) -> Result<(), ApiError> {
        self.unschedule(id);
        let lease = self.leases.remove(&id).ok_or(ApiError::LeaseNotFound)?;
        for key in &lease.keys {
            self.holders.remove(key);
        }
        draft.delete(Table::Leases, id.table_key().to_vec());
        Ok(())
    }

    pub fn exists(&self, id: LeaseId) -> bool {
        self.leases.contains_key(&id)
    }

    pub fn len(&self) -> usize {
        self.leases.len()
    }

    pub fn is_empty(&self) -> bool {
        self.leases.is_empty()
    }

    /// Moves `key` to lease `id`. A lease that does not exist takes nothing.
    pub fn attach(&mut self, key: &[u8], id: LeaseId) {
        let holder = self.holders.get(key).copied();
        if holder == Some(id) || !self.exists(id) {
            return;
        }
        let key = Bytes::copy_from_slice(key);
        if let Some(old) = self.holders.insert(key.clone(), id) {
            self.take_key(old, &key);
        }
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.keys.insert(key);
        }
    }

    /// Takes `key` off the lease it hangs on, if any.
    pub fn detach(&mut self, key: &[u8]) {
        if self.holders.is_empty() {
            return;
        }
        if let Some(old) = self.holders.remove(key) {
            self.take_key(old, key);
        }
    }

    fn take_key(&mut self, id: LeaseId, key: &[u8]) {
        if let Some(lease) = self.leases.get_mut(&id) {
            lease.keys.remove(key);
        }
    }

    /// The keys of a lease in byte order; `None` if there is no such lease.
    pub fn keys(&self, id: LeaseId) -> Option<impl ExactSizeIterator<Item = &Bytes>> {
        self.leases.get(&id).map(|lease| lease.keys.iter())
    }

    /// The lease that `key` hangs on.
    pub fn holder(&self, key: &[u8]) -> Option<LeaseId> {
        self.holders.get(key).copied()
    }

    /// The TTL the lease was granted.
    pub fn ttl(&self, id: LeaseId) -> Option<i64> {
        self.leases.get(&id).map(|lease| lease.ttl)
    }

    /// Seconds left at the last checkpoint; 0 without one.
    pub fn checkpointed(&self, id: LeaseId) -> Option<i64> {
        self.leases.get(&id).map(|lease| lease.remaining)
    }

    /// Whole seconds left, cut towards zero; negative while a revocation is on its way.
    pub fn remaining(&self, id: LeaseId, now: Uptime) -> Option<i64> {
        let lease = self.leases.get(&id)?;
        let Some(deadline) = lease.deadline else {
            return Some(FOREVER);
        };
        let left = deadline.saturating_sub(now).as_secs() as i64;
        let late = now.saturating_sub(deadline).as_secs() as i64;
        Some(left - late)
    }

    /// Every lease: the one that expires next first on the leader, by ID elsewhere.
    pub fn list(&self) -> Vec<LeaseId> {
        if self.primary {
            return self.deadlines.iter().map(|(_, id)| *id).collect();
        }
        let mut ids: Vec<LeaseId> = self.leases.keys().copied().collect();
        ids.sort_unstable();
        ids
    }

    /// Returns true if deadlines run here.
    pub fn is_primary(&self) -> bool {
        self.primary
    }

    /// Gives the lease its full time again.
    pub fn renew(&mut self, id: LeaseId, now: Uptime) -> Renewal {
        if !self.primary {
            return Renewal::NotPrimary;
        }
        let Some(lease) = self.leases.get(&id) else {
            return Renewal::NotFound;
        };
        if lease.deadline.is_some_and(|deadline| deadline <= now) {
            return Renewal::Expired;
        }
        let (ttl, stale_checkpoint) = (lease.ttl, lease.remaining > 0);
        self.schedule(id, now, Duration::from_secs(ttl.unsigned_abs()));
        Renewal::Renewed {
            ttl,
            stale_checkpoint,
        }
    }

    /// The leases whose time is up at `now`, oldest first, at most `limit` of them. They stay in place.
    pub fn expired(&self, now: Uptime, limit: usize) -> Vec<LeaseId> {
        let due = self.deadlines.iter().take_while(|(at, _)| *at <= now);
        due.take(limit).map(|(_, id)| *id).collect()
    }

    /// When the next lease expires.
    pub fn next_deadline(&self) -> Option<Uptime> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// The checkpoints that are due, at most `limit` of them, for the leader to propose. Each comes again an
    /// interval later if the lease still has longer than that.
    pub fn take_checkpoints(&mut self, now: Uptime, limit: usize) -> Vec<LeaseCheckpoint> {
        let due = self.checkpoints.iter().take_while(|(at, _)| *at <= now);
        let ids: Vec<LeaseId> = due.take(limit).map(|(_, id)| *id).collect();
        ids.into_iter()
            .filter_map(|id| self.take_checkpoint(id, now))
            .collect()
    }

    fn take_checkpoint(&mut self, id: LeaseId, now: Uptime) -> Option<LeaseCheckpoint> {
        let deadline = self.leases.get(&id)?.deadline?;
        let left = deadline.saturating_sub(now);
        self.plan_checkpoint(id, now, left);
        // Rounded up, so that a checkpoint never shortens a lease.
        let remaining_ttl = (left + Duration::from_nanos(999_999_999)).as_secs() as i64;
        (remaining_ttl > 0).then_some(LeaseCheckpoint {
            id: id.0,
            remaining_ttl,
        })
    }

    /// Notes the seconds left, for the leaders to come. Deadlines here do not move.
    pub fn checkpoint(&mut self, draft: &mut Draft<'_>, id: LeaseId, remaining: i64) {
        let Some(lease) = self.leases.get_mut(&id) else {
            return;
        };
        let remaining = remaining.clamp(0, lease.ttl);
        if lease.remaining != remaining {
            lease.remaining = remaining;
            self.persist(draft, id);
        }
    }

    /// Starts the deadlines: each lease has the time it is known to have left, and `extend` on top.
    pub fn promote(&mut self, now: Uptime, extend: Duration) {
        self.primary = true;
        self.deadlines.clear();
        self.checkpoints.clear();
        let mut order: Vec<(Uptime, LeaseId)> = self
            .leases
            .iter()
            .map(|(id, lease)| (now + lease.known_left() + extend, *id))
            .collect();
        order.sort_unstable();
        if order.len() >= SPREAD_FROM {
            spread(&mut order);
        }
        for (deadline, id) in &order {
            if let Some(lease) = self.leases.get_mut(id) {
                lease.deadline = Some(*deadline);
                lease.checkpoint_at = None;
            }
            self.plan_checkpoint(*id, now, deadline.saturating_sub(now));
        }
        self.deadlines = order.into_iter().collect();
    }

    /// Stops the deadlines: nothing expires here any more.
    pub fn demote(&mut self) {
        self.primary = false;
        self.deadlines.clear();
        self.checkpoints.clear();
        for lease in self.leases.values_mut() {
            lease.deadline = None;
            lease.checkpoint_at = None;
        }
    }

    fn refresh(&mut self, id: LeaseId, now: Uptime, extend: Duration) {
        if let Some(lease) = self.leases.get(&id) {
            let left = lease.known_left() + extend;
            self.schedule(id, now, left);
        }
    }

    fn schedule(&mut self, id: LeaseId, now: Uptime, left: Duration) {
        let Some(lease) = self.leases.get_mut(&id) else {
            return;
        };
        let deadline = now + left;
        if let Some(old) = lease.deadline.replace(deadline) {
            self.deadlines.remove(&(old, id));
        }
        self.deadlines.insert((deadline, id));
        self.plan_checkpoint(id, now, left);
    }

    fn plan_checkpoint(&mut self, id: LeaseId, now: Uptime, left: Duration) {
        let Some(lease) = self.leases.get_mut(&id) else {
            return;
        };
        let next = (left > CHECKPOINT_INTERVAL).then(|| now + CHECKPOINT_INTERVAL);
        if let Some(old) = std::mem::replace(&mut lease.checkpoint_at, next) {
            self.checkpoints.remove(&(old, id));
        }
        if let Some(next) = next {
            self.checkpoints.insert((next, id));
        }
    }

    fn unschedule(&mut self, id: LeaseId) {
        let Some(lease) = self.leases.get(&id) else {
            return;
        };
        if let Some(at) = lease.deadline {
            self.deadlines.remove(&(at, id));
        }
        if let Some(at) = lease.checkpoint_at {
            self.checkpoints.remove(&(at, id));
        }
    }

    fn persist(&self, draft: &mut Draft<'_>, id: LeaseId) {
        if let Some(lease) = self.leases.get(&id) {
            let record = LeaseRecord {
                id: id.0,
                ttl: lease.ttl,
                remaining_ttl: lease.remaining,
            };
            draft.put(
                Table::Leases,
                id.table_key().to_vec(),
                record.encode_to_vec(),
            );
        }
    }

    /// Panics if the parts disagree. For tests.
    pub fn validate(&self) {
        let attached: usize = self.leases.values().map(|lease| lease.keys.len()).sum();
        assert_eq!(attached, self.holders.len(), "a key is attached twice");
        for (key, id) in &self.holders {
            let lease = self.leases.get(id).expect("a holder exists");
            assert!(
                lease.keys.contains(key),
                "{key:?} is not a key of its holder"
            );
        }
        let scheduled = |at: fn(&Lease) -> Option<Uptime>| -> BTreeSet<(Uptime, LeaseId)> {
            let all = self.leases.iter();
            all.filter_map(|(id, lease)| Some((at(lease)?, *id)))
                .collect()
        };
        assert_eq!(self.deadlines, scheduled(|lease| lease.deadline));
        assert_eq!(self.checkpoints, scheduled(|lease| lease.checkpoint_at));
        let running = if self.primary { self.leases.len() } else { 0 };
        assert_eq!(self.deadlines.len(), running, "deadlines run on the leader");
    }
}

/// Moves deadlines in `order` back until no second holds more than its share.
fn spread(order: &mut [(Uptime, LeaseId)]) {
    for later in SPREAD_PER_SECOND..order.len() {
        let earliest = order[later - SPREAD_PER_SECOND].0 + Duration::from_secs(1);
        order[later].0 = order[later].0.max(earliest);
    }
}
