//! The log on a real directory, through its public face.

use std::fs;
use std::path::PathBuf;
use std::sync::mpsc;

use super::*;
use crate::storage::disk::RealDisk;

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
    let wal_dir = dir.0.join("wal");
    let text = format!(
        "directory {} is in use by another process",
        wal_dir.display()
    );
    assert_eq!(refused.to_string(), text);
    wal.close().unwrap();
    open(&dir);
}
