//! The parking list: sets whose attempts are used up.

use bowline_foundation::clock::Timestamp;

use super::error::{Fault, Gone, LogFault, ParkingError, RetryLater};
use super::fetch::Fetched;
use super::filter::Filter;
use super::id::SessionId;
use super::keys;
use super::limits::{COMMIT_ATTEMPTS_MAX, IN_FLIGHT_SETS_MAX, PAGE_MAX, PARKED_SETS_MAX, REDRIVES_MAX};
use super::record::{MarkerRecord, MarkerState, ParkedRecord, SessionRecord};
use super::service::Inner;
use super::settings::Caller;
use super::state::{Change, Told, Verdict, Versioned, View};
use crate::Position;

/// A parked set as its operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkedSet {
    pub batch: u64,
    /// The places of its events, as far as the stream still holds them.
    pub events: Vec<Position>,
    pub attempts: u32,
    /// Who had it last.
    pub worker: String,
    pub first_sent_at: Timestamp,
    pub parked_at: Timestamp,
    /// Why it failed last; none if its lease ran out.
    pub reason: Option<String>,
}

/// Which parked sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pick {
    /// As many as there are; a redrive takes the oldest that have room in flight, at most [`REDRIVES_MAX`].
    All,
    /// Those with these numbers.
    Sets(Vec<u64>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Action {
    Redrive,
    Drop,
}

impl Inner {
    pub async fn parked(&self, id: &SessionId, after: Option<u64>) -> Result<Vec<ParkedSet>, ParkingError> {
        self.alive()?;
        let session = self.session(id).await?.record;
        let filter = self.filter_of(session.filter.as_deref())?;
        let after = after.map(|batch| keys::parked(id, batch));
        let mut sets = Vec::new();
        for parked in self.parking_list(id, after.as_ref(), PAGE_MAX).await? {
            let ParkedRecord { set, parked_at } = parked.record;
            sets.push(ParkedSet {
                events: self.places(&session, filter.as_ref(), &set).await?,
                batch: set.batch,
                attempts: set.attempts,
                worker: set.worker,
                first_sent_at: set.first_sent_at,
                parked_at,
                reason: set.reason,
            });
        }
        Ok(sets)
    }

    async fn places(
        &self,
        session: &SessionRecord,
        filter: Option<&Filter>,
        set: &MarkerRecord,
    ) -> Result<Vec<Position>, ParkingError> {
        match self.fetch(&session.stream, filter, set).await {
            Ok(Fetched::Events(events)) => Ok(events.iter().map(|event| event.position).collect()),
            Ok(Fetched::Trimmed(_)) | Err(LogFault::Trimmed(_) | LogFault::NoSuchStream(_)) => Ok(Vec::new()),
            Err(LogFault::RetryLater(fault)) => Err(fault.into()),
            Err(LogFault::Damaged(fault)) => Err(fault.into()),
        }
    }

    pub async fn redrive(&self, caller: &Caller, id: &SessionId, sets: Pick) -> Result<usize, ParkingError> {
        let count = self.empty(caller, id, &sets, Action::Redrive).await?;
        self.nudge(id);
        Ok(count)
    }

    pub async fn drop_parked(&self, caller: &Caller, id: &SessionId, sets: Pick) -> Result<usize, ParkingError> {
        self.empty(caller, id, &sets, Action::Drop).await
    }

    async fn empty(&self, caller: &Caller, id: &SessionId, sets: &Pick, action: Action) -> Result<usize, ParkingError> {
        self.alive()?;
        let mut reason = String::new();
        for attempt in 0..COMMIT_ATTEMPTS_MAX {
            match self.try_empty(caller, id, sets, action).await {
                Ok((count, Verdict::Applied)) => return Ok(count),
                Ok((_, Verdict::Again(again) | Verdict::Unproven(again) | Verdict::Unknown(again))) => reason = again,
                Err(ParkingError::RetryLater(fault)) => reason = fault.reason,
                Err(error) => return Err(error),
            }
            self.pause(attempt).await;
        }
        Err(RetryLater { reason }.into())
    }

    async fn try_empty(
        &self,
        caller: &Caller,
        id: &SessionId,
        sets: &Pick,
        action: Action,
    ) -> Result<(usize, Verdict), ParkingError> {
        let view = self.view(id).await?;
        if self.clock.now() >= view.session.record.expires_at() {
            return Err(Gone(id.clone()).into());
        }
        let mut picked = self.pick(id, sets).await?;
        if action == Action::Redrive {
            fit(&mut picked, &view, sets)?;
        }
        if picked.is_empty() {
            return Ok((0, Verdict::Applied));
        }
        let change = self.emptied(caller, &view, &picked, action);
        Ok((picked.len(), self.commit(change).await?))
    }

    async fn pick(&self, id: &SessionId, sets: &Pick) -> Result<Vec<Versioned<ParkedRecord>>, ParkingError> {
        let mut list = self.parking_list(id, None, PARKED_SETS_MAX + 1).await?;
        if let Pick::Sets(numbers) = sets {
            let parked = |number: &&u64| !list.iter().any(|parked| parked.record.set.batch == **number);
            if let Some(missing) = numbers.iter().find(parked) {
                return Err(ParkingError::NotParked(*missing));
            }
            list.retain(|parked| numbers.contains(&parked.record.set.batch));
        }
        Ok(list)
    }

    fn emptied(&self, caller: &Caller, view: &View, picked: &[Versioned<ParkedRecord>], action: Action) -> Change {
        let (id, now) = (&view.id, self.clock.now());
        let mut session = view.session.record.clone();
        session.parked = session
            .parked
            .saturating_sub(u32::try_from(picked.len()).unwrap_or(u32::MAX));
        session.nonce = self.entropy.number();
        let mut change = Change::default();
        change.update(keys::session(id), view.session.at, &session);
        for parked in picked {
            let set = &parked.record.set;
            change.remove(keys::parked(id, set.batch), parked.at);
            if action == Action::Redrive {
                let again = MarkerRecord {
                    nonce: self.entropy.number(),
                    state: MarkerState::Waiting,
                    attempts: 0,
                    due_at: now,
                    ..set.clone()
                };
                change.create(keys::marker(id, set.batch), &again);
            }
        }
        let told = Told {
            action: match action {
                Action::Redrive => "RedriveSession",
                Action::Drop => "DropParked",
            },
            before: Some(format!("{} sets parked", view.session.record.parked)),
            after: Some(format!("{} sets parked", session.parked)),
        };
        self.audit(&mut change, caller, id, told);
        change
    }

    async fn parking_list(
        &self,
        id: &SessionId,
        after: Option<&bowline_store::Key>,
        limit: usize,
    ) -> Result<Vec<Versioned<ParkedRecord>>, Fault> {
        let found = self.store.scan(&keys::parking_list(id), after, limit).await?;
        found.iter().map(|(_, entry)| Versioned::read(entry)).collect()
    }
}

/// Checks that there is room in flight, or takes as many as there is room for.
fn fit(picked: &mut Vec<Versioned<ParkedRecord>>, view: &View, sets: &Pick) -> Result<(), ParkingError> {
    let room = IN_FLIGHT_SETS_MAX.saturating_sub(view.markers.len()).min(REDRIVES_MAX);
    let asked = picked.len();
    match sets {
        Pick::Sets(_) if asked > room => Err(ParkingError::NoRoom { asked, room }),
        _ => {
            picked.truncate(room);
            Ok(())
        }
    }
}
