//! Calls over whichever server is reachable: connections kept open, retries that never write twice.
//!
//! Every endpoint has a task that dials it, waits for the connection to end, and dials again. A call
//! takes the next ready connection in turn and waits for one if there is none. What may be sent again
//! after a failure follows etcd's own client: reads whenever a server was unavailable, writes only
//! when they never left this process.

use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use bytes::Buf;
use bytes::BufMut;
use bytes::Bytes;
use http::uri::PathAndQuery;
use parking_lot::Mutex;
use parking_lot::RwLock;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_stream::Stream;
use tonic::Code;
use tonic::Request;
use tonic::Status;
use tonic::Streaming;
use tonic::client::Grpc;
use tonic::codec::Codec;
use tonic::codec::DecodeBuf;
use tonic::codec::Decoder;
use tonic::codec::EncodeBuf;
use tonic::codec::Encoder;
use tonic::metadata::Ascii;
use tonic::metadata::MetadataValue;
use tracing::debug;
use tracing::warn;

use crate::client::Config;
use crate::client::endpoint::Connection;
use crate::client::endpoint::Endpoint;
use crate::client::endpoint::Keepalive;
use crate::client::endpoint::NOT_SENT;
use crate::client::error::Error;
use crate::error::ApiError;
use crate::proto::etcdserverpb::AuthenticateRequest;
use crate::proto::etcdserverpb::AuthenticateResponse;

/// The API version this client was written for.
const API_VERSION: &str = "3.7";

/// How often one call is tried before its last failure is reported.
const ATTEMPTS: usize = 100;

/// The pause after every endpoint of a quorum has been tried.
const PAUSE: Duration = Duration::from_millis(25);

/// How long a dial may take before the next is started.
const DIAL_LIMIT: Duration = Duration::from_secs(20);

const AUTHENTICATE: Method<AuthenticateRequest, AuthenticateResponse> =
    Method::write("/etcdserverpb.Auth/Authenticate");

/// One RPC: its path, its messages, and whether sending it twice does no harm.
pub(super) struct Method<Q, R> {
    path: &'static str,
    repeatable: bool,
    messages: PhantomData<fn(Q) -> R>,
}

impl<Q, R> Method<Q, R> {
    /// An RPC that may be repeated whenever a server was unavailable.
    pub(super) const fn read(path: &'static str) -> Method<Q, R> {
        Method {
            path,
            repeatable: true,
            messages: PhantomData,
        }
    }

    /// An RPC that may be repeated only if it was never sent.
    pub(super) const fn write(path: &'static str) -> Method<Q, R> {
        Method {
            repeatable: false,
            ..Method::read(path)
        }
    }
}

/// What a call carries besides its message.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Terms {
    /// When the caller stops waiting.
    pub(super) deadline: Option<Instant>,
    /// Fail rather than wait when the server knows no leader.
    pub(super) require_leader: bool,
}

/// The connections to a set of endpoints and what is needed to use them.
pub(super) struct Channel {
    nodes: Vec<Node>,
    next: AtomicUsize,
    changed: Arc<watch::Sender<()>>,
    max_send: usize,
    max_receive: usize,
    credentials: Option<AuthenticateRequest>,
    token: RwLock<Option<MetadataValue<Ascii>>>,
}

/// One endpoint and the task that keeps it connected.
struct Node {
    slot: Arc<Slot>,
    task: AbortHandle,
}

#[derive(Default)]
struct Slot {
    connection: Mutex<Option<Connection>>,
    problem: Mutex<String>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Channel {
    /// Starts to connect to every endpoint; waits for none.
    pub(super) fn open(config: &Config) -> Result<Channel, Error> {
        if config.endpoints.is_empty() {
            return Err(Error::Setup("etcdclient: no available endpoints".into()));
        }
        let max_send = config.max_send_bytes.unwrap_or(2 << 20);
        let max_receive = config.max_receive_bytes.unwrap_or(i32::MAX as usize);
        if max_receive < max_send {
            return Err(Error::Setup(format!(
                "gRPC message recv limit ({max_receive} bytes) must be greater than send limit ({max_send} bytes)"
            )));
        }
        let token = match &config.token {
            Some(token) => Some(header(token)?),
            None => None,
        };
        let changed = Arc::new(watch::Sender::new(()));
        let nodes = config.endpoints.iter().map(|text| {
            let slot = Arc::<Slot>::default();
            let task = keep_connected(
                Endpoint::parse(text),
                config.keepalive,
                slot.clone(),
                changed.clone(),
            );
            let task = tokio::spawn(task).abort_handle();
            Node { slot, task }
        });
        Ok(Channel {
            nodes: nodes.collect(),
            next: AtomicUsize::new(0),
            changed,
            max_send,
            max_receive,
            credentials: config.credentials(),
            token: RwLock::new(token),
        })
    }

    /// Waits until some server is connected.
    async fn pick(&self) -> Connection {
        let mut changed = self.changed.subscribe();
        loop {
            if let Some(connection) = self.ready() {
                return connection;
            }
            // The sender lives as long as `self`, so this cannot fail.
            let _ = changed.changed().await;
        }
    }

    /// The next usable connection, in turn.
    fn ready(&self) -> Option<Connection> {
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        (0..self.nodes.len()).find_map(|step| {
            let node = &self.nodes[(first + step) % self.nodes.len()];
            let connection = node.slot.connection.lock();
            connection.as_ref().filter(|c| c.is_usable()).cloned()
        })
    }

    /// Why no server is connected.
    fn problem(&self) -> Option<String> {
        if self.ready().is_some() {
            return None;
        }
        let problems = self
            .nodes
            .iter()
            .map(|node| node.slot.problem.lock().clone());
        problems.into_iter().find(|problem| !problem.is_empty())
    }

    /// One request, one answer, with retries until the deadline.
    pub(super) async fn unary<Q, R>(
        &self,
        method: &Method<Q, R>,
        request: &Q,
        terms: Terms,
    ) -> Result<R, Error>
    where
        Q: prost::Message,
        R: prost::Message + Default + 'static,
    {
        let message = Bytes::from(request.encode_to_vec());
        let Some(deadline) = terms.deadline else {
            return self.attempts(method, message, terms).await;
        };
        let attempts = self.attempts(method, message, terms);
        tokio::time::timeout_at(deadline, attempts)
            .await
            .unwrap_or_else(|_| {
                if let Some(problem) = self.problem() {
                    let error = Error::Status {
                        code: Code::DeadlineExceeded,
                        message: format!("latest balancer error: {problem}"),
                    };
                    report(method.path, 0, &error);
                }
                Err(Error::DeadlineExceeded)
            })
    }

    async fn attempts<Q, R>(
        &self,
        method: &Method<Q, R>,
        message: Bytes,
        terms: Terms,
    ) -> Result<R, Error>
    where
        R: prost::Message + Default + 'static,
    {
        let quorum = self.nodes.len() / 2 + 1;
        let mut attempt = 0;
        loop {
            let error = match self.attempt(method.path, message.clone(), terms).await {
                Ok(response) => return Ok(response),
                Err(status) => Error::from(status),
            };
            report(method.path, attempt, &error);
            attempt += 1;
            if attempt >= ATTEMPTS {
                return Err(error);
            }
            if self.stale_token(&error) {
                Box::pin(self.login(terms)).await?;
            } else if !self.may_repeat(method.repeatable, &error) {
                return Err(error);
            }
            if attempt.is_multiple_of(quorum) {
                tokio::time::sleep(PAUSE.mul_f64(0.9 + 0.2 * fastrand::f64())).await;
            }
        }
    }

    async fn attempt<R>(
        &self,
        path: &'static str,
        message: Bytes,
        terms: Terms,
    ) -> Result<R, Status>
    where
        R: prost::Message + Default + 'static,
    {
        let request = self.request(message.clone(), terms)?;
        self.check_size(&message)?;
        let connection = self.pick().await;
        let origin = connection.origin();
        let mut grpc = Grpc::with_origin(connection, origin).max_decoding_message_size(usize::MAX);
        let path = PathAndQuery::from_static(path);
        let response = grpc.unary(request, path, self.codec()).await?;
        Ok(response.into_inner())
    }

    /// Opens a stream of answers to a stream of requests. Not retried: whoever owns the stream knows how.
    ///
    /// Servers may answer nothing before they have seen a request, so `requests` must not wait for the
    /// result.
    pub(super) async fn stream<Q, R>(
        &self,
        method: &Method<Q, R>,
        requests: impl Stream<Item = Q> + Send + 'static,
        terms: Terms,
    ) -> Result<Responses<R>, Error>
    where
        Q: prost::Message,
        R: prost::Message + Default + 'static,
    {
        if self.token.read().is_some() {
            // A stream outlives tokens: it starts with a fresh one.
            self.login(terms).await?;
        }
        let connection = self.pick().await;
        let origin = connection.origin();
        let mut grpc = Grpc::with_origin(connection, origin).max_decoding_message_size(usize::MAX);
        let requests =
            tokio_stream::StreamExt::map(requests, |message| Bytes::from(message.encode_to_vec()));
        let request = self.request(requests, terms)?;
        let path = PathAndQuery::from_static(method.path);
        let response = grpc.streaming(request, path, self.codec()).await?;
        Ok(Responses {
            stream: response.into_inner(),
        })
    }

    /// Opens a stream of answers to one request, for the caller to read to its end.
    pub(super) async fn answers<Q, R>(
        &self,
        method: &Method<Q, R>,
        request: Q,
        terms: Terms,
    ) -> Result<Responses<R>, Error>
    where
        Q: prost::Message + Clone + 'static,
        R: prost::Message + Default + 'static,
    {
        let open = self.stream(method, tokio_stream::once(request), terms);
        match terms.deadline {
            Some(deadline) => tokio::time::timeout_at(deadline, open)
                .await
                .unwrap_or(Err(Error::DeadlineExceeded)),
            None => open.await,
        }
    }

    fn request<T>(&self, message: T, terms: Terms) -> Result<Request<T>, Status> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        metadata.insert(
            "client-api-version",
            MetadataValue::from_static(API_VERSION),
        );
        if terms.require_leader {
            metadata.insert("hasleader", MetadataValue::from_static("true"));
        }
        if let Some(token) = &*self.token.read() {
            metadata.insert("token", token.clone());
        }
        if let Some(deadline) = terms.deadline {
            request.set_timeout(deadline.saturating_duration_since(Instant::now()));
        }
        Ok(request)
    }

    fn check_size(&self, message: &Bytes) -> Result<(), Status> {
        let (length, limit) = (message.len(), self.max_send);
        if length > limit {
            return Err(Status::resource_exhausted(format!(
                "trying to send message larger than max ({length} vs. {limit})"
            )));
        }
        Ok(())
    }

    fn codec<R>(&self) -> Messages<R> {
        Messages {
            max_receive: self.max_receive,
            message: PhantomData,
        }
    }

    /// Asks for a token with the configured name and password; without them there is nothing to do.
    pub(super) async fn login(&self, terms: Terms) -> Result<(), Error> {
        let Some(credentials) = &self.credentials else {
            return Ok(());
        };
        match self.unary(&AUTHENTICATE, credentials, terms).await {
            Ok(AuthenticateResponse { token, .. }) => {
                *self.token.write() = Some(header(&token)?);
                Ok(())
            }
            Err(error) if error.is(ApiError::AuthNotEnabled) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Returns true if a new token may turn this failure into an answer.
    pub(super) fn stale_token(&self, error: &Error) -> bool {
        self.credentials.is_some()
            && matches!(
                error.refusal(),
                Some(ApiError::InvalidAuthToken | ApiError::AuthOldRevision | ApiError::UserEmpty)
            )
    }

    fn may_repeat(&self, repeatable: bool, error: &Error) -> bool {
        if error.is(ApiError::NotSupportedForLearner) {
            return self.nodes.len() > 1;
        }
        match error.code() {
            // A deadline of the server's own making: the caller's is still to come, or we were not here.
            Code::DeadlineExceeded | Code::Cancelled => true,
            Code::Unavailable => repeatable || error.message() == NOT_SENT,
            _ => false,
        }
    }
}

/// Keeps one endpoint connected until aborted.
async fn keep_connected(
    endpoint: Endpoint,
    keepalive: Keepalive,
    slot: Arc<Slot>,
    changed: Arc<watch::Sender<()>>,
) {
    let mut failures = 0;
    loop {
        let dialled = tokio::time::timeout(DIAL_LIMIT, endpoint.dial(keepalive)).await;
        let problem = match dialled {
            Ok(Ok((connection, ended))) => {
                *slot.connection.lock() = Some(connection);
                changed.send_replace(());
                let since = Instant::now();
                ended.await;
                *slot.connection.lock() = None;
                failures = if since.elapsed() > SETTLED {
                    0
                } else {
                    failures + 1
                };
                "connection closed".to_string()
            }
            Ok(Err(error)) => {
                failures += 1;
                format!("transport: Error while dialing: {}: {error}", endpoint.text)
            }
            Err(_) => {
                failures += 1;
                format!(
                    "transport: Error while dialing: {}: i/o timeout",
                    endpoint.text
                )
            }
        };
        debug!(endpoint = endpoint.text, problem, "no connection");
        *slot.problem.lock() = format!("connection error: desc = \"{problem}\"");
        if failures > 0 {
            tokio::time::sleep(backoff(failures)).await;
        }
    }
}

/// The first pause between dials. Short, because most servers that go come back at once.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// The longest pause between dials.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A connection that lived this long was a good one: its loss is no reason to wait.
const SETTLED: Duration = Duration::from_secs(1);

/// Between these factors, so that clients do not all come back at the same moment.
const JITTER: (f64, f64) = (0.8, 1.2);

fn backoff(failures: i32) -> Duration {
    let plain = FIRST_PAUSE.mul_f64(1.6_f64.powi((failures - 1).clamp(0, 20)));
    let (low, high) = JITTER;
    plain
        .min(LONGEST_PAUSE)
        .mul_f64(low + (high - low) * fastrand::f64())
}

fn report(method: &'static str, attempt: usize, error: &Error) {
    let error = error.status_text();
    warn!(
        target: "etcd-client",
        method,
        attempt,
        error,
        "retrying of unary invoker failed"
    );
}

fn header(token: &str) -> Result<MetadataValue<Ascii>, Error> {
    token
        .parse()
        .map_err(|_| Error::Setup("the token is not printable text".into()))
}

/// The answers of an open stream.
pub struct Responses<R> {
    stream: Streaming<R>,
}

impl<R> Stream for Responses<R> {
    type Item = Result<R, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.stream)
            .poll_next(cx)
            .map_err(Error::from)
    }
}

impl<R> Responses<R> {
    /// Waits for the next answer; nothing once the server has ended the stream.
    pub async fn next(&mut self) -> Result<Option<R>, Error> {
        self.stream.message().await.map_err(Error::from)
    }
}

/// Bytes out, messages in, with a limit on what comes in.
struct Messages<R> {
    max_receive: usize,
    message: PhantomData<fn() -> R>,
}

impl<R: prost::Message + Default + 'static> Codec for Messages<R> {
    type Encode = Bytes;
    type Decode = R;
    type Encoder = AsIs;
    type Decoder = Limited<R>;

    fn encoder(&mut self) -> AsIs {
        AsIs
    }

    fn decoder(&mut self) -> Limited<R> {
        Limited {
            max: self.max_receive,
            message: PhantomData,
        }
    }
}

struct AsIs;

impl Encoder for AsIs {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(message);
        Ok(())
    }
}

struct Limited<R> {
    max: usize,
    message: PhantomData<fn() -> R>,
}

impl<R: prost::Message + Default> Decoder for Limited<R> {
    type Item = R;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<R>, Status> {
        let (length, max) = (buffer.remaining(), self.max);
        if length > max {
            return Err(Status::resource_exhausted(format!(
                "grpc: received message larger than max ({length} vs. {max})"
            )));
        }
        R::decode(buffer).map(Some).map_err(|error| {
            Status::internal(format!(
                "grpc: failed to unmarshal the received message: {error}"
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_between_dials_grow_to_a_limit() {
        for (failures, low, high) in [(1, 0.04, 0.06), (3, 0.1, 0.16), (100, 4.0, 6.0)] {
            let seconds = backoff(failures).as_secs_f64();
            assert!((low..=high).contains(&seconds), "{failures}: {seconds}");
        }
    }
}
