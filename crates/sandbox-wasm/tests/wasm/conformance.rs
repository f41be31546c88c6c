//! The common suite over Wasm sandboxes.

use std::sync::Arc;

use bowline_foundation::clock::Clock;
use bowline_foundation::digest::Digest;
use bowline_foundation::id::AccountId;
use bowline_sandbox::conformance::{Ability, Prober, Subject};
use bowline_sandbox::{Backend, CodeDir, Runtime, SandboxKind, VersionSpec};
use bowline_sandbox_wasm::{Options, WasmBackend};
use serde_json::Value;
use tempfile::TempDir;

use crate::build;

bowline_sandbox::sandbox_conformance!(subject);

struct WasmSubject {
    backend: Arc<WasmBackend>,
    code: TempDir,
    digest: Digest,
}

async fn subject() -> Option<impl Subject> {
    let module = build::prober();
    let code = tempfile::tempdir().unwrap();
    std::fs::write(code.path().join("bootstrap.wasm"), &module).unwrap();
    // One cache for all tests: each of them may run in a process of its own.
    let options = Options::new(Clock::system(), build::scratch().join("cwasm"));
    Some(WasmSubject {
        backend: Arc::new(WasmBackend::new(options).unwrap()),
        code,
        digest: Digest::of(&module),
    })
}

impl Subject for WasmSubject {
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
            handler: String::new(),
            code: CodeDir {
                digest: self.digest,
                path: self.code.path().to_owned(),
            },
            layers: None,
            image: None,
            kind: SandboxKind::Wasm,
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
        &[
            Ability::Tmp,
            Ability::Fork,
            Ability::Ptrace,
            Ability::Mount,
            Ability::Sockets,
            Ability::Proc,
            Ability::AnswerTwice,
            Ability::Files,
        ]
    }

    fn traces(&self) -> Vec<String> {
        (0..self.backend.live_instances())
            .map(|number| format!("instance {number}"))
            .collect()
    }

    fn outside(&self, _event: &Value) -> Option<Value> {
        None
    }
}
