//! `bowline executions`: lists, shows and stops durable executions.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};

use super::{cell, field};
use crate::client::{Client, Remote, escape};
use crate::output::{Output, table};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List a function's executions, newest first.
    Ls {
        /// Name or ARN of the function; with a qualifier, of that version alone.
        name: String,
        /// Only those that stand so, RUNNING say; may be given several times.
        #[arg(long, value_name = "STATUS")]
        status: Vec<String>,
        #[command(flatten)]
        remote: Remote,
    },
    /// Show one execution and what happened in it.
    Show {
        /// The execution's ARN.
        arn: String,
        #[command(flatten)]
        remote: Remote,
    },
    /// Stop an execution for good.
    Stop {
        /// The execution's ARN.
        arn: String,
        /// Why, for its history.
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        #[command(flatten)]
        remote: Remote,
    },
}

pub fn run(args: Args, output: Output) -> anyhow::Result<ExitCode> {
    match args.action {
        Action::Ls { name, status, remote } => list(&remote.client(), &name, &status, output)?,
        Action::Show { arn, remote } => show(&remote.client(), &arn, output)?,
        Action::Stop { arn, reason, remote } => {
            let error = reason.map_or_else(|| json!({}), |reason| json!({ "ErrorMessage": reason }));
            let stopped = remote.client().post(&path(&arn, "/stop"), &error)?;
            output.print(&stopped, || format!("stopped `{arn}`"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list(client: &Client, name: &str, statuses: &[String], output: Output) -> anyhow::Result<()> {
    let mut query = "MaxItems=1000".to_owned();
    for status in statuses {
        query.push_str(&format!("&Statuses={}", escape(status)));
    }
    let path = format!("/2025-12-01/functions/{}/durable-executions?{query}", escape(name));
    let executions = all(client, &path, "DurableExecutions")?;
    output.print(&json!({ "executions": executions }), || {
        let rows: Vec<_> = executions.iter().map(row).collect();
        table(["NAME", "STATUS", "STARTED", "ARN"], &rows)
    })
}

fn row(execution: &Value) -> [String; 4] {
    [
        cell(&execution["DurableExecutionName"]),
        cell(&execution["Status"]),
        moment(&execution["StartTimestamp"]),
        cell(&execution["DurableExecutionArn"]),
    ]
}

fn show(client: &Client, arn: &str, output: Output) -> anyhow::Result<()> {
    let execution = client.get(&path(arn, ""))?;
    let events = path(arn, "/history?MaxItems=1000&IncludeExecutionData=false");
    let events = all(client, &events, "Events")?;
    output.print(&json!({ "execution": execution, "events": events }), || {
        let mut text = String::new();
        for (label, member) in [
            ("name", "DurableExecutionName"),
            ("status", "Status"),
            ("function", "FunctionArn"),
        ] {
            text.push_str(&field(label, &execution[member]));
        }
        for (label, member) in [("input", "InputPayload"), ("result", "Result"), ("error", "Error")] {
            text.push_str(&field(label, &execution[member]));
        }
        text.push('\n');
        let rows: Vec<_> = events.iter().map(event_row).collect();
        text + &table(["EVENT", "TIME", "TYPE", "NAME"], &rows)
    })
}

fn event_row(event: &Value) -> [String; 4] {
    [
        cell(&event["EventId"]),
        moment(&event["EventTimestamp"]),
        cell(&event["EventType"]),
        cell(&event["Name"]),
    ]
}

/// All items of a list that comes in parts; `path` has a query already.
fn all(client: &Client, path: &str, member: &str) -> anyhow::Result<Vec<Value>> {
    let mut items = Vec::new();
    let mut marker = String::new();
    loop {
        let page = client.get(&format!("{path}&Marker={}", escape(&marker)))?;
        items.extend(page[member].as_array().into_iter().flatten().cloned());
        match page["NextMarker"].as_str() {
            Some(next) => next.clone_into(&mut marker),
            None => return Ok(items),
        }
    }
}

/// Seconds since 1970 as people read them, in UTC.
fn moment(seconds: &Value) -> String {
    let micros = seconds.as_f64().map(|seconds| (seconds * 1e6) as u64);
    let moment = micros.map(bowline_foundation::clock::Timestamp::from_micros);
    moment.map_or_else(
        || "-".to_owned(),
        bowline_foundation::clock::Timestamp::to_lambda_string,
    )
}

fn path(arn: &str, below: &str) -> String {
    format!("/2025-12-01/durable-executions/{}{below}", escape(arn))
}
