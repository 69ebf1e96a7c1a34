//! What a member answers about leases, members, alarms and itself. No change possible.

use crate::lease::LeaseId;
use crate::proto::etcdserverpb::AlarmMember;
use crate::proto::etcdserverpb::AlarmType;
use crate::proto::etcdserverpb::LeaseLeasesResponse;
use crate::proto::etcdserverpb::LeaseStatus;
use crate::proto::etcdserverpb::LeaseTimeToLiveRequest;
use crate::proto::etcdserverpb::LeaseTimeToLiveResponse;
use crate::proto::etcdserverpb::Member;
use crate::proto::etcdserverpb::StatusResponse;
use crate::util::clock::Uptime;

use super::Machine;
use super::command;

impl Machine {
    /// How long a lease has left. A lease that does not exist has a TTL of -1 and is no error.
    pub fn lease_time_to_live(
        &self,
        request: &LeaseTimeToLiveRequest,
        now: Uptime,
    ) -> LeaseTimeToLiveResponse {
        let id = LeaseId(request.id);
        let keys = self.lessor.keys(id).filter(|_| request.keys);
        LeaseTimeToLiveResponse {
            header: self.header(),
            id: request.id,
            ttl: self.lessor.remaining(id, now).unwrap_or(-1),
            granted_ttl: self.lessor.ttl(id).unwrap_or(0),
            keys: keys.map_or_else(Vec::new, |keys| keys.map(|key| key.to_vec()).collect()),
        }
    }

    /// Every lease, the one that expires next first on the leader.
    pub fn lease_leases(&self) -> LeaseLeasesResponse {
        let ids = self.lessor.list().into_iter();
        LeaseLeasesResponse {
            header: self.header(),
            leases: ids.map(|LeaseId(id)| LeaseStatus { id }).collect(),
        }
    }

    /// Every member by ascending ID.
    pub fn member_list(&self) -> Vec<Member> {
        self.cluster.members().cloned().collect()
    }

    /// The storage version that `Status`, snapshots and tools show; empty while it is unknown.
    pub fn storage_version(&self) -> String {
        let mut parts = self.cluster.version().split('.');
        match (parts.next(), parts.next()) {
            (Some(major), Some(minor)) => format!("{major}.{minor}.0"),
            _ => String::new(),
        }
    }

    /// The part of `Status` that the machine knows. `leader` is 0 if there is none.
    pub fn status(&self, member_id: u64, leader: u64) -> StatusResponse {
        let member = self.cluster.member(member_id);
        let quota = command::quota(self.quota_bytes).map(|quota| quota as i64);
        StatusResponse {
            header: self.header(),
            leader,
            raft_applied_index: self.applied().map_or(0, |applied| applied.index),
            errors: self.errors(leader),
            is_learner: member.is_some_and(|member| member.is_learner),
            storage_version: self.storage_version(),
            db_size_quota: quota.unwrap_or(self.quota_bytes),
            downgrade_info: Some(self.cluster.downgrade()),
            ..StatusResponse::default()
        }
    }

    fn errors(&self, leader: u64) -> Vec<String> {
        let leaderless = (leader == 0).then(|| "etcdserver: no leader".to_string());
        let alarms = self.cluster.alarms(AlarmType::None as i32);
        leaderless
            .into_iter()
            .chain(alarms.iter().map(alarm_text))
            .collect()
    }
}

/// An alarm in protobuf's text form.
fn alarm_text(alarm: &AlarmMember) -> String {
    let kind = AlarmType::try_from(alarm.alarm).map_or_else(
        |_| alarm.alarm.to_string(),
        |kind| kind.as_str_name().to_string(),
    );
    format!("memberID:{} alarm:{kind}", alarm.member_id)
}
