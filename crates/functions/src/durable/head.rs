//! What is known of an execution as a whole; every commit of the execution is on condition of it.

use bowline_foundation::clock::Timestamp;
use serde::{Deserialize, Serialize};

use super::id::{CheckpointToken, ExecutionArn, ExecutionKey};
use super::operation::{Payload, key_text};

/// How an execution stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ExecutionStatus {
    Running,
    Succeeded,
    Failed,
    TimedOut,
    Stopped,
    Deleting,
    Pausing,
    Paused,
}

impl ExecutionStatus {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "RUNNING",
            Self::Succeeded => "SUCCEEDED",
            Self::Failed => "FAILED",
            Self::TimedOut => "TIMED_OUT",
            Self::Stopped => "STOPPED",
            Self::Deleting => "DELETING",
            Self::Pausing => "PAUSING",
            Self::Paused => "PAUSED",
        }
    }

    pub const ALL: [Self; 8] = [
        Self::Running,
        Self::Succeeded,
        Self::Failed,
        Self::TimedOut,
        Self::Stopped,
        Self::Deleting,
        Self::Pausing,
        Self::Paused,
    ];
}

/// Who began an execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A caller who waits for the end.
    Waiting,
    /// A caller who does not.
    Event,
    /// An operation of another execution.
    Chained,
}

/// The limits of a function's executions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DurableConfig {
    /// How long one execution may take, its waits included.
    pub execution_timeout_seconds: u32,
    /// For how long it is kept after its end.
    pub retention_days: u32,
}

/// An execution without its operations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Head {
    pub arn: ExecutionArn,
    pub origin: Origin,
    /// `Running` until the end; a pause is told by `pause`.
    pub status: ExecutionStatus,
    pub started: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    pub config: DurableConfig,
    /// When the execution has taken too long.
    pub deadline: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Payload>,
    /// The JSON of an [`ErrorObject`](super::operation::ErrorObject).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Payload>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// What callback ids are proved with.
    #[serde(with = "hex")]
    pub secret: u128,
    /// The invocation that runs now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invocation: Option<Running>,
    /// Checkpoints made so far.
    pub sequence: u64,
    /// The checkpoint made last, which may be repeated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_checkpoint: Option<LastCheckpoint>,
    /// Counts changes of operations.
    pub changes: u64,
    /// Up to which change the function knows.
    pub seen: u64,
    /// Whether the function must be invoked even if there is nothing new.
    pub wanted: bool,
    /// Not before this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Timestamp>,
    /// Invocations in a row that failed, that were idle without a reason, that could not be made.
    #[serde(default)]
    pub failures: u32,
    #[serde(default)]
    pub idle_pendings: u32,
    #[serde(default)]
    pub not_made: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<Pause>,
    /// The pause or resumption asked for last, which may be repeated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_control: Option<LastControl>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Parent>,
    /// Whether the function is an ordinary one, invoked once for a parent; such an execution is not shown.
    #[serde(default)]
    pub is_plain: bool,
    pub operations: u64,
    pub events: u64,
    pub texts: u64,
    /// Bytes of all payloads that were stored.
    pub stored_bytes: u64,
    /// The time in the key by which the execution is found when it is due.
    pub due: Timestamp,
}

/// An invocation on its way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Running {
    #[serde(with = "hex")]
    pub id: u128,
    pub request_id: String,
    pub since: Timestamp,
    /// The node that runs it.
    pub node: u64,
    /// Until when the node is believed to live, if others could take over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Timestamp>,
    /// The count of changes when it began.
    pub changes: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LastCheckpoint {
    pub client_token: String,
    /// The sequence of the token that it used up.
    pub sequence: u64,
    pub at: Timestamp,
    /// Up to which change the function knew before.
    pub seen: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pause {
    pub requested: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether the time of the pause does not count.
    pub timeout_paused: bool,
    /// When no invocation ran any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LastControl {
    pub client_token: String,
    pub is_pause: bool,
    pub at: Timestamp,
}

/// Whom the end is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Parent {
    #[serde(with = "key_text")]
    pub key: ExecutionKey,
    pub operation: String,
    /// Whether it knows.
    pub is_told: bool,
}

impl Head {
    pub fn key(&self) -> ExecutionKey {
        self.arn.key()
    }

    /// The status that is shown.
    pub fn shown_status(&self) -> ExecutionStatus {
        match (&self.pause, self.status) {
            (Some(pause), ExecutionStatus::Running) if pause.since.is_some() => ExecutionStatus::Paused,
            (Some(_), ExecutionStatus::Running) => ExecutionStatus::Pausing,
            (_, status) => status,
        }
    }

    /// The token of the next checkpoint of the invocation that runs.
    pub fn token(&self) -> Option<CheckpointToken> {
        self.invocation.as_ref().map(|running| CheckpointToken {
            execution: self.arn.id,
            invocation: running.id,
            sequence: self.sequence,
        })
    }
}

mod hex {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub fn serialize<S: Serializer>(number: &u128, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{number:032x}"))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u128, D::Error> {
        u128::from_str_radix(&String::deserialize(from)?, 16).map_err(D::Error::custom)
    }
}
