//! Clocks that go on where they stood: never back, on whatever machine the guest is.

use std::time::Duration;

use bowline_foundation::clock::{Clock, Monotonic};

/// The two clocks of preview 1 that a guest has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    Wall,
    Monotonic,
}

/// A guest's clocks.
pub(super) struct Clocks {
    clock: Clock,
    /// When the guest began here.
    began: Monotonic,
    /// What the monotonic clock showed then.
    monotonic_base: u64,
    /// The latest reading of the wall clock.
    wall_floor: u64,
    /// How far the clocks run ahead: for so long the guest still has to wait.
    owed: Duration,
}

impl Clocks {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            began: clock.monotonic(),
            clock,
            monotonic_base: 0,
            wall_floor: 0,
            owed: Duration::ZERO,
        }
    }

    /// Goes on from what [`Self::save`] gave.
    pub(super) fn resume(&mut self, wall: u64, monotonic: u64, owed: u64) {
        self.began = self.clock.monotonic();
        self.wall_floor = wall;
        self.owed = Duration::from_nanos(owed);
        self.monotonic_base = monotonic;
    }

    /// The last reading of the wall clock, the monotonic clock without what is owed, and what is owed.
    pub(super) fn save(&self) -> (u64, u64, u64) {
        (self.wall_floor, self.elapsed(), nanos(self.owed))
    }

    /// A reading, in nanoseconds.
    pub(super) fn read(&mut self, which: Which) -> u64 {
        match which {
            Which::Monotonic => self.elapsed().saturating_add(nanos(self.owed)),
            Which::Wall => {
                let now = self.clock.now().as_micros().saturating_mul(1_000);
                self.wall_floor = self.wall_floor.max(now.saturating_add(nanos(self.owed)));
                self.wall_floor
            }
        }
    }

    fn elapsed(&self) -> u64 {
        let here = self.clock.monotonic().since(self.began);
        self.monotonic_base.saturating_add(nanos(here))
    }

    /// How long the guest still has to wait.
    pub(super) fn owed(&self) -> Duration {
        self.owed
    }

    /// Lets the guest go on as if it had waited.
    pub(super) fn owe(&mut self, wait: Duration) {
        self.owed = self.owed.saturating_add(wait);
    }

    /// The guest has waited for so long of what it owed.
    pub(super) fn pay(&mut self, waited: Duration) {
        self.owed = self.owed.saturating_sub(waited);
    }

    pub(super) fn now(&self) -> Monotonic {
        self.clock.monotonic()
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
