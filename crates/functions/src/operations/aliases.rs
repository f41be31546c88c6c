//! CreateAlias, UpdateAlias and DeleteAlias.

use std::sync::Arc;

use bowline_store::Version as StoreVersion;

use super::{audit, provisioned, refusals, validate};
use crate::error::Error;
use crate::invoke::Pool;
use crate::model::{Alias, Caller, CreateAlias, UpdateAlias};
use crate::name::{AliasName, FunctionRef, Qualifier, Version};
use crate::registry::{AliasEntry, Change, FunctionEntry};
use crate::service::Inner;

pub(crate) async fn create(
    inner: Arc<Inner>,
    caller: Caller,
    target: FunctionRef,
    request: CreateAlias,
) -> Result<Alias, Error> {
    validate::description(&request.description)?;
    let _alone = inner.lock(&target.account, &target.name).await;
    let old = inner.entry(&target)?;
    if old.aliases.contains_key(&request.name) {
        let qualifier = Qualifier::Alias(request.name);
        return Err(refusals::alias_exists(&inner.arn(
            &old.account,
            &old.name,
            Some(&qualifier),
        )));
    }
    let alias = Alias {
        account: old.account.clone(),
        function: old.name.clone(),
        name: request.name,
        version: request.version,
        description: request.description,
        routing: request.routing,
        revision_id: inner.revision(),
    };
    check_versions(&inner, &old, &alias)?;
    let what = Mutation {
        action: "CreateAlias",
        crash: "create-alias.committed",
    };
    put(&inner, &caller, &old, alias, what).await
}

pub(crate) async fn update(
    inner: Arc<Inner>,
    caller: Caller,
    target: FunctionRef,
    name: AliasName,
    request: UpdateAlias,
) -> Result<Alias, Error> {
    warm_next(&inner, &target, &name, &request).await;
    let _alone = inner.lock(&target.account, &target.name).await;
    let old = inner.entry(&target)?;
    let mut alias = find(&inner, &old, &name)?.alias.clone();
    if request.revision_id.is_some_and(|given| given != alias.revision_id) {
        return Err(refusals::stale_revision());
    }
    if let Some(description) = request.description {
        validate::description(&description)?;
        alias.description = description;
    }
    alias.version = request.version.unwrap_or(alias.version);
    alias.routing = request.routing.unwrap_or(alias.routing);
    alias.revision_id = inner.revision();
    check_versions(&inner, &old, &alias)?;
    provisioned::check_alias(&old, &alias)?;
    let what = Mutation {
        action: "UpdateAlias",
        crash: "update-alias.committed",
    };
    put(&inner, &caller, &old, alias, what).await
}

/// Deleting an alias that does not exist succeeds, as the service does.
pub(crate) async fn delete(
    inner: Arc<Inner>,
    caller: Caller,
    target: FunctionRef,
    name: AliasName,
) -> Result<(), Error> {
    let _alone = inner.lock(&target.account, &target.name).await;
    let old = inner.entry(&target)?;
    let Some(alias) = old.aliases.get(&name) else {
        return Ok(());
    };
    let mut entry = old.as_ref().clone();
    entry.aliases.remove(&name);
    let mut change = Change::default();
    change.alias(Some(alias), None).unchanged(&old);
    if let Some(config) = entry.event_invokes.remove(name.as_str()) {
        change.event_invoke(Some(&config), None);
    }
    if let Some(policy) = entry.policies.remove(name.as_str()) {
        change.policy(Some(&policy), None);
    }
    if let Some(attached) = entry.attached.remove(name.as_str()) {
        change.attached(&old, name.as_str(), Some(&attached), None);
    }
    let row = audit(&caller, "DeleteAlias", (&old.account, &old.name), Some(&name));
    inner.commit(row, &mut change, &old).await?;
    inner.crash.reach("delete-alias.committed");
    inner.replace(entry);
    Ok(())
}

/// Whether an alias may send invocations to a version.
pub(super) fn points_at(alias: &Alias, version: Version) -> bool {
    alias.version == version || alias.routing.is_some_and(|(second, _)| second == version)
}

pub(crate) fn find<'a>(inner: &Inner, entry: &'a FunctionEntry, name: &AliasName) -> Result<&'a AliasEntry, Error> {
    entry.aliases.get(name).ok_or_else(|| {
        let qualifier = Qualifier::Alias(name.clone());
        refusals::alias_not_found(&inner.arn(&entry.account, &entry.name, Some(&qualifier)))
    })
}

struct Mutation {
    action: &'static str,
    crash: &'static str,
}

async fn put(
    inner: &Arc<Inner>,
    caller: &Caller,
    old: &FunctionEntry,
    alias: Alias,
    what: Mutation,
) -> Result<Alias, Error> {
    let name = alias.name.clone();
    let new = AliasEntry {
        alias: alias.clone(),
        at: StoreVersion(0),
    };
    let mut change = Change::default();
    change.alias(old.aliases.get(&name), Some(&new)).unchanged(old);
    let row = audit(caller, what.action, (&old.account, &old.name), Some(&name));
    let at = inner.commit(row, &mut change, old).await?;
    inner.crash.reach(what.crash);
    let mut entry = old.clone();
    entry.aliases.insert(name, AliasEntry { at, ..new });
    inner.replace(entry);
    Ok(alias)
}

/// Starts sandboxes of the version that an alias is about to point at. It takes a while, in which nobody is to wait for
/// the function's lock; whether the alias may be changed is judged afterwards.
async fn warm_next(inner: &Arc<Inner>, target: &FunctionRef, name: &AliasName, request: &UpdateAlias) {
    let Some(entry) = inner.registry.snapshot.get(&target.account, &target.name) else {
        return;
    };
    let (Some(found), Some(next)) = (entry.aliases.get(name), request.version) else {
        return;
    };
    let given = request.revision_id.as_ref();
    if given.is_some_and(|given| *given != found.alias.revision_id) {
        return;
    }
    if let Some(after) = pool_of(&entry, next) {
        inner.warm_beside(pool_of(&entry, found.alias.version), after).await;
    }
}

fn pool_of(entry: &FunctionEntry, version: Version) -> Option<&Arc<Pool>> {
    match version {
        Version::Latest => entry.pool.as_ref(),
        Version::Number(number) => entry.versions.get(&number)?.pool.as_ref(),
    }
}

/// An alias points at versions that exist, and divides invocations between published ones only.
fn check_versions(inner: &Inner, entry: &FunctionEntry, alias: &Alias) -> Result<(), Error> {
    check_version(inner, entry, alias.version)?;
    let Some((second, weight)) = alias.routing else {
        return Ok(());
    };
    validate::weight(weight)?;
    if alias.version == Version::Latest || second == Version::Latest {
        return Err(Error::InvalidParameter(
            "$LATEST is not supported for an alias pointing to more than 1 version".to_owned(),
        ));
    }
    if alias.version == second {
        return Err(Error::InvalidParameter(format!(
            "Invalid function version {second}. Function version {second} is already included in routing configuration."
        )));
    }
    check_version(inner, entry, second)
}

fn check_version(inner: &Inner, entry: &FunctionEntry, version: Version) -> Result<(), Error> {
    match version {
        Version::Number(number) if !entry.versions.contains_key(&number) => {
            let qualifier = Qualifier::Version(version);
            Err(refusals::not_found(&inner.arn(
                &entry.account,
                &entry.name,
                Some(&qualifier),
            )))
        }
        _ => Ok(()),
    }
}
