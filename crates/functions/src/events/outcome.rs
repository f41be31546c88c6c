//! The records that destinations get, in the service's own shapes.

use bowline_foundation::clock::Timestamp;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// Why an event's way is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Condition {
    Success,
    RetriesExhausted,
    EventAgeExceeded,
}

/// What is told of an event's outcome.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub request_id: String,
    /// The function's ARN with the qualifier, `$LATEST` included.
    pub function_arn: String,
    pub condition: Condition,
    /// How often the function has been invoked with it.
    pub invocations: u32,
    pub request: Bytes,
    /// What the last invocation gave, if there was one.
    pub response: Option<Response>,
    pub at: Timestamp,
}

/// What an invocation gave.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    pub executed_version: String,
    pub failed: Verdict,
    pub payload: Bytes,
}

/// Whether the function itself failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Succeeded,
    Failed,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Record<'a> {
    version: &'static str,
    timestamp: String,
    request_context: RequestContext<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_payload: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_context: Option<ResponseContext<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_payload: Option<&'a RawValue>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct RequestContext<'a> {
    request_id: &'a str,
    function_arn: &'a str,
    condition: &'a str,
    approximate_invoke_count: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ResponseContext<'a> {
    status_code: u16,
    executed_version: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    function_error: Option<&'static str>,
}

impl Response {
    fn context(&self) -> ResponseContext<'_> {
        ResponseContext {
            status_code: 200,
            executed_version: &self.executed_version,
            function_error: (self.failed == Verdict::Failed).then_some("Unhandled"),
        }
    }
}

impl Outcome {
    /// The record of at most `bytes_max` bytes: a payload that would not fit is left out, the answer's
    /// first.
    pub fn record(&self, bytes_max: usize) -> Bytes {
        let [whole, short] = [true, false].map(|answered| self.encode(true, answered));
        [whole, short]
            .into_iter()
            .find(|record| record.len() <= bytes_max)
            .unwrap_or_else(|| self.encode(false, false))
    }

    #[allow(clippy::fn_params_excessive_bools, reason = "which of the two payloads are in")]
    fn encode(&self, requested: bool, answered: bool) -> Bytes {
        let condition = match self.condition {
            Condition::Success => "Success",
            Condition::RetriesExhausted => "RetriesExhausted",
            Condition::EventAgeExceeded => "EventAgeExceeded",
        };
        let record = Record {
            version: "1.0",
            timestamp: moment(self.at),
            request_context: RequestContext {
                request_id: &self.request_id,
                function_arn: &self.function_arn,
                condition,
                approximate_invoke_count: self.invocations,
            },
            request_payload: raw(&self.request).filter(|_| requested),
            response_context: self.response.as_ref().map(Response::context),
            response_payload: self
                .response
                .as_ref()
                .and_then(|response| raw(&response.payload))
                .filter(|_| answered),
        };
        encode(&record)
    }
}

/// Why a batch was given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BatchCondition {
    RetryAttemptsExhausted,
    RecordAgeExceeded,
}

/// What is told of a batch that was given up: where it lies, not what it holds.
#[derive(Clone, Debug)]
pub(crate) struct LostBatch {
    pub request_id: String,
    pub function_arn: String,
    pub condition: BatchCondition,
    pub invocations: u32,
    pub response: Option<Response>,
    pub at: Timestamp,
    pub stream_arn: String,
    pub shard: &'static str,
    /// The sequence number and the arrival of the first and the last event.
    pub first: (String, Timestamp),
    pub last: (String, Timestamp),
    pub events: usize,
    /// The mapping's identifier.
    pub mapping: String,
    /// The function's event, kept where it may be told.
    pub payload: Option<Bytes>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LostBatchRecord<'a> {
    request_context: RequestContext<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_context: Option<ResponseContext<'a>>,
    version: &'static str,
    timestamp: String,
    #[serde(rename = "KinesisBatchInfo")]
    batch: BatchInfo<'a>,
    /// JSON as a text.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BatchInfo<'a> {
    shard_id: &'a str,
    start_sequence_number: &'a str,
    end_sequence_number: &'a str,
    approximate_arrival_of_first_record: String,
    approximate_arrival_of_last_record: String,
    batch_size: usize,
    stream_arn: &'a str,
}

impl LostBatch {
    /// Where the batch lies.
    pub fn record(&self) -> Bytes {
        self.encode(None)
    }

    /// The same with what the batch holds, if that is known.
    pub fn whole_record(&self) -> Bytes {
        self.encode(self.payload.as_deref())
    }

    fn encode(&self, payload: Option<&[u8]>) -> Bytes {
        let condition = match self.condition {
            BatchCondition::RetryAttemptsExhausted => "RetryAttemptsExhausted",
            BatchCondition::RecordAgeExceeded => "RecordAgeExceeded",
        };
        encode(&LostBatchRecord {
            request_context: RequestContext {
                request_id: &self.request_id,
                function_arn: &self.function_arn,
                condition,
                approximate_invoke_count: self.invocations,
            },
            response_context: self.response.as_ref().map(Response::context),
            version: "1.0",
            timestamp: moment(self.at),
            batch: BatchInfo {
                shard_id: self.shard,
                start_sequence_number: &self.first.0,
                end_sequence_number: &self.last.0,
                approximate_arrival_of_first_record: moment(self.first.1),
                approximate_arrival_of_last_record: moment(self.last.1),
                batch_size: self.events,
                stream_arn: &self.stream_arn,
            },
            payload: payload.and_then(|payload| std::str::from_utf8(payload).ok()),
        })
    }
}

fn encode(record: &impl Serialize) -> Bytes {
    let bytes = serde_json::to_vec(record).expect("a record holds text keys and finite numbers only");
    bytes.into()
}

fn raw(payload: &Bytes) -> Option<&RawValue> {
    serde_json::from_slice(payload).ok()
}

/// `2019-11-14T18:16:05.568Z`.
fn moment(at: Timestamp) -> String {
    at.to_lambda_string().replace("+0000", "Z")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn outcome(condition: Condition, response: Option<Response>) -> Outcome {
        Outcome {
            request_id: "e4b46cbf".to_owned(),
            function_arn: "arn:aws:lambda:us-east-1:000000000000:function:f:$LATEST".to_owned(),
            condition,
            invocations: 3,
            request: Bytes::from_static(b"{\"ORDER\": 1.10}"),
            response,
            at: Timestamp::from_micros(1_795_217_079_123_456),
        }
    }

    fn failure(payload: Bytes) -> Response {
        Response {
            executed_version: "$LATEST".to_owned(),
            failed: Verdict::Failed,
            payload,
        }
    }

    fn read(record: &Bytes) -> Value {
        serde_json::from_slice(record).unwrap()
    }

    #[test]
    fn an_outcome_has_the_services_shape() {
        let answer = Bytes::from_static(b"{\"errorMessage\":\"no\"}");
        let record = outcome(Condition::RetriesExhausted, Some(failure(answer))).record(1000);
        let expected = json!({
            "version": "1.0",
            "timestamp": "2026-11-20T23:24:39.123Z",
            "requestContext": {
                "requestId": "e4b46cbf",
                "functionArn": "arn:aws:lambda:us-east-1:000000000000:function:f:$LATEST",
                "condition": "RetriesExhausted",
                "approximateInvokeCount": 3,
            },
            "requestPayload": { "ORDER": 1.1 },
            "responseContext": {
                "statusCode": 200,
                "executedVersion": "$LATEST",
                "functionError": "Unhandled",
            },
            "responsePayload": { "errorMessage": "no" },
        });
        assert_eq!(read(&record), expected);
        // Payloads are passed on as they came.
        assert!(String::from_utf8_lossy(&record).contains("{\"ORDER\": 1.10}"));
    }

    #[test]
    fn an_event_that_was_never_tried_has_no_response() {
        let record = read(&outcome(Condition::EventAgeExceeded, None).record(1000));
        assert_eq!(record["requestContext"]["condition"], "EventAgeExceeded");
        assert!(record.get("responseContext").is_none() && record.get("responsePayload").is_none());
    }

    #[test]
    fn payloads_that_do_not_fit_are_left_out() {
        let answer = Bytes::from(format!("\"{}\"", "x".repeat(1000)));
        let told = outcome(Condition::Success, Some(failure(answer)));
        assert!(read(&told.record(10_000))["responsePayload"].is_string());
        let short = read(&told.record(800));
        assert!(short.get("responsePayload").is_none() && short["requestPayload"].is_object());
        let shortest = read(&told.record(10));
        assert!(shortest.get("requestPayload").is_none() && shortest["responseContext"].is_object());
    }

    #[test]
    fn a_lost_batch_tells_where_it_lies() {
        let at = Timestamp::from_micros(1_795_217_079_123_456);
        let lost = LostBatch {
            request_id: "c9b8fa9f".to_owned(),
            function_arn: "arn:aws:lambda:us-east-1:000000000000:function:f".to_owned(),
            condition: BatchCondition::RetryAttemptsExhausted,
            invocations: 1,
            response: Some(failure(Bytes::new())),
            at,
            stream_arn: "arn:aws:kinesis:us-east-1:000000000000:stream/s".to_owned(),
            shard: "shardId-000000000000",
            first: ("1".to_owned(), at),
            last: ("9".to_owned(), at),
            events: 4,
            mapping: "m".to_owned(),
            payload: Some(Bytes::from_static(b"{\"Records\":[]}")),
        };
        assert_eq!(read(&lost.whole_record())["payload"], "{\"Records\":[]}");
        let record = read(&lost.record());
        assert!(record.get("payload").is_none());
        assert_eq!(record["requestContext"]["condition"], "RetryAttemptsExhausted");
        assert_eq!(
            record["KinesisBatchInfo"],
            json!({
                "shardId": "shardId-000000000000",
                "startSequenceNumber": "1",
                "endSequenceNumber": "9",
                "approximateArrivalOfFirstRecord": "2026-11-20T23:24:39.123Z",
                "approximateArrivalOfLastRecord": "2026-11-20T23:24:39.123Z",
                "batchSize": 4,
                "streamArn": "arn:aws:kinesis:us-east-1:000000000000:stream/s",
            })
        );
    }
}
