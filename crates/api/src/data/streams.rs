//! `/v1/streams`: making, showing and trimming streams.

pub mod events;

use std::time::Duration;

use bowline_stream::{ChainState, Settings, SettingsChange, Stat, StreamId};
use bytes::Bytes;
use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::event::{Place, position_text};
use super::list::{self, LIMIT_DEFAULT, LIMIT_MAX, ListPage};
use super::params::{self, Params};
use super::problem::{Code, Problem, ProblemView};
use super::{Ask, created, not_reserved, time};
use crate::body::Body;
use crate::reply;

/// Chains of a new stream unless its maker says otherwise.
pub const CHAINS_DEFAULT: u32 = 4;
/// A stream to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateStream {
    /// 1 to 128 letters, digits, `.`, `_` or `-`.
    name: String,
    /// How many chains it begins with, 2 to 256; 4 if missing.
    #[serde(default)]
    chains: Option<u32>,
    #[serde(default)]
    retention: Retention,
    /// Most chains that take events at the same time; 16 if missing.
    #[serde(default)]
    chains_max: Option<u32>,
}

/// How long and how much a stream keeps. What is missing is without limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Retention {
    /// Events older than this are trimmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    age_max_ms: Option<u64>,
    /// Once the stream is larger than this, its oldest events are trimmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bytes_max: Option<u64>,
    /// Older parts of the stream move from the store to blobs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tier_after_ms: Option<u64>,
}

/// What of a stream's settings changes; what is missing stays.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SetStream {
    #[serde(default)]
    retention: RetentionChange,
    /// Most chains that take events at the same time.
    #[serde(default)]
    chains_max: Option<u32>,
}

/// What of a retention changes; what is missing stays, `null` takes the limit away.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RetentionChange {
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<u64>)]
    age_max_ms: Option<Option<u64>>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<u64>)]
    bytes_max: Option<Option<u64>>,
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<u64>)]
    tier_after_ms: Option<Option<u64>>,
}

/// What is given is something, even if it is null.
fn given<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Option<Option<u64>>, D::Error> {
    Option::deserialize(value).map(Some)
}

impl From<SetStream> for SettingsChange {
    fn from(set: SetStream) -> Self {
        let time = |given: Option<Option<u64>>| given.map(|millis| millis.map(Duration::from_millis));
        Self {
            age_max: time(set.retention.age_max_ms),
            bytes_max: set.retention.bytes_max,
            tier_after: time(set.retention.tier_after_ms),
            chains_max: set.chains_max,
        }
    }
}

/// A stream's settings as they are now.
#[derive(Debug, Serialize, ToSchema)]
pub struct StreamSettings {
    #[serde(flatten)]
    name: StreamName,
    retention: Retention,
    chains_max: u32,
}

/// What names a stream.
#[derive(Debug, Serialize, ToSchema)]
pub struct StreamName {
    /// The name and the number of chains at first, `orders~4`.
    stream: String,
    name: String,
}

/// A stream as it is now.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Stream)]
pub struct StreamView {
    #[serde(flatten)]
    name: StreamName,
    created: String,
    retention: Retention,
    chains_max: u32,
    /// Events that are left.
    events: u64,
    /// Bytes that are left, in the store and in blobs.
    bytes: u64,
    /// Everything up to here has been given up by retention.
    trimmed: String,
    /// Readers see everything up to this moment.
    safe_time: String,
    /// How far that is behind the newest event.
    lag_ms: u64,
    chains: Vec<ChainView>,
}

/// A part of a stream that one host writes.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Chain)]
struct ChainView {
    chain: u32,
    /// `pending`, `active` or `sealed`.
    state: &'static str,
    owner: u64,
    epoch: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    first: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<String>,
    events: u64,
    bytes: u64,
}

/// What a stream gives up.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Trim {
    /// Everything up to this position, or before this time.
    until: String,
}

impl From<Retention> for Settings {
    fn from(retention: Retention) -> Self {
        Self {
            age_max: retention.age_max_ms.map(Duration::from_millis),
            bytes_max: retention.bytes_max,
            tier_after: retention.tier_after_ms.map(Duration::from_millis),
            ..Self::default()
        }
    }
}

impl From<Settings> for Retention {
    fn from(settings: Settings) -> Self {
        Self {
            age_max_ms: settings.age_max.map(millis),
            bytes_max: settings.bytes_max,
            tier_after_ms: settings.tier_after.map(millis),
        }
    }
}

/// A duration on the wire.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl StreamName {
    pub fn of(stream: &StreamId) -> Self {
        Self {
            stream: stream.to_string(),
            name: stream.name().to_owned(),
        }
    }
}

impl StreamView {
    fn of(stat: &Stat) -> Self {
        Self {
            name: StreamName::of(&stat.stream),
            created: time::text(stat.created),
            retention: stat.settings.into(),
            chains_max: stat.settings.chains_max,
            events: stat.events,
            bytes: stat.bytes,
            trimmed: position_text(stat.trimmed),
            safe_time: time::text(stat.safe.moment()),
            lag_ms: millis(stat.lag),
            chains: stat.chains.iter().map(ChainView::of).collect(),
        }
    }
}

impl ChainView {
    fn of(chain: &bowline_stream::ChainStat) -> Self {
        Self {
            chain: chain.id.0,
            state: match chain.state {
                ChainState::Pending => "pending",
                ChainState::Active => "active",
                ChainState::Sealed => "sealed",
            },
            owner: chain.owner.0,
            epoch: chain.epoch,
            first: chain.first.map(position_text),
            last: chain.last.map(position_text),
            events: chain.events,
            bytes: chain.bytes,
        }
    }
}

/// Make a stream.
#[utoipa::path(post, path = "/v1/streams", tag = "streams", operation_id = "CreateStream",
    request_body = CreateStream,
    responses(
        (status = 201, body = StreamName, description = "Made", headers(("Location" = String, description = "Its path"))),
        (status = "default", body = ProblemView, description = "`stream_exists`, `invalid_body`", content_type = "application/problem+json"),
    ))]
pub(super) async fn create(ask: &Ask<'_>, body: Bytes) -> Result<Response<Body>, Problem> {
    Params::read(ask.call.route.query, &[])?;
    let request: CreateStream = params::json(&body)?;
    let stream = StreamId::new(&request.name, request.chains.unwrap_or(CHAINS_DEFAULT));
    let stream = stream.map_err(Problem::identifier)?;
    not_reserved(&stream)?;
    let mut settings = Settings::from(request.retention);
    if let Some(chains_max) = request.chains_max {
        settings.chains_max = chains_max;
    }
    let caller = ask.session_caller();
    ask.data.streams.create_for(&caller, &stream, settings).await?;
    Ok(created(&format!("/v1/streams/{stream}"), &StreamName::of(&stream)))
}

/// List the streams by name.
#[utoipa::path(get, path = "/v1/streams", tag = "streams", operation_id = "ListStreams",
    params(
        ("limit" = Option<usize>, Query, description = "1 to 1000; 100 if missing"),
        ("next" = Option<String>, Query, description = "From the page before"),
    ),
    responses(
        (status = 200, body = ListPage<StreamName>),
        (status = "default", body = ProblemView, content_type = "application/problem+json"),
    ))]
pub(super) async fn list(ask: &Ask<'_>) -> Result<Response<Body>, Problem> {
    let params = Params::read(ask.call.route.query, &["limit", "next"])?;
    let limit = params.number("limit", LIMIT_DEFAULT, 1..=LIMIT_MAX)?;
    let streams = ask.data.streams.list().await?;
    let names = streams.iter().map(StreamName::of).collect();
    let page = list::cut(names, limit, params.text("next"), |stream: &StreamName| {
        stream.name.clone()
    });
    Ok(reply::json(StatusCode::OK, &page))
}

/// Show a stream: settings, chains, what is left, how far readers may go.
#[utoipa::path(get, path = "/v1/streams/{stream}", tag = "streams", operation_id = "ShowStream",
    params(("stream" = String, Path, description = "Name, or identifier as in `orders~4`")),
    responses(
        (status = 200, body = StreamView),
        (status = "default", body = ProblemView, content_type = "application/problem+json"),
    ))]
pub(super) async fn show(ask: &Ask<'_>) -> Result<Response<Body>, Problem> {
    Params::read(ask.call.route.query, &[])?;
    let stat = ask.data.streams.stat(&ask.stream().await?).await?;
    Ok(reply::json(StatusCode::OK, &StreamView::of(&stat)))
}

/// Give up the oldest events.
#[utoipa::path(post, path = "/v1/streams/{stream}/trim", tag = "streams", operation_id = "TrimStream",
    params(("stream" = String, Path, description = "Name or identifier")),
    request_body = Trim,
    responses(
        (status = 204, description = "Readers do not see them any more"),
        (status = "default", body = ProblemView, content_type = "application/problem+json"),
    ))]
pub(super) async fn trim(ask: &Ask<'_>, body: Bytes) -> Result<Response<Body>, Problem> {
    Params::read(ask.call.route.query, &[])?;
    let request: Trim = params::json(&body)?;
    let until = match Place::read(&request.until) {
        Some(Place::Position(position)) => position,
        Some(Place::Time(moment)) => Place::at(moment),
        _ => {
            let detail = format!(
                "`until` is `{}`, expected a position or an RFC 3339 time",
                request.until
            );
            return Err(Problem::new(Code::InvalidBody, detail));
        }
    };
    let (caller, stream) = (ask.session_caller(), ask.own_stream().await?);
    ask.data.streams.trim(&caller, &stream, until).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

/// Change how long and how much a stream keeps, and how far it may grow.
#[utoipa::path(patch, path = "/v1/streams/{stream}", tag = "streams", operation_id = "SetStream",
    params(("stream" = String, Path, description = "Name or identifier")),
    request_body = SetStream,
    responses(
        (status = 200, body = StreamSettings, description = "The settings as they are now"),
        (status = "default", body = ProblemView, content_type = "application/problem+json"),
    ))]
pub(super) async fn set(ask: &Ask<'_>, body: Bytes) -> Result<Response<Body>, Problem> {
    Params::read(ask.call.route.query, &[])?;
    let change: SetStream = params::json(&body)?;
    if change.chains_max == Some(0) {
        return Err(Problem::new(
            Code::InvalidBody,
            "`chains_max` is 0, expected at least 1",
        ));
    }
    let stream = ask.own_stream().await?;
    let settings = ask
        .data
        .streams
        .set(&ask.session_caller(), &stream, change.into())
        .await?;
    let view = StreamSettings {
        name: StreamName::of(&stream),
        retention: settings.into(),
        chains_max: settings.chains_max,
    };
    Ok(reply::json(StatusCode::OK, &view))
}

/// Delete a stream with its events and its sessions.
#[utoipa::path(delete, path = "/v1/streams/{stream}", tag = "streams", operation_id = "DeleteStream",
    params(("stream" = String, Path, description = "Name or identifier")),
    responses(
        (status = 204, description = "Gone; its sessions are gone with it"),
        (status = "default", body = ProblemView, description = "`stream_in_use`: event source mappings read it",
            content_type = "application/problem+json"),
    ))]
pub(super) async fn delete(ask: &Ask<'_>) -> Result<Response<Body>, Problem> {
    Params::read(ask.call.route.query, &[])?;
    let stream = ask.own_stream().await?;
    let mappings = ask.call.node.functions.mappings_of(stream.name());
    if !mappings.is_empty() {
        let mappings = mappings.join("`, `");
        let detail = format!("stream `{stream}` is read by the event source mappings `{mappings}`: delete them first");
        return Err(Problem::new(Code::StreamInUse, detail));
    }
    ask.data.streams.delete(&ask.session_caller(), &stream).await?;
    ask.data.forget(stream.name());
    Ok(reply::empty(StatusCode::NO_CONTENT))
}
