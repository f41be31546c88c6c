//! Uploads: a new object is an event for the functions that are registered with its place.
//!
//! A function is registered by a tag, `bowline:on-upload`, whose value is an index and a prefix of keys in it:
//! `name:incoming/`. The object's key in that index must begin so. The event takes the way of all events that nobody
//! waits for, under an identifier made from the object's, so that a repeated upload has one run.

use std::sync::Arc;

use bowline_foundation::digest::Digest;
use bowline_foundation::id::{AccountId, RequestId};
use bowline_stream::EventId;
use bytes::Bytes;
use serde::Serialize;

use super::envelope::{Envelope, Origin};
use crate::error::Error;
use crate::registry::FunctionEntry;
use crate::service::Inner;

/// The tag that registers a function.
const ON_UPLOAD: &str = "bowline:on-upload";

/// A new object, or a new file of a watched folder.
#[derive(Clone, Debug)]
pub struct Upload {
    /// What tells of it: `bowline.objects`, `bowline.folders`.
    pub source: &'static str,
    /// Whose functions may be told.
    pub account: AccountId,
    /// The store that keeps it.
    pub storage: String,
    pub object: String,
    /// The same for every telling of it, and for nothing else.
    pub identity: String,
    pub version: u64,
    pub bytes: u64,
    /// The indexes, each with the object's key there.
    pub keys: Vec<(String, Bytes)>,
}

/// The event, as the function gets it.
#[derive(Serialize)]
struct Event<'a> {
    source: &'static str,
    kind: &'static str,
    storage: &'a str,
    object: &'a str,
    version: u64,
    bytes: u64,
    index: &'a str,
    key: std::borrow::Cow<'a, str>,
}

impl Inner {
    /// Leaves an event with each function that is registered for the object; says with how many. Once this returns they
    /// are on disk.
    pub(crate) async fn uploaded(self: &Arc<Self>, upload: &Upload) -> Result<usize, Error> {
        let mut told = 0;
        for entry in self.registry.snapshot.of_account(&upload.account) {
            let Some((index, key)) = matching(&entry, upload) else {
                continue;
            };
            let event = Event {
                source: upload.source,
                kind: "created",
                storage: &upload.storage,
                object: &upload.object,
                version: upload.version,
                bytes: upload.bytes,
                index,
                key: String::from_utf8_lossy(key),
            };
            let payload = serde_json::to_vec(&event).expect("text and numbers are JSON");
            self.tell(&entry, upload, payload.into()).await?;
            told += 1;
        }
        Ok(told)
    }

    async fn tell(self: &Arc<Self>, entry: &FunctionEntry, upload: &Upload, payload: Bytes) -> Result<(), Error> {
        let origin = Origin {
            request_id: RequestId::random(&self.entropy).to_string(),
            account: entry.account.clone(),
            function: entry.name.to_string(),
            qualifier: None,
            client_context: None,
            trace_id: None,
            accepted_at: self.clock.now(),
            hops: 0,
        };
        self.enqueue(Envelope::new(origin, payload), Some(id_of(upload)))
            .await?;
        self.metrics.events.accepted(entry.name.as_str());
        Ok(())
    }
}

/// The key by which a function is registered for an object.
fn matching<'a>(entry: &FunctionEntry, upload: &'a Upload) -> Option<(&'a str, &'a Bytes)> {
    let (index, prefix) = entry.tags.get(ON_UPLOAD)?.split_once(':')?;
    let key = |(name, key): &&(String, Bytes)| name == index && key.starts_with(prefix.as_bytes());
    let (index, key) = upload.keys.iter().find(key)?;
    Some((index, key))
}

/// The same for every telling of the same object.
fn id_of(upload: &Upload) -> EventId {
    let digest = Digest::of(format!("upload {}", upload.identity).as_bytes());
    let mut id = [0; 16];
    id.copy_from_slice(&digest.as_bytes()[..16]);
    EventId(id)
}
