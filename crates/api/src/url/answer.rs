//! What a function answers, as HTTP.
//!
//! An object with a `statusCode` says what the response is; any other JSON is the body of a 200.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// Headers that the platform sets itself.
const OF_THE_CONNECTION: [HeaderName; 6] = [CONNECTION, CONTENT_LENGTH, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];

/// Why an answer cannot be sent; for the node's log.
#[derive(Debug, thiserror::Error)]
pub enum InvalidAnswer {
    #[error("the answer is not JSON")]
    NotJson,
    #[error("`statusCode` is no status of a response")]
    Status,
    #[error("header `{0}` has a name or a value that HTTP does not allow")]
    Header(String),
    #[error("`cookies` holds what HTTP does not allow in a header")]
    Cookie,
    #[error("`body` is not base64, as `isBase64Encoded` says")]
    Base64,
}

/// Status, headers and cookies as a function gives them.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Head {
    status_code: Option<Value>,
    headers: Option<BTreeMap<String, Value>>,
    cookies: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Structured<'a> {
    #[serde(borrow)]
    body: Option<Text<'a>>,
    is_base64_encoded: Option<bool>,
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Deserialize)]
struct AnyBody {
    body: Option<Value>,
}

/// Reads an answer.
pub fn read(payload: &Bytes) -> Result<Response<Bytes>, InvalidAnswer> {
    let Some(head) = structured(payload)? else {
        let mut response = Response::new(payload.clone());
        response.headers_mut().insert(CONTENT_TYPE, JSON);
        return Ok(response);
    };
    let (status, mut headers) = head.into_parts()?;
    headers.entry(CONTENT_TYPE).or_insert(JSON);
    let mut response = Response::new(match status {
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED => Bytes::new(),
        _ => body(payload)?,
    });
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

/// The head of an answer that says what it is; `None` if it is just the body.
fn structured(payload: &[u8]) -> Result<Option<Head>, InvalidAnswer> {
    let first = payload.iter().find(|byte| !byte.is_ascii_whitespace());
    if first != Some(&b'{') {
        let is_json = serde_json::from_slice::<IgnoredAny>(payload).is_ok() && std::str::from_utf8(payload).is_ok();
        return is_json.then_some(None).ok_or(InvalidAnswer::NotJson);
    }
    match serde_json::from_slice::<Head>(payload) {
        Ok(head) => Ok(head.status_code.is_some().then_some(head)),
        // An object whose members only look like those of a response is a body as well, unless it has a status.
        Err(error) if error.is_data() => {
            #[derive(Deserialize)]
            #[serde(rename_all = "camelCase")]
            struct Status {
                status_code: Option<IgnoredAny>,
            }
            let status: Status = serde_json::from_slice(payload).map_err(|_| InvalidAnswer::NotJson)?;
            match status.status_code {
                None => Ok(None),
                Some(_) => Err(InvalidAnswer::Header("headers".to_owned())),
            }
        }
        Err(_) => Err(InvalidAnswer::NotJson),
    }
}

/// The body; one that is not a text is sent as the JSON it is.
fn body(payload: &[u8]) -> Result<Bytes, InvalidAnswer> {
    let Ok(found) = serde_json::from_slice::<Structured<'_>>(payload) else {
        let found: AnyBody = serde_json::from_slice(payload).map_err(|_| InvalidAnswer::NotJson)?;
        let body = found.body.map(|body| body.to_string()).unwrap_or_default();
        return Ok(body.into());
    };
    let Some(Text(text)) = found.body else {
        return Ok(Bytes::new());
    };
    if found.is_base64_encoded == Some(true) {
        let decoded = STANDARD.decode(text.as_bytes());
        return decoded.map(Bytes::from).map_err(|_| InvalidAnswer::Base64);
    }
    Ok(text.into_owned().into())
}

impl Head {
    /// The status and the headers, cookies among them.
    pub fn into_parts(self) -> Result<(StatusCode, HeaderMap), InvalidAnswer> {
        let status = match self.status_code {
            None => StatusCode::OK,
            Some(status) => read_status(&status)?,
        };
        let mut headers = HeaderMap::new();
        for (name, value) in self.headers.unwrap_or_default() {
            let Some(text) = header_text(&value) else { continue };
            let parsed = HeaderName::from_bytes(name.as_bytes()).ok();
            let (Some(parsed), Ok(value)) = (parsed, HeaderValue::from_bytes(text.as_bytes())) else {
                return Err(InvalidAnswer::Header(name));
            };
            if !OF_THE_CONNECTION.contains(&parsed) {
                headers.append(parsed, value);
            }
        }
        for cookie in self.cookies.unwrap_or_default() {
            let cookie = HeaderValue::from_bytes(cookie.as_bytes()).map_err(|_| InvalidAnswer::Cookie)?;
            headers.append(SET_COOKIE, cookie);
        }
        Ok((status, headers))
    }
}

/// A number or a number in a text; a response never ends with one of the hundreds.
fn read_status(status: &Value) -> Result<StatusCode, InvalidAnswer> {
    let number = match status {
        Value::String(text) => text.parse().ok(),
        other => other.as_u64(),
    };
    let number = number.filter(|number| (200..=599).contains(number));
    let number = number.and_then(|number| u16::try_from(number).ok());
    let status = number.and_then(|number| StatusCode::from_u16(number).ok());
    status.ok_or(InvalidAnswer::Status)
}

fn header_text(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.into()),
        other => Some(other.to_string().into()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(payload: &str, status: u16, headers: &[(&str, &str)], body: &[u8]) {
        let found =
            read(&Bytes::copy_from_slice(payload.as_bytes())).unwrap_or_else(|error| panic!("{payload}: {error}"));
        assert_eq!(found.status().as_u16(), status, "{payload}");
        let shown: Vec<_> = found
            .headers()
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_str().expect("ASCII")))
            .collect();
        let mut sorted = shown.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, headers, "{payload}");
        assert_eq!(found.body(), body, "{payload}");
    }

    const TYPE: (&str, &str) = ("content-type", "application/json");

    #[test]
    fn json_without_a_status_is_the_body() {
        for payload in [
            r#""Hello""#,
            "null",
            " [1, 2]",
            "17",
            r#"{"message": "Hello"}"#,
            r#"{"headers": 3}"#,
        ] {
            check(payload, 200, &[TYPE], payload.as_bytes());
        }
        check(
            r#"{"statusCode": null, "body": "x"}"#,
            200,
            &[TYPE],
            br#"{"statusCode": null, "body": "x"}"#,
        );
    }

    #[test]
    fn an_object_with_a_status_says_what_the_response_is() {
        let payload = json!({
            "statusCode": 201,
            "headers": {"Content-Type": "text/html", "X-Number": 7, "X-None": null, "Content-Length": "1"},
            "cookies": ["a=1; Secure", "b=2"],
            "body": "gr\u{fc}\u{df}e\n",
            "isBase64Encoded": false,
        });
        let headers = [
            ("content-type", "text/html"),
            ("set-cookie", "a=1; Secure"),
            ("set-cookie", "b=2"),
            ("x-number", "7"),
        ];
        check(&payload.to_string(), 201, &headers, "gr\u{fc}\u{df}e\n".as_bytes());
        check(r#"{"statusCode": 404}"#, 404, &[TYPE], b"");
        check(
            r#"{"statusCode": "302", "body": {"a": 1}}"#,
            302,
            &[TYPE],
            br#"{"a":1}"#,
        );
        check(r#"{"statusCode": 204, "body": "none"}"#, 204, &[TYPE], b"");
        check(
            r#"{"statusCode": 200, "body": "AP8=", "isBase64Encoded": true}"#,
            200,
            &[TYPE],
            b"\0\xff",
        );
    }

    #[test]
    fn what_http_cannot_say_is_refused() {
        for payload in [
            "",
            "hello",
            r#"{"statusCode": 200"#,
            r#"{"statusCode": 99}"#,
            r#"{"statusCode": 101}"#,
            r#"{"statusCode": "ok"}"#,
            r#"{"statusCode": 200, "headers": {"a b": "c"}}"#,
            r#"{"statusCode": 200, "headers": {"a": "b\r\nc: d"}}"#,
            r#"{"statusCode": 200, "headers": 3}"#,
            r#"{"statusCode": 200, "cookies": ["a\nb"]}"#,
            r#"{"statusCode": 200, "body": "%%%", "isBase64Encoded": true}"#,
        ] {
            assert!(read(&Bytes::copy_from_slice(payload.as_bytes())).is_err(), "{payload}");
        }
    }
}
