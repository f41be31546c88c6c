//! Modules that can be checkpointed: instrumented and compiled once, kept on disk, loaded when they are prepared.
//!
//! `DIGEST-ENGINE.cwasm` is a compiled module, `DIGEST-ENGINE.refused` the reason why there is none. `ENGINE` names
//! the engine and the version of the pass. A file gets its name by a rename, so one with that name is whole.
#![allow(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bowline_checkpoint::engine::{CaptureError, Guest, Prepared, Written};
use bowline_checkpoint::wasi::Wasi;
use bowline_checkpoint::{CODE_VERSION, Checkpoint, FORMAT_VERSION, PASS_VERSION, Plan, ReadLimits, SigningKey, wasi};
use bowline_foundation::digest::Digest;
use bowline_sandbox::CheckpointFacts;
use bytes::Bytes;
use parking_lot::Mutex;
use wasmtime::{AsContextMut, Engine, Extern, FuncType, Linker, Module, Store};

use super::leg::Body;
use crate::compiler::{Compiler, Form, checkpoint_options};
use crate::engine;
use crate::image::CompileError;
use crate::runner::lower_priority;

/// The largest checkpoint that is unpacked: all of a 32-bit memory, and what is around it.
const LIMITS: ReadLimits = ReadLimits {
    body_bytes_max: (4 << 30) + (64 << 20),
};

/// A module that is compiled and linked.
pub(crate) struct Program {
    pub prepared: Prepared,
    pub engine: Engine,
    pub linker: Linker<Body>,
}

/// What the pass makes of a module.
#[derive(Clone)]
pub(crate) enum Verdict {
    Ready(Arc<Program>),
    /// It cannot be checkpointed; the text is for the function's owner.
    Refused(String),
}

/// The folder of such modules, and those that are loaded.
pub(crate) struct Library {
    engine: Engine,
    linker: Linker<Body>,
    compiler: Compiler,
    signing: SigningKey,
    folder: PathBuf,
    suffix: String,
    /// One compilation at a time: each uses all cores already.
    compiling: Mutex<()>,
    loaded: Mutex<HashMap<Digest, Verdict>>,
    temporary: AtomicU64,
}

impl Library {
    /// A library in `folder`, which is made for this user alone when the first module comes.
    pub(crate) fn open(compiler: Compiler, signing: SigningKey, folder: &Path) -> wasmtime::Result<Self> {
        // What is done for guests by several threads gives way as guests do. Somebody else may have started them.
        let _ = rayon::ThreadPoolBuilder::new()
            .start_handler(|_| lower_priority())
            .build_global();
        let engine = engine::checkpointed()?;
        let mut linker = Linker::new(&engine);
        wasi::define(&mut linker)?;
        Ok(Self {
            suffix: format!("{}-{PASS_VERSION}.{CODE_VERSION}", engine::compatibility(&engine)),
            engine,
            linker,
            compiler,
            signing,
            folder: folder.to_owned(),
            compiling: Mutex::default(),
            loaded: Mutex::default(),
            temporary: AtomicU64::new(0),
        })
    }

    /// The module of `digest`, if it is prepared.
    pub(crate) fn get(&self, digest: &Digest) -> Option<Verdict> {
        self.loaded.lock().get(digest).cloned()
    }

    /// Instruments, compiles and loads the module in `source`. Slow: not for a thread that serves requests.
    pub(crate) fn prepare(&self, digest: &Digest, source: &Path) -> Result<Verdict, CompileError> {
        let _one = self.compiling.lock();
        if let Some(verdict) = self.get(digest) {
            return Ok(verdict);
        }
        let verdict = self.look(digest, source)?;
        self.loaded.lock().insert(*digest, verdict.clone());
        Ok(verdict)
    }

    fn look(&self, digest: &Digest, source: &Path) -> Result<Verdict, CompileError> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        let (image, refusal) = (self.path(digest, "cwasm"), self.path(digest, "refused"));
        if let Ok(reason) = fs::read_to_string(&refusal) {
            return Ok(Verdict::Refused(reason));
        }
        if !image.exists() {
            let serial = self.temporary.fetch_add(1, Ordering::Relaxed);
            let temporary = self.folder.join(format!("{}-{serial}.tmp", std::process::id()));
            match self
                .compiler
                .compile(&self.engine, source, &temporary, Form::Checkpointed)
            {
                Ok(()) => fs::rename(&temporary, &image)?,
                Err(CompileError::Refused(reason)) => {
                    fs::write(&temporary, &reason)?;
                    fs::rename(&temporary, &refusal)?;
                    return Ok(Verdict::Refused(reason));
                }
                Err(error) => return Err(error),
            }
        }
        let program = self.load(&image, source)?;
        Ok(Verdict::Ready(Arc::new(program)))
    }

    fn load(&self, image: &Path, source: &Path) -> Result<Program, CompileError> {
        let plan = Plan::new(fs::read(source)?, checkpoint_options())?;
        // SAFETY: the file holds what `precompile_module` of an engine with the same version and configuration gave
        // (both are in its name and checked again while loading), written by this user into a folder that no other
        // user may enter, and never changed after the rename. There is no safe way to load machine code without
        // compiling it again.
        let module = unsafe { Module::deserialize_file(&self.engine, image) };
        let prepared = module.and_then(|module| Prepared::compiled(&self.engine, plan, module));
        let prepared = prepared.map_err(|error| CompileError::Unfit(format!("{error:#}")))?;
        self.check_imports(prepared.module())?;
        Ok(Program {
            prepared,
            engine: self.engine.clone(),
            linker: self.linker.clone(),
        })
    }

    /// What it imports must be what preview 1 has, with the same types: `accept` looks at names alone.
    fn check_imports(&self, module: &Module) -> Result<(), CompileError> {
        let mut store = Store::new(&self.engine, Wasi::empty());
        let mut linker = Linker::new(&self.engine);
        wasi::define(&mut linker).map_err(|error| CompileError::Unfit(format!("{error:#}")))?;
        for import in module.imports().filter(|import| import.module() == wasi::MODULE) {
            let found = linker.get_by_import(&mut store, &import).and_then(Extern::into_func);
            let has_type = |function: wasmtime::Func| {
                let wanted = import.ty();
                let wanted = wanted.func();
                wanted.is_some_and(|wanted| FuncType::eq(wanted, &function.ty(&store)))
            };
            if !found.is_some_and(has_type) {
                let name = import.name();
                let text = format!("the module cannot be run here: `{name}` of preview 1 has another type");
                return Err(CompileError::Unfit(text));
            }
        }
        Ok(())
    }

    /// The checkpoint as signed bytes.
    pub(crate) fn write(&self, checkpoint: &Checkpoint) -> Bytes {
        checkpoint.write(&self.signing)
    }

    /// The checkpoint of a guest that has stopped, as signed bytes.
    pub(crate) fn capture(
        &self,
        prepared: &Prepared,
        (guest, store): (&Guest, impl AsContextMut),
        host: &[u8],
    ) -> Result<Written, CaptureError> {
        prepared.capture_written(guest, store, host, &self.signing)
    }

    /// The checkpoint in signed bytes.
    pub(crate) fn read(&self, bytes: &Bytes) -> Result<Checkpoint, String> {
        Checkpoint::read(bytes, &self.signing, LIMITS).map_err(|error| error.to_string())
    }

    /// What a checkpoint says of itself.
    pub(crate) fn inspect(&self, bytes: &Bytes) -> Result<CheckpointFacts, String> {
        let checkpoint = self.read(bytes)?;
        let wasm_pages: u64 = checkpoint.memories.iter().map(|memory| memory.size_pages).sum();
        let pages = checkpoint.memories.iter().map(|memory| memory.pages.len() as u64);
        Ok(CheckpointFacts {
            module: checkpoint.identity.module.to_string(),
            format_version: FORMAT_VERSION,
            pass_version: checkpoint.identity.pass,
            memory_bytes: wasm_pages * 64 * 1024,
            pages: pages.sum(),
            frames: checkpoint.frames.len() as u64,
            globals: checkpoint.globals.len() as u64,
        })
    }

    /// Forgets and removes what `in_use` does not name.
    pub(crate) fn retain(&self, in_use: &[Digest]) -> std::io::Result<()> {
        let _one = self.compiling.lock();
        let wanted: HashSet<PathBuf> = in_use
            .iter()
            .flat_map(|digest| ["cwasm", "refused"].map(|extension| self.path(digest, extension)))
            .collect();
        self.loaded.lock().retain(|digest, _| in_use.contains(digest));
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            if !wanted.contains(&path) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    fn path(&self, digest: &Digest, extension: &str) -> PathBuf {
        self.folder.join(format!("{digest}-{}.{extension}", self.suffix))
    }
}
