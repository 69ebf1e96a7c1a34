//! Locks and elections made of leases, keys and watches.
//!
//! Whoever wants a turn writes a key under a common prefix, bound to a lease that is kept alive. The
//! keys take turns in the order of their creation: the oldest one left has it.

use std::time::Duration;

use crate::client::Client;
use crate::client::Error;
use crate::client::KeepAlive;
use crate::client::Result;
use crate::client::Watcher;
use crate::client::prefix_end;
use crate::proto::etcdserverpb::Compare;
use crate::proto::etcdserverpb::DeleteRangeRequest;
use crate::proto::etcdserverpb::LeaseGrantRequest;
use crate::proto::etcdserverpb::LeaseRevokeRequest;
use crate::proto::etcdserverpb::PutRequest;
use crate::proto::etcdserverpb::RangeRequest;
use crate::proto::etcdserverpb::RangeResponse;
use crate::proto::etcdserverpb::RequestOp;
use crate::proto::etcdserverpb::TxnRequest;
use crate::proto::etcdserverpb::WatchCreateRequest;
use crate::proto::etcdserverpb::compare::CompareTarget;
use crate::proto::etcdserverpb::compare::TargetUnion;
use crate::proto::etcdserverpb::range_request::SortOrder;
use crate::proto::etcdserverpb::range_request::SortTarget;
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::response_op::Response;
use crate::proto::mvccpb::Event;
use crate::proto::mvccpb::KeyValue;
use crate::proto::mvccpb::event::EventType;

/// A lease that is kept alive, for what must not outlive its owner.
pub struct Session {
    client: Client,
    lease: i64,
    renewals: KeepAlive,
}

impl Session {
    /// Grants a lease and keeps it alive while the session lives.
    pub async fn open(client: &Client, ttl: Duration) -> Result<Session> {
        let request = LeaseGrantRequest {
            ttl: ttl.as_secs() as i64,
            id: 0,
        };
        let lease = client.lease().grant(request).await?.id;
        Ok(Session {
            client: client.clone(),
            lease,
            renewals: client.lease().keep_alive(lease),
        })
    }

    pub fn lease(&self) -> i64 {
        self.lease
    }

    /// Waits until the lease is lost.
    pub async fn lost(&mut self) {
        while self.renewals.next().await.is_some() {}
    }

    /// Gives the lease back, and with it every key bound to it.
    pub async fn close(self) -> Result<()> {
        let request = LeaseRevokeRequest { id: self.lease };
        self.client.lease().revoke(request).await.map(drop)
    }
}

/// A place in the line of those who want the same thing.
pub struct Turn {
    client: Client,
    prefix: Vec<u8>,
    key: Vec<u8>,
    /// When the place was taken. Older places come first.
    revision: i64,
}

impl Turn {
    /// Takes a place in the line `name`, with a value for others to see.
    pub async fn queue(session: &Session, name: &[u8], value: &[u8]) -> Result<Turn> {
        let prefix = [name, b"/"].concat();
        let key = [&prefix[..], format!("{:x}", session.lease).as_bytes()].concat();
        let put = PutRequest {
            key: key.clone(),
            value: value.to_vec(),
            lease: session.lease,
            ..Default::default()
        };
        let get = RangeRequest {
            key: key.clone(),
            ..Default::default()
        };
        let request = TxnRequest {
            compare: vec![Compare {
                key: key.clone(),
                target: CompareTarget::Create.into(),
                target_union: Some(TargetUnion::CreateRevision(0)),
                ..Default::default()
            }],
            success: vec![op(Request::RequestPut(put))],
            failure: vec![op(Request::RequestRange(get))],
        };
        let response = session.client.kv().txn(request).await?;
        let existing = response
            .responses
            .into_iter()
            .find_map(|op| match op.response {
                Some(Response::ResponseRange(range)) => range.kvs.into_iter().next(),
                _ => None,
            });
        let now = response.header.unwrap_or_default().revision;
        Ok(Turn {
            client: session.client.clone(),
            prefix,
            key,
            revision: existing.map_or(now, |kv| kv.create_revision),
        })
    }

    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// The revision that shows that this place is still held.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Waits until every older place is given up. Returns the own key as it is then; none if it is gone.
    pub async fn come(&self) -> Result<RangeResponse> {
        loop {
            let older = RangeRequest {
                key: self.prefix.clone(),
                range_end: prefix_end(&self.prefix),
                max_create_revision: self.revision - 1,
                limit: 1,
                sort_order: SortOrder::Descend.into(),
                sort_target: SortTarget::Create.into(),
                ..Default::default()
            };
            // Without an older revision there is no older place, and no filter that could say so.
            let response = match self.revision {
                ..=1 => RangeResponse::default(),
                _ => self.client.kv().range(older).await?,
            };
            let revision = response.header.unwrap_or_default().revision;
            match response.kvs.into_iter().next() {
                Some(kv) => self.wait_for_end(kv, revision + 1).await?,
                None => break,
            }
        }
        let own = RangeRequest {
            key: self.key.clone(),
            ..Default::default()
        };
        self.client.kv().range(own).await
    }

    async fn wait_for_end(&self, kv: KeyValue, start_revision: i64) -> Result<()> {
        let mut watcher = self.client.watch().start(WatchCreateRequest {
            key: kv.key.to_vec(),
            start_revision,
            ..Default::default()
        })?;
        while let Some(response) = watcher.next().await {
            let response = response?;
            let gone = |event: &Event| event.r#type() == EventType::Delete;
            if response.events.iter().any(gone) {
                return Ok(());
            }
        }
        Err(Error::Canceled)
    }

    /// Gives the place up.
    pub async fn leave(self) -> Result<()> {
        let request = DeleteRangeRequest {
            key: self.key,
            ..Default::default()
        };
        self.client.kv().delete(request).await.map(drop)
    }
}

/// Follows who has the turn in a line.
pub struct Observer {
    client: Client,
    prefix: Vec<u8>,
    /// Changes of the present leader's key.
    leader: Option<Watcher>,
}

impl Observer {
    pub fn new(client: &Client, name: &[u8]) -> Observer {
        Observer {
            client: client.clone(),
            prefix: [name, b"/"].concat(),
            leader: None,
        }
    }

    /// Waits for the next leader, or the next value of the present one.
    pub async fn next(&mut self) -> Result<RangeResponse> {
        loop {
            let Some(watcher) = &mut self.leader else {
                return self.first().await;
            };
            let response = watcher.next().await.ok_or(Error::Canceled)??;
            if response.canceled {
                return Err(Error::Canceled);
            }
            let header = response.header;
            // Only what came last counts.
            let Some(event) = response.events.into_iter().next_back() else {
                continue;
            };
            match event.r#type() {
                EventType::Delete => self.leader = None,
                EventType::Put => {
                    return Ok(RangeResponse {
                        header,
                        kvs: event.kv.into_iter().collect(),
                        ..Default::default()
                    });
                }
            }
        }
    }

    /// Waits until the line has a first place and follows it.
    async fn first(&mut self) -> Result<RangeResponse> {
        loop {
            let oldest = RangeRequest {
                key: self.prefix.clone(),
                range_end: prefix_end(&self.prefix),
                limit: 1,
                sort_order: SortOrder::Ascend.into(),
                sort_target: SortTarget::Create.into(),
                ..Default::default()
            };
            let response = self.client.kv().range(oldest).await?;
            let header = response.header;
            let revision = header.unwrap_or_default().revision;
            if let Some(kv) = response.kvs.into_iter().next() {
                let watcher = self.watch(kv.key.to_vec(), Vec::new(), revision + 1)?;
                self.leader = Some(watcher);
                return Ok(RangeResponse {
                    header,
                    kvs: vec![kv],
                    ..Default::default()
                });
            }
            let end = prefix_end(&self.prefix);
            let mut watcher = self.watch(self.prefix.clone(), end, revision + 1)?;
            watcher.next().await.ok_or(Error::Canceled)??;
        }
    }

    fn watch(&self, key: Vec<u8>, range_end: Vec<u8>, start_revision: i64) -> Result<Watcher> {
        self.client.watch().start(WatchCreateRequest {
            key,
            range_end,
            start_revision,
            ..Default::default()
        })
    }
}

fn op(request: Request) -> RequestOp {
    RequestOp {
        request: Some(request),
    }
}
