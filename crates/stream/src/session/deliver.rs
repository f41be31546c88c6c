//! What a worker asks for and what it gets.

use std::time::Duration;

use bowline_foundation::clock::Timestamp;

use super::error::ReadError;
use super::id::BatchToken;
use super::limits::{EVENTS_PER_SET_DEFAULT, EVENTS_PER_SET_MAX, NAME_BYTES_MAX, SET_BYTES_DEFAULT, SET_BYTES_MAX};
use super::record::{MarkerRecord, MarkerState};
use crate::{Event, Position, ReadLimit};

/// A worker's request. It names no event.
#[derive(Clone, Debug)]
pub struct ReadRequest {
    /// Cut to [`EVENTS_PER_SET_MAX`].
    pub events_max: usize,
    /// Sum of keys and bodies, cut to [`SET_BYTES_MAX`]. A larger event still comes alone.
    pub bytes_max: usize,
    /// How long to wait for an event, cut to [`WAIT_MAX`](super::limits::WAIT_MAX).
    pub wait: Duration,
    /// Within the lease the same identifier gives the same set again; not with
    /// [`Mode::AtMostOnce`](super::Mode::AtMostOnce), which repeats nothing.
    pub request_id: Option<String>,
    /// For the operator's eyes.
    pub worker: String,
    /// A set that has been processed: acknowledged by the commit that gives out the next one, at once if there is none. If the token
    /// is stale nothing is given, unless `request_id` says that this very request was given a set before. After any other error it
    /// may have counted.
    pub done: Option<BatchToken>,
}

impl Default for ReadRequest {
    fn default() -> Self {
        Self {
            events_max: EVENTS_PER_SET_DEFAULT,
            bytes_max: SET_BYTES_DEFAULT,
            wait: Duration::ZERO,
            request_id: None,
            worker: String::new(),
            done: None,
        }
    }
}

impl ReadRequest {
    /// Within the limits, or refused.
    pub(super) fn bounded(mut self) -> Result<Self, ReadError> {
        if self.events_max == 0 || self.bytes_max == 0 {
            return Err(ReadError::Invalid("a limit is `0`"));
        }
        if self.worker.len() > NAME_BYTES_MAX || self.request_id.as_ref().is_some_and(|id| id.len() > NAME_BYTES_MAX) {
            return Err(ReadError::Invalid("a name has more than `128` bytes"));
        }
        self.events_max = self.events_max.min(EVENTS_PER_SET_MAX);
        self.bytes_max = self.bytes_max.min(SET_BYTES_MAX);
        Ok(self)
    }

    pub(super) fn limit(&self) -> ReadLimit {
        ReadLimit {
            events: self.events_max,
            bytes: self.bytes_max,
        }
    }

    /// Whether an event still goes into a set of this size.
    pub(super) fn takes(&self, set: &[Event], set_bytes: usize, event: &Event) -> bool {
        set.is_empty() || (set.len() < self.events_max && set_bytes + event_bytes(event) <= self.bytes_max)
    }
}

pub(super) fn event_bytes(event: &Event) -> usize {
    event.body.len() + event.key.as_ref().map_or(0, bytes::Bytes::len)
}

/// A set of events, as it is given to one worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// What to acknowledge it with; none if the session delivers at most once.
    pub token: Option<BatchToken>,
    /// The set's number in its session, the same for all attempts.
    pub batch: u64,
    /// From 1.
    pub attempt: u32,
    /// In the stream's order, at least one. A set that is given out again has the events it had, however
    /// few the reader asks for.
    pub events: Vec<Event>,
    /// When the set goes to somebody else unless it is acknowledged or extended.
    pub lease_until: Option<Timestamp>,
    /// When it was given out first; what a greatest age is reckoned from, beside the events' own moments.
    pub first_sent_at: Timestamp,
    /// How old the newest event of the set was when the set was given out.
    pub behind: Duration,
}

impl Batch {
    pub(super) fn of(marker: &MarkerRecord, events: Vec<Event>) -> Self {
        debug_assert_eq!(marker.state, MarkerState::InFlight, "only a delivered set has a worker");
        Self {
            token: Some(BatchToken {
                batch: marker.batch,
                nonce: marker.nonce,
            }),
            batch: marker.batch,
            attempt: marker.attempts,
            behind: behind(&events, marker.sent_at),
            events,
            lease_until: Some(marker.due_at),
            first_sent_at: marker.first_sent_at,
        }
    }
}

pub(super) fn behind(events: &[Event], now: Timestamp) -> Duration {
    events
        .last()
        .map_or(Duration::ZERO, |event| now.since(event.position.stamp.moment()))
}

/// The bound right before an event.
pub(super) fn just_before(position: Position) -> Position {
    let mut bytes = position.to_bytes();
    for byte in bytes.iter_mut().rev() {
        let (less, borrowed) = byte.overflowing_sub(1);
        *byte = less;
        if !borrowed {
            return Position::from_bytes(&bytes);
        }
    }
    Position::START
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ChainId, HostId, Stamp};

    #[test]
    fn nothing_lies_between_a_position_and_the_bound_before_it() {
        let place = |index| Position {
            stamp: Stamp(7),
            host: HostId(1),
            chain: ChainId(2),
            index,
        };
        assert_eq!(just_before(place(5)), place(4));
        let before = just_before(place(0));
        assert!(before < place(0));
        assert_eq!((before.chain, before.index), (ChainId(1), u64::MAX));
        assert_eq!(just_before(Position::START), Position::START);
    }
}
