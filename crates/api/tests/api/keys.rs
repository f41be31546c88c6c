//! A node with access keys.

use bowline_api::auth::keys::AccessKey;
use bowline_api::auth::sigv4::{Credentials, authorization};
use bowline_foundation::clock::Clock;
use bowline_foundation::id::AccountId;
use bowline_functions::access::Secret;
use bytes::Bytes;

use crate::harness::{Answer, FUNCTIONS, TestNode, request};

const PARTNER: &str = "111122223333";

/// A node with a key of the operator and one of another account; a key's secret is its identifier.
async fn guarded() -> TestNode {
    let node = TestNode::with_engines().await;
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
        let key = format!("KEY{account}");
        let credentials = Credentials {
            access_key: key.clone(),
            secret: key,
            region: "eu-central-1".to_owned(),
        };
        let mut request = request(method, path, &[], Bytes::new());
        let at = Clock::system().now();
        let (date, value) = authorization(&credentials, (method, path), request.headers(), b"", at);
        let headers = request.headers_mut();
        headers.insert("x-amz-date", date.parse().expect("a value"));
        headers.insert("authorization", value.parse().expect("a value"));
        self.send(request).await
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
