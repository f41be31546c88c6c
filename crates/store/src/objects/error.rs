//! Why an operation on objects failed: one enum each, made of the same few causes.

use super::codec::RecordError;
use super::id::StoreName;
use super::model::{BODY_BYTES_MAX, INDEX_KEY_BYTES_MAX, INDEX_NAME_BYTES_MAX, INDEXES_MAX, LABEL_BYTES_MAX, PAGE_MAX};
use crate::{CommitError, ReadError};

/// A request that no store would be asked to carry out; repeating it is useless.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRequest {
    #[error("body has `{0}` bytes, at most `{BODY_BYTES_MAX}`")]
    Body(usize),
    #[error("object has `{0}` index keys, at most `{INDEXES_MAX}`")]
    Indexes(usize),
    #[error("index name `{0}` is not 1 to {INDEX_NAME_BYTES_MAX} letters, digits, `.`, `_` or `-`")]
    IndexName(String),
    #[error("index key has `{0}` bytes, at most `{INDEX_KEY_BYTES_MAX}`")]
    IndexKey(usize),
    #[error("`{what}` has `{bytes}` bytes, at most `{LABEL_BYTES_MAX}`")]
    Label { what: &'static str, bytes: usize },
    #[error("client token is empty")]
    EmptyToken,
    #[error("page of `{0}` is not 1 to {PAGE_MAX}")]
    Page(usize),
}

/// Why the store of an object gave no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The identifier names a store that is not configured here.
    #[error("store `{0}` is not known here")]
    Unknown(StoreName),
    /// The object's store cannot be reached; no other has the object. Retry later.
    #[error("store `{store}` is unavailable: {reason}")]
    Unavailable { store: StoreName, reason: String },
    /// What the store holds cannot be read.
    #[error("store `{store}` holds a record that cannot be read")]
    Record {
        store: StoreName,
        #[source]
        source: RecordError,
    },
}

impl StoreError {
    /// Whether the same request may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable { .. })
    }
}

/// Why an object was not created.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CreateError {
    #[error(transparent)]
    Invalid(#[from] InvalidRequest),
    /// No store takes objects now; nothing was created. Retry later.
    #[error("no store is available: {0}")]
    Unavailable(String),
    /// Created or not, unknown. A retry with the same token finds out.
    #[error("whether the object was created is unknown: {0}")]
    Unknown(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why an object was not read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum GetError {
    /// There is none, or it was deleted.
    #[error("object does not exist")]
    NotFound,
    #[error(transparent)]
    Invalid(#[from] InvalidRequest),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why an object was not changed or deleted.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ChangeError {
    #[error("object does not exist")]
    NotFound,
    /// Another version than the expected one; read the object and decide anew.
    #[error("object has version `{actual}`, expected `{expected}`")]
    Version { expected: u64, actual: u64 },
    #[error(transparent)]
    Invalid(#[from] InvalidRequest),
    /// Other writers were always faster, up to the deadline. Nothing was changed.
    #[error("object is changed by others all the time")]
    Contended,
    /// Changed or not, unknown. A retry with the same token finds out.
    #[error("whether the object was changed is unknown: {0}")]
    Unknown(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why an index gave no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum QueryError {
    #[error(transparent)]
    Invalid(#[from] InvalidRequest),
    /// No store could be asked, or not all where all were demanded.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a set of stores cannot serve objects.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetupError {
    #[error("objects need at least two independent stores, got `{0}`")]
    TooFew(usize),
    #[error("store `{0}` is named twice")]
    Twice(StoreName),
}

/// How a read of one store ended badly.
pub(super) fn read_failed(store: &StoreName, error: ReadError) -> StoreError {
    let (ReadError::Unavailable(reason) | ReadError::Damaged(reason)) = error;
    StoreError::Unavailable {
        store: store.clone(),
        reason,
    }
}

/// How a commit that certainly had no effect ended.
pub(super) fn commit_failed(store: &StoreName, error: &CommitError) -> StoreError {
    StoreError::Unavailable {
        store: store.clone(),
        reason: error.to_string(),
    }
}
