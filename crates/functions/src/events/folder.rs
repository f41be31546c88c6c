//! Watched folders: a file that is complete is an upload, told once however often the node starts.
//!
//! ```text
//!   closed or moved here ─▶ look at it ─┐
//!   every few seconds ─▶ walk ──────────┴▶ as marked? ─ no, and complete ─▶ events on disk ─▶ mark ─▶ on disk
//! ```
//! **Complete** is a file whose writer has closed it, or which was moved here. One that nobody was seen writing, found at the
//! start say, is complete once it has not changed for [`QUIET`]; one that somebody was seen writing and never closing once it
//! has not for [`ABANDONED`]. Names that begin with a dot, or end with `.tmp`, `.part` or `~`, are a writer's own until it
//! renames them.
//!
//! **Once.** The mark says what the file looked like that was told of; a changed file is another upload. A crash between
//! events and mark tells again under the same identifier, which the functions' streams hold once.
//!
//! A function is registered as for any upload, with the index [`INDEX`] and keys `FOLDER/PATH`.

mod mark;
mod scan;
mod watch;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bowline_foundation::clock::Timestamp;
use bowline_foundation::digest::Digest;
use bowline_foundation::id::AccountId;
use bytes::Bytes;
use tokio::time::Instant;

use super::upload::Upload;
use crate::error::Error;
use crate::service::Inner;
use mark::MarkRecord;
use scan::Look;
use watch::{News, Watch, What};

/// The index by which files of folders have keys.
const INDEX: &str = "folder";
/// How often a folder is walked, for what was not seen as it happened.
const WALKED_EVERY: Duration = Duration::from_secs(5);
/// A file that nobody is seen writing is complete once it has not changed for so long.
pub const QUIET: Duration = Duration::from_secs(10);
/// A file that somebody began to write and does not close is complete once it has not changed for so long.
pub const ABANDONED: Duration = Duration::from_secs(600);

/// Why a folder is not watched at the moment.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A folder whose files are uploads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    /// Names it in keys and events.
    pub name: String,
    pub path: PathBuf,
    /// Whose functions are told.
    pub account: AccountId,
}

/// What is known of the files of a folder.
#[derive(Default)]
struct Files {
    /// By the digest of the path.
    marks: HashMap<Digest, MarkRecord>,
    /// Those that were closed or moved here, and not told of yet.
    closed: HashSet<PathBuf>,
    /// Those that somebody was seen writing, and not closing yet.
    open: HashSet<PathBuf>,
}

impl Files {
    /// Takes note of what happened.
    fn note(&mut self, path: &Path, what: What) {
        self.open.remove(path);
        self.closed.remove(path);
        match what {
            What::Written => drop(self.open.insert(path.to_owned())),
            What::Complete => drop(self.closed.insert(path.to_owned())),
            What::Gone => {}
        }
    }

    /// Forgets files that a walk has not found, but for those where it could not look; returns whose marks are to go.
    fn forget(&mut self, found: &HashSet<Digest>, unseen: &BTreeSet<PathBuf>) -> Vec<Digest> {
        // Marks have paths as text.
        let unseen: BTreeSet<String> = unseen.iter().map(|path| path.to_string_lossy().into_owned()).collect();
        let is_known = |path: &Path| !path.ancestors().any(|above| unseen.contains(&*above.to_string_lossy()));
        let stays = |path: &PathBuf| found.contains(&digest(path)) || !is_known(path);
        self.open.retain(stays);
        self.closed.retain(stays);
        let gone = self
            .marks
            .extract_if(|path, mark| !found.contains(path) && is_known(Path::new(&mark.path)));
        gone.map(|(path, _)| path).collect()
    }

    /// Whether a file that looks so is to be told of now.
    fn is_due(&self, path: &Path, look: &Look, now: Timestamp) -> bool {
        if self.marks.get(&digest(path)).is_some_and(|mark| mark.look == *look) {
            return false;
        }
        let rested = now.since(look.modified());
        match (self.closed.contains(path), self.open.contains(path)) {
            (true, _) => true,
            (false, true) => rested >= ABANDONED,
            (false, false) => rested >= QUIET,
        }
    }

    /// Whether more files can be remembered.
    fn has_room(&self) -> bool {
        self.open.len() < scan::FILES_MAX && self.closed.len() < scan::FILES_MAX
    }
}

fn digest(path: &Path) -> Digest {
    Digest::of(path.as_os_str().as_encoded_bytes())
}

impl Inner {
    /// Watches a folder until the node stops.
    pub(super) async fn watch_folder(self: Arc<Self>, folder: Folder) {
        let Some(engine) = self.events.clone() else { return };
        let mut failures = 0;
        while !engine.is_stopping() {
            let watched = tokio::select! {
                biased;
                () = engine.stopped() => return,
                watched = self.watch_files(&folder, &mut failures) => watched,
            };
            failures += 1;
            if let Err(error) = watched {
                tracing::warn!(
                    folder = folder.name,
                    error = &*error,
                    "a folder cannot be watched: it is tried again"
                );
            }
            engine.pause(engine.backoff().after(failures)).await;
        }
    }

    /// Watches until something fails; all that failed before counts no more once a walk is over. Dropped between a file's events and its mark, it tells of the file again.
    async fn watch_files(self: &Arc<Self>, folder: &Folder, failures: &mut u32) -> Result<(), Failure> {
        let mut watch = Watch::new(folder.path.clone())?;
        let mut files = Files {
            marks: self.marks(folder).await?,
            ..Files::default()
        };
        loop {
            self.walk(folder, &mut watch, &mut files).await?;
            *failures = 0;
            let next = Instant::now() + WALKED_EVERY;
            // News that never end must not keep the walk from its turn.
            while Instant::now() < next {
                let Ok(news) = tokio::time::timeout_at(next, watch.next()).await else {
                    break;
                };
                let news = news?;
                for (path, what) in &news.files {
                    files.note(path, *what);
                }
                if news.look_around || !files.has_room() {
                    break;
                }
                self.take_news(folder, &mut files, news).await?;
            }
        }
    }

    /// Tells of files that are complete, and forgets those that are gone.
    async fn take_news(self: &Arc<Self>, folder: &Folder, files: &mut Files, news: News) -> Result<(), Failure> {
        let mut gone = Vec::new();
        for (path, what) in news.files {
            // It may be another one by now, gone, or no file; what is there at the next walk is seen then.
            match (what, scan::look(&folder.path.join(&path))) {
                (What::Complete, Ok(Some(look))) => self.take(folder, files, (path, look)).await?,
                (What::Gone, Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {
                    gone.extend(files.marks.remove_entry(&digest(&path)).map(|(path, _)| path));
                }
                _ => {}
            }
        }
        self.unmark(folder, &gone).await?;
        Ok(())
    }

    /// Looks at every file, and forgets those that are gone.
    async fn walk(self: &Arc<Self>, folder: &Folder, watch: &mut Watch, files: &mut Files) -> Result<(), Failure> {
        let root = folder.path.clone();
        let found = tokio::task::spawn_blocking(move || scan::walk(&root)).await??;
        for below in &found.folders {
            watch.add(below)?;
        }
        if !found.unseen.is_empty() {
            tracing::warn!(
                folder = folder.name,
                files = scan::FILES_MAX,
                folders = scan::FOLDERS_MAX,
                "a watched folder holds more than is watched, or something that cannot be read: some files wait"
            );
        }
        let there: HashSet<Digest> = found.files.iter().map(|(path, _)| digest(path)).collect();
        for file in found.files {
            self.take(folder, files, file).await?;
        }
        let gone = files.forget(&there, &found.unseen);
        self.unmark(folder, &gone).await?;
        Ok(())
    }

    /// Tells of a file if it is due, and marks it.
    async fn take(
        self: &Arc<Self>,
        folder: &Folder,
        files: &mut Files,
        (path, look): (PathBuf, Look),
    ) -> Result<(), Failure> {
        if !files.is_due(&path, &look, self.clock.now()) {
            return Ok(());
        }
        self.told_of(folder, &path, &look).await?;
        let mark = self.mark(folder, &path, look).await?;
        files.closed.remove(&path);
        files.open.remove(&path);
        files.marks.insert(digest(&path), mark);
        Ok(())
    }

    async fn told_of(self: &Arc<Self>, folder: &Folder, path: &Path, look: &Look) -> Result<(), Error> {
        let bytes = path.as_os_str().as_encoded_bytes();
        let key: Bytes = [folder.name.as_bytes(), b"/", bytes].concat().into();
        let upload = Upload {
            source: "bowline.folders",
            account: folder.account.clone(),
            storage: folder.name.clone(),
            object: path.to_string_lossy().into_owned(),
            identity: format!("{}/{} {look:?}", folder.name, digest(path)),
            version: look.modified().as_millis(),
            bytes: look.bytes,
            keys: vec![(INDEX.to_owned(), key)],
        };
        let told = self.uploaded(&upload).await?;
        tracing::debug!(folder = folder.name, file = %path.display(), functions = told, "a file was told of");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(modified_us: u64) -> Look {
        Look {
            inode: 7,
            bytes: 9,
            modified_us,
        }
    }

    fn mark(path: &str, look: Look) -> (Digest, MarkRecord) {
        let path = path.to_owned();
        (digest(Path::new(&path)), MarkRecord { path, look })
    }

    #[test]
    fn a_file_is_due_once_it_is_complete_and_until_it_is_marked() {
        let path = Path::new("a/b.png");
        let written = look(1_000_000_000);
        let after = |rest: Duration| written.modified().after(rest);
        let mut files = Files::default();
        let second = Duration::from_secs(1);
        assert!(!files.is_due(path, &written, after(QUIET - second)));
        assert!(files.is_due(path, &written, after(QUIET)), "nobody writes it");
        files.note(path, What::Written);
        assert!(!files.is_due(path, &written, after(ABANDONED - second)));
        assert!(files.is_due(path, &written, after(ABANDONED)), "its writer is gone");
        files.note(path, What::Complete);
        assert!(files.is_due(path, &written, after(Duration::ZERO)), "it was closed");
        files.marks.extend([mark("a/b.png", written)]);
        assert!(!files.is_due(path, &written, after(ABANDONED)), "it was told of");
        assert!(
            files.is_due(path, &look(1_000_000_001), after(second)),
            "it is another one"
        );
    }

    #[test]
    fn what_is_gone_is_forgotten_but_not_what_cannot_be_seen() {
        let look = look(1);
        let marked = ["a", "in/b", "in/deep/c", "in/deeper/d", "deep/e"];
        let mut files = Files {
            marks: marked.into_iter().map(|path| mark(path, look)).collect(),
            open: ["f", "in/deep/g"].map(PathBuf::from).into(),
            ..Files::default()
        };
        let there = HashSet::from([digest(Path::new("in/b"))]);
        let gone: HashSet<Digest> = files
            .forget(&there, &BTreeSet::from(["in/deep".into()]))
            .into_iter()
            .collect();
        let expected = ["a", "in/deeper/d", "deep/e"].map(|path| digest(Path::new(path)));
        assert_eq!(gone, expected.into());
        assert_eq!(files.open, HashSet::from(["in/deep/g".into()]));
        // The control: once it can be seen, what is not there is gone.
        assert_eq!(files.forget(&there, &BTreeSet::new()), [digest(Path::new("in/deep/c"))]);
        assert!(files.open.is_empty() && files.marks.len() == 1);
    }
}
