//! A backend with a spawner and folders of its own, and versions of functions for it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bowline_foundation::clock::Clock;
use bowline_foundation::digest::Digest;
use bowline_foundation::entropy::Entropy;
use bowline_foundation::id::{AccountId, RequestId};
use bowline_foundation::units::Mebibytes;
use bowline_sandbox::{
    Backend, CodeDir, CreateError, Deadline, FunctionError, Invocation, MemoryLog, Outcome, Report, Runtime, Sandbox,
    SandboxKind, VersionSpec,
};
use bowline_sandbox_linux::cell::{Spawner, SpawnerOptions};
use bowline_sandbox_linux::{LinuxBackend, Options, available_runtimes};
use bytes::Bytes;
use serde_json::Value;
use tempfile::TempDir;

const SPAWNER: &str = env!("CARGO_BIN_EXE_cell-spawner");

/// A backend under test.
pub struct World {
    pub backend: Arc<LinuxBackend>,
    pub clock: Clock,
    dir: TempDir,
}

impl World {
    pub fn start(warm_cells: usize) -> Self {
        let dir = tempfile::tempdir().expect("a folder can be made");
        allow_all(dir.path());
        let spawner = SpawnerOptions {
            state_dir: dir.path().join("cells"),
            program: Some(SPAWNER.into()),
        };
        let spawner = Spawner::start(spawner).expect("the spawner starts");
        let clock = Clock::system();
        let options = Options {
            warm_cells,
            ..Options::new(clock.clone(), dir.path().join("state"), spawner)
        };
        Self {
            backend: Arc::new(LinuxBackend::new(options).expect("the state folder is writable")),
            clock,
            dir,
        }
    }

    /// A new code folder with these files; programs are those that begin like one.
    pub fn code(&self, files: &[(&str, &[u8])]) -> PathBuf {
        let folder = tempfile::Builder::new().prefix("code").tempdir_in(self.dir.path());
        let folder = folder.expect("a folder can be made").keep();
        allow_all(&folder);
        for (name, content) in files {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().expect("it lies in the folder")).expect("folders can be made");
            fs::write(&path, content).expect("files can be written");
            allow_all(&path);
        }
        folder
    }

    pub fn version(&self, runtime: Runtime, handler: &str, code: PathBuf) -> VersionSpec {
        VersionSpec {
            account: AccountId::default_account(),
            region: "eu-central-1".to_owned(),
            function: "subject".to_owned(),
            version: "$LATEST".to_owned(),
            runtime,
            handler: handler.to_owned(),
            code: CodeDir {
                digest: Digest::of(code.as_os_str().as_encoded_bytes()),
                path: code,
            },
            layers: None,
            image: None,
            kind: SandboxKind::Linux,
            memory: Mebibytes(256),
            ephemeral_storage: Mebibytes(64),
            timeout: Duration::from_secs(20),
            environment: BTreeMap::new(),
            logging: bowline_sandbox::Logging::default(),
            mounts: Vec::new(),
            processors: None,
        }
    }

    /// Prepares the version and makes a sandbox of it.
    pub async fn create(&self, version: VersionSpec) -> Result<Live, CreateError> {
        self.backend.prepare(&version).await.expect("the version is valid");
        let log = Arc::new(MemoryLog::default());
        let sandbox = self.backend.create(Arc::new(version), log.clone()).await?;
        Ok(Live {
            sandbox,
            log,
            clock: self.clock.clone(),
        })
    }

    /// The error of an initialisation that must fail.
    pub async fn init_error(&self, version: VersionSpec) -> (String, Value) {
        match self.create(version).await {
            Err(CreateError::Init(error)) => parts(&error),
            Err(other) => panic!("should fail to initialise, but: {other:?}"),
            Ok(live) => panic!("should fail to initialise; it printed: {}", live.log.text()),
        }
    }
}

/// A sandbox that lives.
pub struct Live {
    pub sandbox: Box<dyn Sandbox>,
    pub log: Arc<MemoryLog>,
    clock: Clock,
}

impl Live {
    pub async fn report(&mut self, event: &Value) -> Report {
        self.report_within(event, Duration::from_secs(20)).await
    }

    pub async fn report_within(&mut self, event: &Value, budget: Duration) -> Report {
        let invocation = self.invocation(event, budget);
        self.sandbox.invoke(invocation).await
    }

    pub fn invocation(&self, event: &Value, budget: Duration) -> Invocation {
        Invocation {
            request_id: RequestId::random(&Entropy::system()),
            payload: Bytes::from(event.to_string()),
            deadline: Deadline {
                wall: self.clock.now().after(budget),
                monotonic: self.clock.monotonic().after(budget),
                budget,
            },
            invoked_arn: "arn:aws:lambda:eu-central-1:000000000000:function:subject".to_owned(),
            client_context: None,
            trace_id: Some("Root=1-5759e988-bd862e3fe1be46a994272793".to_owned()),
            sink: None,
            platform: None,
            suspension: None,
        }
    }

    pub async fn ask(&mut self, event: Value) -> Value {
        match self.report(&event).await.outcome {
            Outcome::Success(answer) => serde_json::from_slice(&answer).expect("answers are JSON"),
            other => panic!("`{event}` should be answered, but: {other:?}; log: {}", self.log.text()),
        }
    }

    pub async fn error(&mut self, event: Value) -> (String, Value) {
        match self.report(&event).await.outcome {
            Outcome::Failed(error) => parts(&error),
            other => panic!("`{event}` should fail, but: {other:?}; log: {}", self.log.text()),
        }
    }
}

fn parts(error: &FunctionError) -> (String, Value) {
    let payload = serde_json::from_slice(&error.payload).expect("an error's payload is JSON");
    (error.error_type.clone(), payload)
}

/// A Python of this machine.
pub fn python() -> Option<Runtime> {
    // Asking every interpreter takes a second or two where shims are in the way.
    let names = fs::read_dir("/usr/bin").into_iter().flatten();
    let names = names.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let runtimes = names.filter_map(|name| name.parse::<Runtime>().ok());
    runtimes
        .max_by_key(|runtime| match runtime {
            Runtime::Python { minor } => *minor,
            _ => 0,
        })
        .or_else(|| any(|runtime| matches!(runtime, Runtime::Python { .. })))
}

/// A Node.js of this machine.
pub fn node() -> Option<Runtime> {
    let version = Command::new("node").arg("--version").output().ok();
    let major = version.and_then(|output| {
        let text = String::from_utf8(output.stdout).ok()?;
        text.strip_prefix('v')?.split('.').next()?.parse().ok()
    });
    let runtime = major.map(|major| Runtime::NodeJs { major });
    runtime.or_else(|| any(|runtime| matches!(runtime, Runtime::NodeJs { .. })))
}

fn any(wanted: fn(&Runtime) -> bool) -> Option<Runtime> {
    let found = available_runtimes().into_iter().find(wanted);
    if found.is_none() {
        eprintln!("no interpreter of the wanted language is here: skipped");
    }
    found
}

/// Guests are nobody on the host: they read what others may.
fn allow_all(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("the path is ours");
}
