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

impl Writers {
    fn text(self) -> &'static str {
        match self {
            Self::One => "one",
            Self::Any => "any",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    Keys,
    Memory,
    Volume,
}

impl Kind {
    fn text(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::Memory => "memory",
            Self::Volume => "volume",
        }
    }
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make shared state: a set of keys with JSON values, or a folder for functions in Linux sandboxes.
    Create {
        name: String,
        /// `keys`; or a folder: `memory`, which ends with the node, or `volume`, on its disk.
        #[arg(long, value_enum, default_value = "keys")]
        kind: Kind,
        /// The most that a folder holds, in MiB.
        #[arg(long, value_name = "MIB")]
        size: Option<u32>,
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
    /// Let a function use shared state; memory that was lost with its node is made use of anew, and empty.
    Attach {
        name: String,
        function: String,
        /// Where its sandboxes have a folder; `/mnt/NAME` if it is left out.
        #[arg(long, value_name = "PATH")]
        mount: Option<String>,
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
        Action::Create {
            name,
            kind,
            size,
            writers,
            remote,
        } => {
            let mut body = json!({ "name": name, "writers": writers.text(), "kind": kind.text() });
            set(&mut body, "size_mib", size);
            let made = remote.client().post("/v1/state", &body)?;
            output.print(&made, || text(&made))?;
        }
        Action::Ls { remote } => {
            let mut page = remote.client().get("/v1/state")?;
            let states = page["items"].take();
            output.print(&json!({ "states": states }), || {
                let rows: Vec<_> = states.as_array().into_iter().flatten().map(row).collect();
                let heads = [
                    "NAME", "KIND", "WRITERS", "VERSION", "ENTRIES", "BYTES", "MIB", "ATTACHED",
                ];
                table(heads, &rows)
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
            mount,
            read_only,
            remote,
        } => {
            let access = if read_only { "read" } else { "write" };
            let path = format!("/v1/state/{name}/functions/{function}");
            let mut body = json!({ "access": access });
            set(&mut body, "mount_path", mount);
            let state = remote.client().put(&path, &body)?;
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

/// Sets a member that was given.
fn set(body: &mut Value, member: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        body[member] = value.into();
    }
}

fn attached(state: &Value) -> String {
    let attached = state["attached"].as_array().into_iter().flatten();
    let attached: Vec<String> = attached
        .map(|one| {
            let mut text = format!("{} ({})", cell(&one["function"]), cell(&one["access"]));
            if let Some(path) = one["mount_path"].as_str() {
                text.push_str(&format!(" at {path}"));
            }
            if one["lost"] == true {
                text.push_str(", lost: attach it again");
            }
            text
        })
        .collect();
    if attached.is_empty() {
        "-".to_owned()
    } else {
        attached.join(", ")
    }
}

fn row(state: &Value) -> [String; 8] {
    let member = |name: &str| cell(&state[name]);
    [
        member("name"),
        member("kind"),
        member("writers"),
        member("version"),
        member("entries"),
        member("bytes"),
        member("size_mib"),
        attached(state),
    ]
}

fn text(state: &Value) -> String {
    let mut text = String::new();
    for (label, member) in [
        ("name", "name"),
        ("kind", "kind"),
        ("lifetime", "lifetime"),
        ("writers", "writers"),
        ("created", "created_at"),
        ("version", "version"),
        ("entries", "entries"),
        ("bytes", "bytes"),
        ("epoch", "epoch"),
        ("holder", "holder"),
        ("size (MiB)", "size_mib"),
        ("node", "node"),
        ("generation", "generation"),
        ("status", "status"),
    ] {
        if state.get(member).is_none() && member != "holder" {
            continue;
        }
        text.push_str(&field(label, &state[member]));
    }
    text.push_str(&format!("{:<12} {}", "attached", attached(state)));
    text
}
