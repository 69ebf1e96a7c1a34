//! The gRPC front: finds the method, checks what holds for every call, hands over to the service.

pub mod call;
mod cluster;
mod health;
mod kv;
mod lease;
mod maintenance;
mod message;
mod stats;
mod unary;
mod watch;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::HeaderValue;
use http::Request;
use http::Response;
use http::StatusCode;
use http::header;
use http::request::Parts;
use hyper::body::Incoming;
use tonic::Code;
use tonic::Status;
use tower_service::Service;

use self::call::Call;
use self::call::Cut;
use self::call::Method;
use self::call::Received;
use self::call::Shape;
use self::message::Encoding;
use self::unary::Ask;
use self::unary::Services;
use super::body::Body;
use super::body::Unary;
use super::caller;
use super::member::Member;
use crate::error::ApiError;
use crate::proto::etcdserverpb::kv_server::KvServer;
use crate::proto::etcdserverpb::lease_server::LeaseServer;
use crate::proto::etcdserverpb::maintenance_server::MaintenanceServer;
use crate::proto::healthpb::health_server::HealthServer;

/// Every gRPC service of a member.
pub struct Grpc {
    member: Arc<Member>,
    unary: Services,
    /// These are asked for their streams only.
    kv: KvServer<kv::Service>,
    lease: LeaseServer<lease::Service>,
    maintenance: MaintenanceServer<maintenance::Service>,
    health: HealthServer<health::Service>,
}

/// Sizes are checked before messages are buffered, see [`call`]; tonic's own limit must not interfere.
const NO_LIMIT: usize = usize::MAX;

impl Grpc {
    pub fn new(member: Arc<Member>) -> Grpc {
        call::register();
        let unary = Services {
            kv: Arc::new(kv::Service::new(member.clone())),
            lease: Arc::new(lease::Service::new(member.clone())),
            cluster: Arc::new(cluster::Service::new(member.clone())),
            maintenance: Arc::new(maintenance::Service::new(member.clone())),
            health: Arc::new(health::Service),
        };
        let maintenance = MaintenanceServer::from_arc(unary.maintenance.clone());
        Grpc {
            kv: KvServer::from_arc(unary.kv.clone()).max_decoding_message_size(NO_LIMIT),
            lease: LeaseServer::from_arc(unary.lease.clone()).max_decoding_message_size(NO_LIMIT),
            maintenance: maintenance.max_decoding_message_size(NO_LIMIT),
            health: HealthServer::from_arc(unary.health.clone()),
            unary,
            member,
        }
    }

    pub async fn call(&self, request: Request<Incoming>, remote: Arc<str>) -> Response<Body> {
        let timeout = match head(&request) {
            Ok(timeout) => timeout,
            Err((code, status)) => return refuse_with(code, &status),
        };
        let Some(method) = Method::find(request.uri().path()) else {
            return refuse(&unknown(request.uri().path()));
        };
        let mut call = Call::start(method, self.member.config.extensive_metrics);
        if let Err(error) = self.admit(method, request.headers()) {
            let status = Status::from(error);
            call.end(status.code());
            return refuse(&status);
        }
        let (mut parts, body) = request.into_parts();
        parts.extensions.insert(caller::Remote(remote));
        match method.shape {
            Shape::Unary => self.unary(parts, body, call, timeout).await,
            // Boxed, so that a unary call does not carry the room for it.
            _ => Box::pin(self.stream(parts, body, call, timeout)).await,
        }
    }

    async fn unary(
        &self,
        parts: Parts,
        mut body: Incoming,
        mut call: Call,
        timeout: Option<Duration>,
    ) -> Response<Body> {
        let method = call.method();
        let answer = async {
            let encoding = Encoding::of(&parts.headers)?;
            let limit = self.member.config.max_receive_bytes();
            let message = message::receive(&mut body, encoding, limit).await?;
            method.note_received(message.len());
            let ask = Ask {
                headers: parts.headers,
                extensions: parts.extensions,
                message,
                encoding,
            };
            Ok((self.unary.answer(method, ask).await?, encoding))
        };
        let answered = match timeout {
            Some(Duration::ZERO) => Err(deadline_exceeded()),
            Some(timeout) => tokio::time::timeout(timeout, answer)
                .await
                .unwrap_or_else(|_| Err(deadline_exceeded())),
            None => answer.await,
        };
        match answered {
            Ok((frame, encoding)) => {
                call.end(Code::Ok);
                method.note_sent(frame.len() - message::PREFIX);
                reply(frame, encoding)
            }
            Err(status) => {
                call.end(status.code());
                refuse(&status)
            }
        }
    }

    async fn stream(
        &self,
        parts: Parts,
        body: Incoming,
        mut call: Call,
        timeout: Option<Duration>,
    ) -> Response<Body> {
        let method = call.method();
        if timeout == Some(Duration::ZERO) {
            call.end(Code::DeadlineExceeded);
            return refuse(&deadline_exceeded());
        }
        let cut = self.cut(method, caller::needs_leader(&parts.headers), timeout);
        let limit = self.member.config.max_receive_bytes();
        let body = Received::new(body, method, limit);
        let answer = self.dispatch(method, Request::from_parts(parts, body));
        let response = match timeout {
            Some(timeout) => tokio::time::timeout(timeout, answer)
                .await
                .unwrap_or_else(|_| deadline_exceeded().into_http()),
            None => answer.await,
        };
        call::watch(response, call, cut)
    }

    /// The checks before any service sees the call.
    fn admit(&self, method: &Method, headers: &HeaderMap) -> Result<(), ApiError> {
        caller::note_version(headers, method.shape == Shape::Unary)?;
        if caller::needs_leader(headers) && !self.member.node.has_leader() {
            return Err(ApiError::NoLeader);
        }
        Ok(())
    }

    /// What ends a stream from outside.
    fn cut(&self, method: &Method, needs_leader: bool, timeout: Option<Duration>) -> Option<Cut> {
        // Streams that end by themselves are let finish when the server stops.
        let endless = method.shape == Shape::Bidirectional || method.name == "Watch";
        if !(endless || needs_leader || timeout.is_some()) {
            return None;
        }
        let member = self.member.clone();
        Some(Box::pin(async move {
            tokio::select! {
                () = member.stop.cancelled(), if endless => ApiError::Stopped.into(),
                status = member.leader_lost(), if needs_leader => status,
                () = tokio::time::sleep(timeout.unwrap_or_default()), if timeout.is_some() => deadline_exceeded(),
            }
        }))
    }

    async fn dispatch(
        &self,
        method: &'static Method,
        request: Request<Received>,
    ) -> Response<tonic::body::Body> {
        let answered = match method.service {
            "etcdserverpb.KV" => self.kv.clone().call(request).await,
            "etcdserverpb.Lease" => self.lease.clone().call(request).await,
            "etcdserverpb.Maintenance" => self.maintenance.clone().call(request).await,
            "etcdserverpb.Watch" => Ok(watch::call(self.member.clone(), request).await),
            "grpc.health.v1.Health" => self.health.clone().call(request).await,
            _ => Ok(unary::unimplemented(method).into_http()),
        };
        answered.unwrap_or_else(|never: Infallible| match never {})
    }
}

fn deadline_exceeded() -> Status {
    Status::deadline_exceeded("context deadline exceeded")
}

/// What must hold for a request to be a call at all, and how long it may take.
fn head<B>(request: &Request<B>) -> Result<Option<Duration>, (StatusCode, Status)> {
    let text = |name| {
        let value: Option<&HeaderValue> = request.headers().get(name);
        value.map(|value| String::from_utf8_lossy(value.as_bytes()))
    };
    let kind = text("content-type").unwrap_or_default();
    if !matches!(
        kind.strip_prefix("application/grpc").map(str::as_bytes),
        Some([] | [b'+' | b';', ..])
    ) {
        let status = format!("invalid gRPC request content-type {kind:?}");
        return Err((
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Status::invalid_argument(status),
        ));
    }
    if request.method() != http::Method::POST {
        let status = format!(
            "Received a HEADERS frame with :method {:?} which should be POST",
            request.method().as_str()
        );
        return Err((StatusCode::METHOD_NOT_ALLOWED, Status::internal(status)));
    }
    let timeout = text("grpc-timeout").map(|value| call::timeout(&value));
    timeout.transpose().map_err(|reason| {
        let status = format!("malformed grpc-timeout: {reason}");
        (StatusCode::BAD_REQUEST, Status::internal(status))
    })
}

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

fn reply(frame: Bytes, encoding: Encoding) -> Response<Body> {
    let mut response = Response::new(Body::Unary(Unary::Message(frame)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, GRPC);
    if encoding == Encoding::Gzip {
        headers.insert("grpc-encoding", HeaderValue::from_static("gzip"));
    }
    response
}

fn refuse(status: &Status) -> Response<Body> {
    refuse_with(StatusCode::OK, status)
}

fn refuse_with(code: StatusCode, status: &Status) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = code;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, GRPC);
    headers.insert("grpc-status", HeaderValue::from(status.code() as i32));
    let text = HeaderValue::try_from(message::escape(status.message()));
    headers.insert(
        "grpc-message",
        text.expect("printable ASCII makes a header value"),
    );
    response
}

/// grpc-go's words for a path that names nothing.
fn unknown(path: &str) -> Status {
    let parts = path.trim_start_matches('/').rsplit_once('/');
    Status::unimplemented(match parts {
        Some((service, method)) if call::is_service(service) => {
            format!("unknown method {method} for service {service}")
        }
        Some((service, _)) => format!("unknown service {service}"),
        None => format!("malformed method name: {path:?}"),
    })
}
