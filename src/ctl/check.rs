//! `check`: whether a cluster is fast enough, and how much memory keys take.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use clap::Args;
use clap::Subcommand;
use indicatif::ProgressBar;
use indicatif::ProgressStyle;
use tokio::sync::Mutex;
use tokio::task::JoinSet;

use crate::client;
use crate::client::Client;
use crate::client::prefix_end;
use crate::ctl::context::Context;
use crate::ctl::failure::Exit;
use crate::ctl::failure::Failure;
use crate::ctl::go;
use crate::proto::etcdserverpb::CompactionRequest;
use crate::proto::etcdserverpb::DefragmentRequest;
use crate::proto::etcdserverpb::DeleteRangeRequest;
use crate::proto::etcdserverpb::PutRequest;
use crate::proto::etcdserverpb::RangeRequest;

/// How long the performance check writes.
const PERF_TIME: Duration = Duration::from_secs(60);

/// Random bytes after the prefix of each key, and in each value.
const KEY_BYTES: usize = 256;
const VALUE_BYTES: usize = 1024;

/// What a healthy cluster stays below.
const SLOWEST: f64 = 0.5;
const STDDEV: f64 = 0.1;

/// commands for checking properties of the etcd cluster
#[derive(Debug, Args)]
pub struct Check {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check the performance of the etcd cluster
    #[command(override_usage = "perf [options]")]
    Perf(Perf),
    /// Check the memory usage of holding data for different workloads on a given server endpoint.
    ///
    /// The first endpoint is the one that is looked at.
    #[command(override_usage = "datascale [options]", verbatim_doc_comment)]
    Datascale(DataScale),
}

#[derive(Debug, Args)]
struct Perf {
    /// The workload: s(small), m(medium), l(large) or xl(xLarge), which differ in clients and rate
    #[arg(long, value_name = "string", default_value = "s")]
    load: String,

    /// The prefix of the keys that are written
    #[arg(long, value_name = "string", default_value = "/etcdctl-check-perf/")]
    prefix: String,

    /// Compact storage with last revision after test is finished.
    #[arg(long, verbatim_doc_comment)]
    auto_compact: bool,

    /// Defragment storage after test is finished.
    #[arg(long, verbatim_doc_comment)]
    auto_defrag: bool,
}

#[derive(Debug, Args)]
struct DataScale {
    /// The workload: s(small), m(medium), l(large) or xl(xLarge), which differ in clients and keys
    #[arg(long, value_name = "string", default_value = "s")]
    load: String,

    /// The prefix of the keys that are written
    #[arg(
        long,
        value_name = "string",
        default_value = "/etcdctl-check-datascale/"
    )]
    prefix: String,

    /// Compact storage with last revision after test is finished.
    #[arg(long, verbatim_doc_comment)]
    auto_compact: bool,

    /// Defragment storage after test is finished.
    #[arg(long, verbatim_doc_comment)]
    auto_defrag: bool,
}

/// A size of workload, by its letter or its word.
fn load(name: &str) -> Result<usize, Failure> {
    const NAMES: [[&str; 2]; 4] = [
        ["s", "small"],
        ["m", "medium"],
        ["l", "large"],
        ["xl", "xLarge"],
    ];
    let known = NAMES.iter().position(|names| names.contains(&name));
    known.ok_or_else(|| Failure::feature(format!("unknown load option {name}")))
}

impl Check {
    pub async fn run(self, context: &mut Context) -> Result<(), Failure> {
        match self.command {
            Command::Perf(command) => command.run(context).await,
            Command::Datascale(command) => command.run(context).await,
        }
    }
}

impl Perf {
    async fn run(self, context: &mut Context) -> Result<(), Failure> {
        let size = load(&self.load)?;
        let rate = [150, 1000, 8000, 15_000][size];
        let clients = [50, 200, 500, 1000][size];
        let client = context.patient_client().await?;
        let place = Place {
            client,
            prefix: self.prefix.clone().into_bytes(),
        };
        let delete = format!("'etcdctl del --prefix {}'", self.prefix);
        place.must_be_empty(&delete).await?;
        let outcome = place.write_for(PERF_TIME, rate, clients).await;
        let revision = place.clean().await?;
        tidy(
            self.auto_compact,
            self.auto_defrag,
            revision,
            &place.client,
            context,
        )
        .await?;
        verdict(&outcome, rate, context)
    }
}

/// Prints what was measured against what is asked for.
fn verdict(outcome: &Outcome, rate: u64, context: &mut Context) -> Result<(), Failure> {
    let mut good = true;
    let mut line = |passed: bool, text: String| {
        good &= passed;
        context.line(format_args!(
            "{}: {text}",
            if passed { "PASS" } else { "FAIL" }
        ))
    };
    if !outcome.errors.is_empty() {
        line(false, "too many errors".into())?;
        for (error, count) in &outcome.errors {
            line(false, format!("ERROR({error}) -> {count}"))?;
        }
    }
    let throughput = outcome.rate() as u64 + 1;
    match outcome.rate() / rate as f64 > 0.9 {
        true => line(true, format!("Throughput is {throughput} writes/s"))?,
        false => line(false, format!("Throughput too low: {throughput} writes/s"))?,
    }
    let slowest = outcome.slowest();
    match slowest <= SLOWEST {
        true => line(true, format!("Slowest request took {slowest:.6}s"))?,
        false => line(
            false,
            format!("Slowest request took too long: {slowest:.6}s"),
        )?,
    }
    let stddev = outcome.stddev();
    match stddev <= STDDEV {
        true => line(true, format!("Stddev is {stddev:.6}s"))?,
        false => line(false, format!("Stddev too high: {stddev:.6}s"))?,
    }
    context.line(if good { "PASS" } else { "FAIL" })?;
    match good {
        true => Ok(()),
        false => Err(Failure::told(Exit::Error)),
    }
}

impl DataScale {
    async fn run(self, context: &mut Context) -> Result<(), Failure> {
        let size = load(&self.load)?;
        let keys = [10_000, 100_000, 1_000_000, 3_000_000][size];
        let clients = [50, 200, 500, 1000][size];
        let client = context.patient_client().await?;
        let place = Place {
            client,
            prefix: self.prefix.clone().into_bytes(),
        };
        let delete = format!("etcdctl del --prefix {}", self.prefix);
        place.must_be_empty(&delete).await?;
        let endpoint = context.settings()?.config.endpoints[0].clone();
        let before = resident_memory(&endpoint).await;
        let before = match before {
            Some(bytes) => bytes,
            None => return unreadable("before", context),
        };
        context.line(format_args!(
            "Start data scale check for work load [{keys} key-value pairs, {VALUE_BYTES} bytes per key-value, {clients} concurrent clients]."
        ))?;
        let outcome = place.write(keys, clients).await;
        let after = resident_memory(&endpoint).await;
        let revision = place.clean().await?;
        tidy(
            self.auto_compact,
            self.auto_defrag,
            revision,
            &place.client,
            context,
        )
        .await?;
        let Some(after) = after else {
            return unreadable("after", context);
        };
        if !outcome.errors.is_empty() {
            context.line("FAIL: too many errors")?;
            for (error, count) in &outcome.errors {
                context.line(format_args!("FAIL: ERROR({error}) -> {count}"))?;
            }
            return Err(Failure::told(Exit::Error));
        }
        let used = (after - before).max(0.0) / (1024.0 * 1024.0);
        context.line(format_args!(
            "PASS: Approximate system memory used : {used:.2} MB."
        ))
    }
}

fn unreadable(when: &str, context: &mut Context) -> Result<(), Failure> {
    context.line(format_args!(
        "FAIL: Could not read process_resident_memory_bytes {when} the put operations."
    ))?;
    Err(Failure::told(Exit::Error))
}

/// Compacts and defragments afterwards, if that was asked for.
async fn tidy(
    compact: bool,
    defrag: bool,
    revision: i64,
    client: &Client,
    context: &mut Context,
) -> Result<(), Failure> {
    if compact {
        context.line(format_args!("Compacting with revision {revision}"))?;
        let request = CompactionRequest {
            revision,
            physical: true,
        };
        client.kv().compact(request).await?;
        context.line(format_args!("Compacted with revision {revision}"))?;
    }
    if defrag {
        for endpoint in context.settings()?.config.endpoints.clone() {
            let quoted = go::quote(endpoint.as_bytes());
            context.line(format_args!("Defragmenting {quoted}"))?;
            let maintenance = context
                .client_of(&endpoint)
                .await?
                .with_timeout(None)
                .maintenance();
            maintenance.defragment(DefragmentRequest {}).await?;
            context.line(format_args!("Defragmented {quoted}"))?;
        }
    }
    Ok(())
}

/// What the writes came to.
#[derive(Default)]
struct Outcome {
    took: Duration,
    /// Seconds of each write that succeeded.
    latencies: Vec<f64>,
    errors: BTreeMap<String, u64>,
}

impl Outcome {
    fn add(&mut self, took: Duration, result: client::Result<()>) {
        match result {
            Ok(()) => self.latencies.push(took.as_secs_f64()),
            Err(error) => *self.errors.entry(error.to_string()).or_default() += 1,
        }
    }

    fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.took.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    fn slowest(&self) -> f64 {
        self.latencies.iter().copied().fold(0.0, f64::max)
    }

    fn stddev(&self) -> f64 {
        let count = self.latencies.len().max(1) as f64;
        let mean = self.latencies.iter().sum::<f64>() / count;
        let squares = self.latencies.iter().map(|value| (value - mean).powi(2));
        (squares.sum::<f64>() / count).sqrt()
    }
}

/// Where a check writes.
struct Place {
    client: Client,
    prefix: Vec<u8>,
}

impl Place {
    /// Keys that are there already would be counted, and then deleted.
    async fn must_be_empty(&self, delete: &str) -> Result<(), Failure> {
        let request = RangeRequest {
            key: self.prefix.clone(),
            range_end: prefix_end(&self.prefix),
            limit: 1,
            ..Default::default()
        };
        let response = self.client.kv().range(request).await?;
        match response.kvs.is_empty() {
            true => Ok(()),
            false => Err(Failure::input(format!(
                "prefix {} has keys. Delete with {delete} first",
                go::quote(&self.prefix)
            ))),
        }
    }

    /// Removes what was written; returns the revision of that.
    async fn clean(&self) -> Result<i64, Failure> {
        let request = DeleteRangeRequest {
            key: self.prefix.clone(),
            range_end: prefix_end(&self.prefix),
            ..Default::default()
        };
        let response = self.client.kv().delete(request).await?;
        Ok(response.header.unwrap_or_default().revision)
    }

    /// Writes at a rate for a time, each write due at its own moment.
    async fn write_for(&self, time: Duration, rate: u64, clients: usize) -> Outcome {
        let bar = bar(time.as_secs());
        let (total, start) = (rate * time.as_secs(), Instant::now());
        let due = move |number: u64| start + Duration::from_secs_f64(number as f64 / rate as f64);
        let tick = bar.clone();
        let outcome = self
            .run(total, clients, move |number| {
                tick.set_position(number / rate);
                Some(due(number))
            })
            .await;
        bar.finish();
        outcome
    }

    /// Writes a number of keys as fast as they are taken.
    async fn write(&self, total: u64, clients: usize) -> Outcome {
        let bar = bar(total);
        let tick = bar.clone();
        let outcome = self
            .run(total, clients, move |number| {
                tick.set_position(number);
                None
            })
            .await;
        bar.finish();
        outcome
    }

    /// Shares `total` writes among workers; `due` says when each is to start.
    async fn run(
        &self,
        total: u64,
        clients: usize,
        due: impl Fn(u64) -> Option<Instant> + Send + Sync + 'static,
    ) -> Outcome {
        let start = Instant::now();
        let (due, next) = (Arc::new(due), Arc::new(Mutex::new(0..total)));
        let mut workers = JoinSet::new();
        for _ in 0..clients {
            let (kv, prefix) = (self.client.kv(), self.prefix.clone());
            let (due, next) = (due.clone(), next.clone());
            workers.spawn(async move {
                let mut outcome = Outcome::default();
                loop {
                    let Some(number) = next.lock().await.next() else {
                        return outcome;
                    };
                    if let Some(moment) = due(number) {
                        tokio::time::sleep_until(moment.into()).await;
                    }
                    let begun = Instant::now();
                    let result = kv.put(put(&prefix)).await.map(drop);
                    outcome.add(begun.elapsed(), result);
                }
            });
        }
        let mut whole = Outcome::default();
        for outcome in workers.join_all().await {
            whole.latencies.extend(outcome.latencies);
            for (error, count) in outcome.errors {
                *whole.errors.entry(error).or_default() += count;
            }
        }
        whole.took = start.elapsed();
        whole
    }
}

fn put(prefix: &[u8]) -> PutRequest {
    let random = |length| std::iter::repeat_with(|| fastrand::u8(..)).take(length);
    PutRequest {
        key: prefix.iter().copied().chain(random(KEY_BYTES)).collect(),
        value: random(VALUE_BYTES).collect(),
        ..Default::default()
    }
}

fn bar(length: u64) -> ProgressBar {
    let bar = ProgressBar::new(length);
    let style = ProgressStyle::with_template(" {pos} / {len} [{bar:40}] {percent}% {per_sec}");
    bar.with_style(
        style
            .unwrap_or(ProgressStyle::default_bar())
            .progress_chars("->_"),
    )
}

/// The server's own word on the memory it takes.
async fn resident_memory(endpoint: &str) -> Option<f64> {
    let text = client::Endpoint::parse(endpoint)
        .http_get("/metrics")
        .await
        .ok()?;
    let line = text
        .lines()
        .find(|line| line.starts_with("process_resident_memory_bytes "))?;
    line.split(' ').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_have_letters_and_words() {
        assert_eq!(load("s"), Ok(0));
        assert_eq!(load("xLarge"), Ok(3));
        assert_eq!(load("zz"), Err(Failure::feature("unknown load option zz")));
    }

    #[test]
    fn outcomes_are_summed_up() {
        let outcome = Outcome {
            took: Duration::from_secs(2),
            latencies: vec![1.0, 3.0],
            ..Default::default()
        };
        assert_eq!(
            (outcome.rate(), outcome.slowest(), outcome.stddev()),
            (1.0, 3.0, 1.0)
        );
    }
}
