//! `/v1/streams`: append in every form, reading in both orders, refusals.

use std::time::Duration;

use bowline_stream::{Log, Position};
use bytes::Bytes;
use serde_json::{Value, json};

use crate::harness::{Answer, TestNode, request};

const EVENTS: &str = "/v1/streams/orders/events";

/// A node with the stream `orders`.
pub async fn node() -> TestNode {
    let node = TestNode::with_engines().await;
    let made = node.post("/v1/streams", &json!({ "name": "orders" })).await;
    assert_eq!(made.status, 201, "{made:?}");
    node
}

impl TestNode {
    /// Appends, and waits until readers see what was stored: that may be a moment after its acknowledgement.
    pub async fn append(&self, media: &str, body: impl Into<Bytes>) -> Answer {
        let headers = [("content-type", media)];
        let answer = self.send(request("POST", EVENTS, &headers, body.into())).await;
        if answer.status == 201 {
            let last = answer.json()["last"].clone();
            while json!(self.end().await.to_string()).as_str() < last.as_str() {
                tokio::task::yield_now().await;
            }
        }
        answer
    }

    /// How far readers of `orders` see.
    async fn end(&self) -> Position {
        let stream = "orders~4".parse().expect("an identifier");
        let streams = self.engines().handles().streams.clone();
        streams.end(&stream).await.expect("the stream is there")
    }

    /// Appends events with these bodies; returns their positions.
    pub async fn append_bodies(&self, bodies: &[&str]) -> Vec<String> {
        let lines: Vec<String> = bodies.iter().map(|body| json!({ "body": body }).to_string()).collect();
        let answer = self.append("application/x-ndjson", lines.join("\n")).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        serde_json::from_value(answer.json()["positions"].clone()).expect("positions")
    }

    pub async fn page(&self, query: &str) -> Value {
        let answer = self.get(&format!("{EVENTS}?{query}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }
}

pub fn bodies(page: &Value) -> Vec<&str> {
    let events = page["events"].as_array().expect("events").iter();
    events.map(|event| event["body"].as_str().expect("a body")).collect()
}

#[tokio::test]
async fn a_stream_is_made_shown_and_listed_once() {
    let node = TestNode::with_engines().await;
    let body = json!({ "name": "orders", "chains": 2, "retention": { "age_max_ms": 3_600_000 } });
    let made = node.post("/v1/streams", &body).await;
    assert_eq!(
        (made.status, made.header("location")),
        (201, Some("/v1/streams/orders~2"))
    );
    node.post("/v1/streams", &body).await.problem(409, "stream_exists");
    for path in ["/v1/streams/orders", "/v1/streams/orders~2"] {
        let shown = node.get(path).await.json();
        assert_eq!(shown["retention"], json!({ "age_max_ms": 3_600_000 }));
        assert_eq!(shown["chains"].as_array().map(Vec::len), Some(2));
    }
    node.post("/v1/streams", &json!({ "name": "bills" })).await;
    let first = node.get("/v1/streams?limit=1").await.json();
    assert_eq!(first["items"][0]["name"], "bills");
    let next = first["next"].as_str().expect("a second page");
    let second = node.get(&format!("/v1/streams?limit=1&next={next}")).await.json();
    assert_eq!(second["items"][0]["name"], "orders");
    assert_eq!(second["next"], Value::Null);
    node.stop().await;
}

#[tokio::test]
async fn every_form_of_an_append_arrives_in_order() {
    let node = node().await;
    let appended = node
        .append("application/json", r#"{"events":[{"body":"a","key":"k"}]}"#)
        .await;
    assert_eq!((appended.status, appended.json()["count"].clone()), (201, json!(1)));
    node.append("application/x-ndjson", "{\"body\":\"b\"}\n{\"body_base64\":\"/w==\"}\n")
        .await;
    node.append("application/octet-stream", "c").await;
    node.append("application/vnd.bowline.events", &b"\0\0\0\0\x01d\0\0\0\0\x01e"[..])
        .await;
    let page = node.page("").await;
    let events = page["events"].as_array().expect("events");
    assert_eq!(events[0]["key"], "k");
    assert_eq!(events[2]["body_base64"], "/w==");
    let texts: Vec<&str> = events.iter().filter_map(|event| event["body"].as_str()).collect();
    assert_eq!(texts, ["a", "b", "c", "d", "e"]);
    let positions: Vec<&str> = events.iter().filter_map(|event| event["position"].as_str()).collect();
    assert!(positions.is_sorted(), "{positions:?}");
    node.stop().await;
}

#[tokio::test]
async fn an_event_with_a_token_is_stored_once() {
    let node = node().await;
    let event = |id: &str| json!({ "id": id, "body": "paid" }).to_string();
    let (one, other) = ("0".repeat(32), "00000000-0000-0000-0000-000000000001");
    let first = node.append("application/x-ndjson", event(&one)).await.json();
    let again = node.append("application/x-ndjson", event(&one)).await.json();
    assert_eq!(first, again);
    node.append("application/x-ndjson", event(other)).await;
    assert_eq!(bodies(&node.page("").await).len(), 2, "another token is another event");
    let raw = request("POST", &format!("{EVENTS}?id={one}&key=k"), &[], "paid".into());
    assert_eq!(node.send(raw).await.json(), first);
    node.stop().await;
}

#[tokio::test]
async fn pages_join_forward_and_backward() {
    let node = node().await;
    let all = ["a", "b", "c", "d", "e"];
    let positions = node.append_bodies(&all).await;
    for (order, expected) in [
        ("forward", all.to_vec()),
        ("backward", all.iter().rev().copied().collect()),
    ] {
        let (mut seen, mut from) = (Vec::new(), String::new());
        loop {
            let page = node.page(&format!("order={order}&limit=2{from}")).await;
            seen.extend(bodies(&page).into_iter().map(str::to_owned));
            from = format!("&from={}", page["next"].as_str().expect("a place"));
            if page["more"] == false {
                break;
            }
        }
        assert_eq!(seen, expected, "{order}");
    }
    assert_eq!(bodies(&node.page(&format!("from={}", positions[2])).await), ["d", "e"]);
    assert_eq!(bodies(&node.page("from=1990-01-01T00:00:00Z&limit=1").await), ["a"]);
    assert_eq!(bodies(&node.page("from=2100-01-01T00:00:00Z").await), [""; 0]);
    node.stop().await;
}

#[tokio::test]
async fn a_page_goes_to_the_streams_end_or_to_its_limit() {
    let node = node().await;
    for count in 1..=20 {
        node.append_bodies(&["x"]).await;
        let page = node.page("").await;
        assert_eq!((bodies(&page).len(), &page["more"]), (count, &json!(false)));
    }
    let page = node.page("limit=7").await;
    assert_eq!(
        (bodies(&page).len(), &page["more"]),
        (7, &json!(true)),
        "the control: a limit holds"
    );
    let page = node.page("bytes=3").await;
    assert_eq!(
        (bodies(&page).len(), &page["more"]),
        (3, &json!(true)),
        "so does a limit of bytes"
    );
    node.stop().await;
}

#[tokio::test]
async fn lines_come_with_their_place_in_the_headers() {
    let node = node().await;
    node.append_bodies(&["a", "b", "c"]).await;
    let headers = [("accept", "application/x-ndjson")];
    let answer = node
        .send(request("GET", &format!("{EVENTS}?limit=2"), &headers, Bytes::new()))
        .await;
    assert_eq!(answer.text().lines().count(), 2);
    assert_eq!(answer.header("bowline-more"), Some("true"));
    let next = answer.header("bowline-next").expect("a place");
    assert_eq!(bodies(&node.page(&format!("from={next}")).await), ["c"]);
    node.stop().await;
}

#[tokio::test]
async fn a_waiting_read_gets_the_next_event_and_an_idle_one_nothing() {
    let node = node().await;
    let idle = node.page("wait_ms=20").await;
    assert_eq!(bodies(&idle), [""; 0]);
    let query = format!("wait_ms=20000&from={}", idle["next"].as_str().expect("a place"));
    let (page, positions) = tokio::join!(node.page(&query), async {
        tokio::time::sleep(Duration::from_millis(30)).await;
        node.append_bodies(&["late"]).await
    });
    assert_eq!(page["events"][0]["position"], json!(positions[0]));
    node.stop().await;
}

#[tokio::test]
async fn trimmed_events_are_gone_and_the_reader_is_told_where_to_go_on() {
    let node = node().await;
    let positions = node.append_bodies(&["a", "b", "c"]).await;
    let trimmed = node
        .post("/v1/streams/orders/trim", &json!({ "until": positions[1] }))
        .await;
    assert_eq!(trimmed.status, 204, "{trimmed:?}");
    assert_eq!(bodies(&node.page("from=oldest").await), ["c"]);
    let path = format!("{EVENTS}?from={}", "0".repeat(56));
    let problem = node.get(&path).await.problem(410, "trimmed");
    let available = problem["available"].as_str().expect("a place");
    assert_eq!(bodies(&node.page(&format!("from={available}")).await), ["c"]);
    node.stop().await;
}

/// A request, and the status, the code and a part of the detail with which it is refused.
type Refusal = (
    &'static str,
    &'static str,
    &'static str,
    (u16, &'static str, &'static str),
);

#[rustfmt::skip]
const REFUSALS: &[Refusal] = &[
    ("GET", "/v1/streams/x", "", (404, "no_such_stream", "stream `x`")),
    ("GET", "/v1/streams/x~3", "", (404, "no_such_stream", "stream `x~3`")),
    ("GET", "/v1/streams/a%20b", "", (400, "invalid_identifier", "`a b`")),
    ("GET", "/v1/streams/orders/tail", "", (404, "not_found", "/v1/openapi.json")),
    ("GET", "/v1/objects/a/b/c", "", (404, "not_found", "no such path")),
    ("DELETE", "/v1/streams", "", (405, "method_not_allowed", "POST, GET")),
    ("GET", "/v1/streams?page=2", "", (400, "unknown_parameter", "`page`")),
    ("GET", "/v1/streams/orders/events?limit=0", "", (400, "invalid_parameter", "from 1 to 1000")),
    ("GET", "/v1/streams/orders/events?limit=1&limit=2", "", (400, "invalid_parameter", "once")),
    ("GET", "/v1/streams/orders/events?from=then", "", (400, "invalid_parameter", "`then`")),
    ("GET", "/v1/streams/orders/events?order=up", "", (400, "invalid_parameter", "`up`")),
    ("GET", "/v1/streams/orders/events?order=backward&wait_ms=5", "", (400, "invalid_parameter", "`wait_ms`")),
    ("POST", "/v1/streams", r#"{"name":"a","chainz":2}"#, (400, "invalid_body", "`chainz`")),
    ("POST", "/v1/streams", r#"{"name":"bowline.x"}"#, (403, "reserved_name", "the node's own")),
    ("POST", "/v1/streams/bowline.x~2/events", r#"{"events":[{"body":"x"}]}"#, (403, "reserved_name", "`bowline.x~2`")),
    ("POST", "/v1/streams", r#"{"name":"a","chains":1}"#, (400, "invalid_identifier", "2 to 256")),
    ("POST", "/v1/streams", "{", (400, "invalid_body", "EOF")),
    ("POST", "/v1/streams/orders/events", r#"{"events":[]}"#, (400, "invalid_body", "no records")),
    ("POST", "/v1/streams/orders/events", r#"{"events":[{"body":"","kee":""}]}"#, (400, "invalid_body", "`kee`")),
    ("POST", "/v1/streams/orders/events?key=k", r#"{"events":[{"body":""}]}"#, (400, "invalid_parameter", "`key`")),
    ("POST", "/v1/streams/orders/trim", r#"{"until":"oldest"}"#, (400, "invalid_body", "`oldest`")),
];

#[tokio::test]
async fn what_is_wrong_is_named() {
    let node = node().await;
    let headers = [("content-type", "application/json")];
    for &(method, path, body, (status, code, hint)) in REFUSALS {
        let answer = node.send(request(method, path, &headers, body.into())).await;
        let detail = answer.problem(status, code)["detail"].to_string();
        assert!(detail.contains(hint), "{detail} has no `{hint}`");
    }
    assert_eq!(node.delete("/v1/streams").await.header("allow"), Some("POST, GET"));
    let form = node.append("application/x-www-form-urlencoded", "a=b").await;
    form.problem(415, "unsupported_media_type");
    for bytes in [1_000_001, 9_000_000] {
        node.append("text/plain", vec![b'x'; bytes])
            .await
            .problem(413, "too_large");
    }
    let page = request("POST", "/v1/streams", &[("origin", "https://example.org")], "{}".into());
    node.send(page).await.problem(403, "forbidden");
    node.stop().await;
}

#[tokio::test]
async fn a_node_without_engines_says_so() {
    let node = TestNode::start().await;
    node.get("/v1/streams").await.problem(503, "unavailable");
    node.stop().await;
}

#[tokio::test]
async fn settings_are_changed_one_by_one_and_null_takes_a_limit_away() {
    let node = node().await;
    let path = "/v1/streams/orders";
    let patch = async |body: Value| {
        let headers = [("content-type", "application/json")];
        node.send(request("PATCH", path, &headers, body.to_string().into()))
            .await
    };
    let set = patch(json!({ "retention": { "age_max_ms": 5000, "bytes_max": 7 }, "chains_max": 5 })).await;
    assert_eq!(set.status, 200, "{set:?}");
    let set = patch(json!({ "retention": { "age_max_ms": null } })).await.json();
    let expected = json!({ "bytes_max": 7 });
    assert_eq!((&set["retention"], &set["chains_max"]), (&expected, &json!(5)));
    let shown = node.get(path).await.json();
    assert_eq!((&shown["retention"], &shown["chains_max"]), (&expected, &json!(5)));
    let wrong = [
        json!({ "retention": { "age": 1 } }),
        json!({ "chains_max": 0 }),
        json!({ "name": "other" }),
    ];
    for body in wrong {
        patch(body).await.problem(400, "invalid_body");
    }
    assert_eq!(node.get(path).await.json()["chains_max"], 5, "nothing was changed");
    node.stop().await;
}

#[tokio::test]
async fn a_deleted_stream_and_its_sessions_are_refused_by_name() {
    let node = node().await;
    node.append_bodies(&["a", "b"]).await;
    let made = node.post("/v1/sessions", &json!({ "stream": "orders" })).await.json();
    let batches = format!(
        "/v1/sessions/{}/batches",
        made["session"].as_str().expect("an identifier")
    );
    assert_eq!(node.post(&batches, &json!({})).await.status, 200, "control");
    assert_eq!(node.delete("/v1/streams/orders").await.status, 204);
    let gone = "no_such_stream";
    node.get("/v1/streams/orders").await.problem(404, gone);
    node.get(EVENTS).await.problem(404, gone);
    let append = json!({ "events": [{ "body": "c" }] });
    node.post(EVENTS, &append).await.problem(404, gone);
    node.delete("/v1/streams/orders").await.problem(404, gone);
    node.post(&batches, &json!({})).await.problem(404, "no_such_session");
    let made = node
        .post("/v1/streams", &json!({ "name": "orders", "chains": 2 }))
        .await;
    assert_eq!(made.status, 201, "the name is free: {made:?}");
    assert_eq!(node.page("from=oldest").await["events"], json!([]));
    node.delete("/v1/streams/bowline.audit").await.problem(404, gone);
    node.stop().await;
}
