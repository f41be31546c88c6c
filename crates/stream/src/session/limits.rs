//! How much a session may hold and ask for, and what happens at each limit.

use std::time::Duration;

/// Most events of one set; a reader that asks for more gets so many.
pub const EVENTS_PER_SET_MAX: usize = 1000;
/// Events of one set unless the reader says otherwise.
pub const EVENTS_PER_SET_DEFAULT: usize = 100;
/// Most bytes of one set, its first event aside, which may be larger; a reader that asks for more gets so
/// many.
pub const SET_BYTES_MAX: usize = 6 * 1024 * 1024;
/// Bytes of one set unless the reader says otherwise.
pub const SET_BYTES_DEFAULT: usize = 1024 * 1024;
/// Longest wait at the end of the stream; a longer one is cut.
pub const WAIT_MAX: Duration = Duration::from_secs(20);

/// Sets of one session that are not acknowledged yet. At the limit no newer events are given out: readers
/// wait until a set is acknowledged, due again or parked.
pub const IN_FLIGHT_SETS_MAX: usize = 256;
/// Sets on one session's parking list. At the limit a set whose attempts are used up is given out further,
/// its attempt counted on, until somebody empties the list.
pub const PARKED_SETS_MAX: usize = 512;
/// Events that a session with an order per key looks past because their keys are in use. At the limit it
/// looks no further: other keys wait too until one of these keys is free.
pub const WITHHELD_EVENTS_MAX: usize = 256;
/// Sets that a session which keeps no markers remembers having given out, for its operator's eyes; the
/// oldest is forgotten.
pub const RECENT_SETS_MAX: usize = 16;

/// Readers of one session served by one commit; further ones go with the next.
pub const READS_PER_COMMIT_MAX: usize = 64;
/// Bytes of events in the sets of one commit; readers beyond go with the next.
pub const COMMIT_EVENT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Sets parked by one commit; further ones go with the next.
pub const PARKS_PER_COMMIT_MAX: usize = 16;
/// Sets given out again from the parking list by one call.
pub const REDRIVES_MAX: usize = 64;
/// Readers waiting at one node for one session; further ones are told to retry later.
pub const READERS_PER_SESSION_MAX: usize = 1024;
/// Readers waiting at one node; further ones are told to retry later.
pub const READERS_MAX: usize = 16_384;
/// Tries of one change against other nodes and a failing store; then the caller is told to retry later.
pub const COMMIT_ATTEMPTS_MAX: u32 = 8;
/// Events examined for one commit when a filter skips many; the cursor is moved and the search goes on.
pub const EVENTS_EXAMINED_MAX: usize = 10_000;
/// Events read from the stream at once.
pub const PAGE_EVENTS_MAX: usize = 1000;

/// Shortest and longest lease, also when it is extended, and longest delay of a failed set.
pub const LEASE_MIN: Duration = Duration::from_secs(1);
/// See [`LEASE_MIN`].
pub const LEASE_MAX: Duration = Duration::from_secs(12 * 3600);
/// Lease of a set unless the session says otherwise.
pub const LEASE_DEFAULT: Duration = Duration::from_secs(30);
/// Attempts of a set unless the session says otherwise.
pub const ATTEMPTS_DEFAULT: u32 = 5;
/// How long a session lives without a read unless it says otherwise.
pub const IDLE_TTL_DEFAULT: Duration = Duration::from_secs(24 * 3600);
/// Shortest and longest such time.
pub const IDLE_TTL_MIN: Duration = Duration::from_secs(60);
/// See [`IDLE_TTL_MIN`].
pub const IDLE_TTL_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
/// A read that gives nothing is recorded only if the last record of a read is older than this part of the
/// session's idle time; a session lives longer by as much.
pub const IDLE_TTL_PARTS: u32 = 16;
/// How long an expired session can still be told from one that never was.
pub const EXPIRED_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long audit rows are kept.
pub const AUDIT_KEPT: Duration = Duration::from_secs(90 * 24 * 3600);

/// Longest name of a session, of a worker, of a request and of a client's token.
pub const NAME_BYTES_MAX: usize = 128;
/// Longest reason of a failed set; the rest is cut.
pub const REASON_BYTES_MAX: usize = 256;
/// Sessions, sets or rows in one page of a list.
pub const PAGE_MAX: usize = 100;

/// Longest filter expression.
pub const FILTER_BYTES_MAX: usize = 1024;
/// Most nodes of a filter's syntax tree, after its macros have been expanded.
pub const FILTER_NODES_MAX: usize = 256;
/// Deepest nesting of a filter expression.
pub const FILTER_DEPTH_MAX: u16 = 24;
/// Largest body a filter looks at; a larger one does not match, and counts as an error.
pub const FILTER_BODY_BYTES_MAX: usize = 256 * 1024;
/// Most evaluation steps that one event may need, reckoned before it is evaluated; one that needs more
/// does not match, and counts as an error.
pub const FILTER_STEPS_MAX: u64 = 400_000;
/// Steps spent on filtering for one commit; then the cursor is moved and the search goes on.
pub const FILTER_STEPS_PER_COMMIT_MAX: u64 = 800_000;
