//! What a member sees to by itself: that the cluster knows it and has a version, that files do not run out.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::info;
use tracing::warn;

use super::config::Config;
use super::flags::GATES;
use super::member::CLUSTER_VERSION;
use super::member::Member;
use super::member::VERSION;
use super::process;
use crate::error::Error;
use crate::machine::Command;
use crate::proto::kvpb::Attributes;
use crate::proto::kvpb::ClusterMemberAttrSetRequest;
use crate::proto::kvpb::ClusterVersionSetRequest;
use crate::util::metrics;
use crate::util::telemetry::raw;
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
    info!("cluster-version" = CLUSTER_VERSION, "cluster version is updated");
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
    let typed = &config.typed;
    let list = |urls: &[super::url::Url]| {
        raw(urls.iter().map(|url| url.to_string()).collect::<Vec<_>>())
    };
    let nanos = |name: &str| {
        let nanos = u64::try_from(typed.duration(name)).unwrap_or(0);
        text::format_duration(Duration::from_nanos(nanos))
    };
    let wal_dir = config
        .wal_dir
        .as_ref()
        .map_or_else(String::new, |dir| dir.display().to_string());
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let (retention, interval) = retention_text(config);
    info!(
        "etcd-version" = VERSION,
        "git-sha" = option_env!("KV_GIT_SHA").unwrap_or("unknown"),
        "go-version" = "none",
        "go-os" = std::env::consts::OS,
        "go-arch" = "amd64",
        "max-cpu-set" = 1,
        "max-cpu-available" = cpus,
        "member-initialized" = initialized,
        name = config.name,
        "data-dir" = %config.data_dir.display(),
        "wal-dir" = wal_dir,
        "wal-dir-dedicated" = wal_dir,
        "member-dir" = %config.data_dir.join("member").display(),
        "force-new-cluster" = typed.bool("force-new-cluster"),
        "heartbeat-interval" = %text::format_duration(config.heartbeat),
        "election-timeout" = %text::format_duration(config.election),
        "initial-election-tick-advance" = typed.bool("initial-election-tick-advance"),
        "snapshot-count" = config.snapshot_count,
        "max-wals" = config.max_wals,
        "max-snapshots" = typed.uint("max-snapshots"),
        "snapshot-catchup-entries" = config.catchup_entries,
        "initial-advertise-peer-urls" = ?list(&config.advertise_peer),
        "listen-peer-urls" = ?list(&config.listen_peer),
        "advertise-client-urls" = ?list(&config.advertise_client),
        "listen-client-urls" = ?list(&config.listen_client),
        "listen-metrics-urls" = ?list(&config.listen_metrics),
        "initial-cluster" = config.initial_cluster,
        "initial-cluster-state" = typed.text("initial-cluster-state"),
        "initial-cluster-token" = config.token,
        "starting an etcd server"
    );
    // The fields of one event are limited in number; a second line has the rest of etcd's.
    info!(
        "local-address" = "",
        cors = ?raw(config.cors.clone()),
        "host-whitelist" = ?raw(config.host_whitelist.clone()),
        "quota-backend-bytes" = config.effective_quota(),
        "max-request-bytes" = config.max_request_bytes,
        "max-concurrent-streams" = config.max_concurrent_streams,
        "pre-vote" = config.pre_vote,
        "feature-gates" = typed.list("feature-gates").join(","),
        "initial-corrupt-check" = config.gate("InitialCorruptCheck"),
        "corrupt-check-time-interval" = nanos("corrupt-check-time"),
        "compact-check-time-interval" = nanos("compact-hash-check-time"),
        "auto-compaction-mode" = typed.text("auto-compaction-mode"),
        "auto-compaction-retention" = retention,
        "auto-compaction-interval" = interval,
        "downgrade-check-interval" = nanos("downgrade-check-time"),
        "max-learners" = typed.int("max-learners"),
        "v2-deprecation" = "write-only",
        "storage-engine" = config.storage_engine,
        "value-cache-bytes" = config.cache_bytes,
        "settings of the server"
    );
}

fn retention_text(config: &Config) -> (String, String) {
    use super::config::Retention;
    let retention = match config.retention {
        Retention::Nothing => Duration::ZERO,
        Retention::Period(period) => period,
        Retention::Revisions(revisions) => Duration::from_nanos(revisions.unsigned_abs()),
    };
    let text = text::format_duration(retention);
    (text.clone(), text)
}
