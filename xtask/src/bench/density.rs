//! Memory: a thousand functions that were each invoked once, and a node that does nothing.

use std::time::Duration;

use anyhow::{Context, Result};
use bowline_foundation::clock::Clock;
use bowline_tests::{Artifact, patience};
use serde_json::json;

use super::client::Connection;
use super::subject::{Subjects, distinct};
use super::table::{Goal, Row};
use super::{Effort, median, progress};

const FUNCTIONS: usize = 1000;
const RESIDENT_MB_MAX: f64 = 150.0;
const IDLE_MB_MAX: f64 = 40.0;
const START_MS_MAX: f64 = 200.0;
/// After its start a node may still map images and fill pools.
const SETTLE: Duration = Duration::from_secs(2);

pub fn measure(subjects: &Subjects, effort: Effort) -> Result<Vec<Row>> {
    let mut rows = idle(subjects, effort)?;
    rows.insert(0, thousand(subjects)?);
    Ok(rows)
}

#[allow(clippy::cast_precision_loss, reason = "memory sizes are far below 2^52")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// Resident memory of the node's process after each of a thousand distinct functions ran once.
fn thousand(subjects: &Subjects) -> Result<Row> {
    let node = subjects.start_node()?;
    let lambda = node.lambda();
    let artifact = Artifact::reactor()?;
    for number in 0..FUNCTIONS {
        if number % 100 == 0 {
            progress(&format!("deploying function {number} of {FUNCTIONS}"));
        }
        let name = format!("f{number}");
        lambda
            .create(&name, &distinct(&artifact, number)?, json!({}))?
            .expect(201)?;
    }
    for number in 0..FUNCTIONS {
        lambda.wait_until_active(&format!("f{number}"))?;
    }
    let mut connection = Connection::open(&node.address())?;
    for number in 0..FUNCTIONS {
        connection.invoke(&format!("f{number}"), "")?;
    }
    let resident = megabytes(node.resident_bytes()?);
    let row = "1,000 Wasm functions, each invoked once, resident";
    Ok(Row::judged(row, "MB", Goal::Below(RESIDENT_MB_MAX), resident, None))
}

/// Resident memory of a node without functions, and the time from its start to its first answer.
fn idle(subjects: &Subjects, effort: Effort) -> Result<Vec<Row>> {
    let clock = Clock::system();
    let (mut resident, mut start) = (Vec::new(), Vec::new());
    for round in 1..=effort.rounds {
        progress(&format!("idle node, round {round} of {}", effort.rounds));
        let begin = clock.monotonic();
        let node = subjects.start_node().context("the node does not start")?;
        start.push(clock.monotonic().since(begin).as_secs_f64() * 1e3);
        patience::rest(SETTLE);
        resident.push(megabytes(node.resident_bytes()?));
    }
    Ok(vec![
        Row::judged(
            "idle node, resident",
            "MB",
            Goal::Below(IDLE_MB_MAX),
            median(resident),
            None,
        ),
        Row::judged(
            "process start to first answer",
            "ms",
            Goal::Below(START_MS_MAX),
            median(start),
            None,
        ),
    ])
}
