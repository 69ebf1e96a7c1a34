//! Unary calls: the message is read, handed to its service and answered in one step, without a stream.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use http::Extensions;
use http::HeaderMap;
use tonic::Request;
use tonic::Response;
use tonic::Status;
use tonic::metadata::MetadataMap;

use super::call::Method;
use super::cluster;
use super::health;
use super::kv;
use super::lease;
use super::maintenance;
use super::message;
use super::message::Encoding;
use super::message::MAX_TXN_DEPTH;
use crate::error::ApiError;
use crate::proto::etcdserverpb::cluster_server::Cluster;
use crate::proto::etcdserverpb::kv_server::Kv;
use crate::proto::etcdserverpb::lease_server::Lease;
use crate::proto::etcdserverpb::maintenance_server::Maintenance;
use crate::proto::healthpb::health_server::Health;

/// What answers unary calls.
pub struct Services {
    pub kv: Arc<kv::Service>,
    pub lease: Arc<lease::Service>,
    pub cluster: Arc<cluster::Service>,
    pub maintenance: Arc<maintenance::Service>,
    pub health: Arc<health::Service>,
}

/// A call whose message is there.
pub struct Ask {
    pub headers: HeaderMap,
    pub extensions: Extensions,
    pub message: Bytes,
    pub encoding: Encoding,
}

impl Services {
    /// Returns the answer as one frame.
    pub async fn answer(&self, method: &Method, ask: Ask) -> Result<Bytes, Status> {
        let Services {
            kv,
            lease,
            cluster,
            maintenance,
            health,
        } = self;
        match (method.service, method.name) {
            ("etcdserverpb.KV", "Range") => {
                let encoding = ask.encoding;
                let encoded = kv.range_encoded(read(ask)?).await?;
                Ok(message::seal(encoded, encoding))
            }
            ("etcdserverpb.KV", "Put") => serve(ask, |it| kv.put(it)).await,
            ("etcdserverpb.KV", "DeleteRange") => serve(ask, |it| kv.delete_range(it)).await,
            ("etcdserverpb.KV", "Txn") => {
                if message::txn_depth(&ask.message) > MAX_TXN_DEPTH {
                    return Err(ApiError::TooManyOps.into());
                }
                serve(ask, |it| kv.txn(it)).await
            }
            ("etcdserverpb.KV", "Compact") => serve(ask, |it| kv.compact(it)).await,
            ("etcdserverpb.Lease", name) => match name {
                "LeaseGrant" => serve(ask, |it| lease.lease_grant(it)).await,
                "LeaseRevoke" => serve(ask, |it| lease.lease_revoke(it)).await,
                "LeaseTimeToLive" => serve(ask, |it| lease.lease_time_to_live(it)).await,
                "LeaseLeases" => serve(ask, |it| lease.lease_leases(it)).await,
                _ => Err(unimplemented(method)),
            },
            ("etcdserverpb.Cluster", name) => match name {
                "MemberAdd" => serve(ask, |it| cluster.member_add(it)).await,
                "MemberRemove" => serve(ask, |it| cluster.member_remove(it)).await,
                "MemberUpdate" => serve(ask, |it| cluster.member_update(it)).await,
                "MemberList" => serve(ask, |it| cluster.member_list(it)).await,
                "MemberPromote" => serve(ask, |it| cluster.member_promote(it)).await,
                _ => Err(unimplemented(method)),
            },
            ("etcdserverpb.Maintenance", name) => match name {
                "Alarm" => serve(ask, |it| maintenance.alarm(it)).await,
                "Status" => serve(ask, |it| maintenance.status(it)).await,
                "Defragment" => serve(ask, |it| maintenance.defragment(it)).await,
                "Hash" => serve(ask, |it| maintenance.hash(it)).await,
                "HashKV" => serve(ask, |it| maintenance.hash_kv(it)).await,
                "MoveLeader" => serve(ask, |it| maintenance.move_leader(it)).await,
                "Downgrade" => serve(ask, |it| maintenance.downgrade(it)).await,
                _ => Err(unimplemented(method)),
            },
            ("grpc.health.v1.Health", name) => match name {
                "Check" => serve(ask, |it| health.check(it)).await,
                "List" => serve(ask, |it| health.list(it)).await,
                _ => Err(unimplemented(method)),
            },
            _ => Err(unimplemented(method)),
        }
    }
}

async fn serve<Q, A, F>(ask: Ask, method: impl FnOnce(Request<Q>) -> F) -> Result<Bytes, Status>
where
    Q: prost::Message + Default,
    A: prost::Message,
    F: Future<Output = Result<Response<A>, Status>>,
{
    let encoding = ask.encoding;
    let response = method(read(ask)?).await?;
    Ok(message::encode(response.get_ref(), encoding))
}

/// The buffer that the message came in does not stay as long as the call.
fn read<Q: prost::Message + Default>(ask: Ask) -> Result<Request<Q>, Status> {
    let value = message::decode(&ask.message)?;
    let metadata = MetadataMap::from_headers(ask.headers);
    Ok(Request::from_parts(metadata, ask.extensions, value))
}

pub fn unimplemented(method: &Method) -> Status {
    Status::unimplemented(format!("method {} not implemented", method.name))
}
