//! What sled does not check itself: its metadata files, looked at before sled opens them.
//!
//! sled ends a log at the first frame that is not whole, wherever that is, and applies the logs after it all
//! the same; it opens an empty tree when its snapshot is missing; and it deletes the snapshot it has just
//! written when there is no log after it. So: every file but the last log must be whole, the numbers must
//! have no gap, and there must be a log.
//!
//! A frame is `length u48 | CRC of the length u16 | zstd bytes | CRC32 of all before it, XOR 0xAF`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::error::Fault;
use crate::storage::Result;

const HEAD: usize = 8;
const TAIL: usize = 4;

/// Verifies the metadata of the sled directory `db`, which was flushed to at least once.
pub(super) fn verify(db: &Path) -> Result<()> {
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
    let last = logs.last().copied();
    for (log, expected) in logs.range(snapshot + 1..).zip(snapshot + 1..) {
        let path = dir.join(format!("log_{log:016x}"));
        if *log != expected {
            return Err(damaged(
                &path,
                &format!("log {expected} before it is missing"),
            ));
        }
        verify_log(&path, Some(*log) == last)?;
    }
    Ok(())
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
        let path = dir.join(format!("log_{:016x}", newest + 1));
        fs::File::create(&path).map_err(|error| Fault::io("create", &path, error))?;
    }
    sync(db)
}

/// Makes the names of the metadata files durable.
pub(super) fn sync(db: &Path) -> Result<()> {
    let dir = db.join("metadata");
    fs::File::open(&dir)
        .and_then(|dir| dir.sync_all())
        .map_err(|error| Fault::io("sync", &dir, error))
}

/// Every frame must be whole up to the end; the last log may end in a torn one.
fn verify_log(path: &Path, last: bool) -> Result<()> {
    let bytes = read(path)?;
    let mut offset = 0;
    while offset < bytes.len() {
        let Some(length) = frame_length(&bytes[offset..]) else {
            // Only the flush that was cut short may be missing here; the marker knows its number.
            return match last {
                true => Ok(()),
                false => Err(damaged(path, &format!("bad frame at offset {offset}"))),
            };
        };
        offset += length;
    }
    Ok(())
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
