//! `cargo xtask test`: every check of the project in order, each with a heading and its time.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bowline_foundation::clock::Clock;

use crate::{fuzz, machine, shell, tidy};

#[derive(clap::Args)]
pub struct Arguments {
    /// How long to run each fuzz target, in seconds
    #[arg(long, default_value_t = 10)]
    fuzz_seconds: u32,
    /// Run only the steps whose names contain this text
    #[arg(long)]
    only: Option<String>,
}

/// One step: its name, what to do when it fails, and its work.
struct Step {
    name: &'static str,
    remedy: &'static str,
    run: fn(&Arguments, &mut Tally) -> Result<()>,
}

const STEPS: &[Step] = &[
    Step {
        name: "formatting",
        remedy: "run `cargo fmt --all`",
        run: |_, _| formatting(),
    },
    Step {
        name: "clippy",
        remedy: "mend what clippy names; an `allow` needs a reason",
        run: |_, _| clippy(),
    },
    Step {
        name: "tests",
        remedy: "run the failing test alone: `cargo nextest run NAME` or `cargo test NAME`",
        run: |_, tally| tests(tally),
    },
    Step {
        name: "documentation tests",
        remedy: "mend the example in the comment",
        run: |_, tally| doc_tests(tally),
    },
    Step {
        name: "black-box tests",
        remedy: "run the failing test alone: `cargo test -p bowline-tests NAME -- --nocapture`",
        run: |_, tally| black_box_tests(tally),
    },
    Step {
        name: "fuzz targets",
        remedy: "run it alone: `cargo xtask fuzz TARGET`",
        run: |arguments, _| fuzz_targets(arguments.fuzz_seconds),
    },
    Step {
        name: "tidy",
        remedy: "each line above says what is expected",
        run: |_, _| tidy::run(),
    },
    Step {
        name: "cargo deny",
        remedy: "see `deny.toml`: every exception carries a reason",
        run: |_, _| deny(),
    },
];

/// What tests are built of. One selection for all steps: another has other features, and so other builds.
const WORKSPACE: &[&str] = &["--workspace", "--exclude", "bowline-fuzz"];

/// How many tests the runners say they ran.
#[derive(Default)]
struct Tally {
    passed: u64,
    failed: u64,
}

impl Tally {
    fn print(&self) {
        if self.passed + self.failed > 0 {
            println!("tests: {} passed, {} failed", self.passed, self.failed);
        }
    }
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let clock = Clock::system();
    let begin = clock.monotonic();
    machine::prepare_for_tests()?;
    let mut tally = Tally::default();
    let wanted = |step: &&Step| arguments.only.as_deref().is_none_or(|text| step.name.contains(text));
    for step in STEPS.iter().filter(wanted) {
        println!("\n=== {}", step.name);
        let from = clock.monotonic();
        let result = (step.run)(arguments, &mut tally);
        let took = clock.monotonic().since(from);
        if let Err(error) = result {
            println!("=== {} FAILED after {}", step.name, shown(took));
            tally.print();
            return Err(error.context(format!("step `{}` failed; {}", step.name, step.remedy)));
        }
        println!("=== {} ok in {}", step.name, shown(took));
    }
    println!("\nall steps ok in {}", shown(clock.monotonic().since(begin)));
    tally.print();
    Ok(())
}

fn shown(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

fn formatting() -> Result<()> {
    shell::run(shell::cargo().args(["fmt", "--all", "--check"]))
}

fn clippy() -> Result<()> {
    let mut command = shell::cargo();
    command.args(["clippy", "--workspace", "--all-targets"]);
    if !can_fuzz() {
        command.args(["--exclude", "bowline-fuzz"]);
    }
    shell::run(command.args(["--", "-D", "warnings"]))
}

fn tests(tally: &mut Tally) -> Result<()> {
    if has_nextest() {
        return run_by_nextest(tally, "not package(bowline-tests)");
    }
    // Tests of virtual machines go one at a time; nextest is told so by its configuration.
    let others = ["--exclude", "bowline-tests", "--exclude", "bowline-sandbox-vm"];
    run_by_cargo(tally, &[WORKSPACE, &others].concat(), &[])?;
    run_by_cargo(tally, &["--package", "bowline-sandbox-vm"], &["--test-threads=1"])
}

fn doc_tests(tally: &mut Tally) -> Result<()> {
    let mut command = shell::cargo();
    command.args(["test", "--doc"]).args(WORKSPACE);
    watch_tests(&mut command, tally)
}

fn black_box_tests(tally: &mut Tally) -> Result<()> {
    // As the tests before were built: what is built without `--tests` has other features, and so all is built anew.
    let mut build = shell::cargo();
    build.arg("build").args(WORKSPACE).args(["--tests", "--bin", "bowline"]);
    shell::run(&mut build).context("the binary does not build")?;
    if has_nextest() {
        return run_by_nextest(tally, "package(bowline-tests)");
    }
    run_by_cargo(tally, &["--package", "bowline-tests"], &["--test-threads=1"])
}

fn run_by_nextest(tally: &mut Tally, tests: &str) -> Result<()> {
    let mut command = shell::cargo();
    command.args(["nextest", "run", "--no-fail-fast"]).args(WORKSPACE);
    run_tests(tally, command.args(["--filterset", tests]))
}

fn run_by_cargo(tally: &mut Tally, selection: &[&str], flags: &[&str]) -> Result<()> {
    let mut command = shell::cargo();
    command
        .args(["test", "--no-fail-fast", "--all-targets"])
        .args(selection);
    run_tests(tally, command.arg("--").args(flags))
}

/// Runs tests, without a second try for one that fails. All share one PostgreSQL, which is there only meanwhile.
fn run_tests(tally: &mut Tally, command: &mut Command) -> Result<()> {
    let postgres = machine::start_postgres()?;
    if let Some(server) = &postgres {
        command.env(bowline_test_postgres::URL_VARIABLE, server.url());
    }
    watch_tests(command, tally)
}

fn has_nextest() -> bool {
    let probe = shell::cargo().args(["nextest", "--version"]).output();
    probe.is_ok_and(|output| output.status.success())
}

fn watch_tests(command: &mut Command, tally: &mut Tally) -> Result<()> {
    shell::run_watched(command, |line| {
        if let Some((passed, failed)) = counts_in(line) {
            tally.passed += passed;
            tally.failed += failed;
        }
    })
}

/// The counts in a runner's summary line, `(passed, failed)`.
fn counts_in(line: &str) -> Option<(u64, u64)> {
    let summary = line.contains("tests run:") || line.contains("test run:") || line.contains("test result:");
    let words: Vec<&str> = line.split_whitespace().collect();
    let count_before = |label: &str| {
        let at = words
            .iter()
            .position(|word| word.trim_end_matches([',', ';']) == label)?;
        words.get(at.checked_sub(1)?)?.parse::<u64>().ok()
    };
    summary.then(|| (count_before("passed").unwrap_or(0), count_before("failed").unwrap_or(0)))
}

fn can_fuzz() -> bool {
    shell::is_installed("c++")
}

fn fuzz_targets(seconds: u32) -> Result<()> {
    if !can_fuzz() {
        println!("SKIPPED: fuzz targets need a C++ compiler, and there is none");
        return Ok(());
    }
    fuzz::run_targets(None, seconds)
}

/// Checks licences, bans and sources offline; advisories need a database from the network.
fn deny() -> Result<()> {
    let program = cargo_deny()?;
    let deny = |checks: &[&str]| {
        let mut command = Command::new(&program);
        command
            .current_dir(shell::root())
            .args(["--workspace", "check"])
            .args(checks);
        command
    };
    shell::run(&mut deny(&["--hide-inclusion-graph", "licenses", "bans", "sources"]))?;
    if !fetch_advisories(&program)? {
        println!("NOT CHECKED: the advisory database cannot be fetched from here; licences, bans and sources are ok");
        return Ok(());
    }
    shell::run(&mut deny(&["--disable-fetch", "advisories"]))
}

/// Fetches the advisory database; `false` if it cannot be had within a minute.
fn fetch_advisories(program: &PathBuf) -> Result<bool> {
    let mut command = Command::new("timeout");
    command
        .arg("60")
        .arg(program)
        .current_dir(shell::root())
        .args(["fetch", "db"]);
    let output = command.output().context("cannot start `timeout`")?;
    Ok(output.status.success())
}

/// `cargo-deny` from the search path, or built once into `target/tools`.
fn cargo_deny() -> Result<PathBuf> {
    if shell::is_installed("cargo-deny") {
        return Ok(PathBuf::from("cargo-deny"));
    }
    let tools = fuzz::target_dir().join("tools");
    let program = tools.join("bin/cargo-deny");
    if !program.is_file() {
        println!(
            "building cargo-deny into `{}`; this takes a minute or two, once",
            tools.display()
        );
        // Not optimised: that would take minutes, for a program that runs for seconds.
        let mut install = shell::cargo();
        install
            .args(["install", "--debug", "--locked", "--quiet", "cargo-deny", "--root"])
            .arg(&tools);
        shell::run(&mut install).context("cargo-deny cannot be installed; install it by hand and run again")?;
    }
    if !program.is_file() {
        bail!("cargo-deny was installed but `{}` does not exist", program.display());
    }
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_of_both_runners_are_counted() {
        let nextest = "     Summary [   1.234s] 12 tests run: 11 passed (1 slow), 1 failed, 0 skipped";
        assert_eq!(counts_in(nextest), Some((11, 1)));
        let plain = "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out";
        assert_eq!(counts_in(plain), Some((3, 2)));
        assert_eq!(counts_in("test suite::tests::three_passed ... ok"), None);
    }
}
