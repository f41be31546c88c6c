//! Writes all of a store, and its blobs if wanted, as an archive.

use std::io::{self, Read as _};

use bowline_foundation::digest::Hasher;
use bytes::BytesMut;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::task::spawn_blocking;

use super::frame::{Content, Encoder, Frame, PIECE_BYTES_MAX, Piece};
use super::{OnProgress, PAGE, Progress, Summary, unfinished};
use crate::blob::{BlobError, BlobInfo, BlobReader, Blobs};
use crate::limits::BLOB_BYTES_MAX;
use crate::{Key, ReadError, Store};

/// Why an export stopped; what was written is not an archive, and every reader says so.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    #[error("the store cannot be read")]
    Read(#[from] ReadError),
    #[error("a blob cannot be read")]
    Blob(#[from] BlobError),
    #[error("the archive cannot be written")]
    Io(#[from] io::Error),
    /// The store is itself half of an import.
    #[error("an import into this store was cut off: import the archive `{archive}` again first")]
    Unfinished { archive: String },
}

/// Writes all records of `store`, all of `blobs` and all `cold` parts of streams to `out`, which the caller syncs. Nobody may write to
/// the store meanwhile: each page of records sees its own moment.
pub async fn export(
    store: &dyn Store,
    blobs: (Option<&Blobs>, Option<&Blobs>),
    out: &mut (dyn AsyncWrite + Unpin + Send),
    on_progress: OnProgress<'_>,
) -> Result<Summary, ExportError> {
    export_cut(store, blobs, out, on_progress, BLOB_BYTES_MAX as u64).await
}

/// The same; blobs of more than `whole_max` bytes are cut into pieces.
pub(super) async fn export_cut(
    store: &dyn Store,
    (blobs, cold): (Option<&Blobs>, Option<&Blobs>),
    out: &mut (dyn AsyncWrite + Unpin + Send),
    on_progress: OnProgress<'_>,
    whole_max: u64,
) -> Result<Summary, ExportError> {
    if let Some(archive) = unfinished(store).await? {
        return Err(ExportError::Unfinished { archive });
    }
    let mut found = Vec::new();
    for (blobs, is_cold) in [(blobs, false), (cold, true)] {
        let Some(blobs) = blobs else { continue };
        let mut infos = blobs.infos().await?;
        infos.sort_by_key(|info| info.digest);
        found.extend(infos.into_iter().map(|info| (blobs, is_cold, info)));
    }
    let mut encoder = Encoder::new(Content {
        has_cold: found.iter().any(|(_, is_cold, _)| *is_cold),
        has_pieces: found.iter().any(|(_, _, info)| info.size_bytes > whole_max),
    });
    out.write_all(&encoder.header()).await?;
    for (blobs, is_cold, info) in found {
        match info.size_bytes > whole_max {
            false => export_blob((blobs, is_cold, &info), &mut encoder, out).await?,
            true => export_pieces((blobs, is_cold, &info), &mut encoder, out).await?,
        }
        on_progress(progress(&encoder));
    }
    export_records(store, &mut encoder, out, on_progress).await?;
    let (trailer, summary) = encoder.trailer();
    out.write_all(&trailer).await?;
    out.flush().await?;
    Ok(summary)
}

async fn export_blob(
    (blobs, is_cold, info): (&Blobs, bool, &BlobInfo),
    encoder: &mut Encoder,
    out: &mut (dyn AsyncWrite + Unpin + Send),
) -> Result<(), ExportError> {
    let bytes = blobs.get(&info.digest).await?;
    let mut encoded = BytesMut::new();
    let frame = if is_cold {
        Frame::Cold(info.digest, &bytes)
    } else {
        Frame::Blob(info.digest, &bytes)
    };
    encoder.frame(&frame, &mut encoded);
    Ok(out.write_all(&encoded).await?)
}

/// A blob that is never in memory whole.
async fn export_pieces(
    (blobs, is_cold, info): (&Blobs, bool, &BlobInfo),
    encoder: &mut Encoder,
    out: &mut (dyn AsyncWrite + Unpin + Send),
) -> Result<(), ExportError> {
    let digest = info.digest;
    let (mut reader, mut hasher) = (blobs.open(&digest).await?, Hasher::default());
    let mut left = info.size_bytes;
    loop {
        let (rest, bytes) = next_piece(reader).await?;
        reader = rest;
        hasher.update(&bytes);
        left = left.saturating_sub(bytes.len() as u64);
        // A blob that has become shorter is damaged, which its digest shows.
        let is_last = left == 0 || bytes.is_empty();
        let piece = Piece {
            digest,
            is_cold,
            is_last,
        };
        let mut encoded = BytesMut::new();
        encoder.frame(&Frame::Piece(piece, &bytes), &mut encoded);
        out.write_all(&encoded).await?;
        if is_last {
            break;
        }
    }
    let actual = hasher.finish();
    if actual != digest {
        return Err(BlobError::Damaged {
            expected: digest,
            actual,
        }
        .into());
    }
    Ok(())
}

async fn next_piece(reader: BlobReader) -> io::Result<(BlobReader, Vec<u8>)> {
    let read = spawn_blocking(move || {
        let mut bytes = Vec::new();
        let mut reader = reader;
        reader.by_ref().take(PIECE_BYTES_MAX as u64).read_to_end(&mut bytes)?;
        Ok((reader, bytes))
    });
    read.await.map_err(io::Error::other)?
}

async fn export_records(
    store: &dyn Store,
    encoder: &mut Encoder,
    out: &mut (dyn AsyncWrite + Unpin + Send),
    on_progress: OnProgress<'_>,
) -> Result<(), ExportError> {
    let mut after: Option<Key> = None;
    loop {
        let page = store.scan(&Key::new(), after.as_ref(), PAGE).await?;
        let mut encoded = BytesMut::new();
        for (key, entry) in &page {
            encoder.frame(&Frame::Record(key, &entry.value), &mut encoded);
        }
        out.write_all(&encoded).await?;
        on_progress(progress(encoder));
        if page.len() < PAGE {
            return Ok(());
        }
        after = page.into_iter().last().map(|(key, _)| key);
    }
}

fn progress(encoder: &Encoder) -> Progress {
    let summary = encoder.summary();
    Progress {
        blobs: summary.blobs,
        records: summary.records,
        bytes: summary.bytes,
        total: None,
    }
}
