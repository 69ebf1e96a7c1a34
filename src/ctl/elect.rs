//! `elect`: takes part in an election, or watches one.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use clap::Args;

use crate::client::Observer;
use crate::client::Session;
use crate::client::Turn;
use crate::ctl::context::Context;
use crate::ctl::failure::Failure;
use crate::ctl::lock::Stop;

/// How long a leader that vanished stays one.
const TTL: Duration = Duration::from_secs(60);

/// Observes and participates in leader election
#[derive(Debug, Args)]
#[command(override_usage = "elect <election-name> [proposal]")]
pub struct Elect {
    #[arg(value_name = "election-name")]
    words: Vec<OsString>,

    /// observation mode
    #[arg(long, short)]
    listen: bool,
}

impl Elect {
    pub async fn run(self, context: &mut Context) -> Result<(), Failure> {
        match &self.words[..] {
            [name] if self.listen => observe(name.as_bytes(), context).await,
            [_] => Err(Failure::args("no proposal argument but -l not set")),
            [_, _] if self.listen => Err(Failure::args("proposal given but -l is set")),
            [name, proposal] => campaign(name.as_bytes(), proposal.as_bytes(), context).await,
            _ => Err(Failure::args(
                "elect takes one election name argument and an optional proposal argument",
            )),
        }
    }
}

async fn observe(name: &[u8], context: &mut Context) -> Result<(), Failure> {
    let client = context.patient_client().await?;
    let mut observer = Observer::new(&client, name);
    let mut stop = Stop::new()?;
    loop {
        tokio::select! {
            () = stop.wait() => return Ok(()),
            leader = observer.next() => match leader {
                Ok(leader) => context.print(&leader)?,
                Err(_) => return Err(Failure::error("elect: observer lost")),
            },
        }
    }
}

async fn campaign(name: &[u8], proposal: &[u8], context: &mut Context) -> Result<(), Failure> {
    let client = context.patient_client().await?;
    let mut stop = Stop::new()?;
    let mut session = stop.unless(Session::open(&client, TTL)).await?;
    let turn = Turn::queue(&session, name, proposal).await?;
    let own = match stop.unless(turn.come()).await {
        Ok(own) => own,
        Err(error) => {
            turn.leave().await?;
            session.close().await?;
            return Err(error.into());
        }
    };
    if own.kvs.is_empty() {
        return Err(Failure::error("elect: session expired"));
    }
    context.print(&own)?;
    tokio::select! {
        () = stop.wait() => {}
        () = session.lost() => return Err(Failure::error("elect: session expired")),
    }
    turn.leave().await?;
    session.close().await?;
    Ok(())
}
