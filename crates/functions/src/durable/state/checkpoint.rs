//! A checkpoint: a batch of updates that applies whole or not at all.

use std::collections::HashMap;
use std::time::Duration;

use bowline_foundation::clock::Timestamp;

use super::Execution;
use super::update::OperationUpdate;
use crate::durable::event::{EventType, Facts};
use crate::durable::head::{ExecutionStatus, LastCheckpoint, Origin};
use crate::durable::id::{CallbackId, CheckpointToken, ExecutionKey};
use crate::durable::limits::{
    BATCH_BYTES_MAX, BATCH_UPDATES_MAX, CLIENT_TOKEN_KEPT, OPERATIONS_MAX, PAYLOAD_BYTES_MAX, RESULT_BYTES_MAX,
    STORED_BYTES_MAX,
};
use crate::durable::operation::{
    Chained, ErrorObject, Operation, OperationAction, OperationStatus, OperationType, Payload,
};

/// Why a checkpoint is refused; nothing of it was applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// Clients know the first words: they end their invocation and are invoked anew.
    #[error("Invalid checkpoint token: it was used before, or its invocation is over.")]
    Token,
    #[error("{0}")]
    Update(String),
}

/// What the function is told.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Checkpointed {
    /// None if the function may go no further: the execution is over or paused.
    pub token: Option<CheckpointToken>,
    /// The operations that changed, by their place.
    pub news: Vec<usize>,
}

/// The function that a chained invocation means.
pub(crate) struct Resolved {
    pub child: ExecutionKey,
    pub version: String,
    pub is_plain: bool,
    /// The ARN the child will have, if it is durable.
    pub arn: Option<String>,
}

/// Why there is no such function.
pub(crate) enum Unresolved {
    /// The checkpoint is refused.
    Malformed(String),
    /// The operation fails.
    Missing(ErrorObject),
}

/// What is known of other functions.
pub(crate) trait Chains {
    fn resolve(&self, function: &str, tenant: Option<&str>) -> Result<Resolved, Unresolved>;
}

impl Execution {
    /// Applies a checkpoint, or says again what one said that is repeated.
    pub fn checkpoint(
        &mut self,
        token: CheckpointToken,
        updates: Vec<OperationUpdate>,
        client_token: Option<&str>,
        (chains, now): (&dyn Chains, Timestamp),
    ) -> Result<Checkpointed, Refusal> {
        if let Some(repeated) = self.repeated(token, client_token, now) {
            return Ok(repeated);
        }
        if self.is_over() || self.head.token() != Some(token) {
            return Err(Refusal::Token);
        }
        self.check(&updates)?;
        let before = self.head.seen;
        for update in updates {
            self.apply(update, chains, now)?;
        }
        self.fire(now);
        self.head.sequence += 1;
        if self.is_over() {
            return Ok(Checkpointed {
                token: None,
                news: Vec::new(),
            });
        }
        if self.head.pause.is_some() {
            // The function stops here; what it has not heard it will find when it is invoked again.
            self.head.wanted = true;
            self.settle_pause(now);
            return Ok(Checkpointed {
                token: None,
                news: Vec::new(),
            });
        }
        self.head.last_checkpoint = client_token.map(|client_token| LastCheckpoint {
            client_token: client_token.to_owned(),
            sequence: token.sequence,
            at: now,
            seen: before,
        });
        Ok(Checkpointed {
            token: self.head.token(),
            news: self.take_news(),
        })
    }

    fn repeated(&self, token: CheckpointToken, client_token: Option<&str>, now: Timestamp) -> Option<Checkpointed> {
        let last = self.head.last_checkpoint.as_ref()?;
        let current = self.head.token()?;
        let same = client_token == Some(&*last.client_token)
            && now.since(last.at) <= CLIENT_TOKEN_KEPT
            && token.invocation == current.invocation
            && token.sequence == last.sequence;
        same.then(|| Checkpointed {
            token: Some(current),
            news: self.changed_since(last.seen),
        })
    }

    fn check(&self, updates: &[OperationUpdate]) -> Result<(), Refusal> {
        let refuse = |text: String| Err(Refusal::Update(text));
        if updates.len() > BATCH_UPDATES_MAX {
            return refuse(format!(
                "A checkpoint has at most {BATCH_UPDATES_MAX} updates; this one has {}.",
                updates.len()
            ));
        }
        let bytes: usize = updates.iter().map(OperationUpdate::bytes).sum();
        if updates.len() > 1 && bytes > BATCH_BYTES_MAX {
            return refuse(format!(
                "The updates of a checkpoint have at most {BATCH_BYTES_MAX} bytes; these have {bytes}. A larger update must be sent alone."
            ));
        }
        if self.head.stored_bytes + bytes as u64 > STORED_BYTES_MAX {
            return refuse(format!("An execution stores at most {STORED_BYTES_MAX} bytes."));
        }
        let executions = updates
            .iter()
            .filter(|update| update.kind == OperationType::Execution)
            .count();
        if executions > 1 {
            return refuse("Cannot checkpoint multiple EXECUTION updates.".to_owned());
        }
        if executions == 1 && updates.last().is_some_and(|last| last.kind != OperationType::Execution) {
            return refuse("EXECUTION checkpoint must be the last update.".to_owned());
        }
        self.check_batch(updates)
    }

    /// Parents must be contexts; an operation occurs twice only to begin and go on.
    fn check_batch(&self, updates: &[OperationUpdate]) -> Result<(), Refusal> {
        let mut begun: HashMap<&str, OperationType> = HashMap::new();
        let mut last: HashMap<&str, &OperationUpdate> = HashMap::new();
        let mut fresh = 0;
        for update in updates {
            if let Some(earlier) = last.insert(&update.id, update) {
                let goes_on = matches!(earlier.kind, OperationType::Step | OperationType::Context)
                    && earlier.action == OperationAction::Start
                    && update.action != OperationAction::Start;
                if !goes_on {
                    return Err(Refusal::Update(
                        "Cannot checkpoint multiple operations with the same ID.".to_owned(),
                    ));
                }
            } else if self.find(&update.id).is_none() && update.kind != OperationType::Execution {
                fresh += 1;
            }
            if let Some(parent) = &update.parent {
                let here = self.find(parent).map(|at| self.operations[at].kind);
                if begun.get(parent.as_str()).copied().or(here) != Some(OperationType::Context) {
                    return Err(Refusal::Update("Invalid parent operation id.".to_owned()));
                }
            }
            if update.action == OperationAction::Start {
                begun.insert(&update.id, update.kind);
            }
            self.check_sizes(update)?;
        }
        if self.operations.len() + fresh > OPERATIONS_MAX {
            return Err(Refusal::Update(format!(
                "An execution has at most {OPERATIONS_MAX} operations."
            )));
        }
        Ok(())
    }

    fn check_sizes(&self, update: &OperationUpdate) -> Result<(), Refusal> {
        let waiting = update.kind == OperationType::Execution && self.head.origin == Origin::Waiting;
        let bytes_max = if waiting { RESULT_BYTES_MAX } else { PAYLOAD_BYTES_MAX };
        let bytes = update.payload.as_ref().map_or(0, String::len);
        if bytes > bytes_max {
            return Err(Refusal::Update(format!(
                "The payload of this operation has at most {bytes_max} bytes; this one has {bytes}."
            )));
        }
        if update.error_bytes() > PAYLOAD_BYTES_MAX {
            return Err(Refusal::Update(format!(
                "Error object size must be at most {PAYLOAD_BYTES_MAX} bytes."
            )));
        }
        let message = match (update.action, &update.payload, &update.error) {
            (OperationAction::Fail, Some(_), _) => "Cannot provide a Payload for FAIL action.",
            (OperationAction::Succeed, _, Some(_)) => "Cannot provide an Error for SUCCEED action.",
            (OperationAction::Retry, Some(_), Some(_)) => "Cannot provide both error and payload to RETRY a STEP.",
            _ => return Ok(()),
        };
        Err(Refusal::Update(message.to_owned()))
    }

    fn apply(&mut self, update: OperationUpdate, chains: &dyn Chains, now: Timestamp) -> Result<(), Refusal> {
        use OperationAction::{Cancel, Fail, Retry, Start, Succeed};
        let at = self.find(&update.id);
        if let Some(at) = at {
            same_operation(&self.operations[at], &update)?;
        }
        match (update.kind, update.action) {
            (OperationType::Execution, Succeed) => {
                let result = update.payload.map(|text| Payload::Here(text.into()));
                self.end(ExecutionStatus::Succeeded, Ok(result), now);
                Ok(())
            }
            (OperationType::Execution, Fail) => {
                self.end(ExecutionStatus::Failed, Err(update.error.unwrap_or_default()), now);
                Ok(())
            }
            (OperationType::Step, Start) => self.start_step(at, update, now),
            (OperationType::Step, Succeed | Fail | Retry) => self.end_attempt(at, update, now),
            (OperationType::Context, Start) => self.start_context(at, update, now),
            (OperationType::Context, Succeed | Fail) => self.end_context(at, update, now),
            (OperationType::Wait, Start) => self.start_wait(at, update, now),
            (OperationType::Wait, Cancel) => self.cancel_wait(at, update, now),
            (OperationType::Callback, Start) => self.start_callback(at, update, now),
            (OperationType::ChainedInvoke, Start) => self.start_chained(at, update, chains, now),
            _ => Err(Refusal::Update(
                "Invalid action for the given operation type.".to_owned(),
            )),
        }
    }

    fn start_step(&mut self, at: Option<usize>, update: OperationUpdate, now: Timestamp) -> Result<(), Refusal> {
        let at = match at {
            None => self.add(operation(&update, now)),
            Some(at) if self.operations[at].status == OperationStatus::Ready => {
                self.operations[at].status = OperationStatus::Started;
                self.touch(at);
                at
            }
            Some(_) => return Err(Refusal::Update("Invalid current STEP state to start.".to_owned())),
        };
        self.tell_of(at, EventType::StepStarted, now, Facts::default());
        Ok(())
    }

    fn end_attempt(&mut self, at: Option<usize>, update: OperationUpdate, now: Timestamp) -> Result<(), Refusal> {
        let retries = update.action == OperationAction::Retry;
        if retries && update.seconds.is_none() {
            return Err(Refusal::Update("Invalid StepOptions for the given action.".to_owned()));
        }
        let at = at.unwrap_or_else(|| self.add(operation(&update, now)));
        let step = &mut self.operations[at];
        if !matches!(step.status, OperationStatus::Started | OperationStatus::Ready) {
            let text = if retries { "re-attempt" } else { "close" };
            return Err(Refusal::Update(format!("Invalid current STEP state to {text}.")));
        }
        step.attempt += 1;
        step.result = update.payload.map(|text| Payload::Here(text.into()));
        step.error = update.error.as_ref().map(ErrorObject::payload);
        if retries {
            step.status = OperationStatus::Pending;
            step.due = Some(after(now, update.seconds));
        } else {
            let failed = update.action == OperationAction::Fail;
            step.status = if failed {
                OperationStatus::Failed
            } else {
                OperationStatus::Succeeded
            };
            step.ended = Some(now);
        }
        let failed = step.status == OperationStatus::Failed || step.error.is_some();
        let facts = Facts {
            result: step.result.clone().filter(|_| !failed),
            error: failed.then(|| step.error.clone().unwrap_or_else(|| ErrorObject::default().payload())),
            attempt: Some(step.attempt),
            seconds: update.seconds,
            ..Facts::default()
        };
        self.stored(at);
        let kind = if failed {
            EventType::StepFailed
        } else {
            EventType::StepSucceeded
        };
        self.tell_of(at, kind, now, facts);
        Ok(())
    }

    fn start_context(&mut self, at: Option<usize>, update: OperationUpdate, now: Timestamp) -> Result<(), Refusal> {
        if at.is_some() {
            return Err(Refusal::Update("Cannot start a CONTEXT that already exist.".to_owned()));
        }
        let at = self.add(operation(&update, now));
        self.tell_of(at, EventType::ContextStarted, now, Facts::default());
        Ok(())
    }

    fn end_context(&mut self, at: Option<usize>, update: OperationUpdate, now: Timestamp) -> Result<(), Refusal> {
        let at = at.unwrap_or_else(|| self.add(operation(&update, now)));
        if self.operations[at].status.is_over() {
            return Err(Refusal::Update("Invalid current CONTEXT state to close.".to_owned()));
        }
        self.operations[at].replays_children = update.replays_children;
        if update.action == OperationAction::Fail {
            let error = update.error.unwrap_or_default().payload();
            self.complete(at, OperationStatus::Failed, Err(error), now);
        } else {
            let result = update.payload.map(|text| Payload::Here(text.into()));
            self.complete(at, OperationStatus::Succeeded, Ok(result), now);
        }
        Ok(())
    }

    fn start_wait(&mut self, at: Option<usize>, update: OperationUpdate, now: Timestamp) -> Result<(), Refusal> {
        if at.is_some() {
            return Err(Refusal::Update("Cannot start a WAIT that already exist.".to_owned()));
        }
        if update.seconds.is_none() {
            return Err(Refusal::Update("Invalid WaitOptions for the given action.".to_owned()));
        }
        let mut wait = operation(&update, now);
        wait.due = Some(after(now, update.seconds));
        wait.seconds = update.seconds;
        let facts = Facts {
            seconds: update.seconds,
            until: wait.due,
            ..Facts::default()
        };
        let at = self.add(wait);
        self.tell_of(at, EventType::WaitStarted, now, facts);
        Ok(())
    }

    fn cancel_wait(&mut self, at: Option<usize>, update: OperationUpdate, now: Timestamp) -> Result<(), Refusal> {
        let open = at.filter(|at| !self.operations[*at].status.is_over());
        let Some(at) = open else {
            let text = "Cannot cancel a WAIT that does not exist or has already completed.";
            return Err(Refusal::Update(text.to_owned()));
        };
        let outcome = update.error.map_or(Ok(None), |error| Err(error.payload()));
        self.complete(at, OperationStatus::Cancelled, outcome, now);
        Ok(())
    }

    fn start_callback(&mut self, at: Option<usize>, update: OperationUpdate, now: Timestamp) -> Result<(), Refusal> {
        if at.is_some() {
            return Err(Refusal::Update(
                "Cannot start a CALLBACK that already exist.".to_owned(),
            ));
        }
        let mut callback = operation(&update, now);
        callback.seconds = update.seconds;
        callback.due = update.seconds.map(|_| after(now, update.seconds));
        callback.heartbeat_seconds = update.heartbeat_seconds;
        callback.heartbeat_due = update.heartbeat_seconds.map(|_| after(now, update.heartbeat_seconds));
        let at = self.add(callback);
        let facts = Facts {
            callback_id: Some(self.callback_id(at).to_string()),
            seconds: update.seconds,
            heartbeat_seconds: update.heartbeat_seconds,
            ..Facts::default()
        };
        self.tell_of(at, EventType::CallbackStarted, now, facts);
        Ok(())
    }

    /// The id by which the callback at a place is completed.
    pub fn callback_id(&self, at: usize) -> CallbackId {
        CallbackId::new(self.head.key(), at, self.head.secret)
    }

    fn start_chained(
        &mut self,
        at: Option<usize>,
        update: OperationUpdate,
        chains: &dyn Chains,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        if at.is_some() {
            return Err(Refusal::Update(
                "Cannot start a CHAINED_INVOKE operation that already exists.".to_owned(),
            ));
        }
        let Some(function) = update.function.clone() else {
            let text = "Update for CHAINED_INVOKE operation requires ChainedInvokeOptions.";
            return Err(Refusal::Update(text.to_owned()));
        };
        let mut chained = operation(&update, now);
        let mut facts = Facts {
            function: Some(function.clone()),
            ..Facts::default()
        };
        match chains.resolve(&function, update.tenant.as_deref()) {
            Err(Unresolved::Malformed(text)) => Err(Refusal::Update(text)),
            Err(Unresolved::Missing(error)) => {
                let at = self.add(chained);
                self.tell_of(at, EventType::ChainedInvokeStarted, now, facts);
                self.complete(at, OperationStatus::Failed, Err(error.payload()), now);
                Ok(())
            }
            Ok(resolved) => {
                chained.input = Some(Payload::Here(update.payload.unwrap_or_default().into()));
                facts.input.clone_from(&chained.input);
                facts.version = Some(resolved.version.clone());
                facts.arn = resolved.arn;
                chained.chained = Some(Chained {
                    function,
                    child: resolved.child,
                    version: resolved.version,
                    is_plain: resolved.is_plain,
                    is_dispatched: false,
                });
                let at = self.add(chained);
                self.tell_of(at, EventType::ChainedInvokeStarted, now, facts);
                Ok(())
            }
        }
    }

    /// Counts what a step's attempt has stored.
    fn stored(&mut self, at: usize) {
        let step = &self.operations[at];
        let payloads = [&step.result, &step.error];
        self.head.stored_bytes += payloads.into_iter().flatten().map(Payload::bytes).sum::<u64>();
        self.touch(at);
    }
}

fn operation(update: &OperationUpdate, now: Timestamp) -> Operation {
    let mut operation = Operation::new(update.id.clone(), update.kind, now);
    operation.parent.clone_from(&update.parent);
    operation.name.clone_from(&update.name);
    operation.sub_type.clone_from(&update.sub_type);
    operation
}

fn after(now: Timestamp, seconds: Option<u32>) -> Timestamp {
    now.after(Duration::from_secs(seconds.unwrap_or(0).into()))
}

fn same_operation(operation: &Operation, update: &OperationUpdate) -> Result<(), Refusal> {
    let differs = |given: &Option<String>, known: &Option<String>| given.is_some() && given != known;
    let what = if operation.kind != update.kind {
        "type"
    } else if differs(&update.sub_type, &operation.sub_type) {
        "subtype"
    } else if differs(&update.name, &operation.name) {
        "name"
    } else if differs(&update.parent, &operation.parent) {
        "parent id"
    } else {
        return Ok(());
    };
    Err(Refusal::Update(format!("Inconsistent operation {what}.")))
}
