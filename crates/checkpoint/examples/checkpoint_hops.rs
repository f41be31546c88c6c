//! Stops programs and generated modules a great many times and compares each run with one that was never stopped.
//!
//! `checkpoint_hops CHECKPOINTS SECONDS SEED FRESH FAULT [OTHER...]` goes on until so many checkpoints were taken and gone on
//! with, or for so many seconds. In one run of `FRESH`, each hop goes on in a process of its own; every other one of these is
//! made by `OTHER`, a build of this program with what runs it, if there is one. A line of JSON each five seconds and at the
//! end says how many there were of each kind. The first difference ends it with the seed that shows it. `FAULT` is `none`, or
//! what goes wrong on purpose once in each run.
//!
//! `checkpoint_hops --moves MOVES SEED FAULT JOB JOBS` moves each of the programs so often, at random times of its run, instead;
//! of so many processes each takes its share of the programs.
//!
//! `checkpoint_hops --leg MODULE EXPORT CHECKPOINT POLLS` is such a process, for which any build of this program will
//! do: that of another processor, too. It writes the next checkpoint over the one it got, or prints how the run ended.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bowline_checkpoint::{Options, Plan};
use bowline_foundation::clock::{Clock, Monotonic};
use serde_json::json;
use wasmtime::{Config, Engine, OptLevel, RegallocAlgorithm};

#[path = "checkpoint_hops/fresh.rs"]
mod fresh;
#[path = "../tests/checkpoint/generate.rs"]
mod generate;
#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../tests/checkpoint/guest.rs"]
mod guest;
#[path = "../tests/checkpoint/hops.rs"]
mod hops;
#[path = "../tests/checkpoint/moves.rs"]
mod moves;
#[path = "checkpoint_hops/programs.rs"]
mod programs;
#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../tests/checkpoint/run.rs"]
mod run;
#[path = "../tests/checkpoint/world.rs"]
mod world;

use fresh::Fresh;
use hops::{Fault, Hops, Itinerary, Way, travel};
use moves::{Moves, mixed, move_about};
use programs::Programs;
use run::{Compiled, Seen, Subject};

/// Blocks and calls after which a generated function gives up.
const FUEL: u32 = 2_000;
/// How often each function of a generated module is called, with other arguments each time.
const CALLS: u64 = 4;
/// Checkpoints of one run in a row; then it runs to its end.
const HOPS_IN_A_ROW: u64 = 10_000;
/// Polls that a program makes before it is stopped for the first time are fewer than two to this power.
const POLLS_BEFORE_LOG: u64 = 18;
/// Polls between two stops of a run that is stopped at random times, at most.
const POLLS_BETWEEN_MAX: u64 = 500;
/// One hop in so many goes on in a new instance, and one in so many of these through bytes.
const MOVED_OF: u64 = 8;
const WRITTEN_OF: u64 = 8;
/// One seed in so many is of a program, the others are of generated modules.
const PROGRAM_EVERY: u64 = 16;
/// A fault that is planted comes at one of the first stops of a run.
const FAULT_BEFORE: u64 = 50;
/// One generated module in so many is compiled as thoroughly as a node compiles.
const THOROUGH_OF: u64 = 5;
const REPORT_EVERY: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["--leg", module, export, checkpoint, polls] => {
            fresh::leg(module, export, checkpoint, number(polls) as u32);
            ExitCode::SUCCESS
        }
        ["--moves", moves, seed, fault, job, jobs] => {
            let share = (number(job) as usize, number(jobs) as usize);
            match move_programs((number(moves), number(seed)), fault_named(fault), share) {
                true => ExitCode::SUCCESS,
                false => ExitCode::FAILURE,
            }
        }
        [checkpoints, seconds, seed, every, fault, ref other @ ..] => {
            let seed = number(seed);
            let mut work = Work {
                engines: Engines::new(),
                programs: Programs::default(),
                fresh: Fresh {
                    every: number(every),
                    other: other.iter().map(|&word| word.to_owned()).collect(),
                },
                fault: fault_named(fault),
                count: Count::new(number(checkpoints), Duration::from_secs(number(seconds))),
            };
            let over = (seed..).find_map(|seed| work.is_over_after(seed));
            work.count.tell();
            match over {
                Some(Over::Differs) => ExitCode::FAILURE,
                _ => ExitCode::SUCCESS,
            }
        }
        _ => {
            eprintln!(
                "error: give CHECKPOINTS, SECONDS, SEED, FRESH and FAULT, and then another build of this program, or not"
            );
            ExitCode::FAILURE
        }
    }
}

fn number(text: &str) -> u64 {
    text.parse().expect("the argument is a number")
}

fn fault_named(fault: &str) -> Option<Fault> {
    let named = Fault::ALL.iter().find(|(name, _)| *name == fault);
    named.map(|&(_, fault)| fault)
}

/// Moves each program of this process's share so often, and says what came of it; whether all ended as they should.
fn move_programs(times: (u64, u64), fault: Option<Fault>, (job, jobs): (usize, usize)) -> bool {
    let clock = Clock::system();
    let mut equal = true;
    for name in programs::real().skip(job).step_by(jobs) {
        let began = clock.monotonic();
        let Some(program) = programs::as_deployed(name) else {
            continue;
        };
        let moved = move_about(&program.subject, &program.plain, times, fault);
        let seconds = clock.monotonic().since(began).as_secs();
        match moved {
            Ok(Moves { moves, runs }) => {
                println!(
                    "{}",
                    json!({ "program": program.name, "moves": moves, "runs": runs, "seconds": seconds })
                );
            }
            Err(seen) => {
                let (plain, seen) = (format!("{:?}", program.plain), format!("{seen:?}"));
                println!("{}", json!({ "differs": program.name, "plain": plain, "seen": seen }));
                equal = false;
            }
        }
    }
    equal
}

struct Work {
    engines: Engines,
    programs: Programs,
    fresh: Fresh,
    fault: Option<Fault>,
    count: Count,
}

/// Engines for generated modules. They keep to one thread: others have the rest of the machine.
struct Engines {
    /// Which compile as for a node.
    thorough: Pair,
    /// Which compile other code of the same meaning in half the time.
    quick: Pair,
}

struct Pair {
    engine: Engine,
    /// For the run that is never stopped, with less stack: one that fits it fits the other engine, too, although frames of
    /// code that can be stopped may be larger.
    plain: Engine,
}

impl Pair {
    fn new(config: &mut Config) -> Self {
        let engine = Engine::new(config.max_wasm_stack(run::STACK_BYTES as usize));
        let plain = Engine::new(config.max_wasm_stack(run::STACK_BYTES as usize / 4));
        Self {
            engine: engine.expect("the configuration is good"),
            plain: plain.expect("the configuration is good"),
        }
    }
}

impl Engines {
    fn new() -> Self {
        let mut config = run::config();
        let thorough = Pair::new(config.parallel_compilation(false));
        config
            .cranelift_opt_level(OptLevel::None)
            .cranelift_regalloc_algorithm(RegallocAlgorithm::SinglePass);
        Self {
            thorough,
            quick: Pair::new(&mut config),
        }
    }

    fn compile(&self, seed: u64, module: Vec<u8>) -> Option<Compiled> {
        let Pair { engine, plain } = match seed.is_multiple_of(THOROUGH_OF) {
            true => &self.thorough,
            false => &self.quick,
        };
        Compiled::if_valid(engine, plain, module)
    }
}

/// Why it ends.
enum Over {
    Enough,
    Differs,
}

/// What was done so far.
struct Count {
    clock: Clock,
    began: Monotonic,
    told: Monotonic,
    /// When to end.
    checkpoints: u64,
    time: Duration,
    hops: Hops,
    /// Hops in processes of their own.
    fresh: u64,
    runs: u64,
    /// Runs that had too little stack once they could be stopped.
    overflowed: u64,
    modules: u64,
    /// Hops of each program.
    programs: BTreeMap<String, u64>,
}

impl Count {
    fn new(checkpoints: u64, time: Duration) -> Self {
        let clock = Clock::system();
        let began = clock.monotonic();
        Self {
            clock,
            began,
            told: began,
            checkpoints,
            time,
            hops: Hops::default(),
            fresh: 0,
            runs: 0,
            overflowed: 0,
            modules: 0,
            programs: BTreeMap::new(),
        }
    }

    fn all(&self) -> u64 {
        self.hops.all() + self.fresh
    }

    fn is_enough(&self) -> bool {
        self.all() >= self.checkpoints || self.clock.monotonic().since(self.began) >= self.time
    }

    fn tell_at_times(&mut self) {
        let now = self.clock.monotonic();
        if now.since(self.told) >= REPORT_EVERY {
            self.told = now;
            self.tell();
        }
    }

    fn tell(&self) {
        let told = json!({
            "checkpoints": self.all(),
            "in_place": self.hops.in_place,
            "moved": self.hops.moved,
            "written": self.hops.written,
            "fresh": self.fresh,
            "runs": self.runs,
            "overflowed": self.overflowed,
            "modules": self.modules,
            "programs": self.programs,
            "seconds": self.clock.monotonic().since(self.began).as_secs(),
        });
        println!("{told}");
    }
}

impl Work {
    /// Does what belongs to a seed.
    fn is_over_after(&mut self, seed: u64) -> Option<Over> {
        if self.count.is_enough() {
            return Some(Over::Enough);
        }
        let equal = if seed.is_multiple_of(PROGRAM_EVERY) {
            self.check_program(seed)
        } else {
            self.check_generated(seed)
        };
        self.count.tell_at_times();
        (!equal).then_some(Over::Differs)
    }

    fn check_program(&mut self, seed: u64) -> bool {
        let program = self.programs.get(seed / PROGRAM_EVERY);
        let before = self.count.all();
        let course = Course { seed, late: true };
        let equal = self.check(&program.subject, &program.plain, course);
        let hops = self.count.all() - before;
        *self.count.programs.entry(program.name.clone()).or_default() += hops;
        equal
    }

    fn check_generated(&mut self, seed: u64) -> bool {
        let Some(bytes) = generate::module(seed, FUEL) else {
            return true;
        };
        if Plan::new(bytes.as_slice(), Options::default()).is_err() {
            return true;
        }
        let Some(compiled) = self.engines.compile(seed, bytes).map(Arc::new) else {
            return true;
        };
        self.count.modules += 1;
        let calls = compiled.plain().exports().flat_map(|export| {
            let function = export.ty().func().cloned();
            let calls = function.into_iter().flat_map(|function| {
                (0..CALLS).filter_map(move |call| generate::arguments(&function, seed + call * call))
            });
            calls
                .map(|arguments| Subject::of(&compiled, export.name(), &arguments))
                .collect::<Vec<_>>()
        });
        (0..).zip(calls).all(|(call, subject)| {
            let plain = subject.plain();
            let course = Course {
                seed: mixed(seed, call),
                late: false,
            };
            plain.end == Err("wasm trap: call stack exhausted".to_owned()) || self.check(&subject, &plain, course)
        })
    }

    /// Whether a run that is stopped again and again ends as one that is not.
    fn check(&mut self, subject: &Subject, plain: &Seen, course: Course) -> bool {
        self.count.runs += 1;
        let plain = format!("{plain:?}");
        let seen = if self.fresh.takes(course.seed) {
            let (seen, hops) = self.fresh.travel(subject, |hop, in_a_row| course.polls(hop, in_a_row));
            self.count.fresh += hops;
            seen
        } else {
            let itinerary = Itinerary {
                polls: |hop| course.polls(hop, HOPS_IN_A_ROW),
                way: |hop| course.way(hop),
                fault: self.fault.map(|fault| (fault, course.seed % FAULT_BEFORE)),
            };
            format!("{:?}", travel(subject, &itinerary, &mut self.count.hops))
        };
        // Frames of code that can be stopped are larger, many times where little is optimised.
        if seen.contains("call stack exhausted") {
            self.count.overflowed += 1;
            return true;
        }
        if seen != plain {
            println!("{}", json!({ "differs": subject.export, "plain": plain, "seen": seen }));
        }
        seen == plain
    }
}

/// Where a run is stopped and how it goes on, all of which follows from a seed.
#[derive(Clone, Copy)]
struct Course {
    seed: u64,
    /// The first stop comes some way into the run.
    late: bool,
}

impl Course {
    /// How many polls to let pass before a stop.
    fn polls(self, hop: u64, in_a_row: u64) -> u32 {
        let number = mixed(self.seed, hop);
        let polls = match hop {
            0 if self.late => 1 + number % (1 << ((number >> 32) % POLLS_BEFORE_LOG)),
            _ if hop >= in_a_row => return u32::MAX,
            // Some runs are stopped at random times, the others at nearly each poll.
            _ if mixed(self.seed, u64::MAX).is_multiple_of(2) => 1 + number % POLLS_BETWEEN_MAX,
            _ => 1 + number % 8 / 6,
        };
        polls as u32
    }

    fn way(self, hop: u64) -> Way {
        let number = mixed(self.seed, !hop);
        match (
            number.is_multiple_of(MOVED_OF),
            (number >> 16).is_multiple_of(WRITTEN_OF),
        ) {
            (false, _) => Way::InPlace,
            (true, false) => Way::Moved,
            (true, true) => Way::Written,
        }
    }
}
