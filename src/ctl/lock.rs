//! `lock`: holds a named lock until told to stop, or while a command runs.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::Signal;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;

use crate::client::Error;
use crate::client::Session;
use crate::client::Turn;
use crate::ctl::context::Context;
use crate::ctl::failure::Exit;
use crate::ctl::failure::Failure;
use crate::ctl::watch::exit_text;
use crate::ctl::watch::not_started;

/// Acquires a named lock
#[derive(Debug, Args)]
#[command(override_usage = "lock <lockname> [exec-command arg1 arg2 ...]")]
pub struct Lock {
    #[arg(value_name = "lockname")]
    words: Vec<OsString>,

    /// timeout for session
    #[arg(long, value_name = "int", default_value = "10")]
    ttl: i64,
}

impl Lock {
    pub async fn run(self, context: &mut Context) -> Result<(), Failure> {
        let [name, command @ ..] = &self.words[..] else {
            return Err(Failure::args(
                "lock takes a lock name argument and an optional command to execute",
            ));
        };
        let client = context.patient_client().await?;
        let mut stop = Stop::new()?;
        let ttl = Duration::from_secs(self.ttl.max(0) as u64);
        let mut session = stop.unless(Session::open(&client, ttl)).await?;
        let turn = Turn::queue(&session, name.as_bytes(), b"").await?;
        let own = match stop.unless(turn.come()).await {
            Ok(own) => own,
            Err(error) => {
                turn.leave().await?;
                session.close().await?;
                return Err(error.into());
            }
        };
        if own.kvs.is_empty() {
            return Err(Failure::error("session expired"));
        }
        let outcome = if command.is_empty() {
            context.print(&own)?;
            tokio::select! {
                () = stop.wait() => Ok(()),
                () = session.lost() => return Err(Failure::error("session expired")),
            }
        } else {
            run(command, &turn).await
        };
        turn.leave().await?;
        session.close().await?;
        outcome
    }
}

/// Runs the user's command under the lock.
async fn run(command: &[OsString], turn: &Turn) -> Result<(), Failure> {
    let key = OsString::from_vec(turn.key().to_vec());
    let mut child = tokio::process::Command::new(&command[0]);
    // A variable of the same name that was there before stays.
    for (name, value) in [
        ("ETCD_LOCK_KEY", key),
        ("ETCD_LOCK_REV", turn.revision().to_string().into()),
    ] {
        if std::env::var_os(name).is_none() {
            child.env(name, value);
        }
    }
    let status = child
        .args(&command[1..])
        .stdin(std::process::Stdio::null())
        .status()
        .await
        .map_err(|error| Failure::error(not_started(&command[0], &error)))?;
    match status.code() {
        Some(0) => Ok(()),
        Some(code) => Err(Failure::new(Exit::Child(code as u8), exit_text(status))),
        // Go has no code for a child that was killed, which the shell sees as this one.
        None => Err(Failure::new(Exit::Child(255), exit_text(status))),
    }
}

/// The signals by which a user ends a command that would go on for ever.
pub struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    pub fn new() -> Result<Stop, Failure> {
        Ok(Stop {
            interrupt: signal(SignalKind::interrupt()).map_err(Failure::error)?,
            terminate: signal(SignalKind::terminate()).map_err(Failure::error)?,
        })
    }

    /// Waits for a signal.
    pub async fn wait(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// The outcome of `work`, unless a signal comes first.
    pub async fn unless<T>(
        &mut self,
        work: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        tokio::select! {
            () = self.wait() => Err(Error::Canceled),
            outcome = work => outcome,
        }
    }
}
