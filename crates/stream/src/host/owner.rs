//! The owner of one chain: the only task that writes its head, one commit at a time.
//!
//! ```text
//!   appends ─▶ queue ─▶ batch ─▶ stamps (in flight) ─▶ commit {head at version} ─▶ published ─▶ settled ─▶ answers
//!                ▲                                        │ unavailable: again, the same batch
//!                └── the next batch gathers meanwhile     │ unknown, conflict: read the head
//!                                                         │    ours: stored   as before: again   another's: moved
//! ```
//! A batch keeps its stamps through all attempts, so however often it is sent, it is stored once or not at
//! all: each attempt holds only for the head's version before it.

use std::sync::Arc;
use std::time::Duration;

use bowline_store::{CommitError, Condition, Version, Write};
use bytes::Bytes;
use tokio::sync::oneshot;

use super::batch::Batch;
use super::linger::Linger;
use super::queue::{Bounds, Next, Outcome, Pending, Refusal, Work};
use super::stream::{Owned, Stream};
use super::window::Window;
use super::{Inner, gather, maintain};
use crate::chain::{Extended, extend};
use crate::config::CommitWait;
use crate::record::{Head, RunReader, Stored};
use crate::{Stamp, key};

/// The running owner of a chain.
pub(crate) struct Owner {
    pub host: Arc<Inner>,
    pub stream: Arc<Stream>,
    pub owned: Arc<Owned>,
    /// The head as it is stored, and its version.
    pub head: Head,
    pub version: Version,
    pub window: Window,
}

/// Why a head was not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fate {
    #[error("nothing was stored: {0}")]
    NotStored(String),
    /// Another epoch has begun. `may_be_stored` if an attempt may have come before it.
    #[error("the chain has moved to another host")]
    Moved { may_be_stored: bool },
    #[error("what is stored is damaged: {0}")]
    Damaged(String),
}

/// What an attempt left behind.
enum Found {
    Stored(Version),
    Unchanged,
    Other,
}

impl Owner {
    pub async fn run(mut self) {
        if let Err(reason) = self.remember().await {
            tracing::error!(stream = %self.stream.id, chain = self.owned.chain.0, reason, "a chain cannot be owned");
            return self.leave();
        }
        let bounds = Bounds {
            events_max: self.host.config.batch_events_max,
            bytes_max: self.host.config.batch_bytes_max,
        };
        // To look again and again keeps one thread from all else, and on one processor those too for whom it looks.
        let is_alone = gather::is_alone();
        while !self.owned.queue.is_closed() {
            match self.owned.queue.next(bounds).await {
                Next::Batch(pending) => {
                    let callers = pending.len();
                    let took = self.append(pending).await;
                    if is_alone {
                        let clock = self.host.clock.wall();
                        self.owned.queue.gather(callers, took, clock, bounds).await;
                    } else {
                        self.linger(callers, took).await;
                    }
                }
                Next::Work(work, reply) => self.work(work, reply).await,
            }
        }
        self.leave();
    }

    fn leave(&self) {
        self.owned.queue.close();
        self.stream.disown(&self.owned);
    }

    /// Stores a batch and answers it; returns how long that took.
    async fn append(&mut self, pending: Vec<Pending>) -> Duration {
        let began = self.host.clock.wall().monotonic();
        let batch = Batch::of(pending, &self.window);
        if batch.drafts.is_empty() {
            batch.answers(self.place(), Stamp(0), 0).send();
            return Duration::ZERO;
        }
        let count = batch.drafts.len() as u64;
        let first = match self.host.clock.begin(self.owned.slot, count) {
            Ok(first) => first,
            Err(skew) => {
                batch.refuse(|| Refusal::Skew(skew));
                return Duration::ZERO;
            }
        };
        let extended = extend(&self.head, (self.host.id, first), &batch.drafts, &self.host.config.head);
        let writes = writes_of(&self.stream, self.owned.chain, &extended);
        match self.write(&extended.head, Vec::new(), writes).await {
            Ok(version) => self.publish(extended, version, batch, first),
            Err(fate) => self.fail(batch, fate),
        }
        let took = self.host.clock.wall().monotonic().since(began);
        self.stream.load.lock().batch(count, took);
        took
    }

    /// Gives the callers of a batch that took so long a moment to come back.
    async fn linger(&self, callers: usize, took: Duration) {
        let clock = self.host.clock.wall();
        let mut linger = Linger::after(callers, took, clock.monotonic());
        while linger.goes_on(self.owned.queue.appends(), clock.monotonic()) {
            tokio::task::yield_now().await;
        }
    }

    fn place(&self) -> (crate::HostId, crate::ChainId) {
        (self.host.id, self.owned.chain)
    }

    fn publish(&mut self, extended: Extended, version: Version, batch: Batch, first_stamp: Stamp) {
        let first_index = self.head.next_index;
        for (at, draft) in batch.drafts.iter().enumerate().filter(|(_, draft)| draft.is_given) {
            let position = crate::Position {
                stamp: Stamp(first_stamp.0 + at as u64),
                host: self.host.id,
                chain: self.owned.chain,
                index: first_index + at as u64,
            };
            self.window.put(draft.id, position);
        }
        for (number, node) in extended.nodes {
            self.host
                .cache
                .put(self.stream.serial, self.owned.chain, number, Arc::new(node));
        }
        self.become_head(extended.head, version);
        self.host.clock.settle(self.owned.slot);
        self.stream.announce();
        let answers = batch.answers(self.place(), first_stamp, first_index);
        match self.host.config.commit_wait {
            CommitWait::Off => answers.send(),
            CommitWait::On => {
                let wait = self.host.config.skew_max;
                self.host.spawn(async move {
                    tokio::time::sleep(wait).await;
                    answers.send();
                });
            }
        }
    }

    /// The head as it is stored from now on; readers here see it.
    pub fn become_head(&mut self, head: Head, version: Version) {
        self.head = head;
        self.version = version;
        *self.owned.tail.write() = Arc::new(self.head.clone());
    }

    fn fail(&mut self, batch: Batch, fate: Fate) {
        self.stream.load.lock().conflict();
        match fate {
            Fate::NotStored(reason) => {
                self.host.clock.settle(self.owned.slot);
                batch.refuse(|| Refusal::NotStored(reason.clone()));
            }
            Fate::Moved { may_be_stored } => {
                // Stored by now or never: each attempt was for a version that is gone.
                self.host.clock.settle(self.owned.slot);
                self.owned.queue.close();
                if may_be_stored {
                    batch.refuse(|| Refusal::Unknown("the chain has moved to another host".to_owned()));
                } else {
                    batch.hand_back();
                }
            }
            Fate::Damaged(reason) => {
                self.owned.queue.close();
                batch.refuse(|| Refusal::Damaged(reason.clone()));
            }
        }
    }

    async fn work(&mut self, work: Work, reply: oneshot::Sender<Outcome>) {
        let outcome = maintain::work(self, work).await;
        // Whoever gave up waiting does not want the answer.
        let _ = reply.send(outcome);
    }

    /// Writes `next` and `writes` with it, on the condition that the head is the one we know.
    pub async fn write(
        &mut self,
        next: &Head,
        and_if: Vec<Condition>,
        mut writes: Vec<Write>,
    ) -> Result<Version, Fate> {
        let key = key::head(self.stream.id.name(), self.owned.chain);
        let encoded = next.encode();
        writes.push(Write::Put(key.clone(), encoded.clone()));
        let mut conditions = vec![Condition::AtVersion(key.clone(), self.version)];
        conditions.extend(and_if);
        let clock = self.host.clock.wall().clone();
        let began = clock.monotonic();
        let mut may_be_stored = false;
        loop {
            let committed = self.host.store.commit(conditions.clone(), writes.clone()).await;
            let reason = match committed {
                Ok(version) => return Ok(version),
                Err(CommitError::TooLarge(reason)) => return Err(Fate::NotStored(reason)),
                Err(CommitError::Conflict(other)) if other != key && !may_be_stored => {
                    return Err(Fate::NotStored("something else has changed".to_owned()));
                }
                Err(CommitError::Unavailable(reason)) if !may_be_stored => reason,
                Err(error) => {
                    may_be_stored |= matches!(error, CommitError::Unknown(_));
                    match self.find(&encoded).await? {
                        Found::Stored(version) => return Ok(version),
                        Found::Other => return Err(Fate::Moved { may_be_stored }),
                        Found::Unchanged => error.to_string(),
                    }
                }
            };
            if clock.monotonic().since(began) >= self.host.config.commit_retry && !may_be_stored {
                return Err(Fate::NotStored(reason));
            }
            self.pause().await;
        }
    }

    /// Reads the head until the store answers: is it `encoded`, the one we know, or another epoch's?
    async fn find(&self, encoded: &Bytes) -> Result<Found, Fate> {
        let key = key::head(self.stream.id.name(), self.owned.chain);
        loop {
            match self.host.store.get(&key).await {
                Ok(Some(entry)) if entry.value == *encoded => return Ok(Found::Stored(entry.version)),
                Ok(Some(entry)) if entry.version == self.version => return Ok(Found::Unchanged),
                Ok(_) => return Ok(Found::Other),
                Err(bowline_store::ReadError::Damaged(reason)) => return Err(Fate::Damaged(reason)),
                Err(bowline_store::ReadError::Unavailable(_)) => self.pause().await,
            }
        }
    }

    async fn pause(&self) {
        let pause: Duration = self.host.config.retry_pause;
        tokio::time::sleep(pause).await;
    }

    /// Fills the window from the chain's newest events, which an earlier owner stored.
    async fn remember(&mut self) -> Result<(), String> {
        const NODES_AT_ONCE: u64 = 64;
        let mut runs = self.head.runs.clone();
        let mut from = self.head.next_node;
        let mut events = self.head.events();
        while from > self.head.first_node && events < self.host.config.dedup_events {
            let until = from;
            from = from.saturating_sub(NODES_AT_ONCE).max(self.head.first_node);
            let mut older = Vec::new();
            for (number, stored) in self.nodes(from, until).await? {
                // What has moved to blobs is older than any retry.
                if let Stored::Node(node) = stored
                    && number < until
                {
                    events += node.runs.iter().map(|run| run.events as usize).sum::<usize>();
                    older.extend(node.runs);
                }
            }
            if older.is_empty() {
                break;
            }
            older.append(&mut runs);
            runs = older;
        }
        for run in runs {
            let mut reader = RunReader::new(run, self.owned.chain);
            while reader.peek().is_some() {
                let item = reader.next().map_err(|error| error.to_string())?;
                if item.is_given {
                    self.window.put(item.event.id, item.event.position);
                }
            }
        }
        Ok(())
    }

    /// The stored nodes from number `from` on, at most `until - from`, each under its number or, if it is
    /// packed, under the last number of its pack; repeats until the store answers.
    pub async fn nodes(&self, from: u64, until: u64) -> Result<Vec<(u64, Stored)>, String> {
        let (name, chain) = (self.stream.id.name(), self.owned.chain);
        let after = from.checked_sub(1).map(|number| key::node(name, chain, number));
        let limit = usize::try_from(until - from).unwrap_or(usize::MAX);
        loop {
            match self
                .host
                .store
                .scan(&key::nodes(name, chain), after.as_ref(), limit)
                .await
            {
                Ok(found) => {
                    let decoded = found.iter().map(|(key, entry)| {
                        let stored = Stored::decode(&entry.value).map_err(|error| error.to_string())?;
                        Ok((key::node_number(key).ok_or("a node's key is short")?, stored))
                    });
                    return decoded.collect();
                }
                Err(bowline_store::ReadError::Damaged(reason)) => return Err(reason),
                Err(bowline_store::ReadError::Unavailable(_)) => self.pause().await,
            }
        }
    }
}

fn writes_of(stream: &Stream, chain: crate::ChainId, extended: &Extended) -> Vec<Write> {
    let put = |(number, node): &(u64, crate::record::Node)| {
        Write::Put(key::node(stream.id.name(), chain, *number), node.encode())
    };
    extended.nodes.iter().map(put).collect()
}
