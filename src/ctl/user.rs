//! `user`: who may log in, with which roles.

use std::ffi::OsString;
use std::io::BufRead;

use clap::Args;
use clap::Subcommand;
use prost::Message;

use crate::ctl::context::Context;
use crate::ctl::failure::Failure;
use crate::ctl::input;
use crate::ctl::json::Json;
use crate::ctl::render::Format;
use crate::ctl::render::Page;
use crate::ctl::render::Render;
use crate::ctl::role::Granted;
use crate::proto::authpb::UserAddOptions;
use crate::proto::etcdserverpb::*;

/// User related commands
#[derive(Debug, Args)]
pub struct User {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Adds a new user
    #[command(override_usage = "add <user name or user:password> [options]")]
    Add(Add),
    /// Deletes a user
    #[command(override_usage = "delete <user name>")]
    Delete(Words),
    /// Gets detailed information of a user
    #[command(override_usage = "get <user name> [options]")]
    Get(Get),
    /// Lists all users
    #[command(override_usage = "list")]
    List(Words),
    /// Changes password of user
    #[command(override_usage = "passwd <user name> [options]")]
    Passwd(Passwd),
    /// Grants a role to a user
    #[command(override_usage = "grant-role <user name> <role name>")]
    GrantRole(Words),
    /// Revokes a role from a user
    #[command(override_usage = "revoke-role <user name> <role name>")]
    RevokeRole(Words),
}

#[derive(Debug, Args)]
struct Words {
    #[arg(value_name = "user name")]
    words: Vec<OsString>,
}

#[derive(Debug, Args)]
struct Add {
    #[arg(value_name = "user name or user:password")]
    words: Vec<OsString>,

    /// Ask for the password; if false, read it from standard input
    #[arg(long, value_name = "bool", default_value = "true", default_missing_value = "true", num_args = 0..=1, require_equals = true, action = clap::ArgAction::Set)]
    interactive: bool,

    /// Supply password from the command line flag
    #[arg(long, value_name = "string", default_value = "")]
    new_user_password: String,

    /// Create a user without password (CN based auth only)
    #[arg(long)]
    no_password: bool,
}

#[derive(Debug, Args)]
struct Get {
    #[arg(value_name = "user name")]
    words: Vec<OsString>,

    /// Show permissions of roles granted to the user
    #[arg(long)]
    detail: bool,
}

#[derive(Debug, Args)]
struct Passwd {
    #[arg(value_name = "user name")]
    words: Vec<OsString>,

    /// Ask for the password; if false, read it from standard input
    #[arg(long, value_name = "bool", default_value = "true", default_missing_value = "true", num_args = 0..=1, require_equals = true, action = clap::ArgAction::Set)]
    interactive: bool,
}

impl User {
    pub async fn run(self, context: &mut Context) -> Result<(), Failure> {
        match self.command {
            Command::Add(command) => command.run(context).await,
            Command::Delete(Words { words }) => {
                let name = one(
                    &words,
                    "user delete command requires user name as its argument",
                )?;
                let auth = context.patient_client().await?.auth();
                let request = AuthUserDeleteRequest { name: name.clone() };
                let response = auth.user_delete(request).await?;
                let sentence = format!("User {name} deleted");
                context.print(&Done::new(sentence, response.header))
            }
            Command::Get(command) => command.run(context).await,
            Command::List(Words { words }) => {
                if !words.is_empty() {
                    return Err(Failure::args("user list command requires no arguments"));
                }
                let auth = context.patient_client().await?.auth();
                context.print(&auth.user_list(AuthUserListRequest {}).await?)
            }
            Command::Passwd(command) => command.run(context).await,
            Command::GrantRole(Words { words }) => {
                let missing = "user grant command requires user name and role name as its argument";
                let (user, role) = two(&words, missing)?;
                let sentence = format!("Role {role} is granted to user {user}");
                let auth = context.patient_client().await?.auth();
                let response = auth
                    .user_grant_role(AuthUserGrantRoleRequest { user, role })
                    .await?;
                context.print(&Done::new(sentence, response.header))
            }
            Command::RevokeRole(Words { words }) => {
                let missing = "user revoke-role requires user name and role name as its argument";
                let (name, role) = two(&words, missing)?;
                let sentence = format!("Role {role} is revoked from user {name}");
                let auth = context.patient_client().await?.auth();
                let request = AuthUserRevokeRoleRequest { name, role };
                let response = auth.user_revoke_role(request).await?;
                context.print(&Done::new(sentence, response.header))
            }
        }
    }
}

impl Add {
    async fn run(self, context: &mut Context) -> Result<(), Failure> {
        let word = one(
            &self.words,
            "user add command requires user name as its argument",
        )?;
        let split = || {
            word.split_once(':')
                .map(|(n, p)| (n.to_string(), p.to_string()))
        };
        let (name, given) = if self.no_password {
            (word.clone(), Some(String::new()))
        } else if !self.new_user_password.is_empty() {
            (word.clone(), Some(self.new_user_password))
        } else {
            match split() {
                Some((name, password)) => (name, Some(password)),
                None => (word.clone(), None),
            }
        };
        if name.is_empty() {
            return Err(Failure::args("empty user name is not allowed"));
        }
        let auth = context.patient_client().await?.auth();
        let password = match given {
            Some(password) => password,
            None => new_password(&name, self.interactive, context)?,
        };
        let request = AuthUserAddRequest {
            name: name.clone(),
            password,
            options: Some(UserAddOptions {
                no_password: self.no_password,
            }),
            ..Default::default()
        };
        let response = auth.user_add(request).await?;
        context.print(&Done::new(format!("User {name} created"), response.header))
    }
}

impl Get {
    async fn run(self, context: &mut Context) -> Result<(), Failure> {
        let name = one(
            &self.words,
            "user get command requires user name as its argument",
        )?;
        let auth = context.patient_client().await?.auth();
        let response = auth
            .user_get(AuthUserGetRequest { name: name.clone() })
            .await?;
        if !self.detail {
            return context.print(&Found { name, response });
        }
        context.line(format_args!("User: {name}"))?;
        for role in response.roles {
            context.line("")?;
            let response = auth
                .role_get(AuthRoleGetRequest { role: role.clone() })
                .await?;
            context.print(&Granted { role, response })?;
        }
        Ok(())
    }
}

impl Passwd {
    async fn run(self, context: &mut Context) -> Result<(), Failure> {
        let name = one(
            &self.words,
            "user passwd command requires user name as its argument",
        )?;
        let auth = context.patient_client().await?.auth();
        let request = AuthUserChangePasswordRequest {
            password: new_password(&name, self.interactive, context)?,
            name,
            ..Default::default()
        };
        let response = auth.user_change_password(request).await?;
        context.print(&Done::new("Password updated".into(), response.header))
    }
}

fn one(words: &[OsString], missing: &str) -> Result<String, Failure> {
    match words {
        [word] => Ok(word.to_string_lossy().into_owned()),
        _ => Err(Failure::args(missing)),
    }
}

fn two(words: &[OsString], missing: &str) -> Result<(String, String), Failure> {
    let text = |word: &OsString| word.to_string_lossy().into_owned();
    match words {
        [first, second] => Ok((text(first), text(second))),
        _ => Err(Failure::args(missing)),
    }
}

/// A password from two prompts that agree, or the first word of standard input.
fn new_password(user: &str, ask: bool, context: &mut Context) -> Result<String, Failure> {
    if !ask {
        let mut line = String::new();
        let read = context.input().read_line(&mut line);
        read.map_err(|error| Failure::args(format!("failed to ask password: {error}")))?;
        return Ok(line
            .split_whitespace()
            .next()
            .unwrap_or_default()
            .to_string());
    }
    let first = input::ask_password(&format!("Password of {user}: "))?;
    if first.is_empty() {
        return Err(Failure::args("empty password"));
    }
    let prompt = format!("Type password of {user} again for confirmation: ");
    if input::ask_password(&prompt)? != first {
        return Err(Failure::args("given passwords are different"));
    }
    Ok(first)
}

/// The reply to a change: a sentence for people, a header for everybody else.
pub struct Done {
    sentence: String,
    header: Option<ResponseHeader>,
}

impl Done {
    pub fn new(sentence: String, header: Option<ResponseHeader>) -> Done {
        Done { sentence, header }
    }

    /// All these replies hold a header and nothing else.
    fn message(&self) -> AuthUserAddResponse {
        AuthUserAddResponse {
            header: self.header,
        }
    }
}

impl Render for Done {
    fn simple(&self, page: &mut Page) {
        page.line(&self.sentence);
    }

    fn fields(&self, page: &mut Page) {
        page.header(&self.header);
    }

    fn json(&self, _: bool) -> Json {
        Json::message("AuthUserAddResponse", &self.message())
    }

    fn protobuf(&self) -> Vec<u8> {
        self.message().encode_to_vec()
    }
}

const FORMATS: &[Format] = &[Format::Simple, Format::Json, Format::Protobuf];

struct Found {
    name: String,
    response: AuthUserGetResponse,
}

impl Render for Found {
    fn formats(&self) -> &'static [Format] {
        FORMATS
    }

    fn simple(&self, page: &mut Page) {
        page.line(format_args!("User: {}", self.name));
        let roles = self.response.roles.iter().map(|role| format!(" {role}"));
        page.line(format_args!("Roles:{}", roles.collect::<String>()));
    }

    fn json(&self, _: bool) -> Json {
        Json::message("AuthUserGetResponse", &self.response)
    }

    fn protobuf(&self) -> Vec<u8> {
        self.response.encode_to_vec()
    }
}

impl Render for AuthUserListResponse {
    fn formats(&self) -> &'static [Format] {
        FORMATS
    }

    fn simple(&self, page: &mut Page) {
        self.users.iter().for_each(|user| page.line(user));
    }

    fn json(&self, _: bool) -> Json {
        Json::message("AuthUserListResponse", self)
    }

    fn protobuf(&self) -> Vec<u8> {
        self.encode_to_vec()
    }
}
