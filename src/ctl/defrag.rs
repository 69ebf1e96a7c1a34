//! `defrag`: asks servers to give unused space back.

use std::ffi::OsString;
use std::time::Instant;

use clap::Args;

use crate::ctl::context::Context;
use crate::ctl::endpoint::endpoints;
use crate::ctl::failure::Exit;
use crate::ctl::failure::Failure;
use crate::proto::etcdserverpb::DefragmentRequest;
use crate::util::text::format_duration;

/// Defragments the storage of the etcd members with given endpoints
#[derive(Debug, Args)]
#[command(override_usage = "defrag")]
pub struct Defrag {
    #[arg(hide = true)]
    words: Vec<OsString>,

    /// use all endpoints from the cluster member list
    #[arg(long)]
    cluster: bool,
}

impl Defrag {
    pub async fn run(self, context: &mut Context) -> Result<(), Failure> {
        let mut failed = false;
        for endpoint in endpoints(self.cluster, context).await? {
            let maintenance = context.client_of(&endpoint).await?.maintenance();
            let start = Instant::now();
            let result = maintenance.defragment(DefragmentRequest {}).await;
            let took = format_duration(start.elapsed());
            match result {
                Ok(_) => context.line(format_args!(
                    "Finished defragmenting etcd member[{endpoint}]. took {took}"
                ))?,
                Err(error) => {
                    eprintln!(
                        "Failed to defragment etcd member[{endpoint}]. took {took}. ({error})"
                    );
                    failed = true;
                }
            }
        }
        match failed {
            true => Err(Failure::told(Exit::Error)),
            false => Ok(()),
        }
    }
}
