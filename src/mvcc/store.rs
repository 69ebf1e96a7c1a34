//! Put, delete, and the history of both.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

use super::Event;
use super::Revision;
use super::cache::Cache;
use super::cache::Reread;
use super::checkpoint::Loaded;
use super::compact::Compactor;
use super::compact::Sizes;
use super::index::Freed;
use super::index::Handle;
use super::index::Index;
use super::index::Version;
use super::range::header;
use super::record;
use super::record::Encoder;
use super::record::Pages;
use crate::error::ApiError;
use crate::error::Error;
use crate::proto::KeyRange;
use crate::proto::etcdserverpb::DeleteRangeRequest;
use crate::proto::etcdserverpb::DeleteRangeResponse;
use crate::proto::etcdserverpb::PutRequest;
use crate::proto::etcdserverpb::PutResponse;
use crate::proto::kvpb::Origin;
use crate::proto::mvccpb::KeyValue;
use crate::storage;
use crate::storage::Table;
use crate::storage::View;
use crate::storage::draft::Draft;
use crate::util::metrics;

/// Answers whether a lease exists.
pub type Leases<'a> = dyn Fn(i64) -> bool + 'a;

/// The checks of a put that need no state.
pub fn check_put(request: &PutRequest) -> Result<(), ApiError> {
    if request.key.is_empty() {
        return Err(ApiError::EmptyKey);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(ApiError::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(ApiError::LeaseProvided);
    }
    Ok(())
}

/// The checks of a deletion that need no state.
pub fn check_delete(request: &DeleteRangeRequest) -> Result<(), ApiError> {
    match request.key.is_empty() {
        true => Err(ApiError::EmptyKey),
        false => Ok(()),
    }
}

/// One part in this many of the cache is for values read back, the rest for values just written.
const REREAD_SHARE: usize = 4;

/// Every key and its history since the last compaction.
pub struct Store {
    pub(super) revision: i64,
    pub(super) index: Index,
    pub(super) cache: Cache,
    pub(super) reread: Arc<Reread>,
    pub(super) compactor: Compactor,
    pub(super) sizes: Sizes,
    /// Records after the last checkpoint.
    pub(super) since_checkpoint: u64,
    events: Vec<Arc<Event>>,
}

/// A transaction under way: it becomes the next revision with its first change.
pub(super) struct Change {
    main: i64,
    sub: u32,
    encoder: Encoder,
}

impl Change {
    fn next(&mut self) -> Revision {
        let at = Revision {
            main: self.main,
            sub: self.sub,
        };
        self.sub += 1;
        at
    }

    /// The revision a reader inside the transaction is at.
    pub(super) fn current(&self) -> i64 {
        self.main - i64::from(self.sub == 0)
    }
}

impl Store {
    /// Reads the state back from the tables; empty ones make a fresh store at revision 1.
    pub fn restore(view: &dyn View, cache_bytes: usize) -> storage::Result<Store> {
        Store::restore_from(None, view, cache_bytes, &mut |_| {})
    }

    /// Continues from a checkpoint, if there is one, with the records after it, and shows each record it
    /// reads to `visit`, in the order of revisions.
    pub fn restore_from(
        loaded: Option<Loaded>,
        view: &dyn View,
        cache_bytes: usize,
        visit: &mut dyn FnMut(&KeyValue),
    ) -> storage::Result<Store> {
        let mut compactor = Compactor::restore(view)?;
        let (mut index, mut sizes, mut upto) = (Index::new(), Sizes::default(), 0);
        if let Some(loaded) = loaded {
            (index, sizes, upto) = (loaded.index, loaded.sizes, loaded.revision);
            compactor.held = loaded.held;
            compactor.checkpoint = Some(upto);
        }
        index.begin_at(compactor.compacted);
        let mut store = Store {
            // The newest revision always has a record: reclaiming leaves a tombstone at the compacted one.
            revision: compactor.compacted.max(upto).max(1),
            index,
            cache: Cache::new(cache_bytes - cache_bytes / REREAD_SHARE),
            reread: Arc::new(Reread::new(cache_bytes / REREAD_SHARE)),
            compactor,
            sizes,
            since_checkpoint: 0,
            events: Vec::new(),
        };
        let mut pages = Pages::new(if upto > 0 { upto + 1 } else { 0 }, i64::MAX);
        while let Some(page) = pages.read(view)? {
            for record in page {
                visit(&record.kv);
                store.index.restore(&record.kv.key, record.version());
                store.sizes.add(record.at, record.size());
                store.since_checkpoint += 1;
                store.revision = store.revision.max(record.at.main);
            }
        }
        store.forget_reclaimed(upto);
        Ok(store)
    }

    /// Takes what is reclaimed out of the index. Of what the checkpoint at `upto` holds the records are gone;
    /// what is behind it was just read, so its record is still there.
    fn forget_reclaimed(&mut self, upto: i64) {
        let finished = self.compactor.finished();
        let (mut freed, mut done) = (Vec::new(), finished <= 0);
        while !done {
            done = self.index.compact(finished, usize::MAX, &mut freed);
            for Freed { at, .. } in freed.drain(..) {
                match at.main <= upto {
                    true => self.sizes.free(at),
                    false => drop(self.compactor.held.insert(at)),
                }
            }
        }
    }

    /// The revision of the last transaction that changed something. A fresh store is at 1.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The number of keys that exist now.
    pub fn live_keys(&self) -> u64 {
        self.index.live()
    }

    /// The number of all records that are not reclaimed.
    pub fn records(&self) -> u64 {
        self.sizes.records()
    }

    /// The bytes of all records that are not reclaimed, to within the size differences of a thousand of them.
    pub fn live_bytes(&self) -> u64 {
        self.sizes.total()
    }

    /// The bytes that cached values take.
    pub fn cache_bytes(&self) -> usize {
        self.cache.bytes() + self.reread.bytes()
    }

    /// Returns the revision to read for an asked one: 0 and below mean the current one.
    pub fn check_revision(&self, revision: i64) -> Result<i64, ApiError> {
        self.revision_at(revision, self.revision)
    }

    pub(super) fn revision_at(&self, revision: i64, current: i64) -> Result<i64, ApiError> {
        match revision {
            ..=0 => Ok(current),
            _ if revision > current => Err(ApiError::FutureRev),
            _ if revision < self.compactor.compacted => Err(ApiError::Compacted),
            _ => Ok(revision),
        }
    }

    /// Puts one key, as a transaction of its own.
    pub fn put(
        &mut self,
        draft: &mut Draft<'_>,
        request: &PutRequest,
        leases: &Leases<'_>,
        origin: &Origin,
    ) -> Result<PutResponse, Error> {
        self.may_put(request, leases)?;
        let mut change = self.begin(origin);
        let response = self.apply_put(draft, &mut change, request)?;
        self.commit(change);
        Ok(response)
    }

    /// Deletes a range, as a transaction of its own. Deleting nothing makes no revision.
    pub fn delete_range(
        &mut self,
        draft: &mut Draft<'_>,
        request: &DeleteRangeRequest,
        origin: &Origin,
    ) -> Result<DeleteRangeResponse, Error> {
        let mut change = self.begin(origin);
        let response = self.apply_delete(draft, &mut change, request)?;
        self.commit(change);
        Ok(response)
    }

    /// Deletes the given keys in ascending order and in one revision. Returns how many existed.
    pub fn delete_keys(
        &mut self,
        draft: &mut Draft<'_>,
        keys: &[Vec<u8>],
        origin: &Origin,
    ) -> Result<usize, Error> {
        let mut keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        keys.sort_unstable();
        metrics::DELETES.inc_by(keys.len() as u64);
        let mut change = self.begin(origin);
        let deleted = keys
            .into_iter()
            .filter(|key| self.delete_key(draft, &mut change, key))
            .count();
        self.commit(change);
        Ok(deleted)
    }

    /// The events of the transactions since the last call, in the order of the changes.
    pub fn take_events(&mut self) -> Vec<Arc<Event>> {
        std::mem::take(&mut self.events)
    }

    pub(super) fn begin(&self, origin: &Origin) -> Change {
        Change {
            main: self.revision + 1,
            sub: 0,
            encoder: Encoder::new(origin),
        }
    }

    pub(super) fn commit(&mut self, change: Change) {
        self.revision = change.current();
    }

    /// The checks of a put that need the state before its transaction.
    pub(super) fn may_put(
        &self,
        request: &PutRequest,
        leases: &Leases<'_>,
    ) -> Result<(), ApiError> {
        if request.lease != 0 && !leases(request.lease) {
            return Err(ApiError::LeaseNotFound);
        }
        let reuses = request.ignore_value || request.ignore_lease;
        if reuses && self.index.get(&request.key).is_none() {
            return Err(ApiError::KeyNotFound);
        }
        Ok(())
    }

    pub(super) fn apply_put(
        &mut self,
        draft: &mut Draft<'_>,
        change: &mut Change,
        request: &PutRequest,
    ) -> storage::Result<PutResponse> {
        let mut prev_kv = None;
        if request.prev_kv || request.ignore_value || request.ignore_lease {
            prev_kv = self.newest(draft, &request.key)?;
        }
        let (mut value, mut lease) = (request.value.as_slice(), request.lease);
        if let Some(previous) = &prev_kv {
            if request.ignore_value {
                value = &previous.value;
            }
            if request.ignore_lease {
                lease = previous.lease;
            }
        }
        metrics::PUTS.inc();
        metrics::PUT_SIZE.add((request.key.len() + value.len()) as i64);
        let at = change.next();
        let handle = self.cache.push(lease, value);
        let version = self.index.put(&request.key, at, handle);
        let (bytes, kv) = change.encoder.put(&request.key, version, value, lease);
        self.log(draft, at, bytes, Event::put(kv));
        Ok(PutResponse {
            header: header(at.main),
            prev_kv: prev_kv.filter(|_| request.prev_kv),
        })
    }

    pub(super) fn apply_delete(
        &mut self,
        draft: &mut Draft<'_>,
        change: &mut Change,
        request: &DeleteRangeRequest,
    ) -> storage::Result<DeleteRangeResponse> {
        metrics::DELETES.inc();
        let range = KeyRange::new(&request.key, &request.range_end);
        let mut found = Vec::new();
        let now = change.current();
        self.index.walk(&range, now, &mut |key, version, handle| {
            found.push((key.to_vec(), version, handle));
            ControlFlow::Continue(())
        });
        let mut prev_kvs = Vec::new();
        for (key, version, handle) in &found {
            if request.prev_kv {
                prev_kvs.push(self.kv(draft, key, *version, *handle)?);
            }
        }
        for (key, ..) in &found {
            let deleted = self.delete_key(draft, change, key);
            assert!(deleted, "a key that was just found is live");
        }
        Ok(DeleteRangeResponse {
            header: header(change.current()),
            deleted: found.len() as i64,
            prev_kvs,
        })
    }

    fn delete_key(&mut self, draft: &mut Draft<'_>, change: &mut Change, key: &[u8]) -> bool {
        if self.index.get(key).is_none() {
            return false;
        }
        let at = change.next();
        self.index.delete(key, at);
        let (bytes, kv) = change.encoder.tombstone(key, at);
        self.log(draft, at, bytes, Event::delete(kv));
        true
    }

    fn log(&mut self, draft: &mut Draft<'_>, at: Revision, bytes: Bytes, event: Event) {
        let key = Bytes::copy_from_slice(&record::key(at));
        self.sizes.add(at, key.len() + bytes.len());
        self.since_checkpoint += 1;
        self.compactor.written += 1;
        draft.put(Table::Revisions, key, bytes);
        self.events.push(Arc::new(event));
    }

    pub(super) fn newest(&self, view: &dyn View, key: &[u8]) -> storage::Result<Option<KeyValue>> {
        match self.index.get(key) {
            Some((version, handle)) => self.kv(view, key, version, handle).map(Some),
            None => Ok(None),
        }
    }

    /// Completes a version with its value: from the cache, or else from its record.
    pub(super) fn kv(
        &self,
        view: &dyn View,
        key: &[u8],
        version: Version,
        handle: Handle,
    ) -> storage::Result<KeyValue> {
        let (lease, value) = match self.cache.get(handle) {
            Some((lease, value)) => (lease, Bytes::copy_from_slice(value)),
            None => self.reread.load(view, version.modified)?,
        };
        Ok(KeyValue {
            key: Bytes::copy_from_slice(key),
            create_revision: version.created,
            mod_revision: version.modified.main,
            version: version.version,
            value,
            lease,
        })
    }

    /// The state of `key` at `revision`; `None` if it did not exist, or if that is no longer known.
    pub fn kv_at(
        &self,
        view: &dyn View,
        key: &[u8],
        revision: i64,
    ) -> Result<Option<KeyValue>, Error> {
        if revision < self.compactor.compacted || revision > self.revision {
            return Ok(None);
        }
        match self.index.get_at(key, revision) {
            Some((version, handle)) => Ok(Some(self.kv(view, key, version, handle)?)),
            None => Ok(None),
        }
    }

    /// Who made a revision, and when. `None` if nothing of it is left.
    pub fn origin(&self, view: &dyn View, revision: i64) -> storage::Result<Option<Origin>> {
        let page = Pages::new(revision, revision).read(view)?;
        let first = page.and_then(|page| page.into_iter().next());
        first.map(|record| record.origin()).transpose()
    }

    /// Reads history back: the events of revisions `from..=to`, and the revision to go on with.
    ///
    /// Stops between two revisions once it has `max_revisions` of them or `max_bytes`.
    pub fn events(
        &self,
        view: &dyn View,
        from: i64,
        to: i64,
        max_revisions: usize,
        max_bytes: usize,
    ) -> Result<(Vec<Arc<Event>>, i64), Error> {
        if from < self.compactor.compacted {
            return Err(ApiError::Compacted.into());
        }
        let to = to.min(self.revision);
        let mut pages = Pages::new(from, to);
        let (mut events, mut last, mut revisions, mut bytes) = (Vec::new(), 0, 0, 0);
        while let Some(page) = pages.read(view)? {
            for record in page {
                if record.at.main != last {
                    if revisions == max_revisions || bytes >= max_bytes {
                        return Ok((events, record.at.main));
                    }
                    last = record.at.main;
                    revisions += 1;
                }
                bytes += record.size();
                events.push(Arc::new(record.into_event()));
            }
        }
        Ok((events, to.saturating_add(1).max(from)))
    }
}
