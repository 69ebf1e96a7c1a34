//! Log lines in the shape that etcd's operators and tools read.
//!
//! One JSON object a line: `level`, `ts`, `logger` (if named), `caller`, `msg`, then the fields of the
//! event in their order; or the tab-separated `console` form. Lines go to standard error until
//! [`configure`] names other outputs. A message repeated more than a hundred times within a second is
//! written every hundredth time only.

use std::fmt;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use tracing::Event;
use tracing::Metadata;
use tracing::field::Field;
use tracing::field::Visit;
use tracing::level_filters::LevelFilter;
use tracing::span;

/// Target of events that are followed by the end of the process.
pub const FATAL: &str = "kv::fatal";

const JOURNAL: &str = "/run/systemd/journal/socket";

/// What a level means for the lines written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    Debug,
    Info,
    Warn,
    Error,
    Dpanic,
    Panic,
    Fatal,
}

impl Level {
    const NAMES: [&str; 7] = ["debug", "info", "warn", "error", "dpanic", "panic", "fatal"];

    /// Reads a value of `--log-level`.
    pub fn parse(text: &str) -> Option<Level> {
        use Level::*;
        const ALL: [Level; 7] = [Debug, Info, Warn, Error, Dpanic, Panic, Fatal];
        let at = Level::NAMES.iter().position(|name| *name == text)?;
        Some(ALL[at])
    }

    fn name(self) -> &'static str {
        Level::NAMES[self as usize]
    }

    fn of(metadata: &Metadata<'_>) -> Level {
        if metadata.target() == FATAL {
            return Level::Fatal;
        }
        match *metadata.level() {
            tracing::Level::ERROR => Level::Error,
            tracing::Level::WARN => Level::Warn,
            tracing::Level::INFO => Level::Info,
            _ => Level::Debug,
        }
    }

    fn filter(self) -> LevelFilter {
        match self {
            Level::Debug => LevelFilter::DEBUG,
            Level::Info => LevelFilter::INFO,
            Level::Warn => LevelFilter::WARN,
            _ => LevelFilter::ERROR,
        }
    }

    /// As journald counts.
    fn priority(self) -> u8 {
        match self {
            Level::Debug => 7,
            Level::Info => 6,
            Level::Warn => 4,
            Level::Error => 3,
            Level::Dpanic | Level::Panic | Level::Fatal => 2,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Json,
    Console,
}

/// Where lines go and which.
pub struct Options {
    pub level: Level,
    pub format: Format,
    /// `stderr`, `stdout`, `default`, `systemd/journal` or file names.
    pub outputs: Vec<String>,
}

enum Output {
    Stderr,
    Stdout,
    File(File),
    Journal(UnixDatagram),
}

struct Sink {
    format: Format,
    outputs: Vec<Output>,
    repeats: Repeats,
}

static LEVEL: AtomicU8 = AtomicU8::new(Level::Info as u8);

fn sink() -> &'static Mutex<Sink> {
    static SINK: OnceLock<Mutex<Sink>> = OnceLock::new();
    SINK.get_or_init(|| {
        Mutex::new(Sink {
            format: Format::Json,
            outputs: vec![Output::Stderr],
            repeats: Repeats::default(),
        })
    })
}

/// Starts to write events as JSON on standard error, from level info on. Later calls change nothing.
pub fn init() {
    let _ = tracing::subscriber::set_global_default(Writer);
}

/// Changes level, form and outputs; on an error nothing is changed.
pub fn configure(options: Options) -> io::Result<()> {
    let outputs = options
        .outputs
        .iter()
        .map(|name| open(name))
        .collect::<io::Result<Vec<_>>>()?;
    let mut sink = sink().lock();
    sink.outputs = outputs;
    sink.format = options.format;
    LEVEL.store(options.level as u8, Ordering::Relaxed);
    drop(sink);
    tracing::callsite::rebuild_interest_cache();
    Ok(())
}

fn open(name: &str) -> io::Result<Output> {
    Ok(match name {
        "default" | "stderr" => Output::Stderr,
        "stdout" => Output::Stdout,
        "systemd/journal" => Output::Journal(journal()?),
        path => Output::File(OpenOptions::new().create(true).append(true).open(path)?),
    })
}

fn journal() -> io::Result<UnixDatagram> {
    let socket = UnixDatagram::unbound()?;
    socket
        .connect(JOURNAL)
        .map_err(|error| io::Error::other(format!("can't find journal ({error})")))?;
    Ok(socket)
}

/// A field value that is JSON already, such as a list; `?raw(..)` keeps it as it is.
pub struct Raw(serde_json::Value);

/// Marks `value` to be written as JSON and not as text.
pub fn raw(value: impl Into<serde_json::Value>) -> Raw {
    Raw(value.into())
}

/// No text starts with this, so that a formatted [`Raw`] can be told from text.
const RAW_MARK: &str = "\u{1}raw\u{1}";

impl fmt::Debug for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{RAW_MARK}{}", self.0)
    }
}

/// Many fields as one; `"" = ?fields(..)` puts them into the line one by one, where an event has no room.
pub struct Spliced(Vec<(&'static str, serde_json::Value)>);

pub fn fields(list: Vec<(&'static str, serde_json::Value)>) -> Spliced {
    Spliced(list)
}

const FIELDS_MARK: &str = "\u{1}fields\u{1}";

impl fmt::Debug for Spliced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(FIELDS_MARK)?;
        for (at, (name, value)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(f, "{comma}{}:{value}", quoted(name))?;
        }
        Ok(())
    }
}

/// The subscriber: lines for events, nothing for spans.
struct Writer;

impl tracing::Subscriber for Writer {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        if metadata.is_span() {
            return false;
        }
        let level = Level::of(metadata);
        let ours = metadata.target().starts_with("kv");
        // Of libraries only what is worth an operator's attention.
        level as u8 >= LEVEL.load(Ordering::Relaxed) && (ours || level >= Level::Warn)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        let level = LEVEL.load(Ordering::Relaxed);
        [Level::Debug, Level::Info, Level::Warn]
            .into_iter()
            .find(|known| *known as u8 == level)
            .or(Some(Level::Error))
            .map(Level::filter)
    }

    fn new_span(&self, _span: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _span: &span::Id, _values: &span::Record<'_>) {}

    fn record_follows_from(&self, _span: &span::Id, _follows: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        let line = Line {
            level: Level::of(metadata),
            logger: logger(metadata.target()),
            caller: caller(metadata),
            fields,
        };
        sink().lock().write(&line);
    }

    fn enter(&self, _span: &span::Id) {}

    fn exit(&self, _span: &span::Id) {}
}

/// etcd names the logger of its consensus library.
fn logger(target: &str) -> Option<&'static str> {
    let consensus = target.starts_with("openraft") || target.starts_with("kv::raft");
    consensus.then_some("raft")
}

/// The last directory, the file and the line.
fn caller(metadata: &Metadata<'_>) -> String {
    let path = metadata.file().unwrap_or("unknown");
    let start = path.rmatch_indices('/').nth(1).map_or(0, |(at, _)| at + 1);
    format!("{}:{}", &path[start..], metadata.line().unwrap_or(0))
}

/// The fields of one event, rendered: the message apart, the rest as `"key":value`.
#[derive(Default)]
struct Fields {
    message: String,
    rest: String,
}

impl Fields {
    fn push(&mut self, field: &Field, value: &str) {
        if !self.rest.is_empty() {
            self.rest.push(',');
        }
        self.rest.push_str(&quoted(field.name()));
        self.rest.push(':');
        self.rest.push_str(value);
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" {
            self.message = text;
        } else if let Some(json) = text.strip_prefix(RAW_MARK) {
            self.push(field, json);
        } else if let Some(fields) = text.strip_prefix(FIELDS_MARK) {
            let comma = if self.rest.is_empty() { "" } else { "," };
            self.rest.push_str(comma);
            self.rest.push_str(fields);
        } else {
            self.push(field, &quoted(&text));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message = value.to_string();
        } else {
            self.push(field, &quoted(value));
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, &value.to_string());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, &value.to_string());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, &value.to_string());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.push(field, &serde_json::Value::from(value).to_string());
    }
}

struct Line {
    level: Level,
    logger: Option<&'static str>,
    caller: String,
    fields: Fields,
}

impl Line {
    fn render(&self, format: Format, when: &str) -> String {
        let (level, message, rest) = (self.level.name(), &self.fields.message, &self.fields.rest);
        match format {
            Format::Json => {
                let logger = self
                    .logger
                    .map_or_else(String::new, |name| format!(r#""logger":"{name}","#));
                let comma = if rest.is_empty() { "" } else { "," };
                let (caller, message) = (quoted(&self.caller), quoted(message));
                format!(
                    r#"{{"level":"{level}","ts":"{when}",{logger}"caller":{caller},"msg":{message}{comma}{rest}}}"#
                ) + "\n"
            }
            Format::Console => {
                let logger = self
                    .logger
                    .map_or_else(String::new, |name| format!("{name}\t"));
                let tail = if rest.is_empty() {
                    String::new()
                } else {
                    format!("\t{{{rest}}}")
                };
                format!(
                    "{when}\t{level}\t{logger}{}\t{message}{tail}\n",
                    self.caller
                )
            }
        }
    }
}

impl Sink {
    fn write(&mut self, line: &Line) {
        let now = jiff::Zoned::now();
        let second = now.timestamp().as_second();
        if line.level < Level::Fatal && !self.repeats.admit(second, line) {
            return;
        }
        let text = line.render(self.format, &stamp(&now));
        for output in &mut self.outputs {
            // A log that cannot be written must not end the server.
            let _ = match output {
                Output::Stderr => io::stderr().write_all(text.as_bytes()),
                Output::Stdout => io::stdout()
                    .write_all(text.as_bytes())
                    .and_then(|()| io::stdout().flush()),
                Output::File(file) => file.write_all(text.as_bytes()),
                Output::Journal(socket) => send_to_journal(socket, line, &text),
            };
        }
    }
}

/// One datagram a line; a line that does not get through goes to standard error.
fn send_to_journal(socket: &UnixDatagram, line: &Line, text: &str) -> io::Result<()> {
    let package = line.caller.split('/').next().unwrap_or_default();
    let program = std::env::args().next().unwrap_or_default();
    let program = program.rsplit('/').next().unwrap_or_default();
    let datagram = format!(
        "PRIORITY={}\nSYSLOG_IDENTIFIER={program}\nPACKAGE={package}\nMESSAGE={text}",
        line.level.priority()
    );
    socket
        .send(datagram.as_bytes())
        .map(|_| ())
        .or_else(|_| io::stderr().write_all(text.as_bytes()))
}

/// Microseconds, local zone, `Z` for UTC.
fn stamp(now: &jiff::Zoned) -> String {
    let clock = now.strftime("%Y-%m-%dT%H:%M:%S%.6f");
    if now.offset().is_zero() {
        format!("{clock}Z")
    } else {
        format!("{clock}{}", now.strftime("%z"))
    }
}

/// How often each message was seen within the running second.
///
/// Messages share a slot when their hashes do; the table never grows.
struct Repeats {
    slots: Vec<(i64, u32)>,
}

impl Default for Repeats {
    fn default() -> Repeats {
        Repeats {
            slots: vec![(0, 0); Repeats::SLOTS],
        }
    }
}

impl Repeats {
    const SLOTS: usize = 4096;
    const FIRST: u32 = 100;
    const THEN_EVERY: u32 = 100;

    fn admit(&mut self, second: i64, line: &Line) -> bool {
        let text = [&[line.level as u8], line.fields.message.as_bytes()].concat();
        let (seen, count) = &mut self.slots[crc32c::crc32c(&text) as usize % Repeats::SLOTS];
        if *seen != second {
            (*seen, *count) = (second, 0);
        }
        *count += 1;
        *count <= Repeats::FIRST || (*count - Repeats::FIRST).is_multiple_of(Repeats::THEN_EVERY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(rest: &str) -> Line {
        Line {
            level: Level::Warn,
            logger: None,
            caller: "server/mod.rs:12".into(),
            fields: Fields {
                message: "slow \"disk\"".into(),
                rest: rest.into(),
            },
        }
    }

    #[test]
    fn lines_have_the_keys_of_zap_in_order() {
        let when = "2026-01-02T15:04:05.000000Z";
        let cases = [
            (
                Format::Json,
                "",
                r#"{"level":"warn","ts":"2026-01-02T15:04:05.000000Z","caller":"server/mod.rs:12","msg":"slow \"disk\""}"#,
            ),
            (
                Format::Json,
                r#""took":"1s""#,
                r#"{"level":"warn","ts":"2026-01-02T15:04:05.000000Z","caller":"server/mod.rs:12","msg":"slow \"disk\"","took":"1s"}"#,
            ),
            (
                Format::Console,
                r#""took":"1s""#,
                "2026-01-02T15:04:05.000000Z\twarn\tserver/mod.rs:12\tslow \"disk\"\t{\"took\":\"1s\"}",
            ),
        ];
        for (format, rest, want) in cases {
            assert_eq!(line(rest).render(format, when).trim_end(), want);
        }
    }

    #[test]
    fn a_repeated_message_is_thinned_out_within_a_second() {
        let mut repeats = Repeats::default();
        let admitted = |repeats: &mut Repeats, second| {
            (0..350)
                .filter(|_| repeats.admit(second, &line("")))
                .count()
        };
        assert_eq!(admitted(&mut repeats, 1), 102);
        assert_eq!(admitted(&mut repeats, 2), 102);
    }

    #[test]
    fn time_stamps_have_microseconds_and_a_zone() {
        let utc = jiff::Timestamp::from_microsecond(1_700_000_000_000_001)
            .expect("a valid time")
            .to_zoned(jiff::tz::TimeZone::UTC);
        assert_eq!(stamp(&utc), "2023-11-14T22:13:20.000001Z");
        let east = utc.with_time_zone(jiff::tz::TimeZone::fixed(jiff::tz::offset(1)));
        assert_eq!(stamp(&east), "2023-11-14T23:13:20.000001+0100");
    }
}
