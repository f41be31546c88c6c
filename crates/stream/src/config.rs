//! Every number of a stream host, with its name, unit and default.

use std::time::Duration;

/// Largest key of an event.
pub const KEY_BYTES_MAX: usize = 1024;
/// Largest body of an event; what is larger belongs in a blob.
pub const BODY_BYTES_MAX: usize = 1_000_000;
/// Most events of one append.
pub const APPEND_EVENTS_MAX: usize = 10_000;
/// Largest sum of an append's keys and bodies.
pub const APPEND_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What of the head moves out into nodes, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// A head above this moves all but its newest events out.
    pub bytes_max: usize,
    /// See `bytes_max`.
    pub events_max: usize,
    /// A node is closed before it exceeds this, unless one event does.
    pub node_bytes_max: usize,
}

impl Default for HeadLimits {
    /// A head is written anew with every batch: it fits into one page of SQLite, and stays below the 2 KB from
    /// which PostgreSQL moves a value out of its row.
    fn default() -> Self {
        Self {
            bytes_max: 1792,
            events_max: 256,
            node_bytes_max: 256 * 1024,
        }
    }
}

/// When an append is acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CommitWait {
    /// Once it is durable: hosts that have not heard of each other are ordered by their clocks.
    #[default]
    Off,
    /// Only when every host's clock has passed its stamp: the order is that of real time.
    On,
}

/// When a stream gets another chain.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Growth {
    /// The p99 of append latency above which a host is overloaded.
    pub latency_max: Duration,
    /// The share of conflicting commits above which a host is overloaded, in `0..=1`.
    pub conflicts_max: f64,
    /// Events a second above which a host is overloaded.
    pub events_per_second_max: f64,
    /// How long it must be so, and the least time between two new chains.
    pub over: Duration,
}

impl Default for Growth {
    fn default() -> Self {
        Self {
            latency_max: Duration::from_millis(50),
            conflicts_max: 0.05,
            events_per_second_max: 50_000.0,
            over: Duration::from_secs(10),
        }
    }
}

/// The numbers of a host. All may be changed at each start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Config {
    pub head: HeadLimits,
    pub growth: Growth,
    pub commit_wait: CommitWait,
    /// Largest batch, in events and in encoded bytes.
    pub batch_events_max: usize,
    /// See `batch_events_max`.
    pub batch_bytes_max: usize,
    /// Most events that wait for one chain; further appends are refused.
    pub queue_events_max: usize,
    /// Largest sum of what waits for one chain; further appends are refused.
    pub queue_bytes_max: usize,
    /// How many of a chain's newest events with given identifiers are remembered.
    pub dedup_events: usize,
    /// How long a commit that cannot reach the store is repeated before its appends fail.
    pub commit_retry: Duration,
    /// The pause between two attempts to reach the store.
    pub retry_pause: Duration,
    /// How far clocks of two hosts may differ.
    pub skew_max: Duration,
    /// How far ahead promises may go before they are made durable again.
    pub promise_window: Duration,
    /// The pause between two heartbeats, where other hosts share the store.
    pub beat_every: Duration,
    /// How long a host's heartbeat may be silent before the host is fenced.
    pub dead_after: Duration,
    /// How often a waiting reader looks for other hosts' writes.
    pub poll_every: Duration,
    /// How long to wait for another host before the append stays here.
    pub forward_timeout: Duration,
    /// How long to wait for another host's promise before its last beat is read instead.
    pub promise_timeout: Duration,
    /// How long an added chain may be idle before it is sealed.
    pub seal_after: Duration,
    /// The pause between two rounds of growth, sealing, retention and tiering.
    pub maintain_every: Duration,
    /// Copies of an event lie at most this far apart; trimmed nodes are kept for as long.
    pub copies_within: Duration,
    /// Nodes read ahead, kept in memory.
    pub cache_bytes_max: usize,
    /// Largest blob of cold nodes.
    pub pack_bytes_max: usize,
}

impl Config {
    /// The default numbers with another lease: how long a host may be silent before it is taken for dead.
    pub fn with_lease(lease: Duration) -> Self {
        let default = Self::default();
        Self {
            dead_after: lease,
            beat_every: default.beat_every.min(lease / 8),
            maintain_every: default.maintain_every.min(lease / 4),
            ..default
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            head: HeadLimits::default(),
            growth: Growth::default(),
            commit_wait: CommitWait::Off,
            batch_events_max: 4096,
            batch_bytes_max: 4 * 1024 * 1024 + 512 * 1024,
            queue_events_max: 65_536,
            queue_bytes_max: 32 * 1024 * 1024,
            dedup_events: 16_384,
            commit_retry: Duration::from_secs(5),
            retry_pause: Duration::from_millis(20),
            skew_max: Duration::from_secs(5),
            promise_window: Duration::from_secs(1),
            beat_every: Duration::from_millis(250),
            dead_after: Duration::from_secs(10),
            poll_every: Duration::from_millis(20),
            forward_timeout: Duration::from_secs(2),
            promise_timeout: Duration::from_millis(100),
            seal_after: Duration::from_secs(600),
            maintain_every: Duration::from_secs(1),
            copies_within: Duration::from_secs(60),
            cache_bytes_max: 16 * 1024 * 1024,
            pack_bytes_max: 4 * 1024 * 1024,
        }
    }
}
