//! The hour of the day and the day of the week: when a function is usually called.

use crate::slot::{SLOTS_PER_HOUR, Slot};

const HOURS: usize = 24;
/// What one day leaves of the days before it.
const FADE: f32 = 0.85;
/// How much each hour tells of its neighbours, by their distance.
const KERNEL: [f32; 4] = [4.0, 3.0, 2.0, 1.0];
/// How many slots the opinion of the other days, and of the long run, weighs.
const PRIOR_SLOTS: f32 = 200.0;

/// For one hour: slots with a call, and slots that were watched.
#[derive(Clone, Copy, Debug, Default)]
struct Hour {
    active: f32,
    seen: f32,
}

/// Working days and weekends, each by the hour.
#[derive(Clone, Debug, Default)]
pub struct Season {
    hours: [[Hour; HOURS]; 2],
    /// The hour that is being watched.
    open: Hour,
}

impl Hour {
    fn parts(self) -> [f32; 2] {
        [self.active, self.seen]
    }

    fn of([active, seen]: [f32; 2]) -> Option<Self> {
        let is_share = active >= 0.0 && active <= seen && seen.is_finite();
        is_share.then_some(Self { active, seen })
    }
}

impl Season {
    /// The hours of working days, those of weekends, and the one that is being watched, for whoever keeps them.
    pub fn parts(&self) -> Vec<[f32; 2]> {
        let hours = self.hours.iter().flatten().copied();
        hours.chain([self.open]).map(Hour::parts).collect()
    }

    /// Of parts that were kept; `None` if they are none.
    pub fn of(kept: &[[f32; 2]]) -> Option<Self> {
        let (open, kept) = kept.split_last()?;
        if kept.len() != 2 * HOURS {
            return None;
        }
        let mut hours = [[Hour::default(); HOURS]; 2];
        for (hour, kept) in hours.iter_mut().flatten().zip(kept) {
            *hour = Hour::of(*kept)?;
        }
        Some(Self {
            hours,
            open: Hour::of(*open)?,
        })
    }

    /// Nobody watches the slots from `first` until `next`.
    pub fn skip(&mut self, first: Slot, next: Slot) {
        if next.since(first) >= SLOTS_PER_HOUR || next.hour() != first.hour() {
            self.close(first.minus(1));
        }
    }

    /// Takes note of a slot; `was_active` says whether there was a call.
    pub fn add(&mut self, slot: Slot, was_active: bool) {
        self.open.active += f32::from(u8::from(was_active));
        self.open.seen += 1.0;
        if slot.plus(1).hour() != slot.hour() {
            self.close(slot);
        }
    }

    /// The hour of `slot` is over.
    fn close(&mut self, slot: Slot) {
        let hour = &mut self.hours[usize::from(slot.is_weekend())][slot.hour()];
        hour.active = FADE * hour.active + self.open.active;
        hour.seen = FADE * hour.seen + self.open.seen;
        self.open = Hour::default();
    }

    /// The chance of a call in a slot of the hour of `slot`; `usual` is the chance in the long run.
    pub fn chance(&self, slot: Slot, usual: f32) -> f32 {
        let day = usize::from(slot.is_weekend());
        let other = self.around(1 - day, slot.hour());
        let pooled = (other.active + PRIOR_SLOTS * usual) / (other.seen + PRIOR_SLOTS);
        let own = self.around(day, slot.hour());
        (own.active + PRIOR_SLOTS * pooled) / (own.seen + PRIOR_SLOTS)
    }

    fn around(&self, day: usize, hour: usize) -> Hour {
        let mut sum = Hour::default();
        for (distance, weight) in KERNEL.into_iter().enumerate() {
            let sides = [(hour + distance) % HOURS, (hour + HOURS - distance) % HOURS];
            let sides = if distance == 0 { &sides[..1] } else { &sides[..] };
            for side in sides {
                let there = self.hours[day][*side];
                sum.active += weight * there.active / KERNEL[0];
                sum.seen += weight * there.seen / KERNEL[0];
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slot::SLOTS_PER_DAY;

    #[test]
    fn a_busy_morning_is_expected_the_next_morning() {
        let mut season = Season::default();
        for minute in 0..5 * SLOTS_PER_DAY {
            let slot = Slot(minute);
            season.add(slot, slot.hour() == 9);
        }
        let next = Slot(7 * SLOTS_PER_DAY);
        let chance = |hour: u32| season.chance(next.plus(hour * 60), 0.04);
        assert!(chance(9) > 5.0 * chance(3), "{} {}", chance(9), chance(3));
    }

    #[test]
    fn weekends_are_apart_from_working_days() {
        let mut season = Season::default();
        for minute in 0..28 * SLOTS_PER_DAY {
            let slot = Slot(minute);
            season.add(slot, !slot.is_weekend());
        }
        let monday = Slot(4 * SLOTS_PER_DAY).plus(600);
        let sunday = Slot(3 * SLOTS_PER_DAY).plus(600);
        assert!(sunday.is_weekend() && !monday.is_weekend());
        assert!(season.chance(monday, 0.5) > 0.8);
        assert!(season.chance(sunday, 0.5) < 0.3);
    }
}
