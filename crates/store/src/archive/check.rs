//! Reads everything in a store and its blobs, and tells what is wrong with it.

use bowline_foundation::digest::Digest;

use super::{OnProgress, PAGE, Progress, unfinished};
use crate::blob::{BlobError, Blobs};
use crate::limits::{KEY_BYTES_MAX, VALUE_BYTES_MAX};
use crate::{Entry, Key, ReadError, Store, Version};

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    pub records: u64,
    /// Of keys and values.
    pub record_bytes: u64,
    /// The greatest version of a value.
    pub version_max: Option<Version>,
    pub blobs: u64,
    pub blob_bytes: u64,
    /// Blobs whose bytes are not those that were put.
    pub damaged_blobs: Vec<Digest>,
    /// Keys that come out of order or repeatedly, are too long, or have too large a value or no version.
    pub bad_keys: Vec<Key>,
    /// The digest of the archive whose import was cut off.
    pub unfinished_import: Option<String>,
}

impl CheckReport {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.damaged_blobs.is_empty() && self.bad_keys.is_empty() && self.unfinished_import.is_none()
    }

    fn progress(&self) -> Progress {
        Progress {
            blobs: self.blobs,
            records: self.records,
            bytes: self.record_bytes + self.blob_bytes,
            total: None,
        }
    }
}

/// Why a check could not be carried through.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error("the store cannot be read")]
    Read(#[from] ReadError),
    #[error("a blob cannot be read")]
    Blob(#[from] BlobError),
}

/// Reads all records, all blobs and all cold parts of streams. The format number has been checked when the store was opened.
pub async fn check(
    store: &dyn Store,
    (blobs, cold): (Option<&Blobs>, Option<&Blobs>),
    on_progress: OnProgress<'_>,
) -> Result<CheckReport, CheckError> {
    let mut report = CheckReport {
        unfinished_import: unfinished(store).await?,
        ..CheckReport::default()
    };
    let mut after: Option<Key> = None;
    loop {
        let page = store.scan(&Key::new(), after.as_ref(), PAGE).await?;
        let is_last = page.len() < PAGE;
        for (key, entry) in page {
            note(&mut report, after.as_ref(), &key, &entry);
            after = Some(key);
        }
        on_progress(report.progress());
        if is_last {
            break;
        }
    }
    for blobs in [blobs, cold].into_iter().flatten() {
        check_blobs(blobs, &mut report, on_progress).await?;
    }
    Ok(report)
}

fn note(report: &mut CheckReport, before: Option<&Key>, key: &Key, entry: &Entry) {
    report.records += 1;
    report.record_bytes += (key.len() + entry.value.len()) as u64;
    report.version_max = report.version_max.max(Some(entry.version));
    let is_in_order = before.is_none_or(|before| before < key);
    let is_small = key.len() <= KEY_BYTES_MAX && entry.value.len() <= VALUE_BYTES_MAX;
    if !is_in_order || !is_small || entry.version == Version(0) {
        report.bad_keys.push(key.clone());
    }
}

async fn check_blobs(blobs: &Blobs, report: &mut CheckReport, on_progress: OnProgress<'_>) -> Result<(), CheckError> {
    for info in blobs.infos().await? {
        report.blobs += 1;
        report.blob_bytes += info.size_bytes;
        if !blobs.is_sound(&info.digest).await? {
            report.damaged_blobs.push(info.digest);
        }
        on_progress(report.progress());
    }
    Ok(())
}
