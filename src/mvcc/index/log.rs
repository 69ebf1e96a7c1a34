//! How many keys of a subtree were live at each revision: a step function, appended to at its end.

use super::blocks::BLOCK;
use super::blocks::Blocks;

/// The longest logs whose sum is worked out step by step: 0.2 ms.
const SUM_LIMIT: usize = 64 * BLOCK;

#[derive(Clone, Copy, Debug)]
struct Step {
    /// Revisions beyond the log's base.
    offset: u32,
    live: u32,
}

/// Right for every revision from `from` on. One step for each revision that changed the number.
#[derive(Debug)]
pub(super) struct Log {
    from: i64,
    base: i64,
    steps: Blocks<Step>,
}

impl Log {
    /// A log that reaches back to the beginning, when nothing was live.
    pub(super) fn new() -> Log {
        Log {
            from: i64::MIN,
            base: 0,
            steps: Blocks::new(),
        }
    }

    /// A log that begins at `revision`, with `live` keys.
    pub(super) fn starting(revision: i64, live: u32) -> Log {
        let mut log = Log {
            from: revision,
            ..Log::new()
        };
        log.push(revision, live);
        log
    }

    /// Builds the log from births (+1) and deaths (−1) in any order, to be asked from `from` on.
    pub(super) fn replay(mut turns: Vec<(i64, i32)>, from: i64) -> Log {
        for (revision, _) in &mut turns {
            *revision = from.max(*revision);
        }
        turns.sort_unstable();
        let mut log = Log { from, ..Log::new() };
        let mut live = 0i32;
        for of_one_revision in turns.chunk_by(|a, b| a.0 == b.0) {
            let change: i32 = of_one_revision.iter().map(|(_, turn)| turn).sum();
            live += change;
            if change != 0 {
                let live = u32::try_from(live).expect("more deaths than births");
                log.push(of_one_revision[0].0, live);
            }
        }
        log
    }

    /// The log of two subtrees taken as one. It begins later if all of it were too long for a pause.
    pub(super) fn sum(a: &Log, b: &Log) -> Log {
        if a.steps.len() + b.steps.len() > SUM_LIMIT {
            let now = a.changed().max(b.changed());
            return Log::starting(now, a.last() + b.last());
        }
        let from = a.from.max(b.from);
        let beyond = |log: &Log| {
            let steps: Vec<(i64, u32)> = log.iter().filter(|(at, _)| *at > from).collect();
            steps
        };
        let (of_a, of_b) = (beyond(a), beyond(b));
        let (mut a, mut b) = (a.known(from), b.known(from));
        let mut log = Log { from, ..Log::new() };
        if a + b > 0 {
            log.push(from, a + b);
        }
        let (mut of_a, mut of_b) = (of_a.into_iter().peekable(), of_b.into_iter().peekable());
        loop {
            let next = of_a.peek().into_iter().chain(of_b.peek());
            let Some(revision) = next.map(|(at, _)| *at).min() else {
                return log;
            };
            a = of_a.next_if(|(at, _)| *at == revision).map_or(a, |s| s.1);
            b = of_b.next_if(|(at, _)| *at == revision).map_or(b, |s| s.1);
            log.push(revision, a + b);
        }
    }

    /// From `revision` on, `live` keys. A second change of one revision replaces the first.
    pub(super) fn push(&mut self, revision: i64, live: u32) {
        if self.steps.is_empty() {
            self.base = revision;
        }
        // Four billion revisions behind is too old to keep: older questions go to the children.
        let Ok(offset) = u32::try_from(revision - self.base) else {
            *self = Log::starting(revision, live);
            return;
        };
        match self.steps.last_mut() {
            Some(last) if last.offset == offset => last.live = live,
            last => {
                debug_assert!(last.is_none_or(|last| last.offset < offset));
                self.steps.push(Step { offset, live });
            }
        }
    }

    /// The number at `revision`, or `None` if that is before the log begins.
    pub(super) fn at(&self, revision: i64) -> Option<u32> {
        (revision >= self.from).then(|| self.known(revision))
    }

    fn known(&self, revision: i64) -> u32 {
        let offset = revision.saturating_sub(self.base);
        let reached = self
            .steps
            .partition_point(|step| i64::from(step.offset) <= offset);
        reached
            .checked_sub(1)
            .map_or(0, |last| self.steps.get(last).live)
    }

    /// The number now.
    pub(super) fn last(&self) -> u32 {
        self.steps.last().map_or(0, |step| step.live)
    }

    /// The revision of the last change.
    fn changed(&self) -> i64 {
        let last = self.steps.last();
        last.map_or(self.from, |step| self.base + i64::from(step.offset))
    }

    /// The lowest revision at which a trim would free something.
    pub(super) fn droppable(&self) -> i64 {
        let second = self.steps.second_block();
        second.map_or(i64::MAX, |step| self.base + i64::from(step.offset))
    }

    /// Forgets, by up to `limit` whole blocks, what only revisions before `revision` need. Returns
    /// the number of blocks.
    pub(super) fn trim(&mut self, revision: i64, limit: usize) -> usize {
        let mut dropped = 0;
        while dropped < limit && self.droppable() <= revision {
            self.from = self.droppable();
            self.steps.drop_first_block();
            dropped += 1;
        }
        dropped
    }

    fn iter(&self) -> impl Iterator<Item = (i64, u32)> {
        let base = self.base;
        let steps = self.steps.iter();
        steps.map(move |step| (base + i64::from(step.offset), step.live))
    }

    /// Bytes on the heap.
    #[cfg(test)]
    pub(super) fn heap_bytes(&self) -> usize {
        self.steps.heap_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replay_nets_the_turns_of_one_revision() {
        let turns = vec![
            (5, 1),
            (3, 1),
            (5, -1),
            (9, -1),
            (4, 1),
            (4, 1),
            (1, 1),
            (0, -1),
        ];
        let log = Log::replay(turns, 2);
        assert_eq!(log.at(1), None);
        let at = [2, 3, 4, 5, 8, 9, 100].map(|revision| log.at(revision));
        assert_eq!(at, [0, 1, 3, 3, 3, 2, 2].map(Some));
        assert_eq!(log.last(), 2);
        assert_eq!(log.steps.len(), 3);
    }

    #[test]
    fn sum_is_right_wherever_both_are() {
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..200 {
            let mut logs = [Log::new(), Log::starting(20, 5)];
            for revision in 21..200 {
                for log in &mut logs {
                    if random.u8(..4) == 0 {
                        log.push(revision, random.u32(..100));
                    }
                }
            }
            let sum = Log::sum(&logs[0], &logs[1]);
            assert_eq!(sum.at(19), None);
            for revision in 20..210 {
                let both = logs[0].known(revision) + logs[1].known(revision);
                assert_eq!(sum.at(revision), Some(both), "at {revision}");
            }
        }
    }

    #[test]
    fn sum_of_long_logs_begins_at_their_last_change() {
        let mut logs = [Log::new(), Log::new()];
        for revision in 1..=SUM_LIMIT as i64 {
            logs[revision as usize % 2].push(revision, revision as u32);
        }
        logs[0].push(SUM_LIMIT as i64 + 7, 5);
        let sum = Log::sum(&logs[0], &logs[1]);
        let last = SUM_LIMIT as i64 + 7;
        assert_eq!(sum.at(last - 1), None);
        assert_eq!(sum.at(last), Some(5 + logs[1].last()));
    }

    #[test]
    fn trim_drops_blocks_and_keeps_what_is_asked_for() {
        let mut log = Log::new();
        for revision in 1..=1000 {
            log.push(revision, revision as u32 * 2);
        }
        assert_eq!(log.droppable(), 257);
        assert_eq!(log.trim(256, 9), 0);
        assert_eq!(log.trim(600, 1), 1);
        assert_eq!(log.trim(600, 9), 1);
        assert_eq!(log.at(512), None);
        assert_eq!(log.at(513), Some(1026));
        assert_eq!(log.at(600), Some(1200));
        assert_eq!(log.last(), 2000);
    }

    #[test]
    fn far_jump_of_revisions_starts_afresh() {
        let mut log = Log::starting(10, 1);
        log.push(10 + i64::from(u32::MAX), 2);
        assert_eq!(log.at(10), Some(1));
        log.push(11 + i64::from(u32::MAX), 3);
        assert_eq!(log.at(10), None);
        assert_eq!(log.at(i64::MAX), Some(3));
    }
}
