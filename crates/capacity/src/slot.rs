//! Time as the forecasts count it: minutes since the Unix epoch, in UTC.

use std::time::Duration;

use bowline_foundation::clock::Timestamp;
use serde::{Deserialize, Serialize};

/// Slots of an hour.
pub const SLOTS_PER_HOUR: u32 = 60;
/// Slots of a day.
pub const SLOTS_PER_DAY: u32 = 24 * SLOTS_PER_HOUR;
/// Slots of a week.
pub const SLOTS_PER_WEEK: u32 = 7 * SLOTS_PER_DAY;

/// One minute, by its number since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Slot(pub u32);

impl Slot {
    /// How long a slot is.
    pub const LENGTH: Duration = Duration::from_secs(60);

    /// The slot that `moment` lies in.
    pub fn of(moment: Timestamp) -> Self {
        let minutes = moment.as_millis() / 60_000;
        Self(u32::try_from(minutes).unwrap_or(u32::MAX))
    }

    /// When the slot begins.
    pub fn start(self) -> Timestamp {
        Timestamp::from_micros(u64::from(self.0) * 60_000_000)
    }

    /// The slot `count` slots later.
    pub const fn plus(self, count: u32) -> Self {
        Self(self.0.saturating_add(count))
    }

    /// The slot `count` slots earlier.
    pub const fn minus(self, count: u32) -> Self {
        Self(self.0.saturating_sub(count))
    }

    /// How many slots lie between `earlier` and this one; zero if it is not earlier.
    pub const fn since(self, earlier: Self) -> u32 {
        self.0.saturating_sub(earlier.0)
    }

    /// The hour of the day, `0..24`.
    pub const fn hour(self) -> usize {
        (self.0 % SLOTS_PER_DAY / SLOTS_PER_HOUR) as usize
    }

    /// The minute of the hour, `0..60`.
    pub const fn minute(self) -> u32 {
        self.0 % SLOTS_PER_HOUR
    }

    /// The minute of the week, which begins on Monday.
    pub const fn minute_of_week(self) -> u32 {
        // The epoch was a Thursday.
        (self.0 + 3 * SLOTS_PER_DAY) % SLOTS_PER_WEEK
    }

    /// Whether it lies on a Saturday or Sunday.
    pub const fn is_weekend(self) -> bool {
        self.minute_of_week() >= 5 * SLOTS_PER_DAY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_know_the_calendar() {
        // Friday, 20 November 2026, 23:24:39 UTC.
        let friday = Slot::of(Timestamp::from_micros(1_795_217_079_123_456));
        assert_eq!((friday.hour(), friday.minute(), friday.is_weekend()), (23, 24, false));
        assert!(friday.plus(SLOTS_PER_HOUR).is_weekend(), "an hour later it is Saturday");
        assert!(!friday.plus(3 * SLOTS_PER_DAY).is_weekend(), "and on Monday it is over");
        assert_eq!(Slot::of(friday.start()), friday);
    }
}
