//! How soon a virtual machine from the golden snapshot answers, beside one that boots: the sandbox crate's own
//! measurement, with the node's program as the agent, and the same as an instance of a node.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use bowline_foundation::clock::Clock;
use bowline_tests::node::Settings;
use bowline_tests::{Lambda, Node, patience};
use serde_json::{Value, json};

use super::subject::Subjects;
use super::table::{Goal, Row};
use super::{Effort, median, progress};
use crate::shell;

/// The time to the first answer by the time of a full boot.
const RATIO_MAX: f64 = 0.1;
/// Machines as the other measurement has them, so that the snapshot is there.
const FILE: &str = "id = \"bench\"\nkind = \"vm\"\n[resources]\nmemory_mib = 256\n";
/// Instances that are made for each round.
const INSTANCES: u32 = 5;
const START_MAX: Duration = Duration::from_secs(60);

pub fn measure(subjects: &Subjects, effort: Effort) -> Result<Vec<Row>> {
    let folder = tempfile::tempdir().context("cannot make a folder for images")?;
    progress("building an image for virtual machines");
    let mut build = Command::new(&subjects.node);
    build
        .args(["vm", "image", "build", "--json", "--data"])
        .arg(folder.path());
    shell::output(&mut build)?;
    progress("virtual machines, booted and begun from a snapshot in turns");
    let mut bench = Command::new(&subjects.vm);
    bench.arg(folder.path().join("vm")).arg(effort.rounds.to_string());
    let report: Value =
        serde_json::from_str(shell::output(&mut bench)?.trim()).context("`vm_bench` printed no JSON")?;
    let figures = |name: &str| -> Result<Vec<f64>> {
        let list = report[name]
            .as_array()
            .with_context(|| format!("`vm_bench` says nothing of `{name}`"))?;
        Ok(list.iter().filter_map(Value::as_f64).collect())
    };
    let (booted, cloned) = (median(figures("boot_ms")?), median(figures("clone_ms")?));
    let accelerator = report["accelerator"].as_str().unwrap_or("?");
    let resident = median(figures("clone_resident_mb")?);
    progress("instances that are virtual machines, from the request to their agent's word");
    let instance = median(instances(subjects, folder.path(), effort.rounds * INSTANCES)?);
    Ok(vec![
        Row::judged(
            &format!("VM from the golden snapshot to the first answer, beside a full boot ({accelerator})"),
            "ms",
            Goal::RatioAtMost(RATIO_MAX),
            cloned,
            Some(booted),
        ),
        Row::judged(
            "VM from the golden snapshot: resident memory of its QEMU",
            "MB",
            Goal::None,
            resident,
            None,
        ),
        Row::judged(
            &format!("VM instance from its request to running, beside a machine's full boot ({accelerator})"),
            "ms",
            Goal::None,
            instance,
            Some(booted),
        ),
    ])
}

/// How long instances take from the request to where they run, in milliseconds.
fn instances(subjects: &Subjects, data: &Path, count: u32) -> Result<Vec<f64>> {
    let node = Node::start_build(
        &subjects.node,
        Settings {
            data: Some(data.to_owned()),
            ..Settings::default()
        },
    )?;
    let lambda = node.lambda();
    lambda
        .send("PUT", "/v1/instance-files/bench", &[], FILE.as_bytes())?
        .expect(200)?;
    // The first one looks for QEMU and reads the snapshot.
    once(&lambda)?;
    (0..count).map(|_| once(&lambda)).collect()
}

fn once(lambda: &Lambda) -> Result<f64> {
    let clock = Clock::system();
    let began = clock.monotonic();
    lambda.post("/v1/instances", &json!({"file": "bench"}))?.expect(201)?;
    let runs = patience::until(START_MAX, || {
        let shown = lambda.get("/v1/instances/bench").ok()?.json();
        (shown["state"] == "RUNNING").then_some(())
    });
    runs.context("the instance does not run")?;
    let took = clock.monotonic().since(began).as_secs_f64() * 1e3;
    lambda.delete("/v1/instances/bench")?.expect(204)?;
    Ok(took)
}
