//! Volumes of virtual machines: each is a file system of ext4 in a file, which one machine writes to or several read.
//!
//! Who has a volume holds the kernel's lock on its file: one alone to write, or many to read. The lock belongs to the open file
//! that QEMU is handed, so it ends when that QEMU is gone, not sooner and not later, whatever becomes of the node.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::Path;
use std::time::Duration;

use bowline_sandbox::ShareError;
use bowline_sandbox_linux::volume;
use tokio::time::{Instant, sleep};

use crate::machine::Access;
use crate::protocol::Mount;

/// How long a volume is waited for that a machine has which is on its way out.
const FREE_MAX: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_millis(20);
/// What the file of a volume that is being made ends with.
const UNFINISHED: &str = "new";
/// Where a file of ext4 says what whoever mounts it must know, and that a journal is to be read first: `s_feature_incompat`
/// and `EXT4_FEATURE_INCOMPAT_RECOVER` of the kernel.
const FEATURES_AT: u64 = 1024 + 0x60;
const RECOVER: u32 = 4;

/// A volume for one machine.
#[derive(Debug)]
pub struct Volume {
    file: File,
    mount: String,
    access: Access,
}

impl Volume {
    /// Makes the file at `path` with an empty file system that may have so many bytes, all of which are taken from the disk
    /// now; what is there already stays as it is.
    pub async fn make(path: &Path, bytes: u64) -> Result<(), ShareError> {
        let path = path.to_owned();
        let made = tokio::task::spawn_blocking(move || make(&path, bytes)).await;
        made.map_err(|error| ShareError::Failed(io::Error::other(error)))?
    }

    /// Opens the volume at `path` for a machine that sees it at `mount`, as soon as no other machine is in the way.
    pub async fn open(path: &Path, mount: &str, access: Access) -> io::Result<Self> {
        Self::open_within(path, mount, (access, FREE_MAX)).await
    }

    async fn open_within(path: &Path, mount: &str, (access, allowed): (Access, Duration)) -> io::Result<Self> {
        let until = Instant::now() + allowed;
        let file = File::options().read(true).write(access == Access::Write).open(path)?;
        loop {
            let locked = match access {
                Access::Read => file.try_lock_shared(),
                Access::Write => file.try_lock(),
            };
            match locked {
                Ok(()) => break,
                Err(TryLockError::Error(error)) => return Err(error),
                Err(TryLockError::WouldBlock) if Instant::now() < until => sleep(TICK).await,
                Err(TryLockError::WouldBlock) => return Err(taken(access)),
            }
        }
        Ok(Self {
            file,
            mount: mount.to_owned(),
            access,
        })
    }

    /// Whether it can be mounted by who does not write to it: the last machine that did was not killed in the middle.
    pub fn is_in_order(&self) -> io::Result<bool> {
        let mut features = [0; 4];
        self.file.read_exact_at(&mut features, FEATURES_AT)?;
        Ok(u32::from_le_bytes(features) & RECOVER == 0)
    }
}

fn taken(access: Access) -> io::Error {
    let text = match access {
        Access::Read => "a virtual machine writes to it, and a file system cannot be read meanwhile",
        Access::Write => "another virtual machine has it",
    };
    io::Error::new(io::ErrorKind::ResourceBusy, text)
}

/// What guests are told of volumes, and the files that QEMU gets.
pub(crate) fn split(volumes: Vec<Volume>) -> (Vec<Mount>, Vec<OwnedFd>) {
    let parts = (0..).zip(volumes).map(|(slot, volume)| {
        let mount = Mount {
            slot,
            target: volume.mount,
            access: volume.access,
        };
        (mount, volume.file.into())
    });
    parts.unzip()
}

fn make(path: &Path, bytes: u64) -> Result<(), ShareError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let begun = || {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        // One at a time, so that what is unfinished is nobody's.
        let folder = File::open(folder)?;
        folder.lock()?;
        Ok(folder)
    };
    let folder = begun().map_err(ShareError::Failed)?;
    if path.exists() {
        return Ok(());
    }
    let unfinished = path.with_extension(UNFINISHED);
    let _ = fs::remove_file(&unfinished);
    let made = volume::make(&unfinished, bytes).and_then(|()| {
        let named = fs::rename(&unfinished, path).and_then(|()| folder.sync_all());
        named.map_err(ShareError::Failed)
    });
    if made.is_err() {
        let _ = fs::remove_file(&unfinished);
    }
    made
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[tokio::test]
    async fn a_volume_is_made_once_and_has_all_its_room() {
        use std::os::unix::fs::MetadataExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("account/orders.ext4");
        // A crash has left a part of one.
        fs::create_dir(folder.path().join("account")).unwrap();
        fs::write(folder.path().join("account/orders.new"), "half").unwrap();
        Volume::make(&path, 16 * MIB).await.unwrap();
        let made = fs::metadata(&path).unwrap();
        assert_eq!(made.len(), 16 * MIB);
        assert!(made.blocks() * 512 >= 16 * MIB, "a full disk is found out now");
        let volume = Volume::open(&path, "/data", Access::Write).await.unwrap();
        assert!(volume.is_in_order().unwrap());
        volume.file.write_all_at(&RECOVER.to_le_bytes(), FEATURES_AT).unwrap();
        assert!(!volume.is_in_order().unwrap());
        Volume::make(&path, 32 * MIB).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().ino(), made.ino(), "what is there stays");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        let too_large = Volume::make(&folder.path().join("huge.ext4"), 1 << 60).await;
        assert!(matches!(too_large, Err(ShareError::Failed(_))), "{too_large:?}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left of it");
    }

    #[tokio::test]
    async fn one_writes_or_many_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("orders.ext4");
        fs::write(&path, [0; 2048]).unwrap();
        let open = |access| Volume::open_within(&path, "/data", (access, Duration::ZERO));
        let readers = [open(Access::Read).await.unwrap(), open(Access::Read).await.unwrap()];
        let refused = open(Access::Write).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ResourceBusy);
        drop(readers);
        let writer = open(Access::Write).await.unwrap();
        assert!(open(Access::Write).await.is_err());
        assert!(
            open(Access::Read)
                .await
                .unwrap_err()
                .to_string()
                .contains("writes to it")
        );
        // The lock stays with whoever got the file, as QEMU does.
        let (_, files) = split(vec![writer]);
        let handed = files[0].try_clone().unwrap();
        drop(files);
        assert!(open(Access::Write).await.is_err());
        drop(handed);
        open(Access::Write).await.unwrap();
    }
}
