//! Choosing sets of events that nobody was given before.
//!
//! Without an order per key a set is what follows the cursor. With it:
//!
//!  - A key is *busy* while a marker holds one of its events; the events of one plan count as well.
//!  - An event whose key is busy, or has an event withheld before it, is withheld: its position goes on the
//!    session's list, and the cursor passes it. An event without a key is never withheld.
//!  - Withheld events whose keys are free again come first, in their order, then new events. All events of
//!    a key in one set are in order.
//!  - When the list is full, the cursor stops before the next event that would have to be withheld.

use std::collections::{HashMap, HashSet};

use bowline_foundation::digest::Digest;
use bytes::Bytes;

use super::deliver::{Batch, ReadRequest, behind, event_bytes, just_before};
use super::error::LogFault;
use super::fetch::Fetched;
use super::keys;
use super::limits::{
    COMMIT_EVENT_BYTES_MAX, IN_FLIGHT_SETS_MAX, PAGE_EVENTS_MAX, RECENT_SETS_MAX, WITHHELD_EVENTS_MAX,
};
use super::plan::{Answer, Planner};
use super::record::{Chosen, MarkerRecord, MarkerState, Recent, Withheld};
use super::scanner::Scanner;
use super::settings::{Mode, Order};
use crate::{Event, Position, ReadLimit};

/// The hash by which keys are told apart; two keys with one hash wait for each other, no more.
fn hash(key: &Bytes) -> u64 {
    let digest = Digest::of(key);
    u64::from_be_bytes(digest.as_bytes()[..8].try_into().expect("eight of 32 bytes"))
}

/// Which keys may go to whom.
struct KeyUse {
    /// Held by sets given out before.
    busy: HashSet<u64>,
    /// Held by sets of this plan, with their reader.
    taken: HashMap<u64, usize>,
}

impl KeyUse {
    fn free_for(&self, key: u64, reader: usize) -> bool {
        !self.busy.contains(&key) && self.taken.get(&key).is_none_or(|holder| *holder == reader)
    }
}

/// A set in the making.
#[derive(Default)]
struct Draft {
    events: Vec<Event>,
    /// Of a session with an order per key alone.
    chosen: Vec<Chosen>,
    bytes: usize,
}

impl Draft {
    fn push(&mut self, event: Event) {
        self.bytes += event_bytes(&event);
        self.events.push(event);
    }

    /// Adds an event whose place the set's marker will name.
    fn choose(&mut self, event: Event, key: Option<u64>) {
        self.chosen.push(Chosen {
            at: event.position,
            key,
        });
        self.push(event);
    }
}

impl<'a> Planner<'a> {
    /// Serves the readers for whom nothing is due again, each with the next set.
    pub async fn fresh(&mut self, readers: &[(usize, &ReadRequest)]) -> Result<(), LogFault> {
        let stream = self.view.session.record.stream.clone();
        let log = (&*self.inner.log, std::mem::take(&mut self.ahead));
        let mut scanner = Scanner::new(log, &stream, self.filter, self.session.cursor);
        scanner.want = wanted(readers);
        let mut keys = self.keys_in_use();
        let mut room = IN_FLIGHT_SETS_MAX.saturating_sub(self.markers_left().count());
        let mut trimmed = None;
        for (reader, request) in readers {
            if self.bytes_left == 0 || room == 0 {
                break;
            }
            let mut draft = Draft::default();
            match self
                .draft(&mut draft, &mut scanner, &mut keys, (*reader, request))
                .await
            {
                Ok(()) => {}
                Err(LogFault::Trimmed(available)) => trimmed = Some((*reader, available)),
                Err(fault) => return Err(fault),
            }
            if draft.events.is_empty() {
                break;
            }
            room -= 1;
            self.bytes_left = self.bytes_left.saturating_sub(draft.bytes);
            self.give(*reader, request, draft);
            if trimmed.is_some() {
                break;
            }
        }
        self.session.cursor = scanner.cursor;
        self.session.skipped += scanner.tally.skipped;
        self.session.filter_errors += scanner.tally.errors;
        match trimmed {
            // Sets that were chosen before stay chosen; who reads next is told.
            Some((reader, available)) if self.session.batch == self.view.session.record.batch => {
                self.trim_cursor(reader, available);
            }
            Some(_) => {}
            None => self.tail = scanner.tail(),
        }
        self.ahead = scanner.into_ahead();
        Ok(())
    }

    fn keys_in_use(&self) -> KeyUse {
        let held = self
            .markers_left()
            .flat_map(|marker| marker.record.events.iter().flatten());
        KeyUse {
            busy: held.filter_map(|chosen| chosen.key).collect(),
            taken: HashMap::new(),
        }
    }

    /// Fills a set. What it took stays in the set if it fails half-way.
    async fn draft(
        &mut self,
        draft: &mut Draft,
        scanner: &mut Scanner<'_>,
        keys: &mut KeyUse,
        reader: (usize, &ReadRequest),
    ) -> Result<(), LogFault> {
        if self.session.order == Order::Free {
            return fill(draft, scanner, reader.1).await;
        }
        match self.draft_withheld(draft, keys, reader).await? {
            Full::Yes => Ok(()),
            Full::No => self.draft_new(draft, scanner, keys, reader).await,
        }
    }

    /// Takes withheld events whose keys are free, oldest first.
    async fn draft_withheld(
        &mut self,
        draft: &mut Draft,
        keys: &mut KeyUse,
        (reader, request): (usize, &ReadRequest),
    ) -> Result<Full, LogFault> {
        let free = self
            .session
            .withheld
            .iter()
            .filter(|held| keys.free_for(held.key, reader));
        let candidates: Vec<Chosen> = free
            .take(request.events_max)
            .map(|held| Chosen {
                at: held.at,
                key: Some(held.key),
            })
            .collect();
        let fetched = self
            .inner
            .fetch_chosen(&self.session.stream, &candidates, request.bytes_max);
        let found = match fetched.await? {
            Fetched::Events(events) => events,
            Fetched::Trimmed(available) => return Err(LogFault::Trimmed(available)),
        };
        let (mut gone, mut full) = (HashSet::new(), Full::No);
        let mut found = found.into_iter().peekable();
        for candidate in candidates {
            // Beyond so many bytes the events have not been fetched.
            if draft.bytes >= request.bytes_max {
                full = Full::Yes;
                break;
            }
            // One that the stream no longer holds is dropped from the list.
            if let Some(event) = found.next_if(|event| event.position == candidate.at) {
                if !request.takes(&draft.events, draft.bytes, &event) {
                    full = Full::Yes;
                    break;
                }
                keys.taken.extend(candidate.key.map(|key| (key, reader)));
                draft.choose(event, candidate.key);
            }
            gone.insert(candidate.at);
        }
        self.session.withheld.retain(|held| !gone.contains(&held.at));
        Ok(full)
    }

    /// Takes new events whose keys are free, and withholds the others.
    async fn draft_new(
        &mut self,
        draft: &mut Draft,
        scanner: &mut Scanner<'_>,
        keys: &mut KeyUse,
        (reader, request): (usize, &ReadRequest),
    ) -> Result<(), LogFault> {
        let mut held: HashSet<u64> = self.session.withheld.iter().map(|held| held.key).collect();
        while let Some(event) = scanner.peek().await? {
            let (at, key) = (event.position, event.key.as_ref().map(hash));
            match key.filter(|key| held.contains(key) || !keys.free_for(*key, reader)) {
                Some(_) if self.session.withheld.len() >= WITHHELD_EVENTS_MAX => return Ok(()),
                Some(key) => {
                    held.insert(key);
                    self.session.withheld.push(Withheld { at, key });
                    scanner.take();
                }
                None if !request.takes(&draft.events, draft.bytes, event) => return Ok(()),
                None => {
                    keys.taken.extend(key.map(|key| (key, reader)));
                    let taken = scanner.take().expect("it has just been looked at");
                    draft.choose(taken, key);
                }
            }
        }
        Ok(())
    }

    /// Events between the cursor and `available` are lost; said once, to this reader.
    fn trim_cursor(&mut self, reader: usize, available: Position) {
        self.session.withheld.retain(|held| held.at > available);
        self.session.cursor = self.session.cursor.max(available);
        self.session.trimmed += 1;
        self.answers.push((reader, Answer::Trimmed(available)));
    }

    fn give(&mut self, reader: usize, request: &ReadRequest, draft: Draft) {
        self.session.batch += 1;
        self.given.events += draft.events.len();
        self.given.bytes += draft.bytes;
        let batch = match self.session.mode {
            Mode::AtLeastOnce => self.mark(request, draft),
            Mode::AtMostOnce => self.remember(request, draft.events),
        };
        self.answers.push((reader, Answer::Set(batch)));
    }

    fn mark(&mut self, request: &ReadRequest, draft: Draft) -> Batch {
        let (from, to) = bounds(&draft.events);
        let marker = MarkerRecord {
            batch: self.session.batch,
            nonce: self.inner.entropy.number(),
            state: MarkerState::InFlight,
            after: just_before(from),
            to,
            count: u32::try_from(draft.events.len()).unwrap_or(u32::MAX),
            events: (self.session.order == Order::PerKey).then_some(draft.chosen),
            attempts: 1,
            worker: request.worker.clone(),
            request_id: request.request_id.clone(),
            first_sent_at: self.now,
            sent_at: self.now,
            due_at: self.now.after(self.session.lease()),
            reason: None,
        };
        self.change.create(keys::marker(&self.view.id, marker.batch), &marker);
        Batch::of(&marker, draft.events)
    }

    fn remember(&mut self, request: &ReadRequest, events: Vec<Event>) -> Batch {
        let (from, to) = bounds(&events);
        let surplus = (self.session.recent.len() + 1).saturating_sub(RECENT_SETS_MAX);
        self.session.recent.drain(..surplus);
        self.session.recent.push(Recent {
            batch: self.session.batch,
            from,
            to,
            count: u32::try_from(events.len()).unwrap_or(u32::MAX),
            worker: request.worker.clone(),
            sent_at: self.now,
        });
        Batch {
            token: None,
            batch: self.session.batch,
            attempt: 1,
            behind: behind(&events, self.now),
            events,
            lease_until: None,
            first_sent_at: self.now,
        }
    }
}

/// Whether a set takes no more.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Full {
    Yes,
    No,
}

async fn fill(draft: &mut Draft, scanner: &mut Scanner<'_>, request: &ReadRequest) -> Result<(), LogFault> {
    // Most often a page is a set.
    if scanner.peek().await?.is_some()
        && let Some(events) = scanner.take_all(request.limit())
    {
        draft.bytes = events.iter().map(event_bytes).sum();
        draft.events = events;
    }
    draft.events.reserve(
        scanner
            .ready()
            .min(request.events_max.saturating_sub(draft.events.len())),
    );
    while draft.events.len() < request.events_max
        && let Some(event) = scanner.peek().await?
    {
        if !request.takes(&draft.events, draft.bytes, event) {
            break;
        }
        let taken = scanner.take().expect("it has just been looked at");
        draft.push(taken);
    }
    Ok(())
}

fn wanted(readers: &[(usize, &ReadRequest)]) -> ReadLimit {
    let events: usize = readers.iter().map(|(_, request)| request.events_max).sum();
    let bytes: usize = readers.iter().map(|(_, request)| request.bytes_max).sum();
    ReadLimit {
        events: events.clamp(1, PAGE_EVENTS_MAX),
        bytes: bytes.clamp(1, COMMIT_EVENT_BYTES_MAX),
    }
}

fn bounds(events: &[Event]) -> (Position, Position) {
    let first = events.first().map_or(Position::START, |event| event.position);
    let last = events.last().map_or(first, |event| event.position);
    (first, last)
}
