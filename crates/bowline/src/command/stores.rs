//! `bowline stores`: how the independent stores of objects do.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};

use super::cell;
use crate::client::Remote;
use crate::output::{Output, table};

/// What is said below stores that lie beside each other.
const NOT_INDEPENDENT: &str = "\nstores beside each other lie on one server or disk and fail together; to keep them apart, start the node with\n\
    --object-stores a=postgres://USER:PASSWORD@HOST-1/DATABASE,b=postgres://USER:PASSWORD@HOST-2/DATABASE\n\
    (files on two disks: a=/disk1/a.db,b=/disk2/b.db). A name never changes hands: objects carry it.";

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
        const SHOWN: [&str; 8] = [
            "store",
            "health",
            "weight",
            "error_rate",
            "latency_ms",
            "unresolved",
            "since",
            "beside",
        ];
        let row = |store: &Value| {
            SHOWN.map(|member| match &store[member] {
                Value::Array(names) => names.iter().map(cell).collect::<Vec<_>>().join(", "),
                value => cell(value),
            })
        };
        let rows: Vec<_> = stores.as_array().into_iter().flatten().map(row).collect();
        let mut text = table(
            [
                "STORE",
                "HEALTH",
                "WEIGHT",
                "ERRORS",
                "LATENCY MS",
                "UNRESOLVED",
                "SINCE",
                "BESIDE",
            ],
            &rows,
        );
        if stores
            .as_array()
            .into_iter()
            .flatten()
            .any(|store| store["beside"].is_array())
        {
            text.push_str(NOT_INDEPENDENT);
        }
        text
    })?;
    Ok(ExitCode::SUCCESS)
}
