//! What a destination is to be told of an event that is over, as it waits on disk while the destination is away.
//!
//! ```text
//! {"format":1,"what":"OUTCOME","arn":"...","request_id":"...",...}\n THE EVENT'S PAYLOAD THE ANSWER'S PAYLOAD
//! ```
//! It is complete: of the event itself nothing is left. Fields and the format's number never change their meaning; a new
//! field has a default.

use bowline_foundation::clock::Timestamp;
use bowline_foundation::id::AccountId;
use bowline_stream::EventId;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::arn::Purpose;
use super::envelope::step_id;
use super::headed::{self, RecordError};
use super::outcome::{Condition, Outcome, Response, Verdict};
use super::trouble::Trouble;
use crate::name::{FunctionRef, InvalidName};

const FORMAT: u32 = 1;

/// A record for a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Parcel {
    pub head: Head,
    /// The event's payload, then the answer's, but for what lies elsewhere.
    pub payload: Bytes,
}

/// What a parcel holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum What {
    /// What became of an event.
    Outcome,
    /// The event itself, for a dead-letter target.
    Letter,
}

/// What is known of a record beside payloads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Head {
    format: u32,
    pub what: What,
    /// Where it was to go first; the function's configuration may name another place by now.
    pub arn: String,
    pub request_id: String,
    pub account: AccountId,
    pub function: String,
    /// As the caller named the function.
    pub qualifier: Option<String>,
    /// Outcomes that have led to this one.
    pub hops: u32,
    pub condition: Condition,
    /// How often the function has been invoked with the event.
    pub invocations: u32,
    pub at: Timestamp,
    pub answer: Option<Answer>,
    /// The last thing that went wrong.
    pub trouble: Trouble,
    /// How long the event's payload is.
    pub request_bytes: usize,
    /// Keys of the store behind which the end of the payloads lies, if it does not fit in an event of a stream.
    #[serde(default)]
    pub overflow: Vec<String>,
}

/// What is known of the last answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Answer {
    pub executed_version: String,
    pub is_error: bool,
    pub bytes: usize,
}

/// What becomes of an event besides its outcome.
pub(super) struct Sender<'a> {
    pub target: &'a FunctionRef,
    /// Of the event.
    pub hops: u32,
    pub trouble: Trouble,
}

impl Parcel {
    pub fn new(what: What, arn: String, outcome: &Outcome, sender: Sender<'_>) -> Self {
        let answer = outcome.response.as_ref();
        let head = Head {
            format: FORMAT,
            what,
            arn,
            request_id: outcome.request_id.clone(),
            account: sender.target.account.clone(),
            function: sender.target.name.to_string(),
            qualifier: sender.target.qualifier.as_ref().map(ToString::to_string),
            hops: sender.hops + 1,
            condition: outcome.condition,
            invocations: outcome.invocations,
            at: outcome.at,
            answer: answer.map(|response| Answer {
                executed_version: response.executed_version.clone(),
                is_error: response.failed == Verdict::Failed,
                bytes: response.payload.len(),
            }),
            trouble: sender.trouble,
            request_bytes: outcome.request.len(),
            overflow: Vec::new(),
        };
        let payload = match answer {
            // A dead letter is the event alone.
            Some(response) if what == What::Outcome => [&outcome.request[..], &response.payload].concat().into(),
            _ => outcome.request.clone(),
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
}

impl Head {
    pub fn target(&self) -> Result<FunctionRef, InvalidName> {
        FunctionRef::parse(&self.function, self.qualifier.as_deref(), &self.account)
    }

    pub fn purpose(&self) -> Purpose {
        match (self.what, self.condition) {
            (What::Letter, _) => Purpose::DeadLetter,
            (What::Outcome, Condition::Success) => Purpose::Success,
            (What::Outcome, Condition::RetriesExhausted | Condition::EventAgeExceeded) => Purpose::Failure,
        }
    }

    /// The same for every record of the same kind of the same event: a crash between a step and what follows it makes
    /// two of it, which a stream stores once.
    pub fn id(&self) -> EventId {
        let step = match self.what {
            What::Outcome => "outcome",
            What::Letter => "dead-letter",
        };
        step_id(&[&self.request_id, step])
    }

    /// Bytes of all payloads.
    pub fn bytes(&self) -> usize {
        let answered = self.answer.as_ref().map_or(0, |answer| answer.bytes);
        match self.what {
            What::Outcome => self.request_bytes + answered,
            What::Letter => self.request_bytes,
        }
    }

    /// The outcome, given all payloads one after the other.
    pub fn outcome(&self, function_arn: String, whole: &Bytes) -> Outcome {
        let end = self.request_bytes.min(whole.len());
        Outcome {
            request_id: self.request_id.clone(),
            function_arn,
            condition: self.condition,
            invocations: self.invocations,
            request: whole.slice(..end),
            response: self.answer.as_ref().map(|answer| Response {
                executed_version: answer.executed_version.clone(),
                failed: if answer.is_error {
                    Verdict::Failed
                } else {
                    Verdict::Succeeded
                },
                payload: whole.slice(end..),
            }),
            at: self.at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome() -> Outcome {
        Outcome {
            request_id: "7f1a1a0e-38a6-4c8b-8a3a-2f6ed1b4b1c5".to_owned(),
            function_arn: "arn:aws:lambda:us-east-1:000000000000:function:f:live".to_owned(),
            condition: Condition::RetriesExhausted,
            invocations: 3,
            request: Bytes::from_static(b"{\n\"a\": 1}"),
            response: Some(Response {
                executed_version: "7".to_owned(),
                failed: Verdict::Failed,
                payload: Bytes::from_static(b"{\"errorMessage\":\"no\"}\n"),
            }),
            at: Timestamp::from_micros(1_795_217_079_123_456),
        }
    }

    fn parcel(what: What, outcome: &Outcome) -> Parcel {
        let target = FunctionRef::parse("f", Some("live"), &AccountId::default_account()).unwrap();
        let sender = Sender {
            target: &target,
            hops: 1,
            trouble: Trouble::of_answer(b"{\"errorMessage\":\"no\"}"),
        };
        Parcel::new(what, "arn:aws:s3:::failures".to_owned(), outcome, sender)
    }

    #[test]
    fn a_parcel_is_read_from_its_golden_file_and_written_as_it() {
        let golden = include_bytes!("golden/parcel-1.bin");
        let parcel = parcel(What::Outcome, &outcome());
        assert_eq!(parcel.encode(), golden.as_slice());
        assert_eq!(Parcel::decode(&Bytes::from_static(golden)).unwrap(), parcel);
    }

    #[test]
    fn an_outcome_comes_out_as_it_went_in() {
        let out = |put: &Outcome| {
            let bytes = parcel(What::Outcome, put).encode();
            let read = Parcel::decode(&bytes).unwrap();
            assert_eq!(read.head.bytes(), read.payload.len());
            let got = read.head.outcome(put.function_arn.clone(), &read.payload);
            assert_eq!(got.record(usize::MAX), put.record(usize::MAX));
        };
        let whole = outcome();
        out(&whole);
        out(&Outcome {
            response: None,
            condition: Condition::EventAgeExceeded,
            ..whole.clone()
        });
        let letter = parcel(What::Letter, &whole);
        assert_eq!((&letter.payload, letter.head.bytes()), (&whole.request, 9));
    }

    #[test]
    fn other_formats_and_damage_are_told_apart() {
        let newer = Bytes::from_static(b"{\"format\":2,\"more\":1}\n{}");
        let read = Parcel::decode(&newer);
        assert!(matches!(read, Err(RecordError::Format { actual: 2, .. })));
        for bad in [&b""[..], b"{}", b"\xff\n{}", b"{\"format\":1}\n{}"] {
            let read = Parcel::decode(&Bytes::copy_from_slice(bad));
            assert!(matches!(read, Err(RecordError::Damaged(_))), "{bad:?}");
        }
    }
}
