//! Provisioned concurrency and the settings that are kept, on the wire.

use serde_json::{Value, json};

use crate::harness::{FUNCTIONS, TestNode};

fn path(qualifier: &str) -> String {
    format!("/2019-09-30/functions/hello/provisioned-concurrency?Qualifier={qualifier}")
}

fn wanted(count: i64) -> Value {
    json!({ "ProvisionedConcurrentExecutions": count })
}

/// A function with versions 1 and 2 and the alias `live` on 1.
async fn published(node: &TestNode) {
    node.create("hello").await;
    for description in ["one", "two"] {
        let change = json!({ "Description": description });
        node.put(&format!("{FUNCTIONS}/hello/configuration"), &change).await;
        node.settled("hello").await;
        let made = node.post(&format!("{FUNCTIONS}/hello/versions"), &json!({})).await;
        assert_eq!(made.status, 201, "{made:?}");
    }
    let alias = json!({ "Name": "live", "FunctionVersion": "1" });
    assert_eq!(
        node.post(&format!("{FUNCTIONS}/hello/aliases"), &alias).await.status,
        201
    );
}

/// Waits until everything wanted is there.
async fn ready(node: &TestNode, qualifier: &str) -> Value {
    loop {
        let shown = node.get(&path(qualifier)).await.json();
        if shown["Status"] == "READY" {
            return shown;
        }
        assert_eq!(shown["Status"], "IN_PROGRESS", "{shown}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn provisioned_concurrency_lives_from_put_to_delete() {
    let node = TestNode::start().await;
    published(&node).await;
    node.get(&path("live"))
        .await
        .refused(404, "ProvisionedConcurrencyConfigNotFoundException");
    let put = node.put(&path("live"), &wanted(3)).await;
    assert_eq!(
        (put.status, &put.json()["RequestedProvisionedConcurrentExecutions"]),
        (202, &json!(3))
    );
    let shown = ready(&node, "live").await;
    assert_eq!(shown["AvailableProvisionedConcurrentExecutions"], 3);
    assert_eq!(shown["AllocatedProvisionedConcurrentExecutions"], 3);
    assert_eq!(node.put(&path("2"), &wanted(1)).await.status, 202);
    let list = node
        .get("/2019-09-30/functions/hello/provisioned-concurrency?List=ALL")
        .await
        .json();
    let arns: Vec<_> = list["ProvisionedConcurrencyConfigs"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|config| {
            config["FunctionArn"]
                .as_str()
                .expect("an ARN")
                .rsplit(':')
                .next()
                .expect("a part")
                .to_owned()
        })
        .collect();
    assert_eq!(arns, ["2", "live"]);
    let settings = node.get("/2016-08-19/account-settings").await.json();
    assert_eq!(settings["AccountLimit"]["UnreservedConcurrentExecutions"], 1000 - 4);
    for qualifier in ["live", "2", "live"] {
        assert_eq!(
            node.delete(&path(qualifier)).await.status,
            204,
            "also what is gone already"
        );
    }
    node.get(&path("live"))
        .await
        .refused(404, "ProvisionedConcurrencyConfigNotFoundException");
    node.stop().await;
}

#[tokio::test]
async fn what_cannot_be_provisioned_is_refused_in_the_services_words() {
    let node = TestNode::start().await;
    published(&node).await;
    let invalid = "InvalidParameterValueException";
    let unpublished = node.put(&path("%24LATEST"), &wanted(1)).await.refused(400, invalid);
    assert_eq!(
        unpublished,
        "Provisioned Concurrency Configs cannot be applied to unpublished function versions."
    );
    node.put(&path("live"), &wanted(0))
        .await
        .refused(400, "ValidationException");
    node.put(&path(""), &wanted(1))
        .await
        .refused(400, "ValidationException");
    for nobody in ["7", "dead"] {
        node.put(&path(nobody), &wanted(1))
            .await
            .refused(404, "ResourceNotFoundException");
        node.get(&path(nobody)).await.refused(404, "ResourceNotFoundException");
    }
    node.get(&path("%24LATEST")).await.refused(400, invalid);
    let all = node.put(&path("live"), &wanted(1001)).await.refused(400, invalid);
    assert!(
        all.contains("greater than account's unreserved concurrency [1000]"),
        "{all}"
    );
    let most = node.put(&path("live"), &wanted(901)).await.refused(400, invalid);
    assert!(most.contains("below its minimum value of [100]"), "{most}");

    let reserve = |count: u32| json!({ "ReservedConcurrentExecutions": count });
    let concurrency = "/2017-10-31/functions/hello/concurrency";
    node.put(concurrency, &reserve(2)).await;
    node.put(&path("live"), &wanted(3)).await.refused(400, invalid);
    assert_eq!(node.put(&path("live"), &wanted(2)).await.status, 202);
    let below = node.put(concurrency, &reserve(1)).await.refused(400, invalid);
    assert!(below.contains("total provisioned concurrency [2]"), "{below}");

    let conflict = "ResourceConflictException";
    let pointed = node.put(&path("1"), &wanted(1)).await.refused(409, conflict);
    assert_eq!(pointed, "Version is pointed by a Provisioned Concurrency alias");
    let alias = json!({ "Name": "other", "FunctionVersion": "1" });
    node.post(&format!("{FUNCTIONS}/hello/aliases"), &alias).await;
    let twice = node.put(&path("other"), &wanted(1)).await.refused(409, conflict);
    assert!(twice.contains("already Provisioned version"), "{twice}");
    let weights = json!({ "RoutingConfig": { "AdditionalVersionWeights": { "2": 0.5 } } });
    let weighted = node.put(&format!("{FUNCTIONS}/hello/aliases/live"), &weights).await;
    let weighted = weighted.refused(400, invalid);
    assert_eq!(
        weighted,
        "Alias with weights can not be used with Provisioned Concurrency"
    );
    node.stop().await;
}

#[tokio::test]
async fn settings_are_kept_and_shown() {
    let node = TestNode::start().await;
    published(&node).await;
    let runtime = "/2021-07-20/functions/hello/runtime-management-config";
    let arn = "arn:aws:lambda:eu-central-1:000000000000:function:hello";
    assert_eq!(
        node.get(runtime).await.json(),
        json!({ "UpdateRuntimeOn": "Auto", "FunctionArn": arn })
    );
    let build = "arn:aws:lambda:eu-central-1::runtime:0123456789";
    let manual = json!({ "UpdateRuntimeOn": "Manual", "RuntimeVersionArn": build });
    let put = node.put(runtime, &manual).await;
    assert_eq!((put.status, &put.json()["RuntimeVersionArn"]), (200, &json!(build)));
    let of_version = format!("{runtime}?Qualifier=1");
    node.put(&of_version, &json!({ "UpdateRuntimeOn": "FunctionUpdate" }))
        .await;
    assert_eq!(node.get(&of_version).await.json()["UpdateRuntimeOn"], "FunctionUpdate");
    assert_eq!(node.get(runtime).await.json()["UpdateRuntimeOn"], "Manual");
    node.put(runtime, &json!({ "UpdateRuntimeOn": "Auto" })).await;
    assert_eq!(node.get(runtime).await.json().get("RuntimeVersionArn"), None);
    for bad in [
        json!({ "UpdateRuntimeOn": "Manual" }),
        json!({ "UpdateRuntimeOn": "Auto", "RuntimeVersionArn": build }),
    ] {
        node.put(runtime, &bad)
            .await
            .refused(400, "InvalidParameterValueException");
    }
    node.put(runtime, &json!({})).await.refused(400, "ValidationException");

    let recursion = "/2024-08-31/functions/hello/recursion-config";
    assert_eq!(
        node.get(recursion).await.json(),
        json!({ "RecursiveLoop": "Terminate" })
    );
    for wanted in ["Allow", "Terminate"] {
        let wanted = json!({ "RecursiveLoop": wanted });
        assert_eq!(node.put(recursion, &wanted).await.json(), wanted);
        assert_eq!(node.get(recursion).await.json(), wanted);
    }
    node.put(recursion, &json!({ "RecursiveLoop": "Maybe" }))
        .await
        .refused(400, "ValidationException");
    node.stop().await;
}
