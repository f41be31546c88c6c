//! Why an operation on functions is refused.
//!
//! The variants follow what the caller should do; `api` maps them to Lambda's exceptions.

use crate::name::InvalidName;

/// An operation's refusal. The text is the one the caller sees.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// `InvalidParameterValueException`, 400.
    #[error("{0}")]
    InvalidParameter(String),
    /// `InvalidRequestContentException`, 400: the event is not JSON, say.
    #[error("{0}")]
    InvalidRequestContent(String),
    /// `ValidationException`, 400.
    #[error("{0}")]
    Validation(String),
    /// `AccessDeniedException`, 403.
    #[error("{0}")]
    AccessDenied(String),
    /// `CodeStorageExceededException`, 400.
    #[error("{0}")]
    CodeStorageExceeded(String),
    /// `PolicyLengthExceededException`, 400.
    #[error("{0}")]
    PolicyLengthExceeded(String),
    /// `ResourceNotFoundException`, 404.
    #[error("{0}")]
    NotFound(String),
    /// `ProvisionedConcurrencyConfigNotFoundException`, 404.
    #[error("{0}")]
    ProvisionedNotFound(String),
    /// `ResourceConflictException`, 409.
    #[error("{0}")]
    Conflict(String),
    /// `DurableExecutionAlreadyStartedException`, 409: the name is taken, by another event.
    #[error("{0}")]
    AlreadyStarted(String),
    /// `CallbackTimeoutException`, 400: nobody waits for the callback any more.
    #[error("{0}")]
    CallbackTimeout(String),
    /// `InvalidParameterValueException`, 400: the function is durable, and cannot be invoked in this way.
    #[error("The function is a durable function, which cannot be invoked in this way.")]
    Durable,
    /// `PreconditionFailedException`, 412: the RevisionId is stale.
    #[error("{0}")]
    PreconditionFailed(String),
    /// `RequestTooLargeException` (formerly `RequestEntityTooLargeException`), 413.
    #[error("{0}")]
    RequestTooLarge(String),
    /// `TooManyRequestsException`, 429.
    #[error("Rate Exceeded.")]
    Throttled(Throttle),
    /// `InvalidRuntimeException`, 502.
    #[error("{0}")]
    InvalidRuntime(String),
    /// `InvalidZipFileException`, 502 on invoke; `InvalidParameterValueException` on create.
    #[error("{0}")]
    InvalidZip(String),
    /// `EFSMountFailureException`, 403: what the function has mounted is gone, and comes back only if its owner acts.
    #[error("shared state cannot be mounted: {0}")]
    MountFailed(String),
    /// `ServiceException`, 503: what it needs does not answer now, or waits for somebody's word; nothing has begun.
    #[error("{0}; try again")]
    Away(String),
    /// `TooManyRequestsException`: another invocation writes what one at a time may write; nothing has begun.
    #[error("{0}; try again")]
    MountBusy(String),
    /// `ServiceException`, 503: the node with this number had the invocation, and is gone; the function may have run.
    #[error("node {0} went away while it ran the function, which may have run; try again")]
    Lost(u64),
    /// `ServiceException`, 500: the platform failed; the cause goes to the log, not to the caller.
    #[error("the service failed; see the node's log for the request id")]
    Service(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// The platform failed with this cause.
    pub(crate) fn service(cause: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Service(Box::new(cause))
    }
}

impl From<InvalidName> for Error {
    fn from(invalid: InvalidName) -> Self {
        if invalid.is_qualifier_mismatch() {
            Self::InvalidParameter(invalid.0)
        } else {
            Self::Validation(invalid.0)
        }
    }
}

/// What an error says, followed by its causes: for those whose text the caller sees whole.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}

/// Which limit was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Throttle {
    /// `ConcurrentInvocationLimitExceeded`.
    AccountConcurrency,
    /// `ConcurrentInvocationLimitExceeded`: the node has no memory for one more sandbox.
    Memory,
    /// `ReservedFunctionConcurrentInvocationLimitExceeded`.
    ReservedConcurrency,
    /// `CallerRateLimitExceeded`: too many events wait to be accepted.
    EventQueue,
}
