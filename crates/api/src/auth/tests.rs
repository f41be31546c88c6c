//! Whose requests are let in.

use std::time::Duration;

use bowline_functions::access::Secret;
use http::{HeaderValue, Request};

use super::sigv4::{Credentials, authorization};
use super::*;
use crate::route;

const ACCOUNT: &str = "111122223333";
const PATH: &str =
    "/2015-03-31/functions/arn%3Aaws%3Alambda%3Ar%3A000000000000%3Afunction%3Af/invocations?Qualifier=%24LATEST";

fn now() -> Timestamp {
    Timestamp::from_micros(1_795_217_079_123_456)
}

fn auth(exposure: Exposure) -> Auth {
    Auth::new(exposure, "eu-central-1", AccountId::default_account())
}

fn key() -> Keys {
    let account = ACCOUNT.parse().expect("an account");
    [AccessKey::new("BOWLEXAMPLE".to_owned(), account, Secret::new("secret"))]
        .into_iter()
        .collect()
}

fn credentials() -> Credentials {
    Credentials {
        access_key: "BOWLEXAMPLE".to_owned(),
        secret: "secret".to_owned(),
        region: "eu-central-1".to_owned(),
    }
}

/// A request's head, signed.
fn head(credentials: &Credentials, body: &str, at: Timestamp) -> Parts {
    signed(Request::post(PATH), credentials, body, at)
}

fn signed(request: http::request::Builder, credentials: &Credentials, body: &str, at: Timestamp) -> Parts {
    let request = request.header("host", "node.test");
    let (mut head, ()) = request.body(()).expect("a request").into_parts();
    let (date, value) = authorization(credentials, ("POST", PATH), &head.headers, body.as_bytes(), at);
    head.headers.insert("x-amz-date", date.parse().expect("a value"));
    head.headers.insert("authorization", value.parse().expect("a value"));
    head
}

async fn ask(auth: &Auth, head: &Parts, body: &str) -> Result<Option<String>, Refusal> {
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    let route = route::resolve(head.method.as_str(), target).expect("a known path");
    let proof = auth.begin(head, &route, now(), Peer::Remote)?;
    let identity = proof.finish(head, &Bytes::copy_from_slice(body.as_bytes())).await?;
    Ok(identity.account.map(|account| account.to_string()))
}

#[tokio::test]
async fn a_good_signature_names_the_keys_account() {
    for exposure in [Exposure::Loopback, Exposure::Network] {
        let auth = auth(exposure);
        auth.set_keys(key());
        for body in ["{}".to_owned(), "x".repeat(2 * HASHED_AT_ONCE_BYTES_MAX)] {
            let head = head(&credentials(), &body, now());
            assert_eq!(ask(&auth, &head, &body).await, Ok(Some(ACCOUNT.to_owned())));
        }
    }
}

#[tokio::test]
async fn whatever_is_changed_after_signing_is_noticed() {
    let auth = auth(Exposure::Loopback);
    auth.set_keys(key());
    let head = || head(&credentials(), "{}", now());
    assert_eq!(ask(&auth, &head(), "{ }").await, Err(Refusal::Mismatch));
    let mut other = head();
    other.method = http::Method::PUT;
    other.uri = PATH.replace("invocations", "code").parse().expect("a target");
    assert_eq!(ask(&auth, &other, "{}").await, Err(Refusal::Mismatch));
    let mut other = head();
    other.uri = PATH.replace("LATEST", "LATES").parse().expect("a target");
    assert_eq!(ask(&auth, &other, "{}").await, Err(Refusal::Mismatch));
    let mut other = head();
    other.headers.insert("host", HeaderValue::from_static("other.test"));
    assert_eq!(ask(&auth, &other, "{}").await, Err(Refusal::Mismatch));
    let mut other = head();
    other
        .headers
        .insert("x-amz-invocation-type", HeaderValue::from_static("Event"));
    assert!(matches!(ask(&auth, &other, "{}").await, Err(Refusal::Invalid(_))));
    let wrong = Credentials {
        secret: "Secret".to_owned(),
        ..credentials()
    };
    let wrong = self::head(&wrong, "{}", now());
    assert_eq!(ask(&auth, &wrong, "{}").await, Err(Refusal::Mismatch));
    assert_eq!(ask(&auth, &head(), "{}").await, Ok(Some(ACCOUNT.to_owned())), "control");
}

#[tokio::test]
async fn what_the_head_shows_is_refused_before_the_body() {
    let auth = auth(Exposure::Loopback);
    auth.set_keys(key());
    let refused = |head: Parts| {
        let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
        let route = route::resolve(head.method.as_str(), target).expect("a known path");
        auth.begin(&head, &route, now(), Peer::Remote).err()
    };
    let unknown = Credentials {
        access_key: "BOWLOTHER".to_owned(),
        ..credentials()
    };
    assert_eq!(refused(head(&unknown, "{}", now())), Some(Refusal::UnknownKey));
    let digits = Credentials {
        access_key: ACCOUNT.to_owned(),
        ..credentials()
    };
    assert_eq!(
        refused(head(&digits, "{}", now())),
        Some(Refusal::UnknownKey),
        "an account is no key"
    );
    let temporary = Request::post(PATH).header("x-amz-security-token", "a token of nobody here");
    let temporary = signed(temporary, &credentials(), "{}", now());
    assert_eq!(refused(temporary), Some(Refusal::SessionToken));
    let old = head(&credentials(), "{}", now().before(Duration::from_secs(301)));
    assert!(matches!(refused(old), Some(Refusal::Invalid(_))));
    let mut unsigned = head(&credentials(), "{}", now());
    unsigned.headers.remove("authorization");
    assert_eq!(refused(unsigned), Some(Refusal::Missing));
    assert!(refused(head(&credentials(), "{}", now())).is_none(), "control");
}

#[tokio::test]
async fn only_a_node_on_loopback_without_keys_is_open() {
    let mut unsigned = head(&credentials(), "{}", now());
    unsigned.headers.remove("authorization");
    let named = Credentials {
        access_key: ACCOUNT.to_owned(),
        ..credentials()
    };
    let named = head(&named, "another body", now());
    let open = auth(Exposure::Loopback);
    assert!(open.is_open());
    assert_eq!(ask(&open, &unsigned, "{}").await, Ok(None));
    assert_eq!(ask(&open, &named, "{}").await, Ok(Some(ACCOUNT.to_owned())));
    open.set_keys(key());
    assert!(!open.is_open());
    assert_eq!(ask(&open, &unsigned, "{}").await, Err(Refusal::Missing));
    assert_eq!(ask(&open, &named, "{}").await, Err(Refusal::UnknownKey));
    let exposed = auth(Exposure::Network);
    assert_eq!(
        ask(&exposed, &unsigned, "{}").await,
        Err(Refusal::Missing),
        "keys or not"
    );
    assert_eq!(ask(&exposed, &named, "{}").await, Err(Refusal::UnknownKey));
}

#[tokio::test]
async fn a_probe_needs_no_key_and_metrics_none_from_here() {
    let auth = auth(Exposure::Network);
    let may = |path: &str, peer| {
        let (head, ()) = Request::get(path).body(()).expect("a request").into_parts();
        let route = route::resolve("GET", path).expect("a known path");
        auth.begin(&head, &route, now(), peer).is_ok()
    };
    assert!(may("/healthz", Peer::Remote) && may("/", Peer::Remote));
    assert!(may("/metrics", Peer::Local) && !may("/metrics", Peer::Remote));
    assert!(!may("/2015-03-31/functions", Peer::Local));
}
