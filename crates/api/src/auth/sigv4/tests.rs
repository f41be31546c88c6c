//! The public test suite's signatures, and what is no signature.

use bowline_foundation::clock::Timestamp;
use bowline_foundation::id::AccountId;
use bowline_functions::access::Secret;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;

use super::claim::Claim;
use super::*;
use crate::auth::Refusal;
use crate::auth::keys::AccessKey;
use crate::route;

/// Requests of the public suite of AWS with the signature of each, one a line. Not among them: header values that go
/// on over several lines, which HTTP has given up, paths that are not normalised, which is S3's form, and a query with a
/// session token that is not signed, which no key here goes with.
const VECTORS: &str = include_str!("golden/vectors.jsonl");
const SUITE_SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const SUITE_MOMENT: &str = "20150830T123600Z";

#[derive(Deserialize)]
struct Vector {
    name: String,
    form: String,
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: String,
    signed_headers: String,
    signature: String,
}

#[test]
fn signatures_are_those_of_the_public_suite() {
    let scope = Scope {
        date: &SUITE_MOMENT[..8],
        region: "us-east-1",
        service: "service",
    };
    let key = SigningKey::derive(SUITE_SECRET, &scope);
    let mut count = 0;
    for line in VECTORS.lines() {
        let vector: Vector = serde_json::from_str(line).expect("a vector");
        let mut headers = HeaderMap::new();
        for (name, value) in &vector.headers {
            let name: HeaderName = name.parse().expect("a name");
            headers.append(name, HeaderValue::from_bytes(value.as_bytes()).expect("a value"));
        }
        let request = Signable {
            method: &vector.method,
            target: &vector.target,
            headers: &headers,
            signed_headers: &vector.signed_headers,
            payload: &hash(vector.body.as_bytes()),
            paths: Paths::Normalised,
        };
        let canonical = request.canonical();
        let text = string_to_sign(SUITE_MOMENT, &scope, &canonical);
        let place = format!(
            "{} {}\n{}",
            vector.name,
            vector.form,
            String::from_utf8_lossy(&canonical)
        );
        assert_eq!(key.sign(text.as_bytes()), vector.signature, "{place}");
        count += 1;
    }
    assert_eq!(count, 59);
}

fn credentials() -> Credentials {
    Credentials {
        access_key: "BOWLEXAMPLE".to_owned(),
        secret: "secret".to_owned(),
        region: "eu-central-1".to_owned(),
    }
}

fn at() -> Timestamp {
    Timestamp::from_micros(1_795_217_079_123_456)
}

/// The headers of a signed request.
fn signed() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("host", HeaderValue::from_static("127.0.0.1:9000"));
    headers.insert("x-amz-invocation-type", HeaderValue::from_static("Event"));
    let (date, authorization) = authorization(&credentials(), ("POST", "/"), &headers, b"{}", at());
    headers.insert("x-amz-date", date.parse().expect("a value"));
    headers.insert("authorization", authorization.parse().expect("a value"));
    headers
}

fn claim(headers: &HeaderMap, target: &str) -> Result<Claim, Refusal> {
    Claim::of(headers, route::resolve("GET", target).expect("a known path").query)
}

#[test]
fn a_signature_holds_five_minutes_around_its_moment() {
    let claim = claim(&signed(), "/").expect("a signature");
    assert_eq!(claim.access_key, "BOWLEXAMPLE");
    let seconds = std::time::Duration::from_secs;
    // The signature's moment has whole seconds.
    let begin = Timestamp::from_micros(1_795_217_079_000_000);
    assert_eq!(claim.check_time(begin.after(seconds(300))), Ok(()));
    assert_eq!(claim.check_time(begin.before(seconds(300))), Ok(()));
    for (now, why) in [
        (begin.after(seconds(301)), "Signature expired: 2026"),
        (begin.before(seconds(301)), "Signature not yet current: 2026"),
    ] {
        let refused = claim.check_time(now).expect_err(why).to_string();
        assert!(refused.starts_with(why), "{refused}");
    }
    assert_eq!(claim.check_scope("eu-central-1"), Ok(()));
    let other = claim.check_scope("us-east-1").expect_err("another region").to_string();
    assert!(other.contains("'us-east-1', not 'eu-central-1'"), "{other}");
}

#[test]
fn a_presigned_query_holds_as_long_as_it_says() {
    let key = AccessKey::new(
        "BOWLEXAMPLE".to_owned(),
        AccountId::default_account(),
        Secret::new("secret"),
    );
    let presign = Presign {
        host: "node.test",
        target: "/v1/functions/f/code?version=1",
        region: "eu-central-1",
        at: at(),
        expires_seconds: 600,
    };
    let target = presigned_query(&key, &presign);
    let claim = claim(&HeaderMap::new(), &target).expect("a signature");
    let seconds = std::time::Duration::from_secs;
    assert_eq!(claim.check_time(at().after(seconds(599))), Ok(()));
    assert!(claim.check_time(at().after(seconds(601))).is_err());
    assert!(claim.check_time(at().before(seconds(302))).is_err());
    let longer = target.replace("X-Amz-Expires=600", "X-Amz-Expires=604801");
    assert!(matches!(
        self::claim(&HeaderMap::new(), &longer),
        Err(Refusal::Incomplete(_))
    ));
}

#[test]
fn what_is_no_signature_is_refused_with_the_reason() {
    let check = |name: &'static str, edit: &dyn Fn(&str) -> String, why: &str| {
        let mut headers = signed();
        let value = headers[name].to_str().expect("ASCII").to_owned();
        headers.insert(name, edit(&value).parse().expect("a value"));
        let refused = claim(&headers, "/").expect_err(why).to_string();
        assert!(refused.contains(why), "{refused}");
    };
    let replace = |from: &'static str, to: &'static str| move |value: &str| value.replace(from, to);
    check("authorization", &replace("AWS4-HMAC-SHA256", "Bearer"), "algorithm");
    check("authorization", &replace("Credential=", "Credential"), "equal-sign");
    check("authorization", &replace("/aws4_request", ""), "slash-delimited");
    check("authorization", &replace("Signature=", "Signature=0"), "64 hexadecimal");
    check("authorization", &replace("SignedHeaders=", "Signed="), "no part");
    check(
        "authorization",
        &replace("SignedHeaders=", "Signature=1, SignedHeaders="),
        "twice",
    );
    check("authorization", &replace("host;", ""), "'Host'");
    check(
        "authorization",
        &replace(";x-amz-invocation-type", ""),
        "'x-amz-invocation-type'",
    );
    check("authorization", &|_| "AWS4-HMAC-SHA256".to_owned(), "Credential");
    check("x-amz-date", &|_| "20261301T000000Z".to_owned(), "ISO-8601");
    check(
        "x-amz-date",
        &|_| "Fri, 20 Nov 2026 23:24:39 GMT".to_owned(),
        "ISO-8601",
    );
    let mut headers = signed();
    headers.remove("x-amz-date");
    let refused = claim(&headers, "/").expect_err("no date").to_string();
    assert!(refused.contains("'X-Amz-Date'"), "{refused}");
    assert_eq!(claim(&HeaderMap::new(), "/"), Err(Refusal::Missing));
    let twice = "/?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=a&X-Amz-Credential=b";
    let refused = claim(&HeaderMap::new(), twice).expect_err("twice").to_string();
    assert!(refused.contains("twice"), "{refused}");
}
