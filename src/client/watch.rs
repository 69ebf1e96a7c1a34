//! Watching keys: events in order, each once, whatever happens to the connection.
//!
//! A task owns one stream and the watchers on it. For each watcher it knows the next revision that has
//! not been delivered. When the stream breaks, it opens another, on any server, and starts every
//! watcher again at that revision; the watcher's owner sees nothing of it.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::TryFutureExt;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Code;

use crate::client::Client;
use crate::client::Error;
use crate::client::Result;
use crate::client::channel::Method;
use crate::error::ApiError;
use crate::proto::etcdserverpb::WatchCancelRequest;
use crate::proto::etcdserverpb::WatchCreateRequest;
use crate::proto::etcdserverpb::WatchProgressRequest;
use crate::proto::etcdserverpb::WatchRequest;
use crate::proto::etcdserverpb::WatchResponse;
use crate::proto::etcdserverpb::watch_request::RequestUnion;

const WATCH: Method<WatchRequest, WatchResponse> = Method::read("/etcdserverpb.Watch/Watch");

/// Responses a watcher may leave unread before the stream it shares waits for it.
const UNREAD_RESPONSES: usize = 1024;

/// The first pause before a broken stream is opened again.
const BACKOFF: Duration = Duration::from_millis(1);

/// The longest such pause.
const BACKOFF_LIMIT: Duration = Duration::from_millis(100);

/// One watch stream. It lives as long as this value or a watcher on it.
///
/// Watchers on one stream share its flow: one that is not read holds up the others in the end.
#[derive(Clone)]
pub struct Watch {
    control: mpsc::UnboundedSender<Control>,
    watchers: Arc<AtomicU64>,
}

impl Watch {
    pub(super) fn open(client: &Client) -> Watch {
        let (control, requests) = mpsc::unbounded_channel();
        tokio::spawn(Session::new(client.clone()).run(requests));
        Watch {
            control,
            watchers: Arc::default(),
        }
    }

    /// Starts a watcher and waits until the server has it: later events will be seen.
    ///
    /// A refusal is not an error here: it is the watcher's first and last response.
    pub async fn create(&self, request: WatchCreateRequest) -> Result<Watcher> {
        let mut watcher = self.start(request)?;
        watcher.created().await?;
        Ok(watcher)
    }

    /// Starts a watcher without waiting for the server.
    pub fn start(&self, request: WatchCreateRequest) -> Result<Watcher> {
        let (output, responses) = mpsc::channel(UNREAD_RESPONSES);
        let name = self.watchers.fetch_add(1, Ordering::Relaxed);
        let create = Control::Create {
            name,
            request,
            output,
        };
        self.control.send(create).map_err(|_| Error::Canceled)?;
        Ok(Watcher {
            name,
            responses,
            held: None,
            control: self.control.clone(),
        })
    }

    /// Asks for a response without events, to every watcher, once all are up to date.
    pub fn request_progress(&self) {
        // A stream that has ended has told its watchers.
        let _ = self.control.send(Control::Progress);
    }
}

/// One range being watched; dropping it ends the watch.
pub struct Watcher {
    name: u64,
    responses: mpsc::Receiver<Result<WatchResponse>>,
    /// Taken from the queue while waiting for the creation.
    held: Option<Result<WatchResponse>>,
    control: mpsc::UnboundedSender<Control>,
}

impl Watcher {
    /// Waits for the next response with events, progress or the end of the watch.
    ///
    /// A response that is `canceled` is the last, as is an error.
    pub async fn next(&mut self) -> Option<Result<WatchResponse>> {
        loop {
            let response = match self.held.take() {
                Some(held) => Some(held),
                None => self.responses.recv().await,
            };
            match response {
                Some(Ok(response)) if response.created && !response.canceled => {}
                other => return other,
            }
        }
    }

    /// Waits until the server has the watch.
    async fn created(&mut self) -> Result<()> {
        match self.responses.recv().await {
            Some(Ok(response)) if response.created && !response.canceled => Ok(()),
            Some(other) => {
                self.held = Some(other);
                Ok(())
            }
            None => Err(Error::Canceled),
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.responses.close();
        let _ = self.control.send(Control::Remove(self.name));
    }
}

enum Control {
    Create {
        name: u64,
        request: WatchCreateRequest,
        output: mpsc::Sender<Result<WatchResponse>>,
    },
    Progress,
    Remove(u64),
}

/// A watcher as the task knows it.
struct Watching {
    /// How to create it again; its start revision is the next one to be delivered.
    request: WatchCreateRequest,
    output: mpsc::Sender<Result<WatchResponse>>,
    /// The number the server knows it by on the present stream.
    id: Option<i64>,
    /// The owner has heard that the watch exists.
    announced: bool,
    /// The pieces so far of a response that comes in several.
    pieces: Option<WatchResponse>,
}

type Answers = Pin<Box<dyn Stream<Item = Result<WatchResponse>> + Send>>;

/// The task behind a [`Watch`].
struct Session {
    client: Client,
    watchers: BTreeMap<u64, Watching>,
    /// The server's numbers for watchers on the present stream.
    ids: BTreeMap<i64, u64>,
    /// Watchers whose creation has been sent and not answered, in order.
    creating: VecDeque<u64>,
    /// Where requests of the present stream go. Holds no more than owners have asked for.
    requests: Option<mpsc::UnboundedSender<WatchRequest>>,
    pause: Duration,
}

impl Session {
    fn new(client: Client) -> Session {
        Session {
            client,
            watchers: BTreeMap::new(),
            ids: BTreeMap::new(),
            creating: VecDeque::new(),
            requests: None,
            pause: BACKOFF,
        }
    }

    async fn run(mut self, mut control: mpsc::UnboundedReceiver<Control>) {
        let mut answers: Option<Answers> = None;
        loop {
            if self.watchers.is_empty() {
                (answers, self.requests) = (None, None);
            } else if answers.is_none() {
                answers = Some(self.connect());
            }
            let answer = async {
                match &mut answers {
                    Some(answers) => answers.next().await.unwrap_or_else(|| Err(closed())),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                wanted = control.recv() => match wanted {
                    Some(wanted) => self.control(wanted),
                    // Nobody is left who could hear anything.
                    None => return,
                },
                answer = answer => match answer {
                    Ok(response) => self.deliver(response).await,
                    Err(error) if is_final(&error) => return self.fail(error).await,
                    Err(_) => {
                        answers = None;
                        tokio::time::sleep(self.pause).await;
                        self.pause = self.pause.mul_f64(1.25).min(BACKOFF_LIMIT);
                    }
                },
            }
        }
    }

    /// Opens a stream and creates every watcher on it.
    fn connect(&mut self) -> Answers {
        let (requests, queue) = mpsc::unbounded_channel();
        self.requests = Some(requests);
        self.creating.clear();
        self.ids.clear();
        let names: Vec<u64> = self.watchers.keys().copied().collect();
        for name in names {
            self.create(name);
        }
        let (channel, terms) = (self.client.channel.clone(), self.client.stream_terms());
        let queue = UnboundedReceiverStream::new(queue);
        let opening = async move { channel.stream(&WATCH, queue, terms).await };
        Box::pin(opening.try_flatten_stream())
    }

    /// Sends the creation of a watcher, from the revision it has reached.
    fn create(&mut self, name: u64) {
        let Some(watcher) = self.watchers.get_mut(&name) else {
            return;
        };
        watcher.id = None;
        watcher.pieces = None;
        let request = watcher.request.clone();
        self.creating.push_back(name);
        self.send(RequestUnion::CreateRequest(request));
    }

    fn send(&self, request: RequestUnion) {
        if let Some(requests) = &self.requests {
            // A stream that has ended is noticed where its answers are read.
            let _ = requests.send(WatchRequest {
                request_union: Some(request),
            });
        }
    }

    fn control(&mut self, wanted: Control) {
        match wanted {
            Control::Create {
                name,
                mut request,
                output,
            } => {
                let namespace = &self.client.namespace;
                namespace.enter(&mut request.key, &mut request.range_end);
                let watcher = Watching {
                    request,
                    output,
                    id: None,
                    announced: false,
                    pieces: None,
                };
                self.watchers.insert(name, watcher);
                if self.requests.is_some() {
                    self.create(name);
                }
            }
            Control::Progress => {
                self.send(RequestUnion::ProgressRequest(WatchProgressRequest {}));
            }
            Control::Remove(name) => self.remove(name),
        }
    }

    /// Forgets a watcher here and on the server.
    fn remove(&mut self, name: u64) {
        let id = self.watchers.remove(&name).and_then(|watcher| watcher.id);
        if let Some(watch_id) = id {
            self.ids.remove(&watch_id);
            self.cancel(watch_id);
        }
    }

    fn cancel(&self, watch_id: i64) {
        self.send(RequestUnion::CancelRequest(WatchCancelRequest { watch_id }));
    }

    async fn deliver(&mut self, response: WatchResponse) {
        self.pause = BACKOFF;
        if response.created {
            self.created(response).await;
        } else if response.watch_id == -1 {
            let names: Vec<u64> = self.ids.values().copied().collect();
            for name in names {
                self.hand_over(name, response.clone()).await;
            }
        } else if let Some(&name) = self.ids.get(&response.watch_id) {
            self.hand_over(name, response).await;
        }
    }

    /// The answer to the oldest unanswered creation.
    async fn created(&mut self, response: WatchResponse) {
        let Some(name) = self.creating.pop_front() else {
            return;
        };
        if response.canceled {
            return self.hand_over(name, response).await;
        }
        let Some(watcher) = self.watchers.get_mut(&name) else {
            // Dropped before the server knew it.
            return self.cancel(response.watch_id);
        };
        watcher.id = Some(response.watch_id);
        self.ids.insert(response.watch_id, name);
        if watcher.announced {
            return;
        }
        watcher.announced = true;
        if let (0, Some(header)) = (watcher.request.start_revision, &response.header) {
            // "From now on" must mean the same now after a reconnect.
            watcher.request.start_revision = header.revision;
        }
        // The owner may have gone; its removal is on the way.
        let _ = watcher.output.send(Ok(response)).await;
    }

    /// Gives a response to its watcher and notes how far the watcher has come.
    async fn hand_over(&mut self, name: u64, response: WatchResponse) {
        let Some(watcher) = self.watchers.get_mut(&name) else {
            return;
        };
        let Some(mut response) = watcher.whole(response) else {
            return;
        };
        watcher.advance(&response);
        for event in &mut response.events {
            let kvs = event.kv.iter_mut().chain(&mut event.prev_kv);
            self.client.namespace.leave_all(kvs);
        }
        let (ended, compacted) = (response.canceled, response.compact_revision != 0);
        let _ = watcher.output.send(Ok(response)).await;
        if ended && compacted {
            // The server keeps the number of a compacted watch until it is told.
            self.remove(name);
        } else if ended {
            let watcher = self.watchers.remove(&name);
            if let Some(id) = watcher.and_then(|watcher| watcher.id) {
                self.ids.remove(&id);
            }
        }
    }

    /// Tells every watcher why there will be nothing more.
    async fn fail(self, error: Error) {
        for watcher in self.watchers.into_values() {
            let _ = watcher.output.send(Err(error.clone())).await;
        }
    }
}

impl Watching {
    /// Puts the pieces of a response together; nothing while some are missing.
    fn whole(&mut self, response: WatchResponse) -> Option<WatchResponse> {
        let more = response.fragment;
        let whole = match self.pieces.take() {
            Some(mut pieces) => {
                pieces.events.extend(response.events);
                pieces
            }
            None => response,
        };
        if more {
            self.pieces = Some(whole);
            return None;
        }
        Some(WatchResponse {
            fragment: false,
            ..whole
        })
    }

    /// Moves the next revision to be delivered past this response.
    fn advance(&mut self, response: &WatchResponse) {
        let last = response.events.last().and_then(|event| event.kv.as_ref());
        let next = match (last, &response.header) {
            (Some(kv), _) => kv.mod_revision + 1,
            // Without events a response says that everything up to its revision has been sent.
            (None, Some(header)) if !response.canceled => header.revision + 1,
            _ => return,
        };
        self.request.start_revision = self.request.start_revision.max(next);
    }
}

/// Failures that another server would repeat.
fn is_final(error: &Error) -> bool {
    error.is(ApiError::NoLeader) || !matches!(error.code(), Code::Unavailable | Code::Internal)
}

fn closed() -> Error {
    Error::Status {
        code: Code::Unavailable,
        message: "the server closed the stream".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::etcdserverpb::ResponseHeader;
    use crate::proto::mvccpb::Event;
    use crate::proto::mvccpb::KeyValue;

    fn watching(start_revision: i64) -> Watching {
        Watching {
            request: WatchCreateRequest {
                start_revision,
                ..Default::default()
            },
            output: mpsc::channel(1).0,
            id: None,
            announced: true,
            pieces: None,
        }
    }

    fn response(revision: i64, events: &[i64], fragment: bool) -> WatchResponse {
        let event = |&mod_revision: &i64| Event {
            kv: Some(KeyValue {
                mod_revision,
                ..Default::default()
            }),
            ..Default::default()
        };
        WatchResponse {
            header: Some(ResponseHeader {
                revision,
                ..Default::default()
            }),
            events: events.iter().map(event).collect(),
            fragment,
            ..Default::default()
        }
    }

    #[test]
    fn a_watcher_resumes_after_what_it_has_seen() {
        let cases: &[(i64, i64, &[i64], i64)] = &[
            // start, header, events, resumes at
            (5, 9, &[5, 7], 8),
            (5, 9, &[], 10),
            (20, 9, &[], 20),
        ];
        for (start, revision, events, next) in cases {
            let mut watcher = watching(*start);
            watcher.advance(&response(*revision, events, false));
            assert_eq!(watcher.request.start_revision, *next);
        }
    }

    #[test]
    fn pieces_become_one_response() {
        let mut watcher = watching(0);
        assert_eq!(watcher.whole(response(4, &[2], true)), None);
        assert_eq!(watcher.whole(response(4, &[3], true)), None);
        let whole = watcher.whole(response(4, &[4], false));
        assert_eq!(whole, Some(response(4, &[2, 3, 4], false)));
    }
}
