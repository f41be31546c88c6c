//! `cargo xtask sim`: many seeds of the simulation, in a release build of it.

use anyhow::Result;

use crate::shell;

#[derive(clap::Args)]
pub struct Arguments {
    /// How many seeds to run
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 1)]
    first: u64,
}

/// Runs the seeds; the first that fails is printed with what was wrong.
pub fn run(arguments: &Arguments) -> Result<()> {
    let mut command = shell::cargo();
    command.args([
        "run",
        "--quiet",
        "--release",
        "--package",
        "bowline-sim",
        "--example",
        "seeds",
        "--",
    ]);
    command.args([arguments.seeds.to_string(), arguments.first.to_string()]);
    shell::run(&mut command)
}
