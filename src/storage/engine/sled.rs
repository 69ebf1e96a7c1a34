//! The default engine: sled 1.0.0-alpha.124 in the one pattern that holds.
//!
//! - One tree, one thread that commits and flushes, so that no batch straddles a flush and leaf merges never
//!   meet a batch. sled's own flush thread sleeps for good: with it switched off, the drop of every iterator
//!   would flush on the reader's thread.
//! - A leaf that was written stays in memory until the handle is dropped, one that was read until something
//!   is written: the handle is reopened after every [`REOPEN_BYTES`] written or [`REOPEN_READ_BYTES`] read.
//! - A batch never merges the leaves it empties, single removals do: deletions are made one by one while
//!   readers wait, [`REMOVALS`] at a time.
//! - A leaf is rewritten as a whole, so long values are cut into chunks under keys of their own.
//! - Opening runs the program `sync` twice, which waits for every dirty page of the machine; where `PATH`
//!   leads to no such program, it does not.
//! - After an error the handle is leaked: dropping it would flush, and abort the process when that fails.

mod files;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Once;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use bytes::Bytes;
use bytes::BytesMut;
use parking_lot::Mutex;
use parking_lot::MutexGuard;
use parking_lot::RwLock;
use sled::InlineArray;

use super::Kind;
use super::PREFIX;
use super::marker;
use super::marker::Flush;
use super::marker::Place;
use crate::error::Fault;
use crate::storage::Batch;
use crate::storage::Engine;
use crate::storage::Pair;
use crate::storage::Result;
use crate::storage::Table;
use crate::storage::View;
use crate::storage::Write;

/// Keys in a leaf. A cold read decompresses one leaf.
const FANOUT: usize = 128;

/// Leaves kept decompressed for reads.
const CACHE_BYTES: usize = 32 << 20;

/// Written bytes after which the handle is reopened, which is what gives their memory back.
const REOPEN_BYTES: usize = 32 << 20;

/// Read bytes after which it is reopened as well: sled lets go of leaves it has read only when it writes.
const REOPEN_READ_BYTES: usize = 64 << 20;

/// What a single read counts for beside its value: it brings in a whole leaf.
const LEAF_BYTES: usize = 16 << 10;

/// How long a reopening waits for sled's threads to let go of the directory.
const REOPEN_PATIENCE: Duration = Duration::from_secs(10);

/// Handles for readers; a handle serves one thread at a time.
const READERS: usize = 4;

/// Longest value that stands in its leaf: with [`FANOUT`] it bounds the bytes of a leaf.
const CHUNK_BYTES: usize = 4096;

/// Keys removed while readers wait: a few milliseconds.
const REMOVALS: usize = 256;

/// Flushes that [`Engine::compact`] makes at most; each one moves leaves into free slots.
const COMPACT_ROUNDS: usize = 64;

/// First byte of the chunks of long values: below every table's tag.
const CHUNK_TAG: u8 = 1;

/// Where the number of the last flush stands.
const SEQUENCE: &[u8] = &[0, 0];

/// First byte of a value: all of it follows, or its length, and the chunks hold it.
const WHOLE: u8 = 0;
const CHUNKED: u8 = 1;

type Db = sled::Db<FANOUT>;

pub struct Sled {
    db: PathBuf,
    /// `None` after a reopening that failed.
    handles: RwLock<Option<Handles>>,
    writer: Mutex<Writer>,
    /// Whether any long value was ever stored; without them a write need not look at what it replaces.
    chunks: AtomicBool,
    /// Bytes read since the handle was opened.
    read_bytes: AtomicUsize,
    /// Set by the first error of sled's.
    broken: AtomicBool,
}

struct Handles {
    writer: Mutex<Db>,
    readers: [Mutex<Db>; READERS],
}

struct Writer {
    place: Place,
    sequence: u64,
    dirty: bool,
    written: usize,
}

impl Sled {
    pub fn open(dir: &Path) -> Result<Sled> {
        limit_threads();
        let place = Place::claim(Kind::Sled, dir)?;
        let db = place.db.clone();
        let last = place.marker.last();
        if last.sequence > 0 {
            files::verify(&db, last)?;
        }
        let handle = open(&db)?;
        let sequence = read_sequence(&handle, &db)?;
        place.verify(sequence)?;
        let first = handle.range([CHUNK_TAG]..).next();
        let chunks = match first.transpose().map_err(|error| fault(&db, error))? {
            Some((key, _)) => key.first() == Some(&CHUNK_TAG),
            None => false,
        };
        Ok(Sled {
            db,
            handles: RwLock::new(Some(Handles::of(handle))),
            writer: Mutex::new(Writer {
                place,
                sequence,
                dirty: false,
                written: 0,
            }),
            chunks: AtomicBool::new(chunks),
            read_bytes: AtomicUsize::new(0),
            broken: AtomicBool::new(false),
        })
    }

    /// Runs `read` with a reader's handle.
    fn read<T>(&self, read: impl FnOnce(&Db) -> std::io::Result<T>) -> Result<T> {
        let handles = self.handles.read();
        let db = handles.as_ref().ok_or_else(|| closed(&self.db))?.reader();
        read(&db).map_err(|error| self.broken(error))
    }

    /// Counts what was read, and gives memory back when it is time to and nobody writes.
    fn note_read(&self, bytes: usize) -> Result<()> {
        let before = self.read_bytes.fetch_add(bytes, Ordering::Relaxed);
        if before + bytes < REOPEN_READ_BYTES {
            return Ok(());
        }
        let Some(mut writer) = self.writer.try_lock() else {
            return Ok(());
        };
        if self.read_bytes.load(Ordering::Relaxed) < REOPEN_READ_BYTES {
            return Ok(());
        }
        self.flush_with(&mut writer)?;
        self.reopen(&mut writer)
    }

    fn broken(&self, error: std::io::Error) -> Fault {
        self.broken.store(true, Ordering::Release);
        fault(&self.db, error)
    }

    /// The changes of `batch` as keys of the tree.
    fn plan(&self, batch: &Batch) -> Result<Plan> {
        let mut newest: BTreeMap<Vec<u8>, Option<&Bytes>> = BTreeMap::new();
        for write in &batch.writes {
            let key = super::full_key(write.table(), write.key());
            match write {
                Write::Put { value, .. } => newest.insert(key, Some(value)),
                Write::Delete { .. } => newest.insert(key, None),
            };
        }
        let mut plan = Plan::default();
        for (key, value) in newest {
            let old = match self.chunks.load(Ordering::Relaxed) {
                true => self.read(|db| db.get(&key))?,
                false => None,
            };
            let old_chunks = old.map_or(0, |stored| chunk_count(&stored));
            let chunks = match value {
                Some(value) => plan.put(&key, value),
                None => plan.remove(key.clone()),
            };
            for part in chunks..old_chunks {
                plan.remove(chunk_key(&key, part));
            }
        }
        Ok(plan)
    }

    /// Takes the lock that keeps readers out, and gives memory back.
    fn reopen(&self, writer: &mut Writer) -> Result<()> {
        self.settle(COMPACT_ROUNDS)?;
        let start = Instant::now();
        let mut handles = self.handles.write();
        drop(handles.take());
        let deadline = start + REOPEN_PATIENCE;
        let db = loop {
            match open(&self.db) {
                // sled's metadata thread may hold its lock for a moment more.
                Err(Fault::Refused(_)) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                opened => break opened?,
            }
        };
        writer.place.verify(read_sequence(&db, &self.db)?)?;
        *handles = Some(Handles::of(db));
        writer.written = 0;
        self.read_bytes.store(0, Ordering::Relaxed);
        tracing::debug!(path = %self.db.display(), took = ?start.elapsed(), "engine reopened");
        Ok(())
    }

    /// Flushes until there is nothing to flush nor to move, so that dropping the handle writes nothing.
    fn settle(&self, rounds: usize) -> Result<()> {
        let handles = self.handles.read();
        let db = handles.as_ref().ok_or_else(|| closed(&self.db))?;
        for _ in 0..rounds {
            let stats = db.writer.lock().flush();
            if stats.map_err(|error| self.broken(error))?.objects_flushed == 0 {
                break;
            }
        }
        Ok(())
    }

    fn flush_with(&self, writer: &mut Writer) -> Result<()> {
        if !writer.dirty {
            return Ok(());
        }
        let sequence = writer.sequence + 1;
        {
            let handles = self.handles.read();
            let db = handles.as_ref().ok_or_else(|| closed(&self.db))?;
            let db = db.writer.lock();
            db.insert(SEQUENCE, sequence.to_be_bytes().as_slice())
                .and_then(|_| db.flush())
                .map_err(|error| self.broken(error))?;
        }
        let (log, log_bytes) = files::newest_log(&self.db)?;
        writer.place.marker.record(Flush {
            sequence,
            log,
            log_bytes,
        })?;
        writer.sequence = sequence;
        writer.dirty = false;
        Ok(())
    }
}

impl Drop for Sled {
    fn drop(&mut self) {
        if self.broken.load(Ordering::Acquire) {
            std::mem::forget(self.handles.get_mut().take());
        }
    }
}

impl View for Sled {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>> {
        let key = super::full_key(table, key);
        let found = self.read(|db| match db.get(&key)? {
            Some(stored) => assemble(db, &key, &stored).map(Some),
            None => Ok(None),
        })?;
        let size = found.iter().flatten().map(Bytes::len).sum::<usize>();
        self.note_read(LEAF_BYTES + size)?;
        found
            .map(|value| value.ok_or_else(|| incomplete(&self.db)))
            .transpose()
    }

    fn scan(
        &self,
        table: Table,
        from: &[u8],
        to: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Pair>> {
        let Some((from, to)) = super::bounds(table, from, to) else {
            return Ok(Vec::new());
        };
        let found = self.read(|db| {
            let mut found = Vec::new();
            if limit == 0 {
                return Ok(found);
            }
            // With an upper bound sled would look through all leaves behind it.
            for pair in db.range(from..) {
                let (key, stored) = pair?;
                if key[..] >= to[..] {
                    break;
                }
                found.push((
                    Bytes::copy_from_slice(&key[PREFIX..]),
                    assemble(db, &key, &stored)?,
                ));
                if found.len() == limit {
                    break;
                }
            }
            Ok(found)
        })?;
        let sizes = found
            .iter()
            .map(|(key, value)| key.len() + value.as_ref().map_or(0, Bytes::len));
        self.note_read(LEAF_BYTES + sizes.sum::<usize>())?;
        found
            .into_iter()
            .map(|(key, value)| Ok((key, value.ok_or_else(|| incomplete(&self.db))?)))
            .collect()
    }
}

impl Engine for Sled {
    fn path(&self) -> &Path {
        &self.db
    }

    fn commit(&self, batch: &Batch) -> Result<()> {
        let mut writer = self.writer.lock();
        let plan = self.plan(batch)?;
        writer.written += plan.bytes;
        writer.dirty = true;
        if plan.chunks {
            self.chunks.store(true, Ordering::Relaxed);
        }
        let result = if plan.removals.is_empty() && !plan.chunks {
            let handles = self.handles.read();
            let db = handles.as_ref().ok_or_else(|| closed(&self.db))?;
            db.writer.lock().apply_batch(plan.puts)
        } else {
            // More than one step: nobody may look in between, but for many removals readers get their turns.
            let mut removals = plan.removals.chunks(REMOVALS);
            let mut puts = Some(plan.puts);
            loop {
                let mut handles = self.handles.write();
                let db = handles.as_mut().ok_or_else(|| closed(&self.db))?;
                let db = db.writer.get_mut();
                let step = puts.take().map_or(Ok(()), |puts| db.apply_batch(puts));
                let slice = removals.next().unwrap_or_default();
                let mut slice = slice.iter();
                let step = step.and_then(|()| slice.try_for_each(|key| db.remove(key).map(drop)));
                if step.is_err() || removals.len() == 0 {
                    break step;
                }
            }
        };
        result.map_err(|error| self.broken(error))
    }

    fn flush(&self) -> Result<()> {
        let mut writer = self.writer.lock();
        self.flush_with(&mut writer)?;
        if writer.written >= REOPEN_BYTES {
            self.reopen(&mut writer)?;
        }
        Ok(())
    }

    fn size(&self) -> Result<u64> {
        super::disk_bytes(&self.db)
    }

    fn compact(&self) -> Result<()> {
        let mut writer = self.writer.lock();
        self.flush_with(&mut writer)?;
        self.reopen(&mut writer)
    }
}

/// What a batch does to the tree.
#[derive(Default)]
struct Plan {
    puts: sled::Batch,
    removals: Vec<Vec<u8>>,
    /// Whether a value is cut into chunks.
    chunks: bool,
    bytes: usize,
}

impl Plan {
    /// Returns the number of chunks that hold the value.
    fn put(&mut self, key: &[u8], value: &[u8]) -> usize {
        self.bytes += key.len() + value.len();
        if value.len() <= CHUNK_BYTES {
            self.puts.insert(key, [&[WHOLE], value].concat());
            return 0;
        }
        self.chunks = true;
        let length = (value.len() as u32).to_le_bytes();
        self.puts.insert(key, [&[CHUNKED][..], &length].concat());
        let parts = value.chunks(CHUNK_BYTES).enumerate();
        parts
            .map(|(part, chunk)| self.puts.insert(chunk_key(key, part), chunk))
            .count()
    }

    fn remove(&mut self, key: Vec<u8>) -> usize {
        self.bytes += key.len();
        self.removals.push(key);
        0
    }
}

impl Handles {
    fn of(db: Db) -> Handles {
        Handles {
            readers: std::array::from_fn(|_| Mutex::new(db.clone())),
            writer: Mutex::new(db),
        }
    }

    fn reader(&self) -> MutexGuard<'_, Db> {
        let free = self.readers.iter().find_map(Mutex::try_lock);
        free.unwrap_or_else(|| self.readers[fastrand::usize(..READERS)].lock())
    }
}

/// The part number has a fixed length, so no key's chunks stand among another's.
fn chunk_key(key: &[u8], part: usize) -> Vec<u8> {
    let mut chunk = Vec::with_capacity(key.len() + 5);
    chunk.push(CHUNK_TAG);
    chunk.extend_from_slice(key);
    chunk.extend_from_slice(&(part as u32).to_be_bytes());
    chunk
}

/// The length of a value that is cut into chunks.
fn chunked_length(stored: &[u8]) -> Option<usize> {
    match stored {
        [CHUNKED, a, b, c, d] => Some(u32::from_le_bytes([*a, *b, *c, *d]) as usize),
        _ => None,
    }
}

fn chunk_count(stored: &[u8]) -> usize {
    chunked_length(stored).map_or(0, |length| length.div_ceil(CHUNK_BYTES))
}

/// The value that `stored` stands for; `None` if it is not one of ours or a chunk is missing.
fn assemble(db: &Db, key: &[u8], stored: &InlineArray) -> std::io::Result<Option<Bytes>> {
    if let [WHOLE, value @ ..] = &stored[..] {
        return Ok(Some(Bytes::copy_from_slice(value)));
    }
    let Some(length) = chunked_length(stored) else {
        return Ok(None);
    };
    let mut value = BytesMut::new();
    for part in 0..chunk_count(stored) {
        match db.get(chunk_key(key, part))? {
            Some(chunk) => value.extend_from_slice(&chunk),
            None => return Ok(None),
        }
    }
    Ok((value.len() == length).then(|| value.freeze()))
}

/// sled writes with rayon's pool; one thread leaves the other cores to those who wait for answers.
fn limit_threads() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(1)
            .thread_name(|_| "sled-writer".into());
        if let Err(error) = pool.build_global() {
            tracing::warn!(%error, "sled's threads are not limited");
        }
    });
}

fn open(db: &Path) -> Result<Db> {
    /// A century, in milliseconds.
    const NEVER: usize = 100 * 365 * 24 * 3600 * 1000;

    files::prepare(db)?;
    let opened = sled::Config::new()
        .path(db)
        .flush_every_ms(Some(NEVER))
        .cache_capacity_bytes(CACHE_BYTES)
        .zstd_compression_level(1)
        .open()
        .map_err(|error| match error.kind() {
            ErrorKind::WouldBlock => marker::busy(db),
            _ => fault(db, error),
        })?;
    files::sync(db)?;
    Ok(opened)
}

fn read_sequence(handle: &Db, db: &Path) -> Result<u64> {
    let stored = handle.get(SEQUENCE).map_err(|error| fault(db, error))?;
    let bytes = stored.map_or(Ok([0; 8]), |stored| stored[..].try_into());
    let bytes = bytes.map_err(|_| {
        Fault::damaged(
            db.display().to_string(),
            "the flush number has a bad length",
        )
    })?;
    Ok(u64::from_be_bytes(bytes))
}

fn fault(db: &Path, error: std::io::Error) -> Fault {
    // sled puts the places in its sources in front: `sled:file:line -> sled:file:line -> reason`.
    let text = error.to_string();
    let reason = text.rsplit(" -> ").next().unwrap_or_default();
    match error.kind() {
        ErrorKind::InvalidData | ErrorKind::UnexpectedEof => {
            Fault::damaged(db.display().to_string(), reason)
        }
        kind => Fault::io(
            "use the sled directory",
            db,
            std::io::Error::new(kind, reason),
        ),
    }
}

fn incomplete(db: &Path) -> Fault {
    Fault::damaged(db.display().to_string(), "a part of a value is missing")
}

fn closed(db: &Path) -> Fault {
    Fault::Refused(format!("{} is closed after an error", db.display()))
}
