//! SIGINT and SIGTERM, and ending by them as a process without handlers would.

use std::io;
use std::process::ExitCode;

use tokio::signal::unix::Signal;
use tokio::signal::unix::SignalKind;
use tokio::signal::unix::signal;

/// A signal that asks the server to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Interrupted,
    Terminated,
}

impl Ending {
    /// As Go names it.
    pub fn name(self) -> &'static str {
        match self {
            Ending::Interrupted => "interrupt",
            Ending::Terminated => "terminated",
        }
    }

    fn number(self) -> i32 {
        match self {
            Ending::Interrupted => signal_hook::consts::SIGINT,
            Ending::Terminated => signal_hook::consts::SIGTERM,
        }
    }

    /// Ends the process by this very signal, so that whoever started it sees why it ended. As the first
    /// process of a container it cannot; then it just exits.
    pub fn end_process(self) -> ExitCode {
        if std::process::id() != 1 {
            // Does not return unless the signal cannot end this process.
            let _ = signal_hook::low_level::emulate_default_handler(self.number());
        }
        ExitCode::SUCCESS
    }
}

/// The signals from now on.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub fn new() -> io::Result<Signals> {
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    pub async fn next(&mut self) -> Ending {
        tokio::select! {
            _ = self.interrupt.recv() => Ending::Interrupted,
            _ = self.terminate.recv() => Ending::Terminated,
        }
    }
}
