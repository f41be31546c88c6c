//! What functions see of instances: a backend that makes an account's sandboxes on its instances.
//!
//! ```text
//!   create ─▶ the account's instance with the most room ─▶ Remote ── it fails, is silent or full: the next one
//!          │   (where there are fleets: one of the version's, then one of another)
//!          ├─▶ one is coming, or the one that failed is replaced: wait for it
//!          ├─▶ all are full: one that was to go is taken back, or one more is made (`process`, `vm`), or there is no room
//!          └─▶ it has none that works: one of the warming pool, or a new one (`process`, `vm`), or the node itself (`inline`)
//! ```
//! A version is checked and prepared by the node; instances see what that made, or are sent it. A WebAssembly version whose
//! invocations can be suspended runs in the node: it alone keeps checkpoints, and goes on with them. A native one can be
//! suspended where it runs on an instance that is a virtual machine ([`crate::suspending`]). One that shares folders runs on
//! instances that are handed these, or served them, those that have them first; it is not suspended.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bowline_agent::{Access, Folder, FolderWay, Link, Maxima, Remote};
use bowline_capacity::sizing::derived;
use bowline_foundation::clock::Timestamp;
use bowline_foundation::digest::Digest;
use bowline_foundation::units::Mebibytes;
use bowline_sandbox::suspension::{CheckpointFacts, CheckpointMode, Suspendable};
use bowline_sandbox::{
    Backend, Berth, Content, CreateError, Ground, LogSink, MachineNeeds, Mount, MountAccess, NoRoom, PrepareError,
    ProcessorShare, Sandbox, SandboxKind, Share, ShareError, Stand, Unmet, VersionSpec,
};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};

use crate::file::Kind;
use crate::roster::{Choice, Origin, Passed, Wanted};
use crate::service::{Error, Handle};
use crate::suspending::{Making, Suspending};
use crate::tend::Room;
use crate::vm::VmProvider;

/// How long a creation waits for instances that are coming.
const COMING_MAX: Duration = Duration::from_secs(60);
/// A creation goes past so many instances; the failure of the next one is its own.
const PASSED_MAX: usize = 4;

/// Why what has folders is not suspended.
const FOLDERS_STAY: &str =
    "it has folders in common with others, which are not saved with its machine: detach them, or use a set of keys";

/// One processor, in thousandths.
const PROCESSOR_MILLIS: u64 = 1000;

/// Places sandboxes of one kind.
pub struct Placed {
    inline: Arc<dyn Backend>,
    instances: Handle,
    /// What an account without an instance gets, if it is not the node itself.
    always: Option<Kind>,
    /// What makes instances that invocations can be suspended with.
    machines: Option<Arc<VmProvider>>,
    /// The folders that are kept, with what each takes of the memory of an instance that has it.
    shares: Mutex<HashMap<String, u64>>,
}

impl Placed {
    pub fn new(inline: Arc<dyn Backend>, instances: Handle, always: Option<Kind>) -> Self {
        Self {
            inline,
            instances,
            always,
            machines: None,
            shares: Mutex::default(),
        }
    }

    /// Where native versions ask for it, suspends their invocations with the machines they run in.
    #[must_use]
    pub fn suspending_with(self, machines: Arc<VmProvider>) -> Self {
        let machines = Some(machines).filter(|_| self.inline.kind() == SandboxKind::Linux);
        Self { machines, ..self }
    }

    /// What makes sandboxes of a version whose invocations are suspended with their machines.
    fn making(
        &self,
        version: &Arc<VersionSpec>,
        (ground, stand): (Ground, Option<Stand>),
        log: &Arc<dyn LogSink>,
    ) -> Option<Making> {
        let may = asks_for_checkpoints(version) && version.mounts.is_empty();
        let machines = self.machines.clone().filter(|_| may)?;
        Some(Making {
            machines,
            version: version.clone(),
            kind: self.inline.kind(),
            ground,
            stand,
            log: log.clone(),
        })
    }

    /// Where the sandbox is to be made next; `None` is the node itself.
    async fn next(&self, version: &VersionSpec, walk: &mut Walk) -> Result<Option<(String, Link)>, CreateError> {
        let folders = walk.folders.clone();
        let wanted = Wanted {
            kind: self.inline.kind(),
            mib: u64::from(version.memory.0),
            class: self.instances.class(version),
            folders: &folders,
        };
        let roster = self.instances.roster();
        let mut changes = roster.changes();
        loop {
            match roster.choose(&version.account, wanted, &walk.passed) {
                Choice::Here(found) => {
                    let fleet = found.class;
                    let is_spilled = wanted.class.is_some_and(|wanted| wanted != fleet);
                    walk.stand = Some(Stand { fleet, is_spilled });
                    if (walk.ground, found.origin) == (Ground::NewInstance, Origin::Waited) {
                        walk.ground = Ground::WarmingPool;
                    }
                    return Ok(Some((found.name, found.link)));
                }
                Choice::Full => match self.more_room(version, (wanted, walk)).await? {
                    Room::None => return Err(self.full(version, (wanted, walk))),
                    Room::Here => {}
                    Room::Coming => walk.ground = Ground::NewInstance,
                },
                Choice::Coming => {
                    walk.ground = Ground::NewInstance;
                    // Its drivers live as long as the node.
                    let _ = changes.changed().await;
                }
                Choice::Nowhere => {
                    let Some(kind) = self.always else { return Ok(None) };
                    if let Some(failure) = walk.failure.take() {
                        return Err(failure);
                    }
                    walk.ground = Ground::NewInstance;
                    let made = self
                        .instances
                        .ensure_default(&version.account, kind, wanted.mib_anew())
                        .await;
                    made.map_err(|error| match error {
                        Error::Infeasible(reason) => CreateError::Exhausted(reason.into()),
                        Error::Held(reason) => CreateError::Away(reason),
                        error => CreateError::Backend(std::io::Error::other(error)),
                    })?;
                }
            }
        }
    }

    /// Has an account whose instances are full get another one, where it gets them without asking.
    async fn more_room(&self, version: &VersionSpec, (wanted, walk): (Wanted<'_>, &Walk)) -> Result<Room, CreateError> {
        let Some(kind) = self.always else {
            return Ok(Room::None);
        };
        let asked = (wanted, &walk.passed[..]);
        match self.instances.ensure_room(&version.account, kind, asked).await {
            Err(error) if error.is_refusal() => {
                tracing::warn!(account = %version.account, %error, "an account whose instances are full gets no other one");
                Ok(Room::None)
            }
            room => room.map_err(|error| CreateError::Backend(std::io::Error::other(error))),
        }
    }

    /// Why a walk ends where nobody has room: one that failed, or else that they are full, and what would help.
    fn full(&self, version: &VersionSpec, (wanted, walk): (Wanted<'_>, &mut Walk)) -> CreateError {
        match walk.failure.take() {
            Some(CreateError::Exhausted(_)) | None => {}
            Some(failure) => return failure,
        }
        let (Wanted { kind, mib, .. }, account) = (wanted, &version.account);
        CreateError::Exhausted(NoRoom {
            reason: format!("no instance of account {account} has {mib} MiB free for a sandbox of kind `{kind:?}`"),
            crowded: self.instances.roster().crowded(account, wanted, &walk.passed),
        })
    }

    /// Asks one instance for a sandbox. One that is lost meanwhile is not waited for.
    async fn create_at(
        &self,
        (link, walk): (&Link, &Walk),
        version: &Arc<VersionSpec>,
        log: &Arc<dyn LogSink>,
    ) -> Result<Box<dyn Sandbox>, CreateError> {
        let version = &on_instance(link, version);
        let creation = async {
            self.hand_over(link, &walk.folders).await?;
            if let Some(making) = self.making(version, (walk.ground, walk.stand), log)
                && let Some(whole) = VmProvider::behind(link)
            {
                let sandbox = Suspending::create(making, link, whole).await?;
                return Ok(Box::new(sandbox) as Box<dyn Sandbox>);
            }
            let remote = Remote::new(link, self.inline.kind())
                .on(walk.ground)
                .standing(walk.stand);
            remote.create(version.clone(), log.clone()).await
        };
        tokio::select! {
            biased;
            created = creation => created,
            () = link.ended() => {
                let lost = link.lost().map(|lost| lost.to_string()).unwrap_or_default();
                Err(CreateError::Backend(std::io::Error::other(lost)))
            }
        }
    }

    /// What a version's sandboxes share with others, with what that takes of an instance's memory.
    fn folders(&self, version: &VersionSpec) -> Vec<Folder> {
        let shares = self.shares.lock();
        let folder = |mount: &Mount| Folder {
            share: mount.share.clone(),
            access: access(mount),
            mib: shares.get(&mount.share).copied().unwrap_or_default(),
        };
        version.mounts.iter().map(folder).collect()
    }

    /// Has an instance get the folders that a sandbox is to have there, unless it has the node's own.
    async fn hand_over(&self, link: &Link, folders: &[Folder]) -> Result<(), CreateError> {
        if link.folder_way() != FolderWay::Same {
            for folder in folders {
                link.hand_over(folder, self.inline.lend(&folder.share)).await?;
            }
        }
        Ok(())
    }

    /// Goes past an instance that made no sandbox, unless that is the function's own doing or enough were asked.
    fn pass(&self, walk: &mut Walk, link: Link, failure: CreateError) -> Result<(), CreateError> {
        let why = match &failure {
            CreateError::Init(_) => return Err(failure),
            CreateError::Exhausted(_) => Passed::Full,
            CreateError::Away(_) | CreateError::Backend(_) => Passed::Failed,
        };
        if walk.passed.len() == PASSED_MAX {
            return Err(failure);
        }
        tracing::warn!(
            error = &failure as &dyn std::error::Error,
            "an instance makes no sandbox: the next place is asked"
        );
        self.instances.metrics().passed.inc();
        walk.passed.push((link, why));
        walk.failure = Some(failure);
        Ok(())
    }
}

/// A version as it runs on an instance: with the processors that its memory stands for there, and its folders by the names
/// that they have there.
fn on_instance(link: &Link, version: &Arc<VersionSpec>) -> Arc<VersionSpec> {
    let processors = link.maxima().and_then(|maxima| processors(version.memory, maxima));
    if processors.is_none() && version.mounts.is_empty() {
        return version.clone();
    }
    let there = |mount: &Mount| Mount {
        share: link.folder_way().name(&mount.share, access(mount)),
        ..mount.clone()
    };
    Arc::new(VersionSpec {
        processors: processors.or(version.processors),
        mounts: version.mounts.iter().map(there).collect(),
        ..VersionSpec::clone(version)
    })
}

/// What sandboxes that have a folder so may do there.
fn access(mount: &Mount) -> Access {
    match mount.access {
        MountAccess::Read => Access::Read,
        MountAccess::Write | MountAccess::WriteAlone => Access::Write,
    }
}

/// Of the instance's processors the same share as of its memory. What others leave of a processor is not held back.
fn processors(memory: Mebibytes, maxima: Maxima) -> Option<ProcessorShare> {
    let share = derived(memory.0.into(), maxima.memory_mib, maxima.cpu_millis)?;
    let quota = share.max(maxima.cpu_millis.min(PROCESSOR_MILLIS));
    let millis = |millis: u64| u32::try_from(millis).unwrap_or(u32::MAX).max(1);
    Some(ProcessorShare {
        share_millis: millis(share),
        quota_millis: millis(quota),
    })
}

/// Whether a version's owner wants its invocations to be suspended.
fn asks_for_checkpoints(version: &VersionSpec) -> bool {
    matches!(CheckpointMode::of(&version.environment), Ok(Some(_)))
}

/// How far the search of one creation is.
struct Walk {
    /// What the sandbox is to share with others.
    folders: Vec<Folder>,
    passed: Vec<(Link, Passed)>,
    /// Of the last one that was passed.
    failure: Option<CreateError>,
    ground: Ground,
    /// In the fleet of the instance that is asked.
    stand: Option<Stand>,
    until: Instant,
}

impl Walk {
    fn begin(folders: Vec<Folder>) -> Self {
        Self {
            folders,
            passed: Vec::new(),
            failure: None,
            ground: Ground::Instance,
            stand: None,
            until: Instant::now() + COMING_MAX,
        }
    }
}

fn late(version: &VersionSpec) -> CreateError {
    let account = &version.account;
    CreateError::Exhausted(format!("no instance of account {account} was ready within {COMING_MAX:?}").into())
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
        let mut walk = Walk::begin(self.folders(&version));
        loop {
            let next = timeout_at(walk.until, self.next(&version, &mut walk)).await;
            let Some((instance, link)) = next.unwrap_or_else(|_| Err(late(&version)))? else {
                return self.inline.create(version, log).await;
            };
            match self.create_at((&link, &walk), &version, &log).await {
                Err(failure) => self.pass(&mut walk, link, failure)?,
                Ok(sandbox) => {
                    self.instances.note_acquired(&version, instance, walk.stand);
                    return Ok(sandbox);
                }
            }
        }
    }

    async fn share(&self, share: &Share) -> Result<(), ShareError> {
        self.inline.share(share).await?;
        let mib = match share.content {
            Content::Memory => share.bytes.div_ceil(Mebibytes(1).bytes()),
            Content::NewVolume(_) | Content::Volume(_) => 0,
        };
        self.shares.lock().insert(share.name.clone(), mib);
        Ok(())
    }

    async fn unshare(&self, share: &str) {
        self.shares.lock().remove(share);
        // From here on no instance gets it any more.
        self.inline.unshare(share).await;
        for link in self.instances.roster().links() {
            if let Err(error) = link.take_back(share).await {
                tracing::warn!(share, %error, "an instance keeps a shared folder until it ends");
            }
        }
    }

    async fn lend(&self, share: &str) -> std::io::Result<OwnedFd> {
        self.inline.lend(share).await
    }

    fn has_fleets(&self) -> bool {
        self.instances.roster().has_any_fleets()
    }

    fn berth(&self, version: &VersionSpec) -> Option<Berth> {
        self.instances.berth(version)
    }

    fn called(&self, version: &VersionSpec, count: u64, since: Timestamp) {
        self.instances.called(version, count, since);
    }

    fn suspendable(&self, version: &VersionSpec) -> Suspendable {
        match self.inline.suspendable(version) {
            Suspendable::Unasked if self.machines.is_some() && asks_for_checkpoints(version) => {
                match version.mounts.is_empty() {
                    true => Suspendable::Yes,
                    false => Suspendable::Refused(FOLDERS_STAY.to_owned()),
                }
            }
            suspendable => suspendable,
        }
    }

    fn seat(&self, version: &Arc<VersionSpec>, log: Arc<dyn LogSink>) -> Option<Box<dyn Sandbox>> {
        let making = self.making(version, (Ground::NewInstance, None), &log)?;
        Some(Box::new(Suspending::seat(making)))
    }

    async fn unmet(&self, needs: &MachineNeeds) -> Option<Unmet> {
        match &self.machines {
            Some(machines) => machines.unmet(needs).await,
            None => self.inline.unmet(needs).await,
        }
    }

    fn inspect(&self, checkpoint: &Bytes) -> Result<CheckpointFacts, String> {
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

#[cfg(test)]
mod tests;
