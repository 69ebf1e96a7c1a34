//! SIGKILL and power cuts at random moments under load: nothing acknowledged is lost, nothing seen twice.
//!
//! Writers put, delete, commit transactions, grant leases and compact; one watcher follows the whole
//! key space and resumes after each kill where it stopped. What it saw, taken together, must be one
//! gapless history: it holds every acknowledged change at the revision it was acknowledged with, and
//! played from the start it gives exactly the store that the restarted server serves.
//!
//! `KV_CRASH_CYCLES` and `KV_CRASH_SEED` choose the length and repeat a run.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;
use std::time::Instant;

use kv::proto::etcdserverpb::CompactionRequest;
use kv::proto::etcdserverpb::DeleteRangeRequest;
use kv::proto::etcdserverpb::HashKvRequest;
use kv::proto::etcdserverpb::LeaseGrantRequest;
use kv::proto::etcdserverpb::LeaseTimeToLiveRequest;
use kv::proto::etcdserverpb::PutRequest;
use kv::proto::etcdserverpb::RangeRequest;
use kv::proto::etcdserverpb::RequestOp;
use kv::proto::etcdserverpb::TxnRequest;
use kv::proto::etcdserverpb::WatchCreateRequest;
use kv::proto::etcdserverpb::WatchRequest;
use kv::proto::etcdserverpb::kv_client::KvClient;
use kv::proto::etcdserverpb::lease_client::LeaseClient;
use kv::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use kv::proto::etcdserverpb::request_op::Request;
use kv::proto::etcdserverpb::watch_client::WatchClient;
use kv::proto::etcdserverpb::watch_request::RequestUnion;
use kv::proto::mvccpb::KeyValue;
use kv::proto::mvccpb::event::EventType;
use tokio::task::LocalSet;
use tonic::Status;
use tonic::transport::Channel;

use crate::lossy::LossyDisk;
use crate::support::Server;
use crate::support::TempDir;

const WRITERS: usize = 8;
const KEYS_PER_WRITER: usize = 24;
const LONG_TTL: i64 = 3600;

/// One change as a client or the watcher knows it: a key, and its value or its deletion.
type Change = (Vec<u8>, Option<Vec<u8>>);

/// All that was acknowledged and all that was seen, over every life of the server.
#[derive(Default)]
struct Record {
    acknowledged: Vec<(i64, Vec<Change>)>,
    long_leases: Vec<i64>,
    seen: BTreeMap<i64, Vec<(Change, KeyValue)>>,
    next_value: u64,
}

impl Record {
    fn last_seen(&self) -> i64 {
        self.seen
            .last_key_value()
            .map_or(1, |(revision, _)| *revision)
    }

    fn fresh_value(&mut self) -> Vec<u8> {
        self.next_value += 1;
        format!("value-{}", self.next_value).into_bytes()
    }
}

type Shared = Rc<RefCell<Record>>;

fn put(key: Vec<u8>, value: Vec<u8>, lease: i64) -> PutRequest {
    PutRequest {
        key,
        value,
        lease,
        ..Default::default()
    }
}

/// One write of writer `id`; a refused or broken call is no acknowledgement and proves nothing.
async fn write_once(channel: Channel, id: usize, record: &Shared) -> Result<(), Status> {
    let mut kv = KvClient::new(channel.clone());
    let key = |n: usize| format!("w{id}/{n:03}").into_bytes();
    let chosen = fastrand::usize(..KEYS_PER_WRITER);
    let (revision, changes) = match fastrand::u32(..100) {
        0..60 => {
            let value = record.borrow_mut().fresh_value();
            let reply = kv
                .put(put(key(chosen), value.clone(), 0))
                .await?
                .into_inner();
            (
                reply.header.expect("a header").revision,
                vec![(key(chosen), Some(value))],
            )
        }
        60..75 => {
            let request = DeleteRangeRequest {
                key: key(chosen),
                ..Default::default()
            };
            let reply = kv.delete_range(request).await?.into_inner();
            let deleted = (reply.deleted > 0).then(|| (key(chosen), None));
            (
                reply.header.expect("a header").revision,
                deleted.into_iter().collect(),
            )
        }
        75..92 => {
            let other = (chosen + 1) % KEYS_PER_WRITER;
            let changes: Vec<Change> = [chosen, other]
                .map(|n| (key(n), Some(record.borrow_mut().fresh_value())))
                .into();
            let puts = changes.iter().map(|(key, value)| {
                let value = value.clone().expect("a put");
                RequestOp {
                    request: Some(Request::RequestPut(put(key.clone(), value, 0))),
                }
            });
            let request = TxnRequest {
                success: puts.collect(),
                ..Default::default()
            };
            let reply = kv.txn(request).await?.into_inner();
            (reply.header.expect("a header").revision, changes)
        }
        _ => {
            let long = fastrand::bool();
            let ttl = if long { LONG_TTL } else { 2 };
            let mut lease = LeaseClient::new(channel);
            let granted = lease
                .lease_grant(LeaseGrantRequest { ttl, id: 0 })
                .await?
                .into_inner();
            if long {
                record.borrow_mut().long_leases.push(granted.id);
            }
            let value = record.borrow_mut().fresh_value();
            let reply = kv
                .put(put(key(chosen), value.clone(), granted.id))
                .await?
                .into_inner();
            (
                reply.header.expect("a header").revision,
                vec![(key(chosen), Some(value))],
            )
        }
    };
    if !changes.is_empty() {
        record.borrow_mut().acknowledged.push((revision, changes));
    }
    Ok(())
}

/// Compacts well below what the watcher has seen, so that it never loses its place.
async fn compact_now_and_then(channel: Channel, record: Shared) {
    let mut kv = KvClient::new(channel);
    loop {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(5..60))).await;
        let revision = record.borrow().last_seen() - 100;
        let physical = fastrand::bool();
        let _ = kv.compact(CompactionRequest { revision, physical }).await;
    }
}

/// Follows every key from the first revision not seen yet; ends when the server does.
async fn follow(channel: Channel, record: Shared) -> Result<(), Status> {
    let create = WatchCreateRequest {
        key: vec![0],
        range_end: vec![0],
        start_revision: record.borrow().last_seen() + 1,
        ..Default::default()
    };
    let request = WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(create)),
    };
    let requests =
        tokio_stream::StreamExt::chain(tokio_stream::once(request), tokio_stream::pending());
    let mut stream = WatchClient::new(channel)
        .watch(requests)
        .await?
        .into_inner();
    while let Some(response) = stream.message().await? {
        assert!(!response.canceled, "the watch was cancelled: {response:?}");
        let mut record = record.borrow_mut();
        let before = record.last_seen();
        for event in response.events {
            let deleted = event.r#type() == EventType::Delete;
            let kv = event.kv.expect("an event has a key");
            assert!(
                kv.mod_revision > before,
                "revision {} came twice",
                kv.mod_revision
            );
            let change = (kv.key.to_vec(), (!deleted).then(|| kv.value.to_vec()));
            record
                .seen
                .entry(kv.mod_revision)
                .or_default()
                .push((change, kv));
        }
    }
    Ok(())
}

/// Loads the server until the kill, and takes a hash that the next life must repeat.
async fn live_and_die(server: &mut Server, record: &Shared) -> Option<(i64, i64, u32)> {
    let mut tasks = Vec::new();
    for id in 0..WRITERS {
        let (channel, record) = (server.channel(), record.clone());
        tasks.push(tokio::task::spawn_local(async move {
            while write_once(channel.clone(), id, &record).await.is_ok() {}
        }));
    }
    tasks.push(tokio::task::spawn_local(compact_now_and_then(
        server.channel(),
        record.clone(),
    )));
    let watch = tokio::task::spawn_local(follow(server.channel(), record.clone()));
    tokio::time::sleep(Duration::from_millis(fastrand::u64(30..400))).await;

    let revision = record.borrow().last_seen();
    let hash = hash_at(server.channel(), revision).await;
    if fastrand::bool() {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(..150))).await;
    }
    server.kill();
    for task in tasks {
        task.abort();
        if let Err(error) = task.await {
            assert!(error.is_cancelled(), "a writer failed: {error}");
        }
    }
    assert!(
        watch.await.expect("the watcher saw no fault").is_err(),
        "the watch outlived the server"
    );
    hash
}

async fn hash_at(channel: Channel, revision: i64) -> Option<(i64, i64, u32)> {
    let request = HashKvRequest { revision };
    let reply = MaintenanceClient::new(channel)
        .hash_kv(request)
        .await
        .ok()?
        .into_inner();
    Some((revision, reply.compact_revision, reply.hash))
}

/// Reads every key of the restarted server.
async fn whole_store(channel: Channel) -> (i64, Vec<KeyValue>) {
    let request = RangeRequest {
        key: vec![0],
        range_end: vec![0],
        ..Default::default()
    };
    let reply = KvClient::new(channel)
        .range(request)
        .await
        .expect("a range")
        .into_inner();
    (reply.header.expect("a header").revision, reply.kvs)
}

/// Waits until the watcher has seen everything up to `revision`.
async fn caught_up(
    record: &Shared,
    revision: i64,
    watch: &tokio::task::JoinHandle<Result<(), Status>>,
) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while record.borrow().last_seen() < revision {
        assert!(
            !watch.is_finished(),
            "the watch ended before revision {revision}"
        );
        let last = record.borrow().last_seen();
        assert!(
            Instant::now() < deadline,
            "the watch stands at {last}, the store at {revision}"
        );
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Holds the restarted server against everything acknowledged and seen so far.
async fn verify(server: &Server, record: &Shared, hash: Option<(i64, i64, u32)>) {
    let watch = tokio::task::spawn_local(follow(server.channel(), record.clone()));
    // Short leases may expire while we look: read until two reads agree with what was seen.
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let (revision, kvs) = whole_store(server.channel()).await;
        caught_up(record, revision, &watch).await;
        if record.borrow().last_seen() == revision {
            check_history(&record.borrow(), revision);
            check_store(&record.borrow(), &kvs);
            break;
        }
        assert!(Instant::now() < deadline, "the store does not come to rest");
    }
    watch.abort();
    if let Some((revision, compacted, before)) = hash
        && let Some((_, still_compacted, after)) = hash_at(server.channel(), revision).await
    {
        assert!(
            compacted != still_compacted || before == after,
            "hash at {revision} (compacted {compacted}) was {before}, is {after}"
        );
    }
    let mut lease = LeaseClient::new(server.channel());
    let granted = record.borrow().long_leases.clone();
    for id in granted.into_iter().rev().take(20) {
        let request = LeaseTimeToLiveRequest { id, keys: false };
        let reply = lease
            .lease_time_to_live(request)
            .await
            .expect("a lease")
            .into_inner();
        assert!(reply.ttl > 0, "lease {id} was granted and is gone");
    }
}

fn check_history(record: &Record, revision: i64) {
    for (expected, seen) in (2..=revision).zip(record.seen.keys()) {
        assert_eq!(expected, *seen, "a gap in the revisions");
    }
    for (revision, changes) in &record.acknowledged {
        let seen = record
            .seen
            .get(revision)
            .unwrap_or_else(|| panic!("revision {revision} is lost"));
        for change in changes {
            let found = seen.iter().any(|(other, _)| other == change);
            assert!(
                found,
                "acknowledged at {revision} and not there: {change:?}, but {seen:?}"
            );
        }
    }
}

fn check_store(record: &Record, kvs: &[KeyValue]) {
    let mut played: BTreeMap<&[u8], &KeyValue> = BTreeMap::new();
    for ((key, value), kv) in record.seen.values().flatten() {
        match value {
            Some(_) => played.insert(key, kv),
            None => played.remove(&key[..]),
        };
    }
    let expected: Vec<&KeyValue> = played.into_values().collect();
    assert_eq!(
        expected,
        kvs.iter().collect::<Vec<_>>(),
        "the store is not what its events add up to"
    );
}

/// Kills a loaded server over and over; `after_kill` is what else happens to its disk, and returns the bytes
/// that it lost.
fn campaign(engine: &str, dir: &Path, default_cycles: u32, after_kill: impl Fn() -> usize) {
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse().expect("a number"))
    };
    let cycles = number("KV_CRASH_CYCLES").unwrap_or(u64::from(default_cycles));
    let seed = number("KV_CRASH_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("engine {engine}, seed {seed}, {cycles} cycles");
    fastrand::seed(seed);
    // A short interval between snapshots makes the log purge itself under the kills, and every start finds
    // a checkpoint of the index and writes another.
    let engine_flag = format!("--storage-engine={engine}");
    let flags = [
        &engine_flag,
        "--snapshot-count=500",
        "--snapshot-catchup-entries=100",
        "--index-checkpoint-records=100",
    ];
    let mut server = Server::start(dir, &flags);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let record = Shared::default();
    let mut restarts = Vec::new();
    let mut lost_bytes = 0;
    LocalSet::new().block_on(&runtime, async {
        for _ in 0..cycles {
            let hash = live_and_die(&mut server, &record).await;
            lost_bytes += after_kill();
            let start = Instant::now();
            server.restart();
            restarts.push(start.elapsed());
            verify(&server, &record, hash).await;
        }
    });
    restarts.sort();
    let record = record.borrow();
    println!(
        "{cycles} kills, {} acknowledged writes, {} revisions, 0 lost, {lost_bytes} unsynced bytes dropped, \
         restart p50 {:?} max {:?}",
        record.acknowledged.len(),
        record.last_seen(),
        restarts[restarts.len() / 2],
        restarts[restarts.len() - 1],
    );
}

fn kills(engine: &str) {
    let dir = TempDir::new("crash");
    campaign(engine, dir.path(), 20, || 0);
}

fn power_cuts(engine: &str) {
    let dir = TempDir::new("power");
    let Some(disk) = LossyDisk::mount(&dir.path().join("disk")) else {
        return println!("left out: no FUSE here");
    };
    campaign(engine, disk.path(), 10, || disk.cut());
}

#[test]
fn killed_server_keeps_what_it_acknowledged_on_sled() {
    kills("sled");
}

#[test]
fn killed_server_keeps_what_it_acknowledged_on_redb() {
    kills("redb");
}

#[test]
fn power_cut_costs_nothing_acknowledged_on_sled() {
    power_cuts("sled");
}

#[test]
fn power_cut_costs_nothing_acknowledged_on_redb() {
    power_cuts("redb");
}
