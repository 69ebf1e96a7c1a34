//! What is counted and timed, under etcd's metric names, in one static registry.
//!
//! Every row records into the statics below; `server/http` prints them. A metric whose value exists only
//! when somebody asks (memory, open files, revisions) is set just before it is printed.

use std::sync::LazyLock;

use prometheus::Encoder;
use prometheus::Gauge;
use prometheus::GaugeVec;
use prometheus::Histogram;
use prometheus::HistogramOpts;
use prometheus::HistogramVec;
use prometheus::IntCounter;
use prometheus::IntCounterVec;
use prometheus::IntGauge;
use prometheus::IntGaugeVec;
use prometheus::Opts;
use prometheus::Registry;
use prometheus::TextEncoder;

static REGISTRY: LazyLock<Registry> = LazyLock::new(Registry::new);

/// Upper bounds that double: a smallest one, and how many there are.
#[derive(Clone, Copy)]
struct Doubling(f64, usize);

const A: Doubling = Doubling(0.001, 14);
const B: Doubling = Doubling(0.1, 10);
const D: Doubling = Doubling(0.0001, 20);
const E: Doubling = Doubling(0.1, 13);
const F: Doubling = Doubling(0.01, 17);
const G: Doubling = Doubling(0.01, 15);
const H_MS: Doubling = Doubling(0.5, 14);
const I_MS: Doubling = Doubling(1.0, 13);
const J_MS: Doubling = Doubling(100.0, 14);
const K: Doubling = Doubling(1.0, 24);
const GRPC: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

impl Doubling {
    fn bounds(self) -> Vec<f64> {
        (0..self.1).map(|i| self.0 * (1u64 << i) as f64).collect()
    }
}

fn register<C: prometheus::core::Collector + Clone + 'static>(metric: prometheus::Result<C>) -> C {
    let metric = metric.expect("a metric of the table is well formed");
    REGISTRY
        .register(Box::new(metric.clone()))
        .expect("no metric stands twice in the table");
    metric
}

fn counter(name: &str, help: &str) -> IntCounter {
    register(IntCounter::new(name, help))
}

fn gauge(name: &str, help: &str) -> IntGauge {
    register(IntGauge::new(name, help))
}

fn real(name: &str, help: &str) -> Gauge {
    register(Gauge::new(name, help))
}

fn histogram(name: &str, help: &str, buckets: Doubling) -> Histogram {
    let options = HistogramOpts::new(name, help).buckets(buckets.bounds());
    register(Histogram::with_opts(options))
}

fn counters(name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    register(IntCounterVec::new(Opts::new(name, help), labels))
}

fn gauges(name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    register(IntGaugeVec::new(Opts::new(name, help), labels))
}

fn reals(name: &str, help: &str, labels: &[&str]) -> GaugeVec {
    register(GaugeVec::new(Opts::new(name, help), labels))
}

fn histograms(name: &str, help: &str, labels: &[&str], buckets: Vec<f64>) -> HistogramVec {
    let options = HistogramOpts::new(name, help).buckets(buckets);
    register(HistogramVec::new(options, labels))
}

macro_rules! table {
    ($($name:ident: $kind:ident = $make:expr;)*) => {
        $(pub static $name: LazyLock<$kind> = LazyLock::new(|| $make);)*

        /// Makes every metric of the table show, those that nobody has touched yet with zero.
        pub fn register_all() {
            $(LazyLock::force(&$name);)*
        }
    };
}

table! {
    // The member and its part in the cluster.
    HAS_LEADER: IntGauge = gauge("etcd_server_has_leader", "1 if this member knows a leader");
    IS_LEADER: IntGauge = gauge("etcd_server_is_leader", "1 if this member leads");
    IS_LEARNER: IntGauge = gauge("etcd_server_is_learner", "1 if this member is a learner");
    LEADER_CHANGES: IntCounter = counter("etcd_server_leader_changes_seen_total", "Leaders seen that differ from the one before");
    PROPOSALS_COMMITTED: IntGauge = gauge("etcd_server_proposals_committed_total", "Log index known to be committed");
    PROPOSALS_APPLIED: IntGauge = gauge("etcd_server_proposals_applied_total", "Log index applied");
    PROPOSALS_PENDING: IntGauge = gauge("etcd_server_proposals_pending", "Proposals that wait for their answer");
    PROPOSALS_FAILED: IntCounter = counter("etcd_server_proposals_failed_total", "Proposals that failed or ran out of time");
    HEARTBEAT_FAILURES: IntCounter = counter("etcd_server_heartbeat_send_failures_total", "Heartbeats the leader sent too late");
    SLOW_APPLIES: IntCounter = counter("etcd_server_slow_apply_total", "Entries that took too long to apply");
    SLOW_READ_INDEXES: IntCounter = counter("etcd_server_slow_read_indexes_total", "Read index rounds that were retried or ran out of time");
    READ_INDEXES_FAILED: IntCounter = counter("etcd_server_read_indexes_failed_total", "Read index rounds that failed");
    SNAPSHOT_APPLY_IN_PROGRESS: IntGauge = gauge("etcd_server_snapshot_apply_in_progress_total", "1 while a snapshot from the leader is applied");
    LEARNER_PROMOTE_SUCCESSES: IntCounter = counter("etcd_server_learner_promote_successes", "Learners promoted while this member led");
    REQUEST_DURATION: HistogramVec = histograms("etcd_server_request_duration_seconds", "Time from a request's arrival to its answer", &["type", "success"], A.bounds());
    APPLY_DURATION: HistogramVec = histograms("etcd_server_apply_duration_seconds", "Time to apply one entry", &["version", "op", "success"], D.bounds());
    RANGE_DURATION: HistogramVec = histograms("etcd_server_range_duration_seconds", "Time to collect a range", &["success"], D.bounds());
    CLIENT_REQUESTS: IntCounterVec = counters("etcd_server_client_requests_total", "Requests by the API version their clients name", &["type", "client_api_version"]);
    HEALTH_SUCCESS: IntCounter = counter("etcd_server_health_success", "Health checks that succeeded");
    HEALTH_FAILURES: IntCounter = counter("etcd_server_health_failures", "Health checks that failed");
    HEALTHCHECK: IntGaugeVec = gauges("etcd_server_healthcheck", "Result of each health check, 1 is good", &["type", "name"]);
    HEALTHCHECKS: IntCounterVec = counters("etcd_server_healthchecks_total", "Results of each health check", &["type", "name", "status"]);
    QUOTA: IntGauge = gauge("etcd_server_quota_backend_bytes", "Space the key-value store may take, in bytes");
    VERSION: IntGaugeVec = gauges("etcd_server_version", "1 for the version that runs", &["server_version"]);
    GO_VERSION: IntGaugeVec = gauges("etcd_server_go_version", "1 for the compiler it was built with", &["server_go_version"]);
    SERVER_ID: IntGaugeVec = gauges("etcd_server_id", "1 for this member's id in hexadecimal", &["server_id"]);
    FEATURE_ENABLED: IntGaugeVec = gauges("etcd_server_feature_enabled", "1 for a feature gate that is on", &["name", "stage"]);
    CLUSTER_VERSION: IntGaugeVec = gauges("etcd_cluster_version", "1 for the version the cluster runs at", &["cluster_version"]);

    // Disks.
    WAL_FSYNC: Histogram = histogram("etcd_disk_wal_fsync_duration_seconds", "Time to make log records durable", A);
    WAL_WRITE: Histogram = histogram("etcd_disk_wal_write_duration_seconds", "Time to write log records", A);
    WAL_WRITE_BYTES: IntGauge = gauge("etcd_disk_wal_write_bytes_total", "Bytes written to the log");
    BACKEND_COMMIT: Histogram = histogram("etcd_disk_backend_commit_duration_seconds", "Time to commit a batch to the storage engine", A);
    BACKEND_DEFRAG: Histogram = histogram("etcd_disk_backend_defrag_duration_seconds", "Time to give unused space back", E);
    BACKEND_SNAPSHOT: Histogram = histogram("etcd_disk_backend_snapshot_duration_seconds", "Time to stream the database", F);
    DEFRAG_INFLIGHT: IntGauge = gauge("etcd_disk_defrag_inflight", "1 while unused space is given back");
    SNAP_FSYNC: Histogram = histogram("etcd_snap_fsync_duration_seconds", "Time to make a snapshot file durable", A);
    SNAP_DB_FSYNC: Histogram = histogram("etcd_snap_db_fsync_duration_seconds", "Time to make a received database durable", A);
    SNAP_DB_SAVE: Histogram = histogram("etcd_snap_db_save_total_duration_seconds", "Time to receive a database", B);

    // The network.
    GRPC_SENT_BYTES: IntCounter = counter("etcd_network_client_grpc_sent_bytes_total", "Bytes of messages sent to clients");
    GRPC_RECEIVED_BYTES: IntCounter = counter("etcd_network_client_grpc_received_bytes_total", "Bytes of messages received from clients");
    STREAM_FAILURES: IntCounterVec = counters("etcd_network_server_stream_failures_total", "Streams that broke", &["Type", "API"]);
    PEER_SENT_BYTES: IntCounterVec = counters("etcd_network_peer_sent_bytes_total", "Bytes sent to peers", &["To"]);
    PEER_RECEIVED_BYTES: IntCounterVec = counters("etcd_network_peer_received_bytes_total", "Bytes received from peers", &["From"]);
    PEER_SENT_FAILURES: IntCounterVec = counters("etcd_network_peer_sent_failures_total", "Messages to peers that failed", &["To"]);
    PEER_RECEIVED_FAILURES: IntCounterVec = counters("etcd_network_peer_received_failures_total", "Messages from peers that failed", &["From"]);
    PEER_ROUND_TRIP: HistogramVec = histograms("etcd_network_peer_round_trip_time_seconds", "Round trip time to peers", &["To"], Doubling(0.0001, 16).bounds());
    ACTIVE_PEERS: IntGaugeVec = gauges("etcd_network_active_peers", "1 for a peer that is connected", &["Local", "Remote"]);
    KNOWN_PEERS: IntGaugeVec = gauges("etcd_network_known_peers", "1 for every member, this one included", &["Local", "Remote"]);

    // The key-value store.
    DB_SIZE: IntGauge = gauge("etcd_mvcc_db_total_size_in_bytes", "Size of the database on disk");
    DB_SIZE_IN_USE: IntGauge = gauge("etcd_mvcc_db_total_size_in_use_in_bytes", "Bytes of the database that are live");
    DB_OPEN_READS: IntGauge = gauge("etcd_mvcc_db_open_read_transactions", "Readers that hold old revisions");
    RANGES: IntCounter = counter("etcd_mvcc_range_total", "Ranges read");
    PUTS: IntCounter = counter("etcd_mvcc_put_total", "Keys put");
    DELETES: IntCounter = counter("etcd_mvcc_delete_total", "Ranges deleted");
    TXNS: IntCounter = counter("etcd_mvcc_txn_total", "Transactions of more than one operation");
    HASH_DURATION: Histogram = histogram("etcd_mvcc_hash_duration_seconds", "Time to hash the whole store", G);
    HASH_REV_DURATION: Histogram = histogram("etcd_mvcc_hash_rev_duration_seconds", "Time to hash the store up to a revision", G);
    KEYS: IntGauge = gauge("etcd_debugging_mvcc_keys_total", "Live keys");
    CURRENT_REVISION: IntGauge = gauge("etcd_debugging_mvcc_current_revision", "Current revision");
    COMPACT_REVISION: IntGauge = gauge("etcd_debugging_mvcc_compact_revision", "Compacted revision, -1 if never");
    WATCH_STREAMS: IntGauge = gauge("etcd_debugging_mvcc_watch_stream_total", "Open watch streams");
    WATCHERS: IntGauge = gauge("etcd_debugging_mvcc_watcher_total", "Watchers");
    SLOW_WATCHERS: IntGauge = gauge("etcd_debugging_mvcc_slow_watcher_total", "Watchers that are behind");
    EVENTS: IntCounter = counter("etcd_debugging_mvcc_events_total", "Events sent to watchers");
    PENDING_EVENTS: IntGauge = gauge("etcd_debugging_mvcc_pending_events_total", "Events that wait to be sent");
    PUT_SIZE: IntGauge = gauge("etcd_debugging_mvcc_total_put_size_in_bytes", "Bytes of keys and values put");
    INDEX_COMPACTION_PAUSE: Histogram = histogram("etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds", "Pause for one compaction of the index", H_MS);
    DB_COMPACTION_PAUSE: Histogram = histogram("etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds", "Pause for one slice of a compaction", I_MS);
    DB_COMPACTION_TOTAL: Histogram = histogram("etcd_debugging_mvcc_db_compaction_total_duration_milliseconds", "Time a compaction took", J_MS);
    DB_COMPACTION_LAST: IntGauge = gauge("etcd_debugging_mvcc_db_compaction_last", "Unix time of the last compaction");
    DB_COMPACTION_KEYS: IntCounter = counter("etcd_debugging_mvcc_db_compaction_keys_total", "Revisions removed by compactions");

    // Leases, alarms, users.
    LEASES_GRANTED: IntCounter = counter("etcd_debugging_lease_granted_total", "Leases granted");
    LEASES_REVOKED: IntCounter = counter("etcd_debugging_lease_revoked_total", "Leases revoked");
    LEASES_RENEWED: IntCounter = counter("etcd_debugging_lease_renewed_total", "Leases renewed by this member");
    LEASE_TTL: Histogram = histogram("etcd_debugging_lease_ttl_total", "Granted times to live, in seconds", K);
    LEASES_EXPIRED: IntCounter = counter("etcd_debugging_server_lease_expired_total", "Leases that ran out");
    ALARMS: IntGaugeVec = gauges("etcd_debugging_server_alarms", "Alarms raised and not cleared", &["server_id", "alarm_type"]);
    AUTH_REVISION: IntGauge = gauge("etcd_debugging_auth_revision", "Revision of users and roles");

    // Where watch streams spend their time.
    WATCH_STREAM_DURATION: Histogram = histogram("etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds", "Time to hand a response to a watch stream", A);
    WATCH_STREAM_PER_EVENT: Histogram = histogram("etcd_debugging_server_watch_send_loop_watch_stream_duration_per_event_seconds", "The same, for each event", A);
    WATCH_CONTROL_DURATION: Histogram = histogram("etcd_debugging_server_watch_send_loop_control_stream_duration_seconds", "Time to hand a control response to a watch stream", A);
    WATCH_PROGRESS_DURATION: Histogram = histogram("etcd_debugging_server_watch_send_loop_progress_duration_seconds", "Time to hand progress to a watch stream", A);

    // Calls.
    GRPC_STARTED: IntCounterVec = counters("grpc_server_started_total", "Calls begun", &["grpc_type", "grpc_service", "grpc_method"]);
    GRPC_HANDLED: IntCounterVec = counters("grpc_server_handled_total", "Calls ended, by code", &["grpc_type", "grpc_service", "grpc_method", "grpc_code"]);
    GRPC_RECEIVED: IntCounterVec = counters("grpc_server_msg_received_total", "Messages received", &["grpc_type", "grpc_service", "grpc_method"]);
    GRPC_SENT: IntCounterVec = counters("grpc_server_msg_sent_total", "Messages sent", &["grpc_type", "grpc_service", "grpc_method"]);

    // The process.
    FD_USED: IntGauge = gauge("os_fd_used", "Open files");
    FD_LIMIT: IntGauge = gauge("os_fd_limit", "Limit of open files");
    PROCESS_CPU: Gauge = real("process_cpu_seconds_total", "Processor time used");
    PROCESS_OPEN_FDS: IntGauge = gauge("process_open_fds", "Open files");
    PROCESS_MAX_FDS: IntGauge = gauge("process_max_fds", "Limit of open files");
    PROCESS_RESIDENT: IntGauge = gauge("process_resident_memory_bytes", "Resident memory");
    PROCESS_VIRTUAL: IntGauge = gauge("process_virtual_memory_bytes", "Virtual memory");
    PROCESS_START: Gauge = real("process_start_time_seconds", "Unix time of the start");
    // Named as in etcd's exposition, which counts the proxy's cache in every server.
    PROXY_CACHE_HITS: IntGauge = gauge("etcd_grpc_proxy_cache_hits_total", "Reads the proxy answered from its cache");
    PROXY_CACHE_KEYS: IntGauge = gauge("etcd_grpc_proxy_cache_keys_total", "Keys in the proxy's cache");
    PROXY_CACHE_MISSES: IntGauge = gauge("etcd_grpc_proxy_cache_misses_total", "Reads the proxy passed on");
    SCRAPES: IntCounterVec = counters("promhttp_metric_handler_requests_total", "Scrapes, by HTTP status", &["code"]);
    SCRAPES_IN_FLIGHT: IntGauge = gauge("promhttp_metric_handler_requests_in_flight", "Scrapes being answered");
    // Own: where the time of a write goes.
    PHASES: HistogramVec = histograms("kv_request_phase_duration_seconds", "Time a write spends in each phase", &["phase"], D.bounds());
    BUDGETS: GaugeVec = reals("kv_budget_used_bytes", "Memory used for clients, by what it is for", &["budget"]);
}

/// The latency of calls, only with `--metrics=extensive`.
pub static GRPC_HANDLING: LazyLock<HistogramVec> = LazyLock::new(|| {
    histograms(
        "grpc_server_handling_seconds",
        "Time from a call's start to its end",
        &["grpc_type", "grpc_service", "grpc_method"],
        GRPC.to_vec(),
    )
});

/// Every metric in the text form that Prometheus reads.
pub fn text() -> String {
    register_all();
    let mut families = REGISTRY.gather();
    for family in &mut families {
        // The process's CPU time is a counter to Prometheus; the crate's counters of floats cannot be set.
        if family.name() == "process_cpu_seconds_total" {
            as_counter(family);
        }
    }
    let mut out = Vec::new();
    TextEncoder::new()
        .encode(&families, &mut out)
        .expect("a buffer in memory takes every text");
    String::from_utf8(out).expect("the text form is UTF-8")
}

fn as_counter(family: &mut prometheus::proto::MetricFamily) {
    let mut metrics = family.take_metric();
    for metric in &mut metrics {
        let mut counter = prometheus::proto::Counter::default();
        counter.set_value(metric.get_gauge().get_value());
        metric.set_counter(counter);
    }
    family.set_field_type(prometheus::proto::MetricType::COUNTER);
    family.set_metric(metrics);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn untouched_metrics_show_with_zero() {
        let text = text();
        assert!(
            text.contains("\netcd_server_slow_apply_total 0\n"),
            "{text}"
        );
        assert!(text.contains("# TYPE etcd_disk_wal_fsync_duration_seconds histogram\n"));
        assert!(
            text.contains(
                "# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total 0\n"
            )
        );
    }

    #[test]
    fn buckets_double() {
        let bounds = A.bounds();
        assert_eq!((bounds[0], bounds[13], bounds.len()), (0.001, 8.192, 14));
    }
}
