//! Whole members in this process: on real directories, with the memory engine or sled, and three of them on
//! a wire that is a function call.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt;
use openraft::Raft;
use openraft::raft::AppendEntriesRequest;
use openraft::raft::AppendEntriesResponse;
use openraft::raft::TransferLeaderRequest;
use openraft::raft::TransferLeaderResponse;
use openraft::raft::VoteRequest;
use openraft::raft::VoteResponse;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::entry::Batch;
use super::entry::Types;
use super::network::Answer;
use super::network::Unreached;
use super::proposer::Waiting;
use super::state_machine::Adapter;
use super::*;
use crate::error::ApiError;
use crate::error::Error;
use crate::error::Fault;
use crate::machine::Command;
use crate::machine::Reply;
use crate::proto::etcdserverpb::AlarmType;
use crate::proto::etcdserverpb::PutRequest;
use crate::proto::etcdserverpb::RangeRequest;
use crate::proto::kvpb;
use crate::storage::Batch as Writes;
use crate::storage::Table;
use crate::storage::checkpoint::Owner;
use crate::storage::checkpoint::Writer;
use crate::storage::disk::RealDisk;
use crate::storage::engine;
use crate::storage::engine::Kind;
use crate::util::clock::RealClock;

/// A directory that goes away with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("kv-raft-{}-{next}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::remove_dir_all(&path).ok();
        Scratch(path)
    }

    fn options(&self, engine: Kind) -> Options {
        Options {
            data_dir: self.0.clone(),
            engine,
            timing: Timing {
                heartbeat: Duration::from_millis(20),
                election: Duration::from_millis(200),
                pre_vote: true,
            },
            segment_bytes: 1 << 20,
            no_sync: true,
            ..Options::default()
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// What was said to be fatal.
type Reasons = Arc<Mutex<Vec<String>>>;

fn environment() -> (Environment, Reasons) {
    let reasons = Reasons::default();
    let heard = reasons.clone();
    let environment = Environment {
        clock: Arc::new(RealClock::new()),
        disk: Arc::new(RealDisk),
        connect: Arc::new(Alone),
        fatal: Fatal::new(move |reason| heard.lock().push(reason)),
    };
    (environment, reasons)
}

async fn start(options: Options) -> Node {
    Node::start(options, environment().0)
        .await
        .expect("a sound member")
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let met = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let met = tokio::time::timeout(Duration::from_secs(10), met).await;
    assert!(met.is_ok(), "waited in vain: {what}");
}

fn put(key: &str, value: &str) -> Command {
    Command::Put(PutRequest {
        key: key.into(),
        value: value.into(),
        ..Default::default()
    })
}

/// Puts and returns the revision.
async fn put_at(node: &Node, key: &str, value: &str) -> i64 {
    match node.propose(put(key, value), Caller::default()).await {
        Ok(Reply::Put(reply)) => reply.header.expect("a header").revision,
        other => panic!("put {key}: {other:?}"),
    }
}

/// Value of a key, or nothing.
fn get(node: &Node, key: &str) -> String {
    let request = RangeRequest {
        key: key.into(),
        ..Default::default()
    };
    let range = node.machine().store.range(&**node.tables(), &request);
    let kvs = range.expect("a sound store").kvs;
    kvs.first().map_or(String::new(), |kv| {
        String::from_utf8_lossy(&kv.value).into_owned()
    })
}

#[tokio::test]
async fn what_was_answered_is_there_after_a_restart() {
    let scratch = Scratch::new();
    let node = start(scratch.options(Kind::Memory)).await;
    let mut leadership = node.leadership();
    let led = leadership.wait_for(|it| it.leader).await.expect("it runs");
    let first_term = led.term;
    drop(led);
    for number in 0..50 {
        assert_eq!(put_at(&node, "k", &number.to_string()).await, 2 + number);
    }
    let status = node.status();
    assert_eq!(status.id, 0x8e9e_05c5_2164_694d);
    assert_eq!(status.cluster_id, 0xcdf8_1819_4e3a_8c32);
    assert_eq!(status.leader, status.id);
    assert_eq!(status.applied, status.committed);
    assert!(status.term >= first_term && !status.is_learner);
    node.shutdown().await;
    let stopped = node.propose(put("k", "late"), Caller::default()).await;
    assert!(matches!(stopped, Err(Error::Api(ApiError::Stopped))));
    drop(node);

    let mut options = scratch.options(Kind::Memory);
    options.initial.name = "ignored on a restart".into();
    let node = start(options).await;
    node.read_index().await.expect("it leads by itself");
    assert_eq!(get(&node, "k"), "49");
    assert_eq!(node.machine().store.revision(), 51);
    assert_eq!(node.identity().member_id, status.id);
    assert!(
        node.term() > status.term,
        "a restarted leader is elected again"
    );
    node.shutdown().await;
}

#[test]
fn a_crash_loses_nothing_that_was_answered() {
    let scratch = Scratch::new();
    for engine in [Kind::Sled, Kind::Redb] {
        let mut expected = 1;
        let mut options = scratch.options(engine);
        options.data_dir.push(engine.name());
        for round in 0..3 {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let node = start(options.clone()).await;
                node.read_index().await.expect("it leads by itself");
                assert_eq!(node.machine().store.revision(), expected, "{engine}");
                for number in 0..40 {
                    let key = format!("{round}/{number}");
                    expected = put_at(&node, &key, "v").await;
                }
                for number in 0..40 * (round + 1) {
                    let key = format!("{}/{}", number / 40, number % 40);
                    assert_eq!(get(&node, &key), "v", "{key} on {engine}");
                }
            });
            // Nothing is shut down: every task dies with its runtime.
        }
    }
}

/// Runs `work` on a runtime that ends with it, as in a crash: nothing is shut down.
fn until_crash<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(work)
}

fn live_keys(node: &Node) -> u64 {
    node.machine().store.live_keys()
}

#[test]
fn a_crash_is_followed_by_a_start_from_the_checkpoint() {
    let scratch = Scratch::new();
    for engine in [Kind::Sled, Kind::Redb] {
        let mut options = scratch.options(engine);
        options.data_dir.push(engine.name());
        options.checkpoint_records = 10;
        let mut revision = 1;
        for round in 0..3 {
            let (environment, reasons) = environment();
            until_crash(async {
                let node = Node::start(options.clone(), environment).await;
                let node = node.expect("a sound member");
                node.read_index().await.expect("it leads by itself");
                let store = |of: fn(&crate::mvcc::Store) -> Option<i64>| of(&node.machine().store);
                let found = store(crate::mvcc::Store::last_checkpoint);
                assert_eq!(found.is_some(), round > 0, "{engine}");
                assert_eq!(node.machine().store.revision(), revision, "{engine}");
                for number in 0..40 {
                    put_at(&node, &format!("{round}/{number}"), "v").await;
                }
                until("a checkpoint", || {
                    store(crate::mvcc::Store::last_checkpoint) > found
                })
                .await;
                revision = put_at(&node, &format!("{round}/tail"), "v").await;
                assert_eq!(live_keys(&node), 41 * (round + 1));
                for number in 0..40 * (round + 1) {
                    let key = format!("{}/{}", number / 40, number % 40);
                    assert_eq!(get(&node, &key), "v", "{key} on {engine}");
                }
            });
            assert!(reasons.lock().is_empty(), "{engine}: {:?}", reasons.lock());
        }
    }
}

/// A member with a checkpoint, shut down.
async fn with_checkpoint(options: &Options) -> Owner {
    let mut options = options.clone();
    options.checkpoint_records = 10;
    let node = start(options).await;
    for number in 0..40 {
        put_at(&node, &number.to_string(), "v").await;
    }
    node.shutdown().await;
    let Identity {
        cluster_id,
        member_id,
    } = node.identity();
    Owner {
        cluster_id,
        member_id,
        engine: node.tables().id(),
    }
}

#[tokio::test]
async fn a_checkpoint_that_cannot_be_used_is_removed_and_not_missed() {
    let scratch = Scratch::new();
    let options = scratch.options(Kind::Redb);
    let snap = scratch.0.join("member/snap");
    let index = snap.join("index");
    let owner = with_checkpoint(&options).await;
    let sound = std::fs::read(&index).expect("written at the end");
    let writer = |owner, applied| {
        let writer = Writer::create(Arc::new(RealDisk), &snap, owner, applied);
        writer.expect("a file").publish().expect("published");
    };
    let spoil: [&dyn Fn(); 4] = [
        &|| {
            let mut wrong = sound.clone();
            wrong[sound.len() / 2] ^= 1;
            std::fs::write(&index, wrong).expect("written");
        },
        &|| std::fs::write(&index, &sound[..sound.len() / 2]).expect("written"),
        &|| writer(Owner { engine: 7, ..owner }, 1),
        &|| writer(owner, 1 << 40),
    ];
    for spoil in spoil {
        spoil();
        let node = start(options.clone()).await;
        assert_eq!(node.machine().store.last_checkpoint(), None);
        assert!(!index.exists());
        assert_eq!(live_keys(&node), 40);
        node.shutdown().await;
    }
    std::fs::write(&index, &sound).expect("written");
    let node = start(options.clone()).await;
    assert!(node.machine().store.last_checkpoint().is_some());
    node.shutdown().await;
    drop(node);

    let mut newer = sound.clone();
    newer[8] += 1;
    let sum = crc32c::crc32c(&newer[..44]);
    newer[44..48].copy_from_slice(&sum.to_le_bytes());
    std::fs::write(&index, &newer).expect("written");
    let refused = Node::start(options, environment().0).await.err();
    let text = refused.expect("refused").to_string();
    assert!(text.contains("index has format 2, newer than 1"), "{text}");
    assert_eq!(std::fs::read(&index).expect("left alone"), newer);
}

#[tokio::test]
async fn a_damaged_record_that_the_start_did_not_read_stops_the_member() {
    for engine in [Kind::Sled, Kind::Redb] {
        let scratch = Scratch::new();
        let options = scratch.options(engine);
        with_checkpoint(&options).await;
        {
            let engine = engine::open(engine, &scratch.0.join("member/snap")).expect("opened");
            let all = engine.scan(Table::Revisions, b"", None, 100);
            let (key, value) = &all.expect("readable")[20];
            let mut wrong = value.to_vec();
            wrong[5] ^= 1;
            let mut batch = Writes::default();
            batch.put(Table::Revisions, key.clone(), wrong);
            engine.commit(&batch).expect("written");
            engine.flush().expect("flushed");
        }
        let (environment, reasons) = environment();
        let node = Node::start(options, environment).await.expect("it starts");
        until("the damage is found", || !reasons.lock().is_empty()).await;
        let reason = reasons.lock()[0].clone();
        assert!(reason.contains("does not match its checksum"), "{reason}");
        node.shutdown().await;
    }
}

#[tokio::test]
async fn a_pair_that_is_missing_is_a_refused_start() {
    for engine in [Kind::Sled, Kind::Redb] {
        let scratch = Scratch::new();
        let options = scratch.options(engine);
        with_checkpoint(&options).await;
        let snap = scratch.0.join("member/snap");
        // Few tables are read whole, and the records only without a checkpoint.
        for (table, reason) in [
            (Table::Members, "pairs found"),
            (Table::Revisions, "records found"),
        ] {
            let (key, value) = {
                let engine = engine::open(engine, &snap).expect("opened");
                let all = engine.scan(table, b"", None, 1).expect("readable");
                let mut batch = Writes::default();
                batch.delete(table, all[0].0.clone());
                engine.commit(&batch).expect("written");
                engine.flush().expect("flushed");
                all[0].clone()
            };
            let refused = Node::start(options.clone(), environment().0).await.err();
            let text = refused.expect("refused").to_string();
            assert!(text.contains(reason), "{engine}: {text}");
            let engine = engine::open(engine, &snap).expect("opened");
            let mut batch = Writes::default();
            batch.put(table, key, value);
            engine.commit(&batch).expect("written");
            engine.flush().expect("flushed");
            std::fs::remove_file(snap.join("index")).ok();
        }
    }
}

#[tokio::test]
async fn the_log_is_purged_behind_snapshots() {
    let scratch = Scratch::new();
    let mut options = scratch.options(Kind::Sled);
    options.snapshot_count = 50;
    options.snapshot_catchup_entries = 20;
    let node = start(options.clone()).await;
    let purged = |node: &Node| {
        let (last, purged) = node.log_bounds();
        (last.unwrap_or(0), purged.unwrap_or(0))
    };
    for number in 0..800 {
        put_at(&node, "k", &number.to_string()).await;
    }
    // Kept below a snapshot, between two snapshots, and what openraft waits for before it purges.
    let bound = 20 + 50 + 256 + 50;
    until("purged", || {
        let (last, purged) = purged(&node);
        last - purged <= bound
    })
    .await;
    let (last, purged_upto) = purged(&node);
    assert!(last >= 800 && purged_upto <= node.tables().flushed());
    node.shutdown().await;
    drop(node);

    let node = start(options).await;
    node.read_index().await.expect("it leads by itself");
    assert_eq!(get(&node, "k"), "799");
    put_at(&node, "k", "more").await;
    node.shutdown().await;
}

#[tokio::test]
async fn many_proposals_travel_in_few_entries_and_each_is_answered() {
    let scratch = Scratch::new();
    let node = start(scratch.options(Kind::Memory)).await;
    let mut cursor = node.history().tip();
    let puts = (0..500).map(|number| {
        let node = node.clone();
        tokio::spawn(async move { put_at(&node, &format!("{number}"), "v").await })
    });
    let mut revisions = Vec::new();
    for put in puts.collect::<Vec<_>>() {
        revisions.push(put.await.expect("an answer"));
    }
    revisions.sort_unstable();
    assert_eq!(revisions, (2..502).collect::<Vec<i64>>());
    let last = node.status().last_index;
    assert!(last < 100, "500 puts in {last} entries");

    let mut seen = Vec::new();
    while seen.len() < 500 {
        node.history().wait(&cursor).await;
        for change in node.history().read(&mut cursor, 64).expect("not behind") {
            assert!(change.revision <= node.machine().store.revision());
            seen.extend(change.events.iter().map(|event| event.kv.mod_revision));
        }
    }
    assert_eq!(seen, (2..502).collect::<Vec<i64>>());
    assert_eq!(node.applied().borrow().revision, 501);
    node.shutdown().await;
}

#[tokio::test]
async fn requests_are_measured_as_etcd_measures_them() {
    let scratch = Scratch::new();
    let mut options = scratch.options(Kind::Memory);
    options.max_request_bytes = 1000;
    let node = start(options).await;
    let large = node.propose(put("k", &"v".repeat(1000)), Caller::default());
    assert!(matches!(
        large.await,
        Err(Error::Api(ApiError::RequestTooLarge))
    ));
    let user = Caller {
        user: "root".into(),
        auth_revision: 3,
        ..Caller::default()
    };
    let fits = node.propose(put("k", &"v".repeat(900)), user).await;
    assert!(fits.is_ok(), "{fits:?}");
    node.shutdown().await;
}

#[tokio::test]
async fn reads_wait_for_a_leader_that_has_applied_its_own_entry() {
    let scratch = Scratch::new();
    let node = start(scratch.options(Kind::Memory)).await;
    let reads: Vec<_> = (0..100)
        .map(|_| {
            let node = node.clone();
            tokio::spawn(async move { node.read_index().await })
        })
        .collect();
    for read in reads {
        read.await.expect("no panic").expect("a lone voter leads");
    }
    assert!(node.is_leader() && node.has_leader());
    assert!(
        node.read_index().now_or_never().is_some(),
        "nothing to wait for"
    );
    node.shutdown().await;
    let read = node.read_index().await;
    assert!(matches!(read, Err(Error::Api(ApiError::Stopped))));
}

#[tokio::test]
async fn an_entry_that_cannot_be_applied_is_fatal() {
    let scratch = Scratch::new();
    let (environment, reasons) = environment();
    let options = scratch.options(Kind::Memory);
    let node = Node::start(options, environment).await.expect("sound");
    put_at(&node, "k", "v").await;
    let (slot, answer) = oneshot::channel();
    let proposal = kvpb::Proposal::default();
    let nothing = Waiting { proposal, slot };
    assert!(node.inject(nothing).await);
    until("fatal", || !reasons.lock().is_empty()).await;
    assert!(reasons.lock()[0].contains("log entry"), "{reasons:?}");
    drop(answer);
}

#[tokio::test]
async fn the_end_of_consensus_is_fatal_unless_it_was_asked_for() {
    let scratch = Scratch::new();
    let (environment, reasons) = environment();
    let options = scratch.options(Kind::Memory);
    let node = Node::start(options.clone(), environment.clone())
        .await
        .expect("sound");
    put_at(&node, "k", "v").await;
    node.shutdown().await;
    assert!(reasons.lock().is_empty(), "{reasons:?}");
    drop(node);

    let node = Node::start(options, environment).await.expect("sound");
    node.raft().shutdown().await.expect("no panic");
    until("fatal", || !reasons.lock().is_empty()).await;
    assert!(
        reasons.lock()[0].contains("consensus stopped"),
        "{reasons:?}"
    );
}

#[tokio::test]
async fn a_member_over_its_quota_raises_the_alarm_before_it_answers() {
    let scratch = Scratch::new();
    let mut options = scratch.options(Kind::Memory);
    options.machine.quota_bytes = 1;
    let node = start(options).await;
    let refused = node.propose(put("k", "v"), Caller::default()).await;
    assert!(
        matches!(refused, Err(Error::Api(ApiError::NoSpace))),
        "{refused:?}"
    );
    assert!(node.machine().cluster.has_alarm(AlarmType::Nospace));
    assert_eq!(
        get(&node, "k"),
        "v",
        "the one who found out still got through"
    );
    let refused = node.propose(put("k", "w"), Caller::default()).await;
    assert!(
        matches!(refused, Err(Error::Api(ApiError::NoSpace))),
        "{refused:?}"
    );
    assert_eq!(get(&node, "k"), "v");
    node.shutdown().await;
}

fn refusal(result: Result<Node, Fault>) -> String {
    match result {
        Ok(_) => panic!("it started"),
        Err(fault) => fault.to_string(),
    }
}

#[tokio::test]
async fn a_directory_in_use_is_refused() {
    let scratch = Scratch::new();
    let node = start(scratch.options(Kind::Memory)).await;
    let second = Node::start(scratch.options(Kind::Memory), environment().0).await;
    let reason = refusal(second);
    assert!(reason.contains("in use by another process"), "{reason}");
    assert!(reason.contains(&*scratch.0.to_string_lossy()), "{reason}");
    put_at(&node, "k", "v").await;
    node.shutdown().await;
    drop(node);
    start(scratch.options(Kind::Memory)).await.shutdown().await;
}

#[tokio::test]
async fn a_directory_of_etcd_is_refused_and_left_as_it_was() {
    let scratch = Scratch::new();
    let snap = scratch.0.join("member/snap");
    std::fs::create_dir_all(&snap).expect("a directory");
    let mut page = vec![0; 64];
    page[16..20].copy_from_slice(&0xED0C_DAED_u32.to_le_bytes());
    std::fs::write(snap.join("db"), &page).expect("a file");
    let reason = refusal(Node::start(scratch.options(Kind::Sled), environment().0).await);
    assert!(reason.contains("member/snap/db"), "{reason}");
    assert_eq!(std::fs::read(snap.join("db")).expect("the file"), page);
    assert!(!scratch.0.join("member/wal").exists());

    std::fs::remove_file(snap.join("db")).expect("ours to remove");
    std::fs::write(snap.join("0000000000000002-0000000000000005.snap"), b"x").expect("a file");
    let reason = refusal(Node::start(scratch.options(Kind::Sled), environment().0).await);
    assert!(reason.contains(".snap was written by etcd"), "{reason}");
}

#[tokio::test]
async fn a_log_of_etcd_is_refused_by_name() {
    let scratch = Scratch::new();
    let wal = scratch.0.join("member/wal");
    std::fs::create_dir_all(&wal).expect("a directory");
    let file = wal.join("0000000000000000-0000000000000000.wal");
    let theirs = [4, 0, 0, 0, 0, 0, 0, 0x84, 8, 4, 16, 0].repeat(100);
    std::fs::write(&file, &theirs).expect("a file");
    let reason = refusal(Node::start(scratch.options(Kind::Memory), environment().0).await);
    assert!(
        reason.contains("0000000000000000-0000000000000000.wal"),
        "{reason}"
    );
    assert_eq!(std::fs::read(&file).expect("the file"), theirs);
}

#[tokio::test]
async fn an_engine_and_a_log_that_have_lost_each_other_are_refused() {
    let scratch = Scratch::new();
    let mut options = scratch.options(Kind::Sled);
    options.snapshot_count = 10;
    options.snapshot_catchup_entries = 10;
    let node = start(options.clone()).await;
    for number in 0..600 {
        put_at(&node, "k", &number.to_string()).await;
    }
    until("purged", || node.log_bounds().1.is_some()).await;
    node.shutdown().await;
    drop(node);

    let (snap, aside) = (scratch.0.join("member/snap"), scratch.0.join("aside"));
    std::fs::rename(&snap, &aside).expect("a directory");
    let reason = refusal(Node::start(options.clone(), environment().0).await);
    assert!(reason.contains("but the engine is empty"), "{reason}");
    std::fs::remove_dir_all(&snap).expect("a directory");
    std::fs::rename(&aside, &snap).expect("a directory");
    start(options.clone()).await.shutdown().await;

    std::fs::remove_dir_all(scratch.0.join("member/wal")).expect("a directory");
    let reason = refusal(Node::start(options, environment().0).await);
    assert!(
        reason.contains("but the log ends at its beginning"),
        "{reason}"
    );
}

#[tokio::test]
async fn directories_are_private() {
    use std::os::unix::fs::PermissionsExt;
    let scratch = Scratch::new();
    let node = start(scratch.options(Kind::Sled)).await;
    for dir in ["", "member", "member/wal", "member/snap"] {
        let mode = std::fs::metadata(scratch.0.join(dir))
            .expect(dir)
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o700, "{dir}");
    }
    node.shutdown().await;
}

/// Members that reach each other by calling each other.
#[derive(Default)]
struct Wire {
    members: Mutex<HashMap<u64, Raft<Types, Adapter>>>,
}

impl Wire {
    fn member(&self, to: u64) -> Result<Raft<Types, Adapter>, Unreached> {
        let reason = "it does not run".into();
        self.members
            .lock()
            .get(&to)
            .cloned()
            .ok_or(Unreached { to, reason })
    }

    fn call<T, E, F>(
        &self,
        to: u64,
        call: impl FnOnce(Raft<Types, Adapter>) -> F + Send + 'static,
    ) -> Answer<T>
    where
        F: Future<Output = Result<T, E>> + Send,
        E: std::fmt::Display,
    {
        let member = self.member(to);
        Box::pin(async move {
            let answer = call(member?).await;
            answer.map_err(|error| Unreached {
                to,
                reason: error.to_string(),
            })
        })
    }
}

impl Connect for Wire {
    fn append(
        &self,
        to: u64,
        request: AppendEntriesRequest<Types>,
        _: Duration,
    ) -> Answer<AppendEntriesResponse<Types>> {
        self.call(to, |raft| async move { raft.append_entries(request).await })
    }

    fn vote(
        &self,
        to: u64,
        pre: bool,
        request: VoteRequest<Types>,
        _: Duration,
    ) -> Answer<VoteResponse<Types>> {
        self.call(to, move |raft| async move {
            match pre {
                true => raft.pre_vote(request).await,
                false => raft.vote(request).await,
            }
        })
    }

    fn transfer_leader(
        &self,
        to: u64,
        request: TransferLeaderRequest<Types>,
        _: Duration,
    ) -> Answer<TransferLeaderResponse<Types>> {
        self.call(to, |raft| async move {
            raft.handle_transfer_leader(request).await
        })
    }

    fn propose(&self, to: u64, batch: Batch, _: Duration) -> Answer<()> {
        self.call(
            to,
            |raft| async move { raft.client_write_ff(batch, None).await },
        )
    }
}

#[tokio::test]
async fn three_members_agree_and_one_may_fail() {
    let scratch = Scratch::new();
    let wire = Arc::new(Wire::default());
    let mut nodes = Vec::new();
    for number in 1..=3 {
        let mut options = scratch.options(Kind::Memory);
        options.data_dir.push(number.to_string());
        options.initial = Initial {
            name: format!("m{number}"),
            cluster: "m1=http://a:1,m2=http://b:1,m3=http://c:1".into(),
            advertise_peer_urls: vec![format!("http://{}:1", ["a", "b", "c"][number - 1])],
            ..Initial::default()
        };
        let (mut environment, _) = environment();
        environment.connect = wire.clone();
        let node = Node::start(options, environment).await.expect("sound");
        let id = node.identity().member_id;
        wire.members.lock().insert(id, node.raft());
        nodes.push(node);
    }
    until("a leader", || nodes.iter().any(Node::is_leader)).await;
    // Whoever is asked: what is proposed elsewhere comes back through the log.
    for (number, node) in nodes.iter().enumerate() {
        put_at(node, &format!("k{number}"), "v").await;
        assert_eq!(get(node, &format!("k{number}")), "v");
    }
    let leader = nodes.iter().position(Node::is_leader).expect("a leader");
    nodes[leader].read_index().await.expect("a majority lives");
    assert_eq!(nodes[leader].machine().cluster.members().len(), 3);

    let failed = nodes.remove(leader);
    wire.members.lock().remove(&failed.identity().member_id);
    failed.shutdown().await;
    until("another leader", || nodes.iter().any(Node::is_leader)).await;
    for node in &nodes {
        put_at(node, "after", "v").await;
    }
    let applied = nodes.iter().map(|node| node.status().applied).max();
    for node in &nodes {
        until("all applied", || Some(node.status().applied) >= applied).await;
        assert_eq!(get(node, "k2"), "v");
    }
    let hashes: Vec<u64> = nodes.iter().map(|it| it.machine().state_hash()).collect();
    assert!(
        hashes.windows(2).all(|pair| pair[0] == pair[1]),
        "{hashes:?}"
    );
    for node in nodes {
        node.shutdown().await;
    }
}
