//! What makes executions go on: finds those that are due, and does what they want next.

use std::sync::Arc;
use std::time::Duration;

use bowline_foundation::entropy::Entropy;
use bowline_foundation::id::RequestId;

use super::engine::{no_execution, warn};
use super::head::{Origin, Parent};
use super::id::{ExecutionArn, ExecutionKey};
use super::ledger::Created;
use super::limits::PAYLOAD_BYTES_MAX;
use super::operation::ErrorObject;
use super::state::{Beginning, ChildEnd, Execution, Step};
use crate::error::Error;
use crate::service::Inner;

/// Due executions that are read at once.
const PAGE: usize = 256;
/// Executions that a node looks after at once; their invocations do not count.
const WORKING_MAX: usize = 256;
/// The longest sleep of a node that is woken by whatever it does itself.
const SLEEP_MAX: Duration = Duration::from_secs(3600);
/// Before work that failed is tried again.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Whether there is more to do right away.
#[derive(Clone, Copy, PartialEq, Eq)]
enum More {
    Yes,
    No,
}

impl Inner {
    /// Begins the work on executions that earlier runs and other nodes have left.
    pub(crate) fn start_durable_work(self: &Arc<Self>) {
        self.durable.spawn(self.clone().drive());
    }

    async fn drive(self: Arc<Self>) {
        let engine = &self.durable;
        // What ran when this process began ran in one that is gone.
        let mut everything = !engine.is_shared();
        while !engine.is_stopping() {
            let woken = engine.wake.notified();
            let sleep = match self.start_due(everything).await {
                Ok(sleep) => {
                    everything = false;
                    sleep
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "executions that are due cannot be looked for");
                    AFTER_FAILURE
                }
            };
            tokio::select! {
                () = engine.stopped() => return,
                () = woken => {}
                () = tokio::time::sleep(sleep) => {}
            }
        }
    }

    /// Takes up what is due; returns how long nothing will be.
    async fn start_due(self: &Arc<Self>, everything: bool) -> Result<Duration, Error> {
        let engine = &self.durable;
        let longest = if engine.is_shared() {
            engine.timing.look_every
        } else {
            SLEEP_MAX
        };
        let mut after = None;
        let mut next = longest;
        loop {
            let page = engine.ledger.due(after.as_ref(), PAGE).await?;
            for due in &page {
                let now = self.clock.now();
                let is_left = everything && due.node.is_some_and(|node| node != engine.node.number);
                if due.at <= now || is_left {
                    if engine.take_up(&due.key, WORKING_MAX) {
                        engine.spawn(self.clone().work(due.key.clone()));
                    }
                } else {
                    next = next.min(due.at.since(now));
                    if !everything {
                        return Ok(next);
                    }
                }
            }
            if page.len() < PAGE {
                return Ok(next);
            }
            after = page.last().cloned();
        }
    }

    /// Looks after one execution until it rests or its function is invoked.
    async fn work(self: Arc<Self>, key: ExecutionKey) {
        let engine = &self.durable;
        while !engine.is_stopping() {
            match self.work_once(&key).await {
                Ok(More::Yes) => {}
                Ok(More::No) => break,
                Err(error) => {
                    warn(&key, &error, "the work on an execution failed; it is tried again");
                    if !engine.pause(AFTER_FAILURE).await {
                        break;
                    }
                }
            }
        }
        engine.put_down(&key);
    }

    async fn work_once(self: &Arc<Self>, key: &ExecutionKey) -> Result<More, Error> {
        let engine = &self.durable;
        let chance = self.chance();
        let request_id = RequestId::random(&self.entropy);
        let step = self
            .change_execution(key, |execution, now| {
                Ok(execution.begin(engine.node, chance, request_id.as_str(), now))
            })
            .await?;
        match step {
            Step::Rest => Ok(More::No),
            Step::Again => Ok(More::Yes),
            Step::Invoke(ticket) => {
                self.crash.reach("execution.claimed");
                engine.spawn(self.clone().run_invocation(key.clone(), ticket, request_id));
                // A timer may be due at the same time.
                Ok(More::Yes)
            }
            Step::Dispatch(operations) => {
                self.dispatch(key, operations).await?;
                Ok(More::Yes)
            }
            Step::TellParent(parent) => {
                self.tell_parent(key, &parent).await?;
                Ok(More::Yes)
            }
            Step::Remove => {
                let head = self.execution_head(key).await?;
                engine.ledger.remove(&head).await?;
                tracing::debug!(execution = %head.arn, "an execution is removed");
                Ok(More::No)
            }
        }
    }

    pub(super) fn chance(&self) -> u128 {
        let entropy: &Entropy = &self.entropy;
        (u128::from(entropy.number()) << 64) | u128::from(entropy.number())
    }

    /// Makes the executions at the other end of chained invocations.
    async fn dispatch(self: &Arc<Self>, key: &ExecutionKey, operations: Vec<usize>) -> Result<(), Error> {
        for at in &operations {
            let child = self
                .look_at_execution(key, |execution| {
                    let operation = execution.operations.get(*at).ok_or_else(|| no_execution(key))?;
                    Ok((
                        execution.head.arn.clone(),
                        execution.head.trace_id.clone(),
                        operation.clone(),
                    ))
                })
                .await?;
            let (parent, trace_id, operation) = child;
            let (Some(chained), Some(input)) = (&operation.chained, &operation.input) else {
                continue;
            };
            let input = self.durable.ledger.text(key.id, input).await?;
            let child = &chained.child;
            let arn = ExecutionArn {
                region: parent.region,
                account: child.account.clone(),
                function: child.function.clone(),
                version: chained.version.parse()?,
                name: child.id.to_string().parse().map_err(Error::service)?,
                id: child.id,
            };
            let config = self.durable_config(&arn, chained.is_plain);
            let beginning = Beginning {
                arn,
                origin: Origin::Chained,
                config,
                trace_id,
                input,
                secret: self.chance(),
                parent: Some(Parent {
                    key: key.clone(),
                    operation: operation.id.clone(),
                    is_told: false,
                }),
                is_plain: chained.is_plain,
            };
            let child = Execution::start(beginning, self.clock.now());
            match self.durable.ledger.create(child, None).await? {
                // Made by an earlier try that did not come to note it.
                Created::Yes | Created::Exists { .. } => self.crash.reach("chained.made"),
            }
        }
        self.change_execution(key, |execution, _| {
            execution.dispatched(&operations);
            Ok(())
        })
        .await
    }

    async fn tell_parent(self: &Arc<Self>, key: &ExecutionKey, parent: &Parent) -> Result<(), Error> {
        let head = self.execution_head(key).await?;
        let mut end = ChildEnd {
            status: head.status,
            result: head.result,
            error: head.error,
            timeout_seconds: head.config.execution_timeout_seconds,
        };
        // A payload that lies apart belongs to the child.
        for payload in [&mut end.result, &mut end.error].into_iter().flatten() {
            *payload = self.durable.ledger.text(key.id, payload).await?.as_str().into();
        }
        if end
            .result
            .as_ref()
            .is_some_and(|result| result.bytes() > PAYLOAD_BYTES_MAX as u64)
        {
            let message =
                format!("CHAINED_INVOKE output payload size must be less than or equal to {PAYLOAD_BYTES_MAX} bytes.");
            end.status = super::head::ExecutionStatus::Failed;
            end.error = Some(ErrorObject::new("InvalidParameterValueException", message).payload());
        }
        let told = self
            .change_execution(&parent.key, |execution, now| {
                execution.chained_over(&parent.operation, end.clone(), now);
                Ok(())
            })
            .await;
        match told {
            // A parent that is gone waits for nothing.
            Ok(()) | Err(Error::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
        self.crash.reach("chained.told");
        self.change_execution(key, |execution, _| {
            execution.told_parent();
            Ok(())
        })
        .await
    }
}
