//! Attaching something to one qualifier of a function, or taking it away: one commit whatever it is.

use std::sync::Arc;

use bowline_store::Version as StoreVersion;

use super::audit;
use crate::error::Error;
use crate::model::Caller;
use crate::model::attached::Attached;
use crate::name::{FunctionRef, Qualifier, Version};
use crate::registry::{AttachedEntry, Change, FunctionEntry};
use crate::service::Inner;

/// The text that a qualifier's attachments lie under; those of a function without one are `$LATEST`'s.
pub(super) fn key(target: &FunctionRef) -> String {
    let latest = Qualifier::Version(Version::Latest);
    target.qualifier.as_ref().unwrap_or(&latest).to_string()
}

/// What is attached to a qualifier.
pub(super) fn find<'a>(entry: &'a FunctionEntry, target: &FunctionRef) -> Option<&'a Attached> {
    entry.attached.get(&key(target)).map(|found| &found.attached)
}

/// Changes what is attached to the target's qualifier. The caller holds the function's lock, and `old` is the
/// function as it is.
pub(crate) async fn edit(
    inner: &Arc<Inner>,
    (caller, action): (&Caller, &'static str),
    old: &FunctionEntry,
    target: &FunctionRef,
    edit: impl FnOnce(&mut Attached),
) -> Result<(), Error> {
    edit_while(inner, (caller, action, Change::default()), old, target, edit).await
}

/// The same on further conditions, which `change` holds.
pub(crate) async fn edit_while(
    inner: &Arc<Inner>,
    (caller, action, mut change): (&Caller, &'static str, Change),
    old: &FunctionEntry,
    target: &FunctionRef,
    edit: impl FnOnce(&mut Attached),
) -> Result<(), Error> {
    let key = key(target);
    let before = old.attached.get(&key);
    let mut attached = before.map(|before| before.attached.clone()).unwrap_or_default();
    edit(&mut attached);
    let after = (!attached.is_empty()).then_some(AttachedEntry {
        attached,
        at: StoreVersion(0),
    });
    change.attached(old, &key, before, after.as_ref()).unchanged(old);
    let row = audit(caller, action, (&old.account, &old.name), Some(&key));
    let at = inner.commit(row, &mut change, old).await?;
    inner.crash.reach("attach.committed");
    let mut entry = old.clone();
    match after {
        Some(after) => drop(entry.attached.insert(key, AttachedEntry { at, ..after })),
        None => drop(entry.attached.remove(&key)),
    }
    inner.replace(entry);
    Ok(())
}
