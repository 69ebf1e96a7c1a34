//! The store against a model in plain maps, step by step, from seeds.
//!
//! Two stores run the same commands: one reclaims each compaction at once, the other in slices between the
//! commands, held back by pins and restarted now and then, often from a checkpoint that was made block by
//! block between commands. Nobody must be able to tell them apart.

use std::collections::BTreeMap;
use std::collections::VecDeque;

use bytes::Bytes;
use kv::error::ApiError;
use kv::error::Error;
use kv::mvcc::Audit;
use kv::mvcc::Checkpoint;
use kv::mvcc::Chunks;
use kv::mvcc::HashKv;
use kv::mvcc::Loaded;
use kv::mvcc::Pin;
use kv::mvcc::Progress;
use kv::mvcc::Store;
use kv::mvcc::Window;
use kv::mvcc::audit::Next;
use kv::mvcc::txn;
use kv::proto::KeyRange;
use kv::proto::etcdserverpb::Compare;
use kv::proto::etcdserverpb::DeleteRangeRequest;
use kv::proto::etcdserverpb::DeleteRangeResponse;
use kv::proto::etcdserverpb::PutRequest;
use kv::proto::etcdserverpb::PutResponse;
use kv::proto::etcdserverpb::RangeRequest;
use kv::proto::etcdserverpb::RangeResponse;
use kv::proto::etcdserverpb::RequestOp;
use kv::proto::etcdserverpb::ResponseHeader;
use kv::proto::etcdserverpb::ResponseOp;
use kv::proto::etcdserverpb::TxnRequest;
use kv::proto::etcdserverpb::TxnResponse;
use kv::proto::etcdserverpb::compare::TargetUnion;
use kv::proto::etcdserverpb::request_op::Request;
use kv::proto::etcdserverpb::response_op::Response;
use kv::proto::kvpb::Origin;
use kv::proto::mvccpb::KeyValue;
use kv::storage::Engine;
use kv::storage::Table;
use kv::storage::View;
use kv::storage::draft::Draft;
use kv::storage::engine::memory::Memory;
use prost::Message;

const STEPS: usize = 5_000;

#[test]
fn the_store_does_what_the_model_does() {
    // Seed and number of keys: few keys collide, many make a deep index.
    for (seed, keys) in [(1, 6), (2, 40), (3, 400), (4, 4000)] {
        let mut run = Run::new(seed, keys);
        for step in 0..STEPS {
            run.step = step;
            run.step();
        }
        run.compare_hashes();
    }
}

/// One change of one key.
#[derive(Clone)]
struct Entry {
    key: Vec<u8>,
    /// `None` is a deletion.
    kv: Option<KeyValue>,
}

/// The store as etcd's documents describe it, without any thought of speed.
#[derive(Default)]
struct Model {
    revision: i64,
    compacted: i64,
    /// Everything that ever happened, in order.
    log: BTreeMap<(i64, u32), Entry>,
    by_key: BTreeMap<Vec<u8>, Vec<(i64, u32)>>,
    /// What a compacted store would still hold.
    stored: BTreeMap<(i64, u32), Entry>,
    hashes: VecDeque<HashKv>,
}

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader {
        revision,
        ..ResponseHeader::default()
    })
}

/// Where a transaction is: its revision, and how many changes it has made.
struct Change {
    main: i64,
    sub: u32,
}

impl Change {
    fn current(&self) -> i64 {
        if self.sub == 0 {
            self.main - 1
        } else {
            self.main
        }
    }
}

impl Model {
    fn get(&self, key: &[u8], revision: i64) -> Option<&KeyValue> {
        let changes = self.by_key.get(key)?;
        let last = changes.iter().rev().find(|(main, _)| *main <= revision)?;
        self.log[last].kv.as_ref()
    }

    fn live(&self, range: &KeyRange, revision: i64) -> Vec<KeyValue> {
        let keys = self.by_key.range(range.start.clone()..).map(|(key, _)| key);
        keys.take_while(|key| range.contains(key))
            .filter_map(|key| self.get(key, revision).cloned())
            .collect()
    }

    fn begin(&self) -> Change {
        Change {
            main: self.revision + 1,
            sub: 0,
        }
    }

    fn log(&mut self, change: &mut Change, key: &[u8], kv: Option<KeyValue>) {
        let at = (change.main, change.sub);
        change.sub += 1;
        let key = key.to_vec();
        self.by_key.entry(key.clone()).or_default().push(at);
        self.log.insert(
            at,
            Entry {
                key: key.clone(),
                kv: kv.clone(),
            },
        );
        self.stored.insert(at, Entry { key, kv });
    }

    fn may_put(&self, request: &PutRequest) -> Result<(), ApiError> {
        if request.lease != 0 && !lease_exists(request.lease) {
            return Err(ApiError::LeaseNotFound);
        }
        let reuses = request.ignore_value || request.ignore_lease;
        match reuses && self.get(&request.key, self.revision).is_none() {
            true => Err(ApiError::KeyNotFound),
            false => Ok(()),
        }
    }

    fn put(&mut self, change: &mut Change, request: &PutRequest) -> PutResponse {
        let previous = self.get(&request.key, change.current()).cloned();
        let old = previous.clone().unwrap_or_default();
        let kv = KeyValue {
            key: Bytes::copy_from_slice(&request.key),
            create_revision: if old.version == 0 {
                change.main
            } else {
                old.create_revision
            },
            mod_revision: change.main,
            version: old.version + 1,
            value: if request.ignore_value {
                old.value
            } else {
                request.value.clone().into()
            },
            lease: if request.ignore_lease {
                old.lease
            } else {
                request.lease
            },
        };
        self.log(change, &request.key, Some(kv));
        PutResponse {
            header: header(change.main),
            prev_kv: previous.filter(|_| request.prev_kv),
        }
    }

    fn delete(&mut self, change: &mut Change, request: &DeleteRangeRequest) -> DeleteRangeResponse {
        let range = KeyRange::new(&request.key, &request.range_end);
        let found = self.live(&range, change.current());
        for kv in &found {
            self.log(change, &kv.key, None);
        }
        DeleteRangeResponse {
            header: header(change.current()),
            deleted: found.len() as i64,
            prev_kvs: if request.prev_kv { found } else { Vec::new() },
        }
    }

    fn range(&self, current: i64, request: &RangeRequest) -> Result<RangeResponse, ApiError> {
        let revision = match request.revision {
            ..=0 => current,
            revision if revision > current => return Err(ApiError::FutureRev),
            revision if revision < self.compacted => return Err(ApiError::Compacted),
            revision => revision,
        };
        let mut kvs = self.live(&KeyRange::new(&request.key, &request.range_end), revision);
        let mut response = RangeResponse {
            header: header(current),
            count: kvs.len() as i64,
            ..RangeResponse::default()
        };
        if request.count_only {
            return Ok(response);
        }
        let bound =
            |min: i64, max: i64, at: i64| (min == 0 || at >= min) && (max == 0 || at <= max);
        let filtered = request.min_mod_revision != 0
            || request.max_mod_revision != 0
            || request.min_create_revision != 0
            || request.max_create_revision != 0;
        let limit = if request.limit > 0 {
            request.limit as usize
        } else {
            usize::MAX
        };
        let custom = request.sort_order != 0 && (request.sort_order, request.sort_target) != (1, 0);
        if !custom && !filtered {
            kvs.truncate(limit.saturating_add(1));
        }
        kvs.retain(|kv| {
            bound(
                request.min_mod_revision,
                request.max_mod_revision,
                kv.mod_revision,
            ) && bound(
                request.min_create_revision,
                request.max_create_revision,
                kv.create_revision,
            )
        });
        kvs.sort_by(|a, b| {
            let order = match request.sort_target {
                0 => a.key.cmp(&b.key),
                1 => a.version.cmp(&b.version),
                2 => a.create_revision.cmp(&b.create_revision),
                3 => a.mod_revision.cmp(&b.mod_revision),
                _ => a.value.cmp(&b.value),
            };
            if request.sort_order == 2 {
                order.reverse()
            } else {
                order
            }
        });
        response.more = kvs.len() > limit;
        kvs.truncate(limit);
        for kv in &mut kvs {
            if request.keys_only {
                kv.value = Bytes::new();
                kv.lease = if request.sort_target == 4 {
                    kv.lease
                } else {
                    0
                };
            }
        }
        response.kvs = kvs;
        Ok(response)
    }

    fn holds(&self, compare: &Compare) -> bool {
        let range = KeyRange::new(&compare.key, &compare.range_end);
        let mut kvs = self.live(&range, self.revision);
        if kvs.is_empty() && compare.target == 3 {
            return false;
        }
        if kvs.is_empty() {
            kvs.push(KeyValue::default());
        }
        kvs.iter().all(|kv| {
            let order = match compare.target_union.as_ref().expect("an operand") {
                TargetUnion::Version(n) => kv.version.cmp(n),
                TargetUnion::CreateRevision(n) => kv.create_revision.cmp(n),
                TargetUnion::ModRevision(n) => kv.mod_revision.cmp(n),
                TargetUnion::Value(value) => kv.value[..].cmp(value),
                TargetUnion::Lease(n) => kv.lease.cmp(n),
            };
            match compare.result {
                0 => order.is_eq(),
                1 => order.is_gt(),
                2 => order.is_lt(),
                _ => order.is_ne(),
            }
        })
    }

    /// Settles the branches on the state before, and refuses what cannot run.
    fn path(&self, request: &TxnRequest, path: &mut Vec<bool>) -> Result<(), ApiError> {
        let succeeded = request.compare.iter().all(|compare| self.holds(compare));
        path.push(succeeded);
        for op in branch(request, succeeded) {
            match op.request.as_ref().expect("an operation") {
                Request::RequestPut(put) => self.may_put(put)?,
                Request::RequestRange(range) if range.revision > self.revision => {
                    return Err(ApiError::FutureRev);
                }
                Request::RequestRange(range)
                    if range.revision != 0 && range.revision < self.compacted =>
                {
                    return Err(ApiError::Compacted);
                }
                Request::RequestRange(_) | Request::RequestDeleteRange(_) => {}
                Request::RequestTxn(request) => self.path(request, path)?,
            }
        }
        Ok(())
    }

    fn run(
        &mut self,
        change: &mut Change,
        request: &TxnRequest,
        path: &mut VecDeque<bool>,
    ) -> TxnResponse {
        let succeeded = path.pop_front().expect("a path");
        let mut responses = Vec::new();
        for op in branch(request, succeeded) {
            let response = match op.request.as_ref().expect("an operation") {
                Request::RequestPut(put) => Response::ResponsePut(self.put(change, put)),
                Request::RequestRange(range) => Response::ResponseRange(
                    self.range(change.current(), range).expect("checked before"),
                ),
                Request::RequestDeleteRange(delete) => {
                    Response::ResponseDeleteRange(self.delete(change, delete))
                }
                Request::RequestTxn(txn) => Response::ResponseTxn(self.run(change, txn, path)),
            };
            responses.push(ResponseOp {
                response: Some(response),
            });
        }
        TxnResponse {
            header: Some(ResponseHeader::default()),
            succeeded,
            responses,
        }
    }

    fn txn(&mut self, request: &TxnRequest) -> Result<TxnResponse, ApiError> {
        let mut path = Vec::new();
        self.path(request, &mut path)?;
        let mut change = self.begin();
        let mut response = self.run(&mut change, request, &mut path.into());
        self.revision = change.current();
        response.header = header(self.revision);
        Ok(response)
    }

    /// The newest stored version of each key up to `revision`; tombstones only if `with_tombstones` at it.
    fn keep(&self, revision: i64, with_tombstones: bool) -> Vec<(i64, u32)> {
        let newest = self.by_key.values().filter_map(|changes| {
            let at = *changes.iter().rev().find(|(main, _)| *main <= revision)?;
            let dead = self.log[&at].kv.is_none();
            (!dead || (with_tombstones && at.0 == revision)).then_some(at)
        });
        let mut kept: Vec<_> = newest.collect();
        kept.sort_unstable();
        kept
    }

    fn hash(&self, revision: i64, compacted: i64, keep: &[(i64, u32)]) -> HashKv {
        let mut hash = crc32c::crc32c(b"key");
        for (at @ (main, sub), entry) in &self.stored {
            let dead = entry.kv.is_none();
            let dropped = *main <= compacted && !keep.is_empty() && keep.binary_search(at).is_err();
            if *main > revision || dropped || (*main == compacted && dead) {
                continue;
            }
            let mut key = main.to_be_bytes().to_vec();
            key.push(b'_');
            key.extend_from_slice(&u64::from(*sub).to_be_bytes());
            key.extend(dead.then_some(b't'));
            let value = entry.kv.clone().unwrap_or_else(|| KeyValue {
                key: entry.key.clone().into(),
                ..KeyValue::default()
            });
            hash = crc32c::crc32c_append(hash, &key);
            hash = crc32c::crc32c_append(hash, &value.encode_to_vec());
        }
        HashKv {
            hash,
            compact_revision: compacted,
            hash_revision: revision,
        }
    }

    fn hash_kv(&self, revision: i64) -> HashKv {
        self.hash(revision, self.compacted, &self.keep(revision, false))
    }

    fn compact(&mut self, revision: i64) -> Result<(), ApiError> {
        if revision <= self.compacted {
            return Err(ApiError::Compacted);
        }
        if revision > self.revision {
            return Err(ApiError::FutureRev);
        }
        let keep = self.keep(revision, true);
        let hash = self.hash(revision, self.compacted, &keep);
        self.hashes.push_back(hash);
        if self.hashes.len() > 10 {
            self.hashes.pop_front();
        }
        self.stored
            .retain(|at, _| at.0 > revision || keep.binary_search(at).is_ok());
        self.compacted = revision;
        Ok(())
    }
}

fn branch(request: &TxnRequest, succeeded: bool) -> &[RequestOp] {
    match succeeded {
        true => &request.success,
        false => &request.failure,
    }
}

fn lease_exists(lease: i64) -> bool {
    lease < 5
}

/// A store and its tables.
struct Member {
    tables: Memory,
    store: Store,
    pins: Vec<Pin>,
    making: Option<(Checkpoint, Vec<Vec<u8>>)>,
    checkpoint: Option<Vec<Vec<u8>>>,
}

impl Member {
    fn new() -> Member {
        let tables = Memory::new();
        Member {
            store: Store::restore(&tables, 16 << 10).expect("an empty store"),
            tables,
            pins: Vec::new(),
            making: None,
            checkpoint: None,
        }
    }

    /// Makes the next block of a checkpoint, or begins one, or completes it.
    fn checkpoint(&mut self) {
        let begin = || (Checkpoint::start(&self.store), Vec::new());
        let (mut making, mut blocks) = self.making.take().unwrap_or_else(begin);
        match making.block(&self.store, &|_| 0) {
            Some(block) => {
                blocks.push(block);
                self.making = Some((making, blocks));
            }
            None => {
                self.store.publish_checkpoint(&making);
                self.checkpoint = Some(blocks);
                self.store.checkpoint_published(&making);
            }
        }
    }

    /// Drops tombstones that were held back.
    fn release(&mut self) {
        if self.making.is_none() {
            let batch = self.store.release_held();
            self.tables.commit(&batch).expect("written");
        }
    }

    fn write<T>(
        &mut self,
        command: impl FnOnce(&mut Store, &mut Draft<'_>) -> Result<T, Error>,
    ) -> Result<T, ApiError> {
        let mut draft = Draft::over(&self.tables);
        let result = command(&mut self.store, &mut draft);
        let batch = draft.into_batch();
        self.tables.commit(&batch).expect("written");
        refusal(result)
    }

    fn reclaim(&mut self) -> Progress {
        if let Some(mut scan) = self.store.compaction_hash() {
            let hash = loop {
                scan.read(&self.tables).expect("readable");
                if let Some(hash) = scan.feed(&self.store) {
                    break hash;
                }
            };
            self.store.compaction_hashed(hash);
        }
        let (batch, progress) = self.store.compact_slice();
        self.tables.commit(&batch).expect("written");
        progress
    }

    fn restart(&mut self) {
        self.pins.clear();
        self.making = None;
        let mut blocks = self.checkpoint.clone().map(Vec::into_iter);
        let loaded = blocks.as_mut().map(|blocks| {
            Loaded::read(&mut || Ok(blocks.next()), &self.tables).expect("a sound checkpoint")
        });
        let restored = Store::restore_from(loaded, &self.tables, 16 << 10, &mut |_| {});
        self.store = restored.expect("readable");
        audit(&self.store, &self.tables);
    }

    fn hash(&self, revision: i64) -> Result<HashKv, ApiError> {
        refusal(self.store.hash_kv(&self.tables, revision))
    }
}

/// Every record must be what the index says, unless something is being reclaimed.
fn audit(store: &Store, tables: &Memory) {
    let mut from = 0;
    while let Next::Begun(mut audit) = Audit::start(store, from, store.revision()) {
        from = loop {
            audit.read(tables).expect("readable");
            if let Some(next) = audit.feed(store).expect("sound") {
                break next;
            }
        };
    }
}

fn refusal<T>(result: Result<T, Error>) -> Result<T, ApiError> {
    result.map_err(|error| match error {
        Error::Api(error) => error,
        error => panic!("{error}"),
    })
}

struct Run {
    seed: u64,
    step: usize,
    random: fastrand::Rng,
    keys: usize,
    model: Model,
    prompt: Member,
    lazy: Member,
}

impl Run {
    fn new(seed: u64, keys: usize) -> Run {
        Run {
            seed,
            step: 0,
            random: fastrand::Rng::with_seed(seed),
            keys,
            model: Model {
                revision: 1,
                compacted: -1,
                ..Model::default()
            },
            prompt: Member::new(),
            lazy: Member::new(),
        }
    }

    fn step(&mut self) {
        match self.random.u32(0..1000) {
            0..400 => self.put(),
            400..460 => self.delete(),
            460..600 => self.txn(),
            600..800 => self.range(),
            800..860 => self.chunks(),
            860..900 => self.events(),
            900..950 => self.background(),
            950..970 => self.lazy.checkpoint(),
            970..980 => self.lazy.release(),
            980..997 => self.compact(),
            _ => self.restart(),
        }
        let place = self.place();
        for member in [&self.prompt, &self.lazy] {
            assert_eq!(member.store.revision(), self.model.revision, "{place}");
            assert_eq!(member.store.compacted(), self.model.compacted, "{place}");
        }
    }

    fn place(&self) -> String {
        format!("seed {}, step {}", self.seed, self.step)
    }

    fn key(&mut self) -> Vec<u8> {
        format!("k{}", self.random.usize(..self.keys)).into_bytes()
    }

    /// A key and a range end: mostly short ranges, sometimes one key, everything or nothing.
    fn pair(&mut self) -> (Vec<u8>, Vec<u8>) {
        let (key, other) = (self.key(), self.key());
        match self.random.u32(0..20) {
            0..8 => (key, Vec::new()),
            8 => (key, vec![0]),
            9 => (vec![0], vec![0]),
            10..16 => {
                let end = [&key[..], b"~"].concat();
                (key, end)
            }
            _ => (key, other),
        }
    }

    fn put_request(&mut self) -> PutRequest {
        let key = self.key();
        let length = if self.random.u32(0..50) == 0 {
            3000
        } else {
            self.random.usize(..40)
        };
        let mut request = PutRequest {
            key,
            value: vec![self.random.u8(..); length],
            lease: if self.random.bool() {
                self.random.i64(0..6)
            } else {
                0
            },
            prev_kv: self.random.u32(0..5) == 0,
            ..PutRequest::default()
        };
        if self.random.u32(0..8) == 0 {
            request.ignore_value = true;
            request.value.clear();
        }
        if self.random.u32(0..8) == 0 {
            request.ignore_lease = true;
            request.lease = 0;
        }
        request
    }

    fn revision(&mut self) -> i64 {
        match self.random.u32(0..10) {
            0..5 => 0,
            5..9 => {
                let low = self.model.compacted.max(0);
                self.random.i64(low..=self.model.revision)
            }
            _ => self.random.i64(-2..=self.model.revision + 2),
        }
    }

    fn range_request(&mut self) -> RangeRequest {
        let (key, range_end) = self.pair();
        let rare = |random: &mut fastrand::Rng| random.u32(0..6) == 0;
        let mut request = RangeRequest {
            key,
            range_end,
            revision: self.revision(),
            keys_only: rare(&mut self.random),
            count_only: rare(&mut self.random),
            ..RangeRequest::default()
        };
        if self.random.bool() {
            request.limit = self.random.i64(-1..8);
        }
        if rare(&mut self.random) {
            request.sort_order = self.random.i32(0..3);
            request.sort_target = self.random.i32(0..5);
        }
        if rare(&mut self.random) {
            let revision = self.model.revision;
            request.min_mod_revision = self.random.i64(0..=revision);
            request.max_create_revision = self.random.i64(0..=revision);
        }
        request
    }

    fn put(&mut self) {
        let request = self.put_request();
        let expected = self.model.may_put(&request).map(|()| {
            let mut change = self.model.begin();
            let response = self.model.put(&mut change, &request);
            self.model.revision = change.current();
            response
        });
        let place = self.place();
        for member in [&mut self.prompt, &mut self.lazy] {
            let origin = Origin::default();
            let actual =
                member.write(|store, draft| store.put(draft, &request, &lease_exists, &origin));
            assert_eq!(actual, expected, "{place}: {request:?}");
        }
    }

    fn delete_request(&mut self) -> DeleteRangeRequest {
        let (key, mut range_end) = self.pair();
        if self.random.u32(0..4) != 0 && range_end == [0] {
            range_end.clear();
        }
        DeleteRangeRequest {
            key,
            range_end,
            prev_kv: self.random.bool(),
        }
    }

    fn delete(&mut self) {
        let request = self.delete_request();
        let mut change = self.model.begin();
        let expected = Ok(self.model.delete(&mut change, &request));
        self.model.revision = change.current();
        let place = self.place();
        for member in [&mut self.prompt, &mut self.lazy] {
            let origin = Origin::default();
            let actual = member.write(|store, draft| store.delete_range(draft, &request, &origin));
            assert_eq!(actual, expected, "{place}: {request:?}");
        }
    }

    fn compare_request(&mut self) -> Compare {
        let (key, range_end) = self.pair();
        let target = self.random.i32(0..5);
        let number = match target {
            0 => self.random.i64(0..4),
            4 => self.random.i64(0..5),
            _ => self.random.i64(0..=self.model.revision),
        };
        Compare {
            result: self.random.i32(0..4),
            target,
            key,
            range_end,
            target_union: Some(match target {
                0 => TargetUnion::Version(number),
                1 => TargetUnion::CreateRevision(number),
                2 => TargetUnion::ModRevision(number),
                3 => TargetUnion::Value(vec![self.random.u8(..)]),
                _ => TargetUnion::Lease(number),
            }),
        }
    }

    fn txn_request(&mut self, depth: usize) -> TxnRequest {
        let ops = |run: &mut Run| -> Vec<RequestOp> {
            let count = run.random.usize(0..4);
            let op = |run: &mut Run| match run.random.u32(0..10) {
                0..4 => Request::RequestPut(run.put_request()),
                4..7 => Request::RequestRange(run.range_request()),
                7..9 => Request::RequestDeleteRange(run.delete_request()),
                _ if depth == 0 => Request::RequestRange(run.range_request()),
                _ => Request::RequestTxn(run.txn_request(depth - 1)),
            };
            let ops = (0..count).map(|_| RequestOp {
                request: Some(op(run)),
            });
            ops.collect()
        };
        let (success, failure) = (ops(self), ops(self));
        let compares = self.random.usize(0..3);
        TxnRequest {
            compare: (0..compares).map(|_| self.compare_request()).collect(),
            success,
            failure,
        }
    }

    fn txn(&mut self) {
        let request = self.txn_request(2);
        // The model knows nothing of keys deleted and then reused, which etcd does not survive.
        let reuse = |put: &PutRequest| put.ignore_value || put.ignore_lease;
        if txn::check(&request, 128).is_err() || (any_put(&request, &reuse) && deletes(&request)) {
            return;
        }
        let expected = self.model.txn(&request);
        let place = self.place();
        for member in [&mut self.prompt, &mut self.lazy] {
            let origin = Origin::default();
            let actual = if txn::is_read_only(&request) {
                refusal(member.store.read_txn(&member.tables, &request))
            } else {
                member.write(|store, draft| store.txn(draft, &request, &lease_exists, &origin))
            };
            assert_eq!(actual, expected, "{place}: {request:?}");
        }
    }

    fn range(&mut self) {
        let request = self.range_request();
        let expected = self.model.range(self.model.revision, &request);
        let place = self.place();
        for member in [&self.prompt, &self.lazy] {
            let actual = refusal(member.store.range(&member.tables, &request));
            assert_eq!(actual, expected, "{place}: {request:?}");
        }
    }

    /// A stream, put together again, and slices are both the range.
    fn chunks(&mut self) {
        let mut request = self.range_request();
        request = RangeRequest {
            key: request.key,
            range_end: request.range_end,
            revision: request.revision,
            limit: request.limit,
            count_only: request.count_only,
            ..RangeRequest::default()
        };
        let expected = self.model.range(self.model.revision, &request);
        let place = self.place();
        for member in [&self.prompt, &self.lazy] {
            let actual = stream(member, &request);
            assert_eq!(actual, expected, "{place}: {request:?}");
            if let (Ok(expected), false, ..=0) = (&expected, request.count_only, request.limit) {
                let kvs = slices(member, &request, 1 + self.step % 7);
                assert_eq!(kvs, expected.kvs, "{place}: {request:?}");
            }
        }
    }

    fn events(&mut self) {
        let from = self
            .random
            .i64(self.model.compacted.max(0)..=self.model.revision + 1);
        let revisions = self.random.usize(1..50);
        // What is left of the compacted revision itself depends on what is reclaimed.
        let from = from.max(self.model.compacted + 1);
        let mut expected = Vec::new();
        let (mut seen, mut last) = (0, 0);
        let mut next = self.model.revision + 1;
        for (at, entry) in self.model.log.range((from, 0)..) {
            if at.0 != last {
                if seen == revisions {
                    next = at.0;
                    break;
                }
                (seen, last) = (seen + 1, at.0);
            }
            expected.push(entry.kv.clone().unwrap_or_else(|| KeyValue {
                key: entry.key.clone().into(),
                mod_revision: at.0,
                ..KeyValue::default()
            }));
        }
        let place = self.place();
        for member in [&self.prompt, &self.lazy] {
            let found = member
                .store
                .events(&member.tables, from, i64::MAX, revisions, usize::MAX);
            let (events, after) = refusal(found).expect("not compacted");
            let kvs: Vec<_> = events.iter().map(|event| event.kv.clone()).collect();
            assert_eq!((kvs, after), (expected.clone(), next.max(from)), "{place}");
        }
    }

    /// The lazy one reclaims a slice, or starts or ends a long read.
    fn background(&mut self) {
        match self.random.u32(0..4) {
            0 => {
                let revision = self
                    .random
                    .i64(self.model.compacted.max(0)..=self.model.revision);
                self.lazy.pins.push(self.lazy.store.pin(revision));
            }
            1 => {
                self.lazy.pins.pop();
            }
            _ => {
                self.lazy.reclaim();
            }
        }
    }

    fn compact(&mut self) {
        let revision = match self.random.u32(0..6) {
            0 => self.random.i64(-1..=self.model.revision + 1),
            1 => self.model.revision,
            _ => self
                .random
                .i64(self.model.compacted.max(0)..=self.model.revision),
        };
        let expected = self.model.compact(revision);
        let place = self.place();
        for member in [&mut self.prompt, &mut self.lazy] {
            let actual = member.write(|store, draft| store.compact(draft, revision));
            assert_eq!(actual, expected, "{place}: compact {revision}");
        }
        while self.prompt.reclaim() == Progress::More {}
        if self.step.is_multiple_of(3) {
            self.compare_hashes();
        }
        let stored = self
            .prompt
            .tables
            .scan(Table::Revisions, b"", None, usize::MAX);
        assert_eq!(
            stored.expect("readable").len(),
            self.model.stored.len(),
            "{place}"
        );
    }

    fn compare_hashes(&mut self) {
        let place = self.place();
        let mut restored = Member {
            tables: copy(&self.lazy.tables),
            store: Store::restore(&self.lazy.tables, 0).expect("readable"),
            pins: Vec::new(),
            making: None,
            checkpoint: None,
        };
        let recent = self.model.revision - 5..=self.model.revision;
        for revision in recent.chain([self.model.compacted + 1]) {
            if revision <= self.model.compacted.max(0) || revision > self.model.revision {
                continue;
            }
            let expected = Ok(self.model.hash_kv(revision));
            for member in [&self.prompt, &self.lazy, &restored] {
                assert_eq!(member.hash(revision), expected, "{place}: hash {revision}");
            }
        }
        while restored.reclaim() == Progress::More {}
        let now = self.model.revision;
        if now > self.model.compacted {
            assert_eq!(
                restored.hash(now),
                Ok(self.model.hash_kv(now)),
                "{place}: reclaimed"
            );
        }
        for hash in &self.model.hashes {
            assert_eq!(
                self.prompt.hash(hash.hash_revision),
                Ok(*hash),
                "{place}: remembered"
            );
        }
    }

    fn restart(&mut self) {
        if self.random.u32(0..8) == 0 {
            self.lazy.checkpoint = None;
        }
        self.lazy.restart();
    }
}

fn copy(tables: &Memory) -> Memory {
    let copy = Memory::new();
    for table in [Table::Meta, Table::Revisions] {
        let mut batch = kv::storage::Batch::default();
        let pairs = tables.scan(table, b"", None, usize::MAX);
        for (key, value) in pairs.expect("readable") {
            batch.put(table, key, value);
        }
        copy.commit(&batch).expect("written");
    }
    copy
}

fn any_put(request: &TxnRequest, wanted: &dyn Fn(&PutRequest) -> bool) -> bool {
    let mut ops = request.success.iter().chain(&request.failure);
    ops.any(|op| match &op.request {
        Some(Request::RequestPut(put)) => wanted(put),
        Some(Request::RequestTxn(txn)) => any_put(txn, wanted),
        _ => false,
    })
}

fn deletes(request: &TxnRequest) -> bool {
    let mut ops = request.success.iter().chain(&request.failure);
    ops.any(|op| match &op.request {
        Some(Request::RequestDeleteRange(_)) => true,
        Some(Request::RequestTxn(txn)) => deletes(txn),
        _ => false,
    })
}

fn stream(member: &Member, request: &RangeRequest) -> Result<RangeResponse, ApiError> {
    // A small request limit, so that the size of the chunks goes down as well as up.
    let mut chunks = Chunks::start(&member.store, request, 500)?;
    let mut merged = RangeResponse::default();
    while !chunks.is_done() {
        assert!(merged.header.is_none(), "only the last chunk has a header");
        let chunk = chunks.gather(&member.store)?;
        let chunk = chunk.load(&member.tables).expect("readable");
        chunks.adapt(&chunk);
        merged.kvs.extend(chunk.kvs);
        (merged.header, merged.more, merged.count) = (chunk.header, chunk.more, chunk.count);
    }
    Ok(merged)
}

fn slices(member: &Member, request: &RangeRequest, limit: usize) -> Vec<KeyValue> {
    let range = KeyRange::new(&request.key, &request.range_end);
    let revision = member
        .store
        .check_revision(request.revision)
        .expect("checked before");
    let (mut from, mut kvs) = (Vec::new(), Vec::new());
    loop {
        let window = Window {
            range: &range,
            revision,
            from: &from,
            limit,
            max_bytes: 200,
            keys_only: false,
        };
        let slice = refusal(member.store.slice(&member.tables, window)).expect("readable");
        assert!(slice.kvs.len() <= limit);
        kvs.extend(slice.kvs);
        match slice.next {
            Some(next) => from = next,
            None => return kvs,
        }
    }
}
