//! The delay lines: events whose function failed wait here, then go back into their function's stream.
//!
//! All events of a line wait equally long, so they are due in the order in which they came: the first one
//! that is not due holds up nothing that is.

use std::collections::BTreeSet;
use std::sync::Arc;

use bowline_stream::session::{Batch, SessionId};
use bowline_stream::{Event, Position};
use tokio::task::JoinSet;

use super::arn::INTERNAL;
use super::attempt::Ending;
use super::engine::Engine;
use super::envelope::Envelope;
use super::set::Reader;
use crate::service::Inner;

const READER: Reader = Reader {
    session: "bowline-relay",
    worker: "relay",
    events_max: 256,
    bytes_max: 4 * 1024 * 1024,
};

/// The name of the delay line of a retry, from 0.
pub(super) fn line_name(lane: usize) -> String {
    format!("{INTERNAL}async-delay-{}", lane + 1)
}

impl Inner {
    /// Works a delay line off until the node stops.
    pub(super) async fn relay(self: Arc<Self>, lane: usize) {
        let Some(engine) = self.events.clone() else { return };
        let mut session = None;
        let mut failures = 0;
        while !engine.is_stopping() {
            match self.relay_next(&engine, lane, &mut session).await {
                Ok(()) => failures = 0,
                Err(reason) => {
                    failures += 1;
                    tracing::warn!(lane, reason, "a delay line cannot be read");
                    engine.pause(engine.backoff().after(failures)).await;
                }
            }
        }
    }

    async fn relay_next(
        self: &Arc<Self>,
        engine: &Engine,
        lane: usize,
        session: &mut Option<SessionId>,
    ) -> Result<(), String> {
        let stream = engine.own_stream(&line_name(lane)).await.map_err(text)?;
        let Some((id, batch)) = engine.next_set(session, &stream, READER).await? else {
            return Ok(());
        };
        let left = engine.holding(&id, &batch, self.pass_back(engine, &batch)).await;
        self.crash.reach("event.relayed");
        let delay = if engine.is_stopping() {
            std::time::Duration::ZERO
        } else {
            engine.timing.backoff_longest
        };
        engine.settle(&id, &batch, left, delay).await;
        Ok(())
    }

    /// Returns the events that are left to somebody else.
    async fn pass_back(self: &Arc<Self>, engine: &Engine, batch: &Batch) -> Vec<Position> {
        let mut passing = JoinSet::new();
        // One whose work panics is left, too.
        let mut left: BTreeSet<Position> = batch.events.iter().map(|event| event.position).collect();
        for event in &batch.events {
            let Some(envelope) = read(event) else { continue };
            let wait = envelope.head.not_before.since(self.clock.now());
            if engine.is_stopping() || (!wait.is_zero() && !engine.pause(wait).await) {
                continue;
            }
            let (inner, position) = (self.clone(), event.position);
            passing.spawn(async move { (position, inner.pass_one_back(envelope).await) });
        }
        while let Some(passed) = passing.join_next().await {
            match passed {
                Ok((position, Ending::Over)) => _ = left.remove(&position),
                Ok((_, Ending::Left)) => {}
                Err(error) => tracing::error!(%error, "the work on a delayed event has panicked"),
            }
        }
        left.into_iter().collect()
    }

    async fn pass_one_back(self: Arc<Self>, envelope: Envelope) -> Ending {
        let Some(engine) = self.events.clone() else {
            return Ending::Left;
        };
        let id = envelope.step_id("return");
        let mut failures = 0;
        loop {
            match self.enqueue(envelope.clone(), Some(id)).await {
                Ok(()) => return Ending::Over,
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(
                        request_id = envelope.head.request_id,
                        error,
                        "a delayed event cannot go back yet"
                    );
                }
            }
            failures += 1;
            if !engine.pause(engine.backoff().after(failures)).await {
                return Ending::Left;
            }
        }
    }
}

fn read(event: &Event) -> Option<Envelope> {
    match Envelope::decode(&event.body) {
        Ok(envelope) => Some(envelope),
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::error!(position = %event.position, error, "a delayed event cannot be read; it stays");
            None
        }
    }
}

fn text(error: crate::error::Error) -> String {
    match error {
        crate::error::Error::Service(cause) => cause.to_string(),
        error => error.to_string(),
    }
}
