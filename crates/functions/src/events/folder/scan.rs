//! What lies in a folder and the folders below.

use std::collections::BTreeSet;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use bowline_foundation::clock::Timestamp;
use serde::{Deserialize, Serialize};

/// Files of one watched folder, with those below; further ones wait until some are gone.
pub const FILES_MAX: usize = 20_000;
/// Folders below one that is watched.
pub const FOLDERS_MAX: usize = 1000;
/// So deep they may lie.
const DEPTH_MAX: usize = 16;

/// What a file looks like from outside: another one of the same name, or a changed one, looks otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    pub inode: u64,
    pub bytes: u64,
    /// Microseconds since 1970.
    pub modified_us: u64,
}

impl Look {
    pub fn modified(&self) -> Timestamp {
        Timestamp::from_micros(self.modified_us)
    }

    fn of(metadata: &Metadata) -> Self {
        let seconds = u64::try_from(metadata.mtime()).unwrap_or_default();
        let nanoseconds = u64::try_from(metadata.mtime_nsec()).unwrap_or_default();
        Self {
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified_us: seconds.saturating_mul(1_000_000).saturating_add(nanoseconds / 1000),
        }
    }
}

/// What a walk has found; paths begin below the folder.
#[derive(Debug, Default)]
pub struct Found {
    /// The one that was changed longest ago first.
    pub files: Vec<(PathBuf, Look)>,
    /// The folder itself, an empty path, among them.
    pub folders: Vec<PathBuf>,
    /// Where it could not look, or beyond its limits: nothing is known of what lies there and below.
    pub unseen: BTreeSet<PathBuf>,
}

/// Whether a name is a writer's own, until it gives the file another.
pub fn is_unfinished(name: &[u8]) -> bool {
    name.starts_with(b".") || [&b".tmp"[..], b".part", b"~"].iter().any(|end| name.ends_with(end))
}

/// A file as it is now; `None` for what is no file. Links are not followed.
pub fn look(path: &Path) -> io::Result<Option<Look>> {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    let metadata = path.symlink_metadata()?;
    Ok((metadata.is_file() && !is_unfinished(name)).then(|| Look::of(&metadata)))
}

/// Looks at everything below `root`. What is gone before it is looked at is passed over.
pub fn walk(root: &Path) -> io::Result<Found> {
    let mut found = Found::default();
    let mut ahead = vec![(PathBuf::new(), 0)];
    while let Some((folder, depth)) = ahead.pop() {
        let entries = match std::fs::read_dir(root.join(&folder)) {
            Ok(entries) => entries,
            Err(error) if depth == 0 => return Err(error),
            Err(error) => {
                found.unseen.extend((!is_gone(&error)).then_some(folder));
                continue;
            }
        };
        for entry in entries {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() && !is_unfinished(entry.file_name().as_encoded_bytes()) {
                if depth < DEPTH_MAX && found.folders.len() + ahead.len() < FOLDERS_MAX {
                    ahead.push((path, depth + 1));
                } else {
                    found.unseen.insert(path);
                }
                continue;
            }
            match look(&root.join(&path)) {
                Ok(Some(look)) if found.files.len() < FILES_MAX => found.files.push((path, look)),
                // Others of this folder may be beyond the limit, too.
                Ok(Some(_)) => drop(found.unseen.insert(folder.clone())),
                Ok(None) => {}
                Err(error) => found.unseen.extend((!is_gone(&error)).then_some(path)),
            }
        }
        found.folders.push(folder);
    }
    found
        .files
        .sort_unstable_by(|(a, one), (b, other)| (one.modified_us, a).cmp(&(other.modified_us, b)));
    Ok(found)
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_below_and_unfinished_ones_are_not() {
        let root = tempfile::tempdir().unwrap();
        let put = |name: &str| {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, b"bytes").unwrap();
        };
        let names = [
            "a.png",
            "in/b.png",
            "in/deep/c",
            ".d.png",
            "e.tmp",
            "f.part",
            "g~",
            ".git/h",
        ];
        names.into_iter().for_each(put);
        std::os::unix::fs::symlink("/etc/passwd", root.path().join("link")).unwrap();
        let found = walk(root.path()).unwrap();
        let mut names: Vec<&str> = found.files.iter().map(|(path, _)| path.to_str().unwrap()).collect();
        names.sort_unstable();
        assert_eq!(names, ["a.png", "in/b.png", "in/deep/c"]);
        assert!(found.unseen.is_empty() && found.folders.len() == 3);
        assert!(found.files.iter().all(|(_, look)| look.bytes == 5));
        assert!(walk(&root.path().join("none")).is_err());
    }

    #[test]
    fn folders_are_bounded() {
        let root = tempfile::tempdir().unwrap();
        for number in 0..FOLDERS_MAX + 5 {
            std::fs::create_dir(root.path().join(number.to_string())).unwrap();
        }
        let found = walk(root.path()).unwrap();
        assert!(
            found.unseen.len() == 5 && found.folders.len() == FOLDERS_MAX + 1,
            "{}",
            found.folders.len()
        );
        let below = |depth: usize| -> PathBuf { (0..depth).map(|_| "d").collect() };
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join(below(20))).unwrap();
        std::fs::write(root.path().join("seen"), b"bytes").unwrap();
        let found = walk(root.path()).unwrap();
        assert_eq!((found.folders.len(), found.files.len()), (DEPTH_MAX + 1, 1));
        assert_eq!(found.unseen, BTreeSet::from([below(DEPTH_MAX + 1)]));
    }
}
