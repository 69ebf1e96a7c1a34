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
use crate::util::metrics;

/// How often the remaining time of a long lease is told to the other members.
pub const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(300);

/// From this many leases on, a new leader spreads the deadlines that bunch up.
const SPREAD_FROM: usize = 1000;

/// How many leases may then expire within one second.
const SPREAD_PER_SECOND: usize = 750;

/// Whole seconds of a lease without a deadline, as etcd computes it from its longest duration.
const FOREVER: i64 = i64::MAX / 1_000_000_000;

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
        for (key, value) in storage::whole_table(view, Table::Leases)? {
            lessor.restore_one(&key, &value)?;
        }
        Ok(lessor)
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
        metrics::LEASES_GRANTED.inc();
        metrics::LEASE_TTL.observe(ttl as f64);
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
        metrics::LEASES_REVOKED.inc();
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

    /// Moves `key` to lease `id`; one that does not exist, such as 0, leaves it without a lease.
    pub fn attach(&mut self, key: &[u8], id: LeaseId) {
        if !self.exists(id) {
            return self.detach(key);
        }
        if self.holders.get(key) == Some(&id) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Write;

    use crate::storage::engine::memory::Memory;

    const MINUTE: u64 = 60;

    fn at(seconds: u64) -> Uptime {
        Uptime(Duration::from_secs(seconds))
    }

    fn millis(millis: u64) -> Uptime {
        Uptime(Duration::from_millis(millis))
    }

    /// Runs `change` over an empty table and returns what it wrote.
    fn drafted<T>(change: impl FnOnce(&mut Draft<'_>) -> T) -> (T, Vec<Write>) {
        let empty = Memory::default();
        let mut draft = Draft::over(&empty);
        let outcome = change(&mut draft);
        (outcome, draft.into_batch().writes)
    }

    fn granted(leases: &[(i64, i64)]) -> Lessor {
        let mut lessor = Lessor::default();
        for (id, ttl) in leases {
            drafted(|draft| lessor.grant(draft, LeaseId(*id), *ttl, at(0)))
                .0
                .expect("granted");
        }
        lessor
    }

    #[test]
    fn grants_are_checked_in_etcds_order() {
        let cases = [
            // id, ttl, answer
            (0, 10, Err(ApiError::LeaseNotFound)),
            (7, Lessor::MAX_TTL + 1, Err(ApiError::LeaseTTLTooLarge)),
            (7, 10, Err(ApiError::LeaseExist)),
            (8, Lessor::MAX_TTL, Ok(Lessor::MAX_TTL)),
            (-9, 10, Ok(10)),
            (i64::MIN, 10, Ok(10)),
            (10, 0, Ok(1)),
            (11, -5, Ok(1)),
        ];
        let mut lessor = granted(&[(7, 10)]);
        for (id, ttl, answer) in cases {
            let (reply, writes) = drafted(|draft| lessor.grant(draft, LeaseId(id), ttl, at(0)));
            assert_eq!(reply, answer, "id {id} ttl {ttl}");
            assert_eq!(writes.len(), usize::from(answer.is_ok()), "id {id}");
        }
        lessor.validate();
    }

    #[test]
    fn a_key_hangs_on_one_lease_at_most() {
        let mut lessor = granted(&[(1, 10), (2, 10)]);
        let keys = |lessor: &Lessor, id| -> Vec<Bytes> {
            lessor
                .keys(LeaseId(id))
                .expect("a lease")
                .cloned()
                .collect()
        };
        for key in ["c", "a", "b", "a"] {
            lessor.attach(key.as_bytes(), LeaseId(1));
        }
        assert_eq!(keys(&lessor, 1), ["a", "b", "c"]);
        lessor.attach(b"b", LeaseId(2));
        lessor.detach(b"c");
        lessor.detach(b"unknown");
        lessor.attach(b"d", LeaseId(3));
        lessor.validate();
        assert_eq!(keys(&lessor, 1), ["a"]);
        assert_eq!(keys(&lessor, 2), ["b"]);
        assert_eq!(lessor.holder(b"d"), None);
        let (reply, writes) = drafted(|draft| lessor.revoke(draft, LeaseId(2)));
        assert_eq!((reply, writes.len()), (Ok(()), 1));
        assert_eq!(lessor.holder(b"b"), None);
        assert!(lessor.keys(LeaseId(2)).is_none());
        lessor.validate();
    }

    #[test]
    fn only_a_leader_lets_leases_expire() {
        let mut lessor = granted(&[(1, 10), (2, 5)]);
        assert_eq!(lessor.expired(at(1000), 10), []);
        assert_eq!(lessor.remaining(LeaseId(1), at(0)), Some(FOREVER));
        assert_eq!(lessor.renew(LeaseId(1), at(0)), Renewal::NotPrimary);
        assert_eq!(lessor.list(), [LeaseId(1), LeaseId(2)]);

        lessor.promote(at(100), Duration::from_secs(1));
        lessor.validate();
        assert_eq!(lessor.list(), [LeaseId(2), LeaseId(1)]);
        assert_eq!(lessor.expired(millis(105_999), 10), []);
        assert_eq!(lessor.expired(at(106), 10), [LeaseId(2)]);
        assert_eq!(lessor.expired(at(111), 10), [LeaseId(2), LeaseId(1)]);
        assert_eq!(lessor.expired(at(111), 1), [LeaseId(2)]);

        lessor.demote();
        lessor.validate();
        assert_eq!(lessor.expired(at(1000), 10), []);
    }

    #[test]
    fn time_left_is_cut_towards_zero() {
        let mut lessor = granted(&[(1, 10)]);
        lessor.promote(at(0), Duration::ZERO);
        let cases = [
            (0, 10),
            (1, 9),
            (9_001, 0),
            (10_000, 0),
            (10_999, 0),
            (11_000, -1),
            (12_500, -2),
        ];
        for (now, left) in cases {
            assert_eq!(
                lessor.remaining(LeaseId(1), millis(now)),
                Some(left),
                "{now} ms"
            );
        }
        assert_eq!(lessor.remaining(LeaseId(2), at(0)), None);
    }

    #[test]
    fn a_renewal_gives_the_full_time_unless_it_comes_too_late() {
        let mut lessor = granted(&[(1, 10)]);
        lessor.promote(at(0), Duration::ZERO);
        let renewed = Renewal::Renewed {
            ttl: 10,
            stale_checkpoint: false,
        };
        assert_eq!(lessor.renew(LeaseId(1), at(9)), renewed);
        assert_eq!(lessor.expired(at(18), 10), []);
        assert_eq!(lessor.renew(LeaseId(1), at(19)), Renewal::Expired);
        assert_eq!(lessor.renew(LeaseId(2), at(19)), Renewal::NotFound);
        lessor.validate();
    }

    #[test]
    fn long_leases_are_checkpointed_and_the_next_leader_goes_on_from_there() {
        let mut lessor = granted(&[(1, 12 * MINUTE as i64), (2, 5 * MINUTE as i64)]);
        lessor.promote(at(0), Duration::ZERO);
        assert_eq!(lessor.take_checkpoints(at(5 * MINUTE - 1), 10), []);
        let due = lessor.take_checkpoints(millis(5 * MINUTE * 1000 + 1), 10);
        let first = LeaseCheckpoint {
            id: 1,
            remaining_ttl: 7 * MINUTE as i64,
        };
        assert_eq!(due, [first], "rounded up");
        assert_eq!(lessor.take_checkpoints(at(5 * MINUTE + 2), 10), [], "taken");
        assert_eq!(lessor.take_checkpoints(at(11 * MINUTE), 10).len(), 1);
        assert_eq!(
            lessor.take_checkpoints(at(20 * MINUTE), 10),
            [],
            "less than that left"
        );

        let id = LeaseId(1);
        let (_, writes) = drafted(|draft| lessor.checkpoint(draft, id, 7 * MINUTE as i64));
        assert_eq!(writes.len(), 1);
        lessor.demote();
        lessor.promote(at(0), Duration::from_secs(1));
        assert_eq!(lessor.remaining(id, at(0)), Some(7 * MINUTE as i64 + 1));
        let stale = Renewal::Renewed {
            ttl: 12 * MINUTE as i64,
            stale_checkpoint: true,
        };
        assert_eq!(lessor.renew(id, at(1)), stale);
        drafted(|draft| lessor.checkpoint(draft, id, 0));
        assert_eq!(lessor.checkpointed(id), Some(0));
        lessor.validate();
    }

    #[test]
    fn a_new_leader_spreads_what_would_expire_together() {
        let few: Vec<_> = (1..1000).map(|id| (id, 10)).collect();
        let mut lessor = granted(&few);
        lessor.promote(at(0), Duration::ZERO);
        assert_eq!(lessor.expired(at(10), usize::MAX).len(), 999);

        let many: Vec<_> = (1..=2000).map(|id| (id, 10)).collect();
        let mut lessor = granted(&many);
        lessor.promote(at(0), Duration::ZERO);
        lessor.validate();
        for (now, expired) in [(9, 0), (10, 750), (11, 1500), (12, 2000)] {
            assert_eq!(
                lessor.expired(at(now), usize::MAX).len(),
                expired,
                "at {now}"
            );
        }
    }

    #[test]
    fn leases_come_back_from_their_table() {
        let engine = Memory::default();
        let mut lessor = Lessor::default();
        let mut draft = Draft::over(&engine);
        for id in [3, -3, 9000] {
            lessor
                .grant(&mut draft, LeaseId(id), 60, at(0))
                .expect("granted");
        }
        lessor.checkpoint(&mut draft, LeaseId(3), 40);
        lessor.revoke(&mut draft, LeaseId(9000)).expect("revoked");
        let batch = draft.into_batch();
        crate::storage::Engine::commit(&engine, &batch).expect("committed");
        let restored = Lessor::restore(&engine).expect("restored");
        assert_eq!(restored.list(), [LeaseId(-3), LeaseId(3)]);
        assert_eq!(restored.checkpointed(LeaseId(3)), Some(40));
        assert_eq!(restored.ttl(LeaseId(-3)), Some(60));
    }

    /// Random operations against the rules in [`Lessor::validate`] and a plain model of the keys.
    #[test]
    fn random_operations_keep_the_parts_in_step() {
        let seed = 0x1ea5_e000;
        let mut random = fastrand::Rng::with_seed(seed);
        let mut lessor = Lessor::default();
        let mut model: HashMap<u8, LeaseId> = HashMap::new();
        let mut now = 0;
        for step in 0..20_000 {
            let id = LeaseId(random.i64(1..20));
            let key = random.u8(..40);
            now += random.u64(..2);
            match random.u32(..10) {
                0 => drop(drafted(|draft| {
                    lessor.grant(draft, id, random.i64(1..900), at(now))
                })),
                1 => {
                    if drafted(|draft| lessor.revoke(draft, id)).0.is_ok() {
                        model.retain(|_, holder| *holder != id);
                    }
                }
                2 => drop(lessor.renew(id, at(now))),
                3 => drop(drafted(|draft| {
                    lessor.checkpoint(draft, id, random.i64(0..900))
                })),
                4 => drop(lessor.take_checkpoints(at(now), 3)),
                5 if step % 50 == 0 => lessor.demote(),
                5 if step % 50 < 5 => lessor.promote(at(now), Duration::from_secs(1)),
                6 | 7 => {
                    lessor.detach(&[key]);
                    model.remove(&key);
                }
                _ => {
                    lessor.attach(&[key], id);
                    match lessor.exists(id) {
                        true => model.insert(key, id),
                        false => model.remove(&key),
                    };
                }
            }
            lessor.validate();
            assert_eq!(
                lessor.holder(&[key]),
                model.get(&key).copied(),
                "seed {seed:x}"
            );
        }
    }
}
