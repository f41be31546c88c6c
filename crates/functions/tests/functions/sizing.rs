//! Sizes that follow what runs use, in a running service: the policy itself is tested in `capacity`.

use std::time::Duration;

use bowline_functions::model::sizing::{Mode, Reason, SizingChange};
use bowline_functions::model::{PublishVersion, Settings};
use serde_json::json;

use crate::world::{World, caller, creation, target};

/// Longer than the service takes to look at samples. The test's time jumps over it.
const SEEN: Duration = Duration::from_secs(3);

async fn set(world: &World, name: &str, change: SizingChange) {
    let (caller, target) = (caller(), target(name));
    world.handle.change_sizing(&caller, &target, change).await.unwrap();
}

/// Deploys a function that is allowed 512 MiB.
async fn deploy(world: &World, name: &str) {
    let mut creation = creation(name, "one");
    creation.settings = Settings {
        memory_mib: Some(512),
        ..Settings::default()
    };
    world.handle.create_function(&caller(), creation).await.unwrap();
    world.handle.settled(&target(name)).await.unwrap();
}

/// Runs the function so many times, each using 3 MiB, and lets the service look.
async fn run(world: &World, name: &str, times: usize) {
    for _ in 0..times {
        world.answer(name, json!({})).await;
    }
    tokio::time::sleep(SEEN).await;
}

/// What the function's next sandbox is allowed.
async fn allowed(world: &World, name: &str) -> u64 {
    world.answer(name, json!({})).await["memory"].as_u64().unwrap()
}

/// 02/T-B2, 02/T-B12: under `auto` what runs need little get less, though the configuration asks for more;
/// `suggest` advises, and what is accepted changes the next sandbox; `off` does neither.
#[tokio::test(start_paused = true)]
async fn b_t12_modes_change_advise_or_do_neither() {
    let mut world = World::new().await;
    for (name, mode) in [("auto", Mode::Auto), ("suggest", Mode::Suggest), ("off", Mode::Off)] {
        deploy(&world, name).await;
        set(&world, name, SizingChange::Mode(mode)).await;
        run(&world, name, 12).await;
    }
    assert_eq!(allowed(&world, "auto").await, 32);
    let shown = world.handle.get_function(&target("auto")).unwrap();
    assert_eq!(shown.configuration.memory.0, 512, "what was asked for is still shown");
    assert_eq!(allowed(&world, "suggest").await, 512);
    let advised = world.handle.sizing(&target("suggest")).unwrap();
    assert_eq!(advised.suggestion().unwrap().to.0, 32);
    set(&world, "suggest", SizingChange::Accept).await;
    assert_eq!(
        allowed(&world, "suggest").await,
        32,
        "the warm sandbox of the old size is gone"
    );
    assert_eq!(allowed(&world, "off").await, 512);
    let off = world.handle.sizing(&target("off")).unwrap();
    assert!(off.suggestion().is_none() && off.history().is_empty());
    assert!(
        world
            .handle
            .change_sizing(&caller(), &target("off"), SizingChange::Accept)
            .await
            .is_err(),
        "there is nothing to accept"
    );
    world.stop().await;
}

/// 02/T-B3: fewer runs than the threshold change nothing.
#[tokio::test(start_paused = true)]
async fn b_t3_fewer_runs_than_the_threshold_change_nothing() {
    let mut world = World::new().await;
    deploy(&world, "f").await;
    set(&world, "f", SizingChange::Mode(Mode::Auto)).await;
    run(&world, "f", 9).await;
    assert_eq!(allowed(&world, "f").await, 512);
    // That was the tenth.
    tokio::time::sleep(SEEN).await;
    assert_eq!(allowed(&world, "f").await, 32);
    world.stop().await;
}

/// 02/T-B5, 02/T-B11: one that fails for want of memory grows in the same service in which another shrinks.
#[tokio::test(start_paused = true)]
async fn b_t11_one_grows_and_one_shrinks() {
    let mut world = World::new().await;
    for name in ["hungry", "modest"] {
        deploy(&world, name).await;
        set(&world, name, SizingChange::Mode(Mode::Auto)).await;
    }
    for _ in 0..12 {
        world.invoke("hungry", json!({"do": "exhaust"})).await.unwrap();
    }
    run(&world, "modest", 12).await;
    assert_eq!(allowed(&world, "hungry").await, 1024);
    assert_eq!(allowed(&world, "modest").await, 32);
    world.stop().await;
}

/// 02/T-B14: a change has its evidence, an audit row, lasts over a restart, and can be taken back.
#[tokio::test(start_paused = true)]
async fn b_t14_changes_have_evidence_and_can_be_taken_back() {
    let world = World::new().await;
    deploy(&world, "f").await;
    set(&world, "f", SizingChange::Mode(Mode::Auto)).await;
    run(&world, "f", 12).await;
    let mut world = world.restart().await;
    assert_eq!(allowed(&world, "f").await, 32);
    let sizing = world.handle.sizing(&target("f")).unwrap();
    let [change] = sizing.history() else {
        panic!("{sizing:?}")
    };
    assert_eq!(
        (change.from.0, change.to.0, change.reason),
        (512, 32, Reason::UsesTooLittle)
    );
    assert!(change.evidence.len() >= 10);
    assert!(
        change
            .evidence
            .iter()
            .all(|sample| sample.peak.0 == 3 && sample.limit.0 == 512)
    );
    set(&world, "f", SizingChange::RollBack).await;
    assert_eq!(allowed(&world, "f").await, 512);
    run(&world, "f", 30).await;
    assert_eq!(allowed(&world, "f").await, 512, "it is not done again unasked");
    assert_eq!(world.handle.sizing(&target("f")).unwrap().mode(), Mode::Suggest);
    let rows = world.handle.audited("000000000000/f:$LATEST").await.unwrap();
    assert_eq!(rows, ["SetSizing", "ChangeSize", "RollBackSize", "SuggestSize"]);
    world.stop().await;
}

/// A new version begins with the size of the one before it, and counts its own runs.
#[tokio::test(start_paused = true)]
async fn a_version_begins_with_the_size_before_it() {
    let mut world = World::new().await;
    deploy(&world, "f").await;
    set(&world, "f", SizingChange::Mode(Mode::Auto)).await;
    run(&world, "f", 12).await;
    let publish = PublishVersion::default();
    world
        .handle
        .publish_version(&caller(), &target("f"), publish)
        .await
        .unwrap();
    assert_eq!(allowed(&world, "f:1").await, 32);
    assert_eq!(world.handle.sizing(&target("f:1")).unwrap().samples().count(), 0);
    world.stop().await;
}
