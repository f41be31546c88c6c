//! `bowline stores`: how the independent stores of objects do.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};

use super::cell;
use crate::client::Remote;
use crate::output::{Output, table};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Show health, weight and error rate of each store.
    Status {
        #[command(flatten)]
        remote: Remote,
    },
}

pub fn run(args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let Action::Status { remote } = args.action;
    let mut page = remote.client().get("/v1/stores")?;
    let stores = page["items"].take();
    output.print(&json!({ "stores": stores }), || {
        const SHOWN: [&str; 7] = [
            "store",
            "health",
            "weight",
            "error_rate",
            "latency_ms",
            "unresolved",
            "since",
        ];
        let row = |store: &Value| SHOWN.map(|member| cell(&store[member]));
        let rows: Vec<_> = stores.as_array().into_iter().flatten().map(row).collect();
        table(
            [
                "STORE",
                "HEALTH",
                "WEIGHT",
                "ERRORS",
                "LATENCY MS",
                "UNRESOLVED",
                "SINCE",
            ],
            &rows,
        )
    })?;
    Ok(ExitCode::SUCCESS)
}
