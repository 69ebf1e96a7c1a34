//! JSON as Go's `encoding/json` prints it: field order kept, 64-bit numbers exact, bytes in base64.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::LazyLock;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use prost::Message;
use prost::bytes::Buf;
use prost::encoding::WireType;
use prost::encoding::decode_key;
use prost::encoding::decode_varint;
use prost_types::DescriptorProto;
use prost_types::FieldDescriptorProto;
use prost_types::FileDescriptorSet;
use prost_types::field_descriptor_proto::Label;
use prost_types::field_descriptor_proto::Type;

use crate::proto::DESCRIPTORS;

/// A JSON value whose objects keep their order.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    pub fn text(text: impl Into<String>) -> Json {
        Json::Text(text.into())
    }

    pub fn bytes(bytes: &[u8]) -> Json {
        Json::Text(BASE64_STANDARD.encode(bytes))
    }

    pub fn object<const N: usize>(pairs: [(&str, Json); N]) -> Json {
        let pairs = pairs.into_iter();
        Json::Object(
            pairs
                .map(|(name, value)| (name.to_string(), value))
                .collect(),
        )
    }

    /// A list that is `null` when nothing is in it, as an unset Go slice.
    pub fn list_or_null(items: Vec<Json>) -> Json {
        if items.is_empty() {
            Json::Null
        } else {
            Json::List(items)
        }
    }

    /// A message of etcd's API by its field names, unset fields left out, enums as numbers.
    pub fn message(name: &str, message: &impl Message) -> Json {
        Json::of(&format!("etcdserverpb.{name}"), message)
    }

    /// A message by its full name.
    pub fn of(name: &str, message: &impl Message) -> Json {
        of_message(name, &message.encode_to_vec()).unwrap_or(Json::Null)
    }

    /// The fields of an object; of anything else, none.
    pub fn into_fields(self) -> Vec<(String, Json)> {
        match self {
            Json::Object(fields) => fields,
            _ => Vec::new(),
        }
    }
}

impl fmt::Display for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Json::Null => f.write_str("null"),
            Json::Bool(value) => write!(f, "{value}"),
            Json::Int(value) => write!(f, "{value}"),
            Json::Uint(value) => write!(f, "{value}"),
            Json::Text(text) => write_text(f, text),
            Json::List(items) => {
                f.write_str("[")?;
                for (at, item) in items.iter().enumerate() {
                    write!(f, "{}{item}", if at > 0 { "," } else { "" })?;
                }
                f.write_str("]")
            }
            Json::Object(pairs) => {
                f.write_str("{")?;
                for (at, (name, value)) in pairs.iter().enumerate() {
                    f.write_str(if at > 0 { "," } else { "" })?;
                    write_text(f, name)?;
                    write!(f, ":{value}")?;
                }
                f.write_str("}")
            }
        }
    }
}

fn write_text(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_str("\"")?;
    for c in text.chars() {
        match c {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            '\x08' => f.write_str("\\b")?,
            '\x0c' => f.write_str("\\f")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            '\0'..='\x1f' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                write!(f, "\\u{:04x}", c as u32)?;
            }
            c => write!(f, "{c}")?,
        }
    }
    f.write_str("\"")
}

/// Every message of the wire by its full name.
static MESSAGES: LazyLock<BTreeMap<String, DescriptorProto>> = LazyLock::new(|| {
    let set = FileDescriptorSet::decode(DESCRIPTORS).expect("the build made these bytes");
    let files = set.file.into_iter();
    let messages = files.flat_map(|file| {
        let package = file.package().to_string();
        let named =
            move |message: DescriptorProto| (format!("{package}.{}", message.name()), message);
        file.message_type.into_iter().map(named)
    });
    messages.collect()
});

/// Reads an encoded message by its description; nothing if the two do not fit.
fn of_message(name: &str, mut encoded: &[u8]) -> Option<Json> {
    let message = MESSAGES.get(name)?;
    let mut values: BTreeMap<i32, Vec<Json>> = BTreeMap::new();
    while !encoded.is_empty() {
        let (number, wire) = decode_key(&mut encoded).ok()?;
        let number = i32::try_from(number).ok()?;
        let field = message
            .field
            .iter()
            .find(|field| field.number() == number)?;
        let value = of_field(field, wire, &mut encoded)?;
        values.entry(number).or_default().push(value);
    }
    let fields = message.field.iter().filter_map(|field| {
        let mut found = values.remove(&field.number())?;
        let value = match field.label() {
            Label::Repeated => Json::List(found),
            _ => found.pop()?,
        };
        Some((field.name().to_string(), value))
    });
    Some(Json::Object(fields.collect()))
}

fn of_field(field: &FieldDescriptorProto, wire: WireType, encoded: &mut &[u8]) -> Option<Json> {
    let value = decode_varint(encoded).ok()?;
    if wire == WireType::Varint {
        return Some(match field.r#type() {
            Type::Bool => Json::Bool(value != 0),
            Type::Int64 | Type::Int32 | Type::Enum => Json::Int(value as i64),
            _ => Json::Uint(value),
        });
    }
    let length = usize::try_from(value).ok()?;
    let bytes = encoded.get(..length)?;
    encoded.advance(length);
    match field.r#type() {
        Type::Message => of_message(field.type_name().trim_start_matches('.'), bytes),
        Type::String => Some(Json::text(String::from_utf8_lossy(bytes))),
        _ => Some(Json::bytes(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::etcdserverpb::RangeResponse;
    use crate::proto::etcdserverpb::ResponseHeader;
    use crate::proto::etcdserverpb::StatusResponse;
    use crate::proto::mvccpb::KeyValue;

    #[test]
    fn texts_are_escaped_as_go_does() {
        let json = Json::text("a\"\\\n\x01<b>&\u{2028}ü");
        assert_eq!(
            json.to_string(),
            r#""a\"\\\n\u0001\u003cb\u003e\u0026\u2028ü""#
        );
    }

    #[test]
    fn messages_print_by_their_field_names_without_what_is_unset() {
        let range = RangeResponse {
            header: Some(ResponseHeader {
                cluster_id: 14543574347469084500,
                ..Default::default()
            }),
            kvs: vec![KeyValue {
                key: "foo".into(),
                lease: -1,
                ..Default::default()
            }],
            count: 1,
            ..Default::default()
        };
        assert_eq!(
            Json::message("RangeResponse", &range).to_string(),
            r#"{"header":{"cluster_id":14543574347469084500},"kvs":[{"key":"Zm9v","lease":-1}],"count":1}"#
        );
        let status = StatusResponse {
            db_size: 5,
            errors: vec!["x".into(), "y".into()],
            downgrade_info: Some(Default::default()),
            ..Default::default()
        };
        assert_eq!(
            Json::message("StatusResponse", &status).to_string(),
            r#"{"dbSize":5,"errors":["x","y"],"downgradeInfo":{}}"#
        );
    }
}
