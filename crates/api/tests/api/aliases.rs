//! Aliases.

use serde_json::json;

use crate::harness::{FUNCTIONS, TestNode};

#[tokio::test]
async fn an_alias_lives_from_creation_to_deletion() {
    let node = TestNode::start().await;
    node.create("hello").await;
    let versions = format!("{FUNCTIONS}/hello/versions");
    node.post(&versions, &json!({})).await;
    let code = json!({ "ZipFile": "AGFzbQEAAAAA" });
    node.put(&format!("{FUNCTIONS}/hello/code"), &code).await;
    node.settled("hello").await;
    assert_eq!(node.post(&versions, &json!({})).await.json()["Version"], "2");

    let aliases = format!("{FUNCTIONS}/hello/aliases");
    let created = node
        .post(
            &aliases,
            &json!({ "Name": "live", "FunctionVersion": "1", "Description": "d" }),
        )
        .await;
    assert_eq!(created.status, 201, "{created:?}");
    let created = created.json();
    assert_eq!(
        created["AliasArn"],
        "arn:aws:lambda:eu-central-1:000000000000:function:hello:live"
    );
    assert_eq!(created["FunctionVersion"], "1");
    assert!(created.get("RoutingConfig").is_none());

    let alias = format!("{aliases}/live");
    let weights = json!({ "AdditionalVersionWeights": { "2": 0.25 } });
    let updated = node.put(&alias, &json!({ "RoutingConfig": weights })).await.json();
    assert_eq!(updated["RoutingConfig"], weights);
    assert_eq!(node.get(&alias).await.json(), updated);
    let none = json!({ "RoutingConfig": { "AdditionalVersionWeights": {} } });
    assert!(node.put(&alias, &none).await.json().get("RoutingConfig").is_none());

    let listed = node.get(&format!("{aliases}?FunctionVersion=1")).await.json();
    assert_eq!(listed["Aliases"][0]["Name"], "live");
    let listed = node.get(&format!("{aliases}?FunctionVersion=2")).await.json();
    assert_eq!(listed, json!({ "Aliases": [] }));
    let shown = node.get(&format!("{FUNCTIONS}/hello:live/configuration")).await.json();
    assert_eq!(shown["Version"], "1");
    assert_eq!(shown["FunctionArn"], created["AliasArn"]);

    assert_eq!(node.delete(&alias).await.status, 204);
    assert_eq!(node.delete(&alias).await.status, 204, "deleting is idempotent");
    node.get(&alias).await.refused(404, "ResourceNotFoundException");
    node.stop().await;
}

#[tokio::test]
async fn aliases_are_refused_as_the_service_does() {
    let node = TestNode::start().await;
    node.create("hello").await;
    let aliases = format!("{FUNCTIONS}/hello/aliases");
    let check = async |body, status, name| node.post(&aliases, &body).await.refused(status, name);
    check(json!({}), 400, "ValidationException").await;
    check(
        json!({ "Name": "7", "FunctionVersion": "$LATEST" }),
        400,
        "ValidationException",
    )
    .await;
    check(
        json!({ "Name": "a", "FunctionVersion": "x" }),
        400,
        "ValidationException",
    )
    .await;
    check(
        json!({ "Name": "a", "FunctionVersion": "9" }),
        404,
        "ResourceNotFoundException",
    )
    .await;
    let weights = json!({ "AdditionalVersionWeights": { "1": 0.5, "2": 0.1 } });
    let two = json!({ "Name": "a", "FunctionVersion": "1", "RoutingConfig": weights });
    check(two, 400, "InvalidParameterValueException").await;
    let weights = json!({ "AdditionalVersionWeights": { "1": 1.5 } });
    let heavy = json!({ "Name": "a", "FunctionVersion": "1", "RoutingConfig": weights });
    check(heavy, 400, "ValidationException").await;
    node.stop().await;
}
