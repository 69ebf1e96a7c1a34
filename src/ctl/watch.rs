//! `watch`: prints changes as they happen, and runs a command for each if one is given.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::ffi::OsStringExt;
use std::sync::Arc;

use clap::Args;
use clap::CommandFactory;
use clap::FromArgMatches;
use clap::Parser;
use prost::Message;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::client;
use crate::client::prefix_end;
use crate::ctl::context;
use crate::ctl::context::Context;
use crate::ctl::failure::Exit;
use crate::ctl::failure::Failure;
use crate::ctl::flags;
use crate::ctl::go;
use crate::ctl::input;
use crate::ctl::json::Json;
use crate::ctl::parse;
use crate::ctl::render;
use crate::ctl::render::Format;
use crate::ctl::render::Page;
use crate::ctl::render::Render;
use crate::error::ApiError;
use crate::proto::etcdserverpb::WatchCreateRequest;
use crate::proto::etcdserverpb::WatchResponse;
use crate::proto::mvccpb::Event;
use crate::proto::mvccpb::event::EventType;

/// Watches events stream on keys or prefixes
#[derive(Clone, Debug, Args)]
#[command(
    override_usage = "watch [options] [key or prefix] [range_end] [--] [exec-command arg1 arg2 ...]"
)]
pub struct Watch {
    #[arg(value_name = "key or prefix")]
    words: Vec<OsString>,

    /// Interactive mode
    #[arg(long, short)]
    interactive: bool,

    /// Watch on a prefix if prefix is set
    #[arg(long)]
    prefix: bool,

    /// Revision to start watching
    #[arg(long, value_name = "int", default_value = "0")]
    rev: i64,

    /// get the previous key-value pair before the event happens
    #[arg(long)]
    prev_kv: bool,

    /// get periodic watch progress notification from server
    #[arg(long)]
    progress_notify: bool,
}

/// A line of interactive input.
#[derive(Debug, Parser)]
#[command(name = "watch")]
struct Line {
    #[command(flatten)]
    watch: Watch,
}

/// Key and range end from the environment.
#[derive(Clone, Debug, Default)]
struct Variables {
    key: String,
    range_end: String,
}

impl Watch {
    pub async fn run(self, context: &mut Context) -> Result<(), Failure> {
        let variables = Variables {
            key: context.variable("ETCDCTL_WATCH_KEY").to_string(),
            range_end: context.variable("ETCDCTL_WATCH_RANGE_END").to_string(),
        };
        if variables.key.is_empty() && !variables.range_end.is_empty() {
            return Err(Failure::args(format!(
                "ETCDCTL_WATCH_KEY is empty but got ETCDCTL_WATCH_RANGE_END={}",
                go::quote(variables.range_end.as_bytes())
            )));
        }
        if self.interactive {
            return interactive(variables, context).await;
        }
        let (words, command) = self.words(context.dash, &variables)?;
        let request = self.request(words).map_err(Failure::args)?;
        let stream = context
            .patient_client()
            .await?
            .with_required_leader()
            .watch();
        let watcher = stream.start(request)?;
        let printer = Printer::new(context)?;
        printer.follow(watcher, command).await?;
        Err(Failure::new(
            Exit::Interrupted,
            "watch is canceled by the server",
        ))
    }

    /// The words that say what to watch, and those of the command to run for each event.
    fn words(
        &self,
        dash: Option<usize>,
        variables: &Variables,
    ) -> Result<(Vec<OsString>, Vec<OsString>), Failure> {
        let mut words = self.words.clone();
        let command = dash.map(|dash| words.split_off(dash)).unwrap_or_default();
        if variables.key.is_empty() && words.is_empty() && command.is_empty() {
            return Err(Failure::args(BAD_NUMBER));
        }
        if dash.is_some() && command.is_empty() {
            return Err(Failure::args(
                "bad number of arguments (found separator --, but no commands)",
            ));
        }
        if !variables.key.is_empty() {
            if !words.is_empty() {
                return Err(Failure::args(
                    "bad number of arguments (found conflicting environment key)",
                ));
            }
            let given = [&variables.key, &variables.range_end].into_iter();
            words = given
                .filter(|word| !word.is_empty())
                .map(OsString::from)
                .collect();
        }
        Ok((words, command))
    }

    fn request(&self, words: Vec<OsString>) -> Result<WatchCreateRequest, &'static str> {
        let (key, range_end) = match &parse::bytes(words)[..] {
            [] => return Err(BAD_NUMBER),
            [_, _] if self.prefix => {
                return Err("`range_end` and `--prefix` are mutually exclusive");
            }
            [key, end] => (key.clone(), end.clone()),
            [key, ..] if self.prefix && key.is_empty() => (vec![0], vec![0]),
            [key, ..] if self.prefix => (key.clone(), prefix_end(key)),
            [key, ..] => (key.clone(), Vec::new()),
        };
        Ok(WatchCreateRequest {
            key,
            range_end,
            start_revision: self.rev,
            prev_kv: self.prev_kv,
            progress_notify: self.progress_notify,
            ..Default::default()
        })
    }
}

const BAD_NUMBER: &str = "bad number of arguments";

/// Reads watch commands from standard input until it ends, which is an error.
async fn interactive(variables: Variables, context: &mut Context) -> Result<(), Failure> {
    let stream = context
        .patient_client()
        .await?
        .with_required_leader()
        .watch();
    let printer = Printer::new(context)?;
    let mut lines = lines(context);
    let mut watches = JoinSet::new();
    loop {
        let line = tokio::select! {
            line = lines.recv() => line,
            Some(ended) = watches.join_next() => {
                if let Ok(Err(failure)) = ended {
                    return Err(failure);
                }
                continue;
            }
        };
        let Some(line) = line else {
            return Err(Failure::input("error reading watch request line: EOF"));
        };
        match instruction(&line, &variables)? {
            Instruction::Watch(request, command) => {
                let watcher = stream.start(request)?;
                let printer = printer.clone();
                watches.spawn(async move { printer.follow(watcher, command).await });
            }
            Instruction::Progress => stream.request_progress(),
            Instruction::Complaint(text) => eprintln!("{text}"),
        }
    }
}

/// Lines of standard input, read on a thread of their own because a read cannot be given up.
fn lines(context: &mut Context) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(1);
    let mut input = context.input();
    std::thread::spawn(move || {
        while let Ok(line) = input::line(&mut input) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

enum Instruction {
    Watch(WatchCreateRequest, Vec<OsString>),
    Progress,
    Complaint(String),
}

fn instruction(line: &str, variables: &Variables) -> Result<Instruction, Failure> {
    let words = input::words(line)?;
    let Some(name) = words.first() else {
        return Ok(Instruction::Complaint(format!(
            "Invalid command: {line} (watch and progress supported)"
        )));
    };
    match &name[..] {
        b"watch" if words.len() < 2 && variables.key.is_empty() => Ok(Instruction::Complaint(
            format!("Invalid command {line} (command type or key is not provided)"),
        )),
        b"watch" => {
            let words: Vec<OsString> = words[1..].iter().cloned().map(OsString::from_vec).collect();
            let command = Line::command();
            let parsed = parse::parse_for(&command, &words).map_err(Failure::args)?;
            let matches = command.clone().try_get_matches_from(parsed.normal());
            let watch = matches.and_then(|matches| Line::from_arg_matches(&matches));
            let watch = watch.map_err(|error| Failure::args(error.to_string().trim_end()))?;
            let (words, command) = watch.watch.words(parsed.dash, variables)?;
            Ok(match watch.watch.request(words) {
                Ok(request) => Instruction::Watch(request, command),
                Err(why) => Instruction::Complaint(format!("Invalid command {line} ({why})")),
            })
        }
        b"progress" => Ok(Instruction::Progress),
        _ => Ok(Instruction::Complaint(format!(
            "Invalid command {line} (only support watch)"
        ))),
    }
}

/// Prints what watchers bring, in the format that was asked for.
#[derive(Clone)]
struct Printer {
    format: Format,
    hex: bool,
}

impl Printer {
    fn new(context: &mut Context) -> Result<Arc<Printer>, Failure> {
        let settings = context.settings()?;
        Ok(Arc::new(Printer {
            format: settings.format,
            hex: settings.globals.hex,
        }))
    }

    /// Prints responses until the watch ends.
    async fn follow(
        &self,
        mut watcher: client::Watcher,
        command: Vec<OsString>,
    ) -> Result<(), Failure> {
        while let Some(response) = watcher.next().await {
            let (response, reason) = match response {
                Ok(response) => {
                    let reason = response.canceled.then(|| ending(&response));
                    (response, reason)
                }
                Err(error) => (WatchResponse::default(), Some(error.to_string())),
            };
            if let Some(reason) = &reason {
                eprintln!("watch was canceled ({reason})");
            }
            let revision = response.header.unwrap_or_default().revision;
            if reason.is_none() && response.events.is_empty() && revision != 0 {
                context::write(format!("progress notify: {revision}\n").as_bytes())?;
            }
            let shown = Shown {
                canceled: reason.is_some(),
                response,
            };
            let text = render::render(&shown, self.format, self.hex).ok_or_else(|| {
                let format = self.format.name();
                Failure::feature(format!("{format} not supported as output format"))
            })?;
            context::write(&text)?;
            if !command.is_empty() {
                for event in &shown.response.events {
                    run(&command, event, revision).await?;
                }
            }
            if reason.is_some() {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Why the server ended a watch.
fn ending(response: &WatchResponse) -> String {
    if response.compact_revision != 0 {
        return ApiError::Compacted.to_string();
    }
    match response.cancel_reason.as_str() {
        "" => ApiError::FutureRev.to_string(),
        reason => reason.to_string(),
    }
}

/// Runs the user's command for an event, which it learns of from its environment.
async fn run(command: &[OsString], event: &Event, revision: i64) -> Result<(), Failure> {
    let kv = event.kv.clone().unwrap_or_default();
    let child = tokio::process::Command::new(&command[0])
        .args(&command[1..])
        .env("ETCD_WATCH_REVISION", revision.to_string())
        .env(
            "ETCD_WATCH_EVENT_TYPE",
            go::quote(event.r#type().as_str_name().as_bytes()),
        )
        .env("ETCD_WATCH_KEY", go::quote(&kv.key))
        .env("ETCD_WATCH_VALUE", go::quote(&kv.value))
        .stdin(std::process::Stdio::null())
        .status()
        .await;
    let problem = match child {
        Ok(status) if status.success() => return Ok(()),
        Ok(status) => exit_text(status),
        Err(error) => not_started(&command[0], &error),
    };
    let words = command.iter().map(|word| go::quote(word.as_bytes()));
    let words: Vec<String> = words.collect();
    eprintln!("command [{}] error ({problem})", words.join(" "));
    Err(Failure::told(Exit::Error))
}

/// How a child ended, as Go words it.
pub fn exit_text(status: std::process::ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("signal: {}", signal_name(signal)),
        (None, None) => "exit status -1".to_string(),
    }
}

fn signal_name(signal: i32) -> String {
    match signal {
        1 => "hangup".into(),
        2 => "interrupt".into(),
        3 => "quit".into(),
        6 => "aborted".into(),
        9 => "killed".into(),
        11 => "segmentation fault".into(),
        13 => "broken pipe".into(),
        15 => "terminated".into(),
        other => format!("signal {other}"),
    }
}

/// Why a child could not be started, as Go words it.
pub fn not_started(program: &std::ffi::OsStr, error: &std::io::Error) -> String {
    let name = program.to_string_lossy();
    if error.kind() == std::io::ErrorKind::NotFound && !name.contains('/') {
        let name = go::quote(name.as_bytes());
        return format!("exec: {name}: executable file not found in $PATH");
    }
    format!("fork/exec {name}: {}", flags::reason(error))
}

/// A response as printed; one that reports a failure counts as canceled.
struct Shown {
    response: WatchResponse,
    canceled: bool,
}

impl Render for Shown {
    fn simple(&self, page: &mut Page) {
        for event in &self.response.events {
            page.line(event.r#type().as_str_name());
            event.prev_kv.iter().for_each(|kv| page.key_value(kv));
            page.key_value(&event.kv.clone().unwrap_or_default());
        }
    }

    fn fields(&self, page: &mut Page) {
        page.header(&self.response.header);
        for event in &self.response.events {
            page.field("Type", event.r#type().as_str_name());
            event.prev_kv.iter().for_each(|kv| page.pair("Prev", kv));
            page.pair("", &event.kv.clone().unwrap_or_default());
        }
    }

    fn json(&self, _: bool) -> Json {
        let header = self.response.header.unwrap_or_default();
        let events = self.response.events.iter().map(event_json);
        Json::object([
            ("Header", Json::message("ResponseHeader", &header)),
            ("Events", Json::list_or_null(events.collect())),
            ("CompactRevision", Json::Int(self.response.compact_revision)),
            ("Canceled", Json::Bool(self.canceled)),
            ("Created", Json::Bool(false)),
            ("CancelReason", Json::text(&self.response.cancel_reason)),
        ])
    }

    fn protobuf(&self) -> Vec<u8> {
        let response = WatchResponse {
            watch_id: 0,
            created: false,
            canceled: self.canceled,
            ..self.response.clone()
        };
        response.encode_to_vec()
    }
}

fn event_json(event: &Event) -> Json {
    let mut fields = Vec::new();
    if event.r#type() != EventType::Put {
        fields.push(("type".to_string(), Json::Int(event.r#type.into())));
    }
    for (name, kv) in [("kv", &event.kv), ("prev_kv", &event.prev_kv)] {
        if let Some(kv) = kv {
            fields.push((name.to_string(), Json::of("mvccpb.KeyValue", kv)));
        }
    }
    Json::Object(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str, key: &str) -> Result<Instruction, Failure> {
        let variables = Variables {
            key: key.into(),
            range_end: String::new(),
        };
        instruction(line, &variables)
    }

    #[test]
    fn watch_lines_say_what_to_watch_and_what_to_run() {
        let Ok(Instruction::Watch(request, command)) =
            parse("watch --rev=3 'a b' c -- echo -n x", "")
        else {
            panic!("a watch");
        };
        assert_eq!(
            (&request.key[..], &request.range_end[..]),
            (&b"a b"[..], &b"c"[..])
        );
        assert_eq!(request.start_revision, 3);
        assert_eq!(command, ["echo", "-n", "x"]);
        assert!(matches!(parse("progress", ""), Ok(Instruction::Progress)));
    }

    #[test]
    fn bad_watch_lines_are_explained() {
        let complaints = [
            ("", "Invalid command:  (watch and progress supported)"),
            ("foo", "Invalid command foo (only support watch)"),
            (
                "watch",
                "Invalid command watch (command type or key is not provided)",
            ),
            (
                "watch -- echo",
                "Invalid command watch -- echo (bad number of arguments)",
            ),
            (
                "watch a b --prefix",
                "Invalid command watch a b --prefix (`range_end` and `--prefix` are mutually exclusive)",
            ),
        ];
        for (line, wanted) in complaints {
            let Ok(Instruction::Complaint(text)) = parse(line, "") else {
                panic!("a complaint about {line}");
            };
            assert_eq!(text, wanted);
        }
        let failures = [
            (
                "watch foo --",
                "",
                "bad number of arguments (found separator --, but no commands)",
            ),
            ("watch --prefix", "", "bad number of arguments"),
            (
                "watch a",
                "k",
                "bad number of arguments (found conflicting environment key)",
            ),
            ("watch --nosuch a", "", "unknown flag: --nosuch"),
        ];
        for (line, key, wanted) in failures {
            let failure = parse(line, key).err();
            assert_eq!(failure, Some(Failure::args(wanted)), "{line}");
        }
    }
}
