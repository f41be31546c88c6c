//! What a destination is told, in the form that each kind of destination takes.

use bowline_aws::sqs::Attribute;
use bowline_foundation::clock::Timestamp;
use bowline_stream::EventId;
use bytes::Bytes;

use super::outcome::{LostBatch, Outcome};
use super::trouble::Trouble;

/// A record on its way.
#[derive(Clone, Copy)]
pub(super) enum Content<'a> {
    /// Of an event of the function of this name.
    Outcome(&'a Outcome, &'a str),
    /// An event itself, and why it is given up.
    Event {
        request_id: &'a str,
        payload: &'a Bytes,
        trouble: &'a Trouble,
    },
    Lost(&'a LostBatch),
}

impl Content<'_> {
    /// The record; what can be left out of it is, if it would have more than so many bytes.
    pub fn bytes(&self, bytes_max: usize) -> Bytes {
        match self {
            Self::Outcome(outcome, _) => outcome.record(bytes_max),
            Self::Event { payload, .. } => Bytes::clone(payload),
            Self::Lost(lost) => lost.record(),
        }
    }

    /// What is said beside the record in a queue.
    pub fn attributes(&self) -> Vec<(&'static str, Attribute)> {
        match self {
            Self::Event {
                request_id, trouble, ..
            } => trouble.attributes(request_id),
            Self::Outcome(..) | Self::Lost(_) => Vec::new(),
        }
    }

    /// The key and the body of the object that a bucket keeps: the whole record. The same record has the same key.
    pub fn object(&self, id: EventId) -> Option<(String, Bytes)> {
        match self {
            Self::Outcome(outcome, function) => {
                let key = key(&format!("aws/lambda/async/{function}"), outcome.at, id);
                Some((key, outcome.record(usize::MAX)))
            }
            Self::Lost(lost) => {
                let key = key(&format!("aws/lambda/{}/{}", lost.mapping, lost.shard), lost.at, id);
                Some((key, lost.whole_record()))
            }
            Self::Event { .. } => None,
        }
    }
}

/// `FOLDER/YYYY/MM/DD/YYYY-MM-DDTHH.MM.SS-UUID`, as the service names such objects.
fn key(folder: &str, at: Timestamp, EventId(id): EventId) -> String {
    let moment = at.to_lambda_string();
    let (day, time) = (&moment[..10], moment[11..19].replace(':', "."));
    let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    let uuid = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-");
    format!("{folder}/{}/{day}T{time}-{uuid}", day.replace('-', "/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_objects_key_is_the_services() {
        let at = Timestamp::from_micros(1_795_217_079_123_456);
        let id = EventId(*b"0123456789abcdef");
        assert_eq!(
            key("aws/lambda/async/f", at, id),
            "aws/lambda/async/f/2026/11/20/2026-11-20T23.24.39-30313233-3435-3637-3839-616263646566"
        );
    }
}
