//! Leases, and keeping them alive in the background while a handle lives.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::client::Client;
use crate::client::Error;
use crate::client::Result;
use crate::client::channel::Method;
use crate::client::channel::Responses;
use crate::error::ApiError;
use crate::proto::etcdserverpb::LeaseGrantRequest;
use crate::proto::etcdserverpb::LeaseGrantResponse;
use crate::proto::etcdserverpb::LeaseKeepAliveRequest;
use crate::proto::etcdserverpb::LeaseKeepAliveResponse;
use crate::proto::etcdserverpb::LeaseLeasesRequest;
use crate::proto::etcdserverpb::LeaseLeasesResponse;
use crate::proto::etcdserverpb::LeaseRevokeRequest;
use crate::proto::etcdserverpb::LeaseRevokeResponse;
use crate::proto::etcdserverpb::LeaseTimeToLiveRequest;
use crate::proto::etcdserverpb::LeaseTimeToLiveResponse;

const GRANT: Method<LeaseGrantRequest, LeaseGrantResponse> =
    Method::read("/etcdserverpb.Lease/LeaseGrant");
const REVOKE: Method<LeaseRevokeRequest, LeaseRevokeResponse> =
    Method::read("/etcdserverpb.Lease/LeaseRevoke");
const TIME_TO_LIVE: Method<LeaseTimeToLiveRequest, LeaseTimeToLiveResponse> =
    Method::read("/etcdserverpb.Lease/LeaseTimeToLive");
const LEASES: Method<LeaseLeasesRequest, LeaseLeasesResponse> =
    Method::read("/etcdserverpb.Lease/LeaseLeases");
const KEEP_ALIVE: Method<LeaseKeepAliveRequest, LeaseKeepAliveResponse> =
    Method::read("/etcdserverpb.Lease/LeaseKeepAlive");

/// The pause before a broken keep-alive stream is opened again.
const REOPEN: Duration = Duration::from_millis(500);

/// Answers kept for a caller that does not read them; later ones are dropped.
const UNREAD_ANSWERS: usize = 16;

/// Grants, revocations and renewals.
#[derive(Clone)]
pub struct Lease(Client);

impl Lease {
    pub(super) fn new(client: Client) -> Lease {
        Lease(client)
    }

    pub async fn grant(&self, request: LeaseGrantRequest) -> Result<LeaseGrantResponse> {
        self.0.unary(&GRANT, &request).await
    }

    pub async fn revoke(&self, request: LeaseRevokeRequest) -> Result<LeaseRevokeResponse> {
        self.0.unary(&REVOKE, &request).await
    }

    pub async fn time_to_live(
        &self,
        request: LeaseTimeToLiveRequest,
    ) -> Result<LeaseTimeToLiveResponse> {
        let mut response = self.0.unary(&TIME_TO_LIVE, &request).await?;
        for key in &mut response.keys {
            let mut stripped = std::mem::take(key).into();
            self.0.namespace.leave_key(&mut stripped);
            *key = stripped.into();
        }
        Ok(response)
    }

    pub async fn list(&self) -> Result<LeaseLeasesResponse> {
        self.0.unary(&LEASES, &LeaseLeasesRequest {}).await
    }

    /// Renews a lease once. A lease that is gone is [`ApiError::LeaseNotFound`].
    pub async fn keep_alive_once(&self, id: i64) -> Result<LeaseKeepAliveResponse> {
        let attempts = async {
            loop {
                match self.renew(id).await {
                    Ok(response) if response.ttl > 0 => return Ok(response),
                    Ok(_) => return Err(ApiError::LeaseNotFound.into()),
                    Err(error) if self.0.channel.stale_token(&error) => {
                        self.0.channel.login(self.0.stream_terms()).await?;
                    }
                    Err(error) if is_final(&error) => return Err(error),
                    Err(_) => tokio::time::sleep(REOPEN / 10).await,
                }
            }
        };
        match self.0.timeout {
            Some(timeout) => tokio::time::timeout(timeout, attempts)
                .await
                .unwrap_or(Err(Error::DeadlineExceeded)),
            None => attempts.await,
        }
    }

    async fn renew(&self, id: i64) -> Result<LeaseKeepAliveResponse> {
        let request = LeaseKeepAliveRequest { id };
        let mut answers = (self.0.channel)
            .answers(&KEEP_ALIVE, request, self.0.stream_terms())
            .await?;
        answers.next().await?.ok_or_else(closed)
    }

    /// Renews a lease every third of its time until the handle is dropped or the lease is gone.
    pub fn keep_alive(&self, id: i64) -> KeepAlive {
        let (sender, answers) = mpsc::channel(UNREAD_ANSWERS);
        let keeper = Keeper {
            client: self.0.clone(),
            id,
            expires: Instant::now() + self.0.dial_timeout + Duration::from_secs(1),
            answers: sender,
        };
        let task = tokio::spawn(keeper.run()).abort_handle();
        KeepAlive { answers, task }
    }
}

/// A lease that is being kept alive.
pub struct KeepAlive {
    answers: mpsc::Receiver<LeaseKeepAliveResponse>,
    task: AbortHandle,
}

impl KeepAlive {
    /// Waits for the next renewal; nothing once the lease is gone or could not be renewed in time.
    ///
    /// Nobody has to read the renewals for them to take place.
    pub async fn next(&mut self) -> Option<LeaseKeepAliveResponse> {
        self.answers.recv().await
    }
}

impl Drop for KeepAlive {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The task behind a [`KeepAlive`].
struct Keeper {
    client: Client,
    id: i64,
    /// When the lease is lost if no renewal gets through.
    expires: Instant,
    answers: mpsc::Sender<LeaseKeepAliveResponse>,
}

impl Keeper {
    async fn run(mut self) {
        loop {
            let deadline = self.expires;
            match tokio::time::timeout_at(deadline, self.renew_while_open()).await {
                // Renewed meanwhile: the deadline that passed is an old one.
                Err(_) if self.expires > deadline => {}
                Err(_) => return,
                Ok(Ok(())) => return,
                Ok(Err(error)) if self.client.channel.stale_token(&error) => {
                    if self
                        .client
                        .channel
                        .login(self.client.stream_terms())
                        .await
                        .is_err()
                    {
                        return;
                    }
                }
                Ok(Err(error)) if is_final(&error) => return,
                Ok(Err(_)) => tokio::time::sleep(REOPEN).await,
            }
        }
    }

    /// Renews over one stream until the lease is gone, which is success, or the stream is.
    async fn renew_while_open(&mut self) -> Result<()> {
        let (requests, queue) = mpsc::channel(1);
        let mut stream: Option<Responses<LeaseKeepAliveResponse>> = None;
        let mut queue = Some(queue);
        loop {
            // The server takes requests in order, one at a time, so the queue has room.
            let request = LeaseKeepAliveRequest { id: self.id };
            requests.send(request).await.map_err(|_| closed())?;
            let answers = match (&mut stream, queue.take()) {
                (Some(answers), _) => answers,
                (None, Some(queue)) => stream.insert(
                    (self.client.channel)
                        .stream(
                            &KEEP_ALIVE,
                            ReceiverStream::new(queue),
                            self.client.stream_terms(),
                        )
                        .await?,
                ),
                (None, None) => return Err(closed()),
            };
            let answer = answers.next().await?.ok_or_else(closed)?;
            if answer.ttl <= 0 {
                return Ok(());
            }
            let ttl = Duration::from_secs(answer.ttl as u64);
            self.expires = Instant::now() + ttl;
            // A caller that does not read does not stop the renewals.
            let _ = self.answers.try_send(answer);
            tokio::time::sleep(ttl / 3).await;
        }
    }
}

fn is_final(error: &Error) -> bool {
    !matches!(error.code(), Code::Unavailable | Code::Internal)
}

fn closed() -> Error {
    Error::Status {
        code: Code::Unavailable,
        message: "the server closed the stream".into(),
    }
}
