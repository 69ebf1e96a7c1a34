//! Calls to an etcd cluster, typed by the generated messages.
//!
//! A [`Client`] is cheap to clone. It never blocks on a dead server when made: every call waits for
//! some server to be reachable, until the call's own time is up. Calls are grouped as in the API:
//! [`Client::kv`], [`Client::watch`], [`Client::lease`], [`Client::cluster`],
//! [`Client::maintenance`], [`Client::auth`].

mod admin;
mod channel;
mod concurrency;
mod endpoint;
mod error;
mod kv;
mod lease;
mod namespace;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

pub use admin::Auth;
pub use admin::Cluster;
pub use admin::Maintenance;
pub use channel::Responses;
pub use concurrency::Observer;
pub use concurrency::Session;
pub use concurrency::Turn;
pub use endpoint::Endpoint;
pub use endpoint::Keepalive;
pub use error::Error;
pub use kv::Kv;
pub use lease::KeepAlive;
pub use lease::Lease;
pub use namespace::Namespace;
pub use namespace::prefix_end;
pub use watch::Watch;
pub use watch::Watcher;

use crate::proto::etcdserverpb::AuthenticateRequest;
use channel::Channel;
use channel::Method;
use channel::Terms;

pub type Result<T> = std::result::Result<T, Error>;

/// How to reach a cluster and as whom.
#[derive(Clone, Debug)]
pub struct Config {
    /// `host:port`, `http://…`, `unix:…`; calls go to them in turn.
    pub endpoints: Vec<String>,
    /// Limits the login and the wait for a first keep-alive.
    pub dial_timeout: Duration,
    /// Limits each call; nothing means that a call waits as long as it takes.
    pub request_timeout: Option<Duration>,
    pub keepalive: Keepalive,
    /// Largest request; 2 MiB if not given.
    pub max_send_bytes: Option<usize>,
    /// Largest answer; 2 GiB if not given.
    pub max_receive_bytes: Option<usize>,
    pub user: Option<String>,
    pub password: Option<String>,
    /// A token made elsewhere; then no login takes place.
    pub token: Option<String>,
}

impl Config {
    /// The defaults, for these endpoints.
    pub fn new<S: Into<String>>(endpoints: impl IntoIterator<Item = S>) -> Config {
        Config {
            endpoints: endpoints.into_iter().map(S::into).collect(),
            dial_timeout: Duration::from_secs(2),
            request_timeout: None,
            keepalive: Keepalive::default(),
            max_send_bytes: None,
            max_receive_bytes: None,
            user: None,
            password: None,
            token: None,
        }
    }

    /// What to log in with. As in etcd, a name with an empty password does not log in.
    fn credentials(&self) -> Option<AuthenticateRequest> {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if self.token.is_some() {
            return None;
        }
        Some(AuthenticateRequest {
            name: given(&self.user)?,
            password: given(&self.password)?,
        })
    }
}

/// A handle to a cluster. Clones share its connections.
#[derive(Clone)]
pub struct Client {
    channel: Arc<Channel>,
    dial_timeout: Duration,
    timeout: Option<Duration>,
    require_leader: bool,
    namespace: Namespace,
}

impl Client {
    /// Starts to connect, and logs in if the configuration names a user.
    pub async fn connect(config: Config) -> Result<Client> {
        let channel = Channel::open(&config)?;
        let terms = Terms {
            deadline: Some(Instant::now() + config.dial_timeout),
            require_leader: false,
        };
        channel.login(terms).await?;
        Ok(Client {
            channel: Arc::new(channel),
            dial_timeout: config.dial_timeout,
            timeout: config.request_timeout,
            require_leader: false,
            namespace: Namespace::default(),
        })
    }

    /// The same cluster, with another limit on each call.
    pub fn with_timeout(&self, timeout: Option<Duration>) -> Client {
        Client {
            timeout,
            ..self.clone()
        }
    }

    /// The same cluster; calls fail at once on a server that knows no leader.
    pub fn with_required_leader(&self) -> Client {
        Client {
            require_leader: true,
            ..self.clone()
        }
    }

    /// The same cluster seen through a prefix: keys are sent with it and come back without it.
    pub fn with_namespace(&self, prefix: impl Into<Vec<u8>>) -> Client {
        Client {
            namespace: self.namespace.inside(&prefix.into()),
            ..self.clone()
        }
    }

    pub fn kv(&self) -> Kv {
        Kv::new(self.clone())
    }

    /// A watch stream; watchers made from the same value share it.
    pub fn watch(&self) -> Watch {
        Watch::open(self)
    }

    pub fn lease(&self) -> Lease {
        Lease::new(self.clone())
    }

    pub fn cluster(&self) -> Cluster {
        Cluster::new(self.clone())
    }

    pub fn maintenance(&self) -> Maintenance {
        Maintenance::new(self.clone())
    }

    pub fn auth(&self) -> Auth {
        Auth::new(self.clone())
    }

    async fn unary<Q, R>(&self, method: &Method<Q, R>, request: &Q) -> Result<R>
    where
        Q: prost::Message,
        R: prost::Message + Default + 'static,
    {
        self.channel.unary(method, request, self.terms()).await
    }

    fn terms(&self) -> Terms {
        Terms {
            deadline: self.timeout.map(|timeout| Instant::now() + timeout),
            require_leader: self.require_leader,
        }
    }

    /// The terms of a stream, which lives as long as its owner.
    fn stream_terms(&self) -> Terms {
        Terms {
            deadline: None,
            require_leader: self.require_leader,
        }
    }
}
