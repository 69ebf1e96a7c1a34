//! `bench lease-keepalive`: renewals of one lease a client.

use super::Failure;
use super::Global;
use super::load;
use super::load::Plan;
use crate::proto::etcdserverpb::LeaseGrantRequest;

const TTL: i64 = 100;

/// Benchmark lease keepalive
#[derive(clap::Args)]
pub struct LeaseKeepalive {
    /// Maximum keep-alives per second (0 is no limit)
    #[arg(long, default_value_t = 0)]
    rate: u64,
    /// Total number of lease keepalive requests
    #[arg(long, default_value_t = 10_000)]
    total: u64,
}

impl LeaseKeepalive {
    pub async fn run(self, global: &Global) -> Result<(), Failure> {
        let clients = global.connect().await?;
        let granted = clients[0]
            .lease()
            .grant(LeaseGrantRequest { ttl: TTL, id: 0 })
            .await;
        let lease = granted.map_err(|error| Failure(error.message().into()))?.id;
        let plan = Plan {
            total: self.total,
            rate: self.rate,
        };
        let report = load::run(&clients, plan, global.sample, |client, _| async move {
            client.lease().keep_alive_once(lease).await.map(drop)
        })
        .await;
        report.print("lease-keepalive", global);
        Ok(())
    }
}
