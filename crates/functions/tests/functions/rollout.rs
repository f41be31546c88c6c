//! A newer version is made ready while an older one answers, and takes over without an error.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bowline_foundation::clock::{Clock, Timestamp};
use bowline_functions::error::Error;
use bowline_functions::model::{Configuration, CreateAlias, PublishVersion, UpdateAlias, UpdateCode};
use bowline_functions::name::Version;
use bowline_functions::{InvocationRequest, InvocationResponse, Rung};
use bowline_store::MemoryStore;
use bowline_store::blob::Blobs;
use serde_json::{Value, json};
use tokio::task::{JoinHandle, JoinSet};

use crate::fake::Script;
use crate::world::{World, WorldSettings, caller, creation, request, target, update};

const STALE: &str = "bowline:stale-seconds";
const BOUND: Duration = Duration::from_secs(30);

type Answer = Result<InvocationResponse, Error>;

async fn world() -> (World, Clock) {
    let clock = Clock::fake(Timestamp::from_micros(1_790_000_000_000_000));
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let store = Arc::new(MemoryStore::default());
    let settings = WorldSettings::default();
    let world = World::over_streams(store, Blobs::in_memory(), folder, settings, (clock.clone(), None)).await;
    (world, clock)
}

/// Deploys `f`, for which an older version may answer for so many seconds, and publishes version 1.
async fn deploy(world: &World, stale_seconds: Option<u64>) {
    let mut creation = creation("f", "one");
    let tags = stale_seconds.map(|seconds| (STALE.to_owned(), seconds.to_string()));
    creation.tags = tags.into_iter().collect();
    world.handle.create_function(&caller(), creation).await.unwrap();
    world.handle.settled(&target("f")).await.unwrap();
    publish(world).await;
}

async fn publish(world: &World) -> Configuration {
    let request = PublishVersion::default();
    world
        .handle
        .publish_version(&caller(), &target("f"), request)
        .await
        .unwrap()
}

/// Begins an update that publishes, and does not wait for its end.
async fn begin_update(world: &World) {
    let publishing = UpdateCode {
        publish: true,
        ..update("two")
    };
    world
        .handle
        .update_code(&caller(), &target("f"), publishing)
        .await
        .unwrap();
}

fn call(world: &World, name: &str, event: Value, is_strict: bool) -> JoinHandle<Answer> {
    let (handle, target) = (world.handle.clone(), target(name));
    tokio::spawn(async move {
        let asked = InvocationRequest {
            is_strict,
            ..request(event)
        };
        handle.invoke(&target, asked).await
    })
}

/// The code that answered, once it is certain that it is what the response says.
fn code(answer: &Answer) -> String {
    let response = answer.as_ref().unwrap();
    let body: Value = serde_json::from_slice(response.result.as_ref().unwrap()).unwrap();
    assert_eq!(
        body["version"],
        response.executed_version.to_string(),
        "the version is told truthfully"
    );
    body["code"].as_str().unwrap().to_owned()
}

/// 06/T-F1, 06/T-F9, 06/T-F11: while version 2 is made ready, version 1 answers for it; strict callers wait; then all
/// get version 2.
#[tokio::test(start_paused = true)]
async fn f_t1_the_loaded_version_answers_while_the_newer_is_made_ready() {
    let (mut world, _) = world().await;
    deploy(&world, Some(BOUND.as_secs())).await;
    assert_eq!(code(&call(&world, "f:1", json!({}), false).await.unwrap()), "one");
    world.fake.hold_prepares(true);
    begin_update(&world).await;
    let strict = call(&world, "f:2", json!({}), true);
    for _ in 0..3 {
        let lax = call(&world, "f:2", json!({}), false).await.unwrap();
        assert_eq!(
            (code(&lax), lax.unwrap().executed_version),
            ("one".to_owned(), Version::Number(1))
        );
    }
    assert!(!strict.is_finished(), "it waits for version 2");
    world.fake.hold_prepares(false);
    assert_eq!(code(&strict.await.unwrap()), "two");
    for _ in 0..100 {
        let answer = call(&world, "f:2", json!({}), false).await.unwrap();
        assert_eq!(
            (code(&answer), answer.unwrap().executed_version),
            ("two".to_owned(), Version::Number(2))
        );
    }
    world.stop().await;
}

/// Publishes version 2 and waits until it has been made ready, as far as it is without a sandbox.
async fn publish_second(world: &World) {
    begin_update(world).await;
    world.handle.settled(&target("f")).await.unwrap();
}

/// 06/T-F1, 06/T-F11: the older version answers until a sandbox of the newer one stands, however long its code has been
/// ready; strict callers wait for that sandbox.
#[tokio::test(start_paused = true)]
async fn f_t1_the_loaded_version_answers_until_the_newer_has_a_sandbox() {
    let (mut world, _) = world().await;
    deploy(&world, Some(BOUND.as_secs())).await;
    assert_eq!(code(&call(&world, "f:1", json!({}), false).await.unwrap()), "one");
    publish_second(&world).await;
    world.fake.hold_creations(true);
    for _ in 0..3 {
        assert_eq!(code(&call(&world, "f:2", json!({}), false).await.unwrap()), "one");
    }
    let strict = call(&world, "f:2", json!({}), true);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!strict.is_finished(), "it waits for version 2");
    world.fake.hold_creations(false);
    assert_eq!(code(&strict.await.unwrap()), "two");
    for _ in 0..100 {
        assert_eq!(code(&call(&world, "f:2", json!({}), false).await.unwrap()), "two");
    }
    world.stop().await;
}

/// A newer version that fails by its own fault says so to its callers; one for which the platform has no sandbox does not.
#[tokio::test(start_paused = true)]
async fn what_a_newer_version_does_wrong_is_told_to_its_callers() {
    for (script, is_told) in [(Script::InitError, true), (Script::Broken, false)] {
        let (mut world, _) = world().await;
        deploy(&world, Some(BOUND.as_secs())).await;
        call(&world, "f:1", json!({}), false).await.unwrap().unwrap();
        publish_second(&world).await;
        world.fake.create_as(Some(script));
        let first = call(&world, "f:2", json!({}), false).await.unwrap();
        assert_eq!(code(&first), "one", "it is found out beside");
        tokio::time::sleep(Duration::from_secs(3)).await;
        let then = call(&world, "f:2", json!({}), false).await.unwrap().unwrap();
        assert_eq!(then.result.is_err(), is_told);
        world.stop().await;
    }
}

/// The control: without the owner's word a version is never answered by another.
#[tokio::test(start_paused = true)]
async fn f_t11_without_a_bound_versions_never_stand_in() {
    for stale_seconds in [None, Some(0)] {
        let (mut world, _) = world().await;
        deploy(&world, stale_seconds).await;
        call(&world, "f:1", json!({}), false).await.unwrap().unwrap();
        world.fake.hold_prepares(true);
        begin_update(&world).await;
        let waiting = call(&world, "f:2", json!({}), false);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!waiting.is_finished());
        world.fake.hold_prepares(false);
        assert_eq!(code(&waiting.await.unwrap()), "two");
        world.stop().await;
    }
}

/// 06/T-F3: what is not loaded anywhere does not stand in either.
#[tokio::test(start_paused = true)]
async fn f_t3_a_version_that_is_not_loaded_does_not_stand_in() {
    let (mut world, _) = world().await;
    deploy(&world, Some(BOUND.as_secs())).await;
    world.fake.hold_prepares(true);
    begin_update(&world).await;
    let waiting = call(&world, "f:2", json!({}), false);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!waiting.is_finished());
    world.fake.hold_prepares(false);
    assert_eq!(code(&waiting.await.unwrap()), "two");
    world.stop().await;
}

/// 06/T-F6: the older version stands in for as long as the owner has said, and no longer.
#[tokio::test(start_paused = true)]
async fn f_t6_an_older_version_stands_in_no_longer_than_it_may() {
    let (mut world, clock) = world().await;
    deploy(&world, Some(BOUND.as_secs())).await;
    call(&world, "f:1", json!({}), false).await.unwrap().unwrap();
    call(&world, "f", json!({}), false).await.unwrap().unwrap();
    world.fake.hold_prepares(true);
    begin_update(&world).await;
    clock.advance(BOUND - Duration::from_secs(1));
    for name in ["f", "f:2"] {
        assert_eq!(
            code(&call(&world, name, json!({}), false).await.unwrap()),
            "one",
            "{name}"
        );
    }
    clock.advance(Duration::from_secs(2));
    for name in ["f", "f:2"] {
        // It waits for the newer one, and gives up in the end.
        let late = call(&world, name, json!({}), false).await.unwrap().map(drop);
        assert!(matches!(late, Err(Error::Conflict(_))), "{name}: {late:?}");
    }
    world.fake.hold_prepares(false);
    world.handle.settled(&target("f")).await.unwrap();
    assert_eq!(code(&call(&world, "f", json!({}), false).await.unwrap()), "two");
    world.stop().await;
}

fn file_named(folder: &Path, part: &str) -> Option<PathBuf> {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().replace('/', "").contains(part) {
                return Some(path);
            }
        }
    }
    None
}

/// 06/T-F6: corrupt code never runs; an older version answers meanwhile; repaired, it recovers without a restart.
#[tokio::test]
async fn f_t6_corrupt_code_never_runs() {
    let mut world = World::durable().await;
    deploy(&world, Some(3600)).await;
    world.redeploy("f", "two").await;
    let second = publish(&world).await;
    world.stop().await;
    let package = file_named(&world.path().join("blobs"), &second.code.digest.to_string()).expect("the package");
    let whole = std::fs::read(&package).unwrap();
    std::fs::write(&package, b"not what its name says").unwrap();
    std::fs::remove_dir_all(world.path().join("code")).unwrap();
    let mut world = world.restart().await;
    let alone = call(&world, "f:2", json!({}), false).await.unwrap().map(drop);
    assert!(
        matches!(alone, Err(Error::Service(_))),
        "nothing older is loaded: {alone:?}"
    );
    assert_eq!(code(&call(&world, "f:1", json!({}), false).await.unwrap()), "one");
    for _ in 0..3 {
        assert_eq!(code(&call(&world, "f:2", json!({}), false).await.unwrap()), "one");
    }
    let strict = call(&world, "f:2", json!({}), true).await.unwrap().map(drop);
    assert!(matches!(strict, Err(Error::Service(_))), "{strict:?}");
    std::fs::write(&package, whole).unwrap();
    assert_eq!(code(&call(&world, "f:2", json!({}), true).await.unwrap()), "two");
    assert_eq!(code(&call(&world, "f:2", json!({}), false).await.unwrap()), "two");
    world.stop().await;
}

/// 06/T-F5, 06/T-F7, 06/T-F10: a switch under load makes no error and no caller wait; what runs ends with the old code;
/// the old sandboxes go.
#[tokio::test(start_paused = true)]
async fn f_t5_a_switch_under_load_makes_no_error() {
    let (mut world, _) = world().await;
    deploy(&world, None).await;
    let long = call(&world, "f", json!({"do": "hold"}), false);
    world.fake.until(|counts| counts.invoked == 1).await;
    let load = |world: &World| -> JoinSet<Answer> {
        let asked = (0..8).map(|_| {
            let handle = world.handle.clone();
            async move { handle.invoke(&target("f"), request(json!({}))).await }
        });
        asked.collect()
    };
    let mut warm_up = load(&world);
    while let Some(answer) = warm_up.join_next().await {
        assert_eq!(code(&answer.unwrap()), "one");
    }
    world
        .handle
        .update_code(&caller(), &target("f"), update("two"))
        .await
        .unwrap();
    let mut seen = Vec::new();
    for _ in 0..100 {
        let mut round = load(&world);
        while let Some(answer) = round.join_next().await {
            let answer = answer.unwrap();
            assert_ne!(
                answer.as_ref().unwrap().rung,
                Some(Rung::Created),
                "nobody waits for a sandbox"
            );
            seen.push(code(&answer));
        }
        tokio::task::yield_now().await;
    }
    let switched = seen.iter().position(|code| code == "two").expect("it has switched");
    assert!(
        seen[switched + 8..].iter().all(|code| code == "two"),
        "and does not go back"
    );
    assert!(!long.is_finished());
    world.fake.hold_invocations(false);
    assert_eq!(
        code(&long.await.unwrap()),
        "one",
        "what ran ends with the code that it began with"
    );
    let before = world.fake.count();
    world.fake.until(|counts| counts.living() <= 9).await;
    assert!(before.created <= 18, "{before:?}");
    world.stop().await;
}

/// An alias that moves on finds sandboxes of the new version.
#[tokio::test(start_paused = true)]
async fn an_alias_moves_on_without_a_wait() {
    let (mut world, _) = world().await;
    deploy(&world, None).await;
    world.redeploy("f", "two").await;
    publish(&world).await;
    let alias = CreateAlias {
        name: "live".parse().unwrap(),
        version: Version::Number(1),
        description: String::new(),
        routing: None,
    };
    world.handle.create_alias(&caller(), &target("f"), alias).await.unwrap();
    call(&world, "f:live", json!({}), false).await.unwrap().unwrap();
    let to_two = UpdateAlias {
        version: Some(Version::Number(2)),
        ..UpdateAlias::default()
    };
    let name = "live".parse().unwrap();
    world
        .handle
        .update_alias(&caller(), &target("f"), &name, to_two)
        .await
        .unwrap();
    let answer = call(&world, "f:live", json!({}), false).await.unwrap();
    assert_eq!(
        (code(&answer), answer.unwrap().rung),
        ("two".to_owned(), Some(Rung::Prewarmed))
    );
    world.stop().await;
}
