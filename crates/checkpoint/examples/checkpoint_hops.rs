//! Stops programs and generated modules a great many times and compares each run with one that was never stopped.
//!
//! `checkpoint_hops HOPS SEED FRESH [OTHER...]` goes on until so many checkpoints were taken and gone on with; in one run of
//! `FRESH`, each hop goes on in a process of its own. A line of JSON each ten seconds and at the end says how many there
//! were. The first difference ends it with the seed that shows it. Every other one of the hops in processes of their own is
//! made by `OTHER`, a build of this program with what runs it, if there is one.
//!
//! `checkpoint_hops --leg MODULE EXPORT CHECKPOINT POLLS` is such a process, for which any build of this program will
//! do: that of another processor, too. It writes the next checkpoint over the one it got, or prints how the run ended.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use bowline_checkpoint::{Options, Plan};
use bowline_foundation::clock::{Clock, Monotonic};
use serde_json::json;
use wasmtime::{ExternType, Module};

#[path = "../tests/checkpoint/generate.rs"]
mod generate;
#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../tests/checkpoint/guest.rs"]
mod guest;
#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../tests/checkpoint/run.rs"]
mod run;
#[path = "../tests/checkpoint/world.rs"]
mod world;

use run::{Leg, Subject, engine};

/// Programs of `tests/guests`.
const PROGRAMS: &[&str] = &["bodies", "mandelbrot", "hashes", "trees", "text", "codec"];
/// Blocks and calls after which a generated function gives up.
const FUEL: u32 = 500;
/// Checkpoints of one run in a row; then it runs to its end.
const HOPS_IN_A_ROW: usize = 2_000;
const FRESH_HOPS_IN_A_ROW: usize = 12;
/// Polls that a program makes before it is stopped for the first time, at most.
const POLLS_BEFORE_MAX: u64 = 60_000;
/// And between two stops of a run that is stopped at random times.
const POLLS_BETWEEN_MAX: u64 = 2_000;
/// All but one run in so many go on in place, which is quicker; the others in new instances.
const STAYING_OF: u64 = 3;
/// One run in so many is of a program, the others are of generated modules.
const PROGRAM_EVERY: u64 = 4;
const REPORT_EVERY: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["--leg", module, export, checkpoint, polls] => {
            leg(module, export, checkpoint, number(polls) as u32);
            ExitCode::SUCCESS
        }
        [hops, seed, fresh, ref other @ ..] => {
            let way = Way {
                fresh: number(fresh),
                other: other.iter().map(|&word| word.to_owned()).collect(),
            };
            hop(number(hops), number(seed), &way)
        }
        _ => {
            eprintln!("error: give HOPS, SEED and FRESH, and then another build of this program, or not");
            ExitCode::FAILURE
        }
    }
}

fn number(text: &str) -> u64 {
    text.parse().expect("the argument is a number")
}

/// How runs hop.
struct Way {
    /// One run in so many hops in processes of its own.
    fresh: u64,
    /// The program, with its first words, that makes every other one of these hops; this one if there are no words.
    other: Vec<String>,
}

/// What was done so far.
struct Count {
    clock: Clock,
    began: Monotonic,
    told: Monotonic,
    hops: u64,
    fresh: u64,
    in_place: u64,
    runs: u64,
    /// Hops of each program.
    programs: BTreeMap<String, u64>,
}

impl Count {
    fn tell(&self) {
        let seconds = self.clock.monotonic().since(self.began).as_secs_f64();
        let rate = (self.hops as f64 / seconds).round();
        let told = json!({
            "hops": self.hops,
            "fresh": self.fresh,
            "in_place": self.in_place,
            "runs": self.runs,
            "programs": self.programs,
            "seconds": seconds.round(),
            "hops_per_second": rate,
        });
        println!("{told}");
    }
}

impl Way {
    fn program(&self, hop: usize) -> Command {
        match self.other.split_first() {
            Some((program, words)) if hop % 2 == 1 => {
                let mut command = Command::new(program);
                command.args(words);
                command
            }
            _ => Command::new(std::env::current_exe().expect("this program has a file")),
        }
    }
}

fn hop(wanted: u64, seed: u64, way: &Way) -> ExitCode {
    let programs: Vec<(String, Subject)> = programs();
    let clock = Clock::system();
    let began = clock.monotonic();
    let mut count = Count {
        began,
        told: began,
        clock,
        hops: 0,
        fresh: 0,
        in_place: 0,
        runs: 0,
        programs: BTreeMap::new(),
    };
    for seed in seed.. {
        if count.hops >= wanted {
            break;
        }
        let equal = if seed.is_multiple_of(PROGRAM_EVERY) {
            let (name, subject) = &programs[(seed / PROGRAM_EVERY) as usize % programs.len()];
            let before = count.hops;
            let equal = check(subject, name, seed, way, &mut count);
            *count.programs.entry(name.clone()).or_default() += count.hops - before;
            equal
        } else {
            check_generated(seed, way, &mut count)
        };
        if !equal {
            return ExitCode::FAILURE;
        }
        if count.clock.monotonic().since(count.told) >= REPORT_EVERY {
            count.told = count.clock.monotonic();
            count.tell();
        }
    }
    count.tell();
    ExitCode::SUCCESS
}

fn programs() -> Vec<(String, Subject)> {
    let rust = PROGRAMS.iter().map(|&name| (name, Some(guest::rust(name))));
    let others = [("sort", guest::c("sort"))];
    rust.chain(others)
        .filter_map(|(name, module)| Some((name.to_owned(), Subject::binary(module?, "_start", &[]))))
        .collect()
}

fn check_generated(seed: u64, way: &Way, count: &mut Count) -> bool {
    let Some(bytes) = generate::module(seed, FUEL) else {
        return true;
    };
    if Plan::new(bytes.as_slice(), Options::default()).is_err() {
        return true;
    }
    let Ok(compiled) = Module::from_binary(engine(), &bytes) else {
        return true;
    };
    compiled.exports().all(|export| {
        let ExternType::Func(function) = export.ty() else {
            return true;
        };
        let Some(arguments) = generate::arguments(&function, seed) else {
            return true;
        };
        let subject = Subject::binary(bytes.clone(), export.name(), &arguments);
        check(&subject, export.name(), seed, way, count)
    })
}

/// Whether a run that is stopped again and again ends as one that is not.
fn check(subject: &Subject, name: &str, seed: u64, way: &Way, count: &mut Count) -> bool {
    let plain = subject.plain();
    if plain.end == Err("wasm trap: call stack exhausted".to_owned()) {
        return true;
    }
    count.runs += 1;
    let in_processes = way.fresh > 0 && seed.is_multiple_of(way.fresh);
    let in_place = !seed.is_multiple_of(STAYING_OF) && !in_processes;
    let polls = |hop| polls(seed, hop, HOPS_IN_A_ROW);
    let (seen, hops) = if in_processes {
        in_fresh_processes(subject, seed, way)
    } else if in_place {
        let (seen, hops) = subject.staying_by(polls, |guest, store| {
            let checkpoint = subject.prepared().capture(guest, &mut *store, Vec::new());
            checkpoint.expect("it has stopped");
        });
        (format!("{seen:?}"), hops)
    } else {
        let (seen, hops) = subject.hopping_by(polls, |_, _| {});
        (format!("{seen:?}"), hops)
    };
    count.in_place += if in_place { hops as u64 } else { 0 };
    count.hops += hops as u64;
    count.fresh += if in_processes { hops as u64 } else { 0 };
    if seen == format!("{plain:?}") {
        return true;
    }
    println!(
        "{}",
        json!({ "differs": name, "seed": seed, "hops": hops, "plain": format!("{plain:?}"), "seen": seen })
    );
    false
}

/// How many polls to let pass before a hop.
fn polls(seed: u64, hop: usize, in_a_row: usize) -> u32 {
    let mixed = (seed ^ (hop as u64).rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
    match hop {
        0 if seed.is_multiple_of(PROGRAM_EVERY) => (1 + mixed % POLLS_BEFORE_MAX) as u32,
        _ if hop < in_a_row && is_spread(seed) => (1 + mixed % POLLS_BETWEEN_MAX) as u32,
        _ if hop < in_a_row => 1 + (mixed % 8 / 6) as u32,
        _ => u32::MAX,
    }
}

/// Whether a run is stopped at random times, and not at one poll after the other.
fn is_spread(seed: u64) -> bool {
    seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 63 == 1
}

/// The same run, each hop in a process of its own.
fn in_fresh_processes(subject: &Subject, seed: u64, way: &Way) -> (String, usize) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let (module, file) = (folder.path().join("module.wasm"), folder.path().join("checkpoint"));
    std::fs::write(&module, &subject.module).expect("the folder can be written to");
    let mut checkpoint = match subject.first_leg(polls(seed, 0, FRESH_HOPS_IN_A_ROW)) {
        Leg::Ended(seen) => return (format!("{seen:?}"), 0),
        Leg::Stopped(checkpoint) => checkpoint,
    };
    for hop in 1.. {
        std::fs::write(&file, &checkpoint).expect("the folder can be written to");
        let polls = polls(seed, hop, FRESH_HOPS_IN_A_ROW).to_string();
        let output = way
            .program(hop)
            .arg("--leg")
            .arg(&module)
            .arg(&subject.export)
            .arg(&file)
            .arg(polls)
            .output()
            .expect("this program can be started again");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let ended = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
        if !ended.is_empty() {
            return (ended, hop);
        }
        checkpoint = std::fs::read(&file).expect("the process left a checkpoint");
    }
    unreachable!("the range has no end")
}

/// One hop of [`in_fresh_processes`], in its process.
fn leg(module: &str, export: &str, checkpoint: &str, polls: u32) {
    let bytes = std::fs::read(Path::new(module)).expect("the module can be read");
    // A call that goes on needs no arguments.
    let subject = Subject::binary(bytes, export, &[]);
    let from = std::fs::read(checkpoint).expect("the checkpoint can be read");
    match subject.next_leg(&from, polls) {
        Leg::Stopped(next) => std::fs::write(checkpoint, next).expect("the checkpoint can be written"),
        Leg::Ended(seen) => println!("{seen:?}"),
    }
}
