//! An engine that lies as a disk may: it loses what was not flushed, fills up, and fails on request.
//!
//! Commits stay in front of the engine it wraps until a flush brings them there as one batch. Every choice
//! comes from the seed.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::ops::Bound;
use std::path::Path;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::error::Fault;
use crate::storage::Batch;
use crate::storage::Engine;
use crate::storage::Pair;
use crate::storage::Result;
use crate::storage::Table;
use crate::storage::View;
use crate::storage::Write;
use crate::storage::draft::overlay;

pub struct Faulty<E> {
    engine: E,
    state: Mutex<State>,
}

struct State {
    random: fastrand::Rng,
    /// Commits that no flush has made durable, the newest change of each key.
    unflushed: BTreeMap<(Table, Bytes), Option<Bytes>>,
    /// Commits and flushes left before one fails.
    fail_in: Option<u64>,
    /// Bytes the disk takes.
    capacity: Option<u64>,
    /// After a failure nothing is certain: every later operation fails too.
    failed: bool,
    /// The next flush may be cut short by a crash.
    crash_in_flush: bool,
}

impl<E: Engine> Faulty<E> {
    pub fn new(engine: E, seed: u64) -> Faulty<E> {
        Faulty {
            engine,
            state: Mutex::new(State {
                random: fastrand::Rng::with_seed(seed),
                unflushed: BTreeMap::new(),
                fail_in: None,
                capacity: None,
                failed: false,
                crash_in_flush: false,
            }),
        }
    }

    /// The power goes: everything since the last flush is gone, and the engine is as if reopened.
    pub fn crash(&self) {
        let mut state = self.state.lock();
        state.unflushed.clear();
        state.failed = false;
        state.fail_in = None;
    }

    /// Lets one of the next `within` commits and flushes fail, and all after it.
    pub fn fail_within(&self, within: u64) {
        let mut state = self.state.lock();
        state.fail_in = Some(state.random.u64(..within));
    }

    /// Lets the commit or flush after `count` good ones fail, and all after it.
    pub fn fail_after(&self, count: u64) {
        self.state.lock().fail_in = Some(count);
    }

    /// Limits the disk to `bytes`; a flush that needs more fails.
    pub fn fill_up_at(&self, bytes: u64) {
        self.state.lock().capacity = Some(bytes);
    }

    /// Lets the next flush fail as the power goes; whether it still took effect is up to the seed.
    pub fn crash_in_next_flush(&self) {
        self.state.lock().crash_in_flush = true;
    }

    fn fault(&self, kind: ErrorKind) -> Fault {
        Fault::io("write", self.engine.path(), kind.into())
    }

    /// Counts one operation that changes something.
    fn step(&self, state: &mut State) -> Result<()> {
        if let Some(left) = &mut state.fail_in {
            state.failed |= *left == 0;
            *left = left.saturating_sub(1);
        }
        match state.failed {
            true => Err(self.fault(ErrorKind::Other)),
            false => Ok(()),
        }
    }

    fn write_through(&self, state: &mut State) -> Result<()> {
        let mut batch = Batch::default();
        for ((table, key), value) in std::mem::take(&mut state.unflushed) {
            match value {
                Some(value) => batch.put(table, key, value),
                None => batch.delete(table, key),
            }
        }
        self.engine.commit(&batch)?;
        self.engine.flush()
    }

    fn would_fit(&self, state: &State) -> Result<bool> {
        let Some(capacity) = state.capacity else {
            return Ok(true);
        };
        let new = state.unflushed.iter();
        let new = new.map(|((_, key), value)| key.len() + value.as_ref().map_or(0, Bytes::len));
        Ok(self.engine.size()? + new.sum::<usize>() as u64 <= capacity)
    }
}

impl<E: Engine> View for Faulty<E> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>> {
        let state = self.state.lock();
        match state.unflushed.get(&(table, Bytes::copy_from_slice(key))) {
            Some(value) => Ok(value.clone()),
            None => self.engine.get(table, key),
        }
    }

    fn scan(
        &self,
        table: Table,
        from: &[u8],
        to: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Pair>> {
        let state = self.state.lock();
        let lower = Bound::Included((table, Bytes::copy_from_slice(from)));
        let ours: Vec<_> = state
            .unflushed
            .range((lower, Bound::Unbounded))
            .take_while(|((other, key), _)| *other == table && to.is_none_or(|to| &key[..] < to))
            .map(|((_, key), value)| (key.clone(), value.clone()))
            .collect();
        let wanted = limit.saturating_add(ours.len());
        let theirs = self.engine.scan(table, from, to, wanted)?;
        Ok(overlay(ours, theirs, limit))
    }
}

impl<E: Engine> Engine for Faulty<E> {
    fn path(&self) -> &Path {
        self.engine.path()
    }

    fn commit(&self, batch: &Batch) -> Result<()> {
        let mut state = self.state.lock();
        self.step(&mut state)?;
        for write in batch.clone() {
            let place = (write.table(), write.key().clone());
            let value = match write {
                Write::Put { value, .. } => Some(value),
                Write::Delete { .. } => None,
            };
            state.unflushed.insert(place, value);
        }
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        let mut state = self.state.lock();
        self.step(&mut state)?;
        if std::mem::take(&mut state.crash_in_flush) {
            if state.random.bool() {
                self.write_through(&mut state)?;
            }
            state.failed = true;
            return Err(self.fault(ErrorKind::Other));
        }
        if !self.would_fit(&state)? {
            state.failed = true;
            return Err(self.fault(ErrorKind::StorageFull));
        }
        self.write_through(&mut state)
    }

    fn size(&self) -> Result<u64> {
        self.engine.size()
    }

    fn compact(&self) -> Result<()> {
        self.engine.compact()
    }
}
