//! The one hand that writes the log: records into a group, the group to disk, then the news of it.
//!
//! Nothing here waits or starts a thread; whoever holds the writer decides when to flush.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use super::Change;
use super::Done;
use super::Index;
use super::Options;
use super::Published;
use super::Slot;
use super::State;
use super::record::Group;
use super::record::Record;
use super::recover::Found;
use super::recover::Listing;
use super::recover::droppable;
use super::segment::Active;
use super::segment::Header;
use super::segment::Spares;
use crate::storage::Result;
use crate::storage::disk::Disk;
use crate::util::metrics;

/// A group is written out at this size, so that the buffer and the time of one write stay bounded.
const GROUP_BYTES: usize = 4 << 20;
/// How far ahead of the log a segment without written blocks is filled with zeros.
const AHEAD_BYTES: u64 = 1 << 20;
/// Of the last 128 syncs, those that may take longer than a quick one: a busy machine delays some.
const MAX_SLOW: u32 = 6;
/// A sync this long is too long for a thread that has other things to do.
const LONE_SYNC: Duration = Duration::from_millis(1);

/// What was done since the log was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Groups written.
    pub writes: u64,
    pub syncs: u64,
    /// Bytes of those groups.
    pub bytes: u64,
    /// Segments begun.
    pub segments: u64,
}

pub struct Writer {
    options: Options,
    spares: Arc<Spares>,
    published: Arc<Published>,
    /// What the header of the next segment repeats; includes what is in `group`.
    state: State,
    active: Active,
    group: Group,
    /// What the records in `group` do to the index.
    changes: Vec<Change>,
    /// Told when `group` is durable.
    waiting: Vec<Done>,
    counters: Counters,
    /// One bit for each of the last syncs, set if it took longer than [`LONE_SYNC`].
    slow: u128,
}

impl Writer {
    /// Recovers the log in `dir` or begins one.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: Options,
    ) -> Result<(Writer, super::Recovered)> {
        let listing = Listing::of(&*disk, dir)?;
        let found = listing.recover(&*disk, dir, &options)?;
        let spares = Spares::new(disk, dir, options.segment_bytes, options.no_sync);
        let found = match found {
            Some(found) => found,
            None => fresh(&spares, &options)?,
        };
        let recovered = super::Recovered {
            cluster_id: found.cluster_id,
            member_id: found.member_id,
            vote: found.state.vote.clone(),
            committed: found.state.committed.clone(),
            purged: found.state.purged,
            last: found.state.last,
            repaired: found.repaired,
            foreign: listing.foreign,
        };
        let options = Options {
            cluster_id: found.cluster_id,
            member_id: found.member_id,
            ..options
        };
        let mut writer = Writer {
            options,
            spares: Arc::new(spares),
            published: Arc::new(Published::new(found.index, found.state.last)),
            state: found.state,
            active: found.active,
            group: Group::new(),
            changes: Vec::new(),
            waiting: Vec::new(),
            counters: Counters::default(),
            slow: 0,
        };
        writer.retire()?;
        Ok((writer, recovered))
    }

    pub fn published(&self) -> &Arc<Published> {
        &self.published
    }

    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// True while nearly all of the recent syncs were short.
    pub fn is_quick(&self) -> bool {
        self.slow.count_ones() <= MAX_SLOW
    }

    /// Adds a record to the group. Writes out the one before if there is no room for both.
    pub fn add(&mut self, record: &Record) -> Result<()> {
        let full = |writer: &Writer| {
            writer.active.end + writer.group.len_with(record) as u64 > writer.options.segment_bytes
        };
        if !self.group.is_empty() && (self.group.len() >= GROUP_BYTES || full(self)) {
            self.flush()?;
        }
        if self.group.is_empty() {
            self.group.begin(self.active.end, self.active.chain);
            // A record larger than a segment gets a segment of its own, as large as it takes.
            if full(self) && self.active.end > self.active.start {
                self.roll()?;
                self.group.begin(self.active.end, self.active.chain);
            }
        }
        let place = self.group.push(record);
        self.state.note(record);
        self.changes.push(match record {
            Record::Entry(entry) => {
                Change::Entry(entry.index, Slot::new(self.active.sequence, place))
            }
            other => Change::Other(other.clone()),
        });
        Ok(())
    }

    /// Has `done` called once everything added so far is durable.
    pub fn tell(&mut self, done: Done) {
        self.waiting.push(done);
    }

    /// Takes back the callbacks that were not called.
    pub fn take_waiting(&mut self) -> Vec<Done> {
        std::mem::take(&mut self.waiting)
    }

    /// Makes everything added so far durable, then readable, then known.
    pub fn flush(&mut self) -> Result<()> {
        if !self.group.is_empty() {
            self.write_group()?;
            let purged = self.publish();
            if purged {
                self.retire()?;
            }
        }
        for done in self.waiting.drain(..) {
            done(Ok(()));
        }
        Ok(())
    }

    fn write_group(&mut self) -> Result<()> {
        let started = Instant::now();
        let active = &mut self.active;
        let (bytes, chain) = self.group.seal(active.group + 1);
        let end = active.end + bytes.len() as u64;
        active.file.write_at(bytes, active.end)?;
        if end > active.filled && end < self.options.segment_bytes {
            let upto = self.options.segment_bytes.min(end + AHEAD_BYTES);
            active.file.write_at(&vec![0; (upto - end) as usize], end)?;
            active.filled = upto;
        }
        self.counters.writes += 1;
        self.counters.bytes += end - active.end;
        metrics::WAL_WRITE.observe(started.elapsed().as_secs_f64());
        metrics::WAL_WRITE_BYTES.add((end - active.end) as i64);
        if !self.options.no_sync {
            let started = Instant::now();
            active.file.sync()?;
            let took = started.elapsed();
            self.counters.syncs += 1;
            self.slow = self.slow << 1 | u128::from(took > LONE_SYNC);
            metrics::WAL_FSYNC.observe(took.as_secs_f64());
        }
        active.end = end;
        active.group += 1;
        active.chain = chain;
        self.group.begin(end, chain);
        Ok(())
    }

    /// Tells readers what the group changed. True if it freed entries.
    fn publish(&mut self) -> bool {
        let mut index = self.published.index.write();
        let (mut purged, mut cuts) = (false, 0);
        for change in self.changes.drain(..) {
            match change {
                Change::Entry(at, slot) => index.push(at, slot),
                Change::Other(record) => {
                    index.follow(&record);
                    purged |= matches!(record, Record::Purge(_));
                    cuts += usize::from(matches!(record, Record::Truncate(_)));
                }
            }
        }
        drop(index);
        self.published.advance(self.state.last, cuts);
        purged
    }

    /// Turns segments that hold nothing but purged entries into spares. The purge point is durable by now.
    fn retire(&mut self) -> Result<()> {
        let Some(purged) = self.state.purged else {
            return Ok(());
        };
        let gone = droppable(&mut self.published.index.write().files, purged.index);
        if gone.is_empty() {
            return Ok(());
        }
        let gone: Vec<_> = gone.into_iter().map(|old| (old.path, old.file)).collect();
        self.spares.retire(&gone)
    }

    fn roll(&mut self) -> Result<()> {
        let header = Header {
            sequence: self.active.sequence + 1,
            first_index: next_index(&self.state),
            cluster_id: self.options.cluster_id,
            member_id: self.options.member_id,
            group: self.active.group + 1,
            previous_chain: self.active.chain,
            last: self.state.last,
        };
        self.active = Active::begin(&self.spares, &header, &self.state.records())?;
        self.published.index.write().add_file(&self.active);
        self.counters.segments += 1;
        Ok(())
    }

    /// What to do on the side now, if it is time to make a spare segment.
    pub fn spare_chore(&self) -> Option<impl FnOnce() -> Result<()> + Send + use<>> {
        let slot = self.spares.reserve(self.active.end)?;
        let spares = self.spares.clone();
        Some(move || spares.prepare(slot))
    }

    pub fn cancel_spare(&self) {
        self.spares.cancel();
    }

    /// Removes the spares. The writer must be flushed and not be used again.
    pub fn close(&mut self) -> Result<()> {
        assert!(self.group.is_empty(), "closed with records to write");
        self.spares.clear()
    }
}

fn next_index(state: &State) -> u64 {
    state.last.map_or(0, |last| last.index + 1)
}

/// The first segment of a new log.
fn fresh(spares: &Spares, options: &Options) -> Result<Found> {
    let header = Header {
        sequence: 0,
        first_index: 0,
        cluster_id: options.cluster_id,
        member_id: options.member_id,
        group: 0,
        previous_chain: 0,
        last: None,
    };
    let active = Active::begin(spares, &header, &[])?;
    let mut index = Index::default();
    index.add_file(&active);
    Ok(Found {
        cluster_id: options.cluster_id,
        member_id: options.member_id,
        state: State::default(),
        index,
        active,
        repaired: false,
    })
}
