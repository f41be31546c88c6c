//! AddLayerVersionPermission and its siblings: who besides its account may use a layer version.

use std::sync::Arc;

use serde_json::{Value, json};

use super::layers::{audit, entry, find, own};
use super::refusals;
use crate::error::Error;
use crate::model::Caller;
use crate::model::layers::{LayerPolicy, LayerPrincipal, LayerStatement, PolicyTarget, ShownPolicy};
use crate::name::layer::LayerRef;
use crate::policy::POLICY_BYTES_MAX;
use crate::registry::{Change, LayerEntry, LayerVersionEntry};
use crate::service::Inner;

/// Adds a permission; gives its statement.
pub(crate) async fn add(
    inner: Arc<Inner>,
    caller: Caller,
    target: PolicyTarget,
    statement: LayerStatement,
) -> Result<ShownPolicy, Error> {
    own(
        &inner,
        &caller,
        &target.layer,
        "AddLayerVersionPermission",
        Some(target.number),
    )?;
    let shown = shown(&inner, &target, &statement).to_string();
    let edit = |policy: &mut LayerPolicy| {
        if policy.statements.iter().any(|known| known.id == statement.id) {
            return Err(refusals::statement_exists(&statement.id));
        }
        policy.statements.push(statement);
        Ok(())
    };
    let what = ("AddLayerVersionPermission", "add-layer-permission.committed");
    let revision_id = change(&inner, &caller, &target, what, edit).await?;
    Ok(ShownPolicy {
        document: shown,
        revision_id,
    })
}

/// Takes a permission away.
pub(crate) async fn remove(
    inner: Arc<Inner>,
    caller: Caller,
    target: PolicyTarget,
    statement_id: String,
) -> Result<(), Error> {
    let (layer, number) = (&target.layer, Some(target.number));
    own(&inner, &caller, layer, "RemoveLayerVersionPermission", number)?;
    let edit = |policy: &mut LayerPolicy| {
        let before = policy.statements.len();
        policy.statements.retain(|known| known.id != statement_id);
        if policy.statements.len() == before {
            return Err(Error::NotFound(format!(
                "Statement {statement_id} is not found in resource policy."
            )));
        }
        Ok(())
    };
    let what = ("RemoveLayerVersionPermission", "remove-layer-permission.committed");
    change(&inner, &caller, &target, what, edit).await.map(drop)
}

/// The whole policy; one without a statement does not exist.
pub(crate) async fn get(inner: &Inner, caller: &Caller, layer: &LayerRef, number: u64) -> Result<ShownPolicy, Error> {
    own(inner, caller, layer, "GetLayerVersionPolicy", Some(number))?;
    let Some(found) = find(inner, layer, number).await? else {
        return Err(missing(inner, layer, number));
    };
    let policy = &found.version.policy;
    if policy.statements.is_empty() {
        return Err(Error::NotFound(
            "No policy is associated with the given resource.".to_owned(),
        ));
    }
    let target = PolicyTarget {
        layer: layer.clone(),
        number,
        revision_id: None,
    };
    Ok(ShownPolicy {
        document: document(inner, &target, policy),
        revision_id: policy.revision_id.clone(),
    })
}

/// Changes a policy in one commit; gives its new revision.
async fn change(
    inner: &Inner,
    caller: &Caller,
    target: &PolicyTarget,
    (action, crash): (&'static str, &'static str),
    edit: impl FnOnce(&mut LayerPolicy) -> Result<(), Error>,
) -> Result<String, Error> {
    let missing = || missing(inner, &target.layer, target.number);
    find(inner, &target.layer, target.number).await?.ok_or_else(missing)?;
    let _alone = inner.layer_lock.lock().await;
    let (layer, old) = entry(inner, &target.layer, target.number).ok_or_else(missing)?;
    let mut new = LayerVersionEntry::clone(&old);
    if (target.revision_id.as_ref()).is_some_and(|given| *given != new.version.policy.revision_id) {
        return Err(refusals::stale_layer_policy());
    }
    edit(&mut new.version.policy)?;
    let bytes = document(inner, target, &new.version.policy).len();
    if bytes > POLICY_BYTES_MAX {
        return Err(refusals::policy_too_long(bytes));
    }
    let revision_id = inner.revision();
    new.version.policy.revision_id.clone_from(&revision_id);
    let mut change = Change::default();
    change.layer_version(Some(&old), Some(&new));
    let row = audit(caller, action, &target.layer, target.number);
    new.at = inner.registry.commit_layer(row, change).await?;
    inner.crash.reach(crash);
    let mut layer = LayerEntry::clone(&layer);
    layer.versions.insert(target.number, Arc::new(new));
    inner.registry.layers.put(&target.layer, layer);
    Ok(revision_id)
}

fn missing(inner: &Inner, layer: &LayerRef, number: u64) -> Error {
    Error::NotFound(format!(
        "Layer version {} does not exist.",
        inner.layer_arn(layer, Some(number))
    ))
}

fn document(inner: &Inner, target: &PolicyTarget, policy: &LayerPolicy) -> String {
    let statements = policy
        .statements
        .iter()
        .map(|statement| shown(inner, target, statement));
    let statements: Vec<_> = statements.collect();
    json!({ "Version": "2012-10-17", "Id": "default", "Statement": statements }).to_string()
}

fn shown(inner: &Inner, target: &PolicyTarget, statement: &LayerStatement) -> Value {
    let principal = match &statement.principal {
        LayerPrincipal::Everybody => json!("*"),
        LayerPrincipal::Account(account) => json!({ "AWS": format!("arn:aws:iam::{account}:root") }),
    };
    let mut shown = json!({
        "Sid": statement.id,
        "Effect": "Allow",
        "Principal": principal,
        "Action": "lambda:GetLayerVersion",
        "Resource": inner.layer_arn(&target.layer, Some(target.number)),
    });
    if let Some(organization) = &statement.organization {
        shown["Condition"] = json!({ "StringEquals": { "aws:PrincipalOrgID": organization } });
    }
    shown
}
