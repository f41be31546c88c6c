//! The hybrid logical clock of a host, and the promises that readers build the safe time on.
//!
//! One lock holds the last stamp given, the batches that have stamps but are not yet durable, and the
//! limit of promises. So a promise and a batch can never miss each other:
//!
//! ```text
//!   begin(slot, n)   stamps = max(wall clock, last + 1) ..; the slot is in flight from the first of them
//!   settle(slot)     the batch is durable and published, or known not to be stored
//!   promise(slot)    last = max(wall clock, last); in flight? first - 1 : last; never above the limit
//! ```
//! Whoever holds a promise `p` knows: every stamp at or under `p` that this host gave is durable, and every
//! later stamp of this host is greater. The limit is durable in the host's beat before any promise reaches
//! it, so whoever takes over a dead host's chains starts above everything the host may have promised.

use std::time::Duration;

use bowline_foundation::clock::{Clock, Timestamp};
use parking_lot::Mutex;

use crate::{Stamp, StreamId};

/// A chain's place among the batches in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot(usize);

impl Slot {
    /// The slot of a chain that takes no appends.
    pub const NONE: Self = Self(usize::MAX);
}

/// The host's clock differs from the stamps it has seen by more than is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the clock is `{off_ms}` ms off those of other hosts, at most `{max_ms}` ms are allowed")]
pub struct ClockSkew {
    pub off_ms: u64,
    pub max_ms: u64,
}

/// See the top of the file.
#[derive(Debug)]
pub(crate) struct HybridClock {
    clock: Clock,
    skew_max: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: Stamp,
    in_flight: Vec<InFlight>,
    limit: Stamp,
    /// How far the clock is ahead of all others', if that is too far.
    ahead: Option<Duration>,
}

/// The first stamp of a chain's batch that is neither published nor given up.
#[derive(Debug)]
struct InFlight {
    stream: StreamId,
    first: Option<Stamp>,
}

impl State {
    fn tick(&mut self, now: Timestamp) -> Stamp {
        self.last = self.last.max(Stamp::of(now));
        self.last
    }
}

impl HybridClock {
    pub fn new(clock: Clock, skew_max: Duration) -> Self {
        Self {
            clock,
            skew_max,
            state: Mutex::default(),
        }
    }

    pub fn wall(&self) -> &Clock {
        &self.clock
    }

    /// A slot for one more chain.
    pub fn slot(&self, stream: &StreamId) -> Slot {
        let mut state = self.state.lock();
        state.in_flight.push(InFlight {
            stream: stream.clone(),
            first: None,
        });
        Slot(state.in_flight.len() - 1)
    }

    /// Gives `count` consecutive stamps, the first of which is returned, and puts the slot in flight.
    pub fn begin(&self, slot: Slot, count: u64) -> Result<Stamp, ClockSkew> {
        let mut state = self.state.lock();
        let now = self.clock.now();
        self.check(state.last, now)?;
        if let Some(ahead) = state.ahead {
            return Err(self.skew(ahead));
        }
        let first = Stamp::of(now).max(state.last.next());
        state.last = Stamp(first.0 + count - 1);
        state.in_flight[slot.0].first = Some(first);
        Ok(first)
    }

    /// The batch of the slot is published, or known not to be stored.
    pub fn settle(&self, slot: Slot) {
        self.state.lock().in_flight[slot.0].first = None;
    }

    /// Every later stamp is greater than `stamp`, which came from elsewhere.
    pub fn observe(&self, stamp: Stamp) -> Result<(), ClockSkew> {
        let mut state = self.state.lock();
        self.check(stamp, self.clock.now())?;
        state.last = state.last.max(stamp);
        Ok(())
    }

    /// Every later stamp is greater than `stamp`, whatever the clock says: the host has vouched for it. If
    /// that is too far ahead, the host gives no stamps until its clock has come near enough.
    pub fn follow(&self, stamp: Stamp) {
        let mut state = self.state.lock();
        state.last = state.last.max(stamp);
    }

    /// The latest stamp given or seen, moved on to now.
    pub fn now(&self) -> Stamp {
        self.state.lock().tick(self.clock.now())
    }

    /// The promise for the chain of a slot.
    pub fn promise(&self, slot: Slot) -> Stamp {
        let mut state = self.state.lock();
        let now = state.tick(self.clock.now());
        let free = state.in_flight[slot.0].first.map_or(now, before);
        free.min(state.limit)
    }

    /// The promise for all chains of a stream, whether the host still owns them or not.
    pub fn promise_for(&self, stream: &StreamId) -> Stamp {
        let mut state = self.state.lock();
        let now = state.tick(self.clock.now());
        let of_stream = state.in_flight.iter().filter(|flight| flight.stream == *stream);
        let first = of_stream.filter_map(|flight| flight.first).min();
        first.map_or(now, before).min(state.limit)
    }

    /// The promise for all chains of the host, not held to the limit: it is about to be made durable.
    pub fn promise_for_all(&self) -> Stamp {
        let mut state = self.state.lock();
        let now = state.tick(self.clock.now());
        let first = state.in_flight.iter().filter_map(|flight| flight.first).min();
        first.map_or(now, before)
    }

    /// The clock is ahead of all other hosts' by this much; no stamps are given if that is too much.
    pub fn be_ahead(&self, ahead: Duration) {
        self.state.lock().ahead = (ahead > self.skew_max).then_some(ahead);
    }

    /// Up to where promises may go.
    pub fn limit(&self) -> Stamp {
        self.state.lock().limit
    }

    /// The limit is durable in the host's beat.
    pub fn raise_limit(&self, limit: Stamp) {
        let mut state = self.state.lock();
        state.limit = state.limit.max(limit);
    }

    /// Whether the clock lags behind what the host has seen by more than is allowed.
    fn check(&self, seen: Stamp, now: Timestamp) -> Result<(), ClockSkew> {
        let off = seen.moment().since(now);
        if off <= self.skew_max {
            return Ok(());
        }
        Err(self.skew(off))
    }

    fn skew(&self, off: Duration) -> ClockSkew {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        ClockSkew {
            off_ms: millis(off),
            max_ms: millis(self.skew_max),
        }
    }
}

fn before(first: Stamp) -> Stamp {
    Stamp(first.0.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SKEW_MAX: Duration = Duration::from_secs(5);

    fn stream() -> StreamId {
        StreamId::new("orders", 2).unwrap()
    }

    fn clock() -> (Clock, HybridClock) {
        let wall = Clock::fake(Timestamp::from_micros(1_000_000));
        let hybrid = HybridClock::new(wall.clone(), SKEW_MAX);
        hybrid.raise_limit(Stamp(u64::MAX));
        (wall, hybrid)
    }

    #[test]
    fn stamps_follow_the_wall_clock_and_never_repeat() {
        let (wall, hybrid) = clock();
        let slot = hybrid.slot(&stream());
        let first = hybrid.begin(slot, 10).unwrap();
        assert_eq!(first.moment(), wall.now());
        assert_eq!(hybrid.begin(slot, 1).unwrap(), Stamp(first.0 + 10));
        wall.advance(Duration::from_micros(1));
        assert_eq!(hybrid.begin(slot, 1).unwrap(), Stamp::of(wall.now()));
    }

    #[test]
    fn what_was_seen_is_passed_and_too_much_is_refused() {
        let (wall, hybrid) = clock();
        let slot = hybrid.slot(&stream());
        let ahead = Stamp::of(wall.now().after(Duration::from_secs(3)));
        hybrid.observe(ahead).unwrap();
        assert_eq!(hybrid.begin(slot, 1).unwrap(), ahead.next());
        let skew = hybrid
            .observe(Stamp::of(wall.now().after(Duration::from_secs(6))))
            .unwrap_err();
        assert_eq!((skew.off_ms, skew.max_ms), (6_000, 5_000));
        assert_eq!(
            hybrid.begin(slot, 1).unwrap(),
            ahead.next().next(),
            "a refused stamp leaves no trace"
        );
    }

    #[test]
    fn a_host_that_follows_too_far_takes_itself_out() {
        let (wall, hybrid) = clock();
        let slot = hybrid.slot(&stream());
        let ahead = Stamp::of(wall.now().after(Duration::from_secs(6)));
        hybrid.follow(ahead);
        assert_eq!(hybrid.begin(slot, 1).unwrap_err().off_ms, 6_000);
        wall.advance(Duration::from_secs(1));
        assert_eq!(hybrid.begin(slot, 1).unwrap(), ahead.next());
        hybrid.be_ahead(Duration::from_secs(7));
        assert_eq!(hybrid.begin(slot, 1).unwrap_err().off_ms, 7_000);
        hybrid.be_ahead(Duration::ZERO);
        assert!(hybrid.begin(slot, 1).is_ok());
    }

    #[test]
    fn a_promise_stays_under_what_is_in_flight_and_under_later_stamps() {
        let (wall, hybrid) = clock();
        let (busy, idle) = (hybrid.slot(&stream()), hybrid.slot(&stream()));
        let first = hybrid.begin(busy, 5).unwrap();
        wall.advance(Duration::from_millis(1));
        assert_eq!(hybrid.promise(busy), Stamp(first.0 - 1));
        let promised = hybrid.promise(idle);
        assert_eq!(promised, Stamp::of(wall.now()));
        assert_eq!(hybrid.promise_for(&stream()), Stamp(first.0 - 1));
        assert!(hybrid.begin(idle, 1).unwrap() > promised);
        hybrid.settle(busy);
        assert!(hybrid.promise(busy) >= promised);
    }

    #[test]
    fn no_promise_passes_the_durable_limit() {
        let wall = Clock::fake(Timestamp::from_micros(1_000_000));
        let hybrid = HybridClock::new(wall.clone(), SKEW_MAX);
        let slot = hybrid.slot(&stream());
        assert_eq!(hybrid.promise(slot), Stamp(0));
        hybrid.raise_limit(Stamp(7));
        hybrid.raise_limit(Stamp(3));
        assert_eq!(hybrid.promise(slot), Stamp(7));
        assert_eq!(
            hybrid.promise_for_all(),
            Stamp::of(wall.now()),
            "control: not held to the limit"
        );
    }
}
