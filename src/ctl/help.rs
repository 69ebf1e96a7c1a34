//! Help and usage in etcdctl's layout, written from the clap definitions.

use clap::Arg;
use clap::Command;

use crate::ctl::parse::Kind;
use crate::ctl::parse::flags;

/// The narrowest column for command names.
const NAME_WIDTH: usize = 11;

/// Root commands by heading, in the order of the root help.
const GROUPS: &[(&str, &[&str])] = &[
    (
        "Key-value commands",
        &["compaction", "del", "get", "lease", "put", "txn", "watch"],
    ),
    (
        "Cluster maintenance commands",
        &[
            "alarm",
            "defrag",
            "downgrade",
            "endpoint",
            "member",
            "move-leader",
            "snapshot",
        ],
    ),
    ("Concurrency commands", &["elect", "lock"]),
    ("Authentication commands", &["auth", "role", "user"]),
    (
        "Utility commands",
        &[
            "check",
            "completion",
            "help",
            "make-mirror",
            "options",
            "version",
        ],
    ),
];

/// What `--help` prints: what the command is for, then its usage.
pub fn help(path: &[&Command]) -> String {
    let command = path[path.len() - 1];
    let about = command.get_long_about().or(command.get_about());
    let about = about.map(ToString::to_string).unwrap_or_default();
    let root = path[0].get_name();
    format!(
        "{}\n\n{}Use \"{root} options\" for a list of global command-line options (applies to all commands).\n",
        about.trim_end(),
        usage(path)
    )
}

/// What follows the message about a mistyped flag.
pub fn usage(path: &[&Command]) -> String {
    let command = path[path.len() - 1];
    let names: Vec<&str> = path.iter().map(|command| command.get_name()).collect();
    let name = names.join(" ");
    let mut out = format!("Usage:\n  {}\n", usage_line(&names, command));
    if let Some(examples) = command.get_after_help() {
        out.push_str(&format!("\nExamples:\n{examples}\n"));
    }
    let groups = command.has_subcommands();
    if path.len() == 1 {
        out.push_str(&root_commands(command));
    } else if groups {
        let mut commands: Vec<&Command> = visible(command).collect();
        commands.sort_by_key(|command| command.get_name().to_string());
        out.push_str(&format!("\nAvailable Commands:\n{}", list(&commands, "")));
    }
    if path.len() > 1 {
        let own: Vec<&Arg> = command.get_arguments().filter(|arg| is_flag(arg)).collect();
        let given = flags(&path[1..]);
        let inherited: Vec<&Arg> = given
            .into_iter()
            .filter(|flag| !own.iter().any(|own| own.get_id() == flag.get_id()))
            .collect();
        out.push_str(&format!(
            "\nFlags:\n{}",
            table(&own, Some(command.get_name()))
        ));
        if !inherited.is_empty() {
            out.push_str(&format!("\nGlobal Flags:\n{}", table(&inherited, None)));
        }
    }
    if groups {
        out.push_str(&format!(
            "\nUse \"{name} [command] --help\" for more information about a command.\n"
        ));
    }
    out
}

/// What `options` prints: the flags every command takes.
pub fn options(root: &Command) -> String {
    let flags: Vec<&Arg> = root.get_arguments().filter(|arg| is_flag(arg)).collect();
    format!(
        "The following options can be passed to any command:\n\n{}",
        table(&flags, None)
    )
}

fn is_flag(arg: &Arg) -> bool {
    arg.get_long().is_some() && !arg.is_hide_set()
}

fn visible(command: &Command) -> impl Iterator<Item = &Command> {
    command
        .get_subcommands()
        .filter(|command| !command.is_hide_set())
}

fn usage_line(names: &[&str], command: &Command) -> String {
    if command.has_subcommands() {
        return format!("{} [command]", names.join(" "));
    }
    let parents = names[..names.len() - 1].join(" ");
    let own = command.clone().render_usage().to_string();
    let own = own.strip_prefix("Usage: ").unwrap_or(&own);
    // The one command whose arguments are a fixed choice names no flags.
    let flags = if own.contains('[') && own.ends_with("powershell]") {
        ""
    } else {
        " [flags]"
    };
    format!("{parents} {own}{flags}")
}

fn root_commands(root: &Command) -> String {
    let mut out = String::new();
    for (heading, names) in GROUPS {
        let commands: Vec<&Command> = names
            .iter()
            .filter_map(|name| visible(root).find(|command| command.get_name() == *name))
            .collect();
        out.push_str(&format!(
            "\n{heading}\n{}",
            list(&commands, root.get_name())
        ));
    }
    out
}

/// Names and what they are for; for root commands, where to read on.
fn list(commands: &[&Command], root: &str) -> String {
    let names = commands.iter().map(|command| command.get_name().len());
    let width = names.max().unwrap_or_default().max(NAME_WIDTH);
    let line = |command: &&Command| {
        let name = command.get_name();
        let about = command
            .get_about()
            .map(ToString::to_string)
            .unwrap_or_default();
        let more = if !root.is_empty() && visible(command).next().is_some() {
            let stop = if about.ends_with('.') { "" } else { "." };
            format!("{stop} Use `{root} {name} --help` to see subcommands")
        } else {
            String::new()
        };
        format!("  {name:width$} {about}{more}\n")
    };
    commands.iter().map(line).collect()
}

/// Flags in alphabetical order, with type, meaning and default.
fn table(flags: &[&Arg], help_for: Option<&str>) -> String {
    let mut rows: Vec<(String, String, String)> = flags
        .iter()
        .map(|flag| {
            let name = flag.get_long().unwrap_or_default().to_string();
            let short = flag.get_short();
            let left = left_column(short, &name, Kind::of(flag).name());
            (name, left, description(flag))
        })
        .collect();
    if let Some(command) = help_for {
        let left = left_column(Some('h'), "help", "");
        rows.push(("help".into(), left, format!("help for {command}")));
    }
    rows.sort();
    let width = rows
        .iter()
        .map(|(_, left, _)| left.len())
        .max()
        .unwrap_or_default();
    let line = |(_, left, right): &(String, String, String)| {
        let line = format!("{left:width$}   {right}");
        format!("{}\n", line.trim_end())
    };
    rows.iter().map(line).collect()
}

fn left_column(short: Option<char>, name: &str, kind: &str) -> String {
    let short = short.map_or("    ".to_string(), |short| format!("-{short}, "));
    let kind = if kind.is_empty() {
        String::new()
    } else {
        format!(" {kind}")
    };
    format!("  {short}--{name}{kind}")
}

fn description(flag: &Arg) -> String {
    let text = flag.get_help().map(ToString::to_string).unwrap_or_default();
    let defaults = flag.get_default_values();
    let values: Vec<String> = defaults
        .iter()
        .map(|value| value.to_string_lossy().into_owned())
        .collect();
    let value = values.join(",");
    let shown = match Kind::of(flag) {
        _ if values.is_empty() => return text,
        Kind::Bool if value == "false" => return text,
        Kind::Int | Kind::Uint if value == "0" => return text,
        Kind::Text if value.is_empty() => return text,
        Kind::Text => format!("{value:?}"),
        Kind::List => format!("[{value}]"),
        _ => value,
    };
    format!("{text} (default {shown})")
}
