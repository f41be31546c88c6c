//! What durable executions may ask for, and how long things wait.

use std::time::Duration;

/// Longest execution, and longest wait or retry delay, in seconds: 366 days.
pub const EXECUTION_SECONDS_MAX: u32 = 31_622_400;
/// How long an execution may take if its function does not say: one day.
pub const EXECUTION_SECONDS_DEFAULT: u32 = 86_400;
/// Days for which an execution that has ended is kept, at most.
pub const RETENTION_DAYS_MAX: u32 = 90;
/// The same if its function does not say.
pub const RETENTION_DAYS_DEFAULT: u32 = 14;
/// Longest execution that a caller may wait for, in seconds.
pub const SYNC_SECONDS_MAX: u32 = 900;
/// Updates of one checkpoint.
pub const BATCH_UPDATES_MAX: usize = 250;
/// Bytes of the updates of one checkpoint; a single update may be larger.
pub const BATCH_BYTES_MAX: usize = 750 * 1024;
/// Bytes of an execution's result if somebody waits for it.
pub const RESULT_BYTES_MAX: usize = 6 * 1024 * 1024;
/// Bytes of any other payload and of an error.
pub const PAYLOAD_BYTES_MAX: usize = 1024 * 1024;
/// Body of a checkpoint, whether it comes from within a sandbox or not.
pub const CHECKPOINT_BODY_BYTES_MAX: usize = bowline_sandbox::PLATFORM_BODY_BYTES_MAX;
/// Operations of one execution.
pub const OPERATIONS_MAX: usize = 3_000;
/// Bytes that one execution may store.
pub const STORED_BYTES_MAX: u64 = 100 * 1024 * 1024;
/// Operations or events of one page, at most.
pub const PAGE_ITEMS_MAX: usize = 1_000;
/// The same if the caller does not say.
pub const PAGE_ITEMS_DEFAULT: usize = 100;
/// Bytes of payloads on one page; one item always fits.
pub const PAGE_BYTES_MAX: u64 = 5 * 1024 * 1024;
/// Invocations in a row that may fail before the execution fails.
pub const FAILURES_MAX: u32 = 5;
/// The same for invocations that say `PENDING` with nothing to wait for.
pub const IDLE_PENDING_MAX: u32 = 3;
/// Operations that the passing of time completes in one commit; the rest follows in the next.
pub const FIRED_MAX: usize = 100;
/// How long the same client token means the same request.
pub const CLIENT_TOKEN_KEPT: Duration = Duration::from_secs(15 * 60);
/// Longest client token.
pub const CLIENT_TOKEN_CHARS_MAX: usize = 64;
/// Longest reason of a pause or a resumption.
pub const REASON_CHARS_MAX: usize = 1_024;
