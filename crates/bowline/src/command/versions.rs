//! `bowline versions`: lists, shows, publishes and removes versions of a function.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Value, json};

use super::{cell, functions::describe, removed};
use crate::client::{Client, Remote, escape, function_path};
use crate::output::{Output, table};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List a function's versions, `$LATEST` first, then oldest to newest.
    Ls {
        /// Name or ARN of the function.
        name: String,
        #[command(flatten)]
        remote: Remote,
    },
    /// Show one version's configuration.
    Show {
        /// Name or ARN of the function.
        name: String,
        /// The version's number or `$LATEST`.
        version: String,
        #[command(flatten)]
        remote: Remote,
    },
    /// Publish what `$LATEST` is now as a new version.
    Publish {
        /// Name or ARN of the function.
        name: String,
        /// What the version is.
        #[arg(long, value_name = "TEXT", default_value = "")]
        description: String,
        #[command(flatten)]
        remote: Remote,
    },
    /// Remove one version.
    Rm {
        /// Name or ARN of the function.
        name: String,
        /// The version's number.
        version: String,
        #[command(flatten)]
        remote: Remote,
    },
}

pub fn run(args: Args, output: Output) -> anyhow::Result<ExitCode> {
    match args.action {
        Action::Ls { name, remote } => list(&remote.client(), &name, output)?,
        Action::Show { name, version, remote } => {
            let below = format!("/configuration?Qualifier={}", escape(&version));
            let configuration = remote.client().get(&function_path(&name, &below))?;
            output.print(&configuration, || describe(&configuration))?;
        }
        Action::Publish {
            name,
            description,
            remote,
        } => {
            let body = json!({ "Description": description });
            let published = remote.client().post(&function_path(&name, "/versions"), &body)?;
            output.print(&published, || {
                format!("published `{name}` as version {}", cell(&published["Version"]))
            })?;
        }
        Action::Rm { name, version, remote } => {
            let below = format!("?Qualifier={}", escape(&version));
            remote.client().delete(&function_path(&name, &below))?;
            let what = format!("{name}:{version}");
            output.print(&removed(&what), || format!("removed `{what}`"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn list(client: &Client, name: &str, output: Output) -> anyhow::Result<()> {
    let versions = client.list(&function_path(name, "/versions"), "Versions")?;
    output.print(&json!({ "versions": versions }), || {
        let row = |version: &Value| {
            [
                cell(&version["Version"]),
                cell(&version["Runtime"]),
                cell(&version["Description"]),
                cell(&version["LastModified"]),
                cell(&version["CodeSha256"]),
            ]
        };
        let rows: Vec<_> = versions.iter().map(row).collect();
        table(["VERSION", "RUNTIME", "DESCRIPTION", "MODIFIED", "CODE SHA256"], &rows)
    })
}
