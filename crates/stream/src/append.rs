//! What a producer hands in, what it gets back, and why it may be refused.

use bytes::Bytes;

use crate::config::{APPEND_BYTES_MAX, APPEND_EVENTS_MAX, BODY_BYTES_MAX, KEY_BYTES_MAX};
use crate::hybrid::ClockSkew;
use crate::{EventId, StreamId};

/// An event to be appended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The client's token: appended again with the same one, the event is stored once. The first record
    /// of an append decides which chain takes them all, so a retry must begin with the same record.
    pub id: Option<EventId>,
    pub key: Option<Bytes>,
    pub body: Bytes,
}

/// Why an append failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AppendError {
    #[error("stream `{0}` does not exist")]
    NoSuchStream(StreamId),
    /// A limit on records is exceeded; a retry is refused again.
    #[error("append has `{actual}` {what}, at most `{max}`")]
    TooLarge {
        what: &'static str,
        actual: usize,
        max: usize,
    },
    #[error("append has no records")]
    Empty,
    /// Too much waits already; nothing was stored, retry later.
    #[error("stream `{0}` has too many appends waiting on this host")]
    Overloaded(StreamId),
    /// Nothing was stored; retry later.
    #[error("stream `{stream}` takes no appends now: {reason}")]
    Unavailable { stream: StreamId, reason: String },
    /// Stored or not, unknown; a retry with the same identifiers is safe.
    #[error("whether the append to `{stream}` was stored is unknown: {reason}")]
    Unknown { stream: StreamId, reason: String },
    /// This host's clock is wrong; nothing was stored, another host may take it.
    #[error(transparent)]
    ClockSkew(#[from] ClockSkew),
    /// Other hosts have taken this host for dead, and it is about to join anew; nothing was stored.
    #[error("this host has lost its lease and joins the cluster anew; try again")]
    Fenced,
    /// What is stored is damaged or of a format this build does not know.
    #[error("stream `{stream}` is damaged: {reason}")]
    Damaged { stream: StreamId, reason: String },
}

impl AppendError {
    /// Whether the same append may succeed later.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Overloaded(_) | Self::Unavailable { .. } | Self::Unknown { .. } | Self::ClockSkew(_) | Self::Fenced
        )
    }
}

/// Checks an append against the limits.
pub(crate) fn check(records: &[Record]) -> Result<(), AppendError> {
    if records.is_empty() {
        return Err(AppendError::Empty);
    }
    at_most("records", records.len(), APPEND_EVENTS_MAX)?;
    let mut bytes = 0;
    for record in records {
        let key_bytes = record.key.as_ref().map_or(0, Bytes::len);
        at_most("bytes of a key", key_bytes, KEY_BYTES_MAX)?;
        at_most("bytes of a body", record.body.len(), BODY_BYTES_MAX)?;
        bytes += key_bytes + record.body.len();
    }
    at_most("bytes", bytes, APPEND_BYTES_MAX)
}

fn at_most(what: &'static str, actual: usize, max: usize) -> Result<(), AppendError> {
    if actual <= max {
        return Ok(());
    }
    Err(AppendError::TooLarge { what, actual, max })
}
