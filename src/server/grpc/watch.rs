//! Watch: one stream, many watchers. Requests go to the hub, responses come from its outbox.
//!
//! Requests are read by a task of their own, so that a client that does not read its events can still
//! create and cancel. The end of the requests is not the end of the stream.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http::Response;
use tokio::time::Interval;
use tokio::time::MissedTickBehavior;
use tonic::Status;
use tonic::Streaming;
use tonic::server::Grpc;
use tonic::server::StreamingService;

use super::super::hub::Requests;
use super::super::hub::Responses;
use super::super::hub::frame::Frame;
use super::super::hub::frame::WatchCodec;
use super::super::member::Member;
use super::call::Received;
use crate::proto::etcdserverpb::WatchRequest;
use crate::proto::etcdserverpb::watch_request::RequestUnion;

/// Answers a Watch call.
pub async fn call(member: Arc<Member>, request: Request<Received>) -> Response<tonic::body::Body> {
    Grpc::new(WatchCodec)
        .apply_max_message_size_config(Some(usize::MAX), None)
        .streaming(Method(member), request)
        .await
}

struct Method(Arc<Member>);

impl StreamingService<WatchRequest> for Method {
    type Response = Frame;
    type ResponseStream = Responses;
    type Future = Pin<Box<dyn Future<Output = Result<tonic::Response<Responses>, Status>> + Send>>;

    fn call(&mut self, request: tonic::Request<Streaming<WatchRequest>>) -> Self::Future {
        let member = self.0.clone();
        Box::pin(async move {
            let (requests, responses) = member.hub.open().await?;
            let interval = member.config.progress_interval;
            member
                .streams
                .spawn(follow(requests, request.into_inner(), interval));
            Ok(tonic::Response::new(responses))
        })
    }
}

/// Passes requests on until the stream ends.
async fn follow(requests: Requests, mut inbound: Streaming<WatchRequest>, period: Duration) {
    let (mut open, mut ticker) = (true, None);
    loop {
        let sent = tokio::select! {
            message = inbound.message(), if open => match message {
                Ok(Some(request)) => pass(&requests, request, period, &mut ticker).await,
                Ok(None) => {
                    open = false;
                    Ok(())
                }
                Err(status) => return requests.fail(status),
            },
            () = tick(&mut ticker) => requests.tick().await,
            () = requests.ended() => return,
        };
        if let Err(status) = sent {
            return requests.fail(status);
        }
    }
}

async fn pass(
    requests: &Requests,
    request: WatchRequest,
    period: Duration,
    ticker: &mut Option<Interval>,
) -> Result<(), Status> {
    match request.request_union {
        Some(RequestUnion::CreateRequest(request)) => {
            if request.progress_notify && ticker.is_none() {
                *ticker = Some(jittered(period));
            }
            requests.create(request).await
        }
        Some(RequestUnion::CancelRequest(request)) => requests.cancel(request.watch_id).await,
        Some(RequestUnion::ProgressRequest(_)) => requests.progress().await,
        None => Ok(()),
    }
}

/// Up to a tenth longer than asked, so that streams do not tick together.
fn jittered(period: Duration) -> Interval {
    let period = period.mul_f64(1.0 + fastrand::f64() / 10.0);
    let mut ticker = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticker
}

async fn tick(ticker: &mut Option<Interval>) {
    match ticker {
        Some(ticker) => {
            ticker.tick().await;
        }
        None => std::future::pending().await,
    }
}
