//! Overwriting the same keys for ever takes neither more memory nor more disk, without a defragmentation.
//!
//! Transactions of a hundred puts go round over the keys while the server compacts by itself. What it takes
//! is looked at in ten steps: after the first ones it must stand still.
//!
//! `KV_GROWTH_WRITES` and `KV_GROWTH_KEYS` make the run a long one.

use std::time::Instant;

use kv::proto::etcdserverpb::PutRequest;
use kv::proto::etcdserverpb::RangeRequest;
use kv::proto::etcdserverpb::RequestOp;
use kv::proto::etcdserverpb::TxnRequest;
use kv::proto::etcdserverpb::kv_client::KvClient;
use kv::proto::etcdserverpb::request_op::Request;
use tonic::transport::Channel;

use crate::damage::files_below;
use crate::support::Server;
use crate::support::TempDir;

const TXN_PUTS: usize = 100;
const VALUE_BYTES: usize = 256;
/// Entries between two snapshots and those kept below one, by default.
const LOG_ENTRIES: u64 = 15_000;
const WRITERS: usize = 8;
const STEPS: usize = 10;
/// Steps in which caches fill and the first compactions come due.
const WARM_STEPS: usize = 5;

/// Bytes of memory and of disk.
#[derive(Clone, Copy)]
struct Size {
    memory: u64,
    disk: u64,
}

impl Size {
    fn of(server: &Server) -> Size {
        use std::os::unix::fs::MetadataExt;
        let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid()));
        let status = status.expect("the status of a process");
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().nth(1));
        let files = files_below(&server.data_dir()).into_iter();
        // A file may go away while the directory is read.
        let blocks = files.filter_map(|path| Some(std::fs::metadata(path).ok()?.blocks()));
        Size {
            memory: kib.expect("a size").parse::<u64>().expect("a number") << 10,
            disk: blocks.sum::<u64>() * 512,
        }
    }
}

async fn write(channel: Channel, keys: usize, first: usize, txns: usize) {
    let mut kv = KvClient::new(channel);
    let letters = std::iter::repeat_with(|| fastrand::alphanumeric() as u8);
    let letters: Vec<u8> = letters.take(1 << 16).collect();
    for txn in 0..txns {
        let puts = (0..TXN_PUTS).map(|put| {
            let number = (first + txn * TXN_PUTS + put) % keys;
            let value = fastrand::usize(..letters.len() - VALUE_BYTES);
            let request = PutRequest {
                key: format!("growth/{number:056}").into_bytes(),
                value: letters[value..value + VALUE_BYTES].to_vec(),
                ..Default::default()
            };
            RequestOp {
                request: Some(Request::RequestPut(request)),
            }
        });
        let request = TxnRequest {
            success: puts.collect(),
            ..Default::default()
        };
        kv.txn(request).await.expect("a transaction");
    }
}

async fn step(server: &Server, keys: usize, writes: usize) {
    let channel = server.channel();
    let tasks: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (first, txns) = (writer * keys / WRITERS, writes / WRITERS / TXN_PUTS);
            tokio::spawn(write(channel.clone(), keys, first, txns))
        })
        .collect();
    for task in tasks {
        task.await.expect("a writer that finishes");
    }
}

fn campaign(engine: &str) {
    let number = |name: &str, default: usize| {
        std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
    };
    let writes = number("KV_GROWTH_WRITES", 200_000);
    let keys = number("KV_GROWTH_KEYS", 2000);
    let dir = TempDir::new("growth");
    let flags = [
        &format!("--storage-engine={engine}"),
        "--auto-compaction-mode=periodic",
        "--auto-compaction-retention=1s",
        "--value-cache-bytes=16777216",
        "--quota-backend-bytes=8589934592",
    ];
    let server = Server::start(dir.path(), &flags);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    println!("engine {engine}: {writes} writes over {keys} keys");
    let mut sizes = Vec::new();
    for number in 1..=STEPS {
        let start = Instant::now();
        runtime.block_on(step(&server, keys, writes / STEPS));
        let size = Size::of(&server);
        println!(
            "{:>9} writes, {:>7.0} a second: {:>5} MiB of memory, {:>5} MiB of disk",
            number * writes / STEPS,
            (writes / STEPS) as f64 / start.elapsed().as_secs_f64(),
            size.memory >> 20,
            size.disk >> 20,
        );
        sizes.push(size);
    }
    let (warm, late) = sizes.split_at(WARM_STEPS);
    let most = |sizes: &[Size], of: fn(&Size) -> u64| sizes.iter().map(of).max().unwrap_or(0);
    for (what, of) in [
        ("memory", (|size| size.memory) as fn(&Size) -> u64),
        ("disk", |size| size.disk),
    ] {
        let (early, late) = (most(warm, of), most(late, of));
        // The log is kept for so many entries, and goes up and down by as much.
        let record = (VALUE_BYTES + 74) as u64;
        let log = (LOG_ENTRIES * TXN_PUTS as u64 * record).min(writes as u64 * record / 4);
        assert!(
            late < early * 13 / 10 + (64 << 20) + log,
            "{what} grew from {early} to {late} bytes"
        );
    }
    let count = runtime.block_on(async {
        let request = RangeRequest {
            key: b"g".into(),
            range_end: b"h".into(),
            count_only: true,
            ..Default::default()
        };
        let answer = KvClient::new(server.channel()).range(request).await;
        answer.expect("a count").into_inner().count
    });
    assert_eq!(count, keys as i64);
}

#[test]
fn overwrites_do_not_grow_on_sled() {
    campaign("sled");
}

#[test]
fn overwrites_do_not_grow_on_redb() {
    campaign("redb");
}
