//! `compaction`: forgets the history before a revision.

use std::ffi::OsString;

use clap::Args;

use crate::ctl::context::Context;
use crate::ctl::failure::Failure;
use crate::ctl::go;
use crate::proto::etcdserverpb::CompactionRequest;

/// Compacts the event history in etcd
#[derive(Debug, Args)]
#[command(override_usage = "compaction [options] <revision>")]
pub struct Compaction {
    #[arg(value_name = "revision")]
    words: Vec<OsString>,

    /// 'true' to wait for compaction to physically remove all old revisions
    #[arg(long)]
    physical: bool,
}

impl Compaction {
    pub async fn run(self, context: &mut Context) -> Result<(), Failure> {
        let [revision] = &self.words[..] else {
            return Err(Failure::args("compaction command needs 1 argument"));
        };
        let revision = go::parse_int(&revision.to_string_lossy(), 10).map_err(Failure::error)?;
        let request = CompactionRequest {
            revision,
            physical: self.physical,
        };
        context.client().await?.kv().compact(request).await?;
        context.line(format_args!("compacted revision {revision}"))
    }
}
