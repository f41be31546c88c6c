//! Events shaped like API Gateway's payload 2.0 to HTTP requests, and responses back.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, COOKIE, HOST, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, response};
use http_body_util::Full;
use serde::{Deserialize, Serialize};

/// The host of a request whose event names none.
const HOST_DEFAULT: &str = "lambda.local";

/// What is read of an event; all other fields are left aside.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Event {
    raw_path: String,
    #[serde(default)]
    raw_query_string: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    cookies: Vec<String>,
    #[serde(default)]
    body: Option<String>,
    #[serde(default)]
    is_base64_encoded: bool,
    request_context: RequestContext,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RequestContext {
    http: HttpContext,
    #[serde(default)]
    domain_name: Option<String>,
}

#[derive(Deserialize)]
struct HttpContext {
    method: String,
}

/// The request that `payload` describes; any other event becomes the JSON body of `POST /`.
pub(super) fn request(payload: &Bytes) -> Request<Full<Bytes>> {
    let described = serde_json::from_slice::<Event>(payload).ok();
    described.and_then(Event::into_request).unwrap_or_else(|| {
        let mut request = Request::new(Full::new(payload.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri(HOST_DEFAULT, "/", "").unwrap_or_default();
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(HOST, HeaderValue::from_static(HOST_DEFAULT));
        request
    })
}

impl Event {
    /// `None` if a part of it cannot stand in a request.
    fn into_request(self) -> Option<Request<Full<Bytes>>> {
        let body = match self.body {
            Some(text) if self.is_base64_encoded => BASE64.decode(text).ok()?,
            Some(text) => text.into_bytes(),
            None => Vec::new(),
        };
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
            headers.insert(name, HeaderValue::from_str(value).ok()?);
        }
        if !self.cookies.is_empty() {
            headers.insert(COOKIE, HeaderValue::from_str(&self.cookies.join("; ")).ok()?);
        }
        let named = headers.get(HOST).and_then(|host| host.to_str().ok()).map(str::to_owned);
        let host = named.or(self.request_context.domain_name);
        let host = host.unwrap_or_else(|| HOST_DEFAULT.to_owned());
        headers.insert(HOST, HeaderValue::from_str(&host).ok()?);
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = self.request_context.http.method.parse().ok()?;
        *request.uri_mut() = uri(&host, &self.raw_path, &self.raw_query_string)?;
        *request.headers_mut() = headers;
        Some(request)
    }
}

fn uri(host: &str, path: &str, query: &str) -> Option<Uri> {
    let slash = if path.starts_with('/') { "" } else { "/" };
    let mark = if query.is_empty() { "" } else { "?" };
    let path_and_query = format!("{slash}{path}{mark}{query}");
    let uri = Uri::builder().scheme("http").authority(host);
    uri.path_and_query(path_and_query).build().ok()
}

/// What separates the head of a streamed HTTP response from its body.
const SEPARATOR: [u8; 8] = [0; 8];

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Prelude<'a> {
    status_code: u16,
    headers: BTreeMap<&'a str, String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    cookies: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    #[serde(flatten)]
    prelude: Prelude<'a>,
    body: String,
    is_base64_encoded: bool,
}

/// The answer that carries a response: its body as text if it is UTF-8, as base64 otherwise.
pub(super) fn answer(head: &response::Parts, body: &[u8]) -> Bytes {
    let text = std::str::from_utf8(body);
    let answer = Answer {
        prelude: Prelude::of(head),
        body: text.map_or_else(|_| BASE64.encode(body), str::to_owned),
        is_base64_encoded: text.is_err(),
    };
    let json = serde_json::to_vec(&answer).expect("texts and numbers always serialise");
    json.into()
}

/// The beginning of a streamed answer that carries a response: its head, up to where the body begins.
pub(super) fn prelude(head: &response::Parts) -> Bytes {
    let mut bytes = serde_json::to_vec(&Prelude::of(head)).expect("texts and numbers always serialise");
    bytes.extend_from_slice(&SEPARATOR);
    bytes.into()
}

impl<'a> Prelude<'a> {
    fn of(head: &'a response::Parts) -> Self {
        let mut headers = BTreeMap::<&str, String>::new();
        let mut cookies = Vec::new();
        for (name, value) in &head.headers {
            let value = String::from_utf8_lossy(value.as_bytes());
            if name == SET_COOKIE {
                cookies.push(value.into_owned());
            } else {
                let joined = headers.entry(name.as_str()).or_default();
                if !joined.is_empty() {
                    joined.push(',');
                }
                joined.push_str(&value);
            }
        }
        Self {
            status_code: head.status.as_u16(),
            headers,
            cookies,
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use serde_json::{Value, json};

    use super::*;

    async fn check(event: &Value, method: Method, uri: &str, body: &[u8]) -> HeaderMap {
        let request = request(&Bytes::from(event.to_string()));
        assert_eq!(request.method(), method, "{event}");
        assert_eq!(request.uri(), uri, "{event}");
        let (head, found) = request.into_parts();
        assert_eq!(found.collect().await.unwrap().to_bytes(), body, "{event}");
        head.headers
    }

    #[tokio::test]
    async fn a_gateway_event_becomes_its_request() {
        let event = json!({
            "version": "2.0",
            "rawPath": "/knots/bowline",
            "rawQueryString": "rope=12&rope=14",
            "headers": {"content-type": "text/plain", "host": "knots.example"},
            "cookies": ["a=1", "b=2"],
            "body": "aGk=",
            "isBase64Encoded": true,
            "requestContext": {"http": {"method": "PUT", "path": "/knots/bowline"}},
        });
        let uri = "http://knots.example/knots/bowline?rope=12&rope=14";
        let headers = check(&event, Method::PUT, uri, b"hi").await;
        assert_eq!(headers[COOKIE], "a=1; b=2");
        assert_eq!(headers[CONTENT_TYPE], "text/plain");
    }

    #[tokio::test]
    async fn any_other_event_is_posted() {
        let bad_header = json!({
            "rawPath": "/", "headers": {"bad name": "x"}, "requestContext": {"http": {"method": "GET"}},
        });
        for event in [
            json!({"name": "world"}),
            json!("text"),
            json!({"rawPath": "/x"}),
            bad_header,
        ] {
            let body = event.to_string();
            let headers = check(&event, Method::POST, "http://lambda.local/", body.as_bytes()).await;
            assert_eq!(headers[CONTENT_TYPE], "application/json");
        }
    }

    #[test]
    fn a_response_becomes_an_answer() {
        let response = http::Response::builder()
            .status(201)
            .header("x-a", "1")
            .header("x-a", "2")
            .header("set-cookie", "c=1; Path=/")
            .body(())
            .unwrap();
        let (head, ()) = response.into_parts();
        let check = |body: &[u8], expected: Value| {
            let found: Value = serde_json::from_slice(&answer(&head, body)).unwrap();
            assert_eq!(found, expected);
        };
        let with = |body: &str, encoded: bool| {
            json!({
                "statusCode": 201, "headers": {"x-a": "1,2"}, "cookies": ["c=1; Path=/"],
                "body": body, "isBase64Encoded": encoded,
            })
        };
        check("žlutý".as_bytes(), with("žlutý", false));
        check(&[0xff, 0xfe], with("//4=", true));
        let expected =
            b"{\"statusCode\":201,\"headers\":{\"x-a\":\"1,2\"},\"cookies\":[\"c=1; Path=/\"]}\0\0\0\0\0\0\0\0";
        assert_eq!(prelude(&head), &expected[..]);
    }
}
