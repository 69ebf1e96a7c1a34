//! What a member sees to by itself: that the cluster knows it and has a version, that files do not run out.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tracing::info;
use tracing::warn;

use super::config::Config;
use super::config::Retention;
use super::flags::GATES;
use super::member::CLUSTER_VERSION;
use super::member::Member;
use super::member::VERSION;
use super::process;
use super::url::Url;
use crate::error::Error;
use crate::machine::Command;
use crate::proto::kvpb::Attributes;
use crate::proto::kvpb::ClusterMemberAttrSetRequest;
use crate::proto::kvpb::ClusterVersionSetRequest;
use crate::util::metrics;
use crate::util::telemetry::fields;
use crate::util::text;

const FILES_INTERVAL: Duration = Duration::from_secs(600);
const VERSION_INTERVAL: Duration = Duration::from_millis(100);

/// Tells the cluster this member's name and client addresses, and gives a new cluster its version.
/// Tried until it succeeds: a member without a quorum does not get beyond this.
pub async fn publish(member: &Member) {
    while let Err(error) = settle_version(member).await {
        warn!(error = %error, "failed to set the cluster version");
        tokio::time::sleep(VERSION_INTERVAL).await;
    }
    let identity = member.identity();
    let timeout = member.config.request_timeout();
    let urls: Vec<String> = client_urls(&member.config);
    let described = format!(
        "{{Name:{} ClientURLs:[{}]}}",
        member.config.name,
        urls.join(" ")
    );
    while let Err(error) = announce(member, &urls).await {
        warn!(
            "local-member-id" = format!("{:x}", identity.member_id),
            "local-member-attributes" = described,
            "publish-timeout" = %text::format_duration(timeout),
            error = %error,
            "failed to publish local member to cluster through raft"
        );
        tokio::time::sleep(VERSION_INTERVAL).await;
    }
    info!(
        "local-member-id" = format!("{:x}", identity.member_id),
        "local-member-attributes" = described,
        "cluster-id" = format!("{:x}", identity.cluster_id),
        "publish-timeout" = %text::format_duration(timeout),
        "published local member to cluster through raft"
    );
}

fn client_urls(config: &Config) -> Vec<String> {
    config
        .advertise_client
        .iter()
        .map(|url| url.to_string())
        .collect()
}

async fn announce(member: &Member, urls: &[String]) -> Result<(), Error> {
    let request = ClusterMemberAttrSetRequest {
        member_id: member.identity().member_id,
        member_attributes: Some(Attributes {
            name: member.config.name.clone(),
            client_urls: urls.to_vec(),
        }),
    };
    member
        .propose(Command::ClusterMemberAttrSet(request))
        .await
        .map(|_| ())
}

async fn settle_version(member: &Member) -> Result<(), Error> {
    member.await_leading().await?;
    let identity = member.identity();
    if member.cluster_version().is_none() {
        info!(
            "cluster-version" = CLUSTER_VERSION,
            "setting up initial cluster version using v3 API"
        );
        let request = ClusterVersionSetRequest {
            ver: format!("{CLUSTER_VERSION}.0"),
        };
        member.propose(Command::ClusterVersionSet(request)).await?;
        info!(
            "cluster-id" = format!("{:x}", identity.cluster_id),
            "local-member-id" = format!("{:x}", identity.member_id),
            "cluster-version" = CLUSTER_VERSION,
            "set initial cluster version"
        );
        info!(
            "new-storage-version" = format!("{CLUSTER_VERSION}.0"),
            "updated storage version"
        );
    }
    info!(
        "cluster-version" = CLUSTER_VERSION,
        "enabled capabilities for version"
    );
    info!(
        "cluster-version" = CLUSTER_VERSION,
        "cluster version is updated"
    );
    metrics::CLUSTER_VERSION
        .with_label_values(&[CLUSTER_VERSION])
        .set(1);
    Ok(())
}

/// Sets the gauges that do not change while the member runs.
pub fn describe(member: &Member) {
    let id = format!("{:x}", member.identity().member_id);
    metrics::VERSION.with_label_values(&[VERSION]).set(1);
    metrics::GO_VERSION.with_label_values(&["none"]).set(1);
    metrics::SERVER_ID.with_label_values(&[&id]).set(1);
    metrics::QUOTA.set(member.config.effective_quota());
    for (name, stage, _) in GATES {
        metrics::FEATURE_ENABLED
            .with_label_values(&[name, stage])
            .set(i64::from(member.config.gate(name)));
    }
}

/// Warns while open files are about to run out, until `stop`.
pub async fn watch_files(stop: CancellationToken) {
    loop {
        let (open, limit) = process::files();
        metrics::FD_USED.set(open as i64);
        metrics::FD_LIMIT.set(i64::try_from(limit).unwrap_or(i64::MAX));
        if open >= limit / 5 * 4 {
            warn!(
                "used-file-descriptors" = open,
                "file-descriptor-limit" = limit,
                "80% of file descriptors are used"
            );
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(FILES_INTERVAL) => {}
        }
    }
}

/// Gives space back at the start, if it is as much as the threshold.
pub async fn defragment_at_start(member: &Arc<Member>) {
    let threshold = member.config.defrag_threshold;
    if threshold == 0 {
        return;
    }
    let tables = member.node.tables().clone();
    let done = tokio::task::spawn_blocking(move || {
        let (disk, live) = tables.size()?;
        let free = disk.saturating_sub(live);
        if free < threshold {
            info!(
                "current-db-size-bytes" = disk,
                "current-db-size-in-use-bytes" = live,
                "experimental-bootstrap-defrag-threshold-bytes" = threshold,
                "Skipping defragmentation"
            );
            return Ok(());
        }
        tables.compact()
    });
    match done.await {
        Ok(Ok(())) => {}
        Ok(Err(fault)) => warn!(error = %fault, "failed to defragment at the start"),
        Err(error) => warn!(error = %error, "failed to defragment at the start"),
    }
}

/// The line that tells how the server starts; tools read its fields.
pub fn log_start(config: &Config, initialized: bool) {
    let mut all = identity_fields(config, initialized);
    all.extend(cluster_fields(config));
    all.extend(limit_fields(config));
    info!("" = ?fields(all), "starting an etcd server");
}

type Fields = Vec<(&'static str, Value)>;

fn urls(urls: &[Url]) -> Value {
    urls.iter().map(|url| url.to_string()).collect()
}

fn nanos(config: &Config, name: &str) -> Value {
    let nanos = u64::try_from(config.typed.duration(name)).unwrap_or(0);
    text::format_duration(Duration::from_nanos(nanos)).into()
}

fn identity_fields(config: &Config, initialized: bool) -> Fields {
    let typed = &config.typed;
    let wal_dir = config
        .wal_dir
        .as_ref()
        .map_or_else(String::new, |dir| dir.display().to_string());
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    vec![
        ("etcd-version", VERSION.into()),
        ("git-sha", env!("CARGO_PKG_VERSION").into()),
        ("go-version", "none".into()),
        ("go-os", "linux".into()),
        ("go-arch", "amd64".into()),
        ("max-cpu-set", 1.into()),
        ("max-cpu-available", cpus.into()),
        ("member-initialized", initialized.into()),
        ("name", config.name.clone().into()),
        ("data-dir", config.data_dir.display().to_string().into()),
        ("wal-dir", wal_dir.clone().into()),
        ("wal-dir-dedicated", wal_dir.into()),
        (
            "member-dir",
            config.data_dir.join("member").display().to_string().into(),
        ),
        ("force-new-cluster", typed.bool("force-new-cluster").into()),
        (
            "heartbeat-interval",
            text::format_duration(config.heartbeat).into(),
        ),
        (
            "election-timeout",
            text::format_duration(config.election).into(),
        ),
        (
            "initial-election-tick-advance",
            typed.bool("initial-election-tick-advance").into(),
        ),
        ("snapshot-count", config.snapshot_count.into()),
        ("max-wals", config.max_wals.into()),
        ("max-snapshots", typed.uint("max-snapshots").into()),
        ("snapshot-catchup-entries", config.catchup_entries.into()),
    ]
}

fn cluster_fields(config: &Config) -> Fields {
    let typed = &config.typed;
    vec![
        ("initial-advertise-peer-urls", urls(&config.advertise_peer)),
        ("listen-peer-urls", urls(&config.listen_peer)),
        ("advertise-client-urls", urls(&config.advertise_client)),
        ("listen-client-urls", urls(&config.listen_client)),
        ("listen-metrics-urls", urls(&config.listen_metrics)),
        ("local-address", "".into()),
        ("cors", config.cors.clone().into()),
        ("host-whitelist", config.host_whitelist.clone().into()),
        ("initial-cluster", config.initial_cluster.clone().into()),
        (
            "initial-cluster-state",
            typed.text("initial-cluster-state").into(),
        ),
        ("initial-cluster-token", config.token.clone().into()),
    ]
}

fn limit_fields(config: &Config) -> Fields {
    let typed = &config.typed;
    let retention = match config.retention {
        Retention::Nothing => Duration::ZERO,
        Retention::Period(period) => period,
        Retention::Revisions(revisions) => Duration::from_nanos(revisions.unsigned_abs()),
    };
    let retention = text::format_duration(retention);
    let mut fields: Fields = vec![
        ("quota-backend-bytes", config.effective_quota().into()),
        ("max-request-bytes", config.max_request_bytes.into()),
        (
            "max-concurrent-streams",
            config.max_concurrent_streams.into(),
        ),
        ("pre-vote", config.pre_vote.into()),
        (
            "feature-gates",
            typed.list("feature-gates").join(",").into(),
        ),
        (
            "initial-corrupt-check",
            config.gate("InitialCorruptCheck").into(),
        ),
        (
            "corrupt-check-time-interval",
            nanos(config, "corrupt-check-time"),
        ),
        (
            "compact-check-time-interval",
            nanos(config, "compact-hash-check-time"),
        ),
        (
            "auto-compaction-mode",
            typed.text("auto-compaction-mode").into(),
        ),
        ("auto-compaction-retention", retention.clone().into()),
        ("auto-compaction-interval", retention.into()),
    ];
    for name in [
        "discovery-dial-timeout",
        "discovery-request-timeout",
        "discovery-keepalive-time",
        "discovery-keepalive-timeout",
    ] {
        fields.push((name, nanos(config, name)));
    }
    for name in [
        "discovery-token",
        "discovery-cert",
        "discovery-key",
        "discovery-cacert",
        "discovery-user",
    ] {
        fields.push((name, typed.text(name).into()));
    }
    fields.extend([
        (
            "discovery-endpoints",
            typed.list("discovery-endpoints").join(",").into(),
        ),
        (
            "discovery-insecure-transport",
            typed.bool("discovery-insecure-transport").into(),
        ),
        (
            "discovery-insecure-skip-tls-verify",
            typed.bool("discovery-insecure-skip-tls-verify").into(),
        ),
        (
            "downgrade-check-interval",
            nanos(config, "downgrade-check-time"),
        ),
        ("max-learners", typed.int("max-learners").into()),
        ("v2-deprecation", "write-only".into()),
        ("storage-engine", config.storage_engine.clone().into()),
        ("value-cache-bytes", config.cache_bytes.into()),
    ]);
    fields
}
