//! Events on the wire: asynchronous Invoke, event invoke configurations, event source mappings.

use std::sync::Arc;

use bowline_foundation::clock::Clock;
use bowline_foundation::entropy::Entropy;
use bowline_stream::session;
use bowline_stream::{Config, Log as _, NoPeers, Position, ReadLimit, Sharing, StreamId};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::harness::{Answer, FUNCTIONS, TestNode, request};

const MAPPINGS: &str = "/2015-03-31/event-source-mappings";
const SOURCE: &str = "arn:aws:kinesis:eu-central-1:000000000000:stream/orders";

/// The node's streams.
pub struct Streams {
    host: bowline_stream::Handle,
    sessions: session::Service,
    running: JoinHandle<()>,
}

impl Streams {
    pub async fn start(store: Arc<dyn bowline_store::Store>, clock: &Clock, entropy: &Entropy) -> Self {
        let options = bowline_stream::Options {
            store: store.clone(),
            blobs: None,
            clock: clock.clone(),
            entropy: entropy.clone(),
            peers: Arc::new(NoPeers),
            address: String::new(),
            sharing: Sharing::Exclusive,
            config: Config::default(),
        };
        let (service, host) = options.start().await.expect("an empty store");
        let running = tokio::spawn(service.run());
        let sessions = session::Service::start(session::Options {
            clock: clock.clone(),
            entropy: entropy.clone(),
            store,
            log: Arc::new(host.clone()),
        });
        Self {
            host,
            sessions,
            running,
        }
    }

    pub fn options(&self) -> bowline_functions::events::Options {
        bowline_functions::events::Options {
            host: self.host.clone(),
            sessions: self.sessions.handle(),
            timing: Default::default(),
            queues: None,
            buckets: None,
            folders: Vec::new(),
        }
    }

    pub async fn stop(self) {
        self.sessions.shut_down().await;
        self.running.abort();
    }

    pub async fn create(&self, name: &str) {
        let id = StreamId::new(name, 2).expect("a good name");
        self.host.create(&id, Default::default()).await.expect("a new stream");
    }

    /// Waits for the first event of a stream.
    async fn first(&self, name: &str) -> Value {
        let id = StreamId::new(name, 2).expect("a good name");
        let limit = ReadLimit {
            events: 1,
            bytes: 1_000_000,
        };
        let mut after = Position::START;
        loop {
            let page = self.host.read(&id, after, limit).await.expect("a readable stream");
            if let Some(event) = page.events.first() {
                return serde_json::from_slice(&event.body).expect("JSON");
            }
            after = page.next;
            self.host.wait(&id, after).await;
            tokio::task::yield_now().await;
        }
    }
}

async fn send(node: &TestNode, path: &str, event: &str) -> Answer {
    let headers = [("x-amz-invocation-type", "Event")];
    node.send(request("POST", path, &headers, event.to_owned().into()))
        .await
}

#[tokio::test]
async fn an_event_is_accepted_and_its_outcome_told() {
    let node = TestNode::start().await;
    node.create("hello").await;
    node.streams.create("told").await;
    let config = "/2019-09-25/functions/hello/event-invoke-config";
    let destination = json!({ "Destination": "arn:aws:sqs:eu-central-1:000000000000:told" });
    let put = json!({ "DestinationConfig": { "OnSuccess": destination } });
    assert_eq!(node.put(config, &put).await.status, 200);
    let path = format!("{FUNCTIONS}/hello/invocations");
    let accepted = send(&node, &path, r#"{"n": 1}"#).await;
    assert_eq!((accepted.status, accepted.text()), (202, ""), "{accepted:?}");
    let told = node.streams.first("told").await;
    assert_eq!(told["requestContext"]["condition"], "Success");
    assert_eq!(told["responsePayload"], json!({ "n": 1 }));
    let id = accepted.header("x-amzn-requestid").expect("a request id");
    assert_eq!(told["requestContext"]["requestId"], id);

    let older = node.post("/2014-11-13/functions/hello/invoke-async", &json!({})).await;
    assert_eq!((older.status, older.json()), (202, json!({ "Status": 202 })));
    let large = format!("\"{}\"", "x".repeat(1024 * 1024 - 1));
    let message = send(&node, &path, &large)
        .await
        .refused(413, "RequestTooLargeException");
    assert!(message.contains("Event invocation type"), "{message}");
    send(&node, &path, "{")
        .await
        .refused(400, "InvalidRequestContentException");
    let nobody = format!("{FUNCTIONS}/nobody/invocations");
    send(&node, &nobody, "{}")
        .await
        .refused(404, "ResourceNotFoundException");
    node.stop().await;
}

#[tokio::test]
async fn an_event_invoke_configuration_lives_from_put_to_delete() {
    let node = TestNode::start().await;
    node.create("hello").await;
    node.streams.create("dead").await;
    let path = "/2019-09-25/functions/hello/event-invoke-config";
    node.get(path).await.refused(404, "ResourceNotFoundException");
    let absent = node.post(path, &json!({ "MaximumRetryAttempts": 1 })).await;
    absent.refused(404, "ResourceNotFoundException");
    let arn = "arn:aws:sqs:eu-central-1:000000000000:dead";
    let put = json!({
        "MaximumRetryAttempts": 0,
        "MaximumEventAgeInSeconds": 3600,
        "DestinationConfig": { "OnFailure": { "Destination": arn } },
    });
    let shown = node.put(path, &put).await.json();
    let expected = json!({
        "LastModified": 1_795_217_079.123,
        "FunctionArn": "arn:aws:lambda:eu-central-1:000000000000:function:hello:$LATEST",
        "MaximumRetryAttempts": 0,
        "MaximumEventAgeInSeconds": 3600,
        "DestinationConfig": { "OnSuccess": {}, "OnFailure": { "Destination": arn } },
    });
    assert_eq!(shown, expected);
    assert_eq!(node.get(path).await.json(), expected);
    let updated = node.post(path, &json!({ "MaximumRetryAttempts": 2 })).await.json();
    assert_eq!(updated["MaximumRetryAttempts"], 2);
    assert_eq!(updated["MaximumEventAgeInSeconds"], 3600, "an update leaves the rest");
    let replaced = node.put(path, &json!({ "MaximumRetryAttempts": 1 })).await.json();
    assert!(
        replaced.get("MaximumEventAgeInSeconds").is_none(),
        "a put leaves nothing"
    );
    let listed = node.get(&format!("{path}/list")).await.json();
    assert_eq!(listed["FunctionEventInvokeConfigs"], json!([replaced]));
    for (body, name) in [
        (json!({}), "InvalidParameterValueException"),
        (json!({ "MaximumRetryAttempts": 3 }), "ValidationException"),
        (json!({ "MaximumEventAgeInSeconds": 59 }), "ValidationException"),
        (
            json!({ "DestinationConfig": { "OnFailure": { "Destination": "arn:aws:s3:::b" } } }),
            "InvalidParameterValueException",
        ),
    ] {
        node.put(path, &body).await.refused(400, name);
    }
    assert_eq!(node.delete(path).await.status, 204);
    node.get(path).await.refused(404, "ResourceNotFoundException");
    node.stop().await;
}

#[tokio::test]
async fn an_event_source_mapping_lives_from_creation_to_deletion() {
    let node = TestNode::start().await;
    node.create("hello").await;
    node.streams.create("orders").await;
    let create = json!({
        "FunctionName": "hello",
        "EventSourceArn": SOURCE,
        "StartingPosition": "TRIM_HORIZON",
        "FilterCriteria": { "Filters": [{ "Pattern": "{\"data\": {\"n\": [1]}}" }] },
    });
    let created = node.post(MAPPINGS, &create).await;
    assert_eq!(created.status, 202, "{created:?}");
    let created = created.json();
    let id = created["UUID"].as_str().expect("an id").to_owned();
    let expected = json!({
        "UUID": id,
        "EventSourceMappingArn": format!("arn:aws:lambda:eu-central-1:000000000000:event-source-mapping:{id}"),
        "EventSourceArn": SOURCE,
        "FunctionArn": "arn:aws:lambda:eu-central-1:000000000000:function:hello",
        "State": "Creating",
        "StateTransitionReason": "User action",
        "LastProcessingResult": "No records processed",
        "LastModified": 1_795_217_079.123,
        "StartingPosition": "TRIM_HORIZON",
        "BatchSize": 100,
        "MaximumBatchingWindowInSeconds": 0,
        "ParallelizationFactor": 1,
        "MaximumRecordAgeInSeconds": -1,
        "MaximumRetryAttempts": -1,
        "BisectBatchOnFunctionError": false,
        "TumblingWindowInSeconds": 0,
        "FunctionResponseTypes": [],
        "FilterCriteria": { "Filters": [{ "Pattern": "{\"data\": {\"n\": [1]}}" }] },
        "DestinationConfig": { "OnFailure": {} },
    });
    assert_eq!(created, expected);
    let path = format!("{MAPPINGS}/{id}");
    while node.get(&path).await.json()["State"] != "Enabled" {
        tokio::task::yield_now().await;
    }
    node.post(MAPPINGS, &create)
        .await
        .refused(409, "ResourceConflictException");
    let update = json!({ "Enabled": false, "BatchSize": 7 });
    let updated = node.put(&path, &update).await;
    assert_eq!((updated.status, &updated.json()["State"]), (202, &json!("Updating")));
    let shown = node.get(&path).await.json();
    assert_eq!((&shown["State"], &shown["BatchSize"]), (&json!("Disabled"), &json!(7)));
    for (query, count) in [("", 1), ("?FunctionName=hello", 1), ("?FunctionName=other", 0)] {
        let listed = node.get(&format!("{MAPPINGS}{query}")).await.json();
        assert_eq!(
            listed["EventSourceMappings"].as_array().map(Vec::len),
            Some(count),
            "{query}"
        );
    }
    let deleted = node.delete(&path).await;
    assert_eq!((deleted.status, &deleted.json()["State"]), (202, &json!("Deleting")));
    node.get(&path).await.refused(404, "ResourceNotFoundException");
    node.stop().await;
}

#[tokio::test]
async fn a_mapping_shows_whether_it_counts_events() {
    let node = TestNode::start().await;
    node.create("hello").await;
    node.streams.create("orders").await;
    let counting = json!({ "Metrics": ["EventCount"] });
    let create = json!({
        "FunctionName": "hello", "EventSourceArn": SOURCE, "StartingPosition": "LATEST", "MetricsConfig": counting,
    });
    let created = node.post(MAPPINGS, &create).await;
    assert_eq!(created.status, 202, "{created:?}");
    let created = created.json();
    assert_eq!(created["MetricsConfig"], counting);
    let path = format!("{MAPPINGS}/{}", created["UUID"].as_str().expect("an id"));
    let updated = node.put(&path, &json!({ "BatchSize": 7 })).await.json();
    assert_eq!(updated["MetricsConfig"], counting, "what is not named stays");
    assert_eq!(node.get(&path).await.json()["MetricsConfig"], counting);
    let updated = node
        .put(&path, &json!({ "MetricsConfig": { "Metrics": [] } }))
        .await
        .json();
    assert!(updated.get("MetricsConfig").is_none(), "{updated}");
    assert!(node.get(&path).await.json().get("MetricsConfig").is_none());
    node.stop().await;
}

#[tokio::test]
async fn a_mapping_has_tags() {
    let node = TestNode::start().await;
    node.create("hello").await;
    node.streams.create("orders").await;
    let create = json!({
        "FunctionName": "hello", "EventSourceArn": SOURCE, "StartingPosition": "LATEST", "Tags": { "team": "orders" },
    });
    let created = node.post(MAPPINGS, &create).await.json();
    assert!(created.get("Tags").is_none(), "tags are listed, not shown: {created}");
    let arn = created["EventSourceMappingArn"].as_str().expect("an ARN").to_owned();
    let path = format!("/2017-03-31/tags/{arn}");
    let tags = async || node.get(&path).await.json()["Tags"].clone();
    assert_eq!(tags().await, json!({ "team": "orders" }));
    let added = node
        .post(&path, &json!({ "Tags": { "team": "bills", "tier": "1" } }))
        .await;
    assert_eq!((added.status, added.text()), (204, ""));
    assert_eq!(tags().await, json!({ "team": "bills", "tier": "1" }));
    assert_eq!(node.delete(&format!("{path}?tagKeys=team&tagKeys=x")).await.status, 204);
    assert_eq!(tags().await, json!({ "tier": "1" }));
    // The function's own tags are others.
    let function = node
        .get("/2017-03-31/tags/arn:aws:lambda:eu-central-1:000000000000:function:hello")
        .await;
    assert_eq!(function.json()["Tags"], json!({}));

    let many: serde_json::Map<String, Value> = (0..50).map(|n| (n.to_string(), json!(""))).collect();
    let invalid = "InvalidParameterValueException";
    node.post(&path, &json!({ "Tags": many })).await.refused(400, invalid);
    assert_eq!(tags().await, json!({ "tier": "1" }), "all or nothing");
    for other in [
        arn.replace("eu-central-1", "eu-west-1"),
        arn.replace("000000000000", "111122223333"),
        format!("{}{}", &arn[..arn.len() - 12], "000000000000"),
    ] {
        let message = node.get(&format!("/2017-03-31/tags/{other}")).await;
        let message = message.refused(404, "ResourceNotFoundException");
        assert_eq!(message, format!("Event source mapping not found: {other}"));
    }
    for bad in [
        format!("{arn}:live"),
        "arn:aws:lambda:eu-central-1:000000000000:layer:l".to_owned(),
    ] {
        node.get(&format!("/2017-03-31/tags/{bad}"))
            .await
            .refused(400, "ValidationException");
    }
    let id = created["UUID"].as_str().expect("an id");
    node.delete(&format!("{MAPPINGS}/{id}")).await;
    node.get(&path).await.refused(404, "ResourceNotFoundException");
    node.stop().await;
}

#[tokio::test]
async fn mappings_are_refused_as_the_service_does() {
    let node = TestNode::start().await;
    node.create("hello").await;
    node.streams.create("orders").await;
    let invalid = "InvalidParameterValueException";
    let check = async |member: &str, value: Value, name: &str| {
        let mut body = json!({
            "FunctionName": "hello",
            "EventSourceArn": SOURCE,
            "StartingPosition": "LATEST",
        });
        body[member] = value;
        node.post(MAPPINGS, &body).await.refused(400, name)
    };
    check("FunctionName", Value::Null, "ValidationException").await;
    check("StartingPosition", Value::Null, invalid).await;
    check("StartingPosition", json!("FIRST"), "ValidationException").await;
    check("StartingPosition", json!("AT_TIMESTAMP"), invalid).await;
    check("StartingPositionTimestamp", json!(1.5), invalid).await;
    check(
        "EventSourceArn",
        json!("arn:aws:sqs:eu-central-1:000000000000:orders"),
        invalid,
    )
    .await;
    check("BatchSize", json!(10_001), "ValidationException").await;
    check("FunctionResponseTypes", json!(["Other"]), "ValidationException").await;
    let function = "arn:aws:lambda:eu-central-1:000000000000:function:hello";
    for (destination, name) in [("foo", "ValidationException"), (function, invalid)] {
        let config = json!({ "OnFailure": { "Destination": destination } });
        check("DestinationConfig", config, name).await;
    }
    for metrics in [json!(["Others"]), json!(vec!["EventCount"; 4])] {
        check("MetricsConfig", json!({ "Metrics": metrics }), "ValidationException").await;
    }
    check("FilterCriteria", json!({ "Filters": [{ "Pattern": "[]" }] }), invalid).await;
    for (member, value) in [
        ("TumblingWindowInSeconds", json!(30)),
        ("Topics", json!(["t"])),
        ("MetricsConfig", json!({ "Metrics": ["EventCount", "KafkaMetrics"] })),
        ("MetricsConfig", json!({ "Metrics": ["ErrorCount"] })),
        ("ProvisionedPollerConfig", json!({ "MinimumPollers": 2 })),
        ("LoggingConfig", json!({ "SystemLogLevel": "INFO" })),
        ("ScalingConfig", json!({ "MaximumConcurrency": 2 })),
    ] {
        let message = check(member, value, invalid).await;
        assert!(message.contains(member), "{message}");
    }
    assert_eq!(
        check("FunctionName", json!("nobody"), invalid).await,
        "Function does not exist"
    );
    let message = check("Tags", json!({ "aws:x": "y" }), invalid).await;
    assert!(message.contains("reserved"), "{message}");
    let listed = node.get(MAPPINGS).await.json();
    assert_eq!(listed, json!({ "EventSourceMappings": [] }), "nothing is left behind");
    node.stop().await;
}
