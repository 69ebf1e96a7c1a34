//! Plain HTTP: health, readiness, version, metrics on client and metrics addresses, and what members ask
//! each other on peer addresses. Answers are those of Go's `net/http` to the byte.

mod checks;
mod peer;

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use http::HeaderMap;
use http::HeaderName;
use http::HeaderValue;
use http::Method;
use http::Request;
use http::Response;
use http::StatusCode;
use http::Version;
use http::header;
use hyper::body::Incoming;
use hyper::ext::ReasonPhrase;
use serde_json::json;

use self::checks::Root;
use super::body::Body;
use super::listener::Service;
use super::member::Member;
use super::member::VERSION;
use super::process;
use crate::util::metrics;

/// Which paths a listener has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surface {
    Client,
    Metrics,
    Peer,
}

pub struct Http {
    member: Arc<Member>,
    surface: Surface,
}

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const EXPOSITION: HeaderValue =
    HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8; escaping=underscores");
const NOSNIFF: HeaderName = HeaderName::from_static("x-content-type-options");

impl Service for Http {
    async fn call(&self, request: Request<Incoming>, _remote: Arc<str>) -> Response<Body> {
        self.answer(request).await
    }
}

impl Http {
    pub fn new(member: Arc<Member>, surface: Surface) -> Http {
        Http { member, surface }
    }

    pub async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let headers = request.headers();
        if request.version() == Version::HTTP_11 && !headers.contains_key(header::HOST) {
            return missing_host();
        }
        if self.surface != Surface::Client {
            return self.route(request).await;
        }
        let origin = headers.get(header::ORIGIN).cloned();
        let mut response = match self.host_refusal(&request) {
            Some(refusal) => return refusal,
            None if request.method() == Method::OPTIONS => Response::new(Body::empty()),
            None => self.route(request).await,
        };
        allow_origin(
            &self.member.config.cors,
            origin.as_ref(),
            response.headers_mut(),
        );
        response
    }

    /// Refuses a host name that is not listed, against pages that rebind their names to this server.
    fn host_refusal(&self, request: &Request<Incoming>) -> Option<Response<Body>> {
        let given = request
            .headers()
            .get(header::HOST)
            .and_then(|host| host.to_str().ok())
            .or_else(|| {
                request
                    .uri()
                    .authority()
                    .map(|authority| authority.as_str())
            })
            .unwrap_or_default();
        let host = without_port(given);
        if host_allowed(&self.member.config.host_whitelist, host) {
            return None;
        }
        let text = format!(
            "etcd received your request, but the Host header was unrecognized.\n\n\
             To fix this, choose one of the following options:\n\
             - Enable TLS, then any HTTPS request will be allowed.\n\
             - Add the hostname you want to use to the whitelist in settings.\n  \
             - e.g. etcd --host-whitelist {host:?}\n\n\
             This requirement has been added to help prevent \"DNS Rebinding\" attacks (CVE-2018-5702).\n"
        );
        Some(error(StatusCode::MISDIRECTED_REQUEST, &text))
    }

    async fn route(&self, request: Request<Incoming>) -> Response<Body> {
        let path = request.uri().path().to_string();
        if let Cow::Owned(clean) = clean_path(&path) {
            return moved(&clean, request.uri().query());
        }
        match self.surface {
            Surface::Peer => peer::route(&self.member, request, &path).await,
            surface => self.route_client(&request, &path, surface).await,
        }
    }

    async fn route_client(
        &self,
        request: &Request<Incoming>,
        path: &str,
        surface: Surface,
    ) -> Response<Body> {
        let query = request.uri().query().unwrap_or_default();
        let root = Root::of(path);
        let client = surface == Surface::Client;
        let known = match path {
            "/health" | "/metrics" => true,
            "/version" | "/debug/vars" => client,
            _ => root.is_some(),
        };
        if !known {
            return not_found();
        }
        // Go's metrics and variables answer any method.
        let any_method = matches!(path, "/metrics" | "/debug/vars");
        if request.method() != Method::GET && !any_method {
            return method_not_allowed("GET");
        }
        match path {
            "/health" => checks::health(&self.member, query).await,
            "/metrics" => self.metrics(request.headers()),
            "/version" => version(&self.member),
            "/debug/vars" => self.variables(),
            _ => match root {
                Some(root) => checks::run(&self.member, root, query).await,
                None => not_found(),
            },
        }
    }

    fn metrics(&self, headers: &HeaderMap) -> Response<Body> {
        metrics::SCRAPES_IN_FLIGHT.inc();
        measure(&self.member);
        let text = metrics::text();
        metrics::SCRAPES_IN_FLIGHT.dec();
        metrics::SCRAPES.with_label_values(&["200"]).inc();
        let zipped = headers
            .get_all(header::ACCEPT_ENCODING)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|value| value.split(',').any(|item| item.trim().starts_with("gzip")));
        if !zipped {
            return answer(StatusCode::OK, EXPOSITION, text);
        }
        let mut response = answer(StatusCode::OK, EXPOSITION, gzip(text.as_bytes()));
        let gzip = HeaderValue::from_static("gzip");
        response
            .headers_mut()
            .insert(header::CONTENT_ENCODING, gzip);
        response
    }

    /// Go's expvar page.
    fn variables(&self) -> Response<Body> {
        let status = self.member.node.status();
        let id = format!("{:x}", status.id);
        let leads = status.leader == status.id;
        let mut progress = serde_json::Map::new();
        if leads {
            progress.insert(
                id.clone(),
                json!({"match": status.last_index, "next": status.last_index + 1, "state": "StateReplicate"}),
            );
        }
        let raft = json!({
            "id": id,
            "term": status.term,
            "vote": format!("{:x}", status.leader),
            "commit": status.committed,
            "lead": format!("{:x}", status.leader),
            "raftState": if leads { "StateLeader" } else { "StateFollower" },
            "applied": status.applied,
            "progress": progress,
            "leadtransferee": "0",
        });
        let arguments: Vec<String> = std::env::args().collect();
        let (_, limit) = process::files();
        process::measure();
        let memory = json!({
            "Alloc": metrics::PROCESS_RESIDENT.get(),
            "Sys": metrics::PROCESS_VIRTUAL.get(),
        });
        let text = format!(
            "{{\n\"cmdline\": {},\n\"file_descriptor_limit\": {limit},\n\"memstats\": {memory},\n\"raft.status\": {raft}\n}}\n",
            json!(arguments)
        );
        let kind = HeaderValue::from_static("application/json; charset=utf-8");
        answer(StatusCode::OK, kind, text)
    }
}

/// Sets the gauges that are worth asking for only when somebody looks.
fn measure(member: &Member) {
    process::measure();
    let status = member.node.status();
    metrics::PROPOSALS_COMMITTED.set(status.committed as i64);
    metrics::PROPOSALS_APPLIED.set(status.applied as i64);
    metrics::HAS_LEADER.set(i64::from(status.leader != 0));
    metrics::IS_LEADER.set(i64::from(status.leader == status.id));
    metrics::IS_LEARNER.set(i64::from(status.is_learner));
    let machine = member.node.machine();
    let store = &machine.store;
    metrics::KEYS.set(store.live_keys() as i64);
    metrics::CURRENT_REVISION.set(store.revision());
    metrics::COMPACT_REVISION.set(store.compacted());
    let size = member.node.size().max(store.live_bytes());
    let allocated = member.allocated.fetch_max(size, Ordering::Relaxed);
    metrics::DB_SIZE_IN_USE.set(store.live_bytes() as i64);
    metrics::DB_SIZE.set(allocated.max(size) as i64);
    metrics::BUDGETS
        .with_label_values(&["values"])
        .set(store.cache_bytes() as f64);
    for known in machine.cluster.members() {
        let labels = [format!("{:x}", status.id), format!("{:x}", known.id)];
        let labels = [labels[0].as_str(), labels[1].as_str()];
        metrics::KNOWN_PEERS.with_label_values(&labels).set(1);
    }
}

fn gzip(text: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder
        .write_all(text)
        .and_then(|()| encoder.finish())
        .expect("a buffer in memory takes every byte")
}

fn version(member: &Member) -> Response<Body> {
    let cluster = member
        .cluster_version()
        .unwrap_or_else(|| "not_decided".to_string());
    let storage = member.node.machine().storage_version();
    let storage = if storage.is_empty() {
        "unknown"
    } else {
        &storage
    };
    let text =
        format!(r#"{{"etcdserver":"{VERSION}","etcdcluster":"{cluster}","storage":"{storage}"}}"#);
    answer(StatusCode::OK, JSON, text)
}

fn answer(status: StatusCode, kind: HeaderValue, text: impl Into<bytes::Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::text(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// Go's `http.Error`: the text and a line end.
fn error(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = answer(status, TEXT, format!("{text}\n"));
    let nosniff = HeaderValue::from_static("nosniff");
    response.headers_mut().insert(NOSNIFF, nosniff);
    response
}

fn not_found() -> Response<Body> {
    error(StatusCode::NOT_FOUND, "404 page not found")
}

fn method_not_allowed(allowed: &'static str) -> Response<Body> {
    let mut response = error(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    let allowed = HeaderValue::from_static(allowed);
    response.headers_mut().insert(header::ALLOW, allowed);
    response
}

fn moved(path: &str, query: Option<&str>) -> Response<Body> {
    let location = match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_string(),
    };
    let kind = HeaderValue::from_static("text/html; charset=utf-8");
    let text = format!("<a href=\"{location}\">Moved Permanently</a>.\n\n");
    let mut response = answer(StatusCode::MOVED_PERMANENTLY, kind, text);
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

fn missing_host() -> Response<Body> {
    let text = "400 Bad Request: missing required Host header";
    let mut response = answer(StatusCode::BAD_REQUEST, TEXT, text);
    response.extensions_mut().insert(ReasonPhrase::from_static(
        b"Bad Request: missing required Host header",
    ));
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(header::CONNECTION, close);
    response
}

/// The path without `//`, `.` and `..`, as Go's multiplexer wants it; owned if it differs.
fn clean_path(path: &str) -> Cow<'_, str> {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let mut clean = format!("/{}", parts.join("/"));
    if path.ends_with('/') && clean != "/" {
        clean.push('/');
    }
    if clean == path || path == "*" {
        Cow::Borrowed(path)
    } else {
        Cow::Owned(clean)
    }
}

fn without_port(host: &str) -> &str {
    match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    }
}

fn host_allowed(listed: &[String], host: &str) -> bool {
    listed.is_empty() || listed.iter().any(|name| name == "*" || name == host)
}

/// Adds the headers that let a browser's page read the answer, if its origin is listed.
fn allow_origin(listed: &[String], origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
    let allowed = if listed.is_empty() || listed.iter().any(|item| item == "*") {
        HeaderValue::from_static("*")
    } else {
        match origin.filter(|origin| listed.iter().any(|item| *origin == item.as_str())) {
            Some(origin) => origin.clone(),
            None => return,
        }
    };
    let methods = HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE");
    let names = HeaderValue::from_static("accept, content-type, authorization");
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, names);
}

/// The values of a query parameter, in order.
fn parameters<'a>(query: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    query.split('&').filter_map(move |pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (key == name).then_some(value)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_as_go_does() {
        let cases = [
            ("/health", "/health"),
            ("//v3/kv/range", "/v3/kv/range"),
            ("/v3/../health", "/health"),
            ("/v3/kv/./put", "/v3/kv/put"),
            ("/a/", "/a/"),
            ("/", "/"),
            ("/..", "/"),
        ];
        for (path, clean) in cases {
            assert_eq!(clean_path(path), clean, "{path}");
        }
    }

    #[test]
    fn hosts_are_compared_without_their_port() {
        let listed = ["a.example".to_string(), "::1".to_string()];
        let cases = [
            ("a.example", true),
            ("a.example:1234", true),
            ("[::1]:80", true),
            ("A.example", false),
            ("x.a.example", false),
            ("", false),
        ];
        for (host, allowed) in cases {
            assert_eq!(host_allowed(&listed, without_port(host)), allowed, "{host}");
        }
        assert!(host_allowed(&["*".to_string()], "anything"));
    }

    #[test]
    fn origins_are_echoed_only_if_listed() {
        let listed = ["http://a.example:80".to_string()];
        let cases = [
            ("http://a.example:80", Some("http://a.example:80")),
            ("http://b.example:80", None),
        ];
        for (origin, want) in cases {
            let mut headers = HeaderMap::new();
            let origin = HeaderValue::from_static(origin);
            allow_origin(&listed, Some(&origin), &mut headers);
            let got = headers.get(header::ACCESS_CONTROL_ALLOW_ORIGIN);
            assert_eq!(got.and_then(|value| value.to_str().ok()), want);
        }
    }

    #[test]
    fn parameters_may_repeat_or_lack_a_value() {
        let query = "exclude=A&verbose&exclude=B";
        assert_eq!(parameters(query, "exclude").collect::<Vec<_>>(), ["A", "B"]);
        assert_eq!(parameters(query, "verbose").count(), 1);
        assert_eq!(parameters("", "verbose").count(), 0);
    }
}
