//! A function that misbehaves does not slow its neighbour by more than a fifth.
//!
//! A busy processor slows its sibling whatever runs on it, so the comparison is with the better-off of
//! two: an idle machine, or a plain process of the lowest priority that misbehaves in the same way outside
//! any sandbox. Rounds alternate, so that whatever else the machine does falls on all alike; the medians of
//! all rounds are compared.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use bowline_foundation::clock::Clock;
use bowline_tests::patience::median;
use bowline_tests::{Artifact, Lambda, Node, patience};
use serde_json::{Value, json};

const ROUNDS: usize = 9;
const CALLS_A_ROUND: usize = 120;
const SLOWER_MAX: f64 = 1.2;
/// Below this a difference is the timer's and the scheduler's; a neighbour that gets in the way costs whole
/// slices of processor time, which last milliseconds.
const NOISE: Duration = Duration::from_micros(250);

/// One way to misbehave: as a function's event, and as a plain program of Python.
struct Misdeed {
    name: &'static str,
    event: Value,
    program: &'static str,
}

/// The medians of all rounds of one comparison.
struct Medians {
    alone: Duration,
    beside_plain: Duration,
    beside_function: Duration,
}

/// The median time of some invocations of `name`.
fn latency(lambda: &Lambda, name: &str) -> Result<Duration> {
    let clock = Clock::system();
    let mut times = Vec::with_capacity(CALLS_A_ROUND);
    for _ in 0..CALLS_A_ROUND {
        let begin = clock.monotonic();
        let reply = lambda.invoke(name, &json!({"name": "ada"}))?.expect(200)?;
        times.push(clock.monotonic().since(begin));
        ensure!(
            reply.header("x-amz-function-error").is_empty(),
            "the neighbour failed: {}",
            reply.json()
        );
    }
    Ok(median(times))
}

/// Measures `good` alone, beside a plain program, and beside `bad`, which is invoked without end.
fn compare(node: &Node, good: &str, bad: &str, misdeed: &Misdeed) -> Result<Medians> {
    let lambda = node.lambda();
    latency(&lambda, good)?;
    let (mut alone, mut plain, mut function) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        alone.push(latency(&lambda, good)?);
        plain.push(with_plain(misdeed.program, || latency(&lambda, good))?);
        function.push(with_neighbour(&lambda, bad, &misdeed.event, || latency(&lambda, good))?);
    }
    Ok(Medians {
        alone: median(alone),
        beside_plain: median(plain),
        beside_function: median(function),
    })
}

/// Runs `work` while a plain process of the lowest priority misbehaves.
fn with_plain<T>(program: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let program = format!("print('begun', flush=True)\n{program}");
    let mut command = Command::new("nice");
    command.args(["-n", "19", "python3", "-c", &program]);
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    let output = child.stdout.take().expect("the output is piped");
    BufReader::new(output).read_line(&mut line)?;
    let result = work();
    child.kill()?;
    child.wait()?;
    ensure!(line == "begun\n", "the plain program did not begin: {line:?}");
    result
}

/// Runs `work` while `bad` misbehaves.
fn with_neighbour<T>(lambda: &Lambda, bad: &str, event: &Value, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let (enough, begun) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let neighbour = scope.spawn(|| {
            let mut ended_well = 0;
            while !enough.load(Ordering::Acquire) {
                begun.fetch_add(1, Ordering::AcqRel);
                let reply = lambda.invoke(bad, event)?;
                ended_well += usize::from(reply.header("x-amz-function-error").is_empty());
            }
            ensure!(ended_well == 0, "the bad neighbour behaved well {ended_well} times");
            Ok(())
        });
        let started = patience::until(Duration::from_secs(5), || {
            (begun.load(Ordering::Acquire) > 0).then_some(())
        });
        let result = started.map(|()| work());
        enough.store(true, Ordering::Release);
        neighbour.join().expect("the neighbour's thread does not panic")?;
        result.expect("the neighbour's thread began")
    })
}

fn check(misdeed: &Misdeed) -> Result<()> {
    let mut node = Node::start()?;
    let lambda = node.lambda();
    lambda.deploy("good", &Artifact::command()?, json!({}))?;
    lambda.deploy("bad", &Artifact::python()?, json!({"Timeout": 1, "MemorySize": 128}))?;
    let medians = compare(&node, "good", "bad", misdeed)?;
    let Medians {
        alone,
        beside_plain,
        beside_function,
    } = medians;
    let name = misdeed.name;
    println!("{name}: alone {alone:?}, beside a plain process {beside_plain:?}, beside it {beside_function:?}");
    ensure!(node.is_running(), "the node died");
    let base = alone.max(beside_plain);
    ensure!(
        beside_function <= base.mul_f64(SLOWER_MAX) || beside_function.saturating_sub(base) <= NOISE,
        "{name}: the neighbour takes {beside_function:?} instead of {base:?}"
    );
    Ok(())
}

#[test]
fn a_spinning_function_does_not_slow_its_neighbour() -> Result<()> {
    check(&Misdeed {
        name: "spin",
        event: json!({"do": "spin"}),
        program: "while True: pass",
    })
}

#[test]
fn a_fork_bomb_does_not_slow_its_neighbour() -> Result<()> {
    check(&Misdeed {
        name: "fork bomb",
        event: json!({"do": "fork"}),
        program: "import os\nwhile True:\n  if os.fork() == 0: os._exit(0)\n  os.wait()",
    })
}

#[test]
fn a_memory_hog_does_not_slow_its_neighbour() -> Result<()> {
    check(&Misdeed {
        name: "memory hog",
        event: json!({"do": "hog"}),
        program: "while True: b'x' * (96 << 20)",
    })
}
