//! The folders that this node keeps, from their making or the node's start to their removal.
//!
//! What the records name as this node's is kept; whatever else lies in its folder of volumes belongs to a creation or a
//! removal that a crash cut off, and goes at the next start, unless the store is not the one that this node kept its
//! volumes by: then they stay, for the node may be started with the right store again.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bowline_foundation::id::AccountId;
use bowline_foundation::units::Mebibytes;
use bowline_sandbox::{Content, SandboxKind, Share, ShareError};
use bowline_store::record::Record as _;
use bowline_store::{Condition, Key, Version as StoreVersion, Write};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::folder::{FolderKind, FolderRecord, share_name};
use super::record::{KeeperRecord, ResourceRecord};
use super::{StateError, keys};
use crate::invoke::Claim;
use crate::service::Inner;

/// Resources that are read at once.
const PAGE: usize = 500;
/// How often a node of a cluster looks whether another one has removed what it keeps.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// What the files of volumes end with.
const SUFFIX: &str = ".ext4";

/// What this node keeps, by the names of the shares.
#[derive(Default)]
pub(crate) struct Shelf {
    held: Mutex<BTreeMap<String, Held>>,
}

struct Held {
    /// Has one permit: of who writes alone. Closed when the folder goes.
    writer: Arc<Semaphore>,
    /// The record of its resource.
    key: Key,
    id: String,
    /// The memory that it may have.
    _claim: Option<Claim>,
}

impl Shelf {
    pub fn has(&self, share: &str) -> bool {
        self.held.lock().contains_key(share)
    }

    /// Who may write alone, if the folder is kept here.
    pub fn writer(&self, share: &str) -> Option<Arc<Semaphore>> {
        self.held.lock().get(share).map(|held| held.writer.clone())
    }

    fn all(&self) -> Vec<(String, Key, String)> {
        let held = self.held.lock();
        let all = held.iter();
        all.map(|(share, held)| (share.clone(), held.key.clone(), held.id.clone()))
            .collect()
    }
}

/// Whether a folder is made, or was there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Age {
    New,
    Old,
}

impl Inner {
    /// The number by which other nodes know this one; zero if it is alone.
    pub(super) fn host_number(&self) -> u64 {
        self.cluster.as_ref().map_or(0, |cluster| cluster.here().0)
    }

    fn volume(&self, id: &str) -> PathBuf {
        self.volumes().join(format!("{id}{SUFFIX}"))
    }

    fn volumes(&self) -> PathBuf {
        self.data_dir.join("state")
    }

    /// Begins to keep a folder; nothing is left of one that cannot be made.
    pub(super) async fn keep_folder(
        &self,
        account: &AccountId,
        record: &ResourceRecord,
        age: Age,
    ) -> Result<(), StateError> {
        let Some(folder) = &record.folder else { return Ok(()) };
        let size = Mebibytes(folder.size_mib);
        let claim = match folder.kind {
            FolderKind::Memory => Some(self.claim_memory(size)?),
            FolderKind::Volume => None,
        };
        let share = Share {
            name: share_name(&record.id, folder.kind, folder.generation),
            bytes: size.bytes(),
            content: match (folder.kind, age) {
                (FolderKind::Memory, _) => Content::Memory,
                (FolderKind::Volume, Age::New) => Content::NewVolume(self.volume(&record.id)),
                (FolderKind::Volume, Age::Old) => Content::Volume(self.volume(&record.id)),
            },
        };
        self.backend(SandboxKind::Linux).share(&share).await?;
        let held = Held {
            writer: Arc::new(Semaphore::new(1)),
            key: keys::resource(account, &record.name),
            id: record.id.clone(),
            _claim: claim,
        };
        self.shelf.held.lock().insert(share.name, held);
        Ok(())
    }

    fn claim_memory(&self, size: Mebibytes) -> Result<Claim, StateError> {
        self.room.try_claim(size).ok_or_else(|| {
            let left = self.room.budget().0.saturating_sub(self.room.claimed().0);
            StateError::NoRoom(format!(
                "{} MiB of shared memory do not fit in the {left} MiB that the node has left for sandboxes and shared memory",
                size.0
            ))
        })
    }

    /// Ends the keeping of a folder whose resource is gone, with all its files.
    pub(super) async fn drop_folder(&self, share: &str, id: &str) {
        let held = self.shelf.held.lock().remove(share);
        if let Some(held) = &held {
            held.writer.close();
        }
        self.backend(SandboxKind::Linux).unshare(share).await;
        if let Err(error) = fs::remove_file(self.volume(id))
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(id, %error, "the file of a volume that was removed stays");
        }
    }

    /// Drops the folder of a resource that was removed, if it is kept here; another node does so by itself.
    pub(super) async fn drop_removed(&self, record: &ResourceRecord) {
        let Some(folder) = record.folder.as_ref().filter(|folder| folder.node == self.node) else {
            return;
        };
        let share = share_name(&record.id, folder.kind, folder.generation);
        self.drop_folder(&share, &record.id).await;
    }

    /// Takes up what this node keeps, at its start: volumes as they are, memory made anew.
    pub(crate) async fn open_folders(&self) -> Result<(), StateError> {
        let mut named = BTreeSet::new();
        let mut after: Option<Key> = None;
        loop {
            let prefix = keys::all_resources();
            let page = self.registry.store().scan(&prefix, after.as_ref(), PAGE).await?;
            let is_last = page.len() < PAGE;
            after = page.last().map(|(key, _)| key.clone());
            for (key, entry) in page {
                let record = ResourceRecord::decode(&entry.value)?;
                if record.folder.as_ref().is_some_and(|folder| folder.node == self.node) {
                    named.insert(record.id.clone());
                    self.open_folder((key, entry.version), record).await;
                }
            }
            if is_last {
                break;
            }
        }
        let is_ours = !named.is_empty() || self.registry.store().get(&keys::keeper(&self.node)).await?.is_some();
        for (id, file) in self.volume_files() {
            match (named.contains(&id), is_ours) {
                (true, _) => {}
                (false, true) => remove_unnamed(&file),
                (false, false) => tracing::warn!(
                    file = %file.display(),
                    "the store does not know this node's volumes, which stay: start the node with the store that has \
                     them, or remove the file"
                ),
            }
        }
        Ok(())
    }

    /// Has the store know that this node keeps volumes, before the first one is made.
    pub(super) async fn begin_keeping(&self) -> Result<(), StateError> {
        let (store, key) = (self.registry.store(), keys::keeper(&self.node));
        if store.get(&key).await?.is_none() {
            let since = self.clock.now();
            let mark = Write::Put(key, KeeperRecord { since }.encode());
            store.commit(Vec::new(), vec![mark]).await?;
        }
        Ok(())
    }

    /// Takes up one; what cannot be taken up is away for those who want it.
    async fn open_folder(&self, (key, at): (Key, StoreVersion), mut record: ResourceRecord) {
        let Some(account) = keys::account_of(&key) else { return };
        let Some(folder) = &mut record.folder else { return };
        let before = folder.clone();
        folder.host = self.host_number();
        if folder.kind == FolderKind::Memory {
            // Those who had the old one are told that it is gone.
            folder.generation += 1;
        }
        let kept = async {
            if record.folder.as_ref() != Some(&before) {
                let conditions = vec![Condition::AtVersion(key.clone(), at)];
                let writes = vec![Write::Put(key, record.encode())];
                self.registry.store().commit(conditions, writes).await?;
            }
            self.keep_folder(&account, &record, Age::Old).await
        };
        if let Err(error) = kept.await {
            let error = &error as &dyn std::error::Error;
            tracing::error!(state = %record.name, error, "shared state cannot be taken up");
        }
    }

    /// The files of volumes, with the identifiers of their resources.
    fn volume_files(&self) -> Vec<(String, PathBuf)> {
        let entries = fs::read_dir(self.volumes()).into_iter().flatten().flatten();
        let named = |entry: fs::DirEntry| {
            let name = entry.file_name();
            let id = name.to_str()?.strip_suffix(SUFFIX)?;
            Some((id.to_owned(), entry.path()))
        };
        entries.filter_map(named).collect()
    }

    /// Drops what other nodes have removed, and says by which number this node is known now, for as long as the service
    /// lives.
    pub(crate) async fn watch_folders(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            for (share, key, id) in self.shelf.all() {
                if let Err(error) = self.look_at(&share, key, &id).await {
                    let error = &error as &dyn std::error::Error;
                    tracing::debug!(share, error, "it is not known whether shared state is still wanted");
                }
            }
        }
    }

    async fn look_at(&self, share: &str, key: Key, id: &str) -> Result<(), StateError> {
        let found = self.registry.store().get(&key).await?;
        let record = match &found {
            Some(found) => Some(ResourceRecord::decode(&found.value)?).filter(|record| record.id == id),
            None => None,
        };
        let (Some(found), Some(mut record)) = (found, record) else {
            self.drop_folder(share, id).await;
            return Ok(());
        };
        let host = self.host_number();
        if let Some(folder) = record.folder.as_mut().filter(|folder| folder.host != host) {
            folder.host = host;
            let conditions = vec![Condition::AtVersion(key.clone(), found.version)];
            let writes = vec![Write::Put(key, record.encode())];
            self.registry.store().commit(conditions, writes).await?;
        }
        Ok(())
    }

    /// Whether functions can use a folder, as far as this node knows.
    pub(super) fn has_folder(&self, id: &str, folder: &FolderRecord) -> bool {
        if folder.node == self.node {
            return self.shelf.has(&share_name(id, folder.kind, folder.generation));
        }
        self.is_near(folder.host)
    }
}

impl From<ShareError> for StateError {
    fn from(error: ShareError) -> Self {
        match error {
            ShareError::Unsupported(text) => Self::Infeasible(text),
            ShareError::Failed(error) => Self::NoRoom(format!("the folder cannot be made: {error}")),
        }
    }
}

/// Removes the file of a volume that no record names.
fn remove_unnamed(file: &Path) {
    tracing::info!(file = %file.display(), "a volume that nothing names is removed");
    if let Err(error) = fs::remove_file(file) {
        tracing::warn!(file = %file.display(), %error, "it stays");
    }
}
