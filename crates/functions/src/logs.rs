//! What functions print: kept for the caller of an invocation, written to files, passed to followers.
//!
//! ```text
//!   sandbox ──▶ SandboxLog (a buffer, one a sandbox) ──▶ LogWriter (one thread) ──▶ FUNCTION.log
//!   START, END, REPORT ─┘   └▶ tail for the caller                            └──▶ followers
//! ```
//! An invocation only ever appends to its sandbox's buffer in memory. The writer collects whole lines
//! from the buffers a few times in a tenth of a second. In a log of JSON the platform's lines are records.

mod file;
mod lines;
mod records;
mod sandbox;
mod writer;

pub(crate) use file::FunctionLog;
pub(crate) use lines::{ReportLine, Status};
pub(crate) use sandbox::{SandboxLog, Sink};
pub(crate) use writer::LogWriter;
