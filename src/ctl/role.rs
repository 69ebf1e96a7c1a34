//! `role`: which keys may be read and written.

use std::ffi::OsString;

use clap::Args;
use clap::Subcommand;
use prost::Message;

use crate::client::prefix_end;
use crate::ctl::context::Context;
use crate::ctl::failure::Failure;
use crate::ctl::go;
use crate::ctl::json::Json;
use crate::ctl::parse;
use crate::ctl::render::Page;
use crate::ctl::render::Render;
use crate::ctl::user::Done;
use crate::proto::authpb::Permission;
use crate::proto::authpb::permission::Type;
use crate::proto::etcdserverpb::AuthRoleAddRequest;
use crate::proto::etcdserverpb::AuthRoleDeleteRequest;
use crate::proto::etcdserverpb::AuthRoleGetRequest;
use crate::proto::etcdserverpb::AuthRoleGetResponse;
use crate::proto::etcdserverpb::AuthRoleGrantPermissionRequest;
use crate::proto::etcdserverpb::AuthRoleListRequest;
use crate::proto::etcdserverpb::AuthRoleListResponse;
use crate::proto::etcdserverpb::AuthRoleRevokePermissionRequest;

/// Role related commands
#[derive(Debug, Args)]
pub struct Role {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Adds a new role
    #[command(override_usage = "add <role name>")]
    Add(Words),
    /// Deletes a role
    #[command(override_usage = "delete <role name>")]
    Delete(Words),
    /// Gets detailed information of a role
    #[command(override_usage = "get <role name>")]
    Get(Words),
    /// Lists all roles
    #[command(override_usage = "list")]
    List(Words),
    /// Grants a key to a role
    #[command(
        override_usage = "grant-permission [options] <role name> <permission type> <key> [endkey]"
    )]
    GrantPermission(Range),
    /// Revokes a key from a role
    #[command(override_usage = "revoke-permission <role name> <key> [endkey]")]
    RevokePermission(Range),
}

#[derive(Debug, Args)]
struct Words {
    #[arg(value_name = "role name")]
    words: Vec<OsString>,
}

#[derive(Debug, Args)]
struct Range {
    #[arg(value_name = "role name")]
    words: Vec<OsString>,

    /// every key with this prefix
    #[arg(long)]
    prefix: bool,

    /// every key from this one on, in byte order
    #[arg(long)]
    from_key: bool,
}

impl Role {
    pub async fn run(self, context: &mut Context) -> Result<(), Failure> {
        match self.command {
            Command::Add(Words { words }) => {
                let name = one(&words, "add")?;
                let auth = context.patient_client().await?.auth();
                let response = auth
                    .role_add(AuthRoleAddRequest { name: name.clone() })
                    .await?;
                context.print(&Done::new(format!("Role {name} created"), response.header))
            }
            Command::Delete(Words { words }) => {
                let role = one(&words, "delete")?;
                let auth = context.patient_client().await?.auth();
                let request = AuthRoleDeleteRequest { role: role.clone() };
                let response = auth.role_delete(request).await?;
                context.print(&Done::new(format!("Role {role} deleted"), response.header))
            }
            Command::Get(Words { words }) => {
                let role = one(&words, "get")?;
                let auth = context.patient_client().await?.auth();
                let response = auth
                    .role_get(AuthRoleGetRequest { role: role.clone() })
                    .await?;
                context.print(&Granted { role, response })
            }
            Command::List(Words { words }) => {
                if !words.is_empty() {
                    return Err(Failure::args("role list command requires no arguments"));
                }
                let auth = context.patient_client().await?.auth();
                context.print(&auth.role_list(AuthRoleListRequest {}).await?)
            }
            Command::GrantPermission(range) => range.grant(context).await,
            Command::RevokePermission(range) => range.revoke(context).await,
        }
    }
}

impl Range {
    async fn grant(self, context: &mut Context) -> Result<(), Failure> {
        if self.words.len() < 3 {
            return Err(Failure::args(
                "role grant command requires role name, permission type, and key [endkey] as its argument",
            ));
        }
        let kind = self.words[1].to_string_lossy().into_owned();
        let perm_type = match kind.to_lowercase().as_str() {
            "read" => Type::Read,
            "write" => Type::Write,
            "readwrite" => Type::Readwrite,
            _ => return Err(Failure::args(format!("invalid permission type: {kind}"))),
        };
        let (key, range_end) = self.range(2)?;
        let name = self.words[0].to_string_lossy().into_owned();
        let auth = context.patient_client().await?.auth();
        let request = AuthRoleGrantPermissionRequest {
            name: name.clone(),
            perm: Some(Permission {
                perm_type: perm_type.into(),
                key: stored(key),
                range_end,
            }),
        };
        let response = auth.role_grant_permission(request).await?;
        context.print(&Done::new(format!("Role {name} updated"), response.header))
    }

    async fn revoke(self, context: &mut Context) -> Result<(), Failure> {
        if self.words.len() < 2 {
            return Err(Failure::args(
                "role revoke-permission command requires role name and key [endkey] as its argument",
            ));
        }
        let (key, range_end) = self.range(1)?;
        let role = self.words[0].to_string_lossy().into_owned();
        let (from, to) = (
            String::from_utf8_lossy(&key),
            String::from_utf8_lossy(&range_end),
        );
        let what = match &range_end[..] {
            [] => format!("key {from}"),
            [0] => format!("range [{from}, <open ended>"),
            _ => format!("range [{from}, {to})"),
        };
        let sentence = format!("Permission of {what} is revoked from role {role}");
        let auth = context.patient_client().await?.auth();
        let request = AuthRoleRevokePermissionRequest {
            role,
            key: stored(key),
            range_end,
        };
        let response = auth.role_revoke_permission(request).await?;
        context.print(&Done::new(sentence, response.header))
    }

    /// The key at `position` and the range end that words and flags give it.
    fn range(&self, position: usize) -> Result<(Vec<u8>, Vec<u8>), Failure> {
        let mut keys = parse::bytes(self.words[position..].to_vec()).into_iter();
        let key = keys.next().unwrap_or_default();
        let end = match (keys.next(), self.prefix, self.from_key) {
            (_, true, true) => "--from-key and --prefix flags are mutually exclusive",
            (Some(_), true, _) => "unexpected endkey argument with --prefix flag",
            (Some(_), _, true) => "unexpected endkey argument with --from-key flag",
            (Some(end), false, false) => return Ok((key, end)),
            (None, true, false) => {
                let end = prefix_end(&key);
                return Ok((key, end));
            }
            (None, false, true) => return Ok((key, vec![0])),
            (None, false, false) => return Ok((key, Vec::new())),
        };
        Err(Failure::args(end))
    }
}

/// The empty key is stored as the first key there is.
fn stored(key: Vec<u8>) -> Vec<u8> {
    if key.is_empty() { vec![0] } else { key }
}

fn one(words: &[OsString], command: &str) -> Result<String, Failure> {
    match words {
        [word] => Ok(word.to_string_lossy().into_owned()),
        _ => Err(Failure::args(format!(
            "role {command} command requires role name as its argument"
        ))),
    }
}

/// What a role may do.
pub struct Granted {
    pub role: String,
    pub response: AuthRoleGetResponse,
}

impl Granted {
    fn ranges(&self, wanted: Type, page: &mut Page) {
        let all = [Type::Readwrite, wanted];
        let permissions = self.response.perm.iter();
        for permission in permissions.filter(|permission| all.contains(&permission.perm_type())) {
            let Permission { key, range_end, .. } = permission;
            let mut line = b"\t".to_vec();
            match &range_end[..] {
                [] => line.extend(key),
                [0] => line.extend([b"[", &key[..], b", <open ended>"].concat()),
                end => line.extend([b"[", &key[..], b", ", end, b")"].concat()),
            }
            if !range_end.is_empty() && !key.is_empty() && prefix_end(key) == *range_end {
                line.extend([b" (prefix ", &key[..], b")"].concat());
            }
            page.verbatim(&line);
        }
    }
}

impl Render for Granted {
    fn simple(&self, page: &mut Page) {
        page.line(format_args!("Role {}", self.role));
        let everything = self.role == "root" && self.response.perm.is_empty();
        for (heading, wanted) in [("KV Read:", Type::Read), ("KV Write:", Type::Write)] {
            page.line(heading);
            if everything {
                page.line("\t[, <open ended>");
            }
            self.ranges(wanted, page);
        }
    }

    fn fields(&self, page: &mut Page) {
        page.header(&self.response.header);
        for permission in &self.response.perm {
            let kind = permission.perm_type().as_str_name();
            page.field("PermType", format_args!(" {kind}"));
            page.quoted("Key", &permission.key);
            page.quoted("RangeEnd", &permission.range_end);
        }
    }

    fn json(&self, _: bool) -> Json {
        Json::message("AuthRoleGetResponse", &self.response)
    }

    fn protobuf(&self) -> Vec<u8> {
        self.response.encode_to_vec()
    }
}

impl Render for AuthRoleListResponse {
    fn simple(&self, page: &mut Page) {
        self.roles.iter().for_each(|role| page.line(role));
    }

    fn fields(&self, page: &mut Page) {
        page.header(&self.header);
        let roles = self.roles.iter().map(|role| go::quote(role.as_bytes()));
        let roles: Vec<String> = roles.collect();
        page.field("Roles", roles.join(" "));
    }

    fn json(&self, _: bool) -> Json {
        Json::message("AuthRoleListResponse", self)
    }

    fn protobuf(&self) -> Vec<u8> {
        self.encode_to_vec()
    }
}
