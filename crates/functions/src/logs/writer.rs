//! The one thread that writes logs.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use bowline_foundation::clock::{Clock, Timestamp};
use parking_lot::{Condvar, Mutex};
use prometheus_client::metrics::counter::Counter;

use super::file::{FunctionLog, OpenLog};
use super::sandbox::SandboxLog;

/// How long the writer collects before it writes again.
const BATCH: Duration = Duration::from_millis(20);
/// Files kept open between batches.
const OPEN_FILES_MAX: usize = 64;

/// Writes what sandboxes print to the files of their functions, in batches.
pub(crate) struct LogWriter {
    queue: Mutex<Queue>,
    wake: Condvar,
    files: Mutex<Files>,
    bytes_dropped: Counter,
    clock: Clock,
}

#[derive(Default)]
struct Queue {
    /// Logs that hold something; each stands here at most once.
    waiting: Vec<Arc<SandboxLog>>,
    sleeping: bool,
    closing: bool,
}

/// Files that are open, and a buffer that is used again and again.
#[derive(Default)]
struct Files {
    open: HashMap<PathBuf, OpenLog>,
    buffer: Vec<u8>,
}

impl LogWriter {
    pub fn start(clock: Clock, bytes_dropped: Counter) -> io::Result<(Arc<Self>, JoinHandle<()>)> {
        let writer = Arc::new(Self {
            queue: Mutex::default(),
            wake: Condvar::new(),
            files: Mutex::default(),
            bytes_dropped,
            clock,
        });
        let run = writer.clone();
        let thread = std::thread::Builder::new()
            .name("logs".to_owned())
            .spawn(move || run.run())?;
        Ok((writer, thread))
    }

    /// What time it is for what is logged.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// A log holds something that should be written.
    pub fn queue(&self, log: Arc<SandboxLog>) {
        let mut queue = self.queue.lock();
        queue.waiting.push(log);
        let wake = queue.sleeping;
        drop(queue);
        if wake {
            self.wake.notify_one();
        }
    }

    /// Counts bytes that found no room.
    pub fn dropped(&self, bytes: usize) {
        self.bytes_dropped.inc_by(bytes as u64);
    }

    /// The newest bytes of a function's log, with what was printed up to now.
    pub fn tail(&self, log: &FunctionLog, bytes_max: usize) -> io::Result<Vec<u8>> {
        self.write_all();
        let _files = self.files.lock();
        log.tail(bytes_max)
    }

    /// Removes a function's log.
    pub fn delete(&self, log: &FunctionLog) {
        let mut files = self.files.lock();
        files.open.remove(log.path());
        if let Err(error) = log.delete() {
            tracing::warn!(%error, path = %log.path().display(), "log of a deleted function stays");
        }
    }

    /// Ends the thread once everything is written.
    pub fn close(&self) {
        self.queue.lock().closing = true;
        self.wake.notify_one();
    }

    fn run(&self) {
        loop {
            let mut queue = self.queue.lock();
            while queue.waiting.is_empty() && !queue.closing {
                queue.sleeping = true;
                self.wake.wait(&mut queue);
                queue.sleeping = false;
            }
            if !queue.closing {
                // More will come at once as a rule; the batch ends early only when the writer is closed.
                self.wake.wait_for(&mut queue, BATCH);
            }
            let closing = queue.closing;
            drop(queue);
            self.write_all();
            if closing {
                return;
            }
        }
    }

    /// Writes everything that waits. May be called by any thread.
    fn write_all(&self) {
        let mut files = self.files.lock();
        let waiting = std::mem::take(&mut self.queue.lock().waiting);
        for log in waiting {
            // Nobody else holds the log of a sandbox that is gone, so its last line ends here.
            let all = Arc::strong_count(&log) == 1;
            files.write(&log, all);
        }
        if files.open.len() > OPEN_FILES_MAX {
            files.open.clear();
        }
    }
}

impl Files {
    fn write(&mut self, log: &SandboxLog, all: bool) {
        self.buffer.clear();
        log.take(&mut self.buffer, all);
        let function = log.function();
        if self.buffer.is_empty() || function.is_deleted() {
            return;
        }
        function.publish(&self.buffer);
        if let Err(error) = self.append(function) {
            self.open.remove(function.path());
            tracing::warn!(%error, path = %function.path().display(), bytes = self.buffer.len(), "log bytes are lost");
        }
    }

    fn append(&mut self, function: &FunctionLog) -> io::Result<()> {
        if !self.open.contains_key(function.path()) {
            self.open.insert(function.path().to_owned(), function.open()?);
        }
        let open = self.open.get_mut(function.path()).expect("the file was opened above");
        function.append(open, &self.buffer)
    }
}
