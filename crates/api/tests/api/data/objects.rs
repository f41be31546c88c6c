//! `/v1/objects` and `/v1/stores`.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::harness::{Answer, TestNode, request};

impl TestNode {
    async fn with_headers(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
        let body = if body.is_null() {
            Bytes::new()
        } else {
            body.to_string().into()
        };
        self.send(request(method, path, headers, body)).await
    }
}

fn customer(name: &str) -> Value {
    json!({ "body": name, "indexes": [{ "index": "by-name", "key": name }] })
}

#[tokio::test]
async fn an_object_lives_with_its_versions() {
    let node = TestNode::with_engines().await;
    let made = node.post("/v1/objects", &customer("ada")).await;
    assert_eq!((made.status, made.header("etag")), (201, Some("\"1\"")));
    let path = made.header("location").expect("a place").to_owned();
    let shown = node.get(&path).await;
    assert_eq!(
        (shown.json()["body"].clone(), shown.header("etag")),
        (json!("ada"), Some("\"1\""))
    );
    let update = node
        .with_headers("PUT", &path, &[("if-match", "\"1\"")], &customer("eve"))
        .await;
    assert_eq!((update.status, update.header("etag")), (200, Some("\"2\"")));
    let stale = node
        .with_headers("PUT", &path, &[("if-match", "\"1\"")], &customer("bob"))
        .await;
    assert_eq!(stale.problem(412, "version_mismatch")["version"], 2);
    let keeps = node.put(&path, &json!({ "body": "eva" })).await;
    assert_eq!(keeps.json()["version"], 3, "without a condition the last writer wins");
    assert_eq!(node.get(&path).await.json()["indexes"][0]["key"], "eve");
    let stale = node
        .with_headers("DELETE", &path, &[("if-match", "\"2\"")], &Value::Null)
        .await;
    stale.problem(412, "version_mismatch");
    assert_eq!(node.delete(&path).await.status, 204);
    node.get(&path).await.problem(404, "no_such_object");
    let events = node.get(&format!("{path}/events?limit=3")).await.json();
    let kinds: Vec<&Value> = events["items"]
        .as_array()
        .expect("events")
        .iter()
        .map(|event| &event["kind"])
        .collect();
    assert_eq!(kinds, ["create", "update", "update"]);
    let rest = node
        .get(&format!(
            "{path}/events?next={}",
            events["next"].as_str().expect("more")
        ))
        .await
        .json();
    assert_eq!(rest["items"][0]["kind"], "delete");
    node.stop().await;
}

#[tokio::test]
async fn a_creation_with_a_token_makes_one_object() {
    let node = TestNode::with_engines().await;
    let make = async |key: &'static str| {
        let headers = [("idempotency-key", key)];
        let made = node
            .with_headers("POST", "/v1/objects", &headers, &customer("ada"))
            .await;
        made.json()["object"].clone()
    };
    let first = make("t").await;
    assert_eq!(make("t").await, first);
    assert_ne!(make("u").await, first);
    node.stop().await;
}

#[tokio::test]
async fn objects_are_found_by_their_keys_in_pages() {
    let node = TestNode::with_engines().await;
    for name in ["ada", "adam", "bob", "ada"] {
        node.post("/v1/objects", &customer(name)).await;
    }
    let find = async |query: &str| node.get(&format!("/v1/objects?index=by-name&{query}")).await.json();
    let count = |page: &Value| page["items"].as_array().expect("hits").len();
    assert_eq!(count(&find("key=ada").await), 2);
    assert_eq!(count(&find("prefix=ada").await), 3);
    assert_eq!(count(&find("").await), 4);
    let (mut seen, mut next) = (Vec::new(), String::new());
    loop {
        let page = find(&format!("limit=1{next}")).await;
        seen.extend(page["items"].as_array().expect("hits").clone());
        match page["next"].as_str() {
            Some(place) => next = format!("&next={place}"),
            None => break,
        }
    }
    assert_eq!(json!(seen), find("").await["items"]);
    node.stop().await;
}

#[tokio::test]
async fn a_store_that_is_away_is_named_and_creates_go_on() {
    let node = TestNode::with_engines().await;
    let mut made = Vec::new();
    while !made.iter().any(|id: &String| id.starts_with("v1.a.")) {
        let object = node.post("/v1/objects", &customer("ada")).await.json()["object"].clone();
        made.push(object.as_str().expect("an identifier").to_owned());
    }
    let in_a = made
        .iter()
        .find(|id| id.starts_with("v1.a."))
        .expect("one in the first store");
    assert_eq!(
        node.get(&format!("/v1/objects/{in_a}")).await.status,
        200,
        "the control: it is there"
    );
    node.engines().first_store.go_away();
    node.get(&format!("/v1/objects/{in_a}"))
        .await
        .problem(503, "unavailable");
    let find = "/v1/objects?index=by-name&key=ada";
    assert_eq!(node.get(find).await.json()["partial"], json!(["a"]));
    node.get(&format!("{find}&partial=refuse"))
        .await
        .problem(503, "unavailable");
    for _ in 0..4 {
        assert_eq!(node.post("/v1/objects", &customer("eve")).await.status, 201);
    }
    node.engines().first_store.come_back();
    assert_eq!(node.get(&format!("/v1/objects/{in_a}")).await.status, 200);
    assert_eq!(node.get(find).await.json()["partial"], json!([]));
    node.stop().await;
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let node = TestNode::with_engines().await;
    node.post("/v1/objects", &json!({})).await.problem(400, "invalid_body");
    node.post("/v1/objects", &json!({ "body": "", "colour": 1 }))
        .await
        .problem(400, "invalid_body");
    let bad = json!({ "body": "", "indexes": [{ "index": "a b", "key": "" }] });
    node.post("/v1/objects", &bad).await.problem(400, "invalid_body");
    node.get("/v1/objects").await.problem(400, "invalid_parameter");
    node.get("/v1/objects?index=a&key=b&prefix=c")
        .await
        .problem(400, "invalid_parameter");
    node.get("/v1/objects?index=a&next=b")
        .await
        .problem(400, "invalid_parameter");
    node.get("/v1/objects/x").await.problem(400, "invalid_identifier");
    let none = "0".repeat(32);
    node.get(&format!("/v1/objects/v1.a.{none}"))
        .await
        .problem(404, "no_such_object");
    node.get(&format!("/v1/objects/v1.zz.{none}"))
        .await
        .problem(404, "unknown_store");
    let path = format!("/v1/objects/v1.a.{none}");
    let tagged = node
        .with_headers("DELETE", &path, &[("if-match", "x")], &Value::Null)
        .await;
    tagged.problem(400, "invalid_parameter");
    node.stop().await;
}

#[tokio::test]
async fn metrics_tell_of_streams_sessions_and_stores() {
    let node = super::streams::node().await;
    node.append_bodies(&["a", "bc"]).await;
    node.page("").await;
    node.post("/v1/sessions", &json!({ "stream": "orders" })).await;
    let store = node.post("/v1/objects", &customer("ada")).await.json()["object"].clone();
    let store = store.as_str().expect("an identifier")[3..4].to_owned();
    let metrics = node.get("/metrics").await;
    for line in [
        r#"bowline_append_duration_seconds_count{stream="orders"} 1"#,
        r#"bowline_stream_appended_events_total{stream="orders"} 2"#,
        r#"bowline_stream_appended_bytes_total{stream="orders"} 3"#,
        r#"bowline_stream_read_events_total{stream="orders"} 2"#,
        r#"bowline_stream_safe_time_lag_seconds{stream="orders"} "#,
        r#"bowline_session_lag_seconds{stream="orders",session=""#,
        r#"bowline_session_parked_batches{stream="orders",session=""#,
        r#"bowline_store_weight{store="a"} 0.5"#,
        &format!(r#"bowline_objects_created_total{{store="{store}"}} 1"#),
        r#"bowline_http_requests_total{operation="AppendEvents",status="201"} 1"#,
    ] {
        assert!(metrics.text().contains(line), "{line} in {}", metrics.text());
    }
    node.stop().await;
}
