//! Published versions.

use serde_json::{Value, json};

use crate::harness::{FUNCTIONS, TestNode};

#[tokio::test]
async fn versions_are_published_listed_and_deleted() {
    let node = TestNode::start().await;
    node.create("hello").await;
    let path = format!("{FUNCTIONS}/hello/versions");
    let published = node.post(&path, &json!({ "Description": "first" })).await;
    assert_eq!(published.status, 201, "{published:?}");
    let published = published.json();
    assert_eq!(published["Version"], "1");
    assert_eq!(published["Description"], "first");
    assert_eq!(
        published["FunctionArn"],
        "arn:aws:lambda:eu-central-1:000000000000:function:hello:1"
    );
    let listed = node.get(&path).await.json();
    let versions: Vec<&Value> = listed["Versions"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|shown| &shown["Version"])
        .collect();
    assert_eq!(versions, ["$LATEST", "1"]);

    let wrong = json!({ "CodeSha256": "AAAA" });
    node.post(&path, &wrong)
        .await
        .refused(400, "InvalidParameterValueException");
    let by_number = node.get(&format!("{FUNCTIONS}/hello?Qualifier=1")).await.json();
    assert_eq!(by_number["Configuration"]["Version"], "1");
    assert_eq!(node.delete(&format!("{FUNCTIONS}/hello?Qualifier=1")).await.status, 200);
    node.get(&format!("{FUNCTIONS}/hello:1"))
        .await
        .refused(404, "ResourceNotFoundException");
    assert_eq!(node.get(&format!("{FUNCTIONS}/hello")).await.status, 200);
    node.stop().await;
}
