//! What a log entry asks for and what comes back.
//!
//! A command carries its whole input. Whatever depends on the member that proposes it, such as the shortest
//! lease it grants, is settled there, so that applying it asks nothing of anyone.

use crate::proto::etcdserverpb::AlarmResponse;
use crate::proto::etcdserverpb::CompactionResponse;
use crate::proto::etcdserverpb::DeleteRangeResponse;
use crate::proto::etcdserverpb::LeaseCheckpointResponse;
use crate::proto::etcdserverpb::LeaseGrantResponse;
use crate::proto::etcdserverpb::LeaseRevokeResponse;
use crate::proto::etcdserverpb::PutResponse;
use crate::proto::etcdserverpb::TxnResponse;
use crate::proto::kvpb::InternalRaftRequest;
use crate::proto::kvpb::Origin;
use crate::proto::kvpb::Proposal;
use crate::proto::kvpb::RequestHeader;

pub use crate::mvcc::cost;

/// Everything that can change the cluster's data.
pub type Command = crate::proto::kvpb::internal_raft_request::Command;

/// What a command answers. Of each header only the revision is set.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    Put(PutResponse),
    DeleteRange(DeleteRangeResponse),
    Txn(TxnResponse),
    Compaction(CompactionResponse),
    LeaseGrant(LeaseGrantResponse),
    LeaseRevoke(LeaseRevokeResponse),
    /// How many of the leases were still there.
    LeaseExpire(usize),
    LeaseCheckpoint(LeaseCheckpointResponse),
    Alarm(AlarmResponse),
    ClusterVersionSet,
    ClusterMemberAttrSet,
    DowngradeInfoSet,
}

/// Settles what depends on the proposing member. `min_ttl` is in seconds, see [`min_lease_ttl`].
pub fn settle(command: &mut Command, min_ttl: i64) {
    if let Command::LeaseGrant(request) = command {
        request.ttl = request.ttl.max(min_ttl);
    }
}

/// The shortest lease a member grants, in seconds: one and a half elections, rounded up.
pub fn min_lease_ttl(election_ms: u64, heartbeat_ms: u64) -> i64 {
    let ticks = election_ms / heartbeat_ms.max(1);
    let shortest_ms = (3 * ticks / 2) * heartbeat_ms;
    shortest_ms.div_ceil(1000) as i64
}

/// The proposal that carries `command` into the log.
pub fn proposal(
    id: u64,
    header: Option<RequestHeader>,
    command: Command,
    origin: Origin,
) -> Proposal {
    Proposal {
        request: Some(InternalRaftRequest {
            header,
            id,
            command: Some(command),
        }),
        origin: Some(origin),
    }
}

/// The quota in force for a `--quota-backend-bytes` value: 0 means 2 GiB, negative none.
pub fn quota(configured: i64) -> Option<u64> {
    match configured {
        0 => Some(2 << 30),
        _ => u64::try_from(configured).ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::etcdserverpb::LeaseGrantRequest;

    #[test]
    fn a_lease_lasts_one_and_a_half_elections_at_least() {
        let cases = [
            // election, heartbeat, seconds
            (1000, 100, 2),
            (3000, 100, 5),
            (100, 10, 1),
            (1100, 100, 2),
            (50_000, 100, 75),
            (500, 0, 0),
        ];
        for (election, heartbeat, seconds) in cases {
            assert_eq!(
                min_lease_ttl(election, heartbeat),
                seconds,
                "{election} {heartbeat}"
            );
        }
        for (asked, granted) in [(-1, 2), (0, 2), (2, 2), (3, 3), (i64::MAX, i64::MAX)] {
            let mut command = Command::LeaseGrant(LeaseGrantRequest { ttl: asked, id: 1 });
            settle(&mut command, 2);
            let settled = Command::LeaseGrant(LeaseGrantRequest {
                ttl: granted,
                id: 1,
            });
            assert_eq!(command, settled);
        }
    }

    #[test]
    fn quotas_have_a_default_and_an_off() {
        for (configured, in_force) in [(0, Some(2 << 30)), (-1, None), (5, Some(5))] {
            assert_eq!(quota(configured), in_force);
        }
    }
}
