//! DeleteFunction: a whole function, or one version.

use std::sync::Arc;

use super::{audit, refusals};
use crate::error::Error;
use crate::model::Caller;
use crate::name::{FunctionRef, Qualifier, Version};
use crate::registry::{Change, FunctionEntry};
use crate::service::Inner;

pub(crate) async fn run(inner: Arc<Inner>, caller: Caller, target: FunctionRef) -> Result<(), Error> {
    match target.qualifier {
        None => function(&inner, &caller, &target).await,
        Some(Qualifier::Version(Version::Number(number))) => version(&inner, &caller, &target, number).await,
        Some(Qualifier::Version(Version::Latest)) => Err(Error::InvalidParameter(
            "$LATEST version cannot be deleted without deleting the function.".to_owned(),
        )),
        Some(Qualifier::Alias(_)) => Err(Error::InvalidParameter(
            "Deletion of aliases is not currently supported.".to_owned(),
        )),
    }
}

async fn function(inner: &Arc<Inner>, caller: &Caller, target: &FunctionRef) -> Result<(), Error> {
    let _reservations = inner.account_lock.lock().await;
    let _alone = inner.lock(&target.account, &target.name).await;
    let old = inner.entry(target)?;
    let mut change = Change::default();
    change.delete(&old);
    let row = audit(caller, "DeleteFunction", (&old.account, &old.name), None);
    inner.commit(row, &mut change, &old).await?;
    inner.crash.reach("delete.committed");
    inner.registry.snapshot.remove(&old.account, &old.name);
    inner.gone(&old);
    tracing::info!(request_id = caller.request_id, function = %old.name, "function deleted");
    Ok(())
}

async fn version(inner: &Arc<Inner>, caller: &Caller, target: &FunctionRef, number: u64) -> Result<(), Error> {
    let _alone = inner.lock(&target.account, &target.name).await;
    let old = inner.entry(target)?;
    let Some(version) = old.versions.get(&number) else {
        return Err(refusals::not_found(&inner.target_arn(target)));
    };
    let users = aliases_of(&old, Version::Number(number));
    if !users.is_empty() {
        return Err(Error::Conflict(format!(
            "Unable to delete version {number} because the following aliases reference it: [{}]",
            users.join(", ")
        )));
    }
    let mut entry = old.as_ref().clone();
    entry.versions.remove(&number);
    let mut change = Change::default();
    change.version(&old, number, Some(version), None).unchanged(&old);
    if let Some(config) = entry.event_invokes.remove(&number.to_string()) {
        change.event_invoke(Some(&config), None);
    }
    if let Some(policy) = entry.policies.remove(&number.to_string()) {
        change.policy(Some(&policy), None);
    }
    if let Some(attached) = entry.attached.remove(&number.to_string()) {
        change.attached(&old, &number.to_string(), Some(&attached), None);
    }
    let row = audit(caller, "DeleteFunction", (&old.account, &old.name), Some(&number));
    inner.commit(row, &mut change, &old).await?;
    inner.crash.reach("delete-version.committed");
    inner.replace(entry);
    inner.retire(version.pool.clone());
    inner.garbage.add_all(version.configuration.digests());
    tracing::info!(request_id = caller.request_id, function = %old.name, version = number, "version deleted");
    Ok(())
}

/// The names of the aliases that point at a version.
fn aliases_of(entry: &FunctionEntry, version: Version) -> Vec<&str> {
    let aliases = entry.aliases.values().map(|entry| &entry.alias);
    let users = aliases.filter(|alias| super::aliases::points_at(alias, version));
    users.map(|alias| alias.name.as_str()).collect()
}
