//! The second engine: redb, a copy-on-write B+tree in one file.
//!
//! Commits are not durable by themselves; a flush is one durable commit that carries its own number and the
//! allocator's state, so that reopening after a crash is quick. The file does not shrink: giving space back
//! copies the live pairs into a new file beside it and swaps the two, while readers go on.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use parking_lot::RwLock;
use redb::Database;
use redb::DatabaseError;
use redb::Durability;
use redb::ReadableDatabase;
use redb::TableDefinition;
use redb::TableError;
use redb::WriteTransaction;

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

/// Pages kept for reads and for writes that are not flushed.
const CACHE_BYTES: usize = 32 << 20;

/// Bytes copied in one transaction when space is given back.
const COPY_BYTES: usize = 8 << 20;

const PAIRS: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("pairs");

/// Where the number of the last flush stands.
const SEQUENCE: &[u8] = &[0, 0];

pub struct Redb {
    db: PathBuf,
    /// Replaced as a whole when space is given back.
    handle: RwLock<Arc<Database>>,
    writer: Mutex<Writer>,
}

struct Writer {
    place: Place,
    sequence: u64,
    dirty: bool,
}

impl Redb {
    pub fn open(dir: &Path) -> Result<Redb> {
        Redb::open_with(dir, true)
    }

    /// Opens without a look at every page. Whoever does so compares the pairs with what is known of them.
    pub fn open_unchecked(dir: &Path) -> Result<Redb> {
        Redb::open_with(dir, false)
    }

    fn open_with(dir: &Path, verify: bool) -> Result<Redb> {
        let place = Place::claim(Kind::Redb, dir)?;
        let db = place.db.clone();
        remove_if_there(&copy_path(&db))?;
        // A page is only looked at as it is read, and not every wrong byte shows there.
        let handle = create(&db, verify)?;
        let sequence = prepare(&handle).map_err(|error| fault(&db, error))?;
        place.verify(sequence)?;
        Ok(Redb {
            db,
            handle: RwLock::new(Arc::new(handle)),
            writer: Mutex::new(Writer {
                place,
                sequence,
                dirty: false,
            }),
        })
    }

    fn handle(&self) -> Arc<Database> {
        self.handle.read().clone()
    }

    fn flush_with(&self, writer: &mut Writer) -> Result<()> {
        if !writer.dirty {
            return Ok(());
        }
        let sequence = writer.sequence + 1;
        durably(&self.handle(), sequence).map_err(|error| fault(&self.db, error))?;
        writer.place.marker.record(Flush {
            sequence,
            ..Flush::default()
        })?;
        writer.sequence = sequence;
        writer.dirty = false;
        Ok(())
    }

    /// Copies everything into a new file; nothing is written to the old one meanwhile.
    fn copy(&self, to: &Path, sequence: u64) -> std::result::Result<Database, redb::Error> {
        let mut copy = builder(false).create(to)?;
        let handle = self.handle();
        let source = handle.begin_read()?.open_table(PAIRS)?;
        let mut pairs = source.range::<&[u8]>(..)?.peekable();
        while pairs.peek().is_some() {
            let transaction = begin(&copy)?;
            let mut table = transaction.open_table(PAIRS)?;
            let mut copied = 0;
            while copied < COPY_BYTES
                && let Some(pair) = pairs.next()
            {
                let (key, value) = pair?;
                table.insert(key.value(), value.value())?;
                copied += key.value().len() + value.value().len();
            }
            drop(table);
            transaction.commit()?;
        }
        durably(&copy, sequence)?;
        copy.compact()?;
        // Compaction leaves no allocator state in the file.
        durably(&copy, sequence)?;
        Ok(copy)
    }
}

impl View for Redb {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>> {
        let read = || -> std::result::Result<_, redb::Error> {
            // Held until the end: a database that is dropped takes its readers' pages along.
            let handle = self.handle();
            let pairs = handle.begin_read()?.open_table(PAIRS)?;
            let found = pairs.get(&super::full_key(table, key)[..])?;
            Ok(found.map(|value| Bytes::copy_from_slice(value.value())))
        };
        read().map_err(|error| fault(&self.db, error))
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
        let read = || -> std::result::Result<_, redb::Error> {
            let handle = self.handle();
            let pairs = handle.begin_read()?.open_table(PAIRS)?;
            let range = pairs.range::<&[u8]>(&from[..]..&to[..])?;
            let found = range.take(limit).map(|pair| {
                let (key, value) = pair?;
                let key = Bytes::copy_from_slice(&key.value()[PREFIX..]);
                Ok((key, Bytes::copy_from_slice(value.value())))
            });
            found.collect()
        };
        read().map_err(|error| fault(&self.db, error))
    }
}

impl Engine for Redb {
    fn path(&self) -> &Path {
        &self.db
    }

    fn commit(&self, batch: &Batch) -> Result<()> {
        let mut writer = self.writer.lock();
        writer.dirty = true;
        let write = || -> std::result::Result<(), redb::Error> {
            let transaction = begin(&self.handle())?;
            let mut pairs = transaction.open_table(PAIRS)?;
            for write in &batch.writes {
                let key = super::full_key(write.table(), write.key());
                match write {
                    Write::Put { value, .. } => pairs.insert(&key[..], &value[..])?,
                    Write::Delete { .. } => pairs.remove(&key[..])?,
                };
            }
            drop(pairs);
            transaction.commit()?;
            Ok(())
        };
        write().map_err(|error| fault(&self.db, error))
    }

    fn flush(&self) -> Result<()> {
        self.flush_with(&mut self.writer.lock())
    }

    fn size(&self) -> Result<u64> {
        super::disk_bytes(&self.db)
    }

    fn compact(&self) -> Result<()> {
        let mut writer = self.writer.lock();
        self.flush_with(&mut writer)?;
        let path = copy_path(&self.db);
        remove_if_there(&path)?;
        let copied = match self.copy(&path, writer.sequence) {
            Ok(copied) => copied,
            Err(error) => {
                // The old file is as good as before; the space is what may be needed now.
                remove_if_there(&path)?;
                return Err(fault(&self.db, error));
            }
        };
        std::fs::rename(&path, &self.db)
            .and_then(|()| super::sync_parent(&self.db))
            .map_err(|error| Fault::io("replace", &self.db, error))?;
        *self.handle.write() = Arc::new(copied);
        Ok(())
    }
}

fn builder(verify: bool) -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder.set_check_integrity_on_open(verify);
    builder
}

fn create(db: &Path, verify: bool) -> Result<Database> {
    builder(verify).create(db).map_err(|error| match error {
        DatabaseError::DatabaseAlreadyOpen => marker::busy(db),
        DatabaseError::UpgradeRequired(version) => Fault::Refused(format!(
            "{} has version {version} of redb's file format, which is not known here",
            db.display()
        )),
        error => fault(db, error.into()),
    })
}

/// Makes the table if it is not there; returns the number of the last flush.
fn prepare(handle: &Database) -> std::result::Result<u64, redb::Error> {
    let pairs = match handle.begin_read()?.open_table(PAIRS) {
        Ok(pairs) => pairs,
        Err(TableError::TableDoesNotExist(_)) => {
            let transaction = handle.begin_write()?;
            transaction.open_table(PAIRS)?;
            transaction.commit()?;
            return Ok(0);
        }
        Err(error) => return Err(error.into()),
    };
    // Nothing is written: only a flush leaves what makes the next opening quick.
    let stored = pairs.get(SEQUENCE)?;
    let number = stored.and_then(|stored| stored.value().try_into().ok());
    Ok(number.map_or(0, u64::from_be_bytes))
}

/// A transaction that becomes durable with the next flush.
fn begin(handle: &Database) -> std::result::Result<WriteTransaction, redb::Error> {
    let mut transaction = handle.begin_write()?;
    transaction.set_durability(Durability::None)?;
    Ok(transaction)
}

/// Makes every commit so far durable, under the number `sequence`.
fn durably(handle: &Database, sequence: u64) -> std::result::Result<(), redb::Error> {
    let mut transaction = handle.begin_write()?;
    transaction.set_quick_repair(true);
    transaction
        .open_table(PAIRS)?
        .insert(SEQUENCE, &sequence.to_be_bytes()[..])?;
    transaction.commit()?;
    Ok(())
}

fn copy_path(db: &Path) -> PathBuf {
    db.with_extension("compact")
}

fn remove_if_there(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Fault::io("remove", path, error))
        }
        _ => Ok(()),
    }
}

fn fault(db: &Path, error: redb::Error) -> Fault {
    match error {
        redb::Error::Io(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => {
            Fault::io("use the redb file", db, error)
        }
        error => Fault::damaged(db.display().to_string(), error.to_string()),
    }
}
