//! Writes all of a store, and its blobs if wanted, as an archive.

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::frame::{Encoder, Frame};
use super::{OnProgress, PAGE, Progress, Summary, unfinished};
use crate::blob::{BlobError, Blobs};
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
    (blobs, cold): (Option<&Blobs>, Option<&Blobs>),
    out: &mut (dyn AsyncWrite + Unpin + Send),
    on_progress: OnProgress<'_>,
) -> Result<Summary, ExportError> {
    if let Some(archive) = unfinished(store).await? {
        return Err(ExportError::Unfinished { archive });
    }
    let has_cold = match cold {
        Some(cold) => !cold.list().await?.is_empty(),
        None => false,
    };
    let mut encoder = Encoder::new(has_cold);
    out.write_all(&encoder.header()).await?;
    for (blobs, is_cold) in [(blobs, false), (cold, true)] {
        if let Some(blobs) = blobs {
            export_blobs((blobs, is_cold), &mut encoder, out, on_progress).await?;
        }
    }
    export_records(store, &mut encoder, out, on_progress).await?;
    let (trailer, summary) = encoder.trailer();
    out.write_all(&trailer).await?;
    out.flush().await?;
    Ok(summary)
}

async fn export_blobs(
    (blobs, is_cold): (&Blobs, bool),
    encoder: &mut Encoder,
    out: &mut (dyn AsyncWrite + Unpin + Send),
    on_progress: OnProgress<'_>,
) -> Result<(), ExportError> {
    let mut digests = blobs.list().await?;
    digests.sort();
    for digest in digests {
        let bytes = blobs.get(&digest).await?;
        if bytes.len() > BLOB_BYTES_MAX {
            // An import would take it for damage.
            let actual = bytes.len();
            let max = BLOB_BYTES_MAX;
            return Err(BlobError::TooLarge { actual, max }.into());
        }
        let mut encoded = BytesMut::new();
        let frame = if is_cold {
            Frame::Cold(digest, &bytes)
        } else {
            Frame::Blob(digest, &bytes)
        };
        encoder.frame(&frame, &mut encoded);
        out.write_all(&encoded).await?;
        on_progress(progress(encoder));
    }
    Ok(())
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
