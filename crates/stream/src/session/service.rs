//! The service that serves sessions at one node.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use bowline_foundation::clock::Clock;
use bowline_foundation::entropy::Entropy;
use bowline_store::Store;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::crash::{CrashPoints, Fate};
use super::error::{Fault, RetryLater};
use super::handle::Handle;
use super::id::SessionId;
use super::lane::Lane;
use crate::Log;

/// How often expired sessions and old audit rows are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);

/// What the service is built from.
pub struct Options {
    pub clock: Clock,
    pub entropy: Entropy,
    pub store: Arc<dyn Store>,
    pub log: Arc<dyn Log>,
}

pub(super) struct Inner {
    pub clock: Clock,
    pub entropy: Entropy,
    pub store: Arc<dyn Store>,
    pub log: Arc<dyn Log>,
    /// The sessions that somebody reads at this node right now.
    pub lanes: Mutex<HashMap<SessionId, Arc<Lane>>>,
    /// Readers in all lanes.
    pub readers: Arc<AtomicUsize>,
    pub crash: CrashPoints,
    pub stopped: watch::Sender<bool>,
}

/// The running service. Any number of nodes run one over the same store.
pub struct Service {
    inner: Arc<Inner>,
    sweeper: JoinHandle<()>,
}

impl Service {
    pub fn start(options: Options) -> Self {
        Self::start_with(options, CrashPoints::default())
    }

    /// The same, for tests that stop the node at a named moment.
    pub fn start_with(options: Options, crash: CrashPoints) -> Self {
        let inner = Arc::new(Inner {
            clock: options.clock,
            entropy: options.entropy,
            store: options.store,
            log: options.log,
            lanes: Mutex::default(),
            readers: Arc::default(),
            crash,
            stopped: watch::Sender::new(false),
        });
        let sweeper = tokio::spawn(sweep_for_ever(Arc::clone(&inner)));
        Self { inner, sweeper }
    }

    pub fn handle(&self) -> Handle {
        Handle::new(Arc::clone(&self.inner))
    }

    /// Tells all waiting readers to retry later, elsewhere; sets in flight go on at any other node.
    pub async fn shut_down(self) {
        self.inner.stop();
        self.sweeper.abort();
        let _ = self.sweeper.await;
    }
}

impl Inner {
    pub fn stop(&self) {
        self.stopped.send_replace(true);
    }

    /// Whether the node still serves.
    pub fn alive(&self) -> Result<(), Fault> {
        if *self.stopped.borrow() {
            return Err(Fault::RetryLater(stopped()));
        }
        Ok(())
    }

    /// Passes a named moment; the node may end here.
    pub fn reach(&self, moment: &'static str) -> Result<(), Fault> {
        if self.crash.reach(moment) == Fate::Die {
            self.stop();
        }
        self.alive()
    }
}

pub(super) fn stopped() -> RetryLater {
    RetryLater {
        reason: "the node has stopped".to_owned(),
    }
}

async fn sweep_for_ever(inner: Arc<Inner>) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        if let Err(fault) = inner.sweep().await {
            tracing::warn!(?fault, "expired sessions stay until the next sweep");
        }
    }
}
