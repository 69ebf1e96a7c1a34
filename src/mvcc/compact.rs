//! Forgetting the past: at once for readers, in small steps for the disk.
//!
//! A compaction first moves the revision below which reads are refused. Later, slice by slice, the
//! versions nobody can see any more leave the index and the tables; a reader that began before holds a
//! [`Pin`], and reclaiming stays below it. Both ends are recorded, so that an interrupted compaction goes
//! on after a restart.
//!
//! A restart may begin with a checkpoint of the index, and then reads only the records after it. So the
//! tombstones after the last checkpoint are held back: nothing else tells that their keys are gone.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::Revision;
use super::Store;
use super::checkpoint::Checkpoint;
use super::hash::HashKv;
use super::hash::HashScan;
use super::index::Freed;
use super::record;
use crate::error::ApiError;
use crate::error::Error;
use crate::error::Fault;
use crate::storage;
use crate::storage::Batch;
use crate::storage::Table;
use crate::storage::View;
use crate::storage::draft::Draft;

/// The revision below which reads are refused.
const COMPACTED: &[u8] = b"mvcc/compacted";
/// The last compaction whose records are all gone.
const FINISHED: &[u8] = b"mvcc/compaction finished";

/// Tombstones that were held back and are dropped in one slice.
const SLICE_HELD: usize = 512;

/// Index leaves cleaned in one slice: about 30 µs.
const SLICE_LEAVES: usize = 16;

/// Records dropped in one slice.
const SLICE_RECORDS: usize = 1024;

/// A slice is at most so many times as large as it is while nothing is written. As many records as twice this
/// come with one hold of the lock when clients send long transactions.
const MAX_SHARE: usize = 128;

/// Revisions that are gathered before their records are dropped in order: 4 MiB of them.
const GATHERED: usize = 1 << 18;

/// As many hashes of finished compactions as etcd remembers.
const REMEMBERED: usize = 10;

/// Keeps the versions that are visible at a revision from being reclaimed until it is dropped.
#[derive(Debug)]
pub struct Pin {
    revision: i64,
    pins: Arc<Pins>,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut held = self.pins.held.lock();
        if let Some(count) = held.get_mut(&self.revision) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.revision);
            }
        }
    }
}

/// The revisions that are being read, and by how many.
#[derive(Debug, Default)]
pub(super) struct Pins {
    held: Mutex<BTreeMap<i64, usize>>,
}

impl Pins {
    fn pin(self: &Arc<Pins>, revision: i64) -> Pin {
        *self.held.lock().entry(revision).or_default() += 1;
        Pin {
            revision,
            pins: Arc::clone(self),
        }
    }

    fn lowest(&self) -> Option<i64> {
        self.held.lock().keys().next().copied()
    }
}

/// What a slice of reclaiming achieved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There is more to do at once.
    More,
    /// A reader holds the rest back; try again when it may be gone.
    Held,
    /// Everything that was compacted is reclaimed.
    Done,
}

/// A compaction that is not finished.
#[derive(Clone, Copy, Debug)]
struct Job {
    revision: i64,
    /// The compaction before it.
    previous: i64,
    hash: Option<HashKv>,
}

/// Where the store stands between compacted and reclaimed.
pub(super) struct Compactor {
    pub(super) compacted: i64,
    finished: i64,
    /// Everything a compaction at this revision frees is freed in the index.
    reclaimed: i64,
    /// What left the index, in its order, and, once that is enough, in falling order of revisions: the records
    /// are still in the tables.
    freed: Vec<Revision>,
    doomed: Vec<Revision>,
    /// Records written since the last slice.
    pub(super) written: usize,
    jobs: VecDeque<Job>,
    hashes: VecDeque<HashKv>,
    pins: Arc<Pins>,
    /// The revision of the checkpoint a restart would begin with.
    pub(super) checkpoint: Option<i64>,
    /// Tombstones that left the index, but not the tables.
    pub(super) held: BTreeSet<Revision>,
}

impl Compactor {
    pub(super) fn restore(view: &dyn View) -> storage::Result<Compactor> {
        let compacted = read(view, COMPACTED)?.unwrap_or(-1);
        let finished = read(view, FINISHED)?.unwrap_or(-1);
        let unfinished = (finished < compacted).then_some(Job {
            revision: compacted,
            previous: finished,
            hash: None,
        });
        Ok(Compactor {
            compacted,
            finished,
            reclaimed: finished,
            freed: Vec::new(),
            doomed: Vec::new(),
            written: 0,
            jobs: unfinished.into_iter().collect(),
            hashes: VecDeque::new(),
            pins: Arc::default(),
            checkpoint: None,
            held: BTreeSet::new(),
        })
    }

    /// The hash that was taken when the compaction at `revision` finished.
    pub(super) fn remembered(&self, revision: i64) -> Option<HashKv> {
        let mut hashes = self.hashes.iter();
        hashes.find(|hash| hash.hash_revision == revision).copied()
    }

    /// The last compaction whose records are all gone.
    pub(super) fn finished(&self) -> i64 {
        self.finished
    }

    /// Holds back all reclaiming until the pin is dropped.
    pub(super) fn pause(&self) -> Pin {
        self.pins.pin(self.reclaimed.max(0))
    }

    /// What is in the tables, but not in the index.
    pub(super) fn unindexed(&self) -> BTreeSet<Revision> {
        let dropped_next = self.freed.iter().chain(&self.doomed);
        self.held.iter().chain(dropped_next).copied().collect()
    }

    /// Returns true if the index and the tables may differ in what is reclaimed.
    pub(super) fn is_behind(&self) -> bool {
        let released = self.held.first().is_some_and(|at| self.is_released(*at));
        released || !self.jobs.is_empty()
    }

    fn is_released(&self, at: Revision) -> bool {
        self.checkpoint
            .is_none_or(|checkpoint| at.main <= checkpoint)
    }

    fn finish(&mut self, job: Job) {
        self.jobs.pop_front();
        self.finished = job.revision;
        if let Some(hash) = job.hash {
            self.hashes.push_back(hash);
            if self.hashes.len() > REMEMBERED {
                self.hashes.pop_front();
            }
        }
    }
}

impl Store {
    /// The revision below which nothing can be read; -1 if there never was a compaction.
    pub fn compacted(&self) -> i64 {
        self.compactor.compacted
    }

    /// The last compaction that is reclaimed to the end.
    pub fn compaction_finished(&self) -> i64 {
        self.compactor.finished
    }

    /// Holds back reclaiming below `revision` until the pin is dropped.
    pub fn pin(&self, revision: i64) -> Pin {
        self.compactor.pins.pin(revision)
    }

    /// Compacts at `revision`: older revisions are refused from now on, and reclaimed by and by.
    pub fn compact(&mut self, draft: &mut Draft<'_>, revision: i64) -> Result<(), Error> {
        if revision <= self.compactor.compacted {
            return Err(ApiError::Compacted.into());
        }
        if revision > self.revision {
            return Err(ApiError::FutureRev.into());
        }
        draft.put(Table::Meta, COMPACTED, revision.to_be_bytes().to_vec());
        self.compactor.jobs.push_back(Job {
            revision,
            previous: self.compactor.compacted,
            hash: None,
        });
        self.compactor.compacted = revision;
        Ok(())
    }

    /// The scan that computes the hash etcd would remember of the next compaction.
    ///
    /// It must run before the compaction is reclaimed, which it holds back. Whoever does not need the hash
    /// may go straight to [`Store::compact_slice`].
    pub fn compaction_hash(&self) -> Option<HashScan> {
        let job = self.compactor.jobs.front()?;
        // With so many behind it, this one's hash would be forgotten before anyone could ask.
        let wanted = job.hash.is_none() && self.compactor.jobs.len() <= REMEMBERED;
        wanted.then(|| HashScan::of_compaction(self, job.revision, job.previous))
    }

    /// Gives back the result of [`Store::compaction_hash`].
    pub fn compaction_hashed(&mut self, hash: HashKv) {
        let mut jobs = self.compactor.jobs.iter_mut();
        if let Some(job) = jobs.find(|job| job.revision == hash.hash_revision) {
            job.hash = Some(hash);
        }
    }

    /// Reclaims a little. The batch may be written at any later time, in order with other such batches.
    pub fn compact_slice(&mut self) -> (Batch, Progress) {
        let mut batch = Batch::default();
        let Some(&job) = self.compactor.jobs.front() else {
            return (batch, Progress::Done);
        };
        let lowest = self.compactor.pins.lowest().unwrap_or(i64::MAX);
        if lowest <= self.compactor.reclaimed.max(0) {
            return (batch, Progress::Held);
        }
        let target = job.revision.min(lowest);
        // Twice what was written meanwhile, so that reclaiming gets done however fast writing is.
        let share = (2 * std::mem::take(&mut self.compactor.written)).div_ceil(SLICE_RECORDS);
        let share = share.clamp(1, MAX_SHARE);
        if self.compactor.doomed.is_empty() {
            self.free(target, share * SLICE_LEAVES);
        }
        for _ in 0..share * SLICE_RECORDS {
            let Some(at) = self.compactor.doomed.pop() else {
                break;
            };
            self.drop_record(&mut batch, at);
        }
        let settled = self.compactor.doomed.is_empty() && self.compactor.freed.is_empty();
        if settled && self.compactor.reclaimed >= job.revision {
            batch.put(Table::Meta, FINISHED, job.revision.to_be_bytes().to_vec());
            self.compactor.finish(job);
        }
        let progress = match self.compactor.jobs.front() {
            None => Progress::Done,
            Some(_) if settled && target == lowest && target <= self.compactor.reclaimed => {
                Progress::Held
            }
            Some(_) => Progress::More,
        };
        (batch, progress)
    }

    /// Takes what nobody can see at `target` out of some leaves of the index. Its records go in the order of
    /// revisions, in which they stand in the tables: the engine meets each of its pages once.
    fn free(&mut self, target: i64, leaves: usize) {
        let mut freed = Vec::new();
        let done =
            target <= self.compactor.reclaimed || self.index.compact(target, leaves, &mut freed);
        let compactor = &mut self.compactor;
        for Freed { at, tombstone } in freed {
            match tombstone && !compactor.is_released(at) {
                true => drop(compactor.held.insert(at)),
                false => compactor.freed.push(at),
            }
        }
        if done {
            compactor.reclaimed = compactor.reclaimed.max(target);
        }
        if done || compactor.freed.len() >= GATHERED {
            compactor.freed.sort_unstable_by(|a, b| b.cmp(a));
            compactor.doomed = std::mem::take(&mut compactor.freed);
        }
    }
}

fn read(view: &dyn View, key: &'static [u8]) -> storage::Result<Option<i64>> {
    let Some(value) = view.get(Table::Meta, key)? else {
        return Ok(None);
    };
    match value[..].try_into() {
        Ok(number) => Ok(Some(i64::from_be_bytes(number))),
        Err(_) => {
            let name = String::from_utf8_lossy(key).into_owned();
            Err(Fault::damaged(name, "the record has a wrong length"))
        }
    }
}

impl Store {
    /// From now on a restart may begin with this checkpoint, or with the one before.
    pub fn publish_checkpoint(&mut self, checkpoint: &Checkpoint) {
        let revision = checkpoint.revision();
        self.compactor.checkpoint.get_or_insert(revision);
    }

    /// A restart will begin with this checkpoint: what was held back for it may go.
    pub fn checkpoint_published(&mut self, checkpoint: &Checkpoint) {
        self.compactor.checkpoint = Some(checkpoint.revision());
        self.since_checkpoint -= checkpoint.covers();
    }

    /// How many records a restart would have to read.
    pub fn records_since_checkpoint(&self) -> u64 {
        self.since_checkpoint
    }

    /// The revision of the checkpoint that a restart would begin with.
    pub fn last_checkpoint(&self) -> Option<i64> {
        self.compactor.checkpoint
    }

    /// Drops some of the tombstones that need not be held back any more; an empty batch is the last.
    pub fn release_held(&mut self) -> Batch {
        let mut batch = Batch::default();
        while batch.writes.len() < SLICE_HELD
            && let Some(&at) = self.compactor.held.first()
            && self.compactor.is_released(at)
        {
            self.compactor.held.remove(&at);
            self.drop_record(&mut batch, at);
        }
        batch
    }

    fn drop_record(&mut self, batch: &mut Batch, at: Revision) {
        self.sizes.free(at);
        batch.delete(Table::Revisions, Bytes::copy_from_slice(&record::key(at)));
    }
}

/// How many bytes of records are stored, without remembering the size of each.
///
/// Sizes are summed over blocks of revisions. A freed record takes the mean of its block away, which is
/// exact again once the block is empty.
#[derive(Default)]
pub(super) struct Sizes {
    blocks: BTreeMap<i64, Block>,
    records: u64,
    total: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Block {
    pub records: u64,
    pub bytes: u64,
}

const BLOCK_BITS: u32 = 10;

impl Sizes {
    pub(super) fn add(&mut self, at: super::Revision, bytes: usize) {
        let block = self.blocks.entry(at.main >> BLOCK_BITS).or_default();
        block.records += 1;
        block.bytes += bytes as u64;
        self.records += 1;
        self.total += bytes as u64;
    }

    pub(super) fn free(&mut self, at: super::Revision) {
        let number = at.main >> BLOCK_BITS;
        if let Some(block) = self.blocks.get_mut(&number) {
            let mean = block.bytes / block.records;
            block.bytes -= mean;
            block.records -= 1;
            self.records -= 1;
            self.total -= mean;
            if block.records == 0 {
                self.total -= block.bytes;
                self.blocks.remove(&number);
            }
        }
    }

    /// The number of the block that holds revision `main`.
    pub(super) fn number(main: i64) -> i64 {
        main >> BLOCK_BITS
    }

    /// The first and the last revision of a block.
    pub(super) fn revisions(number: i64) -> (i64, i64) {
        (number << BLOCK_BITS, ((number + 1) << BLOCK_BITS) - 1)
    }

    /// Up to `limit` blocks from number `from` on.
    pub(super) fn blocks(&self, from: i64, limit: usize) -> impl Iterator<Item = (i64, Block)> {
        let blocks = self.blocks.range(from..).take(limit);
        blocks.map(|(number, block)| (*number, *block))
    }

    pub(super) fn restore(&mut self, number: i64, block: Block) {
        self.total += block.bytes;
        self.records += block.records;
        self.blocks.insert(number, block);
    }

    /// The number of records.
    pub(super) fn records(&self) -> u64 {
        self.records
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }
}
