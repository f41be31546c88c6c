//! Measures what it costs that a module can be stopped, and how fast it stops.
//!
//! Prints one JSON object: `guests`, a list with the CPU time of each program as it is, instrumented, and by Asyncify
//! where `wasm-opt` is installed, and the sizes and compile times of the first two; `unwound_p50_us` and
//! `unwound_p99_us`, from the request to the last frame's return; `captured_p50_ms` and `restored_p50_ms` of the same
//! runs, continuations being compiled; and of a guest of 16 MiB, `large_written_p50_ms`, from the request to signed
//! bytes, and `in_place_p50_ms`, from the request until it goes on, what changed in 1 MiB of its pages being captured.

use std::process::Command;
use std::sync::mpsc;

use bowline_checkpoint::engine::{Outcome, Prepared, configure};
use bowline_checkpoint::{Options, Plan, Poll};
use bowline_foundation::clock::Clock;
use serde_json::{Value, json};
use wasmtime::{Config, Engine, Linker, Module, Store};

#[allow(dead_code, reason = "the tests use more of it")]
#[path = "../tests/checkpoint/guest.rs"]
mod guest;
#[path = "checkpoint_bench/pauses.rs"]
mod pauses;
#[path = "../tests/checkpoint/world.rs"]
mod world;

use world::World;

/// What a node allocates with.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Programs of `tests/guests`, and how often each does its work in a round: some hundred milliseconds.
const GUESTS: &[(&str, u32)] = &[
    ("bodies", 480),
    ("mandelbrot", 360),
    ("hashes", 1_600),
    ("trees", 1_200),
    ("text", 480),
    ("codec", 240),
];
/// How often the interpreter runs its script.
const SCRIPT_ROUNDS: u32 = 200;
const ROUNDS: usize = 5;
/// How often a module is compiled: what one of these takes differs by some hundredths.
const COMPILES: usize = 20;
const STOPS: usize = 200;
const STACK_BYTES: u32 = 1 << 20;

fn main() {
    let engine = engine();
    let mut guests: Vec<Value> = GUESTS
        .iter()
        .map(|&(name, rounds)| measure(&engine, name, &guest::rust(name), rounds))
        .collect();
    if let Some(module) = guest::interpreter() {
        guests.push(measure(&engine, "script", &module, SCRIPT_ROUNDS));
    }
    let mut report = stops(&engine);
    pauses::measure(&engine, &mut report);
    report["guests"] = guests.into();
    println!("{report}");
}

fn engine() -> Engine {
    let mut config = Config::new();
    configure(&mut config)
        .max_wasm_stack(STACK_BYTES as usize)
        .async_stack_size(2 * STACK_BYTES as usize)
        .parallel_compilation(false);
    Engine::new(&config).expect("the configuration is good")
}

fn options() -> Options {
    Options {
        stack_bytes: STACK_BYTES,
        poll: Poll::Word,
    }
}

fn linker(engine: &Engine) -> Linker<World> {
    let mut linker = Linker::new(engine);
    world::link(&mut linker).expect("names are distinct");
    linker
}

/// CPU time of this thread, in milliseconds.
fn cpu_ms() -> f64 {
    // The account is brought up to date when the scheduler is entered, and else every few milliseconds only.
    std::thread::yield_now();
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("the kernel accounts for threads");
    let nanos = text.split(' ').next().and_then(|field| field.parse::<f64>().ok());
    nanos.expect("the first field is the time on a processor") / 1e6
}

fn timed<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let before = cpu_ms();
    let done = work();
    (cpu_ms() - before, done)
}

/// The mean time that a module takes to compile, as it is and instrumented, in turns.
fn compile_times(engine: &Engine, module: &[u8]) -> (f64, f64) {
    let (mut plain, mut instrumented) = (0.0, 0.0);
    for _ in 0..COMPILES {
        plain += timed(|| Module::from_binary(engine, module).expect("the module is valid")).0;
        instrumented += timed(|| Prepared::new(engine, module, options()).expect("it can be stopped")).0;
    }
    (plain / COMPILES as f64, instrumented / COMPILES as f64)
}

fn world(rounds: u32) -> World {
    World {
        arguments: vec!["guest".to_owned(), rounds.to_string()],
        ..World::default()
    }
}

/// Runs a program as it is and instrumented, in turns.
fn measure(engine: &Engine, name: &str, module: &[u8], rounds: u32) -> Value {
    let linker = linker(engine);
    let other = asyncify(module).map(|module| Module::from_binary(engine, &module).expect("the module is valid"));
    let (mut plain, mut instrumented, mut asyncified) = (Vec::new(), Vec::new(), Vec::new());
    let (plain_compiled, compiled) = compile_times(engine, module);
    let original = Module::from_binary(engine, module).expect("the module is valid");
    let prepared = Prepared::new(engine, module, options()).expect("it can be stopped");
    let written = Plan::instrument(module, options()).expect("it can be stopped").1;
    for _ in 0..ROUNDS {
        plain.push(run(&linker, &original, rounds));
        asyncified.extend(other.as_ref().map(|module| run(&linker, module, rounds)));
        let mut store = Store::new(engine, world(rounds));
        let guest = prepared.instantiate(&mut store, &linker).expect("the module is whole");
        let (spent, ended) = timed(|| guest.call(&mut store, "_start", &[]));
        ended.expect("the guest ends well");
        instrumented.push(spent);
    }
    json!({
        "name": name,
        "plain_ms": median(plain),
        "instrumented_ms": median(instrumented),
        "asyncify_ms": (!asyncified.is_empty()).then(|| median(asyncified)),
        "plain_bytes": module.len(),
        "instrumented_bytes": written.len(),
        "plain_compile_ms": plain_compiled,
        "instrumented_compile_ms": compiled,
    })
}

/// CPU time of a module that runs as it is.
fn run(linker: &Linker<World>, module: &Module, rounds: u32) -> f64 {
    let mut store = Store::new(module.engine(), world(rounds));
    let instance = linker.instantiate(&mut store, module).expect("the module is whole");
    let start = instance
        .get_typed_func::<(), ()>(&mut store, "_start")
        .expect("it is a command");
    let (spent, ended) = timed(|| start.call(&mut store, ()));
    ended.expect("the guest ends well");
    spent
}

/// The module as Asyncify makes it, which can unwind where it calls the host; nothing without `wasm-opt`.
fn asyncify(module: &[u8]) -> Option<Vec<u8>> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (from, to) = (folder.path().join("plain.wasm"), folder.path().join("asyncify.wasm"));
    std::fs::write(&from, module).expect("the folder can be written to");
    let status = Command::new("wasm-opt")
        .args(["--all-features", "--asyncify", "-O2"])
        .arg(&from)
        .arg("-o")
        .arg(&to)
        .status();
    match status {
        Ok(status) if status.success() => Some(std::fs::read(to).expect("wasm-opt wrote the module")),
        _ => {
            eprintln!("SKIPPED: Asyncify is not shown: `wasm-opt` is not installed, or does not take the module");
            None
        }
    }
}

/// Stops a long run again and again, each time going on in a new instance.
fn stops(engine: &Engine) -> Value {
    let clock = Clock::system();
    let prepared = Prepared::new(engine, &guest::rust("bodies"), options()).expect("it can be stopped");
    let linker = linker(engine);
    let mut store = Store::new(engine, world(1_000_000));
    let mut guest = prepared.instantiate(&mut store, &linker).expect("the module is whole");
    let (mut unwound, mut captured, mut restored) = (Vec::new(), Vec::new(), Vec::new());
    let mut first = true;
    for stop in 0..STOPS {
        let stopper = guest.stopper();
        let (going, goes) = mpsc::channel::<()>();
        let asker_clock = clock.clone();
        let asker = std::thread::spawn(move || {
            goes.recv().expect("the guest is about to run");
            // Some way into the run, a little further each time.
            let began = asker_clock.monotonic();
            while asker_clock.monotonic().since(began).as_micros() < 500 + 7 * stop as u128 {
                std::thread::yield_now();
            }
            let asked = asker_clock.monotonic();
            stopper.request().expect("the word can be set");
            asked
        });
        going.send(()).expect("the asker waits");
        let outcome = if first {
            guest.call(&mut store, "_start", &[])
        } else {
            guest.resume(&mut store)
        };
        let back = clock.monotonic();
        first = false;
        assert!(matches!(outcome, Ok(Outcome::Stopped)), "{outcome:?}");
        let asked = asker.join().expect("the asker ends well");
        unwound.push(back.since(asked).as_secs_f64() * 1e6);
        let host = store.data().save();
        let checkpoint = prepared.capture(&guest, &mut store, host).expect("it has stopped");
        captured.push(clock.monotonic().since(back).as_secs_f64() * 1e3);
        let before = clock.monotonic();
        store = Store::new(engine, World::restore(&checkpoint.host));
        guest = prepared.restore(&mut store, &linker, &checkpoint).expect("it fits");
        restored.push(clock.monotonic().since(before).as_secs_f64() * 1e3);
    }
    // Half of the stops come before most places were seen.
    let warm = restored.split_off(STOPS / 2);
    json!({
        "unwound_p50_us": percentile(&unwound, 50),
        "unwound_p99_us": percentile(&unwound, 99),
        "captured_p50_ms": percentile(&captured, 50),
        "restored_p50_ms": percentile(&warm, 50),
    })
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn percentile(figures: &[f64], percent: usize) -> f64 {
    let mut figures = figures.to_vec();
    figures.sort_by(f64::total_cmp);
    figures[(figures.len() * percent).div_ceil(100).max(1) - 1]
}
