//! Log lines on standard error, one JSON object a line, as etcdctl writes them.

use std::fmt;
use std::io::Write;

use jiff::Timestamp;
use tracing::Event;
use tracing::Level;
use tracing::Subscriber;
use tracing::field::Field;
use tracing::field::Visit;
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::ctl::json::Json;

/// Shows the events of this program from `level` up.
pub fn start(level: Level) {
    // A second call keeps the first choice.
    let _ = tracing_subscriber::registry()
        .with(Lines { level })
        .try_init();
}

struct Lines {
    level: Level,
}

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let meta = event.metadata();
        let ours = meta.target().starts_with("kv::") || meta.target() == "etcd-client";
        if *meta.level() > self.level || !ours {
            return;
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        let mut pairs = vec![
            ("level".to_string(), level(*meta.level())),
            ("ts".to_string(), Json::text(now())),
        ];
        if meta.target() == "etcd-client" {
            pairs.push(("logger".to_string(), Json::text(meta.target())));
        }
        pairs.push(("caller".to_string(), caller(meta)));
        pairs.push(("msg".to_string(), Json::text(fields.message)));
        pairs.extend(fields.others);
        write(Json::Object(pairs));
    }
}

/// Writes one line that is about no place in this program.
pub fn line(level: &str, caller: &str, message: &str, fields: Vec<(String, Json)>) {
    let mut pairs = vec![
        ("level".to_string(), Json::text(level)),
        ("ts".to_string(), Json::text(now())),
        ("caller".to_string(), Json::text(caller)),
        ("msg".to_string(), Json::text(message)),
    ];
    pairs.extend(fields);
    write(Json::Object(pairs));
}

fn write(line: Json) {
    // There is nowhere left to report that standard error is gone.
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn now() -> String {
    format!("{:.6}", Timestamp::now())
}

fn level(level: Level) -> Json {
    Json::text(level.as_str().to_lowercase())
}

/// The last two parts of the path, and the line.
fn caller(meta: &tracing::Metadata<'_>) -> Json {
    let parts: Vec<&str> = meta.file().unwrap_or_default().rsplitn(3, '/').collect();
    let path: Vec<&str> = parts.into_iter().take(2).rev().collect();
    let line = meta.line().unwrap_or_default();
    Json::text(format!("{}:{line}", path.join("/")))
}

#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(String, Json)>,
}

impl Fields {
    fn push(&mut self, field: &Field, value: Json) {
        self.others.push((field.name().to_string(), value));
    }
}

impl Visit for Fields {
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, Json::Int(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, Json::Uint(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, Json::Bool(value));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.push(field, Json::text(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        } else {
            self.push(field, Json::text(format!("{value:?}")));
        }
    }
}
