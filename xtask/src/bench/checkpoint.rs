//! What it costs that a function can be stopped anywhere, and how fast it stops: the checkpoint crate's own
//! measurement, each program beside itself without instrumentation.

use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::subject::Subjects;
use super::table::{Goal, Row};
use super::{Effort, median, moves, progress};
use crate::shell;

/// The run time of instrumented programs by that of plain ones: the mean, and any single one.
const MEAN_RATIO_MAX: f64 = 1.06;
const WORST_RATIO_MAX: f64 = 1.15;
const SIZE_RATIO_MAX: f64 = 1.4;
const COMPILE_RATIO_MAX: f64 = 1.5;
const UNWOUND_P50_US_MAX: f64 = 200.0;
const UNWOUND_P99_US_MAX: f64 = 2_000.0;
const CAPTURED_P50_MS_MAX: f64 = 15.0;
const RESTORED_P50_MS_MAX: f64 = 3.0;
const IN_PLACE_P50_MS_MAX: f64 = 1.0;

pub fn measure(subjects: &Subjects, effort: Effort) -> Result<Vec<Row>> {
    let mut reports = Vec::new();
    for round in 1..=effort.rounds {
        progress(&format!("checkpoints, round {round} of {}", effort.rounds));
        let text = shell::output(&mut Command::new(&subjects.checkpoint))?;
        let report: Value = serde_json::from_str(text.trim()).context("`checkpoint_bench` printed no JSON")?;
        reports.push(report);
    }
    let mut rows = of_programs(&reports)?;
    rows.extend(of_stops(&reports)?);
    rows.extend(moves::measure(subjects)?);
    Ok(rows)
}

/// Each program's run time, size and compile time beside its own without instrumentation.
fn of_programs(reports: &[Value]) -> Result<Vec<Row>> {
    let names = names(reports)?;
    let mut rows = Vec::new();
    let mut ratios = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let of = |field: &str| over(reports, &format!("/guests/{index}/{field}"));
        let (ours, plain) = (of("instrumented_ms")?, of("plain_ms")?);
        ratios.push(ours / plain);
        let goal = Goal::RatioAtMost(WORST_RATIO_MAX);
        rows.push(Row::judged(
            &format!("Checkpoints: CPU time of `{name}`"),
            "ms",
            goal,
            ours,
            Some(plain),
        ));
        if let Ok(asyncify) = of("asyncify_ms") {
            let row = format!("Checkpoints, for comparison: CPU time of `{name}` by Asyncify");
            rows.push(Row::judged(&row, "ms", Goal::None, asyncify, Some(plain)));
        }
        let goal = Goal::RatioAtMost(SIZE_RATIO_MAX);
        let (ours, plain) = (of("instrumented_bytes")?, of("plain_bytes")?);
        rows.push(Row::judged(
            &format!("Checkpoints: size of `{name}`"),
            "B",
            goal,
            ours,
            Some(plain),
        ));
        let goal = Goal::RatioAtMost(COMPILE_RATIO_MAX);
        let (ours, plain) = (of("instrumented_compile_ms")?, of("plain_compile_ms")?);
        let row = format!("Checkpoints: CPU time to instrument and compile `{name}`");
        rows.push(Row::judged(&row, "ms", goal, ours, Some(plain)));
    }
    let mean = geometric_mean(&ratios);
    let row = "Checkpoints: CPU time of all programs, geometric mean of ratios";
    rows.push(Row::judged(row, "x", Goal::AtMost(MEAN_RATIO_MAX), mean, None));
    Ok(rows)
}

/// How fast a guest stops and goes on.
fn of_stops(reports: &[Value]) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let single: &[(&str, &str, &str, f64)] = &[
        ("request to unwound, p50", "us", "unwound_p50_us", UNWOUND_P50_US_MAX),
        ("request to unwound, p99", "us", "unwound_p99_us", UNWOUND_P99_US_MAX),
        (
            "request to signed checkpoint in hand, 16 MiB, p50",
            "ms",
            "large_written_p50_ms",
            CAPTURED_P50_MS_MAX,
        ),
        (
            "restore with warm caches, p50",
            "ms",
            "restored_p50_ms",
            RESTORED_P50_MS_MAX,
        ),
        (
            "capture 1 MiB of changed pages of 16 MiB and go on in place, p50",
            "ms",
            "in_place_p50_ms",
            IN_PLACE_P50_MS_MAX,
        ),
    ];
    for &(what, unit, field, most) in single {
        let figure = over(reports, &format!("/{field}"))?;
        rows.push(Row::judged(
            &format!("Checkpoints: {what}"),
            unit,
            Goal::AtMost(most),
            figure,
            None,
        ));
    }
    Ok(rows)
}

fn names(reports: &[Value]) -> Result<Vec<String>> {
    let guests = reports.first().and_then(|report| report["guests"].as_array());
    let guests = guests.context("`checkpoint_bench` measured no programs")?;
    let names = guests.iter().map(|guest| guest["name"].as_str().map(str::to_owned));
    names.collect::<Option<_>>().context("a program has no name")
}

/// The median of a figure over all reports.
fn over(reports: &[Value], pointer: &str) -> Result<f64> {
    let figures = reports
        .iter()
        .map(|report| report.pointer(pointer).and_then(Value::as_f64));
    let figures: Option<Vec<f64>> = figures.collect();
    figures
        .map(median)
        .with_context(|| format!("`checkpoint_bench` has no `{pointer}`"))
}

#[allow(clippy::cast_precision_loss, reason = "there are few programs")]
fn geometric_mean(ratios: &[f64]) -> f64 {
    (ratios.iter().map(|ratio| ratio.ln()).sum::<f64>() / ratios.len() as f64).exp()
}
