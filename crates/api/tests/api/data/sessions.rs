//! `/v1/sessions`: batches, leases, parking, seeking.

use std::time::Duration;

use serde_json::{Value, json};

use super::streams::{bodies, node};
use crate::harness::{Answer, TestNode, request};

/// A session of the stream `orders`, by its path.
async fn session(node: &TestNode, settings: Value) -> String {
    let mut body = json!({ "stream": "orders" });
    for (name, value) in settings.as_object().expect("settings") {
        body[name] = value.clone();
    }
    let made = node.post("/v1/sessions", &body).await;
    assert_eq!(made.status, 201, "{made:?}");
    made.header("location").expect("a place").to_owned()
}

async fn batch(node: &TestNode, session: &str, body: Value) -> Answer {
    node.post(&format!("{session}/batches"), &body).await
}

async fn settle(node: &TestNode, session: &str, (batch, deed): (&Value, &str), body: Value) -> Answer {
    let token = batch["token"].as_str().expect("a token");
    node.post(&format!("{session}/batches/{token}/{deed}"), &body).await
}

#[tokio::test]
async fn a_batch_is_given_out_until_it_is_acknowledged() {
    let node = node().await;
    node.append_bodies(&["a", "b", "c"]).await;
    let session = session(&node, json!({})).await;
    let first = batch(&node, &session, json!({ "limit": 2, "worker": "w" }))
        .await
        .json();
    assert_eq!((bodies(&first), &first["attempt"]), (vec!["a", "b"], &json!(1)));
    assert_eq!(
        settle(&node, &session, (&first, "nack"), json!({ "reason": "no" }))
            .await
            .status,
        204
    );
    let again = batch(&node, &session, json!({})).await.json();
    assert_eq!((bodies(&again), &again["attempt"]), (vec!["a", "b"], &json!(2)));
    settle(&node, &session, (&first, "ack"), json!({}))
        .await
        .problem(409, "stale_token");
    assert_eq!(settle(&node, &session, (&again, "ack"), json!({})).await.status, 204);
    let last = batch(&node, &session, json!({})).await.json();
    assert_eq!(bodies(&last), ["c"], "what was acknowledged does not come again");
    let lease = settle(&node, &session, (&last, "extend"), json!({ "lease_ms": 60_000 }))
        .await
        .json();
    assert!(
        lease["lease_until"].as_str() > last["lease_until"].as_str(),
        "{lease} {last}"
    );
    assert_eq!(batch(&node, &session, json!({})).await.status, 204, "nothing is left");
    let shown = node.get(&session).await.json();
    assert_eq!(shown["in_flight"].as_array().map(Vec::len), Some(1));
    assert_eq!(node.delete(&session).await.status, 204);
    node.get(&session).await.problem(404, "no_such_session");
    node.stop().await;
}

#[tokio::test]
async fn a_read_acknowledges_the_batch_before() {
    let node = node().await;
    node.append_bodies(&["a", "b"]).await;
    let session = session(&node, json!({})).await;
    let first = batch(&node, &session, json!({ "limit": 1 })).await.json();
    let done = json!({ "limit": 1, "done": first["token"] });
    let second = batch(&node, &session, done.clone()).await.json();
    assert_eq!(bodies(&second), ["b"]);
    let shown = node.get(&session).await.json();
    assert_eq!(shown["in_flight"].as_array().map(Vec::len), Some(1));
    batch(&node, &session, done).await.problem(409, "stale_token");
    batch(&node, &session, json!({ "done": "no token" }))
        .await
        .problem(400, "invalid_identifier");
    let nothing = batch(&node, &session, json!({ "done": second["token"] })).await;
    assert_eq!(nothing.status, 204);
    let shown = node.get(&session).await.json();
    assert_eq!(shown["in_flight"], json!([]));
    node.stop().await;
}

#[tokio::test]
async fn a_waiting_reader_gets_the_next_event() {
    let node = node().await;
    let session = session(&node, json!({ "mode": "at_most_once" })).await;
    let (answer, _) = tokio::join!(batch(&node, &session, json!({ "wait_ms": 20_000 })), async {
        tokio::time::sleep(Duration::from_millis(30)).await;
        node.append_bodies(&["late"]).await
    });
    let batch = answer.json();
    assert_eq!((bodies(&batch), &batch["token"]), (vec!["late"], &Value::Null));
    node.stop().await;
}

#[tokio::test]
async fn parked_batches_are_listed_redriven_and_dropped() {
    let node = node().await;
    let positions = node.append_bodies(&["a", "b", "c"]).await;
    let session = session(&node, json!({})).await;
    let first = batch(&node, &session, json!({})).await.json();
    let bad = json!({ "events": [positions[1]], "park": true, "reason": "poison" });
    assert_eq!(settle(&node, &session, (&first, "nack"), bad).await.status, 204);
    assert_eq!(
        batch(&node, &session, json!({})).await.status,
        204,
        "it is not given out"
    );
    let parked = node.get(&format!("{session}/parked")).await.json();
    assert_eq!(parked["items"][0]["events"], json!([positions[1]]));
    assert_eq!(parked["items"][0]["reason"], "poison");
    let redriven = node.post(&format!("{session}/parked/redrive"), &json!({})).await.json();
    assert_eq!(redriven, json!({ "count": 1 }));
    let again = batch(&node, &session, json!({})).await.json();
    assert_eq!(bodies(&again), ["b"]);
    settle(&node, &session, (&again, "nack"), json!({ "park": true })).await;
    let number = again["batch"].clone();
    let dropped = node
        .post(&format!("{session}/parked/drop"), &json!({ "batches": [number] }))
        .await
        .json();
    assert_eq!(dropped, json!({ "count": 1 }));
    let again = node
        .post(&format!("{session}/parked/drop"), &json!({ "batches": [number] }))
        .await;
    again.problem(404, "not_parked");
    node.stop().await;
}

#[tokio::test]
async fn a_session_seeks_filters_and_is_made_once_for_a_token() {
    let node = node().await;
    let positions = node.append_bodies(&["a", "b", "c"]).await;
    let body = json!({ "stream": "orders", "filter": "body != 'b'" }).to_string();
    let make = || request("POST", "/v1/sessions", &[("idempotency-key", "t")], body.clone().into());
    let (one, same) = (node.send(make()).await.json(), node.send(make()).await.json());
    assert_eq!(one, same);
    let path = format!("/v1/sessions/{}", one["session"].as_str().expect("an identifier"));
    let filtered = batch(&node, &path, json!({})).await.json();
    let all = session(&node, json!({})).await;
    assert_eq!(bodies(&batch(&node, &all, json!({})).await.json()), ["a", "b", "c"]);
    assert_eq!(bodies(&filtered), ["a", "c"]);
    let sought = node
        .post(&format!("{all}/seek"), &json!({ "to": positions[1] }))
        .await
        .json();
    assert_eq!(sought["cursor"], json!(positions[1]));
    assert_eq!(bodies(&batch(&node, &all, json!({})).await.json()), ["c"]);
    let listed = node.get("/v1/sessions?stream=orders").await.json();
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(2));
    let page = node.get("/v1/sessions?stream=orders&limit=1").await.json();
    let next = page["next"].as_str().expect("a second page");
    let page = node
        .get(&format!("/v1/sessions?stream=orders&limit=1&next={next}"))
        .await
        .json();
    assert_eq!(page["items"].as_array().map(Vec::len), Some(1));
    node.stop().await;
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let node = node().await;
    let made = async |body: Value| node.post("/v1/sessions", &body).await;
    made(json!({ "stream": "x" })).await.problem(404, "no_such_stream");
    made(json!({ "stream": "orders", "filter": "body ==" }))
        .await
        .problem(400, "invalid_filter");
    made(json!({ "stream": "orders", "lease_ms": 1 }))
        .await
        .problem(400, "invalid_body");
    made(json!({ "stream": "orders", "from": "then" }))
        .await
        .problem(400, "invalid_body");
    made(json!({ "stream": "orders", "leese": 1 }))
        .await
        .problem(400, "invalid_body");
    node.get("/v1/sessions").await.problem(400, "invalid_parameter");
    node.get("/v1/sessions/x").await.problem(400, "invalid_identifier");
    let unknown = format!("/v1/sessions/{}", "0".repeat(32));
    node.get(&unknown).await.problem(404, "no_such_session");
    batch(&node, &unknown, json!({})).await.problem(404, "no_such_session");
    let session = session(&node, json!({})).await;
    batch(&node, &session, json!({ "limit": 0 }))
        .await
        .problem(400, "invalid_body");
    let ack = node.post(&format!("{session}/batches/1/ack"), &json!({})).await;
    ack.problem(400, "invalid_identifier");
    let ack = node
        .post(&format!("{session}/batches/1-{}/ack", "0".repeat(16)), &json!({}))
        .await;
    ack.problem(409, "stale_token");
    node.stop().await;
}
