//! TagResource and UntagResource.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{audit, validate};
use crate::error::Error;
use crate::model::Caller;
use crate::name::FunctionRef;
use crate::registry::Change;
use crate::service::Inner;

/// What is done to the tags.
pub(crate) enum Edit {
    Put(BTreeMap<String, String>),
    Remove(Vec<String>),
}

impl Edit {
    /// Changes the tags, within their limits; the action's name is for the audit trail.
    pub fn apply(self, tags: &mut BTreeMap<String, String>) -> Result<&'static str, Error> {
        let action = match self {
            Self::Put(more) => {
                tags.extend(more);
                "TagResource"
            }
            Self::Remove(keys) => {
                tags.retain(|key, _| !keys.contains(key));
                "UntagResource"
            }
        };
        validate::tags(tags)?;
        Ok(action)
    }
}

pub(crate) async fn run(inner: Arc<Inner>, caller: Caller, target: FunctionRef, edit: Edit) -> Result<(), Error> {
    let _alone = inner.lock(&target.account, &target.name).await;
    let old = inner.entry(&target)?;
    let mut entry = old.as_ref().clone();
    let action = edit.apply(&mut entry.tags)?;
    if entry.tags == old.tags {
        return Ok(());
    }
    let mut change = Change::default();
    change.function(Some(&old), Some(&entry));
    let row = audit(&caller, action, (&old.account, &old.name), None);
    entry.at = inner.commit(row, &mut change, &old).await?;
    inner.replace(entry);
    Ok(())
}
