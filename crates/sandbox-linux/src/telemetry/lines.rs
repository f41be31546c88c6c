//! Cuts what a process prints into lines, each a record.

use std::sync::Arc;

use super::{Hub, Record};
use crate::runtime_api::Stream;

/// A line that is longer is told in parts.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// What one stream has printed of a line so far, and who is told.
pub(crate) struct Lines {
    hub: Arc<Hub>,
    stream: Stream,
    partial: Vec<u8>,
}

impl Lines {
    pub(crate) fn new(hub: Arc<Hub>, stream: Stream) -> Self {
        Self {
            hub,
            stream,
            partial: Vec::new(),
        }
    }

    /// Takes what was printed.
    pub(crate) fn take(&mut self, mut bytes: &[u8]) {
        if !self.hub.wants(self.stream) {
            self.partial.clear();
            return;
        }
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.add(&bytes[..end]);
            self.end();
            bytes = &bytes[end + 1..];
        }
        self.add(bytes);
    }

    fn add(&mut self, mut bytes: &[u8]) {
        while self.partial.len() + bytes.len() > LINE_BYTES_MAX {
            let (head, rest) = bytes.split_at(LINE_BYTES_MAX - self.partial.len());
            self.partial.extend_from_slice(head);
            self.end();
            bytes = rest;
        }
        self.partial.extend_from_slice(bytes);
    }

    /// What was printed last is all there will be of its line.
    pub(crate) fn end(&mut self) {
        if self.partial.is_empty() {
            return;
        }
        let text = String::from_utf8_lossy(&self.partial).into_owned();
        self.partial.clear();
        self.hub.tell(Record::Line(self.stream, text));
    }
}
