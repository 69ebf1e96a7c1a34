//! What happens when this member cannot go on: one clear line, and the process ends.

use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;

use tracing::error;

/// Called once, with the reason, by whoever finds that the member is beyond help.
#[derive(Clone)]
pub struct Fatal(Arc<Inner>);

struct Inner {
    called: AtomicBool,
    stop: Box<dyn Fn(String) + Send + Sync>,
}

impl Fatal {
    /// Logs the reason and exits with status 1.
    pub fn exit() -> Fatal {
        Fatal::new(|reason| {
            error!(error = %reason, "stopping: this member cannot go on");
            std::process::exit(1);
        })
    }

    /// Hands the reason to `stop`, for tests and for programs that end in their own way.
    pub fn new(stop: impl Fn(String) + Send + Sync + 'static) -> Fatal {
        Fatal(Arc::new(Inner {
            called: AtomicBool::new(false),
            stop: Box::new(stop),
        }))
    }

    /// Reports `reason` unless another one has been reported before.
    pub fn stop(&self, reason: &dyn Display) {
        if !self.0.called.swap(true, Ordering::SeqCst) {
            (self.0.stop)(reason.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;

    #[test]
    fn the_first_reason_is_the_one_reported() {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let fatal = {
            let heard = heard.clone();
            Fatal::new(move |reason| heard.lock().push(reason))
        };
        fatal.stop(&"disk");
        fatal.clone().stop(&"panic");
        assert_eq!(*heard.lock(), ["disk"]);
    }
}
