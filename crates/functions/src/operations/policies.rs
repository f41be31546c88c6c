//! AddPermission and its siblings, and what the policies decide.

use std::sync::Arc;

use bowline_foundation::id::AccountId;
use bowline_store::Version as StoreVersion;

use super::{audit, refusals};
use crate::error::Error;
use crate::model::attached::{UrlConfig, UrlNeeds};
use crate::model::{Caller, ResourcePolicy};
use crate::name::{FunctionRef, Qualifier, Version};
use crate::policy::{Decision, Grant, InvalidPolicy, POLICY_BYTES_MAX, Policy, Request, Statement, UrlAuth};
use crate::registry::{Change, FunctionEntry, PolicyEntry};
use crate::service::Inner;

/// The action that a function's URL is called by.
const INVOKE_URL: &str = "InvokeFunctionUrl";
/// The action that the function behind it is called by.
const INVOKE: &str = "InvokeFunction";

pub(crate) async fn add(
    inner: Arc<Inner>,
    caller: Caller,
    target: FunctionRef,
    (grant, revision): (Grant, Option<String>),
) -> Result<Statement, Error> {
    not_latest(&target)?;
    let _alone = inner.lock(&target.account, &target.name).await;
    let old = inner.entry(&target)?;
    inner.target(&old, &target)?;
    let resource = inner.target_arn(&target);
    let statement = grant.statement(&resource).map_err(|error| match error {
        crate::policy::InvalidGrant::Pattern { .. } => Error::Validation(error.to_string()),
        error => Error::InvalidParameter(error.to_string()),
    })?;
    let before = of(&old, &target);
    check_revision(before, revision.as_deref())?;
    let mut policy = before.map_or_else(Policy::empty, |before| before.policy.policy.clone());
    if policy.statement(&grant.statement_id).is_some() {
        return Err(refusals::statement_exists(&grant.statement_id));
    }
    policy.statements.push(statement.clone());
    store(&inner, &caller, "AddPermission", (&old, &target), Some(policy)).await?;
    Ok(statement)
}

pub(crate) async fn remove(
    inner: Arc<Inner>,
    caller: Caller,
    target: FunctionRef,
    (sid, revision): (String, Option<String>),
) -> Result<(), Error> {
    let _alone = inner.lock(&target.account, &target.name).await;
    let old = inner.entry(&target)?;
    inner.target(&old, &target)?;
    let before = of(&old, &target).ok_or_else(refusals::no_policy)?;
    check_revision(Some(before), revision.as_deref())?;
    let mut policy = before.policy.policy.clone();
    if policy.statement(&sid).is_none() {
        return Err(refusals::no_statement(&sid));
    }
    policy
        .statements
        .retain(|statement| statement.sid.as_deref() != Some(&*sid));
    let rest = (!policy.statements.is_empty()).then_some(policy);
    store(&inner, &caller, "RemovePermission", (&old, &target), rest).await?;
    Ok(())
}

/// Puts a whole policy in the place of what was there.
pub(crate) async fn put(
    inner: Arc<Inner>,
    caller: Caller,
    target: FunctionRef,
    (document, revision): (String, Option<String>),
) -> Result<ResourcePolicy, Error> {
    not_latest(&target)?;
    let policy = Policy::parse(&document).map_err(|error| match error {
        InvalidPolicy::TooLong { bytes } => refusals::policy_too_long(bytes),
        error => Error::InvalidParameter(error.to_string()),
    })?;
    let resource = inner.target_arn(&target);
    let strange = |statement: &&Statement| !statement.is_about(&resource);
    if let Some(statement) = policy.statements.iter().find(strange) {
        return Err(Error::InvalidParameter(format!(
            "The statement `{}` is not about the resource {resource}.",
            statement.sid.as_deref().unwrap_or("without a Sid")
        )));
    }
    let _alone = inner.lock(&target.account, &target.name).await;
    let old = inner.entry(&target)?;
    inner.target(&old, &target)?;
    check_revision(of(&old, &target), revision.as_deref())?;
    let stored = store(&inner, &caller, "PutResourcePolicy", (&old, &target), Some(policy)).await?;
    Ok(stored.expect("a policy that was put is there"))
}

pub(crate) async fn delete(
    inner: Arc<Inner>,
    caller: Caller,
    target: FunctionRef,
    revision: Option<String>,
) -> Result<(), Error> {
    let _alone = inner.lock(&target.account, &target.name).await;
    let old = inner.entry(&target)?;
    inner.target(&old, &target)?;
    let before = of(&old, &target).ok_or_else(refusals::no_resource)?;
    check_revision(Some(before), revision.as_deref())?;
    store(&inner, &caller, "DeleteResourcePolicy", (&old, &target), None).await?;
    Ok(())
}

pub(crate) fn get(inner: &Inner, target: &FunctionRef) -> Result<ResourcePolicy, Error> {
    let entry = inner.entry(target)?;
    inner.target(&entry, target)?;
    let found = of(&entry, target).ok_or_else(refusals::no_resource)?;
    Ok(found.policy.clone())
}

/// Whether `account` may do `action` with the target. A function that is not there allows nobody else anything,
/// so that nobody learns of what it may not use.
pub(crate) fn authorize(inner: &Inner, account: &AccountId, action: &str, target: &FunctionRef) -> Result<(), Error> {
    if *account == target.account {
        return Ok(());
    }
    decide(inner, target, Some(account), (action, None))
}

/// Whether somebody may call a URL.
pub(crate) fn authorize_url(inner: &Inner, account: Option<&AccountId>, config: &UrlConfig) -> Result<(), Error> {
    let (target, auth) = (&config.target, config.url.auth);
    match (auth, account) {
        (UrlAuth::AwsIam, Some(account)) if *account == target.account => return Ok(()),
        (UrlAuth::AwsIam, None) => return Err(refused(inner, target, None, INVOKE_URL)),
        _ => decide(inner, target, account, (INVOKE_URL, Some(auth)))?,
    }
    match config.url.needs {
        UrlNeeds::Url => Ok(()),
        UrlNeeds::UrlAndFunction => decide(inner, target, account, (INVOKE, Some(auth))),
    }
}

fn decide(
    inner: &Inner,
    target: &FunctionRef,
    account: Option<&AccountId>,
    (action, url): (&str, Option<UrlAuth>),
) -> Result<(), Error> {
    let entry = inner.registry.snapshot.get(&target.account, &target.name);
    let resource = inner.target_arn(target);
    let request = Request {
        action,
        resource: &resource,
        account,
        url,
    };
    let policy = entry.as_deref().and_then(|entry| of(entry, target));
    match policy.map(|entry| entry.policy.policy.decide(&request)) {
        Some(Decision::Allow) => Ok(()),
        _ => Err(refused(inner, target, account, action)),
    }
}

fn refused(inner: &Inner, target: &FunctionRef, account: Option<&AccountId>, action: &str) -> Error {
    let who = account.map_or_else(
        || "anonymous".to_owned(),
        |account| format!("arn:aws:iam::{account}:root"),
    );
    refusals::not_allowed(&who, action, &inner.target_arn(target))
}

/// The policy of exactly what the target names: one of the function says nothing of its versions.
fn of<'a>(entry: &'a FunctionEntry, target: &FunctionRef) -> Option<&'a PolicyEntry> {
    match &target.qualifier {
        None => entry.policies.get("$LATEST"),
        Some(Qualifier::Version(Version::Latest)) => None,
        Some(qualifier) => entry.policies.get(&qualifier.to_string()),
    }
}

fn not_latest(target: &FunctionRef) -> Result<(), Error> {
    match target.qualifier {
        Some(Qualifier::Version(Version::Latest)) => Err(Error::InvalidParameter(
            "We currently do not support adding policies for $LATEST.".to_owned(),
        )),
        _ => Ok(()),
    }
}

fn check_revision(before: Option<&PolicyEntry>, given: Option<&str>) -> Result<(), Error> {
    match given {
        Some(given) if before.is_none_or(|before| before.policy.revision_id != given) => {
            Err(refusals::stale_revision())
        }
        _ => Ok(()),
    }
}

/// Commits a policy, or that there is none any more. The caller holds the function's lock.
async fn store(
    inner: &Arc<Inner>,
    caller: &Caller,
    action: &'static str,
    (old, target): (&FunctionEntry, &FunctionRef),
    policy: Option<Policy>,
) -> Result<Option<ResourcePolicy>, Error> {
    if let Some(bytes) = policy.as_ref().map(|policy| policy.document().len())
        && bytes > POLICY_BYTES_MAX
    {
        return Err(refusals::policy_too_long(bytes));
    }
    let qualifier = target.qualifier.clone().unwrap_or(Qualifier::Version(Version::Latest));
    let key = qualifier.to_string();
    let policy = policy.map(|policy| ResourcePolicy {
        account: old.account.clone(),
        function: old.name.clone(),
        qualifier,
        policy,
        revision_id: inner.revision(),
    });
    let after = policy.clone().map(|policy| PolicyEntry {
        policy,
        at: StoreVersion(0),
    });
    let mut change = Change::default();
    change.policy(old.policies.get(&key), after.as_ref()).unchanged(old);
    let shown = target
        .qualifier
        .as_ref()
        .map(|qualifier| qualifier as &dyn std::fmt::Display);
    let row = audit(caller, action, (&old.account, &old.name), shown);
    let at = inner.commit(row, &mut change, old).await?;
    let mut entry = old.clone();
    match after {
        Some(after) => entry.policies.insert(key, PolicyEntry { at, ..after }),
        None => entry.policies.remove(&key),
    };
    inner.replace(entry);
    Ok(policy)
}
