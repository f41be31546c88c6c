//! `bowline store`: checks a node's store and moves it to another, while no node runs on either.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, bail};
use bowline_store::Store;
use bowline_store::archive::{self, Existing, Progress as Moved, Summary, Target};
use bowline_store::blob::Blobs;
use clap::Subcommand;
use serde_json::json;
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;

use super::settings::SettingFlags;
use super::up::runtime;
use crate::config::{Config, Key, StoreChoice, shown};
use crate::node::{data_folder, ground};
use crate::output::Output;
use crate::progress::{Progress, Step, size};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Read everything in the store and the packages, and say what is wrong.
    Check {
        #[command(flatten)]
        settings: SettingFlags,
    },
    /// Write everything into one file.
    Export {
        /// The file; it must not exist yet.
        file: PathBuf,
        #[command(flatten)]
        settings: SettingFlags,
    },
    /// Read everything from a file that `export` wrote.
    Import {
        /// The file.
        file: PathBuf,
        /// Import into a store that is not empty; what the file holds replaces what has the same key.
        #[arg(long)]
        merge: bool,
        #[command(flatten)]
        settings: SettingFlags,
    },
    /// Move everything to another store, which must be empty.
    Migrate {
        /// Where to: `embedded` or `postgres://USER:PASSWORD@HOST/DATABASE`.
        #[arg(long, value_name = "URL")]
        to: String,
        /// Data folder of the other store [default: the same].
        #[arg(long, value_name = "DIR")]
        to_data: Option<String>,
        #[command(flatten)]
        settings: SettingFlags,
    },
}

pub fn run(args: Args, output: Output) -> anyhow::Result<ExitCode> {
    let runtime = runtime()?;
    match args.action {
        Action::Check { settings } => runtime.block_on(check(&settings.load()?, output)),
        Action::Export { file, settings } => runtime.block_on(export(&settings.load()?, &file, output)),
        Action::Import { file, merge, settings } => {
            let existing = if merge { Existing::Merge } else { Existing::Refuse };
            runtime.block_on(import(&settings.load()?, &file, existing, output))
        }
        Action::Migrate { to, to_data, settings } => {
            let other = SettingFlags {
                store: Some(to),
                data: to_data.or_else(|| settings.data.clone()),
                ..settings.clone()
            };
            runtime.block_on(migrate(&settings.load()?, &other.load()?, output))
        }
    }
}

/// A store that no node uses.
struct Still {
    store: Arc<dyn Store>,
    blobs: Blobs,
    cold: Blobs,
    name: String,
}

impl Still {
    async fn open(config: &Config) -> anyhow::Result<Self> {
        let data = data_folder(&config.data)?;
        let store = ground::open_store(config, &data).await?;
        wait_for_silence(config, &store).await?;
        let folder = config.blobs.clone().unwrap_or_else(|| data.join("blobs"));
        Ok(Self {
            store,
            blobs: Blobs::open_dir(&folder)?,
            cold: Blobs::open_dir(&folder.join(ground::COLD))?,
            name: name_of(config),
        })
    }
}

impl Still {
    /// Packages, and cold parts of streams.
    fn folders(&self) -> (Option<&Blobs>, Option<&Blobs>) {
        (Some(&self.blobs), Some(&self.cold))
    }
}

/// Makes sure that no node uses a shared store; an embedded one is locked. A node that was killed still
/// looks alive: its lease is waited for.
async fn wait_for_silence(config: &Config, store: &Arc<dyn Store>) -> anyhow::Result<()> {
    if matches!(config.store, StoreChoice::Embedded) {
        return Ok(());
    }
    let step = Progress::stderr().step("waiting whether nodes still use the store");
    let living = bowline_stream::wait_for_silence(&**store, config.lease).await?;
    if !living.is_empty() {
        let names = living.join(", ");
        bail!("nodes still use this store ({names}): stop them first (`bowline up` leaves it when it is stopped)");
    }
    step.done("no node uses the store");
    Ok(())
}

/// A new file for this user's eyes only: an archive holds access keys and environments.
async fn create_private(path: &Path) -> std::io::Result<File> {
    let mut options = File::options();
    options.write(true).create_new(true).mode(0o600).open(path).await
}

/// How a store is spoken of.
fn name_of(config: &Config) -> String {
    let store = config.values().find(|(key, _)| *key == Key::Store);
    let text = store.map_or_else(String::new, |(key, value)| shown(key, &value.text));
    match text.as_str() {
        "embedded" => format!("the embedded store in {}", config.data.display()),
        _ => text,
    }
}

/// Tells how far something is.
fn note(step: &Step, verb: &str, moved: Moved) {
    let of = moved
        .total
        .map_or_else(String::new, |total| format!(" of {}", total.records));
    step.note(&format!(
        "{verb} {}{of} records and {} packages, {}",
        moved.records,
        moved.blobs,
        size(moved.bytes)
    ));
}

fn told(summary: &Summary) -> serde_json::Value {
    json!({
        "records": summary.records,
        "packages": summary.blobs,
        "bytes": summary.bytes,
        "digest": summary.digest.to_string(),
    })
}

async fn check(config: &Config, output: Output) -> anyhow::Result<ExitCode> {
    let still = Still::open(config).await?;
    let step = Progress::stderr().step(&format!("checking {}", still.name));
    let report = archive::check(&*still.store, still.folders(), &mut |moved| note(&step, "read", moved)).await?;
    step.done(&format!("checked {}", still.name));
    let damaged: Vec<String> = report.damaged_blobs.iter().map(ToString::to_string).collect();
    let bad: Vec<String> = report
        .bad_keys
        .iter()
        .map(|key| String::from_utf8_lossy(key).into_owned())
        .collect();
    let document = json!({
        "sound": report.is_sound(),
        "records": report.records,
        "recordBytes": report.record_bytes,
        "packages": report.blobs,
        "packageBytes": report.blob_bytes,
        "damagedPackages": damaged,
        "badKeys": bad,
        "unfinishedImport": report.unfinished_import,
    });
    output.print(&document, || {
        let mut lines = vec![format!(
            "{} records ({}), {} packages ({})",
            report.records,
            size(report.record_bytes),
            report.blobs,
            size(report.blob_bytes)
        )];
        lines.extend(
            damaged
                .iter()
                .map(|digest| format!("package {digest} is damaged: deploy it again")),
        );
        lines.extend(
            bad.iter()
                .map(|key| format!("record {key} is out of order or too large")),
        );
        let unfinished = report.unfinished_import.iter();
        lines.extend(unfinished.map(|digest| format!("the import of archive {digest} was cut off: run it again")));
        lines.push(
            if report.is_sound() {
                "nothing is wrong"
            } else {
                "not sound"
            }
            .to_owned(),
        );
        lines.join("\n")
    })?;
    Ok(if report.is_sound() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

async fn export(config: &Config, file: &Path, output: Output) -> anyhow::Result<ExitCode> {
    let still = Still::open(config).await?;
    let made = create_private(file).await;
    let made = made.with_context(|| format!("cannot make `{}`; an existing file is not replaced", file.display()))?;
    let written = write_out(&still, made).await;
    if written.is_err() {
        // Half an archive is of no use to anybody.
        let _ = std::fs::remove_file(file);
    }
    let summary = written?;
    output.print(&told(&summary), || {
        format!("wrote {} ({})", file.display(), size(summary.bytes))
    })?;
    Ok(ExitCode::SUCCESS)
}

async fn write_out(still: &Still, file: File) -> anyhow::Result<Summary> {
    let step = Progress::stderr().step(&format!("exporting {}", still.name));
    let mut out = tokio::io::BufWriter::new(file);
    let on_progress = &mut |moved| note(&step, "exported", moved);
    let summary = archive::export(&*still.store, still.folders(), &mut out, on_progress).await?;
    out.flush().await?;
    out.into_inner().sync_all().await?;
    step.done(&format!(
        "exported {} records and {} packages",
        summary.records, summary.blobs
    ));
    Ok(summary)
}

async fn import(config: &Config, file: &Path, existing: Existing, output: Output) -> anyhow::Result<ExitCode> {
    let still = Still::open(config).await?;
    let opened = File::open(file).await;
    let opened = opened.with_context(|| format!("cannot read `{}`", file.display()))?;
    let summary = read_in(&still, opened, existing).await?;
    output.print(&told(&summary), || format!("imported into {}", still.name))?;
    Ok(ExitCode::SUCCESS)
}

async fn read_in(still: &Still, file: File, existing: Existing) -> anyhow::Result<Summary> {
    let step = Progress::stderr().step(&format!("importing into {}", still.name));
    let target = Target {
        store: &*still.store,
        blobs: Some(&still.blobs),
        cold: Some(&still.cold),
        existing,
    };
    let on_progress = &mut |moved| note(&step, "imported", moved);
    let summary = archive::import(&mut tokio::io::BufReader::new(file), target, on_progress).await?;
    step.done(&format!(
        "imported {} records and {} packages",
        summary.records, summary.blobs
    ));
    Ok(summary)
}

/// Exports into a file beside the data, imports from it, and removes it.
async fn migrate(from: &Config, to: &Config, output: Output) -> anyhow::Result<ExitCode> {
    let (source, target) = (name_of(from), name_of(to));
    if source == target {
        bail!("`--to` names the store that everything is in already: {source}");
    }
    let source = Still::open(from).await?;
    let target = Still::open(to).await?;
    let folder = tempfile::tempdir_in(&from.data).context("cannot make a temporary folder in the data folder")?;
    let path = folder.path().join("archive");
    write_out(&source, create_private(&path).await?).await?;
    let summary = read_in(&target, File::open(&path).await?, Existing::Refuse).await?;
    output.print(&told(&summary), || {
        format!(
            "everything of {} is in {} now; the former is unchanged",
            source.name, target.name
        )
    })?;
    Ok(ExitCode::SUCCESS)
}
