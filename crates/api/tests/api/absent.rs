//! Features that the node does not have.

use serde_json::json;

use crate::harness::{FUNCTIONS, TestNode};

#[tokio::test]
async fn reads_find_the_default_or_nothing() {
    let node = TestNode::start().await;
    node.create("hello").await;
    for (path, expected) in [
        ("/2020-06-30/functions/hello/code-signing-config", json!({})),
        (
            "/2015-03-31/event-source-mappings?FunctionName=hello",
            json!({ "EventSourceMappings": [] }),
        ),
        (
            "/2019-09-25/functions/hello/event-invoke-config/list",
            json!({ "FunctionEventInvokeConfigs": [] }),
        ),
    ] {
        let answer = node.get(path).await;
        assert_eq!((answer.status, answer.json()), (200, expected), "{path}");
    }
    node.stop().await;
}

#[tokio::test]
async fn what_is_not_there_is_not_found() {
    let node = TestNode::start().await;
    node.create("hello").await;
    let missing = "ResourceNotFoundException";
    for (path, name) in [
        ("/2015-03-31/functions/hello/policy", missing),
        ("/2019-09-25/functions/hello/event-invoke-config", missing),
        ("/2020-04-22/code-signing-configs/arn", missing),
        ("/2020-06-30/functions/nobody/code-signing-config", missing),
        (
            "/2025-11-30/functions/hello/function-scaling-config?Qualifier=%24LATEST.PUBLISHED",
            missing,
        ),
    ] {
        node.get(path).await.refused(404, name);
    }
    node.stop().await;
}

#[tokio::test]
async fn turning_a_feature_on_is_refused() {
    let node = TestNode::start().await;
    node.create("hello").await;
    let scaling = "/2025-11-30/functions/hello/function-scaling-config?Qualifier";
    for (method, path, why) in [
        (
            "POST",
            "/2020-04-22/code-signing-configs",
            "Code signing is not available",
        ),
        (
            "POST",
            "/2025-11-30/capacity-providers",
            "Capacity providers are not available",
        ),
        ("PUT", &format!("{scaling}=%24LATEST.PUBLISHED"), "hello has none"),
    ] {
        let message = node
            .request(method, path, "{}".into())
            .await
            .refused(400, "InvalidParameterValueException");
        assert!(message.contains(why), "{message}");
    }
    for qualifier in ["", "live", "%24LATEST"] {
        let answer = node.get(&format!("{scaling}={qualifier}")).await;
        let message = answer.refused(400, "ValidationException");
        assert!(message.contains("LATEST"), "{message}");
    }
    node.stop().await;
}

#[tokio::test]
async fn unknown_operations_are_unknown() {
    let node = TestNode::start().await;
    for (method, path) in [
        ("GET", "/2099-01-01/functions"),
        ("PATCH", FUNCTIONS),
        ("GET", "/favicon.ico"),
    ] {
        node.request(method, path, "{}".into())
            .await
            .refused(404, "UnknownOperationException");
    }
    node.stop().await;
}
