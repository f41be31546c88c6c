//! Zip archives: the same files always give the same bytes.

use std::io::{Cursor, Read, Write};

use anyhow::{Context, bail};
use bowline_foundation::limits::{UNZIPPED_CODE_BYTES_MAX, ZIPPED_CODE_BYTES_MAX};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipArchive, ZipWriter};

use super::files::Files;

/// The archive of `files`.
pub fn write(files: &Files) -> anyhow::Result<Vec<u8>> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (path, file) in files.iter() {
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Deflated)
            .last_modified_time(DateTime::default())
            .unix_permissions(if file.executable { 0o755 } else { 0o644 });
        writer.start_file(path.as_str(), options)?;
        writer.write_all(&file.content)?;
    }
    let archive = writer.finish()?.into_inner();
    if archive.len() > ZIPPED_CODE_BYTES_MAX {
        bail!(
            "the package is {} bytes zipped, which is more than the {ZIPPED_CODE_BYTES_MAX} that a function may have",
            archive.len()
        );
    }
    Ok(archive)
}

/// The files of an archive, as far as they are files.
pub fn read(archive: &[u8]) -> anyhow::Result<Files> {
    let mut archive = ZipArchive::new(Cursor::new(archive))?;
    let mut files = Files::default();
    let mut budget = UNZIPPED_CODE_BYTES_MAX;
    for index in 0..archive.len() {
        let entry = archive.by_index(index)?;
        if !entry.is_file() {
            continue;
        }
        let path = entry.name()?.into_owned();
        let executable = entry.unix_mode().is_some_and(|mode| mode & 0o111 != 0);
        let mut content = Vec::new();
        entry.take(budget + 1).read_to_end(&mut content)?;
        let left = budget.checked_sub(content.len() as u64);
        budget = left.context("the archive holds more than the 250 MiB that a function may have")?;
        files.add(&path, content, executable);
    }
    Ok(files)
}
