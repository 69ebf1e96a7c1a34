//! HashKV: one number that members with the same history agree on, and that etcd would compute as well.
//!
//! CRC-32C over the word `key`, then the stored revisions in order, without those that a compaction at the
//! hashed revision drops. Whether records are reclaimed yet must not show, so the index is asked about the
//! old ones.

use std::ops::ControlFlow;

use super::Store;
use super::compact::Pin;
use super::record::Pages;
use super::record::Record;
use crate::error::ApiError;
use crate::error::Error;
use crate::proto::KeyRange;
use crate::storage;
use crate::storage::View;

/// The answer of HashKV.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKv {
    pub hash: u32,
    pub compact_revision: i64,
    pub hash_revision: i64,
}

/// A hash on its way: alternately [`read`](HashScan::read) without a lock and [`feed`](HashScan::feed).
pub struct HashScan {
    hash: u32,
    revision: i64,
    compacted: i64,
    /// Revisions up to `compacted` count only if they are live here.
    kept_at: i64,
    pages: Pages,
    page: Option<Vec<Record>>,
    /// The answer, if it was remembered.
    known: Option<HashKv>,
    _pin: Pin,
}

impl HashScan {
    fn new(store: &Store, revision: i64, compacted: i64, kept_at: i64) -> HashScan {
        HashScan {
            hash: crc32c::crc32c(b"key"),
            revision,
            compacted,
            kept_at,
            pages: Pages::new(0, revision),
            page: Some(Vec::new()),
            known: None,
            _pin: store.pin(compacted.max(0)),
        }
    }

    /// The hash at `revision`; 0 is the current one.
    pub fn start(store: &Store, revision: i64) -> Result<HashScan, ApiError> {
        let compacted = store.compacted();
        let known = store.compactor.remembered(revision);
        if known.is_none() && revision > 0 && revision < compacted {
            return Err(ApiError::Compacted);
        }
        if revision > store.revision() {
            return Err(ApiError::FutureRev);
        }
        let revision = if revision == 0 {
            store.revision()
        } else {
            revision
        };
        // If no key is live at `revision` etcd has nothing to compare with, and takes all that is stored.
        let kept_at = match any_live(store, revision) {
            true => revision,
            false => compacted,
        };
        let mut scan = HashScan::new(store, revision, compacted, kept_at);
        scan.known = known;
        Ok(scan)
    }

    /// The hash that the compaction at `revision` leaves behind.
    pub(super) fn of_compaction(store: &Store, revision: i64, previous: i64) -> HashScan {
        HashScan::new(store, revision, previous, revision)
    }

    /// Reads the next page.
    pub fn read(&mut self, view: &dyn View) -> storage::Result<()> {
        if self.known.is_none() {
            self.page = self.pages.read(view)?;
        }
        Ok(())
    }

    /// Takes in the page that was read. Returns the hash at the end.
    pub fn feed(&mut self, store: &Store) -> Option<HashKv> {
        if self.known.is_some() {
            return self.known;
        }
        let Some(page) = self.page.take() else {
            return Some(HashKv {
                hash: self.hash,
                compact_revision: self.compacted,
                hash_revision: self.revision,
            });
        };
        for record in &page {
            if self.counts(store, record) {
                let (key, length) = record.etcd_key();
                self.hash = crc32c::crc32c_append(self.hash, &key[..length]);
                self.hash = crc32c::crc32c_append(self.hash, &record.encoded);
            }
        }
        None
    }

    fn counts(&self, store: &Store, record: &Record) -> bool {
        if record.at.main > self.compacted {
            return true;
        }
        let live = store.index.get_at(&record.kv.key, self.kept_at);
        live.is_some_and(|(version, _)| version.modified == record.at)
    }
}

fn any_live(store: &Store, revision: i64) -> bool {
    let all = KeyRange::new(b"\0", b"\0");
    let mut any = false;
    store.index.walk(&all, revision, &mut |_, _, _| {
        any = true;
        ControlFlow::Break(())
    });
    any
}

impl Store {
    /// Computes HashKV in one go.
    pub fn hash_kv(&self, view: &dyn View, revision: i64) -> Result<HashKv, Error> {
        let mut scan = HashScan::start(self, revision)?;
        loop {
            scan.read(view)?;
            if let Some(hash) = scan.feed(self) {
                return Ok(hash);
            }
        }
    }
}
