//! Reading and writing keys.

use crate::client::Client;
use crate::client::Result;
use crate::client::channel::Method;
use crate::proto::etcdserverpb::CompactionRequest;
use crate::proto::etcdserverpb::CompactionResponse;
use crate::proto::etcdserverpb::DeleteRangeRequest;
use crate::proto::etcdserverpb::DeleteRangeResponse;
use crate::proto::etcdserverpb::PutRequest;
use crate::proto::etcdserverpb::PutResponse;
use crate::proto::etcdserverpb::RangeRequest;
use crate::proto::etcdserverpb::RangeResponse;
use crate::proto::etcdserverpb::RangeStreamResponse;
use crate::proto::etcdserverpb::TxnRequest;
use crate::proto::etcdserverpb::TxnResponse;

const RANGE: Method<RangeRequest, RangeResponse> = Method::read("/etcdserverpb.KV/Range");
const RANGE_STREAM: Method<RangeRequest, RangeStreamResponse> =
    Method::read("/etcdserverpb.KV/RangeStream");
const PUT: Method<PutRequest, PutResponse> = Method::write("/etcdserverpb.KV/Put");
const DELETE: Method<DeleteRangeRequest, DeleteRangeResponse> =
    Method::write("/etcdserverpb.KV/DeleteRange");
const TXN: Method<TxnRequest, TxnResponse> = Method::write("/etcdserverpb.KV/Txn");
const COMPACT: Method<CompactionRequest, CompactionResponse> =
    Method::write("/etcdserverpb.KV/Compact");

/// The keys and values of a cluster.
#[derive(Clone)]
pub struct Kv(Client);

impl Kv {
    pub(super) fn new(client: Client) -> Kv {
        Kv(client)
    }

    pub async fn range(&self, mut request: RangeRequest) -> Result<RangeResponse> {
        let namespace = &self.0.namespace;
        namespace.enter(&mut request.key, &mut request.range_end);
        let mut response = self.0.unary(&RANGE, &request).await?;
        namespace.leave_all(&mut response.kvs);
        Ok(response)
    }

    /// Like [`Kv::range`], sent by the server in pieces and put together here.
    pub async fn range_stream(&self, mut request: RangeRequest) -> Result<RangeResponse> {
        let namespace = &self.0.namespace;
        namespace.enter(&mut request.key, &mut request.range_end);
        let mut pieces = (self.0.channel)
            .answers(&RANGE_STREAM, request, self.0.terms())
            .await?;
        let mut whole = RangeResponse::default();
        while let Some(piece) = pieces.next().await? {
            let piece = piece.range_response.unwrap_or_default();
            whole.header = piece.header.or(whole.header);
            whole.kvs.extend(piece.kvs);
            whole.more |= piece.more;
            whole.count = whole.count.max(piece.count);
        }
        namespace.leave_all(&mut whole.kvs);
        Ok(whole)
    }

    pub async fn put(&self, mut request: PutRequest) -> Result<PutResponse> {
        let namespace = &self.0.namespace;
        namespace.enter_key(&mut request.key);
        let mut response = self.0.unary(&PUT, &request).await?;
        namespace.leave_all(&mut response.prev_kv);
        Ok(response)
    }

    pub async fn delete(&self, mut request: DeleteRangeRequest) -> Result<DeleteRangeResponse> {
        let namespace = &self.0.namespace;
        namespace.enter(&mut request.key, &mut request.range_end);
        let mut response = self.0.unary(&DELETE, &request).await?;
        namespace.leave_all(&mut response.prev_kvs);
        Ok(response)
    }

    pub async fn txn(&self, mut request: TxnRequest) -> Result<TxnResponse> {
        let namespace = &self.0.namespace;
        namespace.enter_txn(&mut request);
        let mut response = self.0.unary(&TXN, &request).await?;
        namespace.leave_txn(&mut response);
        Ok(response)
    }

    pub async fn compact(&self, request: CompactionRequest) -> Result<CompactionResponse> {
        self.0.unary(&COMPACT, &request).await
    }
}
