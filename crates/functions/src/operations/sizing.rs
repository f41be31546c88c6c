//! Sizes of versions: shown, set to follow the use or not, accepted, and taken back.

use std::sync::Arc;

use super::attach::edit;
use crate::error::Error;
use crate::invoke::Pool;
use crate::model::Caller;
use crate::model::sizing::{Profile, SizingChange};
use crate::name::{FunctionRef, Qualifier, Version};
use crate::registry::FunctionEntry;
use crate::service::Inner;

/// The size of a version with the samples so far.
pub(crate) fn get(inner: &Inner, target: &FunctionRef) -> Result<Profile, Error> {
    let entry = inner.entry(target)?;
    let configuration = inner.target(&entry, target)?.configuration.clone();
    let pool = entry
        .pools()
        .find(|pool| pool.parts.version == configuration.version && pool.parts.spec.memory == configuration.memory);
    Ok(match pool {
        Some(pool) => pool.sizing.lock().clone(),
        None => entry.sizing(configuration.version, configuration.memory),
    })
}

/// Changes the size of a version by hand.
pub(crate) async fn change(
    inner: Arc<Inner>,
    caller: Caller,
    target: FunctionRef,
    change: SizingChange,
) -> Result<Profile, Error> {
    let _alone = inner.lock(&target.account, &target.name).await;
    let old = inner.entry(&target)?;
    let configuration = inner.target(&old, &target)?.configuration.clone();
    let mut profile = old.sizing(configuration.version, configuration.memory);
    let action = match change {
        SizingChange::Mode(mode) => {
            profile.set_mode(mode);
            "SetSizing"
        }
        SizingChange::Accept => {
            let nothing = || Error::Conflict("There is no suggestion to accept.".to_owned());
            profile.accept().ok_or_else(nothing)?;
            "AcceptSize"
        }
        SizingChange::RollBack => {
            let nothing = || Error::Conflict("No change of size is left to take back.".to_owned());
            profile.roll_back().ok_or_else(nothing)?;
            "RollBackSize"
        }
    };
    put(
        &inner,
        (&caller, action),
        &old,
        (configuration.version, profile.clone()),
    )
    .await?;
    Ok(profile)
}

/// Keeps what came of watching the runs of a pool, and puts it in force; `base` is what it was judged from.
pub(crate) async fn observed(
    inner: &Arc<Inner>,
    pool: &Arc<Pool>,
    (base, profile): (&Profile, Profile),
) -> Result<(), Error> {
    let (account, name) = (&pool.parts.spec.account, &pool.parts.spec.function);
    let Ok(name) = name.parse() else { return Ok(()) };
    let _alone = inner.lock(account, &name).await;
    let Some(old) = inner.registry.snapshot.get(account, &name) else {
        return Ok(());
    };
    let before = old.sizing(pool.parts.version, pool.parts.spec.memory);
    let is_current = old.pools().any(|current| Arc::ptr_eq(current, pool)) && before == *base;
    if !is_current {
        // Somebody has changed the function or its size meanwhile.
        inner.set_sizing(pool, &before);
        return Ok(());
    }
    let caller = Caller {
        account: account.clone(),
        request_id: inner.revision(),
    };
    let action = if profile.effective() == before.effective() {
        "SuggestSize"
    } else {
        "ChangeSize"
    };
    tracing::info!(function = %name, version = %pool.parts.version, action, from_mib = before.effective().0,
        to_mib = profile.effective().0, suggested_mib = profile.suggestion().map(|change| change.to.0),
        "a size was judged by what runs use");
    let put = put(inner, (&caller, action), &old, (pool.parts.version, profile)).await;
    if put.is_err() {
        inner.set_sizing(pool, &before);
    }
    put
}

async fn put(
    inner: &Arc<Inner>,
    audit: (&Caller, &'static str),
    old: &FunctionEntry,
    (version, profile): (Version, Profile),
) -> Result<(), Error> {
    let target = FunctionRef {
        account: old.account.clone(),
        name: old.name.clone(),
        qualifier: Some(Qualifier::Version(version)),
    };
    edit(inner, audit, old, &target, |to| to.sizing = Some(profile.settled())).await
}
