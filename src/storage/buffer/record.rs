//! How values stand in an engine: with a checksum behind them, and with a record of how much there is.

use std::path::Path;

use bytes::Buf;
use bytes::BufMut;
use bytes::Bytes;
use bytes::BytesMut;

use super::generation::Generation;
use crate::error::Fault;
use crate::storage::Batch;
use crate::storage::Engine;
use crate::storage::Result;
use crate::storage::Table;

/// CRC32C, little endian, behind the value.
const CHECKSUM_BYTES: usize = 4;

/// Bytes of changes in one commit, and what a change counts beside its key and value.
const COMMIT_BYTES: usize = 1 << 20;
const CHANGE_BYTES: usize = 64;

/// Key of the [`Live`] record in [`Table::Storage`].
const LIVE: &[u8] = b"live";

/// Key of [`Live::others`] in [`Table::Storage`].
const OTHERS: &[u8] = b"others";

/// Key of the number that tells one engine's data from every other's, in [`Table::Storage`].
const ID: &[u8] = b"id";

/// A value found under another key, or in another table, must not pass: the sum covers all three.
fn checksum(table: Table, key: &[u8], value: &[u8]) -> u32 {
    let mut head = [table as u8; 5];
    head[1..].copy_from_slice(&(key.len() as u32).to_le_bytes());
    let sum = crc32c::crc32c(&head);
    crc32c::crc32c_append(crc32c::crc32c_append(sum, key), value)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The value as an engine stores it.
pub(super) fn seal(table: Table, key: &[u8], value: &[u8]) -> Bytes {
    let mut sealed = BytesMut::with_capacity(value.len() + CHECKSUM_BYTES);
    sealed.put_slice(value);
    sealed.put_u32_le(checksum(table, key, value));
    sealed.freeze()
}

/// The value that was sealed, or the fault that it is not what was written.
pub(super) fn unseal(path: &Path, table: Table, key: &[u8], mut sealed: Bytes) -> Result<Bytes> {
    if let Some(length) = sealed.len().checked_sub(CHECKSUM_BYTES) {
        let sum = sealed.split_off(length).get_u32_le();
        if sum == checksum(table, key, &sealed) {
            return Ok(sealed);
        }
    }
    Err(Fault::damaged(
        path.display().to_string(),
        format!(
            "value of key {} in table {:?} does not match its checksum",
            hex(key),
            table
        ),
    ))
}

/// What the engine holds, written with every batch so that it need not be counted at open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Live {
    /// Pairs, and bytes of their keys and values.
    pub pairs: u64,
    pub bytes: u64,
    /// Log index of the newest write in the engine.
    pub applied: u64,
    /// The pairs outside [`Table::Revisions`]; `None` for data of a time when they were not counted.
    pub others: Option<u64>,
    /// The greatest key of [`Table::Revisions`] ever written: a key above it is new and needs no look.
    newest: Bytes,
}

impl Default for Live {
    /// Of an engine without data.
    fn default() -> Live {
        Live {
            pairs: 0,
            bytes: 0,
            applied: 0,
            others: Some(0),
            newest: Bytes::new(),
        }
    }
}

impl Live {
    pub fn read(engine: &dyn Engine) -> Result<Live> {
        let path = engine.path();
        if let Some(sealed) = engine.get(Table::Storage, LIVE)? {
            let record = unseal(path, Table::Storage, LIVE, sealed)?;
            let mut live = Live::decode(record)
                .ok_or_else(|| Fault::damaged(path.display().to_string(), "bad count record"))?;
            live.others = read_number(engine, OTHERS)?;
            return Ok(live);
        }
        for table in Table::ALL {
            if !engine.scan(table, b"", None, 1)?.is_empty() {
                return Err(Fault::damaged(
                    path.display().to_string(),
                    format!("table {table:?} has data, but the count record is missing"),
                ));
            }
        }
        Ok(Live::default())
    }

    fn decode(mut record: Bytes) -> Option<Live> {
        (record.len() >= 24).then(|| Live {
            pairs: record.get_u64_le(),
            bytes: record.get_u64_le(),
            applied: record.get_u64_le(),
            others: None,
            newest: record,
        })
    }

    fn encode(&self) -> Bytes {
        let mut record = BytesMut::with_capacity(24 + self.newest.len());
        record.put_u64_le(self.pairs);
        record.put_u64_le(self.bytes);
        record.put_u64_le(self.applied);
        record.put_slice(&self.newest);
        record.freeze()
    }

    /// Counts the changes of `generation` and commits them, sealed, with the counts at the end.
    ///
    /// In several batches, so that a large generation is not in memory once more; only the flush that
    /// follows makes them durable, all together.
    pub fn advance(&mut self, generation: &Generation, engine: &dyn Engine) -> Result<()> {
        let mut batch = Batch::default();
        let mut bytes = 0;
        for table in Table::ALL {
            for (key, value) in generation.changes(table) {
                self.count(table, key, value.as_ref(), engine)?;
                bytes += CHANGE_BYTES + key.len();
                match value {
                    Some(value) => {
                        bytes += value.len();
                        batch.put(table, key.clone(), seal(table, key, value));
                    }
                    None => batch.delete(table, key.clone()),
                }
                if bytes >= COMMIT_BYTES {
                    engine.commit(&std::mem::take(&mut batch))?;
                    bytes = 0;
                }
            }
        }
        self.applied = generation.applied;
        self.put(&mut batch);
        engine.commit(&batch)
    }

    fn put(&self, batch: &mut Batch) {
        let record = seal(Table::Storage, LIVE, &self.encode());
        batch.put(Table::Storage, LIVE, record);
        if let Some(others) = self.others {
            let record = seal(Table::Storage, OTHERS, &others.to_le_bytes());
            batch.put(Table::Storage, OTHERS, record);
        }
    }

    fn count(
        &mut self,
        table: Table,
        key: &Bytes,
        value: Option<&Bytes>,
        engine: &dyn Engine,
    ) -> Result<()> {
        let other = table != Table::Revisions;
        let known_new = table == Table::Revisions && *key > self.newest;
        // Only the length counts: a damaged value may still be replaced or deleted.
        let old = match known_new {
            true => None,
            false => engine.get(table, key)?,
        };
        if let Some(sealed) = old {
            let size = key.len() + sealed.len().saturating_sub(CHECKSUM_BYTES);
            self.pairs = self.pairs.saturating_sub(1);
            self.bytes = self.bytes.saturating_sub(size as u64);
            if let Some(others) = self.others.as_mut().filter(|_| other) {
                *others = others.saturating_sub(1);
            }
        }
        if let Some(value) = value {
            self.pairs += 1;
            if let Some(others) = self.others.as_mut().filter(|_| other) {
                *others += 1;
            }
            self.bytes += (key.len() + value.len()) as u64;
            if known_new {
                self.newest = key.clone();
            }
        }
        Ok(())
    }
}

/// The number of this engine's data. The first one to ask draws it; it becomes durable with the next flush.
pub(super) fn id(engine: &dyn Engine, live: &Live) -> Result<u64> {
    if let Some(id) = read_number(engine, ID)? {
        return Ok(id);
    }
    let id = fastrand::u64(..);
    let mut batch = Batch::default();
    let sealed = seal(Table::Storage, ID, &id.to_le_bytes());
    batch.put(Table::Storage, ID, sealed);
    // Data without a count would be damage.
    live.put(&mut batch);
    engine.commit(&batch)?;
    Ok(id)
}

fn read_number(engine: &dyn Engine, key: &'static [u8]) -> Result<Option<u64>> {
    let Some(sealed) = engine.get(Table::Storage, key)? else {
        return Ok(None);
    };
    let path = engine.path();
    let mut number = unseal(path, Table::Storage, key, sealed)?;
    match number.try_get_u64_le() {
        Ok(number) => Ok(Some(number)),
        Err(_) => Err(Fault::damaged(
            path.display().to_string(),
            format!("bad record {}", String::from_utf8_lossy(key)),
        )),
    }
}

/// Reads everything in `engine`, verifies each checksum, and compares the counts with the record.
pub(super) fn check(engine: &dyn Engine) -> Result<Live> {
    const SLICE: usize = 1000;
    let recorded = Live::read(engine)?;
    let (mut pairs, mut bytes) = (0, 0);
    for table in Table::ALL {
        let mut from = Vec::new();
        loop {
            let slice = engine.scan(table, &from, None, SLICE)?;
            let last = slice.len() < SLICE;
            for (key, sealed) in slice {
                let value = unseal(engine.path(), table, &key, sealed)?;
                if table != Table::Storage {
                    pairs += 1;
                    bytes += (key.len() + value.len()) as u64;
                }
                from.clear();
                from.extend_from_slice(&key);
                from.push(0);
            }
            if last {
                break;
            }
        }
    }
    if (pairs, bytes) != (recorded.pairs, recorded.bytes) {
        return Err(Fault::damaged(
            engine.path().display().to_string(),
            format!(
                "{pairs} pairs of {bytes} bytes found, {} of {} written",
                recorded.pairs, recorded.bytes
            ),
        ));
    }
    Ok(recorded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_value_opens_only_in_its_own_place() {
        let path = Path::new("/data/db");
        let sealed = seal(Table::Meta, b"key", b"value");
        let open = |table, key: &[u8], bytes: Bytes| {
            unseal(path, table, key, bytes).map_err(|fault| fault.to_string())
        };
        assert_eq!(open(Table::Meta, b"key", sealed.clone()).unwrap(), "value");
        assert_eq!(
            open(Table::Meta, b"kex", sealed.clone()).unwrap_err(),
            "damaged data in /data/db: value of key 6b6578 in table Meta does not match its checksum"
        );
        assert!(open(Table::Users, b"key", sealed.clone()).is_err());
        assert!(open(Table::Meta, b"keyv", sealed.slice(1..)).is_err());
        assert!(open(Table::Meta, b"key", sealed.slice(..3)).is_err());
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(open(Table::Meta, b"key", flipped.into()).is_err(), "{bit}");
        }
    }
}
