//! `/v1/streams/{stream}/events`: appending and reading.

use std::time::Duration;

use bowline_stream::{Log, Position, ReadError, ReadLimit, Record, StreamId};
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use super::super::append::{self, Form, NewEvents};
use super::super::event::{EventView, FROM_WANTED, Place, position_text};
use super::super::list::{LIMIT_DEFAULT, LIMIT_MAX};
use super::super::params::{self, Params};
use super::super::problem::{Code, Problem, ProblemView};
use super::super::{Ask, tail};
use crate::body::Body;
use crate::reply;

/// Longest wait of a read.
pub const WAIT_MAX: Duration = Duration::from_secs(20);
/// Most bytes of keys and bodies in one answer, and how many unless the reader says otherwise.
const READ_BYTES_MAX: usize = 8 * 1024 * 1024;
const READ_BYTES_DEFAULT: usize = 1024 * 1024;

const LINES: HeaderValue = HeaderValue::from_static("application/x-ndjson");

/// The events are on disk.
#[derive(Debug, Serialize, ToSchema)]
pub struct Appended {
    /// How many events the append had.
    count: usize,
    /// The position of the last one.
    last: String,
    /// The position of each; left out with `Prefer: return=minimal`.
    #[serde(skip_serializing_if = "Option::is_none")]
    positions: Option<Vec<String>>,
}

/// Consecutive events.
#[derive(Debug, Serialize, ToSchema)]
pub struct EventPage<'a> {
    events: Vec<EventView<'a>>,
    /// What to give as `from` to read on in the same order.
    next: String,
    /// Whether more can be read at once.
    more: bool,
}

/// Append events: all or none, acknowledged once they are on disk.
#[utoipa::path(post, path = "/v1/streams/{stream}/events", tag = "streams", operation_id = "AppendEvents",
    params(
        ("stream" = String, Path, description = "Name or identifier"),
        ("id" = Option<String>, Query, description = "The identifier of a single raw event"),
        ("key" = Option<String>, Query, description = "The key of a single raw event"),
        ("Prefer" = Option<String>, Header, description = "`return=minimal` leaves out the positions"),
    ),
    request_body(description = "NDJSON has one event a line; raw bytes are one event. \
        `application/vnd.bowline.events` is a sequence of frames: flags u8 (1: identifier, 2: key), identifier 16 bytes, \
        key length u16 and key, body length u32 and body; numbers big-endian",
        content(
        (NewEvents = "application/json"),
        (append::NewEvent = "application/x-ndjson"),
        (String = "application/vnd.bowline.events"),
        (String = "application/octet-stream"),
        (String = "text/plain"),
    )),
    responses(
        (status = 201, body = Appended, description = "On disk"),
        (status = "default", body = ProblemView, description = "`outcome_unknown`: repeat it with the same identifiers",
            content_type = "application/problem+json"),
    ))]
pub(in crate::data) async fn append(ask: &Ask<'_>, body: Bytes) -> Result<Response<Body>, Problem> {
    let params = Params::read(ask.call.route.query, &["id", "key"])?;
    let content_type = ask.header("content-type");
    let form = Form::of(content_type).ok_or_else(|| unsupported(content_type.unwrap_or_default()))?;
    let records = append::parse(form, &body).map_err(|error| Problem::new(Code::InvalidBody, error.to_string()))?;
    let records = with_params(records, form, &params)?;
    let (count, bytes) = (records.len(), payload_bytes(&records));
    let stream = ask.own_stream().await?;
    let began = ask.call.node.clock.monotonic();
    let positions = ask.data.streams.append(&stream, records).await;
    let took = ask.call.node.clock.monotonic().since(began);
    ask.data
        .metrics
        .appended(stream.name(), positions.as_ref().map(|_| (count, bytes)), took);
    let positions = positions?;
    let minimal = ask
        .header("prefer")
        .is_some_and(|prefer| prefer.contains("return=minimal"));
    let last = positions.last().copied().unwrap_or_default();
    let view = Appended {
        count,
        last: position_text(last),
        positions: (!minimal).then(|| positions.into_iter().map(position_text).collect()),
    };
    Ok(reply::json(StatusCode::CREATED, &view))
}

fn unsupported(content_type: &str) -> Problem {
    let detail = format!(
        "content type `{content_type}` holds no events; send `application/json`, `application/x-ndjson`, \
         `application/vnd.bowline.events`, or one event as `application/octet-stream` or `text/plain`"
    );
    Problem::new(Code::UnsupportedMediaType, detail)
}

/// The identifier and key of a raw event, which has no other place for them.
fn with_params(mut records: Vec<Record>, form: Form, params: &Params<'_>) -> Result<Vec<Record>, Problem> {
    for name in ["id", "key"] {
        if let Some(text) = params.text(name).filter(|_| form != Form::Raw) {
            return Err(params::invalid(name, text, "it within the event, unless that is raw"));
        }
    }
    for record in &mut records {
        if let Some(id) = params.text("id") {
            let id = append::event_id(id);
            record.id = Some(id.map_err(|error| Problem::new(Code::InvalidParameter, error.to_string()))?);
        }
        if let Some(key) = params.text("key") {
            record.key = Some(Bytes::copy_from_slice(key.as_bytes()));
        }
    }
    Ok(records)
}

fn payload_bytes(records: &[Record]) -> usize {
    let sizes = records.iter();
    sizes
        .map(|record| record.body.len() + record.key.as_ref().map_or(0, Bytes::len))
        .sum()
}

/// Read events, oldest or newest first; wait for them with `wait_ms`, or follow them as server-sent events.
#[utoipa::path(get, path = "/v1/streams/{stream}/events", tag = "streams", operation_id = "ReadEvents",
    params(
        ("stream" = String, Path, description = "Name or identifier"),
        ("from" = Option<String>, Query, description = "`oldest` (default), `latest` (default of server-sent events and of \
            `order=backward`), an RFC 3339 time, or a position: events after it, or before it with `order=backward`"),
        ("order" = Option<String>, Query, description = "`forward` (default) or `backward`"),
        ("limit" = Option<usize>, Query, description = "Most events, 1 to 1000; 100 if missing"),
        ("bytes" = Option<usize>, Query, description = "Most bytes of keys and bodies; a larger event still comes alone"),
        ("wait_ms" = Option<u64>, Query, description = "How long to wait for an event, at most 20000"),
        ("Accept" = Option<String>, Header, description = "`text/event-stream` follows the stream for ever; \
            `application/x-ndjson` gives one event a line, with `next` and `more` as `Bowline-Next` and `Bowline-More`"),
        ("Last-Event-ID" = Option<String>, Header, description = "Server-sent events go on after this position"),
    ),
    responses(
        (status = 200, description = "Events", content(
            (EventPage = "application/json"), (EventView = "application/x-ndjson"), (String = "text/event-stream"))),
        (status = "default", body = ProblemView, description = "`trimmed` says from where events are left",
            content_type = "application/problem+json"),
    ))]
pub(in crate::data) async fn read(ask: &Ask<'_>) -> Result<Response<Body>, Problem> {
    let known = ["from", "order", "limit", "bytes", "wait_ms"];
    let params = Params::read(ask.call.route.query, &known)?;
    let limit = ReadLimit {
        events: params.number("limit", LIMIT_DEFAULT, 1..=LIMIT_MAX)?,
        bytes: params.number("bytes", READ_BYTES_DEFAULT, 1..=READ_BYTES_MAX)?,
    };
    let from = params.parsed("from", FROM_WANTED, Place::read)?;
    let wait = params.millis("wait_ms", WAIT_MAX)?;
    let stream = ask.stream().await?;
    if ask.accepts("text/event-stream") {
        return tail::follow(ask, stream, from).await;
    }
    match params.text("order").unwrap_or("forward") {
        "forward" => forward(ask, &stream, (from.unwrap_or(Place::Oldest), wait), limit).await,
        "backward" if !wait.is_zero() => {
            let text = wait.as_millis().to_string();
            Err(params::invalid(
                "wait_ms",
                &text,
                "none: the past has nothing to wait for",
            ))
        }
        "backward" => backward(ask, &stream, from.unwrap_or(Place::Latest), limit).await,
        other => Err(params::invalid("order", other, "`forward` or `backward`")),
    }
}

/// A page filled up to its limits, if there is enough: one look at the stream may be short of its end.
async fn forward(
    ask: &Ask<'_>,
    stream: &StreamId,
    (from, wait): (Place, Duration),
    limit: ReadLimit,
) -> Result<Response<Body>, Problem> {
    let log = &ask.data.streams;
    let mut after = place(log, stream, from).await?;
    let deadline = tokio::time::Instant::now() + wait;
    let (mut events, mut bytes) = (Vec::new(), 0);
    loop {
        let left = ReadLimit {
            events: limit.events - events.len(),
            bytes: limit.bytes - bytes,
        };
        let page = match log.read(stream, after, left).await {
            Err(ReadError::Trimmed { available, .. }) if from == Place::Oldest && events.is_empty() => {
                after = available;
                continue;
            }
            // What was read so far is good; the next request hears of the rest.
            Err(_) if !events.is_empty() => return Ok(shown(ask, stream, &events, (after, true))),
            page => page?,
        };
        after = page.next;
        bytes += page.events.iter().map(event_bytes).sum::<usize>();
        events.extend(page.events);
        if events.len() >= limit.events || bytes >= limit.bytes {
            return Ok(shown(ask, stream, &events, (after, page.more)));
        }
        if page.more {
            continue;
        }
        if !events.is_empty() || tokio::time::Instant::now() >= deadline {
            return Ok(shown(ask, stream, &events, (after, false)));
        }
        tokio::select! {
            () = log.wait(stream, after) => {}
            () = tokio::time::sleep_until(deadline) => {}
            () = ask.stopping() => return Ok(shown(ask, stream, &[], (after, false))),
        }
    }
}

fn event_bytes(event: &bowline_stream::Event) -> usize {
    event.body.len() + event.key.as_ref().map_or(0, Bytes::len)
}

async fn backward(ask: &Ask<'_>, stream: &StreamId, from: Place, limit: ReadLimit) -> Result<Response<Body>, Problem> {
    let before = place(&ask.data.streams, stream, from).await?;
    let page = ask.data.streams.read_back(stream, before, limit).await?;
    Ok(shown(ask, stream, &page.events, (page.next, page.more)))
}

/// The bound at which to begin.
pub(in crate::data) async fn place(log: &impl Log, stream: &StreamId, from: Place) -> Result<Position, Problem> {
    match from {
        Place::Oldest => Ok(Position::START),
        Place::Latest => Ok(log.end(stream).await?),
        Place::Time(moment) => Ok(Place::at(moment)),
        Place::Position(position) => Ok(position),
    }
}

fn shown(
    ask: &Ask<'_>,
    stream: &StreamId,
    events: &[bowline_stream::Event],
    (next, more): (Position, bool),
) -> Response<Body> {
    ask.data.metrics.read(stream.name(), events);
    let next = position_text(next);
    if ask.accepts("application/x-ndjson") {
        let mut text = Vec::new();
        for event in events {
            line(&mut text, event);
        }
        let mut response = reply::whole(StatusCode::OK, LINES, text.into());
        let headers = response.headers_mut();
        headers.insert("bowline-next", next.parse().expect("hexadecimal digits"));
        headers.insert(
            "bowline-more",
            HeaderValue::from_static(if more { "true" } else { "false" }),
        );
        return response;
    }
    let events = events.iter().map(EventView::of).collect();
    reply::json(StatusCode::OK, &EventPage { events, next, more })
}

/// An event as one line of JSON.
pub(in crate::data) fn line(text: &mut Vec<u8>, event: &bowline_stream::Event) {
    serde_json::to_writer(&mut *text, &EventView::of(event)).expect("events have string keys");
    text.push(b'\n');
}
