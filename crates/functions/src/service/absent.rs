//! What stands where this node has no backend.

use std::sync::Arc;

use async_trait::async_trait;
use bowline_sandbox::{Backend, CreateError, LogSink, PrepareError, Sandbox, SandboxKind, VersionSpec};

/// Stands in for a kind of sandbox that this node does not offer.
pub(super) struct Absent(pub SandboxKind);

impl Absent {
    fn reason(&self) -> String {
        let kind = match self.0 {
            SandboxKind::Wasm => "WebAssembly",
            SandboxKind::Linux => "Linux",
        };
        format!("This node offers no {kind} sandboxes.")
    }
}

#[async_trait]
impl Backend for Absent {
    fn kind(&self) -> SandboxKind {
        self.0
    }

    async fn check(&self, _: &VersionSpec) -> Result<(), PrepareError> {
        Err(PrepareError::MissingRuntime(self.reason()))
    }

    async fn prepare(&self, _: &VersionSpec) -> Result<(), PrepareError> {
        Err(PrepareError::MissingRuntime(self.reason()))
    }

    async fn create(&self, _: Arc<VersionSpec>, _: Arc<dyn LogSink>) -> Result<Box<dyn Sandbox>, CreateError> {
        Err(CreateError::Backend(std::io::Error::other(self.reason())))
    }
}
