//! Stopping programs and generated modules a great many times, each run compared with one that is never stopped.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Sender};
use std::thread;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::{fuzz, machine, shell};

#[derive(clap::Args)]
pub struct Arguments {
    /// How many checkpoints to take and go on with
    #[arg(long, default_value_t = 1_000_000)]
    checkpoints: u64,
    /// End after so many seconds, however many there were
    #[arg(long, default_value_t = 86_400)]
    seconds: u64,
    /// The first seed; the same seeds give the same runs
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// In one run of so many each hop goes on in a process of its own; never if zero
    #[arg(long, default_value_t = 250)]
    fresh: u64,
    /// How many processes share the work; as many as there are processors if zero
    #[arg(long, default_value_t = 0)]
    jobs: u64,
    /// Let a build for another processor, run by qemu, make every other hop of those in processes of their own
    #[arg(long, value_enum)]
    processor: Option<Processor>,
    /// Instead, move programs of Rust and C and a JavaScript engine so many times each, at random times of their runs
    #[arg(long, conflicts_with_all = ["processor", "checkpoints", "seconds", "fresh"])]
    moves: Option<u64>,
    /// Let this go wrong once in each run: it ends well only if that is found
    #[arg(long, value_enum)]
    plant: Option<Fault>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Fault {
    WrongSpill,
    LostPage,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Processor {
    Aarch64,
}

const EXAMPLE: [&str; 5] = ["build", "--release", "--workspace", "--example", "checkpoint_hops"];

/// Far enough apart that no process comes to the seeds of the next one.
const SEEDS_APART: u64 = 1 << 40;

/// What is added up over all processes.
const COUNTS: [&str; 8] = [
    "checkpoints",
    "in_place",
    "moved",
    "written",
    "fresh",
    "runs",
    "overflowed",
    "modules",
];

pub fn run(arguments: &Arguments) -> Result<()> {
    machine::prepare_for_checkpoints()?;
    shell::run(shell::cargo().args(EXAMPLE))?;
    let other = match arguments.processor {
        Some(Processor::Aarch64) => build_for_aarch64()?,
        None => Vec::new(),
    };
    let jobs = match arguments.jobs {
        0 => thread::available_parallelism()?.get() as u64,
        jobs => jobs,
    };
    let (lines, told) = mpsc::channel();
    let mut running = Vec::new();
    for job in 0..jobs {
        running.push(start(arguments, &other, (job, jobs), lines.clone())?);
    }
    drop(lines);
    report(jobs, told);
    let mut failed = 0;
    for mut child in running {
        failed += u64::from(!child.wait()?.success());
    }
    match (arguments.plant, failed) {
        (None, 0) => Ok(()),
        (None, _) => bail!("{failed} of {jobs} processes found a difference, printed above with its seed"),
        (Some(_), 0) => bail!("what was planted was not found"),
        (Some(_), _) => {
            println!("what was planted was found, as printed above");
            Ok(())
        }
    }
}

/// Starts one of so many processes; its lines are passed on.
fn start(
    arguments: &Arguments,
    other: &[String],
    (job, jobs): (u64, u64),
    lines: Sender<(u64, String)>,
) -> Result<Child> {
    let program = fuzz::target_dir().join("release/examples/checkpoint_hops");
    let fault = match arguments.plant {
        None => "none",
        Some(Fault::WrongSpill) => "wrong-spill",
        Some(Fault::LostPage) => "lost-page",
    };
    let seed = arguments.seed + job * SEEDS_APART;
    let text = |numbers: &[u64]| numbers.iter().map(u64::to_string).collect::<Vec<_>>();
    let mut command = Command::new(&program);
    match arguments.moves {
        Some(moves) => command
            .arg("--moves")
            .args(text(&[moves, seed]))
            .arg(fault)
            .args(text(&[job, jobs])),
        None => command
            .args(text(&[
                arguments.checkpoints.div_ceil(jobs),
                arguments.seconds,
                seed,
                arguments.fresh,
            ]))
            .arg(fault)
            .args(other),
    };
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{}`", program.display()))?;
    let output = child.stdout.take().context("the process has no output")?;
    thread::spawn(move || {
        let read = BufReader::new(output).lines().map_while(Result::ok);
        read.for_each(|line| _ = lines.send((job, line)));
    });
    Ok(child)
}

/// Adds up what the processes say, until the last one has ended.
fn report(jobs: u64, told: mpsc::Receiver<(u64, String)>) {
    let mut latest: BTreeMap<u64, Value> = BTreeMap::new();
    let mut since_printed = 0;
    for (job, line) in told {
        match serde_json::from_str::<Value>(&line) {
            Ok(counts) if counts["checkpoints"].is_u64() => {
                latest.insert(job, counts);
                since_printed += 1;
                if since_printed >= jobs {
                    since_printed = 0;
                    println!("{}", sum(&latest));
                }
            }
            _ => println!("{line}"),
        }
    }
    if !latest.is_empty() {
        println!("in all {}", sum(&latest));
    }
}

fn sum(latest: &BTreeMap<u64, Value>) -> Value {
    let of = |name: &'static str| latest.values().filter_map(move |counts| counts[name].as_u64());
    let seconds = of("seconds").max().unwrap_or_default();
    let mut all: Value = COUNTS
        .iter()
        .map(|&name| (name.to_owned(), of(name).sum::<u64>()))
        .collect();
    all["seconds"] = json!(seconds);
    all["a_second"] = json!(of("checkpoints").sum::<u64>() / seconds.max(1));
    all
}

/// Builds the program for the other processor; the words that run it come back.
fn build_for_aarch64() -> Result<Vec<String>> {
    const TARGET: &str = "aarch64-unknown-linux-gnu";
    const COMPILER: &str = "aarch64-linux-gnu-gcc";
    machine::prepare_for_aarch64(TARGET)?;
    let mut build = shell::cargo();
    build
        .args(EXAMPLE)
        .args(["--target", TARGET])
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", COMPILER)
        .env("CC_aarch64_unknown_linux_gnu", COMPILER)
        .env("AR_aarch64_unknown_linux_gnu", "aarch64-linux-gnu-ar");
    shell::run(&mut build)?;
    let program = fuzz::target_dir().join(TARGET).join("release/examples/checkpoint_hops");
    let program = program.to_string_lossy().into_owned();
    let words = ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"];
    Ok(words.iter().map(|&word| word.to_owned()).chain([program]).collect())
}
