//! The log of one function: two files on disk, and whoever follows it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bowline_foundation::id::AccountId;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::broadcast;

use crate::name::FunctionName;

/// A file of this size becomes the older one, and the older one goes.
pub(super) const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Pieces that a follower may lag behind before it loses the oldest.
const FOLLOWER_PIECES_MAX: usize = 256;

/// Where a function's log lies. The files are touched by the holder of the writer's lock only.
pub(crate) struct FunctionLog {
    path: PathBuf,
    followers: Mutex<Option<broadcast::Sender<Bytes>>>,
    /// The function is gone: nothing is written any more.
    deleted: AtomicBool,
}

impl FunctionLog {
    pub fn new(root: &Path, account: &AccountId, name: &FunctionName) -> Arc<Self> {
        Arc::new(Self {
            path: root.join(account.as_str()).join(format!("{name}.log")),
            followers: Mutex::new(None),
            deleted: AtomicBool::new(false),
        })
    }

    /// What is logged from now on.
    pub fn follow(&self) -> broadcast::Receiver<Bytes> {
        let mut followers = self.followers.lock();
        let sender = followers.get_or_insert_with(|| broadcast::channel(FOLLOWER_PIECES_MAX).0);
        sender.subscribe()
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn older(&self) -> PathBuf {
        self.path.with_extension("log.1")
    }

    pub(super) fn open(&self) -> io::Result<OpenLog> {
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder)?;
        }
        let file = OpenOptions::new().append(true).create(true).open(&self.path)?;
        let bytes = file.metadata()?.len();
        Ok(OpenLog { file, bytes })
    }

    /// Appends to the file, which is exchanged when it is full.
    pub(super) fn append(&self, open: &mut OpenLog, bytes: &[u8]) -> io::Result<()> {
        if open.bytes > 0 && open.bytes + bytes.len() as u64 > FILE_BYTES_MAX {
            fs::rename(&self.path, self.older())?;
            *open = self.open()?;
        }
        open.file.write_all(bytes)?;
        open.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Passes bytes to the followers, if there are any.
    pub(super) fn publish(&self, bytes: &[u8]) {
        let mut followers = self.followers.lock();
        let Some(sender) = &*followers else { return };
        if sender.receiver_count() == 0 {
            *followers = None;
        } else {
            // Fails only if the last follower has gone in between.
            let _ = sender.send(Bytes::copy_from_slice(bytes));
        }
    }

    /// The newest bytes of both files, from a line's start.
    pub(super) fn tail(&self, bytes_max: usize) -> io::Result<Vec<u8>> {
        let mut tail = read_end(&self.path, bytes_max)?;
        if tail.len() < bytes_max {
            let mut older = read_end(&self.older(), bytes_max - tail.len())?;
            older.append(&mut tail);
            tail = older;
        }
        if tail.len() == bytes_max {
            let cut = tail.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            tail.drain(..cut);
        }
        Ok(tail)
    }

    pub(super) fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::Acquire)
    }

    pub(super) fn delete(&self) -> io::Result<()> {
        self.deleted.store(true, Ordering::Release);
        *self.followers.lock() = None;
        for path in [&self.path, &self.older()] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// An open file with its size.
pub(super) struct OpenLog {
    file: File,
    bytes: u64,
}

fn read_end(path: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        opened => opened?,
    };
    let from = file.metadata()?.len().saturating_sub(bytes_max as u64);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(bytes_max as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}
