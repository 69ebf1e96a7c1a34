//! The buffer against a plain map, and the order of log and engine.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use super::*;
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
#[derive(Clone, Default)]
struct Disk(Arc<Memory>);

impl View for Disk {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>> {
        self.0.get(table, key)
    }

    fn scan(
        &self,
        table: Table,
        from: &[u8],
        to: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Pair>> {
        self.0.scan(table, from, to, limit)
    }
}

impl Engine for Disk {
    fn path(&self) -> &std::path::Path {
        self.0.path()
    }

    fn commit(&self, batch: &Batch) -> Result<()> {
        self.0.commit(batch)
    }

    fn flush(&self) -> Result<()> {
        self.0.flush()
    }

    fn size(&self) -> Result<u64> {
        self.0.size()
    }

    fn compact(&self) -> Result<()> {
        self.0.compact()
    }
}

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
