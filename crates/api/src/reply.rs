//! Answers and the headers they share.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, Response, StatusCode};
use serde::Serialize;

use crate::body::{Body, Pieces};

pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-amzn-requestid");
pub const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// An answer of JSON.
pub fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    let bytes = serde_json::to_vec(value).expect("wire types have string keys and finite numbers");
    whole(status, JSON, bytes.into())
}

/// An answer that is JSON already.
pub fn json_bytes(status: StatusCode, bytes: Bytes) -> Response<Body> {
    whole(status, JSON, bytes)
}

/// An answer for people.
pub fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    whole(status, TEXT, text.into())
}

/// An answer with a body of the given type.
pub fn whole(status: StatusCode, content_type: HeaderValue, bytes: Bytes) -> Response<Body> {
    with_type(status, content_type, bytes.into())
}

/// An answer for people that comes in pieces.
pub fn text_stream(pieces: tokio::sync::mpsc::Receiver<Bytes>) -> Response<Body> {
    with_type(StatusCode::OK, TEXT, Body::Stream(pieces))
}

/// An answer whose body is made as it is sent.
pub fn made(status: StatusCode, content_type: HeaderValue, pieces: Box<dyn Pieces>) -> Response<Body> {
    with_type(status, content_type, Body::Made(pieces))
}

/// An answer of server-sent events.
pub fn event_stream(pieces: tokio::sync::mpsc::Receiver<Bytes>) -> Response<Body> {
    with_type(
        StatusCode::OK,
        HeaderValue::from_static("text/event-stream"),
        Body::Stream(pieces),
    )
}

/// An answer without a body.
pub fn empty(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

fn with_type(status: StatusCode, content_type: HeaderValue, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}
