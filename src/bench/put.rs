//! `bench put`: one key a request.

use std::time::Duration;
use std::time::Instant;

use super::Failure;
use super::Form;
use super::Global;
use super::KeySpace;
use super::key;
use super::load;
use super::load::Plan;
use super::random_bytes;
use crate::client::Client;
use crate::proto::etcdserverpb::CompactionRequest;
use crate::proto::etcdserverpb::HashKvRequest;
use crate::proto::etcdserverpb::PutRequest;
use crate::proto::etcdserverpb::RangeRequest;
use crate::util::text;

/// Benchmark put
#[derive(clap::Args)]
pub struct Put {
    /// Key size of put request
    #[arg(long, default_value_t = 8, value_name = "BYTES")]
    key_size: usize,
    /// Value size of put request
    #[arg(long, default_value_t = 8, value_name = "BYTES")]
    val_size: usize,
    /// Maximum puts per second (0 is no limit)
    #[arg(long, default_value_t = 0)]
    rate: u64,
    /// Total number of put requests
    #[arg(long, default_value_t = 10_000)]
    total: u64,
    /// Maximum possible keys
    #[arg(
        long,
        default_value_t = 1,
        value_name = "N",
        allow_negative_numbers = true
    )]
    key_space_size: i64,
    /// Use sequential keys
    #[arg(long)]
    sequential_keys: bool,
    /// Compact every so often
    #[arg(long, default_value = "0", value_parser = super::duration, value_name = "DURATION")]
    compact_interval: Duration,
    /// How many revisions a compaction leaves
    #[arg(long, default_value_t = 1000, value_name = "N")]
    compact_index_delta: i64,
    /// Ask every endpoint for its hash afterwards
    #[arg(long)]
    check_hashkv: bool,
}

impl Put {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let keys = KeySpace::new(self.key_space_size, self.sequential_keys)?;
        let clients = global.connect().await?;
        let value = random_bytes(self.val_size);
        let compactor = (!self.compact_interval.is_zero()).then(|| {
            tokio::spawn(compact(
                clients[0].clone(),
                self.compact_interval,
                self.compact_index_delta,
            ))
        });
        let plan = Plan {
            total: self.total,
            rate: self.rate,
        };
        let report = load::run(&clients, plan, global.sample, |client, n| {
            let request = PutRequest {
                key: key(keys.pick(n), self.key_size),
                value: value.clone(),
                ..Default::default()
            };
            async move { client.kv().put(request).await.map(drop) }
        })
        .await;
        if let Some(compactor) = compactor {
            compactor.abort();
        }
        report.print("put", global);
        if global.write_out == Form::Simple {
            println!();
        }
        if self.check_hashkv {
            check_hashkv(global).await?;
        }
        Ok(())
    }
}

async fn compact(client: Client, interval: Duration, delta: i64) {
    loop {
        tokio::time::sleep(interval).await;
        let here = RangeRequest {
            key: b"compact".to_vec(),
            count_only: true,
            ..Default::default()
        };
        let Ok(reply) = client.kv().range(here).await else {
            continue;
        };
        let revision = reply.header.map_or(0, |header| header.revision) - delta;
        if revision > 0 {
            // One that is already compacted is as good.
            let _ = client
                .kv()
                .compact(CompactionRequest {
                    revision,
                    physical: false,
                })
                .await;
        }
    }
}

async fn check_hashkv(global: &Global) -> Result<(), Failure> {
    println!("\nHashKV Summary:");
    for endpoint in &global.endpoints {
        let one = Global {
            endpoints: vec![endpoint.clone()],
            conns: 1,
            clients: 1,
            ..global.clone()
        };
        let client = one.connect().await?.remove(0);
        let start = Instant::now();
        let answer = client
            .maintenance()
            .hash_kv(HashKvRequest { revision: 0 })
            .await;
        let reply = answer.map_err(|error| Failure(error.message().into()))?;
        println!("\tHashKV: {}", reply.hash);
        println!("\tEndpoint: {endpoint}");
        println!(
            "\tTime taken to get hashkv: {}",
            text::format_duration(start.elapsed())
        );
    }
    Ok(())
}
