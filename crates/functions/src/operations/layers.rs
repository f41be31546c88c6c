//! PublishLayerVersion and its siblings; who may use a version is in [`super::layer_policy`].

use std::collections::BTreeMap;
use std::sync::Arc;

use bowline_store::{Sharing, Version as StoreVersion};

use super::code::CheckedCode;
use super::list::{marker, paged};
use super::{refusals, validate};
use crate::error::Error;
use crate::model::layers::{LayerFilter, LayerPolicy, LayerVersion, PublishLayer};
use crate::model::{Caller, Page, PageRequest};
use crate::name::layer::LayerRef;
use crate::package::PackageForm;
use crate::registry::{Audit, Change, LayerEntry, LayerVersionEntry};
use crate::service::Inner;

const LICENSE_CHARS_MAX: usize = 512;
const RUNTIMES_MAX: usize = 15;
/// Attempts to take the next number where other nodes publish too.
const TRIES: u32 = 3;

pub(crate) async fn publish(
    inner: Arc<Inner>,
    caller: Caller,
    layer: LayerRef,
    request: PublishLayer,
) -> Result<LayerVersion, Error> {
    own(&inner, &caller, &layer, "PublishLayerVersion", None)?;
    validate::description(&request.description)?;
    if let Some(license) = &request.license {
        validate::at_most("licenseInfo", license, LICENSE_CHARS_MAX)?;
    }
    if request.runtimes.len() > RUNTIMES_MAX {
        return Err(Error::Validation(format!(
            "1 validation error detected: Value at 'compatibleRuntimes' failed to satisfy constraint: Member must have \
             length less than or equal to {RUNTIMES_MAX}"
        )));
    }
    let code = CheckedCode::check(request.content.clone()).await?;
    if code.shape.form != PackageForm::Zip {
        return Err(Error::InvalidParameter(
            "Could not unzip uploaded file: a layer is a zip archive.".to_owned(),
        ));
    }
    let _kept = inner.code_gate.read().await;
    inner.within_code_storage(&layer.account, code.package.bytes)?;
    let version = LayerVersion {
        account: layer.account.clone(),
        name: layer.name.clone(),
        number: 0,
        description: request.description,
        license: request.license,
        runtimes: request.runtimes,
        architectures: request.architectures,
        code: code.package,
        unzipped_bytes: code.shape.unzipped_bytes,
        created: inner.clock.now(),
        policy: LayerPolicy::default(),
    };
    let stored = inner.blobs.put(request.content).await;
    inner.crash.reach("publish-layer.stored");
    let published = match stored {
        Ok(_) => number_and_commit(&inner, &caller, &layer, version).await,
        Err(error) => Err(Error::service(error)),
    };
    if published.is_err() {
        inner.garbage.add(code.package.digest);
    }
    published
}

/// Gives the version the next number; where another node has just taken that, the one after it.
async fn number_and_commit(
    inner: &Inner,
    caller: &Caller,
    layer: &LayerRef,
    mut version: LayerVersion,
) -> Result<LayerVersion, Error> {
    let _alone = inner.layer_lock.lock().await;
    for attempt in 1.. {
        let old = inner.registry.layers.get(layer);
        version.number = old.as_ref().map_or(1, |old| old.next_version);
        let mut entry = LayerEntry {
            next_version: version.number + 1,
            at: StoreVersion(0),
            versions: old.as_ref().map_or_else(BTreeMap::new, |old| old.versions.clone()),
        };
        let mut new = LayerVersionEntry {
            version: version.clone(),
            at: StoreVersion(0),
        };
        let mut change = Change::default();
        change
            .layer_version(None, Some(&new))
            .layer(layer, old.as_deref(), &entry);
        let row = audit(caller, "PublishLayerVersion", layer, version.number);
        match inner.registry.commit_layer(row, change).await {
            Ok(at) => {
                inner.crash.reach("publish-layer.committed");
                (entry.at, new.at) = (at, at);
                entry.versions.insert(version.number, Arc::new(new));
                inner.registry.layers.put(layer, entry);
                tracing::info!(request_id = caller.request_id, layer = %layer.name, version = version.number,
                    "layer version published");
                return Ok(version);
            }
            Err(Error::Conflict(_)) if attempt < TRIES && inner.registry.sharing == Sharing::Shared => {}
            Err(error) => return Err(error),
        }
    }
    unreachable!("the loop ends by returning")
}

/// The version, for its account and whom that permits.
pub(crate) async fn get(inner: &Inner, caller: &Caller, layer: &LayerRef, number: u64) -> Result<LayerVersion, Error> {
    let found = find(inner, layer, number).await?;
    let own = layer.account == caller.account;
    match found {
        Some(found) if own || found.version.policy.permits(&caller.account) => Ok(found.version.clone()),
        None if own => Err(refusals::no_resource()),
        _ => Err(denied(inner, caller, layer, "GetLayerVersion", Some(number))),
    }
}

/// A version as it was committed. Another node may have published it a moment ago.
pub(super) async fn find(
    inner: &Inner,
    layer: &LayerRef,
    number: u64,
) -> Result<Option<Arc<LayerVersionEntry>>, Error> {
    let known = || Some(inner.registry.layers.get(layer)?.versions.get(&number)?.clone());
    if let Some(found) = known() {
        return Ok(Some(found));
    }
    if inner.registry.sharing == Sharing::Shared {
        let _alone = inner.layer_lock.lock().await;
        let gone = inner.registry.load_layers().await.map_err(Error::service)?;
        inner.garbage.add_all(gone);
    }
    Ok(known())
}

/// The newest matching version of each layer, by name.
pub(crate) fn list(
    inner: &Inner,
    caller: &Caller,
    filter: &LayerFilter,
    page: &PageRequest,
) -> Result<Page<LayerVersion>, Error> {
    let after = marker(page)?;
    let layers = inner.registry.layers.of_account(&caller.account);
    let newest = layers.iter().filter_map(|(_, entry)| {
        let mut versions = entry.versions.values().rev().map(|entry| &entry.version);
        versions.find(|version| filter.matches(version))
    });
    let rest = newest.filter(|version| after.as_deref().is_none_or(|after| version.name.as_str() > after));
    paged(rest, page, |last: &LayerVersion| last.name.to_string())
}

/// The matching versions of one layer, newest first.
pub(crate) fn list_versions(
    inner: &Inner,
    caller: &Caller,
    layer: &LayerRef,
    filter: &LayerFilter,
    page: &PageRequest,
) -> Result<Page<LayerVersion>, Error> {
    own(inner, caller, layer, "ListLayerVersions", None)?;
    let before = match marker(page)? {
        None => u64::MAX,
        Some(text) => text.parse().map_err(|_| super::list::invalid_marker())?,
    };
    let Some(entry) = inner.registry.layers.get(layer) else {
        return Ok(Page {
            items: Vec::new(),
            next_marker: None,
        });
    };
    let versions = entry.versions.values().rev().map(|entry| &entry.version);
    let rest = versions.filter(|version| version.number < before && filter.matches(version));
    paged(rest, page, |last: &LayerVersion| last.number.to_string())
}

/// Deleting a version that does not exist succeeds, as the service does. Functions that use it keep it.
pub(crate) async fn delete(inner: Arc<Inner>, caller: Caller, layer: LayerRef, number: u64) -> Result<(), Error> {
    own(&inner, &caller, &layer, "DeleteLayerVersion", Some(number))?;
    if find(&inner, &layer, number).await?.is_none() {
        return Ok(());
    }
    let _alone = inner.layer_lock.lock().await;
    let Some((old, version)) = entry(&inner, &layer, number) else {
        return Ok(());
    };
    let mut change = Change::default();
    change.layer_version(Some(&version), None);
    let row = audit(&caller, "DeleteLayerVersion", &layer, number);
    inner.registry.commit_layer(row, change).await?;
    inner.crash.reach("delete-layer.committed");
    let mut new = LayerEntry::clone(&old);
    new.versions.remove(&number);
    inner.registry.layers.put(&layer, new);
    inner.garbage.add(version.version.code.digest);
    tracing::info!(request_id = caller.request_id, layer = %layer.name, version = number, "layer version deleted");
    Ok(())
}

/// A layer and one of its versions, as this process knows them.
pub(super) fn entry(inner: &Inner, layer: &LayerRef, number: u64) -> Option<(Arc<LayerEntry>, Arc<LayerVersionEntry>)> {
    let entry = inner.registry.layers.get(layer)?;
    let version = entry.versions.get(&number)?.clone();
    Some((entry, version))
}

/// Refuses what only the layer's account may do.
pub(super) fn own(
    inner: &Inner,
    caller: &Caller,
    layer: &LayerRef,
    action: &str,
    number: Option<u64>,
) -> Result<(), Error> {
    if caller.account == layer.account {
        return Ok(());
    }
    Err(denied(inner, caller, layer, action, number))
}

pub(super) fn denied(inner: &Inner, caller: &Caller, layer: &LayerRef, action: &str, number: Option<u64>) -> Error {
    Error::AccessDenied(format!(
        "User: arn:aws:iam::{}:root is not authorized to perform: lambda:{action} on resource: {} because no \
         resource-based policy allows the lambda:{action} action",
        caller.account,
        inner.layer_arn(layer, number)
    ))
}

/// An audit row about one version.
pub(super) fn audit<'a>(caller: &'a Caller, action: &'static str, layer: &LayerRef, number: u64) -> Audit<'a> {
    Audit {
        caller,
        action,
        subject: format!("{}/layer:{}:{number}", layer.account, layer.name),
    }
}

impl Inner {
    /// The ARN of a layer, or of one of its versions.
    pub(crate) fn layer_arn(&self, layer: &LayerRef, number: Option<u64>) -> String {
        let region = self.region();
        let arn = format!("arn:aws:lambda:{region}:{}:layer:{}", layer.account, layer.name);
        match number {
            None => arn,
            Some(number) => format!("{arn}:{number}"),
        }
    }
}
