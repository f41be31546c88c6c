//! What guests boot from: a kernel, an initial file system, and a read-only root with the agent in it.
//!
//! An image is a folder named for what it was made of, so that the same inputs are built once. `current` beside
//! the folders names the one that was built last.

pub mod build;
mod initrd;
pub mod kernel;
mod modules;
mod packages;
mod root;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use bowline_foundation::digest::Digest;
use serde::{Deserialize, Serialize};

use crate::VmError;

pub use build::{Build, BuildError, Built, build};
pub use packages::{Source, digest_of};
pub use root::Interpreter;

/// The version of [`Record`].
const FORMAT: u32 = 1;
const RECORD: &str = "image.json";
const CURRENT: &str = "current";
const KERNEL: &str = "vmlinux";
const INITRD: &str = "initrd";
const ROOT: &str = "root.img";

/// An image on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    folder: PathBuf,
    record: Record,
}

/// What an image is. Durable: `format` tells versions apart, and fields are only added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub format: u32,
    /// Over what is in it.
    pub digest: Digest,
    /// The packages it was made of, by their files' names.
    pub packages: Vec<String>,
    /// The digest of the program that is its agent.
    pub agent: Digest,
}

impl Image {
    /// The image that was built last under `folder`.
    pub fn current(folder: &Path) -> Result<Self, VmError> {
        let none = |source| VmError::Io {
            what: format!(
                "find an image in `{}`; `bowline vm image build` makes one",
                folder.display()
            ),
            source,
        };
        let name = std::fs::read_to_string(folder.join(CURRENT)).map_err(none)?;
        let name: Digest = name.trim().parse().map_err(|error| none(io::Error::other(error)))?;
        Self::open(&folder.join(name.to_string()))
    }

    /// The image in this very folder.
    pub fn open(folder: &Path) -> Result<Self, VmError> {
        let path = folder.join(RECORD);
        let text = std::fs::read(&path).map_err(|source| VmError::Io {
            what: format!("open the image `{}`", folder.display()),
            source,
        })?;
        let damaged = |reason: String| VmError::Damaged {
            path: path.clone(),
            reason,
        };
        let record: Record = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        if record.format != FORMAT {
            return Err(damaged(format!("format `{}`, expected `{FORMAT}`", record.format)));
        }
        Ok(Self {
            folder: folder.to_path_buf(),
            record,
        })
    }

    /// What it is.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The interpreters in it.
    pub fn interpreters(&self) -> Vec<Interpreter> {
        let of = |interpreter: &Interpreter| {
            let start = format!("{}_", interpreter.package());
            self.record.packages.iter().any(|file| file.starts_with(&start))
        };
        [Interpreter::Python, Interpreter::Node]
            .into_iter()
            .filter(of)
            .collect()
    }

    /// Removes the other images beside it that were made for other programs than its own.
    pub fn forget_others(&self) -> io::Result<()> {
        let Some(folder) = self.folder.parent() else {
            return Ok(());
        };
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if Self::open(&path).is_ok_and(|other| other.record.agent != self.record.agent) {
                std::fs::remove_dir_all(path)?;
            }
        }
        Ok(())
    }

    /// What names its content.
    pub fn digest(&self) -> Digest {
        self.record.digest
    }

    /// Where it lies.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// How large it is on disk, in bytes.
    pub fn bytes(&self) -> u64 {
        let length = |name| std::fs::metadata(self.folder.join(name)).map_or(0, |file| file.len());
        [KERNEL, INITRD, ROOT].map(length).iter().sum()
    }

    /// Kernel, initial file system and root, opened.
    pub(crate) fn files(&self) -> Result<Vec<OwnedFd>, VmError> {
        let open = |name| {
            let path = self.folder.join(name);
            let file = File::open(&path).map_err(|source| VmError::Io {
                what: format!("open `{}`", path.display()),
                source,
            })?;
            Ok(file.into())
        };
        [KERNEL, INITRD, ROOT].map(open).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_read_as_they_were_written_once() {
        let record = Record {
            format: FORMAT,
            digest: Digest::of(b"image"),
            packages: vec!["busybox-static_1.35_amd64.deb".to_owned()],
            agent: Digest::of(b"agent"),
        };
        let golden = include_str!("image/golden-1.json");
        assert_eq!(serde_json::to_string_pretty(&record).unwrap(), golden.trim_end());
        let folder = tempfile::tempdir().unwrap();
        let name = Digest::of(b"inputs").to_string();
        std::fs::create_dir(folder.path().join(&name)).unwrap();
        std::fs::write(folder.path().join(&name).join(RECORD), golden).unwrap();
        let none = Image::current(folder.path()).unwrap_err().to_string();
        assert!(none.contains("bowline vm image build"), "{none}");
        std::fs::write(folder.path().join(CURRENT), &name).unwrap();
        assert_eq!(Image::current(folder.path()).unwrap().record(), &record);
        std::fs::write(folder.path().join(&name).join(RECORD), golden.replace(": 1,", ": 2,")).unwrap();
        assert!(
            Image::current(folder.path()).is_err(),
            "another format is not guessed at"
        );
    }
}
