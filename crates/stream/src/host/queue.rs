//! What waits for the owner of one chain: appends up to a limit, and work on the chain itself.

use std::collections::VecDeque;
use std::time::Duration;

use bowline_foundation::clock::Clock;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::gather::Gather;
use crate::hybrid::ClockSkew;
use crate::record::Draft;
use crate::{Position, Stamp};

/// Where the answer to an append goes.
pub(crate) type Reply = oneshot::Sender<Result<Vec<Position>, Refusal>>;

/// One append that waits.
#[derive(Debug)]
pub(crate) struct Pending {
    pub drafts: Vec<Draft>,
    pub bytes: usize,
    pub reply: Reply,
}

/// Why the owner of a chain did not store an append.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The chain is no longer here; nothing was stored, and the events may go elsewhere.
    Moved(Vec<Draft>),
    /// The queue is full.
    Full,
    NotStored(String),
    Unknown(String),
    Skew(ClockSkew),
    Damaged(String),
}

/// Work on a chain that its owner does between two batches.
#[derive(Debug)]
pub(crate) enum Work {
    /// Take no more events. Only if nothing has been appended since the head had this index.
    Seal { next_index: u64 },
    /// Remove nodes whose events are all at or under this stamp.
    Trim(Stamp),
    /// Move nodes whose events are all at or under this stamp to a blob.
    Tier(Stamp),
}

/// How work on a chain ended: whether anything was done, or why it could not be.
pub(crate) type Outcome = Result<bool, String>;

/// What the owner takes out of the queue at once.
pub(crate) enum Next {
    Batch(Vec<Pending>),
    Work(Work, oneshot::Sender<Outcome>),
}

/// Limits of a queue and of a batch, in events and encoded bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub events_max: usize,
    pub bytes_max: usize,
}

#[derive(Debug)]
pub(crate) struct Queue {
    bounds: Bounds,
    waiting: Mutex<Waiting>,
    wake: Notify,
    gather: Gather,
}

#[derive(Debug, Default)]
struct Waiting {
    appends: VecDeque<Pending>,
    works: VecDeque<(Work, oneshot::Sender<Outcome>)>,
    events: usize,
    bytes: usize,
    is_closed: bool,
}

impl Queue {
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            waiting: Mutex::default(),
            wake: Notify::new(),
            gather: Gather::default(),
        }
    }

    /// Has an append wait for the owner.
    pub fn push(&self, drafts: Vec<Draft>) -> Result<oneshot::Receiver<Result<Vec<Position>, Refusal>>, Refusal> {
        let bytes: usize = drafts.iter().map(Draft::encoded_bytes).sum();
        let (reply, answer) = oneshot::channel();
        let mut waiting = self.waiting.lock();
        if waiting.is_closed {
            return Err(Refusal::Moved(drafts));
        }
        let is_full =
            waiting.events + drafts.len() > self.bounds.events_max || waiting.bytes + bytes > self.bounds.bytes_max;
        if is_full && waiting.events > 0 {
            return Err(Refusal::Full);
        }
        waiting.events += drafts.len();
        waiting.bytes += bytes;
        waiting.appends.push_back(Pending { drafts, bytes, reply });
        let count = waiting.appends.len();
        drop(waiting);
        self.gather.arrived(count);
        self.wake.notify_one();
        Ok(answer)
    }

    /// Has the owner do `work` after what waits already.
    pub fn ask(&self, work: Work) -> Option<oneshot::Receiver<Outcome>> {
        let (reply, answer) = oneshot::channel();
        let mut waiting = self.waiting.lock();
        if waiting.is_closed {
            return None;
        }
        waiting.works.push_back((work, reply));
        drop(waiting);
        self.wake.notify_one();
        Some(answer)
    }

    /// Events that wait.
    pub fn depth(&self) -> usize {
        self.waiting.lock().events
    }

    /// Appends that wait.
    pub fn appends(&self) -> usize {
        self.waiting.lock().appends.len()
    }

    pub fn is_closed(&self) -> bool {
        self.waiting.lock().is_closed
    }

    /// Gives so many callers, who were answered at once after so long, a moment to go with those who came meanwhile.
    /// A full batch waits for nobody.
    pub async fn gather(&self, answered: usize, took: Duration, clock: &Clock, batch: Bounds) {
        let waiting = || {
            let waiting = self.waiting.lock();
            let is_full = waiting.events >= batch.events_max || waiting.bytes >= batch.bytes_max;
            if is_full { usize::MAX } else { waiting.appends.len() }
        };
        let wanted = answered.saturating_add(waiting());
        self.gather.wait(wanted, took, clock, waiting).await;
    }

    /// The next batch, of at least one append, or the next work; waits for it.
    pub async fn next(&self, batch: Bounds) -> Next {
        loop {
            if let Some(next) = self.waiting.lock().take(batch) {
                return next;
            }
            self.wake.notified().await;
        }
    }

    /// Refuses all later appends and hands the waiting ones back.
    pub fn close(&self) {
        let mut waiting = self.waiting.lock();
        waiting.is_closed = true;
        let appends = std::mem::take(&mut waiting.appends);
        waiting.works.clear();
        drop(waiting);
        for pending in appends {
            // Whoever gave up waiting does not want the answer.
            let _ = pending.reply.send(Err(Refusal::Moved(pending.drafts)));
        }
    }
}

impl Waiting {
    fn take(&mut self, batch: Bounds) -> Option<Next> {
        if self.appends.is_empty() {
            return self.works.pop_front().map(|(work, reply)| Next::Work(work, reply));
        }
        let (mut events, mut bytes, mut taken) = (0, 0, Vec::new());
        while let Some(next) = self.appends.front() {
            let is_full = events + next.drafts.len() > batch.events_max || bytes + next.bytes > batch.bytes_max;
            if is_full && !taken.is_empty() {
                break;
            }
            events += next.drafts.len();
            bytes += next.bytes;
            taken.extend(self.appends.pop_front());
        }
        self.events -= events;
        self.bytes -= bytes;
        Some(Next::Batch(taken))
    }
}
