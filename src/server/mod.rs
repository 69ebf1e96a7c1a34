//! The server: reads what was typed, builds everything in order, runs, and takes it down in reverse.
//!
//! This is the only place where the parts meet. Addresses are bound first, so that a taken port is told
//! before any file is touched; clients are let in last, once the cluster knows this member.

pub mod body;
mod caller;
mod compactor;
pub mod config;
pub mod file;
pub mod flags;
pub mod grpc;
pub mod http;
pub mod hub;
mod leases;
pub mod listener;
pub mod member;
mod monitor;
mod process;
mod signals;
mod tasks;
pub mod url;

use std::ffi::OsString;
use std::fs;
use std::net::ToSocketAddrs;
use std::net::UdpSocket;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use std::time::Instant;

use ::http::Request;
use ::http::Response;
use hyper::body::Incoming;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::error;
use tracing::info;
use tracing::warn;

use self::body::Body;
use self::config::Checked;
use self::config::Config;
use self::flags::Conflict;
use self::flags::Note;
use self::flags::Refusal;
use self::flags::Typed;
use self::grpc::Grpc;
use self::http::Http;
use self::http::Surface;
use self::hub::Hub;
use self::hub::HubTask;
use self::listener::Bound;
use self::listener::Settings;
use self::member::Member;
use self::member::VERSION;
use self::signals::Ending;
use self::signals::Signals;
use self::tasks::Tasks;
use self::url::Url;
use crate::error::Fault;
use crate::error::os_text;
use crate::machine;
use crate::raft;
use crate::raft::Node;
use crate::storage::buffer;
use crate::storage::disk;
use crate::storage::engine;
use crate::util::telemetry;
use crate::util::telemetry::raw;
use crate::util::text;

const OK: u8 = 0;
const REFUSED: u8 = 1;
const MISUSED: u8 = 2;

/// How long peer connections may take to end.
const PEER_DRAIN: Duration = Duration::from_secs(1);
/// How long the member's own tasks may take to end.
const KEEPER_DRAIN: Duration = Duration::from_secs(2);
/// How often a directory in use is tried again, and when that is told.
const LOCK_RETRY: Duration = Duration::from_millis(100);
const LOCK_PATIENCE: Duration = Duration::from_secs(10);
/// A file limit at or below this leaves nothing for connections.
const FEWEST_FILES: u64 = 150;

/// Runs the server with the given command line, the program's name first.
pub fn main(args: Vec<OsString>) -> ExitCode {
    telemetry::init();
    process::use_small_pages();
    report_panics();
    let words = args.iter().skip(1).map(|word| word.to_string_lossy());
    let words: Vec<String> = words.map(|word| word.into_owned()).collect();
    let typed = match flags::parse(&words) {
        Ok(flags::Request::Run(typed)) => typed,
        Ok(flags::Request::Version) => {
            print!("{}", version_text());
            return ExitCode::from(OK);
        }
        Ok(flags::Request::Help) => {
            eprint!("{}", flags::USAGE);
            print!("{}", flags::help());
            return ExitCode::from(OK);
        }
        Err(Refusal::Syntax(message)) => {
            eprint!("{message}\n{}", flags::USAGE);
            return ExitCode::from(MISUSED);
        }
        Err(Refusal::Stray(message)) => {
            log_command_line();
            return refuse(&message);
        }
    };
    match configure(typed) {
        Ok(config) => start(config),
        Err(code) => code,
    }
}

/// What some damage to the storage ends in is a panic of the engine's library: one line names the files.
fn report_panics() {
    let otherwise = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| match engine::describe_panic(panic) {
        Some(reason) => error!("{reason}"),
        None => otherwise(panic),
    }));
}

fn version_text() -> String {
    format!(
        "etcd Version: {VERSION}\nGit SHA: kv-{}\nGo Version: none (Rust)\nGo OS/Arch: {}/amd64\n",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS
    )
}

fn log_command_line() {
    let words: Vec<String> = std::env::args().collect();
    info!(args = ?raw(words), "Running: ");
}

fn refuse(reason: &str) -> ExitCode {
    warn!(error = reason, "failed to verify flags");
    ExitCode::from(REFUSED)
}

/// Completes what was typed from the environment or a file, and checks all of it.
fn configure(typed: Typed) -> Result<Config, ExitCode> {
    let environment: Vec<(String, String)> = std::env::vars_os()
        .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let typed = match config_file(&typed, &environment) {
        Some(path) => from_file(&path)?,
        None => from_environment(typed, &environment)?,
    };
    let logging = match config::logging(&typed) {
        Ok(logging) => logging,
        Err(reason) if reason.starts_with("unrecognized level") => {
            eprintln!("panic: {reason}");
            return Err(ExitCode::from(MISUSED));
        }
        Err(reason) => return Err(refuse_early(&reason)),
    };
    if let Err(error) = telemetry::configure(logging) {
        return Err(refuse_early(&os_text(&error)));
    }
    let checked = Config::check(&typed);
    if let Ok(checked) = &checked {
        for warning in &checked.warnings {
            warn!("{warning}");
        }
    }
    log_command_line();
    match checked {
        Ok(Checked { config, .. }) => Ok(config),
        Err(reason) => Err(refuse(&reason)),
    }
}

fn refuse_early(reason: &str) -> ExitCode {
    log_command_line();
    refuse(reason)
}

fn config_file(typed: &Typed, environment: &[(String, String)]) -> Option<String> {
    let typed = Some(typed.text("config-file")).filter(|path| !path.is_empty());
    let variable = || {
        let found = environment
            .iter()
            .find(|(key, _)| key == "ETCD_CONFIG_FILE");
        found.map(|(_, value)| value.as_str())
    };
    typed
        .or_else(variable)
        .filter(|path| !path.is_empty())
        .map(str::to_string)
}

fn from_file(path: &str) -> Result<Typed, ExitCode> {
    info!(
        path,
        "loaded server configuration, other configuration command line flags and environment variables will be ignored if provided"
    );
    let mut typed = file::load(Path::new(path)).map_err(|reason| refuse_early(&reason))?;
    config::use_default_host(&mut typed, None);
    Ok(typed)
}

fn from_environment(mut typed: Typed, environment: &[(String, String)]) -> Result<Typed, ExitCode> {
    match flags::read_environment(&mut typed, environment) {
        Ok(notes) => notes.into_iter().for_each(note),
        Err(Conflict::Shadowed(name)) => {
            error!(
                target: telemetry::FATAL,
                { "environment-variable" = name },
                "conflicting environment variable is shadowed by corresponding command-line flag (either unset environment variable or disable flag))"
            );
            return Err(ExitCode::from(REFUSED));
        }
        Err(Conflict::Invalid(reason)) => return Err(refuse_early(&reason)),
    }
    config::derive_defaults(&mut typed);
    let host = default_host();
    if config::use_default_host(&mut typed, host.as_deref()) {
        info!(
            host = host.unwrap_or_default(),
            "detected default host for advertise"
        );
    }
    Ok(typed)
}

fn note(note: Note) {
    match note {
        Note::Used { name, value } => info!(
            "variable-name" = name,
            "variable-value" = value,
            "recognized and used environment variable"
        ),
        Note::Unknown(pair) => warn!(
            "environment-variable" = pair,
            "unrecognized environment variable"
        ),
        Note::Unset => warn!(
            "environment-variable" = "ETCD_VERSION",
            "cannot set special environment variable"
        ),
    }
}

/// This machine's own address: the one that it would reach others from. No packet is sent.
fn default_host() -> Option<String> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then(|| address.to_string())
}

/// Runs a configured server on one thread: connections, consensus and apply wake each other for nearly
/// nothing there. The log and the engine have threads of their own.
fn start(config: Config) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start the runtime: {error}")),
    };
    let ended = runtime.block_on(run(config));
    // Storage calls that are still under way have nothing to answer any more.
    runtime.shutdown_timeout(Duration::from_secs(1));
    match ended {
        Ok(ending) => ending.end_process(),
        Err(reason) => fail(&reason),
    }
}

/// Every failure to start is told in etcd's misleading words; the reason is in `error`.
fn fail(reason: &str) -> ExitCode {
    error!(target: telemetry::FATAL, { error = reason }, "discovery failed");
    ExitCode::from(REFUSED)
}

/// Listening sockets, bound and silent.
struct Sockets {
    peer: Vec<Bound>,
    client: Vec<Bound>,
    client_http: Vec<Bound>,
    metrics: Vec<Bound>,
}

impl Sockets {
    fn bind(config: &Config) -> Result<Sockets, String> {
        let (_, files) = process::files();
        if files <= FEWEST_FILES {
            return Err(format!(
                "file descriptor limit[{files}] of etcd process is too low"
            ));
        }
        let bind = |urls: &[Url]| -> Result<Vec<Bound>, String> {
            let bound = urls.iter().map(|url| Bound::bind(url, config));
            bound
                .collect::<std::io::Result<_>>()
                .map_err(|error| error.to_string())
        };
        let urls = |urls: &[Url]| raw(urls.iter().map(Url::to_string).collect::<Vec<_>>());
        info!("listen-peer-urls" = ?urls(&config.listen_peer), "configuring peer listeners");
        let peer = bind(&config.listen_peer)?;
        info!("listen-client-urls" = ?urls(&config.listen_client), "configuring client listeners");
        Ok(Sockets {
            peer,
            client: bind(&config.listen_client)?,
            client_http: bind(&config.listen_client_http)?,
            metrics: bind(&config.listen_metrics)?,
        })
    }
}

/// Waits while another process has the data directory, as etcd does, so that a successor may be started
/// before its predecessor is gone. Unlike etcd it does not wait for ever: after a while the start goes on,
/// and is refused by name.
async fn wait_for_directory(config: &Config) {
    let member = config.data_dir.join("member");
    let start = Instant::now();
    let mut told = false;
    while member.is_dir() && disk::lock_dir(&member).is_err() && start.elapsed() < LOCK_PATIENCE {
        if !told {
            told = true;
            warn!(
                path = %member.display(),
                "patience" = %text::format_duration(LOCK_PATIENCE),
                "the data directory is in use by another process; waiting for it"
            );
        }
        tokio::time::sleep(LOCK_RETRY).await;
    }
}

/// What the data directory holds already.
fn classify(config: &Config) -> bool {
    let dir = config.data_dir.display().to_string();
    if config.data_dir_defaulted {
        warn!("data-dir" = dir, "'data-dir' was empty; using default");
    }
    // What else may be in the way is told when the directory is opened.
    let initialized = config.data_dir.join("member").is_dir();
    if !initialized {
        info!(
            "data-dir" = dir,
            "dir-type" = "empty",
            "Initialize and start etcd server"
        );
    }
    initialized
}

/// Returns true if there is a log, which knows more than any flag.
fn has_log(config: &Config) -> bool {
    let dir = config
        .wal_dir
        .clone()
        .unwrap_or_else(|| config.data_dir.join("member").join("wal"));
    let files = fs::read_dir(dir).into_iter().flatten().flatten();
    files
        .map(|entry| entry.file_name())
        .any(|name| name.to_string_lossy().ends_with(".wal"))
}

fn check_bootstrap(config: &Config) -> Result<(), String> {
    if has_log(config) {
        return Ok(());
    }
    let members = config.bootstrap_members(&resolve)?;
    if members.len() > 1 {
        return Err("clusters of more than one member are not supported yet".to_string());
    }
    if config.existing {
        return Err("joining an existing cluster is not supported yet".to_string());
    }
    Ok(())
}

fn resolve(host: &str) -> Option<String> {
    let mut addresses = (host, 0).to_socket_addrs().ok()?;
    addresses.next().map(|address| address.ip().to_string())
}

fn raft_options(config: &Config) -> Result<raft::Options, String> {
    let engine = config.storage_engine.parse();
    Ok(raft::Options {
        data_dir: config.data_dir.clone(),
        wal_dir: config.wal_dir.clone(),
        warn_apply: config.warn_apply,
        initial: raft::Initial {
            name: config.name.clone(),
            cluster: config.initial_cluster.clone(),
            token: config.token.clone(),
            state: raft::InitialState::New,
            advertise_peer_urls: config.advertise_peer.iter().map(Url::to_string).collect(),
        },
        engine: engine
            .map_err(|_| format!("unknown storage engine {:?}", config.storage_engine))?,
        timing: raft::Timing {
            heartbeat: config.heartbeat,
            election: config.election,
            pre_vote: config.pre_vote,
        },
        snapshot_count: config.snapshot_count,
        snapshot_catchup_entries: config.catchup_entries,
        max_request_bytes: config.max_request_bytes,
        machine: machine::Options {
            cache_bytes: config.cache_bytes,
            quota_bytes: config.quota,
        },
        tables: buffer::Options {
            interval: config.batch_interval,
            ..buffer::Options::default()
        },
        no_sync: config.unsafe_no_fsync,
        checkpoint_records: config.checkpoint_records,
        ..raft::Options::default()
    })
}

/// A member with everything that runs for it.
struct Running {
    member: Arc<Member>,
    /// Serve clients; end first.
    clients: Tasks,
    /// Work for the member; end when the clients are gone.
    keepers: Tasks,
    keepers_stop: CancellationToken,
    /// Serve peers; end last.
    peers: Tasks,
    peers_stop: CancellationToken,
    peer_addresses: Vec<String>,
}

async fn run(config: Config) -> Result<Ending, String> {
    let mut signals = Signals::new().map_err(|error| error.to_string())?;
    let initialized = classify(&config);
    let sockets = Sockets::bind(&config)?;
    check_bootstrap(&config)?;
    monitor::log_start(&config, initialized);
    let Sockets {
        peer,
        client,
        client_http,
        metrics,
    } = sockets;
    let options = raft_options(&config)?;
    let environment = raft::Environment::real(Arc::new(raft::Alone));
    // Whatever the start waits for, a signal ends it.
    let started = async {
        wait_for_directory(&config).await;
        Node::start(options, environment).await
    };
    let node = tokio::select! {
        node = started => node.map_err(|fault| fault.to_string())?,
        ending = signals.next() => {
            info!(signal = ending.name(), "received signal; shutting down");
            return Ok(ending);
        }
    };
    let mut running = Running::new(config, node, peer, metrics);
    let ending = tokio::select! {
        ending = signals.next() => Ok(ending),
        failed = running.prepare() => Err(failed),
    };
    let ending = match ending {
        Ok(ending) => Ok(ending),
        Err(None) => {
            running.let_clients_in(client, client_http);
            tokio::select! {
                ending = signals.next() => Ok(ending),
                failed = running.failed() => Err(failed),
            }
        }
        Err(Some(failed)) => Err(failed),
    };
    if let Ok(ending) = ending {
        info!(signal = ending.name(), "received signal; shutting down");
    }
    tokio::select! {
        () = running.stop() => ending,
        // A second signal does not wait for anybody.
        again = signals.next() => Ok(again),
    }
}

impl Running {
    /// Starts what needs no quorum: the member's own tasks, the peer and the metrics listeners.
    fn new(config: Config, node: Node, peer: Vec<Bound>, metrics: Vec<Bound>) -> Running {
        let (reclaimed, finished) = watch::channel(node.machine().store.compaction_finished());
        let (hub, hub_task) = Hub::new(&node, config.max_receive_bytes());
        let pause = if config.typed.is_explicit("compaction-sleep-interval") {
            config.compaction_pause
        } else {
            Duration::ZERO
        };
        let member = Arc::new(Member {
            config,
            node: node.clone(),
            hub,
            stop: CancellationToken::new(),
            streams: TaskTracker::new(),
            allocated: AtomicU64::new(0),
            reclaimed: finished,
        });
        let mut running = Running {
            member,
            clients: Tasks::default(),
            keepers: Tasks::default(),
            keepers_stop: CancellationToken::new(),
            peers: Tasks::default(),
            peers_stop: CancellationToken::new(),
            peer_addresses: peer.iter().map(|bound| bound.address.clone()).collect(),
        };
        monitor::describe(&running.member);
        let hashes = running.member.config.gate("CompactHashCheck");
        running.start_keepers(hub_task);
        let stop = running.keepers_stop.clone();
        let reclaim = compactor::reclaim(node, pause, hashes, reclaimed, stop);
        running.keepers.spawn("reclaim", reclaim);
        running.serve_peers(peer);
        running.serve_metrics(metrics);
        running
    }

    fn start_keepers(&mut self, hub: HubTask) {
        let (member, stop) = (&self.member, &self.keepers_stop);
        self.keepers.spawn("hub", hub.run(stop.clone()));
        let leases = leases::run(member.clone(), stop.clone());
        let compactor = compactor::run(member.clone(), stop.clone());
        let files = monitor::watch_files(stop.clone());
        self.keepers.spawn("leases", endless(leases));
        self.keepers.spawn("compactor", endless(compactor));
        self.keepers.spawn("files", endless(files));
    }

    fn settings(&self, http1: bool, http2: bool) -> Settings {
        let config = &self.member.config;
        Settings {
            max_concurrent_streams: config.max_concurrent_streams,
            keepalive_interval: config.keepalive_interval,
            keepalive_timeout: config.keepalive_timeout,
            http1,
            http2,
        }
    }

    fn serve_peers(&mut self, peer: Vec<Bound>) {
        let service = Arc::new(Http::new(self.member.clone(), Surface::Peer));
        for bound in peer {
            info!(address = bound.address, "serving peer traffic");
            let serve = listener::serve(
                bound,
                service.clone(),
                self.settings(true, false),
                self.peers_stop.clone(),
            );
            self.peers.spawn("peer listener", io_task(serve));
        }
    }

    fn serve_metrics(&mut self, metrics: Vec<Bound>) {
        let service = Arc::new(Http::new(self.member.clone(), Surface::Metrics));
        for bound in metrics {
            info!(address = bound.address, "serving metrics");
            let serve = listener::serve(
                bound,
                service.clone(),
                self.settings(true, true),
                self.member.stop.clone(),
            );
            self.clients.spawn("metrics listener", io_task(serve));
        }
    }

    /// Waits until the cluster knows this member. Returns early with the reason if a task fails.
    async fn prepare(&mut self) -> Option<String> {
        let member = self.member.clone();
        let ready = async {
            monitor::defragment_at_start(&member).await;
            monitor::publish(&member).await;
        };
        tokio::select! {
            () = ready => None,
            failed = failure(&mut self.clients, &mut self.keepers, &mut self.peers) => Some(failed),
        }
    }

    async fn failed(&mut self) -> String {
        failure(&mut self.clients, &mut self.keepers, &mut self.peers).await
    }

    fn let_clients_in(&mut self, client: Vec<Bound>, client_http: Vec<Bound>) {
        let front = |grpc: bool, http: bool| {
            let member = &self.member;
            Arc::new(Front {
                grpc: grpc.then(|| Grpc::new(member.clone())),
                http: http.then(|| Http::new(member.clone(), Surface::Client)),
            })
        };
        let split = !client_http.is_empty();
        let listeners = [
            (client, front(true, !split), "grpc+http", !split, true),
            (client_http, front(false, true), "http", true, true),
        ];
        for (bound, front, traffic, http1, http2) in listeners {
            for bound in bound {
                let traffic = if split && traffic == "grpc+http" {
                    "grpc"
                } else {
                    traffic
                };
                info!("ready to serve client requests");
                info!(
                    traffic,
                    address = bound.address,
                    "serving client traffic insecurely; this is strongly discouraged!"
                );
                let serve = listener::serve(
                    bound,
                    front.clone(),
                    self.settings(http1, http2),
                    self.member.stop.clone(),
                );
                self.clients.spawn("client listener", io_task(serve));
            }
        }
        notify_init();
    }

    /// Lets clients go, then stops the member's tasks, then the member, then its peers.
    async fn stop(self) {
        let (config, node) = (&self.member.config, &self.member.node);
        let about = || {
            let urls = |urls: &[Url]| raw(urls.iter().map(Url::to_string).collect::<Vec<_>>());
            (
                config.data_dir.display().to_string(),
                urls(&config.advertise_peer),
                urls(&config.advertise_client),
            )
        };
        let (dir, peer_urls, client_urls) = about();
        info!(
            name = config.name,
            "data-dir" = dir,
            "advertise-peer-urls" = ?peer_urls,
            "advertise-client-urls" = ?client_urls,
            "closing etcd server"
        );
        self.member.stop.cancel();
        self.clients.finish(config.request_timeout()).await;
        self.member.streams.close();
        let id = format!("{:x}", self.member.identity().member_id);
        info!(
            "local-member-id" = id,
            "current-leader-member-id" = id,
            "skipped leadership transfer for single voting member cluster"
        );
        self.keepers_stop.cancel();
        self.keepers.finish(KEEPER_DRAIN).await;
        node.shutdown().await;
        for address in &self.peer_addresses {
            info!(address, "stopping serving peer traffic");
        }
        self.peers_stop.cancel();
        self.peers.finish(PEER_DRAIN).await;
        for address in &self.peer_addresses {
            info!(address, "stopped serving peer traffic");
        }
        info!(
            name = config.name,
            "data-dir" = dir,
            "advertise-peer-urls" = ?peer_urls,
            "advertise-client-urls" = ?client_urls,
            "closed etcd server"
        );
    }
}

async fn failure(clients: &mut Tasks, keepers: &mut Tasks, peers: &mut Tasks) -> String {
    let (name, fault) = tokio::select! {
        failed = clients.failed() => failed,
        failed = keepers.failed() => failed,
        failed = peers.failed() => failed,
    };
    error!(task = name, error = %fault, "a task of the server failed");
    fault.to_string()
}

/// A task that cannot fail.
async fn endless(task: impl Future<Output = ()>) -> Result<(), Fault> {
    task.await;
    Ok(())
}

async fn io_task(task: impl Future<Output = std::io::Result<()>>) -> Result<(), Fault> {
    let failed = |error| Fault::Refused(format!("listener failed: {error}"));
    task.await.map_err(failed)
}

/// What answers on a client address.
struct Front {
    grpc: Option<Grpc>,
    http: Option<Http>,
}

impl listener::Service for Front {
    async fn call(&self, request: Request<Incoming>, remote: Arc<str>) -> Response<Body> {
        let grpc = request.version() == ::http::Version::HTTP_2;
        match (&self.grpc, &self.http) {
            (Some(service), _) if grpc => service.call(request, remote).await,
            // Boxed, so that a gRPC call does not carry the room for it.
            (_, Some(service)) => Box::pin(service.answer(request)).await,
            _ => {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = ::http::StatusCode::UNSUPPORTED_MEDIA_TYPE;
                response
            }
        }
    }
}

/// Tells systemd that the server is up.
fn notify_init() {
    info!("notifying init daemon");
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        info!("successfully notified init daemon");
        return;
    };
    let path = path.to_string_lossy();
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(path.as_ref()),
    };
    let sent = UnixDatagram::unbound()
        .and_then(|socket| socket.send_to_addr(b"READY=1", &address?).map(|_| ()));
    match sent {
        Ok(()) => info!("successfully notified init daemon"),
        Err(error) => error!(error = %error, "failed to notify systemd for readiness"),
    }
}
