//! `cargo xtask bench`: the node beside its references, on one machine, in one run.
//!
//! Everything is built in release mode. Ours and the reference are measured in turns, so that whatever
//! else the machine does falls on both alike; a figure is the median of the rounds.

mod capacity;
mod checkpoint;
mod churn;
mod client;
mod cold;
mod density;
mod fleets;
mod instances;
mod invoke;
mod moves;
mod neighbours;
mod placement;
mod queue;
mod runtime_api;
mod start;
mod stream;
mod streaming;
mod subject;
pub mod table;
mod vm;
mod wrk;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::{machine, shell};
use subject::Subjects;
use table::Row;

#[derive(clap::Args)]
pub struct Arguments {
    /// What to measure
    #[arg(value_enum)]
    names: Vec<Name>,
    /// Print one JSON object a row
    #[arg(long)]
    json: bool,
    /// Keep the rows and put them into the README; without names, only refresh the README
    #[arg(long)]
    record: bool,
    /// How many rounds the medians are of, at least five
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(5..))]
    rounds: u32,
    /// How long each round of load lasts, in seconds
    #[arg(long, default_value_t = 3)]
    seconds: u32,
    /// For `capacity`: a folder with a trace in the format of the public Azure Functions 2019 data set, instead
    /// of traces that are made up
    #[arg(long)]
    trace: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Name {
    /// Warm invocations under load, and one at a time
    Invoke,
    /// First invocations in each kind of sandbox
    Cold,
    /// Memory with many functions, and of an idle node
    Density,
    /// What a function feels of one that misbehaves
    Neighbours,
    /// How soon a function has worked off a message of an SQS queue
    Queue,
    /// Appends and reads of streams, beside a bare file, redis-server and PostgreSQL
    Stream,
    /// Streamed answers: the first byte, and a hundred megabytes
    Streaming,
    /// Programs that can be stopped anywhere, beside themselves as they are
    Checkpoint,
    /// Virtual machines from the golden snapshot, beside those that boot
    Vm,
    /// Warm invocations on a process instance beside those in the node
    Instances,
    /// A function that is called often beside many that are not, on one mixed fleet and on two
    Fleets,
    /// How soon a call is answered, by where its sandbox comes from
    Start,
    /// Cold starts and wasted memory of what is kept warm, beside other policies, on traces
    Capacity,
    /// Where calls run in a cluster of ten nodes, with stub sandboxes
    Placement,
    /// Sandboxes made and ended a second, where each call takes the room of another
    Churn,
    /// A thousand functions on memory for a tenth of them, for ten minutes; not among all
    CapacityLoad,
    /// All of them
    All,
}

impl Arguments {
    fn wants(&self, name: Name) -> bool {
        let all = name != Name::CapacityLoad;
        self.names
            .iter()
            .any(|given| *given == name || *given == Name::All && all)
    }
}

/// How long and how often to measure.
#[derive(Clone, Copy)]
struct Effort {
    rounds: u32,
    seconds: u32,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    if arguments.names.is_empty() {
        if arguments.record {
            return table::record(&[]);
        }
        bail!(
            "name what to measure: invoke, cold, density, neighbours, queue, stream, streaming, checkpoint, vm, instances, \
             fleets, start, capacity, placement, churn, capacity-load or all"
        );
    }
    let mut rows = Vec::new();
    let is_pure = |name: &Name| matches!(name, Name::Capacity | Name::Placement);
    if !arguments.names.iter().all(is_pure) {
        machine::prepare_for_benchmarks()?;
        rows = measure(arguments)?;
    }
    if arguments.wants(Name::Capacity) {
        let rows_of_traces = capacity::measure(arguments.trace.as_deref(), arguments.record);
        rows.extend(rows_of_traces.context("`capacity` cannot be measured")?);
    }
    if arguments.wants(Name::Placement) {
        rows.extend(placement::measure().context("`placement` cannot be measured")?);
    }
    if arguments.json {
        print!("{}", table::json_lines(&rows)?);
    } else {
        print!("\n{}", table::plain(&rows));
    }
    if arguments.record {
        table::record(&rows)?;
    }
    Ok(())
}

fn measure(arguments: &Arguments) -> Result<Vec<Row>> {
    let subjects = Subjects::build()?;
    let effort = Effort {
        rounds: arguments.rounds,
        seconds: arguments.seconds,
    };
    let wants = |name| arguments.wants(name);
    let mut rows = Vec::new();
    if wants(Name::Invoke) {
        rows.extend(invoke::measure(&subjects, effort).context("`invoke` cannot be measured")?);
    }
    if wants(Name::Cold) {
        rows.extend(cold::measure(&subjects, effort).context("`cold` cannot be measured")?);
    }
    if wants(Name::Density) {
        rows.extend(density::measure(&subjects, effort).context("`density` cannot be measured")?);
    }
    if wants(Name::Neighbours) {
        rows.extend(neighbours::measure(&subjects, effort).context("`neighbours` cannot be measured")?);
    }
    if wants(Name::Queue) {
        rows.extend(queue::measure(&subjects, effort).context("`queue` cannot be measured")?);
    }
    if wants(Name::Stream) {
        rows.extend(stream::measure(&subjects, effort).context("`stream` cannot be measured")?);
    }
    if wants(Name::Streaming) {
        rows.extend(streaming::measure(&subjects, effort).context("`streaming` cannot be measured")?);
    }
    if wants(Name::Instances) {
        rows.extend(instances::measure(&subjects, effort).context("`instances` cannot be measured")?);
    }
    if wants(Name::Fleets) {
        rows.extend(fleets::measure(&subjects, effort).context("`fleets` cannot be measured")?);
    }
    if wants(Name::Start) {
        rows.extend(start::measure(&subjects).context("`start` cannot be measured")?);
    }
    if wants(Name::Checkpoint) {
        rows.extend(checkpoint::measure(&subjects, effort).context("`checkpoint` cannot be measured")?);
    }
    if wants(Name::Churn) {
        rows.push(churn::measure(&subjects, effort).context("`churn` cannot be measured")?);
    }
    if wants(Name::CapacityLoad) {
        rows.extend(churn::share().context("`capacity-load` fails")?);
    }
    if wants(Name::Vm) {
        rows.extend(vm::measure(&subjects, effort).context("`vm` cannot be measured")?);
    }
    Ok(rows)
}

/// Tells how far a measurement is; on standard error, so that `--json` stays clean.
fn progress(text: &str) {
    eprintln!("bench: {text}");
}

/// The median of some figures.
fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The smallest figure that `share` of all figures do not exceed.
fn percentile(mut figures: Vec<f64>, share: f64) -> f64 {
    figures.sort_by(f64::total_cmp);
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index"
    )]
    let rank = (figures.len() as f64 * share).ceil() as usize;
    figures.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

/// Runs a program that needs but a few crates, in its own release build, and returns what it printed.
fn release_output(words: &[&str]) -> Result<String> {
    shell::output(shell::cargo().args(["run", "--release", "--quiet"]).args(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_members_of_the_sample() {
        let figures: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(percentile(figures.clone(), 0.99).to_bits(), 198.0_f64.to_bits());
        assert_eq!(percentile(figures, 0.5).to_bits(), 100.0_f64.to_bits());
        assert_eq!(median(vec![3.0, 1.0, 2.0]).to_bits(), 2.0_f64.to_bits());
    }
}
