//! Replays traces and prints what came of it, one JSON object a line; `cargo xtask bench capacity` runs it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use bowline_foundation::clock::Clock;
use bowline_replay::compare::{Comparison, csv};
use bowline_replay::generate::{Plan, generate};
use bowline_replay::placement::{self, Placing};
use bowline_replay::score::Score;
use bowline_replay::trace::{DAYS_MAX, Trace};
use bowline_replay::{cost, picture};
use clap::Parser;
use serde::Serialize;

/// Replays traces of calls through the capacity policies
#[derive(Parser)]
struct Arguments {
    /// A folder with a trace in the format of the public Azure Functions 2019 data set
    #[arg(long)]
    trace: Option<PathBuf>,
    /// Make traces up from these seeds
    #[arg(long, value_delimiter = ',', default_values_t = [101, 102, 103, 104, 105, 106])]
    seeds: Vec<u64>,
    /// How many days each has
    #[arg(long, default_value_t = 14, value_parser = clap::value_parser!(u32).range(1..=i64::from(DAYS_MAX)))]
    days: u32,
    /// How many functions each has
    #[arg(long, default_value_t = 400)]
    functions: usize,
    /// Where to write all scores as CSV
    #[arg(long)]
    csv: Option<PathBuf>,
    /// Where to draw the picture
    #[arg(long)]
    svg: Option<PathBuf>,
    /// Instead of all that, let ten nodes place calls with stub sandboxes
    #[arg(long)]
    placement: bool,
}

/// What is said of one trace.
#[derive(Serialize)]
struct Line<'a> {
    trace: &'a str,
    fixed: &'a Score,
    hybrid: &'a Score,
    clairvoyant: Option<Score>,
    ours_at_fixed_memory: Option<Score>,
    ours_at_fixed_cold: Option<Score>,
    ours_at_hybrid_memory: Option<Score>,
    ours_at_hybrid_cold: Option<Score>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if arguments.placement {
        return place();
    }
    let comparisons = compare(&arguments)?;
    for comparison in &comparisons {
        println!("{}", serde_json::to_string(&line(comparison))?);
    }
    let cost = cost::cost(10_000);
    let costs = serde_json::json!({
        "request_p99_us": cost.request_p99_us,
        "forecast_us": cost.forecast_us,
        "placements_per_s": cost.placements_per_s,
    });
    println!("{costs}");
    let written = [
        (&arguments.csv, csv(&comparisons)),
        (&arguments.svg, picture::draw(&comparisons)),
    ];
    for (path, text) in written {
        if let Some(path) = path {
            std::fs::write(path, text).with_context(|| format!("cannot write `{}`", path.display()))?;
        }
    }
    Ok(())
}

fn place() -> Result<()> {
    let clock = Clock::system();
    for seed in [101, 102, 103] {
        let run = |placing| placement::run(placing, seed, Duration::from_secs(60), &clock);
        let (placed, apart) = (run(Placing::Cluster), run(Placing::Node));
        let line = serde_json::json!({
            "placements_per_second": placed.placements_per_second(),
            "cold": placed.cold, "cold_apart": apart.cold,
            "sandboxes": placed.sandboxes_max, "sandboxes_apart": apart.sandboxes_max,
        });
        println!("{line}");
    }
    Ok(())
}

fn compare(arguments: &Arguments) -> Result<Vec<Comparison>> {
    if let Some(folder) = &arguments.trace {
        let trace = Trace::read(folder)?;
        eprintln!(
            "replaying `{}`: {} functions, {} days",
            trace.name,
            trace.functions.len(),
            trace.days
        );
        return Ok(vec![Comparison::of(&trace)]);
    }
    let replay = |seed: &u64| {
        eprintln!("replaying seed {seed}");
        let plan = Plan {
            seed: *seed,
            days: arguments.days,
            functions: arguments.functions,
        };
        Comparison::of(&generate(&plan))
    };
    Ok(arguments.seeds.iter().map(replay).collect())
}

fn line(comparison: &Comparison) -> Line<'_> {
    let (fixed, hybrid) = (comparison.ten_minutes(), comparison.published_hybrid());
    let ours = &comparison.ours;
    Line {
        trace: &comparison.trace,
        fixed,
        hybrid,
        clairvoyant: comparison.clairvoyant.at_waste(fixed.wasted_minutes),
        ours_at_fixed_memory: ours.at_waste(fixed.wasted_minutes),
        ours_at_fixed_cold: ours.at_cold(fixed.cold),
        ours_at_hybrid_memory: ours.at_waste(hybrid.wasted_minutes),
        ours_at_hybrid_cold: ours.at_cold(hybrid.cold),
    }
}
