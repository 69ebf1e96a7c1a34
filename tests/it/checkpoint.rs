//! A machine that restarts from a checkpoint of its index and the records after it is the one that read
//! every record: at any later flush of the tables, whatever was compacted and reclaimed since.

use kv::lease::LeaseId;
use kv::machine::Command;
use kv::machine::Context;
use kv::machine::Machine;
use kv::machine::Options;
use kv::machine::command;
use kv::mvcc::Audit;
use kv::mvcc::Checkpoint;
use kv::mvcc::Loaded;
use kv::mvcc::Progress;
use kv::mvcc::audit::Next;
use kv::proto::etcdserverpb::CompactionRequest;
use kv::proto::etcdserverpb::DeleteRangeRequest;
use kv::proto::etcdserverpb::LeaseGrantRequest;
use kv::proto::etcdserverpb::LeaseRevokeRequest;
use kv::proto::etcdserverpb::PutRequest;
use kv::proto::etcdserverpb::RangeRequest;
use kv::proto::etcdserverpb::RequestOp;
use kv::proto::etcdserverpb::TxnRequest;
use kv::proto::etcdserverpb::request_op::Request;
use kv::proto::kvpb::Origin;
use kv::storage::Batch;
use kv::storage::Engine;
use kv::storage::Pair;
use kv::storage::Table;
use kv::storage::View;
use kv::storage::engine::memory::Memory;

const LEASES: i64 = 6;

type Blocks = Vec<Vec<u8>>;

struct Run {
    seed: u64,
    random: fastrand::Rng,
    keys: usize,
    tables: Memory,
    machine: Machine,
    making: Option<(Checkpoint, Blocks)>,
    published: Option<Blocks>,
    /// The tables as they were at some moments since the checkpoint was published.
    flushed: Vec<Memory>,
}

fn restore(tables: &Memory, blocks: Option<&Blocks>) -> Machine {
    let mut blocks = blocks.map(|blocks| blocks.iter().cloned());
    let loaded = blocks
        .as_mut()
        .map(|blocks| Loaded::read(&mut || Ok(blocks.next()), tables).expect("sound"));
    Machine::restore_from(loaded, tables, &Options::default()).expect("sound tables")
}

fn pairs(tables: &Memory, table: Table) -> Vec<Pair> {
    let pairs = tables.scan(table, b"", None, usize::MAX);
    pairs.expect("readable")
}

fn copy(tables: &Memory) -> Memory {
    let copy = Memory::new();
    let mut batch = Batch::default();
    for table in Table::ALL {
        for (key, value) in pairs(tables, table) {
            batch.put(table, key, value);
        }
    }
    copy.commit(&batch).expect("written");
    copy
}

/// Compares every record with the index; returns true if nothing kept it from doing so.
fn audit(machine: &Machine, tables: &Memory) -> bool {
    let mut from = 0;
    loop {
        let mut audit = match Audit::start(&machine.store, from, machine.store.revision()) {
            Next::Begun(audit) => audit,
            Next::Later => return false,
            Next::Done => return true,
        };
        from = loop {
            audit.read(tables).expect("readable");
            if let Some(next) = audit.feed(&machine.store).expect("sound") {
                break next;
            }
        };
    }
}

fn reclaim(machine: &mut Machine, tables: &Memory) {
    loop {
        let (batch, progress) = machine.store.compact_slice();
        tables.commit(&batch).expect("written");
        if progress == Progress::Done {
            break;
        }
    }
    loop {
        let batch = machine.store.release_held();
        if batch.is_empty() {
            return;
        }
        tables.commit(&batch).expect("written");
    }
}

impl Run {
    fn new(seed: u64, keys: usize) -> Run {
        let tables = Memory::new();
        Run {
            seed,
            random: fastrand::Rng::with_seed(seed),
            keys,
            machine: restore(&tables, None),
            tables,
            making: None,
            published: None,
            flushed: Vec::new(),
        }
    }

    fn step(&mut self) {
        match self.random.u32(0..1000) {
            0..600 => self.write(),
            600..620 => self.compact(),
            620..750 => self.slice(),
            750..850 => self.checkpoint(),
            850..980 => self.flushed.push(copy(&self.tables)),
            _ => self.restart(),
        }
    }

    fn key(&mut self) -> Vec<u8> {
        format!("key/{:05}", self.random.usize(..self.keys)).into_bytes()
    }

    fn put(&mut self) -> PutRequest {
        let lease = match self.random.bool() {
            true => self.random.i64(0..LEASES),
            false => 0,
        };
        PutRequest {
            key: self.key(),
            value: vec![7; self.random.usize(..30)],
            lease: Some(lease)
                .filter(|lease| self.machine.lessor.exists(LeaseId(*lease)))
                .unwrap_or(0),
            ..PutRequest::default()
        }
    }

    fn write(&mut self) {
        let command = match self.random.u32(0..100) {
            0..45 => Command::Put(self.put()),
            45..65 => Command::DeleteRange(DeleteRangeRequest {
                key: self.key(),
                range_end: if self.random.bool() {
                    self.key()
                } else {
                    Vec::new()
                },
                ..DeleteRangeRequest::default()
            }),
            65..85 => {
                let count = self.random.usize(1..20);
                let mut puts: Vec<_> = (0..count).map(|_| self.put()).collect();
                puts.sort_by(|a, b| a.key.cmp(&b.key));
                puts.dedup_by(|a, b| a.key == b.key);
                let ops = puts.into_iter().map(|put| RequestOp {
                    request: Some(Request::RequestPut(put)),
                });
                Command::Txn(TxnRequest {
                    success: ops.collect(),
                    ..TxnRequest::default()
                })
            }
            85..95 => Command::LeaseGrant(LeaseGrantRequest {
                id: self.random.i64(1..LEASES),
                ttl: 100,
            }),
            _ => Command::LeaseRevoke(LeaseRevokeRequest {
                id: self.random.i64(1..LEASES),
            }),
        };
        self.apply(command);
    }

    fn apply(&mut self, command: Command) {
        let context = Context {
            index: self.machine.applied().map_or(0, |last| last.index) + 1,
            term: 1,
            ..Context::default()
        };
        let proposal = command::proposal(1, None, command, Origin::default());
        let effect = self.machine.apply(&self.tables, context, &[proposal]);
        let writes = effect.expect("no fault").writes;
        self.tables.commit(&writes).expect("written");
    }

    fn compact(&mut self) {
        let store = &self.machine.store;
        let revision = self.random.i64(store.compacted().max(1)..=store.revision());
        self.apply(Command::Compaction(CompactionRequest {
            revision,
            physical: false,
        }));
    }

    fn slice(&mut self) {
        let (batch, _) = self.machine.store.compact_slice();
        self.tables.commit(&batch).expect("written");
    }

    /// One more block; at the end, what was written is what a restart finds.
    fn checkpoint(&mut self) {
        let begin = || (Checkpoint::start(&self.machine.store), Vec::new());
        let (mut making, mut blocks) = self.making.take().unwrap_or_else(begin);
        match self.machine.checkpoint_block(&mut making) {
            Some(block) => {
                blocks.push(block);
                self.making = Some((making, blocks));
            }
            None => {
                self.machine.store.publish_checkpoint(&making);
                self.flushed = vec![copy(&self.tables)];
                self.published = Some(blocks);
                self.machine.store.checkpoint_published(&making);
                let batch = self.machine.store.release_held();
                self.tables.commit(&batch).expect("written");
            }
        }
    }

    /// Compares both ways of starting at some flush, and goes on from the checkpoint now.
    fn restart(&mut self) {
        self.making = None;
        let Some(blocks) = self.published.take() else {
            return;
        };
        let chosen = self.random.usize(..self.flushed.len());
        let chosen = copy(&self.flushed[chosen]);
        self.compare(&chosen, &blocks);
        let now = copy(&self.tables);
        self.compare(&now, &blocks);
        let hash = self.machine.state_hash();
        self.machine = restore(&self.tables, Some(&blocks));
        assert_eq!(self.machine.state_hash(), hash);
        self.published = Some(blocks);
    }

    fn compare(&mut self, tables: &Memory, blocks: &Blocks) {
        let mut quick = restore(tables, Some(blocks));
        let other = copy(tables);
        let mut full = restore(&other, None);
        let place = format!("seed {}, revision {}", self.seed, quick.store.revision());
        self.same(&quick, tables, &full, &other, &place);
        audit(&quick, tables);
        reclaim(&mut full, &other);
        reclaim(&mut quick, tables);
        self.same(&quick, tables, &full, &other, &place);
        assert!(audit(&quick, tables), "{place}");
        assert!(audit(&full, &other), "{place}");
        // A new checkpoint lets go of the last that was held back.
        let checkpoint = Checkpoint::start(&quick.store);
        quick.store.checkpoint_published(&checkpoint);
        drop(checkpoint);
        reclaim(&mut quick, tables);
        let left = |tables| pairs(tables, Table::Revisions);
        assert_eq!(left(tables), left(&other), "{place}");
        assert_eq!(quick.store.records(), full.store.records(), "{place}");
    }

    fn same(&mut self, a: &Machine, of_a: &Memory, b: &Machine, of_b: &Memory, place: &str) {
        a.lessor.validate();
        assert_eq!(a.store.revision(), b.store.revision(), "{place}");
        assert_eq!(a.store.compacted(), b.store.compacted(), "{place}");
        assert_eq!(a.store.live_keys(), b.store.live_keys(), "{place}");
        assert_eq!(a.state_hash(), b.state_hash(), "{place}");
        for lease in (1..LEASES).map(LeaseId) {
            let keys = |machine: &Machine| -> Option<Vec<_>> {
                Some(machine.lessor.keys(lease)?.cloned().collect())
            };
            assert_eq!(keys(a), keys(b), "{place}: {lease:?}");
        }
        let (first, last) = (a.store.compacted().max(1), a.store.revision());
        for _ in 0..12 {
            let request = RangeRequest {
                key: self.key(),
                range_end: match self.random.bool() {
                    true => self.key(),
                    false => vec![0],
                },
                revision: self.random.i64(first..=last),
                limit: self.random.i64(0..20),
                ..RangeRequest::default()
            };
            let (a, b) = (
                a.store.range(of_a, &request).expect("readable"),
                b.store.range(of_b, &request).expect("readable"),
            );
            assert_eq!(a, b, "{place}: {request:?}");
        }
        for revision in [first, last] {
            let (a, b) = (
                a.store.hash_kv(of_a, revision),
                b.store.hash_kv(of_b, revision),
            );
            assert_eq!(a.expect("a hash"), b.expect("a hash"), "{place}");
        }
    }
}

#[test]
fn a_checkpoint_and_the_records_after_it_are_all_records() {
    let seed = std::env::var("KV_CHECKPOINT_SEED").ok();
    let seeds = match seed.map(|text| text.parse().expect("a number")) {
        Some(seed) => seed..seed + 1,
        None => 1..13,
    };
    for seed in seeds {
        println!("KV_CHECKPOINT_SEED={seed}");
        let keys = [8, 60, 3000][seed as usize % 3];
        let mut run = Run::new(seed, keys);
        for _ in 0..1500 {
            run.step();
        }
        run.restart();
    }
}

/// A checkpoint of a store with leases, deletions and a key of many versions.
fn example() -> (Memory, Blocks) {
    let mut run = Run::new(5, 40);
    for _ in 0..400 {
        run.write();
    }
    for _ in 0..3000 {
        let put = PutRequest {
            key: b"hot".to_vec(),
            ..PutRequest::default()
        };
        run.apply(Command::Put(put));
    }
    while run.published.is_none() {
        run.checkpoint();
    }
    (run.tables, run.published.expect("published"))
}

fn read(blocks: &Blocks, tables: &Memory) -> Result<i64, String> {
    let mut blocks = blocks.iter().cloned();
    let loaded = Loaded::read(&mut || Ok(blocks.next()), tables);
    loaded
        .map(|loaded| loaded.revision())
        .map_err(|error| error.to_string())
}

#[test]
fn a_key_of_many_versions_spans_blocks() {
    let (tables, blocks) = example();
    let (quick, full) = (restore(&tables, Some(&blocks)), restore(&tables, None));
    assert!(blocks.len() > 6, "{} blocks", blocks.len());
    let mut run = Run::new(1, 40);
    run.same(&quick, &tables, &full, &tables, "example");
    for revision in (full.store.revision() - 3000..=full.store.revision()).step_by(97) {
        let at = |machine: &Machine| machine.store.kv_at(&tables, b"hot", revision);
        assert_eq!(at(&quick).expect("readable"), at(&full).expect("readable"));
    }
    assert!(audit(&quick, &tables));
}

#[test]
fn blocks_that_are_missing_doubled_or_wrong_do_not_pass_or_panic() {
    let (tables, blocks) = example();
    assert!(read(&blocks, &tables).is_ok());
    for at in 0..blocks.len() {
        let mut missing = blocks.clone();
        missing.remove(at);
        // A list of nothing is no loss.
        if blocks[at].len() > 1 && blocks[at][0] != b'S' && blocks[at][0] != b'T' {
            assert!(read(&missing, &tables).is_err(), "without block {at}");
        }
        if blocks[at].len() > 1 && blocks[at][0] == b'K' {
            let mut doubled = blocks.clone();
            doubled.insert(at, blocks[at].clone());
            assert!(read(&doubled, &tables).is_err(), "block {at} twice");
        }
        // The file's checksums find wrong bytes; here they only must not do harm.
        for byte in 0..blocks[at].len() {
            for wrong in [0, 0xff, blocks[at][byte] ^ 0x41] {
                let mut wrong_blocks = blocks.clone();
                wrong_blocks[at][byte] = wrong;
                let _ = read(&wrong_blocks, &tables);
                if byte > 400 {
                    break;
                }
            }
        }
    }
    let error = read(&Vec::new(), &tables).unwrap_err();
    assert!(error.contains("it has no end"), "{error}");
}

#[test]
fn an_audit_finds_missing_and_strange_records() {
    let (tables, blocks) = example();
    let machine = restore(&tables, Some(&blocks));
    let all = pairs(&tables, Table::Revisions);
    let failure = |tables: &Memory| -> Option<String> {
        let mut from = 0;
        while let Next::Begun(mut audit) =
            Audit::start(&machine.store, from, machine.store.revision())
        {
            from = loop {
                audit.read(tables).ok()?;
                match audit.feed(&machine.store) {
                    Ok(Some(next)) => break next,
                    Ok(None) => {}
                    Err(fault) => return Some(fault.to_string()),
                }
            };
        }
        None
    };
    assert_eq!(failure(&tables), None);
    let (key, value) = &all[all.len() / 2];
    let mut batch = Batch::default();
    batch.delete(Table::Revisions, key.clone());
    tables.commit(&batch).expect("written");
    let text = failure(&tables).expect("a missing record");
    assert!(text.contains("records found"), "{text}");
    let mut moved = key.to_vec();
    *moved.last_mut().expect("bytes") += 1;
    let mut batch = Batch::default();
    batch.put(Table::Revisions, moved, value.clone());
    tables.commit(&batch).expect("written");
    let text = failure(&tables).expect("a strange record");
    assert!(text.contains("is not in the index"), "{text}");
}
