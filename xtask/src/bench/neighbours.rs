//! What a function's neighbours feel when it misbehaves.
//!
//! Rounds alternate between a node on which only the good function runs and the same node while a bad one
//! spins, forks or takes memory, so that whatever else the machine does falls on both alike.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Result, ensure};
use bowline_tests::{Artifact, Lambda};
use serde_json::json;

use super::client::Connection;
use super::subject::Subjects;
use super::table::{Goal, Row};
use super::{Effort, median, progress};

const CALLS_A_ROUND: usize = 400;
const SLOWER_MAX: f64 = 1.2;

/// A misdeed's name in the table, and the event that asks the prober for it.
const MISDEEDS: [(&str, &str); 3] = [
    ("spins", r#"{"do": "spin"}"#),
    ("forks without end", r#"{"do": "fork"}"#),
    ("takes all memory", r#"{"do": "hog"}"#),
];

pub fn measure(subjects: &Subjects, effort: Effort) -> Result<Vec<Row>> {
    MISDEEDS
        .iter()
        .map(|(name, event)| beside(subjects, effort, name, event))
        .collect()
}

/// The p50 of a Wasm command's invocations beside a Linux function that misbehaves.
fn beside(subjects: &Subjects, effort: Effort, name: &str, event: &str) -> Result<Row> {
    let node = subjects.start_node()?;
    let lambda = node.lambda();
    lambda.deploy("good", &Artifact::command()?, json!({}))?;
    lambda.deploy("bad", &Artifact::python()?, json!({"Timeout": 1, "MemorySize": 128}))?;
    let mut connection = Connection::open(&node.address())?;
    latency_us(&mut connection)?;
    let (mut alone, mut disturbed) = (Vec::new(), Vec::new());
    for round in 1..=effort.rounds {
        progress(&format!("a neighbour that {name}, round {round} of {}", effort.rounds));
        alone.push(latency_us(&mut connection)?);
        disturbed.push(while_invoked(&lambda, event, || latency_us(&mut connection))?);
    }
    let row = format!("Wasm command, p50 beside a function that {name}");
    Ok(Row::judged(
        &row,
        "us",
        Goal::RatioAtMost(SLOWER_MAX),
        median(disturbed),
        Some(median(alone)),
    ))
}

fn latency_us(connection: &mut Connection) -> Result<f64> {
    let call = |_| Ok(connection.invoke("good", "")?.as_secs_f64() * 1e6);
    Ok(median((0..CALLS_A_ROUND).map(call).collect::<Result<_>>()?))
}

/// Runs `work` while `bad` is invoked without end.
fn while_invoked<T>(lambda: &Lambda, event: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let (enough, begun) = (AtomicBool::new(false), AtomicBool::new(false));
    let event: serde_json::Value = serde_json::from_str(event)?;
    thread::scope(|scope| {
        let bad = scope.spawn(|| {
            while !enough.load(Ordering::Acquire) {
                begun.store(true, Ordering::Release);
                let reply = lambda.invoke("bad", &event)?;
                let error = reply.header("x-amz-function-error");
                ensure!(!error.is_empty(), "the bad neighbour behaved well");
            }
            Ok(())
        });
        while !begun.load(Ordering::Acquire) && !bad.is_finished() {
            thread::yield_now();
        }
        let result = work();
        enough.store(true, Ordering::Release);
        bad.join().expect("the neighbour's thread does not panic")?;
        result
    })
}
