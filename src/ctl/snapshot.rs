//! `snapshot save`: a server's whole state as one file, complete or not there at all.

use std::ffi::OsString;
use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::io::Seek;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use clap::Subcommand;

use crate::client::Responses;
use crate::ctl::context::Context;
use crate::ctl::failure::Exit;
use crate::ctl::failure::Failure;
use crate::ctl::flags;
use crate::ctl::go;
use crate::ctl::json::Json;
use crate::ctl::log;
use crate::proto::etcdserverpb::SnapshotResponse;
use crate::util::text::format_duration;

/// What the length of a snapshot file leaves when divided by a disk block: the digest at its end.
const DIGEST_BYTES: u64 = 32;
const BLOCK_BYTES: u64 = 512;

/// Manages etcd node snapshots
#[derive(Debug, Args)]
pub struct Snapshot {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Stores an etcd node backend snapshot to a given file
    #[command(
        override_usage = "save <filename>",
        after_help = "  etcdctl snapshot save /backup/etcd-snapshot.db\n  \
                      etcdctl --endpoints=127.0.0.1:3000 snapshot save /backup/etcd-snapshot.db"
    )]
    Save(Save),
}

#[derive(Debug, Args)]
struct Save {
    #[arg(value_name = "filename")]
    words: Vec<OsString>,
}

impl Snapshot {
    pub async fn run(self, context: &mut Context) -> Result<(), Failure> {
        let Command::Save(Save { words }) = self.command;
        let [path] = &words[..] else {
            return Err(Failure::args(
                "snapshot save expects one argument <filename>",
            ));
        };
        let version = save(Path::new(path), context).await?;
        context.line(format_args!("Snapshot saved at {}", path.to_string_lossy()))?;
        if !version.is_empty() {
            context.line(format_args!("Server version {version}"))?;
        }
        Ok(())
    }
}

/// Fetches a snapshot into `path`; returns the version of the storage it was made from.
async fn save(path: &Path, context: &mut Context) -> Result<String, Failure> {
    let endpoints = context.settings()?.config.endpoints.clone();
    let [endpoint] = &endpoints[..] else {
        return Err(interrupted(format!(
            "snapshot must be requested to one selected node, not multiple [{}]",
            endpoints.join(" ")
        )));
    };
    // Without a wish of the user's there is no limit: states are of any size.
    let timeout = match context.is_set("command-timeout") {
        true => Some(context.command_timeout()?),
        false => None,
    };
    let client = context.client().await?.with_timeout(timeout);
    let part = Part::create(path)?;
    tell(
        "created temporary db file",
        [("path", part.path.display().to_string())],
    );
    let start = Instant::now();
    tell("fetching snapshot", [("endpoint", endpoint.clone())]);
    let maintenance = client.maintenance();
    let fetch = async {
        let responses = maintenance.snapshot().await;
        let responses = responses.map_err(|error| interrupted(status_text(&error)))?;
        part.fill(responses).await
    };
    let (mut part, version) = match timeout {
        Some(timeout) => tokio::time::timeout(timeout, fetch)
            .await
            .unwrap_or_else(|_| Err(interrupted("context deadline exceeded")))?,
        None => fetch.await?,
    };
    let size = part.finish(path)?;
    let took = format_duration(start.elapsed());
    tell(
        "fetched snapshot",
        [
            ("endpoint", endpoint.clone()),
            ("size", go::human_size(size)),
            ("took", took),
            ("etcd-version", version.clone()),
        ],
    );
    tell("saved", [("path", path.display().to_string())]);
    Ok(version)
}

/// The unfinished file. Dropped before it is finished, it is removed.
struct Part {
    path: PathBuf,
    file: File,
    finished: bool,
}

impl Part {
    fn create(target: &Path) -> Result<Part, Failure> {
        let mut path = target.as_os_str().to_owned();
        path.push(".part");
        let path = PathBuf::from(path);
        let shown = path.display().to_string();
        // What an earlier attempt left behind is of no use.
        let _ = fs::remove_file(&path);
        let opened = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path);
        let file = opened.map_err(|error| {
            let why = flags::unreadable(&shown, &error);
            interrupted(format!("could not open {shown} ({why})"))
        })?;
        Ok(Part {
            path,
            file,
            finished: false,
        })
    }

    /// Writes what the server sends until it ends.
    async fn fill(
        mut self,
        mut responses: Responses<SnapshotResponse>,
    ) -> Result<(Part, String), Failure> {
        let mut version = String::new();
        loop {
            let response = responses.next().await;
            let response = response.map_err(|error| interrupted(status_text(&error)))?;
            let Some(response) = response else {
                return Ok((self, version));
            };
            if version.is_empty() {
                version = response.version;
            }
            self.file
                .write_all(&response.blob)
                .map_err(|error| interrupted(flags::reason(&error)))?;
        }
    }

    /// Checks the length, makes the file durable and gives it its name. Returns its size.
    fn finish(&mut self, target: &Path) -> Result<u64, Failure> {
        let refused = |error: std::io::Error| interrupted(flags::reason(&error));
        let size = self.file.stream_position().map_err(refused)?;
        if size % BLOCK_BYTES != DIGEST_BYTES {
            return Err(interrupted(format!(
                "sha256 checksum not found [bytes: {size}]"
            )));
        }
        self.file.sync_all().map_err(refused)?;
        fs::rename(&self.path, target).map_err(|error| {
            let (part, target) = (self.path.display(), target.display());
            let why = flags::reason(&error);
            interrupted(format!("could not rename {part} to {target} ({why})"))
        })?;
        self.finished = true;
        // The new name is in the directory, which has to reach the disk as well.
        let directory = target
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))
            .and_then(|d| d.sync_all())
            .map_err(refused)?;
        Ok(size)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.finished {
            // Best effort: the failure that led here is the one to report.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A failed call, with its code even if the refusal is a known one.
fn status_text(error: &crate::client::Error) -> String {
    match error {
        crate::client::Error::Status { .. } => error.status_text(),
        other => other.to_string(),
    }
}

fn interrupted(message: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Interrupted, message)
}

fn tell<const N: usize>(message: &str, fields: [(&str, String); N]) {
    let fields = fields.into_iter();
    let fields = fields.map(|(name, value)| (name.to_string(), Json::text(value)));
    log::line("info", "ctl/snapshot.rs", message, fields.collect());
}
