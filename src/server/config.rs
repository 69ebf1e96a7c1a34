//! What will run: the checked, typed form of the flags, and every complaint about them in etcd's words.
//!
//! [`Config::check`] is the one conversion. It is pure: what depends on the network (names that must
//! resolve alike, the machine's own address) comes in as an argument or is a method of its own.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::flags::GATES;
use super::flags::Typed;
use super::flags::Value;
use super::url::Url;
use crate::storage::buffer;
use crate::util::telemetry;
use crate::util::text;

const DEFAULT_NAME: &str = "default";
const DEFAULT_PEER_URL: &str = "http://localhost:2380";
const DEFAULT_CLIENT_URL: &str = "http://localhost:2379";
const DEFAULT_QUOTA: i64 = 2 << 30;
const MAX_QUOTA: i64 = 8 << 30;
/// What gRPC messages may have beyond a request's own limit.
pub const GRPC_OVERHEAD: usize = 512 << 10;
const RECOMMENDED_MAX_REQUEST: u64 = 10 << 20;

/// What automatic compaction keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    Nothing,
    Period(Duration),
    Revisions(i64),
}

/// Everything a server needs to know, checked.
#[derive(Clone, Debug)]
pub struct Config {
    pub name: String,
    pub data_dir: PathBuf,
    /// The user left the data directory to us.
    pub data_dir_defaulted: bool,
    pub wal_dir: Option<PathBuf>,
    pub listen_peer: Vec<Url>,
    pub listen_client: Vec<Url>,
    /// Not empty: HTTP lives here and `listen_client` are for gRPC alone.
    pub listen_client_http: Vec<Url>,
    pub listen_metrics: Vec<Url>,
    pub advertise_peer: Vec<Url>,
    pub advertise_client: Vec<Url>,
    pub initial_cluster: String,
    pub existing: bool,
    pub token: String,
    pub heartbeat: Duration,
    pub election: Duration,
    pub pre_vote: bool,
    pub snapshot_count: u64,
    pub catchup_entries: u64,
    pub max_wals: u64,
    /// As given: 0 is the default, negative is no limit.
    pub quota: i64,
    pub batch_interval: Duration,
    pub max_txn_ops: usize,
    pub max_request_bytes: usize,
    pub max_concurrent_streams: u32,
    pub keepalive_interval: Duration,
    pub keepalive_timeout: Duration,
    pub reuse_port: bool,
    pub reuse_address: bool,
    pub retention: Retention,
    pub compaction_batch: usize,
    pub compaction_pause: Duration,
    pub progress_interval: Duration,
    pub warn_unary: Duration,
    pub warn_apply: Duration,
    pub defrag_threshold: u64,
    pub gates: BTreeMap<&'static str, bool>,
    pub extensive_metrics: bool,
    pub cors: Vec<String>,
    pub host_whitelist: Vec<String>,
    pub unsafe_no_fsync: bool,
    pub storage_engine: String,
    pub cache_bytes: usize,
    pub checkpoint_records: u64,
    /// What was typed, for the line that tells how the server starts.
    pub typed: Typed,
}

/// A checked configuration, and what an operator should hear about it.
pub struct Checked {
    pub config: Config,
    pub warnings: Vec<String>,
}

/// How to log; read before anything else, since everything else is logged.
pub fn logging(typed: &Typed) -> Result<telemetry::Options, String> {
    match typed.text("logger") {
        "zap" => {}
        "capnslog" => return Err("--logger=capnslog is removed in v3.5".into()),
        other => return Err(format!("unknown logger option {other:?}")),
    }
    let outputs = typed.list("log-outputs").to_vec();
    if outputs.is_empty() {
        return Err("cannot find any log output".into());
    }
    if outputs.len() > 1 && outputs.iter().any(|name| name == "default") {
        return Err(r#"multi logoutput for "default" is not supported yet"#.into());
    }
    let format = match typed.text("log-format") {
        "json" => telemetry::Format::Json,
        "console" => telemetry::Format::Console,
        other => {
            return Err(format!(
                "unknown log format: {other}, supported values json, console"
            ));
        }
    };
    let level = typed.text("log-level");
    let level = telemetry::Level::parse(level).ok_or(format!("unrecognized level: {level:?}"))?;
    Ok(telemetry::Options {
        level,
        format,
        outputs,
    })
}

/// Completes defaults that follow from other flags. Only for the command line: a file speaks for itself.
pub fn derive_defaults(typed: &mut Typed) {
    if typed.is_explicit("listen-client-urls") && !typed.is_explicit("advertise-client-urls") {
        typed.replace("advertise-client-urls", Value::Urls(Vec::new()));
    }
    let discovery = ["discovery-srv", "discovery-srv-name", "discovery-endpoints"];
    if discovery.iter().any(|name| typed.is_explicit(name)) && !typed.is_explicit("initial-cluster")
    {
        typed.replace("initial-cluster", Value::Text(String::new()));
    }
}

/// Replaces the default advertised addresses of a server that listens everywhere by `host`, this
/// machine's own address, and names the default cluster after the member.
pub fn use_default_host(typed: &mut Typed, host: Option<&str>) -> bool {
    let mut used = false;
    let pairs = [
        (
            "listen-peer-urls",
            "initial-advertise-peer-urls",
            DEFAULT_PEER_URL,
        ),
        (
            "listen-client-urls",
            "advertise-client-urls",
            DEFAULT_CLIENT_URL,
        ),
    ];
    for (listen, advertise, default) in pairs {
        let everywhere = typed
            .urls(listen)
            .first()
            .filter(|url| url.host() == "0.0.0.0");
        let untouched = matches!(typed.urls(advertise), [url] if url.to_string() == default);
        if let (Some(host), Some(url), true) = (host, everywhere, untouched) {
            let url = Url::parse(&format!("http://{host}:{}", url.port()));
            typed.replace(advertise, Value::Urls(url.into_iter().collect()));
            used = true;
        }
    }
    let default_cluster = format!("{DEFAULT_NAME}={DEFAULT_PEER_URL}");
    let name = typed.text("name");
    if name != DEFAULT_NAME && typed.text("initial-cluster") == default_cluster {
        let parts: Vec<String> = typed
            .urls("initial-advertise-peer-urls")
            .iter()
            .map(|url| format!("{name}={url}"))
            .collect();
        typed.replace("initial-cluster", Value::Text(parts.join(",")));
    }
    used
}

impl Config {
    /// Checks everything that was typed, in etcd's order; the first thing wrong is the error.
    pub fn check(typed: &Typed) -> Result<Checked, String> {
        let mut warnings = Vec::new();
        check_addresses(typed)?;
        if typed.urls("listen-client-http-urls").is_empty() {
            warnings.push(
                "Running http and grpc server on single port. This is not recommended for production."
                    .to_string(),
            );
        }
        check_bootstrap_flags(typed)?;
        check_timing(typed)?;
        if typed.urls("advertise-client-urls").is_empty() {
            return Err(
                "--advertise-client-urls is required when --listen-client-urls is set explicitly"
                    .into(),
            );
        }
        let retention = retention(typed)?;
        let gates = gates(typed)?;
        if typed.duration("compact-hash-check-time") <= 0 {
            let given = duration(typed, "compact-hash-check-time");
            return Err(format!(
                "--compact-hash-check-time must be >0 (set to {})",
                text::format_duration(given)
            ));
        }
        check_unsupported(typed)?;
        warn_about(typed, &mut warnings);
        Ok(Checked {
            config: Config::convert(typed, retention, gates),
            warnings,
        })
    }

    fn convert(typed: &Typed, retention: Retention, gates: BTreeMap<&'static str, bool>) -> Config {
        let name = typed.text("name").to_string();
        let data_dir = typed.text("data-dir");
        let at_least = |name: &str, floor: Duration, default: Duration| match duration(typed, name)
        {
            Duration::ZERO => default,
            given => given.max(floor),
        };
        let or_default = |name: &str, default: u64| match typed.uint(name) {
            0 => default,
            given => given,
        };
        let limit = |name: &str, default: usize| {
            usize::try_from(typed.int(name))
                .ok()
                .filter(|given| *given > 0)
                .unwrap_or(default)
        };
        let size = |name: &str| usize::try_from(typed.uint(name)).unwrap_or(usize::MAX >> 1);
        Config {
            data_dir: match data_dir {
                "" => PathBuf::from(format!("{name}.etcd")),
                given => PathBuf::from(given),
            },
            data_dir_defaulted: data_dir.is_empty(),
            name,
            wal_dir: Some(typed.text("wal-dir"))
                .filter(|dir| !dir.is_empty())
                .map(PathBuf::from),
            listen_peer: typed.urls("listen-peer-urls").to_vec(),
            listen_client: typed.urls("listen-client-urls").to_vec(),
            listen_client_http: typed.urls("listen-client-http-urls").to_vec(),
            listen_metrics: typed.urls("listen-metrics-urls").to_vec(),
            advertise_peer: typed.urls("initial-advertise-peer-urls").to_vec(),
            advertise_client: typed.urls("advertise-client-urls").to_vec(),
            initial_cluster: typed.text("initial-cluster").to_string(),
            existing: typed.text("initial-cluster-state") == "existing",
            token: typed.text("initial-cluster-token").to_string(),
            heartbeat: Duration::from_millis(typed.uint("heartbeat-interval")),
            election: Duration::from_millis(typed.uint("election-timeout")),
            pre_vote: typed.bool("pre-vote"),
            snapshot_count: or_default("snapshot-count", 10_000),
            catchup_entries: or_default("snapshot-catchup-entries", 5_000),
            max_wals: typed.uint("max-wals"),
            quota: typed.int("quota-backend-bytes"),
            batch_interval: at_least(
                "backend-batch-interval",
                Duration::from_millis(1),
                buffer::Options::default().interval,
            ),
            max_txn_ops: size("max-txn-ops"),
            max_request_bytes: size("max-request-bytes"),
            max_concurrent_streams: u32::try_from(typed.uint("max-concurrent-streams"))
                .unwrap_or(u32::MAX),
            keepalive_interval: duration(typed, "grpc-keepalive-interval"),
            keepalive_timeout: duration(typed, "grpc-keepalive-timeout"),
            reuse_port: typed.bool("socket-reuse-port"),
            reuse_address: typed.bool("socket-reuse-address"),
            retention,
            compaction_batch: limit("compaction-batch-limit", 1_000),
            compaction_pause: at_least(
                "compaction-sleep-interval",
                Duration::ZERO,
                Duration::from_millis(10),
            ),
            progress_interval: at_least(
                "watch-progress-notify-interval",
                Duration::from_millis(100),
                Duration::from_secs(600),
            ),
            warn_unary: at_least(
                "warning-unary-request-duration",
                Duration::ZERO,
                Duration::from_millis(300),
            ),
            warn_apply: duration(typed, "warning-apply-duration"),
            defrag_threshold: typed.uint("bootstrap-defrag-threshold-megabytes") << 20,
            gates,
            extensive_metrics: typed.text("metrics") == "extensive",
            cors: typed.list("cors").to_vec(),
            host_whitelist: typed.list("host-whitelist").to_vec(),
            unsafe_no_fsync: typed.bool("unsafe-no-fsync"),
            storage_engine: typed.text("storage-engine").to_string(),
            cache_bytes: size("value-cache-bytes"),
            checkpoint_records: typed.uint("index-checkpoint-records").max(1),
            typed: typed.clone(),
        }
    }

    /// How long a request may wait for the cluster.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(5) + 2 * self.election
    }

    /// The quota in force: the default for 0, a negative number for none.
    pub fn effective_quota(&self) -> i64 {
        if self.quota == 0 {
            DEFAULT_QUOTA
        } else {
            self.quota
        }
    }

    /// Shortest time to live of a lease, in seconds: one and a half election time-outs, rounded up.
    pub fn min_lease_ttl(&self) -> i64 {
        let heartbeat = self.heartbeat.as_millis() as i64;
        let ticks = self.election.as_millis() as i64 / heartbeat;
        let millis = 3 * ticks / 2 * heartbeat;
        millis.div_euclid(1000) + i64::from(millis % 1000 > 0)
    }

    /// Largest message taken from a client.
    pub fn max_receive_bytes(&self) -> usize {
        self.max_request_bytes.saturating_add(GRPC_OVERHEAD)
    }

    pub fn gate(&self, name: &str) -> bool {
        self.gates.get(name).copied().unwrap_or(false)
    }

    /// The members of the new cluster by name, and this member's part checked against its addresses.
    ///
    /// `resolve` turns a host into the address it stands for, so that two spellings can be equal.
    pub fn bootstrap_members(
        &self,
        resolve: &dyn Fn(&str) -> Option<String>,
    ) -> Result<BTreeMap<String, Vec<Url>>, String> {
        let members = parse_cluster(&self.initial_cluster)?;
        let Some(own) = members.get(&self.name) else {
            return Err(format!(
                "couldn't find local name {:?} in the initial cluster configuration",
                self.name
            ));
        };
        let mut all: Vec<&Url> = members.values().flatten().collect();
        all.sort();
        if all.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(format!(
                "initial cluster {} has duplicate url",
                canonical(&members)
            ));
        }
        if !self.existing {
            self.check_own_urls(own, &members, resolve)?;
        }
        Ok(members)
    }

    fn check_own_urls(
        &self,
        own: &[Url],
        members: &BTreeMap<String, Vec<Url>>,
        resolve: &dyn Fn(&str) -> Option<String>,
    ) -> Result<(), String> {
        let resolved = |urls: &[Url]| -> Vec<String> {
            let mut all: Vec<String> = urls.iter().map(|url| resolved(url, resolve)).collect();
            all.sort();
            all
        };
        let (advertised, listed) = (resolved(&self.advertise_peer), resolved(own));
        if advertised == listed {
            return Ok(());
        }
        let reason = advertised
            .iter()
            .zip(&listed)
            .find(|(left, right)| left != right)
            .filter(|_| advertised.len() == listed.len())
            .map_or_else(
                || format!("len({advertised:?}) != len({listed:?})").replace("\", \"", "\" \""),
                |(left, right)| format!("resolved urls: {left:?} != {right:?}"),
            );
        let join = |urls: &[Url]| -> String {
            urls.iter()
                .map(Url::to_string)
                .collect::<Vec<_>>()
                .join(",")
        };
        let missing: Vec<String> = own
            .iter()
            .filter(|url| !self.advertise_peer.contains(url))
            .map(|url| format!("{}={url}", self.name))
            .collect();
        if !missing.is_empty() {
            return Err(format!(
                "--initial-cluster has {} but missing from --initial-advertise-peer-urls={} ({reason})",
                missing.join(","),
                join(&self.advertise_peer)
            ));
        }
        let extra: Vec<Url> = self
            .advertise_peer
            .iter()
            .filter(|url| !own.contains(url))
            .cloned()
            .collect();
        Err(format!(
            "--initial-advertise-peer-urls has {} but missing from --initial-cluster={} ({reason})",
            join(&extra),
            canonical(members)
        ))
    }
}

/// An address with its host name resolved; `localhost`, numbers and sockets stay as they are.
fn resolved(url: &Url, resolve: &dyn Fn(&str) -> Option<String>) -> String {
    if url.can_be_bound() {
        return url.to_string();
    }
    match resolve(url.host()) {
        Some(address) => url.to_string().replacen(url.host(), &address, 1),
        None => url.to_string(),
    }
}

/// Reads `name=url[,name=url…]`; a repeated name collects addresses.
fn parse_cluster(text: &str) -> Result<BTreeMap<String, Vec<Url>>, String> {
    let mut members: BTreeMap<String, Vec<Url>> = BTreeMap::new();
    for item in text
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
    {
        let (name, url) = item.split_once('=').unwrap_or((item, ""));
        if url.is_empty() {
            return Err(format!("empty URL given for {name:?}"));
        }
        members
            .entry(name.to_string())
            .or_default()
            .push(Url::parse(url)?);
    }
    for urls in members.values_mut() {
        urls.sort();
    }
    Ok(members)
}

fn canonical(members: &BTreeMap<String, Vec<Url>>) -> String {
    let mut pairs: Vec<String> = members
        .iter()
        .flat_map(|(name, urls)| urls.iter().map(move |url| format!("{name}={url}")))
        .collect();
    pairs.sort();
    pairs.join(",")
}

fn duration(typed: &Typed, name: &str) -> Duration {
    Duration::from_nanos(u64::try_from(typed.duration(name)).unwrap_or(0))
}

fn check_addresses(typed: &Typed) -> Result<(), String> {
    let listening = [
        "listen-peer-urls",
        "listen-client-urls",
        "listen-client-http-urls",
        "listen-metrics-urls",
    ];
    for url in listening.iter().flat_map(|name| typed.urls(name)) {
        if !url.can_be_bound() {
            return Err(format!("expected IP in URL for binding ({url})"));
        }
    }
    let hostless = |name: &str| typed.urls(name).iter().find(|url| url.host().is_empty());
    if let Some(url) = hostless("initial-advertise-peer-urls") {
        return Err(format!(
            r#"--initial-advertise-peer-urls "{url}" must be "host:port" (unexpected empty host ({url}))"#
        ));
    }
    let unreachable = |url: &&Url| url.host().is_empty() && !url.is_unix();
    if let Some(url) = typed.urls("advertise-client-urls").iter().find(unreachable) {
        return Err(format!(
            r#"--advertise-client-urls "{url}" must be in the format "host:port", "unix:/path/to/socket" or "unixs:/path/to/socket" (unexpected empty host ({url}))"#
        ));
    }
    let both = typed
        .urls("listen-client-http-urls")
        .iter()
        .find(|url| typed.urls("listen-client-urls").contains(url));
    if let Some(url) = both {
        return Err(format!(
            "cannot bind both --listen-client-urls and --listen-client-http-urls on the same url {url}"
        ));
    }
    Ok(())
}

fn check_bootstrap_flags(typed: &Typed) -> Result<(), String> {
    let state = typed.text("initial-cluster-state");
    if !matches!(state, "new" | "existing") {
        return Err(format!("unexpected clusterState {state:?}"));
    }
    let (endpoints, token) = (
        typed.list("discovery-endpoints"),
        typed.text("discovery-token"),
    );
    let sources = [
        !typed.text("initial-cluster").is_empty() && typed.is_explicit("initial-cluster"),
        !typed.text("discovery-srv").is_empty(),
        !endpoints.is_empty(),
    ];
    if sources.iter().filter(|given| **given).count() > 1 {
        return Err("multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \"discovery-endpoints\" or \"discovery-srv\"".into());
    }
    if endpoints.is_empty() != token.is_empty() {
        return Err("both --discovery-token and --discovery-endpoints must be set".into());
    }
    if endpoints.iter().any(String::is_empty) {
        return Err("--discovery-endpoints must not contain empty endpoints".into());
    }
    if typed.text("discovery-fallback") == "proxy" {
        return Err("v2 proxy is not supported; use --discovery-fallback=exit".into());
    }
    Ok(())
}

fn check_timing(typed: &Typed) -> Result<(), String> {
    let heartbeat = typed.uint("heartbeat-interval");
    let election = typed.uint("election-timeout");
    if heartbeat == 0 {
        return Err("--heartbeat-interval must be >0 (set to 0ms)".into());
    }
    if election == 0 {
        return Err("--election-timeout must be >0 (set to 0ms)".into());
    }
    if heartbeat.saturating_mul(5) > election {
        return Err(format!(
            "--election-timeout[{election}ms] should be at least as 5 times as --heartbeat-interval[{heartbeat}ms]"
        ));
    }
    if election > 50_000 {
        return Err(format!(
            "--election-timeout[{election}ms] is too long, and should be set less than 50000ms"
        ));
    }
    Ok(())
}

/// Reads `--auto-compaction-retention` by the rules of its mode.
fn retention(typed: &Typed) -> Result<Retention, String> {
    let given = typed.text("auto-compaction-retention");
    let periodic = match typed.text("auto-compaction-mode") {
        "periodic" => true,
        "revision" => false,
        "" => return Err("undefined auto-compaction-mode".into()),
        other => return Err(format!("unknown auto-compaction-mode {other:?}")),
    };
    if given.is_empty() {
        return Ok(Retention::Nothing);
    }
    let refuse = |what: &str| {
        Err(format!(
            "error parsing CompactionRetention: time: {what} {given:?}"
        ))
    };
    let nanos = match given.parse::<i64>() {
        Ok(number) if number >= 0 && periodic => number.saturating_mul(3_600_000_000_000),
        Ok(number) if number >= 0 => number,
        Ok(_) => return refuse("missing unit in duration"),
        // In revision mode a duration counts as that many nanoseconds, one each for a revision.
        Err(_) => match text::parse_duration_ns(given) {
            Some(nanos) => nanos,
            None => return refuse("invalid duration"),
        },
    };
    if nanos < 0 {
        return refuse("negative duration");
    }
    Ok(match nanos {
        0 => Retention::Nothing,
        nanos if periodic => Retention::Period(Duration::from_nanos(nanos as u64)),
        revisions => Retention::Revisions(revisions),
    })
}

/// Which feature gates are on.
fn gates(typed: &Typed) -> Result<BTreeMap<&'static str, bool>, String> {
    let mut gates: BTreeMap<&'static str, bool> =
        GATES.iter().map(|(name, _, on)| (*name, *on)).collect();
    let given: Vec<(&str, bool)> = typed
        .list("feature-gates")
        .iter()
        .filter_map(|gate| gate.split_once('='))
        .map(|(name, on)| (name, on == "true"))
        .collect();
    for (all, stage) in [("AllAlpha", "ALPHA"), ("AllBeta", "BETA")] {
        if let Some((_, on)) = given.iter().rev().find(|(name, _)| *name == all) {
            let staged = GATES.iter().filter(|(_, of, _)| *of == stage);
            gates.extend(staged.map(|(name, ..)| (*name, *on)));
        }
    }
    for (name, on) in given {
        if let Some((gate, ..)) = GATES.iter().find(|(gate, ..)| *gate == name) {
            gates.insert(gate, on);
        }
    }
    if gates["LeaseCheckpointPersist"] && !gates["LeaseCheckpoint"] {
        return Err(
            "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint"
                .into(),
        );
    }
    Ok(gates)
}

fn check_unsupported(typed: &Typed) -> Result<(), String> {
    if let Some(flag) = typed.unsupported().next() {
        return Err(format!("--{} is not supported yet", flag.name));
    }
    let secure = |name: &str| typed.urls(name).iter().find(|url| url.is_secure());
    for name in ["listen-client-urls", "listen-client-http-urls"] {
        if let Some(url) = secure(name) {
            return Err(format!(
                "TLS key/cert (--cert-file, --key-file) must be provided for client url {url} with HTTPS scheme"
            ));
        }
    }
    if let Some(url) = secure("listen-peer-urls") {
        return Err(format!(
            "TLS key/cert (--peer-cert-file, --peer-key-file) must be provided for peer url {url} with HTTPS scheme"
        ));
    }
    if secure("listen-metrics-urls").is_some() {
        return Err(
            "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url"
                .into(),
        );
    }
    Ok(())
}

fn warn_about(typed: &Typed, warnings: &mut Vec<String>) {
    if typed.text("name") == DEFAULT_NAME {
        warnings.push("it isn't recommended to use default name, please set a value for --name. Note that etcd might run into issue when multiple members have the same default name".into());
    }
    if typed.is_explicit("max-snapshots") {
        warnings
            .push("--max-snapshots is deprecated in 3.6 and will be decommissioned in 3.8.".into());
    }
    if typed.is_explicit("v2-deprecation") {
        warnings.push("--v2-deprecation is deprecated and scheduled for removal in v3.8. The default value is enforced, ignoring user input.".into());
    }
    if typed.int("quota-backend-bytes") > MAX_QUOTA {
        warnings.push("quota exceeds the maximum value".into());
    }
    if typed.uint("max-request-bytes") > RECOMMENDED_MAX_REQUEST {
        warnings.push("exceeded recommended request limit".into());
    }
    if typed.bool("unsafe-no-fsync") {
        warnings.push(
            "running with --unsafe-no-fsync: data is lost when the machine loses power".into(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::flags;
    use super::*;

    fn typed(line: &str) -> Typed {
        let words: Vec<String> = line.split_whitespace().map(str::to_string).collect();
        match flags::parse(&words) {
            Ok(flags::Request::Run(mut typed)) => {
                derive_defaults(&mut typed);
                use_default_host(&mut typed, Some("10.0.0.7"));
                typed
            }
            other => panic!("{line}: {other:?}"),
        }
    }

    fn config(line: &str) -> Config {
        match Config::check(&typed(line)) {
            Ok(checked) => checked.config,
            Err(error) => panic!("{line}: {error}"),
        }
    }

    fn refusal(line: &str) -> String {
        Config::check(&typed(line)).err().unwrap_or_default()
    }

    #[test]
    fn combinations_are_refused_in_the_words_of_etcd() {
        let cases = [
            (
                "--heartbeat-interval=0",
                "--heartbeat-interval must be >0 (set to 0ms)",
            ),
            (
                "--election-timeout=0",
                "--election-timeout must be >0 (set to 0ms)",
            ),
            (
                "--election-timeout=100",
                "--election-timeout[100ms] should be at least as 5 times as --heartbeat-interval[100ms]",
            ),
            (
                "--election-timeout=60000",
                "--election-timeout[60000ms] is too long, and should be set less than 50000ms",
            ),
            (
                "--listen-client-urls=http://127.0.0.1:1",
                "--advertise-client-urls is required when --listen-client-urls is set explicitly",
            ),
            (
                "--listen-client-urls=http://example.com:1 --advertise-client-urls=http://127.0.0.1:1",
                "expected IP in URL for binding (http://example.com:1)",
            ),
            (
                "--initial-cluster a=http://127.0.0.1:1 --discovery-srv example.invalid",
                "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \"discovery-endpoints\" or \"discovery-srv\"",
            ),
            (
                "--discovery-token abc",
                "both --discovery-token and --discovery-endpoints must be set",
            ),
            ("--auto-compaction-mode=", "undefined auto-compaction-mode"),
            (
                "--auto-compaction-mode=x",
                "unknown auto-compaction-mode \"x\"",
            ),
            (
                "--auto-compaction-retention=soon",
                "error parsing CompactionRetention: time: invalid duration \"soon\"",
            ),
            (
                "--auto-compaction-retention=-1",
                "error parsing CompactionRetention: time: missing unit in duration \"-1\"",
            ),
            (
                "--auto-compaction-retention=-1h",
                "error parsing CompactionRetention: time: negative duration \"-1h\"",
            ),
            (
                "--compact-hash-check-time=0",
                "--compact-hash-check-time must be >0 (set to 0s)",
            ),
            (
                "--feature-gates LeaseCheckpointPersist=true",
                "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint",
            ),
            ("--cert-file=server.crt", "--cert-file is not supported yet"),
            (
                "--listen-client-urls=https://127.0.0.1:1 --advertise-client-urls=https://127.0.0.1:1",
                "TLS key/cert (--cert-file, --key-file) must be provided for client url https://127.0.0.1:1 with HTTPS scheme",
            ),
        ];
        for (line, message) in cases {
            assert_eq!(refusal(line), message, "{line}");
        }
    }

    #[test]
    fn retention_depends_on_the_mode() {
        let hours = |hours: u64| Retention::Period(Duration::from_secs(3600 * hours));
        let cases = [
            ("", Retention::Nothing),
            ("--auto-compaction-retention=0s", Retention::Nothing),
            ("--auto-compaction-retention=", Retention::Nothing),
            ("--auto-compaction-retention=1", hours(1)),
            (
                "--auto-compaction-retention=30m",
                Retention::Period(Duration::from_secs(1800)),
            ),
            (
                "--auto-compaction-retention=1000 --auto-compaction-mode=revision",
                Retention::Revisions(1000),
            ),
            (
                "--auto-compaction-retention=1us --auto-compaction-mode=revision",
                Retention::Revisions(1000),
            ),
        ];
        for (line, want) in cases {
            assert_eq!(config(line).retention, want, "{line}");
        }
    }

    #[test]
    fn defaults_follow_from_other_flags() {
        let plain = config("");
        assert_eq!(plain.data_dir, PathBuf::from("default.etcd"));
        assert_eq!(plain.initial_cluster, "default=http://localhost:2380");
        assert_eq!(plain.request_timeout(), Duration::from_secs(7));
        assert_eq!(plain.min_lease_ttl(), 2);
        assert_eq!(plain.effective_quota(), 2_147_483_648);
        assert_eq!(plain.progress_interval, Duration::from_secs(600));
        assert_eq!(plain.batch_interval, Duration::from_secs(1));
        let named = config("--name abc");
        assert_eq!(named.initial_cluster, "abc=http://localhost:2380");
        assert_eq!(named.data_dir, PathBuf::from("abc.etcd"));
        let everywhere = config("--name abc --listen-peer-urls http://0.0.0.0:1234");
        assert_eq!(everywhere.initial_cluster, "abc=http://10.0.0.7:1234");
        let slow = config("--heartbeat-interval 300 --election-timeout 3000");
        assert_eq!(slow.min_lease_ttl(), 5);
        let eager = config("--watch-progress-notify-interval 1ms --snapshot-count 0");
        assert_eq!(eager.progress_interval, Duration::from_millis(100));
        assert_eq!(eager.snapshot_count, 10_000);
    }

    #[test]
    fn gates_follow_their_stage_unless_named() {
        let gates =
            config("--feature-gates AllAlpha=true,PriorityRequest=false,AllBeta=false").gates;
        assert!(gates["LeaseCheckpoint"] && !gates["PriorityRequest"]);
        assert!(!gates["FastLeaseKeepAlive"]);
    }

    #[test]
    fn a_new_member_must_stand_in_the_initial_cluster() {
        let resolve = |host: &str| (host == "member").then(|| "127.0.0.1".to_string());
        let check = |line: &str| {
            config(line)
                .bootstrap_members(&resolve)
                .map(|members| canonical(&members))
        };
        let base = "--initial-advertise-peer-urls http://127.0.0.1:2";
        let cases = [
            (
                "--name a --initial-cluster a=http://127.0.0.1:2",
                Ok("a=http://127.0.0.1:2"),
            ),
            (
                "--name a --initial-cluster a=http://member:2",
                Ok("a=http://member:2"),
            ),
            (
                "--name a --initial-cluster b=http://127.0.0.1:3,a=http://127.0.0.1:2",
                Ok("a=http://127.0.0.1:2,b=http://127.0.0.1:3"),
            ),
            (
                "--name b --initial-cluster a=http://127.0.0.1:2",
                Err("couldn't find local name \"b\" in the initial cluster configuration"),
            ),
            (
                "--name a --initial-cluster a=http://127.0.0.1:3",
                Err(
                    "--initial-cluster has a=http://127.0.0.1:3 but missing from --initial-advertise-peer-urls=http://127.0.0.1:2 (resolved urls: \"http://127.0.0.1:2\" != \"http://127.0.0.1:3\")",
                ),
            ),
            (
                "--name a --initial-cluster a=http://127.0.0.1:2,b=http://127.0.0.1:2",
                Err("initial cluster a=http://127.0.0.1:2,b=http://127.0.0.1:2 has duplicate url"),
            ),
        ];
        for (line, want) in cases {
            assert_eq!(
                check(&format!("{base} {line}")),
                want.map(str::to_string).map_err(str::to_string),
                "{line}"
            );
        }
    }

    #[test]
    fn logging_is_checked_first() {
        let cases = [
            ("--logger=capnslog", "--logger=capnslog is removed in v3.5"),
            ("--logger=x", "unknown logger option \"x\""),
            (
                "--log-format=x",
                "unknown log format: x, supported values json, console",
            ),
            ("--log-level=bad", "unrecognized level: \"bad\""),
        ];
        for (line, message) in cases {
            assert_eq!(logging(&typed(line)).err(), Some(message.to_string()));
        }
    }
}
