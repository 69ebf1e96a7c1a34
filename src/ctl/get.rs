//! `get`: the value of a key, or of the keys in a range.

use std::ffi::OsString;

use clap::Args;
use prost::Message;

use crate::client::prefix_end;
use crate::ctl::context::Context;
use crate::ctl::failure::Failure;
use crate::ctl::go;
use crate::ctl::json::Json;
use crate::ctl::parse;
use crate::ctl::render::Format;
use crate::ctl::render::Page;
use crate::ctl::render::Render;
use crate::proto::etcdserverpb::RangeRequest;
use crate::proto::etcdserverpb::RangeResponse;
use crate::proto::etcdserverpb::range_request::SortOrder;
use crate::proto::etcdserverpb::range_request::SortTarget;

/// Gets the key or a range of keys
#[derive(Debug, Args)]
#[command(override_usage = "get [options] <key> [range_end]")]
pub struct Get {
    #[arg(value_name = "key")]
    words: Vec<OsString>,

    /// Linearizable(l) or Serializable(s)
    #[arg(long, value_name = "string", default_value = "l")]
    consistency: String,

    /// Order of results; ASCEND or DESCEND (ASCEND by default)
    #[arg(long, value_name = "string", default_value = "")]
    order: String,

    /// Sort target; CREATE, KEY, MODIFY, VALUE, or VERSION
    #[arg(long, value_name = "string", default_value = "")]
    sort_by: String,

    /// Maximum number of results
    #[arg(long, value_name = "int", default_value = "0")]
    limit: i64,

    /// Get keys with matching prefix
    #[arg(long)]
    prefix: bool,

    /// Get keys that are greater than or equal to the given key in byte order
    #[arg(long)]
    from_key: bool,

    /// Read at this revision
    #[arg(long, value_name = "int", default_value = "0")]
    rev: i64,

    /// Get only the keys
    #[arg(long)]
    keys_only: bool,

    /// Get only the count
    #[arg(long)]
    count_only: bool,

    /// Only write values when using the "simple" output format
    #[arg(long)]
    print_value_only: bool,

    /// Minimum create revision
    #[arg(long, value_name = "int", default_value = "0")]
    min_create_rev: i64,

    /// Maximum create revision
    #[arg(long, value_name = "int", default_value = "0")]
    max_create_rev: i64,

    /// Minimum modification revision
    #[arg(long, value_name = "int", default_value = "0")]
    min_mod_rev: i64,

    /// Maximum modification revision
    #[arg(long, value_name = "int", default_value = "0")]
    max_mod_rev: i64,

    /// Use the RangeStream RPC
    #[arg(long)]
    stream: bool,
}

impl Get {
    pub async fn run(self, context: &mut Context) -> Result<(), Failure> {
        let (stream, count, values) = (self.stream, self.count_only, self.print_value_only);
        let request = self.into_request()?;
        let kv = context.client().await?.kv();
        let response = if stream {
            kv.range_stream(request).await?
        } else {
            kv.range(request).await?
        };
        let format = context.format()?;
        if count && format != Format::Fields {
            return Err(Failure::args(
                "--count-only is only for `--write-out=fields`",
            ));
        }
        if values && format != Format::Simple {
            return Err(Failure::args(
                "print-value-only is only for `--write-out=simple`",
            ));
        }
        if values {
            context.print(&ValuesOnly(response))
        } else {
            context.print(&response)
        }
    }

    pub fn into_request(self) -> Result<RangeRequest, Failure> {
        if self.words.is_empty() {
            return Err(Failure::args(
                "get command needs one argument as key and an optional argument as range_end",
            ));
        }
        check_range_flags(self.prefix, self.from_key)?;
        if self.keys_only && self.count_only {
            return Err(Failure::args(
                "`--keys-only` and `--count-only` cannot be set at the same time, choose one",
            ));
        }
        let serializable = match self.consistency.as_str() {
            "s" => true,
            "l" => false,
            other => {
                let other = go::quote(other.as_bytes());
                return Err(Failure::feature(format!(
                    "unknown consistency flag {other}"
                )));
            }
        };
        let (key, range_end) = key_range(parse::bytes(self.words), self.prefix, self.from_key)?;
        let (sort_order, sort_target) = sort(&self.order, &self.sort_by)?;
        let revisions = [
            ("Create", self.min_create_rev, self.max_create_rev),
            ("Mod", self.min_mod_rev, self.max_mod_rev),
        ];
        for (name, min, max) in revisions {
            if min > max && max > 0 {
                return Err(Failure::feature(format!(
                    "getMin{name}Rev(={min}) > getMax{name}Rev(={max})"
                )));
            }
        }
        Ok(RangeRequest {
            key,
            range_end,
            limit: self.limit,
            revision: self.rev.max(0),
            sort_order: sort_order.into(),
            sort_target: sort_target.into(),
            serializable,
            keys_only: self.keys_only,
            count_only: self.count_only,
            min_mod_revision: self.min_mod_rev.max(0),
            max_mod_revision: self.max_mod_rev.max(0),
            min_create_revision: self.min_create_rev.max(0),
            max_create_revision: self.max_create_rev.max(0),
        })
    }
}

/// `--prefix` and `--from-key` exclude each other.
pub fn check_range_flags(prefix: bool, from_key: bool) -> Result<(), Failure> {
    if prefix && from_key {
        return Err(Failure::args(
            "`--prefix` and `--from-key` cannot be set at the same time, choose one",
        ));
    }
    Ok(())
}

/// The key and range end that one or two words and the range flags select.
pub fn key_range(
    words: Vec<Vec<u8>>,
    prefix: bool,
    from_key: bool,
) -> Result<(Vec<u8>, Vec<u8>), Failure> {
    let mut words = words.into_iter();
    let key = words.next().unwrap_or_default();
    if let Some(end) = words.next() {
        if prefix || from_key {
            return Err(Failure::args(
                "too many arguments, only accept one argument when `--prefix` or `--from-key` is set",
            ));
        }
        return Ok((key, end));
    }
    Ok(match (prefix || from_key, key.is_empty()) {
        // No key at all: the whole key space.
        (true, true) => (vec![0], vec![0]),
        (true, false) if prefix => {
            let end = prefix_end(&key);
            (key, end)
        }
        (true, false) => (key, vec![0]),
        (false, _) => (key, Vec::new()),
    })
}

fn sort(order: &str, target: &str) -> Result<(SortOrder, SortTarget), Failure> {
    let sort_order = match order.to_uppercase().as_str() {
        "" => SortOrder::None,
        "ASCEND" => SortOrder::Ascend,
        "DESCEND" => SortOrder::Descend,
        _ => return Err(Failure::feature(format!("bad sort order {order}"))),
    };
    let sort_target = match target.to_uppercase().as_str() {
        "" | "KEY" => SortTarget::Key,
        "CREATE" => SortTarget::Create,
        "MODIFY" => SortTarget::Mod,
        "VALUE" => SortTarget::Value,
        "VERSION" => SortTarget::Version,
        _ => return Err(Failure::feature(format!("bad sort target {target}"))),
    };
    Ok(match (sort_order, sort_target) {
        // The order keys come in anyway.
        (SortOrder::Ascend, SortTarget::Key) => (SortOrder::None, SortTarget::Key),
        other => other,
    })
}

impl Render for RangeResponse {
    fn simple(&self, page: &mut Page) {
        self.kvs.iter().for_each(|kv| page.key_value(kv));
    }

    fn fields(&self, page: &mut Page) {
        page.header(&self.header);
        self.kvs.iter().for_each(|kv| page.pair("", kv));
        page.field("More", self.more);
        page.field("Count", self.count);
    }

    fn json(&self, _: bool) -> Json {
        Json::message("RangeResponse", self)
    }

    fn protobuf(&self) -> Vec<u8> {
        self.encode_to_vec()
    }
}

/// The reply to `--print-value-only`.
struct ValuesOnly(RangeResponse);

impl Render for ValuesOnly {
    fn simple(&self, page: &mut Page) {
        self.0.kvs.iter().for_each(|kv| page.raw(&kv.value));
    }

    fn json(&self, hex: bool) -> Json {
        self.0.json(hex)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_flags_select_a_range() {
        type Case = (
            &'static [&'static str],
            bool,
            bool,
            &'static [u8],
            &'static [u8],
        );
        let cases: &[Case] = &[
            (&["a"], false, false, b"a", b""),
            (&["a", "c"], false, false, b"a", b"c"),
            (&["a"], true, false, b"a", b"b"),
            (&["a"], false, true, b"a", b"\0"),
            (&[""], true, false, b"\0", b"\0"),
            (&[""], false, true, b"\0", b"\0"),
            (&[""], false, false, b"", b""),
        ];
        for (words, prefix, from_key, key, end) in cases {
            let words = words.iter().map(|word| word.as_bytes().to_vec()).collect();
            let range = key_range(words, *prefix, *from_key).unwrap();
            assert_eq!((&range.0[..], &range.1[..]), (*key, *end));
        }
    }

    #[test]
    fn the_natural_order_is_not_asked_for() {
        assert_eq!(
            sort("ascend", "key").unwrap(),
            (SortOrder::None, SortTarget::Key)
        );
        assert_eq!(
            sort("", "modify").unwrap(),
            (SortOrder::None, SortTarget::Mod)
        );
        assert_eq!(
            sort("DESCEND", "").unwrap(),
            (SortOrder::Descend, SortTarget::Key)
        );
        assert_eq!(
            sort("up", "").unwrap_err(),
            Failure::feature("bad sort order up")
        );
        assert_eq!(
            sort("", "mod").unwrap_err(),
            Failure::feature("bad sort target mod")
        );
    }
}
