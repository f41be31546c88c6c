//! The folders of unpacked code, one for each package digest and each combination of layers.
//!
//! The cache is soft state: whatever is missing is unpacked again from the blob. A folder gets its name
//! by a rename once it is whole. Files are not synced one by one; a cache that an earlier boot of the
//! machine left is thrown away instead, since only a power cut can leave a named folder with holes.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Cursor, Read, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use bowline_foundation::digest::Digest;
use bowline_oci::Image;
use bowline_oci::unpack::Fittings;
use bowline_sandbox::image::{FILES, MOUNT_POINTS};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use zip::ZipArchive;
use zip::read::ZipFile;

use super::WASM_NAME;
use super::check::{entry_path, link_target};
use super::layers::{file_bytes, overlay};
use crate::operations::settle::UnpackError;

const STAGING_PREFIX: &str = ".staging-";
const BOOT_FILE: &str = ".boot";
const LOCKS: usize = 16;

/// The unpacked packages of a node.
pub(crate) struct CodeCache {
    root: PathBuf,
    staged: AtomicU64,
    /// One unpacking of a package at a time, by the digest's first byte.
    locks: [tokio::sync::Mutex<()>; LOCKS],
    /// Who uses which folder.
    holds: Mutex<HashMap<Digest, Weak<CodeHold>>>,
    /// Told whenever a folder is no longer used.
    released: Arc<Notify>,
}

/// Keeps a folder from being collected while somebody may run what lies in it.
#[derive(Debug)]
pub(crate) struct CodeHold {
    released: Arc<Notify>,
}

impl Drop for CodeHold {
    fn drop(&mut self) {
        self.released.notify_one();
    }
}

impl CodeCache {
    /// Opens the cache; throws away what an earlier boot or an interrupted unpacking left.
    pub fn open(root: PathBuf, boot: &str, released: Arc<Notify>) -> io::Result<Self> {
        fs::create_dir_all(&root)?;
        let boot_file = root.join(BOOT_FILE);
        let same_boot = fs::read_to_string(&boot_file).is_ok_and(|text| text == boot);
        for entry in fs::read_dir(&root)? {
            let entry = entry?;
            if !same_boot || entry.file_name().to_string_lossy().starts_with(STAGING_PREFIX) {
                remove(&entry.path())?;
            }
        }
        fs::write(&boot_file, boot)?;
        Ok(Self {
            root,
            staged: AtomicU64::new(0),
            locks: std::array::from_fn(|_| tokio::sync::Mutex::new(())),
            holds: Mutex::new(HashMap::new()),
            released,
        })
    }

    /// The folder of a package, whether it is there or not.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.root.join(digest.to_string())
    }

    /// Says that the folder is in use until the answer is dropped.
    pub fn hold(&self, digest: &Digest) -> Arc<CodeHold> {
        let mut holds = self.holds.lock();
        if let Some(hold) = holds.get(digest).and_then(Weak::upgrade) {
            return hold;
        }
        let released = self.released.clone();
        let hold = Arc::new(CodeHold { released });
        holds.insert(*digest, Arc::downgrade(&hold));
        hold
    }

    /// Whether somebody uses the folder.
    pub fn is_held(&self, digest: &Digest) -> bool {
        self.holds
            .lock()
            .get(digest)
            .is_some_and(|hold| hold.strong_count() > 0)
    }

    /// Whether the folder is there.
    pub fn contains(&self, digest: &Digest) -> bool {
        self.path(digest).is_dir()
    }

    /// Unpacks a checked package unless its folder is there.
    pub async fn unpack(&self, digest: &Digest, package: Bytes) -> io::Result<()> {
        self.lay_out(digest, move |staging| unpack_to(staging, &package)).await
    }

    /// Lays an image's layers out as a root folder unless that is there.
    pub async fn unpack_image(&self, image: Image, layers: Vec<impl Read + Send + 'static>) -> Result<(), UnpackError> {
        let fittings = Fittings {
            folders: &MOUNT_POINTS,
            files: &FILES,
        };
        let digest = image.digest;
        self.lay_out(&digest, move |staging| {
            bowline_oci::unpack::unpack(staging, &image, layers, fittings)?;
            Ok(())
        })
        .await
    }

    /// Lays unpacked layers over one another unless that folder is there.
    pub async fn combine(&self, combination: &Digest, layers: &[Digest]) -> io::Result<()> {
        let layers: Vec<_> = layers.iter().map(|layer| self.path(layer)).collect();
        self.lay_out(combination, move |staging| overlay(staging, &layers))
            .await
    }

    /// What the files of an unpacked package add up to.
    pub async fn file_bytes(&self, digest: &Digest) -> io::Result<u64> {
        let path = self.path(digest);
        spawn_blocking(move || file_bytes(&path))
            .await
            .map_err(io::Error::other)?
    }

    async fn lay_out<E: From<io::Error> + Send + 'static>(
        &self,
        digest: &Digest,
        fill: impl FnOnce(&Path) -> Result<(), E> + Send + 'static,
    ) -> Result<(), E> {
        let _one_at_a_time = self.locks[usize::from(digest.as_bytes()[0]) % LOCKS].lock().await;
        if self.contains(digest) {
            return Ok(());
        }
        let number = self.staged.fetch_add(1, Ordering::Relaxed);
        let staging = self.root.join(format!("{STAGING_PREFIX}{number}"));
        let target = self.path(digest);
        spawn_blocking(move || {
            let filled = fill(&staging).and_then(|()| Ok(fs::rename(&staging, &target)?));
            if filled.is_err() {
                let _ = remove(&staging);
            }
            filled
        })
        .await
        .map_err(|error| E::from(io::Error::other(error)))?
    }

    /// Removes the folder.
    pub async fn remove(&self, digest: &Digest) -> io::Result<()> {
        let _one_at_a_time = self.locks[usize::from(digest.as_bytes()[0]) % LOCKS].lock().await;
        self.holds.lock().remove(digest);
        let (path, number) = (self.path(digest), self.staged.fetch_add(1, Ordering::Relaxed));
        let staging = self.root.join(format!("{STAGING_PREFIX}{number}"));
        spawn_blocking(move || match fs::rename(&path, &staging) {
            Ok(()) => remove(&staging),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        })
        .await
        .map_err(io::Error::other)?
    }

    /// The digests whose folders are there.
    pub fn list(&self) -> io::Result<HashSet<Digest>> {
        let names = fs::read_dir(&self.root)?.map(|entry| Ok(entry?.file_name()));
        let names = names.collect::<io::Result<Vec<_>>>()?;
        Ok(names.iter().filter_map(|name| name.to_str()?.parse().ok()).collect())
    }
}

fn remove(path: &Path) -> io::Result<()> {
    if path.symlink_metadata()?.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    }
}

fn unpack_to(folder: &Path, package: &[u8]) -> io::Result<()> {
    fs::create_dir(folder)?;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
    if package.starts_with(b"\0asm") {
        return write_file(&folder.join(WASM_NAME), 0o444, &mut &*package);
    }
    let mut archive = ZipArchive::new(Cursor::new(package)).map_err(io::Error::other)?;
    let mut links = Vec::new();
    for index in 0..archive.len() {
        let file = archive.by_index(index).map_err(io::Error::other)?;
        links.extend(unpack_entry(folder, file)?);
    }
    // Links come last, so that nothing is ever written through one.
    links.into_iter().try_for_each(|(path, target)| symlink(target, path))
}

/// Lays one entry out; returns a link that is to be made later.
fn unpack_entry<R: Read>(folder: &Path, mut file: ZipFile<'_, R>) -> io::Result<Option<(PathBuf, String)>> {
    let relative = entry_path(&file).map_err(io::Error::other)?;
    let path = folder.join(&relative);
    let is_folder = file.is_dir() || file.unix_mode().is_some_and(|mode| mode & 0o170_000 == 0o040_000);
    if relative.is_empty() || is_folder {
        fs::create_dir_all(&path)?;
        return Ok(None);
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    if file.is_symlink() {
        let target = link_target(&relative, file).map_err(io::Error::other)?;
        return Ok(Some((path, target)));
    }
    // An archive made where files have no modes says nothing about what may be executed.
    let executable = file.unix_mode().is_none_or(|mode| mode & 0o111 != 0);
    write_file(&path, if executable { 0o555 } else { 0o444 }, &mut file)?;
    Ok(None)
}

fn write_file(path: &Path, mode: u32, content: &mut dyn Read) -> io::Result<()> {
    let mut file: File = OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?;
    io::copy(content, &mut file)?;
    file.flush()?;
    file.set_permissions(fs::Permissions::from_mode(mode))
}
