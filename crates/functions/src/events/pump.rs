//! What takes a function's events out of its stream: sets of them, several at once.

use std::sync::Arc;

use bowline_stream::session::{Batch, Order, ReadError, ReadRequest, SessionId, Start};
use bowline_stream::{Position, StreamId};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::attempt::Ending;
use super::engine::Engine;
use super::envelope::Envelope;
use super::gate::Gate;
use super::queue::owner;
use crate::service::Inner;

/// Invocations of one function's events that run at once at one node, at most; its reserved concurrency
/// lowers that.
pub(super) const CONCURRENT_MAX: u32 = 256;
/// Sets of one function in the hands of one node.
const SETS_MAX: usize = 32;
/// Events of one set; their invocations run at once, and the set is over when the last one is.
const SET_EVENTS: usize = 16;
const SET_BYTES: usize = 2 * 1024 * 1024;
/// The one session of a function's stream.
const SESSION: &str = "bowline-pump";

/// What works on one function's events.
pub(crate) struct Pump {
    pub function: String,
    pub stream: StreamId,
    pub gate: Gate,
    /// As many as [`CONCURRENT_MAX`]; an invocation takes its share of them.
    pub permits: Semaphore,
    session: Mutex<Option<SessionId>>,
}

impl Inner {
    /// Starts the pump of a stream that holds a function's events, unless it runs.
    pub(super) fn pump_if_function(self: &Arc<Self>, name: &str) {
        let (Some(engine), Some((_, function))) = (&self.events, owner(name)) else {
            return;
        };
        let mut pumps = engine.pumps.lock();
        if pumps.contains_key(name) {
            return;
        }
        let Ok(stream) = StreamId::new(name, 2) else { return };
        let pump = Arc::new(Pump {
            function: function.to_owned(),
            stream,
            gate: Gate::default(),
            permits: Semaphore::new(CONCURRENT_MAX as usize),
            session: Mutex::default(),
        });
        pumps.insert(name.to_owned(), pump.clone());
        engine.spawn(self.clone().pump(engine.clone(), pump));
    }

    async fn pump(self: Arc<Self>, engine: Arc<Engine>, pump: Arc<Pump>) {
        let mut sets = JoinSet::new();
        let mut failures = 0;
        while !engine.is_stopping() {
            while sets.try_join_next().is_some() {}
            if sets.len() >= SETS_MAX {
                tokio::select! {
                    () = engine.stopped() => break,
                    _ = sets.join_next() => continue,
                }
            }
            if let Some(closed) = pump.gate.closed_for() {
                engine.pause(closed).await;
                continue;
            }
            match self.next_set(&engine, &pump).await {
                Ok(Some((session, batch))) => {
                    failures = 0;
                    sets.spawn(self.clone().work_off(engine.clone(), pump.clone(), session, batch));
                }
                Ok(None) => failures = 0,
                Err(reason) => {
                    failures += 1;
                    tracing::warn!(stream = %pump.stream, reason, "a function's events cannot be read");
                    engine.pause(engine.backoff().after(failures)).await;
                }
            }
        }
        while sets.join_next().await.is_some() {}
    }

    async fn next_set(&self, engine: &Engine, pump: &Pump) -> Result<Option<(SessionId, Batch)>, String> {
        let known = pump.session.lock().clone();
        let session = match known {
            Some(session) => session,
            None => {
                let made = engine.session(&pump.stream, SESSION, Start::Oldest, Order::Free).await;
                let session = made.map_err(|error| error.to_string())?;
                *pump.session.lock() = Some(session.clone());
                session
            }
        };
        let request = ReadRequest {
            events_max: SET_EVENTS,
            bytes_max: SET_BYTES,
            wait: engine.timing.wait,
            worker: "pump".to_owned(),
            ..ReadRequest::default()
        };
        let read = tokio::select! {
            () = engine.stopped() => return Ok(None),
            read = engine.sessions.read(&session, request) => read,
        };
        match read {
            Ok(batch) => Ok(batch.map(|batch| (session, batch))),
            Err(error @ (ReadError::NoSuchSession(_) | ReadError::Gone(_))) => {
                *pump.session.lock() = None;
                Err(error.to_string())
            }
            Err(error) => Err(error.to_string()),
        }
    }

    /// Brings every event of a set to its end, then says so.
    async fn work_off(self: Arc<Self>, engine: Arc<Engine>, pump: Arc<Pump>, session: SessionId, batch: Batch) {
        let left = engine
            .holding(&session, &batch, self.clone().end_all(&pump, &batch))
            .await;
        self.crash.reach("event.concluded");
        let delay = if engine.is_stopping() {
            std::time::Duration::ZERO
        } else {
            engine.timing.backoff_longest
        };
        engine.settle(&session, &batch, left, delay).await;
        self.crash.reach("event.acknowledged");
    }

    /// Returns the events that this node leaves to another one or to later.
    async fn end_all(self: Arc<Self>, pump: &Arc<Pump>, batch: &Batch) -> Vec<Position> {
        let mut ending = JoinSet::new();
        let mut left = Vec::new();
        for event in &batch.events {
            match Envelope::decode(&event.body) {
                Ok(envelope) => {
                    let (inner, pump, position) = (self.clone(), pump.clone(), event.position);
                    ending.spawn(async move { (position, inner.end(&pump, envelope).await) });
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(stream = %pump.stream, position = %event.position, error,
                        "an event cannot be read; it stays");
                    left.push(event.position);
                }
            }
        }
        while let Some(ended) = ending.join_next().await {
            match ended {
                Ok((_, Ending::Over)) => {}
                Ok((position, Ending::Left)) => left.push(position),
                Err(error) => tracing::error!(%error, "the work on an event has panicked"),
            }
        }
        left
    }

    /// Tells operators how the pumps fare.
    pub(super) async fn measure_pumps(&self) {
        let Some(engine) = &self.events else { return };
        let pumps: Vec<Arc<Pump>> = engine.pumps.lock().values().cloned().collect();
        for pump in pumps {
            let session = pump.session.lock().clone();
            let Some(session) = session else { continue };
            if let Ok(stat) = engine.sessions.stat(&session).await {
                self.metrics.events.measured(&pump.function, &stat);
            }
        }
    }
}
