//! What members ask each other by plain HTTP, as far as one member can answer.

use http::HeaderName;
use http::HeaderValue;
use http::Request;
use http::Response;
use http::StatusCode;
use http_body_util::BodyExt;
use http_body_util::Limited;
use hyper::body::Incoming;
use prost::Message;
use serde_json::Value;
use serde_json::json;

use super::JSON;
use super::TEXT;
use super::answer;
use super::error;
use super::method_not_allowed;
use super::not_found;
use crate::error::ApiError;
use crate::error::Error;
use crate::lease::LeaseId;
use crate::lease::Renewal;
use crate::proto::etcdserverpb::LeaseKeepAliveRequest;
use crate::proto::etcdserverpb::LeaseKeepAliveResponse;
use crate::server::body::Body;
use crate::server::member::Member;

const CLUSTER_ID: HeaderName = HeaderName::from_static("x-etcd-cluster-id");
const MAX_BODY: usize = 64 << 10;

pub async fn route(member: &Member, request: Request<Incoming>, path: &str) -> Response<Body> {
    let allowed = match path {
        "/version" | "/members" | "/members/hashkv" | "/downgrade/enabled" | "/raft/probing" => {
            "GET"
        }
        "/leases" => "POST",
        _ if path.starts_with("/members/promote/") => "POST",
        _ => return not_found(),
    };
    if request.method().as_str() != allowed && path != "/raft/probing" {
        return method_not_allowed(allowed);
    }
    match path {
        "/version" => super::version(member),
        "/members" => members(member),
        "/members/hashkv" => hash(member, request).await,
        "/downgrade/enabled" => downgrade(member).await,
        "/raft/probing" => probe(),
        "/leases" => lease(member, request).await,
        _ => promote(member, path.trim_start_matches("/members/promote/")),
    }
}

fn with_cluster(member: &Member, mut response: Response<Body>) -> Response<Body> {
    let id = format!("{:x}", member.identity().cluster_id);
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(CLUSTER_ID, id);
    }
    response
}

/// Numbers for ids, and nothing for what is empty.
fn members(member: &Member) -> Response<Body> {
    let list = member.node.machine().member_list();
    let rows: Vec<String> = list
        .iter()
        .map(|row| {
            let mut text = format!(r#"{{"id":{},"peerURLs":{}"#, row.id, json!(row.peer_ur_ls));
            if row.is_learner {
                text += r#","isLearner":true"#;
            }
            if !row.name.is_empty() {
                text += &format!(r#","name":{}"#, json!(row.name));
            }
            if !row.client_ur_ls.is_empty() {
                text += &format!(r#","clientURLs":{}"#, json!(row.client_ur_ls));
            }
            text + "}"
        })
        .collect();
    let text = format!("[{}]\n", rows.join(","));
    with_cluster(member, answer(StatusCode::OK, JSON, text))
}

async fn hash(member: &Member, request: Request<Incoming>) -> Response<Body> {
    let own = format!("{:x}", member.identity().cluster_id);
    let asked = request.headers().get(CLUSTER_ID).cloned();
    if asked.is_some_and(|asked| asked != own.as_str()) {
        return with_cluster(
            member,
            error(StatusCode::PRECONDITION_FAILED, "cluster ID mismatch"),
        );
    }
    let Ok(body) = Limited::new(request.into_body(), MAX_BODY).collect().await else {
        return error(StatusCode::BAD_REQUEST, "error reading body");
    };
    let revision = serde_json::from_slice::<Value>(&body.to_bytes())
        .ok()
        .map(|value| value.get("revision").map_or(Some(0), Value::as_i64));
    let Some(Some(revision)) = revision else {
        return error(StatusCode::BAD_REQUEST, "error unmarshalling request");
    };
    match member.hash_kv(revision).await {
        Ok((hash, current)) => {
            let text = format!(
                r#"{{"header":{{"revision":{current}}},"hash":{},"compact_revision":{},"hash_revision":{}}}"#,
                hash.hash, hash.compact_revision, hash.hash_revision
            );
            with_cluster(member, answer(StatusCode::OK, JSON, text))
        }
        Err(refusal) => {
            let text = refusal.to_string();
            let text = text.trim_start_matches("etcdserver: ");
            with_cluster(member, error(StatusCode::BAD_REQUEST, text))
        }
    }
}

async fn downgrade(member: &Member) -> Response<Body> {
    let response = match member.node.read_index().await {
        Ok(()) => {
            let enabled = member.node.machine().cluster.downgrade().enabled;
            let kind = HeaderValue::from_static("text/plain");
            answer(StatusCode::OK, kind, enabled.to_string())
        }
        Err(refusal) => error(StatusCode::INTERNAL_SERVER_ERROR, &refusal.to_string()),
    };
    with_cluster(member, response)
}

fn probe() -> Response<Body> {
    let now = jiff::Timestamp::now();
    answer(
        StatusCode::OK,
        TEXT,
        format!("{{\"OK\":true,\"Now\":\"{now}\"}}\n"),
    )
}

/// A renewal passed on by another member.
async fn lease(member: &Member, request: Request<Incoming>) -> Response<Body> {
    let Ok(body) = Limited::new(request.into_body(), MAX_BODY).collect().await else {
        return error(
            StatusCode::PAYLOAD_TOO_LARGE,
            "error reading body: http: request body too large",
        );
    };
    let Ok(request) = LeaseKeepAliveRequest::decode(body.to_bytes()) else {
        return error(StatusCode::BAD_REQUEST, "error unmarshalling request");
    };
    let now = member.node.clock().uptime();
    let renewal = member
        .node
        .machine_mut()
        .lessor
        .renew(LeaseId(request.id), now);
    match renewal {
        Renewal::Renewed { ttl, .. } => {
            let response = LeaseKeepAliveResponse {
                header: None,
                id: request.id,
                ttl,
            };
            let kind = HeaderValue::from_static("application/protobuf");
            answer(StatusCode::OK, kind, response.encode_to_vec())
        }
        Renewal::NotFound | Renewal::Expired => error(StatusCode::NOT_FOUND, "lease not found"),
        Renewal::NotPrimary => error(StatusCode::BAD_REQUEST, "not a primary lessor"),
    }
}

/// Promotes a learner. There is none as long as members cannot be added.
fn promote(member: &Member, id: &str) -> Response<Body> {
    let Ok(id) = id.parse::<u64>() else {
        let text = format!("member {id} not found in cluster");
        return with_cluster(member, error(StatusCode::NOT_FOUND, &text));
    };
    let checked = member.node.machine().cluster.check_promote(id);
    let response = match checked {
        Err(ApiError::MemberNotFound) => error(StatusCode::NOT_FOUND, "membership: ID not found"),
        Err(ApiError::MemberNotLearner) => error(
            StatusCode::PRECONDITION_FAILED,
            "membership: can only promote a learner member",
        ),
        Err(refusal) => error(
            StatusCode::PRECONDITION_FAILED,
            &Error::from(refusal).to_string(),
        ),
        Ok(()) => error(
            StatusCode::PRECONDITION_FAILED,
            &ApiError::LearnerNotReady.to_string(),
        ),
    };
    with_cluster(member, response)
}
