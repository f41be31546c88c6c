//! `bowline up`: runs a node until it is told to stop.

use std::process::ExitCode;

use anyhow::Context;
use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::settings::SettingFlags;
use crate::config::Config;
use crate::node::{Node, log};
use crate::output::Output;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    settings: SettingFlags,
}

pub fn run(args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let config = args.settings.load()?;
    log::begin(&config);
    raise_descriptor_limit();
    run_to_end(runtime()?, serve(&config, output))
}

/// Takes as many descriptors as the system grants when asked: each sandbox and each connection holds some.
fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

async fn serve(config: &Config, output: Output) -> anyhow::Result<ExitCode> {
    let mut stop = StopSignals::listen()?;
    let node = Node::start(config).await?;
    announce(&node, output)?;
    stop.next().await;
    Ok(stop_node(node, stop).await)
}

/// The threads that serve: one a core.
pub fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.context("cannot start the threads that serve")
}

/// Runs a node to its end. What still works in the background then, on a cache that is built say, ends with the process:
/// all that must last was waited for when the node stopped.
pub fn run_to_end<T>(runtime: tokio::runtime::Runtime, work: impl Future<Output = T>) -> T {
    let done = runtime.block_on(work);
    runtime.shutdown_background();
    done
}

/// Says where the node is and how to reach it.
fn announce(node: &Node, output: Output) -> anyhow::Result<()> {
    let endpoint = node.endpoint();
    let data = node.data().display();
    let document = json!({ "endpoint": endpoint, "data": data.to_string() });
    output.print(&document, || {
        format!(
            "bowline is ready at {endpoint}, data in {data}; try: aws --endpoint-url {endpoint} lambda list-functions"
        )
    })
}

/// Stops the node; the next signal ends the wait.
pub async fn stop_node(node: Node, mut stop: StopSignals) -> ExitCode {
    tokio::select! {
        () = node.stop() => ExitCode::SUCCESS,
        () = stop.next() => {
            tracing::warn!("told to stop again: running invocations are cut off");
            // Nothing durable is pending; the spawner ends its sandboxes when this process is gone.
            std::process::exit(1)
        }
    }
}

/// The signals that ask a node to stop.
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// Takes the signals over; from now on they end nothing by themselves.
    pub fn listen() -> anyhow::Result<Self> {
        let take = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            terminate: take(SignalKind::terminate())?,
            interrupt: take(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next of them.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn work_in_the_background_does_not_hold_up_the_end() {
        let (hold, held) = mpsc::channel::<()>();
        let (told, ended) = mpsc::channel();
        let done = run_to_end(runtime().expect("threads can be started"), async {
            tokio::task::spawn_blocking(move || {
                let _ = held.recv();
                let _ = told.send(());
            });
            7
        });
        assert_eq!(done, 7);
        assert!(ended.try_recv().is_err(), "the control: it works on");
        drop(hold);
        assert!(ended.recv().is_ok());
    }
}
