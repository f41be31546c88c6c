//! Settings that are kept and shown: when a runtime is updated, and whether a function may cause itself.

use std::sync::Arc;

use super::attach::{edit, find};
use super::{audit, latest_only};
use crate::error::Error;
use crate::model::Caller;
use crate::model::attached::RuntimeManagement;
use crate::name::FunctionRef;
use crate::registry::Change;
use crate::service::Inner;

/// `None` means `Auto`, which holds where nothing is said.
pub(crate) async fn put_runtime_management(
    inner: Arc<Inner>,
    caller: Caller,
    target: FunctionRef,
    wanted: Option<RuntimeManagement>,
) -> Result<(), Error> {
    let _alone = inner.lock(&target.account, &target.name).await;
    let old = inner.entry(&target)?;
    inner.target(&old, &target)?;
    let action = "PutRuntimeManagementConfig";
    edit(&inner, (&caller, action), &old, &target, |to| to.runtime = wanted).await
}

pub(crate) fn runtime_management(inner: &Inner, target: &FunctionRef) -> Result<Option<RuntimeManagement>, Error> {
    let entry = inner.entry(target)?;
    inner.target(&entry, target)?;
    Ok(find(&entry, target).and_then(|found| found.runtime.clone()))
}

/// Whether a chain of outcomes that leads back to the function goes on without end.
pub(crate) async fn set_recursion(
    inner: Arc<Inner>,
    caller: Caller,
    target: FunctionRef,
    is_allowed: bool,
) -> Result<(), Error> {
    latest_only(&target)?;
    let _alone = inner.lock(&target.account, &target.name).await;
    let old = inner.entry(&target)?;
    let mut entry = old.as_ref().clone();
    entry.recursion_allowed = is_allowed;
    let mut change = Change::default();
    change.function(Some(&old), Some(&entry));
    let row = audit(&caller, "PutFunctionRecursionConfig", (&old.account, &old.name), None);
    entry.at = inner.commit(row, &mut change, &old).await?;
    inner.replace(entry);
    Ok(())
}
