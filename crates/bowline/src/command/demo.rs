//! `bowline demo`: a node with the example functions on it, each deployed and invoked before your eyes.

mod capacity;
mod checkpoint;
mod examples;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use bowline_foundation::clock::Clock;
use clap::Subcommand;
use serde::Serialize;
use serde_json::Value;

use super::deploy::{self, Settings};
use super::invoke;
use super::settings::SettingFlags;
use super::up::{StopSignals, runtime, stop_node};
use crate::client::Client;
use crate::node::{Node, log};
use crate::output::{Output, table};
use crate::package::{self, Missing, Wanted};
use crate::progress::Progress;
use examples::{EXAMPLES, Example, Sandbox};

const PORT: u16 = 9000;
const WARM_INVOCATIONS: usize = 20;
/// Longer answers are cut in the table.
const SHOWN_CHARS_MAX: usize = 48;

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    show: Option<Show>,
    /// Stop after the table: 0 if every example that was deployed answered rightly, 1 otherwise.
    #[arg(long)]
    once: bool,
    /// Keep the node's data in this folder [default: a temporary one].
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    /// Address to listen on [default: 127.0.0.1:9000, or a free port if that is taken].
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Show {
    /// Move a function among three nodes while it runs, and kill one of them on the way (needs PostgreSQL's programs).
    Checkpoint,
    /// Meet a spike that was announced, lose an instance, and roll out a new version under load.
    Capacity,
}

/// What became of an example.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    function: &'static str,
    sandbox: &'static str,
    #[serde(flatten)]
    outcome: Outcome,
}

#[derive(Debug, Serialize)]
#[serde(tag = "outcome", rename_all = "camelCase", rename_all_fields = "camelCase")]
enum Outcome {
    Answered {
        runtime: String,
        answer: String,
        right: bool,
        deploy_ms: f64,
        first_ms: f64,
        warm_p50_ms: f64,
    },
    Skipped {
        reason: String,
    },
    Failed {
        reason: String,
    },
}

pub fn run(args: Args, output: Output) -> anyhow::Result<ExitCode> {
    match args.show {
        Some(Show::Checkpoint) => return checkpoint::run(&examples_folder()?, output),
        Some(Show::Capacity) => return capacity::run(output),
        None => {}
    }
    let examples = examples_folder()?;
    let temporary = match args.data {
        Some(_) => None,
        None => Some(tempfile::tempdir().context("cannot make a temporary folder")?),
    };
    let data = temporary.as_ref().map(|folder| folder.path().display().to_string());
    let settings = SettingFlags {
        listen: args.listen.or_else(|| Some(free_address().to_string())),
        data: args.data.or(data),
        log_level: Some("warn".to_owned()),
        ..SettingFlags::default()
    };
    let config = settings.load()?;
    log::begin(&config);
    let runtime = runtime()?;
    let code = runtime.block_on(async {
        let mut stop = StopSignals::listen()?;
        let node = Node::start(&config).await?;
        let tour = Tour {
            client: Client::new(&node.endpoint()),
            lacks_linux: node.lacks_linux().map(str::to_owned),
            progress: Progress::stderr(),
            clock: Clock::system(),
            examples,
        };
        let endpoint = tour.client.endpoint().to_owned();
        tracing::debug!(%endpoint, data = %node.data().display(), "the demo's node is ready");
        let tour = tokio::task::spawn_blocking(move || tour.take());
        let shown = tokio::select! {
            shown = tour => shown.context("the tour ended early")?,
            () = stop.next() => return Ok(stop_node(node, stop).await),
        };
        report(&shown, &endpoint, output)?;
        if !args.once {
            eprintln!("serving at {endpoint} until Ctrl-C; try: bowline invoke python-hello --endpoint {endpoint}");
            stop.next().await;
        }
        let stopped = stop_node(node, stop).await;
        Ok(if all_right(&shown) { stopped } else { ExitCode::FAILURE })
    });
    // A build may still be running after Ctrl-C; nobody waits for it.
    runtime.shutdown_background();
    code
}

/// The usual port, or a free one if another program has it.
fn free_address() -> SocketAddr {
    let usual = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT));
    if TcpListener::bind(usual).is_ok() {
        return usual;
    }
    eprintln!("port {PORT} is taken; using a free one");
    SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
}

/// The examples lie in the repository this program was built from, or beside the working folder.
fn examples_folder() -> anyhow::Result<PathBuf> {
    let built_from = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples"));
    let candidates = [built_from, Path::new("examples"), Path::new("../examples")];
    let found = candidates.into_iter().find(|folder| folder.is_dir());
    let folder = found.context("cannot find the folder `examples`; run the demo in a clone of the repository")?;
    Ok(folder.canonicalize()?)
}

/// An example that can be invoked.
struct Deployed {
    runtime: String,
    /// From handing the package over to being active.
    took: Duration,
}

/// Deploys and invokes the examples.
struct Tour {
    client: Client,
    lacks_linux: Option<String>,
    progress: Progress,
    clock: Clock,
    examples: PathBuf,
}

impl Tour {
    /// Deploys all examples, then invokes them: the first invocation of a runtime's first function meets
    /// a pool that had a moment to fill, as it does in a node that is in use.
    fn take(self) -> Vec<Shown> {
        let deployed: Vec<_> = EXAMPLES.iter().map(|example| (example, self.deploy(example))).collect();
        let shown = deployed.into_iter().map(|(example, deployed)| {
            let outcome = deployed.and_then(|deployed| self.invoke(example, deployed));
            Shown {
                function: example.name,
                sandbox: example.sandbox.name(),
                outcome: outcome.unwrap_or_else(|error| self.missed(example, &error)),
            }
        });
        shown.collect()
    }

    fn deploy(&self, example: &Example) -> anyhow::Result<Deployed> {
        if let (Sandbox::Linux, Some(reason)) = (&example.sandbox, &self.lacks_linux) {
            return Err(Missing(format!("this machine offers no Linux sandboxes: {reason}")).into());
        }
        let wanted = Wanted {
            path: self.examples.join(example.path),
            name: Some(example.name.to_owned()),
            target: example.target(),
            ..Wanted::default()
        };
        let package = package::assemble(&wanted, &self.progress)?;
        let settings = Settings::default();
        let (deployed, took) = self.timed(|| deploy::deploy(&self.client, &package, &settings, &self.progress));
        deployed?;
        Ok(Deployed {
            runtime: package.runtime,
            took,
        })
    }

    fn invoke(&self, example: &Example, deployed: Deployed) -> anyhow::Result<Outcome> {
        let invoke = || invoke::invoke(&self.client, example.name, None, example.event.as_bytes().to_vec());
        let (first, first_took) = self.timed(invoke);
        let first = first?;
        let mut right = first.function_error.is_none() && example.is_right(&first.payload);
        let mut warm = Vec::with_capacity(WARM_INVOCATIONS);
        for _ in 0..WARM_INVOCATIONS {
            let (again, took) = self.timed(invoke);
            right &= example.is_right(&again?.payload);
            warm.push(took);
        }
        warm.sort_unstable();
        Ok(Outcome::Answered {
            runtime: deployed.runtime,
            answer: String::from_utf8_lossy(&first.payload).into_owned(),
            right,
            deploy_ms: milliseconds(deployed.took),
            first_ms: milliseconds(first_took),
            warm_p50_ms: milliseconds(warm[warm.len() / 2]),
        })
    }

    /// Says at once why an example is not shown.
    fn missed(&self, example: &Example, error: &anyhow::Error) -> Outcome {
        let reason = format!("{error:#}");
        if error.downcast_ref::<Missing>().is_some() {
            self.progress.say(&format!("skipped {}: {reason}", example.name));
            Outcome::Skipped { reason }
        } else {
            self.progress.say(&format!("FAILED {}: {reason}", example.name));
            Outcome::Failed { reason }
        }
    }

    fn timed<T>(&self, work: impl FnOnce() -> T) -> (T, Duration) {
        let began = self.clock.monotonic();
        let result = work();
        (result, self.clock.monotonic().since(began))
    }
}

fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

fn all_right(shown: &[Shown]) -> bool {
    let right = |shown: &Shown| match shown.outcome {
        Outcome::Answered { right, .. } => right,
        Outcome::Skipped { .. } => true,
        Outcome::Failed { .. } => false,
    };
    shown.iter().all(right)
}

fn report(shown: &[Shown], endpoint: &str, output: Output) -> anyhow::Result<()> {
    let document = serde_json::json!({ "endpoint": endpoint, "functions": shown, "right": all_right(shown) });
    output.print(&document, || {
        let rows: Vec<_> = shown.iter().map(row).collect();
        table(
            [
                "FUNCTION", "RUNTIME", "SANDBOX", "ANSWER", "DEPLOY", "FIRST", "WARM P50",
            ],
            &rows,
        )
    })
}

fn row(shown: &Shown) -> [String; 7] {
    let nothing = || "-".to_owned();
    let head = |runtime: &str, answer: String| {
        [
            shown.function.to_owned(),
            runtime.to_owned(),
            shown.sandbox.to_owned(),
            answer,
        ]
    };
    let (head, times) = match &shown.outcome {
        Outcome::Answered {
            runtime,
            answer,
            right,
            deploy_ms,
            first_ms,
            warm_p50_ms,
        } => {
            let mark = if *right { "" } else { "WRONG " };
            let times = [*deploy_ms, *first_ms, *warm_p50_ms].map(|ms| format!("{ms:.2} ms"));
            (head(runtime, format!("{mark}{}", shortened(answer))), times)
        }
        Outcome::Skipped { .. } => (head("-", "skipped".to_owned()), [nothing(), nothing(), nothing()]),
        Outcome::Failed { .. } => (head("-", "FAILED".to_owned()), [nothing(), nothing(), nothing()]),
    };
    let ([function, runtime, sandbox, answer], [deploy, first, warm]) = (head, times);
    [function, runtime, sandbox, answer, deploy, first, warm]
}

/// An answer as one short line; of an HTTP answer only the body.
fn shortened(answer: &str) -> String {
    let body = serde_json::from_str::<Value>(answer).ok();
    let body = body
        .as_ref()
        .and_then(|answer| answer["body"].as_str())
        .unwrap_or(answer);
    let line = body.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= SHOWN_CHARS_MAX {
        return line;
    }
    let cut: String = line.chars().take(SHOWN_CHARS_MAX - 1).collect();
    format!("{cut}…")
}
