//! What the user typed: etcd's server flags as one table, read by Go's flag grammar.
//!
//! A value is checked by its kind as soon as it is met, whether it comes from the command line, from an
//! `ETCD_` variable or from a configuration file. What the values mean together is decided in
//! [`super::config`].

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt::Write;

use super::url::Url;
use crate::util::text;

/// What a flag takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    /// Takes a value only with `=`.
    Bool,
    Int,
    Uint,
    Uint32,
    Duration,
    Urls,
    /// A comma list, sorted, without repeats.
    Unique,
    /// A comma list as it is.
    List,
    Choice(&'static [&'static str]),
    /// `*`, or URLs.
    Origins,
    /// `Gate=true,…`; repeats merge.
    Gates,
}

/// How far a flag is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    Full,
    /// Taken and without effect here; nothing is lost by that.
    Inert,
    /// Refused when it differs from its default.
    NotYet,
    /// Known to no help text and without effect.
    Hidden,
}

/// One row of the table.
#[derive(Debug)]
pub struct Flag {
    pub name: &'static str,
    pub kind: Kind,
    pub default: &'static str,
    pub support: Support,
    pub group: &'static str,
    pub help: &'static str,
}

const MEMBER: &str = "Member";
const CLUSTERING: &str = "Clustering";
const SECURITY: &str = "Security";
const AUTH: &str = "Auth";
const MONITORING: &str = "Profiling and Monitoring";
const LOGGING: &str = "Logging";
const TRACING: &str = "Distributed tracing";
const FEATURES: &str = "Features";
const STORAGE: &str = "Storage";
const UNSAFE: &str = "Unsafe feature";
const GROUPS: &[&str] = &[
    MEMBER, CLUSTERING, SECURITY, AUTH, MONITORING, LOGGING, TRACING, FEATURES, STORAGE, UNSAFE,
];

const fn row(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    support: Support,
    group: &'static str,
    help: &'static str,
) -> Flag {
    Flag {
        name,
        kind,
        default,
        support,
        group,
        help,
    }
}

use Kind::*;
use Support::*;

/// Every flag there is, in the order of the help text.
#[rustfmt::skip]
pub const FLAGS: &[Flag] = &[
    row("name", Text, "default", Full, MEMBER, "Name of this member, as in --initial-cluster."),
    row("data-dir", Text, "", Full, MEMBER, "Directory of the data; empty means <name>.etcd."),
    row("wal-dir", Text, "", Full, MEMBER, "Directory of the write-ahead log, if not inside the data directory."),
    row("snapshot-count", Uint, "10000", Full, MEMBER, "Applied entries between two snapshots."),
    row("snapshot-catchup-entries", Uint, "5000", Full, MEMBER, "Log entries kept for followers that are behind."),
    row("heartbeat-interval", Uint, "100", Full, MEMBER, "Milliseconds between two heartbeats."),
    row("election-timeout", Uint, "1000", Full, MEMBER, "Milliseconds without a leader before an election."),
    row("initial-election-tick-advance", Bool, "true", Inert, MEMBER, "Whether a starting member elects sooner."),
    row("listen-peer-urls", Urls, "http://localhost:2380", Full, MEMBER, "Where other members reach this one."),
    row("listen-client-urls", Urls, "http://localhost:2379", Full, MEMBER, "Where clients reach this member, by gRPC and HTTP."),
    row("listen-client-http-urls", Urls, "", Full, MEMBER, "Where clients reach it by HTTP; --listen-client-urls then serve gRPC alone."),
    row("max-snapshots", Uint, "5", Inert, MEMBER, "Snapshot files to keep, 0 for all. Deprecated."),
    row("max-wals", Uint, "5", Inert, MEMBER, "Log files to keep, 0 for all."),
    row("memory-mlock", Bool, "false", Inert, MEMBER, "Without effect: there is no memory map to lock."),
    row("quota-backend-bytes", Int, "0", Full, MEMBER, "Space the store may take before writes are refused; 0 is 2 GiB, negative is no limit."),
    row("backend-bbolt-freelist-type", Text, "", Inert, MEMBER, "Without effect: there is no bbolt file."),
    row("backend-batch-interval", Duration, "0s", Full, MEMBER, "Longest time until written data reaches the storage engine; 0 is 1s."),
    row("backend-batch-limit", Int, "0", Inert, MEMBER, "Operations after which it is not waited for; 0 is 10000."),
    row("max-txn-ops", Uint, "128", Full, MEMBER, "Operations allowed in one transaction."),
    row("max-request-bytes", Uint, "1572864", Full, MEMBER, "Largest request taken, in bytes."),
    row("max-concurrent-streams", Uint32, "4294967295", Full, MEMBER, "Streams a client may have open on one connection."),
    row("grpc-keepalive-min-time", Duration, "5s", Inert, MEMBER, "Clients may not ping more often than this."),
    row("grpc-keepalive-interval", Duration, "2h0m0s", Full, MEMBER, "How often an idle client is pinged; 0 is never."),
    row("grpc-keepalive-timeout", Duration, "20s", Full, MEMBER, "How long a ping may stay unanswered; 0 is for ever."),
    row("socket-reuse-port", Bool, "false", Full, MEMBER, "Sets SO_REUSEPORT on listening sockets."),
    row("socket-reuse-address", Bool, "false", Full, MEMBER, "Sets SO_REUSEADDR on listening sockets."),
    row("enable-grpc-gateway", Bool, "true", Inert, MEMBER, "Whether JSON is served under /v3/."),
    row("raft-read-timeout", Duration, "5s", Inert, MEMBER, "Longest silence on a connection from a peer."),
    row("raft-write-timeout", Duration, "5s", Inert, MEMBER, "Longest write on a connection to a peer."),
    row("feature-gates", Gates, "", Full, MEMBER, "Features switched on or off, as Name=true|false,…"),

    row("initial-advertise-peer-urls", Urls, "http://localhost:2380", Full, CLUSTERING, "Peer addresses told to the other members."),
    row("initial-cluster", Text, "default=http://localhost:2380", Full, CLUSTERING, "Members of a new cluster, as name=url,…"),
    row("initial-cluster-state", Choice(&["new", "existing"]), "new", Full, CLUSTERING, "'new' starts a cluster, 'existing' joins one. Ignored once there is data."),
    row("initial-cluster-token", Text, "etcd-cluster", Full, CLUSTERING, "Keeps clusters with the same addresses apart."),
    row("advertise-client-urls", Urls, "http://localhost:2379", Full, CLUSTERING, "Client addresses told to everyone."),
    row("discovery-token", Text, "", NotYet, CLUSTERING, "Token of the cluster at the discovery service."),
    row("discovery-endpoints", List, "", NotYet, CLUSTERING, "Endpoints of the discovery service."),
    row("discovery-dial-timeout", Duration, "2s", NotYet, CLUSTERING, "Time-out of connecting to it."),
    row("discovery-request-timeout", Duration, "5s", NotYet, CLUSTERING, "Time-out of a request to it."),
    row("discovery-keepalive-time", Duration, "2s", NotYet, CLUSTERING, "Ping interval towards it."),
    row("discovery-keepalive-timeout", Duration, "6s", NotYet, CLUSTERING, "Ping time-out towards it."),
    row("discovery-insecure-transport", Bool, "true", NotYet, CLUSTERING, "Talk to it without TLS."),
    row("discovery-insecure-skip-tls-verify", Bool, "false", NotYet, CLUSTERING, "Do not verify its certificate."),
    row("discovery-cert", Text, "", NotYet, CLUSTERING, "Certificate shown to it."),
    row("discovery-key", Text, "", NotYet, CLUSTERING, "Key of that certificate."),
    row("discovery-cacert", Text, "", NotYet, CLUSTERING, "CA bundle that verifies it."),
    row("discovery-user", Text, "", NotYet, CLUSTERING, "User name[:password] there."),
    row("discovery-password", Text, "", NotYet, CLUSTERING, "Password there."),
    row("discovery-fallback", Choice(&["exit", "proxy"]), "exit", Full, CLUSTERING, "What to do when discovery fails; only 'exit'."),
    row("discovery-srv", Text, "", NotYet, CLUSTERING, "DNS domain whose SRV records name the members."),
    row("discovery-srv-name", Text, "", NotYet, CLUSTERING, "Suffix of the SRV service names."),
    row("strict-reconfig-check", Bool, "true", Inert, CLUSTERING, "Refuse membership changes that would lose the quorum."),
    row("pre-vote", Bool, "true", Full, CLUSTERING, "Ask before standing for election, so that a returning member does not disturb."),
    row("auto-compaction-mode", Text, "periodic", Full, CLUSTERING, "'periodic' keeps a time of history, 'revision' a number of revisions."),
    row("auto-compaction-retention", Text, "0", Full, CLUSTERING, "How much history to keep: hours or a duration, or revisions; 0 keeps all."),
    row("v2-deprecation", Choice(&["write-only", "write-only-skip-check", "write-only-drop-data", "gone"]), "write-only", Inert, CLUSTERING, "Without effect. Deprecated."),

    row("cert-file", Text, "", NotYet, SECURITY, "Certificate for clients."),
    row("key-file", Text, "", NotYet, SECURITY, "Key of that certificate."),
    row("client-cert-auth", Bool, "false", NotYet, SECURITY, "Require a certificate of clients."),
    row("client-cert-file", Text, "", NotYet, SECURITY, "Certificate of the built-in gateway as a client."),
    row("client-key-file", Text, "", NotYet, SECURITY, "Key of that certificate."),
    row("client-crl-file", Text, "", NotYet, SECURITY, "Revoked client certificates."),
    row("client-cert-allowed-hostname", List, "", NotYet, SECURITY, "Names that client certificates may carry."),
    row("trusted-ca-file", Text, "", NotYet, SECURITY, "CA bundle that verifies clients."),
    row("auto-tls", Bool, "false", NotYet, SECURITY, "Make a certificate for clients on the fly."),
    row("peer-cert-file", Text, "", NotYet, SECURITY, "Certificate for peers."),
    row("peer-key-file", Text, "", NotYet, SECURITY, "Key of that certificate."),
    row("peer-client-cert-auth", Bool, "false", NotYet, SECURITY, "Require a certificate of peers."),
    row("peer-client-cert-file", Text, "", NotYet, SECURITY, "Certificate shown to peers, if another one."),
    row("peer-client-key-file", Text, "", NotYet, SECURITY, "Key of that certificate."),
    row("peer-trusted-ca-file", Text, "", NotYet, SECURITY, "CA bundle that verifies peers."),
    row("peer-cert-allowed-cn", List, "", NotYet, SECURITY, "Common names that peer certificates may carry."),
    row("peer-cert-allowed-hostname", List, "", NotYet, SECURITY, "Names that peer certificates may carry."),
    row("peer-auto-tls", Bool, "false", NotYet, SECURITY, "Make a certificate for peers on the fly."),
    row("peer-skip-client-san-verification", Bool, "false", NotYet, SECURITY, "Do not compare peer addresses with their certificates."),
    row("self-signed-cert-validity", Uint, "1", NotYet, SECURITY, "Years for which certificates made on the fly are valid."),
    row("peer-crl-file", Text, "", NotYet, SECURITY, "Revoked peer certificates."),
    row("cipher-suites", List, "", NotYet, SECURITY, "TLS cipher suites to offer."),
    row("cors", Origins, "*", Full, SECURITY, "Origins that browsers may call from; * is all."),
    row("host-whitelist", Unique, "*", Full, SECURITY, "Host names that plain HTTP requests may name; * is all."),
    row("tls-min-version", Text, "TLS1.2", NotYet, SECURITY, "Oldest TLS version accepted."),
    row("tls-max-version", Text, "", NotYet, SECURITY, "Newest TLS version accepted."),

    row("auth-token", Text, "simple", NotYet, AUTH, "Kind of token handed out: 'simple' or 'jwt,…'."),
    row("bcrypt-cost", Uint, "10", NotYet, AUTH, "Cost of hashing passwords, 4 to 31."),
    row("auth-token-ttl", Uint, "300", NotYet, AUTH, "Seconds that a simple token lives after its last use."),

    row("enable-pprof", Bool, "false", Inert, MONITORING, "Without effect: there is no Go profiler."),
    row("metrics", Text, "basic", Full, MONITORING, "'extensive' adds histograms of calls."),
    row("listen-metrics-urls", Urls, "", Full, MONITORING, "Further addresses for /metrics and health."),

    row("logger", Text, "zap", Full, LOGGING, "Only 'zap'."),
    row("log-outputs", Unique, "default", Full, LOGGING, "'stderr', 'stdout', 'systemd/journal' or files."),
    row("log-level", Text, "info", Full, LOGGING, "debug, info, warn, error, panic or fatal."),
    row("log-format", Text, "json", Full, LOGGING, "json or console."),
    row("enable-log-rotation", Bool, "false", NotYet, LOGGING, "Rotate the one log file."),
    row("log-rotation-config-json", Text, r#"{"maxsize": 100, "maxage": 0, "maxbackups": 0, "localtime": false, "compress": false}"#, NotYet, LOGGING, "How to rotate it."),
    row("warning-unary-request-duration", Duration, "0s", Full, LOGGING, "Calls that take longer are logged; 0 is 300ms."),

    row("enable-distributed-tracing", Bool, "false", NotYet, TRACING, "Send traces to a collector."),
    row("distributed-tracing-address", Text, "localhost:4317", NotYet, TRACING, "Address of the collector."),
    row("distributed-tracing-service-name", Text, "etcd", NotYet, TRACING, "Service name in traces."),
    row("distributed-tracing-instance-id", Text, "", NotYet, TRACING, "Instance in traces."),
    row("distributed-tracing-sampling-rate", Int, "0", NotYet, TRACING, "Calls traced per million."),

    row("corrupt-check-time", Duration, "0s", Inert, FEATURES, "How often members compare their data; 0 is never."),
    row("compact-hash-check-time", Duration, "1m0s", Inert, FEATURES, "How often members compare hashes of compactions."),
    row("compaction-batch-limit", Int, "0", Full, FEATURES, "Revisions removed in one slice of a compaction; 0 is 1000."),
    row("compaction-sleep-interval", Duration, "0s", Full, FEATURES, "Pause between two slices; 0 is 10ms."),
    row("watch-progress-notify-interval", Duration, "0s", Full, FEATURES, "How often idle watches hear of progress; 0 is 10m."),
    row("warning-apply-duration", Duration, "100ms", Full, FEATURES, "Entries that take longer to apply are logged."),
    row("bootstrap-defrag-threshold-megabytes", Uint, "0", Full, FEATURES, "Give space back at the start if it is at least this much; 0 is never."),
    row("max-learners", Int, "1", Inert, FEATURES, "Learners allowed in the cluster."),
    row("downgrade-check-time", Duration, "5s", Inert, FEATURES, "How often the state of a downgrade is looked at."),

    row("storage-engine", Choice(&["sled", "redb", "memory"]), "sled", Full, STORAGE, "Engine that keeps the data: sled, redb or memory."),
    row("value-cache-bytes", Uint, "268435456", Full, STORAGE, "Memory for the newest values of keys."),
    row("index-checkpoint-records", Uint, "50000", Full, STORAGE, "Fewest new records for which the index is saved again, so that a start need not read them all."),

    row("force-new-cluster", Bool, "false", NotYet, UNSAFE, "Forget all other members and go on alone."),
    row("unsafe-no-fsync", Bool, "false", Full, UNSAFE, "Never wait for the disk; a power failure then loses data."),

    row("config-file", Text, "", Hidden, MEMBER, ""),
    row("version", Bool, "false", Hidden, MEMBER, ""),
    row("cluster-active-size", Bool, "false", Hidden, MEMBER, ""),
    row("cluster-remove-delay", Bool, "false", Hidden, MEMBER, ""),
    row("cluster-sync-interval", Bool, "false", Hidden, MEMBER, ""),
    row("config", Bool, "false", Hidden, MEMBER, ""),
    row("force", Bool, "false", Hidden, MEMBER, ""),
    row("max-result-buffer", Bool, "false", Hidden, MEMBER, ""),
    row("max-retry-attempts", Bool, "false", Hidden, MEMBER, ""),
    row("peer-heartbeat-interval", Bool, "false", Hidden, MEMBER, ""),
    row("peer-election-timeout", Bool, "false", Hidden, MEMBER, ""),
    row("retry-interval", Bool, "false", Hidden, MEMBER, ""),
    row("snapshot", Bool, "false", Hidden, MEMBER, ""),
    row("v", Bool, "false", Hidden, MEMBER, ""),
    row("vv", Bool, "false", Hidden, MEMBER, ""),
    row("test.coverprofile", Bool, "false", Hidden, MEMBER, ""),
    row("test.outputdir", Bool, "false", Hidden, MEMBER, ""),
];

/// Flags that etcd takes and ignores; whatever is given to them counts as true.
const IGNORED: &[&str] = &[
    "cluster-active-size",
    "cluster-remove-delay",
    "cluster-sync-interval",
    "config",
    "force",
    "max-result-buffer",
    "max-retry-attempts",
    "peer-heartbeat-interval",
    "peer-election-timeout",
    "retry-interval",
    "snapshot",
    "v",
    "vv",
    "test.coverprofile",
    "test.outputdir",
];

/// Feature gates: name, stage, whether on by default.
pub const GATES: &[(&str, &str, bool)] = &[
    ("CompactHashCheck", "ALPHA", false),
    ("FastLeaseKeepAlive", "BETA", true),
    ("InitialCorruptCheck", "ALPHA", false),
    ("LeaseCheckpoint", "ALPHA", false),
    ("LeaseCheckpointPersist", "ALPHA", false),
    ("PriorityRequest", "ALPHA", false),
    ("SetMemberLocalAddr", "ALPHA", false),
    ("StopGRPCServiceOnDefrag", "ALPHA", false),
    ("TxnModeWriteWithSharedBuffer", "BETA", true),
];

/// A checked value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Text(String),
    Bool(bool),
    Int(i64),
    Uint(u64),
    /// Nanoseconds, may be negative.
    Duration(i64),
    Urls(Vec<Url>),
    List(Vec<String>),
}

pub fn find(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == name)
}

/// Reads one value by the rules of its kind; the error is what Go prints after the colon.
pub fn parse_value(kind: Kind, given: &str) -> Result<Value, String> {
    let list = |text: &str| -> Vec<String> {
        if text.is_empty() {
            return Vec::new();
        }
        text.split(',').map(str::to_string).collect()
    };
    Ok(match kind {
        Text => Value::Text(given.to_string()),
        Bool => Value::Bool(parse_bool(given).ok_or("parse error")?),
        Int => Value::Int(parse_int(given)?),
        Uint => Value::Uint(parse_uint(given, u64::MAX)?),
        Uint32 => Value::Uint(parse_uint(given, u32::MAX.into())?),
        Duration => Value::Duration(text::parse_duration_ns(given).ok_or("parse error")?),
        Urls if given.is_empty() => Value::Urls(Vec::new()),
        Urls => Value::Urls(Url::parse_list(given)?),
        Unique => {
            let unique: BTreeSet<String> = list(given).into_iter().collect();
            Value::List(unique.into_iter().collect())
        }
        List => Value::List(list(given)),
        Choice(known) if known.contains(&given) => Value::Text(given.to_string()),
        Choice(_) if given == "not-yet" => return Err(format!("invalid value {given:?}")),
        Choice(_) => return Err("invalid value".to_string()),
        Origins if given == "*" => Value::List(vec!["*".to_string()]),
        Origins => {
            let urls = Url::parse_list(given)?;
            Value::List(urls.into_iter().map(|url| url.to_string()).collect())
        }
        Gates => Value::List(parse_gates(given)?),
    })
}

fn parse_bool(given: &str) -> Option<bool> {
    match given {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// Go's base 0: `0x`, `0o`, `0b` or a leading zero choose the base, and `_` may separate digits.
fn parse_uint(given: &str, max: u64) -> Result<u64, String> {
    let lower = given.to_ascii_lowercase();
    let (digits, base) = match lower.as_bytes() {
        [b'0', b'x', ..] => (&lower[2..], 16),
        [b'0', b'o', ..] => (&lower[2..], 8),
        [b'0', b'b', ..] => (&lower[2..], 2),
        [b'0', _, ..] => (&lower[1..], 8),
        _ => (&lower[..], 10),
    };
    let separated = base != 10 || !lower.starts_with('_');
    let misplaced = digits.ends_with('_') || digits.contains("__") || !separated;
    let digits = digits.replace('_', "");
    if digits.is_empty() || misplaced || !digits.chars().all(|c| c.is_digit(base)) {
        return Err("parse error".to_string());
    }
    u64::from_str_radix(&digits, base)
        .ok()
        .filter(|number| *number <= max)
        .ok_or_else(|| "value out of range".to_string())
}

fn parse_int(given: &str) -> Result<i64, String> {
    let (negative, digits) = match given.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, given.strip_prefix('+').unwrap_or(given)),
    };
    let size = parse_uint(digits, u64::MAX)?;
    let number = if negative {
        -i128::from(size)
    } else {
        i128::from(size)
    };
    i64::try_from(number).map_err(|_| "value out of range".to_string())
}

fn parse_gates(given: &str) -> Result<Vec<String>, String> {
    let mut gates = Vec::new();
    for item in given
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
    {
        let (name, value) = item
            .split_once('=')
            .ok_or_else(|| format!("missing bool value for {item}"))?;
        let (name, value) = (name.trim(), value.trim());
        let known = GATES.iter().any(|(gate, ..)| *gate == name);
        if !known && name != "AllAlpha" && name != "AllBeta" {
            return Err(format!("unrecognized feature gate: {name}"));
        }
        let on = parse_bool(value).ok_or_else(|| {
            format!("invalid value of {name}={value}, err: strconv.ParseBool: parsing {value:?}: invalid syntax")
        })?;
        gates.push(format!("{name}={on}"));
    }
    Ok(gates)
}

/// Everything typed so far, each value checked by its kind and nothing more.
#[derive(Clone, Debug)]
pub struct Typed {
    values: BTreeMap<&'static str, Value>,
    explicit: BTreeSet<&'static str>,
}

impl Default for Typed {
    fn default() -> Typed {
        let values = FLAGS.iter().map(|flag| {
            let value = parse_value(flag.kind, flag.default);
            (flag.name, value.expect("the defaults of the table parse"))
        });
        Typed {
            values: values.collect(),
            explicit: BTreeSet::new(),
        }
    }
}

impl Typed {
    /// Sets a flag from its text.
    pub fn set(&mut self, flag: &'static Flag, given: &str) -> Result<(), String> {
        let given = if IGNORED.contains(&flag.name) {
            "true"
        } else {
            given
        };
        self.put(flag, parse_value(flag.kind, given)?);
        Ok(())
    }

    /// Sets a flag to a value that is already checked.
    pub fn put(&mut self, flag: &'static Flag, value: Value) {
        self.explicit.insert(flag.name);
        match (flag.kind, value) {
            // An empty list of addresses keeps the built-in one.
            (Urls, Value::Urls(urls)) if urls.is_empty() => {}
            (Gates, Value::List(more)) => {
                if let Some(Value::List(gates)) = self.values.get_mut(flag.name) {
                    gates.extend(more);
                }
            }
            (_, value) => {
                self.values.insert(flag.name, value);
            }
        }
    }

    /// Replaces a value without marking it as given by the user.
    pub fn replace(&mut self, name: &'static str, value: Value) {
        self.values.insert(name, value);
    }

    /// Returns true if the user gave this flag, with whatever value.
    pub fn is_explicit(&self, name: &str) -> bool {
        self.explicit.contains(name)
    }

    /// Flags that are not served yet and were given another value than their default.
    pub fn unsupported(&self) -> impl Iterator<Item = &'static Flag> {
        FLAGS.iter().filter(|flag| {
            let default = || parse_value(flag.kind, flag.default).ok();
            flag.support == NotYet
                && self.is_explicit(flag.name)
                && self.values.get(flag.name) != default().as_ref()
        })
    }

    fn value(&self, name: &str) -> &Value {
        self.values.get(name).expect("a flag of the table")
    }

    pub fn text(&self, name: &str) -> &str {
        match self.value(name) {
            Value::Text(text) => text,
            other => panic!("--{name} is no text but {other:?}"),
        }
    }

    pub fn bool(&self, name: &str) -> bool {
        match self.value(name) {
            Value::Bool(on) => *on,
            other => panic!("--{name} is no boolean but {other:?}"),
        }
    }

    pub fn int(&self, name: &str) -> i64 {
        match self.value(name) {
            Value::Int(number) => *number,
            other => panic!("--{name} is no integer but {other:?}"),
        }
    }

    pub fn uint(&self, name: &str) -> u64 {
        match self.value(name) {
            Value::Uint(number) => *number,
            other => panic!("--{name} is no number but {other:?}"),
        }
    }

    /// Nanoseconds.
    pub fn duration(&self, name: &str) -> i64 {
        match self.value(name) {
            Value::Duration(nanos) => *nanos,
            other => panic!("--{name} is no duration but {other:?}"),
        }
    }

    pub fn urls(&self, name: &str) -> &[Url] {
        match self.value(name) {
            Value::Urls(urls) => urls,
            other => panic!("--{name} is no list of addresses but {other:?}"),
        }
    }

    pub fn list(&self, name: &str) -> &[String] {
        match self.value(name) {
            Value::List(items) => items,
            other => panic!("--{name} is no list but {other:?}"),
        }
    }
}

/// What a command line asks for.
#[derive(Debug)]
pub enum Request {
    Run(Typed),
    Version,
    Help,
}

/// Why a command line was not understood.
#[derive(Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Printed with the usage; exit code 2.
    Syntax(String),
    /// Logged; exit code 1.
    Stray(String),
}

/// Reads a command line (without the program's name).
pub fn parse(args: &[String]) -> Result<Request, Refusal> {
    let mut typed = Typed::default();
    let mut rest = args.iter();
    let mut stray = None;
    while let Some(word) = rest.next() {
        let Some(body) = word.strip_prefix('-').filter(|body| !body.is_empty()) else {
            stray = Some(word);
            break;
        };
        if body == "-" {
            stray = rest.next();
            break;
        }
        let body = body.strip_prefix('-').unwrap_or(body);
        if body.starts_with('-') || body.starts_with('=') {
            return Err(Refusal::Syntax(format!("bad flag syntax: {word}")));
        }
        let (name, given) = match body.split_once('=') {
            Some((name, given)) => (name, Some(given)),
            None => (body, None),
        };
        let Some(flag) = find(name) else {
            if name == "help" || name == "h" {
                return Ok(Request::Help);
            }
            let message = format!("flag provided but not defined: -{name}");
            return Err(Refusal::Syntax(message));
        };
        let given = match (given, flag.kind) {
            (Some(given), _) => given,
            (None, Bool) => "true",
            (None, _) => match rest.next() {
                Some(given) => given,
                None => {
                    let message = format!("flag needs an argument: -{name}");
                    return Err(Refusal::Syntax(message));
                }
            },
        };
        typed.set(flag, given).map_err(|reason| {
            let what = if flag.kind == Bool { "boolean " } else { "" };
            let link = if flag.kind == Bool { "" } else { "flag " };
            Refusal::Syntax(format!(
                "invalid {what}value {} for {link}-{name}: {reason}",
                super::url::go_quoted(given)
            ))
        })?;
    }
    match stray {
        Some(word) => Err(Refusal::Stray(format!("{word:?} is not a valid flag"))),
        None if typed.bool("version") => Ok(Request::Version),
        None => Ok(Request::Run(typed)),
    }
}

/// The variable that stands for a flag.
pub fn variable(flag: &str) -> String {
    format!("ETCD_{}", flag.to_uppercase().replace('-', "_"))
}

/// What the environment did to the flags.
#[derive(Debug, PartialEq, Eq)]
pub enum Note {
    Used { name: String, value: String },
    Unknown(String),
    Unset,
}

/// Why the environment was refused.
#[derive(Debug, PartialEq, Eq)]
pub enum Conflict {
    /// The flag was given on the command line too.
    Shadowed(String),
    Invalid(String),
}

/// Fills flags from `ETCD_` variables; each flag may come from one side only.
pub fn read_environment(
    typed: &mut Typed,
    environment: &[(String, String)],
) -> Result<Vec<Note>, Conflict> {
    let mut notes = Vec::new();
    let mut known = BTreeSet::new();
    for flag in FLAGS {
        let name = variable(flag.name);
        let value = environment.iter().find(|(key, _)| *key == name);
        known.insert(name.clone());
        let Some((_, value)) = value else { continue };
        if flag.name == "version" {
            notes.push(Note::Unset);
            continue;
        }
        if typed.is_explicit(flag.name) {
            return Err(Conflict::Shadowed(name));
        }
        if value.is_empty() {
            continue;
        }
        typed.set(flag, value).map_err(|reason| {
            let quoted = super::url::go_quoted(value);
            Conflict::Invalid(format!("invalid value {quoted} for {name}: {reason}"))
        })?;
        notes.push(Note::Used {
            name,
            value: value.clone(),
        });
    }
    known.extend(["ETCD_UNSUPPORTED_ARCH".into(), "ETCD_VERIFY".into()]);
    notes.extend(
        environment
            .iter()
            .filter(|(key, _)| key.starts_with("ETCD_") && !known.contains(key))
            .map(|(key, value)| Note::Unknown(format!("{key}={value}"))),
    );
    Ok(notes)
}

/// Printed on standard error for `--help` and after a mistake.
pub const USAGE: &str = "\
Usage:

  etcd [flags]
    Run a member.

  etcd --version
    Print the version.

  etcd -h | --help
    Print this and all flags.

  etcd --config-file
    File with the settings, in YAML or JSON. With it, other flags and variables are ignored,
    and durations are integer nanoseconds.

";

/// The long list of flags for `--help`.
pub fn help() -> String {
    let mut out = String::new();
    for group in GROUPS {
        let _ = writeln!(out, "{group}:");
        for flag in FLAGS
            .iter()
            .filter(|flag| flag.group == *group && flag.support != Hidden)
        {
            let default = match flag.name {
                "data-dir" => "${name}.etcd",
                _ => flag.default,
            };
            let later = if flag.support == NotYet {
                " (not supported yet)"
            } else {
                ""
            };
            let _ = writeln!(
                out,
                "  --{} '{default}'\n    {}{later}",
                flag.name, flag.help
            );
        }
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_string).collect()
    }

    fn run(line: &str) -> Typed {
        match parse(&words(line)) {
            Ok(Request::Run(typed)) => typed,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn one_or_two_dashes_with_or_without_equals_are_the_same() {
        for line in [
            "-name x",
            "--name x",
            "-name=x",
            "--name=x",
            "--name y --name x",
        ] {
            assert_eq!(run(line).text("name"), "x", "{line}");
        }
        assert!(run("").text("name") == "default" && !run("").is_explicit("name"));
        assert!(!run("--pre-vote=F").bool("pre-vote"));
        assert!(run("-unsafe-no-fsync").bool("unsafe-no-fsync"));
        assert!(run("-v -vv --snapshot=whatever").is_explicit("snapshot"));
    }

    #[test]
    fn mistakes_are_told_in_the_words_of_go() {
        let cases = [
            ("--foo", "flag provided but not defined: -foo"),
            ("---name=x", "bad flag syntax: ---name=x"),
            ("-=x", "bad flag syntax: -=x"),
            ("--name", "flag needs an argument: -name"),
            (
                "--heartbeat-interval=abc",
                r#"invalid value "abc" for flag -heartbeat-interval: parse error"#,
            ),
            (
                "--election-timeout=-1",
                r#"invalid value "-1" for flag -election-timeout: parse error"#,
            ),
            (
                "--max-request-bytes=99999999999999999999",
                r#"invalid value "99999999999999999999" for flag -max-request-bytes: value out of range"#,
            ),
            (
                "--corrupt-check-time 5",
                r#"invalid value "5" for flag -corrupt-check-time: parse error"#,
            ),
            (
                "--pre-vote=maybe",
                r#"invalid boolean value "maybe" for -pre-vote: parse error"#,
            ),
            (
                "--initial-cluster-state=old",
                r#"invalid value "old" for flag -initial-cluster-state: invalid value"#,
            ),
            (
                "--v2-deprecation not-yet",
                r#"invalid value "not-yet" for flag -v2-deprecation: invalid value "not-yet""#,
            ),
            (
                "--feature-gates Foo=true",
                r#"invalid value "Foo=true" for flag -feature-gates: unrecognized feature gate: Foo"#,
            ),
            (
                "--feature-gates LeaseCheckpoint",
                r#"invalid value "LeaseCheckpoint" for flag -feature-gates: missing bool value for LeaseCheckpoint"#,
            ),
            (
                "--cors=",
                r#"invalid value "" for flag -cors: URL scheme must be http, https, unix, or unixs: "#,
            ),
            (
                "--listen-client-urls=bad",
                r#"invalid value "bad" for flag -listen-client-urls: URL scheme must be http, https, unix, or unixs: bad"#,
            ),
        ];
        for (line, message) in cases {
            assert_eq!(
                parse(&words(line)).err(),
                Some(Refusal::Syntax(message.to_string())),
                "{line}"
            );
        }
    }

    #[test]
    fn words_that_are_no_flags_are_refused() {
        let cases = [
            ("foo", r#""foo" is not a valid flag"#),
            ("--pre-vote true", r#""true" is not a valid flag"#),
            ("--name n1 extra --foo", r#""extra" is not a valid flag"#),
            ("-- --name", r#""--name" is not a valid flag"#),
            ("--version extra", r#""extra" is not a valid flag"#),
        ];
        for (line, message) in cases {
            assert_eq!(
                parse(&words(line)).err(),
                Some(Refusal::Stray(message.to_string())),
                "{line}"
            );
        }
        assert!(matches!(
            parse(&words("--name x --version")),
            Ok(Request::Version)
        ));
        assert!(matches!(parse(&words("-h")), Ok(Request::Help)));
        assert!(matches!(parse(&words("--help foo")), Ok(Request::Help)));
    }

    #[test]
    fn numbers_are_read_as_go_reads_them() {
        let cases = [
            ("0x10", Ok(16)),
            ("010", Ok(8)),
            ("0b11", Ok(3)),
            ("0o17", Ok(15)),
            ("1_000", Ok(1000)),
            ("0", Ok(0)),
            ("1__0", Err("parse error")),
            ("08", Err("parse error")),
            ("", Err("parse error")),
            ("1e3", Err("parse error")),
        ];
        for (given, want) in cases {
            assert_eq!(
                parse_uint(given, u64::MAX),
                want.map_err(str::to_string),
                "{given}"
            );
        }
        assert_eq!(parse_int("-5"), Ok(-5));
        assert_eq!(
            parse_int("9223372036854775808"),
            Err("value out of range".into())
        );
    }

    #[test]
    fn an_empty_address_list_counts_as_given_and_keeps_the_default() {
        let typed = run("--listen-client-urls=");
        assert!(typed.is_explicit("listen-client-urls"));
        assert_eq!(
            typed.urls("listen-client-urls")[0].to_string(),
            "http://localhost:2379"
        );
    }

    #[test]
    fn gates_merge() {
        let typed = run("--feature-gates LeaseCheckpoint=true --feature-gates AllBeta=false");
        assert_eq!(
            typed.list("feature-gates"),
            ["LeaseCheckpoint=true", "AllBeta=false"]
        );
    }

    #[test]
    fn variables_fill_flags_that_were_not_typed() {
        let variables = |list: &[(&str, &str)]| -> Vec<(String, String)> {
            list.iter()
                .map(|(key, value)| (key.to_string(), value.to_string()))
                .collect()
        };
        let mut typed = run("--name b");
        let notes = read_environment(
            &mut typed,
            &variables(&[
                ("ETCD_DATA_DIR", "d"),
                ("ETCD_WAL_DIR", ""),
                ("ETCD_WHAT", "1"),
                ("HOME", "/"),
            ]),
        );
        assert_eq!(typed.text("data-dir"), "d");
        assert_eq!(
            notes,
            Ok(vec![
                Note::Used {
                    name: "ETCD_DATA_DIR".into(),
                    value: "d".into()
                },
                Note::Unknown("ETCD_WHAT=1".into()),
            ])
        );
        for value in ["", "a", "b"] {
            let conflict =
                read_environment(&mut run("--name b"), &variables(&[("ETCD_NAME", value)]));
            assert_eq!(conflict, Err(Conflict::Shadowed("ETCD_NAME".into())));
        }
        let bad = read_environment(
            &mut run(""),
            &variables(&[("ETCD_HEARTBEAT_INTERVAL", "abc")]),
        );
        let message = r#"invalid value "abc" for ETCD_HEARTBEAT_INTERVAL: parse error"#;
        assert_eq!(bad, Err(Conflict::Invalid(message.into())));
    }

    #[test]
    fn flags_that_are_not_served_yet_are_known_when_changed() {
        let names =
            |line: &str| -> Vec<&str> { run(line).unsupported().map(|flag| flag.name).collect() };
        assert_eq!(names("--auth-token=simple --cert-file="), [""; 0]);
        assert_eq!(names("--cert-file=a --auto-tls"), ["cert-file", "auto-tls"]);
    }
}
