//! Every task of the server by name: started here, waited for here.

use std::future::Future;
use std::time::Duration;

use tokio::task::JoinSet;
use tracing::error;
use tracing::warn;

use crate::error::Fault;

/// Tasks that live and end together.
#[derive(Default)]
pub struct Tasks {
    running: JoinSet<(&'static str, Result<(), Fault>)>,
}

impl Tasks {
    pub fn spawn(
        &mut self,
        name: &'static str,
        task: impl Future<Output = Result<(), Fault>> + Send + 'static,
    ) {
        self.running.spawn(async move { (name, task.await) });
    }

    /// Returns once a task has failed, with its name and the reason. Never, if none does.
    pub async fn failed(&mut self) -> (&'static str, Fault) {
        loop {
            match self.running.join_next().await {
                Some(Ok((_, Ok(())))) => {}
                Some(Ok((name, Err(fault)))) => return (name, fault),
                Some(Err(error)) => return ("task", Fault::Refused(error.to_string())),
                None => std::future::pending().await,
            }
        }
    }

    /// Waits for all tasks, at most `limit`; what has not ended by then is cut off.
    pub async fn finish(mut self, limit: Duration) {
        let all = async {
            while let Some(ended) = self.running.join_next().await {
                if let Ok((name, Err(fault))) = ended {
                    error!(task = name, error = %fault, "a task ended with an error");
                }
            }
        };
        if tokio::time::timeout(limit, all).await.is_err() {
            let left = self.running.len();
            warn!(tasks = left, "cutting off what has not ended in time");
            self.running.shutdown().await;
        }
    }
}
