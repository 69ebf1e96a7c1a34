//! `member`: who belongs to the cluster.

use std::ffi::OsString;

use clap::Args;
use clap::Subcommand;
use prost::Message;

use crate::ctl::context::Context;
use crate::ctl::failure::Failure;
use crate::ctl::go;
use crate::ctl::json::Json;
use crate::ctl::render::Format;
use crate::ctl::render::Grid;
use crate::ctl::render::Page;
use crate::ctl::render::Render;
use crate::proto::etcdserverpb::Member as MemberRecord;
use crate::proto::etcdserverpb::MemberAddRequest;
use crate::proto::etcdserverpb::MemberAddResponse;
use crate::proto::etcdserverpb::MemberListRequest;
use crate::proto::etcdserverpb::MemberListResponse;
use crate::proto::etcdserverpb::MemberPromoteRequest;
use crate::proto::etcdserverpb::MemberRemoveRequest;
use crate::proto::etcdserverpb::MemberUpdateRequest;
use crate::proto::etcdserverpb::ResponseHeader;

/// Membership related commands
#[derive(Debug, Args)]
pub struct Member {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Adds a member into the cluster
    #[command(override_usage = "add <memberName> [options]")]
    Add(Add),
    /// Removes a member from the cluster
    #[command(override_usage = "remove <memberID>")]
    Remove(Words),
    /// Updates a member in the cluster
    #[command(override_usage = "update <memberID> [options]")]
    Update(Update),
    /// Lists all members in the cluster
    ///
    /// In the simple format a line holds, separated by commas: ID, status, name, peer addresses, client
    /// addresses, is learner.
    #[command(override_usage = "list")]
    List(List),
    /// Promotes a non-voting member in the cluster
    #[command(override_usage = "promote <memberID>")]
    Promote(Words),
}

#[derive(Debug, Args)]
struct Words {
    #[arg(value_name = "memberID")]
    words: Vec<OsString>,
}

#[derive(Debug, Args)]
struct Add {
    #[arg(value_name = "memberName")]
    words: Vec<OsString>,

    /// comma separated peer URLs for the new member
    #[arg(long, value_name = "string", default_value = "")]
    peer_urls: String,

    /// indicates if the new member is raft learner
    #[arg(long)]
    learner: bool,
}

#[derive(Debug, Args)]
struct Update {
    #[arg(value_name = "memberID")]
    words: Vec<OsString>,

    /// comma separated peer URLs for the updated member
    #[arg(long, value_name = "string", default_value = "")]
    peer_urls: String,
}

#[derive(Debug, Args)]
struct List {
    #[arg(hide = true)]
    words: Vec<OsString>,

    /// Linearizable(l) or Serializable(s)
    #[arg(long, value_name = "string", default_value = "l")]
    consistency: String,
}

impl Member {
    pub async fn run(self, context: &mut Context) -> Result<(), Failure> {
        match self.command {
            Command::Add(command) => command.run(context).await,
            Command::Remove(Words { words }) => {
                let id = one_member(&words)?;
                let cluster = context.client().await?.cluster();
                let response = cluster.remove(MemberRemoveRequest { id }).await?;
                context.print(&Changed {
                    sentence: sentence(id, "removed from", &response.header),
                    json: Json::message("MemberRemoveResponse", &response),
                    protobuf: response.encode_to_vec(),
                })
            }
            Command::Update(command) => command.run(context).await,
            Command::List(command) => command.run(context).await,
            Command::Promote(Words { words }) => {
                let id = one_member(&words)?;
                let cluster = context.client().await?.cluster();
                let response = cluster.promote(MemberPromoteRequest { id }).await?;
                context.print(&Changed {
                    sentence: sentence(id, "promoted in", &response.header),
                    json: Json::message("MemberPromoteResponse", &response),
                    protobuf: response.encode_to_vec(),
                })
            }
        }
    }
}

impl Add {
    async fn run(self, context: &mut Context) -> Result<(), Failure> {
        let name = match &self.words[..] {
            [] => return Err(Failure::args("member name not provided")),
            [name] => name.to_string_lossy().into_owned(),
            words => return Err(too_many(words)),
        };
        if self.peer_urls.is_empty() {
            return Err(Failure::args("member peer urls not provided"));
        }
        let cluster = context.client().await?.cluster();
        let request = MemberAddRequest {
            peer_ur_ls: urls(&self.peer_urls)?,
            is_learner: self.learner,
        };
        let response = cluster.add(request).await?;
        context.print(&Added {
            name,
            peer_urls: self.peer_urls,
            response,
        })
    }
}

impl Update {
    async fn run(self, context: &mut Context) -> Result<(), Failure> {
        let id = one_member(&self.words)?;
        if self.peer_urls.is_empty() {
            return Err(Failure::args("member peer urls not provided"));
        }
        let cluster = context.client().await?.cluster();
        let request = MemberUpdateRequest {
            id,
            peer_ur_ls: urls(&self.peer_urls)?,
        };
        let response = cluster.update(request).await?;
        context.print(&Changed {
            sentence: sentence(id, "updated in", &response.header),
            json: Json::message("MemberUpdateResponse", &response),
            protobuf: response.encode_to_vec(),
        })
    }
}

impl List {
    async fn run(self, context: &mut Context) -> Result<(), Failure> {
        let linearizable = match self.consistency.as_str() {
            "l" => true,
            "s" => false,
            other => {
                let other = go::quote(other.as_bytes());
                return Err(Failure::feature(format!(
                    "unknown consistency flag {other}"
                )));
            }
        };
        let cluster = context.client().await?.cluster();
        let response = cluster.list(MemberListRequest { linearizable }).await?;
        context.print(&response)
    }
}

fn one_member(words: &[OsString]) -> Result<u64, Failure> {
    let [id] = words else {
        return Err(Failure::args("member ID is not provided"));
    };
    go::parse_uint(&id.to_string_lossy(), 16)
        .map_err(|why| Failure::args(format!("bad member ID arg ({why}), expecting ID in Hex")))
}

fn too_many(words: &[OsString]) -> Failure {
    let mut message = "too many arguments".to_string();
    for word in words.iter().map(|word| word.to_string_lossy()) {
        if word.to_lowercase().starts_with("http") {
            message.push_str(&format!(", did you mean --peer-urls={word}"));
        }
    }
    Failure::args(message)
}

/// Splits and checks peer URLs before anything is sent.
fn urls(list: &str) -> Result<Vec<String>, Failure> {
    let urls: Vec<String> = list.split(',').map(|url| url.trim().to_string()).collect();
    for url in &urls {
        check_url(url).map_err(Failure::error)?;
    }
    Ok(urls)
}

fn check_url(url: &str) -> Result<(), String> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    if !matches!(scheme, "http" | "https" | "unix" | "unixs") {
        return Err(format!(
            "URL scheme must be http, https, unix, or unixs: {url}"
        ));
    }
    if scheme.starts_with("unix") {
        return Ok(());
    }
    let (host, path) = match rest.split_once('/') {
        Some((host, path)) => (host, format!("/{path}")),
        None => (rest, String::new()),
    };
    if !host.contains(':') {
        return Err(format!(
            "URL address does not have the form \"host:port\": {url}"
        ));
    }
    if !path.is_empty() {
        return Err(format!("URL must not contain a path: {url}"));
    }
    Ok(())
}

fn sentence(id: u64, what: &str, header: &Option<ResponseHeader>) -> String {
    let cluster = header.unwrap_or_default().cluster_id;
    format!("Member {id:16x} {what} cluster {cluster:16x}")
}

const CHANGE_FORMATS: &[Format] = &[Format::Simple, Format::Json, Format::Protobuf];

/// The reply to a change that says little more than that it took place.
struct Changed {
    sentence: String,
    json: Json,
    protobuf: Vec<u8>,
}

impl Render for Changed {
    fn formats(&self) -> &'static [Format] {
        CHANGE_FORMATS
    }

    fn simple(&self, page: &mut Page) {
        page.line(&self.sentence);
    }

    fn json(&self, hex: bool) -> Json {
        with_ids(self.json.clone(), hex)
    }

    fn protobuf(&self) -> Vec<u8> {
        self.protobuf.clone()
    }
}

struct Added {
    name: String,
    peer_urls: String,
    response: MemberAddResponse,
}

impl Added {
    /// Every member's every peer URL, for the new member's configuration.
    fn initial_cluster(&self) -> String {
        let new = self.response.member.as_ref().map(|member| member.id);
        let members = self.response.members.iter().flat_map(|member| {
            let name = if Some(member.id) == new {
                &self.name
            } else {
                &member.name
            };
            member
                .peer_ur_ls
                .iter()
                .map(move |url| format!("{name}={url}"))
        });
        members.collect::<Vec<String>>().join(",")
    }
}

impl Render for Added {
    fn formats(&self) -> &'static [Format] {
        CHANGE_FORMATS
    }

    fn simple(&self, page: &mut Page) {
        let member = self.response.member.clone().unwrap_or_default();
        let how = match member.is_learner {
            true => "added as learner to",
            false => "added to",
        };
        page.line(sentence(member.id, how, &self.response.header));
        page.line("");
        let quoted = |text: &str| go::quote(text.as_bytes());
        page.line(format_args!("ETCD_NAME={}", quoted(&self.name)));
        page.line(format_args!(
            "ETCD_INITIAL_CLUSTER={}",
            quoted(&self.initial_cluster())
        ));
        page.line(format_args!(
            "ETCD_INITIAL_ADVERTISE_PEER_URLS={}",
            quoted(&self.peer_urls)
        ));
        page.line("ETCD_INITIAL_CLUSTER_STATE=\"existing\"");
    }

    fn json(&self, hex: bool) -> Json {
        with_ids(Json::message("MemberAddResponse", &self.response), hex)
    }

    fn protobuf(&self) -> Vec<u8> {
        self.response.encode_to_vec()
    }
}

/// The same JSON with the IDs in hexadecimal, if that was asked for.
fn with_ids(json: Json, hex: bool) -> Json {
    match json {
        Json::Object(fields) if hex => {
            let fields = fields.into_iter().map(|(name, value)| {
                let value = match (name.as_str(), value) {
                    ("cluster_id" | "member_id" | "ID", Json::Uint(id)) => {
                        Json::text(format!("{id:x}"))
                    }
                    (_, value) => with_ids(value, hex),
                };
                (name, value)
            });
            Json::Object(fields.collect())
        }
        Json::List(items) if hex => {
            Json::List(items.into_iter().map(|item| with_ids(item, hex)).collect())
        }
        other => other,
    }
}

fn cells(member: &MemberRecord) -> Vec<String> {
    let status = match member.name.is_empty() {
        true => "unstarted",
        false => "started",
    };
    vec![
        format!("{:x}", member.id),
        status.to_string(),
        member.name.clone(),
        member.peer_ur_ls.join(","),
        member.client_ur_ls.join(","),
        member.is_learner.to_string(),
    ]
}

impl Render for MemberListResponse {
    fn formats(&self) -> &'static [Format] {
        use Format::*;
        &[Simple, Table, Json, Fields, Protobuf]
    }

    fn simple(&self, page: &mut Page) {
        self.members
            .iter()
            .for_each(|member| page.line(cells(member).join(", ")));
    }

    fn fields(&self, page: &mut Page) {
        page.header(&self.header);
        for member in &self.members {
            page.id("ID", member.id);
            page.quoted("Name", &member.name);
            member
                .peer_ur_ls
                .iter()
                .for_each(|url| page.quoted("PeerURL", url));
            member
                .client_ur_ls
                .iter()
                .for_each(|url| page.quoted("ClientURL", url));
            page.field("IsLearner", member.is_learner);
            page.line("");
        }
    }

    fn table(&self) -> Grid {
        Grid {
            heading: &[
                "ID",
                "STATUS",
                "NAME",
                "PEER ADDRS",
                "CLIENT ADDRS",
                "IS LEARNER",
            ],
            rows: self.members.iter().map(cells).collect(),
        }
    }

    fn json(&self, hex: bool) -> Json {
        with_ids(Json::message("MemberListResponse", self), hex)
    }

    fn protobuf(&self) -> Vec<u8> {
        self.encode_to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_urls_are_checked_before_they_are_sent() {
        let cases = [
            ("http://127.0.0.1:2380", None),
            ("unix://sock", None),
            (
                "bad",
                Some("URL scheme must be http, https, unix, or unixs: bad"),
            ),
            (
                "http://host",
                Some("URL address does not have the form \"host:port\": http://host"),
            ),
            (
                "http://host:1/x",
                Some("URL must not contain a path: http://host:1/x"),
            ),
        ];
        for (url, problem) in cases {
            assert_eq!(check_url(url).err().as_deref(), problem);
        }
    }
}
