//! `bowline checkpoint`: stops running invocations where they are, and lets them go on.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Subcommand;
use serde_json::{Value, json};
use ureq::http::{HeaderMap, Method};

use super::{cell, field, removed};
use crate::client::{Client, Remote, escape};
use crate::output::{Output, table};
use crate::progress::size;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Take a checkpoint of a running invocation, which then goes on.
    Take {
        /// The request id; `bowline checkpoint ls` lists them.
        run: String,
        /// Suspend it: it gives up its place until it is resumed. Its caller goes on waiting.
        #[arg(long)]
        suspend: bool,
        /// Why, for the record.
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        #[command(flatten)]
        remote: Remote,
    },
    /// List invocations that can be suspended or are.
    Ls {
        #[command(flatten)]
        remote: Remote,
    },
    /// Show one invocation and what its checkpoint holds.
    Show {
        /// The request id.
        run: String,
        #[command(flatten)]
        remote: Remote,
    },
    /// Write a checkpoint's bytes to a file, or to standard output.
    Get {
        /// The request id.
        run: String,
        /// The file.
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
        #[command(flatten)]
        remote: Remote,
    },
    /// Let a suspended invocation go on.
    Resume {
        /// The request id.
        run: String,
        #[command(flatten)]
        remote: Remote,
    },
    /// Take an invocation, running or suspended, to another node of the cluster, where it goes on. It is the node that has
    /// it that must be asked; if the other one does not take it, it goes on as it did.
    Move {
        /// The request id.
        run: String,
        /// The node, by its identifier or address (`bowline nodes ls`); without it the least busy one that fits.
        #[arg(long, value_name = "NODE")]
        to: Option<String>,
        /// Why, for the record.
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        #[command(flatten)]
        remote: Remote,
    },
    /// Print the answer of an invocation that has finished while its caller was gone.
    Outcome {
        /// The request id.
        run: String,
        #[command(flatten)]
        remote: Remote,
    },
    /// Remove a suspended invocation, which ends with an error, or an outcome that nobody needs.
    Rm {
        /// The request id.
        run: String,
        #[command(flatten)]
        remote: Remote,
    },
}

pub fn run(args: Args, output: Output) -> anyhow::Result<ExitCode> {
    match args.action {
        Action::Take {
            run,
            suspend,
            reason,
            remote,
        } => {
            let mut body = json!({ "suspend": suspend });
            if let Some(reason) = reason {
                body["reason"] = json!(reason);
            }
            let taken = remote.client().post(&path(&run, "/take"), &body)?;
            output.print(&taken, || describe(&taken))?;
        }
        Action::Ls { remote } => list(&remote.client(), output)?,
        Action::Show { run, remote } => {
            let shown = remote.client().get(&path(&run, ""))?;
            output.print(&shown, || describe(&shown))?;
        }
        Action::Get {
            run,
            output: file,
            remote,
        } => get(&remote.client(), &run, file)?,
        Action::Resume { run, remote } => {
            let resumed = remote.client().post(&path(&run, "/resume"), &json!({}))?;
            output.print(&resumed, || describe(&resumed))?;
        }
        Action::Move {
            run,
            to,
            reason,
            remote,
        } => {
            let members = [("to", to), ("reason", reason)];
            let given = members
                .into_iter()
                .filter_map(|(name, value)| Some((name.to_owned(), json!(value?))));
            let moved = remote
                .client()
                .post(&path(&run, "/move"), &Value::Object(given.collect()))?;
            output.print(&moved, || describe(&moved))?;
        }
        Action::Outcome { run, remote } => return outcome(&remote.client(), &run),
        Action::Rm { run, remote } => {
            remote.client().delete(&path(&run, ""))?;
            output.print(&removed(&run), || format!("removed `{run}`"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn path(run: &str, below: &str) -> String {
    format!("/v1/checkpoints/{}{below}", escape(run))
}

fn list(client: &Client, output: Output) -> anyhow::Result<()> {
    let runs = client.pages("/v1/checkpoints", "")?;
    output.print(&json!({ "runs": runs }), || {
        if runs.is_empty() {
            return "no invocation that can be suspended runs now; `bowline deploy --checkpoint` makes functions so"
                .to_owned();
        }
        let rows: Vec<_> = runs.iter().map(row).collect();
        table(
            [
                "RUN",
                "FUNCTION",
                "VERSION",
                "PHASE",
                "KIND",
                "CHECKPOINT",
                "TAKEN",
                "REASON",
            ],
            &rows,
        )
    })
}

fn row(run: &Value) -> [String; 8] {
    let kept = &run["checkpoint"];
    let bytes = kept["bytes"].as_u64().map_or_else(|| "-".to_owned(), size);
    [
        cell(&run["run"]),
        cell(&run["function"]),
        cell(&run["version"]),
        cell(&run["phase"]),
        cell(&kept["kind"]),
        bytes,
        cell(&kept["taken"]),
        cell(&kept["reason"]),
    ]
}

fn describe(run: &Value) -> String {
    const RUN: [(&str, &str); 9] = [
        ("run", "run"),
        ("function", "function"),
        ("version", "version"),
        ("phase", "phase"),
        ("node", "node"),
        ("epoch", "epoch"),
        ("started", "started"),
        ("deadline", "deadline"),
        ("failure", "failure"),
    ];
    const KEPT: [(&str, &str); 7] = [
        ("checkpoint", "number"),
        ("kind", "kind"),
        ("taken", "taken"),
        ("reason", "reason"),
        ("took us", "took_us"),
        ("bytes", "bytes"),
        ("resident", "resident_bytes"),
    ];
    const NEEDS: [(&str, &str); 8] = [
        ("machine", "machine"),
        ("processors", "processors"),
        ("memory MiB", "memory_mib"),
        ("accelerator", "accelerator"),
        ("processor", "processor"),
        ("features", "features"),
        ("QEMU", "qemu"),
        ("image", "image"),
    ];
    const CONTENT: [(&str, &str); 7] = [
        ("module", "module"),
        ("format", "format_version"),
        ("pass", "pass_version"),
        ("memory", "memory_bytes"),
        ("pages", "pages"),
        ("frames", "frames"),
        ("globals", "globals"),
    ];
    let members = |of: &Value, shown: &[(&str, &str)]| {
        let lines = shown.iter().map(|(label, member)| field(label, &of[*member]));
        lines.collect::<String>()
    };
    let kept = &run["checkpoint"];
    let mut text = members(run, &RUN) + &members(kept, &KEPT);
    if let Some(kind) = kept["digest_kind"].as_str() {
        text.push_str(&field(kind, &kept["digest"]));
    }
    text.push_str(&members(&kept["needs"], &NEEDS));
    text.push_str(&members(&run["content"], &CONTENT));
    for decision in run["decisions"].as_array().into_iter().flatten() {
        let values = decision["values"].as_object().into_iter().flatten();
        let values: Vec<_> = values.map(|(name, value)| format!("{name}={}", cell(value))).collect();
        let line = format!(
            "{} {} {} {}",
            cell(&decision["time"]),
            cell(&decision["what"]),
            cell(&decision["why"]),
            values.join(" ")
        );
        text.push_str(&field("decision", &Value::String(line.trim_end().to_owned())));
    }
    text
}

fn get(client: &Client, run: &str, file: Option<PathBuf>) -> anyhow::Result<()> {
    let answer = client.send(Method::GET, &path(run, "/content"), HeaderMap::new(), Vec::new())?;
    match file {
        Some(file) => std::fs::write(&file, &answer.body).with_context(|| format!("cannot write `{}`", file.display())),
        None => Ok(std::io::stdout().write_all(&answer.body)?),
    }
}

/// As `bowline invoke`: the answer on standard output, 1 if it is the function's error.
fn outcome(client: &Client, run: &str) -> anyhow::Result<ExitCode> {
    let answer = client.send(Method::GET, &path(run, "/outcome"), HeaderMap::new(), Vec::new())?;
    std::io::stdout().write_all(&answer.body)?;
    println!();
    let failed = answer.headers.contains_key("x-amz-function-error");
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
