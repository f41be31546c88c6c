//! Creating and deleting sessions.

use super::error::{CreateError, DeleteError, Fault, LogFault, RetryLater};
use super::filter::Filter;
use super::id::SessionId;
use super::limits::{COMMIT_ATTEMPTS_MAX, PARKED_SETS_MAX};
use super::record::SessionRecord;
use super::service::Inner;
use super::settings::{Caller, CreateRequest, InvalidSettings, Start};
use super::state::{Change, Told, Verdict};
use super::{keys, state::View};
use crate::{Position, ReadLimit, Stamp, StreamId};

impl Inner {
    pub async fn create(&self, caller: &Caller, request: CreateRequest) -> Result<SessionId, CreateError> {
        self.alive()?;
        request.check()?;
        let filter = request.settings.filter.as_deref().map(Filter::compile).transpose();
        filter.map_err(InvalidSettings::Filter)?;
        let id = match &request.client_token {
            None => SessionId::random(&self.entropy),
            Some(token) => SessionId::of_token(&request.stream, token),
        };
        let cursor = self.place(&request.stream, request.start).await?;
        let session = self.record_of(request, cursor);
        let mut reason = String::new();
        for attempt in 0..COMMIT_ATTEMPTS_MAX {
            match self.session(&id).await {
                Ok(found) if found.record.same_request(&session) => return Ok(id),
                Ok(_) => return Err(CreateError::TokenReused(id)),
                Err(Fault::NoSuchSession(_)) => match self.commit(self.creation(caller, &id, &session)).await? {
                    Verdict::Applied => return Ok(id),
                    Verdict::Again(again) | Verdict::Unproven(again) | Verdict::Unknown(again) => reason = again,
                },
                Err(Fault::RetryLater(fault)) => reason = fault.reason,
                Err(fault) => return Err(fault.into()),
            }
            self.pause(attempt).await;
        }
        Err(RetryLater { reason }.into())
    }

    fn creation(&self, caller: &Caller, id: &SessionId, session: &SessionRecord) -> Change {
        let mut change = Change::default();
        change.create(keys::session(id), session);
        change.put(keys::by_stream(&session.stream, id), bytes::Bytes::new());
        let told = Told {
            action: "CreateSession",
            before: None,
            after: Some(format!("stream {} from {}", session.stream, session.start)),
        };
        self.audit(&mut change, caller, id, told);
        change
    }

    /// The bound at which a session begins or goes on.
    pub async fn place(&self, stream: &StreamId, start: Start) -> Result<Position, LogFault> {
        let end = self.log.end(stream).await?;
        let limit = ReadLimit { events: 1, bytes: 1 };
        match start {
            Start::Latest => Ok(end),
            Start::AtTime(moment) => Ok(Position::before(Stamp::of(moment))),
            Start::After(position) => Ok(position),
            Start::Oldest => match self
                .log
                .read(stream, Position::START, limit)
                .await
                .map_err(LogFault::from)
            {
                Ok(_) => Ok(Position::START),
                Err(LogFault::Trimmed(available)) => Ok(available),
                Err(fault) => Err(fault),
            },
        }
    }

    fn record_of(&self, request: CreateRequest, cursor: Position) -> SessionRecord {
        let (settings, now) = (request.settings, self.clock.now());
        let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        SessionRecord {
            stream: request.stream,
            name: settings.name,
            start: in_words(request.start),
            mode: settings.mode,
            order: settings.order,
            lease_ms: millis(settings.lease),
            attempts_max: settings.attempts_max,
            idle_ttl_ms: millis(settings.idle_ttl),
            filter: settings.filter,
            created_at: now,
            read_at: now,
            cursor,
            batch: 0,
            parked: 0,
            withheld: Vec::new(),
            recent: Vec::new(),
            skipped: 0,
            filter_errors: 0,
            trimmed: 0,
            nonce: self.entropy.number(),
        }
    }

    pub async fn delete(&self, caller: &Caller, id: &SessionId) -> Result<(), DeleteError> {
        self.alive()?;
        let mut reason = String::new();
        let mut perhaps_done = false;
        for attempt in 0..COMMIT_ATTEMPTS_MAX {
            match self.try_delete(caller, id).await {
                Ok(Verdict::Applied) => {
                    self.nudge(id);
                    return Ok(());
                }
                Ok(Verdict::Again(again) | Verdict::Unproven(again)) => reason = again,
                Ok(Verdict::Unknown(again)) => (reason, perhaps_done) = (again, true),
                Err(Fault::NoSuchSession(_)) if perhaps_done => return Ok(()),
                Err(Fault::RetryLater(fault)) => reason = fault.reason,
                Err(fault) => return Err(fault.into()),
            }
            self.pause(attempt).await;
        }
        Err(RetryLater { reason }.into())
    }

    async fn try_delete(&self, caller: &Caller, id: &SessionId) -> Result<Verdict, Fault> {
        let change = self.deletion(caller, id).await?;
        self.commit(change).await
    }

    async fn deletion(&self, caller: &Caller, id: &SessionId) -> Result<Change, Fault> {
        let view = self.view(id).await?;
        let mut change = self.removal(&view).await?;
        let told = Told {
            action: "DeleteSession",
            before: Some(format!("cursor {}", view.session.record.cursor)),
            after: None,
        };
        self.audit(&mut change, caller, id, told);
        Ok(change)
    }

    /// Takes away everything a session has; one commit, for its lists are short enough.
    pub async fn removal(&self, view: &View) -> Result<Change, Fault> {
        let id = &view.id;
        let mut change = Change::default();
        change.remove(keys::session(id), view.session.at);
        change.delete(keys::by_stream(&view.session.record.stream, id));
        for marker in &view.markers {
            change.delete(keys::marker(id, marker.record.batch));
        }
        let parked = self
            .store
            .scan(&keys::parking_list(id), None, PARKED_SETS_MAX + 1)
            .await?;
        parked.into_iter().for_each(|(key, _)| change.delete(key));
        Ok(change)
    }
}

/// A start as records and audit rows tell it.
pub(super) fn in_words(start: Start) -> String {
    match start {
        Start::Oldest => "OLDEST".to_owned(),
        Start::Latest => "LATEST".to_owned(),
        Start::AtTime(moment) => format!("AT_TIME {}", moment.as_micros()),
        Start::After(position) => format!("AFTER {position}"),
    }
}

impl From<Fault> for CreateError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::RetryLater(fault) => Self::RetryLater(fault),
            Fault::Damaged(fault) => Self::Damaged(fault),
            Fault::NoSuchSession(gone) => Self::RetryLater(RetryLater {
                reason: gone.to_string(),
            }),
        }
    }
}
