//! `/v1/objects`: objects over independent stores, and `/v1/stores`: how those do.

pub mod query;

use std::borrow::Cow;

use bowline_functions::events::Upload;
use bowline_store::objects::{
    Caller, Create, CreateError, Created, Delete, Expect, Health, IndexKey, Indexes, Object, ObjectId, StoreError,
    StoreStatus, Update,
};
use bytes::Bytes;
use http::header::ETAG;
use http::{Response, StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::event::{bytes_of, shown};
use super::list::ListPage;
use super::params::{self, Params};
use super::problem::{Code, Problem, ProblemView};
use super::streams::millis;
use super::{Ask, created, time};
use crate::body::Body;
use crate::reply;

/// A new object, or the new state of one.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutObject<'a> {
    #[serde(borrow, default)]
    #[schema(value_type = Option<String>)]
    body: Option<Cow<'a, str>>,
    /// Instead of `body`, if that is not text.
    #[serde(default)]
    body_base64: Option<String>,
    /// The keys under which the object is found. Missing in an update: as they are.
    #[serde(default)]
    indexes: Option<Vec<IndexView>>,
}

/// A key in an index.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = IndexKey)]
#[serde(deny_unknown_fields)]
struct IndexView {
    index: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// Instead of `key`, if that is not text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key_base64: Option<String>,
}

/// What names an object and its state.
#[derive(Debug, Serialize, ToSchema)]
pub struct ObjectVersion {
    /// `v1.STORE.UNIQUE`: the identifier says which store keeps the object.
    object: String,
    /// From 1; the entity tag is the same number.
    version: u64,
}

/// An object as it is now.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Object)]
pub struct ObjectView<'a> {
    #[serde(flatten)]
    name: ObjectVersion,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a str>,
    /// The body, if it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
    indexes: Vec<IndexView>,
    created: String,
    changed: String,
}

/// How a store does.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Store)]
pub struct StoreView {
    store: String,
    /// `up`, `recovering` or `down`.
    health: &'static str,
    since: String,
    /// The share of creates it gets.
    weight: f64,
    /// Over the detector's window; missing without calls in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    error_rate: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_ms: Option<u64>,
    /// The stores on the same server or disk, which fail together with this one; missing if there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    beside: Vec<String>,
    /// Objects whose second copies in other stores are not known to be gone; missing if it could not be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    unresolved: Option<u64>,
}

impl PutObject<'_> {
    fn body(&mut self) -> Result<Bytes, Problem> {
        let body = bytes_of(self.body.take(), self.body_base64.as_deref(), "body").map_err(invalid)?;
        body.ok_or_else(|| invalid("`body` is missing; `\"body\": \"\"` is an empty one".to_owned()))
    }

    fn indexes(&mut self) -> Result<Option<Vec<IndexKey>>, Problem> {
        let Some(indexes) = self.indexes.take() else {
            return Ok(None);
        };
        let keys = indexes.into_iter().map(|IndexView { index, key, key_base64 }| {
            let key = bytes_of(key.map(Cow::Owned), key_base64.as_deref(), "key").map_err(invalid)?;
            let key = key.ok_or_else(|| invalid(format!("`key` of index `{index}` is missing")))?;
            Ok(IndexKey { index, key })
        });
        keys.collect::<Result<_, _>>().map(Some)
    }
}

fn invalid(detail: String) -> Problem {
    Problem::new(Code::InvalidBody, detail)
}

impl IndexView {
    fn of(entry: &IndexKey) -> Self {
        let (key, key_base64) = shown(&entry.key);
        Self {
            index: entry.index.clone(),
            key: key.map(str::to_owned),
            key_base64,
        }
    }
}

impl ObjectVersion {
    fn of(object: &ObjectId, version: u64) -> Self {
        Self {
            object: object.to_string(),
            version,
        }
    }
}

impl<'a> ObjectView<'a> {
    fn of(object: &'a Object) -> Self {
        let (body, body_base64) = shown(&object.body);
        Self {
            name: ObjectVersion::of(&object.id, object.version),
            body,
            body_base64,
            indexes: object.indexes.iter().map(IndexView::of).collect(),
            created: time::text(object.created_at),
            changed: time::text(object.changed_at),
        }
    }
}

impl StoreView {
    fn of(status: &StoreStatus, beside: Vec<String>) -> Self {
        Self {
            beside,
            store: status.store.to_string(),
            health: match status.health {
                Health::Up => "up",
                Health::Recovering => "recovering",
                Health::Down => "down",
            },
            since: time::text(status.since),
            weight: status.weight,
            error_rate: status.error_rate,
            latency_ms: status.latency.map(millis),
            unresolved: status.unresolved_supersedes,
        }
    }
}

impl Ask<'_> {
    /// The object that the path names.
    fn object(&self) -> Result<ObjectId, Problem> {
        self.call.route.resource.parse().map_err(Problem::identifier)
    }

    fn object_caller(&self) -> Caller {
        Caller {
            by: self.call.account.to_string(),
            request: self.call.request_id.to_string(),
            token: self.token(),
        }
    }

    /// The version that `If-Match` demands.
    fn expected(&self) -> Result<Expect, Problem> {
        let Some(tag) = self.header("if-match") else {
            return Ok(Expect::Any);
        };
        if tag.trim() == "*" {
            return Ok(Expect::Any);
        }
        let version = tag.trim().trim_matches('"').parse().map(Expect::Version);
        version.map_err(|_| params::invalid("If-Match", tag, "a version as in `\"3\"`, or `*`"))
    }
}

/// Puts the version on an answer.
fn tagged(mut response: Response<Body>, version: u64) -> Response<Body> {
    let tag = format!("\"{version}\"").parse().expect("digits in quotes");
    response.headers_mut().insert(ETAG, tag);
    response
}

/// Make an object in whichever store is up.
#[utoipa::path(post, path = "/v1/objects", tag = "objects", operation_id = "CreateObject",
    params(("Idempotency-Key" = Option<String>, Header, description = "The same key again names the object it made")),
    request_body = PutObject,
    responses(
        (status = 201, body = ObjectVersion, description = "Made",
            headers(("Location" = String, description = "Its path"), ("ETag" = String, description = "Its version"))),
        (status = "default", body = ProblemView, description = "`outcome_unknown`: repeat it with the same key",
            content_type = "application/problem+json"),
    ))]
pub(super) async fn create(ask: &Ask<'_>, body: Bytes) -> Result<Response<Body>, Problem> {
    Params::read(ask.call.route.query, &[])?;
    let mut request: PutObject<'_> = params::json(&body)?;
    let create = Create {
        body: request.body()?,
        indexes: request.indexes()?.unwrap_or_default(),
        caller: ask.object_caller(),
    };
    let (bytes, indexes) = (create.body.len() as u64, create.indexes.clone());
    let made = ask.data.objects.create(create).await;
    ask.data.metrics.object_created(match &made {
        Ok(made) => Ok(made.id.store.as_str()),
        Err(CreateError::Store(
            StoreError::Unknown(store) | StoreError::Unavailable { store, .. } | StoreError::Record { store, .. },
        )) => Err(Some(store.as_str())),
        Err(_) => Err(None),
    });
    let made = made?;
    tell_functions(ask, &made, (bytes, indexes)).await?;
    let view = ObjectVersion::of(&made.id, made.version);
    Ok(tagged(
        created(&format!("/v1/objects/{}", made.id), &view),
        made.version,
    ))
}

/// Leaves an event with the functions that are registered for the object.
async fn tell_functions(ask: &Ask<'_>, made: &Created, (bytes, indexes): (u64, Vec<IndexKey>)) -> Result<(), Problem> {
    let upload = Upload {
        source: "bowline.objects",
        account: ask.call.account.clone(),
        storage: made.id.store.as_str().to_owned(),
        object: made.id.to_string(),
        identity: made.id.to_string(),
        version: made.version,
        bytes,
        keys: indexes
            .into_iter()
            .map(|IndexKey { index, key }| (index, key))
            .collect(),
    };
    let told = ask.call.node.functions.uploaded(upload).await;
    told.map(drop).map_err(|error| {
        tracing::warn!(object = %made.id, error = &error as &dyn std::error::Error, "functions cannot be told of an object");
        let detail = format!(
            "object `{}` is made, but the functions registered for it are not told yet; the same request with the same \
             `Idempotency-Key` tells them",
            made.id
        );
        Problem::new(Code::OutcomeUnknown, detail)
    })
}

/// Read an object.
#[utoipa::path(get, path = "/v1/objects/{object}", tag = "objects", operation_id = "GetObject",
    params(("object" = String, Path, description = "The object's identifier")),
    responses(
        (status = 200, body = ObjectView, headers(("ETag" = String, description = "Its version"))),
        (status = "default", body = ProblemView, content_type = "application/problem+json"),
    ))]
pub(super) async fn get(ask: &Ask<'_>) -> Result<Response<Body>, Problem> {
    Params::read(ask.call.route.query, &[])?;
    let object = ask.data.objects.get(&ask.object()?).await?;
    Ok(tagged(
        reply::json(StatusCode::OK, &ObjectView::of(&object)),
        object.version,
    ))
}

/// Give an object a new body, on condition of its version if `If-Match` names one.
#[utoipa::path(put, path = "/v1/objects/{object}", tag = "objects", operation_id = "UpdateObject",
    params(
        ("object" = String, Path, description = "The object's identifier"),
        ("If-Match" = Option<String>, Header, description = "The version that it must have, as `ETag` shows it"),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key again has no second effect"),
    ),
    request_body = PutObject,
    responses(
        (status = 200, body = ObjectVersion, headers(("ETag" = String, description = "Its version"))),
        (status = "default", body = ProblemView, description = "`version_mismatch` says which version it has",
            content_type = "application/problem+json"),
    ))]
pub(super) async fn update(ask: &Ask<'_>, body: Bytes) -> Result<Response<Body>, Problem> {
    Params::read(ask.call.route.query, &[])?;
    let mut request: PutObject<'_> = params::json(&body)?;
    let id = ask.object()?;
    let update = Update {
        id: id.clone(),
        expect: ask.expected()?,
        body: request.body()?,
        indexes: request.indexes()?.map_or(Indexes::Keep, Indexes::Replace),
        caller: ask.object_caller(),
    };
    let version = ask.data.objects.update(update).await?;
    Ok(tagged(
        reply::json(StatusCode::OK, &ObjectVersion::of(&id, version)),
        version,
    ))
}

/// Delete an object; its events remain.
#[utoipa::path(delete, path = "/v1/objects/{object}", tag = "objects", operation_id = "DeleteObject",
    params(
        ("object" = String, Path, description = "The object's identifier"),
        ("If-Match" = Option<String>, Header, description = "The version that it must have, as `ETag` shows it"),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key again has no second effect"),
    ),
    responses(
        (status = 204, description = "Gone"),
        (status = "default", body = ProblemView, content_type = "application/problem+json"),
    ))]
pub(super) async fn delete(ask: &Ask<'_>) -> Result<Response<Body>, Problem> {
    Params::read(ask.call.route.query, &[])?;
    let delete = Delete {
        id: ask.object()?,
        expect: ask.expected()?,
        caller: ask.object_caller(),
    };
    ask.data.objects.delete(delete).await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}

/// Show how the independent stores do.
#[utoipa::path(get, path = "/v1/stores", tag = "objects", operation_id = "ListStores",
    responses(
        (status = 200, body = ListPage<StoreView>),
        (status = "default", body = ProblemView, content_type = "application/problem+json"),
    ))]
pub(super) async fn stores(ask: &Ask<'_>) -> Result<Response<Body>, Problem> {
    Params::read(ask.call.route.query, &[])?;
    let status = ask.data.objects.status().await;
    let neighbours = &ask.data.neighbours;
    let view = |status: &StoreStatus| {
        let beside = neighbours.get(status.store.as_str()).cloned();
        StoreView::of(status, beside.unwrap_or_default())
    };
    let page = ListPage {
        items: status.iter().map(view).collect(),
        next: None,
    };
    Ok(reply::json(StatusCode::OK, &page))
}
