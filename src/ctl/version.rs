//! `version`, `options`, `completion` and `help`: what the program says about itself.

use std::ffi::OsString;

use clap::Args;
use clap::CommandFactory;
use clap_complete::Shell;

use crate::ctl::Ctl;
use crate::ctl::context::Context;
use crate::ctl::failure::Failure;
use crate::ctl::go;
use crate::ctl::help;
use crate::ctl::parse;
use crate::ctl::parse::Line;

/// The etcd version whose behaviour this is.
const VERSION: &str = "3.7.1";
const API_VERSION: &str = "3.7";

/// Prints the version of etcdctl
#[derive(Debug, Args)]
#[command(override_usage = "version")]
pub struct Version {
    #[arg(hide = true)]
    words: Vec<OsString>,
}

impl Version {
    pub fn run(self, context: &mut Context) -> Result<(), Failure> {
        context.line(format_args!("etcdctl version: {VERSION}"))?;
        context.line(format_args!("API version: {API_VERSION}"))
    }
}

/// Show the global command-line flags
#[derive(Debug, Args)]
#[command(override_usage = "options")]
pub struct Options {
    #[arg(hide = true)]
    words: Vec<OsString>,
}

impl Options {
    pub fn run(self, context: &mut Context) -> Result<(), Failure> {
        context.write(help::options(&Ctl::command()).as_bytes())
    }
}

/// Help about any command
#[derive(Debug, Args)]
#[command(override_usage = "help [command]")]
pub struct Help {
    #[arg(value_name = "command")]
    words: Vec<OsString>,
}

impl Help {
    pub fn run(self, context: &mut Context) -> Result<(), Failure> {
        let root = Ctl::command();
        let name = OsString::from("etcdctl");
        let args: Vec<OsString> = std::iter::once(name).chain(self.words.clone()).collect();
        if let Ok(line) = parse::parse(&root, &args) {
            return context.write(help::help(&line.path).as_bytes());
        }
        let words: Vec<_> = self
            .words
            .iter()
            .map(|word| word.to_string_lossy())
            .collect();
        eprint!(
            "Unknown help topic [`{}`]\n{}\n",
            words.join(" "),
            help::usage(&[&root])
        );
        Ok(())
    }
}

/// Generate completion script
#[derive(Debug, Args)]
#[command(override_usage = "completion [bash|zsh|fish|powershell]")]
pub struct Completion {
    #[arg(value_name = "shell")]
    words: Vec<OsString>,
}

/// Refuses a wrong shell in the words etcdctl has for it, which come with the usage.
pub fn check_completion(line: &Line<'_>) -> Result<(), Failure> {
    if line.command().get_name() != "completion" {
        return Ok(());
    }
    let mistake = match &line.words[..] {
        [shell] if script(&shell.to_string_lossy()).is_some() => return Ok(()),
        [shell] => {
            let shell = go::quote(shell.to_string_lossy().as_bytes());
            format!("invalid argument {shell} for \"etcdctl completion\"")
        }
        words => format!("accepts 1 arg(s), received {}", words.len()),
    };
    Err(Failure::error(mistake).with_advice(format!("{}\n", help::usage(&line.path))))
}

/// The completion script of a shell, under the line that names what it is.
fn script(shell: &str) -> Option<Vec<u8>> {
    let (shell, heading) = match shell {
        "bash" => (Shell::Bash, true),
        "zsh" => (Shell::Zsh, false),
        "fish" => (Shell::Fish, true),
        "powershell" => (Shell::PowerShell, true),
        _ => return None,
    };
    let mut out = Vec::new();
    if heading {
        let name = match shell {
            Shell::PowerShell => "powershell".to_string(),
            other => other.to_string(),
        };
        let program = "etcdctl";
        let line = format!("# {name} completion for {program:<36} -*- shell-script -*-\n");
        out.extend(line.bytes());
    }
    clap_complete::generate(shell, &mut Ctl::command(), "etcdctl", &mut out);
    Some(out)
}

impl Completion {
    pub fn run(self, context: &mut Context) -> Result<(), Failure> {
        let shell = self.words.first().map(|shell| shell.to_string_lossy());
        let script = shell.and_then(|shell| script(&shell)).unwrap_or_default();
        context.write(&script)
    }
}
