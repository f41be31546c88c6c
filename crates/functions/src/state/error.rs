//! Why an operation on shared state is refused.

use bowline_store::{CommitError, ReadError};

use super::{ATTACHED_MAX, BYTES_MAX, ENTRIES_MAX, RESOURCES_MAX, VALUE_BYTES_MAX};

/// A refusal. The text is the one the caller sees.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("{0}")]
    Invalid(String),
    #[error("shared state `{0}` does not exist")]
    NoSuchState(String),
    #[error("shared state `{0}` is not attached to the function")]
    NotAttached(String),
    #[error("`{0}` has no such entry")]
    NoSuchEntry(String),
    #[error("function `{0}` does not exist")]
    NoSuchFunction(String),
    #[error("shared state `{0}` exists")]
    Exists(String),
    #[error("shared state `{state}` is attached to `{function}`; detach it first")]
    InUse { state: String, function: String },
    #[error("the function may only read `{0}`")]
    ReadOnly(String),
    #[error("`{0}` is written by the holder of its lease alone, and this invocation does not hold it")]
    NoLease(String),
    #[error("the lease of `{0}` is with another invocation")]
    LeaseBusy(String),
    #[error("the entry has version `{actual}`, not `{expected}`")]
    VersionMismatch { actual: u64, expected: u64 },
    #[error("an account has at most {RESOURCES_MAX} resources of shared state, a function at most {ATTACHED_MAX}")]
    TooMany,
    #[error(
        "a value has at most {VALUE_BYTES_MAX} bytes, a resource at most {ENTRIES_MAX} entries and {BYTES_MAX} bytes"
    )]
    TooLarge,
    /// A limit of this node.
    #[error("{0}")]
    NoRoom(String),
    /// This node, or this kind of function, offers no such thing.
    #[error("{0}")]
    Infeasible(String),
    #[error("the resource is changed by too many at once")]
    Contended,
    #[error("the store does not answer")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("done or not, unknown")]
    Unknown(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<ReadError> for StateError {
    fn from(error: ReadError) -> Self {
        Self::Unavailable(Box::new(error))
    }
}

impl From<crate::error::Error> for StateError {
    fn from(error: crate::error::Error) -> Self {
        match error {
            crate::error::Error::Conflict(_) => Self::Contended,
            crate::error::Error::NotFound(text) => Self::Invalid(text),
            error => Self::Unavailable(Box::new(error)),
        }
    }
}

impl From<CommitError> for StateError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Conflict(_) => Self::Contended,
            error @ CommitError::Unknown(_) => Self::Unknown(Box::new(error)),
            error => Self::Unavailable(Box::new(error)),
        }
    }
}

impl From<bowline_store::record::FrameError> for StateError {
    fn from(error: bowline_store::record::FrameError) -> Self {
        Self::Unavailable(Box::new(error))
    }
}
