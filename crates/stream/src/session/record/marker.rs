//! The record of a set that has been given out and is not settled.

use bowline_foundation::clock::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Record, text};
use crate::Position;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::session) struct MarkerRecord {
    /// The set's number in its session.
    pub batch: u64,
    /// Drawn for each delivery; with the number it is the token.
    pub nonce: u64,
    pub state: MarkerState,
    /// The set lies after this position,
    #[serde(with = "text")]
    pub after: Position,
    /// and up to this one.
    #[serde(with = "text")]
    pub to: Position,
    /// Its events; none: all in between that pass the session's filter.
    pub events: Option<Vec<Chosen>>,
    /// How many they are.
    pub count: u32,
    /// Deliveries so far.
    pub attempts: u32,
    pub worker: String,
    pub request_id: Option<String>,
    pub first_sent_at: Timestamp,
    pub sent_at: Timestamp,
    /// When the lease or the delay is over.
    pub due_at: Timestamp,
    /// Why it failed last.
    pub reason: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(in crate::session) enum MarkerState {
    /// A worker has it.
    InFlight,
    /// It failed, and is due again later.
    Waiting,
}

/// One event of a set.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::session) struct Chosen {
    #[serde(with = "text")]
    pub at: Position,
    /// The hash of its key, if the session keeps an order per key and the event has a key.
    pub key: Option<u64>,
}

impl Record for MarkerRecord {
    const FORMAT: u32 = 1;
}
