//! How executions, their operations and their events lie in the store.

use bowline_foundation::digest::Digest;
pub(super) use bowline_store::record::Record;
use serde::{Deserialize, Serialize};

use super::event::Event;
use super::head::Head;
use super::id::ExecutionId;
use super::operation::Operation;

/// A record that says what cannot be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    #[error("a payload is not whole")]
    Text,
    #[error("key `{0}` is not of an execution")]
    Key(String),
}

/// Which execution has a name, and the digest of what it began with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct NameRecord {
    pub id: ExecutionId,
    /// `ARN` of the execution.
    pub arn: String,
    pub payload: Digest,
}

impl Record for Head {
    const FORMAT: u32 = 1;
}

impl Record for Operation {
    const FORMAT: u32 = 1;
}

impl Record for Event {
    const FORMAT: u32 = 1;
}

impl Record for NameRecord {
    const FORMAT: u32 = 1;
}

#[cfg(test)]
mod tests;
