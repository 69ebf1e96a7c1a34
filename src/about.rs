//! What `kv` says of itself as a whole: help, version, completions and the man page.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::Command;
use clap::CommandFactory;
use clap_complete::Shell;

use kv::bench;
use kv::ctl::Ctl;

const HELP: &str = "\
kv: etcd 3.7 in one binary

Usage:
  kv <program> [arguments]

Programs
  server       A member of a cluster, or a cluster of one. Also when called as etcd
  ctl          The command line client. Also when called as etcdctl
  utl          Works on data files, without a server. Also when called as etcdutl
  bench        Loads a cluster and tells how it did. Also when called as benchmark

About kv
  completions  Prints completions for bash, zsh or fish
  man          Prints the man page
  --version    Prints the version
  --help       Prints this help

Try:
  kv server &
  kv ctl put greeting hello
  kv ctl get greeting
";

/// Every program and flag, for completions and the man page.
fn family() -> Command {
    let named = |command: Command, name: &'static str, about: &'static str| {
        command
            .name(name)
            .bin_name(format!("kv {name}"))
            .about(about)
    };
    let plain = |name: &'static str, about: &'static str| Command::new(name).about(about);
    Command::new("kv")
        .version(env!("CARGO_PKG_VERSION"))
        .about("etcd 3.7 in one binary")
        .disable_help_subcommand(true)
        .subcommand(plain(
            "server",
            "Runs a member of a cluster; etcd's flags apply",
        ))
        // Global flags are completed after `kv ctl`; under each command again they would fill megabytes.
        .subcommand(named(
            Ctl::command().mut_args(|arg| arg.global(false)),
            "ctl",
            "The command line client",
        ))
        .subcommand(plain("utl", "Works on data files, without a server"))
        .subcommand(named(
            bench::command(),
            "bench",
            "Loads a cluster and tells how it did",
        ))
        .subcommand(
            plain("completions", "Prints completions for a shell").arg(
                clap::Arg::new("shell")
                    .required(true)
                    .value_parser(["bash", "zsh", "fish"]),
            ),
        )
        .subcommand(plain("man", "Prints the man page"))
}

/// Answers what is asked about `kv`; anything else is a mistake.
pub fn main(question: &str, words: &[OsString]) -> ExitCode {
    match (question, words) {
        ("--help" | "-h" | "help", _) => print(HELP.as_bytes()),
        ("--version" | "-V" | "version", _) => {
            print(concat!("kv ", env!("CARGO_PKG_VERSION"), " (etcd 3.7.1)\n").as_bytes())
        }
        ("man", []) => print(&man_page()),
        ("completions", [shell]) => match shell.to_string_lossy().as_ref() {
            "bash" => print(&completions(Shell::Bash)),
            "zsh" => print(&completions(Shell::Zsh)),
            "fish" => print(&completions(Shell::Fish)),
            other => mistake(&format!("no completions for {other:?}: bash, zsh or fish")),
        },
        ("completions", _) => mistake("completions for which shell: bash, zsh or fish?"),
        (other, _) => mistake(&format!("unknown program {other:?}")),
    }
}

fn print(bytes: &[u8]) -> ExitCode {
    match std::io::stdout().write_all(bytes) {
        Ok(()) => ExitCode::SUCCESS,
        // Nobody reads any more.
        Err(_) => ExitCode::FAILURE,
    }
}

fn mistake(message: &str) -> ExitCode {
    eprintln!("Error: {message}\nRun 'kv --help' for usage.");
    ExitCode::FAILURE
}

fn completions(shell: Shell) -> Vec<u8> {
    let mut out = Vec::new();
    clap_complete::generate(shell, &mut family(), "kv", &mut out);
    out
}

/// One page: the family, then each command of the client with its flags.
fn man_page() -> Vec<u8> {
    let mut out = Vec::new();
    let page = clap_mangen::Man::new(family()).date("");
    // Writing to memory does not fail.
    let _ = page.render(&mut out);
    let mut root = Ctl::command().name("kv ctl");
    root.build();
    let _ = writeln!(out, ".SH \"CLIENT COMMANDS\"");
    describe(&root, "kv ctl", &mut out);
    let _ = writeln!(out, ".SH \"CLIENT OPTIONS\"");
    options(&root, &mut out);
    let _ = writeln!(out, ".SH \"BENCH COMMANDS\"");
    describe(&bench::command(), "kv bench", &mut out);
    let _ = writeln!(
        out,
        ".SH ENVIRONMENT\nEach client option has a variable: ETCDCTL_ENDPOINTS for \\-\\-endpoints, and so on. \
         Giving both is an error.\n.TP\nKV_TABLE\nSet to ascii, tables are drawn with +, \\- and |."
    );
    out
}

fn describe(command: &Command, path: &str, out: &mut Vec<u8>) {
    let commands = command
        .get_subcommands()
        .filter(|command| !command.is_hide_set());
    for command in commands.filter(|command| command.get_name() != "help") {
        let path = format!("{path} {}", command.get_name());
        if command.has_subcommands() {
            describe(command, &path, out);
            continue;
        }
        let about = command
            .get_about()
            .map(ToString::to_string)
            .unwrap_or_default();
        let _ = writeln!(out, ".SS \"{}\"\n{}", roff(&path), roff(&about));
        options(command, out);
    }
}

fn options(command: &Command, out: &mut Vec<u8>) {
    let own = |arg: &&clap::Arg| {
        let inherited = arg.is_global_set() && command.get_name() != "kv ctl";
        arg.get_long().is_some_and(|long| long != "help") && !inherited && !arg.is_hide_set()
    };
    for arg in command.get_arguments().filter(own) {
        let long = arg.get_long().unwrap_or_default();
        let short = arg
            .get_short()
            .map_or(String::new(), |short| format!("-{short}, "));
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let flag = format!("{short}--{long}");
        let _ = writeln!(out, ".TP\n\\fB{}\\fR\n{}", roff(&flag), roff(&help));
    }
}

/// Text as roff takes it: hyphens stay hyphens, and no line starts a request.
fn roff(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    match text.starts_with(['.', '\'']) {
        true => format!("\\&{text}"),
        false => text,
    }
}
