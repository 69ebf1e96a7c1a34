//! One command, one apply: where the pure cores meet.
//!
//! Same state, same entry, same bytes, on every member. Nothing is written and nobody is told here:
//! [`Machine::apply`] answers with what the caller has to commit, then publish, then answer. The applied
//! mark, the membership and a running hash of the state ride in the same batch as the changes they vouch
//! for, so there is no moment at which they disagree.

pub mod command;
mod drift;
mod query;
pub mod snapshot;

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use tonic::Code;

use crate::cluster::Cluster;
use crate::error::ApiError;
use crate::error::Error;
use crate::error::Fault;
use crate::lease::LeaseId;
use crate::lease::Lessor;
use crate::mvcc::Checkpoint;
use crate::mvcc::Event;
use crate::mvcc::EventType;
use crate::mvcc::Loaded;
use crate::mvcc::Store;
use crate::proto::etcdserverpb::AlarmResponse;
use crate::proto::etcdserverpb::AlarmType;
use crate::proto::etcdserverpb::CompactionResponse;
use crate::proto::etcdserverpb::LeaseCheckpointResponse;
use crate::proto::etcdserverpb::LeaseGrantRequest;
use crate::proto::etcdserverpb::LeaseGrantResponse;
use crate::proto::etcdserverpb::LeaseRevokeResponse;
use crate::proto::etcdserverpb::ResponseHeader;
use crate::proto::kvpb::ClusterMemberAttrSetRequest;
use crate::proto::kvpb::LogId;
use crate::proto::kvpb::Membership;
use crate::proto::kvpb::MembershipRecord;
use crate::proto::kvpb::Origin;
use crate::proto::kvpb::Proposal;
use crate::proto::mvccpb::KeyValue;
use crate::storage;
use crate::storage::Batch;
use crate::storage::Table;
use crate::storage::View;
use crate::storage::draft::Draft;
use crate::util::clock::Uptime;

pub use command::Command;
pub use command::Reply;

use drift::StateHash;

/// Index, term and state hash of the last applied entry, 8 bytes each, in [`Table::Meta`].
const APPLIED: &[u8] = b"applied";

/// The newest membership, in [`Table::Meta`].
const MEMBERSHIP: &[u8] = b"membership";

static NO_ORIGIN: Origin = Origin {
    user: String::new(),
    certificate: String::new(),
    address: String::new(),
    wall_time_ms: 0,
};

/// What a member decides about its own machine. None of it changes what a command does to the data.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Bytes of newest values kept beside the index.
    pub cache_bytes: usize,
    /// `--quota-backend-bytes` as configured, see [`command::quota`].
    pub quota_bytes: i64,
}

/// Where an entry stands in the log, and what this member knows beside it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Context {
    pub index: u64,
    pub term: u64,
    /// This member's clock, used only for lease deadlines.
    pub now: Uptime,
    /// Bytes of this member's tables on disk, as last measured; decides only what is answered over quota.
    pub size: u64,
}

/// What one applied entry leaves for the outside world to do.
#[derive(Debug, Default)]
pub struct Effect {
    /// All changes of the entry and its applied mark; they reach the tables in one write.
    pub writes: Batch,
    /// One for each proposal of the entry, in order.
    pub outcomes: Vec<Outcome>,
}

/// What one proposal of an entry came to.
#[derive(Debug)]
pub struct Outcome {
    pub events: Vec<Arc<Event>>,
    pub reply: Result<Reply, Error>,
    /// The store's revision after it.
    pub revision: i64,
    /// This member is over its quota and no alarm says so yet: it raises NOSPACE for itself before it answers.
    pub out_of_space: bool,
}

/// Everything that the log decides.
pub struct Machine {
    pub store: Store,
    pub lessor: Lessor,
    pub cluster: Cluster,
    quota_bytes: i64,
    applied: Option<LogId>,
    membership: Option<MembershipRecord>,
    hash: StateHash,
}

impl Machine {
    /// Reads the machine back from the tables. No deadline runs until the lessor is promoted.
    pub fn restore(view: &dyn View, options: &Options) -> storage::Result<Machine> {
        Machine::restore_from(None, view, options)
    }

    /// Continues from a checkpoint of the index, if there is one, with the records after it.
    pub fn restore_from(
        loaded: Option<Loaded>,
        view: &dyn View,
        options: &Options,
    ) -> storage::Result<Machine> {
        let mut lessor = Lessor::restore(view)?;
        // The newest version of a key says which lease it hangs on; a tombstone, like none, says 0.
        for (key, lease) in loaded.iter().flat_map(Loaded::leases) {
            lessor.attach(key, LeaseId(lease));
        }
        let mut attach = |kv: &KeyValue| lessor.attach(&kv.key, LeaseId(kv.lease));
        let store = Store::restore_from(loaded, view, options.cache_bytes, &mut attach)?;
        let (applied, hash) = match view.get(Table::Meta, APPLIED)? {
            Some(mark) => read_mark(&mark)?,
            None => (None, StateHash::default()),
        };
        let membership = match view.get(Table::Meta, MEMBERSHIP)? {
            Some(record) => Some(read_membership(&record)?),
            None => None,
        };
        Ok(Machine {
            store,
            lessor,
            cluster: Cluster::restore(view)?,
            quota_bytes: options.quota_bytes,
            applied,
            membership,
            hash,
        })
    }

    /// Makes the next block of a checkpoint of the store; `None` after the last one.
    pub fn checkpoint_block(&self, checkpoint: &mut Checkpoint) -> Option<Vec<u8>> {
        let lease = |key: &[u8]| self.lessor.holder(key).map_or(0, |lease| lease.0);
        checkpoint.block(&self.store, &lease)
    }

    /// Applies the next entry of the log: its proposals in order, each of which sees the ones before it.
    ///
    /// After a fault the machine is of no more use, and this member stops.
    pub fn apply(
        &mut self,
        view: &dyn View,
        context: Context,
        proposals: &[Proposal],
    ) -> Result<Effect, Fault> {
        self.step(context);
        let mut draft = Draft::over(view);
        let mut outcomes = Vec::with_capacity(proposals.len());
        for proposal in proposals {
            outcomes.push(self.decide(&mut draft, context, proposal)?);
        }
        let writes = self.seal(draft, context);
        Ok(Effect { writes, outcomes })
    }

    /// Passes an entry without proposals: a blank one, or one that changes the membership.
    pub fn skip(
        &mut self,
        view: &dyn View,
        context: Context,
        membership: Option<&Membership>,
    ) -> Batch {
        self.step(context);
        let mut draft = Draft::over(view);
        if let Some(membership) = membership {
            self.cluster.set_membership(&mut draft, membership);
            let record = MembershipRecord {
                log_id: Some(log_id(context)),
                membership: Some(membership.clone()),
            };
            draft.put(Table::Meta, MEMBERSHIP, record.encode_to_vec());
            self.membership = Some(record);
        }
        self.seal(draft, context)
    }

    /// The last applied entry; `None` for a machine that has seen no log yet.
    pub fn applied(&self) -> Option<LogId> {
        self.applied
    }

    /// The newest applied membership and where it stood in the log.
    pub fn membership(&self) -> Option<&MembershipRecord> {
        self.membership.as_ref()
    }

    /// A running hash over everything the log has changed. Equal on all members at equal indexes.
    pub fn state_hash(&self) -> u64 {
        self.hash.0
    }

    /// Returns true if a command of this cost does not fit beside `size` bytes of tables.
    pub fn is_over_quota(&self, cost: u64, size: u64) -> bool {
        cost > 0 && command::quota(self.quota_bytes).is_some_and(|quota| size + cost >= quota)
    }

    fn step(&self, context: Context) {
        if let Some(last) = self.applied {
            assert_eq!(context.index, last.index + 1, "gap in the log");
            assert!(context.term >= last.term, "terms only grow");
        }
    }

    /// Closes the entry: folds its changes into the state hash and adds the mark that vouches for them.
    fn seal(&mut self, draft: Draft<'_>, context: Context) -> Batch {
        let mut writes = draft.into_batch();
        self.hash.number(context.index);
        self.hash.batch(&writes);
        self.applied = Some(log_id(context));
        let numbers = [context.index, context.term, self.hash.0];
        let mark = numbers.map(u64::to_be_bytes).concat();
        writes.put(Table::Meta, Bytes::from_static(APPLIED), mark);
        writes
    }

    fn decide(
        &mut self,
        draft: &mut Draft<'_>,
        context: Context,
        proposal: &Proposal,
    ) -> Result<Outcome, Fault> {
        let request = proposal.request.as_ref();
        let Some(command) = request.and_then(|request| request.command.as_ref()) else {
            let place = format!("log entry {}", context.index);
            return Err(Fault::damaged(place, "a proposal without a known command"));
        };
        let origin = proposal.origin.as_ref().unwrap_or(&NO_ORIGIN);
        let before = draft.len();
        let mut reply = match self.dispatch(draft, context.now, command, origin) {
            Err(Error::Fault(fault)) => return Err(fault),
            reply => reply,
        };
        assert!(
            reply.is_ok() || draft.len() == before,
            "a refused command left changes"
        );
        let events = self.store.take_events();
        self.follow(&events);
        let mut out_of_space = false;
        if reply.is_ok() && self.is_over_quota(command::cost(command), context.size) {
            // As in etcd: the command stands, and whoever asked is told to stop.
            out_of_space = !self.cluster.has_alarm(AlarmType::Nospace);
            reply = Err(ApiError::NoSpace.into());
        }
        Ok(Outcome {
            events,
            reply,
            revision: self.store.revision(),
            out_of_space,
        })
    }

    /// Keeps the lessor's keys in step with what happened to the store's.
    fn follow(&mut self, events: &[Arc<Event>]) {
        for event in events {
            match event.kind {
                EventType::Put => self.lessor.attach(&event.kv.key, LeaseId(event.kv.lease)),
                EventType::Delete => self.lessor.detach(&event.kv.key),
            }
        }
    }

    fn dispatch(
        &mut self,
        draft: &mut Draft<'_>,
        now: Uptime,
        command: &Command,
        origin: &Origin,
    ) -> Result<Reply, Error> {
        self.check_alarms(command)?;
        let leases = |lessor: &Lessor, id: i64| lessor.exists(LeaseId(id));
        Ok(match command {
            Command::Put(request) => {
                let leases = |id| leases(&self.lessor, id);
                Reply::Put(self.store.put(draft, request, &leases, origin)?)
            }
            Command::DeleteRange(request) => {
                Reply::DeleteRange(self.store.delete_range(draft, request, origin)?)
            }
            Command::Txn(request) => {
                let leases = |id| leases(&self.lessor, id);
                Reply::Txn(self.store.txn(draft, request, &leases, origin)?)
            }
            Command::Compaction(request) => {
                self.store.compact(draft, request.revision)?;
                Reply::Compaction(CompactionResponse {
                    header: self.header(),
                })
            }
            Command::LeaseGrant(request) => {
                Reply::LeaseGrant(self.lease_grant(draft, now, request)?)
            }
            Command::LeaseRevoke(request) => {
                self.revoke(draft, LeaseId(request.id), origin)?;
                Reply::LeaseRevoke(LeaseRevokeResponse {
                    header: self.header(),
                })
            }
            Command::LeaseExpire(request) => {
                Reply::LeaseExpire(self.expire(draft, &request.leases, origin)?)
            }
            Command::LeaseCheckpoint(request) => {
                for checkpoint in &request.checkpoints {
                    let id = LeaseId(checkpoint.id);
                    self.lessor.checkpoint(draft, id, checkpoint.remaining_ttl);
                }
                Reply::LeaseCheckpoint(LeaseCheckpointResponse {
                    header: self.header(),
                })
            }
            Command::Alarm(request) => {
                let alarms = self.cluster.alarm(draft, request)?;
                let header = self.header();
                Reply::Alarm(AlarmResponse { header, alarms })
            }
            Command::ClusterVersionSet(request) => {
                self.cluster.set_version(draft, &request.ver);
                Reply::ClusterVersionSet
            }
            Command::ClusterMemberAttrSet(request) => {
                self.set_attributes(draft, request);
                Reply::ClusterMemberAttrSet
            }
            Command::DowngradeInfoSet(request) => {
                let target = request.enabled.then_some(request.ver.as_str());
                self.cluster.set_downgrade(draft, target);
                Reply::DowngradeInfoSet
            }
            Command::AuthEnable(_)
            | Command::AuthDisable(_)
            | Command::AuthStatus(_)
            | Command::AuthUserAdd(_)
            | Command::AuthUserDelete(_)
            | Command::AuthUserGet(_)
            | Command::AuthUserChangePassword(_)
            | Command::AuthUserGrantRole(_)
            | Command::AuthUserRevokeRole(_)
            | Command::AuthUserList(_)
            | Command::AuthRoleList(_)
            | Command::AuthRoleAdd(_)
            | Command::AuthRoleDelete(_)
            | Command::AuthRoleGet(_)
            | Command::AuthRoleGrantPermission(_)
            | Command::AuthRoleRevokePermission(_) => {
                return Err(Error::other(
                    Code::Unimplemented,
                    "etcdserver: authentication is not supported",
                ));
            }
        })
    }

    /// The gates that alarms close: corruption first, then space.
    fn check_alarms(&self, command: &Command) -> Result<(), ApiError> {
        if !self.cluster.has_alarms() {
            return Ok(());
        }
        let changes_data = matches!(
            command,
            Command::Put(_)
                | Command::DeleteRange(_)
                | Command::Txn(_)
                | Command::Compaction(_)
                | Command::LeaseGrant(_)
                | Command::LeaseRevoke(_)
                | Command::LeaseExpire(_)
        );
        if changes_data && self.cluster.has_alarm(AlarmType::Corrupt) {
            return Err(ApiError::Corrupt);
        }
        if command::cost(command) > 0 && self.cluster.has_alarm(AlarmType::Nospace) {
            return Err(ApiError::NoSpace);
        }
        Ok(())
    }

    fn lease_grant(
        &mut self,
        draft: &mut Draft<'_>,
        now: Uptime,
        request: &LeaseGrantRequest,
    ) -> Result<LeaseGrantResponse, ApiError> {
        let id = LeaseId(request.id);
        let ttl = self.lessor.grant(draft, id, request.ttl, now)?;
        Ok(LeaseGrantResponse {
            header: self.header(),
            id: request.id,
            ttl,
            error: String::new(),
        })
    }

    /// Deletes the keys of a lease in one revision, then the lease.
    fn revoke(&mut self, draft: &mut Draft<'_>, id: LeaseId, origin: &Origin) -> Result<(), Error> {
        let keys = self.lessor.keys(id).ok_or(ApiError::LeaseNotFound)?;
        let keys: Vec<Vec<u8>> = keys.map(|key| key.to_vec()).collect();
        self.store.delete_keys(draft, &keys, origin)?;
        self.lessor.revoke(draft, id)?;
        Ok(())
    }

    /// Revokes those of the leases that still exist, each in a revision of its own.
    fn expire(
        &mut self,
        draft: &mut Draft<'_>,
        ids: &[i64],
        origin: &Origin,
    ) -> Result<usize, Error> {
        let mut revoked = 0;
        for id in ids.iter().copied().map(LeaseId) {
            if self.lessor.exists(id) {
                self.revoke(draft, id, origin)?;
                revoked += 1;
            }
        }
        Ok(revoked)
    }

    fn set_attributes(&mut self, draft: &mut Draft<'_>, request: &ClusterMemberAttrSetRequest) {
        if let Some(attributes) = &request.member_attributes {
            let (name, urls) = (&attributes.name, &attributes.client_urls);
            self.cluster
                .set_attributes(draft, request.member_id, name, urls);
        }
    }

    fn header(&self) -> Option<ResponseHeader> {
        Some(ResponseHeader {
            revision: self.store.revision(),
            ..ResponseHeader::default()
        })
    }
}

fn log_id(context: Context) -> LogId {
    LogId {
        term: context.term,
        index: context.index,
    }
}

fn read_mark(mark: &[u8]) -> storage::Result<(Option<LogId>, StateHash)> {
    let damaged = || Fault::damaged("applied mark", format!("{} bytes long", mark.len()));
    let mark: &[u8; 24] = mark.try_into().map_err(|_| damaged())?;
    let (numbers, _) = mark.as_chunks::<8>();
    let [index, term, hash] = [0, 1, 2].map(|at: usize| u64::from_be_bytes(numbers[at]));
    Ok((Some(LogId { term, index }), StateHash(hash)))
}

fn read_membership(record: &[u8]) -> storage::Result<MembershipRecord> {
    MembershipRecord::decode(record)
        .map_err(|error| Fault::damaged("membership record", error.to_string()))
}
