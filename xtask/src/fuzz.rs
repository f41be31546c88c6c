//! Building the fuzz targets on the stable toolchain and running them for a bounded time.
//!
//! libFuzzer needs coverage counters in the code under test. The compiler can insert them on stable, but
//! the flags must reach only our own crates: with them in `RUSTFLAGS` every dependency would be built
//! again. So cargo is told that this program is the workspace's compiler wrapper, and in that role
//! it adds the flags and runs the real compiler.

use std::num::NonZero;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::thread;

use anyhow::{Context, Result, bail};

use crate::shell;

/// Set, in any form, when this program stands in for the compiler.
const WRAPPER_MARK: &str = "BOWLINE_FUZZ_COMPILER";

const COVERAGE_FLAGS: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "-Cdebug-assertions=yes",
    "-Coverflow-checks=yes",
    "--cfg=fuzzing",
];

#[derive(clap::Args)]
pub struct Arguments {
    /// The target to run; all of them without it
    target: Option<String>,
    /// How long to run each target, in seconds
    #[arg(long, default_value_t = 10)]
    seconds: u32,
}

/// If cargo calls this program as a compiler wrapper, runs the compiler and says how it ended.
pub fn act_as_compiler_wrapper() -> Option<ExitCode> {
    std::env::var_os(WRAPPER_MARK)?;
    let mut words = std::env::args_os().skip(1);
    let compiler = words.next().expect("cargo passes the compiler's path first");
    let mut command = Command::new(compiler);
    command.args(words).args(COVERAGE_FLAGS);
    match command.status() {
        Ok(status) if status.success() => Some(ExitCode::SUCCESS),
        Ok(_) => Some(ExitCode::FAILURE),
        Err(error) => {
            eprintln!(
                "error: cannot start `{}`: {error}",
                command.get_program().to_string_lossy()
            );
            Some(ExitCode::FAILURE)
        }
    }
}

pub fn run(arguments: &Arguments) -> Result<()> {
    run_targets(arguments.target.as_deref(), arguments.seconds)
}

/// Builds the targets and runs each, or only `wanted`, for `seconds`.
pub fn run_targets(wanted: Option<&str>, seconds: u32) -> Result<()> {
    let targets = targets()?;
    let chosen: Vec<&String> = targets
        .iter()
        .filter(|name| wanted.is_none_or(|wanted| wanted == *name))
        .collect();
    if chosen.is_empty() {
        bail!(
            "there is no fuzz target `{}`; there are: {}",
            wanted.unwrap_or(""),
            targets.join(", ")
        );
    }
    let folder = build(&chosen)?;
    let at_once = thread::available_parallelism().map_or(1, NonZero::get);
    println!(
        "-- {} fuzz targets for {seconds} s each, {at_once} at once",
        chosen.len()
    );
    let left = Mutex::new(chosen.into_iter());
    let worker = || -> Result<()> {
        loop {
            let next = left.lock().expect("no worker panics").next();
            let Some(target) = next else { return Ok(()) };
            run_one(&folder, target, seconds)?;
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..at_once).map(|_| scope.spawn(worker)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().expect("no worker panics"))
    })
}

/// The names of all fuzz targets: the files of `fuzz/fuzz_targets`.
pub fn targets() -> Result<Vec<String>> {
    let folder = shell::root().join("fuzz/fuzz_targets");
    let entries = std::fs::read_dir(&folder).with_context(|| format!("cannot read `{}`", folder.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.push(path.file_stem().unwrap_or_default().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn build(targets: &[&String]) -> Result<PathBuf> {
    let wrapper = std::env::current_exe().context("cannot find this program's own file")?;
    // The whole workspace is selected, though only these targets are built: the dependencies then have
    // the features, and so the builds, that the tests have left in the target folder.
    let mut command = shell::cargo();
    command
        .args(["build", "--workspace"])
        .args(targets.iter().flat_map(|name| ["--example", name.as_str()]))
        .env("RUSTC_WORKSPACE_WRAPPER", wrapper)
        .env(WRAPPER_MARK, "1");
    shell::run(&mut command).context("the fuzz targets do not build")?;
    Ok(target_dir().join("debug/examples"))
}

/// Where cargo puts what it builds.
pub fn target_dir() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| shell::root().join("target"), PathBuf::from)
}

/// Runs one target, and shows what it printed when it has ended: several run at once.
fn run_one(folder: &std::path::Path, target: &str, seconds: u32) -> Result<()> {
    let found = target_dir().join("fuzz").join(target);
    let seeds = shell::root().join("fuzz/corpus").join(target);
    for needed in [&found, &seeds] {
        std::fs::create_dir_all(needed).with_context(|| format!("cannot create `{}`", needed.display()))?;
    }
    let crashes = found.join("crash-");
    // New inputs go to the first folder; the seeds are only read.
    let mut command = Command::new(folder.join(target));
    command
        .args([&found, &seeds])
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}", crashes.display()))
        .args([
            "-timeout=10",
            "-rss_limit_mb=4096",
            "-verbosity=0",
            "-print_final_stats=1",
        ]);
    let printed = command
        .output()
        .with_context(|| format!("cannot start the fuzz target `{target}`"))?;
    println!(
        "-- fuzz target `{target}`: {}\n{}{}",
        printed.status,
        String::from_utf8_lossy(&printed.stdout),
        String::from_utf8_lossy(&printed.stderr)
    );
    if !printed.status.success() {
        bail!(
            "the fuzz target `{target}` found a failing input; it lies beside `{}`: run `{} FILE` to see it again, \
             then keep it in `fuzz/corpus/{target}`",
            crashes.display(),
            folder.join(target).display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fuzz_target_has_seeds() {
        let targets = targets().unwrap();
        assert!(!targets.is_empty());
        for target in targets {
            let seeds = shell::root().join("fuzz/corpus").join(&target);
            assert!(
                std::fs::read_dir(&seeds).is_ok_and(|mut seeds| seeds.next().is_some()),
                "put at least one valid input into `{}`",
                seeds.display()
            );
        }
    }
}
