//! `/v1/instance-files`: what instances are made from.

use bowline_inventory::model::FileRecord;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use super::super::list::{self, LIMIT_DEFAULT, LIMIT_MAX, ListPage};
use super::super::params::Params;
use super::super::problem::{Code, Problem, ProblemView};
use super::super::{Ask, time};
use crate::body::Body;
use crate::reply;

const TOML: HeaderValue = HeaderValue::from_static("application/toml");

/// A file that is kept.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = InstanceFile)]
pub struct FileView {
    id: String,
    /// Grows by one with each change.
    revision: u64,
    digest: String,
    changed: String,
}

impl From<&FileRecord> for FileView {
    fn from(file: &FileRecord) -> Self {
        Self {
            id: file.id.clone(),
            revision: file.revision,
            digest: file.digest.to_string(),
            changed: time::text(file.at),
        }
    }
}

/// Keep a file; what is wrong with it is told with line and column.
#[utoipa::path(put, path = "/v1/instance-files/{file}", tag = "instances", operation_id = "PutInstanceFile",
    params(
        ("file" = String, Path, description = "The `id` in the file"),
        ("account" = Option<String>, Query, description = "Whose it is; the caller's if missing"),
    ),
    request_body(content = String, content_type = "application/toml"),
    responses(
        (status = 200, body = FileView),
        (status = "default", body = ProblemView, content_type = "application/problem+json"),
    ))]
pub(in crate::data) async fn put(ask: &Ask<'_>, body: Bytes) -> Result<Response<Body>, Problem> {
    let params = Params::read(ask.call.route.query, &["account"])?;
    let text = std::str::from_utf8(&body).map_err(|error| Problem::new(Code::InvalidFile, error.to_string()))?;
    let parsed = bowline_inventory::file::InstanceFile::parse(text);
    let parsed = parsed.map_err(|error| Problem::new(Code::InvalidFile, error.to_string()))?;
    let (named, id) = (&ask.call.route.resource, parsed.id.get_ref());
    if named != id {
        let detail = format!("the file calls itself `{id}`, the path `{named}`");
        return Err(Problem::new(Code::InvalidFile, detail));
    }
    let record = ask.instances()?.put_file(&ask.owner(&params)?, text).await?;
    Ok(reply::json(StatusCode::OK, &FileView::from(&record)))
}

/// The file as it was put.
#[utoipa::path(get, path = "/v1/instance-files/{file}", tag = "instances", operation_id = "GetInstanceFile",
    params(
        ("file" = String, Path, description = "Its identifier"),
        ("account" = Option<String>, Query, description = "Whose; the caller's if missing"),
    ),
    responses(
        (status = 200, body = String, content_type = "application/toml"),
        (status = "default", body = ProblemView, content_type = "application/problem+json"),
    ))]
pub(in crate::data) async fn get(ask: &Ask<'_>) -> Result<Response<Body>, Problem> {
    let params = Params::read(ask.call.route.query, &["account"])?;
    let file = ask
        .instances()?
        .file(&ask.owner(&params)?.account, &ask.call.route.resource)
        .await?;
    Ok(reply::whole(StatusCode::OK, TOML, file.text.into()))
}

/// List the files of an account.
#[utoipa::path(get, path = "/v1/instance-files", tag = "instances", operation_id = "ListInstanceFiles",
    params(
        ("account" = Option<String>, Query, description = "Whose; the caller's if missing"),
        ("limit" = Option<usize>, Query, description = "1 to 1000; 100 if missing"),
        ("next" = Option<String>, Query, description = "From the page before"),
    ),
    responses(
        (status = 200, body = ListPage<FileView>),
        (status = "default", body = ProblemView, content_type = "application/problem+json"),
    ))]
pub(in crate::data) async fn list(ask: &Ask<'_>) -> Result<Response<Body>, Problem> {
    let params = Params::read(ask.call.route.query, &["account", "limit", "next"])?;
    let limit = params.number("limit", LIMIT_DEFAULT, 1..=LIMIT_MAX)?;
    let files = ask.instances()?.files(&ask.owner(&params)?.account).await?;
    let views: Vec<FileView> = files.iter().map(FileView::from).collect();
    let page = list::cut(views, limit, params.text("next"), |view| view.id.clone());
    Ok(reply::json(StatusCode::OK, &page))
}

/// Forget a file. One that an instance is made from stays, unless it is forced.
#[utoipa::path(delete, path = "/v1/instance-files/{file}", tag = "instances", operation_id = "DeleteInstanceFile",
    params(
        ("file" = String, Path, description = "Its identifier"),
        ("account" = Option<String>, Query, description = "Whose; the caller's if missing"),
        ("force" = Option<bool>, Query, description = "Also if instances could not be replaced then"),
    ),
    responses(
        (status = 204, description = "Gone"),
        (status = "default", body = ProblemView, content_type = "application/problem+json"),
    ))]
pub(in crate::data) async fn delete(ask: &Ask<'_>) -> Result<Response<Body>, Problem> {
    let params = Params::read(ask.call.route.query, &["account", "force"])?;
    let force = params.text("force") == Some("true");
    ask.instances()?
        .remove_file(&ask.owner(&params)?, &ask.call.route.resource, force)
        .await?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}
