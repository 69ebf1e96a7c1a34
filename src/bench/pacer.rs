//! When requests are due: at once, or at a fixed rate kept by a thread of its own.
//!
//! The runtime's timer counts whole milliseconds, which is coarser than most answers take. The pacing
//! thread sleeps in the kernel and hands out the moments as they come.

use std::thread;
use std::time::Duration;
use std::time::Instant;

use tokio::sync::Mutex;
use tokio::sync::mpsc;

/// Hands out the numbers `0..total`, each with the moment from which its latency counts.
pub struct Pacer {
    total: u64,
    due: Mutex<Due>,
}

enum Due {
    /// A closed loop: the next request is due when a client is free.
    Free { next: u64 },
    /// An open loop: the moments come at their rate, whether or not a client is free.
    Paced {
        next: u64,
        moments: mpsc::UnboundedReceiver<Instant>,
    },
}

impl Pacer {
    /// `rate` is requests a second; zero is as fast as the clients go.
    pub fn new(total: u64, rate: u64) -> Pacer {
        let due = match rate {
            0 => Due::Free { next: 0 },
            rate => Due::Paced {
                next: 0,
                moments: keep_rate(total, rate),
            },
        };
        Pacer {
            total,
            due: Mutex::new(due),
        }
    }

    pub async fn next(&self) -> Option<(u64, Instant)> {
        let mut due = self.due.lock().await;
        let (next, moment) = match &mut *due {
            Due::Free { next } => (next, Instant::now()),
            Due::Paced { next, moments } => (next, moments.recv().await?),
        };
        let number = *next;
        *next += 1;
        (number < self.total).then_some((number, moment))
    }
}

fn keep_rate(total: u64, rate: u64) -> mpsc::UnboundedReceiver<Instant> {
    let (sender, moments) = mpsc::unbounded_channel();
    let start = Instant::now();
    thread::spawn(move || {
        for n in 0..total {
            let moment = start + Duration::from_secs_f64(n as f64 / rate as f64);
            let early = moment.saturating_duration_since(Instant::now());
            if !early.is_zero() {
                thread::sleep(early);
            }
            if sender.send(moment).is_err() {
                return;
            }
        }
    });
    moments
}
