//! Compiled modules: made once in advance, kept on disk, mapped when first needed.
//!
//! An image is named by the digest of its package and by the engine that can load it. It appears by a
//! rename, so that a file with that name is always whole.
#![allow(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bowline_foundation::digest::Digest;
use parking_lot::{Mutex, RwLock};
use wasmtime::component::Component;
use wasmtime::{Engine, InstancePre, Linker, Module};
use wasmtime_wasi_http::p2::bindings::ProxyPre;

use crate::accept::{Rejection, SDK_FAIL, SDK_MODULE};
use crate::command::CommandProgram;
use crate::compiler::Compiler;
use crate::guest::Guest;
use crate::http::{self, HttpGuest};
use crate::{engine, preview1, reactor};

const EXTENSION: &str = "cwasm";

/// A mapped image.
pub(crate) struct Image {
    pub(crate) program: Program,
    ran: AtomicBool,
}

/// A module that is mapped, checked and linked: all that can be done before an instance exists.
#[derive(Clone)]
pub(crate) enum Program {
    Command(Arc<CommandProgram>),
    Reactor(InstancePre<Guest>),
    Http(ProxyPre<HttpGuest>),
}

impl Image {
    fn new(program: Program) -> Self {
        let image = Self {
            program,
            ran: AtomicBool::new(false),
        };
        image.let_go();
        image
    }

    /// Says that an invocation ended. Most functions run once in a long while: after the first time the
    /// image gives its pages back, so that a thousand of them cost little.
    pub(crate) fn ran(&self) {
        if !self.ran.load(Ordering::Relaxed) && !self.ran.swap(true, Ordering::Relaxed) {
            self.let_go();
        }
    }

    /// Lets the system take back the image's pages: loading reads nearly all of them, running few. What
    /// is needed again comes from the page cache.
    pub(crate) fn let_go(&self) {
        let image = match &self.program {
            Program::Command(program) => program.module().image_range(),
            Program::Reactor(instance) => instance.module().image_range(),
            Program::Http(proxy) => proxy.instance_pre().component().image_range(),
        };
        let bytes = image.end.addr() - image.start.addr();
        // SAFETY: the range is the whole private mapping of an image file, page by page, and `self` keeps
        // it mapped. None of its pages was ever written (the engine refuses images with relocations, and
        // maps the rest read-only), so that each comes back from the file as it was. No safe function
        // takes a range of addresses.
        let result = unsafe { libc::madvise(image.start.cast_mut().cast(), bytes, libc::MADV_DONTNEED) };
        if result != 0 {
            tracing::debug!(error = %Error::last_os_error(), "an image stays resident");
        }
    }
}

/// Why a module has no image.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CompileError {
    /// The module cannot be run by this engine; the text is for the function's owner.
    #[error("{0}")]
    Unfit(String),
    /// The disk failed.
    #[error("the compiled module could not be stored")]
    Io(#[from] Error),
}

impl From<Rejection> for CompileError {
    fn from(rejection: Rejection) -> Self {
        Self::Unfit(rejection.to_string())
    }
}

/// The folder of compiled modules and those of them that are mapped.
pub(crate) struct Images {
    engine: Engine,
    compiler: Compiler,
    modules: Linker<Guest>,
    components: wasmtime::component::Linker<HttpGuest>,
    folder: PathBuf,
    suffix: String,
    mapped: RwLock<HashMap<Digest, Arc<Image>>>,
    /// One compilation at a time: each uses all cores already.
    compiling: Mutex<()>,
    temporary: AtomicU64,
}

impl Images {
    /// Opens `folder`, creating it for this user alone.
    pub(crate) fn open(engine: &Engine, compiler: Compiler, folder: &Path) -> Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let mut modules = Linker::new(engine);
        preview1::define(&mut modules).map_err(Error::other)?;
        modules
            .func_wrap(SDK_MODULE, SDK_FAIL, reactor::fail)
            .map_err(Error::other)?;
        Ok(Self {
            engine: engine.clone(),
            compiler,
            modules,
            components: http::linker(engine).map_err(Error::other)?,
            folder: folder.to_owned(),
            suffix: format!("-{}.{EXTENSION}", engine::compatibility(engine)),
            mapped: RwLock::default(),
            compiling: Mutex::default(),
            temporary: AtomicU64::new(0),
        })
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(format!("{digest}{}", self.suffix))
    }

    /// Whether `digest` has an image for this engine.
    pub(crate) fn exists(&self, digest: &Digest) -> bool {
        self.mapped.read().contains_key(digest) || self.path(digest).exists()
    }

    /// Compiles the module in `source` and stores its image. Slow: not for a thread that serves requests.
    pub(crate) fn compile(&self, digest: &Digest, source: &Path) -> std::result::Result<(), CompileError> {
        let _one = self.compiling.lock();
        if self.exists(digest) {
            return Ok(());
        }
        let serial = self.temporary.fetch_add(1, Ordering::Relaxed);
        let temporary = self.folder.join(format!("{}-{serial}.tmp", std::process::id()));
        self.compiler.compile(&self.engine, source, &temporary)?;
        // Loading it shows what compiling does not: wrong types of imports, sizes over the pool's limits.
        if let Err(error) = self.link(&temporary) {
            fs::remove_file(&temporary)?;
            return Err(CompileError::Unfit(format!("the module cannot be run here: {error:#}")));
        }
        fs::rename(&temporary, self.path(digest))?;
        Ok(())
    }

    /// The linked module of `digest`, mapped now if it is not yet.
    pub(crate) fn get(&self, digest: &Digest) -> Result<Arc<Image>> {
        if let Some(image) = self.mapped.read().get(digest) {
            return Ok(image.clone());
        }
        let path = self.path(digest);
        if !path.exists() {
            let text = format!("no compiled module for `{digest}`: the version was not prepared");
            return Err(Error::new(ErrorKind::NotFound, text));
        }
        let program = self.link(&path).map_err(|error| Error::other(format!("{error:#}")))?;
        let image = Arc::new(Image::new(program));
        let mut mapped = self.mapped.write();
        Ok(mapped.entry(*digest).or_insert(image).clone())
    }

    fn link(&self, image: &Path) -> wasmtime::Result<Program> {
        match Engine::detect_precompiled_file(image)? {
            Some(wasmtime::Precompiled::Component) => {
                // SAFETY: as for modules below.
                let component = unsafe { Component::deserialize_file(&self.engine, image)? };
                let instance = self.components.instantiate_pre(&component)?;
                Ok(Program::Http(ProxyPre::new(instance)?))
            }
            _ => {
                // SAFETY: the file holds what `precompile_module` of an engine with the same version and
                // configuration gave (both are in its name and checked again while loading), written by
                // this user into a folder that no other user may enter, and never changed after the
                // rename. There is no safe way to load machine code without compiling it again.
                let module = unsafe { Module::deserialize_file(&self.engine, image)? };
                let reactor = module.get_export(crate::accept::SDK_INVOKE).is_some();
                let instance = self.modules.instantiate_pre(&module)?;
                Ok(if reactor {
                    Program::Reactor(instance)
                } else {
                    Program::Command(Arc::new(CommandProgram::new(instance)?))
                })
            }
        }
    }

    /// Unmaps and removes what `in_use` does not name, and leftovers of a process that died.
    pub(crate) fn retain(&self, in_use: &[Digest]) -> Result<()> {
        let in_use: HashSet<String> = in_use.iter().map(|digest| format!("{digest}{}", self.suffix)).collect();
        let _one = self.compiling.lock();
        self.mapped
            .write()
            .retain(|digest, _| in_use.contains(&format!("{digest}{}", self.suffix)));
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if !name.to_str().is_some_and(|name| in_use.contains(name)) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}
