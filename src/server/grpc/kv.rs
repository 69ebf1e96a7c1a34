//! KV: range, range stream, put, delete, txn, compact.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use futures_util::stream;
use prost::Message;
use tokio_stream::Stream;
use tonic::Request;
use tonic::Response;
use tonic::Status;
use tracing::warn;

use super::super::caller;
use super::super::member::Member;
use super::message;
use super::stats::Sizes;
use super::stats::Stats;
use super::stats::quoted;
use crate::error::ApiError;
use crate::error::Error;
use crate::machine::Command;
use crate::machine::Reply;
use crate::mvcc;
use crate::mvcc::Chunks;
use crate::mvcc::Found;
use crate::mvcc::RangeScan;
use crate::proto::etcdserverpb::CompactionRequest;
use crate::proto::etcdserverpb::CompactionResponse;
use crate::proto::etcdserverpb::DeleteRangeRequest;
use crate::proto::etcdserverpb::DeleteRangeResponse;
use crate::proto::etcdserverpb::PutRequest;
use crate::proto::etcdserverpb::PutResponse;
use crate::proto::etcdserverpb::RangeRequest;
use crate::proto::etcdserverpb::RangeResponse;
use crate::proto::etcdserverpb::RangeStreamResponse;
use crate::proto::etcdserverpb::ResponseHeader;
use crate::proto::etcdserverpb::TxnRequest;
use crate::proto::etcdserverpb::TxnResponse;
use crate::proto::etcdserverpb::kv_server::Kv;
use crate::util::metrics;
use crate::util::text;

pub struct Service {
    member: Arc<Member>,
}

/// Takes the reply that belongs to a command. Another one cannot come out of the machine.
macro_rules! expect_reply {
    ($reply:expr, $variant:ident) => {
        match $reply {
            Reply::$variant(response) => response,
            other => unreachable!(
                concat!("the reply to a ", stringify!($variant), " is {:?}"),
                other
            ),
        }
    };
}
pub(super) use expect_reply;

impl Service {
    pub fn new(member: Arc<Member>) -> Service {
        Service { member }
    }

    /// Reads a range slice by slice, so that no writer waits for a long one.
    async fn read(&self, request: &RangeRequest) -> Result<Found, Error> {
        let start = Instant::now();
        let node = &self.member.node;
        let scan = RangeScan::start(&node.machine().store, request);
        let found = match scan {
            Ok(mut scan) => {
                while scan.step(&node.machine().store) {
                    tokio::task::yield_now().await;
                }
                scan.finish(&**node.tables())?
            }
            Err(error) => {
                self.note_range(start, request, 0, false);
                return Err(error.into());
            }
        };
        self.note_range(start, request, found.count(), true);
        Ok(found)
    }

    /// Answers a Range with the encoded message: for a long one, what a message is made of would take more
    /// memory than the message.
    pub async fn range_encoded(&self, request: Request<RangeRequest>) -> Result<Vec<u8>, Status> {
        let stats = Stats::begin(&request, "/etcdserverpb.KV/Range");
        let request = request.into_inner();
        let found = self.find(&request).await?;
        let mut header = Some(ResponseHeader {
            revision: found.revision(),
            ..ResponseHeader::default()
        });
        self.member.fill(&mut header);
        let mut encoded = vec![0; message::PREFIX];
        found.encode(&header.unwrap_or_default(), &mut encoded);
        stats.end(self.member.config.warn_unary, || Sizes {
            requests: 0,
            request_bytes: request.encoded_len(),
            responses: found.count(),
            response_bytes: encoded.len() - message::PREFIX,
            content: range_text(&request),
        });
        Ok(encoded)
    }

    async fn find(&self, request: &RangeRequest) -> Result<Found, Status> {
        mvcc::check_range(request).map_err(Status::from)?;
        self.linearize(request.serializable).await?;
        Ok(self.read(request).await?)
    }

    fn note_range(&self, start: Instant, request: &RangeRequest, count: i64, good: bool) {
        let took = start.elapsed();
        let success = if good { "true" } else { "false" };
        metrics::RANGE_DURATION
            .with_label_values(&[success])
            .observe(took.as_secs_f64());
        if took > self.member.config.warn_apply {
            metrics::SLOW_APPLIES.inc();
            warn!(
                took = %text::format_duration(took),
                "expected-duration" = %text::format_duration(self.member.config.warn_apply),
                prefix = "read-only range ",
                request = range_text(request),
                response = format!("range_response_count:{count}"),
                "apply request took too long"
            );
        }
    }

    async fn linearize(&self, serializable: bool) -> Result<(), Error> {
        if serializable {
            return Ok(());
        }
        self.member.node.read_index().await
    }

    async fn put(
        &self,
        caller: crate::raft::Caller,
        request: PutRequest,
    ) -> Result<PutResponse, Error> {
        let command = Command::Put(request);
        self.member.check_space(mvcc::cost(&command)).await?;
        if let Command::Put(request) = &command {
            mvcc::check_put(request)?;
        }
        let reply = self.member.node.propose(command, caller).await?;
        let mut response = expect_reply!(reply, Put);
        self.member.fill(&mut response.header);
        Ok(response)
    }

    async fn txn(
        &self,
        caller: crate::raft::Caller,
        request: TxnRequest,
    ) -> Result<TxnResponse, Error> {
        let cost = mvcc::txn::cost(&request);
        self.member.check_space(cost).await?;
        mvcc::txn::check(&request, self.member.config.max_txn_ops)?;
        let mut response = if mvcc::txn::is_read_only(&request) {
            self.linearize(mvcc::txn::is_serializable(&request)).await?;
            let node = &self.member.node;
            node.machine().store.read_txn(&**node.tables(), &request)?
        } else {
            let reply = self.member.node.propose(Command::Txn(request), caller);
            expect_reply!(reply.await?, Txn)
        };
        self.member.fill(&mut response.header);
        Ok(response)
    }

    /// Waits until the engine has what the buffer had: then what was superseded is gone from it.
    async fn flush(&self) -> Result<(), Error> {
        let tables = self.member.node.tables().clone();
        let flushed = tokio::task::spawn_blocking(move || tables.flush()).await;
        Ok(flushed.map_err(|_| ApiError::Stopped)??)
    }

    /// Compacts; with `physical` it answers once what was superseded is reclaimed.
    async fn compact(
        &self,
        caller: crate::raft::Caller,
        request: CompactionRequest,
    ) -> Result<CompactionResponse, Error> {
        let reply = self
            .member
            .node
            .propose(Command::Compaction(request), caller);
        let mut response = expect_reply!(reply.await?, Compaction);
        if request.physical {
            let mut reclaimed = self.member.reclaimed.clone();
            let done = reclaimed.wait_for(|finished| *finished >= request.revision);
            done.await.map_err(|_| ApiError::Stopped)?;
            self.flush().await?;
        }
        self.member.fill(&mut response.header);
        Ok(response)
    }
}

#[tonic::async_trait]
impl Kv for Service {
    async fn range(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<RangeResponse>, Status> {
        let found = self.find(request.get_ref()).await?;
        let mut response = found.into_response();
        self.member.fill(&mut response.header);
        Ok(Response::new(response))
    }

    type RangeStreamStream =
        Pin<Box<dyn Stream<Item = Result<RangeStreamResponse, Status>> + Send>>;

    async fn range_stream(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        let request = request.into_inner();
        mvcc::check_stream(&request)?;
        self.linearize(request.serializable).await?;
        let chunks = Chunks::start(
            &self.member.node.machine().store,
            &request,
            self.member.config.max_request_bytes,
        )?;
        let start = (self.member.clone(), Some(chunks));
        let chunks = stream::unfold(start, |(member, chunks)| async move {
            let mut chunks = chunks?;
            let message = next_chunk(&member, &mut chunks).await;
            let next = (message.is_ok() && !chunks.is_done()).then_some(chunks);
            Some((message, (member, next)))
        });
        Ok(Response::new(Box::pin(chunks)))
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let stats = Stats::begin(&request, "/etcdserverpb.KV/Put");
        let caller = caller::of(&request);
        let request = request.into_inner();
        let (key, value_bytes) = (request.key.clone(), request.value.len());
        let response = Service::put(self, caller, request).await?;
        stats.end(self.member.config.warn_unary, || Sizes {
            requests: 1,
            request_bytes: key.len() + value_bytes,
            responses: 0,
            response_bytes: response.encoded_len(),
            content: format!("key:{} value_size:{value_bytes} ", quoted(&key)),
        });
        Ok(Response::new(response))
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        let stats = Stats::begin(&request, "/etcdserverpb.KV/DeleteRange");
        let caller = caller::of(&request);
        let request = request.into_inner();
        mvcc::check_delete(&request).map_err(Status::from)?;
        let (key, size) = (request.key.clone(), request.encoded_len());
        let command = Command::DeleteRange(request);
        let reply = self.member.node.propose(command, caller).await?;
        let mut response = expect_reply!(reply, DeleteRange);
        self.member.fill(&mut response.header);
        stats.end(self.member.config.warn_unary, || Sizes {
            requests: 0,
            request_bytes: size,
            responses: response.deleted,
            response_bytes: response.encoded_len(),
            content: format!("key:{} ", quoted(&key)),
        });
        Ok(Response::new(response))
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        let stats = Stats::begin(&request, "/etcdserverpb.KV/Txn");
        let caller = caller::of(&request);
        let request = request.into_inner();
        let (compares, successes, failures) = (
            request.compare.len(),
            request.success.len(),
            request.failure.len(),
        );
        let response = Service::txn(self, caller, request).await?;
        stats.end(self.member.config.warn_unary, || Sizes {
            requests: (successes + failures) as i64,
            request_bytes: 0,
            responses: response.responses.len() as i64,
            response_bytes: response.encoded_len(),
            content: format!("compare:{compares} success:{successes} failure:{failures} "),
        });
        Ok(Response::new(response))
    }

    async fn compact(
        &self,
        request: Request<CompactionRequest>,
    ) -> Result<Response<CompactionResponse>, Status> {
        let caller = caller::of(&request);
        let response = Service::compact(self, caller, request.into_inner()).await?;
        Ok(Response::new(response))
    }
}

/// Gathers under the lock, loads without it.
async fn next_chunk(member: &Member, chunks: &mut Chunks) -> Result<RangeStreamResponse, Status> {
    tokio::task::yield_now().await;
    let pending = chunks.gather(&member.node.machine().store)?;
    let mut chunk = pending.load(&**member.node.tables()).map_err(Error::from)?;
    if chunk.header.is_some() {
        member.fill(&mut chunk.header);
    }
    chunks.adapt(&chunk);
    Ok(RangeStreamResponse {
        range_response: Some(chunk),
    })
}

fn range_text(request: &RangeRequest) -> String {
    let end = match request.range_end.as_slice() {
        [] => String::new(),
        end => format!("range_end:{} ", quoted(end)),
    };
    format!("key:{} {end}", quoted(&request.key))
}
