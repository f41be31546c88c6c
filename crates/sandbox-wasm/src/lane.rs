//! Engines side by side, so that processors share as little as can be.
//!
//! An engine's threads share its reference counts, its tables of types and the locks of its pools. One
//! engine made two threads together only 1.3 times as fast as one; two processes had twice the speed. A
//! lane is an engine with what is linked for it. A module is mapped in the lane where it first runs, and
//! in others only once it is busy there: most functions cost one lane's memory.

use std::collections::HashMap;
use std::io::{Error, ErrorKind, Result};
use std::path::Path;
use std::sync::Arc;

use bowline_foundation::digest::Digest;
use parking_lot::RwLock;
use wasmtime::component::Component;
use wasmtime::{Engine, Linker, Module};
use wasmtime_wasi_http::p2::bindings::ProxyPre;

use crate::accept::{SDK_FAIL, SDK_INVOKE, SDK_MODULE};
use crate::command::CommandProgram;
use crate::guest::Guest;
use crate::http::{self, HttpGuest};
use crate::image::{Fresh, Image, Program};
use crate::{engine, preview1, reactor};

/// Most lanes: each reserves addresses for all its slots.
const LANES_MAX: usize = 8;

/// An engine, its linkers and the images that are mapped for it.
pub(crate) struct Lane {
    pub(crate) engine: Engine,
    modules: Linker<Guest>,
    /// For commands whose output can wait for its reader.
    streaming: Linker<Guest>,
    components: wasmtime::component::Linker<HttpGuest>,
    mapped: RwLock<HashMap<Digest, Arc<Image>>>,
}

/// Makes a lane for each processor, each with room for `slots` instances; fewer if the machine has not
/// addresses enough.
pub(crate) fn lanes(slots: u32) -> wasmtime::Result<Vec<Lane>> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let mut lanes = vec![Lane::new(slots)?];
    while lanes.len() < processors.min(LANES_MAX)
        && let Ok(lane) = Lane::new(slots)
    {
        lanes.push(lane);
    }
    Ok(lanes)
}

/// The lane of the processor that this thread runs on now.
pub(crate) fn here(lanes: usize) -> usize {
    rustix::thread::sched_getcpu() % lanes
}

impl Lane {
    fn new(slots: u32) -> wasmtime::Result<Self> {
        let engine = engine::new(slots)?;
        let mut modules = Linker::new(&engine);
        preview1::define(&mut modules)?;
        modules.func_wrap(SDK_MODULE, SDK_FAIL, reactor::fail)?;
        reactor::define_streaming(&mut modules)?;
        reactor::define_asking(&mut modules)?;
        let mut streaming = modules.clone();
        preview1::redefine(&mut streaming)?;
        Ok(Self {
            components: http::linker(&engine)?,
            engine,
            modules,
            streaming,
            mapped: RwLock::default(),
        })
    }

    /// Whether the image of `digest` is mapped.
    pub(crate) fn has(&self, digest: &Digest) -> bool {
        self.mapped.read().contains_key(digest)
    }

    /// The linked module of `digest`, mapped from `path` now if it is not yet.
    pub(crate) fn image(&self, digest: &Digest, path: &Path) -> Result<Arc<Image>> {
        if let Some(image) = self.mapped.read().get(digest) {
            return Ok(image.clone());
        }
        if !path.exists() {
            let text = format!("no compiled module for `{digest}`: the version was not prepared");
            return Err(Error::new(ErrorKind::NotFound, text));
        }
        let program = self.link(path).map_err(|error| Error::other(format!("{error:#}")))?;
        let image = Arc::new(Image::new(program));
        Ok(self.mapped.write().entry(*digest).or_insert(image).clone())
    }

    /// Maps an image and links it.
    #[allow(unsafe_code)]
    pub(crate) fn link(&self, image: &Path) -> wasmtime::Result<Program> {
        match Engine::detect_precompiled_file(image)? {
            Some(wasmtime::Precompiled::Component) => {
                // SAFETY: as for modules below.
                let component = unsafe { Component::deserialize_file(&self.engine, image)? };
                let instance = self.components.instantiate_pre(&component)?;
                Ok(Program::Fresh(Fresh::Http(ProxyPre::new(instance)?)))
            }
            _ => {
                // SAFETY: the file holds what `precompile_module` of an engine with the same version and
                // configuration gave (both are in its name and checked again while loading), written by
                // this user into a folder that no other user may enter, and never changed after the
                // rename. There is no safe way to load machine code without compiling it again.
                let module = unsafe { Module::deserialize_file(&self.engine, image)? };
                let reactor = module.get_export(SDK_INVOKE).is_some();
                let instance = self.modules.instantiate_pre(&module)?;
                Ok(if reactor {
                    Program::Reactor(instance)
                } else {
                    let streaming = self.streaming.instantiate_pre(&module)?;
                    Program::Fresh(Fresh::Command(Arc::new(CommandProgram::new(instance, streaming)?)))
                })
            }
        }
    }

    /// Unmaps what `wanted` does not want.
    pub(crate) fn retain(&self, wanted: impl Fn(&Digest) -> bool) {
        self.mapped.write().retain(|digest, _| wanted(digest));
    }
}
