//! What the log carries, and the types chosen for openraft.
//!
//! An entry holds any of: a batch of proposals, a membership, a context for it. In memory a batch is shared
//! (a clone is a reference count), and each of its proposals may hold the slot of the request that waits for
//! it on this member; the slot never reaches the disk or the wire.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::mem;
use std::sync::Arc;

use bytes::Bytes;
use openraft::RaftTypeConfig;
use openraft::entry::RaftPayload;
use openraft::type_config::alias::CommittedLeaderIdOf;
use openraft::type_config::alias::EntryOf;
use openraft::type_config::alias::LogIdOf;
use openraft::type_config::alias::SnapshotMetaOf;
use openraft::type_config::alias::SnapshotOf;
use openraft::type_config::alias::StoredMembershipOf;
use openraft::type_config::alias::VoteOf;
use openraft::vote::RaftLeaderId;
use openraft::vote::RaftVote;
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::oneshot;

use crate::error::Error;
use crate::machine::Reply;
use crate::proto::kvpb;
use crate::storage::wal;

/// The types openraft runs with. One leader a term, ids as etcd computes them, our own payload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Types;

impl RaftTypeConfig for Types {
    type D = Batch;
    /// Answers come from the local apply through the slots of a batch, not from openraft.
    type R = ();
    type NodeId = u64;
    type Node = Peer;
    type Term = u64;
    type LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = Payload;
    type Entry = openraft::impls::Entry<CommittedLeaderIdOf<Self>, Payload>;
    type AsyncRuntime = openraft_rt_tokio::TokioRuntime;
    type Responder<T>
        = openraft::impls::OneshotResponder<Self, T>
    where
        T: openraft::OptionalSend + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: openraft::OptionalSend + 'static;
    type ErrorSource = openraft::AnyError;
}

pub type Entry = EntryOf<Types>;
pub type LogId = LogIdOf<Types>;
pub type Vote = VoteOf<Types>;
pub type Membership = openraft::Membership<u64, Peer>;
pub type StoredMembership = StoredMembershipOf<Types>;
pub type SnapshotMeta = SnapshotMetaOf<Types>;
pub type Snapshot<D> = SnapshotOf<Types, D>;

/// Where a member is reached by the others. Everything else about it is replicated data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    pub peer_urls: Vec<String>,
    /// Known of the members a cluster starts with; one that is added later publishes its name.
    pub name: String,
}

/// Takes the answer to one proposal.
pub type Slot = oneshot::Sender<Result<Reply, Error>>;

/// Proposals that travel in one entry, and who waits for them here. Cloning shares them.
#[derive(Clone)]
pub struct Batch(Arc<Shared>);

struct Shared {
    proposals: Vec<kvpb::Proposal>,
    /// One for each proposal, or none at all.
    slots: Mutex<Vec<Option<Slot>>>,
}

impl Batch {
    /// A batch nobody waits for on this member.
    pub fn new(proposals: Vec<kvpb::Proposal>) -> Batch {
        Batch::with_slots(proposals, Vec::new())
    }

    /// A batch whose answers go into `slots`, one for each proposal.
    pub fn with_slots(proposals: Vec<kvpb::Proposal>, slots: Vec<Option<Slot>>) -> Batch {
        assert!(slots.is_empty() || slots.len() == proposals.len());
        Batch(Arc::new(Shared {
            proposals,
            slots: Mutex::new(slots),
        }))
    }

    pub fn proposals(&self) -> &[kvpb::Proposal] {
        &self.0.proposals
    }

    /// Takes the slots out; there is one answer. One for each proposal, or none at all.
    pub fn take_slots(&self) -> Vec<Option<Slot>> {
        mem::take(&mut *self.0.slots.lock())
    }
}

/// The id under which a proposal that came back by another path finds its slot.
pub fn proposal_id(proposal: &kvpb::Proposal) -> u64 {
    let header = proposal.request.as_ref().and_then(|it| it.header.as_ref());
    header.map_or(0, |header| header.id)
}

impl PartialEq for Batch {
    fn eq(&self, other: &Batch) -> bool {
        self.proposals() == other.proposals()
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} proposals", self.proposals().len())
    }
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The contents of an entry; all absent in the blank entry of a new leader.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Payload {
    pub batch: Option<Batch>,
    pub membership: Option<Membership>,
    /// Travels with a membership, so that the facts about a member change in the same entry.
    pub context: Option<Bytes>,
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.batch, &self.membership) {
            (Some(batch), _) => batch.fmt(f),
            (None, Some(membership)) => write!(f, "membership {membership:?}"),
            (None, None) => f.write_str("blank"),
        }
    }
}

impl RaftPayload for Payload {
    type D = Batch;
    type NodeId = u64;
    type Node = Peer;

    fn blank() -> Payload {
        Payload::default()
    }

    fn with_normal(self, batch: Batch) -> Payload {
        Payload {
            batch: Some(batch),
            ..self
        }
    }

    fn with_membership(self, membership: Membership) -> Payload {
        Payload {
            membership: Some(membership),
            ..self
        }
    }

    fn get_membership(&self) -> Option<Membership> {
        self.membership.clone()
    }
}

/// The log id of `index` in `term`.
pub fn log_id(term: u64, index: u64) -> LogId {
    LogId::new_term_index(term, index)
}

/// The term of a log id.
pub fn term(id: &LogId) -> u64 {
    **id.committed_leader_id()
}

/// Turns an entry into a log record: `kvpb.LogEntry`, written without building one.
pub fn encode(entry: &Entry) -> wal::Entry {
    let payload = &entry.payload;
    let mut data = Vec::new();
    for proposal in payload.batch.iter().flat_map(|batch| batch.proposals()) {
        prost::encoding::message::encode(1, proposal, &mut data);
    }
    if let Some(membership) = &payload.membership {
        prost::encoding::message::encode(2, &membership_record(membership), &mut data);
    }
    if let Some(context) = &payload.context {
        prost::encoding::bytes::encode(3, context, &mut data);
    }
    wal::Entry {
        index: entry.log_id.index(),
        term: term(&entry.log_id),
        data: data.into(),
    }
}

/// Reads a log record back. Nobody waits for its proposals.
pub fn decode(record: &wal::Entry) -> io::Result<Entry> {
    let read = kvpb::LogEntry::decode(record.data.clone())
        .map_err(|error| damaged(format!("log entry {}: {error}", record.index)))?;
    let proposals = read.proposals;
    let membership = read.membership.map(|it| membership_from(&it)).transpose()?;
    let payload = Payload {
        batch: (!proposals.is_empty()).then(|| Batch::new(proposals)),
        membership,
        context: (!read.context.is_empty()).then(|| read.context.into()),
    };
    Ok(Entry {
        log_id: log_id(record.term, record.index),
        payload,
    })
}

/// A membership as it is stored.
pub fn membership_record(membership: &Membership) -> kvpb::Membership {
    let configs = membership.get_joint_config().iter();
    let nodes = membership.nodes();
    kvpb::Membership {
        configs: configs
            .map(|voters| kvpb::membership::Config {
                voters: voters.iter().copied().collect(),
            })
            .collect(),
        nodes: nodes
            .map(|(id, peer)| kvpb::membership::Node {
                id: *id,
                peer_urls: peer.peer_urls.clone(),
                name: peer.name.clone(),
            })
            .collect(),
    }
}

/// Reads a stored membership back.
pub fn membership_from(record: &kvpb::Membership) -> io::Result<Membership> {
    let configs: Vec<BTreeSet<u64>> = record
        .configs
        .iter()
        .map(|config| config.voters.iter().copied().collect())
        .collect();
    let nodes: BTreeMap<u64, Peer> = record
        .nodes
        .iter()
        .map(|node| {
            let peer = Peer {
                peer_urls: node.peer_urls.clone(),
                name: node.name.clone(),
            };
            (node.id, peer)
        })
        .collect();
    if configs.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(configs, nodes).map_err(|error| damaged(format!("membership: {error}")))
}

/// A vote as it is stored.
pub fn encode_vote(vote: &Vote) -> Bytes {
    let leader = vote.leader_id();
    let record = kvpb::Vote {
        term: leader.term(),
        voted_for: *leader.node_id(),
        committed: vote.is_committed(),
    };
    record.encode_to_vec().into()
}

/// Reads a stored vote back.
pub fn decode_vote(bytes: &[u8]) -> io::Result<Vote> {
    let record = kvpb::Vote::decode(bytes).map_err(|error| damaged(format!("vote: {error}")))?;
    let leader = RaftLeaderId::new(record.term, record.voted_for);
    Ok(Vote::from_leader_id(leader, record.committed))
}

/// A log id as it is stored.
pub fn encode_log_id(id: &LogId) -> Bytes {
    let record = kvpb::LogId {
        term: term(id),
        index: id.index(),
    };
    record.encode_to_vec().into()
}

/// Reads a stored log id back.
pub fn log_id_from(record: &kvpb::LogId) -> LogId {
    log_id(record.term, record.index)
}

/// Reads the bytes of a stored log id back.
pub fn decode_log_id(bytes: &[u8]) -> io::Result<LogId> {
    let record = kvpb::LogId::decode(bytes).map_err(|error| damaged(format!("log id: {error}")))?;
    Ok(log_id_from(&record))
}

fn damaged(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::etcdserverpb::PutRequest;
    use crate::proto::kvpb::internal_raft_request::Command;

    fn put(id: u64, key: &str) -> kvpb::Proposal {
        let request = kvpb::InternalRaftRequest {
            header: Some(kvpb::RequestHeader {
                id,
                ..Default::default()
            }),
            command: Some(Command::Put(PutRequest {
                key: key.into(),
                ..Default::default()
            })),
            ..Default::default()
        };
        kvpb::Proposal {
            request: Some(request),
            origin: None,
        }
    }

    fn membership() -> Membership {
        let peer = |url: &str| Peer {
            peer_urls: vec![url.into()],
            name: "a".into(),
        };
        let nodes = BTreeMap::from([(1, peer("http://a:1")), (2, peer("http://b:1"))]);
        Membership::new(vec![BTreeSet::from([1])], nodes).expect("voters are nodes")
    }

    #[test]
    fn what_is_written_is_read_back() {
        let payloads = [
            Payload::default(),
            Payload::normal(Batch::new(vec![put(7, "a"), put(8, "b")])),
            Payload::membership(membership()),
            Payload {
                batch: Some(Batch::new(vec![put(9, "c")])),
                membership: Some(membership()),
                context: Some(Bytes::from_static(b"context")),
            },
        ];
        for (index, payload) in payloads.into_iter().enumerate() {
            let entry = Entry {
                log_id: log_id(3, index as u64),
                payload,
            };
            let record = encode(&entry);
            assert_eq!((record.term, record.index), (3, index as u64));
            assert_eq!(decode(&record).expect("our own bytes"), entry);
        }
        for committed in [true, false] {
            let vote = Vote::from_leader_id(RaftLeaderId::new(4, 5), committed);
            let read = decode_vote(&encode_vote(&vote)).expect("our own bytes");
            assert_eq!(read, vote);
        }
        let id = log_id(8, 9);
        assert_eq!(decode_log_id(&encode_log_id(&id)).expect("our own"), id);
    }

    #[test]
    fn a_damaged_record_is_an_error() {
        let record = wal::Entry {
            index: 4,
            term: 1,
            data: Bytes::from_static(b"\xff\xff\xff"),
        };
        let error = decode(&record).expect_err("not protobuf");
        assert!(error.to_string().contains("log entry 4"), "{error}");
    }

    #[test]
    fn slots_are_taken_once() {
        let (slot, _answer) = oneshot::channel();
        let batch = Batch::with_slots(vec![put(1, "a")], vec![Some(slot)]);
        let shared = batch.clone();
        assert_eq!(batch.take_slots().len(), 1);
        assert!(shared.take_slots().is_empty());
        assert_eq!(proposal_id(&shared.proposals()[0]), 1);
    }
}
