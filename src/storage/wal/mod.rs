//! The write-ahead log: the truth of a member.
//!
//! Entries, votes, the commit mark, truncations and purges are records of one ordered stream in segments of
//! 64 MiB. One thread writes: what queued up while it synced goes out in one write and one fdatasync, then
//! the callbacks run in order. There is no timer: a batch is what came in during the last sync. A torn tail
//! is cut; damage anywhere else refuses to open and names file and offset (`recover.rs`). A failed write or
//! sync is final.
//!
//! A lone append, one that finds the queue empty and nobody writing, may be written and synced on the thread
//! that brings it: that spares two wake-ups. It is done only while syncs are quick (all but six of the last
//! 128 within a millisecond); otherwise, and when the caller does not ask for it, the thread does it.
//!
//! Callbacks run on whichever thread wrote, and must neither block nor wait for the log.

mod record;
mod recover;
mod segment;
mod writer;

use std::collections::VecDeque;
use std::ops::Range;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use parking_lot::Condvar;
use parking_lot::Mutex;
use parking_lot::MutexGuard;
use parking_lot::RwLock;

use self::record::Place;
use self::record::Record;
use self::record::decode_frame;
use self::record::span;
use self::record::strip;
use self::segment::Active;
use self::segment::damaged;
pub use self::writer::Counters;
use self::writer::Writer;
use super::Result;
use super::disk::DirLock;
use super::disk::Disk;
use super::disk::File;
use crate::error::Fault;

/// One log entry: its position, and bytes that mean nothing here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub index: u64,
    pub term: u64,
    pub data: Bytes,
}

/// Position of an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub term: u64,
    pub index: u64,
}

/// Told once the records before it are durable, or why they never will be.
pub type Done = Box<dyn FnOnce(std::result::Result<(), Arc<Fault>>) + Send>;

#[derive(Clone, Debug)]
pub struct Options {
    /// Size of a segment, a multiple of 512 and at most 1 GiB.
    pub segment_bytes: u64,
    /// Skips every sync. For tests and throw-away data only.
    pub no_sync: bool,
    /// Written to each segment; opening with another identity is refused. Zero matches any.
    pub cluster_id: u64,
    pub member_id: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            segment_bytes: 64 << 20,
            no_sync: false,
            cluster_id: 0,
            member_id: 0,
        }
    }
}

/// What the log held when it was opened.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    pub cluster_id: u64,
    pub member_id: u64,
    pub vote: Option<Bytes>,
    pub committed: Option<Bytes>,
    /// The last purged position, if any entry was ever purged.
    pub purged: Option<Position>,
    pub last: Option<Position>,
    /// True if a torn tail was cut.
    pub repaired: bool,
    /// Files in the directory that are none of the log's.
    pub foreign: Vec<PathBuf>,
}

/// Bytes of records that may wait for the thread; whoever brings more waits.
const QUEUE_BYTES: usize = 32 << 20;
/// What a waiting record counts on top of its data.
const RECORD_BYTES: usize = 64;

/// The log of a member, for one owner at a time: its directory is locked while it is open.
pub struct Wal {
    shared: Arc<Shared>,
    thread: Mutex<Option<thread::JoinHandle<()>>>,
    lock: Mutex<Option<DirLock>>,
}

impl Wal {
    /// Opens or creates the log in `dir` and starts its thread. `fatal` is called once, with the reason, when
    /// a write or sync fails.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        options: Options,
        fatal: Box<dyn Fn(&Fault) + Send + Sync>,
    ) -> Result<(Wal, Recovered)> {
        assert!(
            options.segment_bytes.is_multiple_of(record::SECTOR as u64)
                && options.segment_bytes <= 1 << 30,
            "segment size {}",
            options.segment_bytes
        );
        disk.create_dir(dir)?;
        let lock = disk.lock(dir)?;
        let (writer, recovered) = Writer::open(disk, dir, options)?;
        if !recovered.foreign.is_empty() {
            tracing::warn!(files = ?recovered.foreign, "ignored files that are not the log's");
        }
        let shared = Arc::new(Shared {
            published: writer.published().clone(),
            queue: Mutex::new(Queue {
                next: recovered.last.map(|last| last.index + 1),
                after_purge: recovered.purged.map(|purged| purged.index + 1),
                quick: true,
                ..Queue::default()
            }),
            work: Condvar::new(),
            room: Condvar::new(),
            writer: Mutex::new(writer),
            spare: Mutex::new(None),
            fatal,
        });
        let theirs = shared.clone();
        let thread = thread::Builder::new()
            .name("wal".into())
            .spawn(move || theirs.run())
            .map_err(|error| Fault::io("starting the log's thread for", dir, error))?;
        let wal = Wal {
            shared,
            thread: Mutex::new(Some(thread)),
            lock: Mutex::new(Some(lock)),
        };
        Ok((wal, recovered))
    }

    /// Queues entries; their indexes follow the last one without a gap. `done` is called when they are durable.
    /// `lone` allows writing and syncing on the calling thread when the queue is empty (see the module text).
    /// Waits while the queue is full.
    pub fn append(&self, entries: Vec<Entry>, lone: bool, done: Done) {
        let bytes = entries
            .iter()
            .map(|entry| entry.data.len() + RECORD_BYTES)
            .sum();
        let mut queue = self.shared.room_for(bytes);
        for entry in &entries {
            let expected = queue.next.unwrap_or(entry.index);
            assert_eq!(entry.index, expected, "gap in the log");
            queue.next = Some(entry.index + 1);
        }
        let records = entries.into_iter().map(Record::Entry).collect();
        let done = Some(done);
        self.shared.submit(queue, Request { records, done }, lone);
    }

    /// Queues the vote; `done` is called when it is durable.
    pub fn save_vote(&self, vote: Bytes, done: Done) {
        let queue = self.shared.room_for(vote.len() + RECORD_BYTES);
        let request = Request {
            records: vec![Record::Vote(vote)],
            done: Some(done),
        };
        self.shared.submit(queue, request, false);
    }

    /// Queues the commit mark; it becomes durable with whatever is synced next.
    pub fn save_committed(&self, committed: Bytes) {
        let mut queue = self.shared.queue.lock();
        if queue.failed.is_none() {
            queue.committed = Some(committed);
        }
    }

    /// Queues the removal of every entry after `last` (all of them if `None`).
    pub fn truncate_after(&self, last: Option<Position>) {
        let mut queue = self.shared.room_for(RECORD_BYTES);
        let next = last.map(|last| last.index + 1).max(queue.after_purge);
        if next.is_some() && next >= queue.next {
            return;
        }
        queue.next = next;
        let kept = next.map_or(0, |next| next - 1);
        self.shared.published.cut(kept);
        let request = Request::silent(Record::Truncate(last));
        self.shared.submit(queue, request, false);
    }

    /// Queues the removal of entries up to `upto`; whole segments are recycled once nothing in them is needed.
    /// If `upto` is beyond the last entry, the log goes on after it.
    pub fn purge(&self, upto: Position) {
        let mut queue = self.shared.room_for(RECORD_BYTES);
        let after = upto.index + 1;
        queue.after_purge = queue.after_purge.max(Some(after));
        queue.next = queue.next.max(Some(after));
        let request = Request::silent(Record::Purge(upto));
        self.shared.submit(queue, request, false);
    }

    /// Reads entries of `range` that are on disk, from the first on, until about `max_bytes` (at least one).
    ///
    /// Shows the log as of the last sync: what is queued is not there yet, be it an entry or a truncation.
    /// Whatever `durable` covers can be read. Nothing is returned if the first entry of the range is purged or
    /// not yet there.
    pub fn read(&self, range: Range<u64>, max_bytes: usize) -> Result<Vec<Entry>> {
        self.shared.published.read(range, max_bytes)
    }

    /// Index up to which entries are durable on this member, or were purged. A truncation counts at once.
    pub fn durable(&self) -> u64 {
        self.shared.published.durable()
    }

    /// What was written since the log was opened.
    pub fn counters(&self) -> Counters {
        self.shared.writer.lock().counters()
    }

    /// Writes out and syncs everything queued, then stops the thread and lets go of the directory.
    pub fn close(&self) -> Result<()> {
        let Some(thread) = self.thread.lock().take() else {
            return Ok(());
        };
        self.shared.queue.lock().closing = true;
        self.shared.work.notify_all();
        let joined = thread.join();
        self.shared.stop_spare();
        let failed = self.shared.queue.lock().failed.clone();
        let result = match (joined, failed) {
            (Ok(()), None) => self.shared.writer.lock().close(),
            (Ok(()), Some(fault)) => {
                Err(Fault::Refused(format!("the log failed earlier: {fault}")))
            }
            (Err(_), _) => Err(Fault::Refused("the log's thread panicked".into())),
        };
        self.shared
            .fail(Arc::new(Fault::Refused("the log is closed".into())));
        self.lock.lock().take();
        result
    }
}

impl Drop for Wal {
    fn drop(&mut self) {
        if let Err(fault) = self.close() {
            tracing::warn!(error = %fault, "log was not closed cleanly");
        }
    }
}

/// Records to write in one go, and who wants to know.
struct Request {
    records: Vec<Record>,
    done: Option<Done>,
}

impl Request {
    fn silent(record: Record) -> Request {
        Request {
            records: vec![record],
            done: None,
        }
    }
}

#[derive(Default)]
struct Queue {
    requests: Vec<Request>,
    bytes: usize,
    /// The newest commit mark; goes out with the next write.
    committed: Option<Bytes>,
    /// Index that the next entry must have.
    next: Option<u64>,
    /// Index after the last purged entry, where a log without entries goes on.
    after_purge: Option<u64>,
    /// Somebody, the thread or a caller, writes.
    busy: bool,
    /// Recent syncs were short enough for callers to do them.
    quick: bool,
    closing: bool,
    failed: Option<Arc<Fault>>,
}

impl Queue {
    /// Everything that waits, the commit mark last.
    fn take(&mut self) -> Vec<Request> {
        self.bytes = 0;
        let mut requests = std::mem::take(&mut self.requests);
        let committed = self.committed.take().map(Record::Committed);
        requests.extend(committed.map(Request::silent));
        requests
    }
}

struct Shared {
    queue: Mutex<Queue>,
    /// Told when there is something to write.
    work: Condvar,
    /// Told when the queue was emptied.
    room: Condvar,
    /// Held by whoever set `busy`.
    writer: Mutex<Writer>,
    published: Arc<Published>,
    /// The thread that makes a spare segment, or made the last one.
    spare: Mutex<Option<thread::JoinHandle<()>>>,
    fatal: Box<dyn Fn(&Fault) + Send + Sync>,
}

impl Shared {
    /// Waits until the queue has room, or holds nothing.
    fn room_for(&self, bytes: usize) -> MutexGuard<'_, Queue> {
        let mut queue = self.queue.lock();
        while queue.failed.is_none() && queue.bytes > 0 && queue.bytes + bytes > QUEUE_BYTES {
            self.room.wait(&mut queue);
        }
        queue.bytes += bytes;
        queue
    }

    fn submit(&self, mut queue: MutexGuard<'_, Queue>, request: Request, lone: bool) {
        if let Some(fault) = queue.failed.clone() {
            drop(queue);
            if let Some(done) = request.done {
                done(Err(fault));
            }
            return;
        }
        let idle = !queue.busy && queue.requests.is_empty() && !queue.closing;
        queue.requests.push(request);
        if !(lone && idle && queue.quick) {
            drop(queue);
            self.work.notify_all();
            return;
        }
        queue.busy = true;
        let batch = queue.take();
        drop(queue);
        self.write(batch);
        // The thread sleeps through all this; it must hear of what came in meanwhile.
        let queue = self.queue.lock();
        if !queue.requests.is_empty() || queue.closing {
            self.work.notify_all();
        }
    }

    /// The thread: writes whatever there is until the log closes or fails.
    fn run(&self) {
        let mut queue = self.queue.lock();
        loop {
            let idle = queue.requests.is_empty() && !(queue.closing && queue.committed.is_some());
            if queue.busy || (idle && !queue.closing) {
                self.work.wait(&mut queue);
            } else if idle {
                return;
            } else {
                queue.busy = true;
                let batch = queue.take();
                self.room.notify_all();
                drop(queue);
                self.write(batch);
                queue = self.queue.lock();
            }
        }
    }

    /// Writes a batch. The caller has set `busy`; it is cleared on return.
    fn write(&self, batch: Vec<Request>) {
        let mut writer = self.writer.lock();
        let mut batch = batch.into_iter();
        let mut written = Ok(());
        for request in batch.by_ref() {
            written = request
                .records
                .iter()
                .try_for_each(|record| writer.add(record));
            request.done.into_iter().for_each(|done| writer.tell(done));
            if written.is_err() {
                break;
            }
        }
        match written.and_then(|()| writer.flush()) {
            Ok(()) => self.make_spare(&mut writer),
            Err(fault) => {
                let fault = Arc::new(fault);
                (self.fatal)(&fault);
                let waiting = writer.take_waiting();
                let rest = batch.filter_map(|request| request.done);
                for done in waiting.into_iter().chain(rest) {
                    done(Err(fault.clone()));
                }
                self.fail(fault);
            }
        }
        let quick = writer.is_quick();
        drop(writer);
        let mut queue = self.queue.lock();
        queue.quick = quick;
        queue.busy = false;
    }

    /// Refuses everything that waits or comes, for the first reason given.
    fn fail(&self, fault: Arc<Fault>) {
        let mut queue = self.queue.lock();
        let fault = queue.failed.get_or_insert(fault).clone();
        let waiting = queue.take();
        drop(queue);
        self.room.notify_all();
        for done in waiting.into_iter().filter_map(|request| request.done) {
            done(Err(fault.clone()));
        }
    }

    /// Has a spare segment made on the side if it is time for one.
    fn make_spare(&self, writer: &mut Writer) {
        let Some(chore) = writer.spare_chore() else {
            return;
        };
        let made = thread::Builder::new()
            .name("wal-spare".into())
            .spawn(move || {
                if let Err(fault) = chore() {
                    tracing::warn!(error = %fault, "cannot make a spare log segment");
                }
            });
        match made {
            Ok(thread) => *self.spare.lock() = Some(thread),
            // The slot stays reserved: from now on segments are made when they are needed.
            Err(error) => tracing::warn!(%error, "cannot start a thread for a spare log segment"),
        }
    }

    fn stop_spare(&self) {
        self.writer.lock().cancel_spare();
        if let Some(thread) = self.spare.lock().take()
            && thread.join().is_err()
        {
            tracing::warn!("the thread that makes spare log segments panicked");
        }
    }
}

/// What the records so far amount to, entries aside.
#[derive(Clone, Debug, Default)]
struct State {
    vote: Option<Bytes>,
    committed: Option<Bytes>,
    purged: Option<Position>,
    /// The last entry, or the purge point if that is further.
    last: Option<Position>,
}

impl State {
    fn note(&mut self, record: &Record) {
        let index = |position: Option<Position>| position.map(|position| position.index);
        match record {
            Record::Entry(entry) => {
                self.last = Some(Position {
                    term: entry.term,
                    index: entry.index,
                });
            }
            Record::Vote(vote) => self.vote = Some(own(vote)),
            Record::Committed(committed) => self.committed = Some(own(committed)),
            Record::Truncate(to) => {
                if index(*to) < index(self.last) {
                    self.last = *to;
                }
            }
            Record::Purge(upto) => {
                if index(self.purged) < Some(upto.index) {
                    self.purged = Some(*upto);
                }
            }
        }
        if index(self.last) < index(self.purged) {
            self.last = self.purged;
        }
    }

    /// Records that say the same.
    fn records(&self) -> Vec<Record> {
        let purged = self.purged.map(Record::Purge);
        let vote = self.vote.clone().map(Record::Vote);
        let committed = self.committed.clone().map(Record::Committed);
        [purged, vote, committed].into_iter().flatten().collect()
    }
}

/// A copy that does not keep a larger buffer alive.
fn own(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

/// Where an entry is: 16 bytes for each one in the log.
#[derive(Clone, Copy, Debug)]
struct Slot {
    /// Low half of the segment's sequence number.
    segment: u32,
    offset: u32,
    len: u32,
    chain: u32,
}

impl Slot {
    fn new(sequence: u64, place: Place) -> Slot {
        Slot {
            segment: sequence as u32,
            offset: place.offset as u32,
            len: place.len,
            chain: place.chain,
        }
    }

    fn bytes(&self) -> usize {
        self.len as usize
    }

    fn end(&self) -> usize {
        self.offset as usize + span(u64::from(self.offset), self.len as usize)
    }
}

/// A segment that is part of the log.
struct SegmentFile {
    sequence: u64,
    path: PathBuf,
    file: Arc<dyn File>,
    /// The highest index of an entry ever written to it.
    highest: Option<u64>,
}

/// Where all entries are.
#[derive(Default)]
struct Index {
    /// Index of the entry at the front of `places`.
    first: u64,
    places: VecDeque<Slot>,
    files: VecDeque<SegmentFile>,
}

impl Index {
    fn add_file(&mut self, active: &Active) {
        self.files.push_back(SegmentFile {
            sequence: active.sequence,
            path: active.path.clone(),
            file: active.file.clone(),
            highest: None,
        });
    }

    fn push(&mut self, index: u64, slot: Slot) {
        if self.places.is_empty() {
            self.first = index;
        }
        assert_eq!(
            index,
            self.first + self.places.len() as u64,
            "gap in the log"
        );
        self.places.push_back(slot);
        let file = self.files.back_mut().expect("the log has a segment");
        file.highest = file.highest.max(Some(index));
    }

    fn follow(&mut self, record: &Record) {
        match record {
            Record::Truncate(None) => self.places.clear(),
            Record::Truncate(Some(last)) => {
                let kept = (last.index + 1).saturating_sub(self.first);
                self.places.truncate(kept as usize);
            }
            Record::Purge(upto) => {
                let gone = (upto.index + 1).saturating_sub(self.first);
                let gone = (gone as usize).min(self.places.len());
                self.places.drain(..gone);
                self.first += gone as u64;
            }
            Record::Entry(_) | Record::Vote(_) | Record::Committed(_) => {}
        }
    }

    /// Places of entries from `range.start` on that stand in one segment, within `max_bytes`; the first one
    /// regardless if `at_least_one`.
    fn run(&self, range: &Range<u64>, max_bytes: usize, at_least_one: bool) -> Option<Run> {
        let at = range.start.checked_sub(self.first)? as usize;
        let segment = self.places.get(at)?.segment;
        let count = range.end.saturating_sub(range.start) as usize;
        let (mut slots, mut bytes) = (Vec::new(), 0);
        for slot in self.places.range(at..).take(count) {
            let fits = bytes + slot.bytes() <= max_bytes || (at_least_one && slots.is_empty());
            if slot.segment != segment || !fits {
                break;
            }
            slots.push(*slot);
            bytes += slot.bytes();
        }
        let front = self.files.front()?.sequence as u32;
        let file = self.files.get(segment.wrapping_sub(front) as usize)?;
        (!slots.is_empty()).then(|| Run {
            file: file.file.clone(),
            path: file.path.clone(),
            slots,
            bytes,
        })
    }
}

/// Entries that follow each other in one file.
struct Run {
    file: Arc<dyn File>,
    path: PathBuf,
    slots: Vec<Slot>,
    bytes: usize,
}

impl Run {
    fn read(&self) -> Result<Vec<Entry>> {
        let start = self.slots[0].offset as usize;
        let end = self.slots[self.slots.len() - 1].end();
        let mut bytes = vec![0; end - start];
        let found = self.file.read_at(&mut bytes, start as u64)?;
        bytes.truncate(found);
        self.slots
            .iter()
            .map(|slot| {
                let offset = u64::from(slot.offset);
                let piece = bytes.get(slot.offset as usize - start..slot.end() - start);
                let frame = strip(piece.unwrap_or_default(), offset);
                match decode_frame(&frame, slot.chain) {
                    Ok((Record::Entry(entry), _)) => Ok(entry),
                    _ => Err(damaged(&self.path, offset, "crc mismatch in an entry")),
                }
            })
            .collect()
    }
}

/// How far the log is durable.
struct Watermark {
    last: u64,
    /// Last entries left by truncations that are queued but not yet written.
    cuts: VecDeque<u64>,
}

/// What readers see of the log.
struct Published {
    index: RwLock<Index>,
    watermark: Mutex<Watermark>,
}

impl Published {
    fn new(index: Index, last: Option<Position>) -> Published {
        Published {
            index: RwLock::new(index),
            watermark: Mutex::new(Watermark {
                last: last.map_or(0, |last| last.index),
                cuts: VecDeque::new(),
            }),
        }
    }

    fn durable(&self) -> u64 {
        let watermark = self.watermark.lock();
        let cut = watermark.cuts.iter().min().copied();
        watermark.last.min(cut.unwrap_or(u64::MAX))
    }

    fn cut(&self, last: u64) {
        self.watermark.lock().cuts.push_back(last);
    }

    /// Everything up to `last` is durable, the oldest `cuts` truncations among it.
    fn advance(&self, last: Option<Position>, cuts: usize) {
        let mut watermark = self.watermark.lock();
        watermark.last = last.map_or(0, |last| last.index);
        let written = cuts.min(watermark.cuts.len());
        watermark.cuts.drain(..written);
    }

    fn read(&self, range: Range<u64>, max_bytes: usize) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let (mut next, mut left) = (range.start, max_bytes);
        while next < range.end {
            let index = self.index.read();
            let run = index.run(&(next..range.end), left, entries.is_empty());
            drop(index);
            let Some(run) = run else {
                break;
            };
            match run.read() {
                Ok(found) => entries.extend(found),
                // A segment that was purged meanwhile may have become another one under the reader.
                Err(_) if self.index.read().first > next => return Ok(Vec::new()),
                Err(fault) => return Err(fault),
            }
            next += run.slots.len() as u64;
            left = left.saturating_sub(run.bytes);
        }
        Ok(entries)
    }
}

/// What a record did to the index.
enum Change {
    Entry(u64, Slot),
    Other(Record),
}

#[cfg(test)]
mod campaign;
#[cfg(test)]
mod tests;
