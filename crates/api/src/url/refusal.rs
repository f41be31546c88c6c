//! What a URL answers where the function cannot.

use bowline_functions::error::{Error, Throttle};
use http::{HeaderValue, Response, StatusCode};
use serde_json::json;

use crate::auth;
use crate::body::{Body, CollectError};
use crate::reply;

/// The service's own words, the page that they name included: what it says holds here too.
const FORBIDDEN: &str = "Forbidden. For troubleshooting Function URL authorization issues, see: \
     https://docs.aws.amazon.com/lambda/latest/dg/urls-auth.html";

/// Why a request does not reach a function, or its answer not the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No function has this URL.
    NotFound,
    /// The caller may not, or is nobody.
    Forbidden,
    /// Whoever signed cannot be believed.
    Unsigned(auth::Refusal),
    TooLarge,
    Throttled(Throttle),
    /// The function failed, or its answer is not one of HTTP.
    BadGateway,
}

impl Refusal {
    /// Status, exception and body as the service has them.
    pub fn response(self) -> Response<Body> {
        let (status, name, message) = match self {
            Self::NotFound => (
                StatusCode::NOT_FOUND,
                "ResourceNotFoundException",
                "No function has this URL.",
            ),
            Self::Forbidden => (StatusCode::FORBIDDEN, "AccessDeniedException", FORBIDDEN),
            Self::TooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "RequestTooLargeException",
                "Request Entity Too Large",
            ),
            Self::Throttled(_) => (
                StatusCode::TOO_MANY_REQUESTS,
                "TooManyRequestsException",
                "Rate Exceeded.",
            ),
            Self::Unsigned(refusal) => return unsigned(&refusal),
            Self::BadGateway => return bad_gateway(),
        };
        let mut response = reply::json(status, &json!({ "Message": message }));
        let headers = response.headers_mut();
        headers.insert(reply::ERROR_TYPE, HeaderValue::from_static(name));
        if status == StatusCode::TOO_MANY_REQUESTS {
            headers.insert(http::header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

/// What is wrong with a signature, as the API says it.
fn unsigned(refusal: &auth::Refusal) -> Response<Body> {
    let (status, name) = refusal.exception().told();
    let mut response = reply::json(status, &json!({ "message": refusal.to_string() }));
    let headers = response.headers_mut();
    headers.insert(reply::ERROR_TYPE, HeaderValue::from_static(name));
    response
}

impl From<auth::Refusal> for Refusal {
    fn from(refusal: auth::Refusal) -> Self {
        match refusal {
            auth::Refusal::Missing => Self::Forbidden,
            refusal => Self::Unsigned(refusal),
        }
    }
}

/// The service says no more than this; why is in the function's log.
fn bad_gateway() -> Response<Body> {
    reply::json_bytes(StatusCode::BAD_GATEWAY, "Internal Server Error".into())
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        match error {
            Error::NotFound(_) => Self::NotFound,
            Error::AccessDenied(_) => Self::Forbidden,
            Error::RequestTooLarge(_) => Self::TooLarge,
            Error::Throttled(throttle) => Self::Throttled(throttle),
            error => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "a function cannot answer its URL");
                Self::BadGateway
            }
        }
    }
}

impl From<CollectError> for Refusal {
    fn from(error: CollectError) -> Self {
        match error {
            CollectError::TooLarge { .. } => Self::TooLarge,
            // Nobody waits for this answer.
            CollectError::Broken(_) => Self::BadGateway,
        }
    }
}
