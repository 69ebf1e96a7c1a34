//! What every service, endpoint and task of a running member shares.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Status;
use tracing::warn;

use super::config::Config;
use super::hub::Hub;
use crate::error::ApiError;
use crate::error::Error;
use crate::error::Fault;
use crate::machine::Command;
use crate::machine::Reply;
use crate::mvcc::HashKv;
use crate::mvcc::HashScan;
use crate::proto::etcdserverpb::AlarmRequest;
use crate::proto::etcdserverpb::AlarmType;
use crate::proto::etcdserverpb::ResponseHeader;
use crate::proto::etcdserverpb::alarm_request::AlarmAction;
use crate::raft::Caller;
use crate::raft::Identity;
use crate::raft::Node;
use crate::util::metrics;

/// The version this server stands in for.
pub const VERSION: &str = "3.7.1";
/// What a cluster of such servers agrees on.
pub const CLUSTER_VERSION: &str = "3.7";

pub struct Member {
    pub config: Config,
    pub node: Node,
    pub hub: Hub,
    /// Cancelled when clients are to be let go.
    pub stop: CancellationToken,
    /// Tasks that belong to single streams.
    pub streams: TaskTracker,
    /// Bytes the database has come to since space was last given back. Compaction alone does not shrink a
    /// database, and operators expect to see that until they defragment.
    pub allocated: AtomicU64,
    /// The last compaction that is reclaimed to its end.
    pub reclaimed: watch::Receiver<i64>,
}

impl Member {
    pub fn identity(&self) -> Identity {
        self.node.identity()
    }

    /// A header with the store's present revision.
    pub fn header(&self) -> ResponseHeader {
        let revision = self.node.machine().store.revision();
        self.header_at(revision)
    }

    pub fn header_at(&self, revision: i64) -> ResponseHeader {
        let identity = self.node.identity();
        ResponseHeader {
            cluster_id: identity.cluster_id,
            member_id: identity.member_id,
            revision,
            raft_term: self.node.term(),
        }
    }

    /// Completes a header that has its revision, or takes the store's.
    pub fn fill(&self, header: &mut Option<ResponseHeader>) {
        let revision = header.as_ref().map_or(0, |header| header.revision);
        *header = Some(match revision {
            0 => self.header(),
            revision => self.header_at(revision),
        });
    }

    /// Refuses what does not fit into the quota, and raises the alarm that says so.
    pub async fn check_space(&self, cost: u64) -> Result<(), Error> {
        let fits = || match u64::try_from(self.config.effective_quota()) {
            Ok(quota) => self.node.size().saturating_add(cost) < quota,
            Err(_) => true,
        };
        if cost == 0 || fits() {
            return Ok(());
        }
        self.raise_no_space().await;
        Err(ApiError::NoSpace.into())
    }

    async fn raise_no_space(&self) {
        let member_id = self.identity().member_id;
        let raised = {
            let machine = self.node.machine();
            let alarms = machine.cluster.alarms(AlarmType::Nospace as i32);
            alarms.iter().any(|alarm| alarm.member_id == member_id)
        };
        if raised {
            return;
        }
        warn!(
            "quota-size-bytes" = self.config.effective_quota(),
            "message exceeded backend quota; raising alarm"
        );
        let alarm = AlarmRequest {
            action: AlarmAction::Activate as i32,
            member_id,
            alarm: AlarmType::Nospace as i32,
        };
        let proposed = self.propose(Command::Alarm(alarm)).await;
        if let Err(error) = proposed {
            warn!(error = %error, "failed to raise alarm");
        }
    }

    /// Proposes on the member's own behalf.
    pub async fn propose(&self, command: Command) -> Result<Reply, Error> {
        self.node.propose(command, Caller::default()).await
    }

    /// Computes the hash of the history up to `revision`, page by page.
    pub async fn hash_kv(&self, revision: i64) -> Result<(HashKv, i64), Error> {
        let timer = metrics::HASH_REV_DURATION.start_timer();
        let (mut scan, current) = {
            let machine = self.node.machine();
            let scan = HashScan::start(&machine.store, revision)?;
            (scan, machine.store.revision())
        };
        let hash = loop {
            scan.read(&**self.node.tables())?;
            let fed = scan.feed(&self.node.machine().store);
            if let Some(hash) = fed {
                break hash;
            }
            tokio::task::yield_now().await;
        };
        timer.observe_duration();
        Ok((hash, current))
    }

    /// Bytes the database takes, and those of them that are live, measured where blocking hurts nobody.
    pub async fn sizes(&self) -> Result<(u64, u64), Error> {
        let tables = self.node.tables().clone();
        let measured = tokio::task::spawn_blocking(move || tables.size()).await;
        let lost = |error| Fault::Refused(format!("a measurement was lost: {error}"));
        let (disk, live) = measured.map_err(lost)??;
        let now = disk.max(live);
        let before = self.allocated.fetch_max(now, Ordering::Relaxed);
        Ok((before.max(now), live))
    }

    /// Waits until this member leads, as long as a request may take.
    pub async fn await_leading(&self) -> Result<(), Error> {
        let mut leadership = self.node.leadership();
        let leads = leadership.wait_for(|leadership| leadership.leader);
        match tokio::time::timeout(self.config.request_timeout(), leads).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(ApiError::Stopped.into()),
            Err(_) => Err(ApiError::NoLeader.into()),
        }
    }

    /// Ends when a stream that asked for a leader has been without one for three elections.
    pub fn leader_lost(self: &Arc<Member>) -> impl Future<Output = Status> + Send + use<> {
        let member = self.clone();
        async move {
            let mut without = 0;
            while without < 3 {
                tokio::time::sleep(member.config.election.max(Duration::from_millis(1))).await;
                without = if member.node.has_leader() {
                    0
                } else {
                    without + 1
                };
            }
            ApiError::NoLeader.into()
        }
    }

    /// The cluster's version as three numbers, if it is known.
    pub fn cluster_version(&self) -> Option<String> {
        let machine = self.node.machine();
        let version = machine.cluster.version();
        let mut parts = version.split('.');
        Some(format!("{}.{}.0", parts.next()?, parts.next()?)).filter(|_| !version.is_empty())
    }
}
