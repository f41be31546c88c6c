//! Following what other nodes on the same store change.
//!
//! Every mutation writes one key that all look at. Whoever finds it changed compares the functions that
//! the store holds with those in the snapshot, and reads again what differs. So a change is seen
//! everywhere within [`INTERVAL`] and the time of a scan; until then a node serves what it knew.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bowline_foundation::id::AccountId;
use bowline_store::Version as StoreVersion;

use super::Inner;
use crate::model::Caller;
use crate::name::FunctionName;
use crate::registry::{FunctionEntry, LoadError, Loaded};

/// How often a node looks whether another has changed something.
const INTERVAL: Duration = Duration::from_millis(500);
/// The node that made a change settles it. Another does so after this time: it has died.
const SETTLE_AFTER: Duration = Duration::from_secs(60);

/// The versions of a function's records: its own, then those of its children by kind and name.
type Versions = (StoreVersion, [Vec<StoreVersion>; 5]);

/// Follows for as long as the service lives.
pub(super) async fn run(inner: Arc<Inner>) {
    let mut seen = None;
    loop {
        match inner.registry.changed().await {
            Ok(changed) if changed != seen || inner.awaits_settling() => match inner.follow().await {
                Ok(()) => seen = changed,
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "what other nodes have changed cannot be read yet");
                }
            },
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "cannot see whether other nodes have changed something"),
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

impl Inner {
    /// Whether a change of a node that may have died is still pending.
    fn awaits_settling(&self) -> bool {
        self.registry
            .snapshot
            .all()
            .iter()
            .any(|entry| self.is_abandoned(entry))
    }

    fn is_abandoned(&self, entry: &FunctionEntry) -> bool {
        entry.is_unsettled() && self.clock.now().since(entry.latest.last_modified) > SETTLE_AFTER
    }

    /// Brings the snapshot up to what the store holds.
    pub(crate) async fn follow(self: &Arc<Self>) -> Result<(), LoadError> {
        let stored: BTreeMap<(AccountId, FunctionName), Versions> = (self.registry.load().await?.iter())
            .map(|loaded| ((loaded.account.clone(), loaded.name.clone()), of_loaded(loaded)))
            .collect();
        let known = self.registry.snapshot.all();
        let known: BTreeMap<_, _> = (known.iter())
            .map(|entry| ((entry.account.clone(), entry.name.clone()), entry))
            .collect();
        for function in known.keys().filter(|function| !stored.contains_key(function)) {
            self.catch_up(&function.0, &function.1).await?;
        }
        self.follow_mappings().await?;
        self.follow_layers().await?;
        self.follow_images().await?;
        for (function, versions) in &stored {
            let current = known.get(function);
            if current.is_none_or(|entry| of_entry(entry) != *versions || self.is_abandoned(entry)) {
                self.catch_up(&function.0, &function.1).await?;
            }
        }
        Ok(())
    }

    async fn follow_mappings(self: &Arc<Self>) -> Result<(), LoadError> {
        let _alone = self.mapping_lock.lock().await;
        for id in self.registry.load_mappings().await? {
            self.mapping_changed(&id);
        }
        Ok(())
    }

    async fn follow_layers(&self) -> Result<(), LoadError> {
        let _alone = self.layer_lock.lock().await;
        self.garbage.add_all(self.registry.load_layers().await?);
        Ok(())
    }

    async fn follow_images(&self) -> Result<(), LoadError> {
        let _alone = self.image_lock.lock().await;
        self.garbage.add_all(self.registry.load_images().await?);
        Ok(())
    }

    /// Reads one function again, and prepares what is new in it.
    async fn catch_up(self: &Arc<Self>, account: &AccountId, name: &FunctionName) -> Result<(), LoadError> {
        let _alone = self.lock(account, name).await;
        let entry = self.read_again(account, name).await?;
        self.accounts.set_reserved(account, self.reserved(account));
        let Some(entry) = entry else { return Ok(()) };
        if self.is_abandoned(&entry) {
            let caller = Caller {
                account: account.clone(),
                request_id: self.revision(),
            };
            self.settle_later(account, name, &caller);
        }
        let inner = self.clone();
        tokio::spawn(async move { inner.prepare_all(&entry).await });
        Ok(())
    }
}

fn of_loaded(loaded: &Loaded) -> Versions {
    let versions = loaded.versions.values().map(|version| version.at).collect();
    let aliases = loaded.aliases.values().map(|alias| alias.at).collect();
    let event_invokes = loaded.event_invokes.values().map(|config| config.at).collect();
    let policies = loaded.policies.values().map(|policy| policy.at).collect();
    let attached = loaded.attached.values().map(|entry| entry.at).collect();
    (loaded.at, [versions, aliases, event_invokes, policies, attached])
}

fn of_entry(entry: &FunctionEntry) -> Versions {
    let versions = entry.versions.values().map(|version| version.at).collect();
    let aliases = entry.aliases.values().map(|alias| alias.at).collect();
    let event_invokes = entry.event_invokes.values().map(|config| config.at).collect();
    let policies = entry.policies.values().map(|policy| policy.at).collect();
    let attached = entry.attached.values().map(|entry| entry.at).collect();
    (entry.at, [versions, aliases, event_invokes, policies, attached])
}
