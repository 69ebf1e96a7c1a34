//! The log line of a call that took long: what etcd calls request stats.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use tracing::debug;
use tracing::warn;

use super::super::caller::Remote;
use crate::util::text;

/// A unary call being timed.
pub struct Stats {
    start: Instant,
    began: jiff::Timestamp,
    remote: Option<Arc<str>>,
    method: &'static str,
}

/// How much went in and out, and what was asked, without values.
pub struct Sizes {
    pub requests: i64,
    pub request_bytes: usize,
    pub responses: i64,
    pub response_bytes: usize,
    pub content: String,
}

impl Stats {
    pub fn begin<T>(request: &tonic::Request<T>, method: &'static str) -> Stats {
        let remote = request.extensions().get::<Remote>();
        Stats {
            start: Instant::now(),
            began: jiff::Timestamp::now(),
            remote: remote.map(|Remote(address)| address.clone()),
            method,
        }
    }

    /// Logs the call if it took longer than `limit`, and at level debug in any case.
    pub fn end(self, limit: Duration, sizes: impl FnOnce() -> Sizes) {
        let took = self.start.elapsed();
        let slow = took > limit;
        if !slow && !tracing::enabled!(tracing::Level::DEBUG) {
            return;
        }
        let sizes = sizes();
        macro_rules! tell {
            ($level:ident) => {
                $level!(
                    "start time" = %self.began,
                    "time spent" = %text::format_duration(took),
                    remote = self.remote.as_deref().unwrap_or_default(),
                    "response type" = self.method,
                    "request count" = sizes.requests,
                    "request size" = sizes.request_bytes,
                    "response count" = sizes.responses,
                    "response size" = sizes.response_bytes,
                    "request content" = sizes.content,
                    "request stats"
                )
            };
        }
        if slow {
            tell!(warn);
        } else {
            tell!(debug);
        }
    }
}

/// Bytes as Go's protobuf text form prints them.
pub fn quoted(bytes: &[u8]) -> String {
    format!("\"{}\"", bytes.escape_ascii())
}
