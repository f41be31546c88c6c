//! Layers in memory and in the store.

use std::collections::BTreeMap;
use std::sync::Arc;

use bowline_foundation::digest::Digest;
use bowline_foundation::id::AccountId;
use bowline_store::{Key, Version as StoreVersion};
use parking_lot::RwLock;

use super::load::{LoadError, read};
use super::record::{LayerRecord, LayerVersionRecord, Record as _};
use super::{Audit, Change, Registry, keys};
use crate::error::Error;
use crate::model::layers::LayerVersion;
use crate::name::layer::{LayerName, LayerRef};

/// A layer as it was committed.
#[derive(Clone)]
pub(crate) struct LayerEntry {
    pub next_version: u64,
    /// The layer's own record.
    pub at: StoreVersion,
    pub versions: BTreeMap<u64, Arc<LayerVersionEntry>>,
}

/// A version of a layer as it was committed.
#[derive(Clone)]
pub(crate) struct LayerVersionEntry {
    pub version: LayerVersion,
    pub at: StoreVersion,
}

type All = BTreeMap<(AccountId, LayerName), Arc<LayerEntry>>;

/// All layers, by account and name.
#[derive(Default)]
pub(crate) struct Layers(RwLock<All>);

impl Layers {
    pub fn get(&self, layer: &LayerRef) -> Option<Arc<LayerEntry>> {
        self.0.read().get(&(layer.account.clone(), layer.name.clone())).cloned()
    }

    pub fn put(&self, layer: &LayerRef, entry: LayerEntry) {
        let key = (layer.account.clone(), layer.name.clone());
        self.0.write().insert(key, Arc::new(entry));
    }

    /// The account's layers by name.
    pub fn of_account(&self, account: &AccountId) -> Vec<(LayerName, Arc<LayerEntry>)> {
        let all = self.0.read();
        let own = all.iter().filter(|((owner, _), _)| owner == account);
        own.map(|((_, name), entry)| (name.clone(), entry.clone())).collect()
    }

    /// The digests of all versions of all layers.
    pub fn digests(&self) -> Vec<Digest> {
        let all = self.0.read();
        let versions = all.values().flat_map(|entry| entry.versions.values());
        versions.map(|entry| entry.version.code.digest).collect()
    }
}

impl Change {
    /// The layer's numbering goes on.
    pub fn layer(&mut self, layer: &LayerRef, old: Option<&LayerEntry>, new: &LayerEntry) -> &mut Self {
        let encode = |entry: &LayerEntry| {
            let next_version = entry.next_version;
            LayerRecord { next_version }.encode()
        };
        self.put(
            keys::layer(&layer.account, &layer.name),
            old.map(|old| old.at),
            old.map(encode),
            Some(encode(new)),
        )
    }

    /// A version of a layer appears, changes, or goes.
    pub fn layer_version(&mut self, old: Option<&LayerVersionEntry>, new: Option<&LayerVersionEntry>) -> &mut Self {
        let Some(version) = new.or(old).map(|entry| &entry.version) else {
            return self;
        };
        let encode = |entry: &LayerVersionEntry| LayerVersionRecord::from(&entry.version).encode();
        self.put(
            keys::layer_version(&version.account, &version.name, version.number),
            old.map(|old| old.at),
            old.map(encode),
            new.map(encode),
        )
    }
}

impl Registry {
    /// Commits a change of one layer; if that leaves doubt, reads all layers again.
    pub async fn commit_layer(&self, audit: Audit<'_>, mut change: Change) -> Result<StoreVersion, Error> {
        let committed = self.commit(audit, &mut change).await;
        if committed.is_err()
            && let Err(error) = self.load_layers().await
        {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "layers cannot be read again after a failed commit");
        }
        committed
    }

    /// Brings the layers up to what the store holds; returns the digests of versions that are gone.
    pub async fn load_layers(&self) -> Result<Vec<Digest>, LoadError> {
        let mut loaded: BTreeMap<(AccountId, LayerName), LayerEntry> = BTreeMap::new();
        for (key, entry) in self.scan(keys::LAYERS).await? {
            let (layer, _) = subject::<2>(&key, keys::LAYERS)?;
            let record: LayerRecord = read(&key, &entry)?;
            let layer_entry = LayerEntry {
                next_version: record.next_version,
                at: entry.version,
                versions: BTreeMap::new(),
            };
            loaded.insert((layer.account, layer.name), layer_entry);
        }
        for (key, entry) in self.scan(keys::LAYER_VERSIONS).await? {
            let (layer, [_, _, number]) = subject::<3>(&key, keys::LAYER_VERSIONS)?;
            let number = number.parse().map_err(|_| LoadError::Key(number))?;
            let record: LayerVersionRecord = read(&key, &entry)?;
            // One that came after the first scan is read the next time.
            if let Some(layer_entry) = loaded.get_mut(&(layer.account.clone(), layer.name.clone())) {
                let version = record.into_model(layer.account, layer.name, number);
                let at = entry.version;
                layer_entry
                    .versions
                    .insert(number, Arc::new(LayerVersionEntry { version, at }));
            }
        }
        let loaded: All = loaded.into_iter().map(|(key, entry)| (key, Arc::new(entry))).collect();
        let before = self.layers.digests();
        *self.layers.0.write() = loaded;
        let after = self.layers.digests();
        Ok(before.into_iter().filter(|digest| !after.contains(digest)).collect())
    }
}

fn subject<const N: usize>(key: &Key, prefix: &str) -> Result<(LayerRef, [String; N]), LoadError> {
    let invalid = || LoadError::Key(String::from_utf8_lossy(key).into_owned());
    let parts: [String; N] = keys::parts(key, prefix).ok_or_else(invalid)?;
    let account = parts[0].parse().map_err(|_| invalid())?;
    let name = parts[1].parse().map_err(|_| invalid())?;
    Ok((LayerRef { account, name }, parts))
}
