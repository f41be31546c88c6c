//! The runs of this node, and what they stand on.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use bowline_foundation::clock::Clock;
use bowline_foundation::id::RequestId;
use bowline_sandbox::Wish;
use bowline_store::blob::Blobs;
use bowline_store::{Sharing, Store};
use parking_lot::Mutex;

use super::ahead::Ahead;
use super::ledger::Ledger;
use super::live::{Live, Turn};
use super::pressure::Rules;
use super::record::{Decision, Phase};
use super::relieve::Meter;

/// Why a run is suspended when its node stops.
pub(super) const SHUTDOWN: &str = "shutdown";

/// How checkpoints are kept.
pub struct Options {
    /// Where their bytes go: apart from packages, of which the functions remove what they do not name.
    pub blobs: Blobs,
    /// How long a node may be silent before another one goes on with its runs.
    pub lease: Duration,
    /// How runs leave by themselves; none does without.
    pub rules: Option<Rules>,
    /// What measures how much of the processors is wanted; without it nobody is short of them.
    pub meter: Option<Arc<dyn Meter>>,
}

impl Options {
    /// With blobs, a lease of ten seconds, and runs that stay where they are.
    pub fn new(blobs: Blobs) -> Self {
        Self {
            blobs,
            lease: Duration::from_secs(10),
            rules: None,
            meter: None,
        }
    }
}

/// All runs that this node has in hand.
pub(crate) struct Suspends {
    pub(super) ledger: Ledger,
    pub(super) sharing: Sharing,
    /// This process, among all that ever had the store.
    pub(super) node: String,
    pub(super) lease: Duration,
    pub(super) rules: Option<Rules>,
    pub(super) meter: Option<Arc<dyn Meter>>,
    /// What the node's threads want of its processors, as it was measured last.
    pub(super) wanted_percent: AtomicU32,
    /// What other nodes have announced.
    pub(super) ahead: Ahead,
    live: Mutex<HashMap<RequestId, Arc<Live>>>,
    stopping: AtomicBool,
    /// Runs are on their way to other nodes, and none comes.
    leaving: AtomicBool,
}

impl Suspends {
    pub fn new(options: Options, store: Arc<dyn Store>, sharing: Sharing, (clock, node): (Clock, String)) -> Self {
        Self {
            ledger: Ledger::new(store, options.blobs, clock),
            sharing,
            node,
            lease: options.lease,
            rules: options.rules,
            meter: options.meter,
            wanted_percent: AtomicU32::new(0),
            ahead: Ahead::default(),
            live: Mutex::default(),
            stopping: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
        }
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    pub(super) fn leave(&self) {
        self.leaving.store(true, Ordering::SeqCst);
    }

    pub(super) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::SeqCst)
    }

    /// How many runs run here.
    pub(super) fn running_here(&self) -> usize {
        let all = self.live.lock();
        all.values().filter(|live| live.phase() == Phase::Running).count()
    }

    pub(super) fn get(&self, run: &RequestId) -> Option<Arc<Live>> {
        self.live.lock().get(run).cloned()
    }

    /// All runs here, oldest first.
    pub(super) fn all(&self) -> Vec<Arc<Live>> {
        let mut all: Vec<_> = self.live.lock().values().cloned().collect();
        all.sort_by_key(|live| (live.started, live.run.to_string()));
        all
    }

    /// Takes a run in hand; the one that is there already if there is.
    pub(super) fn register(&self, live: Arc<Live>) -> Result<Registered<'_>, Arc<Live>> {
        let mut all = self.live.lock();
        if let Some(other) = all.get(&live.run) {
            return Err(other.clone());
        }
        all.insert(live.run, live.clone());
        if self.stopping.load(Ordering::SeqCst) {
            stop(&live);
        }
        Ok(Registered { all: self, live })
    }

    /// Lets all runs stop where they are; they go on when the node is back.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.all().iter().for_each(|live| stop(live));
    }
}

fn stop(live: &Live) {
    let why = Decision {
        at_ms: live.started.as_millis(),
        what: "suspend".to_owned(),
        why: SHUTDOWN.to_owned(),
        values: Default::default(),
    };
    live.stopping.store(true, Ordering::SeqCst);
    live.give_turn(Turn::Stop);
    live.ask(Wish::Leave, why);
}

/// A run in hand; it is let go when this is dropped.
pub(super) struct Registered<'a> {
    all: &'a Suspends,
    pub live: Arc<Live>,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.all.live.lock().remove(&self.live.run);
    }
}
