//! Blobs that do not fit in memory: written from a reader, read through one.

use std::fs::{self, File};
use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};

use bowline_foundation::digest::{Digest, Hasher};
use bowline_foundation::entropy::Entropy;
use bytes::Bytes;
use tokio::task::spawn_blocking;

use super::{BlobError, Blobs};
use crate::folder;

const COPY_BYTES: usize = 256 * 1024;

/// The bytes of a blob as they lie there: whoever reads them all compares their digest.
#[derive(Debug)]
pub enum BlobReader {
    File(File),
    Memory(Cursor<Bytes>),
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.read(buffer),
            Self::Memory(bytes) => bytes.read(buffer),
        }
    }
}

impl Blobs {
    /// Stores what `content` gives, of any size, if that has the digest it is said to have. Otherwise as
    /// [`Blobs::put`].
    ///
    /// # Errors
    /// [`BlobError::Damaged`] if it has another digest; then nothing is stored.
    pub async fn put_large(&self, digest: Digest, content: impl Read + Send + 'static) -> Result<(), BlobError> {
        let _shared = self.0.gate.read().await;
        let Some(folder) = self.0.folder.clone() else {
            return self.put_whole(digest, content).await;
        };
        if is_there(&folder, digest).await? {
            return self.refresh(&digest).await;
        }
        let staged = spawn_blocking(move || stage(&folder, digest, content));
        staged.await.map_err(unavailable)?
    }

    /// Whether the blob is there, with the content that its digest says.
    pub async fn is_sound(&self, digest: &Digest) -> Result<bool, BlobError> {
        match &self.0.folder {
            Some(folder) => is_there(folder, *digest).await,
            None => match self.get(digest).await {
                Ok(_) => Ok(true),
                Err(BlobError::NotFound(_) | BlobError::Damaged { .. }) => Ok(false),
                Err(error) => Err(error),
            },
        }
    }

    /// The blob's bytes to be read one after the other, unchecked.
    pub async fn open(&self, digest: &Digest) -> Result<BlobReader, BlobError> {
        let Some(folder) = &self.0.folder else {
            return Ok(BlobReader::Memory(Cursor::new(self.get(digest).await?)));
        };
        match File::open(folder.join(digest.to_string())) {
            Ok(file) => Ok(BlobReader::File(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(BlobError::NotFound(*digest)),
            Err(error) => Err(unavailable(error)),
        }
    }

    /// Makes an existing blob young again, as putting it once more would.
    pub async fn keep(&self, digest: &Digest) -> Result<(), BlobError> {
        let _shared = self.0.gate.read().await;
        self.refresh(digest).await
    }

    async fn put_whole(&self, expected: Digest, mut content: impl Read + Send + 'static) -> Result<(), BlobError> {
        let read = spawn_blocking(move || {
            let mut bytes = Vec::new();
            content.read_to_end(&mut bytes).map(|_| bytes)
        });
        let bytes = read.await.map_err(unavailable)?.map_err(unavailable)?;
        let actual = Digest::of(&bytes);
        if actual != expected {
            return Err(BlobError::Damaged { expected, actual });
        }
        let payload = object_store::PutPayload::from_bytes(bytes.into());
        let put = object_store::ObjectStoreExt::put(&*self.0.objects, &super::location(&expected), payload).await;
        put.map(drop).map_err(BlobError::Unavailable)
    }
}

/// Whether the blob is there, undamaged; a damaged one counts as missing, so that it is written again.
async fn is_there(folder: &Path, digest: Digest) -> Result<bool, BlobError> {
    let path = folder.join(digest.to_string());
    let read = spawn_blocking(move || match File::open(path) {
        Ok(mut file) => Ok(copy(&mut file, &mut io::sink())? == digest),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    });
    read.await.map_err(unavailable)?.map_err(unavailable)
}

fn stage(folder: &Path, expected: Digest, content: impl Read) -> Result<(), BlobError> {
    // Apart from whatever else is staged, by processes of other machines too.
    let staging = folder.join(format!("{expected}#{:016x}", Entropy::system().number()));
    let written = write(&staging, content).map_err(unavailable).and_then(|actual| {
        if actual != expected {
            return Err(BlobError::Damaged { expected, actual });
        }
        let named = fs::rename(&staging, folder.join(expected.to_string()));
        named.and_then(|()| folder::sync(folder)).map_err(unavailable)
    });
    if written.is_err() {
        let _ = fs::remove_file(&staging);
    }
    written
}

fn write(path: &PathBuf, mut content: impl Read) -> io::Result<Digest> {
    let mut file = File::create_new(path)?;
    let digest = copy(&mut content, &mut file)?;
    file.sync_all()?;
    Ok(digest)
}

fn copy(from: &mut impl Read, to: &mut impl io::Write) -> io::Result<Digest> {
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            read => {
                hasher.update(&buffer[..read]);
                to.write_all(&buffer[..read])?;
            }
        }
    }
}

pub(super) fn unavailable(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> BlobError {
    BlobError::Unavailable(object_store::Error::Generic {
        store: "folder",
        source: error.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect()
    }

    #[tokio::test]
    async fn large_blobs_are_checked_and_stored_once() {
        let folder = tempfile::tempdir().unwrap();
        for blobs in [Blobs::open_dir(folder.path()).unwrap(), Blobs::in_memory()] {
            let content = vec![7; 3 * COPY_BYTES + 5];
            let digest = Digest::of(&content);
            let other = Digest::of(b"other");
            let refused = blobs.put_large(other, Cursor::new(content.clone())).await;
            assert!(matches!(refused, Err(BlobError::Damaged { actual, .. }) if actual == digest));
            assert!(matches!(blobs.open(&other).await, Err(BlobError::NotFound(_))));
            assert!(names(folder.path()).is_empty(), "nothing stays of what is refused");
            for _ in 0..2 {
                blobs.put_large(digest, Cursor::new(content.clone())).await.unwrap();
            }
            let mut read = Vec::new();
            blobs.open(&digest).await.unwrap().read_to_end(&mut read).unwrap();
            assert_eq!(read, content);
            assert_eq!(blobs.get(&digest).await.unwrap(), content);
            assert_eq!(blobs.list().await.unwrap(), [digest]);
            blobs.delete(&digest).await.unwrap();
        }
    }

    #[tokio::test]
    async fn what_was_staged_long_ago_goes_when_a_shared_folder_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let digest = Digest::of(b"x");
        let [old, young, foreign] = [format!("{digest}#1"), format!("{digest}#2"), "a#1".to_owned()];
        let hour = std::time::Duration::from_secs(3600);
        for (name, age) in [(&old, 25 * hour), (&young, 23 * hour), (&foreign, 25 * hour)] {
            let file = File::create(folder.path().join(name)).unwrap();
            file.set_modified(std::time::SystemTime::UNIX_EPOCH + now() - age)
                .unwrap();
        }
        Blobs::open_shared_dir(folder.path()).unwrap();
        let mut left = names(folder.path());
        left.sort();
        let mut expected = [young, foreign];
        expected.sort();
        assert_eq!(left, expected);
        Blobs::open_dir(folder.path()).unwrap();
        assert_eq!(names(folder.path()), ["a#1"], "alone, nobody else can be staging");
    }

    /// Since 1970.
    fn now() -> std::time::Duration {
        std::time::Duration::from_micros(bowline_foundation::clock::Clock::system().now().as_micros())
    }

    #[tokio::test]
    async fn a_damaged_large_blob_is_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let blobs = Blobs::open_dir(folder.path()).unwrap();
        let digest = Digest::of(b"right");
        fs::write(folder.path().join(digest.to_string()), b"wrong").unwrap();
        blobs.put_large(digest, Cursor::new(b"right".to_vec())).await.unwrap();
        assert_eq!(blobs.get(&digest).await.unwrap(), &b"right"[..]);
    }
}
