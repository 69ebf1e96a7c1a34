//! `del`: removes a key or the keys in a range.

use std::ffi::OsString;
use std::time::Duration;

use clap::Args;
use prost::Message;

use crate::ctl::context::Context;
use crate::ctl::failure::Failure;
use crate::ctl::get::check_range_flags;
use crate::ctl::get::key_range;
use crate::ctl::go;
use crate::ctl::json::Json;
use crate::ctl::parse;
use crate::ctl::render::Page;
use crate::ctl::render::Render;
use crate::proto::etcdserverpb::DeleteRangeRequest;
use crate::proto::etcdserverpb::DeleteRangeResponse;

/// How long a range that was not announced can still be saved.
const SECOND_THOUGHTS: Duration = Duration::from_secs(2);

/// Removes the specified key or range of keys [key, range_end)
#[derive(Debug, Args)]
#[command(override_usage = "del [options] <key> [range_end]")]
pub struct Del {
    #[arg(value_name = "key")]
    words: Vec<OsString>,

    /// delete keys with matching prefix
    #[arg(long)]
    prefix: bool,

    /// delete keys that are greater than or equal to the given key in byte order
    #[arg(long)]
    from_key: bool,

    /// return deleted key-value pairs
    #[arg(long)]
    prev_kv: bool,

    /// delete range of keys
    #[arg(long)]
    range: bool,
}

impl Del {
    pub async fn run(self, context: &mut Context) -> Result<(), Failure> {
        let request = self.into_request().await?;
        let response = context.client().await?.kv().delete(request).await?;
        context.print(&response)
    }

    /// The request, after a warning and a pause if a range is about to go unannounced.
    pub async fn into_request(self) -> Result<DeleteRangeRequest, Failure> {
        if self.words.is_empty() || self.words.len() > 2 {
            return Err(Failure::args(
                "del command needs one argument as key and an optional argument as range_end",
            ));
        }
        check_range_flags(self.prefix, self.from_key)?;
        let unannounced = self.words.len() == 2 && !self.range;
        let (key, range_end) = key_range(parse::bytes(self.words), self.prefix, self.from_key)?;
        if unannounced {
            eprintln!(
                "Warning: Keys between {} and {} will be deleted. Please interrupt the command \
                 within next 2 seconds to cancel. You can provide `--range` flag to avoid the delay.",
                go::quote(&key),
                go::quote(&range_end)
            );
            tokio::time::sleep(SECOND_THOUGHTS).await;
        }
        Ok(DeleteRangeRequest {
            key,
            range_end,
            prev_kv: self.prev_kv,
        })
    }
}

impl Render for DeleteRangeResponse {
    fn simple(&self, page: &mut Page) {
        page.line(self.deleted);
        self.prev_kvs.iter().for_each(|kv| page.key_value(kv));
    }

    fn fields(&self, page: &mut Page) {
        page.header(&self.header);
        page.field("Deleted", self.deleted);
        self.prev_kvs.iter().for_each(|kv| page.pair("Prev", kv));
    }

    fn json(&self, _: bool) -> Json {
        Json::message("DeleteRangeResponse", self)
    }

    fn protobuf(&self) -> Vec<u8> {
        self.encode_to_vec()
    }
}
