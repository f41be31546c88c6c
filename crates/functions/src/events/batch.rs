//! A batch of a stream's events as a function sees it: the records of a Kinesis stream.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bowline_foundation::clock::Timestamp;
use bowline_stream::{Event, Position};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::pattern::Pattern;

/// A stream appears as one shard: its order is global.
pub(crate) const SHARD: &str = "shardId-000000000000";

/// What the records of one mapping share.
pub(crate) struct Frame {
    pub source_arn: String,
    pub region: String,
    pub role: String,
}

#[derive(Serialize)]
struct Batch<'a> {
    #[serde(rename = "Records")]
    records: Vec<Record<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Record<'a> {
    kinesis: Kinesis,
    event_source: &'static str,
    event_version: &'static str,
    #[serde(rename = "eventID")]
    event_id: String,
    event_name: &'static str,
    invoke_identity_arn: &'a str,
    aws_region: &'a str,
    #[serde(rename = "eventSourceARN")]
    event_source_arn: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Kinesis {
    kinesis_schema_version: &'static str,
    partition_key: String,
    sequence_number: String,
    data: String,
    approximate_arrival_timestamp: f64,
}

/// When an event was appended.
pub(crate) fn arrival(event: &Event) -> Timestamp {
    event.position.stamp.moment()
}

/// The function's event.
pub(crate) fn payload(frame: &Frame, events: &[&Event]) -> Bytes {
    let records = events.iter().map(|event| record(frame, event)).collect();
    let bytes = serde_json::to_vec(&Batch { records }).expect("records hold text keys and finite numbers only");
    bytes.into()
}

fn record<'a>(frame: &'a Frame, event: &Event) -> Record<'a> {
    let sequence_number = sequence_number(event.position);
    Record {
        event_id: format!("{SHARD}:{sequence_number}"),
        kinesis: Kinesis {
            kinesis_schema_version: "1.0",
            partition_key: partition_key(event),
            sequence_number,
            data: STANDARD.encode(&event.body),
            approximate_arrival_timestamp: arrival(event).as_millis() as f64 / 1000.0,
        },
        event_source: "aws:kinesis",
        event_version: "1.0",
        event_name: "aws:kinesis:record",
        invoke_identity_arn: &frame.role,
        aws_region: &frame.region,
        event_source_arn: &frame.source_arn,
    }
}

/// The event's key; the event's own identifier if it has none, as a record must have one.
fn partition_key(event: &Event) -> String {
    match &event.key {
        Some(key) => String::from_utf8_lossy(key).into_owned(),
        None => event.id.0.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

/// A position as a decimal number, as clients expect of a sequence number; it grows as positions do.
pub(crate) fn sequence_number(position: Position) -> String {
    const CHUNK: u64 = 1_000_000_000;
    let mut words: Vec<u64> = position
        .to_bytes()
        .chunks(4)
        .map(|word| word.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
        .collect();
    let mut chunks = Vec::new();
    while words.iter().any(|word| *word != 0) {
        let mut rest = 0;
        for word in &mut words {
            let value = rest << 32 | *word;
            *word = value / CHUNK;
            rest = value % CHUNK;
        }
        chunks.push(rest);
    }
    let Some(first) = chunks.pop() else {
        return "0".to_owned();
    };
    chunks
        .iter()
        .rev()
        .fold(first.to_string(), |text, chunk| text + &format!("{chunk:09}"))
}

/// Whether an event passes a mapping's filters: one of them fits, or there are none.
///
/// A filter looks at `data`, which is the event's body as JSON, or as text if it is not JSON, and at
/// `partitionKey`.
pub(crate) fn passes(filters: &[Pattern], event: &Event) -> bool {
    if filters.is_empty() {
        return true;
    }
    let data = serde_json::from_slice(&event.body)
        .or_else(|_| std::str::from_utf8(&event.body).map(|text| Value::String(text.to_owned())))
        .unwrap_or(Value::Null);
    let seen = json!({ "data": data, "partitionKey": partition_key(event) });
    filters.iter().any(|filter| filter.matches_record(&seen, "data"))
}

/// What the function says about its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Processed,
    /// The event of this index failed, and all after it are to be given again.
    FailedFrom(usize),
    /// The answer names something that is not in the batch, or nothing.
    Unintelligible,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Failures {
    batch_item_failures: Option<Vec<Value>>,
}

/// Reads the answer of a function that reports which events failed.
pub(crate) fn answer(answer: &[u8], events: &[&Event]) -> Answer {
    let index = |name: &String| {
        let is_named = |event: &&Event| sequence_number(event.position) == *name;
        events.iter().position(is_named)
    };
    let indices = failures(answer).and_then(|names| names.iter().map(index).collect::<Option<Vec<_>>>());
    match indices {
        None => Answer::Unintelligible,
        Some(indices) => indices.into_iter().min().map_or(Answer::Processed, Answer::FailedFrom),
    }
}

/// The items that an answer says have failed; none if it names something other than a text.
pub(crate) fn failures(answer: &[u8]) -> Option<Vec<String>> {
    let text = answer.trim_ascii();
    if text.is_empty() || matches!(text, b"null" | b"\"\"") {
        return Some(Vec::new());
    }
    let Failures { batch_item_failures } = serde_json::from_slice(text).ok()?;
    let failures = batch_item_failures.unwrap_or_default();
    let name = |failure: &Value| Some(failure.get("itemIdentifier")?.as_str()?.to_owned());
    failures.iter().map(name).collect()
}

#[cfg(test)]
mod tests {
    use bowline_stream::{ChainId, EventId, HostId, Stamp};

    use super::*;

    fn event(index: u64, key: Option<&str>, body: &str) -> Event {
        Event {
            position: Position {
                stamp: Stamp::of(Timestamp::from_micros(1_545_084_650_987_000)),
                host: HostId(7),
                chain: ChainId(1),
                index,
            },
            id: EventId([0xab; 16]),
            key: key.map(|key| Bytes::copy_from_slice(key.as_bytes())),
            body: Bytes::copy_from_slice(body.as_bytes()),
        }
    }

    #[test]
    fn sequence_numbers_are_decimal_and_keep_the_order() {
        let at = |bytes: [u8; Position::BYTES]| sequence_number(Position::from_bytes(&bytes));
        assert_eq!(at([0; 28]), "0");
        let mut bytes = [0; 28];
        bytes[27] = 255;
        assert_eq!(at(bytes), "255");
        bytes[23] = 1;
        assert_eq!(at(bytes), ((1_u64 << 32) + 255).to_string());
        bytes[12] = 1;
        assert_eq!(at(bytes), ((1_u128 << 120) + (1 << 32) + 255).to_string());
        // 2^224 - 1.
        assert_eq!(
            at([255; 28]),
            "26959946667150639794667015087019630673637144422540572481103610249215"
        );
    }

    #[test]
    fn a_function_sees_kinesis_records() {
        let frame = Frame {
            source_arn: "arn:aws:kinesis:us-east-1:000000000000:stream/s".to_owned(),
            region: "us-east-1".to_owned(),
            role: "arn:aws:iam::000000000000:role/any".to_owned(),
        };
        let (keyed, bare) = (event(1, Some("k"), "hello"), event(2, None, "x"));
        let payload: Value = serde_json::from_slice(&payload(&frame, &[&keyed, &bare])).unwrap();
        let number = sequence_number(keyed.position);
        let expected = json!({
            "kinesis": {
                "kinesisSchemaVersion": "1.0",
                "partitionKey": "k",
                "sequenceNumber": number,
                "data": "aGVsbG8=",
                "approximateArrivalTimestamp": 1_545_084_650.987,
            },
            "eventSource": "aws:kinesis",
            "eventVersion": "1.0",
            "eventID": format!("shardId-000000000000:{number}"),
            "eventName": "aws:kinesis:record",
            "invokeIdentityArn": "arn:aws:iam::000000000000:role/any",
            "awsRegion": "us-east-1",
            "eventSourceARN": "arn:aws:kinesis:us-east-1:000000000000:stream/s",
        });
        assert_eq!(payload["Records"][0], expected);
        assert_eq!(payload["Records"][1]["kinesis"]["partitionKey"], "ab".repeat(16));
    }

    #[test]
    fn filters_see_json_and_text() {
        let parse = |patterns: &[&str]| -> Vec<Pattern> {
            let parsed = patterns.iter().map(|pattern| Pattern::parse(pattern));
            parsed.collect::<Result<_, _>>().unwrap()
        };
        let check = |patterns: &[&str], body: &str, expected: bool| {
            assert_eq!(
                passes(&parse(patterns), &event(1, Some("k"), body)),
                expected,
                "{patterns:?} {body}"
            );
        };
        check(&[], "anything", true);
        check(&[r#"{"data": {"n": [1]}}"#], r#"{"n": 1}"#, true);
        check(&[r#"{"data": {"n": [1]}}"#], r#"{"n": 2}"#, false);
        check(&[r#"{"data": {"n": [1]}}"#], "plain", false);
        check(&[r#"{"data": ["plain"]}"#], "plain", true);
        check(&[r#"{"data": ["plain"]}"#], r#"{"n": 1}"#, false);
        check(&[r#"{"data": ["a"]}"#, r#"{"data": ["b"]}"#], "b", true);
        check(&[r#"{"partitionKey": ["k"]}"#], "x", true);
        check(&[r#"{"partitionKey": ["l"]}"#], "x", false);
    }

    #[test]
    fn answers_name_the_first_failure() {
        let events = [event(1, None, "a"), event(2, None, "b"), event(3, None, "c")];
        let events: Vec<&Event> = events.iter().collect();
        let named = |index: usize| sequence_number(events[index].position);
        let check = |text: String, expected| assert_eq!(answer(text.as_bytes(), &events), expected, "{text}");
        for text in [
            "",
            "null",
            "{}",
            " {\"batchItemFailures\": []} ",
            "{\"batchItemFailures\": null}",
            "\"\"",
        ] {
            check(text.to_owned(), Answer::Processed);
        }
        let one = |name: &str| format!("{{\"batchItemFailures\": [{{\"itemIdentifier\": \"{name}\"}}]}}");
        check(one(&named(1)), Answer::FailedFrom(1));
        check(
            json!({ "batchItemFailures": [{ "itemIdentifier": named(2) }, { "itemIdentifier": named(0) }] })
                .to_string(),
            Answer::FailedFrom(0),
        );
        for text in [
            one(""),
            one("12"),
            "{\"batchItemFailures\": [{\"itemIdentifier\": null}]}".to_owned(),
            "{\"batchItemFailures\": [{\"id\": \"1\"}]}".to_owned(),
            "{\"batchItemFailures\": 7}".to_owned(),
            "\"text\"".to_owned(),
        ] {
            check(text, Answer::Unintelligible);
        }
    }
}
