//! Updates of operations as a checkpoint brings them, read and checked one by one.

use serde::Deserialize;

use crate::durable::id::is_word;
use crate::durable::limits::EXECUTION_SECONDS_MAX;
use crate::durable::operation::{ErrorObject, OperationAction, OperationType};
use crate::error::Error;

const ID_CHARS_MAX: usize = 64;
const NAME_CHARS_MAX: usize = 256;
const SUB_TYPE_CHARS_MAX: usize = 32;

/// The body of a checkpoint as the wire has it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct CheckpointBody {
    pub checkpoint_token: Option<String>,
    #[serde(default)]
    pub updates: Option<Vec<UpdateMembers>>,
    pub client_token: Option<String>,
}

/// One update as the wire has it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct UpdateMembers {
    id: Option<String>,
    parent_id: Option<String>,
    name: Option<String>,
    r#type: Option<String>,
    sub_type: Option<String>,
    action: Option<String>,
    payload: Option<String>,
    error: Option<ErrorObject>,
    context_options: Option<ContextOptions>,
    step_options: Option<StepOptions>,
    wait_options: Option<WaitOptions>,
    callback_options: Option<CallbackOptions>,
    chained_invoke_options: Option<ChainedInvokeOptions>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ContextOptions {
    replay_children: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct StepOptions {
    next_attempt_delay_seconds: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct WaitOptions {
    wait_seconds: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CallbackOptions {
    timeout_seconds: Option<i64>,
    heartbeat_timeout_seconds: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ChainedInvokeOptions {
    function_name: Option<String>,
    tenant_id: Option<String>,
}

/// One update whose members are what they may be; whether it fits the execution is another matter.
#[derive(Clone, Debug, PartialEq)]
pub struct OperationUpdate {
    pub id: String,
    pub parent: Option<String>,
    pub name: Option<String>,
    pub kind: OperationType,
    pub sub_type: Option<String>,
    pub action: OperationAction,
    pub payload: Option<String>,
    pub error: Option<ErrorObject>,
    pub replays_children: bool,
    /// The delay of a retry, the length of a wait, or a callback's limit.
    pub seconds: Option<u32>,
    pub heartbeat_seconds: Option<u32>,
    /// The function of a chained invocation.
    pub function: Option<String>,
    pub tenant: Option<String>,
}

impl OperationUpdate {
    /// What the update weighs against the limit of a batch.
    pub fn bytes(&self) -> usize {
        let texts = [&self.parent, &self.name, &self.sub_type, &self.payload, &self.function];
        let texts: usize = texts.into_iter().flatten().map(String::len).sum();
        self.id.len() + texts + self.error_bytes()
    }

    pub fn error_bytes(&self) -> usize {
        self.error.as_ref().map_or(0, |error| error.payload().bytes() as usize)
    }
}

impl UpdateMembers {
    /// Checks the members; `number` counts the updates of a checkpoint from 1.
    pub fn read(self, number: usize) -> Result<OperationUpdate, Error> {
        let check = Check { number };
        let id = check.required("id", self.id)?;
        check.word("id", &id, ID_CHARS_MAX)?;
        if let Some(parent) = &self.parent_id {
            check.word("parentId", parent, ID_CHARS_MAX)?;
        }
        if let Some(sub_type) = &self.sub_type {
            check.word("subType", sub_type, SUB_TYPE_CHARS_MAX)?;
        }
        if let Some(name) = &self.name {
            let printable = name.bytes().all(|byte| (0x20..=0x7e).contains(&byte));
            check.that(
                printable && !name.is_empty() && name.len() <= NAME_CHARS_MAX,
                "name",
                name,
            )?;
        }
        let kind: OperationType = check.one_of("type", self.r#type)?;
        let action: OperationAction = check.one_of("action", self.action)?;
        let (seconds, heartbeat) = match kind {
            OperationType::Step => (
                self.step_options.and_then(|options| options.next_attempt_delay_seconds),
                None,
            ),
            OperationType::Wait => (self.wait_options.and_then(|options| options.wait_seconds), None),
            OperationType::Callback => {
                let options = self.callback_options.unwrap_or_default();
                let some = |seconds: Option<i64>| seconds.filter(|seconds| *seconds != 0);
                (some(options.timeout_seconds), some(options.heartbeat_timeout_seconds))
            }
            _ => (None, None),
        };
        let options = self.chained_invoke_options.unwrap_or_default();
        Ok(OperationUpdate {
            id,
            parent: self.parent_id,
            name: self.name,
            kind,
            sub_type: self.sub_type,
            action,
            payload: self.payload,
            error: self.error,
            replays_children: self
                .context_options
                .is_some_and(|options| options.replay_children == Some(true)),
            seconds: check.seconds(seconds)?,
            heartbeat_seconds: check.seconds(heartbeat)?,
            function: options.function_name,
            tenant: options.tenant_id,
        })
    }
}

/// Says which member of which update is wrong.
struct Check {
    number: usize,
}

impl Check {
    fn refuse(&self, member: &str, value: &str, constraint: &str) -> Error {
        Error::InvalidParameter(format!(
            "1 validation error detected: Value {value} at 'updates.{}.member.{member}' failed to satisfy constraint: \
             {constraint}",
            self.number
        ))
    }

    fn that(&self, good: bool, member: &str, value: &str) -> Result<(), Error> {
        let refuse = || {
            self.refuse(
                member,
                &format!("'{value}'"),
                "Member must satisfy its pattern and length",
            )
        };
        good.then_some(()).ok_or_else(refuse)
    }

    fn word(&self, member: &str, value: &str, chars_max: usize) -> Result<(), Error> {
        self.that(
            !value.is_empty() && value.len() <= chars_max && is_word(value),
            member,
            value,
        )
    }

    fn required(&self, member: &str, value: Option<String>) -> Result<String, Error> {
        value.ok_or_else(|| self.refuse(member, "null", "Member must not be null"))
    }

    fn one_of<T: serde::de::DeserializeOwned>(&self, member: &str, value: Option<String>) -> Result<T, Error> {
        let value = self.required(member, value)?;
        let read = serde_json::from_value(serde_json::Value::String(value.clone()));
        read.map_err(|_| self.refuse(member, &format!("'{value}'"), "Member must satisfy enum value set"))
    }

    fn seconds(&self, value: Option<i64>) -> Result<Option<u32>, Error> {
        let Some(value) = value else { return Ok(None) };
        let seconds = u32::try_from(value)
            .ok()
            .filter(|seconds| (1..=EXECUTION_SECONDS_MAX).contains(seconds));
        let constraint = format!("Member must have value between 1 and {EXECUTION_SECONDS_MAX}");
        let refuse = || self.refuse("options.seconds", &format!("'{value}'"), &constraint);
        seconds.map(Some).ok_or_else(refuse)
    }
}
