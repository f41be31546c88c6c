//! Putting records where they belong: outcomes to destinations, events to dead-letter targets, events that
//! failed into a delay line.
//!
//! What cannot be delivered now is tried again until the node stops; what never can be is counted, logged
//! and given up, as the service does.

use std::sync::Arc;

use bowline_foundation::id::{AccountId, RequestId};
use bowline_foundation::limits::ASYNC_PAYLOAD_BYTES_MAX;
use bowline_stream::{AppendError, BODY_BYTES_MAX, EventId, Record};
use bytes::Bytes;

use super::arn::{Purpose, Target};
use super::attempt::Ending;
use super::content::Content;
use super::envelope::{Envelope, Origin, step_id};
use super::mapping::Until;
use super::outcome::{Condition, LostBatch, Outcome};
use super::policy::HOPS_MAX;
use super::relay::line_name;
use super::trouble::Trouble;
use crate::error::Error;
use crate::name::FunctionRef;
use crate::service::Inner;

/// Why a delivery failed.
pub(super) enum Failure {
    Later(String),
    Never(String),
}

/// Says where a record goes as the configuration is now; nothing if it is wanted no more.
pub(super) type Where<'a> = &'a (dyn Fn() -> Option<String> + Send + Sync);

/// A record on its way.
struct Delivery<'a> {
    /// Whose outcome it is, for operators.
    function: &'a str,
    place: Where<'a>,
    account: &'a AccountId,
    purpose: Purpose,
    content: Content<'a>,
    id: EventId,
    /// Outcomes that have led to this one.
    hops: u32,
    /// How long it is of use, if it ends before the node does.
    until: Option<&'a Until>,
}

impl Inner {
    /// Tells a destination of an event's outcome.
    pub(super) async fn tell_outcome(
        self: &Arc<Self>,
        place: Where<'_>,
        envelope: &Envelope,
        outcome: &Outcome,
    ) -> Ending {
        let function = &envelope.head.function;
        let delivery = Delivery {
            function,
            place,
            account: &envelope.head.account,
            purpose: match outcome.condition {
                Condition::Success => Purpose::Success,
                Condition::RetriesExhausted | Condition::EventAgeExceeded => Purpose::Failure,
            },
            content: Content::Outcome(outcome, function),
            id: envelope.end_id("outcome"),
            hops: envelope.head.hops + 1,
            until: None,
        };
        let ending = self.deliver(&delivery).await;
        self.crash.reach("event.told");
        ending
    }

    /// Puts an event that failed where its function keeps such.
    pub(super) async fn bury(
        self: &Arc<Self>,
        place: Where<'_>,
        envelope: &Envelope,
        (payload, trouble): (&Bytes, &Trouble),
    ) -> Ending {
        let delivery = Delivery {
            function: &envelope.head.function,
            place,
            account: &envelope.head.account,
            purpose: Purpose::DeadLetter,
            content: Content::Event {
                request_id: &envelope.head.request_id,
                payload,
                trouble,
            },
            id: envelope.end_id("dead-letter"),
            hops: 0,
            until: None,
        };
        self.deliver(&delivery).await
    }

    /// Tells a mapping's destination of a batch that is given up, as long as the mapping is what it is.
    pub(super) async fn tell_lost(
        self: &Arc<Self>,
        arn: &str,
        (function, until): (&FunctionRef, &Until),
        lost: &LostBatch,
    ) -> Ending {
        let condition = format!("{:?}", lost.condition);
        let delivery = Delivery {
            function: function.name.as_str(),
            place: &|| Some(arn.to_owned()),
            account: &function.account,
            purpose: Purpose::LostBatch,
            content: Content::Lost(lost),
            id: step_id(&["lost", &lost.function_arn, &lost.first.0, &lost.last.0, &condition]),
            hops: 0,
            until: Some(until),
        };
        self.deliver(&delivery).await
    }

    /// Puts an event into the delay line of its retry.
    pub(super) async fn defer(self: &Arc<Self>, envelope: &mut Envelope, retry: usize) -> Ending {
        let Some(engine) = self.events.clone() else {
            return Ending::Left;
        };
        let delays = engine.timing.retry_delays;
        let lane = retry.min(delays.len() - 1);
        envelope.head.not_before = self.clock.now().after(delays[lane]);
        let (body, id) = (envelope.encode(), envelope.step_id("defer"));
        let mut failures = 0;
        loop {
            let appended = async {
                let stream = engine.own_stream(&line_name(lane)).await?;
                let record = Record {
                    id: Some(id),
                    key: None,
                    body: body.clone(),
                };
                self.append(&stream, record).await.map_err(Error::service)
            };
            match appended.await {
                Ok(()) => {
                    self.crash.reach("event.deferred");
                    return Ending::Over;
                }
                Err(error) => {
                    tracing::warn!(
                        request_id = envelope.head.request_id,
                        error = &error as &dyn std::error::Error,
                        "an event cannot be deferred yet"
                    );
                }
            }
            failures += 1;
            if !engine.pause(engine.backoff().after(failures)).await {
                return Ending::Left;
            }
        }
    }

    async fn deliver(self: &Arc<Self>, delivery: &Delivery<'_>) -> Ending {
        let Some(engine) = &self.events else {
            return Ending::Left;
        };
        let function = delivery.function;
        let mut failures = 0;
        while let Some(arn) = (delivery.place)() {
            let reason = match self.deliver_once(delivery, &arn).await {
                Ok(()) => return Ending::Over,
                Err(Failure::Never(reason)) => {
                    self.metrics.events.undelivered(function);
                    tracing::warn!(
                        function,
                        arn,
                        reason,
                        "a destination does not take a record; it is given up"
                    );
                    return Ending::Over;
                }
                Err(Failure::Later(reason)) => reason,
            };
            failures += 1;
            match failures {
                1 => tracing::warn!(
                    function,
                    arn,
                    reason,
                    "a destination does not take a record now; it waits"
                ),
                _ => tracing::debug!(function, arn, reason, "a destination is tried again"),
            }
            let pause = engine.backoff().after(failures);
            let runs = match delivery.until {
                None => engine.pause(pause).await,
                Some(until) => {
                    until.pause(pause).await;
                    until.runs()
                }
            };
            if !runs {
                return Ending::Left;
            }
        }
        tracing::warn!(function, "a record has no destination any more; it is dropped");
        self.metrics.events.undelivered(function);
        Ending::Over
    }

    async fn deliver_once(self: &Arc<Self>, delivery: &Delivery<'_>, arn: &str) -> Result<(), Failure> {
        let outside = &self.streams().map_err(never)?.outside;
        let content = delivery.content;
        match Target::parse(arn, delivery.purpose, delivery.account, outside.beside()).map_err(never)? {
            Target::Stream(name) => self.append_to(&name, content.bytes(BODY_BYTES_MAX), delivery.id).await,
            Target::Function(function) => {
                let record = content.bytes(ASYNC_PAYLOAD_BYTES_MAX);
                self.pass_on(&function, record, (delivery.id, delivery.hops)).await
            }
            Target::Queue(queue) => outside.send(arn, &queue, content).await,
            Target::Bucket(bucket) => match content.object(delivery.id) {
                Some(object) => outside.put(arn, &bucket, object).await,
                None => Err(Failure::Never("a bucket takes no dead letters".to_owned())),
            },
        }
    }

    async fn append_to(&self, name: &str, body: Bytes, id: EventId) -> Result<(), Failure> {
        let stream = self.stream(name).await.map_err(later_or_never)?;
        let record = Record {
            id: Some(id),
            key: None,
            body,
        };
        self.append(&stream, record).await.map_err(|error| match error {
            AppendError::NoSuchStream(_) | AppendError::TooLarge { .. } | AppendError::Empty => {
                Failure::Never(error.to_string())
            }
            error => Failure::Later(error.to_string()),
        })
    }

    /// Leaves a record with a function, as an event of its own.
    async fn pass_on(
        self: &Arc<Self>,
        function: &FunctionRef,
        record: Bytes,
        (id, hops): (EventId, u32),
    ) -> Result<(), Failure> {
        let entry = self.entry(function).map_err(never)?;
        if hops > HOPS_MAX && !entry.recursion_allowed {
            return Err(Failure::Never(format!("`{HOPS_MAX}` outcomes have led to one another")));
        }
        self.target(&entry, function).map_err(never)?;
        let origin = Origin {
            request_id: RequestId::random(&self.entropy).to_string(),
            account: function.account.clone(),
            function: function.name.to_string(),
            qualifier: function.qualifier.as_ref().map(ToString::to_string),
            client_context: None,
            trace_id: None,
            accepted_at: self.clock.now(),
            hops,
        };
        self.enqueue(Envelope::new(origin, record), Some(id))
            .await
            .map_err(|error| Failure::Later(error.to_string()))
    }
}

fn never(error: Error) -> Failure {
    Failure::Never(error.to_string())
}

fn later_or_never(error: Error) -> Failure {
    match error {
        Error::Service(cause) => Failure::Later(cause.to_string()),
        error => Failure::Never(error.to_string()),
    }
}
