//! Folders of the node that sandboxes in an instance share: handed over before the first sandbox that has one.
//!
//! ```text
//!   node's keeper of folders ─ a mount that is attached nowhere ─▶ Dial::hand_over ─▶ agent's keeper ─▶ its sandboxes
//! ```
//! One in memory counts against the instance's memory as a whole from then on: what is written there stays in its groups.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bowline_sandbox::CreateError;
use parking_lot::Mutex;

use crate::link::{Inner, Link};
use crate::remote::within;

/// How long an agent may take to take a folder or to give it back: it may be a hostile one.
const HAND_OVER_MAX: Duration = Duration::from_secs(30);

/// How sandboxes behind an agent come by folders that the node keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FolderWay {
    /// Not at all: they are on another machine.
    Apart,
    /// They see the node's own.
    Same,
    /// They are handed over to the agent.
    HandedOver,
}

/// A folder that a version's sandboxes have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    pub share: String,
    /// What its files may have of the memory of each instance.
    pub mib: u64,
}

/// What was handed over to an agent.
#[derive(Default)]
pub(crate) struct Folders {
    /// With what each takes of the instance's memory.
    there: Mutex<HashMap<String, u64>>,
    mib: AtomicU64,
    /// Held while one is handed over or taken back.
    one: tokio::sync::Mutex<()>,
}

/// Memory of an instance that is given back when this is dropped, be it that nobody waits any more.
struct Taken<'a>(&'a Inner, u64);

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.0.held_mib.fetch_sub(self.1, Ordering::Relaxed);
    }
}

impl Folders {
    /// What all of them take.
    pub fn mib(&self) -> u64 {
        self.mib.load(Ordering::Relaxed)
    }
}

impl Link {
    /// How sandboxes there come by the node's folders.
    pub fn folder_way(&self) -> FolderWay {
        self.inner.dial.folder_way()
    }

    /// Whether it has all of these.
    pub fn has(&self, folders: &[Folder]) -> bool {
        let there = self.inner.folders.there.lock();
        self.folder_way() == FolderWay::Same || folders.iter().all(|folder| there.contains_key(&folder.share))
    }

    /// What those that it has not would take of its memory.
    pub fn missing_mib(&self, folders: &[Folder]) -> u64 {
        if self.folder_way() != FolderWay::HandedOver {
            return 0;
        }
        let there = self.inner.folders.there.lock();
        let missing = folders.iter().filter(|folder| !there.contains_key(&folder.share));
        missing.map(|folder| folder.mib).sum()
    }

    /// Hands a folder over, if it is not there.
    ///
    /// # Errors
    /// If there is no room for it, it cannot be lent, or the agent does not take it.
    pub async fn hand_over(
        &self,
        folder: &Folder,
        lent: impl Future<Output = io::Result<OwnedFd>>,
    ) -> Result<(), CreateError> {
        let Inner { folders, dial, .. } = &*self.inner;
        let _one = folders.one.lock().await;
        if folders.there.lock().contains_key(&folder.share) {
            return Ok(());
        }
        self.inner.take_mib(folder.mib)?;
        let taken = Taken(&self.inner, folder.mib);
        let handed = async { dial.hand_over(&folder.share, lent.await?).await };
        within(HAND_OVER_MAX, handed).await.map_err(CreateError::Backend)?;
        std::mem::forget(taken);
        folders.mib.fetch_add(folder.mib, Ordering::Relaxed);
        folders.there.lock().insert(folder.share.clone(), folder.mib);
        Ok(())
    }

    /// Takes a folder back, if it is there; sandboxes that have it keep it until they are gone.
    ///
    /// # Errors
    /// If the agent does not give it back: then it goes with the instance.
    pub async fn take_back(&self, share: &str) -> io::Result<()> {
        let Inner { folders, dial, .. } = &*self.inner;
        let _one = folders.one.lock().await;
        let Some(mib) = folders.there.lock().remove(share) else {
            return Ok(());
        };
        folders.mib.fetch_sub(mib, Ordering::Relaxed);
        self.inner.held_mib.fetch_sub(mib, Ordering::Relaxed);
        within(HAND_OVER_MAX, dial.take_back(share)).await
    }
}
