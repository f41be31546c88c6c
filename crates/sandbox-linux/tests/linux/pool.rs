//! Cells that wait for a function, and the frozen sleep between invocations.

use bowline_sandbox::{Backend, PrepareError, Runtime, VersionSpec};
use serde_json::json;

use crate::harness::{World, python};

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
