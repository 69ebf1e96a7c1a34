//! `lease`: granting, revoking, renewing and looking at leases.

use std::ffi::OsString;

use clap::Args;
use clap::Subcommand;
use prost::Message;

use crate::client;
use crate::ctl::context::Context;
use crate::ctl::failure::Exit;
use crate::ctl::failure::Failure;
use crate::ctl::go;
use crate::ctl::json::Json;
use crate::ctl::render::Format;
use crate::ctl::render::Page;
use crate::ctl::render::Render;
use crate::proto::etcdserverpb::LeaseGrantRequest;
use crate::proto::etcdserverpb::LeaseGrantResponse;
use crate::proto::etcdserverpb::LeaseKeepAliveResponse;
use crate::proto::etcdserverpb::LeaseLeasesResponse;
use crate::proto::etcdserverpb::LeaseRevokeRequest;
use crate::proto::etcdserverpb::LeaseRevokeResponse;
use crate::proto::etcdserverpb::LeaseTimeToLiveRequest;
use crate::proto::etcdserverpb::LeaseTimeToLiveResponse;
use crate::proto::etcdserverpb::ResponseHeader;

/// Lease related commands
#[derive(Debug, Args)]
pub struct Lease {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Creates leases
    #[command(override_usage = "grant <ttl>")]
    Grant(Words),
    /// Revokes leases
    #[command(override_usage = "revoke <leaseID>")]
    Revoke(Words),
    /// Get lease information
    #[command(override_usage = "timetolive <leaseID> [options]")]
    Timetolive(TimeToLive),
    /// List all active leases
    #[command(override_usage = "list")]
    List(Words),
    /// Keeps leases alive (renew)
    #[command(override_usage = "keep-alive [options] <leaseID>")]
    KeepAlive(KeepAlive),
}

#[derive(Debug, Args)]
struct Words {
    #[arg(value_name = "argument")]
    words: Vec<OsString>,
}

#[derive(Debug, Args)]
struct TimeToLive {
    #[arg(value_name = "leaseID")]
    words: Vec<OsString>,

    /// Get keys attached to this lease
    #[arg(long)]
    keys: bool,
}

#[derive(Debug, Args)]
struct KeepAlive {
    #[arg(value_name = "leaseID")]
    words: Vec<OsString>,

    /// Renews the lease once, then exits
    #[arg(long)]
    once: bool,
}

impl Lease {
    pub async fn run(self, context: &mut Context) -> Result<(), Failure> {
        match self.command {
            Command::Grant(Words { words }) => grant(words, context).await,
            Command::Revoke(Words { words }) => revoke(words, context).await,
            Command::Timetolive(command) => time_to_live(command, context).await,
            Command::List(_) => {
                let lease = context.patient_client().await?.lease();
                let response = lease.list().await.map_err(no_connection)?;
                context.print(&response)
            }
            Command::KeepAlive(command) => keep_alive(command, context).await,
        }
    }
}

async fn grant(words: Vec<OsString>, context: &mut Context) -> Result<(), Failure> {
    let [ttl] = &words[..] else {
        return Err(Failure::args("lease grant command needs TTL argument"));
    };
    let ttl = go::parse_int(&ttl.to_string_lossy(), 10)
        .map_err(|why| Failure::args(format!("bad TTL ({why})")))?;
    let lease = context.client().await?.lease();
    let response = lease.grant(LeaseGrantRequest { ttl, id: 0 }).await;
    let response =
        response.map_err(|error| Failure::error(format!("failed to grant lease ({error})")))?;
    context.print(&response)
}

async fn revoke(words: Vec<OsString>, context: &mut Context) -> Result<(), Failure> {
    let id = one_lease(&words, "lease revoke command needs 1 argument")?;
    let lease = context.client().await?.lease();
    let response = lease.revoke(LeaseRevokeRequest { id }).await;
    let response =
        response.map_err(|error| Failure::error(format!("failed to revoke lease ({error})")))?;
    context.print(&Revoked { id, response })
}

async fn time_to_live(command: TimeToLive, context: &mut Context) -> Result<(), Failure> {
    let id = one_lease(
        &command.words,
        "lease timetolive command needs lease ID as argument",
    )?;
    let request = LeaseTimeToLiveRequest {
        id,
        keys: command.keys,
    };
    let lease = context.patient_client().await?.lease();
    let response = lease.time_to_live(request).await.map_err(no_connection)?;
    context.print(&Remaining {
        keys: command.keys,
        response,
    })
}

async fn keep_alive(command: KeepAlive, context: &mut Context) -> Result<(), Failure> {
    let id = one_lease(
        &command.words,
        "lease keep-alive command needs lease ID as argument",
    )?;
    let lease = context.patient_client().await?.lease();
    if command.once {
        let response = lease.keep_alive_once(id).await.map_err(no_connection)?;
        return context.print(&response);
    }
    let mut renewals = lease.keep_alive(id);
    while let Some(response) = renewals.next().await {
        context.print(&response)?;
    }
    match context.format()? {
        Format::Simple => context.line(format_args!(
            "lease {} expired or revoked.",
            go::lease_id(id)
        )),
        _ => Ok(()),
    }
}

fn one_lease(words: &[OsString], missing: &str) -> Result<i64, Failure> {
    let [id] = words else {
        return Err(Failure::args(missing));
    };
    go::parse_int(&id.to_string_lossy(), 16)
        .map_err(|why| Failure::args(format!("bad lease ID arg ({why}), expecting ID in Hex")))
}

/// These commands have their own exit code for whatever goes wrong.
fn no_connection(error: client::Error) -> Failure {
    Failure::new(Exit::BadConnection, error)
}

/// The header's fields, with `more` after them in the same object.
fn flat<const N: usize>(header: &Option<ResponseHeader>, more: [(&str, Json); N]) -> Json {
    let header = header.unwrap_or_default();
    let mut fields = Json::message("ResponseHeader", &header).into_fields();
    fields.extend(Json::object(more).into_fields());
    Json::Object(fields)
}

fn encoded(header: &Option<ResponseHeader>) -> Vec<u8> {
    header.unwrap_or_default().encode_to_vec()
}

impl Render for LeaseGrantResponse {
    fn simple(&self, page: &mut Page) {
        page.line(format_args!(
            "lease {} granted with TTL({}s)",
            go::lease_id(self.id),
            self.ttl
        ));
    }

    fn fields(&self, page: &mut Page) {
        page.header(&self.header);
        page.lease("ID", self.id);
        page.field("TTL", self.ttl);
    }

    fn json(&self, _: bool) -> Json {
        flat(
            &self.header,
            [
                ("ID", Json::Int(self.id)),
                ("TTL", Json::Int(self.ttl)),
                ("Error", Json::text(&self.error)),
            ],
        )
    }

    fn protobuf(&self) -> Vec<u8> {
        encoded(&self.header)
    }
}

struct Revoked {
    id: i64,
    response: LeaseRevokeResponse,
}

impl Render for Revoked {
    fn simple(&self, page: &mut Page) {
        page.line(format_args!("lease {} revoked", go::lease_id(self.id)));
    }

    fn fields(&self, page: &mut Page) {
        page.header(&self.response.header);
    }

    fn json(&self, _: bool) -> Json {
        Json::message("LeaseRevokeResponse", &self.response)
    }

    fn protobuf(&self) -> Vec<u8> {
        self.response.encode_to_vec()
    }
}

struct Remaining {
    /// Keys were asked for.
    keys: bool,
    response: LeaseTimeToLiveResponse,
}

impl Render for Remaining {
    fn simple(&self, page: &mut Page) {
        let LeaseTimeToLiveResponse {
            id,
            ttl,
            granted_ttl,
            keys,
            ..
        } = &self.response;
        let id = go::lease_id(*id);
        if *granted_ttl == 0 && *ttl == -1 {
            return page.line(format_args!("lease {id} already expired"));
        }
        let mut line =
            format!("lease {id} granted with TTL({granted_ttl}s), remaining({ttl}s)").into_bytes();
        if self.keys {
            line.extend(b", attached keys([");
            line.extend(keys.join(&b' '));
            line.extend(b"])");
        }
        page.verbatim(&line);
    }

    fn fields(&self, page: &mut Page) {
        page.header(&self.response.header);
        page.lease("ID", self.response.id);
        page.field("TTL", self.response.ttl);
        page.field("GrantedTTL", self.response.granted_ttl);
        for key in &self.response.keys {
            page.quoted("Key", key);
        }
    }

    fn json(&self, _: bool) -> Json {
        let keys = self.response.keys.iter().map(|key| Json::bytes(key));
        flat(
            &self.response.header,
            [
                ("id", Json::Int(self.response.id)),
                ("ttl", Json::Int(self.response.ttl)),
                ("granted-ttl", Json::Int(self.response.granted_ttl)),
                ("keys", Json::list_or_null(keys.collect())),
            ],
        )
    }

    fn protobuf(&self) -> Vec<u8> {
        encoded(&self.response.header)
    }
}

impl Render for LeaseLeasesResponse {
    fn simple(&self, page: &mut Page) {
        page.line(format_args!("found {} leases", self.leases.len()));
        for lease in &self.leases {
            page.line(go::lease_id(lease.id));
        }
    }

    fn fields(&self, page: &mut Page) {
        page.header(&self.header);
        self.leases
            .iter()
            .for_each(|lease| page.lease("ID", lease.id));
    }

    fn json(&self, _: bool) -> Json {
        let leases = self.leases.iter();
        let leases = leases.map(|lease| Json::object([("id", Json::Int(lease.id))]));
        flat(&self.header, [("leases", Json::List(leases.collect()))])
    }

    fn protobuf(&self) -> Vec<u8> {
        encoded(&self.header)
    }
}

impl Render for LeaseKeepAliveResponse {
    fn simple(&self, page: &mut Page) {
        page.line(format_args!(
            "lease {} keepalived with TTL({})",
            go::lease_id(self.id),
            self.ttl
        ));
    }

    fn fields(&self, page: &mut Page) {
        page.header(&self.header);
        page.lease("ID", self.id);
        page.field("TTL", self.ttl);
    }

    fn json(&self, _: bool) -> Json {
        flat(
            &self.header,
            [("ID", Json::Int(self.id)), ("TTL", Json::Int(self.ttl))],
        )
    }

    fn protobuf(&self) -> Vec<u8> {
        encoded(&self.header)
    }
}
