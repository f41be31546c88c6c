//! Permissions on the wire, and callers of other accounts.

use serde_json::{Value, json};

use crate::harness::{Answer, FUNCTIONS, TestNode, request};

const ARN: &str = "arn:aws:lambda:eu-central-1:000000000000:function:hello";

impl TestNode {
    /// A request of the account `111122223333`.
    async fn as_partner(&self, method: &str, path: &str, body: &'static str) -> Answer {
        let credential =
            "AWS4-HMAC-SHA256 Credential=111122223333/20261120/eu-central-1/lambda/aws4_request, Signature=0";
        let headers = [("authorization", credential)];
        self.send(request(method, path, &headers, body.into())).await
    }
}

#[tokio::test]
async fn a_permission_lives_from_add_to_remove() {
    let node = TestNode::start().await;
    node.create("hello").await;
    let path = format!("{FUNCTIONS}/hello/policy");
    let grant = json!({ "StatementId": "s", "Action": "lambda:InvokeFunction", "Principal": "111122223333" });
    let added = node.post(&path, &grant).await;
    assert_eq!(added.status, 201);
    let statement = json!({
        "Sid": "s", "Effect": "Allow", "Principal": { "AWS": "arn:aws:iam::111122223333:root" },
        "Action": "lambda:InvokeFunction", "Resource": ARN,
    });
    let text = added.json()["Statement"].clone();
    assert_eq!(
        serde_json::from_str::<Value>(text.as_str().expect("a text")).expect("JSON"),
        statement
    );
    let shown = node.get(&path).await.json();
    let policy = format!(
        r#"{{"Version":"2012-10-17","Id":"default","Statement":[{}]}}"#,
        text.as_str().expect("a text")
    );
    assert_eq!(shown["Policy"], policy);
    node.post(&path, &grant).await.refused(409, "ResourceConflictException");
    node.delete(&format!("{path}/s?RevisionId=x"))
        .await
        .refused(412, "PreconditionFailedException");
    node.delete(&format!("{path}/t"))
        .await
        .refused(404, "ResourceNotFoundException");
    let current = format!("{path}/s?RevisionId={}", shown["RevisionId"].as_str().expect("a text"));
    assert_eq!(node.delete(&current).await.status, 204);
    node.get(&path).await.refused(404, "ResourceNotFoundException");
    node.stop().await;
}

#[tokio::test]
async fn permissions_are_refused_as_the_service_refuses_them() {
    let node = TestNode::start().await;
    node.create("hello").await;
    let check = async |path: &str, member: &str, value: Value, name: &str| {
        let mut body = json!({ "StatementId": "s", "Action": "lambda:InvokeFunction", "Principal": "*" });
        body[member] = value;
        let path = format!("{FUNCTIONS}/{path}");
        node.post(&path, &body).await.refused(400, name);
    };
    let (validation, parameter) = ("ValidationException", "InvalidParameterValueException");
    check("hello/policy", "StatementId", Value::Null, validation).await;
    check("hello/policy", "StatementId", json!("a b"), validation).await;
    check("hello/policy", "Action", json!("s3:GetObject"), validation).await;
    check("hello/policy", "Principal", json!("somebody"), parameter).await;
    check("hello/policy", "FunctionUrlAuthType", json!("MAYBE"), validation).await;
    check("hello/policy", "FunctionUrlAuthType", json!("NONE"), parameter).await;
    check("hello/policy?Qualifier=$LATEST", "Action", json!("*"), parameter).await;
    node.get(&format!("{FUNCTIONS}/hello/policy"))
        .await
        .refused(404, "ResourceNotFoundException");
    node.stop().await;
}

#[tokio::test]
async fn policies_are_put_as_whole_documents() {
    let node = TestNode::start().await;
    node.create("hello").await;
    let path = format!("/2026-07-09/resource-policy/{ARN}");
    node.get(&path).await.refused(404, "ResourceNotFoundException");
    let document = json!({ "Version": "2012-10-17", "Statement": {
        "Effect": "Allow", "Principal": "*", "Action": "lambda:InvokeFunction", "Resource": ARN,
    } });
    let body = json!({ "Policy": document.to_string() });
    let put = node.put(&path, &body).await;
    assert_eq!(put.status, 200);
    assert_eq!(node.get(&path).await.json(), put.json());
    assert_eq!(node.get(&format!("{FUNCTIONS}/hello/policy")).await.json(), put.json());
    let stale = json!({ "Policy": document.to_string(), "RevisionId": "x" });
    node.put(&path, &stale)
        .await
        .refused(412, "PreconditionFailedException");
    let bad = json!({ "Policy": "{}" });
    node.put(&path, &bad)
        .await
        .refused(400, "InvalidParameterValueException");
    assert_eq!(node.delete(&path).await.status, 204);
    node.get(&path).await.refused(404, "ResourceNotFoundException");
    node.put("/2026-07-09/resource-policy/hello", &body)
        .await
        .refused(400, "ValidationException");
    node.stop().await;
}

#[tokio::test]
async fn another_account_needs_a_permission() {
    let node = TestNode::start().await;
    node.create("hello").await;
    let invocations = format!("{FUNCTIONS}/{ARN}/invocations");
    let denied = node.as_partner("POST", &invocations, "{}").await;
    let message = denied.refused(403, "AccessDeniedException");
    assert!(message.contains("lambda:InvokeFunction on resource"), "{message}");
    let grant = json!({ "StatementId": "s", "Action": "lambda:InvokeFunction", "Principal": "111122223333" });
    assert_eq!(
        node.post(&format!("{FUNCTIONS}/hello/policy"), &grant).await.status,
        201
    );
    assert_eq!(node.as_partner("POST", &invocations, "{}").await.status, 200);
    // What was not granted stays closed: reading, changing, tagging, mapping, another function.
    for (method, path) in [
        ("GET", format!("{FUNCTIONS}/{ARN}")),
        ("DELETE", format!("{FUNCTIONS}/{ARN}")),
        ("PUT", format!("{FUNCTIONS}/{ARN}/code")),
        ("POST", format!("{FUNCTIONS}/{ARN}/policy")),
        ("POST", format!("{FUNCTIONS}/{ARN}:1/invocations")),
        ("POST", format!("{FUNCTIONS}/{ARN}2/invocations")),
        ("GET", format!("/2017-03-31/tags/{ARN}")),
        ("GET", format!("/2026-07-09/resource-policy/{ARN}")),
    ] {
        let answer = node.as_partner(method, &path, "{}").await;
        answer.refused(403, "AccessDeniedException");
    }
    let own = node
        .as_partner("POST", &format!("{FUNCTIONS}/hello/invocations"), "{}")
        .await;
    own.refused(404, "ResourceNotFoundException");
    node.stop().await;
}
