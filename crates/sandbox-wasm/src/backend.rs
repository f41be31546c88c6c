//! The Wasm kind of sandbox.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bowline_foundation::clock::Clock;
use bowline_foundation::digest::Digest;
use bowline_sandbox::{Backend, CreateError, LogSink, PrepareError, Sandbox, SandboxKind, VersionSpec};

use crate::accept::accept;
use crate::compiler::Compiler;
use crate::fresh::FreshSandbox;
use crate::guest::Surroundings;
use crate::image::{CompileError, Images, Program};
use crate::lane;
use crate::reactor::Reactor;
use crate::runner::Runner;

/// The name of a module in its code folder.
const MODULE_FILE: &str = "bootstrap.wasm";

/// How to make a [`WasmBackend`].
#[derive(Clone, Debug)]
pub struct Options {
    /// The source of time.
    pub clock: Clock,
    /// The folder of compiled modules; created with mode 0700 if it does not exist. Only this node's user
    /// may be able to write to it: what lies there is machine code.
    pub cache_dir: PathBuf,
    /// How many instances may live at once, for each processor.
    pub slots: u32,
    /// Where modules are compiled.
    pub compiler: Compiler,
}

impl Options {
    /// Options with 2,000 slots and the compiler inside.
    pub fn new(clock: Clock, cache_dir: impl Into<PathBuf>) -> Self {
        Self {
            clock,
            cache_dir: cache_dir.into(),
            slots: 2_000,
            compiler: Compiler::Inside,
        }
    }
}

/// Why the backend could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The engine cannot run with this configuration on this machine.
    #[error("the WebAssembly engine does not start: {0}")]
    Engine(String),
    /// The cache folder or a thread could not be made.
    #[error("the WebAssembly backend does not start")]
    Io(#[from] std::io::Error),
}

/// What all sandboxes of a backend share.
pub(crate) struct Shared {
    pub(crate) runner: Arc<Runner>,
    pub(crate) images: Images,
}

/// Makes sandboxes inside the node's process.
#[derive(Clone)]
pub struct WasmBackend {
    shared: Arc<Shared>,
    clock: Clock,
}

impl WasmBackend {
    /// Starts the engine and its helper threads.
    pub fn new(options: Options) -> Result<Self, StartError> {
        let lanes = lane::lanes(options.slots).map_err(|error| StartError::Engine(format!("{error:#}")))?;
        let engines = lanes.iter().map(|lane| lane.engine.weak()).collect();
        let shared = Shared {
            runner: Runner::start(engines)?,
            images: Images::open(lanes, options.compiler, &options.cache_dir)?,
        };
        Ok(Self {
            shared: Arc::new(shared),
            clock: options.clock,
        })
    }

    /// How many core instances live now; for metrics and tests.
    pub fn live_instances(&self) -> u64 {
        let lanes = self.shared.images.lanes().iter();
        let metrics = lanes.filter_map(|lane| lane.engine.pooling_allocator_metrics());
        metrics.map(|metrics| metrics.core_instances()).sum()
    }
}

#[async_trait]
impl Backend for WasmBackend {
    fn kind(&self) -> SandboxKind {
        SandboxKind::Wasm
    }

    async fn check(&self, version: &VersionSpec) -> Result<(), PrepareError> {
        if self.shared.images.exists(&version.code.digest) {
            return Ok(());
        }
        let source = version.code.path.join(MODULE_FILE);
        let accepted = self.off_thread(move |_| std::fs::read(&source).map(|module| accept(&module)));
        match accepted.await.and_then(|read| read) {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(rejection)) => Err(PrepareError::InvalidCode(rejection.to_string())),
            Err(error) => Err(PrepareError::Backend(error)),
        }
    }

    async fn prepare(&self, version: &VersionSpec) -> Result<(), PrepareError> {
        let digest = version.code.digest;
        if self.shared.images.exists(&digest) {
            return Ok(());
        }
        let source = version.code.path.join(MODULE_FILE);
        let compiled = self.off_thread(move |shared| shared.images.compile(&digest, &source));
        match compiled.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(CompileError::Unfit(text))) => Err(PrepareError::InvalidCode(text)),
            Ok(Err(CompileError::Io(error))) => Err(PrepareError::Backend(error)),
            Err(error) => Err(PrepareError::Backend(error)),
        }
    }

    async fn create(&self, version: Arc<VersionSpec>, log: Arc<dyn LogSink>) -> Result<Box<dyn Sandbox>, CreateError> {
        let home = lane::here(self.shared.images.lanes().len());
        let digest = version.code.digest;
        let image = self.shared.images.get(home, &digest).map_err(CreateError::Backend)?;
        let shared = self.shared.clone();
        let surroundings = Surroundings::new(&version, log, &self.clock);
        if let Program::Reactor(program) = &image.program {
            let program = program.clone();
            return Ok(Box::new(Reactor::create(shared, image, program, surroundings).await?));
        }
        let environment = version.lambda_environment().into_iter().collect();
        let place = (home, image);
        Ok(Box::new(FreshSandbox::new(
            shared,
            surroundings,
            environment,
            digest,
            place,
        )))
    }

    async fn collect_garbage(&self, in_use: &[Digest]) {
        let in_use = in_use.to_vec();
        let collected = self.off_thread(move |shared| shared.images.retain(&in_use)).await;
        if let Ok(Err(error)) | Err(error) = collected {
            tracing::warn!(%error, "compiled modules that nobody uses could not be removed");
        }
    }
}

impl WasmBackend {
    async fn off_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> T + Send + 'static,
    ) -> Result<T, std::io::Error> {
        let shared = self.shared.clone();
        let task = tokio::task::spawn_blocking(move || work(&shared));
        task.await.map_err(std::io::Error::other)
    }
}
