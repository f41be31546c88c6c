//! How soon a virtual machine from the golden snapshot answers, beside one that boots: the sandbox crate's own
//! measurement, with the node's program as the agent.

use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use super::subject::Subjects;
use super::table::{Goal, Row};
use super::{Effort, median, progress};
use crate::shell;

/// The time to the first answer by the time of a full boot.
const RATIO_MAX: f64 = 0.1;

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
    ])
}
