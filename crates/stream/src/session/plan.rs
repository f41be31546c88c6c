//! Deciding who gets what: one plan for all waiting readers of a session, to be carried out by one commit.

use std::collections::HashSet;

use bowline_foundation::clock::Timestamp;

use super::deliver::{Batch, ReadRequest, event_bytes};
use super::error::{LogFault, ReadError};
use super::fetch::Fetched;
use super::filter::Filter;
use super::keys;
use super::limits::{COMMIT_EVENT_BYTES_MAX, PARKED_SETS_MAX, PARKS_PER_COMMIT_MAX, READS_PER_COMMIT_MAX};
use super::record::{MarkerRecord, MarkerState, ParkedRecord, SessionRecord};
use super::service::Inner;
use super::state::{Change, Versioned, View};
use crate::Position;

/// What is to be written and answered.
pub(super) struct Plan {
    pub change: Change,
    /// Readers by their place in the queue, each once.
    pub answers: Vec<(usize, Answer)>,
    /// Where the stream ends, if the session has nothing else to give until events are appended.
    pub tail: Option<Position>,
    /// When a set is due again that is not now.
    pub due: Option<Timestamp>,
}

pub(super) enum Answer {
    Set(Batch),
    Trimmed(Position),
}

impl Answer {
    pub fn into_reply(self) -> Result<Option<Batch>, ReadError> {
        match self {
            Self::Set(batch) => Ok(Some(batch)),
            Self::Trimmed(next_available) => Err(ReadError::Trimmed { next_available }),
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
    /// Numbers of the sets that this plan already touches.
    touched: HashSet<u64>,
    pub bytes_left: usize,
    pub tail: Option<Position>,
}

impl<'a> Planner<'a> {
    pub fn new(inner: &'a Inner, view: &'a View, filter: Option<&'a Filter>) -> Self {
        Self {
            inner,
            view,
            filter,
            now: inner.clock.now(),
            session: view.session.record.clone(),
            change: Change::default(),
            answers: Vec::new(),
            touched: HashSet::new(),
            bytes_left: COMMIT_EVENT_BYTES_MAX,
            tail: None,
        }
    }

    pub async fn plan(mut self, readers: &[&ReadRequest]) -> Result<Plan, LogFault> {
        self.park_exhausted();
        let mut unserved = Vec::new();
        for (index, request) in readers.iter().enumerate().take(READS_PER_COMMIT_MAX) {
            if self.bytes_left == 0 {
                break;
            }
            // A request that waits twice is answered once for now; then it finds its set in flight.
            if is_twin(request, &readers[..index]) {
                continue;
            }
            if !self.resend(index, request).await? && !self.redeliver(index, request).await? {
                unserved.push((index, *request));
            }
        }
        self.fresh(&unserved).await?;
        self.write_session();
        let due = self.view.markers.iter().map(|marker| marker.record.due_at);
        Ok(Plan {
            change: self.change,
            answers: self.answers,
            tail: self.tail,
            due: due.filter(|due| *due > self.now).min(),
        })
    }

    /// Sets whose attempts are used up leave for the parking list, as far as it has room.
    fn park_exhausted(&mut self) {
        let Some(attempts_max) = self.session.attempts_max else {
            return;
        };
        let (view, now) = (self.view, self.now);
        let room = PARKED_SETS_MAX.saturating_sub(self.session.parked as usize);
        let exhausted = view
            .markers
            .iter()
            .filter(|marker| marker.record.attempts >= attempts_max && marker.record.due_at <= now);
        for (index, marker) in exhausted.take(room).enumerate() {
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
