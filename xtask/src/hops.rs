//! Stopping programs and generated modules a great many times, each run compared with one that is never stopped.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{fuzz, machine, shell};

#[derive(clap::Args)]
pub struct Arguments {
    /// How many checkpoints to take and go on with
    #[arg(long, default_value_t = 1_000_000)]
    hops: u64,
    /// The first seed; the same seeds give the same runs
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// In one run of so many each hop goes on in a process of its own; never if zero
    #[arg(long, default_value_t = 40)]
    fresh: u64,
    /// How many processes share the work
    #[arg(long, default_value_t = 1)]
    jobs: u64,
    /// Let a build for another processor, run by qemu, make every other hop of those in processes of their own
    #[arg(long, value_enum)]
    processor: Option<Processor>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Processor {
    Aarch64,
}

const EXAMPLE: [&str; 5] = ["build", "--release", "--workspace", "--example", "checkpoint_hops"];

/// Far enough apart that no process comes to the seeds of the next one.
const SEEDS_APART: u64 = 1 << 40;

pub fn run(arguments: &Arguments) -> Result<()> {
    machine::prepare_for_checkpoints()?;
    shell::run(shell::cargo().args(EXAMPLE))?;
    let other = match arguments.processor {
        Some(Processor::Aarch64) => build_for_aarch64()?,
        None => Vec::new(),
    };
    let program = fuzz::target_dir().join("release/examples/checkpoint_hops");
    let jobs = arguments.jobs.max(1);
    let mut running = Vec::new();
    for job in 0..jobs {
        let mut command = Command::new(&program);
        let seed = arguments.seed + job * SEEDS_APART;
        let numbers = [arguments.hops.div_ceil(jobs), seed, arguments.fresh];
        command.args(numbers.map(|number| number.to_string())).args(&other);
        let child = command.spawn();
        running.push(child.with_context(|| format!("cannot start `{}`", program.display()))?);
    }
    let mut failed = 0;
    for mut child in running {
        failed += u64::from(!child.wait()?.success());
    }
    if failed > 0 {
        bail!("{failed} of {jobs} processes found a difference, printed above with its seed");
    }
    Ok(())
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
