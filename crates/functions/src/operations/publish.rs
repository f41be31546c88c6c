//! PublishVersion.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{audit, latest_only, refusals, update, validate};
use crate::error::Error;
use crate::model::{Caller, Configuration, PublishVersion, State};
use crate::name::FunctionRef;
use crate::registry::{Change, FunctionEntry, VersionEntry};
use crate::service::Inner;

pub(crate) async fn run(
    inner: Arc<Inner>,
    caller: Caller,
    target: FunctionRef,
    request: PublishVersion,
) -> Result<Configuration, Error> {
    latest_only(&target)?;
    let _alone = inner.lock(&target.account, &target.name).await;
    let old = inner.entry(&target)?;
    update::updatable(&inner, &old, request.revision_id.as_deref())?;
    if matches!(old.latest.state, State::Failed { .. }) {
        return Err(refusals::in_state("Failed"));
    }
    check_digest(&old.latest, request.code_sha256.as_deref())?;
    if let Some(description) = &request.description {
        validate::description(description)?;
    }
    if let Some((_, newest)) = old.versions.last_key_value()
        && is_copy_of(newest, &old.latest)
    {
        return Ok(Configuration::clone(&newest.configuration));
    }
    let mut entry = old.as_ref().clone();
    let number = entry.publish(inner.revision(), request.description);
    let mut change = Change::default();
    change.version(&entry, number, None, entry.versions.get(&number));
    change.function(Some(&old), Some(&entry));
    let row = audit(&caller, "PublishVersion", (&old.account, &old.name), Some(&number));
    let at = inner.commit(row, &mut change, &old).await?;
    inner.crash.reach("publish.committed");
    entry.committed(at, Some(number));
    activate(&inner, &mut entry, number).await;
    let shown = entry.shown(Some(number));
    tracing::info!(request_id = caller.request_id, function = %entry.name, version = number, "version published");
    inner.replace(entry);
    Ok(shown)
}

/// Gives the new version a place to run, and gets it ready there, so that its first invocation need not.
async fn activate(inner: &Arc<Inner>, entry: &mut FunctionEntry, number: u64) {
    let Some(configuration) = entry.versions.get(&number).map(|version| version.configuration.clone()) else {
        return;
    };
    let pool = inner.pool(&configuration, entry);
    if let Err(error) = inner.ensure_prepared(&pool).await {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(function = %entry.name, version = number, error, "a version is prepared at its first invocation");
    }
    if let Some(version) = entry.versions.get_mut(&number) {
        version.pool = Some(pool);
    }
}

fn check_digest(latest: &Configuration, given: Option<&str>) -> Result<(), Error> {
    let actual = match latest.image {
        Some(_) => latest.code.digest.to_string(),
        None => STANDARD.encode(latest.code.digest.as_bytes()),
    };
    match given {
        Some(given) if given != actual => Err(Error::InvalidParameter(format!(
            "CodeSHA256 ({given}) is different from current CodeSHA256 in $LATEST ({actual}). Please try again with the \
             CodeSHA256 in $LATEST."
        ))),
        _ => Ok(()),
    }
}

/// Whether nothing has changed since `version` was published. An update counts though it changed nothing, as it does at the
/// service.
fn is_copy_of(version: &VersionEntry, latest: &Configuration) -> bool {
    let published = &version.configuration;
    published.last_modified == latest.last_modified
        && version.source_description == latest.description
        && published.code == latest.code
        && published.layers == latest.layers
        && published.image == latest.image
        && published.runtime == latest.runtime
        && published.kind == latest.kind
        && published.role == latest.role
        && published.handler == latest.handler
        && published.timeout_seconds == latest.timeout_seconds
        && published.memory == latest.memory
        && published.ephemeral_storage == latest.ephemeral_storage
        && published.environment == latest.environment
        && published.architecture == latest.architecture
        && published.inert == latest.inert
}
