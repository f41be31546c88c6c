//! Generic cells that wait, without code, for a function of their runtime.
//!
//! A runtime's pool is empty until a function of that runtime is prepared: a node with none keeps
//! nothing. Taking a cell makes the pool fill up again in the background.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::sync::Notify;

use crate::cell::{Cell, CellError, CellPlan, Spawner, Start};

/// A cell with our end of its control channel.
pub(crate) struct WarmCell {
    pub(crate) cell: Cell,
    pub(crate) control: UnixStream,
}

/// The waiting cells of all runtimes; cheap to clone.
#[derive(Clone)]
pub(crate) struct Pool {
    spawner: Spawner,
    /// Cells that are kept for each runtime.
    size: usize,
    shelves: Arc<Mutex<Shelves>>,
}

#[derive(Default)]
struct Shelves {
    of: HashMap<String, Shelf>,
    closed: bool,
    /// Told whenever a cell that was on its way has come, or will not come.
    arrived: Arc<Notify>,
}

struct Shelf {
    plan: CellPlan,
    ready: Vec<WarmCell>,
    /// Cells on their way.
    coming: usize,
}

impl Pool {
    pub(crate) fn new(spawner: Spawner, size: usize) -> Self {
        Self {
            spawner,
            size,
            shelves: Arc::default(),
        }
    }

    /// Begins to keep cells made by `plan` under `name`, if that is not done already.
    pub(crate) fn keep(&self, name: &str, plan: &CellPlan) {
        let mut shelves = self.shelves.lock();
        if !shelves.of.contains_key(name) {
            let shelf = Shelf {
                plan: plan.clone(),
                ready: Vec::new(),
                coming: 0,
            };
            shelves.of.insert(name.to_owned(), shelf);
        }
        drop(shelves);
        self.refill(name, Duration::ZERO);
    }

    /// Waits until a cell of `name` is ready, or none is on its way.
    pub(crate) async fn stocked(&self, name: &str) {
        loop {
            let arrived = {
                let shelves = self.shelves.lock();
                let pending = |shelf: &Shelf| shelf.ready.is_empty() && shelf.coming > 0;
                if !shelves.of.get(name).is_some_and(pending) {
                    return;
                }
                shelves.arrived.clone().notified_owned()
            };
            arrived.await;
        }
    }

    /// A cell that is ready now, if there is one. The caller asks for a refill when it suits it.
    pub(crate) fn take(&self, name: &str) -> Option<WarmCell> {
        let mut shelves = self.shelves.lock();
        let shelf = shelves.of.get_mut(name)?;
        while let Some(mut warm) = shelf.ready.pop() {
            if warm.cell.try_exit().is_none() {
                return Some(warm);
            }
        }
        None
    }

    /// Makes a cell by `plan` now, for a caller that found none.
    pub(crate) async fn make(&self, plan: CellPlan) -> Result<WarmCell, CellError> {
        make(&self.spawner, plan).await
    }

    /// Fills up what was taken, in the background and not before `delay` has passed.
    pub(crate) fn refill(&self, name: &str, delay: Duration) {
        let mut shelves = self.shelves.lock();
        if shelves.closed {
            return;
        }
        let Some(shelf) = shelves.of.get_mut(name) else {
            return;
        };
        while shelf.ready.len() + shelf.coming < self.size {
            shelf.coming += 1;
            let (pool, name, plan) = (self.clone(), name.to_owned(), shelf.plan.clone());
            tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                pool.add(&name, plan).await;
            });
        }
    }

    async fn add(&self, name: &str, plan: CellPlan) {
        let made = make_ready(&self.spawner, plan).await;
        let surplus = {
            let mut shelves = self.shelves.lock();
            let closed = shelves.closed;
            let shelf = shelves.of.get_mut(name).expect("a shelf is never taken away");
            shelf.coming -= 1;
            let surplus = match made {
                Ok(warm) if closed => Some(warm),
                Ok(warm) => {
                    shelf.ready.push(warm);
                    None
                }
                Err(_) if closed => None,
                Err(error) => {
                    // The next function that takes a cell makes its own and asks again.
                    tracing::warn!(runtime = name, error = &error as &dyn std::error::Error, "no warm cell");
                    None
                }
            };
            shelves.arrived.notify_waiters();
            surplus
        };
        if let Some(warm) = surplus {
            warm.cell.destroy().await;
        }
    }

    /// Destroys the waiting cells and keeps no more.
    pub(crate) async fn close(&self) {
        let cells: Vec<WarmCell> = {
            let mut shelves = self.shelves.lock();
            shelves.closed = true;
            shelves
                .of
                .values_mut()
                .flat_map(|shelf| shelf.ready.drain(..))
                .collect()
        };
        for warm in cells {
            warm.cell.destroy().await;
        }
    }
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
