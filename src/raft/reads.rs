//! Linearizable reads: one round for all that wait.
//!
//! A round asks openraft to confirm that this member still leads, waits until everything committed by then
//! is applied, and releases all reads that came before it. Those that come meanwhile form the next round.

use std::sync::Arc;
use std::time::Duration;

use openraft::Raft;
use openraft::ReadPolicy;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::entry::Types;
use super::standing::Standing;
use super::state_machine::Adapter;
use super::state_machine::Applied;
use crate::util::metrics;

/// Reads that may wait for their round; whoever brings more waits.
pub const QUEUE: usize = 8192;

/// How long an unconfirmed round waits before it asks again, unless the leadership changes before.
const RETRY: Duration = Duration::from_millis(100);

/// Confirms reads in rounds.
pub struct Reads {
    pub raft: Raft<Types, Adapter>,
    pub standing: Arc<Standing>,
    pub applied: watch::Receiver<Applied>,
    pub queue: mpsc::Receiver<oneshot::Sender<()>>,
    pub stop: CancellationToken,
}

impl Reads {
    /// Runs until the node stops.
    pub async fn run(mut self) {
        let stop = self.stop.clone();
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.rounds() => {}
        }
    }

    async fn rounds(&mut self) {
        while let Some(first) = self.queue.recv().await {
            let mut round = vec![first];
            while let Ok(more) = self.queue.try_recv() {
                round.push(more);
            }
            self.confirm(&mut round).await;
            for read in round {
                read.send(()).ok();
            }
        }
    }

    /// Returns once a read that came before may be served; gives up when nobody waits any more.
    async fn confirm(&mut self, round: &mut Vec<oneshot::Sender<()>>) {
        let mut route = self.standing.route();
        let mut retried = false;
        loop {
            let confirmed = self.raft.get_read_linearizer(ReadPolicy::ReadIndex).await;
            match confirmed {
                Ok(confirmed) => {
                    let index = confirmed.read_log_id().index();
                    let reached = self.applied.wait_for(|applied| applied.index >= index);
                    if reached.await.is_ok() {
                        return;
                    }
                }
                Err(_) if retried => {}
                Err(error) => {
                    retried = true;
                    metrics::SLOW_READ_INDEXES.inc();
                    warn!(error = %error, "waiting for ReadIndex response took too long, retrying");
                }
            }
            round.retain(|read| !read.is_closed());
            if round.is_empty() {
                return;
            }
            tokio::select! {
                _ = route.changed() => {}
                () = tokio::time::sleep(RETRY) => {}
            }
        }
    }
}
