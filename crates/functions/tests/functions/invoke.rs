//! Invocation: warm and cold sandboxes, admission, failures, and callers that go away.

use std::time::Duration;

use bowline_functions::error::{Error, Throttle};
use bowline_functions::{InvocationRequest, InvocationResponse};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::fake::Script;
use crate::world::{World, WorldSettings, caller, request, target};

type Invoked = Result<InvocationResponse, Error>;

fn hold(world: &World, name: &'static str) -> JoinHandle<Invoked> {
    let handle = world.handle.clone();
    tokio::spawn(async move { handle.invoke(&target(name), request(json!({"do": "hold"}))).await })
}

#[tokio::test]
async fn the_sandbox_used_last_is_used_first() {
    let world = World::new().await;
    world.deploy("f").await;
    let both = [hold(&world, "f"), hold(&world, "f")];
    world.fake.until(|counts| counts.invoked == 2).await;
    world.fake.hold_invocations(false);
    for one in both {
        one.await.unwrap().unwrap();
    }
    let newest = world.answer("f", json!({})).await["sandbox"].clone();
    for _ in 0..5 {
        assert_eq!(world.answer("f", json!({})).await["sandbox"], newest);
    }
    assert_eq!(world.fake.count().created, 2);
}

#[tokio::test]
async fn a_dead_sandbox_is_not_used_again() {
    let world = World::new().await;
    world.deploy("f").await;
    let first = world.answer("f", json!({"do": "die-later"})).await;
    let second = world.answer("f", json!({})).await;
    assert_ne!(first["sandbox"], second["sandbox"]);
    world.fake.until(|counts| counts.destroyed == 1).await;
}

#[tokio::test]
async fn failures_are_answers_and_broken_sandboxes_are_errors() {
    let world = World::new().await;
    world.deploy("f").await;
    let failed = world.invoke("f", json!({"do": "fail"})).await.unwrap();
    assert_eq!(failed.result.unwrap_err().error_type, "Oops");
    assert_eq!(
        world.answer("f", json!({})).await["served"],
        2,
        "a handler's error leaves the sandbox"
    );
    let late = world
        .invoke("f", json!({"do": "time-out"}))
        .await
        .unwrap()
        .result
        .unwrap_err();
    let payload: Value = serde_json::from_slice(&late.payload).unwrap();
    assert!(
        payload["errorMessage"]
            .as_str()
            .unwrap()
            .ends_with("Task timed out after 3.00 seconds")
    );
    world.fake.until(|counts| counts.destroyed == 1).await;
    assert!(matches!(
        world.invoke("f", json!({"do": "break"})).await,
        Err(Error::Service(_))
    ));
    world.fake.until(|counts| counts.destroyed == 2).await;
}

#[tokio::test]
async fn init_errors_are_function_errors() {
    let world = World::new().await;
    world.deploy("f").await;
    world.fake.create_as(Some(Script::InitError));
    let response = world.invoke("f", json!({})).await.unwrap();
    assert_eq!(response.result.unwrap_err().error_type, "Runtime.ImportModuleError");
    let log = String::from_utf8(response.log_tail.unwrap()).unwrap();
    assert!(log.starts_with("init goes wrong\nSTART RequestId: "), "{log}");
    assert!(
        log.contains("Status: error\tError Type: Runtime.ImportModuleError"),
        "{log}"
    );
    world.fake.create_as(Some(Script::Broken));
    assert!(matches!(world.invoke("f", json!({})).await, Err(Error::Service(_))));
    world.fake.create_as(None);
    assert!(world.invoke("f", json!({})).await.unwrap().result.is_ok());
}

#[tokio::test]
async fn reserved_concurrency_limits_and_frees() {
    let world = World::new().await;
    world.deploy("f").await;
    world
        .handle
        .set_reserved_concurrency(&caller(), &target("f"), Some(1))
        .await
        .unwrap();
    let first = hold(&world, "f");
    world.fake.until(|counts| counts.invoked == 1).await;
    let refused = world.invoke("f", json!({})).await;
    assert!(matches!(refused, Err(Error::Throttled(Throttle::ReservedConcurrency))));
    world.fake.hold_invocations(false);
    first.await.unwrap().unwrap();
    assert!(world.invoke("f", json!({})).await.is_ok());
    world
        .handle
        .set_reserved_concurrency(&caller(), &target("f"), Some(0))
        .await
        .unwrap();
    assert!(matches!(world.invoke("f", json!({})).await, Err(Error::Throttled(_))));
    world
        .handle
        .set_reserved_concurrency(&caller(), &target("f"), None)
        .await
        .unwrap();
    assert!(world.invoke("f", json!({})).await.is_ok());
    assert_eq!(world.metric("throttles_total{function=\"f\",reason=\"reserved\"}"), 2.0);
}

#[tokio::test]
async fn reservations_take_from_what_the_others_share() {
    let settings = WorldSettings {
        concurrency_max: 102,
        ..WorldSettings::default()
    };
    let world = World::with(settings).await;
    world.deploy("f").await;
    world.deploy("g").await;
    let set = |name, reserved| {
        let handle = world.handle.clone();
        async move {
            handle
                .set_reserved_concurrency(&caller(), &target(name), Some(reserved))
                .await
        }
    };
    assert!(matches!(set("f", 3).await, Err(Error::InvalidParameter(_))));
    set("f", 2).await.unwrap();
    assert!(matches!(set("g", 1).await, Err(Error::InvalidParameter(_))));
    assert_eq!(world.handle.account_usage(&caller()).unreserved_concurrency, 100);
    let held: Vec<_> = (0..100).map(|_| hold(&world, "g")).collect();
    world.fake.until(|counts| counts.invoked == 100).await;
    let refused = world.invoke("g", json!({})).await;
    assert!(matches!(refused, Err(Error::Throttled(Throttle::AccountConcurrency))));
    assert!(world.invoke("f", json!({})).await.is_ok(), "a reservation is kept free");
    world.fake.hold_invocations(false);
    for one in held {
        one.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn an_idle_sandbox_makes_room_for_another_function() {
    let world = World::new().await;
    world.fake.set_room(2);
    for name in ["f", "g", "h"] {
        world.deploy(name).await;
    }
    let old = world.answer("f", json!({})).await["sandbox"].clone();
    let young = world.answer("g", json!({})).await["sandbox"].clone();
    world.answer("h", json!({})).await;
    assert_eq!(world.fake.count().living(), 2);
    assert_eq!(
        world.answer("g", json!({})).await["sandbox"],
        young,
        "the longest idle one went"
    );
    assert_ne!(world.answer("f", json!({})).await["sandbox"], old);
    let held = [hold(&world, "f"), hold(&world, "g")];
    world.fake.until(|counts| counts.invoked == 7).await;
    let refused = world.invoke("h", json!({})).await;
    assert!(matches!(refused, Err(Error::Throttled(Throttle::AccountConcurrency))));
    world.fake.hold_invocations(false);
    for one in held {
        one.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn an_invocation_ends_though_its_caller_goes_away() {
    let world = World::new().await;
    world.deploy("f").await;
    let caller = hold(&world, "f");
    world.fake.until(|counts| counts.invoked == 1).await;
    caller.abort();
    assert!(caller.await.err().unwrap().is_cancelled());
    assert_eq!(world.fake.count().ended, 0);
    world.fake.hold_invocations(false);
    world.fake.until(|counts| counts.ended == 1).await;
    assert_eq!(world.answer("f", json!({})).await["served"], 2, "its sandbox came back");
}

#[tokio::test]
async fn a_sandbox_is_busy_until_everybody_in_it_has_done() {
    let world = World::new().await;
    world.deploy("f").await;
    world
        .handle
        .set_reserved_concurrency(&caller(), &target("f"), Some(1))
        .await
        .unwrap();
    for (what, settled) in [("linger", 1), ("never-settle", 2)] {
        world.fake.hold_invocations(true);
        // The caller does not wait.
        world.answer("f", json!({ "do": what })).await;
        let early = world.invoke("f", json!({})).await;
        assert!(matches!(early, Err(Error::Throttled(Throttle::ReservedConcurrency))));
        world.fake.hold_invocations(false);
        world.fake.until(|counts| counts.settled == settled).await;
        let next = world.answer("f", json!({})).await;
        assert_eq!(next["sandbox"], settled, "one that does not settle is not used again");
    }
    world.fake.until(|counts| counts.destroyed == 1).await;
}

#[tokio::test]
async fn idle_sandboxes_end() {
    let settings = WorldSettings {
        keep_alive: Duration::from_millis(50),
        ..WorldSettings::default()
    };
    let world = World::with(settings).await;
    world.deploy("f").await;
    world.answer("f", json!({})).await;
    world.fake.until(|counts| counts.destroyed == 1).await;
    assert_eq!(world.metric("sandboxes{kind=\"linux\",state=\"idle\"}"), 0.0);
    assert_eq!(world.metric("sandbox_memory_bytes{kind=\"linux\"}"), 0.0);
    // The control: one that is kept longer is told that it is idle, and lives.
    let world = World::new().await;
    world.deploy("f").await;
    world.answer("f", json!({})).await;
    let counts = world.fake.until(|counts| counts.idled == 1).await;
    assert_eq!(counts.destroyed, 0);
    assert_eq!(world.answer("f", json!({})).await["served"], 2);
}

/// Also when its sandbox was to be idle for much longer.
#[tokio::test]
async fn a_deleted_functions_code_goes() {
    let world = World::new().await;
    world.deploy("f").await;
    world.answer("f", json!({})).await;
    world.fake.until(|counts| counts.idled == 1).await;
    assert_ne!(world.blobs.list().await.unwrap().len(), 0, "the control: there is code");
    world.handle.delete_function(&caller(), &target("f")).await.unwrap();
    let collected = async {
        while !world.blobs.list().await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(crate::fake::PATIENCE, collected).await.unwrap();
}

#[tokio::test]
async fn deletion_ends_sandboxes_but_not_invocations() {
    let world = World::new().await;
    world.deploy("f").await;
    let busy = hold(&world, "f");
    world.fake.until(|counts| counts.invoked == 1).await;
    world.handle.delete_function(&caller(), &target("f")).await.unwrap();
    assert!(matches!(world.invoke("f", json!({})).await, Err(Error::NotFound(_))));
    world.fake.hold_invocations(false);
    assert!(busy.await.unwrap().unwrap().result.is_ok());
    world.fake.until(|counts| counts.destroyed == 1).await;
}

#[tokio::test]
async fn a_stop_waits_for_invocations_and_ends_all_sandboxes() {
    let mut world = World::new().await;
    world.deploy("f").await;
    world.answer("f", json!({})).await;
    let busy = hold(&world, "f");
    world.fake.until(|counts| counts.invoked == 2).await;
    let handle = world.handle.clone();
    let fake = world.fake.clone();
    let stop = tokio::spawn(async move {
        world.stop().await;
        world
    });
    // The stop has begun as soon as nobody is let in.
    while handle
        .invoke(&target("f"), request(json!({"do": "fail"})))
        .await
        .is_ok()
    {
        tokio::task::yield_now().await;
    }
    assert_eq!(fake.count().destroyed, 0);
    fake.hold_invocations(false);
    assert!(busy.await.unwrap().unwrap().result.is_ok());
    stop.await.unwrap();
    assert_eq!(fake.count().living(), 0);
}

#[tokio::test]
async fn events_are_checked_and_absent_ones_are_empty() {
    let world = World::new().await;
    world.deploy("f").await;
    let handle = &world.handle;
    let invoke = async |payload: &'static [u8]| {
        let payload = Bytes::from_static(payload);
        let request = InvocationRequest {
            payload,
            ..request(json!(null))
        };
        handle.invoke(&target("f"), request).await
    };
    assert!(invoke(b"").await.is_ok());
    let refused = invoke(b"hello").await.err().unwrap();
    assert!(
        matches!(&refused, Error::InvalidRequestContent(text)
        if text.starts_with("Could not parse request body into json")),
        "{refused}"
    );
    assert_eq!(world.fake.count().invoked, 1);
}

#[tokio::test]
async fn a_dry_run_resolves_and_runs_nothing() {
    let world = World::new().await;
    world.deploy("f").await;
    assert_eq!(world.handle.dry_run(&target("f")).unwrap().to_string(), "$LATEST");
    assert!(matches!(
        world.handle.dry_run(&target("f:none")),
        Err(Error::NotFound(_))
    ));
    assert_eq!(world.fake.count().invoked, 0);
}

#[tokio::test]
async fn invocations_are_counted() {
    let world = World::new().await;
    world.deploy("f").await;
    world.answer("f", json!({})).await;
    world.invoke("f", json!({"do": "fail"})).await.unwrap();
    assert_eq!(world.metric("invocations_total{function=\"f\",kind=\"linux\"}"), 2.0);
    assert_eq!(world.metric("cold_starts_total{function=\"f\",kind=\"linux\"}"), 1.0);
    assert_eq!(world.metric("errors_total{function=\"f\",error=\"handler\"}"), 1.0);
    assert_eq!(
        world.metric("invocation_duration_seconds_count{function=\"f\",kind=\"linux\"}"),
        2.0
    );
    assert_eq!(world.metric("sandboxes{kind=\"linux\",state=\"idle\"}"), 1.0);
    world.handle.delete_function(&caller(), &target("f")).await.unwrap();
    assert_eq!(world.metric("invocations_total{function=\"f\""), 0.0);
}
