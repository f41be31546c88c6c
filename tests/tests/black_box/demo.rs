//! The demonstration: every example builds, deploys and answers.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use bowline_tests::node::binary;
use serde_json::Value;

use crate::crowd::has_postgres;

const TEMPORARY: [&str; 2] = ["bowline-demo-", "bowline-postgres-"];

/// What no machine lacks that can build the project.
const NEVER_SKIPPED: [&str; 3] = ["rust-hello", "rust-command", "rust-http"];

#[test]
fn the_demo_shows_every_example() -> Result<()> {
    let output = Command::new(binary()?).args(["demo", "--once", "--json"]).output()?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {told}", output.status);
    let shown: Value = serde_json::from_slice(&output.stdout).context("no JSON")?;
    ensure!(shown["right"] == true, "{shown}");
    let rows = shown["functions"].as_array().context("no list of examples")?;
    for row in rows {
        match row["outcome"].as_str() {
            Some("answered") => ensure!(row["right"] == true, "{row}"),
            Some("skipped") => println!("SKIPPED: {row}"),
            _ => bail!("{row}"),
        }
    }
    for name in NEVER_SKIPPED {
        let answered = |row: &Value| row["function"] == name && row["outcome"] == "answered";
        ensure!(rows.iter().any(answered), "`{name}` did not answer: {shown}");
    }
    Ok(())
}

/// Folders that the demo and its database make.
fn left_in(folder: &Path) -> Result<Vec<String>> {
    let names = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let names: Vec<String> = names.collect::<Result<_>>()?;
    let made = |name: &String| TEMPORARY.iter().any(|prefix| name.starts_with(prefix));
    Ok(names.into_iter().filter(made).collect())
}

/// Processes that have something to do with a folder.
fn processes_of(folder: &Path) -> Result<usize> {
    let mut count = 0;
    for entry in std::fs::read_dir("/proc")? {
        // Not every entry is a process, and a process may end meanwhile.
        let command = std::fs::read(entry?.path().join("cmdline")).unwrap_or_default();
        count += usize::from(String::from_utf8_lossy(&command).contains(&*folder.to_string_lossy()));
    }
    Ok(count)
}

/// The demo's own check is that the result is that of a run which nobody touched. Told to stop, it leaves nothing either.
#[test]
fn the_demo_of_checkpoints_moves_a_run_kills_a_node_and_leaves_nothing() -> Result<()> {
    if !has_postgres() {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    // PostgreSQL's server has an account of its own.
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
    let mut demo = Command::new(binary()?);
    demo.args(["demo", "checkpoint", "--json"]).env("TMPDIR", folder.path());
    let output = demo.output()?;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{}: {told}", output.status);
    let shown: Value = serde_json::from_slice(&output.stdout).context("no JSON")?;
    ensure!(
        shown["right"] == true && shown["answer"] == shown["expected"],
        "{shown}"
    );
    let steps = shown["steps"].as_array().context("no list of steps")?;
    let done: Vec<&str> = steps.iter().filter_map(|step| step["what"].as_str()).collect();
    ensure!(done == ["move", "move", "kill -9", "move"], "{shown}");
    for step in steps {
        ensure!(step["from"] != step["to"] && step["pauseMs"].is_u64(), "{step}");
    }
    let lines = told
        .lines()
        .filter_map(|line| line.split_once('%')?.0.rsplit(' ').nth(1)?.parse().ok());
    let bar: Vec<u32> = lines.collect();
    ensure!(
        bar.len() >= 5 && bar.is_sorted() && bar.last() == Some(&100),
        "{bar:?}: {told}"
    );
    ensure!(left_in(folder.path())?.is_empty(), "{:?}", left_in(folder.path())?);
    ensure!(processes_of(folder.path())? == 0, "a process is left");
    stops_when_told(&mut demo, folder.path())
}

/// Interrupts the demo while its nodes run.
fn stops_when_told(demo: &mut Command, folder: &Path) -> Result<()> {
    let mut running = demo.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let lines = BufReader::new(running.stderr.take().context("a pipe")?).lines();
    let mut begun = false;
    for line in lines {
        if line?.starts_with("node C is process") {
            begun = true;
            ensure!(processes_of(folder)? > 3, "the control: the nodes are there");
            let pid = running.id().to_string();
            ensure!(Command::new("kill").args(["-INT", &pid]).status()?.success());
        }
    }
    ensure!(begun, "it has not come so far");
    ensure!(!running.wait()?.success(), "it says that it was not shown");
    ensure!(left_in(folder)?.is_empty(), "{:?}", left_in(folder)?);
    ensure!(processes_of(folder)? == 0, "a process is left");
    Ok(())
}

/// Each part judges itself; what it tells is looked at again here.
#[test]
fn the_demo_of_capacity_foresees_a_spike_replaces_an_instance_and_rolls_out_without_an_error() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut demo = Command::new(binary()?);
    let output = demo
        .args(["demo", "capacity", "--json"])
        .env("TMPDIR", folder.path())
        .output()?;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        output.status.success(),
        "{}: {told}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout)
    );
    let shown: Value = serde_json::from_slice(&output.stdout).context("no JSON")?;
    let parts = shown["parts"].as_array().context("no list of parts")?;
    let names: Vec<&Value> = parts.iter().map(|part| &part["part"]).collect();
    ensure!(
        shown["right"] == true && names == ["spike", "loss", "rollout"],
        "{shown}"
    );
    let [spike, loss, rollout] = [0, 1, 2].map(|at| &parts[at]["facts"]);
    ensure!(
        spike["announced"]["rungs"] == serde_json::json!(["warming-pool", "warming-pool", "warming-pool"]),
        "{spike}"
    );
    let by_surprise = spike["surprise"]["rungs"].as_array().context("no control")?;
    ensure!(
        by_surprise.len() == 3 && !by_surprise.iter().any(|rung| rung == "warming-pool"),
        "{spike}"
    );
    ensure!(loss["killed"] != loss["replacement"] && loss["lost"] == 0, "{loss}");
    ensure!(
        rollout["errors"] == 0 && rollout["answers"]["1"].is_u64() && rollout["answers"]["2"].is_u64(),
        "{rollout}"
    );
    ensure!(left_in(folder.path())?.is_empty(), "{:?}", left_in(folder.path())?);
    ensure!(processes_of(folder.path())? == 0, "a process is left");
    Ok(())
}
