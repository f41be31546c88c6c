//! Prepares versions for Linux sandboxes and makes the sandboxes.

mod image;

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bowline_foundation::clock::Clock;
use bowline_foundation::entropy::Entropy;
use bowline_foundation::limits::PROCESSES_MAX;
use bowline_foundation::units::Mebibytes;
use bowline_sandbox::{
    Backend, CreateError, FunctionError, LogSink, MadeAhead, PrepareError, RUNTIME_API, Runtime, Sandbox, SandboxKind,
    Share, ShareError, VersionSpec,
};
use parking_lot::Mutex;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::cell::{Cell, CellError, CellPlan, Command, Furnishing, ReadOnlyBind, Spawner, Start};
use crate::clients::{self, NODE_CLIENT, PYTHON_CLIENT, RUNTIME_DIR};
use crate::interpreter::{self, Interpreter};
use crate::linux_sandbox::{Departure, LinuxSandbox, Surroundings, cell_error, processors};
use crate::metrics::Metrics;
use crate::output::Output;
use crate::pool::{Pool, Reserve, WarmCell};
use crate::volume;

/// How long a taken cell is not replaced: the making of another must not take the processor from the
/// first invocation.
const REFILL_DELAY: Duration = Duration::from_millis(20);
/// The cells of programs that need no interpreter.
const NATIVE: &str = "native";
/// How long a version's preparation waits for the first warm cell of its runtime.
const FIRST_CELL_MAX: Duration = Duration::from_secs(2);
const TASK_ROOT: &str = "/var/task";
const BOOTSTRAP: &str = "/var/task/bootstrap";
/// Variables that an interpreter or the dynamic linker reads when it starts: a pre-warmed one cannot take
/// them late.
const EARLY_PREFIXES: [&str; 9] = [
    "PYTHON", "NODE_", "LD_", "LC_", "LANG", "GLIBC_", "MALLOC_", "OPENSSL_", "UV_",
];

/// What the backend is built from.
pub struct Options {
    /// The time.
    pub clock: Clock,
    /// Where the identifiers of extensions come from.
    pub entropy: Entropy,
    /// A private folder for the runtime clients.
    pub state_dir: PathBuf,
    /// Makes the cells. [`Backend::shut_down`] ends it.
    pub spawner: Spawner,
    /// Cells that wait for each runtime that is in use at least; zero keeps none.
    pub warm_cells: usize,
    /// What all cells that wait may use together.
    pub warm_memory: Mebibytes,
    /// Where it is counted how often one waited for who wanted it.
    pub metrics: Metrics,
    /// What an invocation may print; the rest is dropped.
    pub log_bytes_max: usize,
}

impl Options {
    /// The defaults: two waiting cells for each runtime, and more while many are taken, within 512 MiB; 4 MiB of output for each invocation.
    pub fn new(clock: Clock, state_dir: PathBuf, spawner: Spawner) -> Self {
        Self {
            clock,
            entropy: Entropy::system(),
            state_dir,
            spawner,
            warm_cells: 2,
            warm_memory: Mebibytes(512),
            metrics: Metrics::default(),
            log_bytes_max: 4 * 1024 * 1024,
        }
    }
}

/// Makes Linux sandboxes.
pub struct LinuxBackend {
    clock: Clock,
    entropy: Entropy,
    spawner: Spawner,
    log_bytes_max: usize,
    /// Has a receiver for each sandbox that is ending and takes a while over it.
    endings: Arc<watch::Sender<()>>,
    runtime_dir: PathBuf,
    pool: Pool,
    /// The interpreters that were found; what is missing is looked for again.
    interpreters: Mutex<HashMap<Runtime, Option<Interpreter>>>,
}

/// How the guest of a version is started.
struct Recipe {
    /// The pool's name for cells of this recipe.
    name: String,
    plan: CellPlan,
    /// What is executed in a cell that waits for it.
    program: Command,
    /// Whether a cell must be made for this version alone.
    fresh: bool,
    environment: BTreeMap<String, String>,
}

/// What a pre-warmed interpreter is told.
#[derive(serde::Serialize)]
struct Orders<'a> {
    environment: &'a BTreeMap<String, String>,
    handler: &'a str,
}

impl LinuxBackend {
    /// Lays out the runtime clients; starts nothing yet.
    ///
    /// # Errors
    /// If the state folder cannot be written.
    pub fn new(options: Options) -> io::Result<Self> {
        let reserve = Reserve {
            count_min: u32::try_from(options.warm_cells).unwrap_or(u32::MAX),
            budget: options.warm_memory,
        };
        let pool = Pool::new(
            (options.spawner.clone(), options.clock.clone()),
            reserve,
            options.metrics,
        );
        Ok(Self {
            clock: options.clock,
            entropy: options.entropy,
            endings: Arc::new(watch::Sender::new(())),
            pool,
            spawner: options.spawner,
            log_bytes_max: options.log_bytes_max,
            runtime_dir: clients::lay_out(&options.state_dir)?,
            interpreters: Mutex::default(),
        })
    }

    /// Changes how many cells wait, from now on; sandboxes are not touched.
    pub fn set_reserve(&self, reserve: Reserve) {
        self.pool.set_reserve(reserve);
    }

    /// How many cells of a runtime are ready for a function, and how often none was for any.
    pub fn standing(&self, runtime: Runtime) -> (usize, u64) {
        let name = match runtime {
            Runtime::ProvidedAl2023 | Runtime::ProvidedAl2 => NATIVE.to_owned(),
            interpreted => interpreted.to_string(),
        };
        self.pool.standing(&name)
    }

    async fn interpreter(&self, runtime: Runtime) -> Result<Option<Interpreter>, PrepareError> {
        if let Some(known) = self.interpreters.lock().get(&runtime) {
            return Ok(known.clone());
        }
        let found = tokio::task::spawn_blocking(move || interpreter::find(runtime)).await;
        let found = found.map_err(|error| PrepareError::Backend(io::Error::other(error)))?;
        let found = found.map_err(|missing| PrepareError::MissingRuntime(missing.to_string()))?;
        self.interpreters.lock().insert(runtime, found.clone());
        Ok(found)
    }

    async fn recipe(&self, version: &VersionSpec) -> Result<Recipe, PrepareError> {
        if let Some(image) = &version.image {
            return Ok(image::recipe(version, image));
        }
        let interpreter = self.interpreter(version.runtime).await?;
        let base = base_environment(version.runtime);
        let mut environment = base.clone();
        environment.extend(version.lambda_environment());
        let mut binds = Vec::new();
        let mut start = Start::Later;
        let mut name = NATIVE.to_owned();
        let mut fresh = false;
        if let Some(interpreter) = interpreter {
            let early = |key: &String| EARLY_PREFIXES.iter().any(|prefix| key.starts_with(prefix));
            fresh = version.environment.keys().any(early);
            let started_with = if fresh { &environment } else { &base };
            start = Start::Now(client_command(version.runtime, &interpreter, started_with));
            binds = self.binds(&interpreter);
            name = version.runtime.to_string();
        }
        Ok(Recipe {
            name,
            plan: CellPlan {
                binds,
                image: None,
                start,
            },
            program: bootstrap_command(&environment),
            fresh,
            environment,
        })
    }

    fn binds(&self, interpreter: &Interpreter) -> Vec<ReadOnlyBind> {
        let client = ReadOnlyBind {
            host: self.runtime_dir.clone(),
            inside: RUNTIME_DIR.into(),
        };
        let prefix = interpreter.prefix.as_ref().map(|prefix| ReadOnlyBind {
            host: prefix.clone(),
            inside: prefix.clone(),
        });
        std::iter::once(client).chain(prefix).collect()
    }

    async fn take_cell(&self, recipe: &Recipe) -> Result<WarmCell, CellError> {
        if !recipe.fresh
            && let Some(warm) = self.pool.take(&recipe.name)
        {
            return Ok(warm);
        }
        self.pool.make(recipe.plan.clone()).await
    }

    async fn start(
        &self,
        version: &Arc<VersionSpec>,
        recipe: Recipe,
        log: Arc<dyn LogSink>,
    ) -> Result<LinuxSandbox, CreateError> {
        let of_cell = |error| cell_error(error, version.memory);
        let WarmCell { mut cell, control } = self.take_cell(&recipe).await.map_err(of_cell)?;
        // The output is attached first: what goes wrong from here on may be told there.
        let output = Output::new(cell.take_output(), log.clone(), self.log_bytes_max);
        let furnished = match output {
            Ok(output) => furnish(&mut cell, version).await.map(|()| output),
            Err(error) => Err(CreateError::Backend(error)),
        };
        let departure = departure(&recipe, control, &version.handler);
        let context = Surroundings {
            clock: self.clock.clone(),
            entropy: self.entropy.clone(),
            spec: version.clone(),
            environment: recipe.environment,
            log,
            log_bytes_max: self.log_bytes_max,
            endings: self.endings.clone(),
        };
        match furnished {
            Ok(output) => {
                let sandbox = LinuxSandbox::new(cell, output, context).map_err(CreateError::Backend)?;
                sandbox.initialise(departure).await
            }
            Err(error) => {
                cell.destroy().await;
                Err(error)
            }
        }
    }
}

#[async_trait]
impl Backend for LinuxBackend {
    fn kind(&self) -> SandboxKind {
        SandboxKind::Linux
    }

    async fn check(&self, version: &VersionSpec) -> Result<(), PrepareError> {
        match &version.image {
            Some(image) => image::check(image),
            None => self.interpreter(version.runtime).await.map(|_| ()),
        }
    }

    async fn prepare(&self, version: &VersionSpec) -> Result<(), PrepareError> {
        if let Some(image) = &version.image {
            return image::check(image);
        }
        // Whether there is such a handler, the runtime finds out.
        if matches!(version.runtime, Runtime::ProvidedAl2023 | Runtime::ProvidedAl2) {
            check_bootstrap(&version.code.path)?;
        }
        let recipe = self.recipe(version).await?;
        if !recipe.fresh {
            self.pool.keep(&recipe.name, &recipe.plan);
            // Whoever invokes the function as soon as it is active finds a cell that is ready.
            let _ = timeout(FIRST_CELL_MAX, self.pool.stocked(&recipe.name)).await;
        }
        Ok(())
    }

    async fn create(&self, version: Arc<VersionSpec>, log: Arc<dyn LogSink>) -> Result<Box<dyn Sandbox>, CreateError> {
        image::check_mounts(&version)?;
        let recipe = self.recipe(&version).await.map_err(|error| match error {
            PrepareError::Backend(error) => CreateError::Backend(error),
            other => CreateError::Init(FunctionError::new("Runtime.InvalidEntrypoint", &other.to_string())),
        })?;
        let sandbox = self.start(&version, recipe, log).await;
        self.pool.refill(REFILL_DELAY);
        Ok(Box::new(sandbox?))
    }

    async fn share(&self, share: &Share) -> Result<(), ShareError> {
        volume::keep(&self.spawner, share).await
    }

    async fn unshare(&self, share: &str) {
        if let Err(error) = self.spawner.unshare(share).await {
            tracing::warn!(
                share,
                error = &error as &dyn std::error::Error,
                "a shared folder stays mounted"
            );
        }
    }

    fn made_ahead(&self) -> Vec<MadeAhead> {
        self.pool.counted()
    }

    async fn lend(&self, share: &str) -> io::Result<OwnedFd> {
        self.spawner.lend(share).await.map_err(io::Error::other)
    }

    async fn shut_down(&self) {
        self.pool.close().await;
        self.endings.closed().await;
        self.spawner.shut_down().await;
    }
}

async fn furnish(cell: &mut Cell, version: &VersionSpec) -> Result<(), CreateError> {
    let furnishing = Furnishing {
        code: version.image.is_none().then(|| version.code.path.clone()),
        layers: version.layers.as_ref().map(|layers| layers.path.clone()),
        mounts: version.mounts.clone(),
        tmp: version.ephemeral_storage,
        memory: version.memory,
        processors: processors(version),
        pids: PROCESSES_MAX,
    };
    let furnished = cell.furnish(furnishing).await;
    furnished.map_err(|error| cell_error(error, version.memory))
}

/// How the guest of a furnished cell is set going.
fn departure(recipe: &Recipe, control: UnixStream, handler: &str) -> Departure {
    match recipe.plan.start {
        Start::Later => Departure::Exec(recipe.program.clone()),
        Start::Now(_) => {
            let orders = Orders {
                environment: &recipe.environment,
                handler,
            };
            let mut orders = serde_json::to_vec(&orders).expect("texts always serialise");
            orders.push(b'\n');
            Departure::Orders(control, orders)
        }
    }
}

/// The environment that does not depend on the function; its owner may override it.
fn base_environment(runtime: Runtime) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::from(
        [
            ("AWS_LAMBDA_RUNTIME_API", RUNTIME_API),
            ("HOME", "/tmp"),
            ("LAMBDA_RUNTIME_DIR", RUNTIME_DIR),
            ("LAMBDA_TASK_ROOT", TASK_ROOT),
            ("LANG", "C.UTF-8"),
            ("LD_LIBRARY_PATH", "/var/task:/var/task/lib:/opt/lib"),
            ("PATH", "/usr/local/bin:/usr/bin:/bin:/opt/bin"),
            ("TZ", ":UTC"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned())),
    );
    let mut add = |name: &str, value: String| variables.insert(name.to_owned(), value);
    match runtime {
        Runtime::Python { .. } => {
            add("AWS_EXECUTION_ENV", format!("AWS_Lambda_{runtime}"));
            // The code cannot be written to, and nothing else keeps what would be compiled.
            add("PYTHONDONTWRITEBYTECODE", "1".to_owned());
            add("PYTHONPATH", RUNTIME_DIR.to_owned());
        }
        Runtime::NodeJs { major } => {
            add("AWS_EXECUTION_ENV", format!("AWS_Lambda_{runtime}"));
            let modules =
                format!("/opt/nodejs/node{major}/node_modules:/opt/nodejs/node_modules:{RUNTIME_DIR}:{TASK_ROOT}");
            add("NODE_PATH", modules);
        }
        Runtime::ProvidedAl2023 | Runtime::ProvidedAl2 => {}
    }
    variables
}

fn client_command(runtime: Runtime, interpreter: &Interpreter, environment: &BTreeMap<String, String>) -> Command {
    let client = match runtime {
        Runtime::NodeJs { .. } => NODE_CLIENT,
        _ => PYTHON_CLIENT,
    };
    Command {
        argv: vec![interpreter.program.clone().into(), client.into()],
        env: os_strings(environment),
        cwd: "/".into(),
    }
}

fn bootstrap_command(environment: &BTreeMap<String, String>) -> Command {
    Command {
        argv: vec![BOOTSTRAP.into()],
        env: os_strings(environment),
        cwd: TASK_ROOT.into(),
    }
}

fn os_strings(environment: &BTreeMap<String, String>) -> Vec<(OsString, OsString)> {
    let pair = |(name, value): (&String, &String)| (name.into(), value.into());
    environment.iter().map(pair).collect()
}

fn check_bootstrap(code: &Path) -> Result<(), PrepareError> {
    let invalid = |text: &str| Err(PrepareError::InvalidCode(text.to_owned()));
    let path = code.join("bootstrap");
    let Ok(metadata) = fs::metadata(&path) else {
        return invalid("the package has no file `bootstrap` at its top, which the `provided` runtimes execute");
    };
    if !metadata.is_file() {
        return invalid("`bootstrap` is not a file");
    }
    if metadata.permissions().mode() & 0o111 == 0 {
        return invalid("`bootstrap` is not executable: set its mode to 755 before packing it");
    }
    let mut head = Vec::with_capacity(64);
    let read = File::open(&path).and_then(|file| file.take(64).read_to_end(&mut head));
    read.map_err(PrepareError::Backend)?;
    if head.starts_with(b"#!") {
        return Ok(());
    }
    check_elf(&head)
}

/// Offsets and numbers of the ELF header that matter here.
mod elf {
    pub(super) const MAGIC: &[u8] = b"\x7fELF";
    pub(super) const CLASS: usize = 4;
    pub(super) const CLASS_64: u8 = 2;
    pub(super) const MACHINE: usize = 18;
    pub(super) const MACHINES: [(u16, &str); 5] = [
        (3, "x86"),
        (40, "arm"),
        (62, "x86_64"),
        (183, "aarch64"),
        (243, "riscv64"),
    ];
}

fn check_elf(head: &[u8]) -> Result<(), PrepareError> {
    let here = std::env::consts::ARCH;
    if !head.starts_with(elf::MAGIC) || head.len() <= elf::MACHINE + 1 {
        let text = "`bootstrap` is neither an ELF program nor a script that begins with `#!`";
        return Err(PrepareError::InvalidCode(text.to_owned()));
    }
    let number = u16::from_le_bytes([head[elf::MACHINE], head[elf::MACHINE + 1]]);
    let known = elf::MACHINES.iter().find(|(machine, _)| *machine == number);
    let machine = known.map_or("an unknown processor", |(_, name)| name);
    if machine == here && head[elf::CLASS] == elf::CLASS_64 {
        return Ok(());
    }
    let text = format!("`bootstrap` is built for {machine}, but this machine is {here}");
    Err(PrepareError::InvalidCode(text))
}

#[cfg(test)]
mod tests;
