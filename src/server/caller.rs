//! Who is asking: what request metadata and the connection say.

use std::sync::Arc;

use http::HeaderMap;

use crate::error::ApiError;
use crate::raft::Caller;
use crate::util::metrics;

/// The address of the client, put into the extensions of every request.
#[derive(Clone, Debug)]
pub struct Remote(pub Arc<str>);

/// The caller of a request, as proposals carry it.
pub fn of<T>(request: &tonic::Request<T>) -> Caller {
    let remote = request.extensions().get::<Remote>();
    Caller {
        address: remote.map_or_else(String::new, |Remote(address)| address.to_string()),
        ..Caller::default()
    }
}

/// Returns true if the caller wants to hear at once that there is no leader. Only the first value counts.
pub fn needs_leader(headers: &HeaderMap) -> bool {
    headers
        .get("hasleader")
        .is_some_and(|value| value == "true")
}

/// Checks and counts the API version that clients name.
pub fn note_version(headers: &HeaderMap, unary: bool) -> Result<(), ApiError> {
    let given = match headers.get("client-api-version") {
        Some(value) => {
            let text = std::str::from_utf8(value.as_bytes());
            Some(text.map_err(|_| ApiError::InvalidClientAPIVersion)?)
        }
        None => None,
    };
    // Every new value is a new series, so only what looks like a version becomes one.
    let version = given
        .filter(|text| text.len() <= 16)
        .filter(|text| text.bytes().all(|b| b.is_ascii_digit() || b == b'.'))
        .unwrap_or("unknown");
    let kind = if unary { "unary" } else { "stream" };
    metrics::CLIENT_REQUESTS
        .with_label_values(&[kind, version])
        .inc();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn versions_must_be_text() {
        let cases: &[(&[u8], bool)] = &[(b"3.7", true), ("3.é".as_bytes(), true), (b"\xff", false)];
        for (value, good) in cases {
            let mut headers = HeaderMap::new();
            let value = HeaderValue::from_bytes(value).expect("a header value");
            headers.insert("client-api-version", value);
            assert_eq!(note_version(&headers, true).is_ok(), *good);
        }
    }

    #[test]
    fn only_the_first_wish_for_a_leader_counts() {
        let mut headers = HeaderMap::new();
        assert!(!needs_leader(&headers));
        headers.append("hasleader", HeaderValue::from_static("false"));
        headers.append("hasleader", HeaderValue::from_static("true"));
        assert!(!needs_leader(&headers));
        headers.insert("hasleader", HeaderValue::from_static("true"));
        assert!(needs_leader(&headers));
    }
}
