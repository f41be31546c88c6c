//! Event source mappings.

use std::collections::BTreeMap;

use bowline_foundation::clock::Timestamp;
use bowline_functions::model::events::{
    CreateMapping, Mapping, MappingChange, MappingFilter, MappingStart, MappingState,
};
use bowline_functions::name::FunctionRef;
use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::destination::{self, Destination, DestinationConfig, may_send, seconds};
use super::read::{self, Violations};
use crate::body::Body;
use crate::dispatch::{Call, Node};
use crate::error::{ApiError, Exception};
use crate::reply;

/// Members that nothing here acts on, and why not.
const UNKNOWN_MEMBERS: [(&str, &str); 11] = [
    ("AmazonManagedKafkaEventSourceConfig", NO_KAFKA),
    ("SelfManagedEventSource", NO_KAFKA),
    ("SelfManagedKafkaEventSourceConfig", NO_KAFKA),
    ("Topics", NO_KAFKA),
    (
        "DocumentDBEventSourceConfig",
        "there are no DocumentDB event sources, only streams of this node and SQS queues",
    ),
    (
        "Queues",
        "there are no Amazon MQ event sources; an SQS queue is named by `EventSourceArn`",
    ),
    (
        "SourceAccessConfigurations",
        "streams of this node need no credentials, and those for queues are in the node's configuration",
    ),
    (
        "KMSKeyArn",
        "there is no key management service here; filter criteria are kept as they are",
    ),
    (
        "LoggingConfig",
        "pollers write to the node's log, whose level is set for the whole node",
    ),
    (
        "ProvisionedPollerConfig",
        "pollers are not reserved; `ScalingConfig` limits what a queue's mapping runs at once",
    ),
    (
        "TumblingWindowInSeconds",
        "a function gets batches without windows and without state between them",
    ),
];
const NO_KAFKA: &str = "there are no Kafka event sources, only streams of this node and SQS queues";
const START_POSITIONS: [&str; 3] = ["TRIM_HORIZON", "LATEST", "AT_TIMESTAMP"];
const RESPONSE_TYPES: [&str; 1] = ["ReportBatchItemFailures"];
/// The first one is of all sources, the others are of Kafka alone.
const METRICS: [&str; 3] = ["EventCount", "ErrorCount", "KafkaMetrics"];

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CreateRequest {
    event_source_arn: Option<String>,
    function_name: Option<String>,
    starting_position: Option<String>,
    starting_position_timestamp: Option<f64>,
    tags: Option<BTreeMap<String, String>>,
}

/// What creating and updating share.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Members {
    function_name: Option<String>,
    enabled: Option<bool>,
    batch_size: Option<i64>,
    maximum_batching_window_in_seconds: Option<i64>,
    parallelization_factor: Option<i64>,
    maximum_record_age_in_seconds: Option<i64>,
    maximum_retry_attempts: Option<i64>,
    bisect_batch_on_function_error: Option<bool>,
    function_response_types: Option<Vec<String>>,
    filter_criteria: Option<FilterCriteria>,
    destination_config: Option<DestinationConfig>,
    scaling_config: Option<ScalingConfig>,
    metrics_config: Option<MetricsConfig>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct MetricsConfig {
    metrics: Option<Vec<String>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ScalingConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    maximum_concurrency: Option<i64>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct FilterCriteria {
    filters: Option<Vec<Filter>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Filter {
    pattern: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Shown {
    #[serde(rename = "UUID")]
    uuid: String,
    event_source_mapping_arn: String,
    event_source_arn: String,
    function_arn: String,
    state: &'static str,
    state_transition_reason: &'static str,
    last_processing_result: String,
    last_modified: f64,
    batch_size: u32,
    maximum_batching_window_in_seconds: u32,
    function_response_types: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    filter_criteria: Option<FilterCriteria>,
    #[serde(flatten)]
    of_stream: Option<OfStream>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scaling_config: Option<ScalingConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics_config: Option<MetricsConfig>,
}

/// What only a mapping of a stream shows.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct OfStream {
    starting_position: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    starting_position_timestamp: Option<f64>,
    parallelization_factor: u32,
    maximum_record_age_in_seconds: i64,
    maximum_retry_attempts: i64,
    bisect_batch_on_function_error: bool,
    tumbling_window_in_seconds: u32,
    destination_config: DestinationConfig,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ListResponse {
    event_source_mappings: Vec<Shown>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_marker: Option<String>,
}

impl OfStream {
    fn new(mapping: &Mapping) -> Self {
        let settings = &mapping.settings;
        let (starting_position, at) = match mapping.start {
            MappingStart::TrimHorizon => ("TRIM_HORIZON", None),
            MappingStart::Latest => ("LATEST", None),
            MappingStart::AtTimestamp(at) => ("AT_TIMESTAMP", Some(at)),
        };
        let endless = |limit: Option<u32>| limit.map_or(-1, i64::from);
        Self {
            starting_position,
            starting_position_timestamp: at.map(seconds),
            parallelization_factor: settings.parallelization,
            maximum_record_age_in_seconds: endless(settings.age_seconds_max),
            maximum_retry_attempts: endless(settings.retries_max),
            bisect_batch_on_function_error: settings.bisects,
            tumbling_window_in_seconds: 0,
            destination_config: DestinationConfig {
                on_success: None,
                on_failure: Some(Destination::new(settings.on_failure.clone())),
            },
        }
    }
}

impl Shown {
    fn new(node: &Node, mapping: Mapping) -> Self {
        let of_stream = (!mapping.reads_a_queue()).then(|| OfStream::new(&mapping));
        let settings = mapping.settings;
        let function = &mapping.function;
        let filters = settings.filters.into_iter();
        let filters: Vec<Filter> = filters.map(|pattern| Filter { pattern: Some(pattern) }).collect();
        Self {
            event_source_mapping_arn: format!(
                "arn:aws:lambda:{}:{}:event-source-mapping:{}",
                node.region, mapping.account, mapping.id
            ),
            uuid: mapping.id,
            event_source_arn: mapping.source_arn,
            function_arn: node
                .functions
                .arn(&function.account, &function.name, function.qualifier.as_ref()),
            state: state(mapping.state),
            state_transition_reason: "User action",
            last_processing_result: mapping.last_result,
            last_modified: seconds(mapping.last_modified),
            batch_size: settings.batch_size,
            maximum_batching_window_in_seconds: settings.window_seconds,
            function_response_types: if settings.reports_failures {
                RESPONSE_TYPES.to_vec()
            } else {
                Vec::new()
            },
            filter_criteria: (!filters.is_empty()).then_some(FilterCriteria { filters: Some(filters) }),
            of_stream,
            scaling_config: settings.concurrency_max.map(|max| ScalingConfig {
                maximum_concurrency: Some(max.into()),
            }),
            metrics_config: settings.counts_events.then(|| MetricsConfig {
                metrics: Some(vec![METRICS[0].to_owned()]),
            }),
        }
    }
}

fn state(state: MappingState) -> &'static str {
    match state {
        MappingState::Creating => "Creating",
        MappingState::Enabled => "Enabled",
        MappingState::Disabled => "Disabled",
        MappingState::Updating => "Updating",
        MappingState::Deleting => "Deleting",
    }
}

/// `CreateEventSourceMapping`.
pub async fn create(call: &Call<'_>, body: &[u8]) -> Result<Response<Body>, ApiError> {
    let request: CreateRequest = read::json(body)?;
    let mut violations = Violations::default();
    violations.require("functionName", request.function_name.as_ref());
    violations.finish()?;
    let Some(source_arn) = request.event_source_arn.clone() else {
        return Err(ApiError::invalid(
            "Unrecognized event source. EventSourceArn is required: an event source on this node is a stream or an SQS \
             queue.",
        ));
    };
    may_read(call, &source_arn)?;
    let function = function(call, request.function_name.as_deref())?;
    let create = CreateMapping {
        function: function.ok_or_else(|| ApiError::invalid("FunctionName is required."))?,
        source_arn,
        start: start(&request)?,
        settings: change(call, body)?,
        tags: request.tags.unwrap_or_default(),
    };
    let functions = &call.node.functions;
    let created = functions.create_mapping(&call.caller(), create).await?;
    Ok(reply::json(StatusCode::ACCEPTED, &Shown::new(call.node, created)))
}

/// Streams belong to no account: where accounts are told apart, to the operator's alone. Queues belong to the account in
/// their ARN.
fn may_read(call: &Call<'_>, source_arn: &str) -> Result<(), ApiError> {
    if call.key.is_none() || call.node.auth.is_operator(&call.account) {
        return Ok(());
    }
    if source_arn.starts_with("arn:bowline:") || source_arn.contains(":kinesis:") {
        return Err(ApiError::new(
            Exception::AccessDenied,
            format!(
                "Account {} may not read {source_arn}: streams are the operator's.",
                call.account
            ),
        ));
    }
    match source_arn.split(':').nth(4) {
        Some(owner) if owner != call.account.as_str() => Err(ApiError::invalid(
            "The function execution role does not have permissions to call ReceiveMessage on SQS",
        )),
        _ => Ok(()),
    }
}

/// `GetEventSourceMapping`.
pub fn get(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let found = call.node.functions.get_mapping(&call.caller(), &call.route.resource)?;
    Ok(reply::json(StatusCode::OK, &Shown::new(call.node, found)))
}

/// `UpdateEventSourceMapping`.
pub async fn update(call: &Call<'_>, body: &[u8]) -> Result<Response<Body>, ApiError> {
    let change = change(call, body)?;
    let functions = &call.node.functions;
    let id = &call.route.resource;
    let updated = functions.update_mapping(&call.caller(), id, change).await?;
    Ok(reply::json(StatusCode::ACCEPTED, &Shown::new(call.node, updated)))
}

/// `DeleteEventSourceMapping`.
pub async fn delete(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let functions = &call.node.functions;
    let deleted = functions.delete_mapping(&call.caller(), &call.route.resource).await?;
    Ok(reply::json(StatusCode::ACCEPTED, &Shown::new(call.node, deleted)))
}

/// `ListEventSourceMappings`.
pub fn list(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let query = call.route.query;
    let given = |name: &str| query.get(name).filter(|value| !value.is_empty());
    let filter = MappingFilter {
        function: function(call, given("FunctionName").as_deref())?,
        source_arn: given("EventSourceArn").map(|arn| arn.into_owned()),
    };
    let page = read::page(query)?;
    let found = call.node.functions.list_mappings(&call.caller(), &filter, &page)?;
    let mappings = found.items.into_iter();
    let shown = ListResponse {
        event_source_mappings: mappings.map(|mapping| Shown::new(call.node, mapping)).collect(),
        next_marker: found.next_marker,
    };
    Ok(reply::json(StatusCode::OK, &shown))
}

fn function(call: &Call<'_>, name: Option<&str>) -> Result<Option<FunctionRef>, ApiError> {
    name.map(|name| call.named_function(name, None)).transpose()
}

fn start(request: &CreateRequest) -> Result<Option<MappingStart>, ApiError> {
    let Some(position) = &request.starting_position else {
        return Ok(None);
    };
    let mut violations = Violations::default();
    violations.one_of("startingPosition", position, &START_POSITIONS);
    violations.finish()?;
    match (position.as_str(), request.starting_position_timestamp) {
        ("AT_TIMESTAMP", None) => Err(ApiError::invalid(
            "StartingPositionTimestamp is required for AT_TIMESTAMP.",
        )),
        ("AT_TIMESTAMP", Some(seconds)) if seconds.is_finite() && seconds >= 0.0 => {
            // Far beyond what a stream holds nothing is lost by the rounding.
            let at = Timestamp::from_micros((seconds * 1e6) as u64);
            Ok(Some(MappingStart::AtTimestamp(at)))
        }
        (_, Some(_)) => Err(ApiError::invalid(
            "StartingPositionTimestamp must be a moment since 1970, and is only for AT_TIMESTAMP.",
        )),
        ("LATEST", None) => Ok(Some(MappingStart::Latest)),
        (_, None) => Ok(Some(MappingStart::TrimHorizon)),
    }
}

/// Reads the settings; refuses those that nothing here acts on.
fn change(call: &Call<'_>, body: &[u8]) -> Result<MappingChange, ApiError> {
    let given: Map<String, Value> = read::json(body)?;
    let is_set = |value: &Value| match value {
        Value::Null => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(members) => !members.is_empty(),
        Value::Number(number) => number.as_f64() != Some(0.0),
        _ => true,
    };
    let unknown = UNKNOWN_MEMBERS
        .iter()
        .find(|(member, _)| given.get(*member).is_some_and(is_set));
    if let Some((member, reason)) = unknown {
        return Err(ApiError::invalid(format!(
            "{member} is not available on this node: {reason}."
        )));
    }
    let members: Members = read::json(body)?;
    let destinations = members.destination_config.unwrap_or_default();
    if destinations
        .on_success
        .is_some_and(|destination| !destination.arn().is_empty())
    {
        return Err(ApiError::invalid(
            "An event source mapping has no OnSuccess destination.",
        ));
    }
    let on_failure = destinations.on_failure.map(Destination::arn);
    if let Some(arn) = &on_failure {
        destination::check("onFailure", arn)?;
        may_send(call, arn)?;
    }
    let types = members.function_response_types;
    for kind in types.iter().flatten() {
        let mut violations = Violations::default();
        violations.one_of("functionResponseTypes", kind, &RESPONSE_TYPES);
        violations.finish()?;
    }
    let counts_events = members.metrics_config.map(counts_events).transpose()?;
    let filters = members.filter_criteria.map(|criteria| {
        let filters = criteria.filters.unwrap_or_default().into_iter();
        filters.map(|filter| filter.pattern.unwrap_or_default()).collect()
    });
    Ok(MappingChange {
        function: function(call, members.function_name.as_deref())?,
        is_enabled: members.enabled,
        batch_size: members.batch_size,
        window_seconds: members.maximum_batching_window_in_seconds,
        parallelization: members.parallelization_factor,
        age_seconds_max: members.maximum_record_age_in_seconds,
        retries_max: members.maximum_retry_attempts,
        bisects: members.bisect_batch_on_function_error,
        reports_failures: types.map(|types| !types.is_empty()),
        filters,
        on_failure,
        concurrency_max: members.scaling_config.map(|config| config.maximum_concurrency),
        counts_events,
    })
}

/// Whether a mapping is to count its events; metrics of sources that are not here are refused.
fn counts_events(config: MetricsConfig) -> Result<bool, ApiError> {
    let metrics = config.metrics.unwrap_or_default();
    let mut violations = Violations::default();
    if metrics.len() > METRICS.len() {
        let value = format!("'[{}]'", metrics.join(", "));
        let constraint = format!("Member must have length less than or equal to {}", METRICS.len());
        violations.broken(&value, "metricsConfig.metrics", &constraint);
    }
    for metric in &metrics {
        violations.one_of("metricsConfig.metrics", metric, &METRICS);
    }
    violations.finish()?;
    match metrics.iter().find(|metric| *metric != METRICS[0]) {
        Some(metric) => Err(ApiError::invalid(format!(
            "The metric {metric} of MetricsConfig is for Kafka: {NO_KAFKA}."
        ))),
        None => Ok(!metrics.is_empty()),
    }
}
