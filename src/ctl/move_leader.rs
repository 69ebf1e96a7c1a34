//! `move-leader`: hands leadership to another member.

use std::ffi::OsString;

use clap::Args;
use prost::Message;

use crate::ctl::context::Context;
use crate::ctl::failure::Failure;
use crate::ctl::go;
use crate::ctl::json::Json;
use crate::ctl::render::Format;
use crate::ctl::render::Page;
use crate::ctl::render::Render;
use crate::proto::etcdserverpb::MoveLeaderRequest;
use crate::proto::etcdserverpb::MoveLeaderResponse;
use crate::proto::etcdserverpb::StatusRequest;

/// Transfers leadership to another etcd cluster member.
#[derive(Debug, Args)]
#[command(
    override_usage = "move-leader <transferee-member-id>",
    verbatim_doc_comment
)]
pub struct MoveLeader {
    #[arg(value_name = "transferee-member-id")]
    words: Vec<OsString>,
}

impl MoveLeader {
    pub async fn run(self, context: &mut Context) -> Result<(), Failure> {
        let [target] = &self.words[..] else {
            return Err(Failure::args("move-leader command needs 1 argument"));
        };
        let target_id = go::parse_uint(&target.to_string_lossy(), 16).map_err(Failure::args)?;
        let endpoints = context.settings()?.config.endpoints.clone();
        for endpoint in &endpoints {
            let maintenance = context.client_of(endpoint).await?.maintenance();
            let status = maintenance.status(StatusRequest {}).await?;
            let leader = status.leader;
            if status.header.unwrap_or_default().member_id == leader {
                let request = MoveLeaderRequest { target_id };
                let response = maintenance.move_leader(request).await?;
                return context.print(&Moved {
                    from: leader,
                    to: target_id,
                    response,
                });
            }
        }
        Err(Failure::args(format!(
            "no leader endpoint given at [{}]",
            endpoints.join(" ")
        )))
    }
}

struct Moved {
    from: u64,
    to: u64,
    response: MoveLeaderResponse,
}

impl Render for Moved {
    fn formats(&self) -> &'static [Format] {
        use Format::*;
        &[Simple, Json, Protobuf]
    }

    fn simple(&self, page: &mut Page) {
        page.line(format_args!(
            "Leadership transferred from {:x} to {:x}",
            self.from, self.to
        ));
    }

    fn json(&self, _: bool) -> Json {
        Json::message("MoveLeaderResponse", &self.response)
    }

    fn protobuf(&self) -> Vec<u8> {
        self.response.encode_to_vec()
    }
}
