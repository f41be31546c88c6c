//! The `bowline` binary: a node, and the command line that speaks to one.

mod cli;
mod client;
mod command;
mod config;
mod node;
mod output;
mod package;
mod progress;

use std::process::ExitCode;

use bowline_sandbox_linux::cell::{SPAWNER_ARGUMENT, spawner_main};
use bowline_sandbox_wasm::{COMPILER_ARGUMENT, compiler_main};
use clap::Parser;

/// Gives memory back to the system soon, and is fast with many small requests on several cores.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match std::env::args_os().nth(1) {
        Some(argument) if argument == SPAWNER_ARGUMENT => spawner_main(),
        Some(argument) if argument == COMPILER_ARGUMENT => compiler_main(),
        _ => {}
    }
    cli::Cli::parse().run()
}
