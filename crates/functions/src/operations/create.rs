//! CreateFunction.

use std::collections::BTreeMap;
use std::sync::Arc;

use bowline_foundation::digest::Digest;
use bowline_foundation::units::Mebibytes;
use bowline_sandbox::SandboxKind;
use bowline_store::Version as StoreVersion;

use super::code::{NewCode, Steps};
use super::{audit, refusals, validate};
use crate::durable::DEFAULT_CONFIG;
use crate::error::Error;
use crate::model::{Architecture, Caller, Code, CodePackage, Configuration, CreateFunction, LastUpdate, State};
use crate::name::Version;
use crate::registry::{Change, FunctionEntry, VersionEntry};
use crate::service::Inner;

const TIMEOUT_SECONDS_DEFAULT: u32 = 3;
const MEMORY_DEFAULT: Mebibytes = Mebibytes(128);
const EPHEMERAL_STORAGE_DEFAULT: Mebibytes = Mebibytes(512);
const STEPS: Steps = Steps {
    unpacked: "create.unpacked",
    stored: "create.stored",
};

/// Refuses what can be refused without looking at the code.
pub(crate) fn check(inner: &Inner, caller: &Caller, request: &CreateFunction) -> Result<(), Error> {
    if inner.registry.snapshot.get(&caller.account, &request.name).is_some() {
        return Err(refusals::exists(&request.name));
    }
    validate::tags(&request.tags)?;
    if matches!(request.code, Code::Image(_)) {
        let has_layers = request
            .settings
            .layers
            .as_ref()
            .is_some_and(|layers| !layers.is_empty());
        validate::refuse_with_image([false, request.handler.is_some(), has_layers])?;
    }
    validate::architecture(request.architecture, &request.code)?;
    configuration(inner, caller, request, None).map(drop)
}

pub(crate) async fn run(inner: Arc<Inner>, caller: Caller, request: CreateFunction) -> Result<Configuration, Error> {
    check(&inner, &caller, &request)?;
    inner.check_dead_letters(&request.settings, &caller.account).await?;
    let code = inner.find_code(&caller.account, request.code.clone()).await?;
    inner.crash.reach("create.checked");
    let mut configuration = configuration(&inner, &caller, &request, Some(&code))?;
    let _kept = inner.code_gate.read().await;
    if let Some(arns) = &request.settings.layers {
        configuration.layers = inner.use_layers(&caller.account, arns).await?;
        inner.check_layers(&configuration, code.unzipped_bytes())?;
    }
    inner.take_in(code, &configuration, &STEPS).await?;
    let _alone = inner.lock(&caller.account, &request.name).await;
    let digests: Vec<_> = configuration.digests().collect();
    let created = commit(&inner, &caller, request, configuration).await;
    if created.is_err() {
        inner.garbage.add_all(digests);
    }
    created
}

/// What the function is to be; without its code, what can be said of it before that is there.
fn configuration(
    inner: &Inner,
    caller: &Caller,
    request: &CreateFunction,
    code: Option<&NewCode>,
) -> Result<Configuration, Error> {
    let mut configuration = Configuration {
        account: caller.account.clone(),
        name: request.name.clone(),
        version: Version::Latest,
        runtime: request.runtime,
        kind: SandboxKind::Linux,
        role: validate::role(&request.role)?,
        handler: match &request.code {
            Code::Package(_) => validate::handler(request.handler.as_deref(), request.runtime)?,
            Code::Image(_) => String::new(),
        },
        description: String::new(),
        timeout_seconds: TIMEOUT_SECONDS_DEFAULT,
        memory: MEMORY_DEFAULT,
        ephemeral_storage: EPHEMERAL_STORAGE_DEFAULT,
        environment: BTreeMap::new(),
        architecture: request.architecture.unwrap_or(match &request.code {
            Code::Package(_) => Architecture::default(),
            Code::Image(_) => Architecture::HERE,
        }),
        code: CodePackage {
            digest: Digest::of(b""),
            bytes: 0,
        },
        layers: Vec::new(),
        image: None,
        last_modified: inner.clock.now(),
        revision_id: inner.revision(),
        state: State::Pending,
        last_update: LastUpdate::Successful,
        inert: serde_json::Map::new(),
        durable: request.settings.durable.map(|_| DEFAULT_CONFIG),
    };
    if let Some(code) = code {
        code.put_into(&mut configuration)?;
    }
    let mut settings = request.settings.clone();
    if code.is_none() && matches!(request.code, Code::Image(_)) {
        // There is no image yet that it could be about.
        settings.image = None;
    }
    validate::apply(&settings, &mut configuration)?;
    Ok(configuration)
}

async fn commit(
    inner: &Arc<Inner>,
    caller: &Caller,
    request: CreateFunction,
    configuration: Configuration,
) -> Result<Configuration, Error> {
    let name = configuration.name.clone();
    if inner.registry.snapshot.get(&caller.account, &name).is_some() {
        return Err(refusals::exists(&name));
    }
    let mut entry = FunctionEntry {
        account: caller.account.clone(),
        name: name.clone(),
        tags: request.tags,
        reserved: None,
        recursion_allowed: false,
        next_version: 1,
        latest: Arc::new(configuration),
        serving: None,
        pool: None,
        versions: BTreeMap::new(),
        aliases: BTreeMap::new(),
        event_invokes: BTreeMap::new(),
        policies: BTreeMap::new(),
        attached: BTreeMap::new(),
        at: StoreVersion(0),
        live: inner.function_live(&caller.account, &name),
    };
    let (next_version, numbered_at) = inner.registry.numbering(&entry).await?;
    entry.next_version = next_version;
    let published = request.publish.then(|| entry.publish(inner.revision(), None));
    let mut change = Change::default();
    change.function(None, Some(&entry)).take_numbering(&entry, numbered_at);
    if let Some(number) = published {
        change.version(&entry, number, None, entry.versions.get(&number));
    }
    let row = audit(caller, "CreateFunction", (&caller.account, &name), None);
    let at = inner.commit(row, &mut change, &entry).await?;
    inner.crash.reach("create.committed");
    entry.committed(at, published);
    let shown = entry.shown(published);
    tracing::info!(request_id = caller.request_id, function = %name, kind = ?entry.latest.kind, "function created");
    inner.replace(entry);
    inner.settle_later(&caller.account, &name, caller);
    Ok(shown)
}

impl FunctionEntry {
    /// Makes the next version out of `$LATEST`, as it is now; returns its number.
    pub(super) fn publish(&mut self, revision_id: String, description: Option<String>) -> u64 {
        let number = self.next_version;
        let mut configuration = Configuration::clone(&self.latest);
        configuration.version = Version::Number(number);
        configuration.revision_id = revision_id;
        if self.latest.last_update == LastUpdate::InProgress {
            configuration.state = State::Pending;
        }
        configuration.last_update = LastUpdate::Successful;
        if let Some(description) = description {
            configuration.description = description;
        }
        let version = VersionEntry {
            configuration: Arc::new(configuration),
            source_description: self.latest.description.clone(),
            pool: None,
            at: StoreVersion(0),
        };
        self.versions.insert(number, version);
        self.next_version += 1;
        number
    }

    /// Takes over the store's version of what was committed.
    pub(super) fn committed(&mut self, at: StoreVersion, version: Option<u64>) {
        self.at = at;
        if let Some(version) = version.and_then(|number| self.versions.get_mut(&number)) {
            version.at = at;
        }
    }

    /// What the operation answers: the published version, or `$LATEST`.
    pub(super) fn shown(&self, version: Option<u64>) -> Configuration {
        let version = version.and_then(|number| self.versions.get(&number));
        Configuration::clone(version.map_or(&self.latest, |version| &version.configuration))
    }
}
