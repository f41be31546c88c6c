//! `/v1/sessions/{session}/batches`: taking a batch of events and saying what became of it.

use std::time::Duration;

use bowline_stream::session::{Batch, BatchToken, Failed, Outcome, ReadRequest, Retry};
use bytes::Bytes;
use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::super::event::EventView;
use super::super::params::{self, Params};
use super::super::problem::{Code, Problem, ProblemView};
use super::super::streams::millis;
use super::super::{Ask, time};
use crate::body::Body;
use crate::reply;

/// A reader's request; it names no event.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReadBatch {
    /// Most events, at most 1000; 100 if missing.
    #[serde(default)]
    limit: Option<usize>,
    /// Most bytes of keys and bodies; a larger event still comes alone.
    #[serde(default)]
    bytes: Option<usize>,
    /// How long to wait for an event, at most 20000.
    #[serde(default)]
    wait_ms: Option<u64>,
    /// Within the lease the same identifier gives the same batch again.
    #[serde(default)]
    request_id: Option<String>,
    /// Who reads, for people.
    #[serde(default)]
    worker: Option<String>,
    /// The token of a batch that is processed: acknowledged in the same step. If it is stale nothing is read; after another
    /// error it may have counted.
    #[serde(default)]
    done: Option<String>,
}

/// A batch of events for one reader.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Batch)]
pub struct BatchView<'a> {
    /// What to acknowledge it with; missing if the session delivers at most once.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    /// Its number in the session, the same for all attempts.
    batch: u64,
    /// From 1.
    attempt: u32,
    /// When it goes to somebody else unless it is acknowledged or extended.
    #[serde(skip_serializing_if = "Option::is_none")]
    lease_until: Option<String>,
    first_sent: String,
    /// How old its newest event was when it was given out.
    behind_ms: u64,
    events: Vec<EventView<'a>>,
}

/// What failed of a batch, and what is to happen to it. All other events are processed.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Nack {
    /// The positions of the events that failed; all of them if neither this nor `from` is given.
    #[serde(default)]
    events: Option<Vec<String>>,
    /// The event at this position failed, and all after it.
    #[serde(default)]
    from: Option<String>,
    /// When they are given out again.
    #[serde(default)]
    delay_ms: Option<u64>,
    /// They go to the parking list at once.
    #[serde(default)]
    park: bool,
    /// For people.
    #[serde(default)]
    reason: Option<String>,
}

/// A longer lease.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Extend {
    /// From now.
    lease_ms: u64,
}

/// When a lease ends.
#[derive(Debug, Serialize, ToSchema)]
pub struct Lease {
    lease_until: String,
}

impl<'a> BatchView<'a> {
    fn of(batch: &'a Batch) -> Self {
        Self {
            token: batch.token.map(|token| token.to_string()),
            batch: batch.batch,
            attempt: batch.attempt,
            lease_until: batch.lease_until.map(time::text),
            first_sent: time::text(batch.first_sent_at),
            behind_ms: millis(batch.behind),
            events: batch.events.iter().map(EventView::of).collect(),
        }
    }
}

impl ReadBatch {
    fn into_request(self) -> Result<ReadRequest, Problem> {
        let default = ReadRequest::default();
        let done = self.done.map(|token| token.parse()).transpose();
        Ok(ReadRequest {
            events_max: self.limit.unwrap_or(default.events_max),
            bytes_max: self.bytes.unwrap_or(default.bytes_max),
            wait: self.wait_ms.map_or(default.wait, Duration::from_millis),
            request_id: self.request_id,
            worker: self.worker.unwrap_or_default(),
            done: done.map_err(Problem::identifier)?,
        })
    }
}

impl Nack {
    fn into_outcome(self) -> Result<Outcome, Problem> {
        let invalid = |detail: String| Problem::new(Code::InvalidBody, detail);
        let events = match (self.events, self.from) {
            (Some(_), Some(_)) => return Err(invalid("`events` and `from` are both given".to_owned())),
            (None, None) => Failed::All,
            (None, Some(from)) => Failed::From(from.parse().map_err(Problem::identifier)?),
            (Some(events), None) => {
                let positions = events.iter().map(|text| text.parse());
                Failed::Only(positions.collect::<Result<_, _>>().map_err(Problem::identifier)?)
            }
        };
        let retry = match (self.park, self.delay_ms) {
            (true, Some(_)) => return Err(invalid("`park` and `delay_ms` are both given".to_owned())),
            (true, None) => Retry::Park,
            (false, delay) => Retry::After(Duration::from_millis(delay.unwrap_or_default())),
        };
        Ok(Outcome::Failed {
            events,
            retry,
            reason: self.reason.unwrap_or_default(),
        })
    }
}

/// Take the next batch; 204 if there was none within the wait.
#[utoipa::path(post, path = "/v1/sessions/{session}/batches", tag = "sessions", operation_id = "ReadBatch",
    params(("session" = String, Path, description = "The session's identifier")),
    request_body = ReadBatch,
    responses(
        (status = 200, body = BatchView),
        (status = 204, description = "Nothing to read"),
        (status = "default", body = ProblemView, description = "`trimmed` is said once; the next read goes on",
            content_type = "application/problem+json"),
    ))]
pub(in crate::data) async fn read(ask: &Ask<'_>, body: Bytes) -> Result<Response<Body>, Problem> {
    Params::read(ask.call.route.query, &[])?;
    let request: ReadBatch = params::json(&body)?;
    let request = request.into_request()?;
    let session = ask.session()?;
    let batch = tokio::select! {
        batch = ask.data.sessions.read(&session, request) => batch?,
        () = ask.stopping() => return Err(Problem::new(Code::Unavailable, "the node stops")),
    };
    let Some(batch) = batch else {
        return Ok(reply::empty(StatusCode::NO_CONTENT));
    };
    ask.data.metrics.delivered(&batch.events);
    Ok(reply::json(StatusCode::OK, &BatchView::of(&batch)))
}

/// The whole batch is processed.
#[utoipa::path(post, path = "/v1/sessions/{session}/batches/{token}/ack", tag = "sessions", operation_id = "AckBatch",
    params(
        ("session" = String, Path, description = "The session's identifier"),
        ("token" = String, Path, description = "The batch's token"),
    ),
    responses(
        (status = 204, description = "It is never given out again"),
        (status = "default", body = ProblemView, description = "`stale_token`", content_type = "application/problem+json"),
    ))]
pub(in crate::data) async fn ack(ask: &Ask<'_>) -> Result<Response<Body>, Problem> {
    Params::read(ask.call.route.query, &[])?;
    ask.data.sessions.ack(&ask.session()?, token(ask)?).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

/// Some or all events of a batch failed.
#[utoipa::path(post, path = "/v1/sessions/{session}/batches/{token}/nack", tag = "sessions", operation_id = "NackBatch",
    params(
        ("session" = String, Path, description = "The session's identifier"),
        ("token" = String, Path, description = "The batch's token"),
    ),
    request_body = Nack,
    responses(
        (status = 204, description = "They are given out again, or parked"),
        (status = "default", body = ProblemView, content_type = "application/problem+json"),
    ))]
pub(in crate::data) async fn nack(ask: &Ask<'_>, body: Bytes) -> Result<Response<Body>, Problem> {
    Params::read(ask.call.route.query, &[])?;
    let request: Nack = params::json(&body)?;
    let outcome = request.into_outcome()?;
    ask.data.sessions.settle(&ask.session()?, token(ask)?, outcome).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

/// Keep a batch for longer.
#[utoipa::path(post, path = "/v1/sessions/{session}/batches/{token}/extend", tag = "sessions", operation_id = "ExtendBatch",
    params(
        ("session" = String, Path, description = "The session's identifier"),
        ("token" = String, Path, description = "The batch's token"),
    ),
    request_body = Extend,
    responses(
        (status = 200, body = Lease),
        (status = "default", body = ProblemView, content_type = "application/problem+json"),
    ))]
pub(in crate::data) async fn extend(ask: &Ask<'_>, body: Bytes) -> Result<Response<Body>, Problem> {
    Params::read(ask.call.route.query, &[])?;
    let request: Extend = params::json(&body)?;
    let lease = Duration::from_millis(request.lease_ms);
    let until = ask.data.sessions.extend(&ask.session()?, token(ask)?, lease).await?;
    let lease_until = time::text(until);
    Ok(reply::json(StatusCode::OK, &Lease { lease_until }))
}

fn token(ask: &Ask<'_>) -> Result<BatchToken, Problem> {
    ask.call.route.part.parse().map_err(Problem::identifier)
}
