//! The one owner of the index checkpoint: read at the start, written again when enough has changed, and
//! what it left unread at the start is looked at in the background.
//!
//! A checkpoint is never ahead of the engine: it is published when the engine holds durably what had been
//! applied when it began. One that cannot be used is told in one line, removed before anything else
//! happens, and the start reads every record instead.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;
use tracing::info;
use tracing::warn;

use super::state_machine::Applier;
use crate::error::Fault;
use crate::machine::Machine;
use crate::machine::Options;
use crate::mvcc::Audit;
use crate::mvcc::Checkpoint;
use crate::mvcc::Loaded;
use crate::mvcc::Store;
use crate::mvcc::audit::Next;
use crate::storage;
use crate::storage::Table;
use crate::storage::buffer::Tables;
use crate::storage::checkpoint;
use crate::storage::checkpoint::Owner;
use crate::storage::checkpoint::Reader;
use crate::storage::checkpoint::Writer;
use crate::storage::disk::Disk;
use crate::util::text;

/// A checkpoint is due when the records since the last one are one in so many of all.
const SHARE: u64 = 3;

/// The same at the end of the process.
const STOP_SHARE: u64 = 10;

/// Otherwise it may wait so long for each record there is: 100 s for a million, less than a megabyte a
/// second whatever the size.
const WAIT: Duration = Duration::from_micros(100);

/// While nothing is written it costs nobody anything, and waits a tenth of that.
const IDLE_SHARE: u32 = 10;

/// How often all this is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// After a failure.
const RETRY: Duration = Duration::from_secs(60);

/// A checkpoint holds reclaiming up, so the next one waits so many times as long as the last one took.
const REST: u32 = 5;

/// So many times as long as a slice of background work took, others have the processor.
const PAUSE: u32 = 4;
const AUDIT_PAUSE: u32 = 4;

/// Where a member keeps its checkpoint.
#[derive(Clone)]
pub struct Place {
    pub disk: Arc<dyn Disk>,
    pub dir: PathBuf,
    pub owner: Owner,
    /// See [`Options::checkpoint_records`](super::node::Options).
    pub fewest: u64,
}

impl Place {
    /// Restores the machine: from the checkpoint and the records after it, or else from every record.
    pub fn restore(&self, tables: &Tables, options: &Options) -> Result<Machine, Fault> {
        let start = Instant::now();
        let loaded = match self.load(tables) {
            Ok(loaded) => loaded,
            Err(Fault::Refused(reason)) => return Err(Fault::Refused(reason)),
            Err(fault) => {
                warn!(
                    error = %fault,
                    "the checkpoint of the index cannot be used; reading every record instead"
                );
                // What is not used now must never be used: from here on nobody looks after it.
                checkpoint::discard(&*self.disk, &self.dir)?;
                None
            }
        };
        let upto = loaded.as_ref().map(Loaded::revision);
        let read = start.elapsed();
        let counted = tables.pairs();
        if let Some((_, others)) = counted {
            check_others(tables, others)?;
        }
        let machine = Machine::restore_from(loaded, tables, options)?;
        let records = machine.store.records();
        if let (None, Some((revisions, _))) = (upto, counted)
            && records != revisions
        {
            let reason = format!("{records} records found, {revisions} written");
            return Err(Fault::damaged("table of revisions", reason));
        }
        if let Some(upto) = upto {
            info!(
                "checkpoint-revision" = upto,
                revision = machine.store.revision(),
                keys = machine.store.live_keys(),
                "checkpoint-took" = %text::format_duration(read),
                took = %text::format_duration(start.elapsed()),
                "restored the index from its checkpoint"
            );
        }
        Ok(machine)
    }

    fn load(&self, tables: &Tables) -> Result<Option<Loaded>, Fault> {
        let Some(mut reader) = Reader::open(&*self.disk, &self.dir, self.owner)? else {
            return Ok(None);
        };
        if reader.applied() > tables.flushed() {
            let reason = format!(
                "it knows of log entry {}, the engine only of {}",
                reader.applied(),
                tables.flushed()
            );
            return Err(Fault::damaged(reader.path().display().to_string(), reason));
        }
        Loaded::read(&mut || reader.block(), tables).map(Some)
    }
}

/// Counts what is in the small tables: a checksum does not tell of a pair that is missing.
fn check_others(tables: &Tables, expected: u64) -> Result<(), Fault> {
    let mut found = 0;
    for table in Table::ALL {
        if !matches!(table, Table::Revisions | Table::Storage) {
            found += storage::whole_table(tables, table)?.len() as u64;
        }
    }
    match found == expected {
        true => Ok(()),
        false => Err(Fault::damaged(
            "the small tables",
            format!("{found} pairs found, {expected} written"),
        )),
    }
}

/// When the next checkpoint is due.
struct Pace {
    /// When the last one was made, or this process began.
    last: Instant,
    /// The newest revision at the last look.
    revision: i64,
    fewest: u64,
    /// Not before this, because an attempt has failed, or the last one took long.
    again: Instant,
}

impl Pace {
    fn new(fewest: u64) -> Pace {
        let now = Instant::now();
        Pace {
            fewest,
            last: now,
            revision: 0,
            again: now,
        }
    }

    fn due(&mut self, now: Instant, revision: i64, since: u64, records: u64) -> bool {
        let idle = std::mem::replace(&mut self.revision, revision) == revision;
        if since < self.fewest || now < self.again {
            return false;
        }
        let records = u32::try_from(records).unwrap_or(u32::MAX);
        let wait = match idle {
            true => WAIT * (records / IDLE_SHARE),
            false => WAIT * records,
        };
        since * SHARE >= u64::from(records) || now - self.last >= wait
    }
}

/// The background work on the checkpoint.
pub struct Keeper {
    pub place: Place,
    pub applier: Arc<Applier>,
    pub stop: CancellationToken,
}

impl Keeper {
    /// Looks after the checkpoint until the member stops.
    pub async fn run(self) {
        let keeper = Arc::new(self);
        let mut pace = Pace::new(keeper.place.fewest);
        // Without a checkpoint, every record has just been read.
        let last = keeper.machine().read().store.last_checkpoint();
        let mut audited = last.map(|last| (0, last));
        while !keeper.stop.is_cancelled() {
            let work = {
                let keeper = keeper.clone();
                move || -> Result<_, Fault> {
                    keeper.release();
                    let audited = keeper.audit(audited)?;
                    if keeper.is_due(&mut pace) {
                        keeper.write_or_warn(PAUSE, &mut pace);
                    }
                    Ok((pace, audited))
                }
            };
            match tokio::task::spawn_blocking(work).await {
                Ok(Ok(done)) => (pace, audited) = done,
                Ok(Err(fault)) => return keeper.applier.fatal.stop(&fault),
                Err(_) => return,
            }
            tokio::select! {
                () = keeper.stop.cancelled() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Writes a last checkpoint if it spares the next start enough. Nothing may be applied any more.
    pub fn close(&self) {
        let (since, records) = {
            let store = &self.machine().read().store;
            (store.records_since_checkpoint(), store.records())
        };
        let fewest = self.place.fewest;
        if since >= fewest && since * STOP_SHARE >= records {
            self.write_or_warn(0, &mut Pace::new(fewest));
        }
    }

    fn machine(&self) -> &RwLock<Machine> {
        &self.applier.machine
    }

    fn is_due(&self, pace: &mut Pace) -> bool {
        let machine = self.machine().read();
        let store = &machine.store;
        let since = store.records_since_checkpoint();
        pace.due(Instant::now(), store.revision(), since, store.records())
    }

    /// Drops the tombstones that were held back for an older checkpoint.
    fn release(&self) {
        loop {
            let mut machine = self.machine().write();
            let batch = machine.store.release_held();
            if batch.is_empty() {
                return;
            }
            let applied = machine.applied().map_or(0, |applied| applied.index);
            self.applier.tables.write(batch, applied);
        }
    }

    /// Compares the records of some revisions with the index, for as long as the next look may wait.
    /// Returns the revisions that are left.
    fn audit(&self, todo: Option<(i64, i64)>) -> Result<Option<(i64, i64)>, Fault> {
        let Some((mut from, last)) = todo else {
            return Ok(None);
        };
        let tables = &*self.applier.tables;
        let begin = Instant::now();
        while !self.stop.is_cancelled() && begin.elapsed() < LOOK {
            let next = Audit::start(&self.machine().read().store, from, last);
            let mut audit = match next {
                Next::Begun(audit) => audit,
                Next::Later => return Ok(Some((from, last))),
                Next::Done => {
                    info!("every record was read and found sound");
                    return Ok(None);
                }
            };
            from = loop {
                let start = Instant::now();
                audit.read(tables)?;
                let fed = audit.feed(&self.machine().read().store)?;
                thread::sleep(start.elapsed() * AUDIT_PAUSE);
                match fed {
                    Some(next) => break next,
                    None if self.stop.is_cancelled() => return Ok(Some((from, last))),
                    None => {}
                }
            };
        }
        Ok(Some((from, last)))
    }

    /// A failure costs a slower start, and no more.
    fn write_or_warn(&self, pause: u32, pace: &mut Pace) {
        let start = Instant::now();
        match self.write(pause) {
            Ok(Some((revision, bytes))) => {
                info!(
                    revision,
                    bytes,
                    took = %text::format_duration(start.elapsed()),
                    "wrote a checkpoint of the index"
                );
                pace.last = Instant::now();
                pace.again = pace.last + REST * start.elapsed();
            }
            Ok(None) => {}
            Err(fault) => {
                warn!(error = %fault, "cannot write a checkpoint of the index");
                pace.again = Instant::now() + RETRY;
            }
        }
    }

    /// Writes a checkpoint of the current revision; `None` if the member stops meanwhile.
    fn write(&self, pause: u32) -> Result<Option<(i64, u64)>, Fault> {
        let (mut checkpoint, applied) = {
            let machine = self.machine().read();
            let applied = machine.applied().map_or(0, |applied| applied.index);
            (Checkpoint::start(&machine.store), applied)
        };
        let revision = checkpoint.revision();
        let Place {
            disk, dir, owner, ..
        } = &self.place;
        let mut writer = Writer::create(disk.clone(), dir, *owner, applied)?;
        let written = self.fill(&mut writer, &mut checkpoint, pause);
        if !matches!(written, Ok(true)) {
            writer.abandon();
            return written.map(|_| None);
        }
        self.applier.tables.flush()?;
        assert!(
            self.applier.tables.flushed() >= applied,
            "a checkpoint ahead of the engine"
        );
        let store = |of: fn(&mut Store, &Checkpoint)| {
            of(&mut self.machine().write().store, &checkpoint);
        };
        store(Store::publish_checkpoint);
        let bytes = writer.publish()?;
        // Reclaiming has waited until here: a tombstone that leaves the index before the checkpoint is in
        // place would be in the tables, in the checkpoint's index, and on nobody's list.
        store(Store::checkpoint_published);
        Ok(Some((revision, bytes)))
    }

    fn fill(
        &self,
        writer: &mut Writer,
        checkpoint: &mut Checkpoint,
        pause: u32,
    ) -> Result<bool, Fault> {
        loop {
            let start = Instant::now();
            let block = self.machine().read().checkpoint_block(checkpoint);
            let Some(block) = block else {
                return Ok(true);
            };
            writer.append(&block)?;
            if pause > 0 {
                if self.stop.is_cancelled() {
                    return Ok(false);
                }
                thread::sleep(start.elapsed() * pause);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_by_share_by_time_and_when_idle() {
        let begin = Instant::now();
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        let cases = [
            // seconds, busy, records since, of all, due
            (0, true, 49_999, 49_999, false),
            (0, true, 50_000, 150_000, true),
            (0, true, 50_000, 150_001, false),
            (99, true, 60_000, 1_000_000, false),
            (100, true, 60_000, 1_000_000, true),
            (9, false, 60_000, 1_000_000, false),
            (10, false, 60_000, 1_000_000, true),
            (100_000, false, 49_999, 1_000_000, false),
        ];
        for (seconds, busy, since, records, due) in cases {
            let mut pace = Pace {
                last: begin,
                revision: if busy { 1 } else { 2 },
                again: begin,
                fewest: 50_000,
            };
            assert_eq!(
                pace.due(at(seconds), 2, since, records),
                due,
                "{seconds} s, {since} of {records}"
            );
        }
    }
}
