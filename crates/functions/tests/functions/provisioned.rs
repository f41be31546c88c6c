//! Provisioned concurrency: what is kept initialised, and what becomes of it.

use std::time::Duration;

use bowline_foundation::units::Mebibytes;
use bowline_functions::error::{Error, Throttle};
use bowline_functions::model::attached::{ProvisionedConfig, ProvisionedStatus};
use bowline_functions::model::{CreateAlias, PublishVersion, UpdateAlias};
use bowline_functions::name::Version;
use serde_json::{Value, json};

use crate::fake::{PATIENCE, Script};
use crate::world::{World, WorldSettings, caller, creation, target};

/// A function with version 1 and the alias `live`.
async fn published(world: &World) {
    world.deploy("f").await;
    publish(world).await;
    let alias = CreateAlias {
        name: "live".parse().unwrap(),
        version: Version::Number(1),
        description: String::new(),
        routing: None,
    };
    world.handle.create_alias(&caller(), &target("f"), alias).await.unwrap();
}

async fn publish(world: &World) {
    let publish = PublishVersion::default();
    world
        .handle
        .publish_version(&caller(), &target("f"), publish)
        .await
        .unwrap();
}

async fn put(world: &World, name: &str, count: u32) -> ProvisionedConfig {
    world
        .handle
        .put_provisioned(&caller(), &target(name), count)
        .await
        .unwrap()
}

/// Waits until the status is as wanted.
async fn status(world: &World, name: &str, wanted: ProvisionedStatus) -> ProvisionedConfig {
    let reached = tokio::time::timeout(PATIENCE, async {
        loop {
            let found = world.handle.get_provisioned(&target(name)).unwrap();
            if found.status == wanted {
                return found;
            }
            tokio::task::yield_now().await;
        }
    });
    reached
        .await
        .unwrap_or_else(|_| panic!("{:?}", world.handle.get_provisioned(&target(name))))
}

fn initialised(answer: &Value) -> Option<&str> {
    answer["variables"]["AWS_LAMBDA_INITIALIZATION_TYPE"].as_str()
}

#[tokio::test]
async fn sandboxes_are_initialised_before_they_are_asked_for_and_stay() {
    let settings = WorldSettings {
        keep_alive: Duration::from_millis(40),
        ..WorldSettings::default()
    };
    let mut world = World::with(settings).await;
    published(&world).await;
    put(&world, "f:live", 2).await;
    world.fake.until(|counts| counts.created == 2).await;
    assert_eq!(status(&world, "f:live", ProvisionedStatus::Ready).await.available, 2);
    for name in ["f:live", "f:1", "f:live"] {
        let answer = world.answer(name, json!({})).await;
        assert_eq!(initialised(&answer), Some("provisioned-concurrency"), "{name}");
    }
    assert_eq!(world.metric("cold_starts_total{function=\"f\""), 0.0);
    // Control: a sandbox made for an invocation is of the other kind, and ends when it was idle for long.
    let answer = world.answer("f", json!({})).await;
    assert_eq!(initialised(&answer), None);
    world.fake.until(|counts| counts.destroyed == 1).await;
    assert_eq!(world.fake.count().living(), 2);
    world.stop().await;
    assert_eq!(world.fake.count().living(), 0);
}

#[tokio::test]
async fn what_breaks_is_made_anew() {
    let mut world = World::new().await;
    published(&world).await;
    put(&world, "f:1", 2).await;
    world.fake.until(|counts| counts.created == 2).await;
    let response = world.invoke("f:1", json!({ "do": "time-out" })).await.unwrap();
    assert!(response.result.is_err(), "a sandbox that is not used again");
    world
        .fake
        .until(|counts| counts.created == 3 && counts.living() == 2)
        .await;
    world.invoke("f:1", json!({ "do": "die-later" })).await.unwrap();
    world
        .fake
        .until(|counts| counts.created == 4 && counts.living() == 2)
        .await;
    assert_eq!(status(&world, "f:1", ProvisionedStatus::Ready).await.available, 2);
    world.stop().await;
}

#[tokio::test]
async fn it_follows_its_alias_changes_its_size_and_goes() {
    let mut world = World::new().await;
    published(&world).await;
    world.redeploy("f", "two").await;
    publish(&world).await;
    put(&world, "f:live", 2).await;
    world.fake.until(|counts| counts.created == 2).await;
    let to_two = UpdateAlias {
        version: Some(Version::Number(2)),
        ..UpdateAlias::default()
    };
    let alias = "live".parse().unwrap();
    world
        .handle
        .update_alias(&caller(), &target("f"), &alias, to_two)
        .await
        .unwrap();
    world
        .fake
        .until(|counts| counts.created == 4 && counts.living() == 2)
        .await;
    let answer = world.answer("f:2", json!({})).await;
    assert_eq!(
        (initialised(&answer), &answer["version"]),
        (Some("provisioned-concurrency"), &json!("2"))
    );
    put(&world, "f:live", 1).await;
    world.fake.until(|counts| counts.living() == 1).await;
    world
        .handle
        .delete_provisioned(&caller(), &target("f:live"))
        .await
        .unwrap();
    world.fake.until(|counts| counts.living() == 0).await;
    assert_eq!(
        world.handle.audited("000000000000/f:live").await.unwrap(),
        [
            "CreateAlias",
            "PutProvisionedConcurrencyConfig",
            "UpdateAlias",
            "PutProvisionedConcurrencyConfig",
            "DeleteProvisionedConcurrencyConfig"
        ]
    );
    world.stop().await;
}

#[tokio::test]
async fn a_restart_keeps_the_same_again() {
    let world = World::durable().await;
    published(&world).await;
    put(&world, "f:live", 3).await;
    let mut world = world.restart().await;
    world.fake.until(|counts| counts.created == 3).await;
    status(&world, "f:live", ProvisionedStatus::Ready).await;
    world.stop().await;
}

#[tokio::test]
async fn a_function_that_cannot_initialise_fails_with_a_reason() {
    let mut world = World::new().await;
    published(&world).await;
    world.fake.create_as(Some(Script::InitError));
    put(&world, "f:live", 1).await;
    let failed = ProvisionedStatus::Failed("FUNCTION_ERROR_INIT_FAILURE".to_owned());
    assert_eq!(status(&world, "f:live", failed).await.available, 0);
    world.fake.create_as(None);
    put(&world, "f:live", 1).await;
    status(&world, "f:live", ProvisionedStatus::Ready).await;
    world.stop().await;
}

/// What cannot fit takes nobody's room; the control, which fits, takes what is idle.
#[tokio::test]
async fn what_cannot_fit_costs_no_other_its_sandbox() {
    let settings = WorldSettings {
        memory_budget: Mebibytes(200),
        ..WorldSettings::default()
    };
    let mut world = World::with(settings).await;
    let mut large = creation("large", "one");
    large.settings.memory_mib = Some(256);
    world.handle.create_function(&caller(), large).await.unwrap();
    world.handle.settled(&target("large")).await.unwrap();
    let version = PublishVersion::default();
    let made = world.handle.publish_version(&caller(), &target("large"), version).await;
    made.unwrap();
    published(&world).await;
    world.deploy("g").await;
    world.answer("g", json!({})).await;
    put(&world, "large:1", 1).await;
    let full = ProvisionedStatus::Failed(Error::Throttled(Throttle::Memory).to_string());
    status(&world, "large:1", full).await;
    assert_eq!(world.fake.count().living(), 1, "the idle one of `g` lives");
    put(&world, "f:1", 1).await;
    status(&world, "f:1", ProvisionedStatus::Ready).await;
    assert_eq!(world.fake.count().living(), 1, "it made room");
    world.stop().await;
}

#[tokio::test]
async fn it_is_held_against_the_account_and_used_first() {
    let settings = WorldSettings {
        concurrency_max: 102,
        ..WorldSettings::default()
    };
    let mut world = World::with(settings).await;
    published(&world).await;
    world.deploy("g").await;
    put(&world, "f:live", 2).await;
    status(&world, "f:live", ProvisionedStatus::Ready).await;
    let mut running = tokio::task::JoinSet::new();
    let mut hold = |name: &'static str, count: usize| {
        for _ in 0..count {
            let handle = world.handle.clone();
            running.spawn(async move {
                let held = crate::world::request(json!({ "do": "hold" }));
                handle.invoke(&target(name), held).await.map(drop)
            });
        }
    };
    // What is left over is for all others.
    hold("g", 100);
    world.fake.until(|counts| counts.invoked == 100).await;
    let refused = world.invoke("g", json!({})).await.map(drop);
    assert!(matches!(refused, Err(Error::Throttled(Throttle::AccountConcurrency))));
    // Two more find a place of their own; the third is one of the others.
    hold("f:live", 2);
    world.fake.until(|counts| counts.invoked == 102).await;
    let refused = world.invoke("f:live", json!({})).await.map(drop);
    assert!(matches!(refused, Err(Error::Throttled(Throttle::AccountConcurrency))));
    world.fake.hold_invocations(false);
    while let Some(ended) = running.join_next().await {
        ended.unwrap().unwrap();
    }
    world.stop().await;
}
