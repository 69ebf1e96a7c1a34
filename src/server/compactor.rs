//! Compaction without being asked: when to compact is decided by pure schedules, driven by the leader's
//! task; and what is compacted is reclaimed by another task, in slices between other work.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;
use tracing::warn;

use super::config::Retention;
use super::member::Member;
use crate::error::ApiError;
use crate::error::Error;
use crate::error::Fault;
use crate::machine::Command;
use crate::mvcc::HashScan;
use crate::mvcc::Progress;
use crate::proto::etcdserverpb::CompactionRequest;
use crate::raft::Node;
use crate::util::clock::Uptime;
use crate::util::metrics;
use crate::util::text;

const HOUR: Duration = Duration::from_secs(3600);
const REVISION_INTERVAL: Duration = Duration::from_secs(300);
/// How often somebody who holds old revisions is looked after.
const HELD: Duration = Duration::from_millis(50);

/// When to compact so that a period of history is kept.
///
/// The revision is sampled ten times a period (or an hour, if that is shorter); the oldest sample in the
/// window is the revision of a period ago.
pub struct Periodic {
    period: Duration,
    window: VecDeque<i64>,
    last_revision: i64,
    last_success: Uptime,
    /// A whole period before the first compaction, then at most an hour.
    wait: Duration,
}

impl Periodic {
    pub fn new(period: Duration, now: Uptime) -> Periodic {
        Periodic {
            period,
            window: VecDeque::new(),
            last_revision: 0,
            last_success: now,
            wait: period,
        }
    }

    /// Time between two samples.
    pub fn interval(&self) -> Duration {
        (self.period.min(HOUR) / 10).max(Duration::from_millis(1))
    }

    fn window_size(&self) -> usize {
        let samples = self.period.as_nanos() / self.interval().as_nanos().max(1);
        usize::try_from(samples).unwrap_or(usize::MAX - 1) + 1
    }

    pub fn sample(&mut self, revision: i64) {
        self.window.push_back(revision);
        if self.window.len() > self.window_size() {
            self.window.pop_front();
        }
    }

    /// The revision to compact at, if it is time. Asked an interval after the last sample.
    pub fn due(&mut self, now: Uptime) -> Option<i64> {
        let revision = *self.window.front()?;
        if revision == self.last_revision || now.saturating_sub(self.last_success) < self.wait {
            return None;
        }
        self.wait = self.period.min(HOUR);
        Some(revision)
    }

    pub fn done(&mut self, revision: i64, now: Uptime) {
        (self.last_revision, self.last_success) = (revision, now);
    }
}

/// When to compact so that a number of revisions is kept. Asked every five minutes.
pub struct Revisions {
    keep: i64,
    last: i64,
}

impl Revisions {
    pub fn new(keep: i64) -> Revisions {
        Revisions { keep, last: 0 }
    }

    pub fn due(&self, current: i64) -> Option<i64> {
        let revision = current.saturating_sub(self.keep);
        (revision > 0 && revision != self.last).then_some(revision)
    }

    pub fn done(&mut self, revision: i64) {
        self.last = revision;
    }
}

/// Compacts by the member's retention until `stop`.
pub async fn run(member: Arc<Member>, stop: CancellationToken) {
    let work = async {
        match member.config.retention {
            Retention::Nothing => std::future::pending().await,
            Retention::Period(period) => run_periodic(&member, period).await,
            Retention::Revisions(keep) => run_revisions(&member, keep).await,
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = work => {}
    }
}

async fn run_periodic(member: &Member, period: Duration) {
    let clock = member.node.clock();
    let mut schedule = Periodic::new(period, clock.uptime());
    loop {
        schedule.sample(revision(member));
        tokio::time::sleep(schedule.interval()).await;
        if !member.node.is_leader() {
            continue;
        }
        let Some(revision) = schedule.due(clock.uptime()) else {
            continue;
        };
        info!(
            revision,
            "compact-period" = %text::format_duration(period),
            "starting auto periodic compaction"
        );
        let start = Instant::now();
        match compact(member, revision).await {
            Ok(()) => {
                schedule.done(revision, clock.uptime());
                info!(
                    revision,
                    "compact-period" = %text::format_duration(period),
                    took = %text::format_duration(start.elapsed()),
                    "completed auto periodic compaction"
                );
            }
            Err(error) => warn!(
                revision,
                "compact-period" = %text::format_duration(period),
                "retry-interval" = %text::format_duration(schedule.interval()),
                error = %error,
                "failed auto periodic compaction"
            ),
        }
    }
}

async fn run_revisions(member: &Member, keep: i64) {
    let mut schedule = Revisions::new(keep);
    loop {
        tokio::time::sleep(REVISION_INTERVAL).await;
        if !member.node.is_leader() {
            continue;
        }
        let Some(revision) = schedule.due(revision(member)) else {
            continue;
        };
        info!(
            revision,
            "revision-compaction-retention" = keep,
            "starting auto revision compaction"
        );
        let start = Instant::now();
        match compact(member, revision).await {
            Ok(()) => {
                schedule.done(revision);
                info!(
                    revision,
                    "revision-compaction-retention" = keep,
                    took = %text::format_duration(start.elapsed()),
                    "completed auto revision compaction"
                );
            }
            Err(error) => warn!(
                revision,
                "revision-compaction-retention" = keep,
                error = %error,
                "failed auto revision compaction"
            ),
        }
    }
}

fn revision(member: &Member) -> i64 {
    member.node.machine().store.revision()
}

/// Somebody else's compaction at a later revision is as good.
async fn compact(member: &Member, revision: i64) -> Result<(), Error> {
    let request = CompactionRequest {
        revision,
        physical: false,
    };
    match member.propose(Command::Compaction(request)).await {
        Ok(_) | Err(Error::Api(ApiError::Compacted)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Reclaims what compactions left, until `stop`. Tells how far it is through `reclaimed`. With `hashes`, the
/// hash at each compaction is computed first, which reads the whole history.
pub async fn reclaim(
    node: Node,
    pause: Duration,
    hashes: bool,
    reclaimed: watch::Sender<i64>,
    stop: CancellationToken,
) -> Result<(), Fault> {
    let mut applied = node.applied();
    loop {
        let work = async {
            reclaim_all(&node, pause, hashes, &reclaimed).await?;
            let _ = applied.changed().await;
            Ok(())
        };
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            done = work => done?,
        }
    }
}

async fn reclaim_all(
    node: &Node,
    pause: Duration,
    hashes: bool,
    reclaimed: &watch::Sender<i64>,
) -> Result<(), Fault> {
    while node.machine().store.compaction_finished() < node.machine().store.compacted() {
        let hash = match hashes {
            true => remember_hash(node).await?,
            false => None,
        };
        let start = Instant::now();
        let before = node.machine().store.compaction_finished();
        let finished = loop {
            let slice = Instant::now();
            let (progress, finished) = reclaim_slice(node);
            metrics::DB_COMPACTION_PAUSE.observe(slice.elapsed().as_secs_f64() * 1e3);
            reclaimed.send_replace(finished);
            match progress {
                _ if finished > before => break finished,
                Progress::Held => tokio::time::sleep(HELD).await,
                Progress::Done | Progress::More if pause.is_zero() => {
                    tokio::task::yield_now().await;
                }
                Progress::Done | Progress::More => tokio::time::sleep(pause).await,
            }
        };
        let took = start.elapsed();
        metrics::DB_COMPACTION_TOTAL.observe(took.as_secs_f64() * 1e3);
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        metrics::DB_COMPACTION_LAST.set(now.map_or(0, |now| now.as_secs() as i64));
        info!(
            "compact-revision" = finished,
            took = %text::format_duration(took),
            hash = hash.unwrap_or_default(),
            "current-db-size-bytes" = node.size(),
            "finished scheduled compaction"
        );
    }
    let finished = node.machine().store.compaction_finished();
    reclaimed.send_replace(finished);
    Ok(())
}

/// One slice, written before the machine is let go, so that slices stay in order with everything else.
fn reclaim_slice(node: &Node) -> (Progress, i64) {
    let mut machine = node.machine_mut();
    let (batch, progress) = machine.store.compact_slice();
    metrics::DB_COMPACTION_KEYS.inc_by(batch.writes.len() as u64);
    let applied = machine.applied().map_or(0, |applied| applied.index);
    if !batch.is_empty() {
        node.tables().write(batch, applied);
    }
    (progress, machine.store.compaction_finished())
}

/// Computes the hash that stays known of the next compaction, before its revisions are gone.
async fn remember_hash(node: &Node) -> Result<Option<u32>, Fault> {
    let scan = node.machine().store.compaction_hash();
    let Some(mut scan) = scan else {
        return Ok(None);
    };
    loop {
        scan = read_page(node, scan).await?;
        let fed = scan.feed(&node.machine().store);
        if let Some(hash) = fed {
            drop(scan);
            node.machine_mut().store.compaction_hashed(hash);
            return Ok(Some(hash.hash));
        }
        tokio::task::yield_now().await;
    }
}

/// Reads a page of history where blocking hurts nobody.
async fn read_page(node: &Node, mut scan: HashScan) -> Result<HashScan, Fault> {
    let tables = node.tables().clone();
    let read = tokio::task::spawn_blocking(move || scan.read(&*tables).map(|()| scan));
    read.await
        .map_err(|error| Fault::Refused(format!("a compaction was lost: {error}")))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::util::clock::Clock;
    use crate::util::clock::ManualClock;

    /// Samples a store that gets one revision an interval; tells when it compacts, and at what.
    fn compactions(period: Duration, intervals: i64) -> Vec<(i64, i64)> {
        let clock = ManualClock::default();
        let mut schedule = Periodic::new(period, clock.uptime());
        let mut compacted = Vec::new();
        for at in 1..=intervals {
            schedule.sample(at);
            clock.advance(schedule.interval());
            if let Some(revision) = schedule.due(clock.uptime()) {
                schedule.done(revision, clock.uptime());
                compacted.push((at, revision));
            }
        }
        compacted
    }

    #[test]
    fn a_period_up_to_an_hour_is_kept_once_to_twice() {
        for minutes in [1, 30, 60] {
            let period = Duration::from_secs(60 * minutes);
            assert_eq!(
                compactions(period, 35),
                [(10, 1), (20, 10), (30, 20)],
                "{minutes} minutes"
            );
        }
    }

    #[test]
    fn a_longer_period_is_compacted_every_hour() {
        let period = 3 * HOUR;
        assert_eq!(compactions(period, 55), [(30, 1), (40, 10), (50, 20)]);
    }

    #[test]
    fn an_idle_store_is_compacted_once() {
        let clock = ManualClock::default();
        let mut schedule = Periodic::new(HOUR, clock.uptime());
        let mut compacted = Vec::new();
        for _ in 0..50 {
            schedule.sample(7);
            clock.advance(schedule.interval());
            if let Some(revision) = schedule.due(clock.uptime()) {
                schedule.done(revision, clock.uptime());
                compacted.push(revision);
            }
        }
        assert_eq!(compacted, [7]);
    }

    #[test]
    fn a_failed_compaction_is_tried_again_at_the_next_sample() {
        let clock = ManualClock::default();
        let mut schedule = Periodic::new(HOUR, clock.uptime());
        let mut tried = Vec::new();
        for at in 1..=12 {
            schedule.sample(at);
            clock.advance(schedule.interval());
            tried.extend(schedule.due(clock.uptime()));
        }
        assert_eq!(tried, [1, 1, 2]);
    }

    #[test]
    fn a_number_of_revisions_is_kept() {
        let mut schedule = Revisions::new(100);
        let cases = [
            (50, None),
            (100, None),
            (101, Some(1)),
            (101, None),
            (250, Some(150)),
        ];
        for (current, want) in cases {
            let due = schedule.due(current);
            assert_eq!(due, want, "at {current}");
            due.into_iter().for_each(|revision| schedule.done(revision));
        }
    }
}
