//! `bowline session read`: one batch, acknowledged at once if wanted.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::{cell, path, payload};
use crate::client::{Remote, escape};
use crate::output::{self, Output};

#[derive(Debug, clap::Args)]
pub struct Read {
    /// The session's identifier.
    session: String,
    /// Most events.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100)]
    limit: usize,
    /// Wait so long for an event if there is none.
    #[arg(long, value_name = "N", default_value_t = 0)]
    wait_seconds: u64,
    /// Acknowledge the batch once it is printed.
    #[arg(long)]
    ack: bool,
    /// Acknowledge an earlier batch in the same step; if its token is stale nothing is read.
    #[arg(long, value_name = "TOKEN")]
    done: Option<String>,
    /// Who reads, for people.
    #[arg(long, value_name = "NAME", default_value = "")]
    worker: String,
    #[command(flatten)]
    remote: Remote,
}

impl Read {
    /// Prints the events' bodies on standard output; what to acknowledge them with on standard error.
    pub fn run(&self, output: Output) -> anyhow::Result<ExitCode> {
        let client = self.remote.client();
        let body = json!({
            "limit": self.limit,
            "wait_ms": self.wait_seconds.saturating_mul(1000),
            "worker": self.worker,
            "done": self.done,
        });
        let batch = client.post(&path(&self.session, "/batches"), &body)?;
        if batch.is_null() {
            output.print(&json!({ "events": [] }), String::new)?;
            eprintln!("nothing to read");
            return Ok(ExitCode::SUCCESS);
        }
        if output.json {
            output.print(&batch, String::new)?;
        } else {
            print(&batch)?;
        }
        let Some(token) = batch["token"].as_str() else {
            return Ok(ExitCode::SUCCESS);
        };
        if self.ack {
            let below = format!("/batches/{}/ack", escape(token));
            client.post(&path(&self.session, &below), &json!({}))?;
        } else if !output.json {
            eprintln!(
                "batch {}, attempt {}: `bowline session ack {} {token}` until {}",
                cell(&batch["batch"]),
                cell(&batch["attempt"]),
                self.session,
                cell(&batch["lease_until"])
            );
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn print(batch: &Value) -> anyhow::Result<()> {
    for event in batch["events"].as_array().into_iter().flatten() {
        let mut line = payload::get(event, "body");
        line.push(b'\n');
        output::bytes(&line)?;
    }
    Ok(())
}
