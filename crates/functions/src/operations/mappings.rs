//! CreateEventSourceMapping and its siblings.

use std::sync::Arc;

use bowline_foundation::id::RequestId;
use bowline_store::Version as StoreVersion;

use super::tags::Edit;
use super::{list, refusals, validate};
use crate::error::Error;
use crate::events::arn::{self, Purpose, QueueName, Source};
use crate::events::find_queue;
use crate::model::events::{
    CreateMapping, Mapping, MappingChange, MappingFilter, MappingSettings, MappingStart, MappingState,
};
use crate::model::{Caller, Page, PageRequest};
use crate::name::FunctionRef;
use crate::pattern::Pattern;
use crate::registry::{Audit, Change, MappingEntry};
use crate::service::Inner;

/// Most patterns of one mapping.
const FILTERS_MAX: usize = 5;
/// What a filter of a stream's events can look at.
const STREAM_FILTER_KEYS: [&str; 2] = ["data", "partitionKey"];
/// What a filter of a queue's messages can look at.
const QUEUE_FILTER_KEYS: [&str; 6] = [
    "messageId",
    "receiptHandle",
    "body",
    "attributes",
    "messageAttributes",
    "md5OfBody",
];
/// What one request to a queue brings: larger batches need a window.
const RECEIVE_MAX: u32 = 10;

pub(crate) async fn create(inner: Arc<Inner>, caller: Caller, request: CreateMapping) -> Result<Mapping, Error> {
    let source = arn::source(&request.source_arn)?;
    check_start(&source, request.start)?;
    check_kind(&source, &request.settings)?;
    validate::tags(&request.tags)?;
    let function = inner.entry(&request.function).map_err(|_| refusals::no_function())?;
    let timeout = inner
        .target(&function, &request.function)
        .map_err(|_| refusals::no_function())?
        .configuration
        .timeout_seconds;
    check_destination(&inner, &request.settings, &caller).await?;
    let settings = apply(&source, defaults(&source), request.settings)?;
    check_source(&inner, &source, timeout).await?;
    let mapping = Mapping {
        id: RequestId::random(&inner.entropy).to_string(),
        account: caller.account.clone(),
        function: request.function,
        source_arn: request.source_arn,
        start: request.start.unwrap_or(MappingStart::TrimHorizon),
        settings,
        last_modified: inner.clock.now(),
        state: MappingState::Creating,
        last_result: "No records processed".to_owned(),
        tags: request.tags,
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
    check_kind(&arn::source(&find(&inner, &caller, &id)?.mapping.source_arn)?, &request)?;
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
    let source = arn::source(&entry.mapping.source_arn)?;
    entry.mapping.settings = apply(&source, entry.mapping.settings, request)?;
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
    change.mapping(Some(&old), None).no_lease(&id);
    let row = row(&caller, "DeleteEventSourceMapping", &old.mapping);
    inner.registry.commit_mapping(row, change, &id).await?;
    inner.registry.mappings.remove(&id);
    inner.mapping_gone(&old).await;
    let mut shown = old.mapping.clone();
    shown.state = MappingState::Deleting;
    Ok(shown)
}

/// Changes the tags; whoever reads the source does not notice.
pub(crate) async fn tag(inner: Arc<Inner>, caller: Caller, id: String, edit: Edit) -> Result<(), Error> {
    let _alone = inner.mapping_lock.lock().await;
    let old = find(&inner, &caller, &id)?;
    let mut entry = MappingEntry::clone(&old);
    let action = edit.apply(&mut entry.mapping.tags)?;
    if entry.mapping.tags != old.mapping.tags {
        commit(&inner, &caller, action, Some(&old), entry).await?;
    }
    Ok(())
}

/// The mappings that read a stream.
pub(crate) fn of_stream(inner: &Inner, stream: &str) -> Vec<String> {
    let all = inner.registry.mappings.all();
    let wanted = Source::Stream(stream.to_owned());
    let reads = |mapping: &Mapping| arn::source(&mapping.source_arn).is_ok_and(|source| source == wanted);
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

/// The session that reads a new mapping's stream has been made, or its queue found.
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
        Some(arn) => inner
            .check_destination(arn, Purpose::LostBatch, &caller.account)
            .await
            .map(drop),
    }
}

fn check_start(source: &Source, start: Option<MappingStart>) -> Result<(), Error> {
    match (source, start) {
        (Source::Stream(_), None) => Err(Error::InvalidParameter(
            "1 validation error detected: Value null at 'startingPosition' failed to satisfy constraint: Member must \
             not be null."
                .to_owned(),
        )),
        (Source::Queue(_), Some(_)) => Err(Error::InvalidParameter(
            "StartingPosition is not valid for SQS event sources.".to_owned(),
        )),
        _ => Ok(()),
    }
}

/// Refuses a source that is not there, or that would give out again what its function still works on.
async fn check_source(inner: &Inner, source: &Source, timeout_seconds: u32) -> Result<(), Error> {
    match source {
        Source::Stream(stream) => inner.stream(stream).await.map(drop),
        Source::Queue(queue) => {
            let (_, visibility) = find_queue(inner.streams()?.outside.queues()?, queue).await?;
            if visibility.as_secs() < u64::from(timeout_seconds) {
                return Err(Error::InvalidParameter(format!(
                    "Queue visibility timeout: {} seconds is less than Function timeout: {timeout_seconds} seconds",
                    visibility.as_secs()
                )));
            }
            Ok(())
        }
    }
}

fn defaults(source: &Source) -> MappingSettings {
    let defaults = MappingSettings::default();
    match source {
        Source::Stream(_) => defaults,
        Source::Queue(_) => MappingSettings {
            batch_size: RECEIVE_MAX,
            ..defaults
        },
    }
}

/// What only one kind of source has.
fn check_kind(source: &Source, from: &MappingChange) -> Result<(), Error> {
    let (kind, foreign) = match source {
        Source::Stream(_) => ("a stream", [("ScalingConfig", from.concurrency_max.is_some())].to_vec()),
        Source::Queue(_) => (
            "an SQS queue",
            vec![
                ("ParallelizationFactor", from.parallelization.is_some()),
                ("MaximumRecordAgeInSeconds", from.age_seconds_max.is_some()),
                ("MaximumRetryAttempts", from.retries_max.is_some()),
                ("BisectBatchOnFunctionError", from.bisects == Some(true)),
                (
                    "DestinationConfig",
                    from.on_failure.as_ref().is_some_and(|arn| !arn.is_empty()),
                ),
            ],
        ),
    };
    match foreign.into_iter().find(|(_, is_given)| *is_given) {
        None => Ok(()),
        Some(("DestinationConfig", _)) => Err(Error::InvalidParameter(
            "Unsupported DestinationConfig parameter for given event source mapping type. A queue's messages that fail \
             go to its own dead-letter queue."
                .to_owned(),
        )),
        Some((member, _)) => Err(Error::InvalidParameter(format!(
            "{member} is not supported for {kind} as event source."
        ))),
    }
}

fn check_batch(queue: &QueueName, settings: &MappingSettings) -> Result<(), Error> {
    let refused = |text: &str| Err(Error::InvalidParameter(text.to_owned()));
    let (size, window) = (settings.batch_size, settings.window_seconds);
    if queue.is_ordered() && (size > RECEIVE_MAX || window > 0) {
        return refused("A FIFO queue takes a batch size of 10 at most, and no batching window.");
    }
    if size > RECEIVE_MAX && window == 0 {
        return refused(
            "Maximum batch window in seconds must be greater than 0 if maximum batch size is greater than 10",
        );
    }
    Ok(())
}

fn apply(source: &Source, mut to: MappingSettings, from: MappingChange) -> Result<MappingSettings, Error> {
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
    to.counts_events = from.counts_events.unwrap_or(to.counts_events);
    if let Some(filters) = from.filters {
        check_filters(source, &filters)?;
        to.filters = filters;
    }
    if let Some(max) = from.concurrency_max {
        let max = max.map(|max| within("scalingConfig.maximumConcurrency", max, 2, 1000));
        to.concurrency_max = max.transpose()?;
    }
    if let Some(arn) = from.on_failure {
        to.on_failure = Some(arn).filter(|arn| !arn.is_empty());
    }
    if let Source::Queue(queue) = source {
        check_batch(queue, &to)?;
    }
    Ok(to)
}

fn check_filters(source: &Source, filters: &[String]) -> Result<(), Error> {
    if filters.len() > FILTERS_MAX {
        return Err(Error::InvalidParameter(format!(
            "Number of filters exceeds the limit of {FILTERS_MAX}."
        )));
    }
    let keys: &[&str] = match source {
        Source::Stream(_) => &STREAM_FILTER_KEYS,
        Source::Queue(_) => &QUEUE_FILTER_KEYS,
    };
    for filter in filters {
        let invalid =
            |why: String| Error::InvalidParameter(format!("Invalid filter pattern definition: {why} (`{filter}`)."));
        let pattern = Pattern::parse(filter).map_err(|error| invalid(error.to_string()))?;
        let unknown = pattern.keys().into_iter().find(|key| !keys.contains(key));
        if let Some(key) = unknown {
            return Err(invalid(format!(
                "a filter looks at {}, not at `{key}`",
                keys.join(", ")
            )));
        }
    }
    Ok(())
}
