//! Records with a payload as they lie in streams: a line of JSON that ends with a line feed, then the payload as it is.

use bytes::{BufMut, Bytes, BytesMut};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A record that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    #[error("event has format `{actual}`, this build knows `{known}`")]
    Format { actual: u32, known: u32 },
    #[error("event is damaged")]
    Damaged(#[from] serde_json::Error),
}

#[derive(Deserialize)]
struct Version {
    format: u32,
}

pub(super) fn encode(head: &impl Serialize, payload: &[u8]) -> Bytes {
    let head = serde_json::to_vec(head).expect("a head holds text keys only");
    let mut bytes = BytesMut::with_capacity(head.len() + 1 + payload.len());
    bytes.put_slice(&head);
    bytes.put_u8(b'\n');
    bytes.put_slice(payload);
    bytes.freeze()
}

/// The head of a record of format `known`, and its payload.
pub(super) fn decode<H: DeserializeOwned>(bytes: &Bytes, known: u32) -> Result<(H, Bytes), RecordError> {
    // JSON text has no raw line feed within its tokens, so the first one ends the head.
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let Version { format } = serde_json::from_slice(&bytes[..end])?;
    if format != known {
        return Err(RecordError::Format { actual: format, known });
    }
    let head = serde_json::from_slice(&bytes[..end])?;
    Ok((head, bytes.slice((end + 1).min(bytes.len())..)))
}
