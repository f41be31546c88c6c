//! Declared schedules: the times at which calls are announced.

use serde::{Deserialize, Serialize};

use crate::slot::{SLOTS_PER_WEEK, Slot};

/// How sure an announced call is.
const ANNOUNCED: f32 = 0.98;

/// When a function will be called.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schedule {
    /// Nobody has said.
    #[default]
    None,
    /// Every so many minutes, of which one is `first`.
    Every { first: Slot, minutes: u32 },
    /// At these minutes of the week, which begins on Monday at midnight, UTC; ascending.
    Weekly { minutes: Vec<u32> },
}

/// A schedule that means nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    #[error("a schedule every `0` minutes never comes: give at least 1")]
    NoPeriod,
    #[error("minute `{0}` is not of a week: expected less than {SLOTS_PER_WEEK}")]
    NotOfWeek(u32),
}

impl Schedule {
    /// A call every `minutes` minutes, one of them at `first`.
    ///
    /// # Errors
    /// If `minutes` is nought.
    pub fn every(first: Slot, minutes: u32) -> Result<Self, ScheduleError> {
        if minutes == 0 {
            return Err(ScheduleError::NoPeriod);
        }
        Ok(Self::Every { first, minutes })
    }

    /// Calls at these minutes of the week.
    ///
    /// # Errors
    /// If a minute lies outside the week.
    pub fn weekly(mut minutes: Vec<u32>) -> Result<Self, ScheduleError> {
        if let Some(bad) = minutes.iter().find(|minute| **minute >= SLOTS_PER_WEEK) {
            return Err(ScheduleError::NotOfWeek(*bad));
        }
        minutes.sort_unstable();
        minutes.dedup();
        Ok(Self::Weekly { minutes })
    }

    /// The chance of a call in `slot`, nought where none is announced.
    pub fn chance(&self, slot: Slot) -> f32 {
        let is_due = match self {
            Self::None => false,
            Self::Every { first, minutes } => slot >= *first && slot.since(*first).is_multiple_of(*minutes),
            Self::Weekly { minutes } => minutes.binary_search(&slot.minute_of_week()).is_ok(),
        };
        if is_due { ANNOUNCED } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_announced_is_due_and_nothing_else() {
        let every = Schedule::every(Slot(7), 60).unwrap();
        assert!(every.chance(Slot(127)) > 0.9);
        assert_eq!(every.chance(Slot(126)).to_bits(), 0);
        let weekly = Schedule::weekly(vec![540, 540, 0]).unwrap();
        // The epoch was a Thursday: three days to go until a Monday is four days after it.
        assert!(weekly.chance(Slot(4 * 1440 + 540)) > 0.9);
        assert_eq!(weekly.chance(Slot(5 * 1440 + 540)).to_bits(), 0);
    }

    #[test]
    fn schedules_that_mean_nothing_are_refused() {
        assert_eq!(Schedule::every(Slot(0), 0), Err(ScheduleError::NoPeriod));
        assert_eq!(Schedule::weekly(vec![10_080]), Err(ScheduleError::NotOfWeek(10_080)));
    }
}
