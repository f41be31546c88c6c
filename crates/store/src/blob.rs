//! Write-once, content-addressed blobs: code, and whatever else is large and never changes.
//!
//! A blob's name is a digest of its bytes, as 64 hexadecimal digits, without folders. In a folder the
//! bytes go to a staging file (`<name>#<number>`, never listed), are synced, and get their name by a
//! rename; then the folder is synced. So a name stands for the whole blob or does not exist. A blob that is waited for has its
//! name before it is synced ([`Blobs::put_quickly`]).

mod large;
mod quick;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bowline_foundation::clock::{Clock, Timestamp};
use bowline_foundation::digest::Digest;
use bytes::Bytes;
use futures_util::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path as Location;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, PutPayload};
use serde::{Deserialize, Serialize};
use tokio::sync::RwLock;
use tokio::task::spawn_blocking;

use crate::folder;
use crate::limits::BLOB_BYTES_MAX;

pub use large::BlobReader;

/// How long anybody may take to stage a blob in a shared folder.
const STAGED_MAX: Duration = Duration::from_secs(24 * 3600);
/// Digests of more bytes than this are computed off the async threads.
const INLINE_DIGEST_BYTES_MAX: usize = 64 * 1024;

/// By which digest of its bytes a blob is named.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Naming {
    /// What others know the bytes by too.
    #[default]
    Sha256,
    /// For what is large and waited for: four times as fast.
    Blake3,
}

impl Naming {
    /// The name of these bytes.
    pub fn name(self, bytes: &[u8]) -> Digest {
        match self {
            Self::Sha256 => Digest::of(bytes),
            Self::Blake3 => Digest::from_bytes(blake3::hash(bytes).into()),
        }
    }
}

/// A cheap handle to the blob store.
///
/// **Durability.** What `put` returned a digest for survives the death of the machine.
/// **Idempotence.** All operations; `put` of what exists writes nothing but makes the blob young again.
/// **Cancellation.** A dropped `put` leaves the whole blob or none under its name.
/// **Collection.** A blob that no record names is an orphan. To collect orphans without racing a `put`
/// whose record is not yet committed, use [`Blobs::delete_if_older`] with an age that no deployment reaches.
/// **Callers.** Any number of tasks. A folder opened by [`Blobs::open_dir`] belongs to one process, which
/// the lock of the store beside it sees to; one opened by [`Blobs::open_shared_dir`] to any number, which
/// then collect orphans by their age only.
#[derive(Clone, Debug)]
pub struct Blobs(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    objects: Arc<dyn ObjectStore>,
    /// The folder of the blobs, if they lie in one.
    folder: Option<PathBuf>,
    /// Shared by puts, exclusive for deletes: a blob found existing is not deleted before it is young again.
    gate: RwLock<()>,
}

/// A stored blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobInfo {
    pub digest: Digest,
    pub size_bytes: u64,
    /// When the blob was last put, as the storage's clock saw it.
    pub last_put: Timestamp,
}

/// Why a blob operation failed.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// No blob has this digest.
    #[error("blob `{0}` does not exist")]
    NotFound(Digest),
    /// The stored bytes are not those that were put; putting the right ones again repairs the blob.
    #[error("blob `{expected}` is damaged: its content has digest `{actual}`")]
    Damaged { expected: Digest, actual: Digest },
    /// The blob is larger than the store takes.
    #[error("blob of `{actual}` bytes exceeds the limit of `{max}`")]
    TooLarge { actual: usize, max: usize },
    /// The storage cannot be reached or refuses; retry later.
    #[error("blob storage is unavailable")]
    Unavailable(#[source] object_store::Error),
}

/// The folder of the blobs could not be made or read.
#[derive(Debug, thiserror::Error)]
#[error("blob folder `{}` cannot be opened", path.display())]
pub struct OpenBlobsError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl Blobs {
    /// Blobs in a folder, which is made if it is missing; clears away what interrupted puts left.
    pub fn open_dir(path: &Path) -> Result<Self, OpenBlobsError> {
        let failed = |source| OpenBlobsError {
            path: path.to_path_buf(),
            source,
        };
        folder::create_durably(path).map_err(failed)?;
        remove_staging_files(path, Duration::ZERO).map_err(failed)?;
        Self::over_folder(path).map_err(failed)
    }

    /// Blobs in a folder that other processes use too: what they stage is left alone, but for what is so old that its process
    /// must have died.
    pub fn open_shared_dir(path: &Path) -> Result<Self, OpenBlobsError> {
        let failed = |source| OpenBlobsError {
            path: path.to_path_buf(),
            source,
        };
        folder::create_durably(path).map_err(failed)?;
        remove_staging_files(path, STAGED_MAX).map_err(failed)?;
        Self::over_folder(path).map_err(failed)
    }

    fn over_folder(path: &Path) -> io::Result<Self> {
        let objects = LocalFileSystem::new_with_prefix(path).map_err(io::Error::other)?;
        Ok(Self::new(Arc::new(objects.with_fsync(true)), Some(path.to_path_buf())))
    }

    /// Blobs that live as long as the handle.
    pub fn in_memory() -> Self {
        Self::new(Arc::new(InMemory::new()), None)
    }

    /// Blobs in any object store, whose puts must be atomic and durable when they return.
    pub fn over(objects: Arc<dyn ObjectStore>) -> Self {
        Self::new(objects, None)
    }

    fn new(objects: Arc<dyn ObjectStore>, folder: Option<PathBuf>) -> Self {
        Self(Arc::new(Inner {
            objects,
            folder,
            gate: RwLock::new(()),
        }))
    }

    /// Stores `bytes` and returns their SHA-256 digest, under which they are durable from then on.
    pub async fn put(&self, bytes: Bytes) -> Result<Digest, BlobError> {
        self.put_named(Naming::Sha256, bytes).await
    }

    /// As [`Blobs::put`], with a name of another kind.
    pub async fn put_named(&self, naming: Naming, bytes: Bytes) -> Result<Digest, BlobError> {
        if bytes.len() > BLOB_BYTES_MAX {
            return Err(BlobError::TooLarge {
                actual: bytes.len(),
                max: BLOB_BYTES_MAX,
            });
        }
        let digest = name_of(naming, &bytes).await;
        let _shared = self.0.gate.read().await;
        if self.holds(&digest, &bytes).await? {
            self.refresh(&digest).await?;
        } else {
            let payload = PutPayload::from_bytes(bytes);
            self.0
                .objects
                .put(&location(&digest), payload)
                .await
                .map_err(BlobError::Unavailable)?;
        }
        Ok(digest)
    }

    /// The blob's bytes, which have been checked against `digest`.
    pub async fn get(&self, digest: &Digest) -> Result<Bytes, BlobError> {
        self.get_named(Naming::Sha256, digest).await
    }

    /// As [`Blobs::get`], of a blob with a name of another kind.
    pub async fn get_named(&self, naming: Naming, digest: &Digest) -> Result<Bytes, BlobError> {
        let bytes = self.read(digest).await?;
        let actual = name_of(naming, &bytes).await;
        if actual != *digest {
            return Err(BlobError::Damaged {
                expected: *digest,
                actual,
            });
        }
        Ok(bytes)
    }

    /// Removes the blob; one that does not exist is no error.
    pub async fn delete(&self, digest: &Digest) -> Result<(), BlobError> {
        let _exclusive = self.0.gate.write().await;
        self.remove(digest).await
    }

    /// Removes the blob if it was last put before `cutoff`; returns whether it did.
    pub async fn delete_if_older(&self, digest: &Digest, cutoff: Timestamp) -> Result<bool, BlobError> {
        let _exclusive = self.0.gate.write().await;
        let meta = match self.0.objects.head(&location(digest)).await {
            Ok(meta) => meta,
            Err(object_store::Error::NotFound { .. }) => return Ok(false),
            Err(error) => return Err(BlobError::Unavailable(error)),
        };
        if last_put(&meta) >= cutoff {
            return Ok(false);
        }
        self.remove(digest).await.map(|()| true)
    }

    /// The digests of all blobs, in no order.
    pub async fn list(&self) -> Result<Vec<Digest>, BlobError> {
        Ok(self.infos().await?.into_iter().map(|info| info.digest).collect())
    }

    /// All blobs with their sizes and ages, in no order. Foreign files are passed over.
    pub async fn infos(&self) -> Result<Vec<BlobInfo>, BlobError> {
        let listed = self
            .0
            .objects
            .list(None)
            .try_filter_map(|meta| async move { Ok(info(&meta)) });
        listed.try_collect().await.map_err(BlobError::Unavailable)
    }

    async fn read(&self, digest: &Digest) -> Result<Bytes, BlobError> {
        let failed = |error| match error {
            object_store::Error::NotFound { .. } => BlobError::NotFound(*digest),
            error => BlobError::Unavailable(error),
        };
        let found = self.0.objects.get(&location(digest)).await.map_err(failed)?;
        found.bytes().await.map_err(failed)
    }

    /// Whether the blob exists, undamaged; a damaged one counts as missing, so that it is written again.
    async fn holds(&self, digest: &Digest, bytes: &Bytes) -> Result<bool, BlobError> {
        match self.read(digest).await {
            Ok(stored) => Ok(stored == *bytes),
            Err(BlobError::NotFound(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes an existing blob young again. It may come from a put that has not yet synced file and
    /// folder, or died before it could, so both are synced here as well.
    async fn refresh(&self, digest: &Digest) -> Result<(), BlobError> {
        let Some(folder) = self.0.folder.clone() else {
            return Ok(());
        };
        let path = folder.join(digest.to_string());
        let refreshed = spawn_blocking(move || {
            let now = Duration::from_micros(Clock::system().now().as_micros());
            let file = File::open(path)?;
            file.set_modified(UNIX_EPOCH + now)?;
            file.sync_all()?;
            folder::sync(&folder)
        });
        let failed = |error: io::Error| {
            BlobError::Unavailable(object_store::Error::Generic {
                store: "folder",
                source: error.into(),
            })
        };
        refreshed
            .await
            .map_err(|error| failed(io::Error::other(error)))?
            .map_err(failed)
    }

    async fn remove(&self, digest: &Digest) -> Result<(), BlobError> {
        match self.0.objects.delete(&location(digest)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(BlobError::Unavailable(error)),
        }
    }
}

fn location(digest: &Digest) -> Location {
    Location::from(digest.to_string())
}

fn info(meta: &ObjectMeta) -> Option<BlobInfo> {
    let digest = meta.location.as_ref().parse().ok()?;
    Some(BlobInfo {
        digest,
        size_bytes: meta.size,
        last_put: last_put(meta),
    })
}

fn last_put(meta: &ObjectMeta) -> Timestamp {
    Timestamp::from_micros(u64::try_from(meta.last_modified.timestamp_micros()).unwrap_or(0))
}

async fn name_of(naming: Naming, bytes: &Bytes) -> Digest {
    if bytes.len() <= INLINE_DIGEST_BYTES_MAX {
        return naming.name(bytes);
    }
    let moved = bytes.clone();
    let named = spawn_blocking(move || naming.name(&moved)).await;
    // A runtime that shuts down takes no more blocking work.
    named.unwrap_or_else(|_| naming.name(bytes))
}

/// Removes what was staged at least `age` ago.
fn remove_staging_files(folder: &Path, age: Duration) -> io::Result<()> {
    let now = UNIX_EPOCH + Duration::from_micros(Clock::system().now().as_micros());
    let is_old = |path: &Path| match fs::metadata(path).and_then(|meta| meta.modified()) {
        Ok(modified) => Ok(now.duration_since(modified).unwrap_or_default() >= age),
        // Another process has removed or renamed it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    };
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let staged = name
            .split_once('#')
            .is_some_and(|(digest, _)| digest.parse::<Digest>().is_ok());
        if staged && is_old(&path)? {
            match fs::remove_file(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                removed => removed?,
            }
        }
    }
    Ok(())
}
