//! How executions, their operations and their events lie in the store: JSON with a `format` number.
//!
//! A member's name and a format's number never change their meaning; a new member has a default.

use bowline_foundation::digest::Digest;
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::event::Event;
use super::head::Head;
use super::id::ExecutionId;
use super::operation::Operation;

/// A record that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    #[error("record has format `{actual}`, this build knows `{expected}`")]
    Format { actual: u32, expected: u32 },
    #[error("record is not what its format says")]
    Json(#[from] serde_json::Error),
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

/// One kind of record with its format.
pub(super) trait Record: Serialize + DeserializeOwned {
    const FORMAT: u32 = 1;

    fn encode(&self) -> Bytes {
        let wrapped = Wrapped {
            format: Self::FORMAT,
            record: self,
        };
        let text = serde_json::to_vec(&wrapped).expect("records hold text keys and finite numbers only");
        text.into()
    }

    fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let Format { format } = serde_json::from_slice(bytes)?;
        if format != Self::FORMAT {
            return Err(RecordError::Format {
                actual: format,
                expected: Self::FORMAT,
            });
        }
        let wrapped: Wrapped<Self> = serde_json::from_slice(bytes)?;
        Ok(wrapped.record)
    }
}

#[derive(Serialize, Deserialize)]
struct Wrapped<R> {
    format: u32,
    record: R,
}

#[derive(Deserialize)]
struct Format {
    format: u32,
}

impl Record for Head {}
impl Record for Operation {}
impl Record for Event {}
impl Record for NameRecord {}

#[cfg(test)]
mod tests;
