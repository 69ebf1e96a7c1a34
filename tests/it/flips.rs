//! One bit flips at rest, in any file of a member: what is served afterwards is right, or nothing is.
//!
//! A loaded member is stopped or killed; each flip is made on a copy of its data. The member may refuse to
//! start, fail the reads that meet the damage, or never notice, if nothing depended on the bit. It must not
//! answer with anything else than what was there.
//!
//! `KV_FLIPS` and `KV_FLIPS_SEED` choose the number for each engine and repeat a run. With `KV_FLIPS_REPORT`
//! wrong answers are counted instead of refused, so that another program can be put to the same test.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use kv::proto::etcdserverpb::CompactionRequest;
use kv::proto::etcdserverpb::DeleteRangeRequest;
use kv::proto::etcdserverpb::LeaseGrantRequest;
use kv::proto::etcdserverpb::PutRequest;
use kv::proto::etcdserverpb::RangeRequest;
use kv::proto::etcdserverpb::kv_client::KvClient;
use kv::proto::etcdserverpb::lease_client::LeaseClient;
use kv::proto::mvccpb::KeyValue;
use tonic::Status;
use tonic::transport::Channel;

use crate::damage::files_below;
use crate::support::Server;
use crate::support::TempDir;

const KEYS: usize = 150;
const WRITES: usize = 1500;

/// What a flip came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    Harmless,
    Refused,
    ReadFailed,
    Silent,
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(work)
}

/// Values of all sizes, deletions, leases, and a compaction below part of the history.
async fn load(channel: Channel) {
    let mut kv = KvClient::new(channel.clone());
    let mut leases = LeaseClient::new(channel);
    let lease = leases
        .lease_grant(LeaseGrantRequest { ttl: 36_000, id: 7 })
        .await
        .expect("a lease")
        .into_inner()
        .id;
    for write in 0..WRITES {
        let key = format!("key/{:04}", fastrand::usize(..KEYS)).into_bytes();
        if write % 20 == 19 {
            let request = DeleteRangeRequest {
                key,
                ..Default::default()
            };
            kv.delete_range(request).await.expect("a deletion");
            continue;
        }
        let size = [10, 100, 1000, 6000][fastrand::usize(..4)];
        let letters = std::iter::repeat_with(|| fastrand::alphanumeric() as u8);
        let request = PutRequest {
            key,
            value: letters.take(size).collect(),
            lease: if write % 7 == 0 { lease } else { 0 },
            ..Default::default()
        };
        kv.put(request).await.expect("a put");
        if write == WRITES / 2 {
            let request = CompactionRequest {
                revision: write as i64 / 2,
                physical: true,
            };
            kv.compact(request).await.expect("a compaction");
        }
    }
}

/// All keys now and at an older revision.
async fn everything(channel: Channel) -> Result<Vec<Vec<KeyValue>>, Status> {
    let mut kv = KvClient::new(channel);
    let mut found = Vec::new();
    for revision in [0, WRITES as i64 / 2] {
        let request = RangeRequest {
            key: b"k".into(),
            range_end: b"l".into(),
            revision,
            ..Default::default()
        };
        let call = tokio::time::timeout(Duration::from_secs(20), kv.range(request));
        let answer = call
            .await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer")));
        found.push(answer?.into_inner().kvs);
    }
    Ok(found)
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    let copied = Command::new("cp")
        .args(["-a", "--sparse=always"])
        .args([from, to])
        .status();
    assert!(copied.expect("cp runs").success());
}

/// The files of a member by what they are: segments of the log apart from the engine's files of each kind.
fn kinds(dir: &Path) -> BTreeMap<PathBuf, Vec<PathBuf>> {
    let mut kinds: BTreeMap<PathBuf, Vec<PathBuf>> = BTreeMap::new();
    for path in files_below(dir) {
        if fs::metadata(&path).is_ok_and(|metadata| metadata.len() > 0) {
            let parent = path.parent().unwrap_or(dir).to_path_buf();
            let alone = parent.ends_with("snap") || parent.ends_with("db");
            let kind = if alone { path.clone() } else { parent };
            kinds.entry(kind).or_default().push(path);
        }
    }
    kinds
}

/// Flips a bit of a random file of a random kind, where something is written. Returns what it was.
fn flip(dir: &Path) -> String {
    let kinds = kinds(dir);
    let kind = fastrand::usize(..kinds.len());
    let files = kinds.values().nth(kind).expect("a kind of file");
    let path = &files[fastrand::usize(..files.len())];
    let bytes = fs::read(path).expect("a readable file");
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0) + 1;
    let (offset, bit) = (fastrand::usize(..end), fastrand::u8(..8));
    let file = fs::File::options().write(true).open(path);
    let file = file.expect("a file to damage");
    file.write_all_at(&[bytes[offset] ^ 1 << bit], offset as u64)
        .expect("a writable file");
    let name = path.strip_prefix(dir).unwrap_or(path);
    format!("bit {bit} at {offset} of {}", name.display())
}

fn try_flip(
    engine: &str,
    saved: &Path,
    dir: &Path,
    expected: &[Vec<KeyValue>],
) -> (Outcome, String) {
    let mut server = Server::prepare(dir, &[&format!("--storage-engine={engine}")]);
    copy(saved, &server.data_dir());
    let what = flip(&server.data_dir());
    server.spawn();
    if let Err(status) = server.wait_ready_or_end() {
        assert!(!status.success(), "{what}: ended as if all were well");
        return (Outcome::Refused, what);
    }
    let found = block_on(async { everything(server.channel()).await });
    let outcome = match found {
        Err(_) => Outcome::ReadFailed,
        Ok(found) if found == expected => Outcome::Harmless,
        Ok(_) => Outcome::Silent,
    };
    (outcome, what)
}

fn campaign(engine: &str) {
    let number = |name: &str| {
        let text = std::env::var(name).ok()?;
        Some(text.parse::<u64>().expect("a number"))
    };
    let flips = number("KV_FLIPS").unwrap_or(16);
    let seed = number("KV_FLIPS_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("engine {engine}, seed {seed}, {flips} flips");
    fastrand::seed(seed);
    let dir = TempDir::new("flips");
    for part in ["whole", "flipped"] {
        fs::create_dir_all(dir.path().join(part)).expect("a directory");
    }
    let mut server = Server::start(
        &dir.path().join("whole"),
        &[
            &format!("--storage-engine={engine}"),
            "--snapshot-count=200",
            "--index-checkpoint-records=100",
        ],
    );
    block_on(async { load(server.channel()).await });
    let expected = block_on(async { everything(server.channel()).await }).expect("an answer");
    let (killed, stopped) = (dir.path().join("killed"), dir.path().join("stopped"));
    server.kill();
    copy(&server.data_dir(), &killed);
    server.restart();
    server.stop();
    copy(&server.data_dir(), &stopped);
    let mut outcomes: BTreeMap<Outcome, usize> = BTreeMap::new();
    for round in 0..flips {
        let saved = if round % 2 == 0 { &killed } else { &stopped };
        let (outcome, what) = try_flip(engine, saved, &dir.path().join("flipped"), &expected);
        if std::env::var_os("KV_FLIPS_REPORT").is_some() {
            println!("{outcome:?}: {what}");
        } else {
            assert_ne!(outcome, Outcome::Silent, "wrong data was served: {what}");
        }
        *outcomes.entry(outcome).or_default() += 1;
    }
    println!("{flips} flips: {outcomes:?}");
}

#[test]
fn flipped_bits_are_never_served_on_sled() {
    campaign("sled");
}

#[test]
fn flipped_bits_are_never_served_on_redb() {
    campaign("redb");
}
