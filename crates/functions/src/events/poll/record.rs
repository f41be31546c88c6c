//! A batch of messages as a function sees it: the records of an SQS queue.

use std::collections::BTreeMap;

use bowline_aws::sqs::{Attribute, Message};
use bytes::Bytes;
use serde::Serialize;
use serde_json::{Value, json};

use crate::pattern::Pattern;

/// What the records of one mapping share.
#[derive(Clone)]
pub(super) struct Frame {
    pub source_arn: String,
    pub region: String,
}

#[derive(Serialize)]
struct Batch<'a> {
    #[serde(rename = "Records")]
    records: Vec<Record<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Record<'a> {
    message_id: &'a str,
    receipt_handle: &'a str,
    body: &'a str,
    attributes: &'a BTreeMap<String, String>,
    message_attributes: BTreeMap<&'a str, AttributeRecord<'a>>,
    md5_of_body: &'a str,
    event_source: &'static str,
    #[serde(rename = "eventSourceARN")]
    event_source_arn: &'a str,
    aws_region: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AttributeRecord<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    string_value: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    binary_value: Option<&'a str>,
    /// Lists are part of the form, and always empty.
    string_list_values: [&'static str; 0],
    binary_list_values: [&'static str; 0],
    data_type: &'a str,
}

/// The function's event.
pub(super) fn payload(frame: &Frame, messages: &[&Message]) -> Bytes {
    let records = messages.iter().map(|message| record(frame, message)).collect();
    let bytes = serde_json::to_vec(&Batch { records }).expect("records hold texts only");
    bytes.into()
}

fn record<'a>(frame: &'a Frame, message: &'a Message) -> Record<'a> {
    let attributes = message.message_attributes.iter();
    Record {
        message_id: &message.message_id,
        receipt_handle: &message.receipt_handle,
        body: &message.body,
        attributes: &message.attributes,
        message_attributes: attributes
            .map(|(name, value)| (name.as_str(), attribute(value)))
            .collect(),
        md5_of_body: &message.md5_of_body,
        event_source: "aws:sqs",
        event_source_arn: &frame.source_arn,
        aws_region: &frame.region,
    }
}

fn attribute(attribute: &Attribute) -> AttributeRecord<'_> {
    AttributeRecord {
        string_value: attribute.string_value.as_deref(),
        binary_value: attribute.binary_value.as_deref(),
        string_list_values: [],
        binary_list_values: [],
        data_type: &attribute.data_type,
    }
}

/// Whether a message passes a mapping's filters: one of them fits, or there are none.
///
/// A filter looks at `body`, which is JSON or else a text, and at what else the record shows.
pub(super) fn passes(filters: &[Pattern], message: &Message) -> bool {
    if filters.is_empty() {
        return true;
    }
    let body = serde_json::from_str(&message.body).unwrap_or_else(|_| Value::String(message.body.clone()));
    let attributes = message.message_attributes.iter();
    let attributes: BTreeMap<_, _> = attributes.map(|(name, value)| (name, attribute(value))).collect();
    let seen = json!({
        "messageId": message.message_id,
        "receiptHandle": message.receipt_handle,
        "body": body,
        "attributes": message.attributes,
        "messageAttributes": attributes,
        "md5OfBody": message.md5_of_body,
    });
    filters.iter().any(|filter| filter.matches_record(&seen, "body"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(body: &str) -> Message {
        let colour = Attribute {
            data_type: "String".to_owned(),
            string_value: Some("blue".to_owned()),
            binary_value: None,
        };
        Message {
            message_id: "m-1".to_owned(),
            receipt_handle: "r-1".to_owned(),
            body: body.to_owned(),
            md5_of_body: "5d41402abc4b2a76b9719d911017c592".to_owned(),
            attributes: BTreeMap::from([("SentTimestamp".to_owned(), "1545082649183".to_owned())]),
            message_attributes: BTreeMap::from([("colour".to_owned(), colour)]),
        }
    }

    #[test]
    fn a_function_sees_sqs_records() {
        let frame = Frame {
            source_arn: "arn:aws:sqs:us-east-1:000000000000:jobs".to_owned(),
            region: "us-east-1".to_owned(),
        };
        let payload: Value = serde_json::from_slice(&payload(&frame, &[&message("hello")])).unwrap();
        let expected = json!({"Records": [{
            "messageId": "m-1",
            "receiptHandle": "r-1",
            "body": "hello",
            "attributes": {"SentTimestamp": "1545082649183"},
            "messageAttributes": {"colour": {
                "stringValue": "blue", "stringListValues": [], "binaryListValues": [], "dataType": "String",
            }},
            "md5OfBody": "5d41402abc4b2a76b9719d911017c592",
            "eventSource": "aws:sqs",
            "eventSourceARN": "arn:aws:sqs:us-east-1:000000000000:jobs",
            "awsRegion": "us-east-1",
        }]});
        assert_eq!(payload, expected);
    }

    #[test]
    fn filters_see_bodies_and_attributes() {
        let check = |pattern: &str, body: &str, expected: bool| {
            let filters = [Pattern::parse(pattern).unwrap()];
            assert_eq!(passes(&filters, &message(body)), expected, "{pattern} {body}");
        };
        check(r#"{"body": {"n": [1]}}"#, r#"{"n": 1}"#, true);
        check(r#"{"body": {"n": [1]}}"#, r#"{"n": 2}"#, false);
        check(r#"{"body": ["plain"]}"#, "plain", true);
        let absent = r#"{"body": {"n": [{"exists": false}]}}"#;
        check(absent, r#"{"m": 1}"#, true);
        for body in ["plain", "5", r#""text""#, "[]"] {
            check(absent, body, false);
        }
        let either = r#"{"$or": [{"body": {"n": [{"exists": false}]}}, {"messageId": ["m-1"]}]}"#;
        check(either, "plain", true);
        check(
            r#"{"messageAttributes": {"colour": {"stringValue": ["blue"]}}}"#,
            "x",
            true,
        );
        check(
            r#"{"messageAttributes": {"colour": {"stringValue": ["red"]}}}"#,
            "x",
            false,
        );
        assert!(passes(&[], &message("x")));
    }
}
