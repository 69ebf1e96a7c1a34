//! One suite over all engines: what `storage::Engine` promises, and what a directory must survive.

mod directory;
mod disk_full;
mod flips;
mod growth;
mod kill;
mod panics;

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::Kind;
use super::faulty::Faulty;
use super::memory::Memory;
use crate::storage::Batch;
use crate::storage::Engine;
use crate::storage::Pair;
use crate::storage::Table;
use crate::storage::View;
use crate::storage::buffer;
use crate::storage::buffer::Tables;

/// A directory that goes away with the test.
struct TempDir(PathBuf);

impl TempDir {
    fn new() -> TempDir {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("kv-engine-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        TempDir(path)
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Copies a directory as a killed process would leave it.
fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in from.read_dir().unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy_dir(&path, &target),
            false => drop(std::fs::copy(&path, &target).unwrap()),
        }
    }
}

const ON_DISK: [Kind; 2] = [Kind::Sled, Kind::Redb];

/// Calls the suite's function with each engine, empty.
fn each(test: impl Fn(&dyn Engine)) {
    test(&Memory::new());
    test(&Faulty::new(Memory::new(), 1));
    for kind in ON_DISK {
        let dir = TempDir::new();
        test(&*super::open(kind, dir.path()).unwrap());
    }
}

fn put(table: Table, key: &[u8], value: &[u8]) -> Batch {
    let mut batch = Batch::default();
    batch.put(table, key.to_vec(), value.to_vec());
    batch
}

fn delete(table: Table, key: &[u8]) -> Batch {
    let mut batch = Batch::default();
    batch.delete(table, key.to_vec());
    batch
}

fn pairs(pairs: &[(&'static str, &'static str)]) -> Vec<Pair> {
    let pairs = pairs.iter();
    pairs
        .map(|(key, value)| ((*key).into(), (*value).into()))
        .collect()
}

fn all(engine: &dyn Engine, table: Table) -> Vec<Pair> {
    engine.scan(table, b"", None, usize::MAX).unwrap()
}

#[test]
fn a_value_is_there_until_it_is_deleted() {
    each(|engine| {
        assert_eq!(engine.get(Table::Meta, b"k").unwrap(), None);
        engine.commit(&put(Table::Meta, b"k", b"1")).unwrap();
        assert_eq!(engine.get(Table::Meta, b"k").unwrap().unwrap(), "1");
        engine.commit(&put(Table::Meta, b"k", b"2")).unwrap();
        assert_eq!(engine.get(Table::Meta, b"k").unwrap().unwrap(), "2");
        engine.commit(&delete(Table::Meta, b"k")).unwrap();
        assert_eq!(engine.get(Table::Meta, b"k").unwrap(), None);
        engine.commit(&delete(Table::Meta, b"k")).unwrap();
        engine.commit(&Batch::default()).unwrap();
        engine.flush().unwrap();
        engine.flush().unwrap();
    });
}

#[test]
fn scans_keep_to_their_bounds_and_limit() {
    each(|engine| {
        for key in ["b", "a", "d", "c", "aa"] {
            let batch = put(Table::Leases, key.as_bytes(), key.as_bytes());
            engine.commit(&batch).unwrap();
        }
        engine.commit(&put(Table::Meta, b"b", b"other")).unwrap();
        let cases: [(&str, Option<&str>, usize, &[&str]); 9] = [
            ("", None, 9, &["a", "aa", "b", "c", "d"]),
            ("a", Some("b"), 9, &["a", "aa"]),
            ("aa", Some("c"), 9, &["aa", "b"]),
            ("b", None, 2, &["b", "c"]),
            ("a", Some("a"), 9, &[]),
            ("c", Some("a"), 9, &[]),
            ("e", None, 9, &[]),
            ("", None, 0, &[]),
            ("", Some("a"), 9, &[]),
        ];
        for (from, to, limit, expected) in cases {
            let to = to.map(str::as_bytes);
            let found = engine
                .scan(Table::Leases, from.as_bytes(), to, limit)
                .unwrap();
            let keys: Vec<_> = found.iter().map(|(key, _)| &key[..]).collect();
            let expected: Vec<_> = expected.iter().map(|key| key.as_bytes()).collect();
            assert_eq!(keys, expected, "[{from}, {to:?}) limit {limit}");
        }
    });
}

#[test]
fn tables_do_not_see_each_other() {
    each(|engine| {
        for table in Table::ALL {
            for key in [&b""[..], b"\0", b"k", b"\xff\xff"] {
                engine.commit(&put(table, key, &[table as u8])).unwrap();
            }
        }
        for table in Table::ALL {
            let found = all(engine, table);
            assert_eq!(found.len(), 4, "{table:?}");
            assert!(found.iter().all(|(_, value)| value[..] == [table as u8]));
        }
        engine.commit(&delete(Table::Users, b"k")).unwrap();
        assert_eq!(all(engine, Table::Users).len(), 3);
        assert_eq!(all(engine, Table::Roles).len(), 4);
    });
}

#[test]
fn the_last_write_of_a_batch_wins() {
    each(|engine| {
        let mut batch = Batch::default();
        batch.put(Table::Meta, "a", "1");
        batch.put(Table::Meta, "a", "2");
        batch.put(Table::Meta, "b", "1");
        batch.delete(Table::Meta, "b");
        batch.delete(Table::Meta, "c");
        batch.put(Table::Meta, "c", "3");
        engine.commit(&batch).unwrap();
        assert_eq!(all(engine, Table::Meta), pairs(&[("a", "2"), ("c", "3")]));
    });
}

#[test]
fn empty_and_long_keys_and_values_are_kept() {
    each(|engine| {
        let long: Vec<u8> = (0..3 << 19).map(|i| ((i * 31) >> 3) as u8).collect();
        let short = b"short".to_vec();
        let mut expected = BTreeMap::new();
        let sizes = [0, 1, 4095, 4096, 4097, 8192, 12_289, long.len()];
        for (number, size) in sizes.into_iter().enumerate() {
            let key = vec![b'k'; number * 100];
            let batch = put(Table::Revisions, &key, &long[..size]);
            engine.commit(&batch).unwrap();
            expected.insert(key, &long[..size]);
        }
        let check = |expected: &BTreeMap<Vec<u8>, &[u8]>| {
            let found = all(engine, Table::Revisions);
            let found: BTreeMap<_, _> = found.into_iter().collect();
            assert_eq!(found.len(), expected.len());
            for (key, value) in expected {
                assert!(found[&key[..]] == *value, "{}", key.len());
                let read = engine.get(Table::Revisions, key).unwrap().unwrap();
                assert!(read == *value, "{}", key.len());
            }
        };
        check(&expected);
        engine.flush().unwrap();
        check(&expected);
        // Shorter, longer, gone.
        let keys: Vec<_> = expected.keys().cloned().collect();
        for (key, value) in [
            (&keys[7], &long[..5000]),
            (&keys[6], &short[..]),
            (&keys[5], &long[7..]),
        ] {
            engine.commit(&put(Table::Revisions, key, value)).unwrap();
            expected.insert(key.clone(), value);
        }
        engine.commit(&delete(Table::Revisions, &keys[4])).unwrap();
        expected.remove(&keys[4]);
        check(&expected);
        engine.flush().unwrap();
        engine.compact().unwrap();
        check(&expected);
    });
}

#[test]
fn random_batches_match_a_plain_map() {
    each(|engine| {
        let seed = fastrand::u64(..);
        println!("seed {seed} for {}", engine.path().display());
        let mut random = fastrand::Rng::with_seed(seed);
        let mut model: BTreeMap<Bytes, Bytes> = BTreeMap::new();
        for round in 0..400u32 {
            let mut batch = Batch::default();
            for _ in 0..random.usize(..60) {
                let key = Bytes::from(random.u16(..3000).to_be_bytes().to_vec());
                if random.u8(..5) < 3 {
                    let size = match random.u8(..30) {
                        0 => random.usize(..20_000),
                        _ => random.usize(..300),
                    };
                    let value = Bytes::from(vec![round as u8; size]);
                    batch.put(Table::Revisions, key.clone(), value.clone());
                    model.insert(key, value);
                } else {
                    batch.delete(Table::Revisions, key.clone());
                    model.remove(&key);
                }
            }
            engine.commit(&batch).unwrap();
            match random.u8(..100) {
                0 => engine.compact().unwrap(),
                1..20 => engine.flush().unwrap(),
                _ => {}
            }
            let from = random.u16(..3000).to_be_bytes();
            let limit = random.usize(1..200);
            let found = engine.scan(Table::Revisions, &from, None, limit).unwrap();
            let expected = model.range(Bytes::copy_from_slice(&from)..).take(limit);
            assert!(found.iter().map(|(key, value)| (key, value)).eq(expected));
        }
        assert!(all(engine, Table::Revisions).into_iter().eq(model.clone()));
    });
}

/// Readers see a batch as a whole: every value of the table is the same at any time.
#[test]
fn a_batch_shows_as_a_whole() {
    each(|engine| {
        const KEYS: u32 = 300;
        let write = |round: u32| {
            let mut batch = Batch::default();
            let size = if round % 8 == 7 { 5000 } else { 8 };
            for key in 0..KEYS {
                let value = vec![round as u8; size];
                batch.put(Table::Revisions, key.to_be_bytes().to_vec(), value);
            }
            // Deletions beside it, as compaction makes them.
            for key in 0..KEYS {
                let old = (KEYS + key + round * KEYS).to_be_bytes().to_vec();
                let new = (KEYS + key + (round + 1) * KEYS).to_be_bytes().to_vec();
                batch.delete(Table::Leases, old);
                batch.put(Table::Leases, new, "x");
            }
            batch
        };
        engine.commit(&write(0)).unwrap();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for round in 1..40 {
                    engine.commit(&write(round)).unwrap();
                    engine.flush().unwrap();
                }
            });
            let mut scans = 0;
            while !writer.is_finished() || scans == 0 {
                // One leaf or page at a time is what an engine reads at once.
                let found = engine.scan(Table::Revisions, b"", None, 20).unwrap();
                assert_eq!(found.len(), 20);
                assert!(
                    found
                        .iter()
                        .all(|(_, value)| value.len() == found[0].1.len())
                );
                let one = engine
                    .get(Table::Revisions, &7u32.to_be_bytes())
                    .unwrap()
                    .unwrap();
                assert!(one.iter().all(|byte| *byte == one[0]), "torn value");
                scans += 1;
            }
            writer.join().unwrap();
        });
        assert_eq!(all(engine, Table::Leases).len(), KEYS as usize);
    });
}

#[test]
fn flushed_batches_are_there_after_reopening() {
    for kind in ON_DISK {
        let dir = TempDir::new();
        let mut expected = Vec::new();
        for round in 0..3u8 {
            let engine = super::open(kind, dir.path()).unwrap();
            assert_eq!(all(&*engine, Table::Meta), expected, "{kind}");
            let value = vec![round; 10_000 * usize::from(round)];
            engine.commit(&put(Table::Meta, &[round], &value)).unwrap();
            expected.push((vec![round].into(), value.into()));
            engine.flush().unwrap();
            if round == 1 {
                engine.compact().unwrap();
            }
            assert!(engine.size().unwrap() > 0);
        }
    }
}

/// The directory of a process that dies holds exactly the last flush, whatever was committed after it.
#[test]
fn a_crash_goes_back_to_the_last_flush() {
    for kind in ON_DISK {
        let dir = TempDir::new();
        let engine = super::open(kind, dir.path()).unwrap();
        let mut flushed = Vec::new();
        for round in 0..12u8 {
            for part in 0..50 {
                let mut batch = put(Table::Revisions, &[round, part], &[round; 300]);
                batch.put(Table::Meta, "round", vec![round]);
                if round > 3 {
                    batch.delete(Table::Revisions, vec![round - 3, part]);
                }
                engine.commit(&batch).unwrap();
            }
            let image = TempDir::new();
            copy_dir(dir.path(), image.path());
            let reopened = super::open(kind, image.path()).unwrap();
            assert_eq!(all(&*reopened, Table::Revisions), flushed, "{kind} {round}");
            if round % 2 == 0 {
                engine.flush().unwrap();
                flushed = all(&*engine, Table::Revisions);
            }
        }
    }
    let engine = Faulty::new(Memory::new(), 1);
    engine.commit(&put(Table::Meta, b"a", b"1")).unwrap();
    engine.flush().unwrap();
    engine.commit(&put(Table::Meta, b"a", b"2")).unwrap();
    assert_eq!(engine.get(Table::Meta, b"a").unwrap().unwrap(), "2");
    engine.crash();
    assert_eq!(engine.get(Table::Meta, b"a").unwrap().unwrap(), "1");
}

#[test]
fn compaction_gives_space_back() {
    for kind in ON_DISK {
        let dir = TempDir::new();
        let engine = super::open(kind, dir.path()).unwrap();
        let mut random = fastrand::Rng::with_seed(7);
        let key = |number: u32| number.to_be_bytes().to_vec();
        for first in (0..20_000).step_by(1000) {
            let mut batch = Batch::default();
            for number in first..first + 1000 {
                let value: Vec<u8> = (0..500).map(|_| random.u8(..)).collect();
                batch.put(Table::Revisions, key(number), value);
            }
            engine.commit(&batch).unwrap();
        }
        engine.flush().unwrap();
        let full = engine.size().unwrap();
        let mut batch = Batch::default();
        for number in (0..20_000).filter(|number| number % 10 > 0) {
            batch.delete(Table::Revisions, key(number));
        }
        engine.commit(&batch).unwrap();
        engine.compact().unwrap();
        let compacted = engine.size().unwrap();
        println!("{kind}: {full} bytes, {compacted} after compaction of 90 %");
        assert!(compacted < full / 4, "{kind}: {compacted} of {full}");
        assert_eq!(all(&*engine, Table::Revisions).len(), 2000);
        drop(engine);
        let engine = super::open(kind, dir.path()).unwrap();
        assert_eq!(all(&*engine, Table::Revisions).len(), 2000);
    }
}

#[test]
fn readers_go_on_while_space_is_given_back() {
    for kind in ON_DISK {
        let dir = TempDir::new();
        let engine = super::open(kind, dir.path()).unwrap();
        for number in 0..2000u32 {
            let batch = put(Table::Meta, &number.to_be_bytes(), &[7; 100]);
            engine.commit(&batch).unwrap();
        }
        std::thread::scope(|scope| {
            let compactor = scope.spawn(|| (0..5).for_each(|_| engine.compact().unwrap()));
            while !compactor.is_finished() {
                assert_eq!(all(&*engine, Table::Meta).len(), 2000);
                assert!(engine.get(Table::Meta, &[0, 0, 0, 9]).unwrap().is_some());
            }
            compactor.join().unwrap();
        });
    }
}

#[test]
fn a_faulty_engine_fails_where_it_is_told_to() {
    let engine = Faulty::new(Memory::new(), 1);
    let step = |number: u8| engine.commit(&put(Table::Meta, &[number], &[number; 100]));
    engine.fail_after(2);
    step(1).unwrap();
    engine.flush().unwrap();
    assert!(step(2).is_err());
    assert!(engine.flush().is_err());
    engine.crash();
    step(2).unwrap();
    engine.fill_up_at(150);
    let full = engine.flush().unwrap_err().to_string();
    assert!(full.starts_with("write (memory): "), "{full}");
    engine.crash();
    assert_eq!(all(&engine, Table::Meta).len(), 1);

    // Cut short, a flush is there in full or not at all; both happen.
    let mut kept = 0;
    for seed in 0..20 {
        let engine = Faulty::new(Memory::new(), seed);
        let mut batch = put(Table::Meta, b"a", b"1");
        batch.put(Table::Meta, "b", "1");
        engine.commit(&batch).unwrap();
        engine.crash_in_next_flush();
        assert!(engine.flush().is_err());
        engine.crash();
        let found = all(&engine, Table::Meta).len();
        assert!(found == 0 || found == 2);
        kept += found / 2;
    }
    assert!((1..20).contains(&kept));
}

/// This test binary again, to run only the ignored test `name` of this directory's tests.
fn helper(name: &str, kind: Kind, dir: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .arg(format!("storage::engine::tests::{name}"))
        .env("KV_TEST_ENGINE", kind.name())
        .env("KV_TEST_DIR", dir);
    command
}

/// What a helper process was started with; `None` if this is none.
fn helper_arguments() -> Option<(Kind, PathBuf)> {
    let engine = std::env::var("KV_TEST_ENGINE").ok()?;
    let dir = std::env::var_os("KV_TEST_DIR")?;
    Some((engine.parse().unwrap(), dir.into()))
}

/// Tables over the engine in `dir`, whose log is always ahead.
fn tables(kind: Kind, dir: &Path, options: buffer::Options) -> Tables {
    Tables::open(
        super::open(kind, dir).unwrap(),
        options,
        Box::new(|| u64::MAX),
        Box::new(|fault| panic!("{fault}")),
    )
    .unwrap()
}
