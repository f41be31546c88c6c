//! The log of one sandbox: a buffer that the guest and the platform append to and the writer empties.

use std::sync::Arc;
use std::time::Duration;

use bowline_foundation::clock::Timestamp;
use bowline_foundation::id::RequestId;
use bowline_foundation::limits::LOG_TAIL_BYTES;
use bowline_sandbox::{LogFormat, LogSink};
use parking_lot::Mutex;

use super::file::FunctionLog;
use super::lines::{self, ReportLine};
use super::records::Records;
use super::writer::LogWriter;

/// What may wait for the writer in one sandbox.
const WAITING_BYTES_MAX: usize = 256 * 1024;
/// A buffer that is larger than this when it has been emptied is given back.
const KEPT_CAPACITY_BYTES: usize = 16 * 1024;
/// What is longer than this is passed on though its line has not ended.
const LINE_BYTES_MAX: usize = 8 * 1024;

/// Takes what one sandbox prints; cheap to share.
pub(crate) struct SandboxLog {
    function: Arc<FunctionLog>,
    writer: Arc<LogWriter>,
    format: LogFormat,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What the writer has taken and is kept for the tail, then what it has not.
    bytes: Vec<u8>,
    taken: usize,
    /// Where the running invocation begins.
    begin: usize,
    /// When it began; of logs of records alone.
    started: Timestamp,
    /// Whether the writer knows that there is something.
    queued: bool,
}

impl SandboxLog {
    pub fn new(function: Arc<FunctionLog>, writer: Arc<LogWriter>, format: LogFormat) -> Arc<Self> {
        Arc::new(Self {
            function,
            writer,
            format,
            state: Mutex::default(),
        })
    }

    /// Whose log this is.
    pub fn function(&self) -> &Arc<FunctionLog> {
        &self.function
    }

    /// What writes the platform's records, if the log is one of records.
    fn records(&self) -> Option<Records> {
        match self.format {
            LogFormat::Text => None,
            LogFormat::Json { system, .. } => Some(Records {
                least: system,
                now: self.writer.now(),
            }),
        }
    }

    /// An invocation begins. What a new sandbox printed while it initialised belongs to it.
    pub fn begin(self: &Arc<Self>, request_id: &RequestId, version: &str, cold: bool) {
        let records = self.records();
        self.append(|state| {
            if !cold {
                state.begin = state.bytes.len();
            }
            match &records {
                None => lines::start(&mut state.bytes, request_id, version),
                Some(records) => {
                    state.started = records.now;
                    records.start(&mut state.bytes, request_id, version);
                }
            }
        });
    }

    /// Goes on with the invocation of another log, which keeps nothing of it.
    pub fn take_over(self: &Arc<Self>, before: &Self) {
        let old = {
            let mut state = before.state.lock();
            let queued = state.queued;
            let fresh = State {
                queued,
                ..State::default()
            };
            std::mem::replace(&mut *state, fresh)
        };
        self.append(|state| {
            let mut bytes = old.bytes;
            // What has not been written yet, of either, is to be.
            bytes.extend_from_slice(&state.bytes[state.taken..]);
            state.bytes = bytes;
            state.taken = old.taken;
            state.begin = old.begin;
            state.started = old.started;
        });
    }

    /// The invocation ran out of time. Of records the last ones say so.
    pub fn timed_out(self: &Arc<Self>, request_id: &RequestId, timeout: Duration) {
        if matches!(self.format, LogFormat::Json { .. }) {
            return;
        }
        self.append(|state| lines::timed_out(&mut state.bytes, request_id, timeout));
    }

    /// The invocation is over; returns the last bytes of its log if they are wanted.
    pub fn end(self: &Arc<Self>, request_id: &RequestId, line: &ReportLine<'_>, tail: bool) -> Option<Vec<u8>> {
        let records = self.records();
        self.append(|state| {
            if state.bytes.last().is_some_and(|last| *last != b'\n') {
                state.bytes.push(b'\n');
            }
            match &records {
                None => {
                    lines::end(&mut state.bytes, request_id);
                    lines::report(&mut state.bytes, request_id, line);
                }
                Some(records) => records.end(&mut state.bytes, request_id, state.started, line),
            }
            let tail = tail.then(|| {
                let from = state.bytes.len().saturating_sub(LOG_TAIL_BYTES).max(state.begin);
                state.bytes[from..].to_vec()
            });
            state.begin = state.bytes.len();
            tail
        })
    }

    fn append<T>(self: &Arc<Self>, write: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.state.lock();
        let answer = write(&mut state);
        let queue = !std::mem::replace(&mut state.queued, true);
        drop(state);
        if queue {
            self.writer.queue(self.clone());
        }
        answer
    }

    /// Moves what can be written to `out`: whole lines, or everything if a line has grown too long or
    /// `all` is asked for.
    pub(super) fn take(&self, out: &mut Vec<u8>, all: bool) {
        let mut state = self.state.lock();
        state.queued = false;
        let fresh = &state.bytes[state.taken..];
        let lines = fresh.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let whole = if all || fresh.len() - lines > LINE_BYTES_MAX {
            fresh.len()
        } else {
            lines
        };
        out.extend_from_slice(&fresh[..whole]);
        state.taken += whole;
        state.forget();
    }
}

impl State {
    /// Drops what is neither waiting nor part of a tail that may still be asked for.
    fn forget(&mut self) {
        let kept = self.bytes.len().saturating_sub(LOG_TAIL_BYTES).max(self.begin);
        let gone = kept.min(self.taken);
        self.bytes.drain(..gone);
        self.taken -= gone;
        self.begin = self.begin.saturating_sub(gone);
        if self.bytes.capacity() > KEPT_CAPACITY_BYTES && self.bytes.len() < KEPT_CAPACITY_BYTES / 2 {
            self.bytes.shrink_to(KEPT_CAPACITY_BYTES / 2);
        }
    }
}

/// The sink that a sandbox is given.
pub(crate) struct Sink(pub Arc<SandboxLog>);

impl LogSink for Sink {
    fn write(&self, bytes: &[u8]) {
        let dropped = self.0.append(|state| {
            let room = WAITING_BYTES_MAX.saturating_sub(state.bytes.len() - state.taken);
            let kept = bytes.len().min(room);
            state.bytes.extend_from_slice(&bytes[..kept]);
            bytes.len() - kept
        });
        if dropped > 0 {
            self.0.writer.dropped(dropped);
        }
    }
}
