//! Finding objects by an index, and reading what happened to one.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bowline_store::objects::{Completeness, Event, EventKind, Hit, More, Query, Select};
use bytes::Bytes;
use http::{Response, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use super::super::event::shown;
use super::super::list::{LIMIT_DEFAULT, LIMIT_MAX, ListPage};
use super::super::params::{self, Params};
use super::super::problem::{Code, Problem, ProblemView};
use super::super::{Ask, time};
use super::ObjectVersion;
use crate::body::Body;
use crate::reply;

/// Objects that have a key.
#[derive(Debug, Serialize, ToSchema)]
pub struct Hits {
    items: Vec<HitView>,
    /// What to give as `next` for the page after this one; missing at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    /// The stores that could not be asked: their objects are missing here.
    partial: Vec<String>,
}

/// An object that had this key when it was read.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Hit)]
struct HitView {
    #[serde(flatten)]
    name: ObjectVersion,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// The key, if it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
}

/// One version of an object.
#[derive(Debug, Serialize, ToSchema)]
pub struct ObjectEvent {
    #[serde(flatten)]
    name: ObjectVersion,
    event: String,
    /// `create`, `update` or `delete`.
    kind: &'static str,
    time: String,
    /// Who changed it.
    by: String,
    /// The request that changed it.
    request: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    /// The body, if it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

impl HitView {
    fn of(hit: &Hit) -> Self {
        let (key, key_base64) = shown(&hit.key);
        Self {
            name: ObjectVersion::of(&hit.id, hit.version),
            key: key.map(str::to_owned),
            key_base64,
        }
    }
}

impl ObjectEvent {
    fn of(event: &Event) -> Self {
        let (body, body_base64) = shown(&event.body);
        Self {
            name: ObjectVersion::of(&event.object, event.version),
            event: event.event_id.clone(),
            kind: match event.kind {
                EventKind::Create => "create",
                EventKind::Update => "update",
                EventKind::Delete => "delete",
            },
            time: time::text(event.at),
            by: event.by.clone(),
            request: event.request.clone(),
            body: body.map(str::to_owned),
            body_base64,
        }
    }
}

/// Where a page ended: the last hit's identifier and key.
fn place(hit: &Hit) -> String {
    format!("{}:{}", hit.id, URL_SAFE_NO_PAD.encode(&hit.key))
}

fn read_place(text: &str) -> Option<Hit> {
    let (id, key) = text.split_once(':')?;
    Some(Hit {
        key: URL_SAFE_NO_PAD.decode(key).ok()?.into(),
        id: id.parse().ok()?,
        version: 0,
    })
}

/// Find objects by a key of an index, in all stores at once.
#[utoipa::path(get, path = "/v1/objects", tag = "objects", operation_id = "QueryObjects",
    params(
        ("index" = String, Query, description = "The index's name"),
        ("key" = Option<String>, Query, description = "Exactly this key"),
        ("prefix" = Option<String>, Query, description = "All keys that begin so; with neither, all keys"),
        ("partial" = Option<String>, Query, description = "`allow` (default): answer without the stores that cannot be asked, \
            and name them; `refuse`: fail"),
        ("limit" = Option<usize>, Query, description = "1 to 1000; 100 if missing"),
        ("next" = Option<String>, Query, description = "From the page before"),
    ),
    responses(
        (status = 200, body = Hits),
        (status = "default", body = ProblemView, content_type = "application/problem+json"),
    ))]
pub(in crate::data) async fn run(ask: &Ask<'_>) -> Result<Response<Body>, Problem> {
    let known = ["index", "key", "prefix", "partial", "limit", "next"];
    let params = Params::read(ask.call.route.query, &known)?;
    let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    let query = Query {
        index: params.needed("index")?.to_owned(),
        select: match (params.text("key"), params.text("prefix")) {
            (Some(_), Some(_)) => {
                let detail = "parameters `key` and `prefix` are both given";
                return Err(Problem::new(Code::InvalidParameter, detail));
            }
            (Some(key), None) => Select::Exactly(bytes(key)),
            (None, prefix) => Select::BeginningWith(bytes(prefix.unwrap_or_default())),
        },
        after: params.parsed("next", "the `next` of a page", read_place)?,
        limit: params.number("limit", LIMIT_DEFAULT, 1..=LIMIT_MAX)?,
        completeness: match params.text("partial").unwrap_or("allow") {
            "allow" => Completeness::Partial,
            "refuse" => Completeness::Complete,
            other => return Err(params::invalid("partial", other, "`allow` or `refuse`")),
        },
    };
    let page = ask.data.objects.query(&query).await?;
    let view = Hits {
        next: page.hits.last().filter(|_| page.more == More::Perhaps).map(place),
        items: page.hits.iter().map(HitView::of).collect(),
        partial: page.partial.iter().map(ToString::to_string).collect(),
    };
    Ok(reply::json(StatusCode::OK, &view))
}

/// List what happened to an object, oldest first; also of a deleted one.
#[utoipa::path(get, path = "/v1/objects/{object}/events", tag = "objects", operation_id = "ListObjectEvents",
    params(
        ("object" = String, Path, description = "The object's identifier"),
        ("limit" = Option<usize>, Query, description = "1 to 1000; 100 if missing"),
        ("next" = Option<String>, Query, description = "From the page before: the version after which to go on"),
    ),
    responses(
        (status = 200, body = ListPage<ObjectEvent>),
        (status = "default", body = ProblemView, content_type = "application/problem+json"),
    ))]
pub(in crate::data) async fn events(ask: &Ask<'_>) -> Result<Response<Body>, Problem> {
    let params = Params::read(ask.call.route.query, &["limit", "next"])?;
    let limit = params.number("limit", LIMIT_DEFAULT, 1..=LIMIT_MAX)?;
    let after = params.parsed("next", "a version", |text| text.parse().ok())?;
    let id = ask.object()?;
    let page = ask.data.objects.events(&id, after.unwrap_or(0), limit).await?;
    let view = ListPage {
        items: page.events.iter().map(ObjectEvent::of).collect(),
        next: page.next.map(|version| version.to_string()),
    };
    Ok(reply::json(StatusCode::OK, &view))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_survives_its_text_form() {
        let hit = Hit {
            key: Bytes::from_static(b"a:\xff/"),
            id: format!("v1.a.{}", "0".repeat(32)).parse().expect("an identifier"),
            version: 0,
        };
        assert_eq!(read_place(&place(&hit)), Some(hit));
        assert_eq!(read_place("v1.a:!"), None);
    }
}
