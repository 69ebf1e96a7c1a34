//! `put`: stores one key.

use std::ffi::OsString;
use std::io::Read;

use clap::Args;
use prost::Message;

use crate::ctl::context::Context;
use crate::ctl::failure::Failure;
use crate::ctl::go;
use crate::ctl::json::Json;
use crate::ctl::parse;
use crate::ctl::render::Page;
use crate::ctl::render::Render;
use crate::proto::etcdserverpb::PutRequest;
use crate::proto::etcdserverpb::PutResponse;

/// Puts the given key into the store
///
/// A value that begins with '-' would be read as a flag; write '--' before it:
///
/// $ put <key> -- <value>
/// $ put -- <key> <value>
///
/// Without a value argument the value is read from standard input, to its end, unless
/// --ignore-value keeps the present one:
///
/// $ cat file | put <key>
#[derive(Debug, Args)]
#[command(
    override_usage = "put [options] <key> <value> (<value> can also be given from stdin)",
    verbatim_doc_comment
)]
pub struct Put {
    #[arg(value_name = "key and value")]
    words: Vec<OsString>,

    /// lease ID (in hexadecimal) to attach to the key
    #[arg(long, value_name = "string", default_value = "0")]
    lease: String,

    /// return the previous key-value pair before modification
    #[arg(long)]
    prev_kv: bool,

    /// updates the key using its current value
    #[arg(long)]
    ignore_value: bool,

    /// updates the key using its current lease
    #[arg(long)]
    ignore_lease: bool,
}

impl Put {
    pub async fn run(self, context: &mut Context) -> Result<(), Failure> {
        let request = self.into_request(&mut context.input())?;
        let response = context.client().await?.kv().put(request).await?;
        context.print(&response)
    }

    pub fn into_request(self, input: &mut impl Read) -> Result<PutRequest, Failure> {
        let mut words = parse::bytes(self.words).into_iter();
        let (key, value) = match (words.next(), words.next()) {
            (Some(_), Some(_)) if self.ignore_value => {
                return Err(Failure::args(
                    "put command needs only 1 argument when 'ignore-value' is set",
                ));
            }
            (Some(key), _) if self.ignore_value => (key, Vec::new()),
            (Some(key), Some(value)) => (key, value),
            (Some(key), None) => (key, read_value(input)?),
            (None, _) => return Err(missing_value()),
        };
        let lease = go::parse_int(&self.lease, 16)
            .map_err(|why| Failure::args(format!("bad lease ID ({why}), expecting ID in Hex")))?;
        Ok(PutRequest {
            key,
            value,
            lease,
            prev_kv: self.prev_kv,
            ignore_value: self.ignore_value,
            ignore_lease: self.ignore_lease,
        })
    }
}

fn read_value(input: &mut impl Read) -> Result<Vec<u8>, Failure> {
    let mut value = Vec::new();
    match input.read_to_end(&mut value) {
        Ok(length) if length > 0 => Ok(value),
        _ => Err(missing_value()),
    }
}

fn missing_value() -> Failure {
    Failure::args("put command needs 1 argument and input from stdin or 2 arguments")
}

impl Render for PutResponse {
    fn simple(&self, page: &mut Page) {
        page.line("OK");
        self.prev_kv.iter().for_each(|kv| page.key_value(kv));
    }

    fn fields(&self, page: &mut Page) {
        page.header(&self.header);
        self.prev_kv.iter().for_each(|kv| page.pair("Prev", kv));
    }

    fn json(&self, _: bool) -> Json {
        Json::message("PutResponse", self)
    }

    fn protobuf(&self) -> Vec<u8> {
        self.encode_to_vec()
    }
}
