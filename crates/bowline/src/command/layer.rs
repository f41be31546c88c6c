//! `bowline layer`: publishes, lists and removes layers.

use std::path::PathBuf;
use std::process::ExitCode;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use clap::Subcommand;
use serde_json::{Value, json};

use super::{cell, removed};
use crate::client::{Client, Remote, escape};
use crate::output::{Output, table};
use crate::package;
use crate::progress::{Progress, size};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Publish a folder or a `.zip` as the next version of a layer; functions see its content in `/opt`.
    Publish(Publish),
    /// List the layers, or the versions of one.
    Ls {
        /// The layer whose versions are listed.
        name: Option<String>,
        #[command(flatten)]
        remote: Remote,
    },
    /// Remove one version; functions that use it keep it.
    Rm {
        /// Name or ARN of the layer.
        name: String,
        /// The version's number.
        version: u64,
        #[command(flatten)]
        remote: Remote,
    },
}

#[derive(Debug, clap::Args)]
struct Publish {
    /// Name or ARN of the layer.
    name: String,
    /// A folder or a `.zip` with `python/`, `nodejs/`, `bin/`, `lib/` and the like at its top.
    path: PathBuf,
    /// What the version is.
    #[arg(long, value_name = "TEXT", default_value = "")]
    description: String,
    /// A runtime that it works with; may be given several times.
    #[arg(long, value_name = "NAME")]
    runtime: Vec<String>,
    /// A processor that it works with, `x86_64` or `arm64`; may be given several times.
    #[arg(long, value_name = "NAME")]
    architecture: Vec<String>,
    #[command(flatten)]
    remote: Remote,
}

pub fn run(args: Args, output: Output) -> anyhow::Result<ExitCode> {
    match args.action {
        Action::Publish(publish) => publish.run(output)?,
        Action::Ls { name: None, remote } => list(&remote.client(), output)?,
        Action::Ls {
            name: Some(name),
            remote,
        } => list_versions(&remote.client(), &name, output)?,
        Action::Rm { name, version, remote } => {
            remote.client().delete(&versions_path(&name, &format!("/{version}")))?;
            let what = format!("{name}:{version}");
            output.print(&removed(&what), || format!("removed `{what}`"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Publish {
    fn run(self, output: Output) -> anyhow::Result<()> {
        let progress = Progress::stderr();
        let archive = package::layer(&self.path)?;
        let step = progress.step(&format!(
            "publishing {}: {} zipped",
            self.name,
            size(archive.len() as u64)
        ));
        let body = json!({
            "Description": self.description,
            "Content": { "ZipFile": BASE64.encode(&archive) },
            "CompatibleRuntimes": self.runtime,
            "CompatibleArchitectures": self.architecture,
        });
        let published = self.remote.client().post(&versions_path(&self.name, ""), &body)?;
        let arn = cell(&published["LayerVersionArn"]);
        step.done(&format!(
            "published {} as version {}",
            self.name,
            cell(&published["Version"])
        ));
        output.print(&published, || {
            format!("{arn}\nuse it with: bowline deploy PATH --layer {arn}")
        })
    }
}

fn list(client: &Client, output: Output) -> anyhow::Result<()> {
    let layers = client.list("/2018-10-31/layers", "Layers")?;
    output.print(&json!({ "layers": layers }), || {
        if layers.is_empty() {
            return "no layers yet; `bowline layer publish NAME PATH` makes one".to_owned();
        }
        let row = |layer: &Value| {
            let [version, description, created, _, arn] = version_row(&layer["LatestMatchingVersion"]);
            [cell(&layer["LayerName"]), version, description, created, arn]
        };
        let rows: Vec<_> = layers.iter().map(row).collect();
        table(["NAME", "NEWEST", "DESCRIPTION", "CREATED", "ARN"], &rows)
    })
}

fn list_versions(client: &Client, name: &str, output: Output) -> anyhow::Result<()> {
    let versions = client.list(&versions_path(name, ""), "LayerVersions")?;
    output.print(&json!({ "versions": versions }), || {
        let rows: Vec<_> = versions.iter().map(version_row).collect();
        table(["VERSION", "DESCRIPTION", "CREATED", "RUNTIMES", "ARN"], &rows)
    })
}

fn version_row(version: &Value) -> [String; 5] {
    let runtimes = version["CompatibleRuntimes"].as_array();
    let runtimes: Vec<_> = runtimes.into_iter().flatten().map(cell).collect();
    [
        cell(&version["Version"]),
        cell(&version["Description"]),
        cell(&version["CreatedDate"]),
        cell(&json!(runtimes.join(" "))),
        cell(&version["LayerVersionArn"]),
    ]
}

fn versions_path(name: &str, below: &str) -> String {
    format!("/2018-10-31/layers/{}/versions{below}", escape(name))
}
