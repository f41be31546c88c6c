//! `bowline aliases`: lists, shows, sets and removes aliases of a function.

use std::process::ExitCode;

use clap::Subcommand;
use serde_json::{Map, Value, json};

use super::{cell, removed};
use crate::client::{Client, Remote, escape, function_path};
use crate::output::{Output, table};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List a function's aliases.
    Ls {
        /// Name or ARN of the function.
        name: String,
        #[command(flatten)]
        remote: Remote,
    },
    /// Show one alias.
    Show {
        /// Name or ARN of the function.
        name: String,
        /// The alias's name.
        alias: String,
        #[command(flatten)]
        remote: Remote,
    },
    /// Create an alias or point it elsewhere.
    Set(Set),
    /// Remove an alias.
    Rm {
        /// Name or ARN of the function.
        name: String,
        /// The alias's name.
        alias: String,
        #[command(flatten)]
        remote: Remote,
    },
}

#[derive(Debug, clap::Args)]
struct Set {
    /// Name or ARN of the function.
    name: String,
    /// The alias's name.
    alias: String,
    /// The version it points to.
    version: String,
    /// Share of invocations that another version gets, `3=0.1` say; without it the whole goes to VERSION.
    #[arg(long, value_name = "VERSION=SHARE", value_parser = weight)]
    weight: Option<(String, f64)>,
    /// What the alias is for.
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

pub fn run(args: Args, output: Output) -> anyhow::Result<ExitCode> {
    match args.action {
        Action::Ls { name, remote } => list(&remote.client(), &name, output)?,
        Action::Show { name, alias, remote } => {
            let found = remote.client().get(&alias_path(&name, &alias))?;
            output.print(&found, || table(HEADINGS, &[row(&found)]))?;
        }
        Action::Set(set) => set.run(output)?,
        Action::Rm { name, alias, remote } => {
            let client = remote.client();
            // Removing what does not exist succeeds on the wire; a person who mistyped wants to know.
            client.get(&alias_path(&name, &alias))?;
            client.delete(&alias_path(&name, &alias))?;
            let what = format!("{name}:{alias}");
            output.print(&removed(&what), || format!("removed `{what}`"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Set {
    fn run(&self, output: Output) -> anyhow::Result<()> {
        let client = self.remote.client();
        let path = alias_path(&self.name, &self.alias);
        let mut body = json!({ "FunctionVersion": self.version });
        if let Some(description) = &self.description {
            body["Description"] = json!(description);
        }
        let weights = self
            .weight
            .iter()
            .map(|(version, share)| (version.clone(), json!(share)));
        body["RoutingConfig"] = json!({ "AdditionalVersionWeights": weights.collect::<Map<_, _>>() });
        let alias = match client.get(&path) {
            Ok(_) => client.put(&path, &body)?,
            Err(error) if error.is_not_found() => {
                body["Name"] = json!(self.alias);
                client.post(&function_path(&self.name, "/aliases"), &body)?
            }
            Err(error) => return Err(error.into()),
        };
        output.print(&alias, || table(HEADINGS, &[row(&alias)]))
    }
}

const HEADINGS: [&str; 4] = ["ALIAS", "VERSION", "WEIGHTS", "DESCRIPTION"];

fn list(client: &Client, name: &str, output: Output) -> anyhow::Result<()> {
    let aliases = client.list(&function_path(name, "/aliases"), "Aliases")?;
    output.print(&json!({ "aliases": aliases }), || {
        let rows: Vec<_> = aliases.iter().map(row).collect();
        table(HEADINGS, &rows)
    })
}

fn row(alias: &Value) -> [String; 4] {
    let weights = alias["RoutingConfig"]["AdditionalVersionWeights"].as_object();
    let weights: Vec<_> = weights
        .into_iter()
        .flatten()
        .map(|(version, share)| format!("{version}={share}"))
        .collect();
    [
        cell(&alias["Name"]),
        cell(&alias["FunctionVersion"]),
        cell(&json!(weights.join(" "))),
        cell(&alias["Description"]),
    ]
}

fn alias_path(name: &str, alias: &str) -> String {
    function_path(name, &format!("/aliases/{}", escape(alias)))
}

fn weight(text: &str) -> Result<(String, f64), String> {
    let (version, share) = text.split_once('=').ok_or("expected VERSION=SHARE, `3=0.1` say")?;
    let share = share.parse::<f64>().ok().filter(|share| (0.0..=1.0).contains(share));
    let share = share.ok_or("the share is a number from 0 to 1, 0.1 for a tenth")?;
    Ok((version.to_owned(), share))
}
