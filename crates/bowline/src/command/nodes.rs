//! `bowline nodes`: the nodes of a cluster.

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
    /// List the nodes, as the one that is asked sees them, with what runs and what waits warm on each.
    Ls {
        #[command(flatten)]
        remote: Remote,
    },
}

pub fn run(args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let Action::Ls { remote } = args.action;
    let mut page = remote.client().get("/v1/nodes")?;
    let nodes = page["items"].take();
    output.print(&json!({ "nodes": nodes }), || {
        let rows: Vec<_> = nodes.as_array().into_iter().flatten().map(row).collect();
        table(["ID", "ADDRESS", "STATE", "LOAD", "WARM"], &rows)
    })?;
    Ok(ExitCode::SUCCESS)
}

fn row(node: &Value) -> [String; 5] {
    let here = if node["here"] == true { " (asked)" } else { "" };
    let warm = node["warm"].as_array().into_iter().flatten();
    let warm: Vec<String> = warm
        .map(|held| {
            format!(
                "{}:{} x{}",
                cell(&held["function"]),
                cell(&held["version"]),
                held["idle"]
            )
        })
        .collect();
    let warm = if warm.is_empty() {
        "-".to_owned()
    } else {
        warm.join(", ")
    };
    [
        format!("{}{here}", node["id"]),
        cell(&node["address"]),
        cell(&node["state"]),
        cell(&node["load"]),
        warm,
    ]
}
