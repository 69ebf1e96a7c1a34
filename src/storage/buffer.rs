//! The tables of a member: a write buffer in front of an engine.
//!
//! Writes are readable at once and reach the engine later, in order, by one thread that owns all engine
//! writes. A generation of writes is committed together with the log index it was applied from, and only
//! when the log says that this index is durable here: the engine never runs ahead of the log.
//! Every value carries a checksum over table, key and value, checked on every read from the engine.

use bytes::Bytes;

use super::Batch;
use super::Engine;
use super::Pair;
use super::Result;
use super::Table;
use super::View;

/// When the buffer hands its writes to the engine.
pub struct Options {
    /// Longest time a write stays only in the buffer.
    pub interval: std::time::Duration,
    /// Bytes of writes after which it does not wait for the interval.
    pub bytes: usize,
}

/// All tables, shared by the apply loop (the only writer) and readers.
pub struct Tables {
    _engine: Box<dyn Engine>,
}

impl Tables {
    /// Starts the engine thread. `durable` answers up to which log index this member's log has been synced;
    /// `fatal` is called once, with the reason, when the engine fails.
    pub fn open(
        _engine: Box<dyn Engine>,
        _options: Options,
        _durable: Box<dyn Fn() -> u64 + Send + Sync>,
        _fatal: Box<dyn Fn(crate::error::Fault) + Send + Sync>,
    ) -> Result<Tables> {
        todo!()
    }

    /// Makes `batch` visible. `applied` is the log index it came from; never smaller than before.
    pub fn write(&self, _batch: Batch, _applied: u64) {
        todo!()
    }

    /// Log index up to which the engine holds everything durably. Nothing beyond it may be purged.
    pub fn flushed(&self) -> u64 {
        todo!()
    }

    /// Blocks until everything written so far is durable in the engine.
    pub fn flush(&self) -> Result<()> {
        todo!()
    }

    /// Bytes on disk and, of those, bytes of live pairs.
    pub fn size(&self) -> Result<(u64, u64)> {
        todo!()
    }

    /// Gives unused space back; blocks until done. See [`Engine::compact`].
    pub fn compact(&self) -> Result<()> {
        todo!()
    }

    /// Flushes and stops the engine thread.
    pub fn close(&self) -> Result<()> {
        todo!()
    }
}

impl View for Tables {
    fn get(&self, _table: Table, _key: &[u8]) -> Result<Option<Bytes>> {
        todo!()
    }

    fn scan(
        &self,
        _table: Table,
        _from: &[u8],
        _to: Option<&[u8]>,
        _limit: usize,
    ) -> Result<Vec<Pair>> {
        todo!()
    }
}
