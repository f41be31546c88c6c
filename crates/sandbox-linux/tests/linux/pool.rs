//! Cells that wait for a function, and the frozen sleep between invocations.

use std::time::Duration;

use bowline_foundation::units::Mebibytes;
use bowline_sandbox::{Backend, PrepareError, Runtime, VersionSpec};
use bowline_sandbox_linux::Reserve;
use serde_json::json;

use crate::harness::{World, python};

/// Longer than it takes until cells are ready.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until so many cells of a runtime are ready.
async fn until_ready(world: &World, runtime: Runtime, count: usize) {
    let until = async {
        while world.backend.standing(runtime).0 != count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let came = tokio::time::timeout(PATIENCE, until).await;
    assert!(
        came.is_ok(),
        "{:?} are ready, not {count}",
        world.backend.standing(runtime)
    );
}

/// 14/T-N1, 14/T-N9 and 14/T-N11, with real cells.
#[tokio::test(flavor = "multi_thread")]
async fn t_n1_and_n11_cells_wait_before_any_request_and_follow_the_reserve() {
    let world = World::start(2);
    let Some(runtime) = python() else {
        return;
    };
    assert_eq!(
        world.backend.standing(runtime),
        (0, 0),
        "the control: no function of it is there"
    );
    world.backend.prepare(&version(&world, runtime, "ada")).await.unwrap();
    until_ready(&world, runtime, 2).await;
    let mut live = world.create(version(&world, runtime, "ada")).await.expect("it starts");
    assert_eq!(live.ask(json!({})).await, json!(["ada", 1]));
    assert_eq!(world.backend.standing(runtime).1, 0, "one that waited serves");
    until_ready(&world, runtime, 2).await;
    let reserve = |count_min, mib| Reserve {
        count_min,
        budget: Mebibytes(mib),
    };
    world.backend.set_reserve(reserve(4, 4096));
    until_ready(&world, runtime, 4).await;
    // Over its budget the surplus goes at once, and what serves is not touched.
    world.backend.set_reserve(reserve(4, 1));
    until_ready(&world, runtime, 0).await;
    assert_eq!(live.ask(json!({})).await, json!(["ada", 2]));
    let another = world.create(version(&world, runtime, "bob")).await.expect("it starts");
    assert_eq!(world.backend.standing(runtime).1, 1, "a miss is counted");
    another.sandbox.destroy().await;
    live.sandbox.destroy().await;
    world.backend.shut_down().await;
}

const WHO: &str = "import os\nstate = []\ndef handler(event, context):\n    state.append(1)\n    return [os.environ.get('WHO'), len(state)]\n";

fn version(world: &World, runtime: Runtime, who: &str) -> VersionSpec {
    let mut version = world.version(runtime, "app.handler", world.code(&[("app.py", WHO.as_bytes())]));
    version.environment.insert("WHO".to_owned(), who.to_owned());
    version
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cell_of_the_pool_becomes_one_function_only() {
    let world = World::start(2);
    let Some(runtime) = python() else {
        return;
    };
    for who in ["first", "second", "third", "fourth"] {
        let mut live = world.create(version(&world, runtime, who)).await.expect("it starts");
        assert_eq!(live.ask(json!({})).await, json!([who, 1]));
        live.sandbox.idle().await;
        assert!(live.sandbox.is_alive());
        assert!(live.sandbox.resident_bytes() > 0);
        assert_eq!(live.ask(json!({})).await, json!([who, 2]), "after a frozen sleep");
        live.sandbox.destroy().await;
    }
    world.backend.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_interpreter_is_named() {
    let world = World::start(0);
    let version = version(&world, Runtime::Python { minor: 98 }, "nobody");
    match world.backend.prepare(&version).await {
        Err(PrepareError::MissingRuntime(text)) => {
            assert!(text.contains("`python3.98`") && text.contains("install it"), "{text}");
        }
        other => panic!("should be missing, but: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sandboxes_start_side_by_side() {
    let world = World::start(1);
    let Some(runtime) = python() else {
        return;
    };
    let world = &world;
    let start = |who: &'static str| async move {
        let mut live = world.create(version(world, runtime, who)).await.expect("it starts");
        assert_eq!(live.ask(json!({})).await, json!([who, 1]));
        live.sandbox.destroy().await;
    };
    tokio::join!(start("a"), start("b"), start("c"), start("d"), start("e"));
    world.backend.shut_down().await;
}
