//! Sandboxes that nobody calls, and what makes them: for tests of where sandboxes go.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bowline_agent::{Host, HostOptions};
use bowline_foundation::clock::Clock;
use bowline_foundation::digest::Digest;
use bowline_foundation::units::Mebibytes;
use bowline_sandbox::{
    Backend, CodeDir, CreateError, Invocation, LogSink, Logging, Outcome, PrepareError, Report, Runtime, Sandbox,
    SandboxKind, Usage, VersionSpec,
};

pub(crate) const ACCOUNT: &str = "111122223333";

pub(crate) struct Idle;

#[async_trait]
impl Sandbox for Idle {
    async fn invoke(&mut self, _: Invocation) -> Report {
        Report {
            outcome: Outcome::Broken("nobody calls it".to_owned()),
            usage: Usage::default(),
            reusable: false,
        }
    }

    fn is_alive(&mut self) -> bool {
        true
    }

    fn resident_bytes(&self) -> u64 {
        0
    }

    async fn destroy(self: Box<Self>) {}
}

pub(crate) struct Sandboxes;

#[async_trait]
impl Backend for Sandboxes {
    fn kind(&self) -> SandboxKind {
        SandboxKind::Wasm
    }

    async fn check(&self, _: &VersionSpec) -> Result<(), PrepareError> {
        Ok(())
    }

    async fn prepare(&self, _: &VersionSpec) -> Result<(), PrepareError> {
        Ok(())
    }

    async fn create(&self, _: Arc<VersionSpec>, _: Arc<dyn LogSink>) -> Result<Box<dyn Sandbox>, CreateError> {
        Ok(Box::new(Idle))
    }
}

/// An agent whose sandboxes these are.
pub(crate) fn host(backend: Arc<dyn Backend>) -> Host {
    Host::new(HostOptions {
        clock: Clock::system(),
        backends: vec![backend],
        code: None,
        log_dir: PathBuf::from("/nonexistent"),
    })
}

pub(crate) fn version_of(account: &str, function: &str, mib: u32) -> Arc<VersionSpec> {
    Arc::new(VersionSpec {
        account: account.parse().unwrap(),
        region: "us-east-1".to_owned(),
        function: function.to_owned(),
        version: "1".to_owned(),
        runtime: Runtime::ProvidedAl2023,
        handler: String::new(),
        code: CodeDir {
            digest: Digest::of(b""),
            path: PathBuf::from("/nonexistent"),
        },
        layers: None,
        image: None,
        kind: SandboxKind::Wasm,
        memory: Mebibytes(mib),
        ephemeral_storage: Mebibytes(512),
        timeout: Duration::from_secs(3),
        environment: BTreeMap::new(),
        logging: Logging::default(),
        mounts: Vec::new(),
        processors: None,
    })
}
