//! Sandboxes that come and go: how many a second, and a thousand functions on memory for a tenth of them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bowline_tests::node::Settings;
use bowline_tests::{Artifact, Node, patience};
use serde_json::{Value, json};

use super::subject::Subjects;
use super::table::{Goal, Row};
use super::{Effort, median, progress};
use crate::shell;

/// Each call is of another function than the one before, so that none finds a sandbox of its own.
const FUNCTIONS: usize = 64;
const ROOM: usize = 8;
const CLIENTS: usize = 4;
const MEMORY_MIB: usize = 128;
const CHURN_MIN: f64 = 300.0;
/// What the test of shared memory is to do.
const LOAD: [(&str, &str); 2] = [("BOWLINE_SHARE_FUNCTIONS", "1000"), ("BOWLINE_SHARE_SECONDS", "600")];

/// Linux sandboxes that are made for a call each second, and ended for another's sake.
pub fn measure(subjects: &Subjects, effort: Effort) -> Result<Row> {
    let budget = format!("{}MiB", ROOM * MEMORY_MIB);
    let settings = Settings {
        environment: vec![("BOWLINE_MEMORY_BUDGET".into(), budget.into())],
        ..Settings::default()
    };
    let node = Node::start_build(&subjects.node, settings)?;
    let (lambda, artifact) = (node.lambda(), Artifact::native()?);
    progress(&format!("deploying {FUNCTIONS} functions"));
    for number in 0..FUNCTIONS {
        let settings = json!({"MemorySize": MEMORY_MIB});
        lambda.deploy(&format!("f{number}"), &artifact, settings)?;
    }
    let mut figures = Vec::new();
    for round in 1..=effort.rounds {
        progress(&format!("churn, round {round} of {}", effort.rounds));
        let before = created(&node)?;
        ask(&node, Duration::from_secs(effort.seconds.into()))?;
        let made = created(&node)? - before;
        figures.push(made / f64::from(effort.seconds));
    }
    let what = "Linux: sandboxes made for a call and ended for another, beside the goal";
    let goal = Goal::RatioAtLeast(1.0);
    Ok(Row::judged(what, "1/s", goal, median(figures), Some(CHURN_MIN)))
}

/// All clients go through all functions in turn, each beginning elsewhere.
fn ask(node: &Node, time: Duration) -> Result<()> {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let over = &is_over;
        let work = move |client: usize| -> Result<()> {
            let lambda = node.lambda();
            let mut number = client * FUNCTIONS / CLIENTS;
            while !over.load(Ordering::Acquire) {
                lambda
                    .invoke(&format!("f{}", number % FUNCTIONS), &json!({"name": "x"}))?
                    .expect(200)?;
                number += 1;
            }
            Ok(())
        };
        let clients: Vec<_> = (0..CLIENTS).map(|client| scope.spawn(move || work(client))).collect();
        patience::rest(time);
        is_over.store(true, Ordering::Release);
        for client in clients {
            client.join().expect("a client does not panic")?;
        }
        Ok(())
    })
}

fn created(node: &Node) -> Result<f64> {
    let text = String::from_utf8(node.lambda().get("/metrics")?.expect(200)?.body)?;
    let begin = "bowline_provisioned_total{rung=\"created\"}";
    let line = text.lines().find_map(|line| line.strip_prefix(begin));
    line.and_then(|value| value.trim().parse().ok())
        .context("the node does not count its sandboxes")
}

/// The test of shared memory, at full length.
pub fn share() -> Result<Vec<Row>> {
    progress("a thousand functions share a tenth of their memory, for ten minutes");
    let words = [
        "test",
        "--workspace",
        "--test",
        "black_box",
        "many_functions_share",
        "--",
        "--nocapture",
    ];
    let text = shell::output(shell::cargo().args(words).envs(LOAD))?;
    let line = text
        .lines()
        .find(|line| line.contains("\"answered\""))
        .context("the test said nothing")?;
    let figures: Value = serde_json::from_str(line)?;
    let figure = |name: &str| {
        figures[name]
            .as_f64()
            .with_context(|| format!("no `{name}` in {figures}"))
    };
    let (most, budget) = (figure("claimed_bytes_max")?, figure("budget_bytes")?);
    ensure!(most <= budget, "the budget was exceeded: {figures}");
    let mib = 1024.0 * 1024.0;
    Ok(vec![
        Row::judged(
            "1,000 functions, room for 100: answered",
            "requests",
            Goal::None,
            figure("answered")?,
            None,
        ),
        Row::judged(
            "1,000 functions, room for 100: lost",
            "requests",
            Goal::AtMost(0.0),
            figure("lost")?,
            None,
        ),
        Row::judged(
            "1,000 functions, room for 100: the most memory, beside the budget",
            "MiB",
            Goal::RatioAtMost(1.0),
            most / mib,
            Some(budget / mib),
        ),
    ])
}
