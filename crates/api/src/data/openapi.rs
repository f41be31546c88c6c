//! The OpenAPI document, made from the handlers and their types.

use std::sync::LazyLock;

use bytes::Bytes;
use http::{Response, StatusCode};
use utoipa::OpenApi;

use super::problem::{Code, Problem};
use super::{checkpoints, instances, nodes, objects, sessions, state, streams};
use crate::body::Body;
use crate::reply;

/// Streams, sessions, objects, checkpoints and instances of a Bowline node.
#[derive(OpenApi)]
#[openapi(
    info(title = "Bowline"),
    paths(
        streams::events::append, streams::events::read, streams::create, streams::list, streams::show, streams::trim,
        streams::set, streams::delete,
        sessions::create, sessions::list, sessions::show, sessions::delete, sessions::seek,
        sessions::batch::read, sessions::batch::ack, sessions::batch::nack, sessions::batch::extend,
        sessions::parked::list, sessions::parked::redrive, sessions::parked::discard,
        objects::create, objects::get, objects::update, objects::delete, objects::stores,
        objects::query::run, objects::query::events,
        nodes::list,
        state::create, state::list, state::show, state::delete, state::read, state::attach, state::detach,
        checkpoints::list, checkpoints::show, checkpoints::content, checkpoints::outcome, checkpoints::take,
        checkpoints::resume, checkpoints::relocate, checkpoints::delete,
        instances::create, instances::list, instances::show, instances::delete, instances::drain, instances::report,
        instances::resume, instances::history, instances::inventory, instances::files::put, instances::files::get, instances::files::list,
        instances::files::delete, instances::fleets::show, instances::fleets::set, instances::costs::put, instances::costs::list,
        serve,
    ),
    tags(
        (name = "streams", description = "Ordered, durable event streams"),
        (name = "sessions", description = "Places in a stream that the service remembers for its readers"),
        (name = "objects", description = "Objects that can be created while a store is down"),
        (name = "nodes", description = "The nodes of a cluster"),
        (name = "state", description = "Shared state of an account's functions"),
        (name = "checkpoints", description = "Running invocations as bytes: taken, kept, resumed"),
        (name = "instances", description = "Virtual servers from configuration files"),
    )
)]
struct Document;

static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| {
    let mut document = Document::openapi();
    let codes: Vec<&str> = Code::ALL.iter().map(|code| code.text()).collect();
    let about = format!(
        "Streams, sessions, objects, checkpoints and instances of a Bowline node. A refusal is a problem document; its codes are `{}`.",
        codes.join("`, `")
    );
    document.info.description = Some(about);
    document.to_json().expect("the document has string keys").into()
});

/// This document.
#[utoipa::path(get, path = "/v1/openapi.json", operation_id = "GetOpenApi",
    responses((status = 200, description = "OpenAPI 3.1", body = Object)))]
pub(super) async fn serve() -> Result<Response<Body>, Problem> {
    Ok(reply::json_bytes(StatusCode::OK, DOCUMENT.clone()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::route::data::ROWS;

    #[test]
    fn the_document_has_every_route_and_no_other() {
        let document: serde_json::Value = serde_json::from_slice(&DOCUMENT).expect("JSON");
        assert_eq!(document["openapi"].as_str().map(|version| &version[..4]), Some("3.1."));
        let mut documented = BTreeSet::new();
        for (path, methods) in document["paths"].as_object().expect("paths") {
            for (method, operation) in methods.as_object().expect("methods") {
                let id = operation["operationId"].as_str().expect("an identifier").to_owned();
                documented.insert((path.clone(), method.to_uppercase(), id));
            }
        }
        let routed = ROWS.iter().map(|row| {
            let id = row.operation.name().to_owned();
            (row.template(), row.method.to_owned(), id)
        });
        assert_eq!(documented, routed.collect());
    }
}
