//! `cargo xtask tidy`: rules of this workspace that no compiler checks.
//!
//! Every rule reads the tree and reports what it found; nothing is changed. All findings are shown, not
//! only the first, and each says what is expected.

mod documents;
mod layers;
mod manifests;
mod sources;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cargo_metadata::{Metadata, MetadataCommand};

use crate::shell;

/// What the rules look at.
struct Tree {
    root: PathBuf,
    files: Vec<SourceFile>,
    metadata: Metadata,
}

/// A Rust file of the tree.
struct SourceFile {
    /// Relative to the root, with `/` between its parts.
    path: String,
    text: String,
}

/// What a rule found.
#[derive(Default)]
struct Findings {
    errors: Vec<String>,
    notes: Vec<String>,
}

impl Findings {
    fn error(&mut self, text: impl Into<String>) {
        self.errors.push(text.into());
    }

    fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }
}

pub fn run() -> Result<()> {
    let findings = check(&shell::root())?;
    for note in &findings.notes {
        println!("note: {note}");
    }
    for error in &findings.errors {
        println!("tidy: {error}");
    }
    match findings.errors.len() {
        0 => Ok(()),
        1 => bail!("tidy found one fault"),
        count => bail!("tidy found {count} faults"),
    }
}

fn check(root: &Path) -> Result<Findings> {
    let tree = Tree::read(root)?;
    let mut findings = Findings::default();
    sources::check(&tree, &mut findings)?;
    layers::check(&tree, &mut findings);
    manifests::check(&tree, &mut findings)?;
    documents::check(&tree, &mut findings)?;
    Ok(findings)
}

impl Tree {
    fn read(root: &Path) -> Result<Self> {
        let mut files = Vec::new();
        collect_sources(root, root, &mut files)?;
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let metadata = MetadataCommand::new()
            .manifest_path(root.join("Cargo.toml"))
            .other_options(["--filter-platform".to_owned(), "x86_64-unknown-linux-gnu".to_owned()])
            .exec()
            .context("cannot read the workspace's metadata")?;
        Ok(Self {
            root: root.to_owned(),
            files,
            metadata,
        })
    }

    /// A file of the tree as text, empty if there is none.
    fn text_of(&self, path: &str) -> String {
        std::fs::read_to_string(self.root.join(path)).unwrap_or_default()
    }
}

fn collect_sources(root: &Path, folder: &Path, files: &mut Vec<SourceFile>) -> Result<()> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot read `{}`", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if entry.file_type()?.is_dir() {
            let foreign = matches!(name.as_ref(), "target" | "node_modules" | "bowline-data") || name.starts_with('.');
            if !foreign {
                collect_sources(root, &path, files)?;
            }
        } else if name.ends_with(".rs") {
            let relative = path.strip_prefix(root).expect("the walk began at the root");
            let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
            files.push(SourceFile {
                path: relative.to_string_lossy().into_owned(),
                text,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_workspace_is_tidy() {
        let findings = check(&shell::root()).unwrap();
        assert!(findings.errors.is_empty(), "{}", findings.errors.join("\n"));
    }
}
