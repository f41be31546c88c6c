//! A stream host: [`Options`] → [`Service`], which runs its tasks → [`Handle`], which everybody calls.
//!
//! ```text
//!   Handle ── append ──▶ stream ──▶ queue of a chain ──▶ its owner task ──▶ Store
//!      │                    └─▶ another host (Peers), if no chain is here
//!      └──── read, wait ──▶ view: heads and promises of all chains ──▶ merge up to the safe time
//!   Service: owner tasks, heartbeat, and the rounds of growth, sealing, adoption and retention
//! ```
//! A host is one life of a process in the cluster: it draws a new [`HostId`] at each start, and adopts the
//! chains of hosts that are gone. A host that others have taken for dead ends with all its tasks, and the
//! service begins another life at once: a new [`Inner`] under a new identifier, which the handles then lead
//! to. Dropping the service ends all its tasks, as the death of the process would.

mod batch;
mod courier;
mod create;
mod directory;
mod gather;
mod guarded;
mod lease;
mod linger;
mod maintain;
mod owner;
mod queue;
mod removal;
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
use std::time::Duration;

use bowline_foundation::clock::Clock;
use bowline_foundation::entropy::Entropy;
pub use bowline_store::Sharing;
use bowline_store::blob::Blobs;
use bowline_store::{CommitError, Condition, Store, Version};
use parking_lot::{Mutex, RwLock};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

pub use self::create::{CreateError, ListError};
pub(crate) use self::directory::{current as current_directory, read_heads};
pub use self::guarded::GuardedStore;
pub use self::lease::{StartError, wait_for_silence};
pub(crate) use self::lease::{raise_limit, read_beat};
pub(crate) use self::queue::Refusal;
pub use self::removal::{AlterError, SettingsChange};
pub use self::stat::{ChainStat, Stat};
pub(crate) use self::stream::{Listed, Owned, Stream};
use crate::config::Config;
use crate::hybrid::HybridClock;
use crate::peers::{PeerHost, Peers};
use crate::reader::Cache;
use crate::{HostId, Position, Stamp, key};

/// Pause before a host that could not join anew tries again.
const REJOIN_PAUSE: Duration = Duration::from_secs(1);

/// What a host is made of.
#[derive(Clone)]
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
    options: Options,
    handle: Handle,
    tasks: Tasks,
}

/// A cheap handle to a host, in whichever life it is.
#[derive(Clone)]
pub struct Handle(Arc<RwLock<Arc<Inner>>>);

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;
type Tasks = mpsc::UnboundedReceiver<Task>;

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
        let (inner, tasks) = self.clone().live().await?;
        let handle = Handle(Arc::new(RwLock::new(inner)));
        let service = Service {
            options: self,
            handle: handle.clone(),
            tasks,
        };
        Ok((service, handle))
    }

    /// Begins a life.
    async fn live(self) -> Result<(Arc<Inner>, Tasks), StartError> {
        let (tasks, waiting) = mpsc::unbounded_channel();
        let inner = Arc::new(lease::register(self, tasks).await?);
        if inner.sharing == Sharing::Exclusive {
            lease::take_over(&inner).await?;
        }
        Ok((inner, waiting))
    }
}

impl Service {
    /// Runs the host's tasks until the future is dropped. A host that was fenced joins anew.
    pub async fn run(mut self) {
        loop {
            self.run_until_fenced().await;
            self.join_anew().await;
        }
    }

    async fn run_until_fenced(&mut self) {
        let inner = self.handle.inner();
        let _stop = Stop(Arc::clone(&inner));
        let mut running = JoinSet::new();
        running.spawn(lease::beat(Arc::clone(&inner)));
        running.spawn(lease::watch_others(Arc::clone(&inner)));
        running.spawn(maintain::run(Arc::clone(&inner)));
        while !inner.is_fenced() {
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

impl Service {
    /// Begins the next life, as soon as the store allows it. Whatever the last one stamped lies before
    /// whatever this one stamps, as if it were one host.
    async fn join_anew(&mut self) {
        let last = self.handle.inner();
        let (next, tasks) = loop {
            match self.options.clone().live().await {
                Ok(begun) => break begun,
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "cannot join the cluster anew yet"
                    );
                }
            }
            tokio::time::sleep(REJOIN_PAUSE).await;
        };
        tracing::info!(host = next.id.0, was = last.id.0, "joined the cluster anew");
        {
            // Whatever the last life hears of from here on, its callers tell the next one: see `hear`.
            let mut lives = self.handle.0.write();
            next.clock.follow(last.clock.now());
            *lives = next;
        }
        self.tasks = tasks;
        // Who waits for news of the last life shall look at this one.
        last.streams().iter().for_each(|stream| stream.announce());
    }
}

/// Hands waiting appends back when a life ends, however it ends.
struct Stop(Arc<Inner>);

impl Drop for Stop {
    fn drop(&mut self) {
        for stream in self.0.streams() {
            stream.all_owned().iter().for_each(|owned| owned.queue.close());
        }
    }
}

impl Handle {
    pub(crate) fn inner(&self) -> Arc<Inner> {
        Arc::clone(&self.0.read())
    }

    /// Has the host that lives now stamp after what the one that was asked, and may be no more, has heard of.
    pub(crate) fn hear(&self, asked: &Arc<Inner>, positions: &[Position]) {
        let lives = self.0.read();
        if !Arc::ptr_eq(&lives, asked)
            && let Some(last) = positions.iter().max()
        {
            lives.clock.follow(last.stamp);
        }
    }

    /// Under which identifier the host lives now.
    pub fn id(&self) -> HostId {
        self.inner().id
    }

    /// Whether other hosts have taken this one for dead and it has not joined anew yet; it takes no appends
    /// and gives no promises then.
    pub fn is_fenced(&self) -> bool {
        self.inner().is_fenced()
    }

    /// Where other hosts reach this one; empty if they cannot.
    pub fn address(&self) -> String {
        self.inner().address.clone()
    }

    /// The other hosts that live, as far as this one has seen.
    pub fn neighbours(&self) -> Vec<PeerHost> {
        let inner = self.inner();
        let mut known = inner.peers_known();
        known.retain(|host| host.id != inner.id);
        known
    }

    /// The host's hybrid time.
    pub fn now(&self) -> Stamp {
        self.inner().clock.now()
    }

    /// Leaves the cluster, so that nobody has to wait for this host's silence: the others adopt its chains
    /// at their next look. The service must have ended, or it joins anew.
    pub async fn leave(&self) -> Result<(), CommitError> {
        lease::leave(&self.inner()).await
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

    /// The condition under which a commit applies only while this host lives.
    pub fn guard(&self) -> Condition {
        Condition::AtVersion(key::member(self.id), self.member)
    }

    fn streams(&self) -> Vec<Arc<Stream>> {
        self.streams.read().values().cloned().collect()
    }

    /// Takes note that a stream is no more, or is another one by now.
    pub(crate) fn forget(&self, stream: &Arc<Stream>) {
        let mut streams = self.streams.write();
        if streams
            .get(stream.id.name())
            .is_some_and(|known| Arc::ptr_eq(known, stream))
        {
            streams.remove(stream.id.name());
        }
        drop(streams);
        stream.all_owned().iter().for_each(|owned| owned.queue.close());
        stream.announce();
    }

    fn known(&self, name: &str) -> Option<Arc<Stream>> {
        self.streams.read().get(name).cloned()
    }
}
