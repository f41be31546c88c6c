//! Destinations that are away: what is for them waits on disk, and holds up nothing else.

use std::collections::BTreeSet;

use bowline_functions::model::events::{PutEventInvoke, PutMode};
use serde_json::{Value, json};

use super::harness::Events;
use crate::world::{caller, target};

/// More than one node takes up at once for one function.
const EVENTS: usize = 600;

fn numbers(told: &[Value]) -> BTreeSet<u64> {
    let number = |told: &Value| told["requestPayload"]["n"].as_u64().unwrap();
    told.iter().map(number).collect()
}

#[tokio::test]
async fn a_destination_that_is_away_holds_up_nobody_and_is_told_later() {
    let events = Events::new().await;
    events.world.deploy("f").await;
    events.goes_to_one_that_is_away("f", "later").await;
    let bad = events.stream("bad").await;
    let change = PutEventInvoke {
        on_failure: Some(bad),
        retries_max: Some(0),
        ..PutEventInvoke::default()
    };
    let (who, f) = (caller(), target("f"));
    let put = events.world.handle.put_event_invoke(&who, &f, change, PutMode::Merge);
    put.await.unwrap();
    for n in 0..EVENTS {
        events.send("f", json!({ "n": n })).await;
    }
    events
        .until_metric("event_destination_waits_total{function=\"f\"}", EVENTS as f64)
        .await;
    // Other events of the same function go on, and other destinations are told at once.
    events.send("f", json!({ "n": 1, "do": "fail" })).await;
    assert_eq!(numbers(&events.read_until("bad", 1).await), BTreeSet::from([1]));
    assert_eq!(events.world.fake.count().ended, EVENTS + 1);
    assert_eq!(
        events.world.metric("event_destination_errors_total{function=\"f\"}"),
        0.0
    );
    // What waits outlives the node, and the function does not run again.
    let events = events.restart().await;
    events.stream("later").await;
    let told = events.read_until("later", EVENTS).await;
    assert_eq!((told.len(), numbers(&told).len()), (EVENTS, EVENTS), "each once");
    assert_eq!(told[0]["requestContext"]["condition"], "Success");
    assert_eq!(events.world.fake.count().invoked, 0);
    // The control: now that it is there, nothing waits.
    events.send("f", json!({ "n": EVENTS })).await;
    events.read_until("later", EVENTS + 1).await;
    let waited = events.world.metric("event_destination_waits_total{function=\"f\"}");
    assert!(waited <= 1.0, "{waited}");
    events.stop().await;
}

#[tokio::test]
async fn what_waits_goes_where_the_configuration_says_by_then() {
    let events = Events::new().await;
    events.world.deploy("f").await;
    events.goes_to_one_that_is_away("f", "even-later").await;
    events.goes_to_one_that_is_away("f", "later").await;
    for n in 0..3 {
        events.send("f", json!({ "n": n })).await;
    }
    events
        .until_metric("event_destination_waits_total{function=\"f\"}", 3.0)
        .await;
    // Another one that is away, which the node has not noticed yet; and then one that is not.
    let away = PutEventInvoke {
        on_success: Some("arn:aws:sqs:us-east-1:000000000000:even-later".to_owned()),
        ..PutEventInvoke::default()
    };
    events.configure("f", away).await;
    events
        .until_metric("event_destination_waits_total{function=\"f\"}", 6.0)
        .await;
    let here = PutEventInvoke {
        on_success: Some(events.stream("here").await),
        ..PutEventInvoke::default()
    };
    events.configure("f", here).await;
    assert_eq!(numbers(&events.read_until("here", 3).await), BTreeSet::from([0, 1, 2]));
    // What nobody wants any more is dropped and counted.
    events.goes_to_one_that_is_away("f", "later").await;
    events.send("f", json!({ "n": 3 })).await;
    events
        .until_metric("event_destination_waits_total{function=\"f\"}", 7.0)
        .await;
    events.configure("f", PutEventInvoke::default()).await;
    events
        .until_metric("event_destination_errors_total{function=\"f\"}", 1.0)
        .await;
    events.stop().await;
}

#[tokio::test]
async fn what_waits_for_a_function_that_is_gone_goes_where_it_was_to_go() {
    let events = Events::new().await;
    events.world.deploy("f").await;
    events.goes_to_one_that_is_away("f", "later").await;
    events.send("f", json!({ "n": 1 })).await;
    events
        .until_metric("event_destination_waits_total{function=\"f\"}", 1.0)
        .await;
    events
        .world
        .handle
        .delete_function(&caller(), &target("f"))
        .await
        .unwrap();
    events.stream("later").await;
    assert_eq!(numbers(&events.read_until("later", 1).await), BTreeSet::from([1]));
    events.stop().await;
}
