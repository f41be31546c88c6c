//! How long a function stands still while it moves from one node to another, as it sees it itself: the gap in its own run.

use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bowline_foundation::clock::Clock;
use bowline_test_postgres::Server;
use bowline_tests::artifact::zip_of;
use bowline_tests::node::Settings;
use bowline_tests::{Artifact, Lambda, Node, patience};
use serde_json::{Value, json};

use super::subject::Subjects;
use super::table::{Goal, Row};
use super::{median, progress};
use crate::{fuzz, shell};

const FUNCTION: &str = "gaps";
const PAUSE_P50_MS_MAX: f64 = 60.0;
const MOVES: usize = 40;
/// These find nothing compiled yet on the node that they go to.
const FIRST_MOVES: usize = 4;
const APART: Duration = Duration::from_millis(250);
const RUN: Duration = Duration::from_secs(40);
const PATIENCE: Duration = Duration::from_secs(30);
/// A move is answered when the run goes on, or a little sooner.
const ANSWERED_SOONER_MAX: Duration = Duration::from_millis(200);

/// Two nodes of one cluster; nothing where there is no PostgreSQL.
pub fn measure(subjects: &Subjects) -> Result<Option<Row>> {
    if !bowline_test_postgres::is_installed() {
        progress("SKIPPED: moves between nodes are not measured without PostgreSQL");
        return Ok(None);
    }
    progress("moves between two nodes");
    let (server, blobs) = (Server::start()?, tempfile::tempdir()?);
    let start = || {
        let environment = [
            ("BOWLINE_STORE".into(), server.url().into()),
            ("BOWLINE_BLOBS".into(), blobs.path().into()),
        ];
        let settings = Settings {
            environment: environment.into(),
            ..Settings::default()
        };
        Node::start_build(&subjects.node, settings)
    };
    let nodes = [start()?, start()?];
    let ids = [id(&nodes[0])?, id(&nodes[1])?];
    let settings = json!({"Timeout": 120, "Environment": {"Variables": {"BOWLINE_CHECKPOINT": "on"}}});
    nodes[0].lambda().deploy(FUNCTION, &guest()?, settings)?;
    let seen = patience::until(PATIENCE, || {
        let found = nodes[1]
            .lambda()
            .get(&format!("/2015-03-31/functions/{FUNCTION}"))
            .ok()?;
        (found.status == 200).then_some(())
    });
    seen.context("the other node does not see the function")?;
    let mut pauses = pauses(&nodes, &ids)?.split_off(FIRST_MOVES);
    pauses.sort_by(f64::total_cmp);
    progress(&format!(
        "of {} moves the longest took {:.1} ms",
        pauses.len(),
        pauses[pauses.len() - 1]
    ));
    let name = "Checkpoints: move between two nodes, 16 MiB, last instruction there to first here, p50";
    Ok(Some(Row::judged(
        name,
        "ms",
        Goal::AtMost(PAUSE_P50_MS_MAX),
        median(pauses),
        None,
    )))
}

/// The gap of each move, in milliseconds.
fn pauses(nodes: &[Node; 2], ids: &[String; 2]) -> Result<Vec<f64>> {
    let clock = Clock::system();
    let caller = nodes[0].lambda();
    let running = thread::spawn(move || caller.invoke(FUNCTION, &json!(RUN.as_millis() as u64)));
    let run = run_of(&nodes[0].lambda())?;
    let mut moves = Vec::new();
    for number in 0..MOVES {
        patience::rest(APART);
        let to = &ids[(number + 1) % 2];
        let asked = clock.now().as_micros();
        let moved = nodes[number % 2]
            .lambda()
            .post(&format!("/v1/checkpoints/{run}/move"), &json!({"to": to}))?;
        let moved = moved.expect(200)?.json();
        ensure!(moved["node"] == **to, "it did not move: {moved}");
        moves.push((asked, clock.now().as_micros() + ANSWERED_SOONER_MAX.as_micros() as u64));
    }
    let reply = running
        .join()
        .expect("the caller's thread ends well")?
        .expect(200)?
        .json();
    let gaps = reply["gaps"]
        .as_array()
        .with_context(|| format!("it did not end well: {reply}"))?;
    let gaps: Vec<(u64, u64)> = gaps
        .iter()
        .filter_map(|gap| Some((gap[0].as_u64()?, gap[1].as_u64()?)))
        .collect();
    let longest = |&(asked, answered): &(u64, u64)| {
        let inside = gaps.iter().filter(|(over, _)| (asked..answered).contains(over));
        inside.map(|(_, gap)| *gap).max()
    };
    let pauses: Option<Vec<u64>> = moves.iter().map(longest).collect();
    let pauses = pauses.with_context(|| format!("the function has not felt each move: {gaps:?}"))?;
    Ok(pauses.into_iter().map(|micros| micros as f64 / 1e3).collect())
}

/// The one run there is, once it is under way.
fn run_of(lambda: &Lambda) -> Result<String> {
    let found = patience::until(PATIENCE, || {
        let runs = lambda.get("/v1/checkpoints").ok()?.json();
        let run = runs["items"].as_array()?.first()?.clone();
        (run["phase"] == "running").then(|| run["run"].as_str().map(str::to_owned))?
    });
    found.context("the function does not run")
}

fn id(node: &Node) -> Result<String> {
    let both = patience::until(PATIENCE, || {
        let nodes = node.lambda().get("/v1/nodes").ok()?.json()["items"].as_array()?.clone();
        let ready = nodes.iter().filter(|node| node["state"] == "ready").count();
        (ready == 2).then_some(nodes)
    });
    let both: Vec<Value> = both.context("the nodes do not know each other")?;
    let own = both.iter().find(|node| node["here"] == true);
    let id = own.context("a node does not list itself")?["id"].to_string();
    Ok(id.trim_matches('"').to_owned())
}

fn guest() -> Result<Artifact> {
    let (source, module) = (
        shell::root().join("xtask/guests/gaps.rs"),
        fuzz::target_dir().join("gaps.wasm"),
    );
    let mut compiler = Command::new("rustc");
    compiler.args(["--edition", "2024", "--target", "wasm32-wasip1", "-Copt-level=3", "-o"]);
    shell::run(compiler.arg(&module).arg(source).current_dir(shell::root()))?;
    Ok(Artifact::provided(zip_of(&[(
        "bootstrap.wasm",
        &std::fs::read(module)?,
    )])?))
}
