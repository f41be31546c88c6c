//! `bowline functions`: lists, shows and removes functions.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};

use super::{cell, removed};
use crate::client::{Client, Remote, escape, function_path};
use crate::output::{Output, table};
use crate::progress::size;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the functions.
    Ls {
        #[command(flatten)]
        remote: Remote,
    },
    /// Show a function's configuration.
    Show {
        /// Name or ARN.
        name: String,
        #[command(flatten)]
        remote: Remote,
    },
    /// Say how the memory of a function's sandboxes follows what its runs use.
    Size(SizeArgs),
    /// Remove a function with all its versions and aliases.
    Rm {
        /// Name or ARN.
        name: String,
        #[command(flatten)]
        remote: Remote,
    },
}

#[derive(Debug, clap::Args)]
struct SizeArgs {
    /// Name or ARN.
    name: String,
    /// A version instead of `$LATEST`.
    #[arg(long, value_name = "VERSION")]
    version: Option<String>,
    #[command(flatten)]
    change: SizeChange,
    #[command(flatten)]
    remote: Remote,
}

#[derive(Debug, clap::Args)]
#[group(multiple = false)]
struct SizeChange {
    /// `auto`: new sandboxes get what runs need; `suggest`: it is advised only; `off`: neither.
    #[arg(long, value_enum)]
    mode: Option<SizeMode>,
    /// Take what is suggested.
    #[arg(long)]
    accept: bool,
    /// Take the latest change back.
    #[arg(long)]
    undo: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "snake_case")]
enum SizeMode {
    Auto,
    Suggest,
    Off,
}

pub fn run(args: Args, output: Output) -> anyhow::Result<ExitCode> {
    match args.action {
        Action::Ls { remote } => list(&remote.client(), output)?,
        Action::Show { name, remote } => show(&remote.client(), &name, output)?,
        Action::Size(args) => size_of(&args, output)?,
        Action::Rm { name, remote } => {
            remote.client().delete(&function_path(&name, ""))?;
            output.print(&removed(&name), || format!("removed `{name}`"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list(client: &Client, output: Output) -> anyhow::Result<()> {
    let functions = client.list("/2015-03-31/functions", "Functions")?;
    output.print(&json!({ "functions": functions }), || {
        if functions.is_empty() {
            return "no functions yet; `bowline deploy PATH` creates one".to_owned();
        }
        let rows: Vec<_> = functions.iter().map(row).collect();
        table(
            ["NAME", "RUNTIME", "HANDLER", "MEMORY", "TIMEOUT", "CODE", "MODIFIED"],
            &rows,
        )
    })
}

fn row(function: &Value) -> [String; 7] {
    [
        cell(&function["FunctionName"]),
        cell(&function["Runtime"]),
        cell(&function["Handler"]),
        format!("{} MB", cell(&function["MemorySize"])),
        format!("{} s", cell(&function["Timeout"])),
        size(function["CodeSize"].as_u64().unwrap_or_default()),
        cell(&function["LastModified"]),
    ]
}

fn show(client: &Client, name: &str, output: Output) -> anyhow::Result<()> {
    let mut function = client.get(&function_path(name, ""))?;
    let sizing = client.get(&format!("/v1/functions/{}/sizing", escape(name)))?;
    let checkpointing = client.get(&format!("/v1/functions/{}/checkpointing", escape(name)));
    // A node of an earlier version does not know.
    if let Ok(checkpointing) = checkpointing {
        function["Checkpointing"] = checkpointing;
    }
    output.print(&function, || {
        let mut text = describe(&function["Configuration"]);
        let checkpointing = &function["Checkpointing"];
        match checkpointing["Reason"].as_str() {
            Some(reason) => text.push_str(&field("checkpoints", &format!("refused: {reason}"))),
            None if checkpointing["Checkpointing"] == "on" => text.push_str(&field("checkpoints", "on")),
            None => {}
        }
        if let Some(reserved) = function["Concurrency"]["ReservedConcurrentExecutions"].as_u64() {
            text.push_str(&field("reserved", &reserved.to_string()));
        }
        for (tag, value) in function["Tags"].as_object().into_iter().flatten() {
            text.push_str(&field("tag", &format!("{tag}={}", cell(value))));
        }
        text + &describe_size(&sizing)
    })
}

/// Shows a function's size, changed before if that is asked for.
fn size_of(args: &SizeArgs, output: Output) -> anyhow::Result<()> {
    let client = args.remote.client();
    let mut path = format!("/v1/functions/{}/sizing", escape(&args.name));
    if let Some(version) = &args.version {
        path.push_str(&format!("?version={}", escape(version)));
    }
    let wanted = match &args.change {
        SizeChange { mode: Some(mode), .. } => Some(json!({ "mode": mode })),
        SizeChange { accept: true, .. } => Some(json!({ "accept": {} })),
        SizeChange { undo: true, .. } => Some(json!({ "rollBack": {} })),
        _ => None,
    };
    let sizing = match wanted {
        Some(wanted) => client.post(&path, &wanted)?,
        None => client.get(&path)?,
    };
    output.print(&sizing, || describe_size(&sizing))
}

/// A size, one member a line.
fn describe_size(sizing: &Value) -> String {
    let mut text = field("sizing", &cell(&sizing["mode"]));
    text.push_str(&field("asked MB", &cell(&sizing["requestedMib"])));
    text.push_str(&field("given MB", &cell(&sizing["effectiveMib"])));
    let change = |change: &Value| {
        let runs = change["evidence"].as_array().map_or(0, Vec::len);
        let (from, to) = (cell(&change["fromMib"]), cell(&change["toMib"]));
        format!("{from} -> {to} MB, {}, by {runs} runs", cell(&change["reason"]))
    };
    for past in sizing["history"].as_array().into_iter().flatten() {
        text.push_str(&field("changed", &change(past)));
    }
    if sizing["suggestion"].is_object() {
        text.push_str(&field("suggested", &change(&sizing["suggestion"])));
    }
    text
}

/// A configuration, one member a line.
pub fn describe(configuration: &Value) -> String {
    const SHOWN: [(&str, &str); 13] = [
        ("name", "FunctionName"),
        ("arn", "FunctionArn"),
        ("version", "Version"),
        ("runtime", "Runtime"),
        ("handler", "Handler"),
        ("description", "Description"),
        ("memory MB", "MemorySize"),
        ("timeout s", "Timeout"),
        ("state", "State"),
        ("reason", "StateReason"),
        ("last update", "LastUpdateStatus"),
        ("modified", "LastModified"),
        ("code sha256", "CodeSha256"),
    ];
    let mut text = String::new();
    for (label, member) in SHOWN {
        let value = cell(&configuration[member]);
        if value != "-" {
            text.push_str(&field(label, &value));
        }
    }
    for layer in configuration["Layers"].as_array().into_iter().flatten() {
        text.push_str(&field("layer", &cell(&layer["Arn"])));
    }
    let variables = configuration["Environment"]["Variables"].as_object();
    for (name, value) in variables.into_iter().flatten() {
        text.push_str(&field("variable", &format!("{name}={}", cell(value))));
    }
    text
}

fn field(label: &str, value: &str) -> String {
    format!("{label:<12} {value}\n")
}
