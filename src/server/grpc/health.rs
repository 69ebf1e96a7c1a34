//! grpc.health.v1: the member serves from the moment its port accepts.

use std::collections::HashMap;
use std::pin::Pin;

use futures_util::stream;
use futures_util::stream::StreamExt;
use tokio_stream::Stream;
use tonic::Request;
use tonic::Response;
use tonic::Status;

use crate::proto::healthpb::HealthCheckRequest;
use crate::proto::healthpb::HealthCheckResponse;
use crate::proto::healthpb::HealthListRequest;
use crate::proto::healthpb::HealthListResponse;
use crate::proto::healthpb::health_check_response::ServingStatus;
use crate::proto::healthpb::health_server::Health;

pub struct Service;

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse {
        status: status as i32,
    }
}

#[tonic::async_trait]
impl Health for Service {
    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        if request.into_inner().service.is_empty() {
            Ok(Response::new(answer(ServingStatus::Serving)))
        } else {
            Err(Status::not_found("unknown service"))
        }
    }

    async fn list(
        &self,
        _request: Request<HealthListRequest>,
    ) -> Result<Response<HealthListResponse>, Status> {
        let statuses = HashMap::from([(String::new(), answer(ServingStatus::Serving))]);
        Ok(Response::new(HealthListResponse { statuses }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    /// Tells the state and stays open; it ends with the server.
    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let status = if request.into_inner().service.is_empty() {
            ServingStatus::Serving
        } else {
            ServingStatus::ServiceUnknown
        };
        let told = stream::once(async move { Ok(answer(status)) });
        Ok(Response::new(Box::pin(told.chain(stream::pending()))))
    }
}
