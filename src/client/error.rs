//! Why a call did not succeed, in the words etcd's own client uses.

use std::fmt;

use tonic::Code;
use tonic::Status;

use crate::error::ApiError;

/// The outcome of a call that brought no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The server, or the way to it, said no.
    Status { code: Code, message: String },
    /// The caller's time was up.
    DeadlineExceeded,
    /// The caller went away.
    Canceled,
    /// The configuration cannot work; nothing was sent.
    Setup(String),
}

impl Error {
    /// The gRPC code of the failure.
    pub fn code(&self) -> Code {
        match self {
            Error::Status { code, .. } => *code,
            Error::DeadlineExceeded => Code::DeadlineExceeded,
            Error::Canceled => Code::Cancelled,
            Error::Setup(_) => Code::InvalidArgument,
        }
    }

    /// The text without the gRPC code.
    pub fn message(&self) -> &str {
        match self {
            Error::Status { message, .. } | Error::Setup(message) => message,
            Error::DeadlineExceeded => "context deadline exceeded",
            Error::Canceled => "context canceled",
        }
    }

    /// The refusal this is, if it is one of etcd's.
    pub fn refusal(&self) -> Option<ApiError> {
        let Error::Status { code, message } = self else {
            return None;
        };
        ApiError::from_status(&Status::new(*code, message))
    }

    /// Returns true if this is `refusal`.
    pub fn is(&self, refusal: ApiError) -> bool {
        self.refusal() == Some(refusal)
    }

    /// The failure as Go prints a raw gRPC status.
    pub fn status_text(&self) -> String {
        let code = code_name(self.code());
        format!("rpc error: code = {code} desc = {}", self.message())
    }
}

impl fmt::Display for Error {
    /// Known refusals by their text alone, other statuses with their code.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Status { .. } if self.refusal().is_none() => f.write_str(&self.status_text()),
            _ => f.write_str(self.message()),
        }
    }
}

impl std::error::Error for Error {}

impl From<Status> for Error {
    fn from(status: Status) -> Error {
        Error::Status {
            code: status.code(),
            message: status.message().to_string(),
        }
    }
}

impl From<ApiError> for Error {
    fn from(refusal: ApiError) -> Error {
        Error::from(Status::from(refusal))
    }
}

/// The name Go gives a code.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_refusals_print_without_their_code() {
        let cases = [
            (
                Error::from(ApiError::PermissionDenied),
                "etcdserver: permission denied",
            ),
            (
                Error::from(Status::unknown("auth: no")),
                "rpc error: code = Unknown desc = auth: no",
            ),
            (Error::DeadlineExceeded, "context deadline exceeded"),
            (Error::Canceled, "context canceled"),
        ];
        for (error, text) in cases {
            assert_eq!(error.to_string(), text);
        }
    }
}
