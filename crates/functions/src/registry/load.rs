//! Reading the registry from the store: all of it at start, one function after a doubtful commit.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bowline_foundation::clock::Clock;
use bowline_foundation::id::AccountId;
use bowline_store::{CommitError, Condition, Entry, Key, ReadError, Sharing, Store, Version as StoreVersion, Write};

use super::record::{
    AliasRecord, AttachedRecord, AuditRecord, EventInvokeRecord, FunctionRecord, PolicyRecord, Record, RecordError,
    VersionRecord,
};
use super::{
    AliasEntry, AttachedEntry, EventInvokeEntry, FunctionEntry, PolicyEntry, Registry, Snapshot, VersionEntry, keys,
};
use crate::invoke::FunctionLive;
use crate::model::Configuration;
use crate::name::{AliasName, FunctionName, InvalidName, Version};

/// How long audit rows are kept; older ones go at a start.
pub(super) const AUDIT_KEPT: Duration = Duration::from_secs(90 * 24 * 3600);
/// How long the end of an event may lie; longer than any event lives.
pub(super) const OVERFLOW_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
const PAGE: usize = 512;

/// Why the registry cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("store cannot be read")]
    Read(#[from] ReadError),
    #[error("record `{key}` cannot be read")]
    Record {
        key: String,
        #[source]
        source: RecordError,
    },
    #[error("key `{0}` is not one of a function, version or alias")]
    Key(String),
}

/// A function as the store holds it, before it is known where it runs.
pub(crate) struct Loaded {
    pub account: AccountId,
    pub name: FunctionName,
    pub tags: BTreeMap<String, String>,
    pub reserved: Option<u32>,
    pub recursion_allowed: bool,
    pub next_version: u64,
    pub latest: Arc<Configuration>,
    pub serving: Option<Arc<Configuration>>,
    pub versions: BTreeMap<u64, VersionEntry>,
    pub aliases: BTreeMap<AliasName, AliasEntry>,
    pub event_invokes: BTreeMap<String, EventInvokeEntry>,
    pub policies: BTreeMap<String, PolicyEntry>,
    pub attached: BTreeMap<String, AttachedEntry>,
    pub at: StoreVersion,
}

impl Loaded {
    /// The entry, without any place to run yet.
    pub fn into_entry(self, live: Arc<FunctionLive>) -> FunctionEntry {
        FunctionEntry {
            account: self.account,
            name: self.name,
            tags: self.tags,
            reserved: self.reserved,
            recursion_allowed: self.recursion_allowed,
            next_version: self.next_version,
            latest: self.latest,
            serving: self.serving,
            pool: None,
            versions: self.versions,
            aliases: self.aliases,
            event_invokes: self.event_invokes,
            policies: self.policies,
            attached: self.attached,
            at: self.at,
            live,
        }
    }
}

/// A record whose function is gone.
struct Remnant {
    function: Key,
    key: Key,
    at: StoreVersion,
}

impl Remnant {
    fn new(function: Key, key: Key, entry: &Entry) -> Self {
        let at = entry.version;
        Self { function, key, at }
    }
}

type Loading = HashMap<(AccountId, FunctionName), Loaded>;

impl Registry {
    /// A registry with an empty snapshot.
    ///
    /// `row` numbers the first audit row: where others write too, a number that they hardly have.
    pub fn new(store: Arc<dyn Store>, sharing: Sharing, clock: Clock, row: u64) -> Self {
        Self {
            store,
            clock,
            sharing,
            snapshot: Snapshot::default(),
            mappings: Default::default(),
            layers: Default::default(),
            images: Default::default(),
            publishes: false,
            outbox_news: Default::default(),
            audit_rows: AtomicU64::new(row),
        }
    }

    /// Puts audit rows into an outbox for a stream, or not.
    pub fn publishing(mut self, publishes: bool) -> Self {
        self.publishes = publishes;
        self
    }

    /// Reads all functions; deletes records that a deleted function left.
    pub async fn load(&self) -> Result<Vec<Loaded>, LoadError> {
        let mut functions = Loading::new();
        let mut remnants = Vec::new();
        for (key, entry) in self.scan(keys::FUNCTIONS).await? {
            let loaded = read_function(&key, &entry)?;
            functions.insert((loaded.account.clone(), loaded.name.clone()), loaded);
        }
        for (key, entry) in self.scan(keys::VERSIONS).await? {
            if !read_version(&key, &entry, &mut functions)? {
                let (account, name, _) = subject::<3>(&key, keys::VERSIONS)?;
                remnants.push(Remnant::new(keys::function(&account, &name), key, &entry));
            }
        }
        for (key, entry) in self.scan(keys::ALIASES).await? {
            if !read_alias(&key, &entry, &mut functions)? {
                let (account, name, _) = subject::<3>(&key, keys::ALIASES)?;
                remnants.push(Remnant::new(keys::function(&account, &name), key, &entry));
            }
        }
        for (key, entry) in self.scan(keys::EVENT_INVOKES).await? {
            if !read_event_invoke(&key, &entry, &mut functions)? {
                let (account, name, _) = subject::<3>(&key, keys::EVENT_INVOKES)?;
                remnants.push(Remnant::new(keys::function(&account, &name), key, &entry));
            }
        }
        for (key, entry) in self.scan(keys::POLICIES).await? {
            if !read_policy(&key, &entry, &mut functions)? {
                let (account, name, _) = subject::<3>(&key, keys::POLICIES)?;
                remnants.push(Remnant::new(keys::function(&account, &name), key, &entry));
            }
        }
        for (key, entry) in self.scan(keys::ATTACHED).await? {
            if !read_attached(&key, &entry, &mut functions)? {
                let (account, name, _) = subject::<3>(&key, keys::ATTACHED)?;
                remnants.push(Remnant::new(keys::function(&account, &name), key, &entry));
            }
        }
        self.tidy(remnants).await;
        Ok(functions.into_values().collect())
    }

    /// Changes whenever any process has changed a function.
    pub async fn changed(&self) -> Result<Option<StoreVersion>, ReadError> {
        let found = self.store.get(&Key::from(keys::CHANGED)).await?;
        Ok(found.map(|entry| entry.version))
    }

    /// Reads one function.
    pub async fn load_one(&self, account: &AccountId, name: &FunctionName) -> Result<Option<Loaded>, LoadError> {
        let key = keys::function(account, name);
        let Some(entry) = self.store.get(&key).await? else {
            return Ok(None);
        };
        let mut functions = Loading::new();
        functions.insert((account.clone(), name.clone()), read_function(&key, &entry)?);
        let below = format!("{account}/{name}/");
        for (key, entry) in self.scan(&format!("{}{below}", keys::VERSIONS)).await? {
            read_version(&key, &entry, &mut functions)?;
        }
        for (key, entry) in self.scan(&format!("{}{below}", keys::ALIASES)).await? {
            read_alias(&key, &entry, &mut functions)?;
        }
        for (key, entry) in self.scan(&format!("{}{below}", keys::EVENT_INVOKES)).await? {
            read_event_invoke(&key, &entry, &mut functions)?;
        }
        for (key, entry) in self.scan(&format!("{}{below}", keys::POLICIES)).await? {
            read_policy(&key, &entry, &mut functions)?;
        }
        for (key, entry) in self.scan(&format!("{}{below}", keys::ATTACHED)).await? {
            read_attached(&key, &entry, &mut functions)?;
        }
        Ok(functions.into_values().next())
    }

    pub(super) async fn scan(&self, prefix: &str) -> Result<Vec<(Key, Entry)>, ReadError> {
        let prefix = Key::from(prefix.to_owned());
        let mut found: Vec<(Key, Entry)> = Vec::new();
        loop {
            let after = found.last().map(|(key, _)| key.clone());
            let page = self.store.scan(&prefix, after.as_ref(), PAGE).await?;
            let last = page.len() < PAGE;
            found.extend(page);
            if last {
                return Ok(found);
            }
        }
    }

    /// Deletes audit rows and overflows of old. Rows sort by time, so the old ones come first; one page a start is
    /// enough to keep up.
    pub async fn trim_old(&self) -> Result<(), ReadError> {
        let before = |kept| self.clock.now().before(kept);
        self.trim(keys::AUDIT, keys::audit(before(AUDIT_KEPT), 0)).await?;
        self.trim(keys::OVERFLOWS, keys::overflow(before(OVERFLOW_KEPT), ""))
            .await
    }

    async fn trim(&self, prefix: &'static str, cutoff: Key) -> Result<(), ReadError> {
        let page = self.store.scan(&Key::from(prefix), None, PAGE).await?;
        let old = page.into_iter().take_while(|(key, _)| *key < cutoff);
        let writes: Vec<Write> = old.map(|(key, _)| Write::Delete(key)).collect();
        if !writes.is_empty()
            && let Err(error) = self.store.commit(Vec::new(), writes).await
        {
            tracing::warn!(%error, prefix, "old rows stay until the next start");
        }
        Ok(())
    }

    /// Deletes remnants. Where others write too, what looked like one may be a new function's: the scans
    /// saw different moments. So each goes only if its function is still missing.
    async fn tidy(&self, remnants: Vec<Remnant>) {
        for Remnant { function, key, at } in remnants {
            let conditions = vec![Condition::Absent(function), Condition::AtVersion(key.clone(), at)];
            match self.store.commit(conditions, vec![Write::Delete(key)]).await {
                Ok(_) | Err(CommitError::Conflict(_)) => {}
                Err(error) => tracing::warn!(%error, "a remnant stays until the next start"),
            }
        }
    }

    /// The actions of the audit rows about a subject, oldest first.
    pub async fn audited(&self, subject: &str) -> Result<Vec<String>, LoadError> {
        let mut actions = Vec::new();
        for (key, entry) in self.scan(keys::AUDIT).await? {
            let record: AuditRecord = read(&key, &entry)?;
            if record.subject == subject {
                actions.push(record.action);
            }
        }
        Ok(actions)
    }
}

pub(super) fn read<R: Record>(key: &Key, entry: &Entry) -> Result<R, LoadError> {
    R::decode(&entry.value).map_err(|source| damaged(key, source.into()))
}

pub(super) fn damaged(key: &Key, source: RecordError) -> LoadError {
    LoadError::Record {
        key: String::from_utf8_lossy(key).into_owned(),
        source,
    }
}

/// Takes a key apart and reads the account and the name in it.
fn subject<const N: usize>(key: &Key, prefix: &str) -> Result<(AccountId, FunctionName, [String; N]), LoadError> {
    let invalid = || LoadError::Key(String::from_utf8_lossy(key).into_owned());
    let parts: [String; N] = keys::parts(key, prefix).ok_or_else(invalid)?;
    let account = parts[0].parse().map_err(|_| invalid())?;
    let name = parts[1].parse().map_err(|_: InvalidName| invalid())?;
    Ok((account, name, parts))
}

fn read_function(key: &Key, entry: &Entry) -> Result<Loaded, LoadError> {
    let (account, name, _) = subject::<2>(key, keys::FUNCTIONS)?;
    let record: FunctionRecord = read(key, entry)?;
    let latest = Arc::new(record.latest.into_model(account.clone(), name.clone(), Version::Latest));
    let recorded = record.serving;
    let recorded = recorded.map(|serving| serving.into_model(account.clone(), name.clone(), Version::Latest));
    Ok(Loaded {
        serving: FunctionEntry::serving_of(&latest, recorded),
        account,
        name,
        tags: record.tags,
        reserved: record.reserved_concurrency,
        recursion_allowed: record.recursion_allowed,
        next_version: record.next_version,
        latest,
        versions: BTreeMap::new(),
        aliases: BTreeMap::new(),
        event_invokes: BTreeMap::new(),
        policies: BTreeMap::new(),
        attached: BTreeMap::new(),
        at: entry.version,
    })
}

/// Adds a version to its function; `false` if there is no such function.
fn read_version(key: &Key, entry: &Entry, functions: &mut Loading) -> Result<bool, LoadError> {
    let (account, name, [_, _, number]) = subject::<3>(key, keys::VERSIONS)?;
    let number: u64 = number.parse().map_err(|_| LoadError::Key(number))?;
    let Some(function) = functions.get_mut(&(account.clone(), name.clone())) else {
        return Ok(false);
    };
    let record: VersionRecord = read(key, entry)?;
    let configuration = record.configuration.into_model(account, name, Version::Number(number));
    let version = VersionEntry {
        configuration: Arc::new(configuration),
        source_description: record.source_description,
        pool: None,
        at: entry.version,
    };
    function.versions.insert(number, version);
    Ok(true)
}

/// Adds an alias to its function; `false` if there is no such function.
fn read_alias(key: &Key, entry: &Entry, functions: &mut Loading) -> Result<bool, LoadError> {
    let (account, name, [_, _, alias]) = subject::<3>(key, keys::ALIASES)?;
    let alias: AliasName = alias.parse().map_err(|_: InvalidName| LoadError::Key(alias))?;
    let Some(function) = functions.get_mut(&(account.clone(), name.clone())) else {
        return Ok(false);
    };
    let record: AliasRecord = read(key, entry)?;
    let model = record
        .into_model(account, name, alias.clone())
        .map_err(|source| damaged(key, source))?;
    function.aliases.insert(
        alias,
        AliasEntry {
            alias: model,
            at: entry.version,
        },
    );
    Ok(true)
}

/// Adds to its function how the events of a qualifier are treated; `false` if there is no such function.
fn read_event_invoke(key: &Key, entry: &Entry, functions: &mut Loading) -> Result<bool, LoadError> {
    let (account, name, [_, _, qualifier]) = subject::<3>(key, keys::EVENT_INVOKES)?;
    let Some(function) = functions.get_mut(&(account.clone(), name.clone())) else {
        return Ok(false);
    };
    let record: EventInvokeRecord = read(key, entry)?;
    let config = record
        .into_model(account, name, &qualifier)
        .map_err(|source| damaged(key, source))?;
    function.event_invokes.insert(
        qualifier,
        EventInvokeEntry {
            config,
            at: entry.version,
        },
    );
    Ok(true)
}

/// Adds to its function who else may use a qualifier; `false` if there is no such function.
fn read_policy(key: &Key, entry: &Entry, functions: &mut Loading) -> Result<bool, LoadError> {
    let (account, name, [_, _, qualifier]) = subject::<3>(key, keys::POLICIES)?;
    let Some(function) = functions.get_mut(&(account.clone(), name.clone())) else {
        return Ok(false);
    };
    let record: PolicyRecord = read(key, entry)?;
    let policy = record
        .into_model(account, name, &qualifier)
        .map_err(|source| damaged(key, source))?;
    let at = entry.version;
    function.policies.insert(qualifier, PolicyEntry { policy, at });
    Ok(true)
}

/// Adds to its function what is attached to a qualifier; `false` if there is no such function.
fn read_attached(key: &Key, entry: &Entry, functions: &mut Loading) -> Result<bool, LoadError> {
    let (account, name, [_, _, qualifier]) = subject::<3>(key, keys::ATTACHED)?;
    let Some(function) = functions.get_mut(&(account, name)) else {
        return Ok(false);
    };
    let record: AttachedRecord = read(key, entry)?;
    let attached = AttachedEntry {
        attached: record.into(),
        at: entry.version,
    };
    function.attached.insert(qualifier, attached);
    Ok(true)
}
