//! One leg of an invocation: a guest that runs until it ends or stops.

use std::path::PathBuf;
use std::sync::Arc;

use bowline_checkpoint::engine::{Guest, Outcome as Came};
use bowline_checkpoint::wasi::{Exit, Folder, HasWasi, HostState, Interrupt, Sink, Wasi, WasiOptions};
use bowline_checkpoint::{Checkpoint, Page};
use bowline_foundation::id::RequestId;
use bowline_foundation::limits::SYNC_PAYLOAD_BYTES_MAX;
use bowline_sandbox::{Control, Frozen, FunctionError, LogSink, Outcome, Wish};
use bytes::Bytes;
use tokio::runtime::Handle;
use wasmtime::{ResourceLimiter, Result, Store};

use super::library::Program;
use crate::accept::COMMAND_EXPORT;
use crate::backend::Shared;
use crate::failure::Scene;
use crate::guest::{self, Surroundings};

/// Where a function finds its package.
const TASK: &str = "/var/task";
/// Table slots of a guest: its own, and those that frames and references take while it is restored.
const TABLE_ELEMENTS_MAX: usize = 1 << 20;

/// What a leg begins with.
pub(crate) enum Start {
    Fresh { environment: Vec<String>, event: Bytes },
    From(Box<Checkpoint>),
}

/// How a leg ended.
pub(crate) enum End {
    Finished(Outcome),
    /// It goes on from here.
    Stopped(Box<Checkpoint>),
    /// It was asked to leave, and goes on from here wherever it comes to.
    Left(Frozen),
}

/// A guest that is about to run.
pub(crate) struct Leg {
    pub shared: Arc<Shared>,
    pub program: Arc<Program>,
    pub surroundings: Arc<Surroundings>,
    /// The folder of the package.
    pub task: PathBuf,
    pub control: Arc<Control>,
    pub request_id: RequestId,
}

/// The host's side of a guest.
pub(crate) struct Body {
    wasi: Wasi,
    limits: Limits,
}

impl HasWasi for Body {
    fn wasi(&mut self) -> &mut Wasi {
        &mut self.wasi
    }
}

struct LogOf(Arc<dyn LogSink>);

impl Sink for LogOf {
    fn write(&self, bytes: &[u8]) {
        self.0.write(bytes);
    }
}

impl Leg {
    /// Runs on the caller's thread, which it blocks.
    pub(crate) fn run(self, start: Start) -> End {
        let request_id = self.request_id;
        let memory = self.surroundings.memory;
        self.try_run(start).unwrap_or_else(|(error, memory_refused)| {
            let scene = Scene {
                request_id,
                memory,
                memory_refused,
            };
            End::Finished(scene.outcome(error))
        })
    }

    fn try_run(self, start: Start) -> std::result::Result<End, (wasmtime::Error, bool)> {
        let plain = |error: wasmtime::Error| (error, false);
        let interrupt = Interrupt::default();
        let (wasi, from) = self.world(start, &interrupt).map_err(plain)?;
        let body = Body {
            wasi,
            limits: Limits::new(self.surroundings.clone(), self.program.prepared.plan().memories()),
        };
        let mut store = Store::new(&self.program.engine, body);
        store.limiter(|body| &mut body.limits);
        let ran = self.go(&mut store, from, &interrupt);
        let refused = store.data().limits.counted.refused();
        ran.map_err(|error| (error, refused))
    }

    fn go(&self, store: &mut Store<Body>, from: Option<Box<Checkpoint>>, interrupt: &Interrupt) -> Result<End> {
        let (prepared, linker) = (&self.program.prepared, &self.program.linker);
        if self.is_unwanted() {
            return Ok(End::Finished(unwanted()));
        }
        let mut guest = match &from {
            None => prepared.instantiate(store, linker)?,
            Some(checkpoint) => prepared.restore(store, linker, checkpoint)?,
        };
        if let Some(memory) = guest.instance().get_memory(&mut *store, "memory") {
            store.data_mut().wasi.attach(memory);
        }
        let (stopper, waiting) = (guest.stopper(), interrupt.clone());
        self.control.attach(Box::new(move || {
            waiting.raise();
            if let Err(error) = stopper.request() {
                tracing::error!(error = %format!("{error:#}"), "a guest cannot be asked to stop");
            }
        }));
        let came = match from {
            None => guest.start(&mut *store),
            Some(mut checkpoint) => {
                if !store.data_mut().wasi.settle() {
                    // It was asked to stop before it went on.
                    if self.is_unwanted() {
                        return Ok(End::Finished(unwanted()));
                    }
                    checkpoint.host = store.data_mut().wasi.save()?.encode();
                    return Ok(End::Stopped(checkpoint));
                }
                // The guest has a copy of its own, and does not wait until this one is given back.
                Handle::current().spawn_blocking(move || drop(checkpoint));
                guest.resume(&mut *store)
            }
        };
        let came = self.after_start(&guest, store, came);
        match came {
            Ok(Came::Stopped) if self.is_unwanted() => Ok(End::Finished(unwanted())),
            Ok(Came::Stopped) if self.control.wish() == Some(Wish::Leave) => {
                let asked = self.surroundings.clock.monotonic();
                let host = store.data_mut().wasi.save()?.encode();
                let written = self
                    .shared
                    .checkpointed
                    .capture(prepared, (&guest, &mut *store), &host)?;
                Ok(End::Left(Frozen {
                    resident_bytes: (written.pages * Page::BYTES) as u64,
                    took: self.surroundings.clock.monotonic().since(asked),
                    bytes: written.bytes,
                    machine: None,
                }))
            }
            Ok(Came::Stopped) => {
                let host = store.data_mut().wasi.save()?.encode();
                let checkpoint = prepared.capture(&guest, &mut *store, host)?;
                Ok(End::Stopped(Box::new(checkpoint)))
            }
            Ok(Came::Finished(_)) => Ok(End::Finished(self.finish(&mut store.data_mut().wasi, interrupt))),
            Err(error) => match error.downcast_ref::<Exit>() {
                Some(Exit(0)) => Ok(End::Finished(self.finish(&mut store.data_mut().wasi, interrupt))),
                Some(exit) => Ok(End::Finished(Outcome::Failed(FunctionError::exited(
                    self.request_id,
                    &exit.to_string(),
                )))),
                None => Err(error),
            },
        }
    }

    /// Calls the command once the module's own start function has come to its end.
    fn after_start(&self, guest: &Guest, store: &mut Store<Body>, came: Result<Came>) -> Result<Came> {
        let is_done = store.data().wasi.calling() == COMMAND_EXPORT;
        match came? {
            Came::Finished(_) if !is_done => {
                store.data_mut().wasi.calls(COMMAND_EXPORT);
                guest.call(store, COMMAND_EXPORT, &[])
            }
            came => Ok(came),
        }
    }

    /// The answer, once the guest has waited for all it had to. Only its end cuts that short: it has no place left where
    /// it could stop.
    fn finish(&self, wasi: &mut Wasi, interrupt: &Interrupt) -> Outcome {
        loop {
            interrupt.lower();
            if self.is_unwanted() || wasi.settle() {
                break;
            }
        }
        match wasi.output() {
            Ok(answer) => Outcome::Success(Bytes::copy_from_slice(answer)),
            Err(bytes) => Outcome::Failed(FunctionError::response_too_large(bytes, SYNC_PAYLOAD_BYTES_MAX)),
        }
    }

    /// Whether nobody wants anything of the guest but its end.
    fn is_unwanted(&self) -> bool {
        self.control.wish() == Some(Wish::End)
    }

    fn world(&self, start: Start, interrupt: &Interrupt) -> Result<(Wasi, Option<Box<Checkpoint>>)> {
        let around = &self.surroundings;
        let mut options = WasiOptions {
            arguments: Vec::new(),
            environment: Vec::new(),
            stdin: Vec::new(),
            output_bytes_max: SYNC_PAYLOAD_BYTES_MAX,
            stderr: Arc::new(LogOf(around.log.clone())),
            folders: vec![Folder::open(TASK, &self.task)?],
            clock: around.clock.clone(),
            entropy: around.entropy.clone(),
            interrupt: interrupt.clone(),
        };
        match start {
            Start::Fresh { environment, event } => {
                options.environment = environment;
                options.stdin = event.to_vec();
                Ok((Wasi::new(options), None))
            }
            Start::From(checkpoint) => {
                let state = HostState::decode(&checkpoint.host)?;
                Ok((Wasi::restore(options, state), Some(checkpoint)))
            }
        }
    }
}

pub(crate) fn unwanted() -> Outcome {
    Outcome::Broken("the invocation was ended".to_owned())
}

/// Of a checkpoint's memory, what is not zero.
pub(crate) fn resident_bytes(checkpoint: &Checkpoint) -> u64 {
    let pages = checkpoint.memories.iter().map(|memory| memory.pages.len());
    (pages.sum::<usize>() * Page::BYTES) as u64
}

/// Memories that the pass adds behind the guest's own: the word's and the save memory.
const ADDED_MEMORIES: u32 = 2;

/// Holds a guest to its memory limit. The memories of the pass, which the guest cannot reach, do not count.
struct Limits {
    counted: guest::Limits,
    /// How many of the guest's own memories are still to be made, and how many behind them.
    own_left: u32,
    added_left: u32,
}

impl Limits {
    fn new(surroundings: Arc<Surroundings>, own: u32) -> Self {
        Self {
            counted: guest::Limits::new(surroundings),
            own_left: own,
            added_left: ADDED_MEMORIES,
        }
    }
}

impl ResourceLimiter for Limits {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> Result<bool> {
        // An instance's memories are made in their order, all before any code runs.
        if self.own_left > 0 {
            self.own_left -= 1;
        } else if self.added_left > 0 {
            self.added_left -= 1;
            return Ok(true);
        }
        self.counted.memory_growing(current, desired, maximum)
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> Result<()> {
        self.counted.memory_grow_failed(error)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> Result<bool> {
        Ok(desired <= TABLE_ELEMENTS_MAX)
    }
}
