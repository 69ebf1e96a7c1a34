//! The handle of a member: propose, read, look, stop.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::Instant;
use openraft::Raft;
use openraft::ServerState;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::metrics::RaftServerMetrics;
use openraft::type_config::alias::WatchReceiverOf;
use openraft::vote::RaftLeaderId;
use parking_lot::Mutex;
use parking_lot::RwLock;
use parking_lot::RwLockReadGuard;
use parking_lot::RwLockWriteGuard;
use prost::Message;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Code;
use tracing::error;
use tracing::info;
use tracing::warn;

use super::bootstrap;
use super::bootstrap::DataDir;
use super::bootstrap::Identity;
use super::bootstrap::Initial;
use super::bootstrap::Plan;
use super::checkpoint::Keeper;
use super::checkpoint::Place;
use super::config;
use super::config::Timing;
use super::entry;
use super::entry::Types;
use super::fatal::Fatal;
use super::history::History;
use super::log_store::Log;
use super::log_store::LogStore;
use super::network::Connect;
use super::network::Network;
use super::proposer;
use super::proposer::Proposer;
use super::proposer::Waiting;
use super::reads;
use super::reads::Reads;
use super::standing::Leadership;
use super::standing::Report;
use super::standing::Standing;
use super::standing::Turn;
use super::state_machine::Adapter;
use super::state_machine::Answer;
use super::state_machine::Applied;
use super::state_machine::Applier;
use super::state_machine::Elsewhere;
use super::state_machine::SnapshotPace;
use crate::error::ApiError;
use crate::error::Error;
use crate::error::Fault;
use crate::machine;
use crate::machine::Command;
use crate::machine::Machine;
use crate::machine::Reply;
use crate::machine::command;
use crate::proto::etcdserverpb::AlarmRequest;
use crate::proto::etcdserverpb::AlarmType;
use crate::proto::etcdserverpb::alarm_request::AlarmAction;
use crate::proto::kvpb::Origin;
use crate::proto::kvpb::RequestHeader;
use crate::storage;
use crate::storage::buffer;
use crate::storage::buffer::Tables;
use crate::storage::checkpoint::Owner;
use crate::storage::disk::DirLock;
use crate::storage::disk::Disk;
use crate::storage::disk::RealDisk;
use crate::storage::engine;
use crate::storage::wal;
use crate::storage::wal::Recovered;
use crate::storage::wal::Wal;
use crate::util::clock::Clock;
use crate::util::clock::RealClock;
use crate::util::metrics;

/// Entries that may be committed and not yet applied before new proposals are refused.
const MAX_BACKLOG: u64 = 5000;

/// How often the size of the tables on disk is measured.
const SIZE_INTERVAL: Duration = Duration::from_millis(500);

/// How a member is to run.
#[derive(Clone, Debug)]
pub struct Options {
    pub data_dir: PathBuf,
    /// Directory of the log, if not inside the data directory.
    pub wal_dir: Option<PathBuf>,
    pub initial: Initial,
    pub engine: engine::Kind,
    pub timing: Timing,
    /// Entries applied between two snapshots, and entries kept below one.
    pub snapshot_count: u64,
    pub snapshot_catchup_entries: u64,
    /// Records that a start reads rather than have a checkpoint of the index for them.
    pub checkpoint_records: u64,
    /// Largest encoded request.
    pub max_request_bytes: usize,
    pub machine: machine::Options,
    pub tables: buffer::Options,
    /// Bytes of changes kept for watchers.
    pub history_bytes: usize,
    /// Bytes of the newest entries kept decoded in memory.
    pub log_bytes: usize,
    pub segment_bytes: u64,
    /// Skips every sync of the log. For throw-away data only.
    pub no_sync: bool,
    /// Entries that take longer to apply are told.
    pub warn_apply: Duration,
}

impl Default for Options {
    fn default() -> Options {
        let wal = wal::Options::default();
        Options {
            data_dir: PathBuf::from("default.etcd"),
            wal_dir: None,
            initial: Initial::default(),
            engine: engine::Kind::default(),
            timing: Timing::default(),
            snapshot_count: 10_000,
            snapshot_catchup_entries: 5000,
            // Read in about 0.1 s.
            checkpoint_records: 50_000,
            max_request_bytes: 1_572_864,
            machine: machine::Options::default(),
            tables: buffer::Options::default(),
            history_bytes: 16 << 20,
            log_bytes: 8 << 20,
            segment_bytes: wal.segment_bytes,
            no_sync: wal.no_sync,
            warn_apply: Duration::from_millis(100),
        }
    }
}

/// The world around a member; simulations bring their own.
#[derive(Clone)]
pub struct Environment {
    pub clock: Arc<dyn Clock>,
    pub disk: Arc<dyn Disk>,
    pub connect: Arc<dyn Connect>,
    pub fatal: Fatal,
}

impl Environment {
    /// This machine's; a fault ends the process.
    pub fn real(connect: Arc<dyn Connect>) -> Environment {
        Environment {
            clock: Arc::new(RealClock::new()),
            disk: Arc::new(RealDisk),
            connect,
            fatal: Fatal::exit(),
        }
    }
}

/// Who proposes. Kept in the entry, and checked again when it is applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    pub user: String,
    pub auth_revision: u64,
    pub certificate: String,
    pub address: String,
}

/// Where a member stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    pub id: u64,
    pub cluster_id: u64,
    pub term: u64,
    /// The live leader; zero if there is none.
    pub leader: u64,
    pub last_index: u64,
    pub applied: u64,
    pub committed: u64,
    pub is_learner: bool,
}

/// A running member. Cloning shares it.
#[derive(Clone)]
pub struct Node(Arc<Inner>);

struct Inner {
    identity: Identity,
    timing: Timing,
    raft: Raft<Types, Adapter>,
    applier: Arc<Applier>,
    /// Absent if the engine does not outlive the process.
    checkpoint: Option<Place>,
    standing: Arc<Standing>,
    connect: Arc<dyn Connect>,
    proposals: mpsc::Sender<Waiting>,
    reads: mpsc::Sender<oneshot::Sender<()>>,
    max_request_bytes: usize,
    min_ttl: i64,
    ids: RequestIds,
    stop: CancellationToken,
    tasks: TaskTracker,
    /// Held until the member has stopped.
    lock: Mutex<Option<DirLock>>,
}

/// Numbers requests as etcd does: two bytes of the member, then the start time and a counter.
struct RequestIds {
    member: u64,
    next: AtomicU64,
}

impl RequestIds {
    fn new(member_id: u64, wall_ms: i64) -> RequestIds {
        RequestIds {
            member: (member_id & 0xffff) << 48,
            next: AtomicU64::new((wall_ms as u64 & 0xff_ffff_ffff) << 8),
        }
    }

    fn next(&self) -> u64 {
        let count = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        self.member | (count & 0xffff_ffff_ffff)
    }
}

impl Node {
    /// Starts the member that `options` describes, or the one that its data directory holds.
    pub async fn start(options: Options, environment: Environment) -> Result<Node, Fault> {
        let config = config::config(&options.timing, options.snapshot_catchup_entries)?;
        let opened = Opened::open(&options, &environment)?;
        let (refused, answers) = mpsc::unbounded_channel();
        let checkpoint = opened.checkpoint(&options, &environment);
        let applier = opened.applier(checkpoint.as_ref(), &options, &environment, refused)?;
        let identity = opened.identity;
        let raft = Raft::build(
            identity.member_id,
            Arc::new(config),
            Network(environment.connect.clone()),
            LogStore(opened.log.clone()),
            Adapter(applier.clone()),
        );
        let raft = raft.await.map_err(|fatal| cannot_start(&fatal))?;
        let term = raft.metrics().borrow_watched().current_term;
        let standing = Arc::new(Standing::new(identity.member_id, term));
        let (proposals, proposed) = mpsc::channel(proposer::QUEUE);
        let (reads, asked) = mpsc::channel(reads::QUEUE);
        let (election_ms, heartbeat_ms) = options.timing.millis();
        let node = Node(Arc::new(Inner {
            identity,
            timing: options.timing,
            raft,
            applier,
            checkpoint,
            standing,
            connect: environment.connect,
            proposals,
            reads,
            max_request_bytes: options.max_request_bytes,
            min_ttl: command::min_lease_ttl(election_ms, heartbeat_ms),
            ids: RequestIds::new(identity.member_id, environment.clock.wall_ms()),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            lock: Mutex::new(Some(opened.dir.lock)),
        }));
        node.run(opened.plan).await?;
        node.spawn_tasks(proposed, asked, answers);
        Ok(node)
    }

    /// Starts openraft; with a plan, as the first configuration of a cluster.
    async fn run(&self, plan: Option<Plan>) -> Result<(), Fault> {
        let inner = &self.0;
        inner.raft.run();
        let log = inner.applier.log.clone();
        // On the core task, where appends are: no membership can slip in between.
        let state = inner.raft.with_raft_state(move |state| {
            log.set_membership(state.membership_state.effective().membership());
        });
        state.await.map_err(|fatal| cannot_start(&fatal))?;
        if let Some(plan) = plan {
            let ids: Vec<String> = plan.members.keys().map(|id| format!("{id:x}")).collect();
            info!(
                local_member_id = format!("{:x}", plan.identity.member_id),
                cluster_id = format!("{:x}", plan.identity.cluster_id),
                members = ids.join(","),
                "starting a new cluster"
            );
            let started = inner.raft.initialize(plan.members).await;
            started.map_err(|error| cannot_start(&error))?;
        }
        if inner.applier.log.alone() {
            // There is nobody to wait for.
            let elected = inner.raft.trigger().elect(false).await;
            elected.map_err(|fatal| cannot_start(&fatal))?;
        }
        Ok(())
    }

    fn spawn_tasks(
        &self,
        proposed: mpsc::Receiver<Waiting>,
        asked: mpsc::Receiver<oneshot::Sender<()>>,
        answers: mpsc::UnboundedReceiver<Answer>,
    ) {
        let inner = &self.0;
        let proposer = Proposer {
            raft: inner.raft.clone(),
            applier: inner.applier.clone(),
            standing: inner.standing.clone(),
            connect: inner.connect.clone(),
            ttl: inner.timing.election,
            queue: proposed,
            stop: inner.stop.clone(),
        };
        let reads = Reads {
            raft: inner.raft.clone(),
            standing: inner.standing.clone(),
            applied: inner.applier.applied.subscribe(),
            queue: asked,
            stop: inner.stop.clone(),
        };
        inner.tasks.spawn(proposer.run());
        inner.tasks.spawn(reads.run());
        self.spawn_until_stopped(inner.clone().follow_leadership());
        self.spawn_until_stopped(inner.clone().take_snapshots());
        self.spawn_until_stopped(inner.clone().measure());
        if let Some(keeper) = inner.keeper() {
            inner.tasks.spawn(keeper.run());
        }
        self.spawn_until_stopped(self.clone().raise_space_alarms(answers));
    }

    fn spawn_until_stopped(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.0.stop.clone();
        self.0.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// Puts a command into the log and answers with what it came to on this member.
    pub async fn propose(&self, mut command: Command, caller: Caller) -> Result<Reply, Error> {
        let inner = &self.0;
        if inner.stop.is_cancelled() {
            return Err(ApiError::Stopped.into());
        }
        let applied = inner.applier.applied.borrow().index;
        if inner.applier.log.committed().saturating_sub(applied) > MAX_BACKLOG {
            return Err(ApiError::TooManyRequests.into());
        }
        command::settle(&mut command, inner.min_ttl);
        let header = RequestHeader {
            id: inner.ids.next(),
            username: caller.user.clone(),
            auth_revision: caller.auth_revision,
        };
        let origin = Origin {
            user: caller.user,
            certificate: caller.certificate,
            address: caller.address,
            wall_time_ms: inner.applier.clock.wall_ms(),
        };
        let proposal = command::proposal(0, Some(header), command, origin);
        let request = proposal.request.as_ref();
        if request.is_some_and(|it| it.encoded_len() > inner.max_request_bytes) {
            return Err(ApiError::RequestTooLarge.into());
        }
        let _pending = Pending::new(&inner.applier.log);
        let (slot, answer) = oneshot::channel();
        let start = inner.applier.clock.uptime();
        let done = tokio::time::timeout(inner.timing.request(), async {
            let sent = inner.proposals.send(Waiting { proposal, slot }).await;
            sent.ok()?;
            answer.await.ok()
        });
        let result = match done.await {
            Ok(Some(result)) => return result,
            Ok(None) => ApiError::Stopped.into(),
            Err(_) => inner.timed_out(start),
        };
        metrics::PROPOSALS_FAILED.inc();
        Err(result)
    }

    /// Returns once a linearizable read may be served from this member.
    pub async fn read_index(&self) -> Result<(), Error> {
        let inner = &self.0;
        if inner.stop.is_cancelled() {
            return Err(ApiError::Stopped.into());
        }
        // Every answered write of a sole voter is applied here, and nobody else can have answered any.
        if inner.standing.settled() && inner.applier.log.alone() {
            return Ok(());
        }
        let (read, released) = oneshot::channel();
        let done = tokio::time::timeout(inner.timing.request(), async {
            inner.reads.send(read).await.ok()?;
            released.await.ok()
        });
        match done.await {
            Ok(Some(())) => Ok(()),
            Ok(None) => Err(ApiError::Stopped.into()),
            Err(_) => {
                metrics::READ_INDEXES_FAILED.inc();
                Err(ApiError::Timeout.into())
            }
        }
    }

    /// The machine, for queries. Hold it for a slice of work, never across an await.
    pub fn machine(&self) -> RwLockReadGuard<'_, Machine> {
        self.0.applier.machine.read()
    }

    /// The machine, for what is not in the log: lease renewals and slices of compaction. Whatever a slice
    /// writes to the tables must be written before the guard is dropped.
    pub fn machine_mut(&self) -> RwLockWriteGuard<'_, Machine> {
        self.0.applier.machine.write()
    }

    pub fn tables(&self) -> &Arc<Tables> {
        &self.0.applier.tables
    }

    pub fn identity(&self) -> Identity {
        self.0.identity
    }

    pub fn timing(&self) -> Timing {
        self.0.timing
    }

    pub fn term(&self) -> u64 {
        self.0.standing.term()
    }

    pub fn status(&self) -> Status {
        let inner = &self.0;
        let member_id = inner.identity.member_id;
        Status {
            id: member_id,
            cluster_id: inner.identity.cluster_id,
            term: inner.standing.term(),
            leader: inner.live_leader(),
            last_index: inner.applier.log.last_index(),
            applied: inner.applier.applied.borrow().index,
            committed: inner.applier.log.committed(),
            is_learner: {
                let machine = self.machine();
                machine
                    .cluster
                    .member(member_id)
                    .is_some_and(|it| it.is_learner)
            },
        }
    }

    /// Returns true while this member leads and may speak for the cluster.
    pub fn is_leader(&self) -> bool {
        self.0.standing.settled()
    }

    /// Returns true if this member knows a leader that is alive.
    pub fn has_leader(&self) -> bool {
        self.0.live_leader() != 0
    }

    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.0.standing.leadership()
    }

    pub fn applied(&self) -> watch::Receiver<Applied> {
        self.0.applier.applied.subscribe()
    }

    /// What changed, for those who watch.
    pub fn history(&self) -> &Arc<History> {
        &self.0.applier.history
    }

    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.0.applier.clock
    }

    /// Bytes of the tables on disk, as last measured.
    pub fn size(&self) -> u64 {
        self.0.applier.size.load(Ordering::Relaxed)
    }

    /// Measures the tables on disk now: after space was given back, the quota should know.
    pub async fn measure_size(&self) -> Result<(), Fault> {
        let applier = self.0.applier.clone();
        let measured = tokio::task::spawn_blocking(move || {
            applier
                .size
                .store(size(&applier.tables)?, Ordering::Relaxed);
            Ok(())
        });
        // A measurement that was cut off by the end of the process is no loss.
        measured.await.unwrap_or(Ok(()))
    }

    /// Stops the member: nothing is accepted any more, what is written is flushed, the directory is free.
    pub async fn shutdown(&self) {
        let inner = &self.0;
        inner.stop.cancel();
        if let Err(error) = inner.raft.shutdown().await {
            error!(error = %error, "consensus did not stop in order");
        }
        inner.tasks.close();
        inner.tasks.wait().await;
        let (tables, log) = (inner.applier.tables.clone(), inner.applier.log.clone());
        let keeper = inner.keeper();
        let closed = tokio::task::spawn_blocking(move || {
            if let Some(keeper) = keeper {
                keeper.close();
            }
            (tables.close(), log.close())
        });
        match closed.await {
            Ok((tables, log)) => {
                for fault in [tables.err(), log.err()].into_iter().flatten() {
                    error!(error = %fault, "storage did not close in order");
                }
            }
            Err(error) => error!(error = %error, "storage did not close in order"),
        }
        inner.lock.lock().take();
    }

    /// A member that ran over its quota says so before it answers the one who found out.
    async fn raise_space_alarms(self, mut answers: mpsc::UnboundedReceiver<Answer>) {
        while let Some((slot, result)) = answers.recv().await {
            let member_id = self.0.identity.member_id;
            warn!(
                local_member_id = format!("{member_id:x}"),
                "message exceeded backend quota; raising alarm"
            );
            let alarm = Command::Alarm(AlarmRequest {
                action: AlarmAction::Activate as i32,
                member_id,
                alarm: AlarmType::Nospace as i32,
            });
            if let Err(error) = self.propose(alarm, Caller::default()).await {
                warn!(error = %error, "failed to raise alarm");
            }
            slot.send(result).ok();
            while let Ok((slot, result)) = answers.try_recv() {
                slot.send(result).ok();
            }
        }
    }
}

impl Inner {
    fn keeper(&self) -> Option<Keeper> {
        let place = self.checkpoint.clone()?;
        Some(Keeper {
            place,
            applier: self.applier.clone(),
            stop: self.stop.clone(),
        })
    }

    /// Follows openraft's reports until it ends, and ends the process with it unless that was asked for.
    async fn follow_leadership(self: Arc<Self>) {
        let mut reports = self.raft.server_metrics();
        let mut applied = self.applier.applied.subscribe();
        loop {
            self.take_report(&reports);
            let waits = self.standing.leads() && !self.standing.settled();
            tokio::select! {
                changed = reports.changed() => if changed.is_err() {
                    break;
                },
                _ = applied.changed(), if waits => {}
            }
        }
        if !self.stop.is_cancelled() {
            let state = self.raft.metrics().borrow_watched().running_state.clone();
            let reason = state
                .err()
                .map_or("it ended".into(), |fatal| fatal.to_string());
            self.applier
                .fatal
                .stop(&format!("consensus stopped: {reason}"));
        }
    }

    fn take_report(&self, reports: &Reports) {
        let report = {
            let seen = reports.borrow_watched();
            Report {
                term: seen.vote.leader_id().term(),
                leader: seen.current_leader.unwrap_or(0),
                leads: seen.state == ServerState::Leader,
                applied_term: self.applier.applied_term.load(Ordering::Acquire),
            }
        };
        let before = self.standing.leader();
        let now = self.applier.clock.uptime();
        let turn = self.standing.note(report, now);
        if report.leader != before && report.leader != 0 {
            metrics::LEADER_CHANGES.inc();
            info!(
                local_member_id = format!("{:x}", self.identity.member_id),
                leader = format!("{:x}", report.leader),
                term = report.term,
                "elected leader"
            );
        }
        match turn {
            Turn::Promoted => {
                let extend = self.timing.election;
                self.applier.machine.write().lessor.promote(now, extend);
                info!(
                    local_member_id = format!("{:x}", self.identity.member_id),
                    term = report.term,
                    "became leader at term"
                );
            }
            Turn::Demoted => {
                self.applier.machine.write().lessor.demote();
                info!(
                    local_member_id = format!("{:x}", self.identity.member_id),
                    term = report.term,
                    "lost leader"
                );
            }
            Turn::None => {}
        }
        self.standing.announce(report, turn);
        metrics::HAS_LEADER.set(i64::from(report.leader != 0));
        metrics::IS_LEADER.set(i64::from(self.standing.settled()));
    }

    /// The leader, if there is reason to believe that it is alive.
    fn live_leader(&self) -> u64 {
        if !self.standing.leads() {
            // Nothing has been heard from another member: there is no way yet to hear from one.
            return 0;
        }
        let member_id = self.identity.member_id;
        if self.applier.log.alone() {
            return member_id;
        }
        let metrics = self.raft.data_metrics();
        let acked = metrics.borrow_watched().last_quorum_acked;
        let fresh = acked.is_some_and(|at| at.elapsed() < self.timing.election);
        if fresh { member_id } else { 0 }
    }

    /// etcd's errors for a proposal that has had its time: what is known of the leader says which.
    fn timed_out(&self, start: crate::util::clock::Uptime) -> Error {
        timed_out(
            start,
            self.standing.elected(),
            self.live_leader() != 0,
            self.timing.election,
        )
    }

    /// Lets openraft purge its log: a snapshot says up to where the engine needs it no more.
    async fn take_snapshots(self: Arc<Self>) {
        loop {
            self.applier.snapshots.due.notified().await;
            info!(
                local_member_id = format!("{:x}", self.identity.member_id),
                applied_index = self.applier.applied.borrow().index,
                "triggering snapshot"
            );
            if self.raft.trigger().snapshot().await.is_err() {
                return;
            }
        }
    }

    /// Keeps the size of the tables known, for the quota.
    async fn measure(self: Arc<Self>) {
        let mut interval = tokio::time::interval(SIZE_INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            let tables = self.applier.tables.clone();
            let size = tokio::task::spawn_blocking(move || size(&tables)).await;
            match size {
                Ok(Ok(size)) => self.applier.size.store(size, Ordering::Relaxed),
                Ok(Err(fault)) => return self.applier.fatal.stop(&fault),
                Err(_) => return,
            }
        }
    }
}

#[cfg(test)]
impl Node {
    pub fn raft(&self) -> Raft<Types, Adapter> {
        self.0.raft.clone()
    }

    /// Indexes of the last entry and of the last purged one.
    pub fn log_bounds(&self) -> (Option<u64>, Option<u64>) {
        let (last, purged) = self.0.applier.log.bounds();
        (last.map(|id| id.index()), purged.map(|id| id.index()))
    }

    /// Queues a proposal as it is.
    pub async fn inject(&self, waiting: Waiting) -> bool {
        self.0.proposals.send(waiting).await.is_ok()
    }
}

/// What the tables count against the quota. An engine that compresses must not make the quota a matter of
/// what the values are.
fn size(tables: &Tables) -> Result<u64, Fault> {
    let (disk, live) = tables.size()?;
    Ok(disk.max(live))
}

/// Which of etcd's errors a proposal gets that started at `start` and ran out of time.
fn timed_out(
    start: crate::util::clock::Uptime,
    elected: Option<crate::util::clock::Uptime>,
    has_leader: bool,
    election: Duration,
) -> Error {
    let Some(elected) = elected.filter(|_| has_leader) else {
        // Without a leader a proposal never gets anywhere, and etcd's own context runs out first.
        return Error::other(Code::DeadlineExceeded, "context deadline exceeded");
    };
    let lost_with_the_last = start <= elected && elected.saturating_sub(start) <= 2 * election;
    match lost_with_the_last {
        true => ApiError::TimeoutDueToLeaderFail.into(),
        false => ApiError::Timeout.into(),
    }
}

/// Counts a proposal as in flight while it lives.
struct Pending<'a>(&'a Log);

impl<'a> Pending<'a> {
    fn new(log: &'a Log) -> Pending<'a> {
        log.in_flight.fetch_add(1, Ordering::Relaxed);
        metrics::PROPOSALS_PENDING.inc();
        Pending(log)
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
        metrics::PROPOSALS_PENDING.dec();
    }
}

fn cannot_start(error: &dyn std::fmt::Display) -> Fault {
    Fault::Refused(format!("consensus cannot start: {error}"))
}

/// What openraft says about votes, leaders and memberships.
type Reports = WatchReceiverOf<Types, RaftServerMetrics<Types>>;

/// The storage of a member, opened and checked.
struct Opened {
    dir: DataDir,
    identity: Identity,
    log: Arc<Log>,
    tables: Arc<Tables>,
    /// Set if the cluster is to be started.
    plan: Option<Plan>,
}

impl Opened {
    fn open(options: &Options, environment: &Environment) -> Result<Opened, Fault> {
        let disk = &environment.disk;
        let dir = DataDir::open(&**disk, &options.data_dir, options.wal_dir.as_deref())?;
        let planned = match dir.has_log {
            true => None,
            false => Some(options.initial.plan()?),
        };
        let (wal, recovered) = open_wal(options, environment, &dir, planned.as_ref())?;
        let identity = Identity {
            cluster_id: recovered.cluster_id,
            member_id: recovered.member_id,
        };
        let plan = plan_for(options, &recovered, identity, planned)?;
        let log = Log::new(wal, &recovered, identity.member_id, options.log_bytes)
            .map_err(|error| Fault::damaged("the log", error.to_string()))?;
        // With a checkpoint it is known which pairs there must be; `Place::restore` and the audit see to it.
        let engine = match storage::checkpoint::exists(&**disk, &dir.snap)? {
            true => engine::open_unchecked(options.engine, &dir.snap)?,
            false => engine::open(options.engine, &dir.snap)?,
        };
        let (durable, fatal) = (log.clone(), environment.fatal.clone());
        let tables = Tables::open(
            engine,
            options.tables.clone(),
            Box::new(move || durable.durable()),
            Box::new(move |fault| fatal.stop(&fault)),
        )?;
        Ok(Opened {
            dir,
            identity,
            log,
            tables: Arc::new(tables),
            plan,
        })
    }

    fn checkpoint(&self, options: &Options, environment: &Environment) -> Option<Place> {
        (options.engine != engine::Kind::Memory).then(|| Place {
            disk: environment.disk.clone(),
            dir: self.dir.snap.clone(),
            owner: Owner {
                cluster_id: self.identity.cluster_id,
                member_id: self.identity.member_id,
                engine: self.tables.id(),
            },
            fewest: options.checkpoint_records,
        })
    }

    fn applier(
        &self,
        checkpoint: Option<&Place>,
        options: &Options,
        environment: &Environment,
        out_of_space: mpsc::UnboundedSender<Answer>,
    ) -> Result<Arc<Applier>, Fault> {
        let machine = match checkpoint {
            Some(place) => place.restore(&self.tables, &options.machine)?,
            None => Machine::restore(&*self.tables, &options.machine)?,
        };
        let applied = machine.applied().as_ref().map(entry::log_id_from);
        let (last, purged) = self.log.bounds();
        bootstrap::check_order(applied, last, purged, |index| self.log.term_at(index))?;
        let start = Applied {
            index: applied.map_or(0, |id| id.index()),
            revision: machine.store.revision(),
        };
        if applied.is_some() {
            self.log.set_applied(start.index);
        }
        // The last snapshot is where the last purge kept the entries below.
        let kept = options.snapshot_catchup_entries;
        let snapshot = purged.map_or(0, |id| id.index() + kept);
        Ok(Arc::new(Applier {
            history: Arc::new(History::new(start.revision, options.history_bytes)),
            machine: Arc::new(RwLock::new(machine)),
            tables: self.tables.clone(),
            log: self.log.clone(),
            clock: environment.clock.clone(),
            applied: watch::Sender::new(start),
            applied_term: AtomicU64::new(applied.as_ref().map_or(0, entry::term)),
            elsewhere: Elsewhere::default(),
            out_of_space,
            size: AtomicU64::new(size(&self.tables)?),
            snapshots: SnapshotPace::new(options.snapshot_count, snapshot.min(start.index)),
            warn_apply: options.warn_apply,
            fatal: environment.fatal.clone(),
        }))
    }
}

fn open_wal(
    options: &Options,
    environment: &Environment,
    dir: &DataDir,
    planned: Option<&Plan>,
) -> Result<(Wal, Recovered), Fault> {
    let identity = planned.map(|plan| plan.identity);
    let wal_options = wal::Options {
        segment_bytes: options.segment_bytes,
        no_sync: options.no_sync,
        cluster_id: identity.map_or(0, |it| it.cluster_id),
        member_id: identity.map_or(0, |it| it.member_id),
    };
    let fatal = environment.fatal.clone();
    let opened = Wal::open(
        environment.disk.clone(),
        &dir.wal,
        wal_options,
        Box::new(move |fault| fatal.stop(fault)),
    )?;
    if opened.1.repaired {
        warn!(path = %dir.wal.display(), "repaired WAL");
    }
    Ok(opened)
}

/// A log that holds nothing yet is one whose member stopped before its cluster had begun: it begins now, if
/// the flags still describe the same member.
fn plan_for(
    options: &Options,
    recovered: &Recovered,
    identity: Identity,
    planned: Option<Plan>,
) -> Result<Option<Plan>, Fault> {
    if recovered.last.is_some() || recovered.purged.is_some() {
        info!(
            local_member_id = format!("{:x}", identity.member_id),
            cluster_id = format!("{:x}", identity.cluster_id),
            "restarting local member"
        );
        return Ok(None);
    }
    let plan = match planned {
        Some(plan) => plan,
        None => options.initial.plan()?,
    };
    if plan.identity != identity {
        return Err(Fault::Refused(format!(
            "{} was made for member {:x} of cluster {:x}, the flags describe member {:x} of cluster {:x}",
            options.data_dir.display(),
            identity.member_id,
            identity.cluster_id,
            plan.identity.member_id,
            plan.identity.cluster_id
        )));
    }
    Ok(Some(plan))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::util::clock::Uptime;

    #[test]
    fn request_ids_are_numbered_as_etcd_does() {
        let ids = RequestIds::new(0x1234_5678_9abc, 100);
        assert_eq!(ids.next(), 0x9abc_0000_0000_6401);
        assert_eq!(ids.next(), 0x9abc_0000_0000_6402);
        let late = RequestIds::new(1, (1 << 40) - 1);
        assert_eq!(late.next(), 0x0001_ffff_ffff_ff01);
    }

    #[test]
    fn a_proposal_out_of_time_hears_what_is_known_of_the_leader() {
        let at = |seconds| Uptime(Duration::from_secs(seconds));
        let election = Duration::from_secs(1);
        let cases = [
            // started, present leader elected, alive, text
            (10, None, false, "context deadline exceeded"),
            (10, Some(5), false, "context deadline exceeded"),
            (10, Some(5), true, "etcdserver: request timed out"),
            (
                10,
                Some(11),
                true,
                "etcdserver: request timed out, possibly due to previous leader failure",
            ),
            (
                10,
                Some(12),
                true,
                "etcdserver: request timed out, possibly due to previous leader failure",
            ),
            (10, Some(13), true, "etcdserver: request timed out"),
        ];
        for (start, elected, alive, text) in cases {
            let error = timed_out(at(start), elected.map(at), alive, election);
            assert_eq!(error.to_string(), text, "{start} {elected:?} {alive}");
        }
    }
}
