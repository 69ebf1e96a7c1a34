//! Time as an argument: the real clock, and one that tests turn by hand.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

/// Time since some fixed moment of this process. Never goes back, says nothing of the calendar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uptime(pub Duration);

impl Uptime {
    pub fn saturating_sub(self, earlier: Uptime) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl std::ops::Add<Duration> for Uptime {
    type Output = Uptime;

    fn add(self, rhs: Duration) -> Uptime {
        Uptime(self.0.saturating_add(rhs))
    }
}

/// Where time comes from.
pub trait Clock: Send + Sync + 'static {
    fn uptime(&self) -> Uptime;
    /// Milliseconds since the Unix epoch.
    fn wall_ms(&self) -> i64;
}

/// The machine's clocks.
pub struct RealClock {
    start: Instant,
}

impl RealClock {
    pub fn new() -> RealClock {
        RealClock {
            start: Instant::now(),
        }
    }
}

impl Default for RealClock {
    fn default() -> RealClock {
        RealClock::new()
    }
}

impl Clock for RealClock {
    fn uptime(&self) -> Uptime {
        Uptime(self.start.elapsed())
    }

    fn wall_ms(&self) -> i64 {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_millis() as i64)
    }
}

/// A clock that stands still until it is told otherwise.
#[derive(Default)]
pub struct ManualClock {
    millis: AtomicU64,
}

impl ManualClock {
    pub fn advance(&self, by: Duration) {
        self.millis
            .fetch_add(by.as_millis() as u64, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn uptime(&self) -> Uptime {
        Uptime(Duration::from_millis(self.millis.load(Ordering::SeqCst)))
    }

    fn wall_ms(&self) -> i64 {
        self.millis.load(Ordering::SeqCst) as i64
    }
}
