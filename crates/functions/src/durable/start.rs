//! Starting executions, and waiting for their end.

use std::sync::Arc;

use bowline_foundation::digest::Digest;
use bowline_foundation::id::AccountId;
use bowline_foundation::limits::ASYNC_PAYLOAD_BYTES_MAX;
use bowline_sandbox::FunctionError;
use bytes::Bytes;
use serde::Serialize;

use super::head::{DurableConfig, ExecutionStatus, Head, Origin};
use super::id::{ExecutionArn, ExecutionId, ExecutionKey, ExecutionName};
use super::ledger::Created;
use super::limits::{EXECUTION_SECONDS_DEFAULT, RETENTION_DAYS_DEFAULT, SYNC_SECONDS_MAX};
use super::operation::ErrorObject;
use super::state::{Beginning, Chains, Execution, Resolved, Unresolved};
use crate::error::Error;
use crate::invoke::{check, check_event};
use crate::model::Configuration;
use crate::name::{FunctionRef, Qualifier};
use crate::service::{Inner, InvocationRequest, InvocationResponse};

impl Inner {
    /// Starts an execution and waits for its end. The same name with the same event waits for the same one.
    pub(crate) async fn invoke_durable(
        self: &Arc<Self>,
        target: &FunctionRef,
        request: InvocationRequest,
        name: Option<ExecutionName>,
    ) -> Result<InvocationResponse, Error> {
        let configuration = self.durable_target(target)?;
        if configuration
            .durable
            .is_some_and(|config| config.execution_timeout_seconds > SYNC_SECONDS_MAX)
        {
            return Err(Error::InvalidParameter(format!(
                "You cannot synchronously invoke a durable function with an executionTimeout greater than {} minutes.",
                SYNC_SECONDS_MAX / 60
            )));
        }
        let arn = self
            .start_execution(target, configuration, request, (name, Origin::Waiting))
            .await?;
        self.await_end(&arn).await
    }

    /// Starts an execution that nobody waits for; once this returns, it is on disk.
    pub(crate) async fn accept_durable(
        self: &Arc<Self>,
        target: &FunctionRef,
        request: InvocationRequest,
        name: Option<ExecutionName>,
    ) -> Result<ExecutionArn, Error> {
        let configuration = self.durable_target(target)?;
        self.start_execution(target, configuration, request, (name, Origin::Event))
            .await
    }

    /// Whether a target names a durable version.
    pub(crate) fn is_durable(&self, target: &FunctionRef) -> Result<bool, Error> {
        let entry = self.entry(target)?;
        Ok(self.target(&entry, target)?.configuration.durable.is_some())
    }

    /// The durable version that a target names.
    fn durable_target(&self, target: &FunctionRef) -> Result<Configuration, Error> {
        let entry = self.entry(target)?;
        let found = self.target(&entry, target)?.configuration;
        if found.durable.is_none() {
            return Err(Error::InvalidParameter(
                "The invoked function is not a durable function. \
                 Remove the durable execution name from the request and try again."
                    .to_owned(),
            ));
        }
        if target.qualifier.is_none() {
            return Err(Error::InvalidParameter(
                "You cannot invoke a durable function using an unqualified ARN. Name a version, an alias or $LATEST."
                    .to_owned(),
            ));
        }
        Ok(Configuration::clone(found))
    }

    async fn start_execution(
        self: &Arc<Self>,
        target: &FunctionRef,
        configuration: Configuration,
        request: InvocationRequest,
        (name, origin): (Option<ExecutionName>, Origin),
    ) -> Result<ExecutionArn, Error> {
        let _entered = self
            .running
            .enter()
            .ok_or_else(|| Error::Service("the node is stopping".into()))?;
        let input = match origin {
            Origin::Waiting => check(request.payload)?,
            Origin::Event | Origin::Chained => check_event(request.payload, ASYNC_PAYLOAD_BYTES_MAX)?,
        };
        let digest = Digest::of(&input);
        let input = String::from_utf8(input.to_vec()).map_err(Error::service)?;
        let now = self.clock.now();
        let id = ExecutionId::new(now, &self.entropy);
        let name = match name {
            Some(name) => name,
            None => id.to_string().parse().map_err(Error::service)?,
        };
        let arn = ExecutionArn {
            region: self.region().to_owned(),
            account: target.account.clone(),
            function: target.name.clone(),
            version: configuration.version,
            name,
            id,
        };
        let beginning = Beginning {
            arn: arn.clone(),
            origin,
            config: configuration.durable.unwrap_or(DEFAULT_CONFIG),
            trace_id: request.trace_id,
            input,
            secret: self.chance(),
            parent: None,
            is_plain: false,
        };
        let execution = Execution::start(beginning, now);
        match self.durable.ledger.create(execution, Some(digest)).await? {
            Created::Yes => {
                self.crash.reach("execution.started");
                tracing::info!(request_id = %request.request_id, execution = %arn, "execution starts");
                self.durable.wake.notify_one();
                Ok(arn)
            }
            Created::Exists { arn, same_input: true } => Ok(arn),
            Created::Exists { arn, .. } => Err(Error::AlreadyStarted(format!(
                "The durable execution {} has already been started with another payload.",
                arn.name
            ))),
        }
    }

    /// Waits until an execution is over, and gives its end as an invocation's.
    async fn await_end(&self, arn: &ExecutionArn) -> Result<InvocationResponse, Error> {
        let (engine, key) = (&self.durable, arn.key());
        let slot = engine.slot(&key);
        let mut changes = slot.changes.subscribe();
        let ended = loop {
            changes.borrow_and_update();
            let head = match self.execution_head(&key).await {
                Ok(head) => head,
                Err(error) => break Err(error),
            };
            if head.ended.is_some() {
                break self.response(head).await;
            }
            tokio::select! {
                _ = changes.changed() => {}
                () = tokio::time::sleep(engine.timing.look_every), if engine.is_shared() => {}
                () = engine.stopped() => break Err(Error::Service("the node is stopping".into())),
            }
        };
        drop(changes);
        engine.release(&key, slot);
        ended
    }

    async fn response(&self, head: Head) -> Result<InvocationResponse, Error> {
        let (ledger, id) = (&self.durable.ledger, head.arn.id);
        let result = match (head.status, &head.result, &head.error) {
            (ExecutionStatus::Succeeded, Some(result), _) => Ok(Bytes::from(ledger.text(id, result).await?)),
            (ExecutionStatus::Succeeded, None, _) => Ok(Bytes::from_static(b"null")),
            (_, _, Some(error)) => Err(shown_error(&ledger.text(id, error).await?)),
            (_, _, None) => Err(shown_error("{}")),
        };
        Ok(InvocationResponse {
            result,
            executed_version: head.arn.version,
            rung: None,
            stand: None,
            log_tail: None,
            execution: Some(head.arn),
            node: None,
        })
    }

    /// The limits of the executions of a version; the defaults where it has none or is gone.
    pub(super) fn durable_config(&self, arn: &ExecutionArn, is_plain: bool) -> DurableConfig {
        let target = FunctionRef {
            account: arn.account.clone(),
            name: arn.function.clone(),
            qualifier: Some(Qualifier::Version(arn.version)),
        };
        let entry = self.entry(&target).ok();
        let found = entry.as_ref().and_then(|entry| self.target(entry, &target).ok());
        let config = found
            .and_then(|found| found.configuration.durable)
            .filter(|_| !is_plain);
        config.unwrap_or(DEFAULT_CONFIG)
    }
}

/// What holds where a function does not say.
pub(crate) const DEFAULT_CONFIG: DurableConfig = DurableConfig {
    execution_timeout_seconds: EXECUTION_SECONDS_DEFAULT,
    retention_days: RETENTION_DAYS_DEFAULT,
};

/// An execution's error as whoever waits for its end sees it.
fn shown_error(error: &str) -> FunctionError {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Shown {
        error_message: String,
        error_type: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        error_data: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        stack_trace: Option<Vec<String>>,
    }
    let error: ErrorObject = serde_json::from_str(error).unwrap_or_default();
    let shown = Shown {
        error_message: error.error_message.unwrap_or_default(),
        error_type: error.error_type.unwrap_or_default(),
        error_data: error.error_data,
        stack_trace: error.stack_trace,
    };
    FunctionError {
        payload: serde_json::to_vec(&shown).expect("texts always serialise").into(),
        error_type: shown.error_type,
    }
}

/// Other functions, as an account's executions may name them.
pub(super) struct Registered<'a> {
    pub inner: &'a Arc<Inner>,
    pub account: &'a AccountId,
}

impl Chains for Registered<'_> {
    fn resolve(&self, function: &str, tenant: Option<&str>) -> Result<Resolved, Unresolved> {
        let malformed = || Unresolved::Malformed(format!("Invalid function ARN '{function}'"));
        let target = FunctionRef::parse(function, None, self.account).map_err(|_| malformed())?;
        if target.account != *self.account {
            let text = "Cannot start a CHAINED_INVOKE on a function in another account.";
            return Err(Unresolved::Malformed(text.to_owned()));
        }
        let missing =
            |error: Error| Unresolved::Missing(ErrorObject::new("ResourceNotFoundException", error.to_string()));
        if tenant.is_some() {
            let text = "The invoked function is not enabled with tenancy configuration.";
            return Err(Unresolved::Missing(ErrorObject::new(
                "InvalidParameterValueException",
                text,
            )));
        }
        let entry = self.inner.entry(&target).map_err(missing)?;
        let found = self.inner.target(&entry, &target).map_err(missing)?.configuration;
        let id = ExecutionId::new(self.inner.clock.now(), &self.inner.entropy);
        let is_plain = found.durable.is_none();
        let version = found.version;
        let arn = format!(
            "{}/durable-execution/{id}/{id}",
            self.inner
                .arn(&target.account, &target.name, Some(&Qualifier::Version(version)))
        );
        Ok(Resolved {
            child: ExecutionKey {
                account: target.account.clone(),
                function: target.name.clone(),
                id,
            },
            version: version.to_string(),
            is_plain,
            arn: (!is_plain).then_some(arn),
        })
    }
}
