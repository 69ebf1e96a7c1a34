//! What openraft says to the other members, behind a seam that simulations replace.
//!
//! A member is named by its id alone: who dials resolves the address when it dials, because openraft keeps
//! its clients across changes of the membership. With one member nothing is ever sent.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use openraft::RaftNetworkFactory;
use openraft::RaftNetworkV2;
use openraft::base::BoxFuture;
use openraft::errors::RPCError;
use openraft::errors::ReplicationClosed;
use openraft::errors::StreamingError;
use openraft::errors::Unreachable;
use openraft::network::RPCOption;
use openraft::raft::AppendEntriesRequest;
use openraft::raft::AppendEntriesResponse;
use openraft::raft::SnapshotResponse;
use openraft::raft::TransferLeaderRequest;
use openraft::raft::TransferLeaderResponse;
use openraft::raft::VoteRequest;
use openraft::raft::VoteResponse;

use super::entry::Batch;
use super::entry::Peer;
use super::entry::Snapshot;
use super::entry::Types;
use super::entry::Vote;
use super::state_machine::Capture;

/// Why a member did not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("member {to:x} is unreachable: {reason}")]
pub struct Unreached {
    pub to: u64,
    pub reason: String,
}

pub type Answer<T> = BoxFuture<'static, Result<T, Unreached>>;

/// Calls to other members. An answer, or the reason why there is none, comes within `ttl`.
pub trait Connect: Send + Sync + 'static {
    fn append(
        &self,
        to: u64,
        request: AppendEntriesRequest<Types>,
        ttl: Duration,
    ) -> Answer<AppendEntriesResponse<Types>>;

    /// Asks for a vote, or with `pre` whether one would be given.
    fn vote(
        &self,
        to: u64,
        pre: bool,
        request: VoteRequest<Types>,
        ttl: Duration,
    ) -> Answer<VoteResponse<Types>>;

    fn transfer_leader(
        &self,
        to: u64,
        request: TransferLeaderRequest<Types>,
        ttl: Duration,
    ) -> Answer<TransferLeaderResponse<Types>>;

    /// Hands proposals to the leader. They come back through the log, or never. An error says that the leader
    /// has not taken them, so that they may be sent again.
    fn propose(&self, to: u64, batch: Batch, ttl: Duration) -> Answer<()>;
}

/// For a member that has no others: nobody is there.
pub struct Alone;

fn nobody<T: Send + 'static>(to: u64) -> Answer<T> {
    let reason = "this member has no connections to others".into();
    Box::pin(async move { Err(Unreached { to, reason }) })
}

impl Connect for Alone {
    fn append(
        &self,
        to: u64,
        _: AppendEntriesRequest<Types>,
        _: Duration,
    ) -> Answer<AppendEntriesResponse<Types>> {
        nobody(to)
    }

    fn vote(
        &self,
        to: u64,
        _: bool,
        _: VoteRequest<Types>,
        _: Duration,
    ) -> Answer<VoteResponse<Types>> {
        nobody(to)
    }

    fn transfer_leader(
        &self,
        to: u64,
        _: TransferLeaderRequest<Types>,
        _: Duration,
    ) -> Answer<TransferLeaderResponse<Types>> {
        nobody(to)
    }

    fn propose(&self, to: u64, _: Batch, _: Duration) -> Answer<()> {
        nobody(to)
    }
}

/// Makes openraft's clients.
pub struct Network(pub Arc<dyn Connect>);

impl RaftNetworkFactory<Types> for Network {
    type Network = Link;

    async fn new_client(&mut self, to: u64, _: &Peer) -> Link {
        Link {
            to,
            connect: self.0.clone(),
        }
    }
}

/// openraft's client for one member.
pub struct Link {
    to: u64,
    connect: Arc<dyn Connect>,
}

fn unreachable(error: &Unreached) -> RPCError<Types> {
    RPCError::Unreachable(Unreachable::new(error))
}

impl RaftNetworkV2<Types> for Link {
    type SnapshotData = Capture;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        let answer = self.connect.append(self.to, request, option.hard_ttl());
        answer.await.map_err(|error| unreachable(&error))
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let ttl = option.hard_ttl();
        let answer = self.connect.vote(self.to, false, request, ttl);
        answer.await.map_err(|error| unreachable(&error))
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let ttl = option.hard_ttl();
        let answer = self.connect.vote(self.to, true, request, ttl);
        answer.await.map_err(|error| unreachable(&error))
    }

    /// Streaming a snapshot needs a receiver that can take it; until then a follower that is too far behind
    /// stays behind.
    async fn full_snapshot(
        &mut self,
        _: Vote,
        _: Snapshot<Capture>,
        _: impl Future<Output = ReplicationClosed> + Send + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let error = Unreached {
            to: self.to,
            reason: "it cannot take a snapshot".into(),
        };
        Err(StreamingError::Unreachable(Unreachable::new(&error)))
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let ttl = option.hard_ttl();
        let answer = self.connect.transfer_leader(self.to, request, ttl);
        answer.await.map_err(|error| unreachable(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_answers_a_member_that_is_alone() {
        let mut network = Network(Arc::new(Alone));
        let mut link = network.new_client(0xabc, &Peer::default()).await;
        let vote = Vote::new(1, 1);
        let option = RPCOption::new(Duration::from_secs(1));
        let error = link.vote(VoteRequest::new(vote, None), option).await;
        let text = error.expect_err("nobody is there").to_string();
        assert!(text.contains("member abc is unreachable"), "{text}");
    }
}
