//! What sled does not check itself: its metadata files, looked at before sled opens them.
//!
//! sled ends a log at the first frame that is not whole, wherever that is, and applies the logs after it all
//! the same. What it then finds is no state that ever was: leaves point at slots that others took over, and
//! reading one of them never ends. It opens an empty tree when its snapshot is missing, and deletes the
//! snapshot it has just written when there is no log after it.
//!
//! So: every file must be whole up to what the last flush left, the numbers must have no gap, and there must
//! be a log. Only what a flush that never returned wrote to the last log may be torn.
//!
//! A frame is `length u48 | CRC of the length u16 | zstd bytes | CRC32 of all before it, XOR 0xAF`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use super::super::marker::Flush;
use crate::error::Fault;
use crate::storage::Result;

/// Where sled keeps its fanout.
const SETTINGS: &str = "durability_cookie";

const HEAD: usize = 8;
const TAIL: usize = 4;

/// Verifies the metadata of the sled directory `db`, as far as `flush` left it and beyond.
pub(super) fn verify(db: &Path, flush: Flush) -> Result<()> {
    let dir = db.join("metadata");
    let (snapshots, logs) = list(&dir)?;
    let Some(&snapshot) = snapshots.last() else {
        return Err(damaged(&dir, "no snapshot file"));
    };
    let path = dir.join(format!("snapshot_{snapshot:016x}"));
    let bytes = read(&path)?;
    if frame_length(&bytes) != Some(bytes.len()) {
        return Err(damaged(&path, "not one whole frame"));
    }
    // The name of a log that is still empty need not be durable.
    let recorded = if flush.log_bytes > 0 { flush.log } else { 0 };
    let newest = logs.last().copied().unwrap_or(0).max(recorded);
    // A snapshot holds every log up to its own number.
    for log in snapshot + 1..=newest {
        let path = log_path(&dir, log);
        if !logs.contains(&log) {
            return Err(damaged(&path, "missing"));
        }
        let whole = match log {
            _ if log < newest => None,
            _ if log == flush.log => Some(flush.log_bytes),
            _ => Some(0),
        };
        verify_log(&path, whole)?;
    }
    Ok(())
}

/// Number and length of the log that sled appends to.
pub(super) fn newest_log(db: &Path) -> Result<(u64, u64)> {
    let dir = db.join("metadata");
    let (_, logs) = list(&dir)?;
    let Some(&newest) = logs.last() else {
        return Err(damaged(&dir, "no log"));
    };
    let path = log_path(&dir, newest);
    let metadata = path
        .metadata()
        .map_err(|error| Fault::io("measure", &path, error))?;
    Ok((newest, metadata.len()))
}

/// Makes sure that there is a log behind the newest snapshot, and no other snapshot.
pub(super) fn prepare(db: &Path) -> Result<()> {
    let dir = db.join("metadata");
    let (mut snapshots, logs) = list(&dir)?;
    let Some(newest) = snapshots.pop_last() else {
        return Ok(());
    };
    for stale in snapshots {
        let path = dir.join(format!("snapshot_{stale:016x}"));
        fs::remove_file(&path).map_err(|error| Fault::io("remove", &path, error))?;
    }
    if logs.last().is_none_or(|log| *log <= newest) {
        let path = log_path(&dir, newest + 1);
        fs::File::create(&path).map_err(|error| Fault::io("create", &path, error))?;
    }
    fs::File::open(&dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|error| Fault::io("sync", &dir, error))
}

/// Makes durable what sled wrote without a sync: its settings and the names of its files.
pub(super) fn sync(db: &Path) -> Result<()> {
    for path in [db.join(SETTINGS), db.join("metadata"), db.to_path_buf()] {
        fs::File::open(&path)
            .and_then(|file| file.sync_all())
            .map_err(|error| Fault::io("sync", &path, error))?;
    }
    Ok(())
}

/// Every frame up to `whole` (all if `None`) must be sound; behind that, one that was cut short may be the last.
fn verify_log(path: &Path, whole: Option<u64>) -> Result<()> {
    let bytes = read(path)?;
    let mut offset = 0;
    while let Some(length) = frame_length(&bytes[offset..]) {
        offset += length;
    }
    let torn = offset < bytes.len();
    if (offset as u64) < whole.unwrap_or(bytes.len() as u64)
        || torn && frame_follows(&bytes[offset..])
    {
        return Err(damaged(path, &format!("bad frame at offset {offset}")));
    }
    Ok(())
}

/// Whether a sound frame stands anywhere behind the first byte.
fn frame_follows(bytes: &[u8]) -> bool {
    (1..bytes.len()).any(|offset| frame_length(&bytes[offset..]).is_some())
}

fn log_path(dir: &Path, log: u64) -> PathBuf {
    dir.join(format!("log_{log:016x}"))
}

/// Length of the whole and sound frame that `bytes` begins with.
fn frame_length(bytes: &[u8]) -> Option<usize> {
    let head = bytes.get(..HEAD)?;
    let sum = u16::from_le_bytes([head[6], head[7]]);
    if sum != crc32fast::hash(&head[..6]) as u16 {
        return None;
    }
    let mut length = [0; 8];
    length[..6].copy_from_slice(&head[..6]);
    let end = usize::try_from(u64::from_le_bytes(length))
        .ok()?
        .checked_add(HEAD)?;
    let tail = bytes.get(end..end.checked_add(TAIL)?)?;
    (tail == (crc32fast::hash(&bytes[..end]) ^ 0xAF).to_le_bytes()).then_some(end + TAIL)
}

/// Numbers of the snapshots and logs in `dir`. An unfinished snapshot (`.tmp`) is none.
fn list(dir: &Path) -> Result<(BTreeSet<u64>, BTreeSet<u64>)> {
    let (mut snapshots, mut logs) = (BTreeSet::new(), BTreeSet::new());
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok((snapshots, logs)),
        entries => entries.map_err(|error| Fault::io("list", dir, error))?,
    };
    for entry in entries {
        let name = entry
            .map_err(|error| Fault::io("list", dir, error))?
            .file_name();
        let name = name.to_string_lossy();
        let (numbers, number) = match name.split_once('_') {
            Some(("snapshot", rest)) if rest.ends_with(".tmp") => continue,
            Some(("snapshot", number)) => (&mut snapshots, number),
            Some(("log", number)) => (&mut logs, number),
            _ => continue,
        };
        // sled panics on a name like this.
        match u64::from_str_radix(number, 16) {
            Ok(value) if number.len() == 16 => numbers.insert(value),
            _ => return Err(damaged(&dir.join(&*name), "not a file of sled's")),
        };
    }
    Ok((snapshots, logs))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| Fault::io("read", path, error))
}

fn damaged(path: &Path, reason: &str) -> Fault {
    Fault::damaged(path.display().to_string(), reason)
}
