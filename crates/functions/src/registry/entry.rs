//! One function in the snapshot: immutable, replaced as a whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use bowline_capacity::sizing::{Mode, Profile};
use bowline_foundation::id::AccountId;
use bowline_foundation::units::Mebibytes;
use bowline_sandbox::Mount;
use bowline_store::Version as StoreVersion;

use super::record::{FunctionRecord, VersionRecord};
use crate::invoke::{FunctionLive, Pool};
use crate::model::attached::Attached;
use crate::model::events::EventInvokeConfig;
use crate::model::{Alias, Configuration, ResourcePolicy, State};
use crate::name::{AliasName, FunctionName, Version};
use crate::state::{Attachment, StateName};

/// The text of a function's own attachments.
const LATEST: &str = "$LATEST";

/// A function with its versions and aliases as they were committed, and where each can be run.
#[derive(Clone)]
pub(crate) struct FunctionEntry {
    pub account: AccountId,
    pub name: FunctionName,
    pub tags: BTreeMap<String, String>,
    pub reserved: Option<u32>,
    /// Whether outcomes that lead back to the function go on without end.
    pub recursion_allowed: bool,
    pub next_version: u64,
    /// `$LATEST` as it is shown.
    pub latest: Arc<Configuration>,
    /// What invocations of `$LATEST` get; none before the first preparation succeeded.
    pub serving: Option<Arc<Configuration>>,
    /// Where `serving` runs.
    pub pool: Option<Arc<Pool>>,
    pub versions: BTreeMap<u64, VersionEntry>,
    pub aliases: BTreeMap<AliasName, AliasEntry>,
    /// How events are treated, by the qualifier's text; `$LATEST` for the function without one.
    pub event_invokes: BTreeMap<String, EventInvokeEntry>,
    /// Who else may use it, by the qualifier's text; `$LATEST` for the function without one.
    pub policies: BTreeMap<String, PolicyEntry>,
    /// What is attached, by the same texts.
    pub attached: BTreeMap<String, AttachedEntry>,
    /// The record's version in the store.
    pub at: StoreVersion,
    /// What lives as long as the function and is not durable.
    pub live: Arc<FunctionLive>,
}

/// A published version.
#[derive(Clone)]
pub(crate) struct VersionEntry {
    pub configuration: Arc<Configuration>,
    pub source_description: String,
    /// Where it runs, once it is active.
    pub pool: Option<Arc<Pool>>,
    pub at: StoreVersion,
}

/// An alias.
#[derive(Clone)]
pub(crate) struct AliasEntry {
    pub alias: Alias,
    pub at: StoreVersion,
}

/// How the events of one qualifier are treated.
#[derive(Clone)]
pub(crate) struct EventInvokeEntry {
    pub config: EventInvokeConfig,
    pub at: StoreVersion,
}

/// Who else may use one qualifier.
#[derive(Clone)]
pub(crate) struct PolicyEntry {
    pub policy: ResourcePolicy,
    pub at: StoreVersion,
}

/// What is attached to one qualifier.
#[derive(Clone)]
pub(crate) struct AttachedEntry {
    pub attached: Attached,
    pub at: StoreVersion,
}

impl FunctionEntry {
    /// Every configuration that names code: shown, serving, published.
    pub fn configurations(&self) -> impl Iterator<Item = &Arc<Configuration>> {
        let latest = std::iter::once(&self.latest).chain(&self.serving);
        latest.chain(self.versions.values().map(|version| &version.configuration))
    }

    /// All places where some version of the function runs.
    pub fn pools(&self) -> impl Iterator<Item = &Arc<Pool>> {
        self.pool
            .iter()
            .chain(self.versions.values().filter_map(|version| version.pool.as_ref()))
    }

    /// The shared state that the function may use, if there is any.
    pub fn state(&self) -> Option<&BTreeMap<StateName, Attachment>> {
        let attached = &self.attached.get(LATEST)?.attached;
        (!attached.state.is_empty()).then_some(&attached.state)
    }

    /// The folders that its sandboxes have mounted.
    pub fn mounts(&self) -> Vec<Mount> {
        let attached = self.state().into_iter().flatten();
        attached.filter_map(|(_, attachment)| attachment.mount()).collect()
    }

    /// The qualifiers by which a version has provisioned concurrency, each with how much.
    pub fn provisioned_by(&self, number: u64) -> impl Iterator<Item = (&str, u32)> {
        self.attached.iter().filter_map(move |(key, entry)| {
            let settings = entry.attached.provisioned?;
            let alias = self
                .aliases
                .iter()
                .find(|(name, _)| name.as_str() == key)
                .map(|(_, alias)| alias);
            let leads = match alias {
                Some(alias) => alias.alias.version == Version::Number(number),
                None => key.parse() == Ok(number),
            };
            leads.then_some((key.as_str(), settings.requested))
        })
    }

    /// How many sandboxes of a version are kept initialised.
    pub fn provisioned_of(&self, number: u64) -> u32 {
        self.provisioned_by(number).map(|(_, requested)| requested).sum()
    }

    /// How many sandboxes of all versions are.
    pub fn provisioned(&self) -> u32 {
        let settings = self.attached.values().filter_map(|entry| entry.attached.provisioned);
        settings.map(|settings| settings.requested).fold(0, u32::saturating_add)
    }

    /// How the memory of a version follows its use, which asks for `requested`: as was said of the version, or of
    /// `$LATEST` for one of which nothing was.
    pub fn sizing(&self, version: Version, requested: Mebibytes) -> Profile {
        let kept = |key: &str| self.attached.get(key)?.attached.sizing.as_ref();
        let own = kept(&version.to_string());
        let profile = own.or_else(|| kept(&Version::Latest.to_string()));
        match profile {
            Some(profile) if profile.requested() == requested => profile.settled(),
            Some(profile) => Profile::new(requested, profile.mode()),
            None => Profile::new(requested, Mode::default()),
        }
    }

    /// The part of the account's concurrency that nobody else gets.
    pub fn held(&self) -> u32 {
        self.reserved.unwrap_or_else(|| self.provisioned())
    }

    /// The identifiers of the function's URLs, each with the qualifier's text.
    pub fn urls(&self) -> impl Iterator<Item = (&str, &str)> {
        let urls = self
            .attached
            .iter()
            .filter_map(|(key, entry)| Some((key, entry.attached.url.as_ref()?)));
        urls.map(|(key, url)| (url.id.as_str(), key.as_str()))
    }

    /// The record of the function itself.
    pub(super) fn record(&self) -> FunctionRecord {
        let serving = self
            .serving
            .as_ref()
            .filter(|serving| !Arc::ptr_eq(serving, &self.latest));
        FunctionRecord {
            tags: self.tags.clone(),
            reserved_concurrency: self.reserved,
            recursion_allowed: self.recursion_allowed,
            next_version: self.next_version,
            latest: (&*self.latest).into(),
            serving: serving.map(|serving| (&**serving).into()),
        }
    }

    /// What invocations get after a start: what the record says, or `$LATEST` itself if it is active.
    pub(super) fn serving_of(
        latest: &Arc<Configuration>,
        recorded: Option<Configuration>,
    ) -> Option<Arc<Configuration>> {
        match recorded {
            Some(serving) => Some(Arc::new(serving)),
            None => (latest.state == State::Active).then(|| latest.clone()),
        }
    }
}

impl VersionEntry {
    pub(super) fn record(&self) -> VersionRecord {
        VersionRecord {
            configuration: (&*self.configuration).into(),
            source_description: self.source_description.clone(),
        }
    }
}
