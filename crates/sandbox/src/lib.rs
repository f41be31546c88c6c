//! The contract between the platform and the places where functions run.
//!
//! A [`Backend`] makes one kind of sandbox. It first *prepares* a version (checks and compiles its
//! code, off the invocation path), then *creates* sandboxes for it on demand. A [`Sandbox`] serves one
//! version and one invocation at a time; it is reused until an invocation ends it, and destroyed when
//! idle. Every kind passes the suite in [`conformance`].

pub mod answer;
pub mod conformance;
mod fleet;
pub mod image;
mod invocation;
mod log;
mod logging;
mod machine;
mod platform;
pub mod record;
mod share;
mod site;
pub mod suspension;
mod version;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

pub use answer::{AnswerSink, AnswerStream, AnswerTooLarge};
pub use fleet::{Berth, Stand};
pub use image::ImageSpec;
pub use invocation::{Deadline, FunctionError, Invocation, Outcome, Report, Usage};
pub use log::{LogSink, MemoryLog};
pub use logging::{ApplicationLogLevel, LogFormat, Logging, SystemLogLevel};
pub use machine::{MachineNeeds, MachineOffer, Unmet};
pub use platform::{PLATFORM_BODY_BYTES_MAX, Platform, PlatformRequest, PlatformResponse, RUNTIME_API};
pub use share::{Content, MOUNTS_DIR, MOUNTS_MAX, Mount, MountAccess, Share, ShareError};
pub use site::{Crowded, NoRoom, Site};
pub use suspension::{CheckpointFacts, CheckpointMode, Control, Frozen, Keeper, Suspendable, Suspension, Wish};
pub use version::{CodeDir, ProcessorShare, Runtime, SandboxKind, VersionSpec};

/// Makes sandboxes of one kind.
///
/// All methods may be called concurrently. Dropping a returned future cancels the work and leaves
/// nothing behind.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// Which kind of sandbox this backend makes.
    fn kind(&self) -> SandboxKind;

    /// Refuses what no preparation could ever make run here. A client waits for it: it reads the code
    /// once at most, compiles nothing, and may pass what [`Backend::prepare`] refuses later.
    async fn check(&self, version: &VersionSpec) -> Result<(), PrepareError>;

    /// Checks that `version` can run here and does the slow work ahead of time (compiles a module,
    /// finds the interpreter). Idempotent; its results are cached by code digest, so repeating it after
    /// a restart is cheap. Called before a version becomes active and again after a restart.
    async fn prepare(&self, version: &VersionSpec) -> Result<(), PrepareError>;

    /// Creates a sandbox and initialises the function in it. Output of the initialisation and of all
    /// later invocations goes to `log`.
    async fn create(&self, version: Arc<VersionSpec>, log: Arc<dyn LogSink>) -> Result<Box<dyn Sandbox>, CreateError>;

    /// Whether invocations of a prepared version can be suspended. Must be cheap.
    fn suspendable(&self, _version: &VersionSpec) -> Suspendable {
        Suspendable::Unasked
    }

    /// What a checkpoint of this kind of sandbox says of itself, or why it is none.
    fn inspect(&self, _checkpoint: &Bytes) -> Result<CheckpointFacts, String> {
        Err("this kind of sandbox takes no checkpoints".to_owned())
    }

    /// The versions of the format and of the pass of the checkpoints that it goes on with, if it does.
    fn checkpoint_versions(&self) -> Option<(u32, u32)> {
        None
    }

    /// Begins to keep a folder that sandboxes of this node share. Idempotent while it is kept.
    async fn share(&self, _share: &Share) -> Result<(), ShareError> {
        Err(ShareError::Unsupported(
            "this node offers no sandboxes that can share folders".to_owned(),
        ))
    }

    /// Ends the keeping. Returns once nothing of it is left but what sandboxes still have.
    async fn unshare(&self, _share: &str) {}

    /// A folder that is kept, as a mount that is attached nowhere yet: an agent on this machine is handed it.
    async fn lend(&self, _share: &str) -> std::io::Result<OwnedFd> {
        Err(std::io::ErrorKind::Unsupported.into())
    }

    /// Whether anybody's places are in fleets, so that it matters how often versions are called. Must be cheap.
    fn has_fleets(&self) -> bool {
        false
    }

    /// Where a version's sandboxes belong now; `None` where its account's places are in no fleets. Must be cheap.
    fn berth(&self, _version: &VersionSpec) -> Option<Berth> {
        None
    }

    /// Tells how often a version was called from `since` until now, where that matters. Must be cheap.
    fn called(&self, _version: &VersionSpec, _count: u64, _since: bowline_foundation::clock::Timestamp) {}

    /// A sandbox for an invocation that goes on from a checkpoint, if [`Self::create`] is not the way to one: what it
    /// holds is made when it is invoked.
    fn seat(&self, _version: &Arc<VersionSpec>, _log: Arc<dyn LogSink>) -> Option<Box<dyn Sandbox>> {
        None
    }

    /// What a checkpoint of a whole machine needs that is not here; only some backends go on with such.
    async fn unmet(&self, _needs: &MachineNeeds) -> Option<Unmet> {
        let needed = "virtual machines";
        Some(Unmet::new("kind", needed, "none for this kind of sandbox"))
    }

    /// How often something that was made ahead waited for who wanted a sandbox, since this began.
    fn made_ahead(&self) -> Vec<MadeAhead> {
        Vec::new()
    }

    /// Frees what belongs to no version any more: called with the digests still in use, rarely.
    async fn collect_garbage(&self, _in_use: &[bowline_foundation::digest::Digest]) {}

    /// Ends helper processes and removes what outlives sandboxes. Called once, after every sandbox was
    /// destroyed.
    async fn shut_down(&self) {}
}

/// How often something that was made ahead of a call waited for who wanted a sandbox of a runtime, and how often nothing did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MadeAhead {
    pub runtime: String,
    pub hits: u64,
    pub misses: u64,
}

/// One isolated place in which one version runs, one invocation at a time.
#[async_trait]
pub trait Sandbox: Send + 'static {
    /// Runs one invocation to its end or to its deadline, whichever comes first; returns within a short
    /// grace of the deadline even if the guest never yields. When the report says so the sandbox may be
    /// used again; otherwise it must be destroyed. Dropping the future ends the guest's run, and the
    /// sandbox must be destroyed.
    ///
    /// If the invocation carries a sink and the function streams, the answer goes there piece by piece as
    /// the function writes it, and the report's answer is empty; a function that does not stream is
    /// reported as ever. A full sink holds the guest back, but not its deadline.
    ///
    /// If the invocation carries a suspension and the version can be suspended, the guest heeds its control.
    async fn invoke(&mut self, invocation: Invocation) -> Report;

    /// Whether the last invocation is over for everybody in the sandbox, and not only for its caller.
    /// Until then it must not be used again: [`Self::settle`] waits. Must be cheap.
    fn is_settled(&self) -> bool {
        true
    }

    /// Waits until the last invocation is over for everybody in the sandbox, at most until its deadline.
    /// Says whether the sandbox may be used again; otherwise it must be destroyed.
    async fn settle(&mut self) -> bool {
        true
    }

    /// Whether the sandbox still lives; called before a warm one is reused. Must be cheap.
    fn is_alive(&mut self) -> bool;

    /// Tells the sandbox that it will be idle for some time, so that it can be frozen or trimmed.
    async fn idle(&mut self) {}

    /// Memory the sandbox holds now, in bytes; zero if unknown. Must be cheap.
    fn resident_bytes(&self) -> u64;

    /// Whether an invocation in it can be suspended, if its version allows it. Must be cheap.
    fn can_suspend(&self) -> bool {
        true
    }

    /// Where it was made. Must be cheap.
    fn ground(&self) -> Ground {
        Ground::Node
    }

    /// The fleet that the place is in where it was made, or would be in if there were any. Must be cheap.
    fn stand(&self) -> Option<Stand> {
        None
    }

    /// The place whose room it takes, where that is bounded by itself: its end makes room there. Must be cheap.
    fn site(&self) -> Option<&Site> {
        None
    }

    /// Ends everything that runs in the sandbox and removes its traces; returns when they are gone.
    async fn destroy(self: Box<Self>);
}

/// What a sandbox was made on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ground {
    /// The node itself.
    #[default]
    Node,
    /// An instance of the account that was there.
    Instance,
    /// An instance that the account got for this: its server had waited for whoever wants one.
    WarmingPool,
    /// An instance of the account that was waited for: it was made, or replaced one that had failed.
    NewInstance,
}

/// Why a version cannot be prepared.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The code or the configuration is at fault; the text is for the function's owner.
    #[error("{0}")]
    InvalidCode(String),
    /// The machine lacks something, an interpreter say; the text names it and says what to do.
    #[error("{0}")]
    MissingRuntime(String),
    /// The platform failed; trying again may help.
    #[error("sandbox backend failed while preparing: {0}")]
    Backend(#[source] std::io::Error),
}

/// Why a sandbox could not be created.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The function failed while it initialised; the owner sees this as a function error.
    #[error("function failed to initialise: {}", .0.error_type)]
    Init(FunctionError),
    /// No room now; retry later or after destroying an idle sandbox.
    #[error("no room for another sandbox: {}", .0.reason)]
    Exhausted(NoRoom),
    /// Where it would be made, somebody must look after something first; the text is for the caller.
    #[error("{0}")]
    Away(String),
    /// The platform failed.
    #[error("sandbox backend failed: {0}")]
    Backend(#[source] std::io::Error),
}
