//! Bytes on disk: the whole contract in one screen.
//!
//! `storage` knows bytes and tables, not revisions. Truth is the write-ahead log ([`wal`]); an [`Engine`]
//! is a cache of it with one promise: after a crash it reopens at exactly some earlier flushed batch.
//! [`buffer::Tables`] stands in front of the engine: writes are readable at once, checksummed, and
//! committed and flushed by one thread in the background.

pub mod buffer;
pub mod checkpoint;
pub mod disk;
pub mod draft;
pub mod engine;
pub mod wal;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use crate::error::Fault;

pub type Result<T> = std::result::Result<T, Fault>;

/// A key and its value.
pub type Pair = (Bytes, Bytes);

/// The tables of a member. The tag is the first byte of every key in the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Table {
    /// Applied index, compacted revision, cluster facts: small records of the machine.
    Meta = b'm',
    /// Every revision of every key.
    Revisions = b'k',
    Leases = b'l',
    Members = b'c',
    Alarms = b'a',
    Users = b'u',
    Roles = b'r',
    /// What the storage knows about itself. Belongs to these files, not to any snapshot.
    Storage = b's',
}

impl Table {
    pub const ALL: [Table; 8] = [
        Table::Meta,
        Table::Revisions,
        Table::Leases,
        Table::Members,
        Table::Alarms,
        Table::Users,
        Table::Roles,
        Table::Storage,
    ];

    /// Position in [`Table::ALL`].
    fn index(self) -> usize {
        match self {
            Table::Meta => 0,
            Table::Revisions => 1,
            Table::Leases => 2,
            Table::Members => 3,
            Table::Alarms => 4,
            Table::Users => 5,
            Table::Roles => 6,
            Table::Storage => 7,
        }
    }
}

/// A read-only look at the tables. Not a snapshot: later commits show.
pub trait View {
    /// Returns the value stored under `key`, if any.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>>;

    /// Returns the first `limit` pairs of `[from, to)` in byte order; `to: None` is the end of the table.
    fn scan(&self, table: Table, from: &[u8], to: Option<&[u8]>, limit: usize)
    -> Result<Vec<Pair>>;
}

/// Every pair of a table that is known to be small.
pub fn whole_table(view: &dyn View, table: Table) -> Result<Vec<Pair>> {
    const PAGE: usize = 4096;
    let mut all: Vec<Pair> = Vec::new();
    loop {
        let from = all.last().map(|(key, _)| [&key[..], &[0]].concat());
        let page = view.scan(table, from.as_deref().unwrap_or_default(), None, PAGE)?;
        let full = page.len() == PAGE;
        all.extend(page);
        if !full {
            return Ok(all);
        }
    }
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    Put {
        table: Table,
        key: Bytes,
        value: Bytes,
    },
    Delete {
        table: Table,
        key: Bytes,
    },
}

impl Write {
    pub fn table(&self) -> Table {
        match self {
            Write::Put { table, .. } | Write::Delete { table, .. } => *table,
        }
    }

    pub fn key(&self) -> &Bytes {
        match self {
            Write::Put { key, .. } | Write::Delete { key, .. } => key,
        }
    }
}

/// Changes that become visible together, in order; the last change of a key wins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    pub writes: Vec<Write>,
}

impl Batch {
    pub fn put(&mut self, table: Table, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.writes.push(Write::Put {
            table,
            key: key.into(),
            value: value.into(),
        });
    }

    pub fn delete(&mut self, table: Table, key: impl Into<Bytes>) {
        self.writes.push(Write::Delete {
            table,
            key: key.into(),
        });
    }

    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }
}

/// An ordered byte store with all tables in one key space. A commit is atomic; only a flush makes it durable.
///
/// Engines see values as they are; checksums are put on and checked by [`buffer::Tables`].
pub trait Engine: View + Send + Sync + 'static {
    /// Where the bytes are, for messages.
    fn path(&self) -> &Path;

    /// Makes every write of `batch` visible, or none of them. Readers meanwhile may find some of its deletions
    /// done and others not.
    fn commit(&self, batch: &Batch) -> Result<()>;

    /// Returns once every earlier commit would survive a power loss.
    fn flush(&self) -> Result<()>;

    /// Returns the bytes on disk, live and garbage.
    fn size(&self) -> Result<u64>;

    /// Gives unused space back to the file system. Commits may wait meanwhile, reads do not.
    fn compact(&self) -> Result<()>;
}

impl<V: View + ?Sized> View for Arc<V> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>> {
        (**self).get(table, key)
    }

    fn scan(
        &self,
        table: Table,
        from: &[u8],
        to: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Pair>> {
        (**self).scan(table, from, to, limit)
    }
}

impl<E: Engine + ?Sized> Engine for Arc<E> {
    fn path(&self) -> &Path {
        (**self).path()
    }

    fn commit(&self, batch: &Batch) -> Result<()> {
        (**self).commit(batch)
    }

    fn flush(&self) -> Result<()> {
        (**self).flush()
    }

    fn size(&self) -> Result<u64> {
        (**self).size()
    }

    fn compact(&self) -> Result<()> {
        (**self).compact()
    }
}
