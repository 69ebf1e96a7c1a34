//! The machine without consensus: commands in, replies, events and tables out.
//!
//! Golden texts in `tests/golden/machine`; below them, seeded runs of two machines over one log.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kv::error::Error;
use kv::lease::LeaseId;
use kv::lease::Renewal;
use kv::machine::Command;
use kv::machine::Context;
use kv::machine::Effect;
use kv::machine::Machine;
use kv::machine::Options;
use kv::machine::Outcome;
use kv::machine::Reply;
use kv::machine::command;
use kv::machine::snapshot;
use kv::mvcc::Event;
use kv::mvcc::EventType;
use kv::mvcc::Progress;
use kv::proto::etcdserverpb::AlarmRequest;
use kv::proto::etcdserverpb::CompactionRequest;
use kv::proto::etcdserverpb::Compare;
use kv::proto::etcdserverpb::DeleteRangeRequest;
use kv::proto::etcdserverpb::LeaseCheckpoint;
use kv::proto::etcdserverpb::LeaseCheckpointRequest;
use kv::proto::etcdserverpb::LeaseGrantRequest;
use kv::proto::etcdserverpb::LeaseRevokeRequest;
use kv::proto::etcdserverpb::LeaseTimeToLiveRequest;
use kv::proto::etcdserverpb::PutRequest;
use kv::proto::etcdserverpb::RangeRequest;
use kv::proto::etcdserverpb::RequestOp;
use kv::proto::etcdserverpb::TxnRequest;
use kv::proto::etcdserverpb::compare::CompareTarget;
use kv::proto::etcdserverpb::compare::TargetUnion;
use kv::proto::etcdserverpb::request_op::Request;
use kv::proto::kvpb::Attributes;
use kv::proto::kvpb::ClusterMemberAttrSetRequest;
use kv::proto::kvpb::ClusterVersionSetRequest;
use kv::proto::kvpb::DowngradeInfoSetRequest;
use kv::proto::kvpb::LeaseExpireRequest;
use kv::proto::kvpb::Membership;
use kv::proto::kvpb::Origin;
use kv::proto::kvpb::Proposal;
use kv::proto::kvpb::membership::Config;
use kv::proto::kvpb::membership::Node;
use kv::storage::Engine;
use kv::storage::Pair;
use kv::storage::Table;
use kv::storage::View;
use kv::storage::engine::memory::Memory;
use kv::util::clock::Uptime;

use super::transcript;

const TABLES: [Table; 7] = [
    Table::Meta,
    Table::Revisions,
    Table::Leases,
    Table::Members,
    Table::Alarms,
    Table::Users,
    Table::Roles,
];

/// As with etcd's default election timeout and heartbeat.
const MIN_TTL: i64 = 2;

/// One member without consensus: what is applied is committed to a memory engine at once.
struct Member {
    engine: Memory,
    machine: Machine,
    options: Options,
    index: u64,
    now: Uptime,
    size: u64,
}

impl Member {
    fn new(options: Options) -> Member {
        Member::on(Memory::default(), options)
    }

    fn on(engine: Memory, options: Options) -> Member {
        let machine = Machine::restore(&engine, &options).expect("sound tables");
        Member {
            index: machine.applied().map_or(0, |applied| applied.index),
            engine,
            machine,
            options,
            now: Uptime::default(),
            size: 0,
        }
    }

    fn context(&mut self) -> Context {
        self.index += 1;
        Context {
            index: self.index,
            term: 1,
            now: self.now,
            size: self.size,
        }
    }

    fn apply(&mut self, proposals: &[Proposal]) -> Vec<Outcome> {
        let context = self.context();
        let applied = self.machine.apply(&self.engine, context, proposals);
        let Effect { writes, outcomes } = applied.expect("no fault");
        self.engine
            .commit(&writes)
            .expect("memory takes everything");
        self.machine.lessor.validate();
        outcomes
    }

    fn skip(&mut self, membership: Option<&Membership>) {
        let context = self.context();
        let writes = self.machine.skip(&self.engine, context, membership);
        self.engine
            .commit(&writes)
            .expect("memory takes everything");
    }

    /// Stops and starts again from the tables.
    fn restart(self) -> Member {
        let (hash, revision) = (self.machine.state_hash(), self.machine.store.revision());
        let (now, size) = (self.now, self.size);
        let mut member = Member::on(self.engine, self.options);
        assert_eq!(member.machine.state_hash(), hash, "the state hash is kept");
        assert_eq!(
            member.machine.store.revision(),
            revision,
            "and the revision"
        );
        (member.now, member.size) = (now, size);
        member
    }

    /// Goes on in a member that was made from a snapshot of this one.
    fn transplant(self) -> Member {
        let (bytes, _) = export(&self.machine, &self.engine);
        let (now, size) = (self.now, self.size);
        let mut member = Member::on(import(&bytes), self.options.clone());
        assert_eq!(member.hash_kv(), self.hash_kv(), "HashKV");
        assert_eq!(member.machine.state_hash(), self.machine.state_hash());
        assert_eq!(member.machine.cluster, self.machine.cluster);
        assert_eq!(member.machine.membership(), self.machine.membership());
        (member.now, member.size) = (now, size);
        member
    }

    fn hash_kv(&self) -> u32 {
        let store = &self.machine.store;
        let hash = store.hash_kv(&self.engine, store.revision());
        hash.expect("a hash").hash
    }

    fn reclaim(&mut self) {
        loop {
            let (batch, progress) = self.machine.store.compact_slice();
            self.engine.commit(&batch).expect("memory takes everything");
            match progress {
                Progress::More => {}
                Progress::Done => return,
                Progress::Held => panic!("no reader is there to hold it"),
            }
        }
    }

    fn tables(&self) -> Vec<(Table, Vec<Pair>)> {
        let whole = |table| self.engine.scan(table, &[], None, usize::MAX);
        let all = TABLES.into_iter();
        all.map(|table| (table, whole(table).expect("readable")))
            .collect()
    }
}

fn export(machine: &Machine, view: &dyn View) -> (Vec<u8>, u64) {
    let mut export = snapshot::Export::begin(machine, view).expect("a beginning");
    while !export.measure(view).expect("countable") {}
    let total = export.total().expect("counted");
    let mut bytes = Vec::new();
    while let Some(piece) = export.next(view).expect("more bytes") {
        bytes.extend_from_slice(&piece);
        let left = total - bytes.len() as u64;
        assert_eq!(export.remaining(), Some(left));
    }
    assert_eq!(bytes.len() as u64, total);
    assert_eq!(total % snapshot::BLOCK_BYTES, 0);
    (bytes, total)
}

fn import(bytes: &[u8]) -> Memory {
    let engine = Memory::default();
    let status = snapshot::read(&mut &bytes[..], &mut |batch| engine.commit(&batch));
    status.expect("a sound snapshot");
    engine
}

fn proposal(command: Command) -> Proposal {
    let origin = Origin {
        wall_time_ms: 1_700_000_000_000,
        ..Origin::default()
    };
    command::proposal(1, None, command, origin)
}

// Golden texts

#[test]
fn golden_texts() {
    transcript::replay("tests/golden/machine", || {
        let options = Options {
            cache_bytes: 1 << 20,
            quota_bytes: 100_000,
        };
        let mut member = Some(Member::new(options));
        move |line| {
            let mut session = Session {
                member: member.take().expect("a member between commands"),
            };
            let output = session.run(line);
            member = Some(session.member);
            output
        }
    });
}

struct Session {
    member: Member,
}

/// The words of a command line: those with `=` by name, the others in order.
struct Words<'a> {
    plain: Vec<&'a str>,
    named: HashMap<&'a str, &'a str>,
}

impl<'a> Words<'a> {
    fn new(text: &'a str) -> Words<'a> {
        let mut words = Words {
            plain: Vec::new(),
            named: HashMap::new(),
        };
        for word in text.split_whitespace() {
            match word.split_once('=') {
                Some((name, value)) => drop(words.named.insert(name, value)),
                None => words.plain.push(word),
            }
        }
        words
    }

    fn text(&self, at: usize) -> &'a str {
        self.plain.get(at).copied().unwrap_or_default()
    }

    fn number(&self, at: usize) -> i64 {
        number(self.text(at))
    }

    fn named(&self, name: &str) -> i64 {
        self.named.get(name).map_or(0, |text| number(text))
    }

    fn list(&self, name: &str) -> Vec<u64> {
        let text = self.named.get(name).copied().unwrap_or_default();
        let parts = text.split(',').filter(|part| !part.is_empty());
        parts.map(|part| number(part) as u64).collect()
    }
}

fn number(text: &str) -> i64 {
    text.parse()
        .unwrap_or_else(|_| panic!("a number: {text:?}"))
}

impl Session {
    fn run(&mut self, line: &str) -> String {
        let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
        match name {
            "batch" => {
                let commands = rest.split(" | ").map(|line| {
                    let command = parse_command(line);
                    proposal(command.unwrap_or_else(|| panic!("a command: {line:?}")))
                });
                let outcomes = self.member.apply(&commands.collect::<Vec<_>>());
                outcomes.iter().map(render_outcome).collect()
            }
            _ => match parse_command(line) {
                Some(command) => {
                    let outcomes = self.member.apply(&[proposal(command)]);
                    outcomes.iter().map(render_outcome).collect()
                }
                None => self.look(name, &Words::new(rest)),
            },
        }
    }

    /// Everything that is not a command of the log.
    fn look(&mut self, name: &str, words: &Words<'_>) -> String {
        let member = &mut self.member;
        let now = member.now;
        match name {
            "tick" => {
                let text = words.text(0);
                let step = kv::util::text::parse_duration(text).expect("a duration");
                member.now = member.now + step;
                String::new()
            }
            "size" => {
                member.size = words.number(0) as u64;
                String::new()
            }
            "promote" => {
                let extend = Duration::from_secs(words.named("extend") as u64);
                member.machine.lessor.promote(now, extend);
                String::new()
            }
            "demote" => {
                member.machine.lessor.demote();
                String::new()
            }
            "expired" => {
                let due = member.machine.lessor.expired(now, usize::MAX);
                format!("{}\n", ids(due.iter().map(|LeaseId(id)| *id)))
            }
            "due-checkpoints" => {
                let due = member.machine.lessor.take_checkpoints(now, usize::MAX);
                due.iter()
                    .map(|due| format!("{}={}\n", due.id, due.remaining_ttl))
                    .collect()
            }
            "renew" => match member.machine.lessor.renew(LeaseId(words.number(0)), now) {
                Renewal::Renewed {
                    ttl,
                    stale_checkpoint,
                } => format!("ttl={ttl} stale_checkpoint={stale_checkpoint}\n"),
                other => format!("{other:?}\n"),
            },
            "ttl" => {
                let request = LeaseTimeToLiveRequest {
                    id: words.number(0),
                    keys: true,
                };
                let reply = member.machine.lease_time_to_live(&request, now);
                let keys = reply.keys.iter().map(|key| String::from_utf8_lossy(key));
                let keys: Vec<_> = keys.collect();
                let (ttl, granted) = (reply.ttl, reply.granted_ttl);
                format!("ttl={ttl} granted={granted} keys=[{}]\n", keys.join(" "))
            }
            "leases" => {
                let reply = member.machine.lease_leases();
                format!("{}\n", ids(reply.leases.iter().map(|lease| lease.id)))
            }
            "get" => render_range(member, words),
            "membership" => {
                member.skip(Some(&parse_membership(words)));
                String::new()
            }
            "blank" => {
                member.skip(None);
                String::new()
            }
            "members" => {
                let members = member.machine.member_list();
                let line = |m: &kv::proto::etcdserverpb::Member| {
                    let (name, learner) = (&m.name, m.is_learner);
                    let (peers, clients) = (m.peer_ur_ls.join(","), m.client_ur_ls.join(","));
                    format!(
                        "{} name={name} peers={peers} clients={clients} learner={learner}\n",
                        m.id
                    )
                };
                members.iter().map(line).collect()
            }
            "status" => {
                let status = member.machine.status(1, words.named("leader") as u64);
                let downgrade = status.downgrade_info.unwrap_or_default();
                format!(
                    "applied={} errors={:?} learner={} storage={} quota={} downgrade={}{}\n",
                    status.raft_applied_index,
                    status.errors,
                    status.is_learner,
                    status.storage_version,
                    status.db_size_quota,
                    downgrade.enabled,
                    downgrade.target_version
                )
            }
            "reclaim" => {
                member.reclaim();
                let revisions = member.engine.scan(Table::Revisions, &[], None, usize::MAX);
                format!("{} records\n", revisions.expect("readable").len())
            }
            "count" => {
                let count = |(table, pairs): &(Table, Vec<Pair>)| match pairs.len() {
                    0 => String::new(),
                    count => format!("{table:?}: {count}\n"),
                };
                member.tables().iter().map(count).collect()
            }
            "restart" => {
                self.replace(Member::restart);
                String::new()
            }
            "snapshot" => {
                let (bytes, _) = export(&member.machine, &member.engine);
                let status = snapshot::status(&mut &bytes[..]).expect("a sound snapshot");
                self.replace(Member::transplant);
                let (revision, keys) = (status.revision, status.total_keys);
                format!(
                    "revision={revision} keys={keys} version={}\n",
                    status.version
                )
            }
            "forget-cluster" => {
                let batch = snapshot::forget_cluster(&member.engine).expect("readable");
                member
                    .engine
                    .commit(&batch)
                    .expect("memory takes everything");
                self.replace(|member| Member::on(member.engine, member.options));
                String::new()
            }
            other => panic!("no such command: {other}"),
        }
    }

    fn replace(&mut self, change: impl FnOnce(Member) -> Member) {
        let spare = Member::new(Options::default());
        let member = std::mem::replace(&mut self.member, spare);
        self.member = change(member);
    }
}

fn ids(ids: impl Iterator<Item = i64>) -> String {
    let texts: Vec<String> = ids.map(|id| id.to_string()).collect();
    format!("[{}]", texts.join(" "))
}

/// `key=value` is a put's first word; `lease=`, `prev` and the like follow.
fn parse_command(line: &str) -> Option<Command> {
    let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
    let words = Words::new(rest);
    Some(match name {
        "put" => Command::Put(parse_put(rest)),
        "del" => Command::DeleteRange(parse_delete(&words)),
        "txn" => Command::Txn(parse_txn(rest)),
        "compact" => Command::Compaction(CompactionRequest {
            revision: words.number(0),
            physical: false,
        }),
        "grant" => {
            let mut command = Command::LeaseGrant(LeaseGrantRequest {
                id: words.number(0),
                ttl: words.named("ttl"),
            });
            command::settle(&mut command, MIN_TTL);
            command
        }
        "revoke" => Command::LeaseRevoke(LeaseRevokeRequest {
            id: words.number(0),
        }),
        "expire" => Command::LeaseExpire(LeaseExpireRequest {
            leases: words.plain.iter().map(|word| number(word)).collect(),
        }),
        "checkpoint" => Command::LeaseCheckpoint(LeaseCheckpointRequest {
            checkpoints: vec![LeaseCheckpoint {
                id: words.number(0),
                remaining_ttl: words.named("remaining"),
            }],
        }),
        "alarm" => Command::Alarm(parse_alarm(&words)),
        "publish" => Command::ClusterMemberAttrSet(ClusterMemberAttrSetRequest {
            member_id: words.number(0) as u64,
            member_attributes: Some(Attributes {
                name: words.text(1).to_string(),
                client_urls: vec![words.text(2).to_string()],
            }),
        }),
        "version" => Command::ClusterVersionSet(ClusterVersionSetRequest {
            ver: words.text(0).to_string(),
        }),
        "downgrade" => Command::DowngradeInfoSet(DowngradeInfoSetRequest {
            enabled: words.text(0) != "off",
            ver: words.text(0).to_string(),
        }),
        "auth-enable" => Command::AuthEnable(kv::proto::etcdserverpb::AuthEnableRequest {}),
        _ => return None,
    })
}

fn parse_put(rest: &str) -> PutRequest {
    let mut words = rest.split_whitespace();
    let (key, value) = words
        .next()
        .and_then(|pair| pair.split_once('='))
        .expect("key=value");
    let rest: Vec<&str> = words.collect();
    let rest = rest.join(" ");
    let words = Words::new(&rest);
    PutRequest {
        key: key.into(),
        value: value.into(),
        lease: words.named("lease"),
        prev_kv: false,
        ignore_value: words.plain.contains(&"ignore-value"),
        ignore_lease: words.plain.contains(&"ignore-lease"),
    }
}

fn parse_delete(words: &Words<'_>) -> DeleteRangeRequest {
    DeleteRangeRequest {
        key: words.text(0).into(),
        range_end: words.text(1).into(),
        prev_kv: false,
    }
}

/// `if KEY then OP; OP else OP`: the condition is that the key exists.
fn parse_txn(rest: &str) -> TxnRequest {
    let (condition, branches) = rest.split_once(" then ").expect("if KEY then ...");
    let (success, failure) = branches.split_once(" else ").unwrap_or((branches, ""));
    let exists = Compare {
        result: kv::proto::etcdserverpb::compare::CompareResult::Greater as i32,
        target: CompareTarget::Version as i32,
        key: condition.trim_start_matches("if ").into(),
        range_end: Vec::new(),
        target_union: Some(TargetUnion::Version(0)),
    };
    TxnRequest {
        compare: vec![exists],
        success: parse_ops(success),
        failure: parse_ops(failure),
    }
}

fn parse_ops(text: &str) -> Vec<RequestOp> {
    let ops = text.split(';').map(str::trim).filter(|op| !op.is_empty());
    let parse = |op: &str| {
        let request = match parse_command(op) {
            Some(Command::Put(request)) => Request::RequestPut(request),
            Some(Command::DeleteRange(request)) => Request::RequestDeleteRange(request),
            _ => panic!("no operation of a transaction: {op:?}"),
        };
        RequestOp {
            request: Some(request),
        }
    };
    ops.map(parse).collect()
}

fn parse_alarm(words: &Words<'_>) -> AlarmRequest {
    let action = ["get", "activate", "deactivate"];
    let kinds = ["none", "nospace", "corrupt"];
    let place = |names: &[&str], word: &str| {
        let found = names.iter().position(|name| *name == word);
        found.map_or_else(|| number(word) as i32, |at| at as i32)
    };
    AlarmRequest {
        action: place(&action, words.text(0)),
        member_id: words.named("member") as u64,
        alarm: place(&kinds, words.named.get("type").unwrap_or(&"none")),
    }
}

/// `nodes=1,2,3 voters=1,2`, and `joint=` for the voters that come next.
fn parse_membership(words: &Words<'_>) -> Membership {
    let configs = ["voters", "joint"].map(|name| words.list(name));
    let node = |id: u64| Node {
        id,
        peer_urls: vec![format!("http://10.0.0.{id}:2380")],
        name: match words.named.get("names") {
            Some(_) => format!("m{id}"),
            None => String::new(),
        },
    };
    Membership {
        configs: configs
            .into_iter()
            .filter(|voters| !voters.is_empty())
            .map(|voters| Config { voters })
            .collect(),
        nodes: words.list("nodes").into_iter().map(node).collect(),
    }
}

fn render_range(member: &Member, words: &Words<'_>) -> String {
    let request = RangeRequest {
        key: words.text(0).into(),
        range_end: words.text(1).into(),
        revision: words.named("rev"),
        ..RangeRequest::default()
    };
    match member.machine.store.range(&member.engine, &request) {
        Err(error) => format!("error: {error}\n"),
        Ok(reply) => {
            let line = |kv: &kv::proto::mvccpb::KeyValue| {
                let (key, value) = (text(&kv.key), text(&kv.value));
                let (version, modified, lease) = (kv.version, kv.mod_revision, kv.lease);
                format!("{key}={value} mod={modified} version={version} lease={lease}\n")
            };
            reply.kvs.iter().map(line).collect()
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn render_outcome(outcome: &Outcome) -> String {
    let mut line = match &outcome.reply {
        Ok(reply) => render_reply(reply),
        Err(Error::Api(error)) => format!("error: {error}"),
        Err(error) => format!("error: {error}"),
    };
    if outcome.out_of_space {
        line += " (raise NOSPACE)";
    }
    line.push('\n');
    for event in &outcome.events {
        line += &render_event(event);
    }
    line
}

fn render_reply(reply: &Reply) -> String {
    match reply {
        Reply::Put(reply) => format!("rev={}", revision(&reply.header)),
        Reply::DeleteRange(reply) => {
            format!("rev={} deleted={}", revision(&reply.header), reply.deleted)
        }
        Reply::Txn(reply) => {
            format!(
                "rev={} succeeded={}",
                revision(&reply.header),
                reply.succeeded
            )
        }
        Reply::Compaction(reply) => format!("rev={}", revision(&reply.header)),
        Reply::LeaseGrant(reply) => {
            let (id, ttl) = (reply.id, reply.ttl);
            format!("rev={} id={id} ttl={ttl}", revision(&reply.header))
        }
        Reply::LeaseRevoke(reply) => format!("rev={}", revision(&reply.header)),
        Reply::LeaseExpire(revoked) => format!("revoked={revoked}"),
        Reply::LeaseCheckpoint(reply) => format!("rev={}", revision(&reply.header)),
        Reply::Alarm(reply) => {
            let alarms = reply.alarms.iter();
            let alarms: Vec<_> = alarms
                .map(|a| format!("{}:{}", a.member_id, a.alarm))
                .collect();
            format!(
                "rev={} alarms=[{}]",
                revision(&reply.header),
                alarms.join(" ")
            )
        }
        Reply::ClusterVersionSet | Reply::ClusterMemberAttrSet | Reply::DowngradeInfoSet => {
            "ok".to_string()
        }
    }
}

fn revision(header: &Option<kv::proto::etcdserverpb::ResponseHeader>) -> i64 {
    let header = header.as_ref().expect("a header");
    assert_eq!(
        (header.cluster_id, header.member_id, header.raft_term),
        (0, 0, 0)
    );
    header.revision
}

fn render_event(event: &Arc<Event>) -> String {
    let (kv, key) = (&event.kv, text(&event.kv.key));
    match event.kind {
        EventType::Put => {
            let (value, lease) = (text(&kv.value), kv.lease);
            format!(
                "  put {key}={value} mod={} lease={lease}\n",
                kv.mod_revision
            )
        }
        EventType::Delete => format!("  delete {key} mod={}\n", kv.mod_revision),
    }
}

// Two machines over one log

/// A random log entry; mostly writes of few keys, so that leases, revisions and compactions meet.
fn random_entry(random: &mut fastrand::Rng, revision: i64) -> Vec<Proposal> {
    let count = random.usize(1..4);
    (0..count)
        .map(|_| proposal(random_command(random, revision)))
        .collect()
}

fn random_command(random: &mut fastrand::Rng, revision: i64) -> Command {
    match random.u32(..20) {
        0 | 1 => Command::LeaseGrant(LeaseGrantRequest {
            id: random.i64(1..12),
            ttl: random.i64(-1..1000),
        }),
        2 => Command::LeaseRevoke(LeaseRevokeRequest {
            id: random.i64(1..12),
        }),
        3 => Command::LeaseExpire(LeaseExpireRequest {
            leases: (0..3).map(|_| random.i64(1..12)).collect(),
        }),
        4 => Command::LeaseCheckpoint(LeaseCheckpointRequest {
            checkpoints: vec![LeaseCheckpoint {
                id: random.i64(1..12),
                remaining_ttl: random.i64(0..900),
            }],
        }),
        5 => Command::Compaction(CompactionRequest {
            revision: revision - random.i64(0..20),
            physical: false,
        }),
        6 => Command::Alarm(AlarmRequest {
            action: random.i32(0..3),
            member_id: random.u64(1..3),
            // Rarely one that stops writes, and then not for long.
            alarm: if random.u32(..10) == 0 { 1 } else { 7 },
        }),
        7 => Command::Alarm(AlarmRequest {
            action: 2,
            member_id: random.u64(1..3),
            alarm: 1,
        }),
        8 | 9 => Command::DeleteRange(random_delete(random)),
        10 | 11 => Command::Txn(TxnRequest {
            compare: Vec::new(),
            success: vec![
                RequestOp {
                    request: Some(Request::RequestDeleteRange(DeleteRangeRequest {
                        key: b"x".to_vec(),
                        range_end: b"z".to_vec(),
                        prev_kv: false,
                    })),
                },
                RequestOp {
                    request: Some(Request::RequestPut(random_put(random))),
                },
            ],
            failure: Vec::new(),
        }),
        _ => Command::Put(random_put(random)),
    }
}

fn random_put(random: &mut fastrand::Rng) -> PutRequest {
    let length = random.usize(..200);
    PutRequest {
        key: vec![random.u8(b'a'..b'k'), random.u8(b'a'..b'd')],
        value: std::iter::repeat_with(|| random.u8(..))
            .take(length)
            .collect(),
        lease: if random.bool() { random.i64(0..12) } else { 0 },
        ..PutRequest::default()
    }
}

fn random_delete(random: &mut fastrand::Rng) -> DeleteRangeRequest {
    let end = random.bool();
    DeleteRangeRequest {
        key: vec![random.u8(b'a'..b'k'), random.u8(b'a'..b'd')],
        range_end: if end {
            vec![random.u8(b'a'..b'm')]
        } else {
            Vec::new()
        },
        prev_kv: false,
    }
}

#[test]
fn two_members_stay_equal_whatever_befalls_one_of_them() {
    for seed in 0..12 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut steady = Member::new(Options {
            cache_bytes: 1 << 20,
            quota_bytes: -1,
        });
        let mut shaken = Member::new(Options {
            cache_bytes: 4096,
            quota_bytes: 1 << 40,
        });
        for _ in 0..400 {
            let entry = random_entry(&mut random, steady.machine.store.revision());
            let replies = steady.apply(&entry);
            shaken.size = if random.bool() { 0 } else { 1 << 40 };
            let others = shaken.apply(&entry);
            for (one, other) in replies.iter().zip(&others) {
                assert_eq!(one.revision, other.revision, "seed {seed}");
                assert_eq!(one.events.len(), other.events.len(), "seed {seed}");
            }
            assert_eq!(
                steady.machine.state_hash(),
                shaken.machine.state_hash(),
                "seed {seed}, entry {}",
                steady.index
            );
            shaken = befall(&mut random, shaken);
        }
        steady.reclaim();
        shaken.reclaim();
        assert_eq!(steady.hash_kv(), shaken.hash_kv(), "seed {seed}");
        assert_eq!(steady.tables(), shaken.tables(), "seed {seed}");
    }
}

/// Something that must not show in the data.
fn befall(random: &mut fastrand::Rng, mut member: Member) -> Member {
    member.now = member.now + Duration::from_millis(random.u64(..100_000));
    match random.u32(..30) {
        0 => member.restart(),
        1 => member.transplant(),
        2 => {
            let now = member.now;
            member.machine.lessor.promote(now, Duration::from_secs(1));
            member
        }
        3 => {
            member.machine.lessor.demote();
            member
        }
        4 => {
            let (batch, _) = member.machine.store.compact_slice();
            member
                .engine
                .commit(&batch)
                .expect("memory takes everything");
            member
        }
        5 => {
            let id = LeaseId(random.i64(1..12));
            member.machine.lessor.renew(id, member.now);
            member.machine.lessor.take_checkpoints(member.now, 2);
            member
        }
        _ => member,
    }
}

// Snapshots

/// Revisions stream while the machine goes on, and none of what came later is in the snapshot.
#[test]
fn a_snapshot_is_of_one_moment() {
    let mut member = Member::new(Options {
        cache_bytes: 1 << 20,
        quota_bytes: -1,
    });
    let put = |member: &mut Member, count: usize, length: usize| {
        for number in 0..count {
            let request = PutRequest {
                key: format!("key{:04}", number % 700).into(),
                value: vec![b'v'; length],
                ..PutRequest::default()
            };
            member.apply(&[proposal(Command::Put(request))]);
        }
    };
    put(&mut member, 2000, 1500);
    put(&mut member, 3, 2 << 20);
    let compaction = CompactionRequest {
        revision: 300,
        physical: false,
    };
    member.apply(&[proposal(Command::Compaction(compaction))]);
    let (revision, hash) = (member.machine.store.revision(), member.hash_kv());

    let mut export = snapshot::Export::begin(&member.machine, &member.engine).expect("begun");
    put(&mut member, 10, 1500);
    while !export.measure(&member.engine).expect("countable") {
        // Reclaiming waits for the export.
        let (batch, _) = member.machine.store.compact_slice();
        member
            .engine
            .commit(&batch)
            .expect("memory takes everything");
        put(&mut member, 10, 1500);
    }
    let mut bytes = Vec::new();
    while let Some(piece) = export.next(&member.engine).expect("more bytes") {
        bytes.extend_from_slice(&piece);
        put(&mut member, 1, 1500);
    }
    assert_eq!(export.remaining(), Some(0));
    drop(export);
    member.reclaim();

    let other = Member::on(import(&bytes), member.options.clone());
    assert_eq!(other.machine.store.revision(), revision);
    assert_eq!(other.hash_kv(), hash);
    let status = snapshot::status(&mut &bytes[..]).expect("a sound snapshot");
    assert_eq!((status.revision, status.total_keys), (revision, 700));
    assert_eq!(status.size, bytes.len() as u64);
}

#[test]
fn a_damaged_snapshot_is_refused() {
    let mut member = Member::new(Options::default());
    for key in ["a", "b", "c"] {
        let request = PutRequest {
            key: key.into(),
            value: vec![b'v'; 300],
            ..PutRequest::default()
        };
        member.apply(&[proposal(Command::Put(request))]);
    }
    let (bytes, _) = export(&member.machine, &member.engine);
    let refused = |bytes: &[u8]| snapshot::status(&mut &bytes[..]).is_err();
    assert!(!refused(&bytes));
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x40;
        assert!(refused(&damaged), "byte {at} of {}", bytes.len());
    }
    for length in 0..bytes.len() {
        assert!(
            refused(&bytes[..length]),
            "cut to {length} of {}",
            bytes.len()
        );
    }
    let longer = [&bytes[..], &[0; 7]].concat();
    assert!(refused(&longer));
}
