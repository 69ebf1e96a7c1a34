//! `endpoint`: what each server says of itself.

use std::ffi::OsString;
use std::time::Duration;
use std::time::Instant;

use clap::Args;
use clap::Subcommand;
use tokio::task::JoinSet;

use crate::client;
use crate::client::Client;
use crate::ctl::context::Context;
use crate::ctl::failure::Exit;
use crate::ctl::failure::Failure;
use crate::ctl::go;
use crate::ctl::json::Json;
use crate::ctl::render::Format;
use crate::ctl::render::Grid;
use crate::ctl::render::Page;
use crate::ctl::render::Render;
use crate::error::ApiError;
use crate::proto::etcdserverpb::AlarmRequest;
use crate::proto::etcdserverpb::AlarmType;
use crate::proto::etcdserverpb::HashKvRequest;
use crate::proto::etcdserverpb::HashKvResponse;
use crate::proto::etcdserverpb::MemberListRequest;
use crate::proto::etcdserverpb::RangeRequest;
use crate::proto::etcdserverpb::StatusRequest;
use crate::proto::etcdserverpb::StatusResponse;
use crate::util::text::format_duration;

/// Endpoint related commands
#[derive(Debug, Args)]
pub struct Endpoint {
    /// use all endpoints from the cluster member list
    #[arg(long, global = true)]
    cluster: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Checks the healthiness of endpoints specified in `--endpoints` flag
    #[command(override_usage = "health")]
    Health(Words),
    /// Prints out the status of endpoints specified in `--endpoints` flag
    ///
    /// In the simple format a line holds, separated by commas: endpoint, ID, version, storage version,
    /// size, size in use, percentage not in use, quota, is leader, is learner, raft term, raft index,
    /// raft applied index, errors, downgrade target version, downgrade enabled.
    #[command(override_usage = "status")]
    Status(Words),
    /// Prints the KV history hash for each endpoint in --endpoints
    #[command(override_usage = "hashkv")]
    Hashkv(HashKv),
}

#[derive(Debug, Args)]
struct Words {
    #[arg(hide = true)]
    words: Vec<OsString>,
}

#[derive(Debug, Args)]
struct HashKv {
    #[arg(hide = true)]
    words: Vec<OsString>,

    /// maximum revision to hash (default: latest revision)
    #[arg(long, value_name = "int", default_value = "0")]
    rev: i64,
}

impl Endpoint {
    pub async fn run(self, context: &mut Context) -> Result<(), Failure> {
        let cluster =
            self.cluster || go::parse_bool(context.variable("ETCDCTL_CLUSTER")) == Ok(true);
        let endpoints = endpoints(cluster, context).await?;
        match self.command {
            Command::Health(_) => health(endpoints, context).await,
            Command::Status(_) => status(endpoints, context).await,
            Command::Hashkv(command) => hash_kv(endpoints, command.rev, context).await,
        }
    }
}

/// The endpoints that were given, or those of all members.
pub async fn endpoints(cluster: bool, context: &mut Context) -> Result<Vec<String>, Failure> {
    if !cluster {
        return Ok(context.settings()?.config.endpoints.clone());
    }
    let client = context.client().await?.cluster();
    let members = client.list(MemberListRequest { linearizable: true }).await;
    let members = members.map_err(|error| {
        Failure::error(format!(
            "failed to fetch endpoints from etcd cluster member list: {error}"
        ))
    })?;
    let members = members.members.into_iter();
    Ok(members.flat_map(|member| member.client_ur_ls).collect())
}

/// All endpoints at once, reported in the order in which they answer.
async fn health(endpoints: Vec<String>, context: &mut Context) -> Result<(), Failure> {
    let config = context.settings()?.config.clone();
    let mut probes = JoinSet::new();
    for endpoint in endpoints {
        let config = client::Config {
            endpoints: vec![endpoint.clone()],
            ..config.clone()
        };
        probes.spawn(probe(endpoint, config));
    }
    let reports = Health(probes.join_all().await);
    context.print(&reports)?;
    if context.format()? == Format::Simple {
        for report in reports.0.iter().filter(|report| !report.error.is_empty()) {
            eprintln!(
                "{} is unhealthy: failed to commit proposal: {}",
                report.endpoint, report.error
            );
        }
    }
    if reports.0.iter().any(|report| !report.error.is_empty()) {
        return Err(Failure::error("unhealthy cluster"));
    }
    Ok(())
}

async fn probe(endpoint: String, config: client::Config) -> Report {
    let start = Instant::now();
    let error = match ask(config).await {
        Ok(alarms) => alarms,
        Err(error) => error.to_string(),
    };
    Report {
        endpoint,
        took: start.elapsed(),
        error,
    }
}

/// Reads a key through consensus, then the alarms. Returns what is wrong, if anything.
async fn ask(config: client::Config) -> client::Result<String> {
    let client = Client::connect(config).await?;
    let request = RangeRequest {
        key: b"health".to_vec(),
        ..Default::default()
    };
    match client.kv().range(request).await {
        // Whoever is refused a key has spoken to a working server.
        Err(error) if !error.is(ApiError::PermissionDenied) => return Err(error),
        _ => {}
    }
    let Ok(response) = client.maintenance().alarm(AlarmRequest::default()).await else {
        return Ok("Unable to fetch the alarm list".into());
    };
    let names = response.alarms.iter().map(|alarm| match alarm.alarm() {
        AlarmType::Nospace => "NOSPACE ",
        AlarmType::Corrupt => "CORRUPT ",
        AlarmType::None => "UNKNOWN ",
    });
    let names: String = names.collect();
    Ok(match names.as_str() {
        "" => names,
        _ => format!("Active Alarm(s): {names}"),
    })
}

async fn status(endpoints: Vec<String>, context: &mut Context) -> Result<(), Failure> {
    let mut rows = Vec::new();
    let mut failed = false;
    for endpoint in endpoints {
        let maintenance = context.client_of(&endpoint).await?.maintenance();
        match maintenance.status(StatusRequest {}).await {
            Ok(response) => rows.push((endpoint, response)),
            Err(error) => {
                eprintln!("Failed to get the status of endpoint {endpoint} ({error})");
                failed = true;
            }
        }
    }
    context.print(&Status(rows))?;
    match failed {
        true => Err(Failure::told(Exit::Error)),
        false => Ok(()),
    }
}

async fn hash_kv(
    endpoints: Vec<String>,
    revision: i64,
    context: &mut Context,
) -> Result<(), Failure> {
    let mut rows = Vec::new();
    let mut last = None;
    for endpoint in endpoints {
        let maintenance = context.client_of(&endpoint).await?.maintenance();
        match maintenance.hash_kv(HashKvRequest { revision }).await {
            Ok(response) => rows.push((endpoint, response)),
            Err(error) => {
                eprintln!("Failed to get the hash of endpoint {endpoint} ({error})");
                last = Some(error);
            }
        }
    }
    context.print(&Hashes(rows))?;
    last.map_or(Ok(()), |error| Err(error.into()))
}

const FORMATS: &[Format] = &[Format::Simple, Format::Table, Format::Json, Format::Fields];

struct Report {
    endpoint: String,
    took: Duration,
    /// Empty if the endpoint is healthy.
    error: String,
}

impl Report {
    fn healthy(&self) -> bool {
        self.error.is_empty()
    }
}

struct Health(Vec<Report>);

impl Render for Health {
    fn formats(&self) -> &'static [Format] {
        FORMATS
    }

    fn simple(&self, page: &mut Page) {
        for report in self.0.iter().filter(|report| report.healthy()) {
            page.line(format_args!(
                "{} is healthy: successfully committed proposal: took = {}",
                report.endpoint,
                format_duration(report.took)
            ));
        }
    }

    fn fields(&self, page: &mut Page) {
        for report in &self.0 {
            page.quoted("Endpoint", &report.endpoint);
            page.field("Health", report.healthy());
            page.field("Took", format_duration(report.took));
            page.field("Error", &report.error);
            page.line("");
        }
    }

    fn table(&self) -> Grid {
        let row = |report: &Report| {
            vec![
                report.endpoint.clone(),
                report.healthy().to_string(),
                format_duration(report.took),
                report.error.clone(),
            ]
        };
        Grid {
            heading: &["ENDPOINT", "HEALTH", "TOOK", "ERROR"],
            rows: self.0.iter().map(row).collect(),
        }
    }

    fn json(&self, _: bool) -> Json {
        let report = |report: &Report| {
            let mut fields = Json::object([
                ("endpoint", Json::text(&report.endpoint)),
                ("health", Json::Bool(report.healthy())),
                ("took", Json::text(format_duration(report.took))),
            ])
            .into_fields();
            if !report.healthy() {
                fields.push(("error".into(), Json::text(&report.error)));
            }
            Json::Object(fields)
        };
        Json::list_or_null(self.0.iter().map(report).collect())
    }
}

struct Status(Vec<(String, StatusResponse)>);

/// The cells of one endpoint's status, as in the simple and table formats.
fn cells(endpoint: &str, status: &StatusResponse) -> Vec<String> {
    let header = status.header.unwrap_or_default();
    let size = |bytes: i64| go::human_size(bytes.max(0) as u64);
    let in_use = match status.db_size {
        0 => 0,
        size => status.db_size_in_use * 100 / size,
    };
    let downgrade = status.downgrade_info.clone().unwrap_or_default();
    vec![
        endpoint.to_string(),
        format!("{:x}", header.member_id),
        status.version.clone(),
        status.storage_version.clone(),
        size(status.db_size),
        size(status.db_size_in_use),
        format!("{}%", 100 - in_use),
        size(status.db_size_quota),
        (status.leader == header.member_id).to_string(),
        status.is_learner.to_string(),
        status.raft_term.to_string(),
        status.raft_index.to_string(),
        status.raft_applied_index.to_string(),
        status.errors.join(", "),
        downgrade.target_version,
        downgrade.enabled.to_string(),
    ]
}

impl Render for Status {
    fn formats(&self) -> &'static [Format] {
        FORMATS
    }

    fn simple(&self, page: &mut Page) {
        for (endpoint, status) in &self.0 {
            page.line(cells(endpoint, status).join(", "));
        }
    }

    fn fields(&self, page: &mut Page) {
        for (endpoint, status) in &self.0 {
            let downgrade = status.downgrade_info.clone().unwrap_or_default();
            page.header(&status.header);
            page.quoted("Version", &status.version);
            page.quoted("StorageVersion", &status.storage_version);
            page.field("DBSize", status.db_size);
            page.field("DBSizeInUse", status.db_size_in_use);
            page.field("DBSizeQuota", status.db_size_quota);
            page.field("Leader", status.leader);
            page.field("IsLearner", status.is_learner);
            page.field("RaftIndex", status.raft_index);
            page.field("RaftTerm", status.raft_term);
            page.field("RaftAppliedIndex", status.raft_applied_index);
            page.field("Errors", format_args!("[{}]", status.errors.join(" ")));
            page.quoted("Endpoint", endpoint);
            page.quoted("DowngradeTargetVersion", &downgrade.target_version);
            page.field("DowngradeEnabled", downgrade.enabled);
            page.line("");
        }
    }

    fn table(&self) -> Grid {
        Grid {
            heading: &[
                "ENDPOINT",
                "ID",
                "VERSION",
                "STORAGE VERSION",
                "DB SIZE",
                "IN USE",
                "PERCENTAGE NOT IN USE",
                "QUOTA",
                "IS LEADER",
                "IS LEARNER",
                "RAFT TERM",
                "RAFT INDEX",
                "RAFT APPLIED INDEX",
                "ERRORS",
                "DOWNGRADE TARGET VERSION",
                "DOWNGRADE ENABLED",
            ],
            rows: self
                .0
                .iter()
                .map(|(endpoint, status)| cells(endpoint, status))
                .collect(),
        }
    }

    fn json(&self, _: bool) -> Json {
        let row = |(endpoint, status): &(String, StatusResponse)| {
            Json::object([
                ("Endpoint", Json::text(endpoint)),
                ("Status", Json::message("StatusResponse", status)),
            ])
        };
        Json::list_or_null(self.0.iter().map(row).collect())
    }
}

struct Hashes(Vec<(String, HashKvResponse)>);

impl Render for Hashes {
    fn formats(&self) -> &'static [Format] {
        FORMATS
    }

    fn simple(&self, page: &mut Page) {
        for (endpoint, hash) in &self.0 {
            page.line(format_args!(
                "{endpoint}, {}, {}",
                hash.hash, hash.hash_revision
            ));
        }
    }

    fn fields(&self, page: &mut Page) {
        for (endpoint, hash) in &self.0 {
            page.header(&hash.header);
            page.quoted("Endpoint", endpoint);
            page.field("Hash", hash.hash);
            page.field("HashRevision", hash.hash_revision);
            page.line("");
        }
    }

    fn table(&self) -> Grid {
        let row = |(endpoint, hash): &(String, HashKvResponse)| {
            vec![
                endpoint.clone(),
                hash.hash.to_string(),
                hash.hash_revision.to_string(),
            ]
        };
        Grid {
            heading: &["ENDPOINT", "HASH", "HASH REVISION"],
            rows: self.0.iter().map(row).collect(),
        }
    }

    fn json(&self, _: bool) -> Json {
        let row = |(endpoint, hash): &(String, HashKvResponse)| {
            Json::object([
                ("Endpoint", Json::text(endpoint)),
                ("HashKV", Json::message("HashKVResponse", hash)),
            ])
        };
        Json::list_or_null(self.0.iter().map(row).collect())
    }
}
