//! The buffer against a plain map, and the order of log and engine.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use super::*;
use crate::storage::engine::faulty::Faulty;
use crate::storage::engine::memory::Memory;

/// A log that is durable up to where the test says.
#[derive(Clone, Default)]
struct Log(Arc<AtomicU64>);

impl Log {
    fn durable(&self) -> Durable {
        let index = self.0.clone();
        Box::new(move || index.load(Ordering::SeqCst))
    }
}

fn unexpected() -> Fatal {
    Box::new(|fault| panic!("{fault}"))
}

/// An engine that several openings of [`Tables`] share, as they share a directory on disk.
type Disk = Arc<Memory>;

fn open(disk: &Disk, log: &Log, options: Options) -> Tables {
    Tables::open(Box::new(disk.clone()), options, log.durable(), unexpected()).unwrap()
}

fn eager() -> Options {
    Options {
        interval: Duration::ZERO,
        bytes: 1,
    }
}

fn lazy() -> Options {
    Options {
        interval: Duration::from_secs(3600),
        bytes: usize::MAX,
    }
}

fn put(key: &str, value: &str) -> Batch {
    let mut batch = Batch::default();
    batch.put(
        Table::Meta,
        key.as_bytes().to_vec(),
        value.as_bytes().to_vec(),
    );
    batch
}

#[test]
fn reads_see_active_frozen_and_engine_as_one() {
    for options in [eager(), lazy()] {
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let log = Log(Arc::new(AtomicU64::new(u64::MAX)));
        let tables = open(&Disk::default(), &log, options);
        let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        for index in 1..2000 {
            let mut batch = Batch::default();
            for _ in 0..random.usize(..4) {
                let key = vec![random.u8(..40); random.usize(1..3)];
                if random.u8(..3) == 0 {
                    batch.delete(Table::Revisions, key.clone());
                    model.remove(&key);
                } else {
                    let value = index.to_string().into_bytes();
                    batch.put(Table::Revisions, key.clone(), value.clone());
                    model.insert(key, value);
                }
            }
            tables.write(batch, index);
            match random.u8(..100) {
                0 => tables.flush().unwrap(),
                1 => tables.check().unwrap(),
                2 => tables.compact().unwrap(),
                _ => {}
            }
            let (from, to) = (vec![random.u8(..45)], vec![random.u8(..45), 7]);
            let limit = random.usize(..20);
            let found = tables
                .scan(Table::Revisions, &from, Some(&to), limit)
                .unwrap();
            let expected: Vec<Pair> = model
                .iter()
                .filter(|(key, _)| **key >= from && **key < to)
                .take(limit)
                .map(|(key, value)| (key.clone().into(), value.clone().into()))
                .collect();
            assert_eq!(found, expected, "[{from:?}, {to:?}) limit {limit}");
            assert_eq!(
                tables.get(Table::Revisions, &from).unwrap().as_deref(),
                model.get(&from).map(Vec::as_slice)
            );
        }
        assert!(tables.scan(Table::Meta, b"", None, 9).unwrap().is_empty());
        tables.flush().unwrap();
        let bytes = model.iter().map(|(key, value)| key.len() + value.len());
        assert_eq!(tables.size().unwrap().1, bytes.sum::<usize>() as u64);
        tables.close().unwrap();
    }
}

#[test]
fn the_engine_never_runs_ahead_of_the_log() {
    let (disk, log) = (Disk::default(), Log::default());
    let tables = open(&disk, &log, eager());
    log.0.store(1, Ordering::SeqCst);
    tables.write(put("a", "1"), 1);
    tables.flush().unwrap();
    tables.write(put("a", "2"), 2);
    assert_eq!(tables.get(Table::Meta, b"a").unwrap().unwrap(), "2");
    assert_eq!(tables.flushed(), 1);
    drop(tables);

    let tables = open(&disk, &log, eager());
    assert_eq!(tables.flushed(), 1);
    assert_eq!(tables.get(Table::Meta, b"a").unwrap().unwrap(), "1");
    tables.write(put("a", "2"), 2);
    let flushed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            tables.flush().unwrap();
            flushed.store(true, Ordering::SeqCst);
        });
        assert!(!flushed.load(Ordering::SeqCst));
        log.0.store(2, Ordering::SeqCst);
    });
    assert_eq!(tables.flushed(), 2);
    tables.close().unwrap();
    assert_eq!(
        open(&disk, &log, eager()).get(Table::Meta, b"a").unwrap(),
        Some("2".into())
    );
}

#[test]
fn a_write_reaches_the_engine_after_the_interval() {
    let (disk, log) = (Disk::default(), Log(Arc::new(AtomicU64::new(u64::MAX))));
    let interval = Duration::from_millis(5);
    let options = Options { interval, ..lazy() };
    let tables = open(&disk, &log, options);
    let start = Instant::now();
    tables.write(put("a", "1"), 7);
    while tables.flushed() < 7 {
        std::thread::yield_now();
    }
    assert!(start.elapsed() >= interval);
}

#[test]
fn closing_flushes_and_later_calls_are_refused() {
    let (disk, log) = (Disk::default(), Log(Arc::new(AtomicU64::new(u64::MAX))));
    let tables = open(&disk, &log, lazy());
    tables.write(put("a", "1"), 1);
    tables.close().unwrap();
    tables.close().unwrap();
    assert_eq!(tables.flushed(), 1);
    tables.write(put("a", "2"), 2);
    let refusal = tables.flush().unwrap_err().to_string();
    assert_eq!(refusal, "the storage is closed");
    assert_eq!(tables.compact().unwrap_err().to_string(), refusal);
}

#[test]
fn wrong_bytes_in_the_engine_are_never_served() {
    let (disk, log) = (Disk::default(), Log(Arc::new(AtomicU64::new(u64::MAX))));
    let tables = open(&disk, &log, lazy());
    tables.write(put("a", "1"), 1);
    tables.write(put("b", "1"), 1);
    tables.flush().unwrap();
    let good = disk.get(Table::Meta, b"a").unwrap().unwrap();
    let mut batch = Batch::default();
    batch.put(Table::Meta, "b", good);
    disk.commit(&batch).unwrap();
    let expected =
        "damaged data in (memory): value of key 62 in table Meta does not match its checksum";
    assert_eq!(tables.get(Table::Meta, b"a").unwrap().unwrap(), "1");
    assert_eq!(
        tables.get(Table::Meta, b"b").unwrap_err().to_string(),
        expected
    );
    assert_eq!(
        tables
            .scan(Table::Meta, b"", None, 9)
            .unwrap_err()
            .to_string(),
        expected
    );
    let mut batch = Batch::default();
    batch.delete(Table::Meta, "b");
    disk.commit(&batch).unwrap();
    assert_eq!(
        tables.check().unwrap_err().to_string(),
        "damaged data in (memory): 1 pairs of 2 bytes found, 2 of 4 written"
    );
}

/// Remembers every fault that was reported.
#[derive(Clone, Default)]
struct Reports(Arc<Mutex<Vec<String>>>);

impl Reports {
    fn fatal(&self) -> Fatal {
        let reports = self.0.clone();
        Box::new(move |fault| reports.lock().push(fault.to_string()))
    }
}

#[test]
fn a_failing_engine_is_reported_once() {
    let engine = Arc::new(Faulty::new(Memory::new(), 1));
    let (log, reports) = (Log(Arc::new(AtomicU64::new(u64::MAX))), Reports::default());
    let tables = Tables::open(
        Box::new(engine.clone()),
        lazy(),
        log.durable(),
        reports.fatal(),
    )
    .unwrap();
    tables.write(put("a", "1"), 1);
    tables.flush().unwrap();
    engine.fill_up_at(0);
    tables.write(put("a", "2"), 2);
    let full = tables.flush().unwrap_err().to_string();
    assert_eq!(full, "write (memory): no storage space");
    tables.write(put("b", "3"), 3);
    for answer in [tables.flush(), tables.compact(), tables.close()] {
        assert_eq!(answer.unwrap_err().to_string(), full);
    }
    // Nothing is durable any more, yet what was written still reads.
    assert_eq!(tables.flushed(), 1);
    assert_eq!(tables.get(Table::Meta, b"a").unwrap().unwrap(), "2");
    assert_eq!(tables.get(Table::Meta, b"b").unwrap().unwrap(), "3");
    assert_eq!(*reports.0.lock(), [full]);
}

/// Whatever fails at whatever moment: after the crash the engine is at the end of some write, not before one
/// that was known to be flushed, and complete up to there.
#[test]
fn a_crash_loses_whole_writes_from_the_end() {
    for seed in 0..150 {
        let mut random = fastrand::Rng::with_seed(seed);
        let engine = Arc::new(Faulty::new(Memory::new(), seed));
        let (mut model, mut index) = (Vec::new(), 0);
        for _ in 0..5 {
            let options = Options {
                interval: Duration::from_micros(random.u64(..300)),
                bytes: random.usize(..2000),
            };
            let log = Log(Arc::new(AtomicU64::new(index)));
            let tables = Tables::open(
                Box::new(engine.clone()),
                options,
                log.durable(),
                Box::new(|_| ()),
            )
            .unwrap();
            match random.bool() {
                true => engine.fail_within(random.u64(1..30)),
                false => engine.crash_in_next_flush(),
            }
            let mut known = index;
            for _ in 0..random.usize(1..100) {
                index += 1;
                let key = random.u8(..20).to_string();
                let mut batch = put(&key, &index.to_string());
                batch.put(Table::Members, "index", index.to_string());
                tables.write(batch, index);
                model.push(key);
                log.0.store(index, Ordering::SeqCst);
                if random.u8(..10) == 0 && tables.flush().is_ok() {
                    known = index;
                }
                known = known.max(tables.flushed());
            }
            drop(tables);
            engine.crash();
            let tables = Tables::open(
                Box::new(engine.clone()),
                lazy(),
                log.durable(),
                unexpected(),
            )
            .unwrap();
            let reached = tables.flushed();
            assert!(reached >= known, "seed {seed}: {reached} after {known}");
            model.truncate(reached as usize);
            let mut expected = BTreeMap::new();
            for (key, index) in model.iter().zip(1..) {
                expected.insert(
                    Bytes::from(key.clone()),
                    Bytes::from(u64::to_string(&index)),
                );
            }
            let found = tables.scan(Table::Meta, b"", None, 99).unwrap();
            assert!(found.into_iter().eq(expected), "seed {seed} at {reached}");
            tables.check().unwrap();
            index = reached;
        }
    }
}

#[test]
fn a_writer_waits_for_an_engine_that_is_behind() {
    let log = Log::default();
    let tables = open(&Disk::default(), &log, eager());
    let batch = || {
        let mut batch = Batch::default();
        batch.put(
            Table::Meta,
            fastrand::u64(..).to_be_bytes().to_vec(),
            vec![7; 1 << 20],
        );
        batch
    };
    const WRITES: usize = (2 * BACKLOG_BYTES) >> 20;
    let waiting = || tables.shared.waiting_bytes.load(Ordering::SeqCst);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| (0..3 * WRITES).for_each(|_| tables.write(batch(), 1)));
        while waiting() < BACKLOG_BYTES {
            std::thread::yield_now();
        }
        assert!(!writer.is_finished());
        log.0.store(1, Ordering::SeqCst);
        while !writer.is_finished() {
            assert!(waiting() < BACKLOG_BYTES + (2 << 20));
            std::thread::yield_now();
        }
    });
    tables.flush().unwrap();
    assert_eq!(tables.flushed(), 1);
}
