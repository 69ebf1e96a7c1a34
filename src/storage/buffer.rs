//! The tables of a member: a write buffer in front of an engine.
//!
//! Writes are readable at once and reach the engine later, in order, by one thread that owns all engine
//! writes. It takes what was written since the last time as one generation, waits until the log says that
//! the index it was applied from is durable here (the engine never runs ahead of the log), and commits and
//! flushes it as one batch: after a crash the engine reopens at exactly the end of some generation.
//! Every value carries a checksum over table, key and value, checked on every read from the engine.

mod generation;
mod record;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::Condvar;
use parking_lot::Mutex;
use parking_lot::RwLock;

use self::generation::Change;
use self::generation::Generation;
use self::record::Live;
use super::Batch;
use super::Engine;
use super::Pair;
use super::Result;
use super::Table;
use super::View;
use super::draft::overlay;
use crate::error::Fault;
use crate::util::metrics;

/// When the buffer hands its writes to the engine.
#[derive(Clone, Debug)]
pub struct Options {
    /// Longest time a write stays only in the buffer.
    pub interval: Duration,
    /// Bytes of writes after which it does not wait for the interval.
    pub bytes: usize,
}

impl Default for Options {
    /// A flush is half a dozen syncs that the log waits behind, and rewrites the page it ends in.
    fn default() -> Options {
        Options {
            interval: Duration::from_secs(1),
            bytes: 8 << 20,
        }
    }
}

/// A writer waits when this much has gathered behind the generation that the engine is busy with.
const BACKLOG_BYTES: usize = 16 << 20;

/// How often a generation looks whether the log has become durable up to it.
const LOG_POLL: Duration = Duration::from_millis(1);

/// How long the last generation waits for the log at [`Tables::close`].
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

pub type Durable = Box<dyn Fn() -> u64 + Send + Sync>;
pub type Fatal = Box<dyn Fn(Fault) + Send + Sync>;

/// All tables, shared by the apply loop (the only writer) and readers.
pub struct Tables {
    id: u64,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Tables {
    /// Starts the engine thread. `durable` answers up to which log index this member's log has been synced;
    /// `fatal` is called once, with the reason, when the engine fails.
    pub fn open(
        engine: Box<dyn Engine>,
        options: Options,
        durable: Durable,
        fatal: Fatal,
    ) -> Result<Tables> {
        let live = Live::read(&*engine)?;
        let id = record::id(&*engine, &live)?;
        let shared = Arc::new(Shared {
            engine,
            options,
            durable,
            fatal,
            buffer: RwLock::default(),
            waiting_bytes: AtomicUsize::new(0),
            flushed: AtomicU64::new(live.applied),
            live: Mutex::new(live),
            control: Mutex::default(),
            work: Condvar::new(),
            done: Condvar::new(),
        });
        let thread = std::thread::Builder::new()
            .name("engine".into())
            .spawn({
                let shared = shared.clone();
                move || run(&shared)
            })
            .map_err(|error| Fault::io("start a thread for", shared.engine.path(), error))?;
        Ok(Tables {
            id,
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// A number of these tables alone, drawn when they were made.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// How many pairs are in [`Table::Revisions`] and in all other tables by the engine's own count, as of
    /// its last flush; `None` if they were never counted apart.
    pub fn pairs(&self) -> Option<(u64, u64)> {
        let live = self.shared.live.lock();
        let others = live.others?;
        Some((live.pairs.saturating_sub(others), others))
    }

    /// Makes `batch` visible. `applied` is the log index it came from; never smaller than before. Blocks
    /// while the engine is too far behind.
    pub fn write(&self, batch: Batch, applied: u64) {
        if batch.is_empty() {
            return;
        }
        self.shared.wait_for_room();
        let (was_empty, bytes) = {
            let mut buffer = self.shared.buffer.write();
            let was_empty = buffer.active.is_empty();
            buffer.active.apply(batch, applied);
            let bytes = buffer.active.bytes;
            self.shared.waiting_bytes.store(bytes, Ordering::Relaxed);
            (was_empty, bytes)
        };
        let full = bytes >= self.shared.options.bytes;
        if was_empty || full {
            self.shared.announce(full);
        }
    }

    /// Log index up to which the engine holds everything durably. Nothing beyond it may be purged.
    pub fn flushed(&self) -> u64 {
        self.shared.flushed.load(Ordering::Acquire)
    }

    /// Blocks until everything written so far is durable in the engine.
    pub fn flush(&self) -> Result<()> {
        let shared = &self.shared;
        let batches = shared.buffer.read().active.batches;
        let mut control = shared.control.lock();
        control.flush_upto = control.flush_upto.max(batches);
        shared.work.notify_one();
        while control.persisted < batches {
            control.check()?;
            shared.done.wait(&mut control);
        }
        Ok(())
    }

    /// Bytes on disk, and bytes of live pairs, where what still waits for the engine counts as live.
    pub fn size(&self) -> Result<(u64, u64)> {
        let waiting = self.shared.waiting_bytes.load(Ordering::Relaxed) as u64;
        let live = self.shared.live.lock().bytes + waiting;
        Ok((self.shared.engine.size()?, live))
    }

    /// Gives unused space back; blocks until done. See [`Engine::compact`].
    pub fn compact(&self) -> Result<()> {
        let (answer, wait) = mpsc::channel();
        {
            let mut control = self.shared.control.lock();
            control.check()?;
            control.compactions.push(answer);
            self.shared.work.notify_one();
        }
        match wait.recv() {
            Ok(result) => result,
            Err(_) => self.shared.control.lock().check(),
        }
    }

    /// Reads everything the engine holds, verifies each checksum and the number of pairs.
    pub fn check(&self) -> Result<()> {
        self.flush()?;
        record::check(&*self.shared.engine).map(drop)
    }

    /// Flushes and stops the engine thread. What the log does not hold durably by then stays unwritten.
    pub fn close(&self) -> Result<()> {
        self.stop(Stop::Flushed);
        self.shared.control.lock().failure()
    }

    fn stop(&self, how: Stop) {
        self.shared.control.lock().stop.get_or_insert(how);
        self.shared.work.notify_one();
        if let Some(thread) = self.thread.lock().take() {
            // A panic there has been reported by the panic hook and stands in `control.failed`.
            let _ = thread.join();
        }
    }
}

/// Nothing is flushed, as in a crash: whoever wants it calls [`Tables::close`].
impl Drop for Tables {
    fn drop(&mut self) {
        self.stop(Stop::AtOnce);
    }
}

impl View for Tables {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>> {
        if let Some(change) = self.shared.buffer.read().get(table, key) {
            return Ok(change.clone());
        }
        let engine = &self.shared.engine;
        match engine.get(table, key)? {
            Some(sealed) => record::unseal(engine.path(), table, key, sealed).map(Some),
            None => Ok(None),
        }
    }

    fn scan(
        &self,
        table: Table,
        from: &[u8],
        to: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Pair>> {
        let mut found = Vec::new();
        let mut from = Bytes::copy_from_slice(from);
        while found.len() < limit && to.is_none_or(|to| from < to) {
            let wanted = limit - found.len();
            match self.shared.scan(table, &from, to, wanted, &mut found)? {
                ControlFlow::Continue(next) => from = next,
                ControlFlow::Break(()) => break,
            }
        }
        Ok(found)
    }
}

struct Shared {
    engine: Box<dyn Engine>,
    options: Options,
    durable: Durable,
    fatal: Fatal,
    buffer: RwLock<Buffer>,
    /// `buffer.active.bytes`, to be read without the lock.
    waiting_bytes: AtomicUsize,
    flushed: AtomicU64,
    /// As of the last flush.
    live: Mutex<Live>,
    control: Mutex<Control>,
    /// Wakes the engine thread.
    work: Condvar,
    /// Wakes those who wait for the engine thread.
    done: Condvar,
}

#[derive(Default)]
struct Buffer {
    active: Generation,
    /// On its way into the engine.
    frozen: Option<Arc<Generation>>,
}

impl Buffer {
    fn get(&self, table: Table, key: &[u8]) -> Option<&Option<Bytes>> {
        let older = || self.frozen.as_ref()?.get(table, key);
        self.active.get(table, key).or_else(older)
    }

    fn changes(&self, table: Table, from: &[u8], to: Option<&[u8]>, limit: usize) -> Vec<Change> {
        let newer = self.active.range(table, from, to);
        match &self.frozen {
            Some(frozen) => generation::merge(newer, frozen.range(table, from, to), limit),
            None => generation::merge(newer, std::iter::empty(), limit),
        }
    }
}

#[derive(Clone, Copy)]
enum Stop {
    Flushed,
    AtOnce,
}

/// What the engine thread is asked to do, and how far it is.
#[derive(Default)]
struct Control {
    /// When the active generation got its first write.
    waiting_since: Option<Instant>,
    full: bool,
    flush_upto: u64,
    /// Number of batches that are durable in the engine.
    persisted: u64,
    compactions: Vec<mpsc::Sender<Result<()>>>,
    stop: Option<Stop>,
    /// The engine thread has ended, and why if it was not asked to.
    ended: bool,
    failed: Option<Fault>,
}

impl Control {
    fn failure(&self) -> Result<()> {
        self.failed
            .as_ref()
            .map_or(Ok(()), |fault| Err(again(fault)))
    }

    /// An error if nothing will be written any more.
    fn check(&self) -> Result<()> {
        self.failure()?;
        if self.ended {
            return Err(Fault::Refused("the storage is closed".into()));
        }
        Ok(())
    }

    /// When the engine thread has to act; `None` if nothing is waiting.
    fn due(&self, interval: Duration) -> Option<Instant> {
        let urgent = self.full
            || self.flush_upto > self.persisted
            || !self.compactions.is_empty()
            || self.stop.is_some();
        match urgent {
            true => Some(Instant::now()),
            false => self.waiting_since.map(|since| since + interval),
        }
    }
}

impl Shared {
    fn wait_for_room(&self) {
        if self.waiting_bytes.load(Ordering::Relaxed) < BACKLOG_BYTES {
            return;
        }
        let mut control = self.control.lock();
        while self.waiting_bytes.load(Ordering::Relaxed) >= BACKLOG_BYTES && control.check().is_ok()
        {
            self.done.wait(&mut control);
        }
    }

    fn announce(&self, full: bool) {
        let mut control = self.control.lock();
        control.waiting_since.get_or_insert_with(Instant::now);
        control.full |= full;
        self.work.notify_one();
    }

    /// Adds the first pairs of a range to `found`; continues behind the changes that were looked at.
    fn scan(
        &self,
        table: Table,
        from: &[u8],
        to: Option<&[u8]>,
        limit: usize,
        found: &mut Vec<Pair>,
    ) -> Result<ControlFlow<(), Bytes>> {
        let mut ours = {
            let buffer = self.buffer.read();
            buffer.changes(table, from, to, limit.saturating_add(1))
        };
        let next = match ours.len() > limit {
            true => ours.pop().map(|(key, _)| key),
            false => None,
        };
        // Each deletion of ours can hide one pair of the engine's.
        let hidden = ours.iter().filter(|(_, value)| value.is_none()).count();
        let end = next.as_deref().or(to);
        let sealed = self
            .engine
            .scan(table, from, end, limit.saturating_add(hidden))?;
        let theirs = sealed.into_iter().map(|(key, sealed)| {
            let value = record::unseal(self.engine.path(), table, &key, sealed)?;
            Ok((key, value))
        });
        let theirs = theirs.collect::<Result<Vec<Pair>>>()?;
        found.extend(overlay(ours, theirs, limit));
        Ok(next.map_or(ControlFlow::Break(()), ControlFlow::Continue))
    }

    /// Waits for something to do. The stop that was asked for, if any, and the compactions to run.
    fn next_turn(&self) -> (Option<Stop>, Vec<mpsc::Sender<Result<()>>>) {
        let mut control = self.control.lock();
        loop {
            match control.due(self.options.interval) {
                Some(due) if due <= Instant::now() => break,
                Some(due) => drop(self.work.wait_until(&mut control, due)),
                None => self.work.wait(&mut control),
            }
        }
        control.full = false;
        control.waiting_since = None;
        (control.stop, std::mem::take(&mut control.compactions))
    }

    /// Takes what was written so far; from now on it only gets read. `None` if there is nothing.
    fn freeze(&self) -> Option<Arc<Generation>> {
        let frozen = {
            let mut buffer = self.buffer.write();
            if buffer.active.is_empty() {
                return None;
            }
            let successor = buffer.active.successor();
            let frozen = Arc::new(std::mem::replace(&mut buffer.active, successor));
            buffer.frozen = Some(frozen.clone());
            self.waiting_bytes.store(0, Ordering::Relaxed);
            frozen
        };
        // The lock orders this after the check of a writer that is about to wait for room.
        drop(self.control.lock());
        self.done.notify_all();
        Some(frozen)
    }

    /// True once the log holds `index` durably; false if the thread has to stop before that.
    fn log_reaches(&self, index: u64) -> bool {
        let mut patience = None;
        while (self.durable)() < index {
            let mut control = self.control.lock();
            match control.stop {
                Some(Stop::AtOnce) => return false,
                Some(Stop::Flushed) => {
                    let until = *patience.get_or_insert_with(|| Instant::now() + CLOSE_PATIENCE);
                    if Instant::now() >= until {
                        return false;
                    }
                }
                None => {}
            }
            self.work.wait_for(&mut control, LOG_POLL);
        }
        true
    }

    /// Brings everything written so far into the engine, durably.
    fn persist(&self) -> Result<()> {
        let Some(generation) = self.freeze() else {
            return Ok(());
        };
        if !self.log_reaches(generation.applied) {
            return Ok(());
        }
        let mut live = self.live.lock().clone();
        let start = Instant::now();
        live.advance(&generation, &*self.engine)?;
        self.engine.flush()?;
        metrics::BACKEND_COMMIT.observe(start.elapsed().as_secs_f64());

        *self.live.lock() = live;
        self.flushed.store(generation.applied, Ordering::Release);
        self.buffer.write().frozen = None;
        self.control.lock().persisted = generation.batches;
        self.done.notify_all();
        Ok(())
    }

    fn compact(&self) -> Result<()> {
        metrics::DEFRAG_INFLIGHT.set(1);
        let timer = metrics::BACKEND_DEFRAG.start_timer();
        let result = self.engine.compact();
        timer.observe_duration();
        metrics::DEFRAG_INFLIGHT.set(0);
        result
    }

    /// The engine thread is over; nobody may wait for it any more.
    fn end(&self, fault: Option<Fault>) {
        let mut control = self.control.lock();
        control.ended = true;
        control.failed = fault;
        control.compactions.clear();
        self.done.notify_all();
    }
}

/// The engine thread.
fn run(shared: &Shared) {
    /// Releases the waiters should the engine panic.
    struct Ending<'a>(&'a Shared);

    impl Drop for Ending<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                let path = self.0.engine.path().display().to_string();
                self.0
                    .end(Some(Fault::damaged(path, "the engine panicked")));
            }
        }
    }

    let _ending = Ending(shared);
    let fault = serve(shared).err();
    shared.end(fault.as_ref().map(again));
    if let Some(fault) = fault {
        (shared.fatal)(fault);
    }
}

fn serve(shared: &Shared) -> Result<()> {
    loop {
        let (stop, compactions) = shared.next_turn();
        if let Some(Stop::AtOnce) = stop {
            return Ok(());
        }
        shared.persist()?;
        for answer in compactions {
            // Nobody may be left to hear it.
            let _ = answer.send(shared.compact());
        }
        if stop.is_some() {
            return Ok(());
        }
    }
}

/// The same fault once more, for each who asks.
fn again(fault: &Fault) -> Fault {
    match fault {
        Fault::Io {
            doing,
            path,
            source,
        } => Fault::io(
            doing,
            path,
            std::io::Error::new(source.kind(), source.to_string()),
        ),
        Fault::Damaged { place, reason } => Fault::damaged(place, reason),
        Fault::Refused(reason) => Fault::Refused(reason.clone()),
    }
}

#[cfg(test)]
mod tests;
