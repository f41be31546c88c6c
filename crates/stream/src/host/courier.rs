//! Appends on their way to another host: those that come while others are under way go together.
//!
//! A stream of several hosts costs the store one commit a batch, whoever writes. A host without a chain of its own
//! has the owner of one store its appends, and one message carries what has gathered, as one commit does there.
//! Each append is still stored whole or not at all, and has an origin by which readers tell copies apart.
//!
//! Before the next message goes, whoever was answered gets [a moment](super::gather) to come back.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::gather::{Gather, is_alone};
use super::queue::Bounds;
use super::routing::Left;
use super::{Inner, Stream};
use crate::record::Draft;
use crate::{HostId, Position};

/// An append that waits, and where its answer goes.
struct Parcel {
    drafts: Vec<Draft>,
    bytes: usize,
    reply: oneshot::Sender<Result<Vec<Position>, Left>>,
}

/// What waits for one other host.
#[derive(Default)]
pub(crate) struct Courier {
    waiting: Mutex<Waiting>,
    gather: Gather,
}

impl std::fmt::Debug for Courier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Courier")
            .field("waiting", &self.waiting.lock().parcels.len())
            .finish()
    }
}

#[derive(Default)]
struct Waiting {
    parcels: VecDeque<Parcel>,
    events: usize,
    bytes: usize,
    /// Somebody carries them.
    is_carried: bool,
}

impl Courier {
    /// Has a parcel wait, and says whether somebody carries already; nothing if too much waits.
    fn push(&self, parcel: Parcel, bounds: Bounds) -> Option<bool> {
        let mut waiting = self.waiting.lock();
        let (events, bytes) = (waiting.events + parcel.drafts.len(), waiting.bytes + parcel.bytes);
        if waiting.events > 0 && (events > bounds.events_max || bytes > bounds.bytes_max) {
            return None;
        }
        (waiting.events, waiting.bytes) = (events, bytes);
        waiting.parcels.push_back(parcel);
        self.gather.arrived(waiting.parcels.len());
        Some(std::mem::replace(&mut waiting.is_carried, true))
    }

    /// The next load; none: nobody carries any more.
    fn load(&self, bounds: Bounds) -> Option<Vec<Parcel>> {
        let mut waiting = self.waiting.lock();
        let (mut events, mut bytes, mut load) = (0, 0, Vec::new());
        while let Some(next) = waiting.parcels.front() {
            let (more, larger) = (events + next.drafts.len(), bytes + next.bytes);
            if !load.is_empty() && (more > bounds.events_max || larger > bounds.bytes_max) {
                break;
            }
            (events, bytes) = (more, larger);
            load.extend(waiting.parcels.pop_front());
        }
        waiting.events -= events;
        waiting.bytes -= bytes;
        waiting.is_carried = !load.is_empty();
        waiting.is_carried.then_some(load)
    }
}

/// Who carries. Dropped with the host's tasks, it tells those who wait by letting go of their answers.
struct Carrier {
    courier: Arc<Courier>,
    is_done: bool,
}

impl Drop for Carrier {
    fn drop(&mut self) {
        if !self.is_done {
            *self.courier.waiting.lock() = Waiting::default();
        }
    }
}

impl Inner {
    /// Has the owner store the drafts in any of its chains, together with what else goes there.
    pub(super) async fn send_along(
        self: &Arc<Self>,
        stream: &Arc<Stream>,
        owner: HostId,
        drafts: Vec<Draft>,
    ) -> Result<Vec<Position>, Left> {
        let courier = stream.courier(owner);
        let bytes = drafts.iter().map(Draft::encoded_bytes).sum();
        let (reply, answer) = oneshot::channel();
        let bounds = Bounds {
            events_max: self.config.queue_events_max,
            bytes_max: self.config.queue_bytes_max,
        };
        match courier.push(Parcel { drafts, bytes, reply }, bounds) {
            None => return Err(Left::overloaded(&stream.id)),
            Some(true) => {}
            Some(false) => {
                let (host, stream) = (Arc::clone(self), Arc::clone(stream));
                let carrier = Carrier {
                    courier,
                    is_done: false,
                };
                self.spawn(async move { host.carry(&stream, owner, carrier).await });
            }
        }
        match answer.await {
            Ok(sent) => sent,
            Err(_) => Err(Left::stopping(&stream.id)),
        }
    }

    /// Carries until nothing waits.
    async fn carry(&self, stream: &Stream, owner: HostId, mut carrier: Carrier) {
        let bounds = Bounds {
            events_max: self.config.batch_events_max,
            bytes_max: self.config.batch_bytes_max,
        };
        while let Some(load) = carrier.courier.load(bounds) {
            let callers = load.len();
            let took = self.deliver(stream, owner, load).await;
            let courier = &carrier.courier;
            let waiting = || courier.waiting.lock().parcels.len();
            // Those who came meanwhile go with them where they would only take turns for one thread.
            let wanted = if is_alone() { callers + waiting() } else { callers };
            courier.gather.wait(wanted, took, self.clock.wall(), waiting).await;
        }
        carrier.is_done = true;
    }

    /// Brings a load to the owner and answers it; returns how long that took.
    async fn deliver(&self, stream: &Stream, owner: HostId, load: Vec<Parcel>) -> Duration {
        let began = self.clock.wall().monotonic();
        let (mut drafts, mut parts) = (Vec::new(), Vec::with_capacity(load.len()));
        for parcel in load {
            parts.push((parcel.drafts.len(), parcel.reply));
            drafts.extend(parcel.drafts);
        }
        let count = drafts.len() as u64;
        let origin = self.give_origin(&mut drafts);
        let sent = self.forward(stream, (owner, None), drafts, Some(origin)).await;
        let took = self.clock.wall().monotonic().since(began);
        // Whoever gave up waiting does not want the answer.
        match sent {
            Ok(mut positions) => {
                stream.load.lock().batch(count, took);
                for (count, reply) in parts {
                    let later = positions.split_off(count.min(positions.len()));
                    let _ = reply.send(Ok(std::mem::replace(&mut positions, later)));
                }
            }
            Err(mut left) => {
                for (count, reply) in parts {
                    let _ = reply.send(Err(left.split(count)));
                }
            }
        }
        took
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::EventId;

    const BOUNDS: Bounds = Bounds {
        events_max: 2,
        bytes_max: 1000,
    };

    type Answer = oneshot::Receiver<Result<Vec<Position>, Left>>;

    fn parcel(events: usize) -> (Parcel, Answer) {
        let draft = Draft {
            id: EventId([0; 16]),
            is_given: false,
            origin: None,
            key: None,
            body: Bytes::new(),
        };
        let (reply, answer) = oneshot::channel();
        let drafts = vec![draft; events];
        (
            Parcel {
                drafts,
                bytes: 1,
                reply,
            },
            answer,
        )
    }

    #[test]
    fn more_than_may_wait_is_refused_until_some_have_gone() {
        let courier = Courier::default();
        let (kept, _answers): (Vec<Parcel>, Vec<Answer>) = (0..2).map(|_| parcel(1)).unzip();
        let carried: Vec<_> = kept.into_iter().map(|one| courier.push(one, BOUNDS)).collect();
        assert_eq!(carried, [Some(false), Some(true)], "the first one's caller carries");
        assert_eq!(courier.push(parcel(1).0, BOUNDS), None);
        assert_eq!(courier.load(BOUNDS).map(|load| load.len()), Some(2));
        assert_eq!(courier.push(parcel(5).0, BOUNDS), Some(true), "a large one goes alone");
    }

    #[test]
    fn whoever_waits_for_a_carrier_that_is_gone_is_told() {
        for is_done in [false, true] {
            let courier = Arc::new(Courier::default());
            let (waiting, mut answer) = parcel(1);
            courier.push(waiting, BOUNDS);
            drop(Carrier {
                courier: Arc::clone(&courier),
                is_done,
            });
            let told = answer
                .try_recv()
                .is_err_and(|e| e == oneshot::error::TryRecvError::Closed);
            assert_eq!(told, !is_done, "control: one that has done its work takes nothing away");
        }
    }
}
