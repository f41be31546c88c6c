//! The marks of files that were told of.

use std::collections::HashMap;
use std::path::Path;

use bowline_foundation::digest::Digest;
use bowline_store::record::Record;
use bowline_store::{CommitError, Key, ReadError, Write};
use serde::{Deserialize, Serialize};

use super::scan::Look;
use super::{Folder, digest};
use crate::service::Inner;

/// Marks that are read or removed at once.
const PAGE: usize = 512;

/// A file that was told of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct MarkRecord {
    /// For people.
    pub path: String,
    pub look: Look,
}

impl Record for MarkRecord {
    const FORMAT: u32 = 1;
}

impl Inner {
    /// `folders/NODE/FOLDER/DIGEST` (of the path in the folder): a [`MarkRecord`]. Lives from the file's telling until
    /// it is gone. Missing: the file was not told of.
    fn mark_key(&self, folder: &Folder, path: &Digest) -> Key {
        format!("{}{path}", self.mark_prefix(folder)).into()
    }

    fn mark_prefix(&self, folder: &Folder) -> String {
        format!("folders/{}/{}/", self.node, folder.name)
    }

    /// All marks of a folder. One that cannot be read counts as missing.
    pub(super) async fn marks(&self, folder: &Folder) -> Result<HashMap<Digest, MarkRecord>, ReadError> {
        let prefix = self.mark_prefix(folder);
        let wanted = prefix.clone().into();
        let (mut marks, mut after) = (HashMap::new(), None);
        loop {
            let page = self.registry.store().scan(&wanted, after.as_ref(), PAGE).await?;
            let is_last = page.len() < PAGE;
            for (key, entry) in &page {
                let text = String::from_utf8_lossy(key);
                let path = text.strip_prefix(&*prefix).and_then(|path| path.parse().ok());
                match (path, MarkRecord::decode(&entry.value)) {
                    (Some(path), Ok(record)) => drop(marks.insert(path, record)),
                    (_, read) => tracing::warn!(key = %text, error = ?read.err(), "a mark of a file cannot be read"),
                }
            }
            after = page.into_iter().last().map(|(key, _)| key);
            if is_last {
                return Ok(marks);
            }
        }
    }

    /// Marks a file; durable once this returns.
    pub(super) async fn mark(&self, folder: &Folder, path: &Path, look: Look) -> Result<MarkRecord, CommitError> {
        let record = MarkRecord {
            path: path.to_string_lossy().into_owned(),
            look,
        };
        let write = Write::Put(self.mark_key(folder, &digest(path)), record.encode());
        self.registry.store().commit(Vec::new(), vec![write]).await?;
        Ok(record)
    }

    /// Removes the marks of files that are gone.
    pub(super) async fn unmark(&self, folder: &Folder, gone: &[Digest]) -> Result<(), CommitError> {
        for page in gone.chunks(PAGE) {
            let writes = page.iter().map(|path| Write::Delete(self.mark_key(folder, path)));
            self.registry.store().commit(Vec::new(), writes.collect()).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_reads_as_it_was_written() {
        let record = MarkRecord {
            path: "images/a.png".to_owned(),
            look: Look {
                inode: 1_234_567,
                bytes: 70_000,
                modified_us: 1_795_217_079_123_456,
            },
        };
        let golden = include_str!("golden/mark-1.json").trim_end();
        assert_eq!(String::from_utf8_lossy(&record.encode()), golden);
        assert_eq!(MarkRecord::decode(golden.as_bytes()).unwrap(), record);
    }
}
