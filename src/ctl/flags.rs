//! The flags every command takes, their `ETCDCTL_` variables, and what comes of both.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::time::Duration;

use clap::Args;
use clap::Command;
use clap::FromArgMatches;

use crate::client;
use crate::client::Endpoint;
use crate::ctl::failure::Exit;
use crate::ctl::failure::Failure;
use crate::ctl::go;
use crate::ctl::json::Json;
use crate::ctl::log;
use crate::ctl::parse::Kind;
use crate::util::text::format_duration;

/// Variables that are not flags and still belong to a command.
const OTHER_VARIABLES: &[&str] = &[
    "ETCDCTL_API",
    "ETCDCTL_WATCH_KEY",
    "ETCDCTL_WATCH_RANGE_END",
];

/// The global flags.
#[derive(Clone, Debug, Args)]
pub struct Globals {
    /// gRPC endpoints
    #[arg(long, global = true, value_name = "strings", default_value = "127.0.0.1:2379", action = clap::ArgAction::Append)]
    pub endpoints: Vec<String>,

    /// Set the output format (fields, json, protobuf, simple, table)
    #[arg(
        long,
        short = 'w',
        global = true,
        value_name = "string",
        default_value = "simple"
    )]
    pub write_out: String,

    /// Print byte strings as hex encoded strings
    #[arg(long, global = true)]
    pub hex: bool,

    /// Limit on login and on the first lease renewal
    #[arg(long, global = true, value_name = "duration", default_value = "2s", value_parser = go::parse_duration)]
    pub dial_timeout: Duration,

    /// Limit on each short running command
    #[arg(long, global = true, value_name = "duration", default_value = "5s", value_parser = go::parse_duration)]
    pub command_timeout: Duration,

    /// How often a connection in use is pinged
    #[arg(long, global = true, value_name = "duration", default_value = "2s", value_parser = go::parse_duration)]
    pub keepalive_time: Duration,

    /// How long the answer to a ping may take
    #[arg(long, global = true, value_name = "duration", default_value = "6s", value_parser = go::parse_duration)]
    pub keepalive_timeout: Duration,

    /// Largest request in bytes (2 MiB if 0)
    #[arg(long, global = true, value_name = "int", default_value = "0")]
    pub max_request_bytes: i64,

    /// Largest response in bytes (2 GiB if 0)
    #[arg(long, global = true, value_name = "int", default_value = "0")]
    pub max_recv_bytes: i64,

    /// Print settings and connection events on standard error
    #[arg(long, global = true)]
    pub debug: bool,

    /// Connect without TLS unless an endpoint or a certificate asks for it
    #[arg(long, global = true, value_name = "bool", default_value = "true", default_missing_value = "true", num_args = 0..=1, require_equals = true, action = clap::ArgAction::Set)]
    pub insecure_transport: bool,

    /// Accept DNS records of endpoints without TLS
    #[arg(long, global = true, value_name = "bool", default_value = "true", default_missing_value = "true", num_args = 0..=1, require_equals = true, action = clap::ArgAction::Set)]
    pub insecure_discovery: bool,

    /// Do not verify server certificates (for tests only)
    #[arg(long, global = true)]
    pub insecure_skip_tls_verify: bool,

    /// Verify server certificates with this CA bundle
    #[arg(long, global = true, value_name = "string", default_value = "")]
    pub cacert: String,

    /// Identify this client with this TLS certificate file
    #[arg(long, global = true, value_name = "string", default_value = "")]
    pub cert: String,

    /// The key file of the certificate
    #[arg(long, global = true, value_name = "string", default_value = "")]
    pub key: String,

    /// Log in as username[:password]
    #[arg(long, global = true, value_name = "string", default_value = "")]
    pub user: String,

    /// The password, if --user does not hold one
    #[arg(long, global = true, value_name = "string", default_value = "")]
    pub password: String,

    /// Use this JWT token instead of --user and --password
    #[arg(long, global = true, value_name = "string", default_value = "")]
    pub auth_jwt_token: String,

    /// Ask DNS for the SRV records of the endpoints in this domain
    #[arg(
        long,
        short = 'd',
        global = true,
        value_name = "string",
        default_value = ""
    )]
    pub discovery_srv: String,

    /// Suffix of the service name in SRV records
    #[arg(long, global = true, value_name = "string", default_value = "")]
    pub discovery_srv_name: String,
}

/// Flags as typed, by long name, with values in the form clap reads.
pub type Typed = BTreeMap<String, Vec<OsString>>;

impl Globals {
    /// Joins what was typed with what the environment says. Called once, before a client is made.
    ///
    /// In the endpoint group `--cluster` has a variable, too.
    pub fn read(
        typed: &Typed,
        env: &BTreeMap<String, String>,
        endpoint_group: bool,
    ) -> Result<Globals, Failure> {
        let command = Globals::augment_args(Command::new("etcdctl"));
        let mut known: BTreeMap<String, Kind> = BTreeMap::new();
        for flag in command.get_arguments() {
            let name = flag.get_long().unwrap_or_default();
            known.insert(name.to_string(), Kind::of(flag));
        }
        if endpoint_group {
            known.insert("cluster".to_string(), Kind::Bool);
        }
        let merged = merge(&known, typed, env)?;
        let mut line: Vec<OsString> = vec!["etcdctl".into()];
        for (name, values) in merged.iter().filter(|(name, _)| *name != "cluster") {
            let switch = matches!(known.get(name), Some(Kind::Bool))
                && !matches!(name.as_str(), "insecure-transport" | "insecure-discovery");
            if switch {
                line.extend((values[0] == "true").then(|| format!("--{name}").into()));
                continue;
            }
            for value in values {
                let mut flag = OsString::from(format!("--{name}="));
                flag.push(value);
                line.push(flag);
            }
        }
        let matches = command.try_get_matches_from(line);
        let globals = matches.and_then(|matches| Globals::from_arg_matches(&matches));
        let mut globals = globals.map_err(|error| Failure::error(error.to_string().trim_end()))?;
        if merged.get("endpoints").is_some_and(Vec::is_empty) {
            // An empty list is a list, not the default.
            globals.endpoints.clear();
        }
        Ok(globals)
    }

    /// How to reach the cluster.
    pub fn config(&self, typed: &Typed) -> Result<client::Config, Failure> {
        self.check_tls(typed)?;
        if !self.discovery_srv.is_empty() {
            return Err(Failure::error("DNS discovery is not supported yet"));
        }
        let bytes = |limit: i64| usize::try_from(limit).ok().filter(|limit| *limit > 0);
        let (user, password) = self.login();
        let endpoints = self
            .endpoints
            .iter()
            .map(|endpoint| endpoint.trim().to_string());
        Ok(client::Config {
            endpoints: endpoints.filter(|endpoint| !endpoint.is_empty()).collect(),
            dial_timeout: self.dial_timeout,
            request_timeout: Some(self.command_timeout),
            keepalive: client::Keepalive {
                interval: self.keepalive_time,
                timeout: self.keepalive_timeout,
            },
            max_send_bytes: bytes(self.max_request_bytes),
            max_receive_bytes: bytes(self.max_recv_bytes),
            user,
            password,
            token: Some(self.auth_jwt_token.clone()).filter(|token| !token.is_empty()),
        })
    }

    /// The name and password to log in with.
    fn login(&self) -> (Option<String>, Option<String>) {
        let some = |text: &str| Some(text.to_string()).filter(|text| !text.is_empty());
        if !self.password.is_empty() {
            return (some(&self.user), some(&self.password));
        }
        match self.user.split_once(':') {
            Some((name, password)) => (some(name), some(password)),
            None => (some(&self.user), None),
        }
    }

    /// Returns true if a name was given and its password has to be asked for.
    pub fn needs_password(&self) -> bool {
        !self.user.is_empty()
            && self.password.is_empty()
            && self.auth_jwt_token.is_empty()
            && !self.user.contains(':')
    }

    fn check_tls(&self, typed: &Typed) -> Result<(), Failure> {
        for (name, path) in [
            ("cert", &self.cert),
            ("key", &self.key),
            ("cacert", &self.cacert),
        ] {
            if path.is_empty() && typed.contains_key(name) {
                return Err(Failure::args(format!(
                    "empty string is passed to --{name} option"
                )));
            }
        }
        if self.cert.is_empty() != self.key.is_empty() {
            return Err(Failure::args(format!(
                "KeyFile and CertFile must both be present[key: {}, cert: {}]",
                self.key, self.cert
            )));
        }
        for path in [&self.cert, &self.key, &self.cacert] {
            if !path.is_empty() {
                fs::read(path).map_err(|error| Failure::args(unreadable(path, &error)))?;
            }
        }
        let asked = !self.cert.is_empty()
            || !self.cacert.is_empty()
            || self.insecure_skip_tls_verify
            || !self.insecure_transport;
        let first = self
            .endpoints
            .first()
            .map(|endpoint| Endpoint::parse(endpoint.trim()));
        let scheme = first.and_then(|endpoint| endpoint.tls);
        if scheme.unwrap_or(asked) {
            return Err(Failure::new(
                Exit::BadConnection,
                "TLS connections are not supported yet",
            ));
        }
        Ok(())
    }

    /// Every setting as its variable would be written, in alphabetical order.
    pub fn variables(&self) -> Vec<String> {
        let duration = |value: Duration| format_duration(value);
        let values = [
            ("AUTH_JWT_TOKEN", self.auth_jwt_token.clone()),
            ("CACERT", self.cacert.clone()),
            ("CERT", self.cert.clone()),
            ("COMMAND_TIMEOUT", duration(self.command_timeout)),
            ("DEBUG", self.debug.to_string()),
            ("DIAL_TIMEOUT", duration(self.dial_timeout)),
            ("DISCOVERY_SRV", self.discovery_srv.clone()),
            ("DISCOVERY_SRV_NAME", self.discovery_srv_name.clone()),
            ("ENDPOINTS", format!("[{}]", self.endpoints.join(","))),
            ("HEX", self.hex.to_string()),
            ("INSECURE_DISCOVERY", self.insecure_discovery.to_string()),
            (
                "INSECURE_SKIP_TLS_VERIFY",
                self.insecure_skip_tls_verify.to_string(),
            ),
            ("INSECURE_TRANSPORT", self.insecure_transport.to_string()),
            ("KEEPALIVE_TIME", duration(self.keepalive_time)),
            ("KEEPALIVE_TIMEOUT", duration(self.keepalive_timeout)),
            ("KEY", self.key.clone()),
            ("MAX_RECV_BYTES", self.max_recv_bytes.to_string()),
            ("MAX_REQUEST_BYTES", self.max_request_bytes.to_string()),
            ("PASSWORD", self.password.clone()),
            ("USER", self.user.clone()),
            ("WRITE_OUT", self.write_out.clone()),
        ];
        let line = |(name, value)| format!("ETCDCTL_{name}={value}");
        values.into_iter().map(line).collect()
    }
}

/// What an operating system refusal looks like in Go.
pub fn unreadable(path: &str, error: &std::io::Error) -> String {
    format!("open {path}: {}", reason(error))
}

/// The bare reason of an operating system error, as Go words it.
pub fn reason(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    text.to_lowercase()
}

/// Adds to the typed flags what the environment says of the others.
fn merge(
    known: &BTreeMap<String, Kind>,
    typed: &Typed,
    env: &BTreeMap<String, String>,
) -> Result<Typed, Failure> {
    let mut merged: Typed = typed.clone();
    merged.retain(|name, _| known.contains_key(name));
    let mut variables = BTreeMap::new();
    for (name, kind) in known {
        let variable = format!("ETCDCTL_{}", name.to_uppercase().replace('-', "_"));
        let value = env.get(&variable).filter(|value| !value.is_empty());
        if let Some(value) = value {
            if typed.contains_key(name) {
                return Err(conflict(&variable));
            }
            match kind.values(value.as_ref()) {
                Ok(values) => drop(merged.insert(name.clone(), values)),
                Err(error) => log::line(
                    "warn",
                    "ctl/flags.rs",
                    "environment variable is ignored",
                    vec![
                        (
                            "environment-variable".into(),
                            Json::text(format!("{variable}={value}")),
                        ),
                        ("error".into(), Json::text(error)),
                    ],
                ),
            }
        }
        variables.insert(variable, ());
    }
    let unknown = env.iter().filter(|(name, _)| {
        name.starts_with("ETCDCTL_")
            && !variables.contains_key(*name)
            && !OTHER_VARIABLES.contains(&name.as_str())
    });
    for (name, value) in unknown {
        log::line(
            "warn",
            "flags/flag.go:94",
            "unrecognized environment variable",
            vec![(
                "environment-variable".into(),
                Json::text(format!("{name}={value}")),
            )],
        );
    }
    Ok(merged)
}

fn conflict(variable: &str) -> Failure {
    log::line(
        "fatal",
        "flags/flag.go:86",
        "conflicting environment variable is shadowed by corresponding command-line flag \
         (either unset environment variable or disable flag))",
        vec![("environment-variable".into(), Json::text(variable))],
    );
    Failure::told(Exit::Error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(typed: &[(&str, &str)], env: &[(&str, &str)]) -> Result<Globals, Failure> {
        let typed = typed
            .iter()
            .map(|(name, value)| (name.to_string(), vec![value.into()]));
        let env = env
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()));
        Globals::read(&typed.collect(), &env.collect(), false)
    }

    #[test]
    fn variables_fill_in_what_was_not_typed() {
        let globals = read(
            &[("write-out", "json")],
            &[
                ("ETCDCTL_ENDPOINTS", "a,b"),
                ("ETCDCTL_HEX", "1"),
                ("ETCDCTL_COMMAND_TIMEOUT", "zz"),
                ("ETCDCTL_INSECURE_TRANSPORT", "false"),
                ("ETCDCTL_USER", ""),
            ],
        )
        .unwrap();
        assert_eq!(globals.endpoints, ["a", "b"]);
        assert!(globals.hex && !globals.insecure_transport);
        assert_eq!(globals.write_out, "json");
        assert_eq!(globals.command_timeout, Duration::from_secs(5));
    }

    #[test]
    fn the_same_setting_twice_is_fatal() {
        let failure = read(&[("hex", "true")], &[("ETCDCTL_HEX", "1")]).unwrap_err();
        assert_eq!(failure, Failure::told(Exit::Error));
    }

    #[test]
    fn names_and_passwords_are_split_once() {
        let cases = [
            ("a:b:c", "", Some("a"), Some("b:c")),
            ("a:b", "p", Some("a:b"), Some("p")),
            ("root:", "", Some("root"), None),
            ("", "", None, None),
        ];
        for (user, password, name, secret) in cases {
            let globals = read(&[("user", user), ("password", password)], &[]).unwrap();
            let (name, secret) = (name.map(String::from), secret.map(String::from));
            assert_eq!(globals.login(), (name, secret), "{user}");
        }
    }
}
