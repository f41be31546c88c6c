//! PutProvisionedConcurrencyConfig and its siblings.

use std::sync::Arc;

use bowline_foundation::limits::UNRESERVED_CONCURRENCY_MIN;

use super::attach::{edit, find};
use super::{aliases, list, refusals};
use crate::error::Error;
use crate::model::attached::{Provisioned, ProvisionedConfig, ProvisionedStatus};
use crate::model::{Alias, Caller, Page, PageRequest, State};
use crate::name::{FunctionRef, Qualifier, Version};
use crate::registry::FunctionEntry;
use crate::service::Inner;

/// `requested` is at least one.
pub(crate) async fn put(
    inner: Arc<Inner>,
    caller: Caller,
    target: FunctionRef,
    requested: u32,
) -> Result<ProvisionedConfig, Error> {
    // The sum over the account is judged here, so that no other function's may change meanwhile.
    let _reservations = inner.account_lock.lock().await;
    let _alone = inner.lock(&target.account, &target.name).await;
    let old = inner.entry(&target)?;
    check_target(&inner, &old, &target)?;
    check_limits(&inner, &old, &target, requested)?;
    let settings = Provisioned {
        requested,
        last_modified: inner.clock.now(),
    };
    let action = "PutProvisionedConcurrencyConfig";
    edit(&inner, (&caller, action), &old, &target, |to| {
        to.provisioned = Some(settings)
    })
    .await?;
    let entry = inner.entry(&target)?;
    // The owner may have mended what made it fail.
    if let Some(pool) = version(&entry, &target).and_then(|number| entry.versions.get(&number)?.pool.as_ref()) {
        pool.quota.forgive();
    }
    inner.keeper.wake();
    Ok(view(&entry, target, settings))
}

pub(crate) fn get(inner: &Inner, target: &FunctionRef) -> Result<ProvisionedConfig, Error> {
    let entry = inner.entry(target)?;
    let settings = existing(inner, &entry, target)?;
    Ok(view(&entry, target.clone(), settings))
}

pub(crate) async fn delete(inner: Arc<Inner>, caller: Caller, target: FunctionRef) -> Result<(), Error> {
    let _reservations = inner.account_lock.lock().await;
    let _alone = inner.lock(&target.account, &target.name).await;
    let old = inner.entry(&target)?;
    match existing(&inner, &old, &target) {
        // Deleting what is not there succeeds, as the service does.
        Err(Error::ProvisionedNotFound(_)) => return Ok(()),
        found => drop(found?),
    }
    let action = "DeleteProvisionedConcurrencyConfig";
    edit(&inner, (&caller, action), &old, &target, |to| to.provisioned = None).await
}

pub(crate) fn list(inner: &Inner, target: &FunctionRef, page: &PageRequest) -> Result<Page<ProvisionedConfig>, Error> {
    let entry = inner.entry(target)?;
    let configs = entry.attached.iter().filter_map(|(key, found)| {
        let settings = found.attached.provisioned?;
        let target = target.qualified(key.parse().ok());
        Some((key, view(&entry, target, settings)))
    });
    list::attached(configs, page)
}

/// An alias that has provisioned concurrency leads to one published version that has none of its own.
pub(super) fn check_alias(entry: &FunctionEntry, alias: &Alias) -> Result<(), Error> {
    let attached = entry.attached.get(alias.name.as_str());
    if attached.is_none_or(|found| found.attached.provisioned.is_none()) {
        return Ok(());
    }
    check_version(entry, alias.name.as_str(), alias.version, alias.routing.is_some())
}

/// The number of the version that a target leads to.
fn version(entry: &FunctionEntry, target: &FunctionRef) -> Option<u64> {
    let version = match target.qualifier.as_ref()? {
        Qualifier::Version(version) => *version,
        Qualifier::Alias(name) => entry.aliases.get(name)?.alias.version,
    };
    match version {
        Version::Latest => None,
        Version::Number(number) => Some(number),
    }
}

fn check_target(inner: &Inner, entry: &FunctionEntry, target: &FunctionRef) -> Result<(), Error> {
    match &target.qualifier {
        None | Some(Qualifier::Version(Version::Latest)) => Err(refusals::unpublished()),
        Some(Qualifier::Version(version)) => {
            inner.target(entry, target)?;
            check_version(entry, &version.to_string(), *version, false)
        }
        Some(Qualifier::Alias(name)) => {
            let alias = &aliases::find(inner, entry, name)?.alias;
            check_version(entry, name.as_str(), alias.version, alias.routing.is_some())
        }
    }
}

fn check_version(entry: &FunctionEntry, key: &str, version: Version, is_weighted: bool) -> Result<(), Error> {
    if is_weighted {
        return Err(Error::InvalidParameter(
            "Alias with weights can not be used with Provisioned Concurrency".to_owned(),
        ));
    }
    let Version::Number(number) = version else {
        return Err(refusals::unpublished());
    };
    match entry.provisioned_by(number).find(|(other, _)| *other != key) {
        None => Ok(()),
        Some(_) if key.parse() == Ok(number) => Err(Error::Conflict(
            "Version is pointed by a Provisioned Concurrency alias".to_owned(),
        )),
        Some(_) => Err(Error::Conflict(
            "Alias can't be used for Provisioned Concurrency configuration on an already Provisioned version"
                .to_owned(),
        )),
    }
}

fn check_limits(inner: &Inner, entry: &FunctionEntry, target: &FunctionRef, requested: u32) -> Result<(), Error> {
    let before = find(entry, target).and_then(|found| found.provisioned);
    let others = entry.provisioned() - before.map_or(0, |before| before.requested);
    let total = others.saturating_add(requested);
    if let Some(reserved) = entry.reserved {
        return (total <= reserved).then_some(()).ok_or_else(|| {
            Error::InvalidParameter(
                "Requested Provisioned Concurrency should not be greater than the reservedConcurrentExecution for \
                 function"
                    .to_owned(),
            )
        });
    }
    let rest = inner.reserved(&target.account) - entry.held();
    let unreserved = inner.accounts.unreserved(rest);
    if total > unreserved {
        return Err(Error::InvalidParameter(format!(
            "Specified ConcurrentExecutions for function is greater than account's unreserved concurrency \
             [{unreserved}]."
        )));
    }
    if unreserved - total < UNRESERVED_CONCURRENCY_MIN {
        return Err(Error::InvalidParameter(format!(
            "Specified ConcurrentExecutions for function decreases account's UnreservedConcurrentExecution below its \
             minimum value of [{UNRESERVED_CONCURRENCY_MIN}]."
        )));
    }
    Ok(())
}

fn existing(inner: &Inner, entry: &FunctionEntry, target: &FunctionRef) -> Result<Provisioned, Error> {
    match &target.qualifier {
        None | Some(Qualifier::Version(Version::Latest)) => {
            return Err(Error::InvalidParameter(
                "The function resource provided must be an alias or a published version.".to_owned(),
            ));
        }
        Some(Qualifier::Version(_)) => inner.target(entry, target).map(|_| ())?,
        Some(Qualifier::Alias(name)) => aliases::find(inner, entry, name).map(|_| ())?,
    }
    let found = find(entry, target).and_then(|found| found.provisioned);
    found.ok_or_else(refusals::no_provisioned)
}

/// How it is at this moment.
fn view(entry: &FunctionEntry, target: FunctionRef, settings: Provisioned) -> ProvisionedConfig {
    let version = version(entry, &target).and_then(|number| entry.versions.get(&number));
    let pool = version.and_then(|version| version.pool.as_ref());
    let (available, status) = match (pool, version.map(|version| &version.configuration.state)) {
        (Some(pool), _) => pool.quota.status(settings.requested),
        (None, Some(State::Failed { reason, .. })) => (0, ProvisionedStatus::Failed(reason.clone())),
        _ => (0, ProvisionedStatus::InProgress),
    };
    ProvisionedConfig {
        target,
        settings,
        available,
        status,
    }
}
