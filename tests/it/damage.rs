//! Damage is refused, not served: each kind gets one clear line that names the file, a non-zero exit,
//! and leaves the data as it was.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::time::Duration;

use kv::proto::etcdserverpb::PutRequest;
use kv::proto::etcdserverpb::RangeRequest;
use kv::proto::etcdserverpb::kv_client::KvClient;
use tonic::Status;

use crate::support::Server;
use crate::support::TempDir;

const ENGINES: [&str; 2] = ["sled", "redb"];

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(work)
}

/// Puts keys `from..to`, `bytes` each; stops at the first refusal and returns how many were acknowledged.
fn fill(server: &Server, from: usize, to: usize, bytes: usize) -> (usize, Option<Status>) {
    block_on(async {
        let mut kv = KvClient::new(server.channel());
        for n in from..to {
            let key = format!("key-{n:06}").into_bytes();
            let value = vec![b'a' + (n % 26) as u8; bytes];
            if let Err(status) = kv
                .put(PutRequest {
                    key,
                    value,
                    ..Default::default()
                })
                .await
            {
                return (n - from, Some(status));
            }
        }
        (to - from, None)
    })
}

fn count(server: &Server) -> i64 {
    block_on(async {
        let request = RangeRequest {
            key: vec![0],
            range_end: vec![0],
            count_only: true,
            ..Default::default()
        };
        KvClient::new(server.channel())
            .range(request)
            .await
            .expect("a count")
            .into_inner()
            .count
    })
}

pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).expect("a readable directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    files_below(dir)
        .into_iter()
        .filter(|path| path.file_name().is_some_and(|name| name != "LOCK"))
        .map(|path| (path.clone(), fs::read(&path).expect("readable")))
        .collect()
}

/// The files below `dir` but for sled's journal of where its values are: sled folds that when it is opened,
/// which is before the damage to a value shows.
fn values(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = contents(dir);
    files.retain(|path, _| {
        !path
            .parent()
            .is_some_and(|parent| parent.ends_with("db/metadata"))
    });
    files
}

/// Asserts that the files below `dir` are what they were, but for the empty lock files.
fn assert_untouched(dir: &Path, before: &BTreeMap<PathBuf, Vec<u8>>) {
    let after = contents(dir);
    let paths = before.keys().chain(after.keys());
    let changed: BTreeSet<&PathBuf> = paths
        .filter(|path| before.get(*path) != after.get(*path))
        .collect();
    assert!(changed.is_empty(), "a refused start changed {changed:?}");
}

/// Starts the server and expects it to refuse: non-zero exit, and a last word that has every part of `says`.
fn assert_refused(server: &mut Server, says: &[&str]) {
    server.spawn();
    let status = server.wait_exit(Duration::from_secs(20));
    assert!(
        !status.success(),
        "started on damaged data:\n{}",
        server.log()
    );
    let log = server.log();
    let clear = log
        .lines()
        .any(|line| says.iter().all(|part| line.contains(part)));
    assert!(clear, "no line says {says:?}:\n{log}");
    assert!(
        !log.contains("RUST_BACKTRACE"),
        "a panic is not a clear line:\n{log}"
    );
}

fn newest_wal(server: &Server) -> PathBuf {
    let wal = server.data_dir().join("member/wal");
    let mut segments = files_below(&wal);
    segments.retain(|path| path.extension().is_some_and(|extension| extension == "wal"));
    segments.pop().expect("a segment")
}

fn flip_bit(path: &Path, offset: u64) {
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .expect("a file to damage");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("a byte there");
    file.write_all_at(&[byte[0] ^ 0x10], offset)
        .expect("a writable file");
}

#[test]
fn flipped_bit_inside_the_log_is_refused_by_file_and_offset() {
    for engine in ENGINES {
        let dir = TempDir::new("wal-flip");
        let mut server = Server::start(dir.path(), &[&format!("--storage-engine={engine}")]);
        assert_eq!(fill(&server, 0, 300, 100).0, 300);
        server.kill();
        let segment = newest_wal(&server);
        // Three hundred entries of more than a hundred bytes each lie behind this offset.
        flip_bit(&segment, 12_345);
        let before = contents(&server.data_dir());
        let name = segment
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        assert_refused(&mut server, &[&name, "damaged"]);
        assert_untouched(&server.data_dir(), &before);
        flip_bit(&segment, 12_345);
        server.restart();
        assert_eq!(count(&server), 300);
    }
}

#[test]
fn truncated_engine_file_is_refused() {
    for engine in ENGINES {
        let dir = TempDir::new("engine-cut");
        let mut server = Server::start(dir.path(), &[&format!("--storage-engine={engine}")]);
        assert_eq!(fill(&server, 0, 500, 1000).0, 500);
        server.stop();
        let largest = files_below(&server.data_dir().join("member/snap"))
            .into_iter()
            .max_by_key(|path| fs::metadata(path).expect("a file").len())
            .expect("an engine file");
        let len = fs::metadata(&largest).expect("a file").len();
        let file = fs::File::options()
            .write(true)
            .open(&largest)
            .expect("a file to cut");
        file.set_len(len / 2).expect("a shorter file");
        let before = values(&server.data_dir());
        assert_refused(&mut server, &["member/snap/db"]);
        assert!(
            before == values(&server.data_dir()),
            "{engine}: a refused start changed values"
        );
    }
}

#[test]
fn data_of_another_program_is_refused_and_left_alone() {
    let cases: [(&str, &[u8]); 2] = [
        (
            "member/wal/0000000000000000-0000000000000000.wal",
            &[4, 0, 0, 0, 0, 0, 0, 132],
        ),
        (
            "member/snap/db",
            &[
                0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0xed, 0xda, 0x0c, 0xed,
            ],
        ),
    ];
    for (file, bytes) in cases {
        let dir = TempDir::new("foreign");
        let mut server = Server::prepare(dir.path(), &[]);
        let path = server.data_dir().join(file);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(&path, [bytes, &[0; 4096][..]].concat()).expect("a foreign file");
        let before = contents(&server.data_dir());
        assert_refused(&mut server, &[file]);
        assert_untouched(&server.data_dir(), &before);
    }
}

#[test]
fn engine_is_not_opened_by_another_engine() {
    for (first, second) in [("sled", "redb"), ("redb", "sled")] {
        let dir = TempDir::new("other-engine");
        let mut server = Server::start(dir.path(), &[&format!("--storage-engine={first}")]);
        assert_eq!(fill(&server, 0, 10, 10).0, 10);
        server.stop();
        let mut other = Server::prepare(dir.path(), &[&format!("--storage-engine={second}")]);
        assert_refused(&mut other, &["member/snap/db", first]);
        server.restart();
        assert_eq!(count(&server), 10);
    }
}

#[test]
fn second_server_on_one_data_dir_is_refused() {
    let dir = TempDir::new("two");
    let first = Server::start(dir.path(), &[]);
    let elsewhere = TempDir::new("two-log");
    let data = format!("--data-dir={}", first.data_dir().display());
    let mut second = Server::prepare(elsewhere.path(), &[&data]);
    assert_refused(&mut second, &[&first.data_dir().display().to_string()]);
    assert_eq!(fill(&first, 0, 1, 10).0, 1, "the first server suffered");
}

/// A mount namespace of its own with an empty file system of limited size on `dir`.
struct SmallDisk {
    holder: Child,
}

impl SmallDisk {
    fn new(dir: &Path, mebibytes: u32) -> SmallDisk {
        let script = format!(
            "mount -t tmpfs -o size={mebibytes}m none '{0}' && touch '{0}/mounted' && exec sleep 120 </dev/null >/dev/null 2>&1",
            dir.display()
        );
        let holder = Command::new("unshare")
            .args(["-rm", "sh", "-c", &script])
            .spawn()
            .expect("unshare");
        let disk = SmallDisk { holder };
        while !disk.see(dir).join("mounted").exists() {
            std::thread::sleep(Duration::from_millis(5));
        }
        disk
    }

    /// Where the outside finds `path` of the namespace.
    fn see(&self, path: &Path) -> PathBuf {
        let inside = path.strip_prefix("/").expect("an absolute path");
        PathBuf::from(format!("/proc/{}/root", self.holder.id())).join(inside)
    }

    fn enter(&self) -> Vec<String> {
        let pid = self.holder.id().to_string();
        ["nsenter", "-t", &pid, "-U", "-m", "--preserve-credentials"]
            .map(String::from)
            .to_vec()
    }

    /// Runs a command inside and returns what it printed.
    fn run(&self, words: &[&str]) -> String {
        let enter = self.enter();
        let mut inside = Command::new(&enter[0]);
        let output = inside.args(&enter[1..]).args(words).output();
        let output = output.expect("nsenter");
        assert!(output.status.success(), "{words:?} failed");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Fills the disk under a server until it stops, then makes room and expects every acknowledged key.
fn full_disk(engine: &str, filler_mib: usize) {
    let dir = TempDir::new("full");
    let small = dir.path().join("small");
    fs::create_dir(&small).expect("a mount point");
    let disk = SmallDisk::new(&small, 320);
    let data = format!("--data-dir={}", small.join("data").display());
    let flags = [data.as_str(), &format!("--storage-engine={engine}")];
    let mut server = Server::prepare(dir.path(), &flags).behind(disk.enter());
    server.restart();
    assert_eq!(fill(&server, 0, 100, 1000).0, 100);
    let filler = disk.see(&small).join("filler");
    let room = disk.run(&["df", "--output=avail", "-m", &small.display().to_string()]);
    let room: usize = (room.lines().nth(1))
        .and_then(|line| line.trim().parse().ok())
        .expect("free space");
    fs::write(&filler, vec![0; (room - filler_mib) << 20]).expect("a filler");
    let (more, refusal) = fill(&server, 100, 20_000, 100_000);
    assert!(refusal.is_some(), "{engine}: the disk never filled");
    let status = server.wait_exit(Duration::from_secs(20));
    assert!(!status.success());
    let log = server.log();
    let clear = log
        .lines()
        .any(|line| line.contains("small/data/member") && line.contains("no space left"));
    assert!(clear, "{engine}: no clear line:\n{log}");
    fs::remove_file(&filler).expect("room again");
    server.restart();
    let there = count(&server) as usize;
    assert!(
        there >= 100 + more,
        "{engine}: {} acknowledged, {there} there",
        100 + more
    );
}

#[test]
fn full_disk_stops_the_member_and_loses_nothing() {
    for engine in ENGINES {
        full_disk(engine, 8);
    }
}

#[test]
fn read_only_directory_is_named() {
    let dir = TempDir::new("read-only");
    let small = dir.path().join("small");
    fs::create_dir(&small).expect("a mount point");
    let disk = SmallDisk::new(&small, 8);
    disk.run(&["mount", "-o", "remount,ro", &small.display().to_string()]);
    let data = format!("--data-dir={}", small.join("data").display());
    let mut server = Server::prepare(dir.path(), &[&data]).behind(disk.enter());
    assert_refused(&mut server, &["small/data", "read-only file system"]);
}
