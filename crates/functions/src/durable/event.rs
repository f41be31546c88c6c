//! What an execution's history tells.

use bowline_foundation::clock::Timestamp;
use serde::{Deserialize, Serialize};

use super::operation::{Operation, Payload};

/// What happened; the names are the wire's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventType {
    ExecutionStarted,
    ExecutionSucceeded,
    ExecutionFailed,
    ExecutionTimedOut,
    ExecutionStopped,
    ContextStarted,
    ContextSucceeded,
    ContextFailed,
    WaitStarted,
    WaitSucceeded,
    WaitCancelled,
    StepStarted,
    StepSucceeded,
    StepFailed,
    ChainedInvokeStarted,
    ChainedInvokeSucceeded,
    ChainedInvokeFailed,
    ChainedInvokeTimedOut,
    ChainedInvokeStopped,
    CallbackStarted,
    CallbackSucceeded,
    CallbackFailed,
    CallbackTimedOut,
    InvocationCompleted,
    ExecutionPaused,
    ExecutionResumed,
}

/// One event. Members that its type has no use for are missing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// From 1, without gaps.
    pub number: u64,
    pub kind: EventType,
    pub at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub_type: Option<String>,
    #[serde(flatten)]
    pub facts: Facts,
}

/// What there is to say about events; each type has its own part of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Payload>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Payload>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Payload>,
    /// A wait's length, an execution's or a callback's limit, the delay before the next attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat_seconds: Option<u32>,
    /// When a wait ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub callback_id: Option<String>,
    /// The function of a chained invocation, its version, and its execution's ARN if it is durable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arn: Option<String>,
    /// When an invocation began, or a pause or a resumption was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Why somebody paused or resumed the execution.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_paused: Option<bool>,
}

impl Event {
    /// An event of the execution as a whole.
    pub fn new(number: u64, kind: EventType, at: Timestamp, facts: Facts) -> Self {
        Self {
            number,
            kind,
            at,
            id: None,
            parent: None,
            name: None,
            sub_type: None,
            facts,
        }
    }

    /// An event of one operation.
    pub fn of(operation: &Operation, number: u64, kind: EventType, at: Timestamp, facts: Facts) -> Self {
        Self {
            id: Some(operation.id.clone()),
            parent: operation.parent.clone(),
            name: operation.name.clone(),
            sub_type: operation.sub_type.clone(),
            ..Self::new(number, kind, at, facts)
        }
    }
}
