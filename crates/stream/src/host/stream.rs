//! A stream as one host knows it: its directory, the chains that the host owns, and who waits for events.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bowline_store::Version;
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use super::courier::Courier;
use super::queue::Queue;
use crate::grow::Load;
use crate::hybrid::Slot;
use crate::reader::{Ahead, Places, View};
use crate::record::{Directory, Head};
use crate::{ChainId, HostId, Stamp, StreamId};

/// A chain that this host owns.
#[derive(Debug)]
pub(crate) struct Owned {
    pub chain: ChainId,
    pub slot: Slot,
    pub queue: Queue,
    /// The head as it is stored; replaced before its batch is settled.
    pub tail: RwLock<Arc<Head>>,
}

impl Owned {
    pub fn head(&self) -> Arc<Head> {
        Arc::clone(&self.tail.read())
    }
}

/// A directory with the version it was read or written at.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    pub directory: Arc<Directory>,
    pub version: Version,
}

#[derive(Debug)]
pub(crate) struct Stream {
    pub id: StreamId,
    /// Tells streams of one name that followed each other apart, in this process.
    pub serial: u64,
    listed: RwLock<Listed>,
    owned: RwLock<BTreeMap<ChainId, Arc<Owned>>>,
    /// A chain that was added on another host, which has not heard of it yet.
    pub grown: Mutex<Option<(HostId, ChainId)>>,
    /// Appends on their way to other hosts.
    couriers: Mutex<BTreeMap<HostId, Arc<Courier>>>,
    news: Notify,
    pub load: Mutex<Load>,
    /// The last view that readers made, and the lock that lets one of them at a time make another.
    pub view: RwLock<Option<Arc<View>>>,
    pub viewing: tokio::sync::Mutex<()>,
    pub views_begun: AtomicU64,
    pub places: Mutex<Places>,
    pub ahead: Ahead,
    /// One change of the directory at a time from here.
    pub changing: tokio::sync::Mutex<()>,
}

impl Stream {
    pub fn new(id: StreamId, serial: u64, listed: Listed) -> Self {
        Self {
            id,
            serial,
            listed: RwLock::new(listed),
            owned: RwLock::default(),
            grown: Mutex::default(),
            couriers: Mutex::default(),
            news: Notify::new(),
            load: Mutex::default(),
            view: RwLock::default(),
            viewing: tokio::sync::Mutex::default(),
            views_begun: AtomicU64::new(0),
            places: Mutex::default(),
            ahead: Ahead::default(),
            changing: tokio::sync::Mutex::default(),
        }
    }

    /// The newest directory that this host has seen.
    pub fn listed(&self) -> Listed {
        self.listed.read().clone()
    }

    /// Whether a directory is this stream's, not that of another one which got its name later.
    pub fn is(&self, found: &Directory) -> bool {
        let created = self.listed.read().directory.created;
        found.chains_at_first == self.id.chains() && found.created == created
    }

    /// Takes note of a directory of this stream, unless a newer one is known.
    pub fn learn(&self, found: Listed) {
        let mut listed = self.listed.write();
        if found.version > listed.version {
            *listed = found;
        }
    }

    pub fn owned(&self, chain: ChainId) -> Option<Arc<Owned>> {
        self.owned.read().get(&chain).cloned()
    }

    pub fn all_owned(&self) -> Vec<Arc<Owned>> {
        self.owned.read().values().cloned().collect()
    }

    pub fn own(&self, owned: Arc<Owned>) {
        self.owned.write().insert(owned.chain, owned);
    }

    /// Forgets a chain that has moved or was sealed.
    pub fn disown(&self, gone: &Arc<Owned>) {
        let mut owned = self.owned.write();
        if owned.get(&gone.chain).is_some_and(|known| Arc::ptr_eq(known, gone)) {
            owned.remove(&gone.chain);
        }
        drop(owned);
        self.announce();
    }

    /// Who carries appends to a host.
    pub fn courier(&self, to: HostId) -> Arc<Courier> {
        Arc::clone(self.couriers.lock().entry(to).or_default())
    }

    /// Tells waiting readers that there may be something to read.
    pub fn announce(&self) {
        self.news.notify_waiters();
    }

    /// Completes at the next announcement, unless `is_there` finds that one has been missed.
    pub async fn news(&self, is_there: impl Fn() -> bool) {
        let notified = self.news.notified();
        tokio::pin!(notified);
        notified.as_mut().enable();
        if !is_there() {
            notified.await;
        }
    }

    /// The stamp of the newest event that this host stored in the stream.
    pub fn newest(&self) -> Stamp {
        let owned = self.owned.read();
        owned
            .values()
            .map(|owned| owned.tail.read().last_stamp)
            .max()
            .unwrap_or_default()
    }
}
