//! One function that is called often beside many that are not, on real process instances: the same load on one mixed fleet
//! and on two fleets (03/T-C5).

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use bowline_foundation::clock::Clock;
use bowline_tests::{Artifact, Node, patience};
use serde_json::json;

use super::client::Connection;
use super::subject::Subjects;
use super::table::{Goal, Row};
use super::{Effort, median, percentile, progress};

/// Instances of each node, half of them in the high fleet where there are two.
const INSTANCES: usize = 4;
/// Room for four sandboxes each.
const MEMORY_MIB: u32 = 512;
const START_MAX: Duration = Duration::from_secs(60);
/// So many calls of the hot function at once, again and again.
const BURST: usize = 4;
const BETWEEN_BURSTS: Duration = Duration::from_secs(1);
/// Functions that are called in turn: more than there is room for.
const COLD: usize = 24;
const BETWEEN_COLD: Duration = Duration::from_millis(250);
/// Until the fleets have what belongs there.
const SETTLE: Duration = Duration::from_secs(20);
const ROUND: Duration = Duration::from_secs(20);
const BETWEEN_LOOKS: Duration = Duration::from_millis(250);

/// What a round has shown.
struct Round {
    /// Of each call of the hot function, in milliseconds.
    hot: Vec<f64>,
    /// For how long instances had any sandbox, added up.
    instance_seconds: f64,
}

pub fn measure(subjects: &Subjects, effort: Effort) -> Result<Vec<Row>> {
    let nodes = [arranged(subjects, INSTANCES / 2)?, arranged(subjects, 0)?];
    for node in &nodes {
        load(node, SETTLE)?;
    }
    let mut rounds = [Vec::new(), Vec::new()];
    for number in 1..=effort.rounds {
        progress(&format!(
            "two fleets and a mixed one, round {number} of {}",
            effort.rounds
        ));
        for (node, rounds) in nodes.iter().zip(&mut rounds) {
            rounds.push(load(node, ROUND)?);
        }
    }
    let row = |what: &str, unit: &str, goal, figure: &dyn Fn(&Round) -> f64| {
        let [two, mixed] = [0, 1].map(|at| median(rounds[at].iter().map(figure).collect()));
        let name = format!("{what}, two fleets beside a mixed one (real instances)");
        Row::judged(&name, unit, goal, two, Some(mixed))
    };
    let share = |share: f64| move |round: &Round| percentile(round.hot.clone(), share);
    Ok(vec![
        row("busy function beside 24 rare ones, p50", "ms", Goal::None, &share(0.5)),
        row(
            "busy function beside 24 rare ones, p99",
            "ms",
            Goal::RatioAtMost(1.0),
            &share(0.99),
        ),
        row("instance-seconds in use in 20 s", "s", Goal::None, &|round| {
            round.instance_seconds
        }),
    ])
}

/// A node with instances, so many of them in the high fleet, and the functions.
fn arranged(subjects: &Subjects, high: usize) -> Result<Node> {
    let node = subjects.start_node()?;
    let lambda = node.lambda();
    for number in 0..INSTANCES {
        let (name, fleet) = (
            format!("i{number}"),
            if number < high { "fleet = \"high\"\n" } else { "" },
        );
        let text = format!("id = \"{name}\"\nkind = \"process\"\n{fleet}[resources]\nmemory_mib = {MEMORY_MIB}\n");
        let path = format!("/v1/instance-files/{name}");
        lambda.send("PUT", &path, &[], text.as_bytes())?.expect(200)?;
        lambda.post("/v1/instances", &json!({ "file": name }))?.expect(201)?;
        let runs = patience::until(START_MAX, || {
            let shown = lambda.get(&format!("/v1/instances/{name}")).ok()?.json();
            (shown["state"] == "RUNNING").then_some(())
        });
        runs.context("an instance does not run")?;
    }
    let criteria = json!({"window_seconds": 10, "dwell_seconds": 0});
    lambda.put("/v1/fleets", &criteria)?.expect(200)?;
    let artifact = Artifact::python()?;
    lambda.deploy("hot", &artifact, json!({}))?;
    for number in 0..COLD {
        lambda.deploy(&format!("cold{number}"), &artifact, json!({}))?;
    }
    Ok(node)
}

/// Loads a node for so long.
fn load(node: &Node, length: Duration) -> Result<Round> {
    let (clock, is_over, gate) = (Clock::system(), AtomicBool::new(false), Barrier::new(BURST));
    let began = clock.monotonic();
    let is_late = || clock.monotonic().since(began) >= length || is_over.load(Ordering::Acquire);
    let hot = |mut connection: Connection| {
        let mut times = Vec::new();
        // All of them make as many bursts.
        for _ in 0..length.as_secs() / BETWEEN_BURSTS.as_secs() {
            patience::rest(BETWEEN_BURSTS);
            gate.wait();
            match connection.invoke("hot", "") {
                Ok(took) => times.push(took.as_secs_f64() * 1e3),
                // The others wait for this one at the gate.
                Err(error) => progress(&format!("{error:#}")),
            }
        }
        times
    };
    let cold = || -> Result<()> {
        let mut connection = Connection::open(&node.address())?;
        for number in (0..COLD).cycle() {
            if is_late() {
                return Ok(());
            }
            connection.invoke(&format!("cold{number}"), "")?;
            patience::rest(BETWEEN_COLD);
        }
        Ok(())
    };
    let looks = || -> Result<f64> {
        let (mut seconds, mut last) = (0.0, clock.monotonic());
        while !is_late() {
            patience::rest(BETWEEN_LOOKS);
            let now = clock.monotonic();
            let passed = now.since(std::mem::replace(&mut last, now)).as_secs_f64();
            let shown = node.lambda().get("/v1/instances")?.expect(200)?.json();
            let used = shown["items"].as_array().into_iter().flatten();
            let used = used.filter(|instance| instance["sandboxes"].as_u64().is_some_and(|count| count > 0));
            seconds += used.map(|_| passed).sum::<f64>();
        }
        Ok(seconds)
    };
    let mut connections = Vec::new();
    for _ in 0..BURST {
        connections.push(Connection::open(&node.address())?);
    }
    let joined = "a thread of the load panicked";
    std::thread::scope(|scope| {
        let hot: Vec<_> = connections
            .into_iter()
            .map(|connection| scope.spawn(|| hot(connection)))
            .collect();
        let (cold, looks) = (scope.spawn(cold), scope.spawn(looks));
        let mut round = Round {
            hot: Vec::new(),
            instance_seconds: 0.0,
        };
        for thread in hot {
            round.hot.extend(thread.join().ok().context(joined)?);
        }
        is_over.store(true, Ordering::Release);
        cold.join().ok().context(joined)??;
        round.instance_seconds = looks.join().ok().context(joined)??;
        Ok(round)
    })
}
