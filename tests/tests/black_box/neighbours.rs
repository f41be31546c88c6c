//! A function that misbehaves neither fails nor stops its neighbour. What the neighbour feels of it is
//! measured by `cargo xtask bench neighbours`, not here.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bowline_tests::{Artifact, Lambda, Node, patience};
use serde_json::{Value, json};

/// How often the bad function is invoked; each time it runs into its limit.
const MISDEEDS: u64 = 3;
const BEGIN_MAX: Duration = Duration::from_secs(10);

/// Invokes the good function until the bad one has had all its turns; returns how often.
fn beside(lambda: &Lambda, event: &Value) -> Result<u64> {
    let turns = AtomicU64::new(0);
    thread::scope(|scope| {
        let bad = scope.spawn(|| {
            for _ in 0..MISDEEDS {
                turns.fetch_add(1, Ordering::AcqRel);
                let reply = lambda.invoke("bad", event)?.expect(200)?;
                let error = reply.header("x-amz-function-error");
                ensure!(!error.is_empty(), "the bad neighbour behaved well: {}", reply.json());
            }
            Ok(())
        });
        patience::until(BEGIN_MAX, || (turns.load(Ordering::Acquire) > 0).then_some(())).context("it never began")?;
        let mut answered = 0;
        while !bad.is_finished() {
            let reply = lambda.invoke("good", &json!({"name": "ada"}))?.expect(200)?;
            let error = reply.header("x-amz-function-error");
            ensure!(error.is_empty(), "the neighbour failed: {}", reply.json());
            answered += 1;
        }
        bad.join().expect("the neighbour's thread does not panic")?;
        Ok(answered)
    })
}

fn check(event: &Value) -> Result<()> {
    let mut node = Node::start()?;
    let lambda = node.lambda();
    lambda.deploy("good", &Artifact::command()?, json!({}))?;
    lambda.deploy("bad", &Artifact::python()?, json!({"Timeout": 1, "MemorySize": 128}))?;
    // The control: the same function, asked for nothing bad, behaves.
    let well = lambda.invoke("bad", &json!({}))?.expect(200)?;
    ensure!(
        well.header("x-amz-function-error").is_empty(),
        "it fails anyway: {}",
        well.json()
    );
    let answered = beside(&lambda, event)?;
    ensure!(answered > 0, "the neighbour was never answered");
    ensure!(node.is_running(), "the node died");
    Ok(())
}

#[test]
fn a_spinning_function_does_not_stop_its_neighbour() -> Result<()> {
    check(&json!({"do": "spin"}))
}

#[test]
fn a_fork_bomb_does_not_stop_its_neighbour() -> Result<()> {
    check(&json!({"do": "fork"}))
}

#[test]
fn a_memory_hog_does_not_stop_its_neighbour() -> Result<()> {
    check(&json!({"do": "hog"}))
}
