//! The engines: bytes in, bytes out, one conformance suite over all of them.
//!
//! A key in an engine is `[table tag, space id 0, key...]`; nothing else is known of it here.

pub mod faulty;
pub mod memory;
pub mod redb;
pub mod sled;

mod marker;

use std::fmt;
use std::panic::PanicHookInfo;
use std::path::Path;
use std::str::FromStr;

use super::Engine;
use super::Result;
use super::Table;
use crate::error::Fault;

/// Bytes in front of each key: the table's tag, and the space id that is reserved for tenants.
const PREFIX: usize = 2;

/// The one space there is so far.
const SPACE: u8 = 0;

/// Which engine keeps the data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    #[default]
    Sled,
    Redb,
    Memory,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Sled => "sled",
            Kind::Redb => "redb",
            Kind::Memory => "memory",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Kind, String> {
        [Kind::Sled, Kind::Redb, Kind::Memory]
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| format!("unknown storage engine {name:?} (sled, redb or memory)"))
    }
}

/// Opens or creates the engine `kind` as `db` in the directory `dir`.
pub fn open(kind: Kind, dir: &Path) -> Result<Box<dyn Engine>> {
    match kind {
        Kind::Memory => Ok(Box::new(memory::Memory::new())),
        Kind::Sled => Ok(Box::new(sled::Sled::open(dir)?)),
        Kind::Redb => Ok(Box::new(redb::Redb::open(dir)?)),
    }
}

/// Does the same without reading all of the engine's pages, which takes a second for a gigabyte of redb's.
///
/// The caller knows which pairs there must be, and looks for each of them: see [`Tables::pairs`].
///
/// [`Tables::pairs`]: super::buffer::Tables::pairs
pub fn open_unchecked(kind: Kind, dir: &Path) -> Result<Box<dyn Engine>> {
    match kind {
        Kind::Redb => Ok(Box::new(redb::Redb::open_unchecked(dir)?)),
        kind => open(kind, dir),
    }
}

/// One line for a panic in an engine's library, which is what some damage to its files ends in; `None` for a
/// panic of another kind. For the hook of a process whose panics abort.
pub fn describe_panic(panic: &PanicHookInfo<'_>) -> Option<String> {
    const LIBRARIES: [&str; 7] = [
        "sled-",
        "redb-",
        "concurrent-map-",
        "ebr-",
        "inline-array-",
        "pagetable-",
        "stack-map-",
    ];
    let location = panic.location()?;
    let mut parts = location.file().split('/');
    parts.find(|part| LIBRARIES.iter().any(|library| part.starts_with(library)))?;
    let open: Vec<_> = marker::open_engines()
        .iter()
        .map(|db| db.display().to_string())
        .collect();
    let message = panic.payload_as_str().unwrap_or("no message");
    let message = message.split_whitespace().collect::<Vec<_>>().join(" ");
    Some(format!(
        "damaged data in {}: the storage engine gave up: {message} ({}:{})",
        open.join(", "),
        location.file().rsplit('/').next().unwrap_or_default(),
        location.line()
    ))
}

/// The key as an engine stores it.
fn full_key(table: Table, key: &[u8]) -> Vec<u8> {
    let mut full = Vec::with_capacity(PREFIX + key.len());
    full.extend_from_slice(&[table as u8, SPACE]);
    full.extend_from_slice(key);
    full
}

/// The half-open range of full keys for `[from, to)` of a table; `None` if it is empty.
fn bounds(table: Table, from: &[u8], to: Option<&[u8]>) -> Option<(Vec<u8>, Vec<u8>)> {
    let end = match to {
        Some(to) => full_key(table, to),
        None => vec![table as u8, SPACE + 1],
    };
    let start = full_key(table, from);
    (start < end).then_some((start, end))
}

fn sync_parent(path: &Path) -> std::io::Result<()> {
    match path.parent() {
        Some(dir) => std::fs::File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

/// Length of a file, or of all files below a directory.
fn disk_bytes(path: &Path) -> Result<u64> {
    fn count(path: &Path) -> std::io::Result<u64> {
        let metadata = match path.symlink_metadata() {
            // Removed since its directory was read.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
            metadata => metadata?,
        };
        if !metadata.is_dir() {
            return Ok(metadata.len());
        }
        let mut entries = path.read_dir()?;
        entries.try_fold(0, |sum, entry| Ok(sum + count(&entry?.path())?))
    }
    count(path).map_err(|error| Fault::io("measure", path, error))
}

#[cfg(test)]
mod tests;
