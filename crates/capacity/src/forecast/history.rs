//! Which slots of the last week had a call, one bit each; and how often lately.

use crate::slot::{SLOTS_PER_DAY, SLOTS_PER_WEEK, Slot};

/// A week, and a little more, so that the slot of a week ago is still there.
const WORDS: usize = 158;
const BITS: u32 = 64 * WORDS as u32;
/// Rates fade by these shares a slot: within some minutes, an hour, half a day, and three days.
const FADES: [f32; RATES] = [1.0 / 6.0, 1.0 / 45.0, 1.0 / 400.0, 1.0 / 4000.0];
/// How many rates there are.
pub const RATES: usize = 4;
/// Functions are told apart by their rate in the long run.
const DENSITIES: [f32; 4] = [0.002, 0.01, 0.05, 0.25];

/// The bits of the slots before now.
#[derive(Clone, Debug)]
pub struct History {
    bits: Box<[u64; WORDS]>,
    rates: [f32; RATES],
    watched: f32,
}

impl Default for History {
    fn default() -> Self {
        Self {
            bits: Box::new([0; WORDS]),
            rates: [0.0; RATES],
            watched: 0.0,
        }
    }
}

impl History {
    /// How many contexts [`History::recurrence`] has.
    pub const CONTEXTS: usize = 32 * (DENSITIES.len() + 1);

    /// The bits of the last week, the rates, and for how long it was watched, for whoever keeps them.
    pub fn parts(&self) -> (Vec<u64>, [f32; RATES], f32) {
        (self.bits.to_vec(), self.rates, self.watched)
    }

    /// Of parts that were kept; `None` if they are none.
    pub fn of(bits: &[u64], rates: [f32; RATES], watched: f32) -> Option<Self> {
        let bits = Box::new(<[u64; WORDS]>::try_from(bits).ok()?);
        let are_shares = rates.iter().all(|rate| (0.0..=1.0).contains(rate));
        let is_count = watched >= 0.0 && watched.is_finite();
        (are_shares && is_count).then_some(Self { bits, rates, watched })
    }

    /// Nobody watches the slots from `first` until `next`: they count as without a call, and say nothing of the rates.
    pub fn skip(&mut self, first: Slot, next: Slot) {
        for ahead in 0..next.since(first).min(BITS) {
            let (word, bit) = place(first.plus(ahead));
            self.bits[word] &= !bit;
        }
    }

    pub fn add(&mut self, slot: Slot, was_active: bool) {
        let (word, bit) = place(slot);
        self.bits[word] = self.bits[word] & !bit | if was_active { bit } else { 0 };
        let outcome = f32::from(u8::from(was_active));
        self.watched += 1.0;
        for (rate, fade) in self.rates.iter_mut().zip(FADES) {
            // At first a plain mean: what was not watched says nothing.
            *rate += (outcome - *rate) * fade.max(1.0 / (self.watched + 1.0));
        }
    }

    /// Whether `slot` had a call; only for slots of the last week before now.
    pub fn was_active(&self, slot: Slot) -> bool {
        let (word, bit) = place(slot);
        self.bits[word] & bit != 0
    }

    /// The rates, from the latest to the longest, once `ahead` slots without a call have passed.
    pub fn rates(&self, ahead: u32) -> [f32; RATES] {
        let ahead = i32::try_from(ahead).unwrap_or(i32::MAX);
        std::array::from_fn(|index| self.rates[index] * (1.0 - FADES[index]).powi(ahead))
    }

    /// The share of slots with a call in the long run.
    pub fn usual(&self) -> f32 {
        self.rates[RATES - 1]
    }

    /// The context of `slot` by what was at this time on the days before and a week ago.
    pub fn recurrence(&self, slot: Slot) -> usize {
        let yesterday = slot.minus(SLOTS_PER_DAY);
        let beside = [1, 2];
        let near = beside.iter().any(|by| self.was_active(yesterday.minus(*by)))
            || beside.iter().any(|by| self.was_active(yesterday.plus(*by)));
        let bits = [
            self.was_active(yesterday),
            near,
            self.was_active(slot.minus(2 * SLOTS_PER_DAY)),
            self.was_active(slot.minus(3 * SLOTS_PER_DAY)),
            self.was_active(slot.minus(SLOTS_PER_WEEK)),
        ];
        let pattern = bits.into_iter().fold(0, |sum, bit| 2 * sum + usize::from(bit));
        32 * self.density() + pattern
    }

    fn density(&self) -> usize {
        DENSITIES.partition_point(|bound| *bound < self.usual())
    }
}

fn place(slot: Slot) -> (usize, u64) {
    let at = slot.0 % BITS;
    ((at / 64) as usize, 1 << (at % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_week_before_is_remembered_and_no_more() {
        let mut history = History::default();
        for minute in 0..3 * SLOTS_PER_WEEK {
            history.add(Slot(minute), minute == 5 || minute == 2 * SLOTS_PER_WEEK + 5);
        }
        let now = Slot(3 * SLOTS_PER_WEEK + 5);
        assert!(history.was_active(now.minus(SLOTS_PER_WEEK)));
        assert_eq!(
            (1..SLOTS_PER_WEEK)
                .filter(|ago| history.was_active(now.minus(*ago)))
                .count(),
            0
        );
    }

    #[test]
    fn rates_tell_lately_from_usually() {
        let mut history = History::default();
        (0..5000).for_each(|minute| history.add(Slot(minute), minute >= 4970));
        let [latest, .., longest] = history.rates(0);
        assert!(latest > 0.9 && longest < 0.05, "{latest} {longest}");
        assert!(history.rates(30)[0] < 0.05, "half an hour of silence and it is over");
    }
}
