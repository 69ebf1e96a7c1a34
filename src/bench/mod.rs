//! `kv bench`: a load generator that tells the truth.
//!
//! Flags and report are those of etcd's `benchmark`. Two things are ours: with `--rate` the load is an
//! open loop, each latency counted from the moment the request was due, so that a stalled server cannot
//! hide behind requests that were never sent; and `-w json` prints the figures for programs.

mod lease;
mod load;
mod pacer;
mod put;
mod range;
mod report;
mod txn;
mod watch;

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use clap::CommandFactory;
use clap::FromArgMatches;
use clap::Parser;
use clap::Subcommand;
use clap::ValueEnum;

use crate::client::Client;
use crate::client::Config;
use crate::util::text;

/// Measures an etcd server
#[derive(Parser)]
#[command(name = "bench", bin_name = "kv bench", disable_help_subcommand = true)]
pub struct Bench {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Flags of every load.
#[derive(Args, Clone)]
pub struct Global {
    /// gRPC endpoints
    #[arg(
        long,
        global = true,
        value_delimiter = ',',
        default_value = "127.0.0.1:2379"
    )]
    endpoints: Vec<String>,

    /// Total number of gRPC connections
    #[arg(long, global = true, default_value_t = 1, value_name = "N")]
    conns: usize,

    /// Total number of clients, each with one request under way
    #[arg(long, global = true, default_value_t = 1, value_name = "N")]
    clients: usize,

    /// Print figures with full precision
    #[arg(long, global = true)]
    precise: bool,

    /// Add a line for every second of the run
    #[arg(long, global = true)]
    sample: bool,

    /// Name and password, as name:password
    #[arg(long, global = true)]
    user: Option<String>,

    /// Dial timeout; 0 waits as long as it takes
    #[arg(long, global = true, default_value = "0", value_parser = duration, value_name = "DURATION")]
    dial_timeout: Duration,

    /// Form of the report
    #[arg(short, long, global = true, value_enum, default_value = "simple")]
    write_out: Form,
}

/// What a report looks like.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    Simple,
    Json,
}

#[derive(Subcommand)]
enum Command {
    Put(put::Put),
    Range(range::Range),
    TxnPut(txn::TxnPut),
    TxnMixed(txn::TxnMixed),
    Watch(watch::Watch),
    WatchLatency(watch::WatchLatency),
    #[command(alias = "lease")]
    LeaseKeepalive(lease::LeaseKeepalive),
}

/// Why a load did not run to its end.
pub struct Failure(String);

impl<E: std::fmt::Display> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure(error.to_string())
    }
}

/// The definitions, for help, completions and the manual page.
pub fn command() -> clap::Command {
    Bench::command()
}

/// Runs the load that the words after the program's name ask for.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let named = std::iter::once(OsString::from("bench")).chain(args);
    let parsed = Bench::command()
        .try_get_matches_from(named)
        .and_then(|matches| Bench::from_arg_matches(&matches));
    let bench = match parsed {
        Ok(bench) => bench,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(error.exit_code() as u8);
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(bench.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(message)) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

impl Bench {
    async fn run(self) -> Result<(), Failure> {
        let Bench { global, command } = self;
        match command {
            Command::Put(put) => put.run(&global).await,
            Command::Range(range) => range.run(&global).await,
            Command::TxnPut(txn) => txn.run(&global).await,
            Command::TxnMixed(txn) => txn.run(&global).await,
            Command::Watch(watch) => watch.run(&global).await,
            Command::WatchLatency(watch) => watch.run(&global).await,
            Command::LeaseKeepalive(lease) => lease.run(&global).await,
        }
    }
}

impl Global {
    /// Opens the connections; client `i` uses connection `i % conns`.
    async fn connect(&self) -> Result<Vec<Client>, Failure> {
        let mut connections = Vec::new();
        for n in 0..self.conns.max(1) {
            // Each connection begins with another endpoint, so that all of them get their share.
            let mut endpoints = self.endpoints.clone();
            endpoints.rotate_left(n % self.endpoints.len());
            let mut config = Config::new(endpoints);
            if !self.dial_timeout.is_zero() {
                config.dial_timeout = self.dial_timeout;
            }
            if let Some(user) = &self.user {
                let (name, password) = user.split_once(':').unwrap_or((user, ""));
                config.user = Some(name.into());
                config.password = Some(password.into());
            }
            connections.push(
                Client::connect(config)
                    .await
                    .map_err(|error| Failure(error.message().into()))?,
            );
        }
        Ok((0..self.clients.max(1))
            .map(|i| connections[i % connections.len()].clone())
            .collect())
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    text::parse_duration(text).ok_or_else(|| format!("invalid duration {text:?}"))
}

/// The key of number `n`, `size` bytes long: a varint, then zero bytes, as etcd's tool makes them.
fn key(n: u64, size: usize) -> Vec<u8> {
    let mut key = vec![0; size.max(10)];
    let mut rest = n << 1;
    let mut at = 0;
    while rest >= 0x80 {
        key[at] = rest as u8 | 0x80;
        rest >>= 7;
        at += 1;
    }
    key[at] = rest as u8;
    key.truncate(size.max(at + 1));
    key
}

/// Numbers of keys: one after the other, or at random.
#[derive(Clone, Copy)]
struct KeySpace {
    size: u64,
    sequential: bool,
}

impl KeySpace {
    fn new(size: i64, sequential: bool) -> Result<KeySpace, Failure> {
        match u64::try_from(size) {
            Ok(size) if size > 0 => Ok(KeySpace { size, sequential }),
            _ => Err(Failure(format!(
                "expected positive --key-space-size, got ({size})"
            ))),
        }
    }

    fn pick(self, n: u64) -> u64 {
        if self.sequential {
            n % self.size
        } else {
            fastrand::u64(..self.size)
        }
    }
}

fn random_bytes(len: usize) -> Vec<u8> {
    std::iter::repeat_with(|| fastrand::u8(..))
        .take(len)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_varints_padded_with_zeros() {
        let cases: [(u64, usize, &[u8]); 4] = [
            (0, 4, &[0, 0, 0, 0]),
            (1, 4, &[2, 0, 0, 0]),
            (64, 4, &[0x80, 1, 0, 0]),
            (100_000, 2, &[0xc0, 0x9a, 0x0c]),
        ];
        for (n, size, expected) in cases {
            assert_eq!(key(n, size), expected, "{n}");
        }
    }

    #[test]
    fn definitions_are_sound() {
        Bench::command().debug_assert();
    }
}
