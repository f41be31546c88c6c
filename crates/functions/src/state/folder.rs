//! Resources that are folders: what they are made of, and where functions have them.
//!
//! | kind | its files lie | it lasts |
//! | --- | --- | --- |
//! | memory | in the memory of one node | as long as that node runs; what comes after is another generation |
//! | volume | in a file system of their own on the disk of one node | until it is removed |

use bowline_foundation::units::Mebibytes;
use bowline_sandbox::{MOUNTS_DIR, Mount, MountAccess};
use serde::{Deserialize, Serialize};

use super::{Access, Attachment, StateError, StateName, Writers};

/// Smallest and largest folder in memory, in mebibytes.
pub const MEMORY_MIB: (u32, u32) = (1, 64 * 1024);
/// Smallest and largest volume, in mebibytes.
pub const VOLUME_MIB: (u32, u32) = (16, 1024 * 1024);
/// Longest name of the folder where a function has one.
const FOLDER_CHARS_MAX: usize = 64;

/// What keeps a folder's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FolderKind {
    Memory,
    Volume,
}

/// A folder to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewFolder {
    pub kind: FolderKind,
    pub size: Mebibytes,
}

impl NewFolder {
    pub(super) fn check(&self) -> Result<(), StateError> {
        let (what, (min, max)) = match self.kind {
            FolderKind::Memory => ("shared memory", MEMORY_MIB),
            FolderKind::Volume => ("a volume", VOLUME_MIB),
        };
        if (min..=max).contains(&self.size.0) {
            return Ok(());
        }
        let size = self.size.0;
        Err(StateError::Invalid(format!(
            "{what} has {min} to {max} MiB, not {size}"
        )))
    }
}

/// A folder as its resource's record has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FolderRecord {
    pub kind: FolderKind,
    pub size_mib: u32,
    /// The node that has it, by the name that lasts as long as its data folder.
    pub node: String,
    /// The number by which the nodes of its cluster know that one now; zero if it is alone.
    pub host: u64,
    /// Grows whenever it is made anew, and empty.
    pub generation: u32,
}

/// A folder as it is attached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachedFolder {
    pub kind: FolderKind,
    /// Where the function's sandboxes have it.
    pub at: String,
    pub writers: Writers,
    pub node: String,
    /// The one that was attached: a later one is another, empty folder.
    pub generation: u32,
}

/// A folder as it is shown.
#[derive(Clone, Debug)]
pub struct FolderView {
    pub kind: FolderKind,
    pub size: Mebibytes,
    pub node: String,
    pub is_here: bool,
    pub generation: u32,
    pub status: FolderStatus,
}

/// Whether functions can use a folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FolderStatus {
    Ready,
    /// The node that has it is not known to run, or cannot mount it.
    Away,
}

/// The name that a folder's share has on its node.
pub(super) fn share_name(id: &str, kind: FolderKind, generation: u32) -> String {
    match kind {
        FolderKind::Memory => format!("{id}.{generation}"),
        FolderKind::Volume => id.to_owned(),
    }
}

/// Where a function is to have a folder: right below `/mnt`, as the service has file systems.
pub(super) fn place(name: &StateName, wanted: Option<String>) -> Result<String, StateError> {
    let at = wanted.unwrap_or_else(|| format!("{MOUNTS_DIR}/{name}"));
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let folder = at
        .strip_prefix(MOUNTS_DIR)
        .and_then(|rest| rest.strip_prefix('/'))
        .filter(|folder| !folder.is_empty() && folder.len() <= FOLDER_CHARS_MAX)
        .filter(|folder| folder.bytes().all(allowed) && !matches!(*folder, "." | ".."));
    match folder {
        Some(_) => Ok(at),
        None => Err(StateError::Invalid(format!(
            "`{at}` is no place for a folder; expected `{MOUNTS_DIR}/` and 1 to {FOLDER_CHARS_MAX} of `a-z`, `A-Z`, `0-9`, `-`, `_` and `.`"
        ))),
    }
}

impl Attachment {
    /// What sandboxes have of it, if it is a folder.
    pub(crate) fn mount(&self) -> Option<Mount> {
        let folder = self.folder.as_ref()?;
        Some(Mount {
            share: share_name(&self.id, folder.kind, folder.generation),
            at: folder.at.clone(),
            access: match (self.access, folder.writers) {
                (Access::Read, _) => MountAccess::Read,
                (Access::Write, Writers::Any) => MountAccess::Write,
                (Access::Write, Writers::One) => MountAccess::WriteAlone,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_right_below_mnt() {
        let name: StateName = "cache".parse().expect("a good name");
        let placed = |at: &str| place(&name, Some(at.to_owned())).ok();
        assert_eq!(place(&name, None).ok().as_deref(), Some("/mnt/cache"));
        assert_eq!(placed("/mnt/A_b-c.9").as_deref(), Some("/mnt/A_b-c.9"));
        let long = format!("/mnt/{}", "x".repeat(FOLDER_CHARS_MAX + 1));
        for bad in [
            "", "/mnt", "/mnt/", "/mnt/.", "/mnt/..", "/mnt/a/b", "/tmp/a", "mnt/a", "/mnt/a b", &long,
        ] {
            assert_eq!(placed(bad), None, "{bad}");
        }
        assert!(placed(&long[..long.len() - 1]).is_some(), "control: one less");
    }

    #[test]
    fn sizes_have_limits() {
        let check = |kind, size| {
            let size = Mebibytes(size);
            NewFolder { kind, size }.check().is_ok()
        };
        for (kind, (min, max)) in [(FolderKind::Memory, MEMORY_MIB), (FolderKind::Volume, VOLUME_MIB)] {
            assert!(check(kind, min) && check(kind, max));
            assert!(!check(kind, min - 1) && !check(kind, max + 1));
        }
    }

    #[test]
    fn memory_of_another_generation_is_another_share_and_a_volume_is_the_same() {
        let of = |kind, generation| {
            let folder = AttachedFolder {
                kind,
                at: "/mnt/a".to_owned(),
                writers: Writers::One,
                node: "n".to_owned(),
                generation,
            };
            let attachment = Attachment {
                id: "7f".to_owned(),
                access: Access::Write,
                folder: Some(folder),
            };
            attachment.mount().expect("it is a folder").share
        };
        assert_ne!(of(FolderKind::Memory, 1), of(FolderKind::Memory, 2));
        assert_eq!(of(FolderKind::Volume, 1), of(FolderKind::Volume, 2));
    }
}
