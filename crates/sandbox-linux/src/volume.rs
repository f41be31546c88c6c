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

/// Makes an empty file system whose file has all the room that it may ever need.
fn make(path: &Path, bytes: u64) -> Result<(), ShareError> {
    let maker = find_maker()?;
    let made = || {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
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
