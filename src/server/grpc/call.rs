//! What is done alike for every call: which method it is, its messages counted and bounded, its end told.
//!
//! Both bodies of a streaming call pass through here frame by frame. The request side counts messages and refuses
//! one that is too large in grpc-go's words before it is buffered; the response side learns the status
//! from the trailers, and can end a stream from outside (deadline, no leader, server stop).

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;
use std::time::Instant;

use bytes::Buf;
use bytes::Bytes;
use http_body::Body as _;
use http_body::Frame;
use http_body::SizeHint;
use hyper::body::Incoming;
use prometheus::Histogram;
use prometheus::IntCounter;
use tonic::Code;
use tonic::Status;

use crate::util::metrics;

/// The code names of Prometheus' gRPC metrics, by number.
const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// The shape of a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Unary,
    ServerStream,
    Bidirectional,
}

use Shape::*;

impl Shape {
    fn label(self) -> &'static str {
        match self {
            Unary => "unary",
            ServerStream => "server_stream",
            Bidirectional => "bidi_stream",
        }
    }
}

/// Services and their methods, with the type under which request durations are recorded.
type Row = (&'static str, &'static [(&'static str, Shape, &'static str)]);

const SERVICES: &[Row] = &[
    (
        "etcdserverpb.KV",
        &[
            ("Range", Unary, "Range"),
            ("RangeStream", ServerStream, "RangeStream"),
            ("Put", Unary, "Put"),
            ("DeleteRange", Unary, "DeleteRange"),
            ("Txn", Unary, "Txn"),
            ("Compact", Unary, "Compaction"),
        ],
    ),
    ("etcdserverpb.Watch", &[("Watch", Bidirectional, "")]),
    (
        "etcdserverpb.Lease",
        &[
            ("LeaseGrant", Unary, "LeaseGrant"),
            ("LeaseRevoke", Unary, "LeaseRevoke"),
            ("LeaseKeepAlive", Bidirectional, ""),
            ("LeaseTimeToLive", Unary, "LeaseTimeToLive"),
            ("LeaseLeases", Unary, "LeaseLeases"),
        ],
    ),
    (
        "etcdserverpb.Cluster",
        &[
            ("MemberAdd", Unary, ""),
            ("MemberRemove", Unary, ""),
            ("MemberUpdate", Unary, ""),
            ("MemberList", Unary, ""),
            ("MemberPromote", Unary, ""),
        ],
    ),
    (
        "etcdserverpb.Maintenance",
        &[
            ("Alarm", Unary, "Alarm"),
            ("Status", Unary, ""),
            ("Defragment", Unary, ""),
            ("Hash", Unary, ""),
            ("HashKV", Unary, ""),
            ("Snapshot", ServerStream, ""),
            ("MoveLeader", Unary, ""),
            ("Downgrade", Unary, ""),
        ],
    ),
    (
        "etcdserverpb.Auth",
        &[
            ("AuthEnable", Unary, ""),
            ("AuthDisable", Unary, ""),
            ("AuthStatus", Unary, ""),
            ("Authenticate", Unary, ""),
            ("UserAdd", Unary, ""),
            ("UserGet", Unary, ""),
            ("UserList", Unary, ""),
            ("UserDelete", Unary, ""),
            ("UserChangePassword", Unary, ""),
            ("UserGrantRole", Unary, ""),
            ("UserRevokeRole", Unary, ""),
            ("RoleAdd", Unary, ""),
            ("RoleGet", Unary, ""),
            ("RoleList", Unary, ""),
            ("RoleDelete", Unary, ""),
            ("RoleGrantPermission", Unary, ""),
            ("RoleRevokePermission", Unary, ""),
        ],
    ),
    (
        "grpc.health.v1.Health",
        &[
            ("Check", Unary, ""),
            ("List", Unary, ""),
            ("Watch", ServerStream, ""),
        ],
    ),
];

/// One method with its counters at hand.
pub struct Method {
    pub service: &'static str,
    pub name: &'static str,
    pub shape: Shape,
    started: IntCounter,
    received: IntCounter,
    sent: IntCounter,
    handled: Vec<IntCounter>,
    duration: Option<[Histogram; 2]>,
}

impl Method {
    fn new(
        service: &'static str,
        (name, shape, kind): (&'static str, Shape, &'static str),
    ) -> Method {
        let labels = [shape.label(), service, name];
        let handled = CODES.iter().map(|code| {
            metrics::GRPC_HANDLED.with_label_values(&[shape.label(), service, name, code])
        });
        let duration = |success| metrics::REQUEST_DURATION.with_label_values(&[kind, success]);
        Method {
            service,
            name,
            shape,
            started: metrics::GRPC_STARTED.with_label_values(&labels),
            received: metrics::GRPC_RECEIVED.with_label_values(&labels),
            sent: metrics::GRPC_SENT.with_label_values(&labels),
            handled: handled.collect(),
            duration: (!kind.is_empty()).then(|| [duration("false"), duration("true")]),
        }
    }

    /// Finds a method by its path.
    pub fn find(path: &str) -> Option<&'static Method> {
        METHODS.get(path)
    }

    /// The full path, as in `/etcdserverpb.KV/Put`.
    pub fn path(&self) -> String {
        format!("/{}/{}", self.service, self.name)
    }
}

static METHODS: LazyLock<HashMap<String, Method>> = LazyLock::new(|| {
    let methods = SERVICES
        .iter()
        .flat_map(|(service, methods)| methods.iter().map(|row| Method::new(service, *row)));
    methods.map(|method| (method.path(), method)).collect()
});

/// Creates the counters of every method, so that they show before the first call.
pub fn register() {
    LazyLock::force(&METHODS);
}

/// Returns true if `service` is one of ours, whatever its methods.
pub fn is_service(name: &str) -> bool {
    SERVICES.iter().any(|(service, _)| *service == name)
}

/// Follows the length prefixes through a stream of frames.
#[derive(Default)]
struct Prefixes {
    /// The prefix of the next message, as far as it has come.
    prefix: [u8; 5],
    seen: usize,
    /// Bytes of the current message still to come.
    rest: usize,
}

impl Prefixes {
    /// Visits the length of each message that begins in `data`.
    fn scan(
        &mut self,
        mut data: &[u8],
        mut begins: impl FnMut(usize) -> Result<(), Status>,
    ) -> Result<(), Status> {
        while !data.is_empty() {
            if self.rest > 0 {
                let take = self.rest.min(data.len());
                data.advance(take);
                self.rest -= take;
                continue;
            }
            let take = (self.prefix.len() - self.seen).min(data.len());
            self.prefix[self.seen..self.seen + take].copy_from_slice(&data[..take]);
            data.advance(take);
            self.seen += take;
            if self.seen == self.prefix.len() {
                let [_, length @ ..] = self.prefix;
                self.rest = u32::from_be_bytes(length) as usize;
                self.seen = 0;
                begins(self.rest)?;
            }
        }
        Ok(())
    }
}

/// The request side of a call.
pub struct Received {
    inner: Incoming,
    method: &'static Method,
    prefixes: Prefixes,
    limit: usize,
}

impl Received {
    pub fn new(inner: Incoming, method: &'static Method, limit: usize) -> Received {
        Received {
            inner,
            method,
            prefixes: Prefixes::default(),
            limit,
        }
    }
}

impl http_body::Body for Received {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let frame = match std::task::ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Some(Err(Status::from_error(error.into())))),
            None => return Poll::Ready(None),
        };
        if let Some(data) = frame.data_ref() {
            let (method, limit) = (this.method, this.limit);
            let checked = this.prefixes.scan(data, |length| {
                method.received.inc();
                metrics::GRPC_RECEIVED_BYTES.inc_by(length as u64);
                if length > limit {
                    return Err(Status::resource_exhausted(format!(
                        "grpc: received message larger than max ({length} vs. {limit})"
                    )));
                }
                Ok(())
            });
            if let Err(status) = checked {
                return Poll::Ready(Some(Err(status)));
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Method {
    /// Counts a message that came in whole.
    pub fn note_received(&self, bytes: usize) {
        self.received.inc();
        metrics::GRPC_RECEIVED_BYTES.inc_by(bytes as u64);
    }

    /// Counts an answer that goes out whole.
    pub fn note_sent(&self, bytes: usize) {
        self.sent.inc();
        metrics::GRPC_SENT_BYTES.inc_by(bytes as u64);
    }
}

/// One call from its start to its end. Dropped without an end, it was cancelled.
pub struct Call {
    method: &'static Method,
    start: Instant,
    extensive: bool,
    ended: bool,
}

impl Call {
    pub fn start(method: &'static Method, extensive: bool) -> Call {
        method.started.inc();
        Call {
            method,
            start: Instant::now(),
            extensive,
            ended: false,
        }
    }

    pub fn method(&self) -> &'static Method {
        self.method
    }

    pub fn end(&mut self, code: Code) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let method = self.method;
        method.handled[code as usize].inc();
        let elapsed = self.start.elapsed().as_secs_f64();
        if let Some(durations) = &method.duration {
            durations[usize::from(code == Code::Ok)].observe(elapsed);
        }
        if self.extensive {
            let labels = [method.shape.label(), method.service, method.name];
            metrics::GRPC_HANDLING
                .with_label_values(&labels)
                .observe(elapsed);
        }
        if method.shape == Bidirectional && !matches!(code, Code::Ok | Code::Unavailable) {
            let api = if method.name == "Watch" {
                "watch"
            } else {
                "lease-keepalive"
            };
            metrics::STREAM_FAILURES
                .with_label_values(&["receive", api])
                .inc();
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}

/// What ends a stream from outside, with the status that it ends with.
pub type Cut = Pin<Box<dyn Future<Output = Status> + Send>>;

/// The response side of a call.
pub struct Watched {
    /// `None` once the trailers are out.
    inner: Option<tonic::body::Body>,
    call: Call,
    prefixes: Prefixes,
    cut: Option<Cut>,
}

/// Puts the response of a call under watch.
pub fn watch(
    response: http::Response<tonic::body::Body>,
    mut call: Call,
    cut: Option<Cut>,
) -> http::Response<super::super::body::Body> {
    // A refusal without messages has its status among the headers.
    if let Some(status) = Status::from_header_map(response.headers()) {
        call.end(status.code());
    }
    response.map(|inner| {
        super::super::body::Body::Grpc(Box::new(Watched {
            inner: (!inner.is_end_stream()).then_some(inner),
            call,
            prefixes: Prefixes::default(),
            cut,
        }))
    })
}

impl Watched {
    pub fn is_done(&self) -> bool {
        self.inner.is_none()
    }

    pub fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(inner) = &mut self.inner else {
            return Poll::Ready(None);
        };
        if let Some(cut) = &mut self.cut
            && let Poll::Ready(status) = cut.as_mut().poll(cx)
        {
            return Poll::Ready(self.finish(&status));
        }
        let frame = match std::task::ready!(Pin::new(inner).poll_frame(cx)) {
            Some(Ok(frame)) => frame,
            Some(Err(status)) => return Poll::Ready(self.finish(&status)),
            None => {
                self.inner = None;
                return Poll::Ready(None);
            }
        };
        if let Some(data) = frame.data_ref() {
            let method = self.call.method;
            let _ = self.prefixes.scan(data, |length| {
                method.sent.inc();
                metrics::GRPC_SENT_BYTES.inc_by(length as u64);
                Ok(())
            });
        }
        if let Some(trailers) = frame.trailers_ref() {
            let code = Status::from_header_map(trailers).map_or(Code::Ok, |status| status.code());
            self.call.end(code);
            self.inner = None;
        }
        Poll::Ready(Some(Ok(frame)))
    }

    /// Ends the stream with trailers of our own.
    fn finish(&mut self, status: &Status) -> Option<Result<Frame<Bytes>, Status>> {
        self.inner = None;
        self.call.end(status.code());
        let mut trailers = http::HeaderMap::new();
        Some(
            status
                .add_header(&mut trailers)
                .map(|()| Frame::trailers(trailers)),
        )
    }
}

/// Reads a `grpc-timeout` value such as `5S` or `100m`; the error is grpc-go's.
pub fn timeout(value: &str) -> Result<Duration, String> {
    let told = |what: &str| Err(format!("transport: timeout {what}: {value:?}"));
    let (digits, unit) = match value.len() {
        ..2 => return told("string is too short"),
        2..=9 => value.split_at_checked(value.len() - 1).unwrap_or_default(),
        _ => return told("string is too long"),
    };
    let nanos: u64 = match unit {
        "H" => 3600 * 1_000_000_000,
        "M" => 60 * 1_000_000_000,
        "S" => 1_000_000_000,
        "m" => 1_000_000,
        "u" => 1_000,
        "n" => 1,
        _ => return told("unit is not recognized"),
    };
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!(
            "strconv.ParseUint: parsing {digits:?}: invalid syntax"
        ));
    }
    let number: u64 = digits.parse().unwrap_or_default();
    Ok(Duration::from_nanos(number.saturating_mul(nanos)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn message_lengths_are_found_across_frames() {
        let stream = [0, 0, 0, 0, 3, 1, 2, 3, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 9];
        for step in 1..=stream.len() {
            let mut prefixes = Prefixes::default();
            let mut lengths = Vec::new();
            for frame in stream.chunks(step) {
                let scanned = prefixes.scan(frame, |length| {
                    lengths.push(length);
                    Ok(())
                });
                assert!(scanned.is_ok());
            }
            assert_eq!(lengths, [3, 0, 256], "in steps of {step}");
        }
    }

    #[test]
    fn timeouts_have_a_number_and_a_unit() {
        let good = [
            ("5S", Duration::from_secs(5)),
            ("100m", Duration::from_millis(100)),
            ("99999999u", Duration::from_micros(99_999_999)),
            ("1H", Duration::from_secs(3600)),
            ("99999999H", Duration::from_nanos(u64::MAX)),
        ];
        for (value, want) in good {
            assert_eq!(timeout(value), Ok(want), "{value}");
        }
        let bad = [
            ("S", r#"transport: timeout string is too short: "S""#),
            ("", r#"transport: timeout string is too short: """#),
            (
                "123456789S",
                r#"transport: timeout string is too long: "123456789S""#,
            ),
            ("-1S", r#"strconv.ParseUint: parsing "-1": invalid syntax"#),
            ("5s", r#"transport: timeout unit is not recognized: "5s""#),
        ];
        for (value, want) in bad {
            assert_eq!(timeout(value), Err(want.to_string()), "{value}");
        }
    }

    #[test]
    fn every_method_of_the_api_is_known() {
        assert_eq!(METHODS.len(), 45);
        let watch = Method::find("/etcdserverpb.Watch/Watch").map(|method| method.shape);
        assert_eq!(watch, Some(Bidirectional));
        assert!(is_service("etcdserverpb.Auth") && !is_service("etcdserverpb.Lock"));
    }
}
