//! Moving what the write-ahead log holds into the database, beside the writer.
//!
//! ```text
//!   commit ─▶ log: 1,000 pages ─▶ the checkpointer copies them, commits go on
//!                  4,000 pages ─▶ the writer copies what is left; its next commit begins the log anew
//! ```
//! While commits come without a pause, the log never is copied to its end, and only there can it begin anew:
//! so now and then the writer does the rest itself.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

use rusqlite::hooks::Wal;
use rusqlite::wal::CheckpointMode;
use rusqlite::{Connection, ErrorCode};

use super::{OpenError, Shared, schema};

/// Pages of the log after which the checkpointer copies, and again after as many more.
const PAGES_BESIDE: i32 = 1000;
/// Pages after which the writer does.
const PAGES_MAX: i32 = 4000;

/// The thread that copies; dropping the handle ends it.
#[derive(Debug)]
pub(super) struct Checkpointer {
    calls: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpointer {
    /// Starts the thread, and has the commits of `writer` call it.
    pub fn start(writer: &mut Connection, path: &Path, shared: Arc<Shared>) -> Result<Self, OpenError> {
        let connection = schema::open_checkpointer(path)?;
        let (calls, called) = sync_channel(1);
        let thread = Builder::new()
            .name("store-checkpoint".to_owned())
            .spawn(move || run(&connection, &called, &shared))
            .map_err(|source| OpenError::Folder {
                path: path.to_path_buf(),
                source,
            })?;
        let mut watch = Watch::new(calls.clone());
        let hooked = writer.wal_hook(Some(move |wal: &mut Wal, pages| watch.committed(wal, pages)));
        hooked.map_err(|source| OpenError::Database {
            path: path.to_path_buf(),
            source,
        })?;
        Ok(Self {
            calls: Some(calls),
            thread: Some(thread),
        })
    }
}

impl Drop for Checkpointer {
    /// The writer, which holds the other end of the channel, must be gone.
    fn drop(&mut self) {
        drop(self.calls.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the store's checkpointer had panicked");
        }
    }
}

fn run(connection: &Connection, called: &Receiver<()>, shared: &Shared) {
    while called.recv().is_ok() {
        let copied = connection.wal_checkpoint_v2(None::<&str>, CheckpointMode::PASSIVE);
        if let Err(error) = copied
            && !may_wait(&error)
        {
            tracing::error!(%error, "a checkpoint failed; the store refuses further work");
            shared.lost.store(true, Ordering::Release);
        }
    }
}

/// Decides after each commit who copies.
struct Watch {
    calls: SyncSender<()>,
    plan: Plan,
}

impl Watch {
    fn new(calls: SyncSender<()>) -> Self {
        Self {
            calls,
            plan: Plan::default(),
        }
    }

    /// An error makes the outcome of the commit unknown.
    fn committed(&mut self, wal: &mut Wal, pages: i32) -> rusqlite::Result<()> {
        match self.plan.next(pages) {
            Some(Who::Checkpointer) => {
                // One that is called already will come.
                let _ = self.calls.try_send(());
                Ok(())
            }
            Some(Who::Writer) => match wal.checkpoint_v2(CheckpointMode::PASSIVE) {
                // The next commit tries again.
                Err(error) if may_wait(&error) => Ok(()),
                done => done.map(drop),
            },
            None => Ok(()),
        }
    }
}

/// The other one is at it, or the disk is full: what was not copied stays in the log, and nothing is unknown.
fn may_wait(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DiskFull)
    )
}

#[derive(Debug, PartialEq, Eq)]
enum Who {
    Checkpointer,
    Writer,
}

/// Who copies when, by how long the log is.
#[derive(Debug)]
struct Plan {
    pages_before: i32,
    call_at: i32,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            pages_before: 0,
            call_at: PAGES_BESIDE,
        }
    }
}

impl Plan {
    fn next(&mut self, pages: i32) -> Option<Who> {
        if pages < self.pages_before {
            self.call_at = PAGES_BESIDE;
        }
        self.pages_before = pages;
        if pages >= PAGES_MAX {
            return Some(Who::Writer);
        }
        if pages < self.call_at {
            return None;
        }
        self.call_at = pages + PAGES_BESIDE;
        Some(Who::Checkpointer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checkpointer_copies_at_intervals_and_the_writer_what_is_left() {
        let mut plan = Plan::default();
        let who: Vec<_> = [3, 999, 1000, 1001, 1999, 2600, 3000, 3600, 4000, 4005]
            .map(|pages| plan.next(pages))
            .into();
        let (here, beside) = (Some(Who::Writer), Some(Who::Checkpointer));
        let expected = [
            None,
            None,
            beside,
            None,
            None,
            Some(Who::Checkpointer),
            None,
            Some(Who::Checkpointer),
            here,
            Some(Who::Writer),
        ];
        assert_eq!(who, expected);
        assert_eq!(plan.next(2), None, "the log has begun anew");
        assert_eq!(plan.next(1000), Some(Who::Checkpointer));
    }
}
