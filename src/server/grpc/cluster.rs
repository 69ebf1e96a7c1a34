//! Cluster: who is a member. Changing that is not served yet.

use std::sync::Arc;

use tonic::Request;
use tonic::Response;
use tonic::Status;

use super::super::member::Member;
use crate::proto::etcdserverpb::MemberAddRequest;
use crate::proto::etcdserverpb::MemberAddResponse;
use crate::proto::etcdserverpb::MemberListRequest;
use crate::proto::etcdserverpb::MemberListResponse;
use crate::proto::etcdserverpb::MemberPromoteRequest;
use crate::proto::etcdserverpb::MemberPromoteResponse;
use crate::proto::etcdserverpb::MemberRemoveRequest;
use crate::proto::etcdserverpb::MemberRemoveResponse;
use crate::proto::etcdserverpb::MemberUpdateRequest;
use crate::proto::etcdserverpb::MemberUpdateResponse;
use crate::proto::etcdserverpb::cluster_server::Cluster;

pub struct Service {
    member: Arc<Member>,
}

impl Service {
    pub fn new(member: Arc<Member>) -> Service {
        Service { member }
    }
}

fn unimplemented<T>(name: &str) -> Result<Response<T>, Status> {
    Err(Status::unimplemented(format!(
        "method {name} not implemented"
    )))
}

#[tonic::async_trait]
impl Cluster for Service {
    async fn member_add(
        &self,
        _request: Request<MemberAddRequest>,
    ) -> Result<Response<MemberAddResponse>, Status> {
        unimplemented("MemberAdd")
    }

    async fn member_remove(
        &self,
        _request: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        unimplemented("MemberRemove")
    }

    async fn member_update(
        &self,
        _request: Request<MemberUpdateRequest>,
    ) -> Result<Response<MemberUpdateResponse>, Status> {
        unimplemented("MemberUpdate")
    }

    async fn member_list(
        &self,
        request: Request<MemberListRequest>,
    ) -> Result<Response<MemberListResponse>, Status> {
        let node = &self.member.node;
        if request.into_inner().linearizable {
            node.read_index().await?;
        }
        Ok(Response::new(MemberListResponse {
            header: Some(self.member.header_at(0)),
            members: node.machine().member_list(),
        }))
    }

    async fn member_promote(
        &self,
        _request: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        unimplemented("MemberPromote")
    }
}
