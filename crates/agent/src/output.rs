//! What a service prints, in two files: when the newer one is full it becomes the older one, and the older one goes.
//!
//! ```text
//!   service ─ pipe ─▶ Keeper ─▶ NAME.log ── full, or a new life ──▶ NAME.log.1 ──▶ gone
//! ```
//! The pipe holds a service back that prints faster than the disk takes it. What the disk refuses is lost, so that a full
//! disk stops nobody.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::oneshot;

/// A file of this size becomes the older one.
pub const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// What is read at once.
const PIECE_BYTES: usize = 16 * 1024;

/// The files of one service.
struct Files {
    path: PathBuf,
    file: File,
    bytes: u64,
    bytes_max: u64,
}

impl Files {
    /// Begins a new life; what the last one printed becomes the older file.
    fn begin(path: PathBuf, bytes_max: u64) -> io::Result<Self> {
        let file = next(&path)?;
        Ok(Self {
            path,
            file,
            bytes: 0,
            bytes_max,
        })
    }

    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.bytes >= self.bytes_max {
                self.file = next(&self.path)?;
                self.bytes = 0;
            }
            let room = usize::try_from(self.bytes_max - self.bytes).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(bytes.len().min(room));
            self.file.write_all(now)?;
            self.bytes += now.len() as u64;
            bytes = later;
        }
        Ok(())
    }
}

/// A new file; the one that was there is the older one now.
fn next(path: &PathBuf) -> io::Result<File> {
    let mut older = path.clone().into_os_string();
    older.push(".1");
    match fs::rename(path, older) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => File::create(path),
    }
}

/// Ends the keeping of a service's output when it is dropped; what lies in the pipe then is still kept.
#[derive(Debug)]
pub(crate) struct Kept {
    _end: oneshot::Sender<()>,
}

/// Where a service prints to; keeps it in the files at `path` until the returned guard is dropped, or nobody prints any
/// more. Must be called within a runtime.
pub(crate) fn keep(path: PathBuf) -> io::Result<(io::PipeWriter, Kept)> {
    let files = Files::begin(path, FILE_BYTES_MAX)?;
    let (reader, writer) = io::pipe()?;
    let pipe = Receiver::from_owned_fd(OwnedFd::from(reader))?;
    let (end, ended) = oneshot::channel();
    tokio::spawn(run(pipe, files, ended));
    Ok((writer, Kept { _end: end }))
}

async fn run(mut pipe: Receiver, mut files: Files, mut ended: oneshot::Receiver<()>) {
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let read = tokio::select! {
            biased;
            _ = &mut ended => break,
            read = pipe.read(&mut piece) => read,
        };
        match read {
            Ok(0) | Err(_) => return,
            Ok(count) => put(&mut files, &piece[..count]),
        }
    }
    // Its last words; whoever still prints after the service has ended is not heard. What lies in the pipe is read without
    // the runtime, which may not have noticed it yet.
    let Ok(pipe) = pipe.into_nonblocking_fd() else { return };
    let mut pipe = File::from(pipe);
    for _ in 0..=pipe_pieces() {
        match pipe.read(&mut piece) {
            Ok(0) | Err(_) => return,
            Ok(count) => put(&mut files, &piece[..count]),
        }
    }
}

/// As many pieces as an ordinary pipe holds.
const fn pipe_pieces() -> usize {
    64 * 1024 / PIECE_BYTES
}

fn put(files: &mut Files, bytes: &[u8]) {
    if let Err(error) = files.write(bytes) {
        tracing::debug!(%error, "what a service printed cannot be kept");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_files_hold_the_newest_of_what_was_printed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.log");
        let mut files = Files::begin(path.clone(), 10).unwrap();
        let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap_or_default();
        files.write(b"0123456").unwrap();
        assert_eq!((read("s.log").as_str(), read("s.log.1").as_str()), ("0123456", ""));
        files.write(b"789abcdefghijKLM").unwrap();
        assert_eq!(
            (read("s.log").as_str(), read("s.log.1").as_str()),
            ("KLM", "abcdefghij")
        );
        // Another life begins anew and keeps the last words of the one before.
        let mut files = Files::begin(path, 10).unwrap();
        files.write(b"hello").unwrap();
        assert_eq!((read("s.log").as_str(), read("s.log.1").as_str()), ("hello", "KLM"));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[tokio::test]
    async fn the_last_words_of_a_service_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s.log");
        let (mut writer, kept) = keep(path.clone()).unwrap();
        writer.write_all(b"so long").unwrap();
        // The pipe stays open, as by a process that has left the service's group.
        drop(kept);
        while fs::read(&path).unwrap() != b"so long" {
            tokio::task::yield_now().await;
        }
        drop(writer);
    }
}
