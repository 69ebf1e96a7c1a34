//! Is this member well: `/health`, `/livez`, `/readyz` and their single checks.

use std::fmt::Write;

use http::Response;
use http::StatusCode;
use tracing::warn;

use super::TEXT;
use super::answer;
use super::not_found;
use super::parameters;
use crate::proto::etcdserverpb::AlarmType;
use crate::server::body::Body;
use crate::server::member::Member;
use crate::util::metrics;

const LIVE: &[&str] = &["serializable_read"];
const READY: &[&str] = &[
    "data_corruption",
    "serializable_read",
    "linearizable_read",
    "non_learner",
];

/// A page of checks: all of a root, or one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Root<'a> {
    kind: &'static str,
    checks: &'static [&'static str],
    only: Option<&'a str>,
}

impl Root<'_> {
    pub fn of(path: &str) -> Option<Root<'_>> {
        let (kind, checks, rest) = if let Some(rest) = path.strip_prefix("/livez") {
            ("livez", LIVE, rest)
        } else {
            ("readyz", READY, path.strip_prefix("/readyz")?)
        };
        let only = match rest {
            "" => None,
            rest => Some(rest.strip_prefix('/')?),
        };
        Some(Root { kind, checks, only })
    }
}

/// Runs the checks of a page.
pub async fn run(member: &Member, root: Root<'_>, query: &str) -> Response<Body> {
    let excluded: Vec<&str> = parameters(query, "exclude")
        .filter(|_| root.only.is_none())
        .collect();
    for unknown in excluded.iter().filter(|name| !root.checks.contains(name)) {
        warn!(checks = unknown, "some health checks cannot be excluded");
    }
    let chosen: Vec<&'static str> = match root.only {
        None => root.checks.to_vec(),
        Some(only) => root
            .checks
            .iter()
            .copied()
            .filter(|name| *name == only)
            .collect(),
    };
    if chosen.is_empty() {
        return not_found();
    }
    let (mut lines, mut failed) = (String::new(), false);
    for name in chosen.into_iter().filter(|name| !excluded.contains(name)) {
        let result = check(member, name).await;
        note(root.kind, name, result.is_ok());
        match result {
            Ok(()) => {
                let _ = writeln!(lines, "[+]{name} ok");
            }
            Err(reason) => {
                failed = true;
                let _ = writeln!(lines, "[-]{name} failed: {reason}");
            }
        }
    }
    if failed {
        return super::error(StatusCode::SERVICE_UNAVAILABLE, &lines);
    }
    let verbose = parameters(query, "verbose").next().is_some();
    let text = if verbose {
        lines + "ok\n"
    } else {
        "ok\n".to_string()
    };
    answer(StatusCode::OK, TEXT, text)
}

fn note(kind: &str, name: &str, good: bool) {
    metrics::HEALTHCHECK
        .with_label_values(&[kind, name])
        .set(i64::from(good));
    let status = if good { "success" } else { "error" };
    metrics::HEALTHCHECKS
        .with_label_values(&[kind, name, status])
        .inc();
}

async fn check(member: &Member, name: &str) -> Result<(), String> {
    match name {
        "data_corruption" => {
            let corrupt = member.node.machine().cluster.has_alarm(AlarmType::Corrupt);
            let raised = "alarm activated: CORRUPT".to_string();
            (!corrupt).then_some(()).ok_or(raised)
        }
        "linearizable_read" => {
            let read = member.node.read_index().await;
            read.map_err(|error| error.to_string())
        }
        "non_learner" => {
            let learner = member.node.status().is_learner;
            let refused = "not supported for learner".to_string();
            (!learner).then_some(()).ok_or(refused)
        }
        // Local state can be read whenever the process can answer.
        _ => Ok(()),
    }
}

/// The page that load balancers know.
pub async fn health(member: &Member, query: &str) -> Response<Body> {
    let reason = unwell(member, query).await;
    let Some(reason) = reason else {
        metrics::HEALTH_SUCCESS.inc();
        return answer(StatusCode::OK, TEXT, r#"{"health":"true","reason":""}"#);
    };
    metrics::HEALTH_FAILURES.inc();
    let text = serde_json::json!({"health": "false", "reason": reason});
    super::error(StatusCode::SERVICE_UNAVAILABLE, &text.to_string())
}

async fn unwell(member: &Member, query: &str) -> Option<String> {
    let excluded: Vec<&str> = parameters(query, "exclude").collect();
    let alarms = {
        let machine = member.node.machine();
        machine.cluster.alarms(AlarmType::None as i32)
    };
    for alarm in alarms {
        let kind = match AlarmType::try_from(alarm.alarm) {
            Ok(AlarmType::Nospace) => "NOSPACE",
            Ok(AlarmType::Corrupt) => "CORRUPT",
            _ => "UNKNOWN",
        };
        if !excluded.contains(&kind) {
            warn!(alarm = kind, "serving /health false due to an alarm");
            return Some(format!("ALARM {kind}"));
        }
    }
    if parameters(query, "serializable").next() == Some("true") {
        return None;
    }
    if !member.node.has_leader() {
        warn!("serving /health false; no leader");
        return Some("RAFT NO LEADER".to_string());
    }
    let error = member.node.read_index().await.err()?;
    warn!(error = %error, "serving /health false; the read failed");
    Some(format!("RANGE ERROR:{error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_a_page_or_one_check() {
        let only = |path| Root::of(path).map(|root| (root.kind, root.only));
        let cases = [
            ("/livez", Some(("livez", None))),
            ("/readyz/non_learner", Some(("readyz", Some("non_learner")))),
            ("/livezz", None),
            ("/health", None),
        ];
        for (path, want) in cases {
            assert_eq!(only(path), want, "{path}");
        }
    }
}
