//! openraft's log on the write-ahead log.
//!
//! The newest entries stay decoded in memory, bounded by bytes; older ones are read from the disk. An entry
//! leaves memory only when it is applied and durable here, so what is not yet applied still has the slots of
//! those who wait for it. Entries are readable before `append` returns; the callback runs once they are
//! durable. Votes are durable on return; the commit mark, truncations and purges are only queued.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::Bound;
use std::ops::Range;
use std::ops::RangeBounds;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use futures_util::Stream;
use openraft::OptionalSend;
use openraft::RaftLogReader;
use openraft::storage::IOFlushed;
use openraft::storage::LogState;
use openraft::storage::RaftLogStorage;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::entry;
use super::entry::Entry;
use super::entry::LogId;
use super::entry::Membership;
use super::entry::Types;
use super::entry::Vote;
use crate::error::Fault;
use crate::storage::wal::Position;
use crate::storage::wal::Recovered;
use crate::storage::wal::Wal;
use crate::util::metrics;

/// Bytes of one message to a peer, and of one step of the apply loop through old entries.
const MESSAGE_BYTES: usize = 512 * 1024;

/// How often the place of an entry is looked up before it counts as lost.
const LOOKS: usize = 100;

/// The log of this member, shared by openraft's core, its readers and the node.
pub struct Log {
    wal: Wal,
    member_id: u64,
    tail_bytes: usize,
    state: Mutex<State>,
    last: AtomicU64,
    committed: AtomicU64,
    /// Entries below this index are applied and need not stay in memory.
    unapplied: AtomicU64,
    /// True while the effective membership has this member as its only voter.
    alone: AtomicBool,
    /// Proposals that wait for an answer on this member; one means that nothing else is in flight.
    pub in_flight: AtomicUsize,
}

#[derive(Default)]
struct State {
    /// Index the log began with when it was empty.
    start: u64,
    /// The newest entries, each with its size, without a gap up to `last`.
    tail: VecDeque<(Entry, usize)>,
    bytes: usize,
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    last: Option<LogId>,
    /// Memberships of the log by index: whether this member is the only voter from there on.
    memberships: Vec<(u64, bool)>,
}

impl Log {
    /// Wraps an opened log; `recovered` is what it said it holds.
    pub fn new(
        wal: Wal,
        recovered: &Recovered,
        member_id: u64,
        tail_bytes: usize,
    ) -> io::Result<Arc<Log>> {
        let purged = recovered.purged.map(log_id_of);
        let state = State {
            vote: read(&recovered.vote, entry::decode_vote)?,
            committed: read(&recovered.committed, entry::decode_log_id)?,
            purged,
            last: recovered.last.map(log_id_of).max(purged),
            ..State::default()
        };
        Ok(Arc::new(Log {
            wal,
            member_id,
            tail_bytes,
            last: AtomicU64::new(index_of(&state.last)),
            committed: AtomicU64::new(index_of(&state.committed)),
            state: Mutex::new(state),
            unapplied: AtomicU64::new(0),
            alone: AtomicBool::new(false),
            in_flight: AtomicUsize::new(0),
        }))
    }

    /// Index of the last entry; zero if there is none.
    pub fn last_index(&self) -> u64 {
        self.last.load(Ordering::Acquire)
    }

    /// Index up to which entries are known to be committed.
    pub fn committed(&self) -> u64 {
        self.committed.load(Ordering::Acquire)
    }

    /// Position of the last entry and of the last purged one.
    pub fn bounds(&self) -> (Option<LogId>, Option<LogId>) {
        let state = self.state.lock();
        (state.last, state.purged)
    }

    /// Term of an entry the log has.
    pub fn term_at(&self, index: u64) -> Result<u64, Fault> {
        let read = self.entries(index..index + 1, 1);
        let entries = read.map_err(|error| Fault::damaged("the log", error.to_string()))?;
        let missing = || Fault::damaged("the log", format!("entry {index} is missing"));
        entries
            .first()
            .map(|it| entry::term(&it.log_id))
            .ok_or_else(missing)
    }

    /// Index up to which entries are durable on this member.
    pub fn durable(&self) -> u64 {
        self.wal.durable()
    }

    /// True while this member is the only voter: what it has committed, no other member can contradict.
    pub fn alone(&self) -> bool {
        self.alone.load(Ordering::Acquire)
    }

    /// Says which membership holds before the first one of the log that is appended from now on. Must be
    /// called where appends are: on openraft's core task.
    pub fn set_membership(&self, effective: &Membership) {
        let mut state = self.state.lock();
        state.memberships.clear();
        state.memberships.push((0, self.is_alone(effective)));
        self.publish_alone(&state);
    }

    /// Lets entries up to `index` leave the memory.
    pub fn set_applied(&self, index: u64) {
        self.unapplied.store(index + 1, Ordering::Release);
    }

    /// Writes out and syncs what is queued, then stops the log's thread. Blocks.
    pub fn close(&self) -> Result<(), Fault> {
        self.wal.close()
    }

    fn is_alone(&self, membership: &Membership) -> bool {
        let mut configs = membership.get_joint_config().iter();
        configs.len() > 0
            && configs.all(|voters| voters.len() == 1 && voters.contains(&self.member_id))
    }

    fn publish_alone(&self, state: &State) {
        let alone = state.memberships.last().is_some_and(|(_, alone)| *alone);
        self.alone.store(alone, Ordering::Release);
    }

    /// An entry that comes alone, with one proposal and nothing else in flight, may be written and synced in
    /// place: waking the log's thread is most of the time a lone put takes.
    fn append(&self, entries: impl IntoIterator<Item = Entry>, flushed: IOFlushed<Types>) {
        let entries = entries.into_iter();
        let mut records = Vec::with_capacity(entries.size_hint().0);
        let mut lone = self.in_flight.load(Ordering::Relaxed) <= 1;
        let mut state = self.state.lock();
        for entry in entries {
            let record = entry::encode(&entry);
            lone &= records.is_empty() && is_single(&entry);
            if let Some(membership) = &entry.payload.membership {
                let alone = self.is_alone(membership);
                state.memberships.push((record.index, alone));
                self.publish_alone(&state);
            }
            if state.last.is_none() {
                state.start = record.index;
            }
            state.last = Some(entry.log_id);
            let size = record.data.len() + decoded_bytes(&entry);
            state.bytes += size;
            state.tail.push_back((entry, size));
            records.push(record);
        }
        self.last.store(index_of(&state.last), Ordering::Release);
        self.evict(&mut state);
        drop(state);
        let done = Box::new(move |result: Result<(), Arc<Fault>>| {
            flushed.io_completed(result.map_err(|fault| io::Error::other(fault.to_string())));
        });
        self.wal.append(records, lone, done);
    }

    /// Drops the oldest entries over the byte limit, never one that is not applied or not on disk.
    fn evict(&self, state: &mut State) {
        if state.bytes <= self.tail_bytes {
            return;
        }
        // A log that says zero may have nothing durable yet.
        let durable = self.wal.durable();
        let keep = self.unapplied.load(Ordering::Acquire).min(durable + 1);
        while let Some((oldest, _)) = state.tail.front()
            && state.bytes > self.tail_bytes
            && durable > 0
            && oldest.log_id.index() < keep
        {
            let (_, size) = state.tail.pop_front().expect("it has a front");
            state.bytes -= size;
        }
    }

    /// Entries of `range`, from the first on, until `max_bytes` are reached; at least one if there is any.
    fn entries(&self, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<Entry>> {
        // Nothing is found also if the tail moved on after it was looked at: then the entries are on disk.
        for _ in 0..LOOKS {
            let (range, tail_start) = self.clip(range.clone());
            let found = self.look(range.clone(), tail_start, max_bytes)?;
            if !found.is_empty() || range.is_empty() {
                return Ok(found);
            }
        }
        let text = format!("log entries {range:?} are neither in memory nor on disk");
        Err(io::Error::other(text))
    }

    fn look(&self, range: Range<u64>, tail_start: u64, max_bytes: usize) -> io::Result<Vec<Entry>> {
        let mut found = Vec::new();
        let mut next = range.start;
        let mut bytes = 0;
        while next < range.end.min(tail_start) && bytes < max_bytes {
            let upto = range.end.min(tail_start);
            let records = self.wal.read(next..upto, max_bytes - bytes);
            let records = records.map_err(|fault| io::Error::other(fault.to_string()))?;
            if records.first().map(|record| record.index) != Some(next) {
                return Err(io::Error::other(format!("log entry {next} is missing")));
            }
            for record in &records {
                bytes += record.data.len();
                found.push(entry::decode(record)?);
            }
            next += records.len() as u64;
        }
        let state = self.state.lock();
        let first = state.tail.front().map_or(0, |(it, _)| it.log_id.index());
        if next < range.end && next >= first && next >= tail_start {
            let skip = (next - first) as usize;
            let wanted = (range.end - next) as usize;
            for (entry, size) in state.tail.iter().skip(skip).take(wanted) {
                if bytes >= max_bytes {
                    break;
                }
                bytes += size;
                found.push(entry.clone());
            }
        }
        Ok(found)
    }

    /// The part of `range` the log has, and where the entries in memory begin.
    fn clip(&self, range: Range<u64>) -> (Range<u64>, u64) {
        let state = self.state.lock();
        let from = state.purged.map_or(state.start, |id| id.index() + 1);
        let to = state.last.map_or(0, |id| id.index() + 1);
        let front = state.tail.front();
        let tail_start = front.map_or(u64::MAX, |(it, _)| it.log_id.index());
        let start = range.start.max(from);
        (start..range.end.min(to).max(start), tail_start)
    }

    /// Every entry of `range` that the log has.
    fn all_entries(&self, range: Range<u64>) -> io::Result<Vec<Entry>> {
        let (Range { start, end }, _) = self.clip(range);
        let mut found = self.entries(start..end, usize::MAX)?;
        while start + (found.len() as u64) < end {
            let next = start + found.len() as u64;
            let more = self.entries(next..end, usize::MAX)?;
            if more.is_empty() {
                break;
            }
            found.extend(more);
        }
        Ok(found)
    }

    fn truncate_after(&self, last: Option<LogId>) {
        let mut state = self.state.lock();
        if last >= state.last {
            return;
        }
        let keep = last.map_or(0, |id| id.index() + 1);
        while let Some((newest, size)) = state.tail.back()
            && newest.log_id.index() >= keep
        {
            state.bytes -= *size;
            state.tail.pop_back();
        }
        state.last = last.max(state.purged);
        // The first mark is of the time before these entries.
        while state.memberships.len() > 1 && state.memberships.last().is_some_and(|it| it.0 >= keep)
        {
            state.memberships.pop();
        }
        self.publish_alone(&state);
        self.last.store(index_of(&state.last), Ordering::Release);
        self.wal.truncate_after(last.map(|id| position_of(&id)));
    }

    fn purge(&self, upto: LogId) {
        let mut state = self.state.lock();
        while let Some((oldest, size)) = state.tail.front()
            && oldest.log_id.index() <= upto.index()
        {
            state.bytes -= *size;
            state.tail.pop_front();
        }
        state.purged = state.purged.max(Some(upto));
        state.last = state.last.max(Some(upto));
        let covered = |it: &(u64, bool)| it.0 <= upto.index();
        while state.memberships.len() > 1 && covered(&state.memberships[1]) {
            state.memberships.remove(0);
        }
        self.last.store(index_of(&state.last), Ordering::Release);
        self.wal.purge(position_of(&upto));
    }
}

/// What an entry in memory costs beyond the bytes it has on disk, roughly.
fn decoded_bytes(entry: &Entry) -> usize {
    let batch = entry.payload.batch.as_ref();
    128 + batch.map_or(0, |batch| batch.proposals().len() * 256)
}

fn is_single(entry: &Entry) -> bool {
    let batch = entry.payload.batch.as_ref();
    batch.is_some_and(|batch| batch.proposals().len() == 1)
}

fn read<T>(
    bytes: &Option<bytes::Bytes>,
    decode: impl Fn(&[u8]) -> io::Result<T>,
) -> io::Result<Option<T>> {
    bytes.as_ref().map(|bytes| decode(bytes)).transpose()
}

fn log_id_of(position: Position) -> LogId {
    entry::log_id(position.term, position.index)
}

fn position_of(id: &LogId) -> Position {
    Position {
        term: entry::term(id),
        index: id.index(),
    }
}

fn index_of(id: &Option<LogId>) -> u64 {
    id.as_ref().map_or(0, |id| id.index())
}

fn half_open(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => *start + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start..end
}

/// The log as openraft writes it.
#[derive(Clone)]
pub struct LogStore(pub Arc<Log>);

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        self.0.all_entries(half_open(&range))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.0.entries(start..end, MESSAGE_BYTES)
    }

    /// Reads in steps, so that applying a long tail does not hold all of it in memory.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (Range { start, end }, _) = self.0.clip(half_open(&range));
        let log = self.0.clone();
        let mut next = start;
        let mut step: VecDeque<Entry> = VecDeque::new();
        let mut failed = false;
        futures_util::stream::iter(std::iter::from_fn(move || {
            if step.is_empty() && next < end && !failed {
                match log.entries(next..end, MESSAGE_BYTES) {
                    Ok(entries) => step = entries.into(),
                    Err(error) => {
                        failed = true;
                        return Some(Err(error));
                    }
                }
                next += step.len() as u64;
            }
            step.pop_front().map(Ok)
        }))
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.0.state.lock().vote)
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = LogStore;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let (last_log_id, last_purged_log_id) = self.0.bounds();
        Ok(LogState {
            last_purged_log_id,
            last_log_id,
        })
    }

    async fn get_log_reader(&mut self) -> LogStore {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let (done, saved) = oneshot::channel();
        let done = Box::new(move |result: Result<(), Arc<Fault>>| {
            // The receiver is gone only if the core is.
            done.send(result).ok();
        });
        self.0.wal.save_vote(entry::encode_vote(vote), done);
        let saved = saved
            .await
            .map_err(|_| io::Error::other("the log is closed"))?;
        saved.map_err(|fault| io::Error::other(fault.to_string()))?;
        self.0.state.lock().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.0.state.lock().committed = committed;
        if let Some(committed) = committed {
            self.0.committed.store(committed.index(), Ordering::Release);
            metrics::PROPOSALS_COMMITTED.set(committed.index() as i64);
            self.0.wal.save_committed(entry::encode_log_id(&committed));
        }
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.0.state.lock().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.0.append(entries, callback);
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        self.0.truncate_after(last);
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        self.0.purge(upto);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use futures_util::StreamExt;
    use openraft::RaftSnapshotBuilder;
    use openraft::StorageError;
    use openraft::entry::RaftEntry;
    use openraft::entry::RaftPayload;
    use openraft::storage::EntryResponder;
    use openraft::storage::RaftLogStorageExt;
    use openraft::storage::RaftStateMachine;
    use openraft::testing::log::StoreBuilder;
    use openraft::testing::log::Suite;

    use super::*;
    use crate::proto::kvpb;
    use crate::raft::entry::Batch;
    use crate::raft::entry::Payload;
    use crate::raft::entry::Snapshot;
    use crate::raft::entry::SnapshotMeta;
    use crate::raft::entry::StoredMembership;
    use crate::raft::entry::log_id;
    use crate::storage::disk::RealDisk;
    use crate::storage::wal;

    /// A directory that goes away with the test.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new() -> Scratch {
            static NEXT: AtomicU64 = AtomicU64::new(0);
            let next = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("kv-log-store-{}-{next}", std::process::id());
            let path = std::env::temp_dir().join(name);
            std::fs::remove_dir_all(&path).ok();
            Scratch(path)
        }

        fn open(&self, tail_bytes: usize) -> LogStore {
            let options = wal::Options {
                segment_bytes: 64 << 10,
                no_sync: true,
                cluster_id: 1,
                member_id: 1,
            };
            let fatal = Box::new(|fault: &Fault| panic!("{fault}"));
            let (wal, recovered) =
                Wal::open(Arc::new(RealDisk), &self.0, options, fatal).expect("a new log");
            LogStore(Log::new(wal, &recovered, 1, tail_bytes).expect("our own records"))
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).ok();
        }
    }

    /// The least that the suite takes for a state machine.
    #[derive(Clone, Default)]
    struct Reference {
        applied: Option<LogId>,
        membership: StoredMembership,
        snapshot: Option<SnapshotMeta>,
    }

    impl Reference {
        fn meta(&self) -> SnapshotMeta {
            SnapshotMeta {
                last_log_id: self.applied,
                last_membership: self.membership.clone(),
            }
        }
    }

    impl RaftSnapshotBuilder<Types> for Reference {
        type SnapshotData = ();

        async fn build_snapshot(&mut self) -> io::Result<Snapshot<()>> {
            let meta = self.meta();
            Ok(Snapshot { meta, snapshot: () })
        }
    }

    impl RaftStateMachine<Types> for Reference {
        type SnapshotData = ();
        type SnapshotBuilder = Reference;

        async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
            Ok((self.applied, self.membership.clone()))
        }

        async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
        where
            S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + OptionalSend,
        {
            while let Some(item) = entries.next().await {
                let (entry, responder) = item?;
                self.applied = Some(entry.log_id);
                if let Some(membership) = entry.get_membership() {
                    self.membership = StoredMembership::new(self.applied, membership);
                }
                responder.into_iter().for_each(|it| it.send(()));
            }
            Ok(())
        }

        async fn get_snapshot_builder(&mut self) -> Reference {
            self.snapshot = Some(self.meta());
            self.clone()
        }

        async fn install_snapshot(&mut self, meta: &SnapshotMeta, (): ()) -> io::Result<()> {
            self.applied = meta.last_log_id;
            self.membership = meta.last_membership.clone();
            self.snapshot = Some(meta.clone());
            Ok(())
        }

        async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot<()>>> {
            let snapshot = self.snapshot.clone();
            Ok(snapshot.map(|meta| Snapshot { meta, snapshot: () }))
        }
    }

    struct Builder;

    impl StoreBuilder<Types, LogStore, Reference, Scratch> for Builder {
        async fn build(&self) -> Result<(Scratch, LogStore, Reference), StorageError<Types>> {
            let scratch = Scratch::new();
            let store = scratch.open(1 << 20);
            Ok((scratch, store, Reference::default()))
        }
    }

    #[tokio::test]
    async fn openraft_s_own_suite_passes() {
        Suite::test_all(Builder).await.expect("the whole suite");
    }

    fn entry(index: u64, bytes: usize) -> Entry {
        let proposal = kvpb::Proposal {
            request: None,
            origin: Some(kvpb::Origin {
                user: "u".repeat(bytes),
                ..Default::default()
            }),
        };
        Entry::new(
            log_id(1, index),
            Payload::normal(Batch::new(vec![proposal])),
        )
    }

    async fn fill(store: &mut LogStore, indexes: Range<u64>) {
        for index in indexes {
            let appended = store.blocking_append([entry(index, 1000)]).await;
            appended.expect("a sound disk");
        }
    }

    #[tokio::test]
    async fn memory_is_bounded_and_old_entries_come_from_the_disk() {
        let scratch = Scratch::new();
        let mut store = scratch.open(15_000);
        fill(&mut store, 0..50).await;
        assert_eq!(
            store.0.state.lock().tail.len(),
            50,
            "nothing is applied yet"
        );
        store.0.set_applied(45);
        fill(&mut store, 50..51).await;
        let left = store.0.state.lock().tail.len();
        assert!(left < 15, "{left} entries stayed in memory");
        let all = store.try_get_log_entries(..).await.expect("all of them");
        let expected: Vec<_> = (0..51).map(|index| entry(index, 1000)).collect();
        assert_eq!(all, expected);
        let mut stream = store.entries_stream(3..48).await;
        for index in 3..48 {
            let next = stream.next().await.expect("no gap").expect("sound");
            assert_eq!(next.log_id.index(), index);
        }
        assert!(stream.next().await.is_none());
    }

    #[tokio::test]
    async fn a_message_is_bounded_in_bytes_and_never_empty() {
        let scratch = Scratch::new();
        let mut store = scratch.open(1 << 30);
        for index in 0..4 {
            let large = [entry(index, 400_000)];
            store.blocking_append(large).await.expect("a sound disk");
        }
        let message = store.limited_get_log_entries(0, 4).await.expect("sound");
        assert_eq!(message.len(), 2);
        let large = [entry(4, 2_000_000)];
        store.blocking_append(large).await.expect("a sound disk");
        let message = store.limited_get_log_entries(4, 5).await.expect("sound");
        assert_eq!(message.len(), 1);
    }

    #[tokio::test]
    async fn what_was_written_is_there_after_a_restart() {
        let scratch = Scratch::new();
        let mut store = scratch.open(1 << 20);
        fill(&mut store, 0..20).await;
        let vote = Vote::new_committed(3, 1);
        store.save_vote(&vote).await.expect("a sound disk");
        store
            .truncate_after(Some(log_id(1, 17)))
            .await
            .expect("queued");
        store.purge(log_id(1, 4)).await.expect("queued");
        store
            .save_committed(Some(log_id(1, 12)))
            .await
            .expect("queued");
        store.0.close().expect("a sound disk");
        drop(store);

        let mut store = scratch.open(1 << 20);
        assert_eq!(store.read_vote().await.expect("read"), Some(vote));
        assert_eq!(
            store.read_committed().await.expect("read"),
            Some(log_id(1, 12))
        );
        let bounds = (Some(log_id(1, 17)), Some(log_id(1, 4)));
        assert_eq!(store.0.bounds(), bounds);
        assert_eq!((store.0.last_index(), store.0.committed()), (17, 12));
        assert_eq!(store.0.term_at(9).expect("it is there"), 1);
        assert!(store.0.term_at(18).is_err());
        let left = store.try_get_log_entries(..).await.expect("sound");
        assert_eq!(left.len(), 13);
    }

    #[tokio::test]
    async fn it_knows_from_the_append_on_whether_it_is_alone() {
        let scratch = Scratch::new();
        let mut store = scratch.open(1 << 20);
        let membership = |ids: &[u64]| {
            let voters = ids.iter().copied().collect();
            Membership::new_with_defaults(vec![voters], [])
        };
        let change =
            |index, ids: &[u64]| Entry::new(log_id(1, index), Payload::membership(membership(ids)));
        assert!(!store.0.alone());
        store.0.set_membership(&membership(&[1]));
        assert!(store.0.alone());
        store
            .blocking_append([change(1, &[1, 2])])
            .await
            .expect("sound");
        assert!(!store.0.alone());
        store
            .blocking_append([change(2, &[1])])
            .await
            .expect("sound");
        assert!(store.0.alone());
        store
            .truncate_after(Some(log_id(1, 1)))
            .await
            .expect("queued");
        assert!(!store.0.alone());
        store.truncate_after(None).await.expect("queued");
        assert!(store.0.alone());
        store.0.set_membership(&membership(&[2]));
        assert!(!store.0.alone());
    }
}
