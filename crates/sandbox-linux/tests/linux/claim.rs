//! How a function competes for the processors with what runs beside it.

use std::fs;
use std::process::{Child, Command, Stdio};

use bowline_sandbox::{Outcome, VersionSpec};
use serde_json::json;

use super::harness::{World, python};

/// Spins for as many milliseconds as the event says.
const SPINNER: &[u8] = b"import time
def handler(event, context):
    end = time.monotonic() + event['ms'] / 1000
    while time.monotonic() < end:
        pass
";
const SPIN_MS: u64 = 1500;
/// `utime` and `stime` count these.
const TICK_MS: u64 = 10;

/// A process of ordinary priority that wants a processor.
struct Rival(Child);

impl Rival {
    fn start() -> Self {
        let mut shell = Command::new("sh");
        let child = shell.args(["-c", "while :; do :; done"]).stdin(Stdio::null()).spawn();
        Self(child.expect("there is a shell"))
    }

    /// Processor time so far, in milliseconds.
    fn used_ms(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0.id())).expect("it runs");
        let (_, fields) = stat.rsplit_once(')').expect("the name is in brackets");
        let times = fields.split_whitespace().skip(11).take(2);
        times
            .map(|ticks| ticks.parse::<u64>().expect("a number") * TICK_MS)
            .sum()
    }
}

impl Drop for Rival {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Everything that this process starts from now on shares one processor.
fn share_one_processor() {
    let mut allowed = rustix::thread::sched_getaffinity(None).expect("it can be read");
    let first = (0..)
        .find(|cpu| allowed.is_set(*cpu))
        .expect("a process may run somewhere");
    allowed.clear();
    allowed.set(first);
    rustix::thread::sched_setaffinity(None, &allowed).expect("it may be narrowed");
}

/// A function that spins, all of it on one processor; none where the test cannot run. Without a pool: the interpreter's start
/// is a part of the initialisation.
fn spinner(test: &str) -> Option<(World, VersionSpec)> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: {test} needs root");
        return None;
    }
    let python = python()?;
    share_one_processor();
    let world = World::start(0);
    let code = world.code(&[("app.py", SPINNER)]);
    let version = world.version(python, "app.handler", code);
    Some((world, version))
}

#[tokio::test]
async fn a_function_that_runs_on_leaves_the_processor_to_others_with_a_cgroup() {
    let Some((world, version)) = spinner("a_function_that_runs_on_leaves_the_processor_to_others_with_a_cgroup") else {
        return;
    };
    let mut live = world.create(version).await.expect("it initialises");
    // What the initialisation took is told with the first invocation.
    live.report(&json!({"ms": 1})).await;

    let (rival, equal) = (Rival::start(), Rival::start());
    let before = (rival.used_ms(), equal.used_ms());
    let report = live.report(&json!({"ms": SPIN_MS})).await;
    let used_ms = u64::try_from(report.usage.cpu.as_millis()).expect("seconds");
    let (rival_ms, equal_ms) = (rival.used_ms() - before.0, equal.used_ms() - before.1);
    println!("function {used_ms} ms, rival {rival_ms} ms, its equal {equal_ms} ms");
    assert!(
        used_ms * 4 < rival_ms,
        "the function took {used_ms} ms, a plain process {rival_ms} ms"
    );
    assert!(equal_ms * 2 > rival_ms, "the control: plain processes share alike");
    live.sandbox.destroy().await;
}

/// So many that a function gets too little in the time of its claim to be initialised within it.
const RIVALS: usize = 8;

/// Takes more of a processor to be loaded than an initialisation's claim is.
const HEAVY: &[u8] = b"import time
while time.process_time() < 0.6:
    pass
def handler(event, context):
    pass
";

#[tokio::test]
async fn an_initialisation_that_has_used_its_claim_gets_a_new_one_with_a_cgroup() {
    let test = "an_initialisation_that_has_used_its_claim_gets_a_new_one_with_a_cgroup";
    let Some((world, _)) = spinner(test) else { return };
    let python = python().expect("the spinner has found it");
    let code = world.code(&[("app.py", HEAVY)]);
    let version = world.version(python, "app.handler", code);
    let rivals: Vec<Rival> = (0..4).map(|_| Rival::start()).collect();
    let created = world.create(version).await;
    drop(rivals);
    let mut live = created.expect("it initialises, if slowly");
    let report = live.report(&json!({})).await;
    assert!(matches!(report.outcome, Outcome::Success(_)), "{report:?}");
    live.sandbox.destroy().await;
}

#[tokio::test]
async fn an_initialisation_that_waits_for_a_processor_is_not_put_behind_all_others_with_a_cgroup() {
    let test = "an_initialisation_that_waits_for_a_processor_is_not_put_behind_all_others_with_a_cgroup";
    let Some((world, version)) = spinner(test) else { return };
    let rivals: Vec<Rival> = (0..RIVALS).map(|_| Rival::start()).collect();
    let created = world.create(version).await;
    drop(rivals);
    let mut live = created.expect("it initialises, if slowly");
    let report = live.report(&json!({"ms": 1})).await;
    assert!(matches!(report.outcome, Outcome::Success(_)), "{report:?}");
    live.sandbox.destroy().await;
}
