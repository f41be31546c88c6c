//! PutFunctionConcurrency and DeleteFunctionConcurrency.

use std::sync::Arc;

use bowline_foundation::limits::UNRESERVED_CONCURRENCY_MIN;

use super::{audit, latest_only, refusals};
use crate::error::Error;
use crate::model::Caller;
use crate::name::FunctionRef;
use crate::registry::Change;
use crate::service::Inner;

pub(crate) async fn set(
    inner: Arc<Inner>,
    caller: Caller,
    target: FunctionRef,
    reserved: Option<u32>,
) -> Result<(), Error> {
    latest_only(&target)?;
    // The sum over the account is judged here, so that no other function's may change meanwhile.
    let _reservations = inner.account_lock.lock().await;
    let _alone = inner.lock(&target.account, &target.name).await;
    let old = inner.entry(&target)?;
    if let Some(wanted) = reserved {
        let others = inner.reserved(&target.account).saturating_sub(old.held());
        let provisioned = old.provisioned();
        if wanted < provisioned {
            return Err(refusals::reserved_below_provisioned(wanted, provisioned));
        }
        let left = inner.accounts.unreserved(others.saturating_add(wanted));
        let fits = others.checked_add(wanted).is_some() && left >= UNRESERVED_CONCURRENCY_MIN;
        if wanted > 0 && !fits {
            return Err(refusals::reserved_too_much());
        }
    }
    let mut entry = old.as_ref().clone();
    entry.reserved = reserved;
    let mut change = Change::default();
    change.function(Some(&old), Some(&entry));
    let action = match reserved {
        Some(_) => "PutFunctionConcurrency",
        None => "DeleteFunctionConcurrency",
    };
    let row = audit(&caller, action, (&old.account, &old.name), None);
    entry.at = inner.commit(row, &mut change, &old).await?;
    inner.replace(entry);
    Ok(())
}
