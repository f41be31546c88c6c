//! What a guest prints, on its way to the log.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::task::{Context, Poll};

use bowline_sandbox::LogSink;
use tokio::io::unix::AsyncFd;

use crate::telemetry::Lines;
use crate::watch;

/// What one read takes.
const READ_BYTES: usize = 16 * 1024;
/// Reads before the other descriptors get their turn.
const READS_PER_TURN: usize = 16;

/// The read end of a guest's output, and where it goes.
pub(crate) struct Output {
    pipe: AsyncFd<OwnedFd>,
    sink: Arc<dyn LogSink>,
    bytes_max: usize,
    left: usize,
    open: bool,
    /// Who else is told, line by line.
    lines: Option<Lines>,
}

enum Read {
    Some,
    Empty,
    Closed,
}

impl Output {
    /// Takes what comes out of `pipe`, which must not block, at most `bytes_max` an invocation.
    pub(crate) fn new(pipe: OwnedFd, sink: Arc<dyn LogSink>, bytes_max: usize) -> io::Result<Self> {
        Ok(Self {
            pipe: watch::readable(pipe)?,
            sink,
            bytes_max,
            left: bytes_max,
            open: true,
            lines: None,
        })
    }

    /// Tells `lines` too, from now on; `None`: nobody else.
    pub(crate) fn tap(&mut self, lines: Option<Lines>) {
        self.lines = lines;
    }

    /// What was printed last is all there will be of its line.
    pub(crate) fn end_line(&mut self) {
        if let Some(lines) = &mut self.lines {
            lines.end();
        }
    }

    /// Begins another invocation, which may print its fill.
    pub(crate) fn begin(&mut self) {
        self.left = self.bytes_max;
    }

    /// Takes what was printed and asks to be woken when there is more.
    pub(crate) fn poll_drain(&mut self, cx: &mut Context<'_>) {
        for _ in 0..READS_PER_TURN {
            if !self.open {
                return;
            }
            let Poll::Ready(Ok(mut guard)) = self.pipe.poll_read_ready(cx) else {
                return;
            };
            let read = read(guard.get_inner(), |bytes| {
                pass_on(bytes, &mut self.left, &*self.sink, self.lines.as_mut());
            });
            match read {
                Read::Some => {}
                Read::Empty => guard.clear_ready(),
                Read::Closed => self.open = false,
            }
        }
        cx.waker().wake_by_ref();
    }

    /// Takes what was printed up to now, without relying on a notice of it: what a guest prints before
    /// it answers must not come after the answer.
    pub(crate) fn drain(&mut self) {
        // A guest that goes on printing must not keep us for ever.
        for _ in 0..READS_PER_TURN * READS_PER_TURN {
            if !self.open {
                return;
            }
            let read = read(self.pipe.get_ref(), |bytes| {
                pass_on(bytes, &mut self.left, &*self.sink, self.lines.as_mut());
            });
            match read {
                Read::Some => {}
                Read::Empty => return,
                Read::Closed => self.open = false,
            }
        }
    }
}

fn read(pipe: &OwnedFd, take: impl FnOnce(&[u8])) -> Read {
    let mut buffer = [MaybeUninit::<u8>::uninit(); READ_BYTES];
    match rustix::io::read(pipe, &mut buffer) {
        Ok(([], _)) => Read::Closed,
        Ok((bytes, _)) => {
            take(bytes);
            Read::Some
        }
        Err(rustix::io::Errno::INTR) => Read::Some,
        Err(rustix::io::Errno::AGAIN) => Read::Empty,
        Err(_) => Read::Closed,
    }
}

fn pass_on(bytes: &[u8], left: &mut usize, sink: &dyn LogSink, lines: Option<&mut Lines>) {
    if *left == 0 {
        return;
    }
    let kept = bytes.len().min(*left);
    sink.write(&bytes[..kept]);
    if let Some(lines) = lines {
        lines.take(&bytes[..kept]);
    }
    *left -= kept;
    if *left == 0 {
        sink.write(b"\n[bowline] this invocation printed too much: the rest of its output is dropped\n");
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use bowline_sandbox::MemoryLog;

    use super::*;

    fn output(bytes_max: usize) -> (io::PipeWriter, Output, Arc<MemoryLog>) {
        let (reader, writer) = io::pipe().expect("a pipe can be made");
        let reader = OwnedFd::from(reader);
        rustix::io::ioctl_fionbio(&reader, true).expect("a pipe can be made non-blocking");
        let log = Arc::new(MemoryLog::default());
        let output = Output::new(reader, log.clone(), bytes_max).expect("a pipe can be waited for");
        (writer, output, log)
    }

    #[tokio::test]
    async fn what_was_printed_is_there_at_once() {
        let (mut writer, mut output, log) = output(1024);
        writer.write_all(b"a line\n").expect("the pipe has room");
        output.drain();
        assert_eq!(log.text(), "a line\n");
        output.drain();
        assert_eq!(log.text(), "a line\n");
    }

    #[tokio::test]
    async fn each_invocation_prints_so_much_and_no_more() {
        let (mut writer, mut output, log) = output(10);
        writer.write_all(&[b'x'; 4000]).expect("the pipe has room");
        output.drain();
        assert!(log.text().starts_with("xxxxxxxxxx\n[bowline]"), "{}", log.text());
        let cut = log.text().len();
        writer.write_all(b"more").expect("the pipe has room");
        output.drain();
        assert_eq!(log.text().len(), cut);
        output.begin();
        writer.write_all(b"again").expect("the pipe has room");
        output.drain();
        assert!(log.text().ends_with("again"), "{}", log.text());
    }

    #[tokio::test]
    async fn waiting_ends_when_something_is_printed() {
        let (mut writer, mut output, log) = output(1024);
        let print = async { writer.write_all(b"late").expect("the pipe has room") };
        let wait = std::future::poll_fn(|cx| {
            output.poll_drain(cx);
            if log.text().is_empty() {
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        });
        tokio::join!(wait, print);
        assert_eq!(log.text(), "late");
    }
}
