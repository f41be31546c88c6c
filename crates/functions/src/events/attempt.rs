//! One event's way: invoked until it succeeds, is deferred, or is given up; then its outcome is told.
//!
//! ```text
//!            ┌─ throttled, platform failed: wait, as long as it is young enough ─┐
//!            ▼                                                                   │
//!   TAKEN ─▶ too old? ──no──▶ invoke ────────────────────────────────────────────┘
//!              │yes             │ success            │ the function's error
//!              ▼                ▼                    ├─ tries left ─▶ delay line
//!       on-failure, DLQ     on-success               └─ none left ──▶ on-failure, DLQ
//! ```

use std::sync::Arc;

use bowline_foundation::entropy::Entropy;
use bowline_foundation::id::RequestId;
use bowline_sandbox::FunctionError;
use bytes::Bytes;

use super::addressee::settings;
use super::envelope::Envelope;
use super::outcome::{Condition, Outcome, Response, Verdict};
use super::parcel::{Parcel, Sender, What};
use super::policy::{AfterError, EventPolicy};
use super::pump::{CONCURRENT_MAX, Pump};
use super::trouble::Trouble;
use crate::error::Error;
use crate::name::{FunctionRef, Qualifier, Version};
use crate::registry::FunctionEntry;
use crate::service::{Inner, InvocationRequest, InvocationResponse};

/// What became of an event at this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// It needs no more work here.
    Over,
    /// Somebody else has to do it, or we later.
    Left,
}

/// What one try gave.
enum Tried {
    Answered(Box<InvocationResponse>),
    /// The function could not be invoked now.
    NotNow(Error),
    /// It never can be.
    Never(Error),
}

/// What is known while an event is worked on.
struct Way {
    envelope: Envelope,
    target: FunctionRef,
    payload: Bytes,
    /// The last thing that went wrong.
    trouble: Trouble,
}

impl Inner {
    /// Brings an event to its end.
    pub(super) async fn end(self: Arc<Self>, pump: &Pump, envelope: Envelope) -> Ending {
        let Some(engine) = self.events.clone() else {
            return Ending::Left;
        };
        let mut way = match self.way(envelope).await {
            Ok(Some(way)) => way,
            Ok(None) => return Ending::Over,
            Err(ending) => return ending,
        };
        while !engine.is_stopping() {
            let Ok(entry) = self.entry(&way.target) else {
                return self.forget(&way, "the function is gone").await;
            };
            let settings = settings(&entry, &way.target);
            let policy = EventPolicy::of(settings.as_ref());
            if policy.is_too_old(way.envelope.head.accepted_at, self.clock.now()) {
                return self.conclude(&entry, &way, Condition::EventAgeExceeded, None).await;
            }
            if entry.reserved == Some(0) {
                way.trouble = Trouble::throttled();
                return self.conclude(&entry, &way, Condition::RetriesExhausted, None).await;
            }
            if let Some(closed) = pump.gate.closed_for() {
                engine.pause(closed).await;
                continue;
            }
            match self.try_once(pump, &entry, &way).await {
                Tried::Answered(response) => return self.answered(&entry, way, policy, *response).await,
                Tried::NotNow(error) => {
                    tracing::debug!(
                        function = pump.function,
                        error = &error as &dyn std::error::Error,
                        "an event waits"
                    );
                    way.trouble = Trouble::of_error(&error);
                    pump.gate.close(engine.backoff());
                }
                Tried::Never(error) => {
                    tracing::warn!(
                        function = pump.function,
                        error = &error as &dyn std::error::Error,
                        "an event can never be processed"
                    );
                    way.trouble = Trouble::of_error(&error);
                    return self.conclude(&entry, &way, Condition::RetriesExhausted, None).await;
                }
            }
        }
        Ending::Left
    }

    /// Reads what an event needs. `Ok(None)`: it can never be processed.
    async fn way(&self, envelope: Envelope) -> Result<Option<Way>, Ending> {
        let head = &envelope.head;
        let target = FunctionRef::parse(&head.function, head.qualifier.as_deref(), &head.account);
        let payload = match self.whole_payload(&envelope).await {
            Ok(payload) => payload,
            Err(error) => {
                tracing::warn!(request_id = head.request_id, %error, "an event cannot be read yet");
                return Err(Ending::Left);
            }
        };
        let (Ok(target), Some(payload)) = (target, payload) else {
            tracing::error!(
                request_id = head.request_id,
                function = head.function,
                "an event is damaged; it is dropped"
            );
            self.metrics.events.dropped(&head.function, "damaged");
            return Ok(None);
        };
        Ok(Some(Way {
            trouble: Trouble::before(head.tries),
            envelope,
            target,
            payload,
        }))
    }

    async fn try_once(self: &Arc<Self>, pump: &Pump, entry: &FunctionEntry, way: &Way) -> Tried {
        let concurrent_max = entry.reserved.unwrap_or(CONCURRENT_MAX).clamp(1, CONCURRENT_MAX);
        let share = CONCURRENT_MAX.div_ceil(concurrent_max);
        let Ok(_permit) = pump.permits.acquire_many(share).await else {
            return Tried::NotNow(Error::Service("the node is stopping".into()));
        };
        if pump.gate.closed_for().is_some() {
            return Tried::NotNow(Error::Service("the function has just been throttled".into()));
        }
        let head = &way.envelope.head;
        let request = InvocationRequest {
            request_id: head
                .request_id
                .parse()
                .unwrap_or_else(|_| RequestId::random(&Entropy::system())),
            payload: way.payload.clone(),
            client_context: head.client_context.clone(),
            trace_id: head.trace_id.clone(),
            log_tail: false,
            is_strict: false,
        };
        match self.invoke(&way.target, request).await {
            Ok(response) => {
                pump.gate.open();
                self.crash.reach("event.invoked");
                Tried::Answered(Box::new(response))
            }
            Err(error @ (Error::NotFound(_) | Error::RequestTooLarge(_) | Error::InvalidRequestContent(_))) => {
                Tried::Never(error)
            }
            Err(error) => Tried::NotNow(error),
        }
    }

    async fn answered(
        self: &Arc<Self>,
        entry: &FunctionEntry,
        mut way: Way,
        policy: EventPolicy,
        response: InvocationResponse,
    ) -> Ending {
        let executed_version = response.executed_version.to_string();
        match response.result {
            Ok(payload) => {
                let response = Response {
                    executed_version,
                    failed: Verdict::Succeeded,
                    payload,
                };
                self.conclude(entry, &way, Condition::Success, Some(response)).await
            }
            Err(FunctionError { payload, .. }) => {
                way.trouble = Trouble::of_answer(&payload);
                let response = Response {
                    executed_version,
                    failed: Verdict::Failed,
                    payload,
                };
                match policy.after_error(way.envelope.head.tries + 1) {
                    AfterError::Retry(number) => {
                        way.envelope.head.tries += 1;
                        self.metrics.events.retried(&way.envelope.head.function);
                        self.defer(&mut way.envelope, number).await
                    }
                    AfterError::Exhausted => {
                        self.conclude(entry, &way, Condition::RetriesExhausted, Some(response))
                            .await
                    }
                }
            }
        }
    }

    /// Tells the outcome to whom the configuration names; then nothing of the event is left.
    async fn conclude(
        self: &Arc<Self>,
        entry: &FunctionEntry,
        way: &Way,
        condition: Condition,
        response: Option<Response>,
    ) -> Ending {
        let head = &way.envelope.head;
        let latest = Qualifier::Version(Version::Latest);
        let qualifier = way.target.qualifier.as_ref().unwrap_or(&latest);
        let outcome = Outcome {
            request_id: head.request_id.clone(),
            function_arn: self.arn(&way.target.account, &way.target.name, Some(qualifier)),
            condition,
            invocations: head.tries + u32::from(response.is_some()),
            request: way.payload.clone(),
            response,
            at: self.clock.now(),
        };
        let mut told = false;
        for what in [What::Outcome, What::Letter] {
            let Some(arn) = what.place(entry, &way.target, condition) else {
                continue;
            };
            told = true;
            let sender = Sender {
                target: &way.target,
                hops: head.hops,
                trouble: way.trouble.clone(),
            };
            if self.hand_over(Parcel::new(what, arn, &outcome, sender)).await == Ending::Left {
                return Ending::Left;
            }
        }
        if condition != Condition::Success && !told {
            tracing::warn!(
                request_id = head.request_id,
                function = head.function,
                ?condition,
                "an event is dropped: it failed, and there is neither destination nor dead-letter target"
            );
            self.metrics.events.dropped(&head.function, "failed");
        }
        self.clean_up(&way.envelope).await;
        Ending::Over
    }

    async fn forget(&self, way: &Way, reason: &'static str) -> Ending {
        let head = &way.envelope.head;
        tracing::warn!(
            request_id = head.request_id,
            function = head.function,
            reason,
            "an event is dropped"
        );
        self.metrics.events.dropped(&head.function, "function_gone");
        self.clean_up(&way.envelope).await;
        Ending::Over
    }

    async fn clean_up(&self, envelope: &Envelope) {
        if let Some(overflow) = &envelope.head.overflow {
            self.registry.delete_overflow(overflow).await;
        }
    }
}
