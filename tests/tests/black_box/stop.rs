//! A clean stop: running invocations end first, or reach their deadline; new ones are refused.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use bowline_tests::{Artifact, Lambda, Node, patience};
use serde_json::json;

/// Until the node's own metrics say that a sandbox is busy.
fn wait_until_running(node: &Node, lambda: &Lambda) -> Result<()> {
    let started = patience::until(Duration::from_secs(10), || {
        let metrics = lambda.get("/metrics").ok()?;
        let text = String::from_utf8_lossy(&metrics.body).into_owned();
        let mut busy = text
            .lines()
            .filter(|line| line.contains("sandboxes{") && line.contains("state=\"busy\""));
        busy.any(|line| !line.ends_with(" 0")).then_some(())
    });
    ensure!(
        started.is_some(),
        "no metric says that a sandbox is busy:\n{}",
        node.log()
    );
    Ok(())
}

#[test]
fn sigterm_waits_for_a_running_invocation() -> Result<()> {
    let mut node = Node::start()?;
    let lambda = node.lambda();
    lambda.deploy("sleeper", &Artifact::python()?, json!({"Timeout": 20}))?;
    let sleeper = lambda.clone();
    let running = thread::spawn(move || sleeper.invoke("sleeper", &json!({"do": "sleep", "seconds": 2})));
    wait_until_running(&node, &lambda)?;
    node.terminate()?;
    let reply = running
        .join()
        .expect("the client's thread does not panic")?
        .expect(200)?;
    ensure!(
        reply.json()["slept"] == 2,
        "the invocation was cut off: {}",
        reply.json()
    );
    let status = node.wait_for_end()?;
    ensure!(status.success(), "a clean stop ended with {status}:\n{}", node.log());
    ensure!(
        lambda.get("/healthz").is_err(),
        "something still listens after the node ended"
    );
    Ok(())
}

#[test]
fn sigterm_does_not_wait_longer_than_the_deadline() -> Result<()> {
    let mut node = Node::start()?;
    let lambda = node.lambda();
    lambda.deploy("spinner", &Artifact::python()?, json!({"Timeout": 2}))?;
    let spinner = lambda.clone();
    let running = thread::spawn(move || spinner.invoke("spinner", &json!({"do": "spin"})));
    wait_until_running(&node, &lambda)?;
    node.terminate()?;
    let reply = running
        .join()
        .expect("the client's thread does not panic")?
        .expect(200)?;
    ensure!(reply.header("x-amz-function-error") == "Unhandled", "{}", reply.json());
    let text = reply.json()["errorMessage"].as_str().unwrap_or_default().to_owned();
    ensure!(text.contains("Task timed out after 2.00 seconds"), "{text}");
    ensure!(node.wait_for_end()?.success(), "a clean stop failed:\n{}", node.log());
    Ok(())
}
