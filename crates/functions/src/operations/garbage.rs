//! Collection of code that no function and no layer names any more: unpacked folders first, then stored packages.
//!
//! A start looks at everything, since a crash may have left anything; later only what an operation gave
//! up is looked at. Code that somebody may still run is looked at again later.

mod custody;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bowline_foundation::digest::Digest;
use bowline_store::Sharing;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::error::Error;
use crate::service::Inner;

/// How long code that could not be removed is left before it is looked at again.
const PAUSE: Duration = Duration::from_secs(1);

/// Where other nodes use the blobs too, a package that no known function names goes only when it has not
/// been stored for this time: another node may be about to name it.
const ORPHAN_AGE: Duration = Duration::from_secs(24 * 3600);

/// Digests that may belong to nobody.
#[derive(Default)]
pub(crate) struct Garbage {
    candidates: Mutex<HashSet<Digest>>,
    /// Whether packages that the store does not name may be another store's.
    is_guest: AtomicBool,
    /// Told of new candidates, and of code that is no longer in use.
    pub wake: Arc<Notify>,
}

impl Garbage {
    pub fn add(&self, digest: Digest) {
        self.add_all([digest]);
    }

    pub fn add_all(&self, digests: impl IntoIterator<Item = Digest>) {
        self.candidates.lock().extend(digests);
        self.wake.notify_one();
    }
}

impl Inner {
    /// Removes all code that no function names.
    pub(crate) async fn collect_orphans(&self) -> Result<(), Error> {
        let used = self.code_in_use();
        for digest in self.code.list().map_err(Error::service)?.difference(&used) {
            self.code.remove(digest).await.map_err(Error::service)?;
        }
        let stored = self.blobs.list().await.map_err(Error::service)?;
        let orphans: Vec<_> = stored.iter().filter(|digest| !used.contains(digest)).collect();
        self.take_custody(used.is_empty() && !stored.is_empty()).await?;
        for digest in &orphans {
            if self.remove_package(digest).await? {
                tracing::info!(%digest, "a package that no function named is removed");
            }
        }
        if !orphans.is_empty() && self.garbage.is_guest.load(Ordering::Relaxed) {
            tracing::warn!(
                packages = orphans.len(),
                "this data folder was used with another store too: packages that no function of this one names stay"
            );
        }
        Ok(())
    }

    /// Finds out whether the packages in the data folder are this store's alone.
    async fn take_custody(&self, is_strange: bool) -> Result<(), Error> {
        let fresh = format!("{:016x}", self.entropy.number());
        let store = self.registry.identity(fresh).await?;
        let is_sole = custody::note(&self.data_dir, &store, is_strange).map_err(Error::service)?;
        self.garbage.is_guest.store(!is_sole, Ordering::Relaxed);
        Ok(())
    }

    /// Removes what is given up, for as long as the service lives.
    pub(crate) async fn collect_garbage(self: Arc<Self>) {
        loop {
            let removed = self.collect_once().await;
            if removed {
                let used: Vec<Digest> = self.code_in_use().into_iter().collect();
                for backend in &self.backends {
                    backend.collect_garbage(&used).await;
                }
            }
            let woken = self.garbage.wake.notified();
            if self.garbage.candidates.lock().is_empty() {
                woken.await;
            } else {
                let _ = timeout(PAUSE, woken).await;
            }
        }
    }

    async fn collect_once(&self) -> bool {
        let candidates = std::mem::take(&mut *self.garbage.candidates.lock());
        let mut removed = false;
        for digest in candidates {
            // Nobody takes code in while this is held, so what nobody names now stays unnamed.
            let _alone = self.code_gate.write().await;
            if self.code_in_use().contains(&digest) {
                continue;
            }
            if self.code.is_held(&digest) {
                self.garbage.candidates.lock().insert(digest);
                continue;
            }
            match self.remove_code(&digest).await {
                Ok(()) => removed = true,
                Err(error) => {
                    tracing::warn!(%digest, error = &error as &dyn std::error::Error, "code is removed later");
                    self.garbage.candidates.lock().insert(digest);
                }
            }
        }
        removed
    }

    async fn remove_code(&self, digest: &Digest) -> Result<(), Error> {
        self.code.remove(digest).await.map_err(Error::service)?;
        self.crash.reach("collect.unpacked-removed");
        self.remove_package(digest).await?;
        self.crash.reach("collect.stored-removed");
        Ok(())
    }

    /// Removes a package that no known function names, unless another store may name it; returns whether it went.
    async fn remove_package(&self, digest: &Digest) -> Result<bool, Error> {
        if self.garbage.is_guest.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let removed = match self.registry.sharing {
            Sharing::Exclusive => self.blobs.delete(digest).await.map(|()| true),
            Sharing::Shared => {
                let cutoff = self.clock.now().before(ORPHAN_AGE);
                self.blobs.delete_if_older(digest, cutoff).await
            }
        };
        removed.map_err(Error::service)
    }

    fn code_in_use(&self) -> HashSet<Digest> {
        let functions = self.registry.snapshot.all();
        let configurations = functions.iter().flat_map(|entry| entry.configurations());
        let of_functions = configurations.flat_map(|configuration| configuration.digests());
        let uploaded = self
            .registry
            .layers
            .digests()
            .into_iter()
            .chain(self.registry.images.digests());
        of_functions.chain(uploaded).collect()
    }
}
