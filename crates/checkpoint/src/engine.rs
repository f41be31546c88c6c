//! Runs instrumented modules in wasmtime: stops them, captures what they are, and goes on from a checkpoint.
//!
//! ```text
//!  Prepared ── instantiate ──▶ Guest ── start, call ──▶ Finished
//!     │                          │  ▲
//!     │                          │  └── Stopper::request, from any thread
//!     │                          └──────────────────▶ Stopped ── capture ──▶ Checkpoint
//!     │                             ▲  go_on ──────────┘
//!     └────── restore(Checkpoint) ──▶ Guest ── resume ──▶ Finished or Stopped
//! ```
//!
//! A host function that calls back into its guest must not be interrupted: frames of the host are in no
//! checkpoint. Such a caller asks for no stop until the outer call has returned.

mod capture;
mod guest;
mod in_place;
mod references;
mod restore;
mod stopper;
mod tracker;

use std::collections::HashMap;

use parking_lot::Mutex;
use wasmtime::{Config, Engine, Linker, Module, Store};

use crate::{Mismatch, Options, Plan, Refusal, Site};

pub use capture::Written;
pub use guest::{Guest, Outcome};
pub use references::Handle;
pub use stopper::Stopper;
pub use tracker::Tracker;

/// A module that is compiled and can be stopped, with the continuations that were needed so far.
pub struct Prepared {
    plan: Plan,
    engine: Engine,
    module: Module,
    setter: Module,
    /// Compiled continuations: runs of one function stop at the same few places again and again.
    continuations: Mutex<HashMap<Site, Module>>,
}

/// Why a module was not prepared.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// It cannot be checkpointed.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The engine does not take the instrumented module.
    #[error("the engine cannot compile the instrumented module: {0:#}")]
    Engine(wasmtime::Error),
}

/// Why a stopped guest was not captured.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// There is nothing to capture: it runs, or has finished.
    #[error("the guest has not stopped")]
    NotStopped,
    /// A reference leads to a function that is not the module's.
    #[error("the guest holds a reference to a function of the host, which cannot be saved")]
    ForeignFunction,
    /// An external reference is no [`Handle`].
    #[error("the guest holds an object of the host without a handle, which cannot be saved")]
    ForeignObject,
    /// A table of references could not grow while the guest stopped.
    #[error("the guest stopped with more references than the engine lets a table hold")]
    ReferencesLost,
    /// What the guest wrote is not what the plan says; the guest is not this plan's.
    #[error("the save memory does not hold frames of this module")]
    Frames,
}

/// Why a checkpoint was not restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// It does not fit the module.
    #[error(transparent)]
    Mismatch(#[from] Mismatch),
    /// The engine refused: a limit, or the memory is not there.
    #[error("the engine cannot restore the checkpoint: {0:#}")]
    Engine(wasmtime::Error),
}

impl From<wasmtime::Error> for RestoreError {
    fn from(error: wasmtime::Error) -> Self {
        Self::Engine(error)
    }
}

/// Sets what instrumented modules need of an engine, and what makes results equal on every processor.
pub fn configure(config: &mut Config) -> &mut Config {
    config
        .wasm_threads(true)
        .shared_memory(true)
        .wasm_multi_memory(true)
        .wasm_branch_hinting(true)
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true)
}

impl Prepared {
    /// Instruments and compiles a module. The engine's configuration must have passed [`configure`].
    pub fn new(engine: &Engine, module: &[u8], options: Options) -> Result<Self, PrepareError> {
        let (plan, instrumented) = Plan::instrument(module, options)?;
        let module = Module::from_binary(engine, &instrumented).map_err(PrepareError::Engine)?;
        Self::compiled(engine, plan, module).map_err(PrepareError::Engine)
    }

    /// The same of a module that was instrumented by `plan` and compiled before.
    pub fn compiled(engine: &Engine, plan: Plan, module: Module) -> wasmtime::Result<Self> {
        Ok(Self {
            module,
            setter: stopper::compile(engine)?,
            plan,
            engine: engine.clone(),
            continuations: Mutex::new(HashMap::new()),
        })
    }

    /// The compiled module.
    pub fn module(&self) -> &Module {
        &self.module
    }

    /// The plan of the module.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// A new instance. Its start function has not run: [`Guest::start`] comes first.
    pub fn instantiate<T: 'static>(&self, store: &mut Store<T>, linker: &Linker<T>) -> wasmtime::Result<Guest> {
        Guest::new(self, store, linker)
    }

    /// How many continuations are compiled.
    pub fn continuations(&self) -> usize {
        self.continuations.lock().len()
    }

    /// The compiled continuation of a place that the plan has.
    fn continuation(&self, site: Site) -> wasmtime::Result<Module> {
        if let Some(module) = self.continuations.lock().get(&site) {
            return Ok(module.clone());
        }
        let bytes = self.plan.continuation(site).expect("the checkpoint was checked");
        let module = Module::from_binary(&self.engine, &bytes)?;
        self.continuations.lock().insert(site, module.clone());
        Ok(module)
    }
}
