//! `bowline image`: uploads, lists and removes container images.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Subcommand;
use serde_json::{Value, json};

use super::{cell, removed};
use crate::client::{Client, Remote, escape};
use crate::output::{Output, table};
use crate::package;
use crate::progress::{Progress, size};

/// The tag of an image that nobody has given one.
const TAG_DEFAULT: &str = "latest";

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Upload an image; functions name it by NAME:TAG, or by its digest.
    Push(Push),
    /// List the images.
    Ls {
        #[command(flatten)]
        remote: Remote,
    },
    /// Remove an image; functions that use it keep it.
    Rm {
        /// NAME or NAME:TAG.
        reference: String,
        #[command(flatten)]
        remote: Remote,
    },
}

#[derive(Debug, clap::Args)]
struct Push {
    /// An OCI image layout, a folder or an archive of one, or what `docker save` writes.
    path: PathBuf,
    /// NAME or NAME:TAG [default: what the path is called].
    #[arg(long, value_name = "NAME[:TAG]")]
    name: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

pub fn run(args: Args, output: Output) -> anyhow::Result<ExitCode> {
    match args.action {
        Action::Push(push) => push.run(output)?,
        Action::Ls { remote } => list(&remote.client(), output)?,
        Action::Rm { reference, remote } => {
            remote.client().delete(&path(&reference))?;
            output.print(&removed(&reference), || format!("removed `{reference}`"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Push {
    fn run(self, output: Output) -> anyhow::Result<()> {
        let progress = Progress::stderr();
        let archive = package::image::find(&self.path)?;
        let Some(archive) = archive else {
            bail!(
                "`{}` holds no image; expected an OCI image layout (`skopeo copy ... oci:FOLDER`), an archive of one \
                 (`oci-archive:FILE`), or what `docker save` writes",
                self.path.display()
            );
        };
        let name = match self.name {
            Some(name) => name,
            None => name_of(&self.path)?,
        };
        let pushed = push(&self.remote.client(), &name, archive, &progress)?;
        let uri = cell(&pushed["ImageUri"]);
        output.print(&pushed, || {
            format!(
                "{uri}\n{}\nuse it with: --package-type Image --code ImageUri={uri}",
                cell(&pushed["ResolvedImageUri"])
            )
        })
    }
}

/// The image that a function is deployed from.
pub fn named_after(function: &str) -> String {
    let name = function.to_ascii_lowercase();
    match name.trim_start_matches(['-', '_']) {
        "" => "function".to_owned(),
        name => name.to_owned(),
    }
}

/// Uploads an archive; gives what the node says of the image.
pub fn push(client: &Client, reference: &str, archive: File, progress: &Progress) -> anyhow::Result<Value> {
    let bytes = archive.metadata().context("cannot read the archive")?.len();
    let step = progress.step(&format!("uploading {reference}: {}", size(bytes)));
    let pushed = client.put_file(&path(reference), archive)?;
    step.done(&format!("uploaded {}", cell(&pushed["ImageUri"])));
    Ok(pushed)
}

fn list(client: &Client, output: Output) -> anyhow::Result<()> {
    let images = client.list("/v1/images", "Images")?;
    output.print(&json!({ "images": images }), || {
        if images.is_empty() {
            return "no images yet; `bowline image push PATH` brings one".to_owned();
        }
        let row = |image: &Value| {
            [
                cell(&image["ImageUri"]),
                cell(&image["ImageDigest"]),
                size(image["ImageSize"].as_u64().unwrap_or_default()),
                cell(&image["CreatedDate"]),
            ]
        };
        let rows: Vec<_> = images.iter().map(row).collect();
        table(["IMAGE", "DIGEST", "SIZE", "CREATED"], &rows)
    })
}

fn path(reference: &str) -> String {
    let (name, tag) = reference.split_once(':').unwrap_or((reference, TAG_DEFAULT));
    format!("/v1/images/{}?tag={}", escape(name), escape(tag))
}

/// What the path is called, as images may be.
fn name_of(path: &Path) -> anyhow::Result<String> {
    let full = path.canonicalize();
    let full = full.with_context(|| format!("cannot read `{}`", path.display()))?;
    let stem = if full.is_dir() {
        full.file_name()
    } else {
        full.file_stem()
    };
    let stem = stem.unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    // Of a compressed archive.
    let stem = stem.strip_suffix(".tar").unwrap_or(&stem);
    let replace = |c: char| {
        if c.is_ascii_alphanumeric() || matches!(c, '.' | '_') {
            c
        } else {
            '-'
        }
    };
    let name: String = stem.chars().map(replace).collect();
    let name = name.trim_matches(['-', '.', '_']);
    if name.is_empty() {
        bail!("`{}` gives no name for the image; give one with --name", path.display());
    }
    Ok(name.to_owned())
}
