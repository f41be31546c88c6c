//! Where a sandbox's output goes.

use parking_lot::Mutex;

/// Takes what a function prints. Never blocks for long and never fails: what cannot be kept is dropped
/// and counted by the sink.
pub trait LogSink: Send + Sync + 'static {
    /// Takes some bytes; they need not end at a line's end.
    fn write(&self, bytes: &[u8]);
}

/// A sink that keeps everything in memory, for tests and single local invocations.
#[derive(Debug, Default)]
pub struct MemoryLog(Mutex<Vec<u8>>);

impl MemoryLog {
    /// All that was written so far, with invalid UTF-8 replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock()).into_owned()
    }
}

impl LogSink for MemoryLog {
    fn write(&self, bytes: &[u8]) {
        self.0.lock().extend_from_slice(bytes);
    }
}
