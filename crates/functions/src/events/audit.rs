//! The audit trail as a stream: rows that mutations have left in the outbox go into `bowline.audit`.
//!
//! A row is written with its mutation, so there is none without the other. It is appended under an
//! identifier made of its key, and then taken away: a crash in between appends it again, which the stream
//! stores once.

use std::sync::Arc;

use bowline_stream::{Record, StreamId};
use bytes::Bytes;

use super::arn::AUDIT_STREAM;
use super::engine::Engine;
use super::envelope::step_id;
use crate::service::Inner;

impl Inner {
    /// Publishes rows until the node stops.
    pub(super) async fn publish_audit(self: Arc<Self>) {
        let Some(engine) = self.events.clone() else { return };
        let mut failures = 0;
        while !engine.is_stopping() {
            let news = self.registry.outbox_news.notified();
            match self.publish_page(&engine).await {
                Ok(true) => failures = 0,
                Ok(false) => {
                    failures = 0;
                    tokio::select! {
                        () = engine.stopped() => {}
                        () = news => {}
                        () = tokio::time::sleep(engine.timing.look_every) => {}
                    }
                }
                Err(reason) => {
                    failures += 1;
                    tracing::warn!(reason, "audit rows cannot be published yet");
                    engine.pause(engine.backoff().after(failures)).await;
                }
            }
        }
    }

    /// Publishes the oldest rows; says whether there were any.
    async fn publish_page(&self, engine: &Engine) -> Result<bool, String> {
        let rows = self.registry.unpublished().await.map_err(|error| error.to_string())?;
        if rows.is_empty() {
            return Ok(false);
        }
        let stream: StreamId = engine
            .own_stream(AUDIT_STREAM)
            .await
            .map_err(|error| error.to_string())?;
        let mut published = Vec::with_capacity(rows.len());
        for (key, row) in rows {
            let id = step_id(&["audit", &String::from_utf8_lossy(&key)]);
            let record = Record {
                id: Some(id),
                key: Some(Bytes::from_static(b"audit")),
                body: row,
            };
            self.append(&stream, record).await.map_err(|error| error.to_string())?;
            published.push(key);
        }
        self.crash.reach("audit.published");
        self.registry
            .published(published)
            .await
            .map_err(|error| error.to_string())?;
        Ok(true)
    }
}
