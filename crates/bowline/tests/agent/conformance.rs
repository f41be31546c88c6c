//! The common suite over sandboxes behind an agent.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bowline_agent::{Link, Remote};
use bowline_foundation::digest::Digest;
use bowline_foundation::id::AccountId;
use bowline_sandbox::conformance::{Ability, Prober, Subject};
use bowline_sandbox::{Backend, CodeDir, Runtime, SandboxKind, VersionSpec};
use serde_json::Value;

use crate::harness::{Agent, root, scratch};

const LEASE: Duration = Duration::from_secs(60);

/// Sandboxes of one kind behind an agent.
struct Behind {
    agent: Agent,
    _link: Link,
    backend: Arc<Remote>,
    kind: SandboxKind,
    code: PathBuf,
    digest: Digest,
    idle_channels: usize,
}

async fn behind(kind: SandboxKind, name: &str, program: &[u8]) -> Behind {
    let agent = Agent::start();
    let code = agent.folder.path().join("task");
    fs::create_dir(&code).expect("it works on a machine that runs tests");
    fs::write(code.join(name), program).expect("it works on a machine that runs tests");
    for path in [agent.folder.path(), &code, &code.join(name)] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("it works on a machine that runs tests");
    }
    let (link, _news) = agent
        .connect(1, LEASE)
        .await
        .expect("it works on a machine that runs tests");
    assert!(link.kinds().contains(&kind), "{:?}", link.kinds());
    let backend = Arc::new(Remote::new(&link, kind));
    Behind {
        idle_channels: agent.channels(),
        agent,
        backend,
        _link: link,
        kind,
        code,
        digest: Digest::of(program),
    }
}

async fn wasm() -> Option<impl Subject> {
    let module = wasm_prober();
    Some(behind(SandboxKind::Wasm, "bootstrap.wasm", &module).await)
}

async fn linux() -> Option<impl Subject> {
    let program = native_prober();
    let program = fs::read(&program).unwrap_or_else(|error| panic!("`{}`: {error}", program.display()));
    Some(behind(SandboxKind::Linux, "bootstrap", &program).await)
}

/// Built beside the node's binary whenever the whole workspace is.
fn native_prober() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_bowline")).with_file_name("linux-prober")
}

fn wasm_prober() -> Vec<u8> {
    let built = Command::new(env!("CARGO"))
        .args([
            "build",
            "--quiet",
            "--release",
            "--locked",
            "--target",
            "wasm32-wasip1",
            "--target-dir",
        ])
        .arg(scratch())
        .current_dir(root().join("crates/sandbox-wasm/tests/prober"))
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .status()
        .expect("cargo runs");
    assert!(built.success(), "the prober does not build");
    fs::read(scratch().join("wasm32-wasip1/release/prober.wasm")).expect("cargo built the module")
}

impl Subject for Behind {
    fn backend(&self) -> Arc<dyn Backend> {
        self.backend.clone()
    }

    fn version(&self, prober: Prober) -> VersionSpec {
        VersionSpec {
            account: AccountId::default_account(),
            region: "us-east-1".to_owned(),
            function: prober.function,
            version: "$LATEST".to_owned(),
            runtime: Runtime::ProvidedAl2023,
            handler: "app.handler".to_owned(),
            code: CodeDir {
                digest: self.digest,
                path: self.code.clone(),
            },
            layers: None,
            image: None,
            kind: self.kind,
            memory: prober.memory,
            ephemeral_storage: prober.ephemeral_storage,
            timeout: prober.timeout,
            environment: prober.environment,
            logging: bowline_sandbox::Logging::default(),
            mounts: Vec::new(),
            processors: None,
        }
    }

    fn lacks(&self) -> &[Ability] {
        match self.kind {
            SandboxKind::Linux => &[],
            _ => &[
                Ability::Tmp,
                Ability::Fork,
                Ability::Ptrace,
                Ability::Mount,
                Ability::Sockets,
                Ability::Proc,
                Ability::AnswerTwice,
                Ability::Files,
            ],
        }
    }

    /// The channels beyond those of no sandbox that the agent has not ended, and the processes that see the prober's code.
    fn traces(&self) -> Vec<String> {
        let channels = self.agent.channels().saturating_sub(self.idle_channels);
        let mut traces: Vec<String> = (0..channels).map(|number| format!("channel {number}")).collect();
        if self.kind == SandboxKind::Linux {
            let code = place_of(&self.code);
            let processes = fs::read_dir("/proc").expect("/proc is there");
            let pids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
            let guests = pids.filter(|pid| place_of(format!("/proc/{pid}/root/var/task")) == code);
            traces.extend(guests.map(|pid| format!("process {pid}")));
        }
        traces
    }

    fn outside(&self, event: &Value) -> Option<Value> {
        if self.kind != SandboxKind::Linux {
            return None;
        }
        let output = Command::new(native_prober())
            .arg(event.to_string())
            .envs(BTreeMap::from([(
                "SECRET",
                event["needle"].as_str().unwrap_or_default(),
            )]))
            .output()
            .expect("the prober runs outside");
        Some(serde_json::from_slice(&output.stdout).expect("the prober answers JSON"))
    }
}

/// What a folder is, wherever it is mounted.
fn place_of(folder: impl AsRef<Path>) -> Option<(u64, u64)> {
    let metadata = fs::metadata(folder).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

mod wasm_prober {
    use super::wasm;

    bowline_sandbox::sandbox_conformance!(wasm);
}

mod native_prober {
    use super::linux;

    bowline_sandbox::sandbox_conformance!(linux);
}
