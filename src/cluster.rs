//! Members and their attributes, alarms, cluster version and downgrade. Pure.
//!
//! Who is a member, and who of them votes, follows from the consensus membership alone
//! ([`Cluster::set_membership`]); names and client URLs are what the members publish. A removed ID never
//! returns. Identifiers are computed exactly as etcd does, so that a cluster keeps its own.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use prost::Message;
use sha1::Digest;
use sha1::Sha1;
use tonic::Code;

use crate::error::ApiError;
use crate::error::Error;
use crate::error::Fault;
use crate::proto::etcdserverpb::AlarmMember;
use crate::proto::etcdserverpb::AlarmRequest;
use crate::proto::etcdserverpb::AlarmType;
use crate::proto::etcdserverpb::DowngradeInfo;
use crate::proto::etcdserverpb::Member;
use crate::proto::etcdserverpb::alarm_request::AlarmAction;
use crate::proto::kvpb::ClusterRecord;
use crate::proto::kvpb::MemberRecord;
use crate::proto::kvpb::Membership;
use crate::storage;
use crate::storage::Table;
use crate::storage::View;
use crate::storage::draft::Draft;

/// Where the cluster version and a downgrade job are kept, in [`Table::Meta`].
const CLUSTER: &[u8] = b"cluster";

/// The ID of a member that is part of the first configuration.
pub fn member_id(peer_urls: &[String], token: &str) -> u64 {
    hash_member(peer_urls, token.as_bytes())
}

/// The ID of a member that is added to a running cluster.
pub fn added_member_id(peer_urls: &[String], unix_seconds: i64) -> u64 {
    hash_member(peer_urls, unix_seconds.to_string().as_bytes())
}

fn hash_member(peer_urls: &[String], rest: &[u8]) -> u64 {
    let mut urls: Vec<&String> = peer_urls.iter().collect();
    urls.sort();
    let mut hash = Sha1::new();
    urls.iter().for_each(|url| hash.update(url.as_bytes()));
    hash.update(rest);
    first_eight(hash)
}

/// The ID of the cluster that starts with these members.
pub fn cluster_id(member_ids: &[u64]) -> u64 {
    let mut ids = member_ids.to_vec();
    ids.sort_unstable();
    let mut hash = Sha1::new();
    ids.iter().for_each(|id| hash.update(id.to_be_bytes()));
    first_eight(hash)
}

fn first_eight(hash: Sha1) -> u64 {
    hash.finalize()
        .iter()
        .take(8)
        .fold(0, |id, byte| id << 8 | u64::from(*byte))
}

/// Everything the cluster knows of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    members: BTreeMap<u64, Member>,
    removed: BTreeSet<u64>,
    /// Member and alarm type; a type this version does not know is kept as well.
    alarms: BTreeSet<(u64, i32)>,
    version: String,
    downgrade_target: Option<String>,
}

impl Cluster {
    pub fn restore(view: &dyn View) -> storage::Result<Cluster> {
        let mut cluster = Cluster::default();
        for (_, value) in storage::whole_table(view, Table::Members)? {
            let record: MemberRecord = decode("table of members", &value)?;
            let member = record.member.unwrap_or_default();
            if record.removed {
                cluster.removed.insert(member.id);
            } else {
                cluster.members.insert(member.id, member);
            }
        }
        for (_, value) in storage::whole_table(view, Table::Alarms)? {
            let alarm: AlarmMember = decode("table of alarms", &value)?;
            cluster.alarms.insert((alarm.member_id, alarm.alarm));
        }
        if let Some(value) = view.get(Table::Meta, CLUSTER)? {
            let record: ClusterRecord = decode("cluster record", &value)?;
            cluster.version = record.version;
            cluster.downgrade_target = record.downgrade_target;
        }
        Ok(cluster)
    }

    // Members

    /// All members by ascending ID.
    pub fn members(&self) -> impl ExactSizeIterator<Item = &Member> {
        self.members.values()
    }

    pub fn member(&self, id: u64) -> Option<&Member> {
        self.members.get(&id)
    }

    /// Returns true if `id` was a member and never can be one again.
    pub fn is_removed(&self, id: u64) -> bool {
        self.removed.contains(&id)
    }

    pub fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members.values().filter(|member| !member.is_learner)
    }

    /// Takes over who is a member, where it listens and whether it votes.
    pub fn set_membership(&mut self, draft: &mut Draft<'_>, membership: &Membership) {
        let votes = |id: u64| {
            let mut configs = membership.configs.iter();
            configs.any(|config| config.voters.contains(&id))
        };
        let gone = |id: &u64| membership.nodes.iter().all(|node| node.id != *id);
        for id in self
            .members
            .keys()
            .copied()
            .filter(gone)
            .collect::<Vec<_>>()
        {
            self.remove_member(draft, id);
        }
        for node in &membership.nodes {
            let old = self.members.get(&node.id);
            let mut member = old.cloned().unwrap_or_else(|| Member {
                id: node.id,
                name: node.name.clone(),
                ..Member::default()
            });
            member.peer_ur_ls = node.peer_urls.clone();
            member.peer_ur_ls.sort();
            member.is_learner = !votes(node.id);
            self.put_member(draft, member);
        }
    }

    /// Takes over what a member publishes of itself. One that is not there any more is not missed.
    pub fn set_attributes(
        &mut self,
        draft: &mut Draft<'_>,
        id: u64,
        name: &str,
        client_urls: &[String],
    ) {
        if let Some(old) = self.members.get(&id) {
            let mut member = old.clone();
            member.name = name.to_string();
            member.client_ur_ls = client_urls.to_vec();
            self.put_member(draft, member);
        }
    }

    fn put_member(&mut self, draft: &mut Draft<'_>, member: Member) {
        if self.members.get(&member.id) == Some(&member) {
            return;
        }
        let id = member.id;
        self.members.insert(id, member.clone());
        self.removed.remove(&id);
        write_member(draft, member, false);
    }

    fn remove_member(&mut self, draft: &mut Draft<'_>, id: u64) {
        self.members.remove(&id);
        self.removed.insert(id);
        let member = Member {
            id,
            ..Member::default()
        };
        write_member(draft, member, true);
    }

    // Checks before a change of members is proposed

    /// May `id` be added under these URLs?
    pub fn check_add(
        &self,
        id: u64,
        peer_urls: &[String],
        learner: bool,
        max_learners: usize,
    ) -> Result<(), ApiError> {
        if self.is_removed(id) {
            return Err(ApiError::MemberNotFound);
        }
        if self.members.contains_key(&id) {
            return Err(ApiError::MemberExist);
        }
        self.check_urls(id, peer_urls)?;
        if learner && self.members.len() - self.voters().count() >= max_learners {
            return Err(ApiError::TooManyLearners);
        }
        Ok(())
    }

    /// Is there such a member to change or remove?
    pub fn check_member(&self, id: u64) -> Result<&Member, ApiError> {
        self.members.get(&id).ok_or(ApiError::MemberNotFound)
    }

    /// May member `id` move to these URLs?
    pub fn check_update(&self, id: u64, peer_urls: &[String]) -> Result<(), ApiError> {
        self.check_member(id)?;
        self.check_urls(id, peer_urls)
    }

    /// May member `id` be made a voter, its log aside?
    pub fn check_promote(&self, id: u64) -> Result<(), ApiError> {
        if self.check_member(id)?.is_learner {
            Ok(())
        } else {
            Err(ApiError::MemberNotLearner)
        }
    }

    fn check_urls(&self, id: u64, peer_urls: &[String]) -> Result<(), ApiError> {
        let others = self.members.values().filter(|member| member.id != id);
        let taken = |url: &String| others.clone().any(|other| other.peer_ur_ls.contains(url));
        if peer_urls.iter().any(taken) {
            return Err(ApiError::PeerURLExist);
        }
        Ok(())
    }

    /// Voters that have published a name, which they do once they run.
    fn started(&self) -> usize {
        let started = |member: &&Member| !member.name.is_empty();
        self.voters().filter(started).count()
    }

    /// The strict check of an addition. `connected` counts this member and the voters it has been linked to
    /// without a break.
    pub fn strict_add(&self, learner: bool, connected: usize) -> Result<(), ApiError> {
        let (voters, started) = (self.voters().count(), self.started());
        let quorum = quorum(voters + 1);
        let first_addition = voters == 1 && started == 1;
        if !learner && !first_addition && started < quorum {
            return Err(ApiError::MemberNotEnoughStarted);
        }
        if voters != 1 && connected < quorum {
            return Err(ApiError::Unhealthy);
        }
        Ok(())
    }

    /// The strict check of a removal. `linked` tells whether `id` is this member or has a live link to it.
    pub fn strict_remove(&self, id: u64, linked: bool, connected: usize) -> Result<(), ApiError> {
        let member = self.check_member(id)?;
        if member.is_learner {
            return Ok(());
        }
        let others = self.voters().count() - 1;
        let started = self.started() - usize::from(!member.name.is_empty());
        let quorum = quorum(others);
        if started < quorum {
            return Err(ApiError::MemberNotEnoughStarted);
        }
        if linked && connected.saturating_sub(1) < quorum {
            return Err(ApiError::Unhealthy);
        }
        Ok(())
    }

    /// The strict check of a promotion.
    pub fn strict_promote(&self) -> Result<(), ApiError> {
        let voters = self.voters().count() + 1;
        if self.started() + 1 < quorum(voters) {
            return Err(ApiError::MemberNotEnoughStarted);
        }
        Ok(())
    }

    // Alarms

    /// All alarms of one type, or all of them for `NONE`.
    pub fn alarms(&self, kind: i32) -> Vec<AlarmMember> {
        let asked = |(_, own): &&(u64, i32)| kind == AlarmType::None as i32 || *own == kind;
        let found = self.alarms.iter().filter(asked);
        found.map(|(id, kind)| alarm_member(*id, *kind)).collect()
    }

    pub fn has_alarms(&self) -> bool {
        !self.alarms.is_empty()
    }

    /// Returns true if any member has raised the alarm.
    pub fn has_alarm(&self, kind: AlarmType) -> bool {
        self.alarms.iter().any(|(_, own)| *own == kind as i32)
    }

    /// Lists, raises or clears alarms.
    pub fn alarm(
        &mut self,
        draft: &mut Draft<'_>,
        request: &AlarmRequest,
    ) -> Result<Vec<AlarmMember>, Error> {
        let (id, kind) = (request.member_id, request.alarm);
        let key = [&id.to_be_bytes()[..], &kind.to_be_bytes()[..]].concat();
        let found = alarm_member(id, kind);
        match AlarmAction::try_from(request.action) {
            Ok(AlarmAction::Get) => Ok(self.alarms(kind)),
            Ok(AlarmAction::Activate) if kind == AlarmType::None as i32 => Ok(Vec::new()),
            Ok(AlarmAction::Activate) => {
                if self.alarms.insert((id, kind)) {
                    draft.put(Table::Alarms, key, found.encode_to_vec());
                }
                Ok(vec![found])
            }
            Ok(AlarmAction::Deactivate) => {
                if !self.alarms.remove(&(id, kind)) {
                    return Ok(Vec::new());
                }
                draft.delete(Table::Alarms, key);
                Ok(vec![found])
            }
            Err(_) => Err(Error::other(
                Code::InvalidArgument,
                "etcdserver: unknown alarm action",
            )),
        }
    }

    // Version

    /// The cluster version, such as `3.7.0`; empty while it is unknown.
    pub fn version(&self) -> &str {
        &self.version
    }

    pub fn set_version(&mut self, draft: &mut Draft<'_>, version: &str) {
        self.version = version.to_string();
        self.put_record(draft);
    }

    pub fn downgrade(&self) -> DowngradeInfo {
        DowngradeInfo {
            enabled: self.downgrade_target.is_some(),
            target_version: self.downgrade_target.clone().unwrap_or_default(),
        }
    }

    /// Starts a downgrade job, or with `None` ends it.
    pub fn set_downgrade(&mut self, draft: &mut Draft<'_>, target: Option<&str>) {
        self.downgrade_target = target.map(str::to_string);
        self.put_record(draft);
    }

    fn put_record(&self, draft: &mut Draft<'_>) {
        let record = ClusterRecord {
            version: self.version.clone(),
            downgrade_target: self.downgrade_target.clone(),
        };
        draft.put(Table::Meta, CLUSTER, record.encode_to_vec());
    }
}

fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

fn alarm_member(member_id: u64, alarm: i32) -> AlarmMember {
    AlarmMember { member_id, alarm }
}

fn write_member(draft: &mut Draft<'_>, member: Member, removed: bool) {
    let key = member.id.to_be_bytes().to_vec();
    let record = MemberRecord {
        member: Some(member),
        removed,
    };
    draft.put(Table::Members, key, record.encode_to_vec());
}

fn decode<M: Message + Default>(place: &str, value: &[u8]) -> storage::Result<M> {
    M::decode(value).map_err(|error| Fault::damaged(place, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::kvpb::membership::Config;
    use crate::proto::kvpb::membership::Node;
    use crate::storage::Engine;
    use crate::storage::engine::memory::Memory;

    fn urls(list: &[&str]) -> Vec<String> {
        list.iter().map(|url| url.to_string()).collect()
    }

    #[test]
    fn identifiers_are_those_of_etcd() {
        let one = urls(&["http://localhost:2380"]);
        let two = urls(&["http://localhost:7001", "http://localhost:2380"]);
        assert_eq!(member_id(&one, "etcd-cluster"), 0x8e9e05c52164694d);
        assert_eq!(cluster_id(&[0x8e9e05c52164694d]), 0xcdf818194e3a8c32);
        assert_eq!(member_id(&two, "etcd-cluster"), 0xce2a822cea30bfca);
        assert_eq!(cluster_id(&[0xce2a822cea30bfca]), 0x7e27652122e8b2ae);

        let ids = ["12380", "22380", "32380"]
            .map(|port| member_id(&[format!("http://127.0.0.1:{port}")], "etcd-cluster-1"));
        let expected = [0x8211f1d0f64f3269, 0x91bc3c398fb3c146, 0xfd422379fda50e48];
        let mut sorted = ids;
        sorted.sort_unstable();
        assert_eq!(sorted, expected);
        assert_eq!(cluster_id(&ids), 0xef37ad9dc622a7c4);

        let added = added_member_id(&one, 1_700_000_000);
        assert_eq!(added, member_id(&one, "1700000000"));
    }

    /// A membership of nodes 1, 2, ... of which the given ones vote.
    fn membership(nodes: &[u64], voters: &[u64]) -> Membership {
        let node = |id: &u64| Node {
            id: *id,
            peer_urls: vec![format!("http://10.0.0.{id}:2380")],
            name: String::new(),
        };
        Membership {
            configs: vec![Config {
                voters: voters.to_vec(),
            }],
            nodes: nodes.iter().map(node).collect(),
        }
    }

    fn change(
        engine: &Memory,
        cluster: &mut Cluster,
        apply: impl FnOnce(&mut Cluster, &mut Draft<'_>),
    ) {
        let mut draft = Draft::over(engine);
        apply(cluster, &mut draft);
        engine.commit(&draft.into_batch()).expect("committed");
        let restored = Cluster::restore(engine).expect("restored");
        assert_eq!(restored, *cluster, "the tables hold all of it");
    }

    #[test]
    fn members_follow_the_membership_and_publish_the_rest() {
        let engine = Memory::default();
        let mut cluster = Cluster::default();
        let shape = |cluster: &Cluster| -> Vec<(u64, String, bool)> {
            let members = cluster.members();
            members
                .map(|m| (m.id, m.name.clone(), m.is_learner))
                .collect()
        };
        change(&engine, &mut cluster, |cluster, draft| {
            cluster.set_membership(draft, &membership(&[3, 1], &[1]));
            cluster.set_attributes(draft, 1, "one", &urls(&["http://10.0.0.1:2379"]));
            cluster.set_attributes(draft, 9, "nobody", &[]);
        });
        assert_eq!(
            shape(&cluster),
            [(1, "one".into(), false), (3, String::new(), true)]
        );

        change(&engine, &mut cluster, |cluster, draft| {
            cluster.set_membership(draft, &membership(&[1, 2], &[1, 2]));
        });
        assert_eq!(
            shape(&cluster),
            [(1, "one".into(), false), (2, String::new(), false)]
        );
        assert!(cluster.is_removed(3) && !cluster.is_removed(2));
        let taken = urls(&["http://10.0.0.2:2380"]);
        let free = urls(&["http://10.0.0.9:2380"]);
        let cases = [
            // id, urls, learner, answer
            (3, &free, false, Err(ApiError::MemberNotFound)),
            (2, &free, false, Err(ApiError::MemberExist)),
            (9, &taken, false, Err(ApiError::PeerURLExist)),
            (9, &free, true, Ok(())),
            (9, &free, false, Ok(())),
        ];
        for (id, urls, learner, answer) in cases {
            assert_eq!(
                cluster.check_add(id, urls, learner, 1),
                answer,
                "{id} {urls:?}"
            );
        }
        assert_eq!(
            cluster.check_add(9, &free, true, 0),
            Err(ApiError::TooManyLearners)
        );
        assert_eq!(cluster.check_update(2, &taken), Ok(()), "its own");
        assert_eq!(cluster.check_update(1, &taken), Err(ApiError::PeerURLExist));
        assert_eq!(
            cluster.check_update(7, &free),
            Err(ApiError::MemberNotFound)
        );
        assert_eq!(cluster.check_promote(1), Err(ApiError::MemberNotLearner));
    }

    #[test]
    fn strict_checks_keep_a_quorum() {
        use ApiError::MemberNotEnoughStarted as NotStarted;
        use ApiError::Unhealthy;
        let cluster = |voters: u64, started: u64| {
            let engine = Memory::default();
            let mut cluster = Cluster::default();
            let mut draft = Draft::over(&engine);
            let ids: Vec<u64> = (1..=voters).collect();
            cluster.set_membership(&mut draft, &membership(&ids, &ids));
            for id in 1..=started {
                cluster.set_attributes(&mut draft, id, "name", &[]);
            }
            cluster
        };
        let additions = [
            // voters, started, connected, learner, answer
            (1, 1, 1, false, Ok(())),
            (2, 1, 2, false, Err(NotStarted)),
            (2, 2, 2, false, Ok(())),
            (2, 2, 1, false, Err(Unhealthy)),
            (3, 3, 3, false, Ok(())),
            (3, 2, 3, false, Err(NotStarted)),
            (3, 3, 2, false, Err(Unhealthy)),
            (3, 1, 3, true, Ok(())),
            (3, 3, 2, true, Err(Unhealthy)),
            (5, 4, 4, false, Ok(())),
        ];
        for (voters, started, connected, learner, answer) in additions {
            let cluster = cluster(voters, started);
            assert_eq!(
                cluster.strict_add(learner, connected),
                answer,
                "add: {voters} voters, {started} started, {connected} connected"
            );
        }
        let removals = [
            // voters, started, id, linked, connected, answer
            (1, 1, 1, true, 1, Err(NotStarted)),
            (2, 2, 2, true, 2, Ok(())),
            (3, 3, 3, true, 3, Ok(())),
            (3, 3, 3, true, 2, Err(Unhealthy)),
            (3, 3, 3, false, 2, Ok(())),
            (3, 2, 3, false, 2, Ok(())),
            (3, 2, 1, false, 2, Err(NotStarted)),
        ];
        for (voters, started, id, linked, connected, answer) in removals {
            let cluster = cluster(voters, started);
            assert_eq!(
                cluster.strict_remove(id, linked, connected),
                answer,
                "remove {id}: {voters} voters, {started} started, {connected} connected"
            );
        }
        assert_eq!(cluster(1, 1).strict_promote(), Ok(()));
        assert_eq!(cluster(3, 1).strict_promote(), Err(NotStarted));
        assert_eq!(cluster(3, 2).strict_promote(), Ok(()));
    }

    #[test]
    fn alarms_are_a_set_of_members_and_types() {
        let engine = Memory::default();
        let mut cluster = Cluster::default();
        let mut ask = |action: AlarmAction, member_id, alarm: i32| {
            let mut found = Vec::new();
            change(&engine, &mut cluster, |cluster, draft| {
                let request = AlarmRequest {
                    action: action as i32,
                    member_id,
                    alarm,
                };
                let alarms = cluster.alarm(draft, &request).expect("a known action");
                found = alarms.iter().map(|a| (a.member_id, a.alarm)).collect();
            });
            found
        };
        use AlarmAction::*;
        assert_eq!(ask(Activate, 1, 0), []);
        assert_eq!(ask(Activate, 2, 1), [(2, 1)]);
        assert_eq!(ask(Activate, 2, 1), [(2, 1)], "again");
        assert_eq!(ask(Activate, 1, 2), [(1, 2)]);
        assert_eq!(ask(Activate, 1, 77), [(1, 77)], "a type of the future");
        assert_eq!(ask(Get, 99, 0), [(1, 2), (1, 77), (2, 1)]);
        assert_eq!(ask(Get, 99, 1), [(2, 1)]);
        assert_eq!(ask(Deactivate, 0, 1), [], "0 is nobody");
        assert_eq!(ask(Deactivate, 2, 0), [], "and NONE no type");
        assert_eq!(ask(Deactivate, 2, 1), [(2, 1)]);
        assert_eq!(ask(Get, 0, 1), []);
        assert!(cluster.has_alarm(AlarmType::Corrupt) && !cluster.has_alarm(AlarmType::Nospace));

        let mut draft = Draft::over(&engine);
        let unknown = AlarmRequest {
            action: 9,
            member_id: 1,
            alarm: 1,
        };
        assert!(cluster.alarm(&mut draft, &unknown).is_err() && draft.is_empty());
    }
}
