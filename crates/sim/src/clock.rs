//! A host's clock: off by some time, drifting, and now and then stepped.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bowline_foundation::clock::{TimeSource, Timestamp};
use tokio::time::Instant;

/// When every simulation begins, in microseconds since the Unix epoch.
const BEGIN_MICROS: u64 = 1_800_000_000_000_000;

/// Time as one host sees it; it follows the paused time of the runtime.
#[derive(Debug)]
pub struct SimClock {
    origin: Instant,
    /// Parts in a million by which the clock runs fast.
    drift_ppm: i64,
    offset_micros: AtomicI64,
}

impl SimClock {
    /// A clock that is off by `offset_micros` and runs fast by `drift_ppm`.
    pub fn new(offset_micros: i64, drift_ppm: i64) -> Self {
        Self {
            origin: Instant::now(),
            drift_ppm,
            offset_micros: AtomicI64::new(offset_micros),
        }
    }

    /// A clock as this one would be after a restart of its host.
    pub fn restarted(&self) -> Self {
        Self {
            origin: self.origin,
            drift_ppm: self.drift_ppm,
            offset_micros: AtomicI64::new(self.offset_micros.load(Ordering::Relaxed)),
        }
    }

    /// Sets how far the wall clock is off.
    pub fn step_to(&self, offset_micros: i64) {
        self.offset_micros.store(offset_micros, Ordering::Relaxed);
    }

    fn elapsed_micros(&self) -> i64 {
        let elapsed = i64::try_from(self.origin.elapsed().as_micros()).unwrap_or(i64::MAX);
        elapsed + elapsed / 1_000_000 * self.drift_ppm
    }
}

impl TimeSource for SimClock {
    fn now(&self) -> Timestamp {
        let off = self.elapsed_micros() + self.offset_micros.load(Ordering::Relaxed);
        Timestamp::from_micros(BEGIN_MICROS.saturating_add_signed(off))
    }

    fn monotonic(&self) -> Duration {
        Duration::from_micros(self.elapsed_micros().unsigned_abs())
    }
}
