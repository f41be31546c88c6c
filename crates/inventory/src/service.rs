//! The instances of a node: who asks for something, asks here.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bowline_agent::Link;
pub use bowline_agent::{CodeThere, Inventory, Reading, SandboxThere};
use bowline_foundation::clock::Clock;
use bowline_foundation::digest::Digest;
use bowline_foundation::entropy::Entropy;
use bowline_foundation::id::AccountId;
use bowline_store::Store;
use parking_lot::Mutex;
use tokio::sync::{OwnedMutexGuard, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

pub use crate::book::Caller;
use crate::book::{Book, BookError, Change, Kept};
use crate::crash::CrashPoints;
use crate::drive::{Driver, Order};
use crate::file::{Effective, FileError, InstanceFile, Kind};
use crate::fleets::Fleets;
use crate::metrics::Metrics;
use crate::model::{Assignment, CostIndication, Event, FileRecord, Instance, Server, State, TokenRecord};
use crate::provider::{Declared, Offer, Provider, Waiting};
use crate::roster::{Roster, Standing};
use crate::tend::{self, Tended};

/// Orders that wait for a driver.
const ORDERS_MAX: usize = 16;
/// The instance of an account that got one without asking.
pub const DEFAULT_INSTANCE: &str = "default";
/// The least and the most memory of one that is a virtual machine, in MiB.
const DEFAULT_VM_MIB: (u64, u64) = (512, 2048);
/// The longest client token.
const TOKEN_BYTES_MAX: usize = 64;
/// Instances of one account.
const INSTANCES_MAX: usize = 100;

/// What the service is built from.
pub struct Options {
    pub store: Arc<dyn Store>,
    pub clock: Clock,
    pub entropy: Entropy,
    /// One for each kind of server that this node can make.
    pub providers: Vec<Arc<dyn Provider>>,
    /// Names this node for as long as its data folder lasts.
    pub node: String,
    /// How long an agent may be silent.
    pub lease: Duration,
    pub metrics: Metrics,
    pub crash: CrashPoints,
}

/// Why something was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the file is not valid: {0}")]
    File(#[from] FileError),
    #[error("instance file `{0}` does not exist")]
    NoSuchFile(String),
    #[error("instance `{0}` does not exist")]
    NoSuchInstance(String),
    #[error("instance `{0}` exists already")]
    Exists(String),
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    Infeasible(String),
    #[error("the client token was used for another request")]
    TokenReused,
    #[error("instance file `{0}` is used by instance `{1}`: remove that first, or force it")]
    InUse(String, String),
    #[error("{0}")]
    Held(String),
    #[error("instance `{0}` is another node's")]
    Elsewhere(String),
    #[error("the node is stopping")]
    Stopping,
    #[error(transparent)]
    Book(#[from] BookError),
}

impl Error {
    /// Whether what was asked for is at fault, and nothing has failed.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::File(_) | Self::NoSuchFile(_) | Self::Exists(_) | Self::Invalid(_) | Self::Infeasible(_)
        )
    }
}

/// What an instance is to be made from.
#[derive(Clone, Debug)]
pub struct Creation {
    /// The identifier of its file.
    pub file: String,
    /// Its name, if not the file's.
    pub name: Option<String>,
    pub role: Option<String>,
    pub token: Option<String>,
}

/// What is known of an instance, for whoever looks.
#[derive(Clone, Debug)]
pub struct View {
    pub instance: Instance,
    pub sandboxes: u64,
    pub held_mib: u64,
    /// What its server really uses.
    pub used: Reading,
    /// Servers like its own that belong to nobody yet, if any wait or are to.
    pub waiting: Option<Waiting>,
    /// What is being done for its server, if that takes long.
    pub progress: Option<String>,
}

pub(crate) struct Shared {
    pub book: Book,
    pub clock: Clock,
    pub entropy: Entropy,
    pub providers: Vec<Arc<dyn Provider>>,
    pub node: String,
    pub lease: Duration,
    pub metrics: Metrics,
    pub crash: CrashPoints,
    pub roster: Roster,
    /// Held while an account's default instance is made, or one more, or one fewer.
    pub defaults: AccountLocks,
    /// Those that accounts got without asking.
    pub tended: Mutex<Tended>,
    /// How often versions of accounts with fleets are called.
    pub fleets: Fleets,
    drivers: Mutex<Option<HashMap<(AccountId, String), Hold>>>,
}

/// A lock for each account, so that none waits for another.
#[derive(Default)]
pub(crate) struct AccountLocks(Mutex<HashMap<AccountId, Weak<tokio::sync::Mutex<()>>>>);

impl AccountLocks {
    pub async fn lock(&self, account: &AccountId) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.0.lock();
            locks.retain(|_, lock| lock.strong_count() > 0);
            match locks.get(account).and_then(Weak::upgrade) {
                Some(lock) => lock,
                None => {
                    let lock = Arc::default();
                    locks.insert(account.clone(), Arc::downgrade(&lock));
                    lock
                }
            }
        };
        lock.lock_owned().await
    }
}

/// A driver as the handle sees it.
struct Hold {
    orders: mpsc::Sender<Order>,
    removing: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Shared {
    pub fn provider(&self, kind: Kind) -> Option<&Arc<dyn Provider>> {
        self.providers.iter().find(|provider| provider.kind() == kind)
    }

    /// Whether this node can make such a server at all.
    pub fn feasible(&self, effective: &Effective) -> Result<(), String> {
        let kind = effective.kind;
        let provider = self.provider(kind);
        let provider = provider.ok_or_else(|| format!("this node makes no instances of kind `{kind}`"))?;
        let Offer {
            memory_mib,
            cpu_millis,
            storage_mib,
        } = provider.offer();
        for (wanted, offered, what) in [
            (effective.memory_mib, memory_mib, "memory_mib"),
            (effective.cpu_millis, cpu_millis, "cpu_millis"),
            (effective.storage_mib, storage_mib, "storage_mib"),
        ] {
            if u64::from(wanted) > offered {
                return Err(format!("{what} is {wanted}, but this node offers at most {offered}"));
            }
        }
        match provider.objection(effective) {
            Some(objection) => Err(objection),
            None => Ok(()),
        }
    }

    /// Has the providers know which files have schedules. A file's latest revision counts.
    pub(crate) async fn read_schedules(&self) -> Result<(), BookError> {
        let mut declared = Vec::new();
        for record in self.book.all_files().await? {
            let Ok(file) = InstanceFile::parse(&record.text) else {
                continue;
            };
            let schedules = file.schedules();
            if let (false, Some(server)) = (schedules.is_empty(), file.effective(None)) {
                declared.push(Declared { server, schedules });
            }
        }
        for provider in &self.providers {
            provider.declare(declared.clone());
        }
        Ok(())
    }

    pub fn new_server(&self, file: &FileRecord, effective: Effective, replaces: Option<String>) -> Server {
        Server {
            id: format!("{:016x}", self.entropy.number()),
            state: State::Requested,
            since: self.clock.now(),
            address: effective.has_address().then(|| self.new_address()),
            revision: file.revision,
            digest: file.digest,
            effective,
            replaces,
            epoch: 0,
            repairs: 0,
            detail: None,
            machine: None,
        }
    }

    /// An address of this machine's loopback that nobody else is likely to have; the claim decides.
    pub fn new_address(&self) -> String {
        let number = self.entropy.number().to_le_bytes();
        let last = 1 + number[2] % 254;
        format!("127.{}.{}.{last}", 64 + number[0] % 128, number[1])
    }

    fn drive(self: &Arc<Self>, kept: Kept<Instance>) {
        let mut drivers = self.drivers.lock();
        let Some(drivers) = drivers.as_mut() else { return };
        let key = (kept.record.account.clone(), kept.record.name.clone());
        let (orders, receiver) = mpsc::channel(ORDERS_MAX);
        let (removing, removed) = watch::channel(kept.record.removing);
        self.roster
            .belong(&key.0, &key.1, kept.record.current().effective.fleet);
        self.roster.set(&key.0, &key.1, Some(Standing::Coming));
        self.metrics.instances.inc();
        let mut driver = Driver::new(self.clone(), kept, receiver, removed);
        let (shared, name, own) = (self.clone(), key.clone(), orders.clone());
        let task = tokio::spawn(async move {
            driver.run().await;
            shared.metrics.instances.dec();
            shared.driven(&name, &own);
            // Whoever waits for the end sees it now, and may use the name again.
            drop(driver);
        });
        drivers.insert(key, Hold { orders, removing, task });
    }

    /// A driver has ended. Once its record is gone its name may be another's, who is driven already.
    fn driven(&self, name: &(AccountId, String), own: &mpsc::Sender<Order>) {
        let mut drivers = self.drivers.lock();
        let Some(drivers) = drivers.as_mut() else { return };
        if drivers.get(name).is_some_and(|hold| hold.orders.same_channel(own)) {
            drivers.remove(name);
            self.roster.set(&name.0, &name.1, None);
        }
    }
}

/// The running service.
pub struct Service {
    shared: Arc<Shared>,
}

impl Service {
    /// Ends what an earlier life of this node left running, and goes on with every instance of this node.
    pub async fn start(options: Options) -> Result<Self, Error> {
        let row = options.entropy.number();
        let shared = Arc::new(Shared {
            book: Book::new(options.store, options.clock.clone(), row),
            clock: options.clock,
            entropy: options.entropy,
            providers: options.providers,
            node: options.node,
            lease: options.lease,
            metrics: options.metrics,
            crash: options.crash,
            roster: Roster::default(),
            defaults: AccountLocks::default(),
            tended: Mutex::default(),
            fleets: Fleets::default(),
            drivers: Mutex::new(Some(HashMap::new())),
        });
        let mut own = shared.book.instances(None).await?;
        own.retain(|kept| kept.record.node == shared.node);
        shared.recall_usage().await?;
        shared.read_schedules().await?;
        remove_orphans(&shared).await;
        for kept in own {
            shared.drive(kept);
        }
        Ok(Self { shared })
    }

    pub fn handle(&self) -> Handle {
        Handle {
            shared: self.shared.clone(),
        }
    }

    /// Ends all servers; the next start brings them back.
    pub async fn shut_down(self) {
        self.shared.keep_usage().await;
        let drivers = self.shared.drivers.lock().take().unwrap_or_default();
        for hold in drivers.into_values() {
            hold.task.abort();
            let _ = hold.task.await;
        }
        remove_orphans(&self.shared).await;
    }
}

/// Ends every server that is there: none of them is driven.
async fn remove_orphans(shared: &Shared) {
    for provider in &shared.providers {
        for server in provider.list().await.unwrap_or_default() {
            let ended = async {
                provider.fence(&server).await?;
                provider.destroy(&server).await
            };
            if let Err(error) = ended.await {
                tracing::error!(
                    server,
                    error = &error as &dyn std::error::Error,
                    "a server cannot be ended"
                );
            }
        }
    }
}

/// The file of an account's instance that nobody asked for.
fn default_file(kind: Kind, offer: &Offer) -> String {
    let memory_mib = match kind {
        // All of it is the guest's from the start.
        Kind::Vm => (offer.memory_mib / 4).clamp(DEFAULT_VM_MIB.0, DEFAULT_VM_MIB.1),
        _ => (offer.memory_mib / 2).max(64),
    };
    format!(
        "# Made because the account had no instance; change it as you like.\nid = \"{DEFAULT_INSTANCE}\"\n\
         kind = \"{kind}\"\n\n[resources]\nmemory_mib = {memory_mib}\ncpu_millis = {}\nprocesses = 4096\n",
        offer.cpu_millis,
    )
}

/// What the server of such an instance is.
pub fn default_server(kind: Kind, offer: &Offer) -> Effective {
    let file = InstanceFile::parse(&default_file(kind, offer)).expect("the file of defaults is good");
    file.effective(None).expect("every file is good without a role")
}

/// The way to the instances of a node; cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(crate) shared: Arc<Shared>,
}

impl Handle {
    pub(crate) fn roster(&self) -> &Roster {
        &self.shared.roster
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// Keeps a file; the same again changes nothing.
    pub async fn put_file(&self, caller: &Caller, text: &str) -> Result<FileRecord, Error> {
        let file = InstanceFile::parse(text)?;
        file.check_limits(text)?;
        let id = file.id.get_ref();
        let old = self.shared.book.file(&caller.account, id).await?;
        let digest = Digest::of(text.as_bytes());
        if let Some(same) = old.as_ref().filter(|old| old.record.digest == digest) {
            return Ok(same.record.clone());
        }
        let record = FileRecord {
            account: caller.account.clone(),
            id: id.clone(),
            revision: old.as_ref().map_or(1, |old| old.record.revision + 1),
            digest,
            text: text.to_owned(),
            at: self.shared.clock.now(),
        };
        self.shared.book.put_file(caller, old.as_ref(), Some(&record)).await?;
        self.shared.read_schedules().await?;
        Ok(record)
    }

    pub async fn file(&self, account: &AccountId, id: &str) -> Result<FileRecord, Error> {
        let found = self.shared.book.file(account, id).await?;
        found
            .map(|kept| kept.record)
            .ok_or_else(|| Error::NoSuchFile(id.to_owned()))
    }

    pub async fn files(&self, account: &AccountId) -> Result<Vec<FileRecord>, Error> {
        Ok(self.shared.book.files(account).await?)
    }

    /// Removes a file. One that an instance is made from stays, unless it is forced: the instance runs on, but cannot be
    /// replaced.
    pub async fn remove_file(&self, caller: &Caller, id: &str, force: bool) -> Result<(), Error> {
        let old = self.shared.book.file(&caller.account, id).await?;
        let old = old.ok_or_else(|| Error::NoSuchFile(id.to_owned()))?;
        let instances = self.shared.book.instances(Some(&caller.account)).await?;
        let user = instances.iter().find(|kept| kept.record.file == id);
        if let (Some(user), false) = (user, force) {
            return Err(Error::InUse(id.to_owned(), user.record.name.clone()));
        }
        self.shared.book.put_file(caller, Some(&old), None).await?;
        Ok(self.shared.read_schedules().await?)
    }

    /// Makes an instance from a file that is kept. Its server is on its way when this returns.
    pub async fn create(&self, caller: &Caller, creation: &Creation) -> Result<Instance, Error> {
        let name = creation.name.as_deref().unwrap_or(&creation.file);
        if tend::is_more(name) {
            return Err(Error::Invalid(format!(
                "names like `{name}` are those of instances that an account gets without asking: give it another name"
            )));
        }
        self.create_named(caller, creation).await
    }

    pub(crate) async fn create_named(&self, caller: &Caller, creation: &Creation) -> Result<Instance, Error> {
        let request = Digest::of(format!("{:?}", (&creation.file, &creation.name, &creation.role)).as_bytes());
        if let Some(token) = &creation.token {
            if token.is_empty() || token.len() > TOKEN_BYTES_MAX || token.contains('/') {
                return Err(Error::Invalid(format!(
                    "a client token has 1 to {TOKEN_BYTES_MAX} characters, none a slash"
                )));
            }
            if let Some(known) = self.shared.book.token(&caller.account, token).await? {
                if known.request != request {
                    return Err(Error::TokenReused);
                }
                return self.instance(&caller.account, &known.name).await;
            }
        }
        let file = self.file(&caller.account, &creation.file).await?;
        let parsed = InstanceFile::parse(&file.text)?;
        parsed.check_limits(&file.text)?;
        let effective = parsed.effective(creation.role.as_deref()).ok_or_else(|| {
            let roles = parsed.role_names().join("`, `");
            Error::Invalid(format!("the file has no role {:?}; it has `{roles}`", creation.role))
        })?;
        self.shared.feasible(&effective).map_err(Error::Infeasible)?;
        let name = creation.name.clone().unwrap_or_else(|| file.id.clone());
        if !crate::file::is_name(&name) {
            return Err(Error::Invalid(format!("`{name}` is no name of an instance")));
        }
        let others = self.shared.book.instances(Some(&caller.account)).await?;
        if others.len() >= INSTANCES_MAX {
            return Err(Error::Infeasible(format!(
                "an account has at most {INSTANCES_MAX} instances"
            )));
        }
        let instance = Instance {
            account: caller.account.clone(),
            name,
            file: file.id.clone(),
            role: creation.role.clone(),
            node: self.shared.node.clone(),
            created: self.shared.clock.now(),
            server: self.shared.new_server(&file, effective, None),
            failure: None,
            replacement: None,
            replaced_at: Vec::new(),
            hold: None,
            draining: false,
            surplus: false,
            removing: false,
            next_event: 0,
        };
        self.commit_new(caller, instance, creation.token.as_deref(), request)
            .await
    }

    async fn commit_new(
        &self,
        caller: &Caller,
        instance: Instance,
        token: Option<&str>,
        request: Digest,
    ) -> Result<Instance, Error> {
        let mut change = Change::default()
            .told("locate", &instance.server, &instance.file)
            .event("determine", &instance.server);
        if let Some(token) = token {
            let record = TokenRecord {
                request,
                name: instance.name.clone(),
                at: instance.created,
            };
            change = change.token(&caller.account, token, &record);
        }
        let name = instance.name.clone();
        let committed = self
            .shared
            .book
            .commit((caller, "CreateInstance"), None, instance, change)
            .await;
        let kept = committed.map_err(|error| match error {
            error if error.is_conflict() => Error::Exists(name),
            error => error.into(),
        })?;
        self.shared.drive(kept.clone());
        Ok(kept.record)
    }

    /// An account's instance that nobody asked for, made from a file of defaults if it is missing.
    /// Where a person has drained that one, one more takes its place.
    pub(crate) async fn ensure_default(&self, account: &AccountId, kind: Kind, mib: u64) -> Result<(), Error> {
        let _one = self.shared.defaults.lock(account).await;
        if self.shared.roster.is_hopeful(account) || self.take_one_back(account, mib).await {
            return Ok(());
        }
        let caller = Caller {
            account: account.clone(),
            request_id: "default-instance".to_owned(),
        };
        if self.shared.book.file(account, DEFAULT_INSTANCE).await?.is_none() {
            let offer = self.shared.provider(kind).map(|provider| provider.offer());
            let offer =
                offer.ok_or_else(|| Error::Infeasible(format!("this node makes no instances of kind `{kind}`")))?;
            self.put_file(&caller, &default_file(kind, &offer)).await?;
        }
        let creation = Creation {
            file: DEFAULT_INSTANCE.to_owned(),
            name: None,
            role: None,
            token: None,
        };
        match self.create(&caller, &creation).await {
            Err(Error::Exists(name)) => self.replace_drained(&caller, &name, (creation, kind)).await,
            made => made.map(|_| ()),
        }
    }

    /// Makes one more where a person has drained the account's only instance; one that is held needs that person.
    async fn replace_drained(
        &self,
        caller: &Caller,
        name: &str,
        (creation, kind): (Creation, Kind),
    ) -> Result<(), Error> {
        let account = &caller.account;
        if self.instance(account, name).await?.hold.is_some() {
            let text = format!(
                "instance `{name}` of account {account} is held: see `bowline instance show {name}`, then `bowline instance resume {name}`"
            );
            return Err(Error::Held(text));
        }
        let Some(more) = self.next_name(account, kind).await? else {
            let text = format!("instance `{name}` of account {account} is drained, and there is no room for one more");
            return Err(Error::Infeasible(text));
        };
        tracing::info!(%account, instance = more, drained = name, "one more instance: a person has drained the other");
        let creation = Creation {
            name: Some(more),
            ..creation
        };
        self.create_named(caller, &creation).await.map(drop)
    }

    async fn instance(&self, account: &AccountId, name: &str) -> Result<Instance, Error> {
        let found = self.shared.book.instance(account, name).await?;
        found
            .map(|kept| kept.record)
            .ok_or_else(|| Error::NoSuchInstance(name.to_owned()))
    }

    fn view(&self, instance: Instance) -> View {
        let link = self.shared.roster.link(&instance.account, &instance.name);
        View {
            sandboxes: link.as_ref().map_or(0, |link| link.sandboxes()),
            held_mib: link.as_ref().map_or(0, |link| link.held_mib()),
            used: link.as_ref().map(Link::read_meters).unwrap_or_default(),
            waiting: self
                .shared
                .provider(instance.kind())
                .and_then(|provider| provider.waiting(&instance.current().effective)),
            progress: self
                .shared
                .provider(instance.kind())
                .and_then(|provider| provider.progress(&instance.current().id)),
            instance,
        }
    }

    pub async fn show(&self, account: &AccountId, name: &str) -> Result<View, Error> {
        Ok(self.view(self.instance(account, name).await?))
    }

    pub async fn list(&self, account: &AccountId) -> Result<Vec<View>, Error> {
        let found = self.shared.book.instances(Some(account)).await?;
        Ok(found.into_iter().map(|kept| self.view(kept.record)).collect())
    }

    /// What is on an instance: code and sandboxes.
    pub async fn inventory(&self, account: &AccountId, name: &str) -> Result<Inventory, Error> {
        let instance = self.instance(account, name).await?;
        let link = self.shared.roster.link(&instance.account, &instance.name);
        Ok(link.map(|link| link.inventory()).unwrap_or_default())
    }

    pub async fn events(&self, account: &AccountId, name: &str) -> Result<Vec<Event>, Error> {
        Ok(self.shared.book.events(account, name).await?)
    }

    pub async fn assignments(&self, account: &AccountId, name: &str) -> Result<Vec<Assignment>, Error> {
        Ok(self.shared.book.assignments(account, name).await?)
    }

    /// Gives an instance no new work, or gives it work again.
    pub async fn drain(&self, caller: &Caller, name: &str, draining: bool) -> Result<Instance, Error> {
        self.drain_for(caller, name, (draining, false)).await
    }

    /// The same, perhaps because of how much is used: then what a person drained stays as it is.
    pub(crate) async fn drain_for(
        &self,
        caller: &Caller,
        name: &str,
        (draining, surplus): (bool, bool),
    ) -> Result<Instance, Error> {
        let order = |caller, done| Order::Drain {
            caller,
            draining,
            surplus,
            done,
        };
        self.order(caller, name, order).await
    }

    /// Says that something is wrong with an instance's server.
    pub async fn report(
        &self,
        caller: &Caller,
        name: &str,
        reason: String,
        repairable: bool,
    ) -> Result<Instance, Error> {
        let report = |caller, done| Order::Report {
            caller,
            reason,
            repairable,
            done,
        };
        self.order(caller, name, report).await
    }

    /// Says how efficient an instance's server is, from 0 to 1.
    pub async fn efficiency(&self, caller: &Caller, name: &str, efficiency: f64) -> Result<Instance, Error> {
        if !(0.0..=1.0).contains(&efficiency) {
            return Err(Error::Invalid(format!(
                "an efficiency is from 0 to 1, not {efficiency}"
            )));
        }
        self.order(caller, name, |caller, done| Order::Efficiency {
            caller,
            efficiency,
            done,
        })
        .await
    }

    /// Has an instance that was held try again.
    pub async fn resume(&self, caller: &Caller, name: &str) -> Result<Instance, Error> {
        self.order(caller, name, |caller, done| Order::Resume { caller, done })
            .await
    }

    /// Ends an instance for good; returns when nothing of it is left.
    pub async fn remove(&self, caller: &Caller, name: &str) -> Result<(), Error> {
        if let Some(ended) = self.begin_removal(caller, name, || true).await? {
            ended.closed().await;
        }
        Ok(())
    }

    /// Has an instance ended if it is `so` at this moment; what it returns is closed when nothing of it is left.
    pub(crate) async fn begin_removal(
        &self,
        caller: &Caller,
        name: &str,
        so: impl FnOnce() -> bool,
    ) -> Result<Option<mpsc::Sender<Order>>, Error> {
        self.instance(&caller.account, name).await?;
        let drivers = self.shared.drivers.lock();
        let drivers = drivers.as_ref().ok_or(Error::Stopping)?;
        let key = (caller.account.clone(), name.to_owned());
        let hold = drivers.get(&key).ok_or_else(|| Error::Elsewhere(name.to_owned()))?;
        if !so() {
            return Ok(None);
        }
        hold.removing.send_replace(true);
        Ok(Some(hold.orders.clone()))
    }

    async fn order(
        &self,
        caller: &Caller,
        name: &str,
        order: impl FnOnce(Caller, oneshot::Sender<Instance>) -> Order,
    ) -> Result<Instance, Error> {
        self.instance(&caller.account, name).await?;
        let orders = {
            let drivers = self.shared.drivers.lock();
            let drivers = drivers.as_ref().ok_or(Error::Stopping)?;
            let key = (caller.account.clone(), name.to_owned());
            let hold = drivers.get(&key).ok_or_else(|| Error::Elsewhere(name.to_owned()))?;
            hold.orders.clone()
        };
        let (done, result) = oneshot::channel();
        orders
            .send(order(caller.clone(), done))
            .await
            .map_err(|_| Error::Stopping)?;
        result.await.map_err(|_| Error::Stopping)
    }

    /// Keeps what something that a role uses costs.
    pub async fn add_cost(&self, caller: &Caller, cost: CostIndication) -> Result<(), Error> {
        if !crate::file::is_name(&cost.role) {
            return Err(Error::Invalid(format!("`{}` is no name of a role", cost.role)));
        }
        if cost.per_time.is_empty() || cost.per_unit.is_empty() {
            return Err(Error::Invalid(
                "a cost is per unit and per time: both must be said".to_owned(),
            ));
        }
        if !cost.price.is_finite() || cost.price < 0.0 {
            return Err(Error::Invalid(format!(
                "a price is a number from 0 on, not {}",
                cost.price
            )));
        }
        Ok(self.shared.book.add_cost(caller, &cost).await?)
    }

    /// What was said of a role's costs, oldest first: at most `limit` after the one that `after` names. Each with its name.
    pub async fn costs(
        &self,
        account: &AccountId,
        role: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<(String, CostIndication)>, Error> {
        Ok(self.shared.book.costs(account, role, after, limit).await?)
    }
}

#[cfg(test)]
mod tests;
