//! The configuration file: YAML or JSON with the names of the flags, on top of the built-in defaults.
//!
//! etcd turns the file into JSON and that into a structure, and what follows is kept: unknown keys pass,
//! names match in any case, text must be text and a duration is a number of nanoseconds. A few settings
//! stand in sections of their own.

use std::fs;
use std::path::Path;

use serde_json::Value as Json;

use super::flags;
use super::flags::Flag;
use super::flags::Kind;
use super::flags::Typed;
use super::flags::Value;
use crate::error::os_text;

/// Settings that a file cannot have.
const NOT_IN_FILES: &[&str] = &[
    "client-crl-file",
    "peer-crl-file",
    "raft-read-timeout",
    "raft-write-timeout",
    "discovery-fallback",
    "version",
    "config-file",
    "socket-reuse-port",
    "socket-reuse-address",
];

/// Sections: their name, then each key with the flag that it stands for.
type Section = (&'static str, &'static [(&'static str, &'static str)]);

const SECTIONS: &[Section] = &[
    (
        "client-transport-security",
        &[
            ("cert-file", "cert-file"),
            ("key-file", "key-file"),
            ("client-cert-file", "client-cert-file"),
            ("client-key-file", "client-key-file"),
            ("client-cert-auth", "client-cert-auth"),
            ("trusted-ca-file", "trusted-ca-file"),
            ("auto-tls", "auto-tls"),
            ("allowed-hostname", "client-cert-allowed-hostname"),
        ],
    ),
    (
        "peer-transport-security",
        &[
            ("cert-file", "peer-cert-file"),
            ("key-file", "peer-key-file"),
            ("client-cert-file", "peer-client-cert-file"),
            ("client-key-file", "peer-client-key-file"),
            ("client-cert-auth", "peer-client-cert-auth"),
            ("trusted-ca-file", "peer-trusted-ca-file"),
            ("auto-tls", "peer-auto-tls"),
            ("allowed-cn", "peer-cert-allowed-cn"),
            ("allowed-hostname", "peer-cert-allowed-hostname"),
            (
                "skip-client-san-verification",
                "peer-skip-client-san-verification",
            ),
        ],
    ),
    (
        "socket-options",
        &[
            ("reuse-port", "socket-reuse-port"),
            ("reuse-address", "socket-reuse-address"),
        ],
    ),
    ("discovery-config", &[("token", "discovery-token")]),
];

/// Reads a file on top of the built-in defaults.
pub fn load(path: &Path) -> Result<Typed, String> {
    let text = fs::read_to_string(path)
        .map_err(|error| format!("open {}: {}", path.display(), os_text(&error)))?;
    read(&text)
}

fn read(text: &str) -> Result<Typed, String> {
    let document: Json = serde_yaml_ng::from_str(text)
        .map_err(|error| format!("error converting YAML to JSON: {}", complaint(&error)))?;
    let mut typed = Typed::default();
    match document {
        Json::Null => {}
        Json::Object(settings) => {
            for (key, value) in &settings {
                take(&mut typed, key, value)?;
            }
        }
        other => return Err(mismatch(&other, "embed.configYAML", "")),
    }
    Ok(typed)
}

fn take(typed: &mut Typed, key: &str, value: &Json) -> Result<(), String> {
    let name = key.to_lowercase();
    if let Some((section, keys)) = SECTIONS.iter().find(|(section, _)| *section == name) {
        return take_section(typed, section, keys, value);
    }
    let flag = flags::find(&name).filter(|flag| !NOT_IN_FILES.contains(&flag.name));
    match flag {
        Some(flag) if !value.is_null() => set(typed, flag, value),
        _ => Ok(()),
    }
}

fn take_section(
    typed: &mut Typed,
    section: &str,
    keys: &[(&str, &str)],
    value: &Json,
) -> Result<(), String> {
    let settings = match value {
        Json::Null => return Ok(()),
        Json::Object(settings) => settings,
        _ => return Err(format!("invalid {section}")),
    };
    for (key, value) in settings.iter().filter(|(_, value)| !value.is_null()) {
        let known = keys.iter().find(|(known, _)| *known == key.to_lowercase());
        if let Some(flag) = known.and_then(|(_, name)| flags::find(name)) {
            set(typed, flag, value)?;
        }
    }
    Ok(())
}

fn set(typed: &mut Typed, flag: &'static Flag, value: &Json) -> Result<(), String> {
    let wrong = |kind: &str| mismatch(value, kind, flag.name);
    let checked = match flag.kind {
        Kind::Bool => Value::Bool(value.as_bool().ok_or_else(|| wrong("bool"))?),
        Kind::Int => Value::Int(value.as_i64().ok_or_else(|| wrong("int"))?),
        Kind::Uint => Value::Uint(value.as_u64().ok_or_else(|| wrong("uint"))?),
        Kind::Uint32 => {
            let number = value.as_u64().filter(|it| *it <= u32::MAX.into());
            Value::Uint(number.ok_or_else(|| wrong("uint32"))?)
        }
        Kind::Duration => Value::Duration(value.as_i64().ok_or_else(|| wrong("time.Duration"))?),
        Kind::Unique | Kind::List if value.is_array() => {
            let items = value.as_array().into_iter().flatten();
            let texts = items.map(|item| item.as_str().map(str::to_string));
            Value::List(
                texts
                    .collect::<Option<_>>()
                    .ok_or_else(|| wrong("string"))?,
            )
        }
        kind => text(flag, kind, value.as_str().ok_or_else(|| wrong("string"))?)?,
    };
    typed.put(flag, checked);
    Ok(())
}

/// Text settings by the rules of their flags, with the words of the file's own checks.
fn text(flag: &Flag, kind: Kind, given: &str) -> Result<Value, String> {
    match (flag.name, given) {
        ("initial-cluster-state", "") => return Ok(Value::Text("new".into())),
        // An empty list of origins or hosts means all, as does none.
        ("cors" | "host-whitelist", "") => return Ok(Value::List(vec!["*".into()])),
        _ => {}
    }
    flags::parse_value(kind, given).map_err(|reason| match (flag.name, kind) {
        ("initial-cluster-state", _) => format!("unexpected clusterState {given:?}"),
        ("advertise-client-urls", _) => {
            format!("unexpected error setting up advertise-peer-urls: {reason}")
        }
        (name, Kind::Urls) => format!("unexpected error setting up {name}: {reason}"),
        _ => reason,
    })
}

/// Go's complaint about a value of the wrong type.
fn mismatch(value: &Json, wanted: &str, field: &str) -> String {
    let given = match value {
        Json::Null => "null",
        Json::Bool(_) => "bool",
        Json::Number(_) => "number",
        Json::String(_) => "string",
        Json::Array(_) => "array",
        Json::Object(_) => "object",
    };
    let place = if field.is_empty() {
        "Go value".to_string()
    } else {
        format!("Go struct field .{field}")
    };
    format!(
        "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {given} into {place} of type {wanted}"
    )
}

/// The parser's complaint in the form of Go's YAML library: line first, counted as it counts.
fn complaint(error: &serde_yaml_ng::Error) -> String {
    let text = error.to_string();
    let (problem, context) = text.split_once(", ").unwrap_or((&text, ""));
    let line = |part: &str| -> Option<usize> {
        let (_, place) = part.split_once(" at line ")?;
        place.split(' ').next()?.parse().ok()
    };
    let what = problem.split(" at line ").next().unwrap_or(problem);
    // Lines count from 0 there, and the first one is not named.
    let at = [context, problem]
        .into_iter()
        .filter_map(line)
        .find(|line| *line > 1);
    match at {
        Some(line) => format!("yaml: line {}: {what}", line - 1),
        None => format!("yaml: {what}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_by_the_types_of_their_flags() {
        let text = "\
name: from-file
data-dir:
Listen-Client-Urls: http://127.0.0.1:1,http://127.0.0.1:2
quota-backend-bytes: 4294967296
watch-progress-notify-interval: 600000000000
pre-vote: false
log-outputs: [stderr, a.log]
unknown-key: ignored
socket-options:
  reuse-port: true
";
        let typed = read(text).expect("a good file");
        assert_eq!(typed.text("name"), "from-file");
        assert!(!typed.is_explicit("data-dir"));
        assert_eq!(typed.urls("listen-client-urls").len(), 2);
        assert_eq!(typed.int("quota-backend-bytes"), 4 << 30);
        assert_eq!(
            typed.duration("watch-progress-notify-interval"),
            600_000_000_000
        );
        assert_eq!(typed.list("log-outputs"), ["stderr", "a.log"]);
        assert!(!typed.bool("pre-vote") && typed.bool("socket-reuse-port"));
        let json = read(r#"{"name": "j", "max-txn-ops": 3}"#).expect("a good file");
        assert_eq!((json.text("name"), json.uint("max-txn-ops")), ("j", 3));
        assert!(read("").is_ok());
    }

    #[test]
    fn mistakes_are_told_in_the_words_of_etcd() {
        let cases = [
            (
                "name: 12",
                "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal number into Go struct field .name of type string",
            ),
            (
                "corrupt-check-time: 10m",
                "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal string into Go struct field .corrupt-check-time of type time.Duration",
            ),
            (
                "name: [\n",
                "error converting YAML to JSON: yaml: line 1: did not find expected node content",
            ),
            (
                "initial-cluster-state: old",
                "unexpected clusterState \"old\"",
            ),
            (
                "advertise-client-urls: ftp://a:1",
                "unexpected error setting up advertise-peer-urls: URL scheme must be http, https, unix, or unixs: ftp://a:1",
            ),
            ("feature-gates: Foo=true", "unrecognized feature gate: Foo"),
            (
                "client-transport-security: yes",
                "invalid client-transport-security",
            ),
        ];
        for (text, message) in cases {
            assert_eq!(read(text).err(), Some(message.to_string()), "{text}");
        }
    }
}
