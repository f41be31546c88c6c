//! One of the stores: every call has a time limit, and its end goes to the detector.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bowline_foundation::clock::{Clock, Timestamp};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::detector::{Detector, DetectorOptions, Health, Outcome};
use super::error::{StoreError, read_failed};
use super::id::{ObjectId, StoreName, Unique};
use super::keys;
use super::record::Item;
use crate::{CommitError, Condition, Entry, Key, ReadError, Store, Version, Write};

/// When an operation must have ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline(Instant);

impl Deadline {
    pub fn within(time: Duration) -> Self {
        Self(Instant::now() + time)
    }

    pub fn is_over(self) -> bool {
        self.left().is_zero()
    }

    fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}

/// What is said when an operation has no time left for another call.
const OVER: &str = "the deadline of the operation is over";

pub(super) struct Backend {
    pub name: StoreName,
    store: Arc<dyn Store>,
    clock: Clock,
    call_timeout: Duration,
    judged: Mutex<Judged>,
}

struct Judged {
    detector: Detector,
    since: Timestamp,
}

/// An item with the version of its value.
pub(super) struct Found {
    pub item: Item,
    pub version: Version,
}

impl Backend {
    pub fn new(name: StoreName, store: Arc<dyn Store>, clock: Clock, policy: (DetectorOptions, f64, Duration)) -> Self {
        let (options, normal_weight, call_timeout) = policy;
        let judged = Judged {
            detector: Detector::new(options, normal_weight, clock.monotonic()),
            since: clock.now(),
        };
        Self {
            name,
            store,
            clock,
            call_timeout,
            judged: Mutex::new(judged),
        }
    }

    pub fn id(&self, unique: Unique) -> ObjectId {
        ObjectId {
            store: self.name.clone(),
            unique,
        }
    }

    /// Looks at the judgement.
    pub fn judge<T>(&self, look: impl FnOnce(&Detector, Timestamp) -> T) -> T {
        let judged = self.judged.lock();
        look(&judged.detector, judged.since)
    }

    pub async fn get(&self, key: &Key, until: Deadline) -> Result<Option<Entry>, StoreError> {
        let ended = self.timed(until, self.store.get(key)).await;
        self.read(ended)
    }

    pub async fn scan(
        &self,
        prefix: &Key,
        after: Option<&Key>,
        limit: usize,
        until: Deadline,
    ) -> Result<Vec<(Key, Entry)>, StoreError> {
        let ended = self.timed(until, self.store.scan(prefix, after, limit)).await;
        self.read(ended)
    }

    /// Everything with this prefix, page after page.
    pub async fn scan_all(&self, prefix: &str, until: Deadline) -> Result<Vec<(Key, Entry)>, StoreError> {
        const PAGE: usize = 500;
        let prefix = Key::copy_from_slice(prefix.as_bytes());
        let mut all: Vec<(Key, Entry)> = Vec::new();
        loop {
            let after = all.last().map(|(key, _)| key.clone());
            let page = self.scan(&prefix, after.as_ref(), PAGE, until).await?;
            let full = page.len() == PAGE;
            all.extend(page);
            if !full {
                return Ok(all);
            }
        }
    }

    pub async fn item(&self, unique: Unique, until: Deadline) -> Result<Option<Found>, StoreError> {
        let Some(entry) = self.get(&keys::item(unique), until).await? else {
            return Ok(None);
        };
        let item = Item::decode(entry.value).map_err(|source| self.unreadable(source))?;
        Ok(Some(Found {
            item,
            version: entry.version,
        }))
    }

    pub async fn commit(
        &self,
        conditions: Vec<Condition>,
        writes: Vec<Write>,
        until: Deadline,
    ) -> Result<Version, CommitError> {
        if until.is_over() {
            return Err(CommitError::Unavailable(OVER.to_owned()));
        }
        let ended = self.timed(until, self.store.commit(conditions, writes)).await;
        let Some((ended, latency)) = ended else {
            return Err(CommitError::Unknown(format!(
                "no answer within `{:?}`",
                self.call_timeout
            )));
        };
        match &ended {
            Err(CommitError::Unavailable(_) | CommitError::Unknown(_)) => self.observe(Outcome::Failed, latency),
            _ => self.observe(Outcome::Answered, latency),
        }
        ended
    }

    /// Learns whether the store takes writes.
    pub async fn probe(&self, until: Deadline) {
        let write = Write::Put(keys::probe(), Key::new());
        // The detector hears how it ended.
        let _ = self.commit(vec![], vec![write], until).await;
    }

    /// That a record here cannot be read.
    pub fn unreadable(&self, source: super::codec::RecordError) -> StoreError {
        StoreError::Record {
            store: self.name.clone(),
            source,
        }
    }

    /// What a call gave, and how long it took; none if it took too long.
    async fn timed<T>(&self, until: Deadline, call: impl Future<Output = T>) -> Option<(T, Duration)> {
        let begun = self.clock.monotonic();
        let limit = self.call_timeout.min(until.left());
        let ended = tokio::time::timeout(limit, call).await;
        let latency = self.clock.monotonic().since(begun);
        match ended {
            Ok(ended) => Some((ended, latency)),
            Err(_) => {
                // An operation that began its call with little time left says nothing about the store.
                if limit == self.call_timeout {
                    self.observe(Outcome::Failed, latency);
                }
                None
            }
        }
    }

    fn read<T>(&self, ended: Option<(Result<T, ReadError>, Duration)>) -> Result<T, StoreError> {
        let Some((ended, latency)) = ended else {
            let late = ReadError::Unavailable(format!("no answer within `{:?}`", self.call_timeout));
            return Err(read_failed(&self.name, late));
        };
        let outcome = if ended.is_ok() {
            Outcome::Answered
        } else {
            Outcome::Failed
        };
        self.observe(outcome, latency);
        ended.map_err(|error| read_failed(&self.name, error))
    }

    fn observe(&self, outcome: Outcome, latency: Duration) {
        let mut judged = self.judged.lock();
        let Some(health) = judged.detector.observe(self.clock.monotonic(), outcome, latency) else {
            return;
        };
        judged.since = self.clock.now();
        match health {
            Health::Down => tracing::warn!(store = %self.name, "store is judged down"),
            Health::Recovering => tracing::info!(store = %self.name, "store answers again"),
            Health::Up => tracing::info!(store = %self.name, "store has its full share again"),
        }
    }
}
