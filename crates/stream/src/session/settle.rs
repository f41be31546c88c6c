//! Acknowledging, failing and extending sets.

use std::time::Duration;

use bowline_foundation::clock::Timestamp;

use super::deliver::just_before;
use super::error::{Fault, RetryLater, SettleError, StaleToken};
use super::id::{BatchToken, SessionId};
use super::keys;
use super::limits::{COMMIT_ATTEMPTS_MAX, LEASE_MAX, PARKED_SETS_MAX, REASON_BYTES_MAX};
use super::record::{Chosen, MarkerRecord, MarkerState, ParkedRecord};
use super::service::Inner;
use super::state::{Change, Verdict, Versioned};
use crate::Position;

/// What became of a set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything is processed; the set is never given out again.
    Done,
    /// Some events failed. All others of the set are processed.
    Failed {
        events: Failed,
        retry: Retry,
        /// For the operator's eyes; cut to [`REASON_BYTES_MAX`].
        reason: String,
    },
}

/// Which events of a set failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failed {
    All,
    /// This one and all after it.
    From(Position),
    /// These; none of them means that everything is processed.
    Only(Vec<Position>),
}

/// What happens to events that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// They are given out again after this time, at most [`LEASE_MAX`], as the same set with one attempt
    /// more.
    After(Duration),
    /// They go to the parking list at once: too old, or known to be poison.
    Park,
}

/// What is to happen to a set.
enum Deed<'a> {
    Settle(&'a Outcome),
    Extend(Timestamp),
}

impl Inner {
    pub async fn settle(&self, id: &SessionId, token: BatchToken, outcome: Outcome) -> Result<(), SettleError> {
        let retry = match &outcome {
            Outcome::Failed { retry, .. } => Some(*retry),
            Outcome::Done => None,
        };
        if let Some(Retry::After(delay)) = retry {
            check_time(delay)?;
        }
        self.change_marker(id, token, Deed::Settle(&outcome)).await?;
        self.nudge(id);
        Ok(())
    }

    pub async fn extend(&self, id: &SessionId, token: BatchToken, lease: Duration) -> Result<Timestamp, SettleError> {
        check_time(lease)?;
        let until = self.clock.now().after(lease);
        self.change_marker(id, token, Deed::Extend(until)).await?;
        Ok(until)
    }

    /// Changes the marker that `token` stands for, trying again while others change it too.
    async fn change_marker(&self, id: &SessionId, token: BatchToken, deed: Deed<'_>) -> Result<(), SettleError> {
        self.alive()?;
        let mut reason = String::new();
        let mut perhaps_done = false;
        for attempt in 0..COMMIT_ATTEMPTS_MAX {
            match self.attempt_marker(id, token, &deed).await {
                Ok(Verdict::Applied) => return Ok(()),
                Ok(Verdict::Again(again) | Verdict::Unproven(again)) => reason = again,
                Ok(Verdict::Unknown(again)) => (reason, perhaps_done) = (again, true),
                Err(stale @ SettleError::StaleToken(_)) if perhaps_done => {
                    match self.store.get(&keys::marker(id, token.batch)).await {
                        // It went, and it was we who took it away.
                        Ok(None) => return Ok(()),
                        Ok(Some(_)) => return Err(stale),
                        Err(error) => reason = error.to_string(),
                    }
                }
                Err(SettleError::RetryLater(fault)) => reason = fault.reason,
                Err(error) => return Err(error),
            }
            self.pause(attempt).await;
        }
        Err(RetryLater { reason }.into())
    }

    async fn attempt_marker(&self, id: &SessionId, token: BatchToken, deed: &Deed<'_>) -> Result<Verdict, SettleError> {
        let Versioned { record, at } = self.marker(id, token).await?;
        let key = keys::marker(id, token.batch);
        let mut change = Change::default();
        match deed {
            Deed::Settle(outcome) => match failed_part(&record, outcome)? {
                None => change.remove(key, at),
                Some((failed, Retry::After(delay))) => change.update(key, at, &self.waiting(failed, delay)),
                Some((failed, Retry::Park)) => {
                    self.park(&mut change, id, failed).await?;
                    change.remove(key, at);
                }
            },
            Deed::Extend(until) => {
                let extended = MarkerRecord {
                    due_at: *until,
                    ..record
                };
                change.update(key, at, &extended);
            }
        }
        Ok(self.commit(change).await?)
    }

    /// The set that a worker holds.
    async fn marker(&self, id: &SessionId, token: BatchToken) -> Result<Versioned<MarkerRecord>, SettleError> {
        let found = self
            .store
            .get(&keys::marker(id, token.batch))
            .await
            .map_err(Fault::from)?;
        let marker = found.map(|entry| Versioned::<MarkerRecord>::read(&entry)).transpose()?;
        let held = |marker: &Versioned<MarkerRecord>| {
            marker.record.nonce == token.nonce && marker.record.state == MarkerState::InFlight
        };
        match marker.filter(held) {
            Some(marker) => Ok(marker),
            None => {
                self.session(id).await?;
                Err(StaleToken(token).into())
            }
        }
    }

    fn waiting(&self, failed: MarkerRecord, delay: Duration) -> MarkerRecord {
        MarkerRecord {
            // The token of the failed delivery ends here.
            nonce: self.entropy.number(),
            state: MarkerState::Waiting,
            due_at: self.clock.now().after(delay),
            ..failed
        }
    }

    async fn park(&self, change: &mut Change, id: &SessionId, failed: MarkerRecord) -> Result<(), SettleError> {
        let Versioned { mut record, at } = self.session(id).await?;
        if record.parked as usize >= PARKED_SETS_MAX {
            return Err(SettleError::ParkingFull(PARKED_SETS_MAX));
        }
        record.parked += 1;
        record.nonce = self.entropy.number();
        let parked = ParkedRecord {
            parked_at: self.clock.now(),
            set: failed,
        };
        change.create(keys::parked(id, parked.set.batch), &parked);
        change.update(keys::session(id), at, &record);
        Ok(())
    }
}

fn check_time(time: Duration) -> Result<(), SettleError> {
    if time <= LEASE_MAX {
        return Ok(());
    }
    Err(SettleError::TooLong {
        actual_ms: time.as_millis(),
        max_ms: LEASE_MAX.as_millis(),
    })
}

/// The set with only the events that failed, and what is to happen to it; none if no event failed.
fn failed_part(set: &MarkerRecord, outcome: &Outcome) -> Result<Option<(MarkerRecord, Retry)>, SettleError> {
    let Outcome::Failed { events, retry, reason } = outcome else {
        return Ok(None);
    };
    let mut part = set.clone();
    part.reason = Some(cut(reason)).filter(|reason| !reason.is_empty());
    match events {
        Failed::All => {}
        Failed::From(first) => {
            check_within(set, *first)?;
            part.after = just_before(*first);
            if let Some(events) = &mut part.events {
                events.retain(|event| event.at >= *first);
                part.count = u32::try_from(events.len()).unwrap_or(u32::MAX);
            }
        }
        Failed::Only(positions) => {
            let Some(events) = only(set, positions)? else {
                return Ok(None);
            };
            part.count = u32::try_from(events.len()).unwrap_or(u32::MAX);
            part.events = Some(events);
        }
    }
    Ok(Some((part, *retry)))
}

/// These events of a set, each once and in order.
fn only(set: &MarkerRecord, positions: &[Position]) -> Result<Option<Vec<Chosen>>, SettleError> {
    let mut positions = positions.to_vec();
    positions.sort_unstable();
    positions.dedup();
    positions.iter().try_for_each(|at| check_within(set, *at))?;
    if let Some(excess) = positions.get(set.count as usize) {
        return Err(SettleError::NotInSet(*excess));
    }
    let key_of = |at: &Position| {
        let chosen = set.events.iter().flatten().find(|chosen| chosen.at == *at);
        chosen.and_then(|chosen| chosen.key)
    };
    let events: Vec<Chosen> = positions
        .iter()
        .map(|at| Chosen {
            at: *at,
            key: key_of(at),
        })
        .collect();
    Ok(Some(events).filter(|events| !events.is_empty()))
}

fn check_within(set: &MarkerRecord, at: Position) -> Result<(), SettleError> {
    let within = match &set.events {
        None => set.after < at && at <= set.to,
        Some(events) => events.iter().any(|event| event.at == at),
    };
    if within { Ok(()) } else { Err(SettleError::NotInSet(at)) }
}

fn cut(reason: &str) -> String {
    let mut end = reason.len().min(REASON_BYTES_MAX);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    reason[..end].to_owned()
}
