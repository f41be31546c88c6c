//! The records that wait for one listener: bounded, cut into batches.

use std::collections::VecDeque;
use std::sync::Arc;

use bowline_foundation::clock::Clock;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Record;
use crate::runtime_api::{Buffering, Schema};

/// How many full batches may wait; what comes then is dropped.
const BATCHES_MAX: usize = 2;

/// What waits for a listener.
pub(super) struct Queue {
    clock: Clock,
    schema: Schema,
    buffering: Buffering,
    state: Mutex<State>,
    /// Told whenever something changes that somebody may wait for.
    changed: Notify,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Bytes>,
    bytes: usize,
    /// A batch is on its way.
    sending: bool,
    paused: bool,
    hurried: bool,
    dropped_records: u64,
    dropped_bytes: u64,
}

impl Queue {
    pub(super) fn new(clock: Clock, schema: Schema, buffering: Buffering) -> Arc<Self> {
        Arc::new(Self {
            clock,
            schema,
            buffering,
            state: Mutex::default(),
            changed: Notify::new(),
        })
    }

    /// Takes a record, or drops it if there is no room.
    pub(super) fn push(&self, text: Bytes) {
        let mut state = self.state.lock();
        let fits = state.bytes + text.len() <= BATCHES_MAX * self.buffering.bytes_max
            && state.waiting.len() < BATCHES_MAX * self.buffering.items_max;
        if !fits {
            state.dropped_records += 1;
            state.dropped_bytes += text.len() as u64;
            return;
        }
        state.bytes += text.len();
        state.waiting.push_back(text);
        let first_or_full = state.waiting.len() == 1 || self.is_full(&state);
        drop(state);
        if first_or_full {
            self.changed.notify_waiters();
        }
    }

    fn is_full(&self, state: &State) -> bool {
        state.waiting.len() >= self.buffering.items_max || state.bytes >= self.buffering.bytes_max
    }

    /// Waits for the next batch, which then counts as on its way until [`Self::sent`].
    pub(super) async fn batch(&self) -> Vec<Bytes> {
        self.until(|state| !state.paused && !state.waiting.is_empty()).await;
        let due = self.until(|state| state.hurried || self.is_full(state));
        let _ = tokio::time::timeout(self.buffering.timeout, due).await;
        self.until(|state| !state.paused).await;
        self.take()
    }

    fn take(&self) -> Vec<Bytes> {
        let mut state = self.state.lock();
        let mut batch = Vec::new();
        let mut bytes = 0;
        while let Some(first) = state.waiting.front()
            && batch.len() < self.buffering.items_max
            && (batch.is_empty() || bytes + first.len() <= self.buffering.bytes_max)
        {
            bytes += first.len();
            batch.extend(state.waiting.pop_front());
        }
        state.bytes -= bytes;
        state.sending = true;
        if state.dropped_records > 0 {
            let record = Record::LogsDropped {
                records: std::mem::take(&mut state.dropped_records),
                bytes: std::mem::take(&mut state.dropped_bytes),
            };
            batch.extend(record.render(self.clock.now(), self.schema));
        }
        batch
    }

    /// The batch has arrived.
    pub(super) fn sent(&self) {
        self.state.lock().sending = false;
        self.changed.notify_waiters();
    }

    /// The batch is given up; the listener is told with the next one.
    pub(super) fn given_up(&self, batch: &[Bytes]) {
        let mut state = self.state.lock();
        state.sending = false;
        state.dropped_records += batch.len() as u64;
        state.dropped_bytes += batch.iter().map(|text| text.len() as u64).sum::<u64>();
        drop(state);
        self.changed.notify_waiters();
    }

    /// Holds back the batches, or lets them go again.
    pub(super) fn pause(&self, paused: bool) {
        self.state.lock().paused = paused;
        self.changed.notify_waiters();
    }

    /// Batches do not wait for more from now on.
    pub(super) fn hurry(&self) {
        self.state.lock().hurried = true;
        self.changed.notify_waiters();
    }

    /// Waits while the sandbox stands still.
    pub(super) async fn awake(&self) {
        self.until(|state| !state.paused).await;
    }

    /// Waits until no batch is on its way.
    pub(super) async fn quiet(&self) {
        self.until(|state| !state.sending).await;
    }

    /// Waits until everything has been sent.
    pub(super) async fn empty(&self) {
        self.until(|state| !state.sending && state.waiting.is_empty()).await;
    }

    async fn until(&self, holds: impl Fn(&State) -> bool) {
        loop {
            let changed = self.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            if holds(&self.state.lock()) {
                return;
            }
            changed.await;
        }
    }
}
