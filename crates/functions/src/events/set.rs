//! A set of events in this node's hands: its lease is kept up, and at the end the session is told.

use std::time::Duration;

use bowline_stream::Position;
use bowline_stream::session::{Batch, Failed, Outcome, Retry, SessionId, SettleError};

use super::engine::Engine;

/// Tries to tell the session before the set is left to its lease.
const SETTLE_TRIES: u32 = 5;

impl Engine {
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

    /// Tells the session which events are to be given out again; none: all are over.
    pub(super) async fn settle(&self, session: &SessionId, batch: &Batch, left: Vec<Position>, delay: Duration) {
        let Some(token) = batch.token else { return };
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
                Ok(()) => return,
                Err(SettleError::RetryLater(error)) if attempt < SETTLE_TRIES => {
                    tracing::debug!(%session, %error, "a set is settled later");
                    tokio::time::sleep(Duration::from_millis(50 << attempt)).await;
                }
                Err(error) => {
                    // The set goes to somebody else, who does it again: at least once.
                    tracing::warn!(%session, %error, "a set cannot be settled");
                    return;
                }
            }
        }
    }
}
