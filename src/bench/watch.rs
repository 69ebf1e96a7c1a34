//! `bench watch` and `bench watch-latency`: how fast events reach those who wait for them.
//!
//! A value begins with the moment its put was due, so that each watcher can tell how old an event is.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use tokio::task::JoinSet;
use tokio::task::LocalSet;

use super::Failure;
use super::Form;
use super::Global;
use super::key;
use super::load;
use super::load::Plan;
use super::pacer::Pacer;
use super::random_bytes;
use super::report::Recorder;
use super::report::Report;
use crate::client::Client;
use crate::client::Watcher;
use crate::proto::etcdserverpb::PutRequest;
use crate::proto::etcdserverpb::WatchCreateRequest;

/// How long watchers are waited for once the last put is done and no event comes any more.
const PATIENCE: Duration = Duration::from_secs(30);
const STAMP: usize = 8;

/// Benchmark watch
#[derive(clap::Args)]
pub struct Watch {
    /// Total watch streams
    #[arg(long, default_value_t = 10, value_name = "N")]
    streams: usize,
    /// Total watchers per stream
    #[arg(long, default_value_t = 100, value_name = "N")]
    watch_per_stream: usize,
    /// Total number of keys to be watched
    #[arg(long, default_value_t = 1, value_name = "N")]
    watched_key_total: u64,
    /// Number of keys to put per second (0 is no limit)
    #[arg(long, default_value_t = 0, value_name = "RATE")]
    put_rate: u64,
    /// Number of put requests
    #[arg(long, default_value_t = 1000, value_name = "N")]
    put_total: u64,
    /// Key size of watch request
    #[arg(long, default_value_t = 32, value_name = "BYTES")]
    key_size: usize,
}

/// Benchmark watch latency
#[derive(clap::Args)]
pub struct WatchLatency {
    /// Total watch streams
    #[arg(long, default_value_t = 10, value_name = "N")]
    streams: usize,
    /// Total watchers per stream
    #[arg(long, default_value_t = 10, value_name = "N")]
    watchers_per_stream: usize,
    /// PrevKV enabled on watch requests
    #[arg(long)]
    prevkv: bool,
    /// Total number of put requests
    #[arg(long, default_value_t = 1000, value_name = "N")]
    put_total: u64,
    /// Number of keys to put per second
    #[arg(long, default_value_t = 100, value_name = "RATE")]
    put_rate: u64,
    /// Key size of watch response
    #[arg(long, default_value_t = 32, value_name = "BYTES")]
    key_size: usize,
    /// Value size of watch response
    #[arg(long, default_value_t = 32, value_name = "BYTES")]
    val_size: usize,
}

/// One measured fan-out: who watches what, and the puts that they hear of.
struct FanOut {
    streams: usize,
    watchers_per_stream: usize,
    keys: u64,
    prev_kv: bool,
    key_size: usize,
    val_size: usize,
    puts: Plan,
}

/// What the three phases of a fan-out measured.
struct Outcome {
    creation: Report,
    puts: Report,
    events: Report,
}

impl Watch {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let fan_out = FanOut {
            streams: self.streams,
            watchers_per_stream: self.watch_per_stream,
            keys: self.watched_key_total.max(1),
            prev_kv: false,
            key_size: self.key_size,
            val_size: STAMP,
            puts: Plan {
                total: self.put_total,
                rate: self.put_rate,
            },
        };
        let outcome = fan_out.run(global).await?;
        title(global, "Watch creation summary:");
        outcome.creation.print("watch creation", global);
        title(global, "Watch events received summary:");
        outcome.events.print("watch events", global);
        Ok(())
    }
}

impl WatchLatency {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let fan_out = FanOut {
            streams: self.streams,
            watchers_per_stream: self.watchers_per_stream,
            keys: 1,
            prev_kv: self.prevkv,
            key_size: self.key_size,
            val_size: self.val_size,
            puts: Plan {
                total: self.put_total,
                rate: self.put_rate,
            },
        };
        let outcome = fan_out.run(global).await?;
        title(global, "\nPut summary:");
        outcome.puts.print("watch-latency put", global);
        title(global, "\nWatch events summary:");
        outcome.events.print("watch-latency events", global);
        Ok(())
    }
}

fn title(global: &Global, text: &str) {
    if global.write_out == Form::Simple {
        println!("{text}");
    }
}

impl FanOut {
    fn watched_key(&self, n: u64) -> Vec<u8> {
        key(n % self.keys, self.key_size)
    }

    async fn run(&self, global: &Global) -> Result<Outcome, Failure> {
        let clients = global.connect().await?;
        LocalSet::new()
            .run_until(self.measure(&clients, global))
            .await
    }

    async fn measure(&self, clients: &[Client], global: &Global) -> Result<Outcome, Failure> {
        let (watchers, creation) = self.create(clients, global).await?;
        let epoch = Instant::now();
        let recorder = Rc::new(RefCell::new(Recorder::new(epoch, global.sample)));
        let mut readers = JoinSet::new();
        for (n, watcher) in watchers {
            readers.spawn_local(read(watcher, self.events_of(n), epoch, recorder.clone()));
        }
        let puts = self.put(&clients[0], epoch, global).await;
        while let Some(reader) = readers.join_next().await {
            reader.expect("a reader that does not fail");
        }
        Ok(Outcome {
            creation,
            puts,
            events: alone(recorder).report(epoch.elapsed()),
        })
    }

    /// How many of the puts go to the key that watcher `n` watches.
    fn events_of(&self, n: u64) -> u64 {
        let own = n % self.keys;
        (self.puts.total + self.keys - 1 - own) / self.keys
    }

    async fn create(
        &self,
        clients: &[Client],
        global: &Global,
    ) -> Result<(Vec<(u64, Watcher)>, Report), Failure> {
        let start = Instant::now();
        let mut recorder = Recorder::new(start, global.sample);
        let mut watchers = Vec::new();
        for stream in 0..self.streams {
            let watch = clients[stream % clients.len()].watch();
            for n in 0..self.watchers_per_stream {
                let number = (stream * self.watchers_per_stream + n) as u64;
                let request = WatchCreateRequest {
                    key: self.watched_key(number),
                    prev_kv: self.prev_kv,
                    ..Default::default()
                };
                let due = Instant::now();
                let created = watch.create(request).await;
                watchers.push((
                    number,
                    created.map_err(|error| Failure(error.message().into()))?,
                ));
                recorder.success(due);
            }
        }
        Ok((watchers, recorder.report(start.elapsed())))
    }

    /// Puts one after the other without waiting for answers, each stamped with the moment it was due.
    async fn put(&self, client: &Client, epoch: Instant, global: &Global) -> Report {
        let pacer = Arc::new(Pacer::new(self.puts.total, self.puts.rate));
        let bar = load::progress(self.puts.total);
        let recorder = RefCell::new(Recorder::new(epoch, global.sample));
        let filler = random_bytes(self.val_size.saturating_sub(STAMP));
        // A closed loop has one put under way; an open one as many as the rate and the server make.
        let workers = if self.puts.rate == 0 { 1 } else { 64 };
        let work = (0..workers).map(|_| async {
            while let Some((n, due)) = pacer.next().await {
                let stamp = due.saturating_duration_since(epoch).as_nanos() as u64;
                let value = [&stamp.to_be_bytes()[..], &filler].concat();
                let request = PutRequest {
                    key: self.watched_key(n),
                    value,
                    ..Default::default()
                };
                match client.kv().put(request).await {
                    Ok(_) => recorder.borrow_mut().success(due),
                    Err(error) => recorder.borrow_mut().failure(error.message()),
                }
                bar.inc(1);
            }
        });
        futures_util::future::join_all(work).await;
        bar.finish_and_clear();
        recorder.into_inner().report(epoch.elapsed())
    }
}

/// Reads `expected` events and records how long after their put was due each arrived.
async fn read(
    mut watcher: Watcher,
    expected: u64,
    epoch: Instant,
    recorder: Rc<RefCell<Recorder>>,
) {
    let mut seen = 0;
    while seen < expected {
        let response = match tokio::time::timeout(PATIENCE, watcher.next()).await {
            Ok(Some(Ok(response))) => response,
            Ok(Some(Err(error))) => return recorder.borrow_mut().failure(error.message()),
            Ok(None) | Err(_) => return recorder.borrow_mut().failure("events are missing"),
        };
        let now = epoch.elapsed();
        for event in response.events {
            seen += 1;
            let value = event.kv.map(|kv| kv.value).unwrap_or_default();
            if let Some(stamp) = value.first_chunk::<STAMP>() {
                let due = Duration::from_nanos(u64::from_be_bytes(*stamp));
                recorder.borrow_mut().latency(now.saturating_sub(due));
            }
        }
    }
}

/// The value that nobody else holds any more.
fn alone<T>(shared: Rc<RefCell<T>>) -> T {
    let inner = Rc::into_inner(shared).expect("those who shared it are done");
    inner.into_inner()
}
