//! Receiving, deleting and sending messages by SQS's JSON wire.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::access::Access;
use crate::call::{Ask, CallError, Caller, Refusal};
use crate::endpoint::Endpoint;
use crate::sign::Paths;

/// Messages that one request may bring or delete.
pub const MESSAGES_MAX: usize = 10;
/// How long a request for messages may wait for the first.
pub const WAIT_MAX: Duration = Duration::from_secs(20);
/// How long any request may take beyond the time that it waits.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// What a queue takes at least if it does not say.
const MESSAGE_BYTES_DEFAULT: usize = 256 * 1024;
/// Ten messages of a mebibyte, escaped, with their attributes.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Queues at an endpoint.
#[derive(Clone, Debug)]
pub struct Sqs(Caller);

/// A queue that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queue {
    pub url: String,
}

/// A message that was received; it comes again when its visibility timeout is over, unless it is deleted.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Message {
    pub message_id: String,
    /// Stands for this receipt of the message.
    pub receipt_handle: String,
    #[serde(default)]
    pub body: String,
    #[serde(default, rename = "MD5OfBody")]
    pub md5_of_body: String,
    /// `SentTimestamp`, `ApproximateReceiveCount` and the like.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
    #[serde(default)]
    pub message_attributes: BTreeMap<String, Attribute>,
}

/// What a sender says about a message beside its body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Attribute {
    pub data_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub string_value: Option<String>,
    /// Base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub binary_value: Option<String>,
}

impl Attribute {
    /// Bytes that it takes in a message, with its name.
    pub fn bytes(&self, name: &str) -> usize {
        let values = [&self.string_value, &self.binary_value];
        let values: usize = values.into_iter().flatten().map(String::len).sum();
        name.len() + self.data_type.len() + values
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct QueueUrl {
    queue_url: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Attributes {
    #[serde(default)]
    attributes: HashMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Received {
    messages: Option<Vec<Message>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Deleted {
    #[serde(default)]
    failed: Vec<Value>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct DeleteEntry<'a> {
    id: String,
    receipt_handle: &'a str,
}

#[derive(Deserialize)]
struct ErrorBody {
    #[serde(rename = "__type")]
    kind: Option<String>,
    message: Option<String>,
    /// Some servers write it so, some both ways.
    #[serde(rename = "Message")]
    capital_message: Option<String>,
}

impl Sqs {
    pub fn new(endpoint: Endpoint, access: Access) -> Self {
        Self(Caller::new(endpoint, ("sqs", Paths::Normalised), access))
    }

    /// Where it is, for messages to people.
    pub fn endpoint(&self) -> &Endpoint {
        self.0.endpoint()
    }

    /// The queue of this name in an account.
    pub async fn queue(&self, account: &str, name: &str) -> Result<Queue, CallError> {
        let ask = json!({ "QueueName": name, "QueueOwnerAWSAccountId": account });
        let found: QueueUrl = self.ask("GetQueueUrl", &ask, Duration::ZERO).await?;
        Ok(Queue { url: found.queue_url })
    }

    /// How long a message that was received is withheld from others.
    pub async fn visibility_timeout(&self, queue: &Queue) -> Result<Duration, CallError> {
        let seconds = self.number(queue, "VisibilityTimeout").await?;
        let seconds = seconds.ok_or_else(|| self.0.unintelligible("`VisibilityTimeout` is missing"))?;
        Ok(Duration::from_secs(seconds))
    }

    /// The largest message that the queue takes, with its attributes.
    pub async fn message_bytes_max(&self, queue: &Queue) -> Result<usize, CallError> {
        let bytes = self.number(queue, "MaximumMessageSize").await?;
        Ok(bytes.map_or(MESSAGE_BYTES_DEFAULT, |bytes| {
            usize::try_from(bytes).unwrap_or(usize::MAX)
        }))
    }

    /// A queue's attribute that is a number, if the server has it.
    async fn number(&self, queue: &Queue, name: &str) -> Result<Option<u64>, CallError> {
        let ask = json!({ "QueueUrl": queue.url, "AttributeNames": [name] });
        let found: Attributes = self.ask("GetQueueAttributes", &ask, Duration::ZERO).await?;
        let Some(text) = found.attributes.get(name) else {
            return Ok(None);
        };
        let number = text.parse();
        number
            .map(Some)
            .map_err(|_| self.0.unintelligible(format!("`{name}` is no number: `{text}`")))
    }

    /// Puts a message into a queue. Where no answer came, it may be there all the same.
    pub async fn send_message(
        &self,
        queue: &Queue,
        body: &str,
        attributes: &[(&str, Attribute)],
    ) -> Result<(), CallError> {
        let attributes: BTreeMap<&str, &Attribute> = attributes.iter().map(|(name, value)| (*name, value)).collect();
        let ask = json!({ "QueueUrl": queue.url, "MessageBody": body, "MessageAttributes": attributes });
        self.send("SendMessage", &ask, Duration::ZERO).await.map(drop)
    }

    /// At most `messages_max` (and [`MESSAGES_MAX`]) messages; none if none came within `wait`.
    pub async fn receive(&self, queue: &Queue, messages_max: usize, wait: Duration) -> Result<Vec<Message>, CallError> {
        let wait = wait.min(WAIT_MAX);
        let ask = json!({
            "QueueUrl": queue.url,
            "MaxNumberOfMessages": messages_max.clamp(1, MESSAGES_MAX),
            "WaitTimeSeconds": wait.as_secs(),
            "AttributeNames": ["All"],
            "MessageAttributeNames": ["All"],
        });
        let answer = self.send("ReceiveMessage", &ask, wait).await?;
        read_messages(&answer).map_err(|error| self.0.unintelligible(error))
    }

    /// Deletes messages by their receipts; returns how many are left, to come again.
    pub async fn delete(&self, queue: &Queue, receipts: &[&str]) -> Result<usize, CallError> {
        let mut left = 0;
        for receipts in receipts.chunks(MESSAGES_MAX) {
            let entries: Vec<_> = receipts
                .iter()
                .enumerate()
                .map(|(number, receipt_handle)| DeleteEntry {
                    id: number.to_string(),
                    receipt_handle,
                })
                .collect();
            let ask = json!({ "QueueUrl": queue.url, "Entries": entries });
            let deleted: Deleted = self.ask("DeleteMessageBatch", &ask, Duration::ZERO).await?;
            left += deleted.failed.len();
        }
        Ok(left)
    }

    async fn ask<T: for<'de> Deserialize<'de>>(
        &self,
        operation: &str,
        body: &Value,
        wait: Duration,
    ) -> Result<T, CallError> {
        let answer = self.send(operation, body, wait).await?;
        serde_json::from_slice(&answer).map_err(|error| self.0.unintelligible(error))
    }

    async fn send(&self, operation: &str, body: &Value, wait: Duration) -> Result<Bytes, CallError> {
        let target = format!("AmazonSQS.{operation}");
        let ask = Ask {
            method: Method::POST,
            path: "/".to_owned(),
            query: Vec::new(),
            headers: vec![
                ("content-type", "application/x-amz-json-1.0"),
                ("x-amz-target", &target),
            ],
            body: body.to_string().into(),
            bytes_max: ANSWER_BYTES_MAX,
            time_max: wait + ANSWER_MAX,
        };
        self.0.call(ask, refusal).await
    }
}

/// Reads the messages of a `ReceiveMessage` answer.
///
/// # Errors
/// If it is not one.
pub fn read_messages(answer: &[u8]) -> Result<Vec<Message>, serde_json::Error> {
    let received: Received = serde_json::from_slice(answer)?;
    Ok(received.messages.unwrap_or_default())
}

/// Reads `{"__type": "com.amazonaws.sqs#QueueDoesNotExist", "message": "..."}`.
pub fn refusal(status: StatusCode, body: &[u8]) -> Refusal {
    let read: Option<ErrorBody> = serde_json::from_slice(body).ok();
    let (kind, message) = read.map_or((None, None), |read| (read.kind, read.message.or(read.capital_message)));
    let code = kind.map(|kind| kind.rsplit(['#', '.']).next().unwrap_or_default().to_owned());
    Refusal {
        status,
        code: code.unwrap_or_else(|| status.as_u16().to_string()),
        message: message.unwrap_or_else(|| status.canonical_reason().unwrap_or("no reason given").to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_with_what_may_be_absent() {
        assert_eq!(read_messages(b"{}").unwrap(), []);
        let text = br#"{"Messages": [{"MessageId": "m", "ReceiptHandle": "r", "Body": "b", "MD5OfBody": "5",
            "Attributes": {"SentTimestamp": "7"},
            "MessageAttributes": {"n": {"DataType": "Number", "StringValue": "1"}}}]}"#;
        let [message] = &read_messages(text).unwrap()[..] else {
            panic!("one message")
        };
        assert_eq!(
            (message.body.as_str(), message.attributes["SentTimestamp"].as_str()),
            ("b", "7")
        );
        assert_eq!(message.message_attributes["n"].string_value.as_deref(), Some("1"));
        assert!(read_messages(b"{\"Messages\": 1}").is_err());
    }

    #[test]
    fn refusals_are_read_without_their_name_space() {
        let read = refusal(
            StatusCode::BAD_REQUEST,
            br#"{"__type": "com.amazonaws.sqs#QueueDoesNotExist", "message": "none"}"#,
        );
        assert_eq!(
            (read.code.as_str(), read.message.as_str()),
            ("QueueDoesNotExist", "none")
        );
        let both = refusal(StatusCode::BAD_REQUEST, br#"{"message": "so", "Message": "and so"}"#);
        assert_eq!((both.code.as_str(), both.message.as_str()), ("400", "so"));
        let made = refusal(StatusCode::BAD_GATEWAY, b"oops");
        assert_eq!((made.code.as_str(), made.message.as_str()), ("502", "Bad Gateway"));
    }
}
