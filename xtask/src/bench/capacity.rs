//! What is kept warm: our policy beside the fixed keep-alive, the hybrid histogram policy and the
//! clairvoyant, on traces; and what a decision costs.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::table::{Goal, Row};
use super::{progress, release_output};
use crate::{fuzz, shell};

const RATIO_MAX: f64 = 0.5;
const DECISION_US_MAX: f64 = 5.0;
const PLACEMENTS_MIN: f64 = 5000.0;
/// Where `--record` keeps the picture.
const PICTURE: &str = "docs/capacity.svg";
const COLD: &str = "cold starts";
const HOURS: &str = "h";

#[derive(Deserialize)]
struct Score {
    cold: f64,
    cold_share: f64,
    cold_share_p75: f64,
    wasted_minutes: f64,
}

/// What the program says of one trace; a score is missing where our prices do not reach.
#[derive(Deserialize)]
struct Line {
    trace: String,
    fixed: Score,
    hybrid: Score,
    clairvoyant: Option<Score>,
    ours_at_fixed_memory: Option<Score>,
    ours_at_fixed_cold: Option<Score>,
    ours_at_hybrid_memory: Option<Score>,
    ours_at_hybrid_cold: Option<Score>,
}

#[derive(Deserialize)]
struct Cost {
    request_p99_us: f64,
    forecast_us: f64,
    placements_per_s: f64,
}

/// Replays the trace in a folder, or made-up ones. CSV and picture lie in the build folder; with `record`
/// the picture of made-up traces goes to the documents.
pub fn measure(trace: Option<&Path>, record: bool) -> Result<Vec<Row>> {
    progress("replaying traces");
    let (csv, svg) = (output("capacity.csv")?, output("capacity.svg")?);
    let mut words = vec!["--package", "bowline-replay", "--", "--csv", &csv, "--svg", &svg];
    let folder = trace.map(|folder| folder.to_str().context("the trace's path is not text"));
    if let Some(folder) = folder.transpose()? {
        words.extend(["--trace", folder]);
    }
    let text = release_output(&words)?;
    progress(&format!("all scores are in `{csv}`, the picture is `{svg}`"));
    if record && trace.is_none() {
        std::fs::copy(&svg, shell::root().join(PICTURE)).context("cannot keep the picture")?;
    }
    rows_of(&text)
}

fn output(name: &str) -> Result<String> {
    let path = fuzz::target_dir().join(name);
    let path = path.to_str().context("the build folder's path is not text")?;
    Ok(path.to_owned())
}

fn rows_of(text: &str) -> Result<Vec<Row>> {
    let mut lines: Vec<&str> = text.lines().collect();
    let cost: Cost = serde_json::from_str(lines.pop().context("the program printed nothing")?)?;
    let lines: Vec<Line> = lines
        .into_iter()
        .map(|line| serde_json::from_str(line).with_context(|| format!("`{line}` is no comparison")))
        .collect::<Result<_>>()?;
    let mut rows = against_fixed(&lines);
    rows.extend(against_hybrid(&lines));
    rows.extend(shares(&lines));
    let decision = "decision for a request, 10,000 functions, p99";
    rows.push(Row::judged(
        decision,
        "us",
        Goal::Below(DECISION_US_MAX),
        cost.request_p99_us,
        None,
    ));
    let forecast = "forecast of one function for one minute";
    rows.push(Row::judged(forecast, "us", Goal::None, cost.forecast_us, None));
    let placements = "placements with stub sandboxes, ten nodes, beside the goal";
    let goal = Goal::RatioAtLeast(1.0);
    rows.push(Row::judged(
        placements,
        "1/s",
        goal,
        cost.placements_per_s,
        Some(PLACEMENTS_MIN),
    ));
    Ok(rows)
}

fn against_fixed(lines: &[Line]) -> Vec<Row> {
    let cold = |line: &Line| Some((line.ours_at_fixed_memory.as_ref()?.cold, line.fixed.cold));
    let memory = |line: &Line| Some((hours(line.ours_at_fixed_cold.as_ref()?), hours(&line.fixed)));
    let clairvoyant = |line: &Line| Some((line.clairvoyant.as_ref()?.cold, line.fixed.cold));
    let goal = Goal::RatioAtMost(RATIO_MAX);
    let mut rows = Vec::new();
    for (what, unit, of) in [
        (
            "cold starts at the memory time of ten minutes' keep-alive",
            COLD,
            &cold as &dyn Fn(&Line) -> Pair,
        ),
        (
            "memory time at the cold starts of ten minutes' keep-alive",
            HOURS,
            &memory,
        ),
    ] {
        rows.push(sum(what, unit, goal, lines, of));
        if lines.len() > 1 {
            rows.push(worst(what, unit, goal, lines, of));
        }
    }
    let title = "clairvoyant keep-alive, cold starts at the same memory time";
    rows.push(sum(title, COLD, Goal::None, lines, clairvoyant));
    rows
}

fn against_hybrid(lines: &[Line]) -> Vec<Row> {
    let cold = |line: &Line| Some((line.ours_at_hybrid_memory.as_ref()?.cold, line.hybrid.cold));
    let memory = |line: &Line| Some((hours(line.ours_at_hybrid_cold.as_ref()?), hours(&line.hybrid)));
    let goal = Goal::RatioAtMost(1.0);
    vec![
        sum(
            "cold starts at the memory time of the hybrid histogram policy",
            COLD,
            goal,
            lines,
            cold,
        ),
        sum(
            "memory time at the cold starts of the hybrid histogram policy",
            HOURS,
            goal,
            lines,
            memory,
        ),
    ]
}

/// Shares of all invocations, and the third quartile over functions, beside ten minutes' keep-alive.
fn shares(lines: &[Line]) -> Vec<Row> {
    let mean = |of: fn(&Score) -> f64| {
        move |line: &Line| {
            let ours = line.ours_at_fixed_memory.as_ref()?;
            Some((100.0 * of(ours), 100.0 * of(&line.fixed)))
        }
    };
    #[allow(clippy::cast_precision_loss, reason = "there are few traces")]
    let count = lines.len() as f64;
    let mut rows = Vec::new();
    for (what, of) in [
        ("cold starts of all invocations", mean(|score| score.cold_share)),
        (
            "cold starts of a function's invocations, third quartile",
            mean(|score| score.cold_share_p75),
        ),
    ] {
        let pair = total(lines, of).map(|(ours, other)| (ours / count, other / count));
        rows.push(row(what, "%", Goal::None, pair));
    }
    rows
}

fn hours(score: &Score) -> f64 {
    score.wasted_minutes / 60.0
}

type Pair = Option<(f64, f64)>;

fn total(lines: &[Line], of: impl Fn(&Line) -> Pair) -> Pair {
    let pairs: Option<Vec<(f64, f64)>> = lines.iter().map(of).collect();
    let sum = |sum: (f64, f64), pair: (f64, f64)| (sum.0 + pair.0, sum.1 + pair.1);
    pairs.map(|pairs| pairs.into_iter().fold((0.0, 0.0), sum))
}

fn sum(what: &str, unit: &str, goal: Goal, lines: &[Line], of: impl Fn(&Line) -> Pair) -> Row {
    row(what, unit, goal, total(lines, of))
}

/// The trace on which we do worst.
fn worst(what: &str, unit: &str, goal: Goal, lines: &[Line], of: impl Fn(&Line) -> Pair) -> Row {
    let ratio = |line: &&Line| of(line).map_or(f64::INFINITY, |(ours, other)| ours / other);
    let line = lines.iter().max_by(|a, b| ratio(a).total_cmp(&ratio(b)));
    let line = line.expect("there are several traces");
    row(&format!("{what}, worst: {}", line.trace), unit, goal, of(line))
}

fn row(what: &str, unit: &str, goal: Goal, pair: Pair) -> Row {
    let (ours, other) = pair.unwrap_or((f64::MAX, f64::MAX));
    Row::judged(what, unit, goal, ours, pair.map(|_| other))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(trace: &str, cold: f64) -> String {
        let score =
            |cold: f64| format!("{{\"cold\":{cold},\"cold_share\":0.1,\"cold_share_p75\":0.2,\"wasted_minutes\":60}}");
        format!(
            "{{\"trace\":\"{trace}\",\"fixed\":{0},\"hybrid\":{0},\"clairvoyant\":{1},\"ours_at_fixed_memory\":{1},\
             \"ours_at_fixed_cold\":{1},\"ours_at_hybrid_memory\":null,\"ours_at_hybrid_cold\":{1}}}",
            score(100.0),
            score(cold)
        )
    }

    #[test]
    fn figures_become_rows_and_a_missing_one_holds_no_goal() {
        let cost = "{\"request_p99_us\":1.5,\"forecast_us\":0.2,\"placements_per_s\":9000.0}";
        let rows = rows_of(&format!("{}\n{}\n{cost}\n", line("a", 40.0), line("b", 70.0))).unwrap();
        let find = |what: &str| rows.iter().find(|row| row.row.contains(what)).unwrap();
        let both = find("cold starts at the memory time of ten minutes");
        assert_eq!((both.ours, both.ratio, both.holds), (110.0, Some(0.55), false));
        let worst = find("time of ten minutes' keep-alive, worst: b");
        assert_eq!((worst.ours, worst.holds), (70.0, false));
        assert!(!find("memory time of the hybrid").holds, "our curve did not reach it");
        assert!(find("decision").holds);
    }
}
