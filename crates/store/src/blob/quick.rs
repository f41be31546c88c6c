//! Blobs that are waited for: written while they are named, and read by others before they are durable.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bowline_foundation::digest::Digest;
use bowline_foundation::entropy::Entropy;
use bytes::Bytes;
use tokio::task::spawn_blocking;

use super::large::unavailable;
use super::{BlobError, Blobs, Naming, name_of};
use crate::folder;
use crate::limits::BLOB_BYTES_MAX;

/// Of a blob that is staged before it is known.
const UNNAMED: Digest = Digest::from_bytes([0; 32]);

impl Blobs {
    /// Stores `bytes`, which are hardly ever there already, and returns their BLAKE3 digest, under which they are
    /// durable from then on. Before that, as soon as others can read the blob, `seen` gets the digest: should the
    /// machine die then, the blob may be damaged, which whoever reads it finds out.
    pub async fn put_quickly(&self, bytes: Bytes, seen: impl FnOnce(Digest) + Send) -> Result<Digest, BlobError> {
        if bytes.len() > BLOB_BYTES_MAX {
            return Err(BlobError::TooLarge {
                actual: bytes.len(),
                max: BLOB_BYTES_MAX,
            });
        }
        let Some(folder) = self.0.folder.clone() else {
            let digest = self.put_named(Naming::Blake3, bytes).await?;
            seen(digest);
            return Ok(digest);
        };
        let _shared = self.0.gate.read().await;
        let (own, written) = (folder.clone(), bytes.clone());
        let staging = spawn_blocking(move || Staged::write(&own, &written));
        let (digest, staged) = tokio::join!(name_of(Naming::Blake3, &bytes), staging);
        let staged = staged.map_err(unavailable)?.map_err(unavailable)?;
        let path = folder.join(digest.to_string());
        let file = spawn_blocking(move || staged.name(&path));
        let file = file.await.map_err(unavailable)?.map_err(unavailable)?;
        seen(digest);
        let synced = spawn_blocking(move || {
            file.sync_all()?;
            folder::sync(&folder)
        });
        synced.await.map_err(unavailable)?.map_err(unavailable)?;
        Ok(digest)
    }
}

/// A file that has no name yet; it is gone if it gets none.
struct Staged {
    file: File,
    path: PathBuf,
    is_named: bool,
}

impl Staged {
    fn write(folder: &Path, bytes: &[u8]) -> io::Result<Self> {
        let path = folder.join(format!("{UNNAMED}#{:016x}", Entropy::system().number()));
        let mut staged = Self {
            file: File::create_new(&path)?,
            path,
            is_named: false,
        };
        staged.file.write_all(bytes)?;
        Ok(staged)
    }

    fn name(mut self, path: &Path) -> io::Result<File> {
        fs::rename(&self.path, path)?;
        self.is_named = true;
        self.file.try_clone()
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.is_named {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[tokio::test]
    async fn a_blob_is_read_before_its_put_ends_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        for (blobs, lies_in_folder) in [
            (Blobs::open_dir(folder.path()).unwrap(), true),
            (Blobs::in_memory(), false),
        ] {
            let bytes = Bytes::from(vec![7; 3 << 20]);
            let mut seen = None;
            let see = |digest: Digest| {
                let is_whole = || fs::read(folder.path().join(digest.to_string())).unwrap() == bytes;
                assert!(!lies_in_folder || is_whole());
                seen = Some(digest);
            };
            let digest = blobs.put_quickly(bytes.clone(), see).await.unwrap();
            assert_eq!(seen, Some(digest));
            assert_eq!(digest, Naming::Blake3.name(&bytes));
            assert_eq!(blobs.get_named(Naming::Blake3, &digest).await.unwrap(), bytes);
            // Under another kind of digest these are other bytes.
            let other = blobs.get_named(Naming::Sha256, &digest).await;
            assert!(matches!(other, Err(BlobError::Damaged { .. })), "{other:?}");
            assert_eq!(blobs.put_quickly(bytes, |_| {}).await.unwrap(), digest, "again");
            assert_eq!(blobs.list().await.unwrap(), [digest]);
        }
        assert_eq!(names(folder.path()).len(), 1, "nothing staged is left");
    }

    /// What a put that was dropped or has failed leaves.
    #[tokio::test]
    async fn a_blob_without_a_name_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let staged = Staged::write(folder.path(), b"bytes").unwrap();
        assert_eq!(names(folder.path()).len(), 1, "the control");
        assert!(staged.name(&folder.path().join("missing/name")).is_err());
        assert!(names(folder.path()).is_empty());
        // After the death of its process the next one clears it away.
        std::mem::forget(Staged::write(folder.path(), b"bytes").unwrap());
        let blobs = Blobs::open_dir(folder.path()).unwrap();
        assert!(blobs.list().await.unwrap().is_empty() && names(folder.path()).is_empty());
    }
}
