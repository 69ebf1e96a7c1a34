//! Reads of many keys, in steps short enough to take and drop a lock around each.
//!
//! A step copies keys and cached values out of the index; values that are not cached are loaded afterwards,
//! with no lock held. That is safe because a revision never changes under its reader, and a [`Pin`] keeps
//! the records it needs from being reclaimed.

use std::cmp::Ordering;
use std::ops::ControlFlow;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use prost::encoding;
use prost::encoding::WireType;

use super::Store;
use super::cache::Cache;
use super::cache::Reread;
use super::compact::Pin;
use super::index::Handle;
use super::index::Version;
use crate::error::ApiError;
use crate::error::Error;
use crate::proto::KeyRange;
use crate::proto::etcdserverpb::RangeRequest;
use crate::proto::etcdserverpb::RangeResponse;
use crate::proto::etcdserverpb::ResponseHeader;
use crate::proto::etcdserverpb::range_request::SortOrder;
use crate::proto::etcdserverpb::range_request::SortTarget;
use crate::proto::mvccpb::KeyValue;
use crate::storage;
use crate::storage::View;
use crate::util::metrics;

/// A step ends after this many keys or bytes, whichever comes first.
const STEP_KEYS: usize = 512;
const STEP_BYTES: usize = 1 << 20;

/// A header that says nothing but the revision; the server fills in who it is.
pub(super) fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader {
        revision,
        ..ResponseHeader::default()
    })
}

/// The checks that need no state, done before anything else.
pub fn check(request: &RangeRequest) -> Result<(), ApiError> {
    if request.key.is_empty() {
        return Err(ApiError::EmptyKey);
    }
    match (order_of(request), target_of(request)) {
        (Some(_), Some(_)) => Ok(()),
        _ => Err(ApiError::InvalidSortOption),
    }
}

/// The further checks of a RangeStream, whose pages are in key order. The texts are etcd's.
pub fn check_stream(request: &RangeRequest) -> Result<(), Error> {
    check(request)?;
    let refuse = |text: &str| Err(Error::other(tonic::Code::Unimplemented, text));
    if is_custom(request) {
        return refuse("RangeStream does not support custom sort orders");
    }
    if Bounds::of(request).is_some() {
        return refuse("RangeStream does not support revision filters");
    }
    Ok(())
}

fn order_of(request: &RangeRequest) -> Option<SortOrder> {
    SortOrder::try_from(request.sort_order).ok()
}

fn target_of(request: &RangeRequest) -> Option<SortTarget> {
    SortTarget::try_from(request.sort_target).ok()
}

/// Returns true if an order other than ascending keys was asked for in so many words.
fn is_custom(request: &RangeRequest) -> bool {
    match (request.sort_order(), request.sort_target()) {
        (SortOrder::None, _) | (SortOrder::Ascend, SortTarget::Key) => false,
        (SortOrder::Ascend | SortOrder::Descend, _) => true,
    }
}

/// The revisions a kv must lie between; zero is no bound.
struct Bounds {
    min_mod: i64,
    max_mod: i64,
    min_create: i64,
    max_create: i64,
}

impl Bounds {
    fn of(request: &RangeRequest) -> Option<Bounds> {
        let bounds = Bounds {
            min_mod: request.min_mod_revision,
            max_mod: request.max_mod_revision,
            min_create: request.min_create_revision,
            max_create: request.max_create_revision,
        };
        let Bounds {
            min_mod,
            max_mod,
            min_create,
            max_create,
        } = bounds;
        (min_mod != 0 || max_mod != 0 || min_create != 0 || max_create != 0).then_some(bounds)
    }

    fn admit(&self, version: &Version) -> bool {
        let within =
            |at: i64, min: i64, max: i64| (min == 0 || at >= min) && (max == 0 || at <= max);
        within(version.modified.main, self.min_mod, self.max_mod)
            && within(version.created, self.min_create, self.max_create)
    }
}

/// How the found keys are put in order at the end.
#[derive(Clone, Copy)]
struct Sort {
    target: SortTarget,
    descending: bool,
}

impl Sort {
    /// `None` means as found, by ascending key. A target without an order is ascending.
    fn of(request: &RangeRequest) -> Option<Sort> {
        let sort = Sort {
            target: request.sort_target(),
            descending: request.sort_order() == SortOrder::Descend,
        };
        (sort.descending || sort.target != SortTarget::Key).then_some(sort)
    }

    fn compare(self, page: &Page, left: &Item, right: &Item) -> Ordering {
        let (a, b) = (&left.version, &right.version);
        let order = match self.target {
            SortTarget::Key => page.bytes[left.key.clone()].cmp(&page.bytes[right.key.clone()]),
            SortTarget::Version => a.version.cmp(&b.version),
            SortTarget::Create => a.created.cmp(&b.created),
            SortTarget::Mod => a.modified.main.cmp(&b.modified.main),
            SortTarget::Value => page.value(left).cmp(page.value(right)),
        };
        if self.descending {
            order.reverse()
        } else {
            order
        }
    }
}

/// One Range, between its start and its answer.
pub struct RangeScan {
    range: KeyRange,
    /// The revision that is read, and the store's when the read began.
    revision: i64,
    current: i64,
    count: u64,
    /// The most kvs in the answer, and the most worth finding.
    limit: usize,
    fetch: usize,
    bounds: Option<Bounds>,
    sort: Option<Sort>,
    wanted: Wanted,
    keys_only: bool,
    /// Where the next step begins; `None` once everything is found.
    next: Option<Vec<u8>>,
    page: Page,
    pin: Option<Pin>,
    reread: Arc<Reread>,
}

/// When values are copied.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Never,
    AsFound,
    /// After sorting and cutting, so that the first of a million is one load.
    Last,
}

impl RangeScan {
    /// Starts a Range on `store`. `request` has passed [`check`]. What it reads stays readable from now on,
    /// whatever is written or compacted before the next step.
    pub fn start(store: &Store, request: &RangeRequest) -> Result<RangeScan, ApiError> {
        RangeScan::start_at(store, request, store.revision())
    }

    /// The same inside a transaction that may have made revision `current` already.
    pub(super) fn start_at(
        store: &Store,
        request: &RangeRequest,
        current: i64,
    ) -> Result<RangeScan, ApiError> {
        let revision = store.revision_at(request.revision, current)?;
        metrics::RANGES.inc();
        let limit = match usize::try_from(request.limit) {
            Ok(0) | Err(_) => usize::MAX,
            Ok(limit) => limit,
        };
        let bounds = Bounds::of(request);
        let sort = Sort::of(request);
        let by_value = sort.is_some_and(|sort| sort.target == SortTarget::Value);
        let mut scan = RangeScan {
            range: KeyRange::new(&request.key, &request.range_end),
            revision,
            current,
            count: 0,
            limit,
            fetch: match (&bounds, &sort) {
                _ if is_custom(request) => usize::MAX,
                (Some(_), Some(_)) => usize::MAX,
                (None, None) => limit,
                // Without a filter, a target without an order sorts only the first keys, as etcd does.
                (Some(_), None) | (None, Some(_)) => limit.saturating_add(1),
            },
            bounds,
            sort,
            wanted: match sort {
                _ if request.keys_only && !by_value => Wanted::Never,
                Some(_) if !by_value && limit < usize::MAX => Wanted::Last,
                _ => Wanted::AsFound,
            },
            keys_only: request.keys_only,
            next: None,
            page: Page::default(),
            pin: None,
            reread: Arc::clone(&store.reread),
        };
        if request.range_end.is_empty() {
            scan.point(store, request.count_only);
        } else {
            scan.count = store.index.count(&scan.range, revision);
            let walk = scan.count > 0 && !request.count_only;
            scan.next = walk.then(|| scan.range.start.clone());
            scan.hold(store);
        }
        if request.count_only {
            scan.limit = usize::MAX;
        }
        Ok(scan)
    }

    fn point(&mut self, store: &Store, count_only: bool) {
        let key = std::mem::take(&mut self.range.start);
        if let Some((version, handle)) = store.index.get_at(&key, self.revision) {
            self.count = 1;
            if !count_only {
                self.found(&store.cache, &key, version, handle);
                self.hold(store);
            }
        }
    }

    /// Finds some more keys. Returns true while there is more to find.
    pub fn step(&mut self, store: &Store) -> bool {
        let Some(from) = self.next.take() else {
            return false;
        };
        let (keys, bytes) = (self.page.items.len(), self.page.bytes.len());
        let range = KeyRange {
            start: from,
            end: self.range.end.clone(),
        };
        let (mut visited, mut next) = (0, None);
        store
            .index
            .walk(&range, self.revision, &mut |key, version, handle| {
                if self.page.items.len() >= self.fetch {
                    return ControlFlow::Break(());
                }
                if visited >= STEP_KEYS || self.page.bytes.len() - bytes >= STEP_BYTES {
                    next = Some(key.to_vec());
                    return ControlFlow::Break(());
                }
                visited += 1;
                self.found(&store.cache, key, version, handle);
                ControlFlow::Continue(())
            });
        debug_assert!(self.page.items.len() - keys <= STEP_KEYS);
        self.next = next;
        self.hold(store);
        self.next.is_some()
    }

    fn found(&mut self, cache: &Cache, key: &[u8], version: Version, handle: Handle) {
        if self.bounds.as_ref().is_some_and(|b| !b.admit(&version)) {
            return;
        }
        match self.wanted {
            Wanted::Never => self.page.push(key, version, Value::Unwanted),
            Wanted::AsFound => self.page.push_cached(cache, key, version, handle),
            Wanted::Last => self.page.push(key, version, Value::Stored),
        }
    }

    /// What is still to be read must outlive the lock.
    fn hold(&mut self, store: &Store) {
        let unread = self.next.is_some() || self.page.stored || self.wanted == Wanted::Last;
        if unread && self.pin.is_none() {
            self.pin = Some(store.pin(self.revision));
        }
    }

    /// Loads what is missing and puts the answer together. No lock needs to be held.
    pub fn finish(mut self, view: &dyn View) -> storage::Result<Found> {
        assert!(self.next.is_none(), "a range was finished before its end");
        let more = if self.fetch == self.limit {
            self.count > self.limit as u64
        } else {
            self.page.items.len() > self.limit
        };
        if self
            .sort
            .is_some_and(|sort| sort.target == SortTarget::Value)
        {
            self.page.load(view, &self.reread)?;
        }
        if let Some(sort) = self.sort {
            self.page.sort(sort);
        }
        self.page.items.truncate(self.limit);
        self.page.load(view, &self.reread)?;
        if self.keys_only {
            self.page.forget_values();
        }
        Ok(Found {
            page: self.page,
            current: self.current,
            more,
            count: self.count as i64,
        })
    }
}

/// The answer to a Range, before it is a message.
pub struct Found {
    page: Page,
    current: i64,
    more: bool,
    count: i64,
}

impl Found {
    pub fn count(&self) -> i64 {
        self.count
    }

    /// The store's revision when the read began.
    pub fn revision(&self) -> i64 {
        self.current
    }

    pub fn into_response(self) -> RangeResponse {
        RangeResponse {
            header: header(self.current),
            kvs: self.page.into_kvs(),
            more: self.more,
            count: self.count,
        }
    }

    /// Writes what [`Found::into_response`] with `header` would encode to, without making it.
    pub fn encode(&self, header: &ResponseHeader, out: &mut Vec<u8>) {
        let kvs = self.page.items.iter().map(|item| {
            let length = self.page.kv_len(item);
            1 + encoding::encoded_len_varint(length as u64) + length
        });
        let header_len = header.encoded_len();
        out.reserve_exact(header_len + kvs.sum::<usize>() + ROOM_BESIDE_KVS);
        encoding::message::encode(1, header, out);
        for item in &self.page.items {
            encoding::encode_key(2, WireType::LengthDelimited, out);
            encoding::encode_varint(self.page.kv_len(item) as u64, out);
            self.page.encode_kv(item, out);
        }
        if self.more {
            encoding::bool::encode(3, &self.more, out);
        }
        encode_int(4, self.count, out);
    }
}

/// Tags, lengths and numbers of a RangeResponse beside its header and kvs.
const ROOM_BESIDE_KVS: usize = 32;

fn int_len(tag: u32, value: i64) -> usize {
    match value {
        0 => 0,
        value => encoding::int64::encoded_len(tag, &value),
    }
}

fn encode_int(tag: u32, value: i64, out: &mut Vec<u8>) {
    if value != 0 {
        encoding::int64::encode(tag, &value, out);
    }
}

fn bytes_len(bytes: &[u8]) -> usize {
    match bytes.len() {
        0 => 0,
        length => 1 + encoding::encoded_len_varint(length as u64) + length,
    }
}

fn encode_bytes(tag: u32, bytes: &[u8], out: &mut Vec<u8>) {
    if !bytes.is_empty() {
        encoding::encode_key(tag, WireType::LengthDelimited, out);
        encoding::encode_varint(bytes.len() as u64, out);
        out.extend_from_slice(bytes);
    }
}

/// Found keys, their versions, and the values that were at hand.
#[derive(Default)]
struct Page {
    /// Keys and cached values, one after the other: one allocation for the whole answer.
    bytes: Vec<u8>,
    items: Vec<Item>,
    /// Some value is still to be loaded.
    stored: bool,
}

struct Item {
    key: Range<usize>,
    version: Version,
    value: Value,
}

enum Value {
    /// Not asked for, and the lease with it.
    Unwanted,
    /// To be loaded from the tables.
    Stored,
    Cached {
        lease: i64,
        span: Range<usize>,
    },
    Loaded {
        lease: i64,
        value: Bytes,
    },
}

impl Page {
    fn push(&mut self, key: &[u8], version: Version, value: Value) {
        let key = self.append(key);
        self.stored |= matches!(value, Value::Stored);
        self.items.push(Item {
            key,
            version,
            value,
        });
    }

    fn push_cached(&mut self, cache: &Cache, key: &[u8], version: Version, handle: Handle) {
        let value = match cache.get(handle) {
            Some((lease, value)) => Value::Cached {
                lease,
                span: self.append(value),
            },
            None => Value::Stored,
        };
        self.push(key, version, value);
    }

    fn append(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }

    fn value<'a>(&'a self, item: &'a Item) -> &'a [u8] {
        match &item.value {
            Value::Unwanted | Value::Stored => &[],
            Value::Cached { span, .. } => &self.bytes[span.clone()],
            Value::Loaded { value, .. } => value,
        }
    }

    /// Sorts; what compares equal stays in ascending key order.
    fn sort(&mut self, sort: Sort) {
        let mut items = std::mem::take(&mut self.items);
        items.sort_by(|left, right| sort.compare(self, left, right));
        self.items = items;
    }

    fn lease(item: &Item) -> i64 {
        match item.value {
            Value::Unwanted | Value::Stored => 0,
            Value::Cached { lease, .. } | Value::Loaded { lease, .. } => lease,
        }
    }

    /// The length of an item as an encoded `KeyValue`.
    fn kv_len(&self, item: &Item) -> usize {
        bytes_len(&self.bytes[item.key.clone()])
            + int_len(2, item.version.created)
            + int_len(3, item.version.modified.main)
            + int_len(4, item.version.version)
            + bytes_len(self.value(item))
            + int_len(6, Page::lease(item))
    }

    fn encode_kv(&self, item: &Item, out: &mut Vec<u8>) {
        encode_bytes(1, &self.bytes[item.key.clone()], out);
        encode_int(2, item.version.created, out);
        encode_int(3, item.version.modified.main, out);
        encode_int(4, item.version.version, out);
        encode_bytes(5, self.value(item), out);
        encode_int(6, Page::lease(item), out);
    }

    /// Leaves the values out, and the leases in.
    fn forget_values(&mut self) {
        for item in &mut self.items {
            let lease = Page::lease(item);
            item.value = Value::Loaded {
                lease,
                value: Bytes::new(),
            };
        }
    }

    fn load(&mut self, view: &dyn View, reread: &Reread) -> storage::Result<()> {
        if !std::mem::take(&mut self.stored) {
            return Ok(());
        }
        for item in &mut self.items {
            if matches!(item.value, Value::Stored) {
                let (lease, value) = reread.load(view, item.version.modified)?;
                item.value = Value::Loaded { lease, value };
            }
        }
        Ok(())
    }

    fn into_kvs(self) -> Vec<KeyValue> {
        let bytes = Bytes::from(self.bytes);
        let kv = |item: Item| {
            let (lease, value) = match item.value {
                Value::Unwanted => (0, Bytes::new()),
                Value::Cached { lease, span } => (lease, bytes.slice(span)),
                Value::Loaded { lease, value } => (lease, value),
                Value::Stored => unreachable!("values are loaded before they are shown"),
            };
            KeyValue {
                key: bytes.slice(item.key),
                create_revision: item.version.created,
                mod_revision: item.version.modified.main,
                version: item.version.version,
                value,
                lease,
            }
        };
        self.items.into_iter().map(kv).collect()
    }
}

/// One step of a long range at a fixed revision.
#[derive(Debug)]
pub struct Slice {
    pub kvs: Vec<KeyValue>,
    /// Where the next slice begins; `None` at the end of the range.
    pub next: Option<Vec<u8>>,
}

/// A [`Slice`] whose values are not all loaded yet.
pub struct PendingSlice {
    page: Page,
    next: Option<Vec<u8>>,
    reread: Arc<Reread>,
    _pin: Pin,
}

impl PendingSlice {
    /// Loads what is missing; no lock needs to be held.
    pub fn load(mut self, view: &dyn View) -> storage::Result<Slice> {
        self.page.load(view, &self.reread)?;
        Ok(Slice {
            kvs: self.page.into_kvs(),
            next: self.next,
        })
    }
}

/// What a slice covers: at most `limit` keys of `range` at `revision`, from key `from` on.
#[derive(Clone, Copy)]
pub struct Window<'a> {
    pub range: &'a KeyRange,
    pub revision: i64,
    /// The `next` of the slice before; empty at first.
    pub from: &'a [u8],
    pub limit: usize,
    /// The slice ends after the key that goes beyond this many bytes.
    pub max_bytes: usize,
    pub keys_only: bool,
}

impl Store {
    /// Answers a Range in one go.
    pub fn range(&self, view: &dyn View, request: &RangeRequest) -> Result<RangeResponse, Error> {
        let mut scan = RangeScan::start(self, request)?;
        while scan.step(self) {}
        Ok(scan.finish(view)?.into_response())
    }

    /// Takes one step of a long range at a fixed revision, until a compaction passes that revision.
    pub fn slice(&self, view: &dyn View, window: Window<'_>) -> Result<Slice, Error> {
        Ok(self.pending_slice(window)?.load(view)?)
    }

    /// The part of [`Store::slice`] that needs the store.
    pub fn pending_slice(&self, window: Window<'_>) -> Result<PendingSlice, ApiError> {
        let revision = self.revision_at(window.revision, self.revision())?;
        let range = KeyRange {
            start: window.range.start.as_slice().max(window.from).to_vec(),
            end: window.range.end.clone(),
        };
        let (mut page, mut next) = (Page::default(), None);
        self.index
            .walk(&range, revision, &mut |key, version, handle| {
                if page.items.len() >= window.limit || page.bytes.len() > window.max_bytes {
                    next = Some(key.to_vec());
                    return ControlFlow::Break(());
                }
                match window.keys_only {
                    true => page.push(key, version, Value::Unwanted),
                    false => page.push_cached(&self.cache, key, version, handle),
                }
                ControlFlow::Continue(())
            });
        Ok(PendingSlice {
            page,
            next,
            reread: Arc::clone(&self.reread),
            _pin: self.pin(revision),
        })
    }
}

/// One RangeStream: the same answer as a Range, in chunks.
pub struct Chunks {
    range: KeyRange,
    revision: i64,
    current: i64,
    count: i64,
    keys_only: bool,
    /// Keys that may still be sent.
    remaining: usize,
    limited: bool,
    next: Option<Vec<u8>>,
    chunk_keys: usize,
    max_request_bytes: usize,
}

/// The first chunk has at most this many keys.
const FIRST_CHUNK: usize = 10;

/// A chunk whose values may still have to be loaded, and what makes it a response.
pub struct PendingChunk {
    slice: Option<PendingSlice>,
    last: Option<RangeResponse>,
}

impl PendingChunk {
    /// Loads what is missing; no lock needs to be held.
    pub fn load(self, view: &dyn View) -> storage::Result<RangeResponse> {
        let kvs = match self.slice {
            Some(slice) => slice.load(view)?.kvs,
            None => Vec::new(),
        };
        Ok(RangeResponse {
            kvs,
            ..self.last.unwrap_or_default()
        })
    }
}

impl Chunks {
    /// Starts a RangeStream. `request` has passed [`check_stream`].
    pub fn start(
        store: &Store,
        request: &RangeRequest,
        max_request_bytes: usize,
    ) -> Result<Chunks, ApiError> {
        let revision = store.revision_at(request.revision, store.revision())?;
        let range = KeyRange::new(&request.key, &request.range_end);
        let count = store.index.count(&range, revision) as i64;
        let limited = request.limit > 0;
        let walk = count > 0 && !request.count_only;
        Ok(Chunks {
            next: walk.then(|| range.start.clone()),
            range,
            revision,
            current: store.revision(),
            count,
            keys_only: request.keys_only,
            remaining: match request.limit {
                limit @ 1.. => usize::try_from(limit).unwrap_or(usize::MAX),
                _ => usize::MAX,
            },
            limited: limited && !request.count_only,
            // A negative limit is unlimited and comes as one message.
            chunk_keys: if request.limit < 0 {
                usize::MAX
            } else {
                FIRST_CHUNK
            },
            max_request_bytes,
        })
    }

    /// Returns true once the last chunk has been gathered.
    pub fn is_done(&self) -> bool {
        self.remaining == 0 && self.next.is_none()
    }

    /// Gathers the next chunk. Fails if a compaction has passed the revision that is being read.
    pub fn gather(&mut self, store: &Store) -> Result<PendingChunk, ApiError> {
        let slice = match self.next.take() {
            Some(from) => Some(self.cut(store, &from)?),
            None => None,
        };
        let more = slice.as_ref().is_some_and(|slice| slice.next.is_some());
        if more && self.remaining > 0 {
            self.next = slice.as_ref().and_then(|slice| slice.next.clone());
            return Ok(PendingChunk { slice, last: None });
        }
        self.remaining = 0;
        let last = RangeResponse {
            header: header(self.current),
            more: self.limited && more,
            count: self.count,
            ..RangeResponse::default()
        };
        Ok(PendingChunk {
            slice,
            last: Some(last),
        })
    }

    fn cut(&mut self, store: &Store, from: &[u8]) -> Result<PendingSlice, ApiError> {
        let slice = store.pending_slice(Window {
            range: &self.range,
            revision: self.revision,
            from,
            limit: self.chunk_keys.min(self.remaining),
            max_bytes: usize::MAX,
            keys_only: self.keys_only,
        })?;
        self.remaining -= slice.page.items.len();
        Ok(slice)
    }

    /// Sets the size of the next chunk by that of the last: towards `max_request_bytes`, in steps of two.
    pub fn adapt(&mut self, sent: &RangeResponse) {
        let bytes = sent.encoded_len();
        if bytes < self.max_request_bytes / 2 {
            self.chunk_keys = self.chunk_keys.saturating_mul(2);
        } else if bytes > self.max_request_bytes.saturating_mul(2) {
            self.chunk_keys = (self.chunk_keys / 2).max(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mvcc::Progress;
    use crate::proto::etcdserverpb::PutRequest;
    use crate::proto::kvpb::Origin;
    use crate::storage::Engine;
    use crate::storage::draft::Draft;
    use crate::storage::engine::memory::Memory;

    struct Bench {
        tables: Memory,
        store: Store,
    }

    impl Bench {
        /// A store of `keys` keys with the value `old`, none of which is cached.
        fn new(keys: usize) -> Bench {
            let tables = Memory::new();
            let store = Store::restore(&tables, 0).expect("an empty store");
            let mut bench = Bench { tables, store };
            bench.put_all(keys, b"old");
            bench
        }

        fn put_all(&mut self, keys: usize, value: &[u8]) {
            let mut draft = Draft::over(&self.tables);
            for key in 0..keys {
                let request = PutRequest {
                    key: format!("{key:06}").into_bytes(),
                    value: value.to_vec(),
                    ..PutRequest::default()
                };
                let origin = Origin::default();
                let put = self.store.put(&mut draft, &request, &|_| false, &origin);
                put.expect("nothing refuses it");
            }
            let batch = draft.into_batch();
            self.tables.commit(&batch).expect("written");
        }

        fn compact(&mut self) -> Progress {
            let mut draft = Draft::over(&self.tables);
            let now = self.store.revision();
            self.store.compact(&mut draft, now).expect("a new revision");
            let batch = draft.into_batch();
            self.tables.commit(&batch).expect("written");
            loop {
                let (batch, progress) = self.store.compact_slice();
                self.tables.commit(&batch).expect("written");
                if progress != Progress::More {
                    return progress;
                }
            }
        }
    }

    fn everything() -> RangeRequest {
        RangeRequest {
            key: vec![0],
            range_end: vec![0],
            ..RangeRequest::default()
        }
    }

    #[test]
    fn a_range_that_has_begun_sees_its_revision_to_the_end() {
        const KEYS: usize = 2 * STEP_KEYS + 10;
        // The world changes before the first, second, third step, and before the values are loaded.
        for changed_before in 0..4 {
            let mut bench = Bench::new(KEYS);
            let mut scan = RangeScan::start(&bench.store, &everything()).expect("readable");
            let mut more = true;
            for step in 0..4 {
                if step == changed_before {
                    bench.put_all(KEYS, b"new");
                    assert_eq!(bench.compact(), Progress::Held);
                }
                assert!(more || step == 3);
                more = more && scan.step(&bench.store);
            }
            let found = scan.finish(&bench.tables).expect("nothing is gone");
            let response = found.into_response();
            assert_eq!(response.kvs.len(), KEYS);
            assert!(response.kvs.iter().all(|kv| kv.value == "old"));
            assert_eq!(response.header, header(KEYS as i64 + 1));
            let (_, progress) = bench.store.compact_slice();
            assert_eq!(progress, Progress::More);
        }
    }

    #[test]
    fn an_encoded_answer_is_the_encoding_of_the_answer() {
        let mut bench = Bench::new(700);
        bench.put_all(300, b"");
        let requests = [
            everything(),
            RangeRequest {
                limit: 10,
                ..everything()
            },
            RangeRequest {
                keys_only: true,
                ..everything()
            },
            RangeRequest {
                count_only: true,
                ..everything()
            },
            RangeRequest {
                key: b"none".to_vec(),
                ..RangeRequest::default()
            },
            RangeRequest {
                keys_only: true,
                sort_target: SortTarget::Value.into(),
                sort_order: SortOrder::Descend.into(),
                ..everything()
            },
        ];
        let told = ResponseHeader {
            cluster_id: 7,
            revision: 9,
            ..ResponseHeader::default()
        };
        for request in requests {
            let read = || {
                let mut scan = RangeScan::start(&bench.store, &request).expect("readable");
                while scan.step(&bench.store) {}
                scan.finish(&bench.tables).expect("nothing is gone")
            };
            let mut encoded = vec![1, 2, 3];
            read().encode(&told, &mut encoded);
            let mut response = read().into_response();
            response.header = Some(told);
            assert_eq!(encoded[3..], response.encode_to_vec(), "{request:?}");
        }
    }

    #[test]
    fn a_single_key_that_is_found_stays_readable() {
        let mut bench = Bench::new(1);
        let request = RangeRequest {
            key: b"000000".to_vec(),
            ..RangeRequest::default()
        };
        let scan = RangeScan::start(&bench.store, &request).expect("readable");
        bench.put_all(1, b"new");
        assert_eq!(bench.compact(), Progress::Held);
        let found = scan.finish(&bench.tables).expect("nothing is gone");
        let response = found.into_response();
        assert_eq!(response.kvs[0].value, "old");
    }

    #[test]
    fn a_stream_ends_when_a_compaction_passes_it() {
        let mut bench = Bench::new(20);
        let mut chunks = Chunks::start(&bench.store, &everything(), 1 << 20).expect("readable");
        let chunk = chunks.gather(&bench.store).expect("readable");
        bench.put_all(20, b"new");
        assert_eq!(bench.compact(), Progress::Held);
        let sent = chunk.load(&bench.tables).expect("gathered is readable");
        assert_eq!(sent.kvs.len(), FIRST_CHUNK);
        assert!(matches!(
            chunks.gather(&bench.store),
            Err(ApiError::Compacted)
        ));
    }
}
