//! The operations of an execution: what a function did, or waits for.

use std::fmt;

use bowline_foundation::clock::Timestamp;
use serde::{Deserialize, Serialize};

use super::id::ExecutionKey;

/// What an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum OperationType {
    /// The execution itself; the first operation, which holds the input.
    Execution,
    /// A child context: operations within it name it as their parent.
    Context,
    /// Code of the function that is to have its effect once.
    Step,
    /// A time that passes.
    Wait,
    /// Somebody outside who answers.
    Callback,
    /// Another function.
    ChainedInvoke,
}

/// What a checkpoint does to an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum OperationAction {
    Start,
    Succeed,
    Fail,
    Retry,
    Cancel,
}

/// Where an operation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum OperationStatus {
    Started,
    /// A step that is tried again later.
    Pending,
    /// A step whose time to be tried again has come.
    Ready,
    Succeeded,
    Failed,
    Cancelled,
    TimedOut,
    Stopped,
}

impl OperationStatus {
    pub fn is_over(self) -> bool {
        !matches!(self, Self::Started | Self::Pending | Self::Ready)
    }
}

/// A text that a function or a caller gave: within its record, or apart from it if it is long.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Payload {
    Here(Box<str>),
    Stored { number: u64, bytes: u64 },
}

impl Payload {
    pub fn bytes(&self) -> u64 {
        match self {
            Self::Here(text) => text.len() as u64,
            Self::Stored { bytes, .. } => *bytes,
        }
    }

    /// The text, if it lies here.
    pub fn here(&self) -> Option<&str> {
        match self {
            Self::Here(text) => Some(text),
            Self::Stored { .. } => None,
        }
    }
}

impl From<&str> for Payload {
    fn from(text: &str) -> Self {
        Self::Here(text.into())
    }
}

/// Payloads never reach a log.
impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.bytes())
    }
}

/// Why something failed, as the wire has it.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ErrorObject {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_data: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stack_trace: Option<Vec<String>>,
}

impl ErrorObject {
    pub fn new(error_type: &str, message: impl Into<String>) -> Self {
        Self {
            error_message: Some(message.into()),
            error_type: Some(error_type.to_owned()),
            ..Self::default()
        }
    }

    /// The error as the text that is kept.
    pub fn payload(&self) -> Payload {
        let text = serde_json::to_string(self).expect("texts always serialise");
        Payload::Here(text.into())
    }
}

impl fmt::Debug for ErrorObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ErrorObject").finish_non_exhaustive()
    }
}

/// One operation. Members that its type has no use for are at their defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    pub id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub_type: Option<String>,
    pub kind: OperationType,
    pub status: OperationStatus,
    pub started: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// The execution's count of changes when this operation changed last.
    pub touched: u64,
    /// The execution's input, or a chained invocation's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Payload>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Payload>,
    /// The JSON of an [`ErrorObject`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Payload>,
    /// Attempts of a step that have ended.
    #[serde(default)]
    pub attempt: u32,
    /// When a wait ends, a step is tried again, or a callback has taken too long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<Timestamp>,
    /// How long that was when it was set, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u32>,
    /// When a callback has been silent for too long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat_due: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat_seconds: Option<u32>,
    /// Whether the children of a context that has ended are still wanted.
    #[serde(default)]
    pub replays_children: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chained: Option<Chained>,
}

/// The other end of a chained invocation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Chained {
    /// The function as the caller named it.
    pub function: String,
    /// Where the execution lies that does the work, as `ACCOUNT/FUNCTION/ID`.
    #[serde(with = "key_text")]
    pub child: ExecutionKey,
    /// The version it runs.
    pub version: String,
    /// Whether the function is an ordinary one, which is invoked once.
    pub is_plain: bool,
    /// Whether the child has been made.
    pub is_dispatched: bool,
}

pub(super) mod key_text {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    use super::ExecutionKey;

    pub fn serialize<S: Serializer>(key: &ExecutionKey, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(key)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<ExecutionKey, D::Error> {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

impl Operation {
    /// An operation that begins.
    pub fn new(id: String, kind: OperationType, started: Timestamp) -> Self {
        Self {
            id,
            parent: None,
            name: None,
            sub_type: None,
            kind,
            status: OperationStatus::Started,
            started,
            ended: None,
            touched: 0,
            input: None,
            result: None,
            error: None,
            attempt: 0,
            due: None,
            seconds: None,
            heartbeat_due: None,
            heartbeat_seconds: None,
            replays_children: false,
            chained: None,
        }
    }

    /// Whether somebody other than the function's own code will complete it.
    pub fn is_awaited(&self) -> bool {
        match self.kind {
            OperationType::Step => self.status == OperationStatus::Pending,
            OperationType::Wait | OperationType::Callback | OperationType::ChainedInvoke => {
                self.status == OperationStatus::Started
            }
            OperationType::Execution | OperationType::Context => false,
        }
    }

    /// When something happens to it by itself.
    pub fn next_due(&self) -> Option<Timestamp> {
        let awaited = self.is_awaited();
        let dues = [self.due, self.heartbeat_due];
        dues.into_iter().flatten().min().filter(|_| awaited)
    }

    pub fn payload_bytes(&self) -> u64 {
        let payloads = [&self.input, &self.result, &self.error];
        payloads.into_iter().flatten().map(Payload::bytes).sum()
    }
}
