//! An event as it waits in a stream: a line of JSON that says whose it is, then the payload as it came.
//!
//! ```text
//! {"format":1,"request_id":"...","account":"...","function":"f","qualifier":"live",...}\n PAYLOAD
//! ```
//! Fields and the format's number never change their meaning; a new field has a default. An event lies
//! so in its function's stream, and in a delay line while it waits to be tried again.

use bowline_foundation::clock::Timestamp;
use bowline_foundation::digest::Digest;
use bowline_foundation::id::AccountId;
use bowline_stream::EventId;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::headed::{self, RecordError};

const FORMAT: u32 = 1;

/// An event that a caller left with a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Envelope {
    pub head: Head,
    pub payload: Bytes,
}

/// What is known of an event beside its payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    format: u32,
    pub request_id: String,
    pub account: AccountId,
    pub function: String,
    /// As the caller named the function; none for `$LATEST` without a qualifier.
    pub qualifier: Option<String>,
    pub client_context: Option<String>,
    pub trace_id: Option<String>,
    /// When it was accepted: its age counts from here.
    pub accepted_at: Timestamp,
    /// Tries that ended in the function's error.
    pub tries: u32,
    /// Not to be tried before.
    pub not_before: Timestamp,
    /// Outcomes that led to this event, one after the other.
    pub hops: u32,
    /// The end of a payload that does not fit in an event lies behind this key of the store.
    #[serde(default)]
    pub overflow: Option<String>,
}

/// What a new event is made of.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub request_id: String,
    pub account: AccountId,
    pub function: String,
    pub qualifier: Option<String>,
    pub client_context: Option<String>,
    pub trace_id: Option<String>,
    pub accepted_at: Timestamp,
    pub hops: u32,
}

impl Envelope {
    pub fn new(origin: Origin, payload: Bytes) -> Self {
        let head = Head {
            format: FORMAT,
            request_id: origin.request_id,
            account: origin.account,
            function: origin.function,
            qualifier: origin.qualifier,
            client_context: origin.client_context,
            trace_id: origin.trace_id,
            accepted_at: origin.accepted_at,
            tries: 0,
            not_before: origin.accepted_at,
            hops: origin.hops,
            overflow: None,
        };
        Self { head, payload }
    }

    pub fn encode(&self) -> Bytes {
        headed::encode(&self.head, &self.payload)
    }

    pub fn decode(bytes: &Bytes) -> Result<Self, RecordError> {
        let (head, payload) = headed::decode(bytes, FORMAT)?;
        Ok(Self { head, payload })
    }

    /// An identifier that is the same whoever does this step of this try of this event, and however often.
    pub fn step_id(&self, step: &str) -> EventId {
        step_id(&[&self.head.request_id, &self.head.tries.to_string(), step])
    }
}

/// An identifier made of what it is about.
pub(crate) fn step_id(parts: &[&str]) -> EventId {
    let digest = Digest::of(parts.join("\0").as_bytes());
    let mut id = [0; 16];
    id.copy_from_slice(&digest.as_bytes()[..16]);
    EventId(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope() -> Envelope {
        let origin = Origin {
            request_id: "7f1a1a0e-38a6-4c8b-8a3a-2f6ed1b4b1c5".to_owned(),
            account: AccountId::default_account(),
            function: "f".to_owned(),
            qualifier: Some("live".to_owned()),
            client_context: Some("{\"a\":\"\\n\"}".to_owned()),
            trace_id: None,
            accepted_at: Timestamp::from_micros(1_795_217_079_123_456),
            hops: 1,
        };
        Envelope::new(origin, Bytes::from_static(b"{\n\"a\": 1}\n"))
    }

    #[test]
    fn an_event_is_read_from_its_golden_file_and_written_as_it() {
        let golden = include_bytes!("golden/envelope-1.bin");
        assert_eq!(envelope().encode(), golden.as_slice());
        assert_eq!(Envelope::decode(&Bytes::from_static(golden)).unwrap(), envelope());
    }

    #[test]
    fn other_formats_and_damage_are_told_apart() {
        let newer = Bytes::from_static(b"{\"format\":2,\"more\":1}\n{}");
        assert!(matches!(
            Envelope::decode(&newer),
            Err(RecordError::Format { actual: 2, .. })
        ));
        for bad in [&b""[..], b"{}", b"\xff\n{}", b"{\"format\":1}\n{}"] {
            let decoded = Envelope::decode(&Bytes::copy_from_slice(bad));
            assert!(matches!(decoded, Err(RecordError::Damaged(_))), "{bad:?}");
        }
    }

    #[test]
    fn steps_of_different_tries_have_different_identifiers() {
        let (first, mut second) = (envelope(), envelope());
        assert_eq!(first.step_id("retry"), second.step_id("retry"));
        assert_ne!(first.step_id("retry"), second.step_id("outcome"));
        second.head.tries = 1;
        assert_ne!(first.step_id("retry"), second.step_id("retry"));
    }
}
