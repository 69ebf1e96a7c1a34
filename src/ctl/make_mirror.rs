//! `make-mirror`: copies keys to another cluster and follows their changes.

use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Args;

use crate::client;
use crate::client::Client;
use crate::client::Kv;
use crate::client::prefix_end;
use crate::ctl::context;
use crate::ctl::context::Context;
use crate::ctl::failure::Exit;
use crate::ctl::failure::Failure;
use crate::ctl::input;
use crate::error::ApiError;
use crate::proto::etcdserverpb::DeleteRangeRequest;
use crate::proto::etcdserverpb::PutRequest;
use crate::proto::etcdserverpb::RangeRequest;
use crate::proto::etcdserverpb::RequestOp;
use crate::proto::etcdserverpb::TxnRequest;
use crate::proto::etcdserverpb::WatchCreateRequest;
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::mvccpb::Event;
use crate::proto::mvccpb::event::EventType;

/// Keys copied a page.
const PAGE: i64 = 1000;

/// How often the number of copied keys is printed.
const REPORT: Duration = Duration::from_secs(30);

/// Makes a mirror at the destination etcd cluster
#[derive(Debug, Args)]
#[command(override_usage = "make-mirror [options] <destination>")]
pub struct MakeMirror {
    #[arg(value_name = "destination")]
    words: Vec<OsString>,

    /// Key-value prefix to mirror
    #[arg(long, value_name = "string", default_value = "")]
    prefix: String,

    /// Revision to start from; past 1, only later changes are mirrored
    #[arg(long, value_name = "int", default_value = "0")]
    rev: i64,

    /// Largest number of operations in a transaction
    #[arg(long, value_name = "uint", default_value = "128")]
    max_txn_ops: u64,

    /// Prefix of the keys in the destination cluster, if it is another one
    #[arg(long, value_name = "string", default_value = "")]
    dest_prefix: String,

    /// Mirror keys without their prefix
    #[arg(long)]
    no_dest_prefix: bool,

    /// TLS certificate file for the destination cluster
    #[arg(long, value_name = "string", default_value = "")]
    dest_cert: String,

    /// TLS key file for the destination cluster
    #[arg(long, value_name = "string", default_value = "")]
    dest_key: String,

    /// CA bundle to verify the destination cluster with
    #[arg(long, value_name = "string", default_value = "")]
    dest_cacert: String,

    /// Connect to the destination without TLS
    #[arg(long, value_name = "bool", default_value = "true", default_missing_value = "true", num_args = 0..=1, require_equals = true, action = clap::ArgAction::Set)]
    dest_insecure_transport: bool,

    /// Log in to the destination as username[:password]
    #[arg(long, value_name = "string", default_value = "")]
    dest_user: String,

    /// The password, if --dest-user does not hold one
    #[arg(long, value_name = "string", default_value = "")]
    dest_password: String,
}

impl MakeMirror {
    pub async fn run(self, context: &mut Context) -> Result<(), Failure> {
        let [destination] = &self.words[..] else {
            return Err(Failure::args("make-mirror takes one destination argument"));
        };
        if !self.dest_prefix.is_empty() && self.no_dest_prefix {
            return Err(Failure::args(
                "`--dest-prefix` and `--no-dest-prefix` cannot be set at the same time, choose one",
            ));
        }
        let destination = self.destination(&destination.to_string_lossy(), context)?;
        let source = context.patient_client().await?;
        let target = Client::connect(destination).await;
        let target = target.map_err(|error| Failure::new(Exit::BadConnection, error))?;
        let copied = Arc::new(AtomicU64::new(0));
        let mirror = Mirror {
            source,
            target: target.with_timeout(None).kv(),
            prefix: self.prefix.clone().into_bytes(),
            new_prefix: self.new_prefix(),
            max_ops: self.max_txn_ops.max(1) as usize,
            copied: copied.clone(),
        };
        tokio::select! {
            outcome = mirror.run(self.rev) => Ok(outcome?),
            outcome = report(copied) => outcome,
        }
    }

    fn new_prefix(&self) -> Vec<u8> {
        let prefix = match (&self.dest_prefix, self.no_dest_prefix) {
            (_, true) => "",
            (prefix, false) if prefix.is_empty() => &self.prefix,
            (prefix, false) => prefix,
        };
        prefix.as_bytes().to_vec()
    }

    fn destination(
        &self,
        endpoint: &str,
        context: &mut Context,
    ) -> Result<client::Config, Failure> {
        let tls = [&self.dest_cert, &self.dest_key, &self.dest_cacert];
        if tls.iter().any(|path| !path.is_empty()) || !self.dest_insecure_transport {
            return Err(Failure::new(
                Exit::BadConnection,
                "TLS connections are not supported yet",
            ));
        }
        let some = |text: &str| Some(text.to_string()).filter(|text| !text.is_empty());
        let (user, password) = match self.dest_user.split_once(':') {
            _ if !self.dest_password.is_empty() => {
                (some(&self.dest_user), some(&self.dest_password))
            }
            Some((user, password)) => (some(user), some(password)),
            None if self.dest_user.is_empty() => (None, None),
            None => {
                let password = input::ask_password("Destination Password: ")?;
                (some(&self.dest_user), Some(password))
            }
        };
        Ok(client::Config {
            endpoints: vec![endpoint.to_string()],
            user,
            password,
            token: None,
            ..context.settings()?.config.clone()
        })
    }
}

/// Prints how far the copy is, for ever.
async fn report(copied: Arc<AtomicU64>) -> Result<(), Failure> {
    loop {
        tokio::time::sleep(REPORT).await;
        context::write(format!("{}\n", copied.load(Ordering::Relaxed)).as_bytes())?;
    }
}

struct Mirror {
    source: Client,
    target: Kv,
    prefix: Vec<u8>,
    new_prefix: Vec<u8>,
    max_ops: usize,
    copied: Arc<AtomicU64>,
}

impl Mirror {
    /// Copies what is there and then every change; returns only when it cannot go on.
    async fn run(&self, revision: i64) -> client::Result<()> {
        let revision = match revision {
            ..=1 => self.copy().await?,
            later => later - 1,
        };
        self.follow(revision + 1).await
    }

    fn range(&self) -> (Vec<u8>, Vec<u8>) {
        match self.prefix.is_empty() {
            true => (vec![0], vec![0]),
            false => (self.prefix.clone(), prefix_end(&self.prefix)),
        }
    }

    /// Copies all keys as of one revision, which it returns.
    async fn copy(&self) -> client::Result<i64> {
        let (mut key, range_end) = self.range();
        let mut revision = 0;
        loop {
            let request = RangeRequest {
                key: key.clone(),
                range_end: range_end.clone(),
                limit: PAGE,
                revision,
                ..Default::default()
            };
            let page = self.source.kv().range(request).await?;
            if revision == 0 {
                revision = page.header.unwrap_or_default().revision;
            }
            for kv in &page.kvs {
                let request = PutRequest {
                    key: self.renamed(&kv.key),
                    value: kv.value.to_vec(),
                    ..Default::default()
                };
                self.target.put(request).await?;
                self.copied.fetch_add(1, Ordering::Relaxed);
            }
            match page.kvs.last().filter(|_| page.more) {
                Some(last) => key = [&last.key[..], &[0]].concat(),
                None => return Ok(revision),
            }
        }
    }

    /// Replays changes from a revision on, those of one revision together.
    async fn follow(&self, start_revision: i64) -> client::Result<()> {
        let (key, range_end) = self.range();
        let mut watcher = self.source.watch().start(WatchCreateRequest {
            key,
            range_end,
            start_revision,
            ..Default::default()
        })?;
        while let Some(response) = watcher.next().await {
            let response = response?;
            if response.compact_revision != 0 {
                return Err(ApiError::Compacted.into());
            }
            let revision = |event: &Event| event.kv.as_ref().map(|kv| kv.mod_revision);
            let changes = response.events.chunk_by(|a, b| revision(a) == revision(b));
            for change in changes {
                for part in change.chunks(self.max_ops) {
                    self.replay(part).await?;
                }
            }
            if response.canceled {
                break;
            }
        }
        Err(client::Error::Canceled)
    }

    async fn replay(&self, events: &[Event]) -> client::Result<()> {
        let request = TxnRequest {
            success: events.iter().map(|event| self.operation(event)).collect(),
            ..Default::default()
        };
        self.target.txn(request).await?;
        self.copied
            .fetch_add(events.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn operation(&self, event: &Event) -> RequestOp {
        let kv = event.kv.clone().unwrap_or_default();
        let key = self.renamed(&kv.key);
        let request = match event.r#type() {
            EventType::Put => Request::RequestPut(PutRequest {
                key,
                value: kv.value.to_vec(),
                ..Default::default()
            }),
            EventType::Delete => Request::RequestDeleteRange(DeleteRangeRequest {
                key,
                ..Default::default()
            }),
        };
        RequestOp {
            request: Some(request),
        }
    }

    /// A key's name in the destination.
    fn renamed(&self, key: &[u8]) -> Vec<u8> {
        let rest = key.strip_prefix(&self.prefix[..]).unwrap_or(key);
        [&self.new_prefix[..], rest].concat()
    }
}
