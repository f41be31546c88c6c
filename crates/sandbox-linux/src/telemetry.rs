//! Telemetry of one sandbox: what the platform, the function and its extensions tell, on its way to the
//! listeners that extensions subscribed inside the sandbox.
//!
//! ```text
//!  Hub::tell ─ record ─▶ Queue of each subscriber (bounded) ─ batch ─▶ courier's task ─ HTTP or TCP ─▶ listener
//! ```
//! A sandbox without extensions has no hub. What was told before anybody could subscribe is kept until
//! the initialisation has ended. Nothing waits for a listener: what does not fit is dropped and counted,
//! and the listener is told the count.

mod courier;
mod lines;
mod queue;
mod record;

use std::sync::Arc;
use std::time::Duration;

use bowline_foundation::clock::{Clock, Timestamp};
use parking_lot::Mutex;
use tokio::task::JoinHandle;

pub(crate) use lines::Lines;
pub(crate) use record::Record;

use crate::cell::Lender;
use crate::runtime_api::{NewSubscription, Schema, Stream};
use courier::Courier;
use queue::Queue;

/// What is kept for those who subscribe during the initialisation.
const EARLY_RECORDS_MAX: usize = 1000;
/// How long a sandbox that is about to stand still waits for a batch on its way.
const PAUSE_PATIENCE: Duration = Duration::from_millis(200);

/// Where all telemetry of one sandbox comes together.
pub(crate) struct Hub {
    clock: Clock,
    state: Mutex<State>,
}

struct State {
    subscribers: Vec<Subscriber>,
    /// What was told while subscriptions are still possible.
    early: Option<Vec<(Timestamp, Record)>>,
}

struct Subscriber {
    name: Box<str>,
    schema: Schema,
    streams: Vec<Stream>,
    queue: Arc<Queue>,
    courier: JoinHandle<()>,
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.courier.abort();
    }
}

impl Hub {
    /// Begins to keep what is told.
    pub(crate) fn new(clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            clock,
            state: Mutex::new(State {
                subscribers: Vec::new(),
                early: Some(Vec::new()),
            }),
        })
    }

    /// Tells all that subscribed, now.
    pub(crate) fn tell(&self, record: Record) {
        self.tell_of(self.clock.now(), record);
    }

    /// Tells of something that happened at `time`.
    pub(crate) fn tell_of(&self, time: Timestamp, record: Record) {
        let mut state = self.state.lock();
        for subscriber in &state.subscribers {
            subscriber.take(time, &record);
        }
        if let Some(early) = state.early.as_mut().filter(|early| early.len() < EARLY_RECORDS_MAX) {
            early.push((time, record));
        }
    }

    /// Whether anybody would get a record of `stream`, now or by subscribing.
    pub(crate) fn wants(&self, stream: Stream) -> bool {
        let state = self.state.lock();
        state.early.is_some() || state.subscribers.iter().any(|other| other.streams.contains(&stream))
    }

    /// Adds a subscriber, which gets all that was told so far; an earlier subscription of the same
    /// extension ends.
    pub(crate) fn subscribe(&self, new: NewSubscription, lender: Arc<Lender>) {
        let NewSubscription { name, subscription } = new;
        let queue = Queue::new(self.clock.clone(), subscription.schema, subscription.buffering);
        let courier = Courier::new(subscription.destination, lender);
        let subscriber = Subscriber {
            name: name.clone(),
            schema: subscription.schema,
            courier: tokio::spawn(courier.run(queue.clone())),
            streams: subscription.streams.clone(),
            queue,
        };
        {
            let mut state = self.state.lock();
            state.subscribers.retain(|other| other.name != name);
            for (time, record) in state.early.iter().flatten() {
                subscriber.take(*time, record);
            }
            state.subscribers.push(subscriber);
        }
        self.tell(Record::Subscription {
            name,
            streams: subscription.streams,
        });
    }

    /// Nobody subscribes any more. Whether anybody did.
    pub(crate) fn close(&self) -> bool {
        let mut state = self.state.lock();
        state.early = None;
        !state.subscribers.is_empty()
    }

    /// The sandbox is about to stand still: no further batch is begun, and one on its way is waited for
    /// a little.
    pub(crate) async fn pause(&self) {
        let queues = self.queues();
        for queue in &queues {
            queue.pause(true);
        }
        let quiet = async {
            for queue in &queues {
                queue.quiet().await;
            }
        };
        let _ = tokio::time::timeout(PAUSE_PATIENCE, quiet).await;
    }

    /// The sandbox moves again.
    pub(crate) fn resume(&self) {
        for queue in self.queues() {
            queue.pause(false);
        }
    }

    /// From now on batches are sent at once; returns when all that was told has been sent.
    pub(crate) async fn hurry(&self) {
        let queues = self.queues();
        for queue in &queues {
            queue.hurry();
        }
        for queue in &queues {
            queue.empty().await;
        }
    }

    fn queues(&self) -> Vec<Arc<Queue>> {
        let state = self.state.lock();
        state
            .subscribers
            .iter()
            .map(|subscriber| subscriber.queue.clone())
            .collect()
    }
}

impl Subscriber {
    fn take(&self, time: Timestamp, record: &Record) {
        if self.streams.contains(&record.stream())
            && let Some(text) = record.render(time, self.schema)
        {
            self.queue.push(text);
        }
    }
}

#[cfg(test)]
mod tests;
