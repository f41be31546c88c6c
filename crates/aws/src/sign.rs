//! Signature Version 4 on requests of ours.
//!
//! Source: the public description of the AWS Signature Version 4 signing process.

use std::fmt;

use bowline_foundation::clock::Timestamp;
use ring::hmac;
use sha2::{Digest as _, Sha256};
use time::OffsetDateTime;
use time::macros::format_description;

/// Keys of an account at a service.
#[derive(Clone)]
pub struct Credentials {
    pub access_key: String,
    pub secret_key: String,
    pub session_token: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("access_key", &self.access_key)
            .finish_non_exhaustive()
    }
}

/// What of a request is signed.
#[derive(Clone, Debug)]
pub struct Signable<'a> {
    pub method: &'a str,
    /// Percent-encoded, as it is sent. (Services other than S3 want it encoded twice; theirs is `/` here.)
    pub path: &'a str,
    /// `name=value` pairs, both percent-encoded, in any order.
    pub query: &'a [(String, String)],
    /// Lower-case names, in their order.
    pub headers: &'a [(&'static str, String)],
    pub payload: &'a [u8],
}

/// For which service and region a signature holds.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    pub service: &'a str,
    pub region: &'a str,
}

/// The moment as `X-Amz-Date` has it: `20150830T123600Z`.
pub fn date_time(at: Timestamp) -> String {
    let moment = OffsetDateTime::from_unix_timestamp_nanos(i128::from(at.as_micros()) * 1_000)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH);
    moment
        .format(format_description!("[year][month][day]T[hour][minute][second]Z"))
        .expect("every component of the format exists for any date")
}

/// The SHA-256 of a payload in lower-case hexadecimal digits.
pub fn payload_hash(payload: &[u8]) -> String {
    hex(&Sha256::digest(payload))
}

/// The value of `Authorization`. `date_time` must be the value of the header `x-amz-date`, too.
pub fn authorization(request: &Signable<'_>, date_time: &str, scope: Scope<'_>, keys: &Credentials) -> String {
    let date = &date_time[..8];
    let Scope { service, region } = scope;
    let scope = format!("{date}/{region}/{service}/aws4_request");
    let names: Vec<&str> = request.headers.iter().map(|(name, _)| *name).collect();
    let names = names.join(";");
    let canonical = canonical(request, &names);
    let text = format!(
        "AWS4-HMAC-SHA256\n{date_time}\n{scope}\n{}",
        payload_hash(canonical.as_bytes())
    );
    let key = [date, region, service, "aws4_request"]
        .iter()
        .fold(format!("AWS4{}", keys.secret_key).into_bytes(), |key, part| {
            keyed(&key, part)
        });
    let signature = hex(&keyed(&key, &text));
    format!(
        "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}",
        keys.access_key
    )
}

fn canonical(request: &Signable<'_>, names: &str) -> String {
    let mut query: Vec<String> = request
        .query
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    query.sort_unstable();
    let headers: String = request
        .headers
        .iter()
        .map(|(name, value)| format!("{name}:{}\n", value.trim()))
        .collect();
    format!(
        "{}\n{}\n{}\n{headers}\n{names}\n{}",
        request.method,
        request.path,
        query.join("&"),
        payload_hash(request.payload)
    )
}

fn keyed(key: &[u8], text: &str) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, text.as_bytes()).as_ref().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The case `get-vanilla` of the public test suite.
    #[test]
    fn signatures_are_as_the_public_suite_has_them() {
        let at = Timestamp::from_micros(1_440_938_160_000_000);
        let date_time = date_time(at);
        assert_eq!(date_time, "20150830T123600Z");
        let keys = Credentials {
            access_key: "AKIDEXAMPLE".to_owned(),
            secret_key: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned(),
            session_token: None,
        };
        let request = Signable {
            method: "GET",
            path: "/",
            query: &[],
            headers: &[
                ("host", "example.amazonaws.com".to_owned()),
                ("x-amz-date", date_time.clone()),
            ],
            payload: b"",
        };
        let scope = Scope {
            service: "service",
            region: "us-east-1",
        };
        let signed = authorization(&request, &date_time, scope, &keys);
        let expected = "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31";
        assert!(signed.ends_with(expected), "{signed}");
        assert!(!format!("{keys:?}").contains("wJalr"), "a secret is shown");
    }
}
