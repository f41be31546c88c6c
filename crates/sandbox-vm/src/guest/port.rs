//! Ports of a guest: how they are found, and one as a stream for asynchronous readers and writers.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// How often it is looked whether somebody has come to the other end.
const ABSENCE: Duration = Duration::from_millis(10);

/// The device of the port with this name.
pub fn device(name: &str) -> io::Result<PathBuf> {
    for entry in std::fs::read_dir("/sys/class/virtio-ports")? {
        let entry = entry?;
        let found = std::fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if found.trim() == name {
            return Ok(Path::new("/dev").join(entry.file_name()));
        }
    }
    let missing = format!("there is no port `{name}`");
    Err(io::Error::new(io::ErrorKind::NotFound, missing))
}

/// A port that does not block. It must be opened within a runtime. It never ends: while nobody is at the other end, as
/// for a moment when a machine goes on from a snapshot, its reader waits.
#[derive(Debug)]
pub struct Port {
    file: AsyncFd<File>,
    /// Runs while nobody is there.
    absence: Option<Pin<Box<Sleep>>>,
}

impl Port {
    /// Opens the device of a port, or anything that can be waited for.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut options = File::options();
        options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
        Self::over(options.open(path)?)
    }

    /// The same of a file that is open, and does not block.
    #[allow(unsafe_code, reason = "the registration of a file of our own")]
    pub(super) fn over(file: File) -> io::Result<Self> {
        // SAFETY: a `File` keeps its descriptor open, and the same one, for as long as it lives, and nothing here takes
        // it out of the registration. There is no safe form for a device.
        let file = unsafe { AsyncFd::register(file) }?;
        Ok(Self { file, absence: None })
    }
}

impl AsyncRead for Port {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if let Some(absence) = &mut this.absence {
                ready!(absence.as_mut().poll(cx));
                this.absence = None;
            }
            let mut guard = ready!(this.file.poll_read_ready(cx))?;
            let space = buffer.initialize_unfilled();
            match guard.try_io(|file| file.get_ref().read(space)) {
                Ok(Ok(0)) => this.absence = Some(Box::pin(sleep(ABSENCE))),
                Ok(Ok(count)) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Port {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.file.poll_write_ready(cx))?;
            match guard.try_io(|file| file.get_ref().write(bytes)) {
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn a_port_is_written_and_read_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("port");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let (mut reader, mut writer) = tokio::io::split(Port::open(&path).unwrap());
        let read = tokio::spawn(async move {
            let mut word = [0; 4];
            reader.read_exact(&mut word).await.map(|_| word)
        });
        tokio::task::yield_now().await;
        writer.write_all(b"word").await.unwrap();
        assert_eq!(&read.await.unwrap().unwrap(), b"word");
        assert!(device("none").is_err());
    }
}
