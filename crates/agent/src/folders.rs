//! Folders of the node that sandboxes in an instance share: there before the first sandbox that has one.
//!
//! ```text
//!   node's keeper of folders ─ a mount that is attached nowhere ─▶ Dial::hand_over ─▶ agent's keeper ─▶ its sandboxes
//!                                                              └─▶ Dial::serve ═ requests and answers ═ agent ─▶ its sandboxes
//! ```
//! One in memory that is handed over counts against the instance's memory as a whole from then on: what is written there stays
//! in its groups. Nothing of one that is served is in the instance. There a folder that is only read is another one than that
//! which is written: an instance whose sandboxes only read it cannot write.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bowline_sandbox::CreateError;
use parking_lot::Mutex;

use crate::fuse::Access;
use crate::link::{Inner, Link};
use crate::message::{Refusal, Show};
use crate::remote::within;
use crate::wire::{self, Kind};

/// How long an agent may take to take a folder or to give it back: it may be a hostile one.
const HAND_OVER_MAX: Duration = Duration::from_secs(30);
/// What a share's name has at its end where it is only read. No name of a share ends so.
const READ_SUFFIX: &str = ".read";

/// How sandboxes behind an agent come by folders that the node keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FolderWay {
    /// They see the node's own.
    Same,
    /// They are handed over to the agent.
    HandedOver,
    /// They are on another machine, whose kernel asks the node for each thing that is done.
    Served,
}

impl FolderWay {
    /// What sandboxes there know a share as.
    pub fn name(self, share: &str, access: Access) -> String {
        match (self, access) {
            (Self::Served, Access::Read) => format!("{share}{READ_SUFFIX}"),
            _ => share.to_owned(),
        }
    }
}

/// A folder that a version's sandboxes have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    pub share: String,
    pub access: Access,
    /// What its files may have of the memory of each instance.
    pub mib: u64,
}

/// A folder as the node's keeper lends it: a mount that is attached nowhere, and what may be done there.
pub struct Lent {
    pub tree: OwnedFd,
    pub access: Access,
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
        self.folder_way() == FolderWay::Same || folders.iter().all(|folder| self.keeps(&self.name(folder)))
    }

    fn name(&self, folder: &Folder) -> String {
        self.folder_way().name(&folder.share, folder.access)
    }

    fn keeps(&self, name: &str) -> bool {
        self.inner.folders.there.lock().contains_key(name) && self.inner.dial.keeps(name)
    }

    /// What those that it has not would take of its memory.
    pub fn missing_mib(&self, folders: &[Folder]) -> u64 {
        if self.folder_way() != FolderWay::HandedOver {
            return 0;
        }
        let there = self.inner.folders.there.lock();
        let missing = folders.iter().filter(|folder| !there.contains_key(&self.name(folder)));
        missing.map(|folder| folder.mib).sum()
    }

    /// Hands a folder over, or has it served, if it is not there.
    ///
    /// # Errors
    /// If there is no room for it, it cannot be lent, or the agent does not take it.
    pub async fn hand_over(
        &self,
        folder: &Folder,
        lent: impl Future<Output = io::Result<OwnedFd>>,
    ) -> Result<(), CreateError> {
        let Inner { folders, dial, .. } = &*self.inner;
        let name = self.name(folder);
        let _one = folders.one.lock().await;
        if self.keeps(&name) {
            return Ok(());
        }
        if self.forget(&name) {
            // Nobody serves it any more, and the agent may not have seen that yet.
            within(HAND_OVER_MAX, dial.take_back(&name))
                .await
                .map_err(CreateError::Backend)?;
        }
        let mib = self.missing_mib(std::slice::from_ref(folder));
        self.inner.take_mib(mib)?;
        let taken = Taken(&self.inner, mib);
        let handed = async {
            match self.folder_way() {
                FolderWay::Same => Ok(()),
                FolderWay::HandedOver => dial.hand_over(&name, lent.await?).await,
                FolderWay::Served => self.have_shown(&name, lent.await?, folder.access).await,
            }
        };
        within(HAND_OVER_MAX, handed).await.map_err(CreateError::Backend)?;
        std::mem::forget(taken);
        folders.mib.fetch_add(mib, Ordering::Relaxed);
        folders.there.lock().insert(name, mib);
        Ok(())
    }

    /// Has the agent show a folder, and serves what its kernel asks for.
    async fn have_shown(&self, name: &str, tree: OwnedFd, access: Access) -> io::Result<()> {
        let mut framed = self.inner.open().await?;
        let show = Show {
            epoch: self.inner.epoch,
            share: name.to_owned(),
        };
        framed.put_json(Kind::Show, &show);
        framed.flush().await?;
        let frame = framed.must_next("a folder that is shown").await?;
        if frame.kind == Kind::NotShown {
            let refusal: Refusal = wire::json(&frame.body, "why a folder is not shown")?;
            return Err(io::Error::other(refusal.reason));
        }
        frame.expect(Kind::Shown, "a folder that is shown")?;
        let lent = Lent { tree, access };
        self.inner.dial.serve(name, lent, framed.into_inner()).await
    }

    /// Takes a folder back, if it is there; sandboxes that have it keep it until they are gone, unless it is served.
    ///
    /// # Errors
    /// If the agent does not give it back: then it goes with the instance.
    pub async fn take_back(&self, share: &str) -> io::Result<()> {
        let Inner { folders, dial, .. } = &*self.inner;
        let _one = folders.one.lock().await;
        let names = [Access::Write, Access::Read].map(|access| self.folder_way().name(share, access));
        for name in names {
            if self.forget(&name) {
                within(HAND_OVER_MAX, dial.take_back(&name)).await?;
            }
        }
        Ok(())
    }

    /// Gives the room of a folder back, if it is there.
    fn forget(&self, name: &str) -> bool {
        let Inner { folders, held_mib, .. } = &*self.inner;
        let there = folders.there.lock().remove(name);
        let mib = there.unwrap_or_default();
        folders.mib.fetch_sub(mib, Ordering::Relaxed);
        held_mib.fetch_sub(mib, Ordering::Relaxed);
        there.is_some()
    }
}
