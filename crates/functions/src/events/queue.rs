//! Taking events in: each into the stream of its function.

use std::sync::Arc;

use bowline_foundation::limits::ASYNC_PAYLOAD_BYTES_MAX;
use bowline_stream::{AppendError, BODY_BYTES_MAX, EventId, Record, StreamId};
use bytes::Bytes;

use super::arn::INTERNAL;
use super::envelope::{Envelope, Origin};
use crate::durable::ExecutionArn;
use crate::error::{Error, Throttle};
use crate::invoke::check_event;
use crate::name::FunctionRef;
use crate::service::{Inner, InvocationRequest};

/// Bytes of an event that are left for its head when its payload is cut.
pub(super) const HEAD_BYTES_MAX: usize = 16 * 1024;

/// The name of the stream of a function's events.
pub(super) fn stream_name(account: &str, function: &str) -> String {
    format!("{INTERNAL}async.{account}.{function}")
}

/// The account and the function whose events a stream holds.
pub(super) fn owner(stream: &str) -> Option<(&str, &str)> {
    stream.strip_prefix(INTERNAL)?.strip_prefix("async.")?.split_once('.')
}

impl Inner {
    /// Accepts an event; once this returns, the event is on disk. That of a durable function is an execution.
    pub(crate) async fn accept(
        self: &Arc<Self>,
        target: &FunctionRef,
        request: InvocationRequest,
    ) -> Result<Option<ExecutionArn>, Error> {
        if self.is_durable(target)? {
            return self.accept_durable(target, request, None).await.map(Some);
        }
        self.streams()?;
        let _entered = self
            .running
            .enter()
            .ok_or_else(|| Error::Service("the node is stopping".into()))?;
        let payload = check_event(request.payload, ASYNC_PAYLOAD_BYTES_MAX)?;
        let entry = self.entry(target)?;
        self.target(&entry, target)?;
        let origin = Origin {
            request_id: request.request_id.to_string(),
            account: target.account.clone(),
            function: target.name.to_string(),
            qualifier: target.qualifier.as_ref().map(ToString::to_string),
            client_context: request.client_context,
            trace_id: request.trace_id,
            accepted_at: self.clock.now(),
            hops: 0,
        };
        self.enqueue(Envelope::new(origin, payload), None).await?;
        self.crash.reach("event.accepted");
        self.metrics.events.accepted(target.name.as_str());
        Ok(None)
    }

    /// Puts an event into its function's stream. The same identifier again has no second effect.
    pub(super) async fn enqueue(self: &Arc<Self>, mut envelope: Envelope, id: Option<EventId>) -> Result<(), Error> {
        let engine = self.streams()?;
        let name = stream_name(envelope.head.account.as_str(), &envelope.head.function);
        let stream = engine.own_stream(&name).await?;
        if envelope.payload.len() + HEAD_BYTES_MAX > BODY_BYTES_MAX && envelope.head.overflow.is_none() {
            let rest = envelope.payload.split_off(BODY_BYTES_MAX - HEAD_BYTES_MAX);
            let kept = self.registry.put_overflow(&envelope.head.request_id, rest).await;
            envelope.head.overflow = Some(kept.map_err(Error::service)?);
        }
        let record = Record {
            id,
            key: None,
            body: envelope.encode(),
        };
        let appended = engine.host.append(&stream, vec![record]).await;
        appended.map_err(refused)?;
        self.pump_if_function(&name);
        Ok(())
    }

    /// An event's whole payload; none if its end is gone.
    pub(super) async fn whole_payload(&self, envelope: &Envelope) -> Result<Option<Bytes>, bowline_store::ReadError> {
        let Some(overflow) = &envelope.head.overflow else {
            return Ok(Some(envelope.payload.clone()));
        };
        let rest = self.registry.overflow(overflow).await?;
        Ok(rest.map(|rest| [&envelope.payload[..], &rest[..]].concat().into()))
    }

    /// Appends to a stream of the platform or a user.
    pub(super) async fn append(&self, stream: &StreamId, record: Record) -> Result<(), AppendError> {
        let Some(engine) = &self.events else {
            return Err(AppendError::NoSuchStream(stream.clone()));
        };
        engine.host.append(stream, vec![record]).await.map(drop)
    }
}

fn refused(error: AppendError) -> Error {
    match error {
        AppendError::Overloaded(_) => Error::Throttled(Throttle::EventQueue),
        error => Error::service(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_streams_name_tells_its_function() {
        let name = stream_name("000000000000", "f_1-x");
        assert_eq!(owner(&name), Some(("000000000000", "f_1-x")));
        assert!(StreamId::new(&stream_name("000000000000", &"f".repeat(64)), 2).is_ok());
        for other in [
            "orders",
            "bowline.async-delay-1",
            "bowline.audit",
            "async.000000000000.f",
        ] {
            assert_eq!(owner(other), None, "{other}");
        }
    }
}
