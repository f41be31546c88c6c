//! Asynchronous invocation: retries, destinations, dead letters, ages, fairness.

use std::time::Duration;

use bowline_foundation::clock::{Clock, Timestamp};
use bowline_functions::error::Error;
use bowline_functions::model::events::PutEventInvoke;
use bowline_functions::model::{Settings, UpdateConfiguration};
use serde_json::{Value, json};

use super::harness::Events;
use crate::world::{caller, request, target};

fn both(on_success: &str, on_failure: &str) -> PutEventInvoke {
    PutEventInvoke {
        on_success: Some(on_success.to_owned()),
        on_failure: Some(on_failure.to_owned()),
        ..PutEventInvoke::default()
    }
}

/// How often a function has seen an event.
fn seen(events: &Events, event: &Value) -> usize {
    events.world.fake.seen().iter().filter(|seen| *seen == event).count()
}

#[tokio::test]
async fn an_outcome_goes_where_the_configuration_says() {
    let events = Events::new().await;
    events.world.deploy("f").await;
    let (good, bad) = (events.stream("good").await, events.stream("bad").await);
    // Without a configuration nobody is told.
    events.send("f", json!({ "n": 0 })).await;
    events.world.fake.until(|counts| counts.ended == 1).await;
    events.configure("f", both(&good, &bad)).await;
    events.send("f", json!({ "n": 1 })).await;
    events.send("f", json!({ "n": 2, "do": "fail" })).await;
    let told = events.read_until("good", 1).await;
    assert_eq!(told[0]["requestPayload"], json!({ "n": 1 }));
    assert_eq!(told[0]["requestContext"]["condition"], "Success");
    assert_eq!(told[0]["requestContext"]["approximateInvokeCount"], 1);
    assert_eq!(told[0]["responsePayload"]["code"], "one");
    assert_eq!(told[0]["responseContext"]["executedVersion"], "$LATEST");
    let told = events.read_until("bad", 1).await;
    assert_eq!(told[0]["requestPayload"], json!({ "n": 2, "do": "fail" }));
    assert_eq!(told[0]["requestContext"]["condition"], "RetriesExhausted");
    assert_eq!(told[0]["requestContext"]["approximateInvokeCount"], 3);
    assert_eq!(told[0]["responseContext"]["functionError"], "Unhandled");
    assert_eq!(told[0]["responsePayload"]["errorType"], "Oops");
    assert_eq!(seen(&events, &json!({ "n": 2, "do": "fail" })), 3);
    assert_eq!(
        (events.read("good").await.len(), events.read("bad").await.len()),
        (1, 1)
    );
    events.stop().await;
}

#[tokio::test]
async fn an_event_is_tried_as_often_as_configured() {
    let events = Events::new().await;
    events.world.deploy("f").await;
    let (good, bad) = (events.stream("good").await, events.stream("bad").await);
    events.configure("f", both(&good, &bad)).await;
    events.send("f", json!({ "fails": 2 })).await;
    let told = events.read_until("good", 1).await;
    assert_eq!(told[0]["requestContext"]["approximateInvokeCount"], 3);
    let once = PutEventInvoke {
        retries_max: Some(0),
        ..both(&good, &bad)
    };
    events.configure("f", once).await;
    events.send("f", json!({ "fails": 1, "n": 1 })).await;
    let told = events.read_until("bad", 1).await;
    assert_eq!(told[0]["requestContext"]["approximateInvokeCount"], 1);
    assert_eq!(seen(&events, &json!({ "fails": 1, "n": 1 })), 1);
    events.stop().await;
}

#[tokio::test]
async fn dead_letters_are_the_events_themselves() {
    let events = Events::new().await;
    events.world.deploy("f").await;
    let dead = events.stream("dead").await;
    let mut settings = Settings::default();
    let config = json!({ "TargetArn": dead });
    settings.inert.insert("DeadLetterConfig".to_owned(), config);
    let update = UpdateConfiguration {
        settings,
        ..UpdateConfiguration::default()
    };
    let none = PutEventInvoke {
        retries_max: Some(0),
        ..PutEventInvoke::default()
    };
    events.configure("f", none).await;
    // Before there is a dead-letter target, the event is dropped.
    events.send("f", json!({ "do": "fail", "n": 0 })).await;
    events.world.fake.until(|counts| counts.ended == 1).await;
    let handle = &events.world.handle;
    handle
        .update_configuration(&caller(), &target("f"), update)
        .await
        .unwrap();
    handle.settled(&target("f")).await.unwrap();
    events.send("f", json!({ "do": "fail", "n": 1 })).await;
    assert_eq!(events.read_until("dead", 1).await, [json!({ "do": "fail", "n": 1 })]);
    let dropped = events
        .world
        .metric("events_dropped_total{function=\"f\",reason=\"failed\"}");
    assert_eq!(dropped, 1.0);
    events.stop().await;
}

#[tokio::test]
async fn an_event_that_grows_too_old_is_given_up() {
    let clock = Clock::fake(Timestamp::from_micros(1_795_217_079_123_456));
    let events = Events::at(clock.clone()).await;
    events.world.deploy("f").await;
    let (good, bad) = (events.stream("good").await, events.stream("bad").await);
    let young = PutEventInvoke {
        age_seconds_max: Some(60),
        ..both(&good, &bad)
    };
    events.configure("f", young).await;
    let handle = &events.world.handle;
    handle
        .set_reserved_concurrency(&caller(), &target("f"), Some(1))
        .await
        .unwrap();
    let busy = tokio::spawn({
        let handle = handle.clone();
        async move { handle.invoke(&target("f"), request(json!({ "do": "hold" }))).await }
    });
    events.world.fake.until(|counts| counts.invoked == 1).await;
    events.send("f", json!({ "n": 1 })).await;
    clock.advance(Duration::from_secs(61));
    let told = events.read_until("bad", 1).await;
    assert_eq!(told[0]["requestContext"]["condition"], "EventAgeExceeded");
    assert_eq!(told[0]["requestContext"]["approximateInvokeCount"], 0);
    assert!(told[0].get("responseContext").is_none());
    events.world.fake.hold_invocations(false);
    busy.await.unwrap().unwrap();
    // The control: an event that is young enough gets through.
    events.send("f", json!({ "n": 2 })).await;
    let told = events.read_until("good", 1).await;
    assert_eq!(told[0]["requestPayload"], json!({ "n": 2 }));
    assert_eq!(seen(&events, &json!({ "n": 1 })), 0);
    events.stop().await;
}

#[tokio::test]
async fn a_function_that_fails_or_is_throttled_holds_up_nobody_else() {
    let events = Events::new().await;
    for name in ["stuck", "poisoned", "well"] {
        events.world.deploy(name).await;
    }
    let good = events.stream("good").await;
    let on_success = PutEventInvoke {
        on_success: Some(good),
        ..PutEventInvoke::default()
    };
    for name in ["stuck", "well"] {
        events.configure(name, on_success.clone()).await;
    }
    let handle = &events.world.handle;
    handle
        .set_reserved_concurrency(&caller(), &target("stuck"), Some(1))
        .await
        .unwrap();
    for n in 0..40 {
        events.send("stuck", json!({ "do": "hold", "stuck": n })).await;
        events.send("poisoned", json!({ "do": "fail", "poisoned": n })).await;
    }
    events.send("well", json!({ "well": 1 })).await;
    let told = events.read_until("good", 1).await;
    assert_eq!(told[0]["requestPayload"], json!({ "well": 1 }));
    assert_eq!(events.read("good").await.len(), 1, "the other function is stuck");
    events.world.fake.hold_invocations(false);
    let told = events.read_until("good", 41).await;
    assert_eq!(told.len(), 41);
    events.stop().await;
}

#[tokio::test]
async fn a_restart_goes_on_with_what_was_accepted() {
    let events = Events::new().await;
    events.world.deploy("f").await;
    let (good, bad) = (events.stream("good").await, events.stream("bad").await);
    events.configure("f", both(&good, &bad)).await;
    let handle = &events.world.handle;
    // Nothing runs as long as one invocation holds the only place.
    handle
        .set_reserved_concurrency(&caller(), &target("f"), Some(1))
        .await
        .unwrap();
    let busy = tokio::spawn({
        let handle = handle.clone();
        async move { handle.invoke(&target("f"), request(json!({ "do": "hold" }))).await }
    });
    events.world.fake.until(|counts| counts.invoked == 1).await;
    for n in 0..50 {
        events.send("f", json!({ "n": n })).await;
    }
    assert!(events.read("good").await.is_empty());
    let free = events.world.fake.clone();
    let freed = tokio::spawn(async move { free.hold_invocations(false) });
    let events = events.restart().await;
    freed.await.unwrap();
    let _ = busy.await.unwrap();
    let mut told: Vec<i64> = events
        .read_until("good", 50)
        .await
        .iter()
        .filter_map(|told| told["requestPayload"]["n"].as_i64())
        .collect();
    told.sort_unstable();
    assert_eq!(told, (0..50).collect::<Vec<_>>());
    events.stop().await;
}

#[tokio::test]
async fn events_up_to_a_mebibyte_are_kept_whole() {
    let events = Events::new().await;
    events.world.deploy("f").await;
    let good = events.stream("good").await;
    events.configure("f", both(&good, "")).await;
    let large = json!({ "text": "x".repeat(1024 * 1024 - 11), "fails": 1 });
    let event = json!({ "text": "x".repeat(1024 * 1024 - 11) });
    assert_eq!(event.to_string().len(), 1024 * 1024);
    events.send("f", event.clone()).await;
    let told = events.read_until("good", 1).await;
    assert!(told[0].get("requestPayload").is_none(), "it does not fit in a record");
    assert_eq!(seen(&events, &event), 1);
    let refused = events.world.handle.accept(&target("f"), request(large)).await;
    assert!(matches!(refused, Err(Error::RequestTooLarge(_))), "{refused:?}");
    events.stop().await;
}

#[tokio::test]
async fn an_outcome_can_invoke_a_function_but_not_for_ever() {
    let events = Events::new().await;
    events.world.deploy("f").await;
    events.world.deploy("g").await;
    let arn = |name: &str| format!("arn:aws:lambda:us-east-1:000000000000:function:{name}");
    events.configure("f", both(&arn("g"), "")).await;
    events.send("f", json!({ "n": 1 })).await;
    events.world.fake.until(|counts| counts.ended == 2).await;
    assert_eq!(events.world.fake.seen()[1]["requestPayload"], json!({ "n": 1 }));
    // Two functions that tell each other are stopped after a while.
    events.world.deploy("h").await;
    events.configure("g", both(&arn("h"), "")).await;
    events.configure("h", both(&arn("g"), "")).await;
    events.send("g", json!({ "n": 2 })).await;
    events.world.fake.until(|counts| counts.ended == 2 + 17).await;
    let undelivered = || events.world.metric("event_destination_errors_total{function=\"g\"}");
    while undelivered() < 1.0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(events.world.fake.count().ended, 19);
    // Control: where its owner allows it, it goes on.
    let handle = &events.world.handle;
    for name in ["g", "h"] {
        handle.set_recursion(&caller(), &target(name), true).await.unwrap();
    }
    events.send("g", json!({ "n": 3 })).await;
    events.world.fake.until(|counts| counts.ended >= 19 + 2 * 17).await;
    events.stop().await;
}

#[tokio::test]
async fn a_function_that_may_not_run_keeps_nothing_waiting() {
    let events = Events::new().await;
    events.world.deploy("f").await;
    let (good, bad) = (events.stream("good").await, events.stream("bad").await);
    events.configure("f", both(&good, &bad)).await;
    let handle = &events.world.handle;
    handle
        .set_reserved_concurrency(&caller(), &target("f"), Some(0))
        .await
        .unwrap();
    events.send("f", json!({ "n": 1 })).await;
    assert_eq!(
        events.read_until("bad", 1).await[0]["requestPayload"],
        json!({ "n": 1 })
    );
    assert_eq!(events.world.fake.count().invoked, 0);
    events.stop().await;
}

#[tokio::test]
async fn destinations_and_targets_that_are_not_there_are_refused() {
    let events = Events::new().await;
    events.world.deploy("f").await;
    let check = async |arn: &str, why: &str| {
        let request = both(arn, "");
        let mode = bowline_functions::model::events::PutMode::Replace;
        let (caller, target) = (caller(), target("f"));
        let put = events.world.handle.put_event_invoke(&caller, &target, request, mode);
        let refused = put.await.unwrap_err().to_string();
        assert!(refused.contains(why), "{arn}: {refused}");
    };
    check("arn:aws:sqs:us-east-1:000000000000:nobody", "Stream not found").await;
    check(
        "arn:aws:lambda:us-east-1:000000000000:function:nobody",
        "Function not found",
    )
    .await;
    check(
        "arn:aws:events:us-east-1:000000000000:event-bus/b",
        "a destination on this node",
    )
    .await;
    check("arn:aws:s3:::bucket", "failures only").await;
    // A function is no destination of its own, by whatever qualifier, but another one is.
    events.world.deploy("g").await;
    let function = |name: &str| format!("arn:aws:lambda:us-east-1:000000000000:function:{name}");
    for itself in ["f", "f:$LATEST"] {
        check(&function(itself), "a destination for itself").await;
    }
    events.configure("f", both(&function("g"), &function("g"))).await;
    let refused = events.world.handle.accept(&target("nobody"), request(json!({}))).await;
    assert!(matches!(refused, Err(Error::NotFound(_))), "{refused:?}");
    let bad = bowline_functions::InvocationRequest {
        payload: "{".into(),
        ..request(json!({}))
    };
    let refused = events.world.handle.accept(&target("f"), bad).await;
    assert!(matches!(refused, Err(Error::InvalidRequestContent(_))), "{refused:?}");
    events.stop().await;
}
