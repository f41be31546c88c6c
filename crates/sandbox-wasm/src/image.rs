//! Compiled modules: made once in advance, kept on disk, mapped when first needed.
//!
//! An image is named by the digest of its package and by the engine that can load it. It appears by a
//! rename, so that a file with that name is always whole.
#![allow(unsafe_code)]

use std::collections::HashSet;
use std::fs;
use std::io::{Error, Result};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bowline_foundation::digest::Digest;
use parking_lot::Mutex;
use wasmtime::InstancePre;
use wasmtime_wasi_http::p2::bindings::ProxyPre;

use crate::accept::Rejection;
use crate::command::CommandProgram;
use crate::compiler::{Compiler, Form};
use crate::engine;
use crate::guest::Guest;
use crate::http::HttpGuest;
use crate::lane::Lane;

const EXTENSION: &str = "cwasm";

/// A mapped image.
pub(crate) struct Image {
    pub(crate) program: Program,
    ran: AtomicBool,
}

/// A module that is mapped, checked and linked: all that can be done before an instance exists.
pub(crate) enum Program {
    /// Its sandbox keeps one instance.
    Reactor(InstancePre<Guest>),
    Fresh(Fresh),
}

/// A program of which each invocation has an instance of its own.
#[derive(Clone)]
pub(crate) enum Fresh {
    Command(Arc<CommandProgram>),
    Http(ProxyPre<HttpGuest>),
}

impl Image {
    pub(crate) fn new(program: Program) -> Self {
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
            Program::Reactor(instance) => instance.module().image_range(),
            Program::Fresh(Fresh::Command(program)) => program.module().image_range(),
            Program::Fresh(Fresh::Http(proxy)) => proxy.instance_pre().component().image_range(),
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
    /// It can be run, but not checkpointed; the text is for the function's owner.
    #[error("{0}")]
    Refused(String),
    /// The disk failed.
    #[error("the compiled module could not be stored")]
    Io(#[from] Error),
}

impl From<bowline_checkpoint::Refusal> for CompileError {
    fn from(refusal: bowline_checkpoint::Refusal) -> Self {
        Self::Refused(refusal.to_string())
    }
}

impl From<Rejection> for CompileError {
    fn from(rejection: Rejection) -> Self {
        Self::Unfit(rejection.to_string())
    }
}

/// The folder of compiled modules, and the lanes in which they are mapped.
pub(crate) struct Images {
    lanes: Vec<Lane>,
    compiler: Compiler,
    folder: PathBuf,
    suffix: String,
    /// One compilation at a time: each uses all cores already.
    compiling: Mutex<()>,
    temporary: AtomicU64,
}

impl Images {
    /// Opens `folder`, creating it for this user alone.
    pub(crate) fn open(lanes: Vec<Lane>, compiler: Compiler, folder: &Path) -> Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        Ok(Self {
            suffix: format!("-{}.{EXTENSION}", engine::compatibility(&lanes[0].engine)),
            lanes,
            compiler,
            folder: folder.to_owned(),
            compiling: Mutex::default(),
            temporary: AtomicU64::new(0),
        })
    }

    /// At least one; all engines have the same configuration.
    pub(crate) fn lanes(&self) -> &[Lane] {
        &self.lanes
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(format!("{digest}{}", self.suffix))
    }

    /// Whether `digest` has an image for these engines.
    pub(crate) fn exists(&self, digest: &Digest) -> bool {
        self.lanes.iter().any(|lane| lane.has(digest)) || self.path(digest).exists()
    }

    /// Compiles the module in `source` and stores its image. Slow: not for a thread that serves requests.
    pub(crate) fn compile(&self, digest: &Digest, source: &Path) -> std::result::Result<(), CompileError> {
        let _one = self.compiling.lock();
        if self.exists(digest) {
            return Ok(());
        }
        let serial = self.temporary.fetch_add(1, Ordering::Relaxed);
        let temporary = self.folder.join(format!("{}-{serial}.tmp", std::process::id()));
        let lane = &self.lanes[0];
        self.compiler.compile(&lane.engine, source, &temporary, Form::Plain)?;
        // Loading it shows what compiling does not: wrong types of imports, sizes over the pool's limits.
        if let Err(error) = lane.link(&temporary) {
            fs::remove_file(&temporary)?;
            return Err(CompileError::Unfit(format!("the module cannot be run here: {error:#}")));
        }
        fs::rename(&temporary, self.path(digest))?;
        Ok(())
    }

    /// The linked module of `digest` in a lane, mapped now if it is not yet.
    pub(crate) fn get(&self, lane: usize, digest: &Digest) -> Result<Arc<Image>> {
        self.lanes[lane].image(digest, &self.path(digest))
    }

    /// Unmaps and removes what `in_use` does not name, and leftovers of a process that died.
    pub(crate) fn retain(&self, in_use: &[Digest]) -> Result<()> {
        let in_use: HashSet<String> = in_use.iter().map(|digest| format!("{digest}{}", self.suffix)).collect();
        let _one = self.compiling.lock();
        for lane in &self.lanes {
            lane.retain(|digest| in_use.contains(&format!("{digest}{}", self.suffix)));
        }
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                // Modules that can be checkpointed have a folder of their own.
                continue;
            }
            let name = entry.file_name();
            if !name.to_str().is_some_and(|name| in_use.contains(name)) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }
}
