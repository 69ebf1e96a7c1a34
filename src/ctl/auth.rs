//! `auth`: whether users and roles matter.

use std::ffi::OsString;

use clap::Args;
use clap::Subcommand;
use prost::Message;

use crate::client;
use crate::ctl::context::Context;
use crate::ctl::failure::Failure;
use crate::ctl::json::Json;
use crate::ctl::render::Format;
use crate::ctl::render::Page;
use crate::ctl::render::Render;
use crate::error::ApiError;
use crate::proto::etcdserverpb::AuthDisableRequest;
use crate::proto::etcdserverpb::AuthEnableRequest;
use crate::proto::etcdserverpb::AuthRoleAddRequest;
use crate::proto::etcdserverpb::AuthStatusRequest;
use crate::proto::etcdserverpb::AuthStatusResponse;
use crate::proto::etcdserverpb::AuthUserGrantRoleRequest;

/// Enable or disable authentication
#[derive(Debug, Args)]
pub struct Auth {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Disables authentication
    #[command(override_usage = "disable")]
    Disable(Words),
    /// Enables authentication
    #[command(override_usage = "enable")]
    Enable(Words),
    /// Returns authentication status
    #[command(override_usage = "status")]
    Status(Words),
}

#[derive(Debug, Args)]
struct Words {
    #[arg(hide = true)]
    words: Vec<OsString>,
}

impl Auth {
    pub async fn run(self, context: &mut Context) -> Result<(), Failure> {
        match self.command {
            Command::Enable(words) => {
                words.none("enable")?;
                enable(&context.client().await?.auth()).await?;
                context.line("Authentication Enabled")
            }
            Command::Disable(words) => {
                words.none("disable")?;
                let auth = context.client().await?.auth();
                auth.disable(AuthDisableRequest {}).await?;
                context.line("Authentication Disabled")
            }
            Command::Status(words) => {
                words.none("status")?;
                let auth = context.client().await?.auth();
                context.print(&auth.status(AuthStatusRequest {}).await?)
            }
        }
    }
}

impl Words {
    fn none(&self, name: &str) -> Result<(), Failure> {
        match self.words.is_empty() {
            true => Ok(()),
            false => Err(Failure::args(format!(
                "auth {name} command does not accept any arguments"
            ))),
        }
    }
}

/// Enables authentication; a root user without the root role is given it first.
async fn enable(auth: &client::Auth) -> client::Result<()> {
    loop {
        match auth.enable(AuthEnableRequest {}).await {
            Ok(_) => return Ok(()),
            Err(error) if error.is(ApiError::RootRoleNotExist) => {
                let root = || "root".to_string();
                auth.role_add(AuthRoleAddRequest { name: root() }).await?;
                let grant = AuthUserGrantRoleRequest {
                    user: root(),
                    role: root(),
                };
                auth.user_grant_role(grant).await?;
            }
            Err(error) => return Err(error),
        }
    }
}

impl Render for AuthStatusResponse {
    fn formats(&self) -> &'static [Format] {
        use Format::*;
        &[Simple, Json, Protobuf]
    }

    fn simple(&self, page: &mut Page) {
        page.line(format_args!("Authentication Status: {}", self.enabled));
        page.line(format_args!("AuthRevision: {}", self.auth_revision));
    }

    fn json(&self, _: bool) -> Json {
        Json::message("AuthStatusResponse", self)
    }

    fn protobuf(&self) -> Vec<u8> {
        self.encode_to_vec()
    }
}
