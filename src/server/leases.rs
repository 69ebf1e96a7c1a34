//! On the leader: revoke the leases whose time is up, and note how much time the others have left.
//!
//! One entry revokes many leases, each as a revision of its own, and the next is proposed only when it is
//! applied: a crowd of leases that end together takes turns with everything else.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::member::Member;
use crate::lease::LeaseId;
use crate::machine::Command;
use crate::proto::etcdserverpb::LeaseCheckpointRequest;
use crate::proto::kvpb::LeaseExpireRequest;
use crate::util::metrics;

const SCAN_INTERVAL: Duration = Duration::from_millis(250);
/// Leases revoked by one entry.
const BATCH: usize = 500;
/// Pause between two entries of a crowd: about a thousand leases a second and more.
const PACE: Duration = Duration::from_millis(100);
const CHECKPOINTS: usize = 1000;

/// Runs until `stop`.
pub async fn run(member: Arc<Member>, stop: CancellationToken) {
    let checkpoints = member.config.gate("LeaseCheckpoint");
    loop {
        let expired = expired(&member);
        if !expired.is_empty() {
            revoke(&member, &expired).await;
        }
        if checkpoints {
            checkpoint(&member).await;
        }
        let pause = if expired.len() == BATCH {
            PACE
        } else {
            SCAN_INTERVAL
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

fn expired(member: &Member) -> Vec<LeaseId> {
    if !member.node.is_leader() {
        return Vec::new();
    }
    let now = member.node.clock().uptime();
    member.node.machine().lessor.expired(now, BATCH)
}

async fn revoke(member: &Member, expired: &[LeaseId]) {
    // A leader that was paused may have been replaced: only one that still leads may end a lease.
    if member.node.read_index().await.is_err() || !member.node.is_leader() {
        return;
    }
    let request = LeaseExpireRequest {
        leases: expired.iter().map(|id| id.0).collect(),
    };
    match member.propose(Command::LeaseExpire(request)).await {
        Ok(_) => metrics::LEASES_EXPIRED.inc_by(expired.len() as u64),
        Err(error) => warn!(
            leases = expired.len(),
            error = %error,
            "failed to revoke expired leases"
        ),
    }
}

async fn checkpoint(member: &Member) {
    if !member.node.is_leader() {
        return;
    }
    let now = member.node.clock().uptime();
    let checkpoints = {
        let mut machine = member.node.machine_mut();
        machine.lessor.take_checkpoints(now, CHECKPOINTS)
    };
    if checkpoints.is_empty() {
        return;
    }
    let request = LeaseCheckpointRequest { checkpoints };
    if let Err(error) = member.propose(Command::LeaseCheckpoint(request)).await {
        warn!(error = %error, "failed to checkpoint leases");
    }
}
