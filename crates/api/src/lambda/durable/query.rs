//! `GetDurableExecution` and `ListDurableExecutionsByFunction`.

use bowline_foundation::clock::Timestamp;
use bowline_functions::durable::shape::Moment;
use bowline_functions::durable::{
    Data, ExecutionFilter, ExecutionStatus, ExecutionSummary, ExecutionView, Paging, Pause,
};
use http::{Response, StatusCode};
use serde::Serialize;
use serde_json::value::RawValue;

use super::configuration::DurableConfigShape;
use crate::body::Body;
use crate::data::time;
use crate::dispatch::Call;
use crate::error::{ApiError, Exception};
use crate::reply;
use crate::route::Query;

/// Statuses one list may be filtered by.
const STATUSES_MAX: usize = 10;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Shown<'a> {
    durable_execution_arn: String,
    durable_execution_name: &'a str,
    function_arn: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    input_payload: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a RawValue>,
    start_timestamp: Moment,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_timestamp: Option<Moment>,
    version: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_header: Option<TraceHeader<'a>>,
    execution_data_included: bool,
    durable_config: DurableConfigShape,
    #[serde(skip_serializing_if = "Option::is_none")]
    pause_details: Option<PauseDetails<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expected_execution_timeout_timestamp: Option<Moment>,
}

#[derive(Serialize)]
struct TraceHeader<'a> {
    #[serde(rename = "XAmznTraceId")]
    x_amzn_trace_id: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct PauseDetails<'a> {
    pause_request_timestamp: Moment,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    execution_timeout_paused: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct List {
    durable_executions: Vec<Listed>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_marker: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    durable_execution_arn: String,
    durable_execution_name: String,
    function_arn: String,
    status: &'static str,
    start_timestamp: Moment,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_timestamp: Option<Moment>,
}

/// `GetDurableExecution`.
pub async fn get(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let arn = super::named(call)?;
    let data = data(call.route.query)?;
    let view = call.node.functions.execution(&arn, data).await?;
    Ok(reply::json(StatusCode::OK, &shown(&view, data)))
}

fn shown(view: &ExecutionView, data: Data) -> Shown<'_> {
    let included = data == Data::Included;
    let pause = |pause: &Pause| PauseDetails {
        pause_request_timestamp: Moment::seconds(pause.requested),
        execution_timeout_paused: pause.timeout_paused,
        reason: None,
    };
    let reason = view.pause.as_ref().and_then(|pause| pause.reason.as_deref());
    Shown {
        durable_execution_arn: view.arn.to_string(),
        durable_execution_name: view.arn.name.as_str(),
        function_arn: view.arn.function_arn(),
        input_payload: view.input.as_deref(),
        result: view.result.as_deref(),
        error: view.error.as_deref(),
        start_timestamp: Moment::seconds(view.started),
        status: view.status.as_str(),
        end_timestamp: view.ended.map(Moment::seconds),
        version: view.arn.version.to_string(),
        trace_header: view
            .trace_id
            .as_deref()
            .map(|x_amzn_trace_id| TraceHeader { x_amzn_trace_id }),
        execution_data_included: included,
        durable_config: view.config.into(),
        pause_details: view.pause.as_ref().map(|given| PauseDetails {
            reason: reason.filter(|_| included),
            ..pause(given)
        }),
        expected_execution_timeout_timestamp: view.deadline.map(Moment::seconds),
    }
}

/// `ListDurableExecutionsByFunction`.
pub async fn list(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    let target = call.qualified_function()?;
    let query = call.route.query;
    let name = query.get("DurableExecutionName").filter(|name| !name.is_empty());
    let name = name.map(|name| name.parse().map_err(|_| broken("durableExecutionName", &name)));
    let filter = ExecutionFilter {
        name: name.transpose()?,
        statuses: statuses(query)?,
        started_after: moment(query, "StartedAfter")?,
        started_before: moment(query, "StartedBefore")?,
        oldest_first: flag(query, "ReverseOrder")?.unwrap_or(false),
    };
    let found = call
        .node
        .functions
        .executions(&target, &filter, &paging(query)?)
        .await?;
    let shown = List {
        durable_executions: found.items.into_iter().map(listed).collect(),
        next_marker: found.next_marker,
    };
    Ok(reply::json(StatusCode::OK, &shown))
}

fn listed(summary: ExecutionSummary) -> Listed {
    Listed {
        durable_execution_arn: summary.arn.to_string(),
        durable_execution_name: summary.arn.name.to_string(),
        function_arn: summary.arn.function_arn(),
        status: summary.status.as_str(),
        start_timestamp: Moment::seconds(summary.started),
        end_timestamp: summary.ended.map(Moment::seconds),
    }
}

fn statuses(query: Query<'_>) -> Result<Vec<ExecutionStatus>, ApiError> {
    let mut statuses = Vec::new();
    for given in query.all("Statuses") {
        let found = ExecutionStatus::ALL.into_iter().find(|status| status.as_str() == given);
        statuses.push(found.ok_or_else(|| broken("statuses", &given))?);
    }
    if statuses.len() > STATUSES_MAX {
        return Err(broken("statuses", &format!("{} statuses", statuses.len())));
    }
    Ok(statuses)
}

fn broken(member: &str, value: &str) -> ApiError {
    ApiError::new(
        Exception::InvalidParameterValue,
        format!(
            "1 validation error detected: Value '{value}' at '{member}' failed to satisfy constraint: \
             Member must satisfy its pattern, enum value set or length"
        ),
    )
}

/// `IncludeExecutionData`.
pub(super) fn data(query: Query<'_>) -> Result<Data, ApiError> {
    let wanted = flag(query, "IncludeExecutionData")?.unwrap_or(true);
    Ok(if wanted { Data::Included } else { Data::Left })
}

pub(super) fn flag(query: Query<'_>, name: &str) -> Result<Option<bool>, ApiError> {
    match query.get(name).as_deref() {
        None | Some("") => Ok(None),
        Some("true" | "True") => Ok(Some(true)),
        Some("false" | "False") => Ok(Some(false)),
        Some(other) => Err(broken(name, other)),
    }
}

fn moment(query: Query<'_>, name: &str) -> Result<Option<Timestamp>, ApiError> {
    let Some(text) = query.get(name).filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.0..1e12).contains(seconds));
    let epoch = seconds.map(|seconds| Timestamp::from_micros((seconds * 1e6) as u64));
    time::read(&text).or(epoch).map(Some).ok_or_else(|| broken(name, &text))
}

/// `Marker` and `MaxItems`.
pub(super) fn paging(query: Query<'_>) -> Result<Paging, ApiError> {
    let items_max = query.get("MaxItems").filter(|items| !items.is_empty());
    let items_max = items_max.map(|items| items.parse().map_err(|_| broken("maxItems", &items)));
    Ok(Paging {
        marker: query.get("Marker").map(std::borrow::Cow::into_owned),
        items_max: items_max.transpose()?,
    })
}
