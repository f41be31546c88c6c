//! Generic cells that wait, without code, for a function of their runtime.
//!
//! A runtime has none until a function of it is prepared: a node with none keeps nothing. How many wait follows what is
//! taken: see [`stock`]. Taking a cell makes the pool fill up again in the background.

mod stock;

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bowline_capacity::worker::WorkerId;
use bowline_foundation::clock::Clock;
use bowline_foundation::units::Mebibytes;
use bowline_sandbox::MadeAhead;
use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::sync::Notify;

use crate::cell::{Cell, CellError, CellPlan, Spawner, Start};
use crate::metrics::Metrics;
use stock::{Changes, Facts, Stock};

pub use stock::Reserve;

/// How often it is looked whether more or fewer are wanted, though none was taken.
const TICK: Duration = Duration::from_secs(5);

/// A cell with our end of its control channel.
pub(crate) struct WarmCell {
    pub(crate) cell: Cell,
    pub(crate) control: UnixStream,
}

/// The waiting cells of all runtimes; cheap to clone.
#[derive(Clone)]
pub(crate) struct Pool(Arc<Inner>);

struct Inner {
    spawner: Spawner,
    clock: Clock,
    metrics: Metrics,
    state: Mutex<State>,
    /// Told whenever a cell that was on its way has come, or will not come.
    arrived: Arc<Notify>,
}

struct State {
    stock: Stock<WarmCell>,
    plans: HashMap<String, CellPlan>,
}

impl Pool {
    pub(crate) fn new((spawner, clock): (Spawner, Clock), reserve: Reserve, metrics: Metrics) -> Self {
        let state = State {
            stock: Stock::new(reserve),
            plans: HashMap::new(),
        };
        Self(Arc::new(Inner {
            spawner,
            clock,
            metrics,
            state: Mutex::new(state),
            arrived: Arc::default(),
        }))
    }

    /// Begins to keep cells made by `plan` under `name`, if that is not done already.
    pub(crate) fn keep(&self, name: &str, plan: &CellPlan) {
        let mut state = self.0.state.lock();
        let is_first = state.plans.is_empty();
        state.plans.entry(name.to_owned()).or_insert_with(|| plan.clone());
        state.stock.keep(name);
        drop(state);
        if is_first {
            tokio::spawn(look(Arc::downgrade(&self.0)));
        }
        self.0.adjust();
    }

    /// Changes how many wait, from now on.
    pub(crate) fn set_reserve(&self, reserve: Reserve) {
        self.0.state.lock().stock.set_reserve(reserve);
        self.0.adjust();
    }

    /// Cells of `name` that are ready, and how often none was for any function.
    pub(crate) fn standing(&self, name: &str) -> (usize, u64) {
        let state = self.0.state.lock();
        (state.stock.ready(name), state.stock.misses())
    }

    /// Waits until a cell of `name` is ready, or none is on its way.
    pub(crate) async fn stocked(&self, name: &str) {
        loop {
            let arrived = self.0.arrived.clone().notified_owned();
            if !self.0.state.lock().stock.is_pending(name) {
                return;
            }
            arrived.await;
        }
    }

    /// A cell that is ready now, if there is one. The caller asks for a refill when it suits it.
    pub(crate) fn take(&self, name: &str) -> Option<WarmCell> {
        let now = self.0.clock.now();
        let lives = |warm: &mut WarmCell| warm.cell.try_exit().is_none();
        let mut state = self.0.state.lock();
        let taken = state.stock.take(name, now, lives);
        if state.plans.contains_key(name) {
            self.0.metrics.wanted(name, taken.is_some());
        }
        taken
    }

    /// How often cells waited for who wanted one.
    pub(crate) fn counted(&self) -> Vec<MadeAhead> {
        self.0.metrics.counted()
    }

    /// Makes a cell by `plan` now, for a caller that found none.
    pub(crate) async fn make(&self, plan: CellPlan) -> Result<WarmCell, CellError> {
        make(&self.0.spawner, plan).await
    }

    /// Fills up what was taken, in the background and not before `delay` has passed.
    pub(crate) fn refill(&self, delay: Duration) {
        let inner = self.0.clone();
        if inner.state.lock().plans.is_empty() {
            return;
        }
        tokio::spawn(async move {
            tokio::time::sleep(delay).await;
            inner.adjust();
        });
    }

    /// Destroys the waiting cells and keeps no more.
    pub(crate) async fn close(&self) {
        let cells = self.0.state.lock().stock.close();
        for warm in cells {
            warm.cell.destroy().await;
        }
    }
}

/// Looks now and then, for as long as somebody has the pool.
async fn look(inner: Weak<Inner>) {
    loop {
        tokio::time::sleep(TICK).await;
        let Some(inner) = inner.upgrade() else { return };
        if inner.state.lock().stock.is_closed() {
            return;
        }
        inner.adjust();
    }
}

impl Inner {
    /// Brings the cells to their numbers, in the background.
    fn adjust(self: &Arc<Self>) {
        let mut state = self.state.lock();
        let Changes { start, retire } = state.stock.adjust(self.clock.now());
        let mut plans = Vec::new();
        for (name, worker) in start {
            let plan = state.plans[&name].clone();
            plans.push((name, worker, plan));
        }
        drop(state);
        for (name, worker, plan) in plans {
            tokio::spawn(self.clone().add(name, worker, plan));
        }
        for warm in retire {
            tokio::spawn(warm.cell.destroy());
        }
    }

    async fn add(self: Arc<Self>, name: String, worker: WorkerId, plan: CellPlan) {
        let begin = self.clock.monotonic();
        let made = make_ready(&self.spawner, plan).await;
        let unwanted = {
            let mut state = self.state.lock();
            match made {
                Ok(warm) => {
                    let facts = Facts {
                        memory: memory(&warm.cell),
                        start: self.clock.monotonic().since(begin),
                    };
                    state.stock.came(&name, worker, (warm, facts), self.clock.now())
                }
                Err(error) => {
                    state.stock.failed(worker);
                    if !state.stock.is_closed() {
                        // It is tried again when the next one is taken, or after a while.
                        tracing::warn!(runtime = name, error = &error as &dyn std::error::Error, "no warm cell");
                    }
                    None
                }
            }
        };
        self.arrived.notify_waiters();
        if let Some(warm) = unwanted {
            warm.cell.destroy().await;
        }
    }
}

/// What a cell uses now; nothing where the host does not tell.
fn memory(cell: &Cell) -> Mebibytes {
    let bytes = cell.usage().memory_bytes_now;
    Mebibytes(u32::try_from(bytes.div_ceil(Mebibytes(1).bytes())).unwrap_or(u32::MAX))
}

async fn make(spawner: &Spawner, plan: CellPlan) -> Result<WarmCell, CellError> {
    let mut cell = spawner.create(plan).await?;
    match connect(cell.take_control()) {
        Ok(control) => Ok(WarmCell { cell, control }),
        Err(source) => {
            cell.destroy().await;
            let step = "attach to the control channel".to_owned();
            Err(CellError::Step { step, source })
        }
    }
}

/// Makes a cell and waits until its program has loaded all that it loads without code.
async fn make_ready(spawner: &Spawner, plan: CellPlan) -> Result<WarmCell, CellError> {
    let says_ready = matches!(plan.start, Start::Now(_));
    let mut warm = make(spawner, plan).await?;
    if !says_ready {
        return Ok(warm);
    }
    match warm.control.read_u8().await {
        Ok(_) => Ok(warm),
        Err(source) => {
            warm.cell.destroy().await;
            let step = "wait for the runtime client".to_owned();
            Err(CellError::Step { step, source })
        }
    }
}

fn connect(control: OwnedFd) -> io::Result<UnixStream> {
    UnixStream::from_std(std::os::unix::net::UnixStream::from(control))
}
