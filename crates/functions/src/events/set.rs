//! A set of events in this node's hands: its lease is kept up, and at the end the session is told.

use std::time::Duration;

use bowline_stream::session::{Batch, Failed, Order, Outcome, ReadRequest, Retry, SessionId, SettleError, Start};
use bowline_stream::{Position, StreamId};

use super::engine::Engine;

/// Tries to tell the session before the set is left to its lease.
const SETTLE_TRIES: u32 = 5;

/// What reads a stream of the platform.
#[derive(Clone, Copy)]
pub(super) struct Reader {
    /// The name of its one session.
    pub session: &'static str,
    pub worker: &'static str,
    pub events_max: usize,
    pub bytes_max: usize,
}

impl Engine {
    /// Takes the next set of a stream, in any order, if there is one within a reader's patience. A session that fails is
    /// looked for again.
    pub(super) async fn next_set(
        &self,
        session: &mut Option<SessionId>,
        stream: &StreamId,
        reader: Reader,
    ) -> Result<Option<(SessionId, Batch)>, String> {
        let id = match session.take() {
            Some(id) => id,
            None => {
                let made = self.session(stream, reader.session, Start::Oldest, Order::Free);
                made.await.map_err(|error| error.to_string())?
            }
        };
        let request = ReadRequest {
            events_max: reader.events_max,
            bytes_max: reader.bytes_max,
            wait: self.timing.wait,
            worker: reader.worker.to_owned(),
            ..ReadRequest::default()
        };
        let read = tokio::select! {
            () = self.stopped() => return Ok(None),
            read = self.sessions.read(&id, request) => read.map_err(|error| error.to_string())?,
        };
        *session = Some(id.clone());
        Ok(read.map(|batch| (id, batch)))
    }

    /// Does work on a set, whose lease is kept up meanwhile.
    pub(super) async fn holding<T>(&self, session: &SessionId, batch: &Batch, work: impl Future<Output = T>) -> T {
        let Some(token) = batch.token else { return work.await };
        let keep = async {
            loop {
                tokio::time::sleep(self.timing.lease / 3).await;
                if let Err(error) = self.sessions.extend(session, token, self.timing.lease).await {
                    tracing::warn!(%session, %error, "a lease cannot be kept up");
                }
            }
        };
        tokio::select! {
            done = work => done,
            () = keep => unreachable!("a lease is kept up without end"),
        }
    }

    /// Tells the session which events are to be given out again; none: all are over. Whether it knows.
    pub(super) async fn settle(
        &self,
        session: &SessionId,
        batch: &Batch,
        left: Vec<Position>,
        delay: Duration,
    ) -> bool {
        let Some(token) = batch.token else { return true };
        let outcome = if left.is_empty() {
            Outcome::Done
        } else {
            Outcome::Failed {
                events: Failed::Only(left),
                retry: Retry::After(delay),
                reason: String::new(),
            }
        };
        for attempt in 1..=SETTLE_TRIES {
            match self.sessions.settle(session, token, outcome.clone()).await {
                Ok(()) => return true,
                Err(SettleError::RetryLater(error)) if attempt < SETTLE_TRIES => {
                    tracing::debug!(%session, %error, "a set is settled later");
                    tokio::time::sleep(Duration::from_millis(50 << attempt)).await;
                }
                Err(error) => {
                    // The set goes to somebody else, who does it again: at least once.
                    tracing::warn!(%session, %error, "a set cannot be settled");
                    break;
                }
            }
        }
        false
    }
}
