//! `kv ctl`: the client of etcd's command line, to the byte.
//!
//! A command is one file: its arguments, what it does, how its reply looks. Command lines are taken
//! apart by [`parse`] and then read by clap; a command gets a [`Context`] and touches nothing global.

mod alarm;
mod auth;
mod check;
mod compaction;
mod context;
mod defrag;
mod del;
mod downgrade;
mod elect;
mod endpoint;
mod failure;
mod flags;
mod get;
mod go;
mod help;
mod input;
mod json;
mod lease;
mod lock;
mod log;
mod make_mirror;
mod member;
mod move_leader;
mod parse;
mod put;
mod render;
mod role;
mod snapshot;
mod txn;
mod user;
mod version;
mod watch;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::CommandFactory;
use clap::FromArgMatches;
use clap::Parser;
use clap::Subcommand;

use context::Context;
use failure::Failure;
use flags::Globals;

/// The command line.
#[derive(Debug, Parser)]
#[command(
    name = "etcdctl",
    about = "A simple command line client for etcd3.",
    long_about = None,
    disable_help_subcommand = true
)]
pub struct Ctl {
    #[command(flatten)]
    pub globals: Globals,

    #[command(subcommand)]
    command: Command,
}

// The order is the one in which likely names are suggested.
#[derive(Debug, Subcommand)]
enum Command {
    Get(get::Get),
    Put(put::Put),
    Del(del::Del),
    Txn(txn::Txn),
    Compaction(compaction::Compaction),
    Alarm(alarm::Alarm),
    Defrag(defrag::Defrag),
    Endpoint(endpoint::Endpoint),
    MoveLeader(move_leader::MoveLeader),
    Watch(watch::Watch),
    Version(version::Version),
    Lease(lease::Lease),
    Member(member::Member),
    Snapshot(snapshot::Snapshot),
    MakeMirror(make_mirror::MakeMirror),
    Lock(lock::Lock),
    Elect(elect::Elect),
    Auth(auth::Auth),
    User(user::User),
    Role(role::Role),
    Check(check::Check),
    Downgrade(downgrade::Downgrade),
    Completion(version::Completion),
    Options(version::Options),
    Help(version::Help),
}

impl Command {
    async fn run(self, context: &mut Context) -> Result<(), Failure> {
        match self {
            Command::Get(command) => command.run(context).await,
            Command::Put(command) => command.run(context).await,
            Command::Del(command) => command.run(context).await,
            Command::Txn(command) => command.run(context).await,
            Command::Compaction(command) => command.run(context).await,
            Command::Alarm(command) => command.run(context).await,
            Command::Defrag(command) => command.run(context).await,
            Command::Endpoint(command) => command.run(context).await,
            Command::MoveLeader(command) => command.run(context).await,
            Command::Watch(command) => command.run(context).await,
            Command::Version(command) => command.run(context),
            Command::Lease(command) => command.run(context).await,
            Command::Member(command) => command.run(context).await,
            Command::Snapshot(command) => command.run(context).await,
            Command::MakeMirror(command) => command.run(context).await,
            Command::Lock(command) => command.run(context).await,
            Command::Elect(command) => command.run(context).await,
            Command::Auth(command) => command.run(context).await,
            Command::User(command) => command.run(context).await,
            Command::Role(command) => command.run(context).await,
            Command::Check(command) => command.run(context).await,
            Command::Downgrade(command) => command.run(context).await,
            Command::Completion(command) => command.run(context),
            Command::Options(command) => command.run(context),
            Command::Help(command) => command.run(context),
        }
    }
}

/// Runs the program; the first argument is its name.
pub fn main(args: Vec<OsString>) -> ExitCode {
    let outcome = run(&args);
    let Err(failure) = outcome else {
        return ExitCode::SUCCESS;
    };
    let mut errors = std::io::stderr().lock();
    if let Some(message) = &failure.message {
        // If standard error is closed there is nobody to tell.
        let _ = write!(errors, "Error: {message}\n{}", failure.advice);
    }
    ExitCode::from(failure.exit.code())
}

fn run(args: &[OsString]) -> Result<(), Failure> {
    let root = Ctl::command();
    let line = parse::parse(&root, args)?;
    let mut context = Context::new(&line);
    if line.wants_help() || line.command().has_subcommands() {
        return context.write(help::help(&line.path).as_bytes());
    }
    version::check_completion(&line)?;
    // What clap refuses here is a rule that `parse` does not know yet.
    let matches = root.clone().try_get_matches_from(line.normal());
    let ctl = matches.and_then(|matches| Ctl::from_arg_matches(&matches));
    let ctl = ctl.map_err(|error| Failure::error(error.to_string().trim_end()))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::error)?;
    let outcome = runtime.block_on(ctl.command.run(&mut context));
    // A thread may be waiting for input that never comes.
    runtime.shutdown_background();
    outcome
}
