//! Removing what nobody needs any more: sessions that expired long ago, and old audit rows.

use bowline_foundation::clock::Timestamp;
use bowline_store::Key;

use super::error::Fault;
use super::id::SessionId;
use super::keys;
use super::limits::{AUDIT_KEPT, EXPIRED_KEPT, PAGE_MAX};
use super::record::SessionRecord;
use super::service::Inner;
use super::state::{Change, Verdict, Versioned, View};

impl Inner {
    pub async fn sweep(&self) -> Result<usize, Fault> {
        self.alive()?;
        self.sweep_audit().await?;
        let mut gone = 0;
        let mut after: Option<Key> = None;
        loop {
            let page = self
                .store
                .scan(&keys::SESSIONS.into(), after.as_ref(), PAGE_MAX)
                .await?;
            for (key, entry) in &page {
                let session = Versioned::<SessionRecord>::read(entry)?;
                let text = String::from_utf8_lossy(&key[keys::SESSIONS.len()..]);
                let id: SessionId = text.parse().map_err(Fault::damaged)?;
                if self.clock.now() >= session.record.expires_at().after(EXPIRED_KEPT) {
                    gone += usize::from(self.remove_expired(&id).await?);
                }
            }
            if page.len() < PAGE_MAX {
                return Ok(gone);
            }
            after = page.into_iter().last().map(|(key, _)| key);
        }
    }

    async fn remove_expired(&self, id: &SessionId) -> Result<bool, Fault> {
        let view: View = self.view(id).await?;
        let change = self.removal(&view).await?;
        Ok(matches!(self.commit(change).await?, Verdict::Applied))
    }

    async fn sweep_audit(&self) -> Result<(), Fault> {
        let kept_from = self.clock.now().since(Timestamp::default()).saturating_sub(AUDIT_KEPT);
        let oldest_kept = keys::audit(Timestamp::default().after(kept_from), 0);
        loop {
            let page = self.store.scan(&keys::AUDIT.into(), None, PAGE_MAX).await?;
            let mut change = Change::default();
            page.into_iter()
                .map(|(key, _)| key)
                .filter(|key| *key < oldest_kept)
                .for_each(|key| change.delete(key));
            if change.is_empty() {
                return Ok(());
            }
            if let Verdict::Again(reason) | Verdict::Unproven(reason) | Verdict::Unknown(reason) =
                self.commit(change).await?
            {
                return Err(Fault::retry(reason));
            }
        }
    }
}
