//! The operations on sessions.

use std::sync::Arc;
use std::time::Duration;

use bowline_foundation::clock::Timestamp;

use super::deliver::{Batch, ReadRequest};
use super::error::{CreateError, DeleteError, ParkingError, ReadError, SeekError, SettleError, ShowError};
use super::id::{BatchToken, SessionId};
use super::parking::{ParkedSet, Pick};
use super::service::Inner;
use super::settings::{Caller, CreateRequest, Start};
use super::settle::{Failed, Outcome, Retry};
use super::show::{Overview, Stat};
use crate::{Position, StreamId};

/// A cheap way to a running service.
///
/// **Idempotence.** Creating with a client token, and reading with a request id within the lease, may be
/// repeated. Acknowledging twice gives [`SettleError::StaleToken`] the second time and has no second effect.
///
/// **Cancellation.** A read that is dropped while it waits gets nothing. One that is dropped as its reply
/// leaves is a lost reply: see [`Mode`](super::Mode).
#[derive(Clone)]
pub struct Handle(Arc<Inner>);

impl Handle {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        Self(inner)
    }

    pub async fn create(&self, caller: &Caller, request: CreateRequest) -> Result<SessionId, CreateError> {
        self.0.create(caller, request).await
    }

    /// The next set, or nothing if there was none within the wait.
    pub async fn read(&self, session: &SessionId, request: ReadRequest) -> Result<Option<Batch>, ReadError> {
        self.0.read(session, request).await
    }

    /// Says what became of a set.
    pub async fn settle(&self, session: &SessionId, token: BatchToken, outcome: Outcome) -> Result<(), SettleError> {
        self.0.settle(session, token, outcome).await
    }

    /// The whole set has been processed.
    pub async fn ack(&self, session: &SessionId, token: BatchToken) -> Result<(), SettleError> {
        self.settle(session, token, Outcome::Done).await
    }

    /// The whole set has failed, and is due again after `delay`.
    pub async fn nack(&self, session: &SessionId, token: BatchToken, delay: Duration) -> Result<(), SettleError> {
        let outcome = Outcome::Failed {
            events: Failed::All,
            retry: Retry::After(delay),
            reason: String::new(),
        };
        self.settle(session, token, outcome).await
    }

    /// Has the lease end `lease` from now; returns that moment.
    pub async fn extend(
        &self,
        session: &SessionId,
        token: BatchToken,
        lease: Duration,
    ) -> Result<Timestamp, SettleError> {
        self.0.extend(session, token, lease).await
    }

    /// Moves the cursor; sets in flight, waiting or withheld are forgotten, their tokens stale. Parked sets
    /// stay. Returns the cursor.
    pub async fn seek(&self, caller: &Caller, session: &SessionId, to: Start) -> Result<Position, SeekError> {
        self.0.seek(caller, session, to).await
    }

    /// Sessions of one stream after `after`, by identifier; at most
    /// [`PAGE_MAX`](super::limits::PAGE_MAX).
    pub async fn list(&self, stream: &StreamId, after: Option<&SessionId>) -> Result<Vec<SessionId>, ShowError> {
        self.0.list(stream, after).await
    }

    pub async fn show(&self, session: &SessionId) -> Result<Overview, ShowError> {
        self.0.show(session).await
    }

    /// The numbers that metrics are made of.
    pub async fn stat(&self, session: &SessionId) -> Result<Stat, ShowError> {
        self.0.stat(session).await
    }

    /// Ends the session; other sessions of the stream go on as they were.
    pub async fn delete(&self, caller: &Caller, session: &SessionId) -> Result<(), DeleteError> {
        self.0.delete(caller, session).await
    }

    /// Parked sets with a number above `after`; at most [`PAGE_MAX`](super::limits::PAGE_MAX).
    pub async fn parked(&self, session: &SessionId, after: Option<u64>) -> Result<Vec<ParkedSet>, ParkingError> {
        self.0.parked(session, after).await
    }

    /// Has parked sets given out again, with all their attempts; returns how many.
    pub async fn redrive(&self, caller: &Caller, session: &SessionId, sets: Pick) -> Result<usize, ParkingError> {
        self.0.redrive(caller, session, sets).await
    }

    /// Forgets parked sets; returns how many.
    pub async fn drop_parked(&self, caller: &Caller, session: &SessionId, sets: Pick) -> Result<usize, ParkingError> {
        self.0.drop_parked(caller, session, sets).await
    }

    /// Deletes what expired long ago and old audit rows, as the service does every hour; returns how many
    /// sessions went.
    pub async fn sweep(&self) -> Result<usize, ShowError> {
        Ok(self.0.sweep().await?)
    }
}
