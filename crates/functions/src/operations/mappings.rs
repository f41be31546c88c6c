//! CreateEventSourceMapping and its siblings.

use std::sync::Arc;

use bowline_foundation::id::RequestId;
use bowline_store::Version as StoreVersion;

use super::{list, refusals, validate};
use crate::error::Error;
use crate::events::arn::{self, Purpose};
use crate::model::events::{CreateMapping, Mapping, MappingChange, MappingFilter, MappingSettings, MappingState};
use crate::model::{Caller, Page, PageRequest};
use crate::name::FunctionRef;
use crate::pattern::Pattern;
use crate::registry::{Audit, Change, MappingEntry};
use crate::service::Inner;

/// Most patterns of one mapping.
const FILTERS_MAX: usize = 5;
/// What a filter can look at.
const FILTER_KEYS: [&str; 2] = ["data", "partitionKey"];

pub(crate) async fn create(inner: Arc<Inner>, caller: Caller, request: CreateMapping) -> Result<Mapping, Error> {
    let stream = arn::source(&request.source_arn)?;
    inner.stream(&stream).await?;
    let function = inner.entry(&request.function)?;
    inner.target(&function, &request.function)?;
    check_destination(&inner, &request.settings, &caller).await?;
    let settings = apply(MappingSettings::default(), request.settings)?;
    let mapping = Mapping {
        id: RequestId::random(&inner.entropy).to_string(),
        account: caller.account.clone(),
        function: request.function,
        source_arn: request.source_arn,
        start: request.start,
        settings,
        last_modified: inner.clock.now(),
        state: MappingState::Creating,
        last_result: "No records processed".to_owned(),
    };
    let _alone = inner.mapping_lock.lock().await;
    unique(&inner, &mapping)?;
    let entry = MappingEntry {
        mapping,
        session: None,
        at: StoreVersion(0),
    };
    let mapping = commit(&inner, &caller, "CreateEventSourceMapping", None, entry).await?;
    inner.crash.reach("create-mapping.committed");
    inner.mapping_changed(&mapping.id);
    Ok(mapping)
}

pub(crate) fn get(inner: &Inner, caller: &Caller, id: &str) -> Result<Mapping, Error> {
    Ok(find(inner, caller, id)?.mapping.clone())
}

pub(crate) async fn update(
    inner: Arc<Inner>,
    caller: Caller,
    id: String,
    request: MappingChange,
) -> Result<Mapping, Error> {
    check_destination(&inner, &request, &caller).await?;
    let _alone = inner.mapping_lock.lock().await;
    let old = find(&inner, &caller, &id)?;
    let mut entry = MappingEntry::clone(&old);
    if let Some(function) = &request.function {
        let found = inner.entry(function)?;
        inner.target(&found, function)?;
        entry.mapping.function = function.clone();
        unique(&inner, &entry.mapping)?;
    }
    entry.mapping.settings = apply(entry.mapping.settings, request)?;
    entry.mapping.last_modified = inner.clock.now();
    entry.mapping.state = match (&entry.session, entry.mapping.settings.is_enabled) {
        (None, _) => MappingState::Creating,
        (Some(_), true) => MappingState::Enabled,
        (Some(_), false) => MappingState::Disabled,
    };
    let mut shown = commit(&inner, &caller, "UpdateEventSourceMapping", Some(&old), entry).await?;
    inner.mapping_changed(&id);
    if shown.state != MappingState::Creating {
        shown.state = MappingState::Updating;
    }
    Ok(shown)
}

pub(crate) async fn delete(inner: Arc<Inner>, caller: Caller, id: String) -> Result<Mapping, Error> {
    let _alone = inner.mapping_lock.lock().await;
    let old = find(&inner, &caller, &id)?;
    let mut change = Change::default();
    change.mapping(Some(&old), None);
    let row = row(&caller, "DeleteEventSourceMapping", &old.mapping);
    inner.registry.commit_mapping(row, change, &id).await?;
    inner.registry.mappings.remove(&id);
    inner.mapping_gone(&old).await;
    let mut shown = old.mapping.clone();
    shown.state = MappingState::Deleting;
    Ok(shown)
}

/// The mappings that read a stream.
pub(crate) fn of_stream(inner: &Inner, stream: &str) -> Vec<String> {
    let all = inner.registry.mappings.all();
    let reads = |mapping: &Mapping| arn::source(&mapping.source_arn).is_ok_and(|source| source == stream);
    let found = all.iter().map(|entry| &entry.mapping).filter(|mapping| reads(mapping));
    found.map(|mapping| mapping.id.clone()).collect()
}

/// Mappings of an account by identifier, of one function or source if it is given.
pub(crate) fn list(
    inner: &Inner,
    caller: &Caller,
    filter: &MappingFilter,
    page: &PageRequest,
) -> Result<Page<Mapping>, Error> {
    let all = inner.registry.mappings.all();
    let wanted = |mapping: &Mapping| {
        mapping.account == caller.account
            && filter
                .function
                .as_ref()
                .is_none_or(|function| *function == mapping.function)
            && filter.source_arn.as_ref().is_none_or(|arn| *arn == mapping.source_arn)
    };
    let found = all.iter().map(|entry| &entry.mapping).filter(|mapping| wanted(mapping));
    list::mappings(found, page)
}

/// The session that reads a new mapping's stream has been made.
pub(crate) async fn settle(inner: &Arc<Inner>, id: &str, session: String) -> Result<(), Error> {
    let _alone = inner.mapping_lock.lock().await;
    let Some(old) = inner.registry.mappings.get(id) else {
        return Ok(());
    };
    let mut entry = MappingEntry::clone(&old);
    entry.session = Some(session);
    entry.mapping.state = match entry.mapping.settings.is_enabled {
        true => MappingState::Enabled,
        false => MappingState::Disabled,
    };
    let caller = Caller {
        account: old.mapping.account.clone(),
        request_id: inner.revision(),
    };
    commit(inner, &caller, "Settle", Some(&old), entry).await.map(drop)
}

async fn commit(
    inner: &Arc<Inner>,
    caller: &Caller,
    action: &'static str,
    old: Option<&MappingEntry>,
    new: MappingEntry,
) -> Result<Mapping, Error> {
    let mut change = Change::default();
    change.mapping(old, Some(&new));
    let mapping = new.mapping.clone();
    let row = row(caller, action, &mapping);
    let at = inner.registry.commit_mapping(row, change, &mapping.id).await?;
    inner.registry.mappings.put(MappingEntry { at, ..new });
    Ok(mapping)
}

fn row<'a>(caller: &'a Caller, action: &'static str, mapping: &Mapping) -> Audit<'a> {
    Audit {
        caller,
        action,
        subject: format!("{}/event-source-mapping:{}", mapping.account, mapping.id),
    }
}

fn find(inner: &Inner, caller: &Caller, id: &str) -> Result<Arc<MappingEntry>, Error> {
    let found = inner.registry.mappings.get(id);
    found
        .filter(|entry| entry.mapping.account == caller.account)
        .ok_or_else(refusals::no_resource)
}

/// A function is mapped to a source once.
fn unique(inner: &Inner, wanted: &Mapping) -> Result<(), Error> {
    let same = |mapping: &Mapping| {
        mapping.id != wanted.id && mapping.source_arn == wanted.source_arn && same_function(mapping, &wanted.function)
    };
    let mappings = inner.registry.mappings.all();
    match mappings.iter().find(|entry| same(&entry.mapping)) {
        None => Ok(()),
        Some(entry) => Err(refusals::mapping_exists(
            &wanted.source_arn,
            wanted.function.name.as_str(),
            &entry.mapping.id,
        )),
    }
}

fn same_function(mapping: &Mapping, function: &FunctionRef) -> bool {
    mapping.function == *function
}

async fn check_destination(inner: &Inner, change: &MappingChange, caller: &Caller) -> Result<(), Error> {
    match change.on_failure.as_deref() {
        None | Some("") => Ok(()),
        Some(arn) => inner.check_destination(arn, Purpose::DeadLetter, &caller.account).await,
    }
}

fn apply(mut to: MappingSettings, from: MappingChange) -> Result<MappingSettings, Error> {
    use validate::within;
    to.is_enabled = from.is_enabled.unwrap_or(to.is_enabled);
    if let Some(size) = from.batch_size {
        to.batch_size = within("batchSize", size, 1, 10_000)?;
    }
    if let Some(seconds) = from.window_seconds {
        to.window_seconds = within("maximumBatchingWindowInSeconds", seconds, 0, 300)?;
    }
    if let Some(factor) = from.parallelization {
        to.parallelization = within("parallelizationFactor", factor, 1, 10)?;
    }
    if let Some(seconds) = from.age_seconds_max {
        to.age_seconds_max = match seconds {
            -1 => None,
            seconds => Some(within("maximumRecordAgeInSeconds", seconds, 60, 604_800)?),
        };
    }
    if let Some(retries) = from.retries_max {
        to.retries_max = match retries {
            -1 => None,
            retries => Some(within("maximumRetryAttempts", retries, 0, 10_000)?),
        };
    }
    to.bisects = from.bisects.unwrap_or(to.bisects);
    to.reports_failures = from.reports_failures.unwrap_or(to.reports_failures);
    if let Some(filters) = from.filters {
        check_filters(&filters)?;
        to.filters = filters;
    }
    if let Some(arn) = from.on_failure {
        to.on_failure = Some(arn).filter(|arn| !arn.is_empty());
    }
    Ok(to)
}

fn check_filters(filters: &[String]) -> Result<(), Error> {
    if filters.len() > FILTERS_MAX {
        return Err(Error::InvalidParameter(format!(
            "Number of filters exceeds the limit of {FILTERS_MAX}."
        )));
    }
    for filter in filters {
        let invalid =
            |why: String| Error::InvalidParameter(format!("Invalid filter pattern definition: {why} (`{filter}`)."));
        let pattern = Pattern::parse(filter).map_err(|error| invalid(error.to_string()))?;
        let unknown = pattern.keys().into_iter().find(|key| !FILTER_KEYS.contains(key));
        if let Some(key) = unknown {
            return Err(invalid(format!(
                "a filter looks at `data` and `partitionKey`, not at `{key}`"
            )));
        }
    }
    Ok(())
}
