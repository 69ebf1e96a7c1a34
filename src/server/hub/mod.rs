//! The watch hub: one task that reads what changed and feeds every watch stream.
//!
//! Apply appends to the history and never waits for the hub; the hub pushes into bounded queues and never
//! waits for a stream. Who hears what is decided in [`core`]; here are the task, the store it reads back
//! from, and the handle through which streams talk to it.

mod core;
pub mod frame;
mod outbox;

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;

use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use self::core::Core;
use self::frame::Frame;
use self::outbox::Drained;
use self::outbox::Outbox;
use crate::error::ApiError;
use crate::error::Error;
use crate::error::Fault;
use crate::mvcc::Event;
use crate::proto::etcdserverpb::ResponseHeader;
use crate::proto::etcdserverpb::WatchCreateRequest;
use crate::proto::mvccpb::KeyValue;
use crate::raft::Cursor;
use crate::raft::Node;

/// Requests that may wait for the hub; a stream with more waits itself.
const COMMANDS: usize = 1024;
/// Changes and requests handled before the hub lets others run.
const TURN: usize = 256;
/// History read back at once: etcd's count of revisions, and bytes.
const SLICE_REVISIONS: usize = 1000;
const SLICE_BYTES: usize = 16 << 20;
/// With more than this waiting for slow readers, slices are kept small.
const WAITING_BYTES: usize = 256 << 20;
const SMALL_SLICE_BYTES: usize = 64 << 10;

enum Command {
    Open(Arc<Outbox>, u64),
    Create(u64, Box<WatchCreateRequest>),
    Cancel(u64, i64),
    Progress(u64),
    Tick(u64),
}

/// The hub as streams see it.
#[derive(Clone)]
pub struct Hub {
    commands: mpsc::Sender<Command>,
    closed: mpsc::UnboundedSender<u64>,
    drained: Arc<Drained>,
    streams: Arc<AtomicU64>,
}

/// The hub's end, to be run by one task.
pub struct HubTask {
    node: Node,
    core: Core,
    cursor: Cursor,
    commands: mpsc::Receiver<Command>,
    closed: mpsc::UnboundedReceiver<u64>,
    drained: Arc<Drained>,
}

impl Hub {
    /// A hub that follows `node` from its present revision on.
    pub fn new(node: &Node, fragment_bytes: usize) -> (Hub, HubTask) {
        let (commands, received) = mpsc::channel(COMMANDS);
        let (closed, ended) = mpsc::unbounded_channel();
        let drained = Arc::new(Drained::default());
        let identity = node.identity();
        let header = ResponseHeader {
            cluster_id: identity.cluster_id,
            member_id: identity.member_id,
            raft_term: node.term(),
            revision: 0,
        };
        let (tip, cursor) = place(node);
        let task = HubTask {
            node: node.clone(),
            core: Core::new(header, fragment_bytes, tip),
            cursor,
            commands: received,
            closed: ended,
            drained: drained.clone(),
        };
        let hub = Hub {
            commands,
            closed,
            drained,
            streams: Arc::default(),
        };
        (hub, task)
    }

    /// Opens a stream: a place to send requests to, and the responses.
    pub async fn open(&self) -> Result<(Requests, Responses), Status> {
        let stream = self.streams.fetch_add(1, Ordering::Relaxed) + 1;
        let outbox = Arc::new(Outbox::new(stream, self.drained.clone()));
        let ended = CancellationToken::new();
        let responses = Responses {
            outbox: outbox.clone(),
            stream,
            closed: self.closed.clone(),
            ended: ended.clone(),
        };
        let requests = Requests {
            stream,
            outbox: outbox.clone(),
            commands: self.commands.clone(),
            ended,
        };
        requests.send(Command::Open(outbox, stream)).await?;
        Ok((requests, responses))
    }
}

/// The requests of one stream.
pub struct Requests {
    stream: u64,
    outbox: Arc<Outbox>,
    commands: mpsc::Sender<Command>,
    ended: CancellationToken,
}

impl Requests {
    async fn send(&self, command: Command) -> Result<(), Status> {
        let sent = self.commands.send(command).await;
        sent.map_err(|_| Status::from(ApiError::Stopped))
    }

    pub async fn create(&self, request: WatchCreateRequest) -> Result<(), Status> {
        self.send(Command::Create(self.stream, Box::new(request)))
            .await
    }

    pub async fn cancel(&self, watch_id: i64) -> Result<(), Status> {
        self.send(Command::Cancel(self.stream, watch_id)).await
    }

    pub async fn progress(&self) -> Result<(), Status> {
        self.send(Command::Progress(self.stream)).await
    }

    pub async fn tick(&self) -> Result<(), Status> {
        self.send(Command::Tick(self.stream)).await
    }

    /// Ends the responses with `status`, after those that wait.
    pub fn fail(&self, status: Status) {
        self.outbox.end(status);
    }

    /// Returns once nobody reads the responses any more.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

/// The responses of one stream. Dropping it ends all of its watches.
pub struct Responses {
    outbox: Arc<Outbox>,
    stream: u64,
    closed: mpsc::UnboundedSender<u64>,
    ended: CancellationToken,
}

impl Stream for Responses {
    type Item = Result<Frame, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.outbox.poll(cx)
    }
}

impl Drop for Responses {
    fn drop(&mut self) {
        self.ended.cancel();
        // A hub that has ended has no watches left to end.
        let _ = self.closed.send(self.stream);
    }
}

/// The store's revision and the place in the history right after it.
fn place(node: &Node) -> (i64, Cursor) {
    let machine = node.machine();
    let revision = machine.store.revision();
    let cursor = node.history().after(revision);
    (revision, cursor.unwrap_or_else(|| node.history().tip()))
}

impl HubTask {
    /// Runs until `stop`, or until the store cannot be read.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Fault> {
        loop {
            let busy = self.turn()?;
            self.core.measure();
            if busy {
                tokio::task::yield_now().await;
                if stop.is_cancelled() {
                    return Ok(());
                }
                continue;
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = self.node.history().wait(&self.cursor) => {}
                () = self.drained.notify.notified() => {}
                Some(stream) = self.closed.recv() => self.core.close(stream),
                Some(command) = self.commands.recv() => {
                    self.read_history()?;
                    self.handle(command);
                }
            }
        }
    }

    /// Does some of everything there is to do. Returns true if more is waiting.
    fn turn(&mut self) -> Result<bool, Fault> {
        self.core.set_term(self.node.term());
        let mut busy = self.read_history()?;
        while let Ok(stream) = self.closed.try_recv() {
            self.core.close(stream);
        }
        for handled in 0..TURN {
            let Ok(command) = self.commands.try_recv() else {
                break;
            };
            // A request sees every write that was answered before it was sent.
            self.read_history()?;
            self.handle(command);
            busy |= handled + 1 == TURN;
        }
        let drained = self.drained.take();
        self.core.resume(&drained);
        Ok(busy | self.read_back()?)
    }

    fn handle(&mut self, command: Command) {
        match command {
            Command::Open(outbox, stream) => self.core.open(stream, outbox),
            Command::Create(stream, request) => {
                self.core.create(stream, &request);
            }
            Command::Cancel(stream, watch_id) => self.core.cancel(stream, watch_id),
            Command::Progress(stream) => self.core.progress(stream),
            Command::Tick(stream) => self.core.tick(stream),
        }
    }

    /// Hands out what has been applied since the last time. Returns true if that was not all.
    fn read_history(&mut self) -> Result<bool, Fault> {
        let Ok(changes) = self.node.history().read(&mut self.cursor, TURN) else {
            let (tip, cursor) = place(&self.node);
            self.cursor = cursor;
            self.core.fall_behind(tip);
            return Ok(true);
        };
        let mut previous = Previous::new(&self.node);
        for change in &changes {
            let fetch = &mut |event: &Event| previous.fetch(event);
            self.core.dispatch(&change.events, change.revision, fetch);
        }
        previous.done()?;
        Ok(changes.len() == TURN)
    }

    /// A slice of what is still in memory, where each event is encoded once for all who read it: events from
    /// revision `from` on, and the revision after them. `None` if the slice does not begin there.
    fn recent(&self, from: i64, bytes: usize) -> Option<(Vec<Arc<Event>>, i64)> {
        let history = self.node.history();
        let mut cursor = history.after(from - 1)?;
        let changes = history.read(&mut cursor, SLICE_REVISIONS).ok()?;
        let (mut events, mut next, mut size) = (Vec::new(), from, 0);
        for change in changes {
            if change.revision > self.core.tip() || size > bytes {
                break;
            }
            size += change.bytes();
            events.extend(change.events.iter().cloned());
            next = change.revision + 1;
        }
        (next > from).then_some((events, next))
    }

    /// Feeds a slice of history to the watchers that are furthest behind. Returns true if there were any.
    fn read_back(&mut self) -> Result<bool, Fault> {
        let Some(from) = self.core.wanted() else {
            return Ok(false);
        };
        let bytes = if self.drained.waiting() > WAITING_BYTES {
            SMALL_SLICE_BYTES
        } else {
            SLICE_BYTES
        };
        let (read, compacted) = {
            let machine = self.node.machine();
            let (store, tables) = (&machine.store, &**self.node.tables());
            let compacted = store.compacted();
            let recent = (from > compacted).then(|| self.recent(from, bytes));
            let read = match recent.flatten() {
                Some(recent) => Ok(recent),
                None => store.events(tables, from, self.core.tip(), SLICE_REVISIONS, bytes),
            };
            (read, compacted)
        };
        match read {
            Ok((events, next)) => {
                let mut previous = Previous::new(&self.node);
                let fetch = &mut |event: &Event| previous.fetch(event);
                self.core.catch_up(&events, next, fetch);
                previous.done()?;
            }
            Err(Error::Api(ApiError::Compacted)) => self.core.compact(compacted),
            Err(error) => return Err(as_fault(error)),
        }
        Ok(true)
    }
}

/// What keys were before events; absent for a creation and below a compaction.
struct Previous<'a> {
    node: &'a Node,
    failed: Option<Error>,
}

impl<'a> Previous<'a> {
    fn new(node: &'a Node) -> Previous<'a> {
        Previous { node, failed: None }
    }

    fn fetch(&mut self, event: &Event) -> Option<KeyValue> {
        let machine = self.node.machine();
        let (tables, before) = (&**self.node.tables(), event.revision() - 1);
        let read = machine.store.kv_at(tables, &event.kv.key, before);
        read.unwrap_or_else(|error| {
            self.failed = Some(error);
            None
        })
    }

    fn done(self) -> Result<(), Fault> {
        self.failed.map_or(Ok(()), |error| Err(as_fault(error)))
    }
}

/// Reading what is there is refused to nobody: whatever goes wrong is this member's own trouble.
fn as_fault(error: Error) -> Fault {
    match error {
        Error::Fault(fault) => fault,
        other => Fault::Refused(format!("cannot read history back for watchers: {other}")),
    }
}
