//! Why something was not done: the one list of refusals, and faults.
//!
//! A refusal is what the cluster says: every member says the same and the log goes on. A fault is this
//! member's own trouble: it stops rather than drift from the others.

use std::path::PathBuf;

use tonic::Code;
use tonic::Status;

/// Every refusal a client can hear. Server, gateway, proxy and client share this list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ApiError {
    EmptyKey,
    KeyNotFound,
    ValueProvided,
    LeaseProvided,
    TooManyOps,
    DuplicateKey,
    InvalidClientAPIVersion,
    InvalidSortOption,
    Compacted,
    FutureRev,
    NoSpace,
    RequestTooLarge,
    TooManyRequests,
    LeaseNotFound,
    LeaseExist,
    LeaseTTLTooLarge,
    WatchCanceled,
    MemberExist,
    PeerURLExist,
    MemberNotEnoughStarted,
    MemberBadURLs,
    MemberNotFound,
    MemberNotLearner,
    LearnerNotReady,
    TooManyLearners,
    ClusterIDMismatch,
    RootUserNotExist,
    RootRoleNotExist,
    UserAlreadyExist,
    UserEmpty,
    UserNotFound,
    RoleAlreadyExist,
    RoleNotFound,
    RoleEmpty,
    AuthFailed,
    PermissionNotGiven,
    PermissionDenied,
    RoleNotGranted,
    PermissionNotGranted,
    AuthNotEnabled,
    InvalidAuthToken,
    InvalidAuthMgmt,
    AuthOldRevision,
    NoLeader,
    NotLeader,
    LeaderChanged,
    NotCapable,
    Stopped,
    Timeout,
    TimeoutDueToLeaderFail,
    TimeoutDueToConnectionLost,
    TimeoutWaitAppliedIndex,
    Unhealthy,
    Corrupt,
    NotSupportedForLearner,
    BadLeaderTransferee,
    Canceled,
    DeadlineExceeded,
    WrongDowngradeVersionFormat,
    InvalidDowngradeTargetVersion,
    ClusterVersionUnavailable,
    DowngradeInProcess,
}

impl ApiError {
    /// The gRPC code and text that etcd clients match on. There is no other such table.
    pub fn wire(self) -> (Code, &'static str) {
        use ApiError::*;
        match self {
            EmptyKey => (Code::InvalidArgument, "etcdserver: key is not provided"),
            KeyNotFound => (Code::InvalidArgument, "etcdserver: key not found"),
            ValueProvided => (Code::InvalidArgument, "etcdserver: value is provided"),
            LeaseProvided => (Code::InvalidArgument, "etcdserver: lease is provided"),
            TooManyOps => (
                Code::InvalidArgument,
                "etcdserver: too many operations in txn request",
            ),
            DuplicateKey => (
                Code::InvalidArgument,
                "etcdserver: duplicate key given in txn request",
            ),
            InvalidClientAPIVersion => (
                Code::InvalidArgument,
                "etcdserver: invalid client api version",
            ),
            InvalidSortOption => (Code::InvalidArgument, "etcdserver: invalid sort option"),
            Compacted => (
                Code::OutOfRange,
                "etcdserver: mvcc: required revision has been compacted",
            ),
            FutureRev => (
                Code::OutOfRange,
                "etcdserver: mvcc: required revision is a future revision",
            ),
            NoSpace => (
                Code::ResourceExhausted,
                "etcdserver: mvcc: database space exceeded",
            ),
            RequestTooLarge => (Code::InvalidArgument, "etcdserver: request is too large"),
            TooManyRequests => (Code::Unknown, "etcdserver: too many requests"),
            LeaseNotFound => (Code::NotFound, "etcdserver: requested lease not found"),
            LeaseExist => (Code::FailedPrecondition, "etcdserver: lease already exists"),
            LeaseTTLTooLarge => (Code::OutOfRange, "etcdserver: too large lease TTL"),
            WatchCanceled => (Code::Cancelled, "etcdserver: watch canceled"),
            MemberExist => (
                Code::FailedPrecondition,
                "etcdserver: member ID already exist",
            ),
            PeerURLExist => (
                Code::FailedPrecondition,
                "etcdserver: Peer URLs already exists",
            ),
            MemberNotEnoughStarted => (
                Code::Unknown,
                "etcdserver: re-configuration failed due to not enough started members",
            ),
            MemberBadURLs => (
                Code::InvalidArgument,
                "etcdserver: given member URLs are invalid",
            ),
            MemberNotFound => (Code::NotFound, "etcdserver: member not found"),
            MemberNotLearner => (
                Code::FailedPrecondition,
                "etcdserver: can only promote a learner member",
            ),
            LearnerNotReady => (
                Code::FailedPrecondition,
                "etcdserver: can only promote a learner member which is in sync with leader",
            ),
            TooManyLearners => (
                Code::FailedPrecondition,
                "etcdserver: too many learner members in cluster",
            ),
            ClusterIDMismatch => (Code::FailedPrecondition, "etcdserver: cluster ID mismatch"),
            RootUserNotExist => (
                Code::FailedPrecondition,
                "etcdserver: root user does not exist",
            ),
            RootRoleNotExist => (
                Code::FailedPrecondition,
                "etcdserver: root user does not have root role",
            ),
            UserAlreadyExist => (
                Code::FailedPrecondition,
                "etcdserver: user name already exists",
            ),
            UserEmpty => (Code::InvalidArgument, "etcdserver: user name is empty"),
            UserNotFound => (Code::FailedPrecondition, "etcdserver: user name not found"),
            RoleAlreadyExist => (
                Code::FailedPrecondition,
                "etcdserver: role name already exists",
            ),
            RoleNotFound => (Code::FailedPrecondition, "etcdserver: role name not found"),
            RoleEmpty => (Code::InvalidArgument, "etcdserver: role name is empty"),
            AuthFailed => (
                Code::InvalidArgument,
                "etcdserver: authentication failed, invalid user ID or password",
            ),
            PermissionNotGiven => (Code::InvalidArgument, "etcdserver: permission not given"),
            PermissionDenied => (Code::PermissionDenied, "etcdserver: permission denied"),
            RoleNotGranted => (
                Code::FailedPrecondition,
                "etcdserver: role is not granted to the user",
            ),
            PermissionNotGranted => (
                Code::FailedPrecondition,
                "etcdserver: permission is not granted to the role",
            ),
            AuthNotEnabled => (
                Code::FailedPrecondition,
                "etcdserver: authentication is not enabled",
            ),
            InvalidAuthToken => (Code::Unauthenticated, "etcdserver: invalid auth token"),
            InvalidAuthMgmt => (Code::InvalidArgument, "etcdserver: invalid auth management"),
            AuthOldRevision => (
                Code::InvalidArgument,
                "etcdserver: revision of auth store is old",
            ),
            NoLeader => (Code::Unavailable, "etcdserver: no leader"),
            NotLeader => (Code::FailedPrecondition, "etcdserver: not leader"),
            LeaderChanged => (Code::Unavailable, "etcdserver: leader changed"),
            NotCapable => (Code::FailedPrecondition, "etcdserver: not capable"),
            Stopped => (Code::Unavailable, "etcdserver: server stopped"),
            Timeout => (Code::Unavailable, "etcdserver: request timed out"),
            TimeoutDueToLeaderFail => (
                Code::Unavailable,
                "etcdserver: request timed out, possibly due to previous leader failure",
            ),
            TimeoutDueToConnectionLost => (
                Code::Unavailable,
                "etcdserver: request timed out, possibly due to connection lost",
            ),
            TimeoutWaitAppliedIndex => (
                Code::Unavailable,
                "etcdserver: request timed out, waiting for the applied index took too long",
            ),
            Unhealthy => (Code::Unavailable, "etcdserver: unhealthy cluster"),
            Corrupt => (Code::DataLoss, "etcdserver: corrupt cluster"),
            NotSupportedForLearner => (
                Code::FailedPrecondition,
                "etcdserver: rpc not supported for learner",
            ),
            BadLeaderTransferee => (
                Code::FailedPrecondition,
                "etcdserver: bad leader transferee",
            ),
            Canceled => (Code::Cancelled, "etcdserver: request canceled"),
            DeadlineExceeded => (
                Code::DeadlineExceeded,
                "etcdserver: context deadline exceeded",
            ),
            WrongDowngradeVersionFormat => (
                Code::InvalidArgument,
                "etcdserver: wrong downgrade target version format",
            ),
            InvalidDowngradeTargetVersion => (
                Code::InvalidArgument,
                "etcdserver: invalid downgrade target version",
            ),
            ClusterVersionUnavailable => (
                Code::FailedPrecondition,
                "etcdserver: cluster version not found during downgrade",
            ),
            DowngradeInProcess => (
                Code::FailedPrecondition,
                "etcdserver: cluster has a downgrade job in progress",
            ),
        }
    }

    /// Finds the refusal that a status from a server stands for, by its text.
    pub fn from_status(status: &Status) -> Option<ApiError> {
        ApiError::ALL
            .iter()
            .copied()
            .find(|error| error.wire().1 == status.message())
    }

    const ALL: &[ApiError] = &[
        ApiError::EmptyKey,
        ApiError::KeyNotFound,
        ApiError::ValueProvided,
        ApiError::LeaseProvided,
        ApiError::TooManyOps,
        ApiError::DuplicateKey,
        ApiError::InvalidClientAPIVersion,
        ApiError::InvalidSortOption,
        ApiError::Compacted,
        ApiError::FutureRev,
        ApiError::NoSpace,
        ApiError::RequestTooLarge,
        ApiError::TooManyRequests,
        ApiError::LeaseNotFound,
        ApiError::LeaseExist,
        ApiError::LeaseTTLTooLarge,
        ApiError::WatchCanceled,
        ApiError::MemberExist,
        ApiError::PeerURLExist,
        ApiError::MemberNotEnoughStarted,
        ApiError::MemberBadURLs,
        ApiError::MemberNotFound,
        ApiError::MemberNotLearner,
        ApiError::LearnerNotReady,
        ApiError::TooManyLearners,
        ApiError::ClusterIDMismatch,
        ApiError::RootUserNotExist,
        ApiError::RootRoleNotExist,
        ApiError::UserAlreadyExist,
        ApiError::UserEmpty,
        ApiError::UserNotFound,
        ApiError::RoleAlreadyExist,
        ApiError::RoleNotFound,
        ApiError::RoleEmpty,
        ApiError::AuthFailed,
        ApiError::PermissionNotGiven,
        ApiError::PermissionDenied,
        ApiError::RoleNotGranted,
        ApiError::PermissionNotGranted,
        ApiError::AuthNotEnabled,
        ApiError::InvalidAuthToken,
        ApiError::InvalidAuthMgmt,
        ApiError::AuthOldRevision,
        ApiError::NoLeader,
        ApiError::NotLeader,
        ApiError::LeaderChanged,
        ApiError::NotCapable,
        ApiError::Stopped,
        ApiError::Timeout,
        ApiError::TimeoutDueToLeaderFail,
        ApiError::TimeoutDueToConnectionLost,
        ApiError::TimeoutWaitAppliedIndex,
        ApiError::Unhealthy,
        ApiError::Corrupt,
        ApiError::NotSupportedForLearner,
        ApiError::BadLeaderTransferee,
        ApiError::Canceled,
        ApiError::DeadlineExceeded,
        ApiError::WrongDowngradeVersionFormat,
        ApiError::InvalidDowngradeTargetVersion,
        ApiError::ClusterVersionUnavailable,
        ApiError::DowngradeInProcess,
    ];
}

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.wire().1)
    }
}

impl std::error::Error for ApiError {}

/// Why this member cannot go on. Whoever receives one stops the process with its text.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The operating system refused something.
    #[error("{doing} {}: {}", path.display(), os_text(source))]
    Io {
        doing: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    /// Stored bytes are not what was written.
    #[error("damaged data in {place}: {reason}")]
    Damaged { place: String, reason: String },
    /// The files are sound but not ours to open: a foreign, newer or busy directory.
    #[error("{0}")]
    Refused(String),
}

/// The operating system's complaint as Go words it: no capital, no number.
pub fn os_text(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters
        .next()
        .map_or_else(String::new, |first| first.to_lowercase().to_string())
        + letters.as_str()
}

impl Fault {
    pub fn io(doing: &'static str, path: impl Into<PathBuf>, source: std::io::Error) -> Fault {
        Fault::Io {
            doing,
            path: path.into(),
            source,
        }
    }

    pub fn damaged(place: impl Into<String>, reason: impl Into<String>) -> Fault {
        Fault::Damaged {
            place: place.into(),
            reason: reason.into(),
        }
    }
}

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cluster says no.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// A refusal outside the catalogue, with the code and text that go on the wire.
    #[error("{}", .0.message())]
    Status(Box<Status>),
    /// This member is in trouble.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl Error {
    /// A refusal whose text is not in the catalogue.
    pub fn other(code: Code, message: impl Into<String>) -> Error {
        Error::Status(Box::new(Status::new(code, message)))
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Status {
        let (code, text) = error.wire();
        Status::new(code, text)
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Status {
        match error {
            Error::Api(error) => error.into(),
            Error::Status(status) => *status,
            Error::Fault(fault) => Status::new(Code::Internal, fault.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_of_the_system_read_as_in_go() {
        let error = std::io::Error::from_raw_os_error(98);
        assert_eq!(os_text(&error), "address already in use");
        let fault = Fault::io("creating", "/a", std::io::Error::from_raw_os_error(20));
        assert_eq!(fault.to_string(), "creating /a: not a directory");
    }

    #[test]
    fn each_text_finds_its_own_error() {
        for error in ApiError::ALL {
            assert_eq!(ApiError::from_status(&Status::from(*error)), Some(*error));
        }
    }
}
