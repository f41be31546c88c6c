//! PutFunctionEventInvokeConfig and its siblings.

use std::sync::Arc;

use bowline_store::Version as StoreVersion;

use super::{audit, refusals};
use crate::error::Error;
use crate::events::arn::{Purpose, Target};
use crate::model::Caller;
use crate::model::events::{EventInvokeConfig, EventInvokeSettings, PutEventInvoke, PutMode};
use crate::name::{FunctionRef, Qualifier, Version};
use crate::registry::{Change, EventInvokeEntry, FunctionEntry};
use crate::service::Inner;

pub(crate) async fn put(
    inner: Arc<Inner>,
    caller: Caller,
    target: FunctionRef,
    request: PutEventInvoke,
    mode: PutMode,
) -> Result<EventInvokeConfig, Error> {
    inner.streams()?;
    let entry = inner.entry(&target)?;
    for (arn, purpose) in [
        (&request.on_success, Purpose::Success),
        (&request.on_failure, Purpose::Failure),
    ] {
        let Some(arn) = arn else { continue };
        let found = inner.check_destination(arn, purpose, &caller.account).await?;
        refuse_itself(&target, found.as_ref())?;
    }
    drop(entry);
    let _alone = inner.lock(&target.account, &target.name).await;
    let old = inner.entry(&target)?;
    inner.target(&old, &target)?;
    let qualifier = qualifier(&target);
    let key = qualifier.to_string();
    let before = old.event_invokes.get(&key);
    let (base, action) = match mode {
        PutMode::Replace => (EventInvokeSettings::default(), "PutFunctionEventInvokeConfig"),
        PutMode::Merge => {
            let before = before.ok_or_else(|| absent(&inner, &target))?;
            (before.config.settings.clone(), "UpdateFunctionEventInvokeConfig")
        }
    };
    let config = EventInvokeConfig {
        account: old.account.clone(),
        function: old.name.clone(),
        qualifier,
        settings: apply(base, request)?,
        last_modified: inner.clock.now(),
    };
    let after = EventInvokeEntry {
        config: config.clone(),
        at: StoreVersion(0),
    };
    let mut change = Change::default();
    change.event_invoke(before, Some(&after)).unchanged(&old);
    let row = audit(&caller, action, (&old.account, &old.name), Some(&key));
    let at = inner.commit(row, &mut change, &old).await?;
    let mut entry = FunctionEntry::clone(&old);
    entry.event_invokes.insert(key, EventInvokeEntry { at, ..after });
    inner.replace(entry);
    Ok(config)
}

pub(crate) fn get(inner: &Inner, target: &FunctionRef) -> Result<EventInvokeConfig, Error> {
    let entry = inner.entry(target)?;
    let found = entry.event_invokes.get(&qualifier(target).to_string());
    found
        .map(|found| found.config.clone())
        .ok_or_else(|| absent(inner, target))
}

pub(crate) async fn delete(inner: Arc<Inner>, caller: Caller, target: FunctionRef) -> Result<(), Error> {
    let _alone = inner.lock(&target.account, &target.name).await;
    let old = inner.entry(&target)?;
    let key = qualifier(&target).to_string();
    let before = old.event_invokes.get(&key).ok_or_else(|| absent(&inner, &target))?;
    let mut change = Change::default();
    change.event_invoke(Some(before), None).unchanged(&old);
    let row = audit(
        &caller,
        "DeleteFunctionEventInvokeConfig",
        (&old.account, &old.name),
        Some(&key),
    );
    inner.commit(row, &mut change, &old).await?;
    let mut entry = FunctionEntry::clone(&old);
    entry.event_invokes.remove(&key);
    inner.replace(entry);
    Ok(())
}

/// A function that is told of its own outcomes would run for ever.
fn refuse_itself(function: &FunctionRef, destination: Option<&Target>) -> Result<(), Error> {
    match destination {
        Some(Target::Function(told)) if (&told.account, &told.name) == (&function.account, &function.name) => Err(
            Error::InvalidParameter("You can't specify the function as a destination for itself.".to_owned()),
        ),
        _ => Ok(()),
    }
}

/// The configuration of an unqualified function is that of `$LATEST`.
fn qualifier(target: &FunctionRef) -> Qualifier {
    target.qualifier.clone().unwrap_or(Qualifier::Version(Version::Latest))
}

fn absent(inner: &Inner, target: &FunctionRef) -> Error {
    let arn = inner.arn(&target.account, &target.name, Some(&qualifier(target)));
    refusals::no_event_invoke(&arn)
}

fn apply(mut to: EventInvokeSettings, from: PutEventInvoke) -> Result<EventInvokeSettings, Error> {
    if let Some(retries) = from.retries_max {
        to.retries_max = Some(super::validate::within("maximumRetryAttempts", retries, 0, 2)?);
    }
    if let Some(seconds) = from.age_seconds_max {
        to.age_seconds_max = Some(super::validate::within(
            "maximumEventAgeInSeconds",
            seconds,
            60,
            21_600,
        )?);
    }
    if let Some(arn) = from.on_success {
        to.on_success = Some(arn).filter(|arn| !arn.is_empty());
    }
    if let Some(arn) = from.on_failure {
        to.on_failure = Some(arn).filter(|arn| !arn.is_empty());
    }
    Ok(to)
}
