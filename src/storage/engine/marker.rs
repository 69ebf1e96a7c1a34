//! The small file beside an engine's own files: whose data this is, in which format, and how far it got.
//!
//! `db.format` belongs to `db`, which is a directory (sled) or a file (redb). Its header names the engine
//! and the format version. Behind it stands the number of the last flush, and how long the engine's log was
//! then: an engine that reopens at an earlier one has lost data that was durable, whatever its own checks say.

use std::fs;
use std::io::Read;
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use parking_lot::Mutex;
use rustix::fs::FlockOperation;
use rustix::fs::flock;

use super::Kind;
use crate::error::Fault;
use crate::storage::Result;

const FILE: &str = "db.format";
const ENGINE: &str = "db";

const MAGIC: &[u8; 8] = b"kv-store";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 20;
const SLOT_BYTES: usize = 28;

/// Sectors are written whole, so a torn write of one number leaves the other.
const SECTOR: u64 = 512;
const SLOTS: u64 = 2;
const FILE_BYTES: usize = (SECTOR * (1 + SLOTS)) as usize;

/// Engines that are open in this process, for the words on a panic.
static OPEN: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

pub(super) struct Marker {
    path: PathBuf,
    db: PathBuf,
    file: fs::File,
    last: Flush,
}

/// A flush that is complete.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Flush {
    /// They are counted from 1; 0 is none yet.
    pub sequence: u64,
    /// The log that the engine appended to, and its length after that; zero where there is no such file.
    pub log: u64,
    pub log_bytes: u64,
}

/// What there is to open.
pub(super) struct Place {
    pub marker: Marker,
    /// Path of the engine's own files.
    pub db: PathBuf,
}

impl Place {
    /// Finds or makes room for an engine of this kind in `dir`, or says why its files are not ours to open.
    pub fn claim(kind: Kind, dir: &Path) -> Result<Place> {
        let mut builder = fs::DirBuilder::new();
        builder
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|error| Fault::io("create directory", dir, error))?;
        let db = dir.join(ENGINE);
        let path = dir.join(FILE);
        if !exists(&path)? {
            refuse_foreign(&db)?;
            create(kind, dir, &path)?;
        }
        let marker = Marker::open(kind, path, &db)?;
        if marker.last.sequence == 0 {
            // No flush ever returned: what is there is a creation that was cut short.
            remove(&db)?;
        } else if !exists(&db)? {
            return Err(Fault::damaged(
                db.display().to_string(),
                format!("missing, yet {} was flushed to", marker.path.display()),
            ));
        }
        Ok(Place { marker, db })
    }

    /// Compares the number of the last flush that the engine remembers with ours.
    pub fn verify(&self, reopened_at: u64) -> Result<()> {
        let expected = self.marker.last.sequence;
        if reopened_at >= expected {
            return Ok(());
        }
        Err(Fault::damaged(
            self.db.display().to_string(),
            format!("opened at flush {reopened_at}, but flush {expected} had been completed"),
        ))
    }
}

/// How long a lock may be held by a child that has not yet begun its own program. Opening an engine runs
/// such children, and until then they share the locks of their parent.
const CHILD_PATIENCE: Duration = Duration::from_millis(500);

fn lock(file: &fs::File) -> bool {
    let start = Instant::now();
    while flock(file, FlockOperation::NonBlockingLockExclusive).is_err() {
        if start.elapsed() > CHILD_PATIENCE {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
    true
}

impl Marker {
    fn open(kind: Kind, path: PathBuf, db: &Path) -> Result<Marker> {
        let file = fs::File::options()
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|error| Fault::io("open", &path, error))?;
        if !lock(&file) {
            return Err(busy(db));
        }
        let mut bytes = Vec::with_capacity(FILE_BYTES);
        (&file)
            .read_to_end(&mut bytes)
            .map_err(|error| Fault::io("read", &path, error))?;
        check_header(kind, &bytes, &path, db)?;
        let slots = (0..SLOTS).filter_map(|slot| read_slot(&bytes, slot));
        let Some(last) = slots.max() else {
            return Err(damaged(&path, "no flush number with a good checksum"));
        };
        OPEN.lock().push(db.to_path_buf());
        Ok(Marker {
            path,
            db: db.to_path_buf(),
            file,
            last,
        })
    }

    /// The last flush known here.
    pub fn last(&self) -> Flush {
        self.last
    }

    /// Remembers that `flush` is complete.
    ///
    /// Not synced, as a number that is too low after a power loss is only a weaker check. The first one is
    /// synced: zero means that there is nothing to lose.
    pub fn record(&mut self, flush: Flush) -> Result<()> {
        assert!(
            flush.sequence > self.last.sequence,
            "flush numbers only grow"
        );
        let first = self.last.sequence == 0;
        self.file
            .write_all_at(&slot(flush), SECTOR * (1 + flush.sequence % SLOTS))
            .and_then(|()| match first {
                true => self.file.sync_all(),
                false => Ok(()),
            })
            .map_err(|error| Fault::io("write", &self.path, error))?;
        self.last = flush;
        Ok(())
    }
}

impl Drop for Marker {
    fn drop(&mut self) {
        OPEN.lock().retain(|db| *db != self.db);
    }
}

/// Paths of the engines that are open, unless the list is being changed at this moment.
pub(super) fn open_engines() -> Vec<PathBuf> {
    OPEN.try_lock().map_or_else(Vec::new, |open| open.clone())
}

fn header(kind: Kind) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[12..16].copy_from_slice(&(kind as u32).to_le_bytes());
    let sum = crc32c::crc32c(&header[..16]);
    header[16..].copy_from_slice(&sum.to_le_bytes());
    header
}

fn slot(flush: Flush) -> [u8; SLOT_BYTES] {
    let mut slot = [0; SLOT_BYTES];
    slot[..8].copy_from_slice(&flush.sequence.to_le_bytes());
    slot[8..16].copy_from_slice(&flush.log.to_le_bytes());
    slot[16..24].copy_from_slice(&flush.log_bytes.to_le_bytes());
    // Any start but zero, so that a zeroed slot does not pass.
    let sum = crc32c::crc32c_append(1, &slot[..24]);
    slot[24..].copy_from_slice(&sum.to_le_bytes());
    slot
}

fn read_slot(bytes: &[u8], index: u64) -> Option<Flush> {
    let start = (SECTOR * (1 + index)) as usize;
    let found = bytes.get(start..start + SLOT_BYTES)?;
    let number = |at: usize| {
        let number = found[at..at + 8].try_into().ok();
        number.map(u64::from_le_bytes)
    };
    let flush = Flush {
        sequence: number(0)?,
        log: number(8)?,
        log_bytes: number(16)?,
    };
    (found == slot(flush)).then_some(flush)
}

fn check_header(kind: Kind, bytes: &[u8], path: &Path, db: &Path) -> Result<()> {
    let Some(found) = bytes.get(..HEADER_BYTES) else {
        return Err(damaged(path, "too short"));
    };
    if found == header(kind) {
        return Ok(());
    }
    let sum = u32::from_le_bytes([found[16], found[17], found[18], found[19]]);
    if &found[..8] != MAGIC || sum != crc32c::crc32c(&found[..16]) {
        return Err(damaged(path, "bad header"));
    }
    let number =
        |at: usize| u32::from_le_bytes([found[at], found[at + 1], found[at + 2], found[at + 3]]);
    let version = number(8);
    if version > VERSION {
        return Err(Fault::Refused(format!(
            "{} has format {version}, newer than {VERSION}, the newest known here",
            db.display()
        )));
    }
    let owner = [Kind::Sled, Kind::Redb]
        .into_iter()
        .find(|owner| *owner as u32 == number(12));
    Err(match owner {
        Some(owner) => Fault::Refused(format!(
            "{} belongs to the storage engine {owner}, not {kind}",
            db.display()
        )),
        None => damaged(path, "unknown engine"),
    })
}

/// Writes the marker under another name first: it is there in full or not at all.
fn create(kind: Kind, dir: &Path, path: &Path) -> Result<()> {
    let mut bytes = vec![0; FILE_BYTES];
    bytes[..HEADER_BYTES].copy_from_slice(&header(kind));
    for index in 1..=SLOTS {
        let start = (SECTOR * index) as usize;
        bytes[start..start + SLOT_BYTES].copy_from_slice(&slot(Flush::default()));
    }
    let unfinished = path.with_extension("format.tmp");
    let write = || {
        let mut file = fs::File::create(&unfinished)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&unfinished, path)?;
        fs::File::open(dir)?.sync_all()
    };
    write().map_err(|error| Fault::io("create", path, error))
}

/// Says whose files these are, since there is no marker that makes them ours.
fn refuse_foreign(db: &Path) -> Result<()> {
    if !exists(db)? {
        return Ok(());
    }
    let what = if db.is_dir() {
        match exists(&db.join("durability_cookie"))? {
            true => "is a sled directory",
            false => "is a directory of something else",
        }
    } else {
        let mut head = Vec::new();
        fs::File::open(db)
            .and_then(|file| file.take(20).read_to_end(&mut head))
            .map_err(|error| Fault::io("read", db, error))?;
        // bbolt: the page's header, then the magic number of a meta page.
        if head.get(16..20) == Some(&0xED0C_DAED_u32.to_le_bytes()) {
            return Err(Fault::Refused(format!(
                "{} is a database of etcd (bbolt), which cannot be opened: save a snapshot from the etcd \
                 that owns it and restore that",
                db.display()
            )));
        }
        match head.starts_with(b"redb") {
            true => "is a redb file",
            false => "is a file of something else",
        }
    };
    Err(Fault::Refused(format!(
        "{} {what}, but {FILE} is missing beside it",
        db.display()
    )))
}

pub(super) fn busy(db: &Path) -> Fault {
    Fault::Refused(format!("{} is in use by another process", db.display()))
}

fn damaged(path: &Path, reason: &str) -> Fault {
    Fault::damaged(path.display().to_string(), reason)
}

fn exists(path: &Path) -> Result<bool> {
    path.try_exists()
        .map_err(|error| Fault::io("look for", path, error))
}

fn remove(db: &Path) -> Result<()> {
    let removed = match db.is_dir() {
        true => fs::remove_dir_all(db),
        false if exists(db)? => fs::remove_file(db),
        false => Ok(()),
    };
    removed.map_err(|error| Fault::io("remove", db, error))
}
