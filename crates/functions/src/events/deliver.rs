//! Putting records where they belong: outcomes to destinations, events to dead-letter targets, events that
//! failed into a delay line.
//!
//! What never can be delivered is counted, logged and given up, as the service does. What cannot be now is tried again:
//! an event's record waits on disk ([`super::post`]), a batch of a mapping stays in its stream and with its worker.

use std::sync::Arc;

use bowline_foundation::id::{AccountId, RequestId};
use bowline_foundation::limits::ASYNC_PAYLOAD_BYTES_MAX;
use bowline_stream::{AppendError, BODY_BYTES_MAX, EventId, Record};
use bytes::Bytes;

use super::arn::{self, Purpose, Target};
use super::attempt::Ending;
use super::content::Content;
use super::envelope::{Envelope, Origin, step_id};
use super::mapping::Until;
use super::outcome::LostBatch;
use super::policy::HOPS_MAX;
use super::relay::line_name;
use crate::error::Error;
use crate::name::FunctionRef;
use crate::service::Inner;

/// Why a delivery failed.
pub(super) enum Failure {
    Later(String),
    Never(String),
}

/// A record on its way.
pub(super) struct Sending<'a> {
    pub account: &'a AccountId,
    pub purpose: Purpose,
    pub content: Content<'a>,
    pub id: EventId,
    /// Outcomes that have led to this one.
    pub hops: u32,
}

impl Inner {
    /// Tells a mapping's destination of a batch that is given up, as long as the mapping is what it is.
    pub(super) async fn tell_lost(
        self: &Arc<Self>,
        arn: &str,
        (function, until): (&FunctionRef, &Until),
        lost: &LostBatch,
    ) -> Ending {
        let condition = format!("{:?}", lost.condition);
        let sending = Sending {
            account: &function.account,
            purpose: Purpose::LostBatch,
            content: Content::Lost(lost),
            id: step_id(&["lost", &lost.function_arn, &lost.first.0, &lost.last.0, &condition]),
            hops: 0,
        };
        let function = function.name.as_str();
        let mut failures = 0;
        while until.runs() {
            let delivered = tokio::select! {
                biased;
                () = until.stopped() => break,
                delivered = self.deliver_once(&sending, arn) => delivered,
            };
            let reason = match delivered {
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
            until.pause(until.engine.backoff().after(failures)).await;
        }
        Ending::Left
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

    /// Brings a record where an ARN says.
    pub(super) async fn deliver_once(self: &Arc<Self>, sending: &Sending<'_>, arn: &str) -> Result<(), Failure> {
        let outside = &self.streams().map_err(never)?.outside;
        let content = sending.content;
        let beside = outside.beside();
        // What such an ARN names is known once this node, or another one, is told of the service.
        let missing = |reason: String| match arn::unknown_service(arn, beside) {
            Some(unknown) => Failure::Later(unknown.to_owned()),
            None => Failure::Never(reason),
        };
        let target = Target::parse(arn, sending.purpose, sending.account, beside);
        match target.map_err(|error| missing(error.to_string()))? {
            Target::Stream(name) => {
                let record = Record {
                    id: Some(sending.id),
                    key: None,
                    body: content.bytes(BODY_BYTES_MAX),
                };
                self.append_to(&name, record, missing).await
            }
            Target::Function(function) => {
                let record = content.bytes(ASYNC_PAYLOAD_BYTES_MAX);
                self.pass_on(&function, record, (sending.id, sending.hops)).await
            }
            Target::Queue(queue) => outside.send(arn, &queue, content).await,
            Target::Bucket(bucket) => match content.object(sending.id) {
                Some(object) => outside.put(arn, &bucket, object).await,
                None => Err(Failure::Never("a bucket takes no dead letters".to_owned())),
            },
        }
    }

    async fn append_to(&self, name: &str, record: Record, missing: impl Fn(String) -> Failure) -> Result<(), Failure> {
        let stream = self.stream(name).await.map_err(|error| match error {
            Error::Service(cause) => Failure::Later(cause.to_string()),
            error => missing(error.to_string()),
        })?;
        self.append(&stream, record).await.map_err(|error| match error {
            AppendError::NoSuchStream(_) => {
                // It may be made anew.
                if let Some(engine) = &self.events {
                    engine.forget(name);
                }
                missing(error.to_string())
            }
            AppendError::TooLarge { .. } | AppendError::Empty => Failure::Never(error.to_string()),
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
