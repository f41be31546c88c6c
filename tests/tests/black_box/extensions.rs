//! An extension that comes in a layer, through boto3: events, telemetry, and the end of its sandbox.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bowline_tests::python::Python;
use bowline_tests::{Artifact, Node, patience, skip};

const PATIENCE: Duration = Duration::from_secs(30);

/// All that functions of a node have logged.
fn logged(node: &Node) -> String {
    let mut text = String::new();
    let mut folders = vec![node.data().join("logs")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                text.push_str(&std::fs::read_to_string(path).unwrap_or_default());
            }
        }
    }
    text
}

#[test]
fn an_extension_in_a_layer_hears_all_there_is_to_hear() -> Result<()> {
    let Some(python) = Python::find()? else {
        skip("there is no python3, so boto3 cannot drive the node");
        return Ok(());
    };
    let mut node = Node::start()?;
    let runtime = Artifact::python()?.runtime;
    python.run_script("extensions.py", &node.endpoint(), &[&runtime])?;
    let ended = patience::until(PATIENCE, || {
        let log = logged(&node);
        log.contains("the ear heard the end: spindown\n").then_some(log)
    });
    let log = ended.with_context(|| format!("the extension was not told of the end: {}", logged(&node)))?;
    ensure!(
        log.contains("EXTENSION\tName: ear\tState: Ready\tEvents: [INVOKE, SHUTDOWN]\n"),
        "{log}"
    );
    ensure!(
        log.contains("TELEMETRY\tName: ear\tState: Subscribed\tTypes: [Platform, Function]\n"),
        "{log}"
    );
    ensure!(log.matches("the ear heard of ").count() == 2, "{log}");
    // A node that stops lets extensions finish too.
    python.run_script("extensions.py", &node.endpoint(), &["again"])?;
    node.terminate()?;
    ensure!(node.wait_for_end()?.success(), "the node's end: {}", node.log());
    let log = logged(&node);
    let (begun, ended) = ("State: Ready\t", "the ear heard the end: spindown\n");
    let [begun, ended] = [begun, ended].map(|line| log.matches(line).count());
    // One sandbox more may have been started for a call that was foreseen.
    ensure!(ended >= 2 && ended == begun, "{begun} began, {ended} ended: {log}");
    Ok(())
}
