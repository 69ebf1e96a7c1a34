//! openraft's state machine on the machine and its tables.
//!
//! Committed entries arrive in runs; a run is applied under one write lock. Its changes are visible before
//! they are announced, and announced before anybody is answered. A fault stops the process: a member that
//! could not apply an entry is no member any more.

use std::collections::HashMap;
use std::io;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::Stream;
use futures_util::StreamExt;
use openraft::OptionalSend;
use openraft::RaftSnapshotBuilder;
use openraft::storage::ApplyResponder;
use openraft::storage::EntryResponder;
use openraft::storage::RaftStateMachine;
use parking_lot::Mutex;
use parking_lot::RwLock;
use tokio::sync::Notify;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tracing::warn;

use super::entry;
use super::entry::Batch;
use super::entry::Entry;
use super::entry::LogId;
use super::entry::Slot;
use super::entry::Snapshot;
use super::entry::SnapshotMeta;
use super::entry::StoredMembership;
use super::entry::Types;
use super::fatal::Fatal;
use super::history::Change;
use super::history::History;
use super::log_store::Log;
use crate::error::Error;
use crate::error::Fault;
use crate::machine::Command;
use crate::machine::Context;
use crate::machine::Machine;
use crate::machine::Reply;
use crate::mvcc::compact::Pin;
use crate::proto::kvpb;
use crate::storage::Batch as Writes;
use crate::storage::buffer::Tables;
use crate::util::clock::Clock;
use crate::util::metrics;
use crate::util::text;

/// Proposals applied under one hold of the machine's lock, so that readers get their turn.
const RUN: usize = 512;

/// How far this member has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    pub index: u64,
    pub revision: i64,
}

/// Everything applying needs; shared with the node.
pub struct Applier {
    pub machine: Arc<RwLock<Machine>>,
    pub tables: Arc<Tables>,
    pub history: Arc<History>,
    pub log: Arc<Log>,
    pub clock: Arc<dyn Clock>,
    pub applied: watch::Sender<Applied>,
    /// Term of the last applied entry.
    pub applied_term: AtomicU64,
    pub elsewhere: Elsewhere,
    /// Answers that wait until this member has raised an alarm about its space.
    pub out_of_space: mpsc::UnboundedSender<Answer>,
    /// Bytes of the tables on disk, as last measured.
    pub size: AtomicU64,
    pub snapshots: SnapshotPace,
    /// Entries that take longer to apply are told.
    pub warn_apply: Duration,
    pub fatal: Fatal,
}

/// What a proposal came to, and who is to hear it.
pub type Answer = (Slot, Result<Reply, Error>);

/// Slots of proposals that left this member and come back through the log.
#[derive(Default)]
pub struct Elsewhere {
    slots: Mutex<HashMap<u64, Slot>>,
    /// `slots.len()`, so that apply does not lock for nothing.
    waiting: AtomicUsize,
}

impl Elsewhere {
    /// Takes the slots out of `batch` before it is sent away.
    pub fn park(&self, batch: &Batch) {
        let mut slots = self.slots.lock();
        slots.retain(|_, slot| !slot.is_closed());
        for (proposal, slot) in batch.proposals().iter().zip(batch.take_slots()) {
            if let Some(slot) = slot {
                slots.insert(entry::proposal_id(proposal), slot);
            }
        }
        self.waiting.store(slots.len(), Ordering::Release);
    }

    /// The slot of the proposal, if it waits here.
    pub fn take(&self, proposal: &kvpb::Proposal) -> Option<Slot> {
        if self.waiting.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut slots = self.slots.lock();
        let slot = slots.remove(&entry::proposal_id(proposal));
        self.waiting.store(slots.len(), Ordering::Release);
        slot
    }
}

/// Tells when enough has been applied since the last snapshot for another.
pub struct SnapshotPace {
    every: u64,
    last: AtomicU64,
    pub due: Notify,
}

impl SnapshotPace {
    pub fn new(every: u64, applied: u64) -> SnapshotPace {
        SnapshotPace {
            every: every.max(1),
            last: AtomicU64::new(applied),
            due: Notify::new(),
        }
    }

    fn passed(&self, applied: u64) {
        if applied - self.last.load(Ordering::Relaxed) >= self.every {
            self.last.store(applied, Ordering::Relaxed);
            self.due.notify_one();
        }
    }
}

/// What a run leaves to do once the lock is free.
#[derive(Default)]
struct Outcome {
    changes: Vec<Change>,
    answers: Vec<Answer>,
    out_of_space: Vec<Answer>,
    last: Applied,
    term: u64,
}

/// An entry, and openraft's own interest in when it is applied.
type Item = EntryResponder<Types>;

impl Applier {
    /// The last applied entry and membership.
    pub fn applied_state(&self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let machine = self.machine.read();
        let applied = machine.applied().as_ref().map(entry::log_id_from);
        Ok((applied, stored_membership(machine.membership())?))
    }

    fn run(&self, items: Vec<Item>) -> Result<(), Fault> {
        let mut outcome = Outcome::default();
        let mut responders: Vec<ApplyResponder<Types>> = Vec::new();
        {
            let mut machine = self.machine.write();
            for (entry, responder) in items {
                self.apply_entry(&mut machine, &entry, &mut outcome)?;
                responders.extend(responder);
            }
            outcome.last.revision = machine.store.revision();
        }
        self.announce(&mut outcome);
        for (slot, result) in outcome.answers {
            // Whoever asked may have given up.
            slot.send(result).ok();
        }
        for answer in outcome.out_of_space {
            // Nobody listens any more once the node stops.
            self.out_of_space.send(answer).ok();
        }
        responders.into_iter().for_each(|it| it.send(()));
        Ok(())
    }

    fn announce(&self, outcome: &mut Outcome) {
        let index = outcome.last.index;
        self.history.push(mem::take(&mut outcome.changes));
        self.log.set_applied(index);
        self.applied_term.store(outcome.term, Ordering::Release);
        self.applied.send_replace(outcome.last);
        self.snapshots.passed(index);
        metrics::PROPOSALS_APPLIED.set(index as i64);
    }

    fn apply_entry(
        &self,
        machine: &mut Machine,
        entry: &Entry,
        outcome: &mut Outcome,
    ) -> Result<(), Fault> {
        let context = Context {
            index: entry.log_id.index(),
            term: entry::term(&entry.log_id),
            now: self.clock.uptime(),
            size: self.size.load(Ordering::Relaxed),
        };
        outcome.last.index = context.index;
        outcome.term = context.term;
        let payload = &entry.payload;
        let writes = match (&payload.batch, &payload.membership) {
            (Some(batch), None) => self.apply_batch(machine, context, batch, outcome)?,
            (None, membership) => {
                let record = membership.as_ref().map(entry::membership_record);
                machine.skip(&*self.tables, context, record.as_ref())
            }
            (Some(_), Some(_)) => {
                let place = format!("log entry {}", context.index);
                return Err(Fault::damaged(place, "proposals and a membership in one"));
            }
        };
        self.tables.write(writes, context.index);
        Ok(())
    }

    fn apply_batch(
        &self,
        machine: &mut Machine,
        context: Context,
        batch: &Batch,
        outcome: &mut Outcome,
    ) -> Result<Writes, Fault> {
        let start = self.clock.uptime();
        let effect = machine.apply(&*self.tables, context, batch.proposals())?;
        self.note_apply(batch, self.clock.uptime().saturating_sub(start));
        let mut slots = batch.take_slots().into_iter();
        for (proposal, result) in batch.proposals().iter().zip(effect.outcomes) {
            if !result.events.is_empty() {
                outcome.changes.push(Change {
                    index: context.index,
                    revision: result.revision,
                    events: result.events,
                });
            }
            let slot = slots.next().flatten();
            let Some(slot) = slot.or_else(|| self.elsewhere.take(proposal)) else {
                continue;
            };
            let answers = match result.out_of_space {
                true => &mut outcome.out_of_space,
                false => &mut outcome.answers,
            };
            answers.push((slot, result.reply));
        }
        Ok(effect.writes)
    }

    fn note_apply(&self, batch: &Batch, took: Duration) {
        let first = batch.proposals().first();
        let command = first.and_then(|it| it.request.as_ref()?.command.as_ref());
        let op = command.map_or("None", operation);
        metrics::APPLY_DURATION
            .with_label_values(&["v3", op, "true"])
            .observe(took.as_secs_f64());
        if took > self.warn_apply {
            metrics::SLOW_APPLIES.inc();
            warn!(
                took = %text::format_duration(took),
                "expected-duration" = %text::format_duration(self.warn_apply),
                prefix = "",
                request = op,
                response = format!("proposals:{}", batch.proposals().len()),
                "apply request took too long"
            );
        }
    }
}

/// A command as etcd's metrics name it.
fn operation(command: &Command) -> &'static str {
    match command {
        Command::Put(_) => "Put",
        Command::DeleteRange(_) => "DeleteRange",
        Command::Txn(_) => "Txn",
        Command::Compaction(_) => "Compaction",
        Command::LeaseGrant(_) => "LeaseGrant",
        Command::LeaseRevoke(_) | Command::LeaseExpire(_) => "LeaseRevoke",
        Command::LeaseCheckpoint(_) => "LeaseCheckpoint",
        Command::Alarm(_) => "Alarm",
        Command::ClusterVersionSet(_) => "ClusterVersionSet",
        Command::ClusterMemberAttrSet(_) => "ClusterMemberAttrSet",
        Command::DowngradeInfoSet(_) => "DowngradeInfoSet",
        _ => "Auth",
    }
}

fn stored_membership(record: Option<&kvpb::MembershipRecord>) -> io::Result<StoredMembership> {
    let Some(record) = record else {
        return Ok(StoredMembership::default());
    };
    let log_id = record.log_id.as_ref().map(entry::log_id_from);
    let membership = record.membership.clone().unwrap_or_default();
    let membership = entry::membership_from(&membership)?;
    Ok(StoredMembership::new(log_id, membership))
}

/// A consistent point of the data: what a follower that is too far behind starts from.
///
/// Nothing is copied: what was written up to a revision stays as it is, and what compaction has made
/// superfluous stays until this value is dropped.
pub struct Capture {
    _pin: Pin,
}

fn weight((entry, _): &Item) -> usize {
    let batch = entry.payload.batch.as_ref();
    batch.map_or(1, |batch| batch.proposals().len())
}

/// The state machine as openraft sees it.
pub struct Adapter(pub Arc<Applier>);

impl Adapter {
    fn capture(&self) -> io::Result<Snapshot<Capture>> {
        let (last_log_id, last_membership) = self.0.applied_state()?;
        let machine = self.0.machine.read();
        let pin = machine.store.pin(machine.store.revision());
        Ok(Snapshot {
            meta: SnapshotMeta {
                last_log_id,
                last_membership,
            },
            snapshot: Capture { _pin: pin },
        })
    }

    fn stop(&self, fault: Fault) -> io::Error {
        self.0.fatal.stop(&fault);
        io::Error::other(fault.to_string())
    }
}

impl RaftStateMachine<Types> for Adapter {
    type SnapshotData = Capture;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        self.0.applied_state()
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<Item>> + Unpin + OptionalSend,
    {
        while let Some(first) = entries.next().await {
            let first = first?;
            let mut weight = weight(&first);
            let mut run = vec![first];
            while weight < RUN
                && let Some(Some(next)) = entries.next().now_or_never()
            {
                let next = next?;
                weight += self::weight(&next);
                run.push(next);
            }
            self.0.run(run).map_err(|fault| self.stop(fault))?;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            captured: Some(self.capture()),
            tables: self.0.tables.clone(),
        }
    }

    /// Snapshots come from other members. There is nobody who could send one before members can be added.
    async fn install_snapshot(&mut self, meta: &SnapshotMeta, _: Capture) -> io::Result<()> {
        let text = format!("cannot install a snapshot up to {:?}", meta.last_log_id);
        Err(io::Error::new(io::ErrorKind::Unsupported, text))
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot<Capture>>> {
        let snapshot = self.capture()?;
        Ok(snapshot.meta.last_log_id.is_some().then_some(snapshot))
    }
}

/// Makes a snapshot by making the engine durable up to the captured point. Nothing is copied: it only tells
/// openraft up to where the log may be purged.
pub struct Builder {
    captured: Option<io::Result<Snapshot<Capture>>>,
    tables: Arc<Tables>,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = Capture;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot<Capture>> {
        let used = || io::Error::other("a snapshot builder builds once");
        let snapshot = self.captured.take().ok_or_else(used)??;
        let tables = self.tables.clone();
        let flushed = tokio::task::spawn_blocking(move || {
            tables.flush()?;
            Ok::<u64, Fault>(tables.flushed())
        });
        let flushed = flushed.await.map_err(io::Error::other)?;
        let flushed = flushed.map_err(|fault| io::Error::other(fault.to_string()))?;
        let upto = snapshot.meta.last_log_id.map_or(0, |id| id.index());
        assert!(upto <= flushed, "the engine has {flushed}, not {upto}");
        Ok(snapshot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    #[test]
    fn a_proposal_that_left_finds_its_slot_by_id() {
        let proposal = |id: u64| {
            let request = kvpb::InternalRaftRequest {
                header: Some(kvpb::RequestHeader {
                    id,
                    ..Default::default()
                }),
                ..Default::default()
            };
            kvpb::Proposal {
                request: Some(request),
                origin: None,
            }
        };
        let elsewhere = Elsewhere::default();
        assert!(elsewhere.take(&proposal(1)).is_none());
        let (first, _kept) = oneshot::channel();
        let (second, given_up) = oneshot::channel();
        let slots = vec![Some(first), Some(second)];
        elsewhere.park(&Batch::with_slots(vec![proposal(1), proposal(2)], slots));
        drop(given_up);
        elsewhere.park(&Batch::new(Vec::new()));
        assert!(elsewhere.take(&proposal(3)).is_none());
        assert!(elsewhere.take(&proposal(2)).is_none(), "it gave up");
        assert!(elsewhere.take(&proposal(1)).is_some());
        assert!(elsewhere.take(&proposal(1)).is_none());
    }

    #[tokio::test]
    async fn a_snapshot_is_due_every_so_many_entries() {
        let pace = SnapshotPace::new(10, 5);
        pace.passed(14);
        assert!(pace.due.notified().now_or_never().is_none());
        pace.passed(15);
        assert!(pace.due.notified().now_or_never().is_some());
        pace.passed(24);
        assert!(pace.due.notified().now_or_never().is_none());
        pace.passed(30);
        assert!(pace.due.notified().now_or_never().is_some());
    }
}
