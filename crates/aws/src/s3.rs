//! Reading and writing objects by S3's REST wire, with the bucket in the path.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::access::Access;
use crate::call::{Ask, CallError, Caller, Refusal};
use crate::endpoint::Endpoint;
use crate::sign::Paths;

/// How long an object may take to arrive.
const GET_MAX: Duration = Duration::from_secs(60);
/// How long the service may take to store an object.
const PUT_MAX: Duration = Duration::from_secs(60);
/// How long the service may take to say whether there is a bucket.
const HEAD_MAX: Duration = Duration::from_secs(10);
/// Answers without anything that is looked at.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const IN_PATH: &AsciiSet = &UNRESERVED.remove(b'/');

/// Objects at an endpoint.
#[derive(Clone, Debug)]
pub struct S3(Caller);

/// Which object is wanted.
#[derive(Clone, Copy, Debug)]
pub struct ObjectRef<'a> {
    pub bucket: &'a str,
    pub key: &'a str,
    /// An older version, where the bucket keeps them.
    pub version: Option<&'a str>,
}

impl S3 {
    pub fn new(endpoint: Endpoint, access: Access) -> Self {
        Self(Caller::new(endpoint, ("s3", Paths::AsSent), access))
    }

    /// Where it is, for messages to people.
    pub fn endpoint(&self) -> &Endpoint {
        self.0.endpoint()
    }

    /// An object of at most `bytes_max` bytes.
    ///
    /// # Errors
    /// The service's refusal (`NoSuchBucket`, `NoSuchKey`, `NoSuchVersion`, `AccessDenied`), or why there
    /// is no answer.
    pub async fn get(&self, object: ObjectRef<'_>, bytes_max: usize) -> Result<Bytes, CallError> {
        let version = object.version.iter();
        let ask = Ask {
            method: Method::GET,
            path: path(object.bucket, object.key),
            query: version
                .map(|version| {
                    let version = utf8_percent_encode(version, UNRESERVED).to_string();
                    ("versionId".to_owned(), version)
                })
                .collect(),
            headers: Vec::new(),
            body: Bytes::new(),
            bytes_max,
            time_max: GET_MAX,
        };
        self.0.call(ask, refusal).await
    }

    /// Stores a JSON text under a key, over what is there.
    ///
    /// # Errors
    /// The service's refusal (`NoSuchBucket`, `AccessDenied`), or why there is no answer; then it may be stored.
    pub async fn put_json(&self, bucket: &str, key: &str, body: Bytes) -> Result<(), CallError> {
        let ask = Ask {
            method: Method::PUT,
            path: path(bucket, key),
            query: Vec::new(),
            headers: vec![("content-type", "application/json")],
            body,
            bytes_max: ANSWER_BYTES_MAX,
            time_max: PUT_MAX,
        };
        self.0.call(ask, refusal).await.map(drop)
    }

    /// Whether there is a bucket of this name.
    pub async fn has_bucket(&self, bucket: &str) -> Result<bool, CallError> {
        let ask = Ask {
            method: Method::HEAD,
            path: format!("/{}", utf8_percent_encode(bucket, UNRESERVED)),
            query: Vec::new(),
            headers: Vec::new(),
            body: Bytes::new(),
            bytes_max: ANSWER_BYTES_MAX,
            time_max: HEAD_MAX,
        };
        match self.0.call(ask, refusal).await {
            Ok(_) => Ok(true),
            Err(CallError::Refused(refusal)) if refusal.status == StatusCode::NOT_FOUND => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn path(bucket: &str, key: &str) -> String {
    let (bucket, key) = (
        utf8_percent_encode(bucket, UNRESERVED),
        utf8_percent_encode(key, IN_PATH),
    );
    format!("/{bucket}/{key}")
}

/// Reads `<Error><Code>...</Code><Message>...</Message>...</Error>`.
pub fn refusal(status: StatusCode, body: &[u8]) -> Refusal {
    let text = String::from_utf8_lossy(body);
    let element = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        let (content, _) = rest.split_once(&format!("</{name}>"))?;
        Some(content.trim().to_owned())
    };
    let shown = || status.canonical_reason().unwrap_or("no reason given").to_owned();
    Refusal {
        status,
        code: element("Code").unwrap_or_else(|| status.as_u16().to_string()),
        message: element("Message").unwrap_or_else(shown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_read_and_missing_ones_made_of_the_status() {
        let body = b"<?xml version=\"1.0\"?><Error><Code>NoSuchKey</Code><Message> gone </Message></Error>";
        let read = refusal(StatusCode::NOT_FOUND, body);
        assert_eq!((read.code.as_str(), read.message.as_str()), ("NoSuchKey", "gone"));
        let made = refusal(StatusCode::FORBIDDEN, b"<html>");
        assert_eq!((made.code.as_str(), made.message.as_str()), ("403", "Forbidden"));
    }
}
