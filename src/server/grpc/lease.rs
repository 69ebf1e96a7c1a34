//! Lease: grant, revoke, keep alive, time to live. Renewals are local to the leader.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::stream;
use tokio_stream::Stream;
use tonic::Request;
use tonic::Response;
use tonic::Status;
use tonic::Streaming;

use super::super::caller;
use super::super::member::Member;
use super::kv::expect_reply;
use crate::error::ApiError;
use crate::error::Error;
use crate::lease::LeaseId;
use crate::lease::Renewal;
use crate::machine::Command;
use crate::machine::Reply;
use crate::mvcc;
use crate::proto::etcdserverpb::LeaseCheckpoint;
use crate::proto::etcdserverpb::LeaseCheckpointRequest;
use crate::proto::etcdserverpb::LeaseGrantRequest;
use crate::proto::etcdserverpb::LeaseGrantResponse;
use crate::proto::etcdserverpb::LeaseKeepAliveRequest;
use crate::proto::etcdserverpb::LeaseKeepAliveResponse;
use crate::proto::etcdserverpb::LeaseLeasesRequest;
use crate::proto::etcdserverpb::LeaseLeasesResponse;
use crate::proto::etcdserverpb::LeaseRevokeRequest;
use crate::proto::etcdserverpb::LeaseRevokeResponse;
use crate::proto::etcdserverpb::LeaseTimeToLiveRequest;
use crate::proto::etcdserverpb::LeaseTimeToLiveResponse;
use crate::proto::etcdserverpb::lease_server::Lease;
use crate::util::metrics;

pub struct Service {
    member: Arc<Member>,
    ids: Ids,
}

/// Lease ids as etcd makes them: 16 bits of the member, 40 of the time, 8 of a counter, never negative.
struct Ids {
    member: u64,
    next: AtomicU64,
}

impl Ids {
    fn new(member_id: u64, wall_ms: i64) -> Ids {
        Ids {
            member: (member_id & 0xffff) << 48,
            next: AtomicU64::new((wall_ms as u64 & 0xff_ffff_ffff) << 8),
        }
    }

    fn next(&self) -> i64 {
        loop {
            let count = self.next.fetch_add(1, Ordering::Relaxed) & 0xffff_ffff_ffff;
            let id = ((self.member | count) & i64::MAX as u64) as i64;
            if id != 0 {
                return id;
            }
        }
    }
}

impl Service {
    pub fn new(member: Arc<Member>) -> Service {
        let wall_ms = member.node.clock().wall_ms();
        Service {
            ids: Ids::new(member.identity().member_id, wall_ms),
            member,
        }
    }
}

type KeepAlives = Pin<Box<dyn Stream<Item = Result<LeaseKeepAliveResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Lease for Service {
    async fn lease_grant(
        &self,
        request: Request<LeaseGrantRequest>,
    ) -> Result<Response<LeaseGrantResponse>, Status> {
        let caller = caller::of(&request);
        let mut request = request.into_inner();
        if request.id == 0 {
            request.id = self.ids.next();
        }
        let command = Command::LeaseGrant(request);
        self.member.check_space(mvcc::cost(&command)).await?;
        let reply = self.member.node.propose(command, caller).await?;
        let mut response = expect_reply!(reply, LeaseGrant);
        self.member.fill(&mut response.header);
        Ok(Response::new(response))
    }

    async fn lease_revoke(
        &self,
        request: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        let caller = caller::of(&request);
        let command = Command::LeaseRevoke(request.into_inner());
        let reply = self.member.node.propose(command, caller).await?;
        let mut response = expect_reply!(reply, LeaseRevoke);
        self.member.fill(&mut response.header);
        Ok(Response::new(response))
    }

    type LeaseKeepAliveStream = KeepAlives;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<KeepAlives>, Status> {
        let start = (self.member.clone(), Some(request.into_inner()));
        let answers = stream::unfold(start, |(member, inbound)| async move {
            let mut inbound = inbound?;
            let answer = match inbound.message().await {
                Ok(Some(request)) => keep_alive(&member, request).await.map_err(Status::from),
                Ok(None) => return None,
                Err(status) => Err(status),
            };
            let next = answer.is_ok().then_some(inbound);
            Some((answer, (member, next)))
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        self.member.await_leading().await?;
        let node = &self.member.node;
        let now = node.clock().uptime();
        let mut response = node
            .machine()
            .lease_time_to_live(&request.into_inner(), now);
        self.member.fill(&mut response.header);
        Ok(Response::new(response))
    }

    async fn lease_leases(
        &self,
        _request: Request<LeaseLeasesRequest>,
    ) -> Result<Response<LeaseLeasesResponse>, Status> {
        let mut response = self.member.node.machine().lease_leases();
        self.member.fill(&mut response.header);
        Ok(Response::new(response))
    }
}

/// Renews a lease. One that does not exist answers with no time left.
async fn keep_alive(
    member: &Member,
    request: LeaseKeepAliveRequest,
) -> Result<LeaseKeepAliveResponse, Error> {
    let header = Some(member.header());
    let ttl = renew(member, LeaseId(request.id)).await?;
    Ok(LeaseKeepAliveResponse {
        header,
        id: request.id,
        ttl,
    })
}

async fn renew(member: &Member, id: LeaseId) -> Result<i64, Error> {
    let node = &member.node;
    loop {
        let now = node.clock().uptime();
        let renewal = node.machine_mut().lessor.renew(id, now);
        match renewal {
            Renewal::Renewed {
                ttl,
                stale_checkpoint,
            } => {
                metrics::LEASES_RENEWED.inc();
                if stale_checkpoint {
                    clear_checkpoint(member, id).await?;
                }
                return Ok(ttl);
            }
            Renewal::NotFound => return Ok(0),
            Renewal::Expired => await_end(member, id).await?,
            Renewal::NotPrimary => member.await_leading().await?,
        }
    }
}

async fn clear_checkpoint(member: &Member, id: LeaseId) -> Result<(), Error> {
    let checkpoint = LeaseCheckpoint {
        id: id.0,
        remaining_ttl: 0,
    };
    let command = Command::LeaseCheckpoint(LeaseCheckpointRequest {
        checkpoints: vec![checkpoint],
    });
    member.propose(command).await.map(|_| ())
}

/// Waits until a lease whose time is up is gone.
async fn await_end(member: &Member, id: LeaseId) -> Result<(), Error> {
    let mut applied = member.node.applied();
    let exists = || member.node.machine().lessor.exists(id);
    let gone = async {
        while exists() {
            let changed = tokio::time::timeout(Duration::from_millis(500), applied.changed());
            let _ = changed.await;
        }
    };
    tokio::time::timeout(member.config.request_timeout(), gone)
        .await
        .map_err(|_| ApiError::Timeout.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lease_ids_are_positive_and_differ() {
        let ids = Ids::new(u64::MAX, i64::MAX);
        let first = ids.next();
        assert!(first > 0);
        assert!((0..1000).all(|_| ids.next() > 0 && ids.next() != first));
    }
}
