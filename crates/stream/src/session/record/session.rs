//! The record of a session: its settings, its cursor, and what it holds back.

use std::time::Duration;

use bowline_foundation::clock::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Record, text};
use crate::session::limits::IDLE_TTL_PARTS;
use crate::session::settings::{Mode, Order};
use crate::{Position, StreamId};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::session) struct SessionRecord {
    #[serde(with = "text")]
    pub stream: StreamId,
    pub name: String,
    /// Where it began, in words: with the settings, what the same client token must ask for again.
    pub start: String,
    pub mode: Mode,
    pub order: Order,
    pub lease_ms: u64,
    pub attempts_max: Option<u32>,
    pub idle_ttl_ms: u64,
    pub filter: Option<String>,
    pub created_at: Timestamp,
    /// The last read known; see [`IDLE_TTL_PARTS`].
    pub read_at: Timestamp,
    /// Everything up to here has been given out, skipped or withheld.
    #[serde(with = "text")]
    pub cursor: Position,
    /// The number of the last set.
    pub batch: u64,
    /// Rows on the parking list.
    pub parked: u32,
    /// Events before the cursor that wait for their key, in order.
    pub withheld: Vec<Withheld>,
    /// The last sets given out, if there are no markers.
    pub recent: Vec<Recent>,
    /// Events that the filter left out.
    pub skipped: u64,
    /// Events that the filter left out because it could not be evaluated.
    pub filter_errors: u64,
    /// How often events were trimmed before they could be given out.
    pub trimmed: u64,
    /// Drawn for each commit, to find out whether it was applied.
    pub nonce: u64,
}

/// An event that waits for its key.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::session) struct Withheld {
    #[serde(with = "text")]
    pub at: Position,
    /// The key's hash.
    pub key: u64,
}

/// A set that was given out without a marker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(in crate::session) struct Recent {
    pub batch: u64,
    #[serde(with = "text")]
    pub from: Position,
    #[serde(with = "text")]
    pub to: Position,
    pub count: u32,
    pub worker: String,
    pub sent_at: Timestamp,
}

impl Record for SessionRecord {
    const FORMAT: u32 = 1;
}

impl SessionRecord {
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }

    /// The grain of `read_at`.
    pub fn read_grain(&self) -> Duration {
        Duration::from_millis(self.idle_ttl_ms) / IDLE_TTL_PARTS
    }

    /// When it expires if nobody reads.
    pub fn expires_at(&self) -> Timestamp {
        let idle_ttl = Duration::from_millis(self.idle_ttl_ms);
        self.read_at.after(idle_ttl + self.read_grain())
    }

    /// Whether both were created by the same request.
    pub fn same_request(&self, other: &Self) -> bool {
        let asked = |record: &Self| Self {
            created_at: Timestamp::default(),
            read_at: Timestamp::default(),
            cursor: Position::START,
            batch: 0,
            parked: 0,
            withheld: Vec::new(),
            recent: Vec::new(),
            skipped: 0,
            filter_errors: 0,
            trimmed: 0,
            nonce: 0,
            ..record.clone()
        };
        asked(self) == asked(other)
    }
}
