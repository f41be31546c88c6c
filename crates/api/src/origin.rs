//! Keeps web pages out.
//!
//! A node on loopback asks for no credentials, and a browser lets any page post to any address. Such a
//! request says where the page came from; a node answers only pages that it served itself.

use http::HeaderMap;
use http::header::{HOST, ORIGIN};

use crate::error::{ApiError, Exception};

/// Refuses a request that a page of another site sent.
pub fn check(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(origin) = headers.get(ORIGIN) else {
        return Ok(());
    };
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    let site = origin
        .to_str()
        .ok()
        .and_then(|origin| origin.split_once("://"))
        .map(|(_scheme, authority)| authority);
    if site.is_some() && site == host {
        return Ok(());
    }
    Err(ApiError::new(
        Exception::AccessDenied,
        "Requests from pages of other sites are not answered.",
    ))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn check_origin(origin: Option<&'static str>, allowed: bool) {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("127.0.0.1:9000"));
        if let Some(origin) = origin {
            headers.insert(ORIGIN, HeaderValue::from_static(origin));
        }
        assert_eq!(check(&headers).is_ok(), allowed, "{origin:?}");
    }

    #[test]
    fn only_the_nodes_own_pages_may_ask() {
        check_origin(None, true);
        check_origin(Some("http://127.0.0.1:9000"), true);
        check_origin(Some("http://127.0.0.1:8000"), false);
        check_origin(Some("https://example.org"), false);
        check_origin(Some("null"), false);
    }
}
