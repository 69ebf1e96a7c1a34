//! One run: clients that each keep one request under way, and what they measured.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use indicatif::ProgressBar;
use indicatif::ProgressState;
use indicatif::ProgressStyle;

use super::pacer::Pacer;
use super::report::Recorder;
use super::report::Report;
use crate::client::Client;
use crate::client::Error;

/// How many requests, and how fast.
#[derive(Clone, Copy)]
pub struct Plan {
    pub total: u64,
    pub rate: u64,
}

/// Shows how far a run is, on standard error, if that is a terminal.
pub fn progress(total: u64) -> ProgressBar {
    let bar = ProgressBar::new(total);
    let style = ProgressStyle::with_template(
        "{human_pos} / {human_len} [{bar:40}] {percent}% {rate} {eta}",
    );
    let style = style.expect("a valid template").progress_chars("=> ");
    let rate = |state: &ProgressState, out: &mut dyn fmt::Write| {
        // Nobody is left to tell when the terminal is gone.
        let _ = write!(out, "{:.0}/s", state.per_sec());
    };
    bar.set_style(style.with_key("rate", rate));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// Runs `request` with the numbers `0..total`, on every client, until all are done.
pub async fn run<F, Fut>(clients: &[Client], plan: Plan, sample: bool, request: F) -> Report
where
    F: Fn(Client, u64) -> Fut,
    Fut: Future<Output = Result<(), Error>>,
{
    let pacer = Arc::new(Pacer::new(plan.total, plan.rate));
    let bar = progress(plan.total);
    let start = Instant::now();
    let recorder = RefCell::new(Recorder::new(start, sample));
    let workers = clients.iter().map(|client| async {
        while let Some((number, due)) = pacer.next().await {
            match request(client.clone(), number).await {
                Ok(()) => recorder.borrow_mut().success(due),
                Err(error) => recorder.borrow_mut().failure(error.message()),
            }
            bar.inc(1);
        }
    });
    futures_util::future::join_all(workers).await;
    let elapsed = start.elapsed();
    bar.finish_and_clear();
    recorder.into_inner().report(elapsed)
}
