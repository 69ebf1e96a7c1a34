//! `txn`: conditions and the two lists of requests they choose between, read from standard input.

use std::ffi::OsString;
use std::io;
use std::io::BufRead;
use std::os::unix::ffi::OsStringExt;

use clap::Args;
use clap::CommandFactory;
use clap::FromArgMatches;
use clap::Parser;
use clap::Subcommand;
use prost::Message;

use crate::ctl::context::Context;
use crate::ctl::context::write;
use crate::ctl::del::Del;
use crate::ctl::failure::Failure;
use crate::ctl::get::Get;
use crate::ctl::go;
use crate::ctl::input;
use crate::ctl::json::Json;
use crate::ctl::parse;
use crate::ctl::put::Put;
use crate::ctl::render::Page;
use crate::ctl::render::Render;
use crate::proto::etcdserverpb::Compare;
use crate::proto::etcdserverpb::RequestOp;
use crate::proto::etcdserverpb::ResponseOp;
use crate::proto::etcdserverpb::TxnRequest;
use crate::proto::etcdserverpb::TxnResponse;
use crate::proto::etcdserverpb::compare::CompareResult;
use crate::proto::etcdserverpb::compare::CompareTarget;
use crate::proto::etcdserverpb::compare::TargetUnion;
use crate::proto::etcdserverpb::request_op::Request;
use crate::proto::etcdserverpb::response_op::Response;

/// Txn processes all the requests in one transaction
///
/// The transaction is read from standard input: three blocks of lines, each ended by an empty line.
/// 1) conditions,
/// 2) requests to apply if all conditions hold,
/// 3) requests to apply if one does not.
///
/// For example, with -i:
///
/// compares:
/// mod("key1") > "0"
///
/// success requests (get, put, del):
/// put key1 "overwrote-key1"
///
/// failure requests (get, put, del):
/// put key1 "created-key1"
/// put key2 "some extra key"
///
/// A condition is ver, create, mod, value or lease of a key, then =, !=, < or >, then a quoted value.
#[derive(Debug, Args)]
#[command(override_usage = "txn [options]", verbatim_doc_comment)]
pub struct Txn {
    #[arg(hide = true)]
    words: Vec<OsString>,

    /// Say what is expected next
    #[arg(long, short)]
    interactive: bool,
}

impl Txn {
    pub async fn run(self, context: &mut Context) -> Result<(), Failure> {
        if !self.words.is_empty() {
            return Err(Failure::args("txn command does not accept argument"));
        }
        let client = context.patient_client().await?;
        let mut input = context.input();
        let prompt = |text: &str| match self.interactive {
            true => write(format!("{text}\n").as_bytes()),
            false => Ok(()),
        };
        let mut request = TxnRequest::default();
        prompt("compares:")?;
        for line in block(&mut input)? {
            request.compare.push(compare(&line)?);
        }
        prompt("success requests (get, put, del):")?;
        for line in block(&mut input)? {
            request.success.push(operation(&line).await?);
        }
        prompt("failure requests (get, put, del):")?;
        for line in block(&mut input)? {
            request.failure.push(operation(&line).await?);
        }
        let response = client.kv().txn(request).await?;
        context.print(&response)
    }
}

/// The lines up to an empty one, without the blanks around them.
fn block(input: &mut impl BufRead) -> Result<Vec<String>, Failure> {
    let mut lines = Vec::new();
    loop {
        let line = input::line(input)?;
        match line.trim() {
            "" => return Ok(lines),
            line => lines.push(line.to_string()),
        }
    }
}

/// Reads `target("key") op "value"`.
fn compare(line: &str) -> Result<Compare, Failure> {
    let malformed = |what: String| Failure::input(format!("malformed comparison: {line}{what}"));
    let (target, rest) = line
        .split_once('(')
        .ok_or_else(|| malformed(String::new()))?;
    let (key, operator, value) = comparison(rest);
    let quoted = |part: &Option<Vec<u8>>| go::quote(part.as_deref().unwrap_or_default());
    let (Some(key), Some(operator), Some(value)) = (&key, operator, &value) else {
        let (key, value) = (quoted(&key), quoted(&value));
        let operator = operator.unwrap_or_default();
        return Err(malformed(format!(
            "; got {target}({key}) {operator} {value}"
        )));
    };
    let result = match operator {
        "=" => CompareResult::Equal,
        "!=" => CompareResult::NotEqual,
        ">" => CompareResult::Greater,
        "<" => CompareResult::Less,
        _ => return Err(malformed(String::new())),
    };
    let number = |base| {
        go::parse_int(&String::from_utf8_lossy(value), base)
            .map_err(|_| Failure::input(format!("invalid txn compare request: {line}")))
    };
    let (target, value) = match target {
        "ver" | "version" => (CompareTarget::Version, TargetUnion::Version(number(10)?)),
        "c" | "create" => (
            CompareTarget::Create,
            TargetUnion::CreateRevision(number(10)?),
        ),
        "m" | "mod" => (CompareTarget::Mod, TargetUnion::ModRevision(number(10)?)),
        "val" | "value" => (CompareTarget::Value, TargetUnion::Value(value.clone())),
        // Lease IDs are read and printed in hexadecimal everywhere else.
        "lease" => (
            CompareTarget::Lease,
            TargetUnion::Lease(number(10).or_else(|_| number(16))?),
        ),
        other => return Err(malformed(format!(" (unknown target {other})"))),
    };
    Ok(Compare {
        result: result.into(),
        target: target.into(),
        key: key.clone(),
        target_union: Some(value),
        ..Default::default()
    })
}

/// The parts of `"key") op "value"`, as far as they can be read.
fn comparison(text: &str) -> (Option<Vec<u8>>, Option<&str>, Option<Vec<u8>>) {
    let Some((key, rest)) = go::unquote_prefix(text.trim_start()) else {
        return (None, None, None);
    };
    let Some(rest) = rest
        .strip_prefix(')')
        .filter(|rest| rest.starts_with([' ', '\t']))
    else {
        return (Some(key), None, None);
    };
    let rest = rest.trim_start();
    let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
    if end == 0 {
        return (Some(key), None, None);
    }
    let value = go::unquote_prefix(rest[end..].trim_start()).map(|(value, _)| value);
    (Some(key), Some(&rest[..end]), value)
}

/// The commands a request line can hold.
#[derive(Debug, Parser)]
#[command(name = "", disable_help_subcommand = true)]
struct Line {
    #[command(subcommand)]
    operation: Operation,
}

#[derive(Debug, Subcommand)]
enum Operation {
    Put(Put),
    Get(Get),
    Del(Del),
}

/// Reads a request line, which is the command line of `put`, `get` or `del`.
async fn operation(line: &str) -> Result<RequestOp, Failure> {
    let words = input::words(line)?;
    if words.len() < 2 {
        return Err(Failure::input(format!(
            "invalid txn compare request: {line}"
        )));
    }
    let invalid = || Failure::input(format!("invalid txn request: {line}"));
    let words = words.into_iter().map(OsString::from_vec);
    let args: Vec<OsString> = std::iter::once(OsString::new()).chain(words).collect();
    let root = Line::command();
    let parsed = parse::parse(&root, &args).map_err(|failure| {
        if failure.advice.starts_with("Usage") {
            eprint!("{}", failure.advice);
        }
        invalid()
    })?;
    if parsed.wants_help() || parsed.path.len() < 2 {
        return Err(invalid());
    }
    let matches = root.clone().try_get_matches_from(parsed.normal());
    let line = matches.and_then(|matches| Line::from_arg_matches(&matches));
    let request = match line.map_err(|_| invalid())?.operation {
        // Standard input holds the transaction, so a value cannot come from there.
        Operation::Put(put) => Request::RequestPut(put.into_request(&mut io::empty())?),
        Operation::Get(get) => Request::RequestRange(get.into_request()?),
        Operation::Del(del) => Request::RequestDeleteRange(del.into_request().await?),
    };
    Ok(RequestOp {
        request: Some(request),
    })
}

impl Render for TxnResponse {
    fn simple(&self, page: &mut Page) {
        page.line(if self.succeeded { "SUCCESS" } else { "FAILURE" });
        for response in self.responses.iter().filter_map(answer) {
            page.line("");
            response.simple(page);
        }
    }

    fn fields(&self, page: &mut Page) {
        page.header(&self.header);
        page.field("Succeeded", self.succeeded);
        for response in self.responses.iter().filter_map(answer) {
            response.fields(page);
        }
    }

    fn json(&self, _: bool) -> Json {
        let mut fields = Json::message("TxnResponse", self).into_fields();
        for (name, value) in &mut fields {
            if let ("responses", Json::List(responses)) = (name.as_str(), value) {
                for response in responses {
                    *response = Json::object([("Response", response.clone())]);
                }
            }
        }
        Json::Object(fields)
    }

    fn protobuf(&self) -> Vec<u8> {
        self.encode_to_vec()
    }
}

fn answer(op: &ResponseOp) -> Option<&dyn Render> {
    Some(match op.response.as_ref()? {
        Response::ResponseRange(range) => range,
        Response::ResponsePut(put) => put,
        Response::ResponseDeleteRange(delete) => delete,
        Response::ResponseTxn(txn) => txn,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparisons_are_read_or_explained() {
        let read = compare(r#"mod("a b") > "3""#).unwrap();
        assert_eq!(read.key, b"a b");
        assert_eq!(read.target_union, Some(TargetUnion::ModRevision(3)));
        assert_eq!(read.result(), CompareResult::Greater);
        let read = compare(r#"lease("a") != "27dea1f7ccefa353""#).unwrap();
        assert_eq!(
            read.target_union,
            Some(TargetUnion::Lease(0x27dea1f7ccefa353))
        );
        let cases = [
            ("foo", "malformed comparison: foo"),
            (
                r#"mod(a) = "1""#,
                r#"malformed comparison: mod(a) = "1"; got mod("")  """#,
            ),
            (
                r#"mod("a")= "1""#,
                r#"malformed comparison: mod("a")= "1"; got mod("a")  """#,
            ),
            (
                r#"mod("a") ="1""#,
                r#"malformed comparison: mod("a") ="1"; got mod("a") ="1" """#,
            ),
            (
                r#"foo("a") = "b""#,
                r#"malformed comparison: foo("a") = "b" (unknown target foo)"#,
            ),
            (
                r#"mod("a") = "b""#,
                r#"invalid txn compare request: mod("a") = "b""#,
            ),
            (
                r#"mod("a") >= "1""#,
                r#"malformed comparison: mod("a") >= "1""#,
            ),
        ];
        for (line, message) in cases {
            assert_eq!(compare(line).unwrap_err(), Failure::input(message));
        }
    }

    #[test]
    fn blocks_end_with_an_empty_line() {
        let mut input = &b" a \n\n \nb"[..];
        assert_eq!(block(&mut input).unwrap(), ["a"]);
        assert!(block(&mut input).unwrap().is_empty());
        assert_eq!(block(&mut input).unwrap_err(), Failure::input("EOF"));
    }
}
