//! `bowline state`: shared state of functions.

use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::{cell, field, removed};
use crate::client::Remote;
use crate::output::{Output, table};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Writers {
    One,
    Any,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make shared state, a set of keys with JSON values.
    Create {
        name: String,
        /// Who writes: `one`, the holder of its lease, or `any`, where the last one wins.
        #[arg(long, value_enum, default_value = "one")]
        writers: Writers,
        #[command(flatten)]
        remote: Remote,
    },
    /// List shared state.
    Ls {
        #[command(flatten)]
        remote: Remote,
    },
    /// Show shared state, or one of its entries.
    Show {
        name: String,
        /// The entry's key.
        key: Option<String>,
        #[command(flatten)]
        remote: Remote,
    },
    /// Let a function use shared state.
    Attach {
        name: String,
        function: String,
        /// The function may read it, and not write.
        #[arg(long)]
        read_only: bool,
        #[command(flatten)]
        remote: Remote,
    },
    /// Take shared state from a function.
    Detach {
        name: String,
        function: String,
        #[command(flatten)]
        remote: Remote,
    },
    /// Remove shared state with all it holds.
    Rm {
        name: String,
        #[command(flatten)]
        remote: Remote,
    },
}

pub fn run(args: Args, output: Output) -> anyhow::Result<ExitCode> {
    match args.action {
        Action::Create { name, writers, remote } => {
            let writers = match writers {
                Writers::One => "one",
                Writers::Any => "any",
            };
            let made = remote
                .client()
                .post("/v1/state", &json!({ "name": name, "writers": writers }))?;
            output.print(&made, || text(&made))?;
        }
        Action::Ls { remote } => {
            let mut page = remote.client().get("/v1/state")?;
            let states = page["items"].take();
            output.print(&json!({ "states": states }), || {
                let rows: Vec<_> = states.as_array().into_iter().flatten().map(row).collect();
                table(["NAME", "WRITERS", "VERSION", "ENTRIES", "BYTES", "ATTACHED"], &rows)
            })?;
        }
        Action::Show {
            name,
            key: None,
            remote,
        } => {
            let state = remote.client().get(&format!("/v1/state/{name}"))?;
            output.print(&state, || text(&state))?;
        }
        Action::Show {
            name,
            key: Some(key),
            remote,
        } => {
            let entry = remote.client().get(&format!("/v1/state/{name}/keys/{key}"))?;
            output.print(&entry, || entry["value"].to_string())?;
        }
        Action::Attach {
            name,
            function,
            read_only,
            remote,
        } => {
            let access = if read_only { "read" } else { "write" };
            let path = format!("/v1/state/{name}/functions/{function}");
            let state = remote.client().put(&path, &json!({ "access": access }))?;
            output.print(&state, || text(&state))?;
        }
        Action::Detach { name, function, remote } => {
            remote
                .client()
                .delete(&format!("/v1/state/{name}/functions/{function}"))?;
            output.print(&json!({ "detached": name, "function": function }), || {
                format!("{function} no longer has {name}")
            })?;
        }
        Action::Rm { name, remote } => {
            remote.client().delete(&format!("/v1/state/{name}"))?;
            output.print(&removed(&name), || format!("removed {name}"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn attached(state: &Value) -> String {
    let attached = state["attached"].as_array().into_iter().flatten();
    let attached: Vec<String> = attached
        .map(|one| format!("{} ({})", cell(&one["function"]), cell(&one["access"])))
        .collect();
    if attached.is_empty() {
        "-".to_owned()
    } else {
        attached.join(", ")
    }
}

fn row(state: &Value) -> [String; 6] {
    let member = |name: &str| cell(&state[name]);
    [
        member("name"),
        member("writers"),
        member("version"),
        member("entries"),
        member("bytes"),
        attached(state),
    ]
}

fn text(state: &Value) -> String {
    let mut text = String::new();
    for (label, member) in [
        ("name", "name"),
        ("writers", "writers"),
        ("created", "created_at"),
        ("version", "version"),
        ("entries", "entries"),
        ("bytes", "bytes"),
        ("epoch", "epoch"),
        ("holder", "holder"),
    ] {
        text.push_str(&field(label, &state[member]));
    }
    text.push_str(&format!("{:<12} {}", "attached", attached(state)));
    text
}
