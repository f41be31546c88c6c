//! `bowline demo checkpoint`: a function that computes digits of pi moves among three nodes while it runs, one of them
//! is killed on the way, and the result is that of a run which nobody touched.
//!
//! ```text
//!   caller ─▶ node A ── move ──▶ node B ── move ──▶ node C   kill -9
//!     ▲                                               ╎ lease over
//!     └── the one answer ◀── node B or A ◀── move ── whoever takes it over from the last checkpoint
//! ```

mod bar;
mod script;
mod stage;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use bowline_foundation::clock::Clock;
use bowline_foundation::digest::Digest;
use serde_json::{Map, Value, json};

use crate::client::Client;
use crate::command::deploy::{self, Settings};
use crate::command::invoke;
use crate::command::up::{StopSignals, runtime};
use crate::output::{Output, table};
use crate::package::{self, Target, Wanted};
use crate::progress::{Progress, seconds};
use script::{Act, Scene, Told};
use stage::Stage;

/// The function as it is, and the same with checkpoints.
const PLAIN: &str = "digits-plain";
const MOVED: &str = "digits";
const CHECKPOINT_EVERY: &str = "500ms";
/// How the digits begin.
const PI: &str = "\"31415926535897932384626433832795028841971693993751";
/// A short run tells how many digits take so long; the time grows with their square.
const TRIAL_DIGITS: u32 = 8_000;
const RUN_SECONDS: f64 = 8.0;
const DIGITS_MAX: u32 = 200_000;
const TIMEOUT_SECONDS: u32 = 300;

/// What happens to the run, and at which per mille of its work.
const SCRIPT: [(u32, Act); 4] = [
    (150, Act::Move { to: 1 }),
    (350, Act::Move { to: 2 }),
    (550, Act::Kill),
    (800, Act::MoveOn),
];

/// Runs the show; 0 if the result is the one of an uninterrupted run.
pub fn run(examples: &Path, output: Output) -> anyhow::Result<ExitCode> {
    let runtime = runtime()?;
    let folder = examples.join("rust-digits");
    runtime.block_on(async {
        let mut stop = StopSignals::listen()?;
        let stage = Arc::new(Stage::default());
        let (played, ended) = (stage.clone(), stage.clone());
        let show = tokio::task::spawn_blocking(move || {
            let shown = show(&played, &folder, output);
            played.clear();
            shown
        });
        tokio::pin!(show);
        tokio::select! {
            shown = &mut show => shown.context("the show ended early")?,
            () = stop.next() => {
                ended.clear();
                // Whatever it waited for is gone, so that it ends now.
                let _ = show.await;
                Ok(ExitCode::FAILURE)
            }
        }
    })
}

fn show(stage: &Stage, example: &Path, output: Output) -> anyhow::Result<ExitCode> {
    let (progress, clock) = (Progress::stderr(), Clock::system());
    // Built first, so that nobody waits for the nodes only to learn that it cannot be.
    let packages = [package(example, PLAIN, &progress)?, package(example, MOVED, &progress)?];
    let step = progress.step("starting PostgreSQL and three nodes");
    stage.set(&clock)?;
    step.done("PostgreSQL and three nodes are there");
    for node in stage.nodes() {
        progress.say(&format!(
            "node {} is process {} at {}",
            node.name, node.process, node.url
        ));
    }
    let home = stage.nodes()[0].client.clone();
    for package in packages {
        let mode = (package.name == MOVED).then(|| json!(CHECKPOINT_EVERY));
        let variable = mode.map(|mode| ("BOWLINE_CHECKPOINT".to_owned(), mode));
        let settings = Settings {
            timeout_seconds: Some(TIMEOUT_SECONDS),
            environment: Some(Map::from_iter(variable)),
            ..Settings::default()
        };
        deploy::deploy(&home, &package, &settings, &progress)?;
    }
    stage.await_function(&clock, MOVED)?;
    let (digits, expected, alone) = uninterrupted(&home, &progress, &clock)?;
    let scene = Scene::new(stage, &clock, MOVED, digits);
    let began = clock.monotonic();
    let (answer, told) = scene.play(&SCRIPT)?;
    let took = clock.monotonic().since(began);
    let shown = Shown {
        digits,
        right: answer == expected && answer.starts_with(PI),
        expected: Digest::of(expected.as_bytes()).to_string(),
        answer: Digest::of(answer.as_bytes()).to_string(),
        alone,
        took,
        told,
    };
    shown.print(output)?;
    ensure!(
        shown.told.len() == SCRIPT.len(),
        "the run was over before all was done to it; this machine is too busy for the demo just now"
    );
    Ok(if shown.right {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn package(example: &Path, name: &str, progress: &Progress) -> anyhow::Result<package::Package> {
    let wanted = Wanted {
        path: example.to_owned(),
        name: Some(name.to_owned()),
        target: Some(Target::named("wasm32-wasip1")),
        ..Wanted::default()
    };
    package::assemble(&wanted, progress)
}

/// Finds out how many digits are enough to look at, and what they are without any interruption.
fn uninterrupted(home: &Client, progress: &Progress, clock: &Clock) -> anyhow::Result<(u32, String, Duration)> {
    let timed = |digits: u32| {
        let began = clock.monotonic();
        let answer = digits_of(home, PLAIN, digits)?;
        anyhow::Ok((answer, clock.monotonic().since(began)))
    };
    // The first one makes the sandbox.
    timed(4)?;
    let (_, trial) = timed(TRIAL_DIGITS)?;
    let digits = f64::from(TRIAL_DIGITS) * (RUN_SECONDS / trial.as_secs_f64().max(0.001)).sqrt();
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is a few ten thousand"
    )]
    let digits = (digits as u32).clamp(TRIAL_DIGITS, DIGITS_MAX);
    let step = progress.step(&format!("computing {digits} digits of pi without interruption"));
    let (answer, took) = timed(digits)?;
    step.done(&format!("{digits} digits of pi without interruption"));
    Ok((digits, answer, took))
}

/// Invokes the function; the answer comes to this caller, wherever it was computed.
fn digits_of(client: &Client, name: &str, digits: u32) -> anyhow::Result<String> {
    let invoked = invoke::invoke(client, name, None, digits.to_string().into_bytes())?;
    let answer = String::from_utf8_lossy(&invoked.payload).into_owned();
    ensure!(invoked.function_error.is_none(), "`{name}` failed: {answer}");
    Ok(answer)
}

/// What the show has shown.
struct Shown {
    digits: u32,
    right: bool,
    expected: String,
    answer: String,
    alone: Duration,
    took: Duration,
    told: Vec<Told>,
}

impl Shown {
    fn print(&self, output: Output) -> anyhow::Result<()> {
        let steps: Vec<Value> = self.told.iter().map(Told::document).collect();
        let document = json!({
            "right": self.right,
            "digits": self.digits,
            "answer": self.answer,
            "expected": self.expected,
            "uninterruptedMs": self.alone.as_millis(),
            "tookMs": self.took.as_millis(),
            "steps": steps,
        });
        output.print(&document, || {
            let rows: Vec<_> = self.told.iter().map(Told::row).collect();
            let steps = table(["AT", "WHAT", "FROM", "TO", "PAUSE"], &rows);
            let verdict = if self.right { "equal" } else { "NOT EQUAL" };
            let results = [
                row(
                    "uninterrupted",
                    self.digits,
                    &self.expected,
                    &format!("in {}", seconds(self.alone)),
                ),
                row(
                    "moved and killed",
                    self.digits,
                    &self.answer,
                    &format!("in {}", seconds(self.took)),
                ),
            ];
            let results = table(["RUN", "DIGITS", "SHA-256 OF THE ANSWER", ""], &results);
            format!("{steps}\n{results}the results are {verdict}")
        })
    }
}

fn row(run: &str, digits: u32, digest: &str, took: &str) -> [String; 4] {
    [
        run.to_owned(),
        digits.to_string(),
        digest[..16].to_owned(),
        took.to_owned(),
    ]
}
