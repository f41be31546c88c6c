//! Keeping folders that sandboxes share: volumes are made here, in files of ext4, and all are mounted by the spawner.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use bowline_sandbox::{Content, Share, ShareError};
use rustix::fs::FallocateFlags;
use tokio::task::spawn_blocking;

use crate::cell::{CellError, Spawner};

/// Makes the file system of a volume.
const MAKER: &str = "mkfs.ext4";
const MAKER_PATH: &str = "/usr/sbin:/sbin:/usr/bin:/bin:/usr/local/sbin:/usr/local/bin";
/// Devices that a volume is laid under.
const LOOP_CONTROL: &str = "/dev/loop-control";

/// What volumes leave free on the disk of the node's data.
const FREE_BYTES_MIN: u64 = 1024 * 1024 * 1024;

/// Mounts a share, once it is made; one that fails leaves nothing.
pub(crate) async fn keep(spawner: &Spawner, share: &Share) -> Result<(), ShareError> {
    let file = match &share.content {
        Content::Memory => return mount(spawner, share).await,
        Content::NewVolume(file) | Content::Volume(file) => file.clone(),
    };
    check()?;
    if !matches!(share.content, Content::NewVolume(_)) {
        return mount(spawner, share).await;
    }
    let (path, bytes) = (file.clone(), share.bytes);
    let made = spawn_blocking(move || make(&path, bytes)).await;
    let made = match made.map_err(|error| ShareError::Failed(io::Error::other(error))) {
        Ok(Ok(())) => mount(spawner, share).await,
        Ok(Err(error)) | Err(error) => Err(error),
    };
    if made.is_err() {
        // It was not there before.
        let _ = fs::remove_file(&file);
    }
    made
}

async fn mount(spawner: &Spawner, share: &Share) -> Result<(), ShareError> {
    spawner.share(share).await.map_err(|error| match error {
        CellError::Step { step, source } => {
            let text = format!("`{step}` failed: {source}");
            ShareError::Failed(io::Error::new(source.kind(), text))
        }
        other => ShareError::Failed(io::Error::other(other)),
    })
}

/// Whether this machine can mount volumes at all.
fn check() -> Result<(), ShareError> {
    let unsupported = |text: &str| Err(ShareError::Unsupported(text.to_owned()));
    if !rustix::process::geteuid().is_root() {
        return unsupported("volumes are mounted, which needs root: start the node as root, or use shared memory");
    }
    if !Path::new(LOOP_CONTROL).exists() {
        return unsupported(
            "volumes need loop devices, and there is no `/dev/loop-control` here: load the module `loop`",
        );
    }
    Ok(())
}

/// Whether a volume may have so many bytes of a disk with so many free ones.
fn check_room(bytes: u64, free: u64) -> io::Result<()> {
    if bytes.saturating_add(FREE_BYTES_MIN) <= free {
        return Ok(());
    }
    let mib = |bytes: u64| bytes >> 20;
    Err(io::Error::new(
        io::ErrorKind::StorageFull,
        format!(
            "{} MiB do not fit: the disk has {} MiB free, of which {} MiB stay free for the node",
            mib(bytes),
            mib(free),
            mib(FREE_BYTES_MIN)
        ),
    ))
}

/// Makes an empty file system whose file has all the room that it may ever need.
///
/// # Errors
/// If there is already such a file, no room for it, or no `mkfs.ext4`; a part of the file may be left.
pub fn make(path: &Path, bytes: u64) -> Result<(), ShareError> {
    let maker = find_maker()?;
    let made = || {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
            let disk = rustix::fs::statvfs(folder)?;
            check_room(bytes, disk.f_bavail.saturating_mul(disk.f_frsize))?;
        }
        let file = File::create_new(path)?;
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes)?;
        format(&maker, path)?;
        file.sync_all()
    };
    made().map_err(ShareError::Failed)
}

fn find_maker() -> Result<PathBuf, ShareError> {
    let mut candidates = MAKER_PATH.split(':').map(|folder| Path::new(folder).join(MAKER));
    candidates.find(|path| path.is_file()).ok_or_else(|| {
        ShareError::Unsupported(format!(
            "volumes need `{MAKER}`, which is not installed here: install e2fsprogs"
        ))
    })
}

fn format(maker: &Path, path: &Path) -> io::Result<()> {
    // Nothing is kept back for root, and no block of the file is given away.
    let output = Command::new(maker)
        .args(["-q", "-F", "-m", "0", "-E", "nodiscard"])
        .arg(path)
        .env_clear()
        .env("PATH", MAKER_PATH)
        .stdin(Stdio::null())
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("`{MAKER}` failed: {}", said.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_leaves_the_node_its_part_of_the_disk() {
        assert!(check_room(100, FREE_BYTES_MIN + 100).is_ok());
        for (bytes, free) in [(101, FREE_BYTES_MIN + 100), (u64::MAX, u64::MAX - 1), (1, 0)] {
            let refused = check_room(bytes, free).expect_err("it does not fit");
            assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
        }
    }
}
