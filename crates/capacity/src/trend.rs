//! Where the requests are heading: the current rate, its slope, what this time of the week usually
//! brings, and what users have announced.

use std::time::Duration;

use bowline_foundation::clock::Timestamp;
use serde::{Deserialize, Serialize};

use crate::rate::{Counts, Window, to_f64};
use crate::slot::{SLOTS_PER_DAY, SLOTS_PER_WEEK, Slot};

/// What the latest day, or week, counts for in the mean of its kind.
const FADE: f32 = 0.4;

/// Requests that a user has announced.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Planned {
    pub from: Timestamp,
    pub until: Timestamp,
    /// Requests a second.
    pub rate: f64,
}

/// Which forecasts count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sources {
    pub slope: bool,
    pub season: bool,
    pub plans: bool,
}

impl Sources {
    pub const ALL: Self = Self {
        slope: true,
        season: true,
        plans: true,
    };
    /// The current rate alone.
    pub const REACTIVE: Self = Self {
        slope: false,
        season: false,
        plans: false,
    };
}

/// Learns the rate of requests and says what it will be.
#[derive(Clone, Debug)]
pub struct Trend {
    window: Window,
    counts: Counts,
    slot: Slot,
    in_slot: u64,
    /// Requests a minute by the minute of the week and of the day; negative where none was seen yet.
    week: Vec<f32>,
    day: Vec<f32>,
    plans: Vec<Planned>,
}

impl Trend {
    pub fn new(now: Timestamp) -> Self {
        Self {
            window: Window {
                bucket_seconds: 5,
                buckets: 12,
            },
            counts: Counts::default(),
            slot: Slot::of(now),
            in_slot: 0,
            week: vec![-1.0; SLOTS_PER_WEEK as usize],
            day: vec![-1.0; SLOTS_PER_DAY as usize],
            plans: Vec::new(),
        }
    }

    /// Announces requests; what has passed is forgotten.
    pub fn plan(&mut self, planned: Planned, now: Timestamp) {
        self.plans.retain(|plan| plan.until > now);
        self.plans.push(planned);
    }

    /// One request.
    pub fn arrived(&mut self, now: Timestamp) {
        self.pass(now);
        self.counts.add(&self.window, now);
        self.in_slot += 1;
    }

    /// Lets time pass; minutes without a request teach as well.
    pub fn pass(&mut self, now: Timestamp) {
        let slot = Slot::of(now);
        if slot.since(self.slot) > SLOTS_PER_DAY {
            // Nobody watched for so long; that says nothing about the minutes between.
            (self.slot, self.in_slot) = (slot, 0);
        }
        while self.slot < slot {
            #[allow(clippy::cast_precision_loss, reason = "a mean needs no more")]
            let count = self.in_slot as f32;
            let week = &mut self.week[self.slot.minute_of_week() as usize];
            let day = &mut self.day[(self.slot.0 % SLOTS_PER_DAY) as usize];
            for mean in [week, day] {
                *mean = if *mean < 0.0 {
                    count
                } else {
                    *mean + FADE * (count - *mean)
                };
            }
            (self.slot, self.in_slot) = (self.slot.plus(1), 0);
        }
    }

    /// Requests a second over the last minute.
    pub fn current(&self, now: Timestamp) -> f64 {
        self.counts.rate(&self.window, now)
    }

    /// By how much the rate grows in a second: a line laid through the last minute's buckets.
    pub fn slope(&self, now: Timestamp) -> f64 {
        let last = self.window.bucket(now);
        let first = (last + 1).saturating_sub(self.window.buckets);
        let mut sums = [0.0; 4];
        for (at, bucket) in (first..last).enumerate() {
            let mut counts = self.counts.buckets(&self.window, now);
            let count = counts.find(|(found, _)| *found == bucket).map_or(0, |(_, count)| count);
            let (x, y) = (to_f64(at as u64), to_f64(count) / to_f64(self.window.bucket_seconds));
            [x, y, x * x, x * y]
                .iter()
                .zip(&mut sums)
                .for_each(|(add, sum)| *sum += add);
        }
        let (n, [x, y, xx, xy]) = (to_f64(last - first), sums);
        let spread = n * xx - x * x;
        if spread > 0.0 {
            (n * xy - x * y) / spread / to_f64(self.window.bucket_seconds)
        } else {
            0.0
        }
    }

    /// Requests a second at the same time of the week, or of the day where no week has passed yet.
    pub fn seasonal(&self, slot: Slot) -> f64 {
        let week = self.week[slot.minute_of_week() as usize];
        let day = self.day[(slot.0 % SLOTS_PER_DAY) as usize];
        let minute = if week >= 0.0 { week } else { day };
        f64::from(minute.max(0.0)) / 60.0
    }

    /// The highest rate to be expected from now to `ahead` from now.
    pub fn expected(&self, now: Timestamp, ahead: Duration, sources: Sources) -> f64 {
        let end = now.after(ahead);
        let mut rate = self.current(now);
        if sources.slope {
            rate = rate.max(rate + self.slope(now) * ahead.as_secs_f64());
        }
        if sources.season {
            let slots = Slot::of(end).since(Slot::of(now));
            let coming = (0..=slots.min(SLOTS_PER_DAY)).map(|by| self.seasonal(Slot::of(now).plus(by)));
            rate = coming.fold(rate, f64::max);
        }
        if sources.plans {
            let due = self.plans.iter().filter(|plan| plan.from <= end && plan.until > now);
            rate = due.map(|plan| plan.rate).fold(rate, f64::max);
        }
        rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(seconds: u64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn a_rising_rate_is_continued_over_the_boot_time() {
        let (mut trend, start) = (Trend::new(second(60_000)), 60_000);
        // From nought to ten requests a second within a minute.
        for at in 0..60u64 {
            (0..at / 6).for_each(|_| trend.arrived(second(start + at)));
        }
        let now = second(start + 60);
        let slope = trend.slope(now);
        assert!((0.12..0.22).contains(&slope), "{slope} a second each second");
        let (ahead, reactive) = (Duration::from_secs(30), trend.current(now));
        assert!(trend.expected(now, ahead, Sources::ALL) > reactive + 3.0);
        assert!((trend.expected(now, ahead, Sources::REACTIVE) - reactive).abs() < 1e-9);
    }

    #[test]
    fn a_falling_rate_is_not_continued_below_what_is() {
        let mut trend = Trend::new(second(60_000));
        for at in 0..60u64 {
            (0..(60 - at) / 6).for_each(|_| trend.arrived(second(60_000 + at)));
        }
        let now = second(60_060);
        assert!(trend.slope(now) < -0.1);
        let expected = trend.expected(now, Duration::from_secs(30), Sources::ALL);
        assert!((expected - trend.current(now)).abs() < 1e-9);
    }

    #[test]
    fn last_weeks_minutes_are_expected_again() {
        let mut trend = Trend::new(second(0));
        let nine = 9 * 3600;
        for day in 0..8u64 {
            (0..1200).for_each(|step| trend.arrived(second(day * 86_400 + nine + step / 10)));
        }
        let morning = second(8 * 86_400 + nine - 120);
        trend.pass(morning);
        let at = |ahead: u64| trend.expected(morning, Duration::from_secs(ahead), Sources::ALL);
        assert!(at(30) < 0.1 && at(150) > 9.0, "{} {}", at(30), at(150));
    }
}
