//! The end of a creation or an update: the code is prepared, then the function's state says how it went.

use std::sync::Arc;
use std::time::Duration;

use bowline_foundation::digest::Digest;
use bowline_foundation::id::AccountId;
use bowline_oci::registry::RegistryError;
use bowline_sandbox::{PrepareError, VersionSpec};

use super::audit;
use super::images::fetch::NotFetched;
use crate::error::{Error, with_causes};
use crate::invoke::Pool;
use crate::model::{Caller, Configuration, LastUpdate, State};
use crate::name::FunctionName;
use crate::package::layers::combination;
use crate::registry::{Change, FunctionEntry};
use crate::service::Inner;

/// How often a failing platform is given another chance before the function is declared failed.
const TRIES: u32 = 4;
const PAUSE: Duration = Duration::from_millis(200);

/// What the preparation of code came to.
type Prepared = Result<(), (String, String)>;

impl FunctionEntry {
    /// Whether something of the function is still being prepared.
    pub(crate) fn is_unsettled(&self) -> bool {
        self.latest.state == State::Pending
            || self.latest.last_update == LastUpdate::InProgress
            || self
                .versions
                .values()
                .any(|version| version.configuration.state == State::Pending)
    }
}

impl Inner {
    /// Prepares in the background what is pending, and commits the outcome.
    pub(crate) fn settle_later(self: &Arc<Self>, account: &AccountId, name: &FunctionName, caller: &Caller) {
        let task = settle(self.clone(), account.clone(), name.clone(), caller.clone());
        let mut tasks = self.tasks.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn_on(task, &self.runtime);
    }

    /// Makes sure that the code lies unpacked.
    pub(crate) async fn ensure_unpacked(&self, digest: &Digest) -> Result<(), UnpackError> {
        if self.code.contains(digest) {
            return Ok(());
        }
        let package = self.blobs.get(digest).await?;
        Ok(self.code.unpack(digest, package).await?)
    }

    /// Makes sure that the layers lie over one another.
    async fn ensure_combined(&self, layers: &[Digest]) -> Result<(), UnpackError> {
        match combination(layers) {
            Some(combination) if !self.code.contains(&combination) => {
                for layer in layers {
                    self.ensure_unpacked(layer).await?;
                }
                Ok(self.code.combine(&combination, layers).await?)
            }
            _ => Ok(()),
        }
    }

    /// Unpacks and prepares a version.
    async fn prepare(&self, spec: &VersionSpec, layers: &[Digest]) -> Result<(), PrepareError> {
        let _permit = self.prepare_permits.acquire().await;
        let backend = |error| PrepareError::Backend(std::io::Error::other(error));
        match spec.image {
            None => self.ensure_unpacked(&spec.code.digest).await.map_err(backend)?,
            Some(_) => self
                .ensure_image(&spec.code.digest)
                .await
                .map_err(|error| match error {
                    UnpackError::Image(error) if error.is_of_the_image() => {
                        PrepareError::InvalidCode(with_causes(&error))
                    }
                    error => backend(error),
                })?,
        }
        self.ensure_combined(layers).await.map_err(backend)?;
        self.backend(spec.kind).prepare(spec).await
    }

    /// Prepares a pool's version unless this process has done so.
    pub(crate) async fn ensure_prepared(&self, pool: &Pool) -> Result<(), Error> {
        let prepared = pool
            .prepared
            .get_or_try_init(|| self.prepare(&pool.parts.spec, &pool.parts.layers))
            .await;
        prepared.copied().map_err(|error| match error {
            PrepareError::MissingRuntime(reason) | PrepareError::InvalidCode(reason) => Error::InvalidRuntime(reason),
            error @ PrepareError::Backend(_) => Error::service(error),
        })
    }

    /// Fetches what is missing of an image, and prepares a version.
    async fn prepare_new(&self, configuration: &Configuration) -> Result<(), Failure> {
        let Some(image) = &configuration.image else {
            let spec = self.spec(configuration);
            return Ok(self.prepare(&spec, &configuration.layer_digests()).await?);
        };
        let _held = self.hold(image.parts.digests()).await;
        self.fetch_layers(image).await?;
        let prepared = self.prepare(&self.spec(configuration), &[]).await;
        prepared.map_err(|error| match error {
            PrepareError::InvalidCode(reason) => Failure::lasting("InvalidImage", reason),
            error => error.into(),
        })
    }

    async fn try_prepare(&self, configuration: &Configuration) -> Prepared {
        for attempt in 1.. {
            let Err(failure) = self.prepare_new(configuration).await else {
                return Ok(());
            };
            let Failure { code, reason, may_pass } = failure;
            if may_pass && attempt < TRIES {
                tracing::warn!(function = %configuration.name, reason, "preparing failed, trying again");
                tokio::time::sleep(PAUSE * attempt).await;
                continue;
            }
            tracing::warn!(function = %configuration.name, code, reason, "the code cannot be prepared");
            return Err((code.to_owned(), reason));
        }
        unreachable!("the loop ends by returning")
    }
}

/// Why a version was not prepared, as its state tells it.
struct Failure {
    code: &'static str,
    reason: String,
    may_pass: bool,
}

impl Failure {
    fn lasting(code: &'static str, reason: String) -> Self {
        Self {
            code,
            reason,
            may_pass: false,
        }
    }

    fn passing(reason: String) -> Self {
        Self {
            code: "InternalError",
            reason,
            may_pass: true,
        }
    }
}

impl From<PrepareError> for Failure {
    fn from(error: PrepareError) -> Self {
        match error {
            PrepareError::InvalidCode(reason) => Self::lasting("FunctionError", reason),
            PrepareError::MissingRuntime(reason) => Self::lasting("InvalidRuntime", reason),
            error @ PrepareError::Backend(_) => Self::passing(with_causes(&error)),
        }
    }
}

impl From<NotFetched> for Failure {
    fn from(error: NotFetched) -> Self {
        let reason = format!("The image cannot be fetched: {}", with_causes(&error));
        match error {
            NotFetched::Registry(RegistryError::NotFound { .. }) => Self::lasting("ImageDeleted", reason),
            NotFetched::Registry(RegistryError::Denied { .. }) | NotFetched::NoRegistry(_) => {
                Self::lasting("ImageAccessDenied", reason)
            }
            NotFetched::Image(error) if error.is_of_the_image() => Self::lasting("InvalidImage", reason),
            // It may have been damaged on its way.
            NotFetched::Registry(RegistryError::Unusable { .. }) => Self {
                code: "InvalidImage",
                reason,
                may_pass: true,
            },
            _ => Self::passing(reason),
        }
    }
}

/// Why code could not be laid out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnpackError {
    #[error("deployment package cannot be read")]
    Blob(#[from] bowline_store::blob::BlobError),
    #[error("deployment package cannot be unpacked")]
    Disk(#[from] std::io::Error),
    #[error("container image cannot be unpacked")]
    Image(#[from] bowline_oci::ImageError),
}

async fn settle(inner: Arc<Inner>, account: AccountId, name: FunctionName, caller: Caller) {
    let Some(begun) = inner.registry.snapshot.get(&account, &name) else {
        return;
    };
    let prepared = inner.try_prepare(&begun.latest).await;
    inner.crash.reach("settle.prepared");
    let ahead = match prepared {
        Ok(()) => warm_ahead(&inner, &begun).await,
        Err(_) => None,
    };
    if !commit_once(&inner, &caller, &begun, (&prepared, ahead.as_ref())).await {
        inner.retire(ahead);
    }
}

/// The function, if its state is still the one that was begun with.
fn still_unsettled(inner: &Inner, begun: &FunctionEntry) -> Option<Arc<FunctionEntry>> {
    let entry = inner.registry.snapshot.get(&begun.account, &begun.name)?;
    (entry.latest.revision_id == begun.latest.revision_id && entry.is_unsettled()).then_some(entry)
}

/// A place for the code that takes over, with as many sandboxes as the one before it has. It takes a while, in which
/// nobody is to wait for the function's lock.
async fn warm_ahead(inner: &Arc<Inner>, begun: &FunctionEntry) -> Option<Arc<Pool>> {
    let entry = still_unsettled(inner, begun)?;
    let pool = inner.prepared_pool(&entry.latest, &entry);
    inner.warm_beside(entry.pool.as_ref(), &pool).await;
    Some(pool)
}

/// Commits the outcome, however often that takes; whether it was still wanted.
async fn commit_once(
    inner: &Arc<Inner>,
    caller: &Caller,
    begun: &FunctionEntry,
    outcome: (&Prepared, Option<&Arc<Pool>>),
) -> bool {
    for attempt in 1.. {
        let alone = inner.lock(&begun.account, &begun.name).await;
        let Some(entry) = still_unsettled(inner, begun) else {
            return false;
        };
        match commit(inner, caller, &entry, outcome).await {
            Ok(()) => return true,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(function = %begun.name, error, "the function's state cannot be committed yet");
            }
        }
        drop(alone);
        tokio::time::sleep(PAUSE * attempt.min(50)).await;
    }
    unreachable!("the loop ends by returning")
}

async fn commit(
    inner: &Arc<Inner>,
    caller: &Caller,
    old: &FunctionEntry,
    (prepared, ahead): (&Prepared, Option<&Arc<Pool>>),
) -> Result<(), Error> {
    let mut entry = old.clone();
    let mut latest = Configuration::clone(&old.latest);
    let retired = match prepared {
        Ok(()) => {
            latest.state = State::Active;
            latest.last_update = LastUpdate::Successful;
            entry.latest = Arc::new(latest);
            entry.serving = Some(entry.latest.clone());
            let pool = ahead.cloned();
            let pool = pool.unwrap_or_else(|| inner.prepared_pool(&entry.latest, &entry));
            entry.pool.replace(pool)
        }
        Err((code, reason)) => {
            let (code, reason) = (code.clone(), reason.clone());
            if latest.last_update == LastUpdate::InProgress {
                let (code, reason) = (code.clone(), reason.clone());
                latest.last_update = LastUpdate::Failed { code, reason };
            }
            if latest.state == State::Pending {
                latest.state = State::Failed { code, reason };
            }
            entry.latest = Arc::new(latest);
            None
        }
    };
    let mut change = Change::default();
    change.function(Some(old), Some(&entry));
    let settled = settle_versions(inner, &mut entry, prepared);
    for number in &settled {
        change.version(old, *number, old.versions.get(number), entry.versions.get(number));
    }
    let row = audit(caller, "Settle", (&old.account, &old.name), None);
    let at = inner.commit(row, &mut change, old).await?;
    inner.crash.reach("settle.committed");
    entry.at = at;
    for number in settled {
        entry.committed(at, Some(number));
    }
    tracing::info!(request_id = caller.request_id, function = %entry.name, prepared = prepared.is_ok(),
        "function settled");
    inner.replace(entry);
    inner.retire(retired);
    inner.garbage.add_all(old.latest.digests());
    old.serving
        .iter()
        .for_each(|serving| inner.garbage.add_all(serving.digests()));
    Ok(())
}

/// Versions that were published together with the change share its outcome; returns their numbers.
fn settle_versions(inner: &Arc<Inner>, entry: &mut FunctionEntry, prepared: &Prepared) -> Vec<u64> {
    let mut versions = entry.versions.clone();
    let mut settled = Vec::new();
    for (number, version) in &mut versions {
        if version.configuration.state != State::Pending {
            continue;
        }
        let configuration = Arc::make_mut(&mut version.configuration);
        configuration.state = match prepared.clone() {
            Ok(()) => State::Active,
            Err((code, reason)) => State::Failed { code, reason },
        };
        version.pool = prepared
            .is_ok()
            .then(|| inner.prepared_pool(&version.configuration, entry));
        settled.push(*number);
    }
    entry.versions = versions;
    settled
}
