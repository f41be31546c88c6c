//! What may be sent as an event.

use bowline_foundation::limits::SYNC_PAYLOAD_BYTES_MAX;
use bytes::Bytes;
use serde::de::IgnoredAny;

use crate::error::Error;

/// Checks the size and that the event is JSON; an absent event is an empty object.
pub(crate) fn check(payload: Bytes) -> Result<Bytes, Error> {
    check_of(payload, "RequestResponse", SYNC_PAYLOAD_BYTES_MAX)
}

/// The same for an event that nobody waits for.
pub(crate) fn check_event(payload: Bytes, bytes_max: usize) -> Result<Bytes, Error> {
    check_of(payload, "Event", bytes_max)
}

fn check_of(payload: Bytes, kind: &str, bytes_max: usize) -> Result<Bytes, Error> {
    if payload.is_empty() {
        return Ok(Bytes::from_static(b"{}"));
    }
    if payload.len() > bytes_max {
        return Err(Error::RequestTooLarge(format!(
            "{} byte payload is too large for the {kind} invocation type (limit {bytes_max} bytes)",
            payload.len()
        )));
    }
    let refused = |reason: &dyn std::fmt::Display| {
        Error::InvalidRequestContent(format!(
            "Could not parse request body into json: Could not parse payload into json: {reason}"
        ))
    };
    std::str::from_utf8(&payload).map_err(|error| refused(&error))?;
    serde_json::from_slice::<IgnoredAny>(&payload).map_err(|error| refused(&error))?;
    Ok(payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_json_of_limited_size() {
        assert_eq!(check(Bytes::new()).unwrap(), "{}");
        for good in ["{}", "null", "1", "\"text\"", " [1, 2] "] {
            assert_eq!(check(Bytes::from(good)).unwrap(), good);
        }
        for bad in ["hello", "{", "{}{}", "\u{feff}{}", "{'a': 1}"] {
            assert!(
                matches!(check(Bytes::from(bad)), Err(Error::InvalidRequestContent(_))),
                "{bad}"
            );
        }
        assert!(check(Bytes::from_static(b"\"\xff\"")).is_err());
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        assert!(check(Bytes::from(deep)).is_ok());
        let text = |bytes: usize| Bytes::from(format!("\"{}\"", "x".repeat(bytes - 2)));
        assert!(check(text(SYNC_PAYLOAD_BYTES_MAX)).is_ok());
        assert!(matches!(
            check(text(SYNC_PAYLOAD_BYTES_MAX + 1)),
            Err(Error::RequestTooLarge(_))
        ));
    }
}
