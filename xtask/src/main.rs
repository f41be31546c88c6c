//! The project's own tools: `cargo xtask test`, `tidy`, `fuzz`, `fuzz-checkpoints`, `sim` and `bench`.

mod bench;
mod fuzz;
mod hops;
mod machine;
mod shell;
mod sim;
mod suite;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Checks, fuzzes and measures this workspace", version)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what is missing, then run every check; this is what continuous integration runs
    Test(suite::Arguments),
    /// Check what no compiler checks: layers, sizes, names, manifests, documents
    Tidy,
    /// Build the fuzz targets and run them, or one of them, for a bounded time
    Fuzz(fuzz::Arguments),
    /// Stop programs and generated modules many times, each going on elsewhere, and compare how they end
    FuzzCheckpoints(hops::Arguments),
    /// Run many seeds of the deterministic simulation; a failing seed is printed
    Sim(sim::Arguments),
    /// Measure the node beside its references and print one table
    Bench(bench::Arguments),
}

fn main() -> ExitCode {
    if let Some(code) = fuzz::act_as_compiler_wrapper() {
        return code;
    }
    let result = match Arguments::parse().task {
        Task::Test(arguments) => suite::run(&arguments),
        Task::Tidy => tidy::run(),
        Task::Fuzz(arguments) => fuzz::run(&arguments),
        Task::FuzzCheckpoints(arguments) => hops::run(&arguments),
        Task::Sim(arguments) => sim::run(&arguments),
        Task::Bench(arguments) => bench::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
