//! The Wasm kind of sandbox.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use bowline_foundation::clock::Clock;
use bowline_foundation::digest::Digest;
use bowline_foundation::entropy::Entropy;
use bowline_sandbox::{
    Backend, CheckpointFacts, CheckpointMode, CreateError, LogSink, PrepareError, Sandbox, SandboxKind, Suspendable,
    VersionSpec,
};
use bytes::Bytes;

use crate::SigningKey;
use crate::accept::accept;
use crate::checkpointed::{CheckpointedSandbox, Library, Verdict};
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
    /// What signs checkpoints; nodes that take each other's have the same.
    pub signing: SigningKey,
}

impl Options {
    /// Options with 2,000 slots, the compiler inside, and checkpoints that no other process takes.
    pub fn new(clock: Clock, cache_dir: impl Into<PathBuf>) -> Self {
        let mut secret = [0; 32];
        Entropy::system().fill(&mut secret);
        Self {
            signing: SigningKey::new(&secret),
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
    pub(crate) checkpointed: Library,
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
        let library = Library::open(
            options.compiler.clone(),
            options.signing,
            &options.cache_dir.join("checkpointed"),
        );
        let shared = Shared {
            checkpointed: library.map_err(|error| StartError::Engine(format!("{error:#}")))?,
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
        checkpoint_mode(version)?;
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
        if checkpoint_mode(version)?.is_some() {
            let source = version.code.path.join(MODULE_FILE);
            let prepared = self.off_thread(move |shared| shared.checkpointed.prepare(&digest, &source));
            match prepared.await.map_err(PrepareError::Backend)? {
                Ok(Verdict::Ready(_)) => return Ok(()),
                // It runs as any other.
                Ok(Verdict::Refused(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if self.shared.images.exists(&digest) {
            return Ok(());
        }
        let source = version.code.path.join(MODULE_FILE);
        let compiled = self.off_thread(move |shared| shared.images.compile(&digest, &source));
        match compiled.await {
            Ok(compiled) => compiled.map_err(PrepareError::from),
            Err(error) => Err(PrepareError::Backend(error)),
        }
    }

    fn suspendable(&self, version: &VersionSpec) -> Suspendable {
        match CheckpointMode::of(&version.environment) {
            Ok(Some(_)) => match self.shared.checkpointed.get(&version.code.digest) {
                Some(Verdict::Ready(_)) => Suspendable::Yes,
                Some(Verdict::Refused(reason)) => Suspendable::Refused(reason),
                None => Suspendable::Refused("the version is not prepared yet".to_owned()),
            },
            _ => Suspendable::Unasked,
        }
    }

    fn inspect(&self, checkpoint: &Bytes) -> Result<CheckpointFacts, String> {
        self.shared.checkpointed.inspect(checkpoint)
    }

    fn checkpoint_versions(&self) -> Option<(u32, u32)> {
        Some((bowline_checkpoint::FORMAT_VERSION, bowline_checkpoint::PASS_VERSION))
    }

    async fn create(&self, version: Arc<VersionSpec>, log: Arc<dyn LogSink>) -> Result<Box<dyn Sandbox>, CreateError> {
        let digest = version.code.digest;
        if CheckpointMode::of(&version.environment).is_ok_and(|mode| mode.is_some())
            && let Some(Verdict::Ready(program)) = self.shared.checkpointed.get(&digest)
        {
            let shared = self.shared.clone();
            let surroundings = Surroundings::new(&version, log, &self.clock);
            let sandbox = CheckpointedSandbox::new(shared, program, &version, surroundings);
            return Ok(Box::new(sandbox.map_err(CreateError::Backend)?));
        }
        let home = lane::here(self.shared.images.lanes().len());
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
        let collected = self.off_thread(move |shared| {
            shared.checkpointed.retain(&in_use)?;
            shared.images.retain(&in_use)
        });
        let collected = collected.await;
        if let Ok(Err(error)) | Err(error) = collected {
            tracing::warn!(%error, "compiled modules that nobody uses could not be removed");
        }
    }
}

/// What a version's environment asks for; a value that means nothing is its owner's fault.
fn checkpoint_mode(version: &VersionSpec) -> Result<Option<CheckpointMode>, PrepareError> {
    CheckpointMode::of(&version.environment).map_err(|error| PrepareError::InvalidCode(error.to_string()))
}

impl From<CompileError> for PrepareError {
    fn from(error: CompileError) -> Self {
        match error {
            CompileError::Unfit(text) | CompileError::Refused(text) => Self::InvalidCode(text),
            CompileError::Io(error) => Self::Backend(error),
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
