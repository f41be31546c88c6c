//! Deleting a stream, and changing its settings.
//!
//! ```text
//!   delete:  {directory at version} → directory and heads gone, doomed     one commit: from here on it is no more
//!            its sessions go, its blobs and nodes go, page by page         each on condition that it is doomed
//!            doomed gone                                                   a new stream may have the name
//! ```
//! Whoever deletes does all of it; if that host dies, any other's next round of maintenance goes on. A page
//! that a slow host deletes late finds the doom gone and does nothing, so it cannot hit a newer stream. An
//! append in flight loses against the commit that deletes its head, or is gone with the stream.

use std::sync::Arc;
use std::time::Duration;

use bowline_store::{CommitError, Condition, Key, ReadError, Version, Write};

use super::directory::{self, ChangeError};
use super::{Handle, Inner, Listed, Stream, lease};
use crate::record::{Directory, Doomed, Settings, Stored};
use crate::session::{self, Caller};
use crate::{StreamId, key};

/// Nodes or sessions that go at once.
const PAGE: usize = 64;
/// How often a change that others overtake is tried.
const ATTEMPTS: u32 = 20;

/// Why a stream was not deleted or changed.
#[derive(Debug, thiserror::Error)]
pub enum AlterError {
    #[error("stream `{0}` does not exist")]
    NoSuchStream(StreamId),
    /// Nothing was changed; retry later.
    #[error("stream `{stream}` cannot be changed now: {reason}")]
    Unavailable { stream: StreamId, reason: String },
    /// Changed or not, unknown; doing it again is safe.
    #[error("whether stream `{stream}` was changed is unknown: {reason}")]
    Unknown { stream: StreamId, reason: String },
    /// What is stored is damaged or of a format this build does not know.
    #[error("stream `{stream}` is damaged: {reason}")]
    Damaged { stream: StreamId, reason: String },
}

/// What of a stream's settings changes; what is none stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SettingsChange {
    /// See [`Settings`]; an inner none takes the limit away.
    pub age_max: Option<Option<Duration>>,
    pub bytes_max: Option<Option<u64>>,
    pub tier_after: Option<Option<Duration>>,
    pub chains_max: Option<u32>,
}

impl SettingsChange {
    fn apply(&self, settings: Settings) -> Settings {
        Settings {
            age_max: self.age_max.unwrap_or(settings.age_max),
            bytes_max: self.bytes_max.unwrap_or(settings.bytes_max),
            tier_after: self.tier_after.unwrap_or(settings.tier_after),
            chains_max: self.chains_max.unwrap_or(settings.chains_max),
        }
    }
}

/// How a try ended that may be repeated.
enum Tried<T> {
    Done(T),
    Again(String),
    Unknown(String),
}

impl Handle {
    /// Deletes a stream with its events and its sessions. Once this returns `Ok`, nobody appends to it any
    /// more, and other hosts show nothing of it from their next look on. What is left of it goes at once, or
    /// with the rounds of maintenance if the store fails meanwhile.
    pub async fn delete(&self, caller: &Caller, id: &StreamId) -> Result<(), AlterError> {
        let host = self.inner();
        let (name, mut unknown) = (id.name(), None);
        for _ in 0..ATTEMPTS {
            match try_delete(&host, caller, id).await {
                Ok(Tried::Done(())) => return finish_now(&host, id).await,
                // An earlier try of ours, of unknown end, has done it.
                Err(AlterError::NoSuchStream(_)) if unknown.is_some() => return finish_now(&host, id).await,
                Ok(Tried::Again(reason)) => tracing::debug!(name, reason, "a deletion is tried again"),
                Ok(Tried::Unknown(reason)) => unknown = Some(reason),
                Err(error) => return Err(error),
            }
            tokio::time::sleep(host.config.retry_pause).await;
        }
        Err(given_up(id, unknown))
    }

    /// Changes a stream's settings; returns what they are now. All hosts follow at their next look.
    pub async fn set(&self, caller: &Caller, id: &StreamId, change: SettingsChange) -> Result<Settings, AlterError> {
        let host = self.inner();
        let mut unknown = None;
        for _ in 0..ATTEMPTS {
            match try_set(&host, caller, id, &change).await? {
                Tried::Done(settings) => return Ok(settings),
                Tried::Again(reason) => tracing::debug!(name = id.name(), reason, "a change is tried again"),
                // Setting the same again is harmless.
                Tried::Unknown(reason) => unknown = Some(reason),
            }
            tokio::time::sleep(host.config.retry_pause).await;
        }
        Err(given_up(id, unknown))
    }
}

fn given_up(id: &StreamId, unknown: Option<String>) -> AlterError {
    match unknown {
        Some(reason) => AlterError::Unknown {
            stream: id.clone(),
            reason,
        },
        None => AlterError::Unavailable {
            stream: id.clone(),
            reason: "others change it all the time, or the store is away".to_owned(),
        },
    }
}

/// The stream with its directory as it is stored now.
async fn found(host: &Inner, id: &StreamId) -> Result<(Arc<Stream>, Listed), AlterError> {
    let failed = |error: ReadError| match error {
        ReadError::Unavailable(reason) => AlterError::Unavailable {
            stream: id.clone(),
            reason,
        },
        ReadError::Damaged(reason) => AlterError::Damaged {
            stream: id.clone(),
            reason,
        },
    };
    let stream = host.find(id.name()).await.map_err(failed)?;
    let stream = stream.filter(|stream| stream.id == *id);
    let stream = stream.ok_or_else(|| AlterError::NoSuchStream(id.clone()))?;
    let listed = directory::current(host, &stream).await.map_err(failed)?;
    let listed = listed.ok_or_else(|| AlterError::NoSuchStream(id.clone()))?;
    Ok((stream, listed))
}

async fn try_delete(host: &Inner, caller: &Caller, id: &StreamId) -> Result<Tried<()>, AlterError> {
    let (stream, listed) = found(host, id).await?;
    let _one_at_a_time = stream.changing.lock().await;
    let directory = &listed.directory;
    let doomed = Doomed {
        chains_at_first: directory.chains_at_first,
        chains: directory.chains.iter().map(|chain| chain.id).collect(),
    };
    let mut writes = vec![
        Write::Delete(key::directory(id.name())),
        Write::Put(key::doomed(id.name()), doomed.encode()),
    ];
    writes.extend(
        doomed
            .chains
            .iter()
            .map(|chain| Write::Delete(key::head(id.name(), *chain))),
    );
    let told = format!(
        "{} chains, created {}",
        doomed.chains.len(),
        directory.created.as_micros()
    );
    writes.push(session::audit_row(
        host,
        caller,
        ("DeleteStream", id),
        (Some(told), None),
    ));
    let tried = commit(host, id, listed.version, writes).await;
    if matches!(tried, Tried::Done(_)) {
        host.forget(&stream);
        tracing::info!(stream = %id, "a stream has been deleted");
    }
    Ok(match tried {
        Tried::Done(_) => Tried::Done(()),
        Tried::Again(reason) => Tried::Again(reason),
        Tried::Unknown(reason) => Tried::Unknown(reason),
    })
}

async fn try_set(
    host: &Inner,
    caller: &Caller,
    id: &StreamId,
    change: &SettingsChange,
) -> Result<Tried<Settings>, AlterError> {
    let (stream, before) = found(host, id).await?;
    let _one_at_a_time = stream.changing.lock().await;
    let mut directory = Directory::clone(&before.directory);
    directory.settings = change.apply(directory.settings);
    let settings = directory.settings;
    if settings == before.directory.settings {
        return Ok(Tried::Done(settings));
    }
    let told = (
        Some(format!("{:?}", before.directory.settings)),
        Some(format!("{settings:?}")),
    );
    let writes = vec![
        Write::Put(key::directory(id.name()), directory.encode()),
        session::audit_row(host, caller, ("SetStream", id), told),
    ];
    Ok(match commit(host, id, before.version, writes).await {
        Tried::Done(version) => {
            let directory = Arc::new(directory);
            stream.learn(Listed { directory, version });
            Tried::Done(settings)
        }
        Tried::Again(reason) => Tried::Again(reason),
        Tried::Unknown(reason) => Tried::Unknown(reason),
    })
}

/// Commits on condition of the directory's version.
async fn commit(host: &Inner, id: &StreamId, directory: Version, writes: Vec<Write>) -> Tried<Version> {
    let conditions = vec![Condition::AtVersion(key::directory(id.name()), directory), host.guard()];
    match host.store.commit(conditions, writes).await {
        Ok(version) => Tried::Done(version),
        Err(CommitError::Unknown(reason)) => Tried::Unknown(reason),
        Err(CommitError::Conflict(key)) if key == key::member(host.id) => {
            lease::be_fenced(host);
            Tried::Again("this host has lost its lease".to_owned())
        }
        Err(error) => Tried::Again(error.to_string()),
    }
}

/// Removes what is left of a stream that is deleted already; what cannot be done now is left to the rounds.
async fn finish_now(host: &Inner, id: &StreamId) -> Result<(), AlterError> {
    for _ in 0..ATTEMPTS {
        match finish(host, id.name()).await {
            Ok(()) => return Ok(()),
            Err(error) => tracing::debug!(%error, stream = %id, "what is left of a deleted stream is not gone yet"),
        }
        tokio::time::sleep(host.config.retry_pause).await;
    }
    Ok(())
}

/// Goes on with all deletions that were begun, here or elsewhere.
pub(super) async fn round(host: &Inner) -> Result<(), ChangeError> {
    let prefix = key::doomed_all();
    for (key, _) in host.store.scan(&prefix, None, PAGE).await? {
        let name =
            std::str::from_utf8(&key[prefix.len()..]).map_err(|error| ChangeError::Damaged(error.to_string()))?;
        finish(host, name).await?;
    }
    Ok(())
}

async fn finish(host: &Inner, name: &str) -> Result<(), ChangeError> {
    let Some(entry) = host.store.get(&key::doomed(name)).await? else {
        return Ok(());
    };
    let doomed = Doomed::decode(&entry.value)?;
    let still = Condition::AtVersion(key::doomed(name), entry.version);
    let id = StreamId::new(name, doomed.chains_at_first).map_err(|error| ChangeError::Damaged(error.to_string()))?;
    while let Some((mut conditions, writes)) = session::removal_of_stream(&*host.store, &id).await? {
        conditions.push(still.clone());
        host.store.commit(conditions, writes).await?;
    }
    for chain in &doomed.chains {
        while remove_nodes(host, &key::nodes(name, *chain), &still).await? {}
    }
    host.store
        .commit(vec![still], vec![Write::Delete(key::doomed(name))])
        .await?;
    Ok(())
}

/// Removes one page of a chain's nodes, their blobs first; whether there may be more.
async fn remove_nodes(host: &Inner, nodes: &Key, still: &Condition) -> Result<bool, ChangeError> {
    let page = host.store.scan(nodes, None, PAGE).await?;
    if page.is_empty() {
        return Ok(false);
    }
    if let Some(blobs) = &host.blobs {
        for (_, entry) in &page {
            if let Stored::Pack(pack) = Stored::decode(&entry.value)? {
                let gone = blobs.delete(&pack.digest).await;
                gone.map_err(|error| ChangeError::Unavailable(error.to_string()))?;
            }
        }
    }
    let writes = page.into_iter().map(|(key, _)| Write::Delete(key)).collect();
    host.store.commit(vec![still.clone()], writes).await?;
    Ok(true)
}
