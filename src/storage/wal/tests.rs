//! The log on a real directory, through its public face.

use std::fs;
use std::path::PathBuf;
use std::sync::mpsc;

use super::*;
use crate::storage::disk::RealDisk;
use crate::storage::disk::sim::Failure;
use crate::storage::disk::sim::SimDisk;

/// A directory that goes away with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let dir = std::env::temp_dir().join(format!("kv-wal-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        Scratch(dir)
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(&self.0)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn open_with(dir: &Scratch, options: Options) -> Result<(Wal, Recovered)> {
    let fatal = Box::new(|fault: &Fault| panic!("{fault}"));
    Wal::open(Arc::new(RealDisk), &dir.0.join("wal"), options, fatal)
}

fn open(dir: &Scratch) -> (Wal, Recovered) {
    let options = Options {
        segment_bytes: 64 << 10,
        cluster_id: 0xc1,
        member_id: 0xa1,
        ..Options::default()
    };
    open_with(dir, options).unwrap()
}

fn entry(index: u64, term: u64, len: usize) -> Entry {
    let data = Bytes::from(vec![(index ^ term) as u8; len]);
    Entry { index, term, data }
}

/// A callback, and the place where its result arrives.
fn done() -> (Done, mpsc::Receiver<std::result::Result<(), Arc<Fault>>>) {
    let (sender, receiver) = mpsc::channel();
    (Box::new(move |result| drop(sender.send(result))), receiver)
}

fn append(wal: &Wal, entries: Vec<Entry>, lone: bool) {
    let (done, told) = done();
    wal.append(entries, lone, done);
    told.recv().unwrap().unwrap();
}

#[test]
fn everything_is_there_after_reopening() {
    let dir = Scratch::new("reopen");
    let (wal, found) = open(&dir);
    assert_eq!((found.last, found.repaired), (None, false));
    append(&wal, (1..=10).map(|i| entry(i, 1, 100)).collect(), false);
    let (told, vote) = done();
    wal.save_vote(Bytes::from_static(b"vote"), told);
    vote.recv().unwrap().unwrap();
    wal.truncate_after(Some(Position { term: 1, index: 8 }));
    assert_eq!(wal.durable(), 8);
    append(&wal, vec![entry(9, 2, 5000)], true);
    wal.purge(Position { term: 1, index: 3 });
    wal.save_committed(Bytes::from_static(b"committed"));
    wal.close().unwrap();
    drop(wal);

    let (wal, found) = open(&dir);
    assert_eq!((found.cluster_id, found.member_id), (0xc1, 0xa1));
    assert_eq!(found.vote.as_deref(), Some(&b"vote"[..]));
    assert_eq!(found.committed.as_deref(), Some(&b"committed"[..]));
    assert_eq!(found.purged, Some(Position { term: 1, index: 3 }));
    assert_eq!(found.last, Some(Position { term: 2, index: 9 }));
    assert!(!found.repaired);
    assert_eq!(wal.durable(), 9);
    let mut expected: Vec<_> = (4..=8).map(|i| entry(i, 1, 100)).collect();
    expected.push(entry(9, 2, 5000));
    assert_eq!(wal.read(4..10, usize::MAX).unwrap(), expected);
    assert_eq!(wal.read(4..100, 250).unwrap(), expected[..2]);
    assert_eq!(wal.read(9..10, 0).unwrap(), expected[5..]);
    assert!(wal.read(3..10, usize::MAX).unwrap().is_empty());
    assert!(wal.read(10..11, usize::MAX).unwrap().is_empty());
}

#[test]
fn purged_segments_come_back_as_new_ones() {
    let dir = Scratch::new("recycle");
    let (wal, _) = open(&dir);
    for index in 1..=600 {
        append(&wal, vec![entry(index, 1, 1000)], index % 2 == 0);
        if index % 50 == 0 {
            wal.purge(Position {
                term: 1,
                index: index - 20,
            });
        }
    }
    let counters = wal.counters();
    assert!(counters.segments >= 9, "{counters:?}");
    assert!(counters.writes >= 600, "{counters:?}");
    let segments = || {
        let names = Scratch(dir.0.join("wal"));
        let found = names.names();
        std::mem::forget(names);
        found
    };
    assert!(segments().len() < 7, "{:?}", segments());
    wal.close().unwrap();
    assert!(segments().iter().all(|name| !name.ends_with(".tmp")));
    let (wal, found) = open(&dir);
    assert_eq!(
        found.last,
        Some(Position {
            term: 1,
            index: 600
        })
    );
    let entries = wal.read(581..601, usize::MAX).unwrap();
    assert_eq!(
        entries,
        (581..601).map(|i| entry(i, 1, 1000)).collect::<Vec<_>>()
    );
}

#[test]
fn second_server_is_refused() {
    let dir = Scratch::new("twice");
    let (wal, _) = open(&dir);
    let refused = open_with(&dir, Options::default()).err().unwrap();
    assert_eq!(Scratch::names(&dir), ["wal"]);
    let wal_dir = dir.0.join("wal");
    let text = format!(
        "directory {} is in use by another process",
        wal_dir.display()
    );
    assert_eq!(refused.to_string(), text);
    wal.close().unwrap();
    open(&dir);
}

/// A disk whose syncs wait while the gate is shut.
struct Gated {
    disk: SimDisk,
    gate: Arc<Gate>,
}

#[derive(Default)]
struct Gate {
    shut: Mutex<bool>,
    opened: Condvar,
    /// Told when a sync arrives.
    arrivals: Mutex<Option<mpsc::Sender<()>>>,
}

impl Gate {
    fn pass(&self) {
        if let Some(arrivals) = &*self.arrivals.lock() {
            arrivals.send(()).unwrap();
        }
        let mut shut = self.shut.lock();
        while *shut {
            self.opened.wait(&mut shut);
        }
    }

    fn open(&self) {
        *self.shut.lock() = false;
        self.opened.notify_all();
    }
}

struct GatedFile {
    file: Arc<dyn File>,
    gate: Arc<Gate>,
}

impl Disk for Gated {
    fn create_dir(&self, path: &Path) -> Result<()> {
        self.disk.create_dir(path)
    }

    fn list(&self, dir: &Path) -> Result<Vec<PathBuf>> {
        self.disk.list(dir)
    }

    fn open(&self, path: &Path, create: bool) -> Result<Arc<dyn File>> {
        let file = self.disk.open(path, create)?;
        let gate = self.gate.clone();
        Ok(Arc::new(GatedFile { file, gate }))
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.disk.remove(path)
    }

    fn sync_dir(&self, dir: &Path) -> Result<()> {
        self.disk.sync_dir(dir)
    }

    fn lock(&self, dir: &Path) -> Result<DirLock> {
        self.disk.lock(dir)
    }
}

impl File for GatedFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> Result<()> {
        self.file.write_at(bytes, offset)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn sync(&self) -> Result<()> {
        self.gate.pass();
        self.file.sync()
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.file.set_len(len)
    }

    fn allocate(&self, len: u64) -> Result<()> {
        self.file.allocate(len)
    }

    fn len(&self) -> Result<u64> {
        self.file.len()
    }
}

/// A log whose next sync is under way and does not return before the gate opens.
fn stuck_log() -> (Arc<Wal>, Arc<Gate>) {
    let gate = Arc::new(Gate::default());
    let disk = Gated {
        disk: SimDisk::new(5),
        gate: gate.clone(),
    };
    let fatal = Box::new(|fault: &Fault| panic!("{fault}"));
    let dir = Path::new("/data/wal");
    let (wal, _) = Wal::open(Arc::new(disk), dir, Options::default(), fatal).unwrap();
    let (sender, arrived) = mpsc::channel();
    *gate.arrivals.lock() = Some(sender);
    *gate.shut.lock() = true;
    wal.append(vec![entry(1, 1, 10)], false, Box::new(|_| {}));
    arrived.recv().unwrap();
    *gate.arrivals.lock() = None;
    (Arc::new(wal), gate)
}

#[test]
fn what_queues_up_during_a_sync_goes_out_in_one_write() {
    let (wal, gate) = stuck_log();
    let order = Arc::new(Mutex::new(Vec::new()));
    let (last, told) = done();
    let mut last = Some(last);
    for index in 2..=200 {
        let (order, last) = (order.clone(), last.take_if(|_| index == 200));
        let done: Done = Box::new(move |result| {
            order.lock().push(index);
            last.into_iter().for_each(|done| done(result.clone()));
        });
        // A lone write is not possible now, asked for or not.
        wal.append(vec![entry(index, 1, 10)], index % 2 == 0, done);
    }
    assert_eq!(wal.durable(), 0);
    assert!(wal.read(1..2, 100).unwrap().is_empty());
    gate.open();
    told.recv().unwrap().unwrap();
    assert_eq!(*order.lock(), (2..=200).collect::<Vec<_>>());
    let counters = wal.counters();
    assert_eq!((counters.writes, counters.syncs), (2, 2));
    assert_eq!(wal.durable(), 200);
}

#[test]
fn a_full_queue_makes_the_next_append_wait() {
    let (wal, gate) = stuck_log();
    wal.append(
        vec![entry(2, 1, QUEUE_BYTES - 1000)],
        false,
        Box::new(|_| {}),
    );
    let (sender, accepted) = mpsc::channel();
    let appender = wal.clone();
    let waiting = thread::spawn(move || {
        appender.append(vec![entry(3, 1, 1000)], false, Box::new(|_| {}));
        sender.send(()).unwrap();
    });
    assert!(accepted.try_recv().is_err());
    gate.open();
    accepted.recv().unwrap();
    waiting.join().unwrap();
    wal.close().unwrap();
    assert_eq!(wal.durable(), 3);
}

#[test]
fn a_queued_truncation_counts_at_once() {
    let (wal, gate) = stuck_log();
    wal.append(
        (2..=9).map(|i| entry(i, 1, 10)).collect(),
        false,
        Box::new(|_| {}),
    );
    wal.truncate_after(Some(Position { term: 1, index: 4 }));
    wal.append(vec![entry(5, 2, 10)], false, Box::new(|_| {}));
    wal.truncate_after(Some(Position { term: 2, index: 5 }));
    gate.open();
    wal.close().unwrap();
    assert_eq!(wal.durable(), 5);
    assert_eq!(
        wal.read(4..10, 1000).unwrap(),
        [entry(4, 1, 10), entry(5, 2, 10)]
    );
}

#[test]
fn a_failed_sync_is_final_and_told_once() {
    let disk = SimDisk::new(6);
    let told = Arc::new(Mutex::new(Vec::new()));
    let fatal = told.clone();
    let fatal = Box::new(move |fault: &Fault| fatal.lock().push(fault.to_string()));
    let dir = Path::new("/data/wal");
    let options = Options {
        segment_bytes: 65536,
        ..Options::default()
    };
    let (wal, _) = Wal::open(Arc::new(disk.clone()), dir, options, fatal).unwrap();
    append(&wal, vec![entry(1, 1, 10)], true);
    // The group and the zeros ahead of it are written already; so this is the sync.
    disk.fail_at(1, Failure::Io);
    for (index, lone) in [(2, true), (3, true), (4, false)] {
        let (done, result) = done();
        wal.append(vec![entry(index, 1, 10)], lone, done);
        let fault = result.recv().unwrap().unwrap_err().to_string();
        assert!(fault.starts_with("syncing /data/wal/"), "{fault}");
    }
    wal.save_committed(Bytes::from_static(b"late"));
    assert_eq!(wal.durable(), 1);
    let syncs = disk.operations();
    let closed = wal.close().unwrap_err().to_string();
    assert!(
        closed.starts_with("the log failed earlier: syncing"),
        "{closed}"
    );
    assert_eq!(disk.operations(), syncs, "wrote after the failure");
    assert_eq!(told.lock().len(), 1);
}

#[test]
fn readers_of_purged_entries_get_nothing_or_the_truth() {
    let dir = Scratch::new("readers");
    let (wal, _) = open(&dir);
    let wal = Arc::new(wal);
    let reader = wal.clone();
    let reading = thread::spawn(move || {
        let mut seen = 0;
        while seen < 500 {
            let last = reader.durable();
            for first in (last.saturating_sub(80)..=last).step_by(7) {
                let found = reader.read(first..last + 1, 20_000).unwrap();
                for (at, read) in found.iter().enumerate() {
                    assert_eq!(read, &entry(first + at as u64, 1, 1000));
                }
            }
            seen = last;
        }
    });
    for index in 1..=500 {
        append(&wal, vec![entry(index, 1, 1000)], false);
        if index % 10 == 0 {
            wal.purge(Position {
                term: 1,
                index: index - 5,
            });
        }
    }
    reading.join().unwrap();
}

/// A directory with segments of one log, by number; `spoil` is let loose on it before it is opened again.
fn refusal(spoil: impl Fn(&SimDisk, &[PathBuf])) -> String {
    let disk = SimDisk::new(7);
    let dir = Path::new("/data/wal");
    let options = Options {
        segment_bytes: 4096,
        cluster_id: 0xc,
        member_id: 0xa,
        ..Options::default()
    };
    let (mut writer, _) = {
        disk.create_dir(dir).unwrap();
        Writer::open(Arc::new(disk.clone()), dir, options.clone()).unwrap()
    };
    for index in 1..=10 {
        writer.add(&Record::Entry(entry(index, 1, 1000))).unwrap();
        writer.flush().unwrap();
    }
    spoil(&disk, &disk.files());
    match Writer::open(Arc::new(disk), dir, options) {
        Ok((_, recovered)) => format!("last {:?}", recovered.last.map(|last| last.index)),
        Err(fault) => fault.to_string(),
    }
}

#[test]
fn directories_that_are_not_one_sound_log_are_refused() {
    let rewrite_header = |disk: &SimDisk, path: &PathBuf, at: usize, to: u8| {
        let mut bytes = disk.contents(path).unwrap();
        bytes[at] = to;
        record::seal_sector(&mut bytes[..512], 0, 0, 0);
        disk.replace(path, bytes);
    };
    let first = "/data/wal/0000000000000000-0000000000000000.wal";
    assert_eq!(refusal(|_, _| {}), "last Some(10)");
    assert_eq!(
        refusal(|disk, files| rewrite_header(disk, &files[0], 16 + 16, 0xd)),
        format!("{first} belongs to cluster d, not to c")
    );
    assert_eq!(
        refusal(|disk, files| rewrite_header(disk, &files[0], 16 + 24, 0xb)),
        format!("{first} belongs to member b, not to a")
    );
    assert_eq!(
        refusal(|disk, files| disk.remove(&files[0]).unwrap()),
        "damaged data in /data/wal/0000000000000001-0000000000000003.wal at byte 0: \
         entries 0 to 2 are missing, the segment before is gone"
    );
    assert_eq!(
        refusal(|disk, files| disk.remove(&files[2]).unwrap()),
        "damaged data in /data/wal/0000000000000003-0000000000000007.wal at byte 0: \
         entries 0 to 6 are missing, the segment before is gone"
    );
    assert_eq!(
        refusal(|disk, _| {
            let file = disk.open(Path::new("/data/wal/old.wal"), true).unwrap();
            file.write_at(b"something else", 0).unwrap();
        }),
        "/data/wal/old.wal is not a segment of this log; \
         a write-ahead log of etcd itself cannot be taken over"
    );
    assert_eq!(
        refusal(|disk, files| disk
            .rename(&files[1], Path::new("/data/wal/copy.wal"))
            .unwrap()),
        "/data/wal/copy.wal does not have the name of a log segment"
    );
    assert_eq!(
        refusal(|disk, _| drop(disk.open(Path::new("/data/wal/notes.txt"), true).unwrap())),
        "last Some(10)"
    );
}
