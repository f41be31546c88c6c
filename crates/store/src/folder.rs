//! Folders that survive the death of the machine.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// Makes `folder` and its missing parents; their names are on disk when it returns.
pub(crate) fn create_durably(folder: &Path) -> io::Result<()> {
    let missing: Vec<PathBuf> = folder
        .ancestors()
        .take_while(|path| !path.as_os_str().is_empty() && !path.exists())
        .map(PathBuf::from)
        .collect();
    fs::create_dir_all(folder)?;
    for made in &missing {
        sync(&parent(made))?;
    }
    Ok(())
}

/// Brings the names in `folder` to disk.
pub(crate) fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// The folder that holds `path`; `.` for a bare name.
pub(crate) fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_path_buf(),
        _ => PathBuf::from("."),
    }
}
