//! Moving a session's cursor.

use super::create::in_words;
use super::error::{Gone, RetryLater, SeekError};
use super::id::SessionId;
use super::keys;
use super::limits::COMMIT_ATTEMPTS_MAX;
use super::service::Inner;
use super::settings::{Caller, Start};
use super::state::{Change, Told, Verdict, View};
use crate::Position;

impl Inner {
    pub async fn seek(&self, caller: &Caller, id: &SessionId, to: Start) -> Result<Position, SeekError> {
        self.alive()?;
        let mut reason = String::new();
        for attempt in 0..COMMIT_ATTEMPTS_MAX {
            match self.try_seek(caller, id, to).await {
                Ok((cursor, Verdict::Applied)) => {
                    self.nudge(id);
                    return Ok(cursor);
                }
                Ok((_, Verdict::Again(again) | Verdict::Unproven(again) | Verdict::Unknown(again))) => reason = again,
                Err(SeekError::RetryLater(fault)) => reason = fault.reason,
                Err(error) => return Err(error),
            }
            self.pause(attempt).await;
        }
        Err(RetryLater { reason }.into())
    }

    async fn try_seek(&self, caller: &Caller, id: &SessionId, to: Start) -> Result<(Position, Verdict), SeekError> {
        let view = self.view(id).await?;
        let now = self.clock.now();
        if now >= view.session.record.expires_at() {
            return Err(Gone(id.clone()).into());
        }
        let cursor = self.place(&view.session.record.stream, to).await?;
        let mut change = self.moved(&view, cursor);
        let told = Told {
            action: "SeekSession",
            before: Some(format!("cursor {}", view.session.record.cursor)),
            after: Some(format!("cursor {cursor}, {}", in_words(to))),
        };
        self.audit(&mut change, caller, id, told);
        Ok((cursor, self.commit(change).await?))
    }

    /// The session at another place, with nothing in flight.
    fn moved(&self, view: &View, cursor: Position) -> Change {
        let mut session = view.session.record.clone();
        session.cursor = cursor;
        session.withheld.clear();
        session.recent.clear();
        session.nonce = self.entropy.number();
        let mut change = Change::default();
        change.update(keys::session(&view.id), view.session.at, &session);
        for marker in &view.markers {
            change.delete(keys::marker(&view.id, marker.record.batch));
        }
        change
    }
}
