//! How soon a call is answered, by where its sandbox comes from: the rungs of the ladder, slower from each to the next.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bowline_foundation::clock::Clock;
use bowline_tests::node::Settings;
use bowline_tests::{Artifact, Lambda, Node, patience};
use serde_json::json;

use super::subject::Subjects;
use super::table::{Goal, Row};
use super::{median, progress};

/// Calls on each rung.
const SAMPLES: u32 = 100;
const PATIENCE: Duration = Duration::from_secs(60);
/// The rungs, with what answers call them.
const RUNGS: [(&str, &str); 4] = [
    ("a sandbox that has the code", "warm"),
    ("the account's instance", "instance"),
    ("an instance that waited", "warming-pool"),
    ("a new instance", "new-instance"),
];

pub fn measure(subjects: &Subjects) -> Result<Vec<Row>> {
    let settings = Settings {
        environment: vec![("BOWLINE_INSTANCES".into(), "process".into())],
        ..Settings::default()
    };
    let node = Node::start_build(&subjects.node, settings)?;
    let (lambda, artifact) = (node.lambda(), Artifact::native()?);
    lambda.deploy("f", &artifact, json!({}))?;
    wait_for_spare(&node)?;
    // Its file is there from the first call on.
    lambda.invoke("f", &json!({"name": "first"}))?.expect(200)?;
    let mut medians = Vec::new();
    for (what, rung) in RUNGS {
        progress(&format!("{SAMPLES} calls on {what}"));
        let times: Result<Vec<f64>> = (0..SAMPLES)
            .map(|number| sample(&node, &artifact, (rung, number)))
            .collect();
        medians.push(median(times?));
    }
    ensure!(
        medians.is_sorted_by(|sooner, later| sooner < later),
        "a rung is no slower than the one before it: {medians:?}"
    );
    let rows = RUNGS.iter().enumerate().map(|(place, (what, _))| {
        let next = medians.get(place + 1).copied();
        let goal = next.map_or(Goal::None, |_| Goal::RatioAtMost(1.0));
        let row = format!("start on {what}, beside the next rung, p50 of {SAMPLES}");
        Row::judged(&row, "ms", goal, medians[place], next)
    });
    Ok(rows.collect())
}

/// The time of one call that is served by a rung, in milliseconds.
fn sample(node: &Node, artifact: &Artifact, (rung, number): (&str, u32)) -> Result<f64> {
    let lambda = node.lambda();
    match rung {
        "warm" => call(&lambda, "f", rung),
        "instance" => {
            lambda.deploy("g", artifact, json!({}))?;
            let time = call(&lambda, "g", rung)?;
            lambda.delete("/2015-03-31/functions/g")?.expect(200)?;
            Ok(time)
        }
        "warming-pool" => {
            remove(&lambda)?;
            wait_for_spare(node)?;
            call(&lambda, "f", rung)
        }
        _ => {
            remove(&lambda)?;
            // Of a configuration that is another each time, none waits.
            let file = format!(
                "id = \"default\"\nkind = \"process\"\n[resources]\nmemory_mib = {}\n",
                1024 + number
            );
            let headers = [("content-type", "application/toml")];
            lambda
                .send("PUT", "/v1/instance-files/default", &headers, file.as_bytes())?
                .expect(200)?;
            call(&lambda, "f", rung)
        }
    }
}

/// Takes the account's instance away; the next call gets it another one.
fn remove(lambda: &Lambda) -> Result<()> {
    lambda.delete("/v1/instances/default")?.expect(204).map(drop)
}

fn call(lambda: &Lambda, name: &str, rung: &str) -> Result<f64> {
    let clock = Clock::system();
    let begin = clock.monotonic();
    let reply = lambda.invoke(name, &json!({"name": "ada"}))?;
    let time = clock.monotonic().since(begin).as_secs_f64() * 1e3;
    let reply = reply.expect(200)?;
    let served = reply.header("x-bowline-provisioned");
    ensure!(
        served == rung,
        "a call was to be served by `{rung}`, and was by `{served}`"
    );
    Ok(time)
}

/// Waits until a server waits for an account.
fn wait_for_spare(node: &Node) -> Result<()> {
    let waits = patience::until(PATIENCE, || {
        let reply = node.lambda().get("/metrics").ok()?;
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        let line = text
            .lines()
            .find(|line| line.starts_with("bowline_instances_warming{kind=\"process\"}"))?;
        line.rsplit(' ').next().filter(|count| *count != "0").map(drop)
    });
    waits.context("no server waits")
}
