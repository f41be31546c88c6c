//! What a session is created with.

use std::time::Duration;

use bowline_foundation::clock::Timestamp;
use serde::{Deserialize, Serialize};

use super::filter::InvalidFilter;
use super::limits::{
    ATTEMPTS_DEFAULT, IDLE_TTL_DEFAULT, IDLE_TTL_MAX, IDLE_TTL_MIN, LEASE_DEFAULT, LEASE_MAX, LEASE_MIN, NAME_BYTES_MAX,
};
use crate::{Position, StreamId};

/// Who asks for a change, for the audit row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    pub who: String,
    pub request_id: String,
}

/// Where a session begins, or goes on after a seek.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The first event that the stream still holds.
    Oldest,
    /// The first event appended from now on.
    Latest,
    /// The first event of this moment or a later one.
    AtTime(Timestamp),
    /// The first event after this position.
    After(Position),
}

/// What happens to a set whose reply or whose worker is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Mode {
    /// It is lost; nothing is ever given out twice.
    AtMostOnce,
    /// It is given out again after its lease, until it is acknowledged.
    AtLeastOnce,
}

/// Which events may be in flight at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Order {
    /// Any.
    Free,
    /// Of one key at most one set.
    PerKey,
}

/// How a session delivers; fixed at its creation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub mode: Mode,
    pub order: Order,
    /// How long a worker has to acknowledge a set.
    pub lease: Duration,
    /// How often a set is given out before it is parked; none: without end.
    pub attempts_max: Option<u32>,
    /// How long the session lives without a read.
    pub idle_ttl: Duration,
    /// A CEL expression over `body`, `key`, `at` and `id`; only events for which it is true are given out.
    pub filter: Option<String>,
    /// For the operator's eyes.
    pub name: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mode: Mode::AtLeastOnce,
            order: Order::Free,
            lease: LEASE_DEFAULT,
            attempts_max: Some(ATTEMPTS_DEFAULT),
            idle_ttl: IDLE_TTL_DEFAULT,
            filter: None,
            name: String::new(),
        }
    }
}

/// A request for a session.
#[derive(Clone, Debug)]
pub struct CreateRequest {
    pub stream: StreamId,
    pub start: Start,
    pub settings: Settings,
    /// The same token again names the session it created, and has no second effect.
    pub client_token: Option<String>,
}

/// Settings that no session can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSettings {
    #[error("a lease is {LEASE_MIN:?} to {LEASE_MAX:?}, not `{0:?}`")]
    Lease(Duration),
    #[error("an idle time is {IDLE_TTL_MIN:?} to {IDLE_TTL_MAX:?}, not `{0:?}`")]
    IdleTtl(Duration),
    #[error("a set has at least `1` attempt")]
    Attempts,
    #[error("a name or token has at most `{NAME_BYTES_MAX}` bytes, not `{0}`")]
    Name(usize),
    #[error("a session that delivers at most once has nothing in flight, so it can keep no order per key")]
    OrderWithoutMarkers,
    #[error(transparent)]
    Filter(#[from] InvalidFilter),
}

impl CreateRequest {
    pub(super) fn check(&self) -> Result<(), InvalidSettings> {
        let settings = &self.settings;
        if !(LEASE_MIN..=LEASE_MAX).contains(&settings.lease) {
            return Err(InvalidSettings::Lease(settings.lease));
        }
        if !(IDLE_TTL_MIN..=IDLE_TTL_MAX).contains(&settings.idle_ttl) {
            return Err(InvalidSettings::IdleTtl(settings.idle_ttl));
        }
        if settings.attempts_max == Some(0) {
            return Err(InvalidSettings::Attempts);
        }
        for name in [Some(&settings.name), self.client_token.as_ref()].into_iter().flatten() {
            if name.len() > NAME_BYTES_MAX {
                return Err(InvalidSettings::Name(name.len()));
            }
        }
        if settings.mode == Mode::AtMostOnce && settings.order == Order::PerKey {
            return Err(InvalidSettings::OrderWithoutMarkers);
        }
        Ok(())
    }
}
