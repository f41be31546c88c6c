//! What functions see of instances: a backend that makes an account's sandboxes on its instances.
//!
//! ```text
//!   create ─▶ the account's instance with the most room ─▶ Remote
//!          ├─▶ one is coming: wait for it
//!          ├─▶ all are full: no room
//!          └─▶ it has none: make one (`process`), or the node itself (`inline`)
//! ```
//! A version is checked and prepared by the node; instances see what that made, or are sent it. One whose invocations can
//! be suspended runs in the node: it alone keeps checkpoints, and goes on with them.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bowline_agent::Remote;
use bowline_foundation::digest::Digest;
use bowline_sandbox::suspension::{CheckpointFacts, Suspendable};
use bowline_sandbox::{Backend, CreateError, LogSink, PrepareError, Sandbox, SandboxKind, VersionSpec};
use tokio::time::timeout;

use crate::roster::Choice;
use crate::service::Handle;

/// How long a creation waits for an instance that is coming.
const COMING_MAX: Duration = Duration::from_secs(60);

/// Places sandboxes of one kind.
pub struct Placed {
    inline: Arc<dyn Backend>,
    instances: Handle,
    /// Whether an account without an instance gets one, rather than the node.
    always: bool,
}

impl Placed {
    pub fn new(inline: Arc<dyn Backend>, instances: Handle, always: bool) -> Self {
        Self {
            inline,
            instances,
            always,
        }
    }

    async fn place(&self, version: &VersionSpec) -> Result<Option<Remote>, CreateError> {
        let (kind, mib) = (self.inline.kind(), u64::from(version.memory.0));
        let roster = self.instances.roster();
        let mut changes = roster.changes();
        loop {
            match roster.choose(&version.account, kind, mib) {
                Choice::Here(link) => return Ok(Some(Remote::new(&link, kind))),
                Choice::Full => {
                    let text = format!(
                        "no instance of account {} has {mib} MiB free for a sandbox of kind `{kind:?}`",
                        version.account
                    );
                    return Err(CreateError::Exhausted(text));
                }
                Choice::Coming => {
                    // Its drivers live as long as the node.
                    let _ = changes.changed().await;
                }
                Choice::Nowhere if self.always => {
                    let made = self.instances.ensure_default(&version.account).await;
                    made.map_err(|error| CreateError::Backend(std::io::Error::other(error)))?;
                }
                Choice::Nowhere => return Ok(None),
            }
        }
    }
}

#[async_trait]
impl Backend for Placed {
    fn kind(&self) -> SandboxKind {
        self.inline.kind()
    }

    async fn check(&self, version: &VersionSpec) -> Result<(), PrepareError> {
        self.inline.check(version).await
    }

    async fn prepare(&self, version: &VersionSpec) -> Result<(), PrepareError> {
        self.inline.prepare(version).await
    }

    async fn create(&self, version: Arc<VersionSpec>, log: Arc<dyn LogSink>) -> Result<Box<dyn Sandbox>, CreateError> {
        if self.inline.suspendable(&version) == Suspendable::Yes {
            return self.inline.create(version, log).await;
        }
        let placed = timeout(COMING_MAX, self.place(&version)).await;
        let placed = placed.unwrap_or_else(|_| {
            let text = format!(
                "no instance of account {} was ready within {COMING_MAX:?}",
                version.account
            );
            Err(CreateError::Exhausted(text))
        })?;
        match placed {
            Some(remote) => remote.create(version, log).await,
            None => self.inline.create(version, log).await,
        }
    }

    fn suspendable(&self, version: &VersionSpec) -> Suspendable {
        self.inline.suspendable(version)
    }

    fn inspect(&self, checkpoint: &[u8]) -> Result<CheckpointFacts, String> {
        self.inline.inspect(checkpoint)
    }

    fn checkpoint_versions(&self) -> Option<(u32, u32)> {
        self.inline.checkpoint_versions()
    }

    async fn collect_garbage(&self, in_use: &[Digest]) {
        self.inline.collect_garbage(in_use).await;
        for link in self.instances.roster().links() {
            if let Err(error) = link.keep_code(in_use).await {
                tracing::debug!(%error, "an instance keeps code that nobody uses");
            }
        }
    }

    async fn shut_down(&self) {
        self.inline.shut_down().await;
    }
}
