//! A node with access keys.

use std::time::Duration;

use bowline_api::auth::keys::AccessKey;
use bowline_api::auth::sigv4::{CONTENT_HASH, Credentials, authorization, authorization_of, hash};
use bowline_foundation::clock::Clock;
use bowline_foundation::id::AccountId;
use bowline_functions::access::Secret;
use bytes::Bytes;

use serde_json::{Value, json};

use crate::harness::{Answer, FUNCTIONS, TestNode, creation, request};

const PARTNER: &str = "111122223333";
/// Far longer than a function takes to settle.
const PATIENCE: Duration = Duration::from_secs(60);

/// A node with a key of the operator and one of another account; a key's secret is its identifier.
async fn guarded() -> TestNode {
    with_keys(TestNode::with_engines().await)
}

fn with_keys(node: TestNode) -> TestNode {
    let accounts = [AccountId::default_account(), PARTNER.parse().expect("an account")];
    let keys = accounts.map(|account| {
        let id = format!("KEY{account}");
        let secret = Secret::new(&id);
        AccessKey::new(id, account, secret)
    });
    node.auth.set_keys(keys.into_iter().collect());
    node
}

impl TestNode {
    async fn signed(&self, account: &str, method: &str, path: &str) -> Answer {
        self.signed_with(account, (method, path), Bytes::new()).await
    }

    async fn signed_with(&self, account: &str, (method, path): (&str, &str), body: Bytes) -> Answer {
        let key = format!("KEY{account}");
        let credentials = Credentials {
            access_key: key.clone(),
            secret: key,
            region: "eu-central-1".to_owned(),
        };
        let mut request = request(method, path, &[], body.clone());
        let at = Clock::system().now();
        let (date, value) = authorization(&credentials, (method, path), request.headers(), &body, at);
        let headers = request.headers_mut();
        headers.insert("x-amz-date", date.parse().expect("a value"));
        headers.insert("authorization", value.parse().expect("a value"));
        self.send(request).await
    }
}

impl TestNode {
    /// Waits until an account's function `hello` can be changed again.
    async fn settle_signed(&self, account: &str) {
        let path = format!("{FUNCTIONS}/hello/configuration");
        let settled = tokio::time::timeout(PATIENCE, async {
            loop {
                let shown = self.signed(account, "GET", &path).await.json();
                assert!(
                    shown["State"] != "Failed" && shown["LastUpdateStatus"] != "Failed",
                    "{shown}"
                );
                if shown["State"] == "Active" && shown["LastUpdateStatus"] == "Successful" {
                    return;
                }
            }
        });
        settled.await.expect("it settles");
    }
}

#[tokio::test]
async fn streams_are_for_the_operators_keys() {
    let node = guarded().await;
    let streams = "/v1/streams?limit=10";
    assert_eq!(node.signed("000000000000", "GET", streams).await.status, 200);
    node.signed(PARTNER, "GET", streams).await.problem(403, "forbidden");
    node.get(streams).await.problem(403, "not_authenticated");
    node.stop().await;
}

#[tokio::test]
async fn functions_are_for_those_who_sign() {
    let node = guarded().await;
    for account in ["000000000000", PARTNER] {
        assert_eq!(node.signed(account, "GET", FUNCTIONS).await.status, 200);
    }
    node.get(FUNCTIONS)
        .await
        .refused(403, "MissingAuthenticationTokenException");
    node.signed("444455556666", "GET", FUNCTIONS)
        .await
        .refused(403, "UnrecognizedClientException");
    assert_eq!(node.get("/healthz").await.status, 200);
    assert_eq!(node.get("/metrics").await.status, 200, "from this machine");
    node.auth.set_keys([].into_iter().collect());
    assert_eq!(node.get(FUNCTIONS).await.status, 200, "without keys the node is open");
    node.stop().await;
}

#[tokio::test]
async fn streams_and_queues_of_others_are_neither_destinations_nor_sources() {
    let node = guarded().await;
    node.streams.create("told").await;
    let operator = "000000000000";
    let post = async |account: &str, path: &str, body: Value| {
        node.signed_with(account, ("POST", path), body.to_string().into()).await
    };
    let put = async |account: &str, path: &str, body: Value| {
        node.signed_with(account, ("PUT", path), body.to_string().into()).await
    };
    let config = "/2019-09-25/functions/hello/event-invoke-config";
    let refused = |answer: Answer, says: &str| {
        let message = answer.refused(400, "InvalidParameterValueException");
        assert!(message.contains(says), "{message}");
    };
    for account in [operator, PARTNER] {
        let made = post(account, FUNCTIONS, creation("hello")).await;
        assert_eq!(made.status, 201, "{made:?}");
        node.settle_signed(account).await;
    }
    let operators = "queues, topics and streams are the operator's";
    for name in ["aws:sqs", "aws:sns", "bowline:stream"] {
        for account in [operator, PARTNER] {
            let arn = format!("arn:{name}:eu-central-1:{account}:told");
            for outcome in ["OnSuccess", "OnFailure"] {
                let wanted = json!({ "DestinationConfig": { outcome: { "Destination": arn } } });
                refused(put(PARTNER, config, wanted.clone()).await, operators);
                assert_eq!(put(operator, config, wanted).await.status, 200, "control: {arn}");
            }
            let dead = json!({ "DeadLetterConfig": { "TargetArn": arn } });
            let path = format!("{FUNCTIONS}/hello/configuration");
            refused(put(PARTNER, &path, dead.clone()).await, operators);
            assert_eq!(put(operator, &path, dead).await.status, 200, "control: {arn}");
            node.settle_signed(operator).await;
        }
    }
    let mut born = creation("late");
    born["DeadLetterConfig"] = json!({ "TargetArn": "arn:aws:sqs:eu-central-1:000000000000:told" });
    refused(post(PARTNER, FUNCTIONS, born).await, operators);
    let none = json!({ "DestinationConfig": { "OnSuccess": {}, "OnFailure": { "Destination": "" } } });
    assert_eq!(put(PARTNER, config, none).await.status, 200, "none is nobody's");

    let queue = |account: &str| json!({ "FunctionName": "hello", "EventSourceArn": format!("arn:aws:sqs:eu-central-1:{account}:jobs") });
    let mappings = "/2015-03-31/event-source-mappings";
    refused(post(PARTNER, mappings, queue(operator)).await, "ReceiveMessage");
    let own = post(PARTNER, mappings, queue(PARTNER)).await;
    let message = own.refused(400, "InvalidParameterValueException");
    assert!(
        message.contains("No SQS endpoint"),
        "control: it gets further: {message}"
    );
    node.stop().await;
}

#[tokio::test]
async fn where_queues_are_known_an_account_may_send_to_its_own() {
    let node = with_keys(TestNode::beside_queues().await);
    let made = creation("hello").to_string().into();
    let made = node.signed_with(PARTNER, ("POST", FUNCTIONS), made).await;
    assert_eq!(made.status, 201, "{made:?}");
    node.settle_signed(PARTNER).await;
    let config = "/2019-09-25/functions/hello/event-invoke-config";
    let put = async |arn: String| {
        let wanted = json!({ "DestinationConfig": { "OnFailure": { "Destination": arn } } });
        let put = node
            .signed_with(PARTNER, ("PUT", config), wanted.to_string().into())
            .await;
        put.refused(400, "InvalidParameterValueException")
    };
    let named = |service: &str, account: &str| format!("arn:aws:{service}:eu-central-1:{account}:told");
    let message = put(named("sqs", "000000000000")).await;
    assert!(message.contains("SendMessage"), "{message}");
    for others in [named("sns", PARTNER), "arn:aws:s3:::told".to_owned()] {
        let message = put(others).await;
        assert!(message.contains("are the operator's"), "{message}");
    }
    let message = put(named("sqs", PARTNER)).await;
    assert!(
        message.contains("cannot be checked"),
        "control: it gets further: {message}"
    );
    node.stop().await;
}

#[tokio::test]
async fn an_images_archive_is_judged_by_its_digest() {
    let node = guarded().await;
    let path = "/v1/images/hello?tag=1";
    let push = async |key: &str, digest: Option<String>, body: &'static str| {
        let credentials = Credentials {
            access_key: format!("KEY{PARTNER}"),
            secret: key.to_owned(),
            region: "eu-central-1".to_owned(),
        };
        let mut request = request("PUT", path, &[], Bytes::from_static(body.as_bytes()));
        let headers = request.headers_mut();
        if let Some(digest) = &digest {
            headers.insert(CONTENT_HASH, digest.parse().expect("a value"));
        }
        let payload = digest.unwrap_or_else(|| hash(body.as_bytes()));
        let at = Clock::system().now();
        let (date, value) = authorization_of(&credentials, ("PUT", path), headers, &payload, at);
        headers.insert("x-amz-date", date.parse().expect("a value"));
        headers.insert("authorization", value.parse().expect("a value"));
        node.send(request).await
    };
    let (right, body) = (format!("KEY{PARTNER}"), "no archive");
    let refused = |answer: Answer, says: &str| {
        let message = answer.refused(403, "InvalidSignatureException");
        assert!(message.contains(says), "{message}");
    };
    refused(push("wrong", Some(hash(body.as_bytes())), body).await, "does not match");
    refused(push(&right, None, body).await, CONTENT_HASH);
    refused(
        push(&right, Some(hash(b"another")), body).await,
        "is not the one of the body",
    );
    let control = push(&right, Some(hash(body.as_bytes())), body).await;
    let message = control.refused(400, "InvalidParameterValueException");
    assert!(
        message.contains("The image cannot be used"),
        "it gets further: {message}"
    );
    node.stop().await;
}
