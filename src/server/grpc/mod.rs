//! The gRPC front: finds the method, checks what holds for every call, hands over to the service.

pub mod call;
mod cluster;
mod health;
mod kv;
mod lease;
mod maintenance;
mod stats;
mod watch;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use http::Request;
use http::Response;
use hyper::body::Incoming;
use tonic::Status;
use tower_service::Service;

use self::call::Call;
use self::call::Cut;
use self::call::Method;
use self::call::Received;
use self::call::Shape;
use super::body::Body;
use super::caller;
use super::member::Member;
use crate::error::ApiError;
use crate::proto::etcdserverpb::cluster_server::ClusterServer;
use crate::proto::etcdserverpb::kv_server::KvServer;
use crate::proto::etcdserverpb::lease_server::LeaseServer;
use crate::proto::etcdserverpb::maintenance_server::MaintenanceServer;
use crate::proto::healthpb::health_server::HealthServer;

/// Every gRPC service of a member.
pub struct Grpc {
    member: Arc<Member>,
    kv: KvServer<kv::Service>,
    lease: LeaseServer<lease::Service>,
    cluster: ClusterServer<cluster::Service>,
    maintenance: MaintenanceServer<maintenance::Service>,
    health: HealthServer<health::Service>,
}

/// Sizes are checked before messages are buffered, see [`call`]; tonic's own limit must not interfere.
const NO_LIMIT: usize = usize::MAX;

impl Grpc {
    pub fn new(member: Arc<Member>) -> Grpc {
        call::register();
        let kv = KvServer::new(kv::Service::new(member.clone()));
        let lease = LeaseServer::new(lease::Service::new(member.clone()));
        let cluster = ClusterServer::new(cluster::Service::new(member.clone()));
        let maintenance = MaintenanceServer::new(maintenance::Service::new(member.clone()));
        Grpc {
            kv: kv.max_decoding_message_size(NO_LIMIT),
            lease: lease.max_decoding_message_size(NO_LIMIT),
            cluster: cluster.max_decoding_message_size(NO_LIMIT),
            maintenance: maintenance.max_decoding_message_size(NO_LIMIT),
            health: HealthServer::new(health::Service),
            member,
        }
    }

    pub async fn call(&self, request: Request<Incoming>, remote: Arc<str>) -> Response<Body> {
        let Some(method) = Method::find(request.uri().path()) else {
            return refuse(&unknown(request.uri().path()));
        };
        let call = Call::start(method, self.member.config.extensive_metrics);
        let headers = request.headers();
        if let Err(error) = self.admit(method, headers) {
            return call::watch(Status::from(error).into_http(), call, None);
        }
        let timeout = headers
            .get("grpc-timeout")
            .and_then(|value| value.to_str().ok())
            .and_then(call::timeout);
        let cut = self.cut(method, caller::needs_leader(headers), timeout);
        let limit = self.member.config.max_receive_bytes();
        let mut request = request.map(|body| Received::new(body, method, limit));
        request.extensions_mut().insert(caller::Remote(remote));
        let answer = self.dispatch(method, request);
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
        if method.shape == Shape::Unary || !(endless || needs_leader || timeout.is_some()) {
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
            "etcdserverpb.Cluster" => self.cluster.clone().call(request).await,
            "etcdserverpb.Maintenance" => self.maintenance.clone().call(request).await,
            "etcdserverpb.Watch" => Ok(watch::call(self.member.clone(), request).await),
            "grpc.health.v1.Health" => self.health.clone().call(request).await,
            _ => Ok(unimplemented(method).into_http()),
        };
        answered.unwrap_or_else(|never: Infallible| match never {})
    }
}

fn deadline_exceeded() -> Status {
    Status::deadline_exceeded("context deadline exceeded")
}

fn refuse(status: &Status) -> Response<Body> {
    status
        .clone()
        .into_http::<tonic::body::Body>()
        .map(|_| Body::empty())
}

fn unimplemented(method: &Method) -> Status {
    Status::unimplemented(format!("method {} not implemented", method.name))
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
