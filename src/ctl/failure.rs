//! How a command ends when it does not succeed: an exit code scripts rely on, and a line for people.

use std::fmt;

use crate::client;

/// The exit codes of etcdctl.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Error,
    /// No client could be made.
    BadConnection,
    InvalidInput,
    /// An option value or output format that does not exist here.
    BadFeature,
    Interrupted,
    BadArgs,
    /// What a command run on the user's behalf ended with.
    Child(u8),
}

impl Exit {
    pub fn code(self) -> u8 {
        match self {
            Exit::Error => 1,
            Exit::BadConnection => 2,
            Exit::InvalidInput => 3,
            Exit::BadFeature => 4,
            Exit::Interrupted => 5,
            Exit::BadArgs => 128,
            Exit::Child(code) => code,
        }
    }
}

/// Why and how a command stops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub exit: Exit,
    /// What is said after `Error: `; nothing if all has been said.
    pub message: Option<String>,
    /// What follows the error line: usage, for a mistyped command line.
    pub advice: String,
}

impl Failure {
    pub fn new(exit: Exit, message: impl fmt::Display) -> Failure {
        Failure {
            exit,
            message: Some(message.to_string()),
            advice: String::new(),
        }
    }

    /// A failure whose reason has been printed already.
    pub fn told(exit: Exit) -> Failure {
        Failure {
            exit,
            message: None,
            advice: String::new(),
        }
    }

    pub fn error(message: impl fmt::Display) -> Failure {
        Failure::new(Exit::Error, message)
    }

    pub fn args(message: impl fmt::Display) -> Failure {
        Failure::new(Exit::BadArgs, message)
    }

    pub fn feature(message: impl fmt::Display) -> Failure {
        Failure::new(Exit::BadFeature, message)
    }

    pub fn input(message: impl fmt::Display) -> Failure {
        Failure::new(Exit::InvalidInput, message)
    }

    pub fn with_advice(self, advice: String) -> Failure {
        Failure { advice, ..self }
    }
}

impl From<client::Error> for Failure {
    fn from(error: client::Error) -> Failure {
        Failure::error(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_etcdctl() {
        let codes = [
            (Exit::Error, 1),
            (Exit::BadConnection, 2),
            (Exit::InvalidInput, 3),
            (Exit::BadFeature, 4),
            (Exit::Interrupted, 5),
            (Exit::BadArgs, 128),
            (Exit::Child(7), 7),
        ];
        for (exit, code) in codes {
            assert_eq!(exit.code(), code, "{exit:?}");
        }
    }
}
