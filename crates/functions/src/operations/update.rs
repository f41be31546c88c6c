//! UpdateFunctionCode and UpdateFunctionConfiguration.
//!
//! ```text
//!   Active, Successful ──update──▶ Active, InProgress ──prepared──▶ Active, Successful
//!                                    (old code runs)  └──refused──▶ Active, Failed (old code runs)
//!   Failed ─────────────update──▶ Pending, InProgress ─prepared──▶ Active, Successful
//! ```

use std::sync::Arc;

use super::code::{self, Steps};
use super::validate::refuse_with_image;
use super::{audit, latest_only, refusals, validate};
use crate::error::Error;
use crate::model::{Caller, Code, Configuration, LastUpdate, State, UpdateCode, UpdateConfiguration};
use crate::name::FunctionRef;
use crate::package;
use crate::registry::{Change, FunctionEntry};
use crate::service::Inner;

const STEPS: Steps = Steps {
    unpacked: "update-code.unpacked",
    stored: "update-code.stored",
};

/// Refuses what can be refused without looking at the code.
pub(crate) fn check_code(inner: &Inner, target: &FunctionRef, request: &UpdateCode) -> Result<(), Error> {
    latest_only(target)?;
    let entry = inner.entry(target)?;
    same_package_type(&entry.latest, &request.code)?;
    validate::architecture(request.architecture, &request.code)?;
    updatable(inner, &entry, request.revision_id.as_deref())
}

pub(crate) async fn code(
    inner: Arc<Inner>,
    caller: Caller,
    target: FunctionRef,
    request: UpdateCode,
) -> Result<Configuration, Error> {
    check_code(&inner, &target, &request)?;
    let code = inner.find_code(&target.account, request.code.clone()).await?;
    let _kept = inner.code_gate.read().await;
    let _alone = inner.lock(&target.account, &target.name).await;
    let old = inner.entry(&target)?;
    updatable(&inner, &old, request.revision_id.as_deref())?;
    let mut new = Configuration::clone(&old.latest);
    same_package_type(&new, &request.code)?;
    code.put_into(&mut new)?;
    new.architecture = request.architecture.unwrap_or(new.architecture);
    if request.dry_run {
        return Ok(new);
    }
    begin_update(&inner, &mut new);
    inner.check_layers(&new, code.unzipped_bytes())?;
    let digests: Vec<_> = new.digests().collect();
    inner.take_in(code, &new, &STEPS).await?;
    let what = Update {
        action: "UpdateFunctionCode",
        crash: "update-code.committed",
        publish: request.publish,
    };
    let updated = commit(&inner, &caller, &old, new, what).await;
    if updated.is_err() {
        inner.garbage.add_all(digests);
    }
    updated
}

/// A function stays what it is: a package, or an image.
fn same_package_type(latest: &Configuration, code: &Code) -> Result<(), Error> {
    let text = match (&latest.image, code) {
        (None, Code::Package(_)) | (Some(_), Code::Image(_)) => return Ok(()),
        (None, Code::Image(_)) => "Please don't provide ImageUri when updating a function with packageType Zip.",
        (Some(_), Code::Package(_)) => "Please provide ImageUri when updating a function with packageType Image.",
    };
    Err(Error::InvalidParameter(text.to_owned()))
}

pub(crate) async fn configuration(
    inner: Arc<Inner>,
    caller: Caller,
    target: FunctionRef,
    request: UpdateConfiguration,
) -> Result<Configuration, Error> {
    latest_only(&target)?;
    inner.entry(&target)?;
    inner.check_dead_letters(&request.settings, &target.account).await?;
    let _kept = inner.code_gate.read().await;
    let _alone = inner.lock(&target.account, &target.name).await;
    let old = inner.entry(&target)?;
    updatable(&inner, &old, request.revision_id.as_deref())?;
    let mut new = Configuration::clone(&old.latest);
    if new.image.is_some() {
        let given = [
            request.runtime.is_some(),
            request.handler.is_some(),
            request
                .settings
                .layers
                .as_ref()
                .is_some_and(|layers| !layers.is_empty()),
        ];
        refuse_with_image(given)?;
    }
    new.runtime = request.runtime.unwrap_or(new.runtime);
    if let Some(role) = &request.role {
        new.role = validate::role(role)?;
    }
    if new.image.is_none() {
        let handler = request.handler.as_deref().unwrap_or(&old.latest.handler);
        new.handler = validate::handler(Some(handler), new.runtime)?;
    }
    validate::apply(&request.settings, &mut new)?;
    if new.runtime != old.latest.runtime {
        inner.ensure_unpacked(&new.code.digest).await.map_err(Error::service)?;
        let has_wasm = inner.code.path(&new.code.digest).join(package::WASM_NAME).is_file();
        new.kind = code::kind(new.runtime, has_wasm);
        inner.try_runtime(&new).await?;
    }
    if let Some(arns) = &request.settings.layers {
        new.layers = inner.use_layers(&new.account, arns).await?;
    }
    if !new.layers.is_empty() {
        inner.ensure_unpacked(&new.code.digest).await.map_err(Error::service)?;
        let unzipped = inner.code.file_bytes(&new.code.digest).await;
        inner.check_layers(&new, unzipped.map_err(Error::service)?)?;
    }
    begin_update(&inner, &mut new);
    let what = Update {
        action: "UpdateFunctionConfiguration",
        crash: "update-configuration.committed",
        publish: false,
    };
    commit(&inner, &caller, &old, new, what).await
}

struct Update {
    action: &'static str,
    crash: &'static str,
    publish: bool,
}

/// Whether a change may begin now.
pub(super) fn updatable(inner: &Inner, entry: &FunctionEntry, revision_id: Option<&str>) -> Result<(), Error> {
    if revision_id.is_some_and(|given| given != entry.latest.revision_id) {
        return Err(refusals::stale_revision());
    }
    if entry.latest.last_update == LastUpdate::InProgress {
        return Err(refusals::in_progress(&inner.arn(&entry.account, &entry.name, None)));
    }
    if entry.latest.state == State::Pending {
        return Err(refusals::in_state("Pending"));
    }
    Ok(())
}

fn begin_update(inner: &Inner, new: &mut Configuration) {
    new.last_modified = inner.clock.now();
    new.revision_id = inner.revision();
    new.last_update = LastUpdate::InProgress;
    if matches!(new.state, State::Failed { .. }) {
        new.state = State::Pending;
    }
}

async fn commit(
    inner: &Arc<Inner>,
    caller: &Caller,
    old: &FunctionEntry,
    configuration: Configuration,
    what: Update,
) -> Result<Configuration, Error> {
    let mut entry = old.clone();
    entry.latest = Arc::new(configuration);
    let published = what.publish.then(|| entry.publish(inner.revision(), None));
    let mut change = Change::default();
    change.function(Some(old), Some(&entry));
    if let Some(number) = published {
        change.version(&entry, number, None, entry.versions.get(&number));
    }
    let row = audit(caller, what.action, (&old.account, &old.name), None);
    let at = inner.commit(row, &mut change, old).await?;
    inner.crash.reach(what.crash);
    entry.committed(at, published);
    let shown = entry.shown(published);
    let (account, name) = (entry.account.clone(), entry.name.clone());
    tracing::info!(request_id = caller.request_id, function = %name, action = what.action, "function changes");
    inner.replace(entry);
    inner.settle_later(&account, &name, caller);
    // A failed update may have named code that nobody needs any more.
    inner.garbage.add_all(old.latest.digests());
    Ok(shown)
}
