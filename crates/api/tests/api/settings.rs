//! Tags, concurrency and the account.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::harness::{FUNCTIONS, TestNode, creation};

const ARN: &str = "arn%3Aaws%3Alambda%3Aeu-central-1%3A000000000000%3Afunction%3Ahello";

#[tokio::test]
async fn tags_are_added_listed_and_removed() {
    let node = TestNode::start().await;
    node.create("hello").await;
    let path = format!("/2017-03-31/tags/{ARN}");
    let added = node.post(&path, &json!({ "Tags": { "a": "1", "b c": "2" } })).await;
    assert_eq!(added.status, 204, "{added:?}");
    assert_eq!(
        node.get(&path).await.json(),
        json!({ "Tags": { "a": "1", "b c": "2" } })
    );
    assert_eq!(node.delete(&format!("{path}?tagKeys=b+c&tagKeys=x")).await.status, 204);
    assert_eq!(node.get(&path).await.json(), json!({ "Tags": { "a": "1" } }));

    node.post(&path, &json!({})).await.refused(400, "ValidationException");
    node.delete(&path).await.refused(400, "ValidationException");
    node.get("/2017-03-31/tags/hello")
        .await
        .refused(400, "ValidationException");
    node.get(&format!("{path}%3A1"))
        .await
        .refused(400, "InvalidParameterValueException");
    node.stop().await;
}

#[tokio::test]
async fn concurrency_is_reserved_and_freed() {
    let node = TestNode::start().await;
    node.create("hello").await;
    let (put, get) = (
        "/2017-10-31/functions/hello/concurrency",
        "/2019-09-30/functions/hello/concurrency",
    );
    assert_eq!(node.get(get).await.json(), json!({}));
    let reserved = json!({ "ReservedConcurrentExecutions": 40 });
    assert_eq!(node.put(put, &reserved).await.json(), reserved);
    assert_eq!(node.get(get).await.json(), reserved);
    let settings = node.get("/2016-08-19/account-settings").await.json();
    assert_eq!(settings["AccountLimit"]["UnreservedConcurrentExecutions"], 960);
    assert_eq!(settings["AccountLimit"]["ConcurrentExecutions"], 1000);
    assert_eq!(settings["AccountUsage"]["FunctionCount"], 1);

    let too_many = json!({ "ReservedConcurrentExecutions": 901 });
    node.put(put, &too_many)
        .await
        .refused(400, "InvalidParameterValueException");
    let negative = json!({ "ReservedConcurrentExecutions": -1 });
    node.put(put, &negative).await.refused(400, "ValidationException");
    node.put(put, &json!({})).await.refused(400, "ValidationException");
    assert_eq!(node.request("DELETE", put, Bytes::new()).await.status, 204);
    assert_eq!(node.get(get).await.json(), json!({}));
    node.stop().await;
}

#[tokio::test]
async fn log_settings_are_checked_shown_and_merged() {
    let node = TestNode::start().await;
    let refused = async |config: Value, name: &str| {
        let mut body = creation("hello");
        body["LoggingConfig"] = config;
        node.post(FUNCTIONS, &body).await.refused(400, name)
    };
    for (member, value, at) in [
        ("LogFormat", "json", "logFormat"),
        ("ApplicationLogLevel", "WARNING", "applicationLogLevel"),
        ("SystemLogLevel", "ERROR", "systemLogLevel"),
        ("LogGroup", "no spaces", "logGroup"),
        ("LogGroup", "", "logGroup"),
    ] {
        let message = refused(json!({ "LogFormat": "JSON", member: value }), "ValidationException").await;
        assert!(message.contains(&format!("at 'loggingConfig.{at}'")), "{message}");
    }
    let long = json!({ "LogGroup": "g".repeat(513) });
    let message = refused(long, "ValidationException").await;
    assert!(message.contains("less than or equal to 512"), "{message}");
    for config in [
        json!({ "ApplicationLogLevel": "INFO" }),
        json!({ "LogFormat": "Text", "SystemLogLevel": "WARN" }),
    ] {
        let message = refused(config, "InvalidParameterValueException").await;
        assert!(
            message.starts_with("LogLevel is not supported when LogFormat is set to \"Text\"."),
            "{message}"
        );
    }

    let created = node.create("hello").await;
    let group = "/aws/lambda/hello";
    assert_eq!(
        created["LoggingConfig"],
        json!({ "LogFormat": "Text", "LogGroup": group })
    );
    let path = format!("{FUNCTIONS}/hello/configuration");
    for (given, shown) in [
        (
            json!({ "LogFormat": "JSON", "LogGroup": "mine/#1" }),
            json!({ "LogFormat": "JSON", "LogGroup": "mine/#1", "ApplicationLogLevel": "INFO", "SystemLogLevel": "INFO" }),
        ),
        (
            json!({ "ApplicationLogLevel": "FATAL" }),
            json!({ "LogFormat": "JSON", "LogGroup": "mine/#1", "ApplicationLogLevel": "FATAL", "SystemLogLevel": "INFO" }),
        ),
        (
            json!({ "LogFormat": "Text" }),
            json!({ "LogFormat": "Text", "LogGroup": "mine/#1" }),
        ),
    ] {
        let changed = node.put(&path, &json!({ "LoggingConfig": given })).await;
        assert_eq!(changed.status, 200, "{changed:?}");
        assert_eq!(node.settled("hello").await["LoggingConfig"], shown);
    }
    let level = json!({ "LoggingConfig": { "SystemLogLevel": "WARN" } });
    node.put(&path, &level)
        .await
        .refused(400, "InvalidParameterValueException");
    node.stop().await;
}
