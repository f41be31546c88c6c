//! Warm invocations on a process instance beside the same in the node.

use anyhow::{Context, Result, ensure};
use bowline_tests::{Artifact, Node, patience};
use serde_json::json;
use std::time::Duration;

use super::subject::Subjects;
use super::table::{Goal, Row};
use super::wrk::Load;
use super::{Effort, median, progress};

const CONNECTIONS: u32 = 32;
const START_MAX: Duration = Duration::from_secs(60);
const FILE: &str =
    "id = \"bench\"\nkind = \"process\"\n[resources]\nmemory_mib = 8192\ncpu_millis = 2000\nprocesses = 4096\n";

pub fn measure(subjects: &Subjects, effort: Effort) -> Result<Vec<Row>> {
    // Each node has one place: in itself, or on its account's instance.
    let nodes = [subjects.start_node()?, subjects.start_node()?];
    instance(&nodes[1])?;
    let artifacts = [("reactor", Artifact::reactor()?), ("native", Artifact::native()?)];
    let mut rows = Vec::new();
    for (name, artifact) in artifacts {
        for node in &nodes {
            node.lambda().deploy(name, &artifact, json!({}))?;
            let reply = node.lambda().invoke(name, &json!({"name": "ada"}))?.expect(200)?;
            ensure!(
                reply.header("x-amz-function-error").is_empty(),
                "`{name}` failed: {}",
                reply.json()
            );
        }
        let figures = in_turns(&nodes, name, effort)?;
        let row = format!("warm Invoke on a process instance beside the node's own, {name}");
        rows.push(Row::judged(
            &row,
            "requests/s",
            Goal::RatioAtLeast(0.6),
            figures[1],
            Some(figures[0]),
        ));
    }
    Ok(rows)
}

/// Gives the node's account an instance.
fn instance(node: &Node) -> Result<()> {
    let lambda = node.lambda();
    lambda
        .send("PUT", "/v1/instance-files/bench", &[], FILE.as_bytes())?
        .expect(200)?;
    lambda.post("/v1/instances", &json!({"file": "bench"}))?.expect(201)?;
    let runs = patience::until(START_MAX, || {
        let shown = lambda.get("/v1/instances/bench").ok()?.json();
        (shown["state"] == "RUNNING").then_some(())
    });
    runs.context("the instance does not run")
}

/// The median rate of each node, loaded in turn.
fn in_turns(nodes: &[Node; 2], function: &str, effort: Effort) -> Result<[f64; 2]> {
    let load = |node: &Node, seconds| {
        let url = format!("{}/2015-03-31/functions/{function}/invocations", node.endpoint());
        Load {
            url: &url,
            connections: CONNECTIONS,
            seconds,
            headers: &[],
        }
        .run()
    };
    for node in nodes {
        load(node, 1)?;
    }
    let mut figures = [Vec::new(), Vec::new()];
    for round in 1..=effort.rounds {
        progress(&format!("{function} on instances, round {round} of {}", effort.rounds));
        for (node, figures) in nodes.iter().zip(&mut figures) {
            figures.push(load(node, effort.seconds)?.requests_per_second);
        }
    }
    Ok(figures.map(median))
}
