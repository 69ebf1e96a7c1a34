//! Maintenance: status, alarms, hashes, snapshot, defragment, move leader, downgrade.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use bytes::BytesMut;
use futures_util::stream;
use sha2::Digest;
use sha2::Sha256;
use tokio_stream::Stream;
use tonic::Code;
use tonic::Request;
use tonic::Response;
use tonic::Status;
use tracing::info;

use super::super::caller;
use super::super::member::Member;
use super::super::member::VERSION;
use super::kv::expect_reply;
use crate::error::ApiError;
use crate::error::Error;
use crate::error::Fault;
use crate::machine::Command;
use crate::machine::Reply;
use crate::machine::snapshot::Export;
use crate::proto::etcdserverpb::AlarmRequest;
use crate::proto::etcdserverpb::AlarmResponse;
use crate::proto::etcdserverpb::DefragmentRequest;
use crate::proto::etcdserverpb::DefragmentResponse;
use crate::proto::etcdserverpb::DowngradeRequest;
use crate::proto::etcdserverpb::DowngradeResponse;
use crate::proto::etcdserverpb::HashKvRequest;
use crate::proto::etcdserverpb::HashKvResponse;
use crate::proto::etcdserverpb::HashRequest;
use crate::proto::etcdserverpb::HashResponse;
use crate::proto::etcdserverpb::MoveLeaderRequest;
use crate::proto::etcdserverpb::MoveLeaderResponse;
use crate::proto::etcdserverpb::SnapshotRequest;
use crate::proto::etcdserverpb::SnapshotResponse;
use crate::proto::etcdserverpb::StatusRequest;
use crate::proto::etcdserverpb::StatusResponse;
use crate::proto::etcdserverpb::alarm_request::AlarmAction;
use crate::proto::etcdserverpb::downgrade_request::DowngradeAction;
use crate::proto::etcdserverpb::maintenance_server::Maintenance;
use crate::proto::kvpb::DowngradeInfoSetRequest;
use crate::storage::Table;
use crate::storage::View;
use crate::util::metrics;
use crate::util::text;

/// Bytes of one message of a snapshot.
const SNAPSHOT_CHUNK: usize = 32 << 10;
/// Records hashed before others may run.
const HASH_PAGE: usize = 1024;

pub struct Service {
    member: Arc<Member>,
}

impl Service {
    pub fn new(member: Arc<Member>) -> Service {
        Service { member }
    }

    async fn status(&self) -> Result<StatusResponse, Error> {
        let node = &self.member.node;
        let status = node.status();
        let (db_size, live) = self.member.sizes().await?;
        let mut response = node.machine().status(status.id, status.leader);
        self.member.fill(&mut response.header);
        Ok(StatusResponse {
            version: VERSION.to_string(),
            db_size: db_size as i64,
            db_size_in_use: live as i64,
            raft_index: status.committed.max(response.raft_applied_index),
            raft_term: status.term,
            ..response
        })
    }

    async fn defragment(&self) -> Result<(), Error> {
        let node = &self.member.node;
        let dir = self.member.config.data_dir.display().to_string();
        let (before, in_use) = self.member.sizes().await?;
        info!(
            path = dir,
            "current-db-size-bytes" = before,
            "current-db-size-in-use-bytes" = in_use,
            "defragmenting"
        );
        let start = Instant::now();
        let tables = node.tables().clone();
        let done = tokio::task::spawn_blocking(move || tables.compact()).await;
        done.map_err(lost)??;
        node.measure_size().await?;
        self.member.allocated.store(0, Ordering::Relaxed);
        let (after, in_use) = self.member.sizes().await?;
        info!(
            path = dir,
            "current-db-size-bytes-diff" = after as i64 - before as i64,
            "current-db-size-bytes" = after,
            "current-db-size-in-use-bytes" = in_use,
            took = %text::format_duration(start.elapsed()),
            "finished defragmenting directory"
        );
        Ok(())
    }

    /// A hash over all tables but the one that differs with every applied entry.
    async fn hash(&self) -> Result<u32, Error> {
        const TABLES: [(Table, &[u8]); 6] = [
            (Table::Alarms, b"alarm"),
            (Table::Users, b"authUsers"),
            (Table::Roles, b"authRoles"),
            (Table::Revisions, b"key"),
            (Table::Leases, b"lease"),
            (Table::Members, b"members"),
        ];
        let _timer = metrics::HASH_DURATION.start_timer();
        let tables = self.member.node.tables();
        let mut hash = 0;
        for (table, name) in TABLES {
            hash = crc32c::crc32c_append(hash, name);
            let mut from = Vec::new();
            loop {
                let page = tables.scan(table, &from, None, HASH_PAGE)?;
                for (key, value) in &page {
                    hash = crc32c::crc32c_append(hash, key);
                    hash = crc32c::crc32c_append(hash, value);
                }
                match page.last() {
                    Some((last, _)) if page.len() == HASH_PAGE => {
                        from = [last, &[0][..]].concat();
                        tokio::task::yield_now().await;
                    }
                    _ => break,
                }
            }
        }
        Ok(hash)
    }

    async fn downgrade(&self, request: DowngradeRequest) -> Result<DowngradeResponse, Error> {
        let node = &self.member.node;
        node.read_index().await?;
        let (current, active) = {
            let machine = node.machine();
            let active = machine.cluster.downgrade().enabled;
            (machine.cluster.version().to_string(), active)
        };
        let action = DowngradeAction::try_from(request.action)
            .map_err(|_| Error::other(Code::Unknown, "etcdserver: unknown method"))?;
        match action {
            DowngradeAction::Validate => {
                downgrade_target(&request.version, &current, active)?;
            }
            DowngradeAction::Enable => {
                let ver = downgrade_target(&request.version, &current, active)?;
                let job = DowngradeInfoSetRequest { enabled: true, ver };
                self.member.propose(Command::DowngradeInfoSet(job)).await?;
            }
            // etcd answers this one well whatever happens.
            DowngradeAction::Cancel => {
                let job = DowngradeInfoSetRequest::default();
                if active {
                    self.member.propose(Command::DowngradeInfoSet(job)).await?;
                }
            }
        }
        Ok(DowngradeResponse {
            header: Some(self.member.header()),
            version: major_minor(&current)
                .map_or(current.clone(), |(major, minor)| format!("{major}.{minor}")),
        })
    }
}

fn lost(error: tokio::task::JoinError) -> Fault {
    Fault::Refused(format!("a storage call was lost: {error}"))
}

fn major_minor(version: &str) -> Option<(u64, u64)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Reads `M.m` or a full semantic version.
fn parse_target(version: &str) -> Option<(u64, u64)> {
    let plain = version.split(['-', '+']).next()?;
    let parts: Vec<&str> = plain.split('.').collect();
    let suffixed = plain.len() < version.len();
    let good = matches!((parts.len(), suffixed), (2, false) | (3, _));
    let numeric = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    (good && parts.iter().all(numeric))
        .then(|| major_minor(plain))
        .flatten()
}

/// Checks a downgrade and returns the version that it would lead to.
fn downgrade_target(target: &str, current: &str, active: bool) -> Result<String, ApiError> {
    let (major, minor) = parse_target(target).ok_or(ApiError::WrongDowngradeVersionFormat)?;
    let current = major_minor(current).ok_or(ApiError::ClusterVersionUnavailable)?;
    if current != (major, minor + 1) {
        return Err(ApiError::InvalidDowngradeTargetVersion);
    }
    if active {
        return Err(ApiError::DowngradeInProcess);
    }
    Ok(format!("{major}.{minor}.0"))
}

type Snapshots = Pin<Box<dyn Stream<Item = Result<SnapshotResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Maintenance for Service {
    async fn alarm(
        &self,
        request: Request<AlarmRequest>,
    ) -> Result<Response<AlarmResponse>, Status> {
        let caller = caller::of(&request);
        let request = request.into_inner();
        if AlarmAction::try_from(request.action).is_err() {
            return Err(Status::invalid_argument(format!(
                "etcdserver: unknown alarm action {}",
                request.action
            )));
        }
        let command = Command::Alarm(request);
        let reply = self.member.node.propose(command, caller).await?;
        let mut response = expect_reply!(reply, Alarm);
        self.member.fill(&mut response.header);
        Ok(Response::new(response))
    }

    async fn status(
        &self,
        _request: Request<StatusRequest>,
    ) -> Result<Response<StatusResponse>, Status> {
        Ok(Response::new(Service::status(self).await?))
    }

    async fn defragment(
        &self,
        _request: Request<DefragmentRequest>,
    ) -> Result<Response<DefragmentResponse>, Status> {
        Service::defragment(self).await?;
        Ok(Response::new(DefragmentResponse { header: None }))
    }

    async fn hash(&self, _request: Request<HashRequest>) -> Result<Response<HashResponse>, Status> {
        let hash = Service::hash(self).await?;
        Ok(Response::new(HashResponse {
            header: Some(self.member.header()),
            hash,
        }))
    }

    async fn hash_kv(
        &self,
        request: Request<HashKvRequest>,
    ) -> Result<Response<HashKvResponse>, Status> {
        let revision = request.into_inner().revision;
        let (hash, current) = self.member.hash_kv(revision).await?;
        Ok(Response::new(HashKvResponse {
            header: Some(self.member.header_at(current)),
            hash: hash.hash,
            compact_revision: hash.compact_revision,
            hash_revision: hash.hash_revision,
        }))
    }

    type SnapshotStream = Snapshots;

    async fn snapshot(
        &self,
        _request: Request<SnapshotRequest>,
    ) -> Result<Response<Snapshots>, Status> {
        let sender = Sender::begin(self.member.clone()).await?;
        let messages = stream::unfold(Some(sender), |sender| async move {
            let mut sender = sender?;
            let message = sender.next().await;
            let next = (message.is_ok() && !sender.done).then_some(sender);
            Some((message, next))
        });
        Ok(Response::new(Box::pin(messages)))
    }

    async fn move_leader(
        &self,
        request: Request<MoveLeaderRequest>,
    ) -> Result<Response<MoveLeaderResponse>, Status> {
        let node = &self.member.node;
        if !node.is_leader() {
            return Err(ApiError::NotLeader.into());
        }
        let target = request.into_inner().target_id;
        if target == self.member.identity().member_id {
            return Ok(Response::new(MoveLeaderResponse { header: None }));
        }
        let is_voter = {
            let machine = node.machine();
            machine.cluster.voters().any(|voter| voter.id == target)
        };
        if !is_voter {
            return Err(ApiError::BadLeaderTransferee.into());
        }
        Err(Status::unimplemented("method MoveLeader not implemented"))
    }

    async fn downgrade(
        &self,
        request: Request<DowngradeRequest>,
    ) -> Result<Response<DowngradeResponse>, Status> {
        let response = Service::downgrade(self, request.into_inner()).await?;
        Ok(Response::new(response))
    }
}

/// A snapshot on its way to a client.
struct Sender {
    member: Arc<Member>,
    export: Export,
    gathered: BytesMut,
    /// Nothing more comes out of the export.
    drained: bool,
    remaining: u64,
    digest: Sha256,
    version: String,
    start: Instant,
    done: bool,
}

impl Sender {
    async fn begin(member: Arc<Member>) -> Result<Sender, Error> {
        let (mut export, version) = {
            let machine = member.node.machine();
            let export = Export::begin(&machine, &**member.node.tables())?;
            (export, machine.storage_version())
        };
        while !export.measure(&**member.node.tables())? {
            tokio::task::yield_now().await;
        }
        let remaining = export.total().unwrap_or(0);
        info!(
            "total-bytes" = remaining,
            "sending database snapshot to client"
        );
        Ok(Sender {
            member,
            export,
            gathered: BytesMut::new(),
            drained: false,
            remaining,
            digest: Sha256::new(),
            version,
            start: Instant::now(),
            done: false,
        })
    }

    async fn next(&mut self) -> Result<SnapshotResponse, Status> {
        while self.gathered.len() < SNAPSHOT_CHUNK && !self.drained {
            match self
                .export
                .next(&**self.member.node.tables())
                .map_err(Error::from)?
            {
                Some(bytes) => self.gathered.extend_from_slice(&bytes),
                None => self.drained = true,
            }
            tokio::task::yield_now().await;
        }
        let blob = if self.gathered.is_empty() {
            self.finish()
        } else {
            let length = self.gathered.len().min(SNAPSHOT_CHUNK);
            let blob = self.gathered.split_to(length);
            self.digest.update(&blob);
            self.remaining -= length as u64;
            blob.freeze()
        };
        Ok(SnapshotResponse {
            header: None,
            remaining_bytes: self.remaining,
            blob: blob.into(),
            version: self.version.clone(),
        })
    }

    /// The last message carries the digest of all the others.
    fn finish(&mut self) -> Bytes {
        self.done = true;
        let took = self.start.elapsed();
        metrics::BACKEND_SNAPSHOT.observe(took.as_secs_f64());
        info!(took = %text::format_duration(took), "successfully sent database snapshot to client");
        Bytes::from(self.digest.finalize_reset().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn downgrades_go_one_minor_version_at_a_time() {
        use ApiError::*;
        let cases = [
            ("", Err(WrongDowngradeVersionFormat)),
            ("three", Err(WrongDowngradeVersionFormat)),
            ("3", Err(WrongDowngradeVersionFormat)),
            ("3.6.0.0", Err(WrongDowngradeVersionFormat)),
            ("3.5", Err(InvalidDowngradeTargetVersion)),
            ("3.7", Err(InvalidDowngradeTargetVersion)),
            ("3.8.0", Err(InvalidDowngradeTargetVersion)),
            ("4.6.0", Err(InvalidDowngradeTargetVersion)),
            ("3.7.1-rc1", Err(InvalidDowngradeTargetVersion)),
            ("3.6", Ok("3.6.0".to_string())),
            ("3.6.4", Ok("3.6.0".to_string())),
        ];
        for (target, want) in cases {
            assert_eq!(downgrade_target(target, "3.7", false), want, "{target}");
        }
        assert_eq!(
            downgrade_target("3.6", "3.7", true),
            Err(DowngradeInProcess)
        );
        assert_eq!(
            downgrade_target("3.6", "", false),
            Err(ClusterVersionUnavailable)
        );
    }
}
