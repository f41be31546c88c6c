//! What all operations share.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle as ThreadHandle;
use std::time::Duration;

use bowline_foundation::clock::Clock;
use bowline_foundation::entropy::Entropy;
use bowline_foundation::id::{AccountId, RequestId};
use bowline_sandbox::{Backend, CodeDir, RUNTIME_API, SandboxKind, VersionSpec};
use bowline_store::Version as StoreVersion;
use bowline_store::blob::Blobs;
use parking_lot::Mutex;
use tokio::runtime::Handle as RuntimeHandle;
use tokio::sync::{MutexGuard, RwLock, Semaphore};
use tokio::task::JoinSet;

use super::Options;
use super::absent::Absent;
use crate::cluster::Cluster;
use crate::crash::CrashPoints;
use crate::durable;
use crate::error::Error;
use crate::events::Engine;
use crate::invoke::{
    Accounts, Foresight, FunctionLive, Inbox, Keeper, Pool, PoolParts, Room, Running, Sweeper, Target,
};
use crate::logs::{FunctionLog, LogWriter, SandboxLog};
use crate::metrics::Metrics;
use crate::model::image::ImageUse;
use crate::model::logging;
use crate::model::{AccountUsage, Caller, Configuration};
use crate::name::{FunctionName, FunctionRef, Qualifier};
use crate::operations::garbage::Garbage;
use crate::operations::refusals::not_found;
use crate::package::cache::CodeCache;
use crate::package::layers::combination;
use crate::registry::{Audit, Change, FunctionEntry, LoadError, Loaded, Registry, fold};
use crate::state::Shelf;
use crate::suspend::Suspends;

/// Mutations of functions whose names fall in the same of so many classes wait for each other.
const LOCKS: usize = 64;
/// Versions that are prepared at once.
const PREPARES_MAX: usize = 2;
/// Images that are taken in at once.
const IMAGES_MAX: usize = 2;
/// Archives of images that are on their way at once, each with up to its greatest length on disk.
const UPLOADS_MAX: usize = 4;
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The service behind its handles.
pub(crate) struct Inner {
    pub clock: Clock,
    pub entropy: Entropy,
    region: String,
    pub registry: Registry,
    pub blobs: Blobs,
    pub code: CodeCache,
    pub registries: Vec<bowline_oci::registry::Registry>,
    pub backends: Vec<Arc<dyn Backend>>,
    pub accounts: Accounts,
    concurrency_max: u32,
    pub stream_bytes_per_second: Option<u32>,
    pub running: Arc<Running>,
    pub cluster: Option<Arc<Cluster>>,
    pub logs: Arc<LogWriter>,
    log_root: PathBuf,
    pub data_dir: PathBuf,
    /// Names this node for as long as its data folder lasts.
    pub node: String,
    pub metrics: Metrics,
    pub sweeper: Arc<Sweeper>,
    pub keeper: Keeper,
    /// The memory that sandboxes may have.
    pub room: Arc<Room>,
    pub foresight: Foresight,
    /// Told of what runs have used.
    pub used: Arc<Inbox>,
    pub garbage: Arc<Garbage>,
    pub runtime: RuntimeHandle,
    pub crash: CrashPoints,
    pub events: Option<Arc<Engine>>,
    pub durable: durable::Engine,
    pub suspends: Suspends,
    /// Held for mutations of mappings.
    pub mapping_lock: tokio::sync::Mutex<()>,
    /// Held for mutations of layers.
    pub layer_lock: tokio::sync::Mutex<()>,
    /// Held for mutations of images.
    pub image_lock: tokio::sync::Mutex<()>,
    /// The shared folders that this node keeps.
    pub shelf: Shelf,
    /// Held while shared state is attached or removed; taken before a function's lock.
    pub state_lock: tokio::sync::Mutex<()>,
    /// Images that are taken in at once.
    pub image_permits: Semaphore,
    /// Archives of images that are on their way at once; their clients may be slow.
    pub uploads: Arc<Semaphore>,
    /// Background ends of creations and updates.
    pub tasks: Mutex<JoinSet<()>>,
    pub prepare_permits: Semaphore,
    /// Held for the reservations of all accounts; taken before a function's lock.
    pub account_lock: tokio::sync::Mutex<()>,
    /// Shared while a package is taken in, exclusive while one is collected; taken before a function's lock.
    pub code_gate: RwLock<()>,
    locks: [tokio::sync::Mutex<()>; LOCKS],
}

impl Inner {
    /// Builds the parts; reads nothing from the store yet.
    pub fn open(options: Options, crash: CrashPoints) -> Result<(Arc<Self>, ThreadHandle<()>), Error> {
        let boot = fs::read_to_string(BOOT_ID).unwrap_or_default();
        let garbage = Arc::new(Garbage::default());
        let code_root = options.data_dir.join("code");
        let code = CodeCache::open(code_root, &boot, garbage.wake.clone()).map_err(Error::service)?;
        let dropped = options.metrics.log_bytes_dropped.clone();
        let (logs, log_thread) = LogWriter::start(options.clock.clone(), dropped).map_err(Error::service)?;
        let durable = durable::Engine::new(
            options.store.clone(),
            options.sharing,
            options.durable.timing,
            options.entropy.number(),
        );
        let claimed = options.metrics.memory_claimed(options.memory_budget);
        let room = Arc::new(Room::new(options.memory_budget, claimed));
        // By which the nodes of its cluster know it; one that is alone has a name that nobody else had.
        let node = match &options.cluster {
            Some(cluster) => cluster.host.id().0.to_string(),
            None => format!("{:016x}", options.entropy.number()),
        };
        let identity = (options.clock.clone(), node);
        let suspends = Suspends::new(options.suspend, options.store.clone(), options.sharing, identity);
        let inner = Self {
            durable,
            suspends,
            registry: Registry::new(
                options.store,
                options.sharing,
                options.clock.clone(),
                options.entropy.number(),
            )
            .publishing(options.events.is_some()),
            events: options.events.map(|events| Arc::new(Engine::new(events))),
            mapping_lock: tokio::sync::Mutex::default(),
            layer_lock: tokio::sync::Mutex::default(),
            image_lock: tokio::sync::Mutex::default(),
            shelf: Shelf::default(),
            state_lock: tokio::sync::Mutex::default(),
            image_permits: Semaphore::new(IMAGES_MAX),
            uploads: Arc::new(Semaphore::new(UPLOADS_MAX)),
            data_dir: options.data_dir.clone(),
            node: options.node,
            keeper: Keeper::default(),
            used: Arc::default(),
            foresight: Foresight::new(options.clock.now(), room.clone(), options.metrics.keeper.clone()),
            sweeper: Arc::new(Sweeper::new(options.clock.clone(), options.keep_alive, room.clone())),
            room,
            clock: options.clock,
            entropy: options.entropy,
            region: options.region,
            blobs: options.blobs,
            code,
            registries: options.registries,
            backends: options.backends,
            accounts: Accounts::new(options.concurrency_max),
            concurrency_max: options.concurrency_max,
            stream_bytes_per_second: options.stream_bytes_per_second,
            running: Arc::default(),
            cluster: options.cluster.map(|cluster| Arc::new(Cluster::new(cluster))),
            logs,
            log_root: options.data_dir.join("logs"),
            metrics: options.metrics,
            garbage,
            runtime: RuntimeHandle::current(),
            crash,
            tasks: Mutex::default(),
            prepare_permits: Semaphore::new(PREPARES_MAX),
            account_lock: tokio::sync::Mutex::default(),
            code_gate: RwLock::default(),
            locks: std::array::from_fn(|_| tokio::sync::Mutex::default()),
        };
        Ok((Arc::new(inner), log_thread))
    }

    /// Fills the snapshot from the store, and goes on with what was pending.
    pub async fn load(self: &Arc<Self>) -> Result<(), Error> {
        self.registry.trim_old().await.map_err(Error::service)?;
        for loaded in self.registry.load().await.map_err(Error::service)? {
            let entry = self.adopt(loaded, None);
            let (account, name, unsettled) = (entry.account.clone(), entry.name.clone(), entry.is_unsettled());
            self.replace(entry);
            if unsettled {
                let caller = Caller {
                    account: account.clone(),
                    request_id: self.revision(),
                };
                self.settle_later(&account, &name, &caller);
            }
        }
        self.registry.load_mappings().await.map_err(Error::service)?;
        self.registry.load_layers().await.map_err(Error::service)?;
        self.registry.load_images().await.map_err(Error::service)?;
        for entry in self.registry.snapshot.all() {
            self.accounts
                .set_reserved(&entry.account, self.reserved(&entry.account));
        }
        Ok(())
    }

    /// Gives what was loaded its places to run. Pools of `old` that are still right are kept.
    fn adopt(self: &Arc<Self>, loaded: Loaded, old: Option<&FunctionEntry>) -> FunctionEntry {
        let live = match old {
            Some(old) => old.live.clone(),
            None => self.function_live(&loaded.account, &loaded.name),
        };
        let mut entry = loaded.into_entry(live);
        entry.pool = entry.serving.clone().map(|serving| {
            let kept = old
                .filter(|old| old.serving.as_ref() == Some(&serving))
                .and_then(|old| old.pool.clone());
            kept.unwrap_or_else(|| self.pool(&serving, &entry))
        });
        let mut versions = std::mem::take(&mut entry.versions);
        for (number, version) in &mut versions {
            let kept = old
                .and_then(|old| old.versions.get(number))
                .and_then(|version| version.pool.clone());
            version.pool = match version.configuration.state {
                crate::model::State::Active => Some(kept.unwrap_or_else(|| self.pool(&version.configuration, &entry))),
                _ => None,
            };
        }
        entry.versions = versions;
        entry
    }

    /// Prepares all active versions in turn, so that no invocation waits for that.
    pub async fn warm_up(self: Arc<Self>) {
        for entry in self.registry.snapshot.all() {
            self.prepare_all(&entry).await;
        }
    }

    /// Prepares all active versions of a function.
    pub async fn prepare_all(&self, entry: &FunctionEntry) {
        for pool in entry.pools() {
            if let Err(error) = self.ensure_prepared(pool).await {
                tracing::warn!(function = %entry.name, version = %pool.version_text,
                    error = &error as &dyn std::error::Error, "a version cannot be prepared");
            }
        }
    }

    /// Ends everything after the last invocation.
    pub async fn close(&self) {
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        tasks.shutdown().await;
        let functions = self.registry.snapshot.all();
        let mut ending = JoinSet::new();
        for pool in functions.iter().flat_map(|entry| entry.pools()) {
            for slot in pool.retire() {
                ending.spawn(pool.clone().destroy(slot));
            }
        }
        while ending.join_next().await.is_some() {}
        for backend in &self.backends {
            backend.shut_down().await;
        }
        self.logs.close();
    }

    /// Commits; if that fails in a way that leaves doubt, reads the function again.
    pub async fn commit(
        self: &Arc<Self>,
        audit: Audit<'_>,
        change: &mut Change,
        of: &FunctionEntry,
    ) -> Result<StoreVersion, Error> {
        let caller = audit.caller;
        let committed = self.registry.commit(audit, change).await;
        if committed.is_err() {
            self.reload(of, caller).await;
        }
        committed
    }

    async fn reload(self: &Arc<Self>, of: &FunctionEntry, caller: &Caller) {
        let old = self.registry.snapshot.get(&of.account, &of.name);
        let entry = match self.read_again(&of.account, &of.name).await {
            Ok(Some(entry)) => entry,
            Ok(None) => return,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(function = %of.name, error, "a function cannot be read again after a failed commit");
                return;
            }
        };
        // Nobody settles yet what this process does not know to have committed.
        let news = old.is_none_or(|old| old.latest.revision_id != entry.latest.revision_id);
        if news && entry.is_unsettled() {
            self.settle_later(&of.account, &of.name, caller);
        }
    }

    /// Puts what the store holds of a function into the snapshot; returns it unless the function is gone.
    /// The caller holds the function's lock.
    pub async fn read_again(
        self: &Arc<Self>,
        account: &AccountId,
        name: &FunctionName,
    ) -> Result<Option<Arc<FunctionEntry>>, LoadError> {
        let loaded = self.registry.load_one(account, name).await?;
        let old = self.registry.snapshot.get(account, name);
        let Some(loaded) = loaded else {
            self.registry.snapshot.remove(account, name);
            old.iter().for_each(|old| self.gone(old));
            return Ok(None);
        };
        let entry = self.adopt(loaded, old.as_deref());
        let kept = |pool: &Arc<Pool>| entry.pools().any(|kept| Arc::ptr_eq(kept, pool));
        let left: Vec<_> = old
            .iter()
            .flat_map(|old| old.pools())
            .filter(|pool| !kept(pool))
            .cloned()
            .collect();
        self.replace(entry);
        left.into_iter().for_each(|pool| self.retire(Some(pool)));
        Ok(self.registry.snapshot.get(account, name))
    }

    /// Puts a function's new entry into the snapshot.
    pub fn replace(&self, mut entry: FunctionEntry) {
        let outdated = self.remount(&mut entry);
        let live = entry.live.clone();
        let before = self.registry.snapshot.get(&entry.account, &entry.name);
        let holds_as_before = before.is_some_and(|before| before.held() == entry.held());
        let account = entry.account.clone();
        self.keeper.apply(&entry);
        live.has_state.store(entry.state().is_some(), Ordering::Relaxed);
        self.foresight.apply(&entry);
        self.apply_sizes(&entry);
        self.registry.snapshot.put(Arc::new(entry));
        if !holds_as_before {
            self.accounts.set_reserved(&account, self.reserved(&account));
        }
        live.changes.send_modify(|changes| *changes += 1);
        outdated.into_iter().for_each(|pool| self.retire(Some(pool)));
    }

    /// Gives a function whose folders have changed other places to run; returns those that it had.
    fn remount(&self, entry: &mut FunctionEntry) -> Vec<Arc<Pool>> {
        let mounts = entry.mounts();
        let is_outdated = |pool: &&Arc<Pool>| pool.parts.spec.mounts != mounts;
        let outdated: Vec<_> = entry.pools().filter(is_outdated).cloned().collect();
        if outdated.is_empty() {
            return outdated;
        }
        let again = |configuration: &Configuration, old: &Arc<Pool>| {
            let pool = self.pool(configuration, entry);
            if old.prepared.initialized() {
                pool.prepared.set(()).expect("nobody else knows the pool yet");
            }
            pool
        };
        let latest = match (&entry.serving, &entry.pool) {
            (Some(serving), Some(old)) => Some(again(serving, old)),
            _ => None,
        };
        let mut versions = entry.versions.clone();
        for version in versions.values_mut() {
            version.pool = version.pool.as_ref().map(|old| again(&version.configuration, old));
        }
        entry.pool = latest;
        entry.versions = versions;
        outdated
    }

    /// Ends what a deleted function leaves.
    pub fn gone(&self, entry: &FunctionEntry) {
        entry.live.changes.send_modify(|changes| *changes += 1);
        entry.pools().for_each(|pool| self.retire(Some(pool.clone())));
        entry
            .configurations()
            .for_each(|configuration| self.garbage.add_all(configuration.digests()));
        self.logs.delete(&entry.live.log);
        self.accounts
            .set_reserved(&entry.account, self.reserved(&entry.account));
        self.metrics.forget(entry.name.as_str());
    }

    /// Ends a pool's idle sandboxes; the busy ones end after their invocation.
    pub fn retire(&self, pool: Option<Arc<Pool>>) {
        if let Some(pool) = pool {
            for slot in pool.retire() {
                self.runtime.spawn(pool.clone().destroy(slot));
            }
            self.sweeper.forget(&pool);
        }
    }

    /// Waits until no other mutation of the function runs.
    pub async fn lock(&self, account: &AccountId, name: &FunctionName) -> MutexGuard<'_, ()> {
        let class = fold(account.as_str())
            .wrapping_mul(31)
            .wrapping_add(fold(name.as_str()));
        self.locks[class % LOCKS].lock().await
    }

    pub fn function_live(&self, account: &AccountId, name: &FunctionName) -> Arc<FunctionLive> {
        let log = FunctionLog::new(&self.log_root, account, name);
        FunctionLive::new(self.accounts.get(account), log)
    }

    /// A place where a configuration of `entry`'s function can run.
    pub fn pool(&self, configuration: &Configuration, entry: &FunctionEntry) -> Arc<Pool> {
        let sizing = entry.sizing(configuration.version, configuration.memory);
        let parts = PoolParts {
            name: configuration.name.clone(),
            version: configuration.version,
            spec: Arc::new(VersionSpec {
                mounts: entry.mounts(),
                ..self.spec(configuration)
            }),
            arn: self.arn(&configuration.account, &configuration.name, None).into(),
            backend: self.backend(configuration.kind),
            metrics: self
                .metrics
                .of_function(configuration.name.as_str(), configuration.kind),
            live: entry.live.clone(),
            is_durable: configuration.durable.is_some(),
            used: self.used.clone(),
            arrivals: self.foresight.arrivals.clone(),
            layers: configuration.layer_digests(),
            held: configuration.digests().map(|digest| self.code.hold(&digest)).collect(),
            is_brought: false,
        };
        Pool::new(parts, sizing)
    }

    /// The same for a configuration that this process has just prepared.
    pub fn prepared_pool(&self, configuration: &Configuration, entry: &FunctionEntry) -> Arc<Pool> {
        let pool = self.pool(configuration, entry);
        pool.prepared.set(()).expect("nobody else knows the pool yet");
        pool
    }

    pub fn spec(&self, configuration: &Configuration) -> VersionSpec {
        VersionSpec {
            account: configuration.account.clone(),
            region: self.region.clone(),
            function: configuration.name.to_string(),
            version: configuration.version.to_string(),
            runtime: configuration.runtime,
            handler: configuration.handler.clone(),
            code: CodeDir {
                digest: configuration.code.digest,
                path: self.code.path(&configuration.code.digest),
            },
            layers: combination(&configuration.layer_digests()).map(|digest| CodeDir {
                path: self.code.path(&digest),
                digest,
            }),
            image: configuration.image.as_ref().map(ImageUse::spec),
            kind: configuration.kind,
            memory: configuration.memory,
            ephemeral_storage: configuration.ephemeral_storage,
            timeout: Duration::from_secs(configuration.timeout_seconds.into()),
            environment: environment(configuration),
            logging: logging::of(&configuration.inert),
            mounts: Vec::new(),
            processors: None,
        }
    }

    /// The log of a sandbox of this pool.
    pub fn sandbox_log(&self, pool: &Pool) -> Arc<SandboxLog> {
        let parts = &pool.parts;
        SandboxLog::new(parts.live.log.clone(), self.logs.clone(), parts.spec.logging.format)
    }

    /// The backend of a kind; one that refuses everything if this node has none.
    pub fn backend(&self, kind: SandboxKind) -> Arc<dyn Backend> {
        let found = self.backends.iter().find(|backend| backend.kind() == kind);
        found.cloned().unwrap_or_else(|| Arc::new(Absent(kind)))
    }

    pub fn region(&self) -> &str {
        &self.region
    }

    pub fn revision(&self) -> String {
        RequestId::random(&self.entropy).to_string()
    }

    pub fn arn(&self, account: &AccountId, name: &FunctionName, qualifier: Option<&Qualifier>) -> String {
        let arn = format!("arn:aws:lambda:{}:{account}:function:{name}", self.region);
        match qualifier {
            None => arn,
            Some(qualifier) => format!("{arn}:{qualifier}"),
        }
    }

    pub fn target_arn(&self, target: &FunctionRef) -> String {
        self.arn(&target.account, &target.name, target.qualifier.as_ref())
    }

    /// The function a target names.
    pub fn entry(&self, target: &FunctionRef) -> Result<Arc<FunctionEntry>, Error> {
        let found = self.registry.snapshot.get(&target.account, &target.name);
        found.ok_or_else(|| not_found(&self.target_arn(target)))
    }

    /// The version a target names.
    pub fn target<'a>(&self, entry: &'a FunctionEntry, target: &FunctionRef) -> Result<Target<'a>, Error> {
        let found = Target::find(entry, target.qualifier.as_ref(), &self.entropy);
        found.ok_or_else(|| not_found(&self.target_arn(target)))
    }

    /// What is reserved in an account.
    pub fn reserved(&self, account: &AccountId) -> u32 {
        let functions = self.registry.snapshot.of_account(account);
        functions.iter().map(|entry| entry.held()).fold(0, u32::saturating_add)
    }

    pub fn usage(&self, account: &AccountId) -> AccountUsage {
        AccountUsage {
            code_bytes: self.code_bytes(account),
            functions: self.registry.snapshot.of_account(account).len() as u64,
            concurrency_max: self.concurrency_max,
            unreserved_concurrency: self.accounts.unreserved(self.reserved(account)),
        }
    }

    /// Waits for the end of a creation or an update.
    pub async fn settled(&self, target: &FunctionRef) -> Result<Configuration, Error> {
        let mut changes = self.entry(target)?.live.changes.subscribe();
        loop {
            let entry = self.entry(target)?;
            if !entry.is_unsettled() {
                return Ok(Configuration::clone(&entry.latest));
            }
            drop(entry);
            if changes.changed().await.is_err() {
                return Err(not_found(&self.target_arn(target)));
            }
        }
    }
}

/// The owner's variables; those of a durable function lead the SDKs to the platform by its loopback.
fn environment(configuration: &Configuration) -> BTreeMap<String, String> {
    let mut variables = configuration.environment.clone();
    if configuration.durable.is_some() {
        let endpoint = format!("http://{RUNTIME_API}");
        let added = [
            ("AWS_ENDPOINT_URL_LAMBDA", endpoint.as_str()),
            // The loopback asks for no proof, but the SDKs sign whatever they send.
            ("AWS_ACCESS_KEY_ID", "sandbox"),
            ("AWS_SECRET_ACCESS_KEY", "sandbox"),
        ];
        for (name, value) in added {
            variables.entry(name.to_owned()).or_insert_with(|| value.to_owned());
        }
    }
    variables
}
