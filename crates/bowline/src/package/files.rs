//! The files of a package, in memory and in a fixed order.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, bail};
use bowline_foundation::limits::UNZIPPED_CODE_BYTES_MAX;

/// Folders below a package that are never meant to be deployed.
const LEFT_OUT: [&str; 5] = [".git", "__pycache__", ".venv", ".pytest_cache", ".DS_Store"];
/// Deeper trees are taken for a loop of links.
const DEPTH_MAX: usize = 40;

/// A file of a package.
#[derive(Clone, Debug)]
pub struct File {
    pub content: Vec<u8>,
    pub executable: bool,
}

/// Files by their path in the package, with `/` between its parts.
#[derive(Clone, Debug, Default)]
pub struct Files(BTreeMap<String, File>);

impl Files {
    pub fn add(&mut self, path: &str, content: Vec<u8>, executable: bool) {
        self.0.insert(path.to_owned(), File { content, executable });
    }

    pub fn get(&self, path: &str) -> Option<&File> {
        self.0.get(path)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&String, &File)> {
        self.0.iter()
    }

    /// Everything in a folder, links followed.
    pub fn of_folder(folder: &Path) -> anyhow::Result<Self> {
        let mut files = Self::default();
        let mut budget = UNZIPPED_CODE_BYTES_MAX;
        files.add_folder(folder, "", DEPTH_MAX, &mut budget)?;
        Ok(files)
    }

    fn add_folder(&mut self, folder: &Path, prefix: &str, depth: usize, budget: &mut u64) -> anyhow::Result<()> {
        if depth == 0 {
            bail!("`{}` is nested too deep; is there a loop of links?", folder.display());
        }
        let entries = std::fs::read_dir(folder).with_context(|| format!("cannot read `{}`", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let name = name.with_context(|| format!("the name of `{}` is not valid UTF-8", path.display()))?;
            if LEFT_OUT.contains(&name) {
                continue;
            }
            let found = std::fs::metadata(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
            let inner = format!("{prefix}{name}");
            if found.is_dir() {
                self.add_folder(&path, &format!("{inner}/"), depth - 1, budget)?;
            } else if found.is_file() {
                let left = budget.checked_sub(found.len());
                *budget = left.context("the folder holds more than the 250 MiB that a function may have")?;
                let content = std::fs::read(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
                self.add(&inner, content, found.permissions().mode() & 0o111 != 0);
            }
        }
        Ok(())
    }
}
