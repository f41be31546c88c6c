//! Deciding who gets what: one plan for all waiting readers of a session, to be carried out by one commit.

use std::collections::HashSet;

use bowline_foundation::clock::Timestamp;

use super::ahead::Ahead;
use super::deliver::{Batch, ReadRequest, event_bytes};
use super::error::{LogFault, ReadError, StaleToken};
use super::fetch::Fetched;
use super::filter::Filter;
use super::id::BatchToken;
use super::keys;
use super::limits::{COMMIT_EVENT_BYTES_MAX, PARKED_SETS_MAX, PARKS_PER_COMMIT_MAX, READS_PER_COMMIT_MAX};
use super::record::{MarkerRecord, MarkerState, ParkedRecord, SessionRecord};
use super::service::Inner;
use super::state::{Change, Versioned, View};
use crate::{Position, ReadLimit};

/// What is to be written and answered.
pub(super) struct Plan {
    pub change: Change,
    /// Readers by their place in the queue, each once.
    pub answers: Vec<(usize, Answer)>,
    /// Readers by their place whose processed sets are acknowledged.
    pub done: Vec<usize>,
    /// Where the stream ends, if the session has nothing else to give until events are appended.
    pub tail: Option<Position>,
    /// When a set is due again that is not now.
    pub due: Option<Timestamp>,
    /// Where the session will stand.
    pub cursor: Position,
    /// How much is given out that was not before.
    pub given: ReadLimit,
    /// What was read ahead and is left.
    pub ahead: Ahead,
}

pub(super) enum Answer {
    Set(Batch),
    Trimmed(Position),
    Stale(BatchToken),
}

impl Answer {
    pub fn into_reply(self) -> Result<Option<Batch>, ReadError> {
        match self {
            Self::Set(batch) => Ok(Some(batch)),
            Self::Trimmed(next_available) => Err(ReadError::Trimmed { next_available }),
            Self::Stale(token) => Err(StaleToken(token).into()),
        }
    }
}

/// Whether one of the earlier readers is the same request.
fn is_twin(request: &ReadRequest, earlier: &[&ReadRequest]) -> bool {
    let same = |other: &&ReadRequest| other.request_id == request.request_id;
    request.request_id.is_some() && earlier.iter().any(same)
}

/// A plan in the making.
pub(super) struct Planner<'a> {
    pub inner: &'a Inner,
    pub view: &'a View,
    pub filter: Option<&'a Filter>,
    pub now: Timestamp,
    /// The session as it will be; written if it differs from what it was.
    pub session: SessionRecord,
    pub change: Change,
    pub answers: Vec<(usize, Answer)>,
    done: Vec<usize>,
    /// Acknowledgements whose commits may have been applied.
    perhaps_done: &'a HashSet<BatchToken>,
    /// Numbers of the sets that this plan already touches.
    touched: HashSet<u64>,
    /// Those of them that readers have processed.
    acknowledged: HashSet<u64>,
    pub bytes_left: usize,
    pub tail: Option<Position>,
    /// How much is given out that was not before.
    pub given: ReadLimit,
    pub ahead: Ahead,
}

impl<'a> Planner<'a> {
    pub fn new(
        inner: &'a Inner,
        view: &'a View,
        filter: Option<&'a Filter>,
        (perhaps_done, ahead): (&'a HashSet<BatchToken>, Ahead),
    ) -> Self {
        Self {
            inner,
            view,
            filter,
            now: inner.clock.now(),
            session: view.session.record.clone(),
            change: Change::default(),
            answers: Vec::new(),
            done: Vec::new(),
            perhaps_done,
            touched: HashSet::new(),
            acknowledged: HashSet::new(),
            bytes_left: COMMIT_EVENT_BYTES_MAX,
            tail: None,
            given: ReadLimit { events: 0, bytes: 0 },
            ahead,
        }
    }

    pub async fn plan(mut self, readers: &[&ReadRequest]) -> Result<Plan, LogFault> {
        let (acknowledged, stale) = self.acknowledge(readers);
        let served = self.serve(readers, &stale).await;
        let change = match served {
            Ok(()) => std::mem::take(&mut self.change).and(acknowledged),
            Err(fault) if acknowledged.is_empty() => return Err(fault),
            // What has been processed has, whether or not the stream can be read. The next plan says what is wrong.
            Err(_) => {
                self.answers.clear();
                self.given.events = 0;
                acknowledged
            }
        };
        let due = self.markers_left().map(|marker| marker.record.due_at);
        let due = due.filter(|due| *due > self.now).min();
        Ok(Plan {
            change,
            answers: self.answers,
            done: self.done,
            tail: self.tail,
            due,
            cursor: self.session.cursor,
            given: self.given,
            ahead: self.ahead,
        })
    }

    async fn serve(&mut self, readers: &[&ReadRequest], stale: &HashSet<usize>) -> Result<(), LogFault> {
        self.park_exhausted();
        let mut unserved = Vec::new();
        for (index, request) in readers.iter().enumerate() {
            let stale = request.done.filter(|_| stale.contains(&index));
            // Readers beyond go with the next commit, but for those who only have to be told.
            let is_served = index < READS_PER_COMMIT_MAX && self.bytes_left > 0;
            // A request that waits twice is answered once for now; then it finds its set in flight.
            if !(is_served || stale.is_some()) || is_twin(request, &readers[..index]) {
                continue;
            }
            if self.resend(index, request).await? {
                continue;
            }
            if let Some(token) = stale {
                self.answers.push((index, Answer::Stale(token)));
            } else if !self.redeliver(index, request).await? {
                unserved.push((index, *request));
            }
        }
        self.fresh(&unserved).await?;
        self.write_session();
        Ok(())
    }

    /// Takes away the sets that readers have processed, of all who wait; returns the readers who do not hold theirs any more.
    fn acknowledge(&mut self, readers: &[&ReadRequest]) -> (Change, HashSet<usize>) {
        let (mut change, mut stale) = (Change::default(), HashSet::new());
        for (index, request) in readers.iter().enumerate() {
            let Some(token) = request.done else { continue };
            let markers = &self.view.markers;
            let found = markers.binary_search_by_key(&token.batch, |marker| marker.record.batch);
            let marker = found.ok().map(|place| &markers[place]);
            let is_held = marker.is_some_and(|marker| {
                marker.record.nonce == token.nonce && marker.record.state == MarkerState::InFlight
            });
            let is_done = match marker {
                Some(marker) if is_held && self.acknowledged.insert(token.batch) => {
                    change.remove(keys::marker(&self.view.id, token.batch), marker.at);
                    self.touched.insert(token.batch);
                    true
                }
                // The same request twice.
                Some(_) if is_held => is_twin(request, &readers[..index]),
                Some(_) => false,
                None => self.perhaps_done.contains(&token),
            };
            if is_done {
                self.done.push(index);
            } else {
                stale.insert(index);
            }
        }
        (change, stale)
    }

    /// The markers that this plan does not acknowledge.
    pub fn markers_left(&self) -> impl Iterator<Item = &'a Versioned<MarkerRecord>> + use<'a, '_> {
        let markers = self.view.markers.iter();
        markers.filter(|marker| !self.acknowledged.contains(&marker.record.batch))
    }

    /// Sets whose attempts are used up leave for the parking list, as far as it has room.
    fn park_exhausted(&mut self) {
        let Some(attempts_max) = self.session.attempts_max else {
            return;
        };
        let room = PARKED_SETS_MAX.saturating_sub(self.session.parked as usize);
        let is_exhausted = |set: &MarkerRecord| set.attempts >= attempts_max && set.due_at <= self.now;
        let exhausted = self.markers_left().filter(|marker| is_exhausted(&marker.record));
        let exhausted: Vec<_> = exhausted.take(room).collect();
        for (index, marker) in exhausted.into_iter().enumerate() {
            // Those that do not fit in this commit wait for the next.
            self.touched.insert(marker.record.batch);
            if index < PARKS_PER_COMMIT_MAX {
                self.park(marker);
            }
        }
    }

    fn park(&mut self, marker: &Versioned<MarkerRecord>) {
        let parked = ParkedRecord {
            set: marker.record.clone(),
            parked_at: self.now,
        };
        let (id, batch) = (&self.view.id, marker.record.batch);
        self.change.create(keys::parked(id, batch), &parked);
        self.change.remove(keys::marker(id, batch), marker.at);
        self.session.parked += 1;
    }

    /// The set that this very request was given before, if its reply may have been lost.
    async fn resend(&mut self, reader: usize, request: &ReadRequest) -> Result<bool, LogFault> {
        if request.request_id.is_none() {
            return Ok(false);
        }
        let view = self.view;
        let same = view.markers.iter().find(|marker| {
            let record = &marker.record;
            record.request_id == request.request_id
                && record.state == MarkerState::InFlight
                && record.due_at > self.now
                && !self.touched.contains(&record.batch)
        });
        let Some(marker) = same else { return Ok(false) };
        self.touched.insert(marker.record.batch);
        self.answer_set(reader, marker, marker.record.clone()).await
    }

    /// The oldest set that is due again.
    async fn redeliver(&mut self, reader: usize, request: &ReadRequest) -> Result<bool, LogFault> {
        loop {
            let view = self.view;
            let due = view.markers.iter().find(|marker| {
                let record = &marker.record;
                record.due_at <= self.now && !self.touched.contains(&record.batch)
            });
            let Some(marker) = due else { return Ok(false) };
            self.touched.insert(marker.record.batch);
            let again = MarkerRecord {
                nonce: self.inner.entropy.number(),
                state: MarkerState::InFlight,
                attempts: marker.record.attempts + 1,
                worker: request.worker.clone(),
                request_id: request.request_id.clone(),
                sent_at: self.now,
                due_at: self.now.after(self.session.lease()),
                ..marker.record.clone()
            };
            if self.answer_set(reader, marker, again).await? {
                return Ok(true);
            }
        }
    }

    /// Answers with the set's events, and writes its marker if it differs. Says no if nothing was left of
    /// the set, though nothing was trimmed.
    async fn answer_set(
        &mut self,
        reader: usize,
        old: &Versioned<MarkerRecord>,
        mut new: MarkerRecord,
    ) -> Result<bool, LogFault> {
        let key = keys::marker(&self.view.id, new.batch);
        match self.inner.fetch(&self.session.stream, self.filter, &new).await? {
            Fetched::Trimmed(available) => self.trim_set(reader, old, available),
            Fetched::Events(events) if events.is_empty() => {
                self.change.remove(key, old.at);
                return Ok(false);
            }
            Fetched::Events(events) => {
                new.count = u32::try_from(events.len()).unwrap_or(u32::MAX);
                if new != old.record {
                    self.change.update(key, old.at, &new);
                }
                self.bytes_left = self.bytes_left.saturating_sub(events.iter().map(event_bytes).sum());
                self.answers.push((reader, Answer::Set(Batch::of(&new, events))));
            }
        }
        Ok(true)
    }

    /// Takes the trimmed events out of a set, and says so.
    fn trim_set(&mut self, reader: usize, old: &Versioned<MarkerRecord>, available: Position) {
        let key = keys::marker(&self.view.id, old.record.batch);
        let mut left = old.record.clone();
        left.after = left.after.max(available);
        if let Some(events) = &mut left.events {
            events.retain(|event| event.at > available);
            left.count = u32::try_from(events.len()).unwrap_or(u32::MAX);
        }
        left.due_at = left.due_at.min(self.now);
        if left.after >= left.to || left.count == 0 {
            self.change.remove(key, old.at);
        } else {
            self.change.update(key, old.at, &left);
        }
        self.session.trimmed += 1;
        self.answers.push((reader, Answer::Trimmed(available)));
    }

    /// Writes the session if it has changed, or if its last read was recorded too long ago.
    fn write_session(&mut self) {
        let fresh = self.now.since(self.session.read_at) < self.session.read_grain();
        if fresh && self.session == self.view.session.record {
            return;
        }
        self.session.read_at = self.session.read_at.max(self.now);
        self.session.nonce = self.inner.entropy.number();
        let key = keys::session(&self.view.id);
        self.change.update(key, self.view.session.at, &self.session);
    }
}
