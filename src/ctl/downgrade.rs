//! `downgrade`: prepares the cluster for servers of the previous version.

use std::ffi::OsString;

use clap::Args;
use clap::Subcommand;
use prost::Message;

use crate::ctl::context::Context;
use crate::ctl::failure::Failure;
use crate::ctl::json::Json;
use crate::ctl::render::Format;
use crate::ctl::render::Page;
use crate::ctl::render::Render;
use crate::proto::etcdserverpb::DowngradeRequest;
use crate::proto::etcdserverpb::DowngradeResponse;
use crate::proto::etcdserverpb::downgrade_request::DowngradeAction;

/// Downgrade related commands
#[derive(Debug, Args)]
pub struct Downgrade {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Validate downgrade capability before starting downgrade
    #[command(override_usage = "validate <TARGET_VERSION>")]
    Validate(Words),
    /// Start a downgrade action to cluster
    #[command(override_usage = "enable <TARGET_VERSION>")]
    Enable(Words),
    /// Cancel the ongoing downgrade action to cluster
    #[command(override_usage = "cancel")]
    Cancel(Words),
}

#[derive(Debug, Args)]
struct Words {
    #[arg(value_name = "TARGET_VERSION")]
    words: Vec<OsString>,
}

impl Downgrade {
    pub async fn run(self, context: &mut Context) -> Result<(), Failure> {
        let (name, action, version) = match self.command {
            Command::Validate(Words { words }) => {
                ("validate", DowngradeAction::Validate, target(&words)?)
            }
            Command::Enable(Words { words }) => {
                ("enable", DowngradeAction::Enable, target(&words)?)
            }
            Command::Cancel(_) => ("cancel", DowngradeAction::Cancel, String::new()),
        };
        let request = DowngradeRequest {
            action: action.into(),
            version,
        };
        let response = context
            .client()
            .await?
            .maintenance()
            .downgrade(request)
            .await?;
        context.print(&Done { name, response })
    }
}

fn target(words: &[OsString]) -> Result<String, Failure> {
    match words {
        [] => Err(Failure::args("TARGET_VERSION not provided")),
        [version] if version.is_empty() => Err(Failure::args("target version not provided")),
        [version] => Ok(version.to_string_lossy().into_owned()),
        _ => Err(Failure::args("too many arguments")),
    }
}

struct Done {
    name: &'static str,
    response: DowngradeResponse,
}

impl Render for Done {
    fn formats(&self) -> &'static [Format] {
        use Format::*;
        &[Simple, Json, Protobuf]
    }

    fn simple(&self, page: &mut Page) {
        page.line(format_args!(
            "Downgrade {} success, cluster version {}",
            self.name, self.response.version
        ));
    }

    fn json(&self, _: bool) -> Json {
        Json::message("DowngradeResponse", &self.response)
    }

    fn protobuf(&self) -> Vec<u8> {
        self.response.encode_to_vec()
    }
}
