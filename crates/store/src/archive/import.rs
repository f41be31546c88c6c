//! Reads an archive, to verify it and to fill a store from it.

use std::io::SeekFrom;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncSeek, AsyncSeekExt};

use super::frame::{ArchiveError, Decoder, Frame, Piece, Step};
use super::pieces::Pieces;
use super::{OnProgress, PAGE, Progress, Summary, unfinished_key};
use crate::blob::{BlobError, Blobs};
use crate::{CommitError, Key, ReadError, Store, Write};

/// Bytes that are asked of the file at once.
const READ_BYTES: usize = 256 * 1024;
/// Bytes of keys and values after which a commit of an import is full.
const COMMIT_BYTES: usize = 4 * 1024 * 1024;

/// What to do with a store that holds records already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// Import nothing.
    Refuse,
    /// Keep them; where the archive has the same key, its value replaces theirs.
    Merge,
}

/// Where an archive goes.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    pub store: &'a dyn Store,
    pub blobs: Option<&'a Blobs>,
    /// Where cold parts of streams go.
    pub cold: Option<&'a Blobs>,
    pub existing: Existing,
}

/// Why an import did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Nothing was written, unless the file changed while it was read.
    #[error("the archive cannot be used")]
    Archive(#[from] ArchiveError),
    /// Nothing was written.
    #[error("the store holds records already: import into an empty one, or merge")]
    NotEmpty,
    /// Nothing was written.
    #[error("the archive holds `{0}` blobs, and there is no place for blobs")]
    NoPlaceForBlobs(u64),
    /// The store now holds some of either content.
    #[error("the archive was changed while it was read: import it again")]
    Changed,
    #[error("the store cannot be read")]
    Read(#[from] ReadError),
    /// What was written stays; importing the same archive again goes on.
    #[error("the store cannot be written: import the archive again to go on")]
    Commit(#[from] CommitError),
    /// As for [`ImportError::Commit`].
    #[error("a blob cannot be written: import the archive again to go on")]
    Blob(#[from] BlobError),
}

/// The digest of the archive whose import into `store` was cut off, none if none was. A node should not
/// start on such a store.
pub async fn unfinished(store: &dyn Store) -> Result<Option<String>, ReadError> {
    let mark = store.get(&unfinished_key()).await?;
    Ok(mark.map(|entry| String::from_utf8_lossy(&entry.value).into_owned()))
}

/// Reads a whole archive and checks everything that can be checked.
pub async fn verify(
    archive: &mut (dyn AsyncRead + Unpin + Send),
    on_progress: OnProgress<'_>,
) -> Result<Summary, ArchiveError> {
    Ok(look_through(archive, on_progress).await?.0)
}

/// The same; and whether there are cold parts.
async fn look_through(
    archive: &mut (dyn AsyncRead + Unpin + Send),
    on_progress: OnProgress<'_>,
) -> Result<(Summary, bool), ArchiveError> {
    let (mut reader, mut has_cold) = (Reader::new(archive), false);
    while let Some(item) = reader.next().await? {
        has_cold |= matches!(item, Item::Cold(_) | Item::Piece(Piece { is_cold: true, .. }, _));
        if !matches!(item, Item::Record(..)) || reader.summary().records.is_multiple_of(PAGE as u64) {
            on_progress(progress(reader.summary(), None));
        }
    }
    Ok((reader.summary(), has_cold))
}

/// Verifies the archive, then puts its blobs and records into the target.
pub async fn import<A: AsyncRead + AsyncSeek + Unpin + Send>(
    archive: &mut A,
    target: Target<'_>,
    on_progress: OnProgress<'_>,
) -> Result<Summary, ImportError> {
    let (total, has_cold) = look_through(archive, &mut |_| {}).await?;
    archive.seek(SeekFrom::Start(0)).await.map_err(ArchiveError::Io)?;
    if total.blobs > 0 && (target.blobs.is_none() || (has_cold && target.cold.is_none())) {
        return Err(ImportError::NoPlaceForBlobs(total.blobs));
    }
    begin(target, &total).await?;
    let mut reader = Reader::new(archive);
    let mut writes = Vec::new();
    let (mut bytes, mut pieces) = (0, Pieces::default());
    while let Some(item) = reader.next().await? {
        let (content, folder) = match item {
            Item::Blob(content) => (content, target.blobs),
            Item::Cold(content) => (content, target.cold),
            Item::Piece(piece, content) => {
                let folder = if piece.is_cold { target.cold } else { target.blobs };
                // Whether there is a place has been seen before.
                if let Some(folder) = folder {
                    pieces.put(folder, piece, content).await?;
                    on_progress(progress(reader.summary(), Some(total)));
                }
                continue;
            }
            Item::Record(key, value) => {
                bytes += key.len() + value.len();
                writes.push(Write::Put(key, value));
                (Bytes::new(), None)
            }
        };
        if let Some(folder) = folder {
            folder.put(content).await?;
            on_progress(progress(reader.summary(), Some(total)));
        }
        if writes.len() == PAGE || bytes >= COMMIT_BYTES {
            target.store.commit(vec![], std::mem::take(&mut writes)).await?;
            bytes = 0;
            on_progress(progress(reader.summary(), Some(total)));
        }
    }
    if reader.summary() != total {
        return Err(ImportError::Changed);
    }
    writes.push(Write::Delete(unfinished_key()));
    target.store.commit(vec![], writes).await?;
    on_progress(progress(reader.summary(), Some(total)));
    Ok(total)
}

/// Looks whether the archive may go into the store, and leaves the mark that it is on its way.
async fn begin(target: Target<'_>, total: &Summary) -> Result<(), ImportError> {
    let digest = total.digest.to_string();
    let resumed = unfinished(target.store).await? == Some(digest.clone());
    let is_empty = target.store.scan(&Key::new(), None, 1).await?.is_empty();
    if !is_empty && !resumed && target.existing == Existing::Refuse {
        return Err(ImportError::NotEmpty);
    }
    let mark = vec![Write::Put(unfinished_key(), Bytes::from(digest))];
    target.store.commit(vec![], mark).await?;
    Ok(())
}

fn progress(now: Summary, total: Option<Summary>) -> Progress {
    Progress {
        blobs: now.blobs,
        records: now.records,
        bytes: now.bytes,
        total,
    }
}

enum Item {
    Blob(Bytes),
    Cold(Bytes),
    Piece(Piece, Bytes),
    Record(Key, Bytes),
}

/// An archive that is read piece by piece; the memory it takes is that of its largest frame.
struct Reader<'a> {
    input: &'a mut (dyn AsyncRead + Unpin + Send),
    buffer: BytesMut,
    decoder: Decoder,
    is_over: bool,
}

impl<'a> Reader<'a> {
    fn new(input: &'a mut (dyn AsyncRead + Unpin + Send)) -> Self {
        Self {
            input,
            buffer: BytesMut::new(),
            decoder: Decoder::new(),
            is_over: false,
        }
    }

    fn summary(&self) -> Summary {
        self.decoder.summary()
    }

    /// The next blob or record; none once the trailer has been found right.
    async fn next(&mut self) -> Result<Option<Item>, ArchiveError> {
        while !self.is_over {
            let (item, length) = match self.decoder.step(&self.buffer)? {
                Step::Need(bytes) => {
                    self.fill(bytes).await?;
                    continue;
                }
                Step::Header(length) => (None, length),
                Step::Frame(frame, length) => (Some(owned(&frame)), length),
                Step::End(_, length) => {
                    self.is_over = true;
                    (None, length)
                }
            };
            let _ = self.buffer.split_to(length);
            if item.is_some() {
                return Ok(item);
            }
        }
        self.must_be_empty().await?;
        Ok(None)
    }

    /// Reads until the buffer holds `bytes`. It grows with what arrives, not with what is announced.
    async fn fill(&mut self, bytes: usize) -> Result<(), ArchiveError> {
        while self.buffer.len() < bytes {
            self.buffer.reserve(READ_BYTES);
            if self.input.read_buf(&mut self.buffer).await? == 0 {
                let seen = self.decoder.at() + self.buffer.len() as u64;
                return Err(match seen {
                    0 => ArchiveError::NotAnArchive,
                    bytes => ArchiveError::Truncated { bytes },
                });
            }
        }
        Ok(())
    }

    async fn must_be_empty(&mut self) -> Result<(), ArchiveError> {
        let more = self.input.read_buf(&mut self.buffer).await?;
        if more > 0 || !self.buffer.is_empty() {
            return Err(ArchiveError::TrailingBytes { at: self.decoder.at() });
        }
        Ok(())
    }
}

fn owned(frame: &Frame<'_>) -> Item {
    match frame {
        Frame::Blob(_, content) => Item::Blob(Bytes::copy_from_slice(content)),
        Frame::Cold(_, content) => Item::Cold(Bytes::copy_from_slice(content)),
        Frame::Piece(piece, content) => Item::Piece(*piece, Bytes::copy_from_slice(content)),
        Frame::Record(key, value) => Item::Record(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)),
    }
}
