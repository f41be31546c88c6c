//! A stream host: [`Options`] → [`Service`], which runs its tasks → [`Handle`], which everybody calls.
//!
//! ```text
//!   Handle ── append ──▶ stream ──▶ queue of a chain ──▶ its owner task ──▶ Store
//!      │                    └─▶ another host (Peers), if no chain is here
//!      └──── read, wait ──▶ view: heads and promises of all chains ──▶ merge up to the safe time
//!   Service: owner tasks, heartbeat, and the rounds of growth, sealing, adoption and retention
//! ```
//! A host is one run of a process: it draws a new [`HostId`] at each start, and adopts the chains of hosts
//! that are gone. Dropping the service ends all its tasks, as the death of the process would.

mod batch;
mod create;
mod directory;
mod lease;
mod linger;
mod maintain;
mod owner;
mod queue;
mod retention;
mod routing;
mod serving;
mod stat;
mod stream;
mod window;

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bowline_foundation::clock::Clock;
use bowline_foundation::entropy::Entropy;
pub use bowline_store::Sharing;
use bowline_store::blob::Blobs;
use bowline_store::{Store, Version};
use parking_lot::{Mutex, RwLock};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

pub use self::create::{CreateError, ListError};
pub(crate) use self::directory::{read as read_directory, read_heads};
pub use self::lease::StartError;
pub(crate) use self::lease::{raise_limit, read_beat};
pub(crate) use self::queue::Refusal;
pub use self::stat::{ChainStat, Stat};
pub(crate) use self::stream::{Listed, Owned, Stream};
use crate::config::Config;
use crate::hybrid::HybridClock;
use crate::peers::Peers;
use crate::reader::Cache;
use crate::{HostId, Stamp};

/// What a host is made of.
pub struct Options {
    pub store: Arc<dyn Store>,
    /// Where cold nodes go; without it none is tiered.
    pub blobs: Option<Blobs>,
    pub clock: Clock,
    pub entropy: Entropy,
    pub peers: Arc<dyn Peers>,
    /// Where other hosts reach this one; empty if they cannot.
    pub address: String,
    /// Where the store is exclusive, all other hosts are gone, and their chains are adopted at once.
    pub sharing: Sharing,
    pub config: Config,
}

/// The tasks of a host, to be run.
pub struct Service {
    inner: Arc<Inner>,
    tasks: mpsc::UnboundedReceiver<Task>,
}

/// A cheap handle to a host.
#[derive(Clone)]
pub struct Handle {
    pub(crate) inner: Arc<Inner>,
}

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

pub(crate) struct Inner {
    pub id: HostId,
    pub store: Arc<dyn Store>,
    pub blobs: Option<Blobs>,
    pub clock: HybridClock,
    pub entropy: Entropy,
    pub peers: Arc<dyn Peers>,
    pub address: String,
    pub sharing: Sharing,
    pub config: Config,
    pub cache: Cache,
    streams: RwLock<BTreeMap<String, Arc<Stream>>>,
    tasks: mpsc::UnboundedSender<Task>,
    /// The version of our member record: the condition of all that only a live host may do.
    pub member: Version,
    is_fenced: AtomicBool,
    /// The version of our beat; held while one is written.
    beating: tokio::sync::Mutex<Version>,
    pub neighbours: Mutex<lease::Neighbours>,
}

impl Options {
    /// Registers the host; where the store is exclusive, takes over what earlier hosts left.
    pub async fn start(self) -> Result<(Service, Handle), StartError> {
        let (tasks, waiting) = mpsc::unbounded_channel();
        let inner = Arc::new(lease::register(self, tasks).await?);
        if inner.sharing == Sharing::Exclusive {
            lease::take_over(&inner).await?;
        }
        let service = Service {
            inner: Arc::clone(&inner),
            tasks: waiting,
        };
        Ok((service, Handle { inner }))
    }
}

impl Service {
    /// Runs the host's tasks until the future is dropped or the host has been fenced.
    pub async fn run(mut self) {
        let _stop = Stop(Arc::clone(&self.inner));
        let mut running = JoinSet::new();
        running.spawn(lease::beat(Arc::clone(&self.inner)));
        running.spawn(maintain::run(Arc::clone(&self.inner)));
        while !self.inner.is_fenced() {
            tokio::select! {
                biased;
                Some(task) = self.tasks.recv() => {
                    running.spawn(task);
                }
                Some(ended) = running.join_next() => {
                    if let Err(error) = ended && error.is_panic() {
                        tracing::error!(%error, "a task of the stream host has panicked");
                    }
                }
            }
        }
    }
}

/// Hands waiting appends back when the service ends, however it ends.
struct Stop(Arc<Inner>);

impl Drop for Stop {
    fn drop(&mut self) {
        for stream in self.0.streams() {
            stream.all_owned().iter().for_each(|owned| owned.queue.close());
        }
    }
}

impl Handle {
    pub fn id(&self) -> HostId {
        self.inner.id
    }

    /// Whether other hosts have taken this one for dead; it then takes no appends and gives no promises.
    pub fn is_fenced(&self) -> bool {
        self.inner.is_fenced()
    }

    /// The host's hybrid time.
    pub fn now(&self) -> Stamp {
        self.inner.clock.now()
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Inner {
    /// Has the service run `task`. If the service is gone, so is the task.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let _ = self.tasks.send(Box::pin(task));
    }

    pub fn is_fenced(&self) -> bool {
        self.is_fenced.load(Ordering::Acquire)
    }

    fn streams(&self) -> Vec<Arc<Stream>> {
        self.streams.read().values().cloned().collect()
    }

    fn known(&self, name: &str) -> Option<Arc<Stream>> {
        self.streams.read().get(name).cloned()
    }
}
