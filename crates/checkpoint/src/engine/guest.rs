//! An instance of an instrumented module: calls that may stop.

use std::collections::HashMap;

use wasmtime::{AsContext, AsContextMut, Extern, Func, Global, Instance, Linker, Memory, Store, Table, Val};

use super::in_place::Linked;
use super::{Prepared, Stopper};
use crate::frame::{BASE, COUNT, TOP};
use crate::{Site, names};

/// How a call came back.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// With its results.
    Finished(Vec<Val>),
    /// It was asked to stop and did: its frames lie in the save memory.
    Stopped,
}

/// A running or stopped instance. It lives in the store in which it was made.
pub struct Guest {
    pub(super) instance: Instance,
    pub(super) frames: Memory,
    pub(super) functions: Table,
    /// Set by the guest while it writes frames.
    unwinding: Global,
    /// Where external references are saved, if the module has places that need it.
    pub(super) externs: Option<Table>,
    /// What the outermost frame continues with, after a restore.
    pub(super) outermost: Option<Func>,
    /// The continuations that were needed so far.
    pub(super) linked: HashMap<Site, Linked>,
    stopper: Stopper,
}

impl Guest {
    pub(super) fn new<T: 'static>(
        prepared: &Prepared,
        store: &mut Store<T>,
        linker: &Linker<T>,
    ) -> wasmtime::Result<Self> {
        let instance = linker.instantiate(&mut *store, &prepared.module)?;
        let word = instance.get_shared_memory(&mut *store, names::WORD);
        let word = word.expect("every instrumented module exports its word");
        let stopper = Stopper::new(&prepared.engine, &prepared.setter, &word)?;
        let functions = instance.get_table(&mut *store, names::FUNCTIONS);
        let frames = memory(&instance, &mut *store, names::FRAMES);
        let functions = functions.expect("every instrumented module exports its table of functions");
        let unwinding = instance.get_global(&mut *store, names::UNWINDING);
        let unwinding = unwinding.expect("every instrumented module exports what its callers look at");
        let guest = Self {
            externs: instance.get_table(&mut *store, names::EXTERNS),
            instance,
            frames,
            functions,
            unwinding,
            outermost: None,
            linked: HashMap::new(),
            stopper,
        };
        guest.set_word(store, TOP, BASE);
        Ok(guest)
    }

    /// What stops this guest.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// The instance, for its exports.
    pub fn instance(&self) -> Instance {
        self.instance
    }

    /// Runs the module's start function, if it has one.
    pub fn start(&self, mut store: impl AsContextMut) -> wasmtime::Result<Outcome> {
        self.check_idle(&store)?;
        match self.instance.get_func(&mut store, names::START) {
            Some(start) => self.run(store, start, &[]),
            None => Ok(Outcome::Finished(Vec::new())),
        }
    }

    /// Calls an export. A guest that has stopped, or was restored and has not gone on, is not called: its frames
    /// would be overwritten.
    pub fn call(&self, mut store: impl AsContextMut, export: &str, arguments: &[Val]) -> wasmtime::Result<Outcome> {
        self.check_idle(&store)?;
        let function = self.instance.get_func(&mut store, export);
        let function = function.ok_or_else(|| wasmtime::format_err!("the module exports no function `{export}`"))?;
        self.run(store, function, arguments)
    }

    /// Goes on with the call that was stopped, in a guest that was restored.
    pub fn resume(&mut self, mut store: impl AsContextMut) -> wasmtime::Result<Outcome> {
        let outermost = self.outermost.take();
        let outermost = outermost.ok_or_else(|| wasmtime::format_err!("there is no stopped call to go on with"))?;
        self.set_word(&mut store, TOP, BASE);
        self.unwinding.set(&mut store, Val::I32(0))?;
        self.run(store, outermost, &[])
    }

    fn check_idle(&self, store: impl AsContext) -> wasmtime::Result<()> {
        if self.outermost.is_some() || self.is_stopped(store) {
            wasmtime::bail!("the guest has a stopped call: it can be captured or gone on with, not called again");
        }
        Ok(())
    }

    /// Whether the last call stopped.
    pub fn is_stopped(&self, store: impl AsContext) -> bool {
        self.word(store, TOP) != BASE
    }

    /// Lets the guest stop at its `polls`th poll from now; only for [`crate::Poll::Countdown`].
    pub fn stop_after(&self, store: impl AsContextMut, polls: u32) {
        self.set_word(store, COUNT, polls);
    }

    fn run(&self, mut store: impl AsContextMut, function: Func, arguments: &[Val]) -> wasmtime::Result<Outcome> {
        let count = function.ty(&store).results().len();
        let mut results = vec![Val::I32(0); count];
        function.call(&mut store, arguments, &mut results)?;
        if self.is_stopped(&store) {
            return Ok(Outcome::Stopped);
        }
        Ok(Outcome::Finished(results))
    }

    pub(super) fn word(&self, store: impl AsContext, offset: u32) -> u32 {
        let mut bytes = [0; 4];
        let read = self.frames.read(store, offset as usize, &mut bytes);
        read.expect("the save memory has at least a page");
        u32::from_le_bytes(bytes)
    }

    pub(super) fn set_word(&self, store: impl AsContextMut, offset: u32, word: u32) {
        let written = self.frames.write(store, offset as usize, &word.to_le_bytes());
        written.expect("the save memory has at least a page");
    }
}

pub(super) fn memory(instance: &Instance, store: impl AsContextMut, name: &str) -> Memory {
    instance
        .get_export(store, name)
        .and_then(Extern::into_memory)
        .expect("every instrumented module exports its memories")
}
