//! Exact rhythms: timers, whose gap repeats itself.

/// Gaps are told apart by size, for a gap of one slot repeats itself in every busy function.
const SIZES: [u32; 6] = [1, 3, 9, 29, 119, u32::MAX];
/// Confirmations are counted up to this.
const CONFIRMED_MAX: u8 = 5;
const PLACES: usize = 5;

/// The last gap, and how many times in a row it has been the same.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rhythm {
    gap: u32,
    confirmed: u8,
    /// What the gap was before it last changed, and so the other beat of a rhythm that was missed once.
    former: u32,
}

impl Rhythm {
    /// How many contexts [`Rhythm::context`] has.
    pub const CONTEXTS: usize = 2 * SIZES.len() * (CONFIRMED_MAX as usize + 1) * PLACES + 1;

    /// The gap, the one before, and how often it was confirmed, for whoever keeps them.
    pub fn parts(&self) -> [u32; 3] {
        [self.gap, self.former, self.confirmed.into()]
    }

    /// Of parts that were kept; `None` if they are none.
    pub fn of([gap, former, confirmed]: [u32; 3]) -> Option<Self> {
        let confirmed = u8::try_from(confirmed).ok().filter(|times| *times <= CONFIRMED_MAX)?;
        Some(Self { gap, confirmed, former })
    }

    pub fn add(&mut self, gap: u32) {
        if gap == self.gap {
            self.confirmed = (self.confirmed + 1).min(CONFIRMED_MAX);
        } else if gap == self.former {
            (self.gap, self.former, self.confirmed) = (gap, self.gap, 1);
        } else {
            (self.gap, self.former, self.confirmed) = (gap, self.gap, 0);
        }
    }

    /// The context of a slot that lies `age` after the last call.
    pub fn context(&self, age: u32, is_timer: bool) -> usize {
        if self.gap == 0 {
            return Self::CONTEXTS - 1;
        }
        let place = match age {
            age if age == self.gap => 0,
            age if age < self.gap => 1,
            age if age.is_multiple_of(self.gap) => 2,
            age if age == self.gap + 1 => 3,
            _ => 4,
        };
        let size = SIZES.partition_point(|upper| *upper < self.gap);
        let confirmed = usize::from(self.confirmed);
        let kind = usize::from(is_timer);
        ((kind * SIZES.len() + size) * (usize::from(CONFIRMED_MAX) + 1) + confirmed) * PLACES + place
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_that_repeats_itself_is_due_again() {
        let mut rhythm = Rhythm::default();
        (0..3).for_each(|_| rhythm.add(60));
        assert_ne!(rhythm.context(60, false), rhythm.context(59, false));
        assert_ne!(rhythm.context(60, false), rhythm.context(60, true));
        assert_eq!(rhythm.context(30, false), rhythm.context(20, false));
    }

    #[test]
    fn one_missed_beat_does_not_end_a_rhythm() {
        let mut rhythm = Rhythm::default();
        [60, 60, 60, 120, 60].into_iter().for_each(|gap| rhythm.add(gap));
        assert_eq!((rhythm.gap, rhythm.confirmed), (60, 1));
    }

    #[test]
    fn every_context_is_within_its_bounds() {
        for gap in [1, 2, 5, 15, 60, 1440, u32::MAX - 1] {
            for age in [1, gap - 1, gap, gap + 1] {
                let mut rhythm = Rhythm::default();
                (0..9).for_each(|_| rhythm.add(gap));
                assert!(rhythm.context(age, true) < Rhythm::CONTEXTS);
            }
        }
    }
}
