//! `bench txn-put` and `bench txn-mixed`: transactions that write, and reads beside them.

use std::cell::RefCell;
use std::time::Instant;

use super::Failure;
use super::Form;
use super::Global;
use super::KeySpace;
use super::key;
use super::load;
use super::load::Plan;
use super::random_bytes;
use super::range::announce;
use super::report::Recorder;
use crate::proto::etcdserverpb::PutRequest;
use crate::proto::etcdserverpb::RangeRequest;
use crate::proto::etcdserverpb::RequestOp;
use crate::proto::etcdserverpb::TxnRequest;
use crate::proto::etcdserverpb::request_op::Request;

fn put_op(key: Vec<u8>, value: Vec<u8>) -> RequestOp {
    let put = PutRequest {
        key,
        value,
        ..Default::default()
    };
    RequestOp {
        request: Some(Request::RequestPut(put)),
    }
}

/// Benchmark txn-put
#[derive(clap::Args)]
pub struct TxnPut {
    /// Key size of txn put
    #[arg(long, default_value_t = 8, value_name = "BYTES")]
    key_size: usize,
    /// Value size of txn put
    #[arg(long, default_value_t = 8, value_name = "BYTES")]
    val_size: usize,
    /// Number of puts per txn
    #[arg(long, default_value_t = 1, value_name = "N")]
    txn_ops: u64,
    /// Maximum txns per second (0 is no limit)
    #[arg(long, default_value_t = 0)]
    rate: u64,
    /// Total number of txn requests
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
}

impl TxnPut {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let keys = KeySpace::new(self.key_space_size, true)?;
        if self.txn_ops > keys.size {
            return Err(Failure(format!(
                "expected --txn-ops no larger than --key-space-size, got txn-ops({}) key-space-size({})",
                self.txn_ops, keys.size
            )));
        }
        let clients = global.connect().await?;
        let value = random_bytes(self.val_size);
        let plan = Plan {
            total: self.total,
            rate: self.rate,
        };
        let report = load::run(&clients, plan, global.sample, |client, n| {
            let first = n * self.txn_ops;
            let success = (first..first + self.txn_ops)
                .map(|n| put_op(key(keys.pick(n), self.key_size), value.clone()))
                .collect();
            let request = TxnRequest {
                success,
                ..Default::default()
            };
            async move { client.kv().txn(request).await.map(drop) }
        })
        .await;
        report.print("txn-put", global);
        if global.write_out == Form::Simple {
            println!();
        }
        Ok(())
    }
}

/// Benchmark a mixed load of txn-put & txn-range
#[derive(clap::Args)]
pub struct TxnMixed {
    /// First key of the reads; every key if absent
    key: Option<String>,
    /// End of the reads
    end: Option<String>,
    /// Key size of mixed txn
    #[arg(long, default_value_t = 8, value_name = "BYTES")]
    key_size: usize,
    /// Value size of mixed txn
    #[arg(long, default_value_t = 8, value_name = "BYTES")]
    val_size: usize,
    /// Maximum txns per second (0 is no limit)
    #[arg(long, default_value_t = 0)]
    rate: u64,
    /// Total number of txn requests
    #[arg(long, default_value_t = 10_000)]
    total: u64,
    /// Read operation range end key
    #[arg(long, conflicts_with = "end", value_name = "KEY")]
    end_key: Option<String>,
    /// Read operation range result limit
    #[arg(long, default_value_t = 1000)]
    limit: i64,
    /// Maximum possible keys
    #[arg(
        long,
        default_value_t = 1,
        value_name = "N",
        allow_negative_numbers = true
    )]
    key_space_size: i64,
    /// Linearizable(l) or Serializable(s)
    #[arg(long, default_value = "l", value_parser = ["l", "s"])]
    consistency: String,
    /// Read/write ops ratio
    #[arg(long, default_value_t = 1.0, value_name = "RATIO")]
    rw_ratio: f64,
}

impl TxnMixed {
    fn read(&self) -> TxnRequest {
        let key = self.key.clone().unwrap_or_default().into_bytes();
        let end = self.end.as_ref().or(self.end_key.as_ref());
        let range_end = match end {
            Some(end) => end.clone().into_bytes(),
            None => vec![0],
        };
        let range = RangeRequest {
            key: if key.is_empty() { vec![0] } else { key },
            range_end,
            limit: self.limit,
            serializable: self.consistency == "s",
            ..Default::default()
        };
        let op = RequestOp {
            request: Some(Request::RequestRange(range)),
        };
        TxnRequest {
            success: vec![op],
            ..Default::default()
        }
    }

    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let keys = KeySpace::new(self.key_space_size, true)?;
        let clients = global.connect().await?;
        announce(&self.consistency, global.write_out);
        let value = random_bytes(self.val_size);
        let read = self.read();
        let start = Instant::now();
        let reads = RefCell::new(Recorder::new(start, global.sample));
        let writes = RefCell::new(Recorder::new(start, global.sample));
        let plan = Plan {
            total: self.total,
            rate: self.rate,
        };
        let all = load::run(&clients, plan, false, |client, n| {
            let is_read = fastrand::f64() < self.rw_ratio / (1.0 + self.rw_ratio);
            let (request, recorder) = if is_read {
                (read.clone(), &reads)
            } else {
                let put = put_op(key(keys.pick(n), self.key_size), value.clone());
                (
                    TxnRequest {
                        success: vec![put],
                        ..Default::default()
                    },
                    &writes,
                )
            };
            async move {
                let due = Instant::now();
                match client.kv().txn(request).await {
                    Ok(_) => recorder.borrow_mut().success(due),
                    Err(error) => recorder.borrow_mut().failure(error.message()),
                }
                Ok(())
            }
        })
        .await;
        for (title, recorder) in [("Read", reads), ("Write", writes)] {
            let report = recorder.into_inner().report(all.elapsed());
            if global.write_out == Form::Simple {
                println!("Total {title} Ops: {}\nDetails:", report.requests());
            }
            report.print(&format!("txn-mixed {}", title.to_lowercase()), global);
        }
        if global.write_out == Form::Simple {
            println!();
        }
        Ok(())
    }
}
