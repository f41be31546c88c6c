//! Appends on their way to another host: those that come while others are under way go together.
//!
//! A stream of several hosts costs the store one commit a batch, whoever writes. A host without a chain of its own
//! has the owner of one store its appends, and one message carries what has gathered, as one commit does there.
//! Each append is still stored whole or not at all, and has an origin by which readers tell copies apart.
//!
//! Whoever was just answered often appends again at once. So the next message waits until as many have come back as
//! the last one carried, at most half as long as that took: without this the first goes alone and all others wait.

use std::collections::VecDeque;
use std::sync::Arc;

use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

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
    /// As many wait as were wanted.
    gathered: Notify,
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
    /// Somebody carries them.
    is_carried: bool,
    /// How many the next message waits for.
    wanted: usize,
}

impl Courier {
    /// Has a parcel wait; whether somebody carries already.
    fn push(&self, parcel: Parcel) -> bool {
        let mut waiting = self.waiting.lock();
        waiting.parcels.push_back(parcel);
        if waiting.parcels.len() == waiting.wanted {
            self.gathered.notify_one();
        }
        std::mem::replace(&mut waiting.is_carried, true)
    }

    /// Waits until so many wait, or for so long.
    async fn gather(&self, wanted: usize, patience: Duration) {
        {
            let mut waiting = self.waiting.lock();
            if wanted < 2 || waiting.parcels.len() >= wanted {
                return;
            }
            waiting.wanted = wanted;
        }
        // That they do not come is no news.
        let _ = timeout(patience, self.gathered.notified()).await;
        self.waiting.lock().wanted = 0;
    }

    /// The next load, up to so many events and bytes; none: nobody carries any more.
    fn load(&self, events_max: usize, bytes_max: usize) -> Option<Vec<Parcel>> {
        let mut waiting = self.waiting.lock();
        let (mut events, mut bytes, mut load) = (0, 0, Vec::new());
        while let Some(next) = waiting.parcels.front() {
            (events, bytes) = (events + next.drafts.len(), bytes + next.bytes);
            if !load.is_empty() && (events > events_max || bytes > bytes_max) {
                break;
            }
            load.extend(waiting.parcels.pop_front());
        }
        waiting.is_carried = !load.is_empty();
        waiting.is_carried.then_some(load)
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
        if !courier.push(Parcel { drafts, bytes, reply }) {
            let (host, stream) = (Arc::clone(self), Arc::clone(stream));
            self.spawn(async move { host.carry(&stream, owner, &courier).await });
        }
        match answer.await {
            Ok(sent) => sent,
            Err(_) => Err(Left::stopping(&stream.id)),
        }
    }

    /// Carries until nothing waits.
    async fn carry(&self, stream: &Stream, owner: HostId, courier: &Courier) {
        let clock = self.clock.wall();
        while let Some(load) = courier.load(self.config.batch_events_max, self.config.batch_bytes_max) {
            let (callers, began) = (load.len(), clock.monotonic());
            self.deliver(stream, owner, load).await;
            courier.gather(callers, clock.monotonic().since(began) / 2).await;
        }
    }

    async fn deliver(&self, stream: &Stream, owner: HostId, load: Vec<Parcel>) {
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
    }
}
