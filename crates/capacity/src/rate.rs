//! How many requests come: counts in buckets of time, for everything together and for each code and owner.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bowline_foundation::clock::Timestamp;
use serde::{Deserialize, Serialize};

use crate::identity::{Code, Owner};

/// How finely time is cut, and for how long counts are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    pub bucket_seconds: u64,
    pub buckets: u64,
}

impl Default for Window {
    /// Five minutes, in buckets of ten seconds.
    fn default() -> Self {
        Self {
            bucket_seconds: 10,
            buckets: 30,
        }
    }
}

impl Window {
    /// The number of the bucket of `now`.
    pub fn bucket(&self, now: Timestamp) -> u64 {
        now.as_millis() / 1000 / self.bucket_seconds
    }

    /// The share of the bucket of `now` that is still to come.
    fn left(&self, now: Timestamp) -> f64 {
        let bucket = self.bucket_seconds * 1000;
        1.0 - to_f64(now.as_millis() % bucket) / to_f64(bucket)
    }

    /// How long the whole window is.
    pub fn length(&self) -> Duration {
        Duration::from_secs(self.bucket_seconds * self.buckets)
    }
}

/// Counts of the latest buckets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// A bucket's number and its count, oldest first; buckets without requests are left out.
    latest: VecDeque<(u64, u64)>,
    /// Since the beginning.
    total: u64,
}

impl Counts {
    pub fn add(&mut self, window: &Window, now: Timestamp) {
        self.add_many(window, 1, now);
    }

    /// So many at once, all counted in the bucket of `now`.
    pub fn add_many(&mut self, window: &Window, many: u64, now: Timestamp) {
        let bucket = window.bucket(now);
        self.total = self.total.saturating_add(many);
        match self.latest.back_mut() {
            Some((last, count)) if *last >= bucket => *count = count.saturating_add(many),
            _ => self.latest.push_back((bucket, many)),
        }
        while self
            .latest
            .front()
            .is_some_and(|(first, _)| first + window.buckets < bucket)
        {
            self.latest.pop_front();
        }
    }

    /// All requests there were.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Requests in the window that ends now, rounded down.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is a count that has lost its fraction"
    )]
    pub fn within(&self, window: &Window, now: Timestamp) -> u64 {
        self.requests(window, now) as u64
    }

    /// Requests in the window that ends now: those of the bucket in which it begins count as far as it covers that one. Without
    /// them a steady rate would seem to fall whenever a bucket begins, to nought where the window is one bucket.
    fn requests(&self, window: &Window, now: Timestamp) -> f64 {
        let whole: u64 = self
            .buckets(window, now)
            .map(|(_, count)| count)
            .fold(0, u64::saturating_add);
        let first = window.bucket(now).checked_sub(window.buckets);
        let begun = self.latest.iter().find(|(at, _)| Some(*at) == first);
        to_f64(whole) + begun.map_or(0.0, |(_, count)| to_f64(*count) * window.left(now))
    }

    /// Whether they are such as are counted here: buckets in their order, no more of them than `max`.
    pub fn are_in_order(&self, max: u64) -> bool {
        let pairs = self.latest.iter().zip(self.latest.iter().skip(1));
        self.latest.len() as u64 <= max && pairs.into_iter().all(|((earlier, _), (later, _))| earlier < later)
    }

    /// Requests a second over the window.
    pub fn rate(&self, window: &Window, now: Timestamp) -> f64 {
        self.requests(window, now) / window.length().as_secs_f64()
    }

    /// The counts of the window's latest buckets that have any, oldest first; that of `now` is one of them.
    pub fn buckets(&self, window: &Window, now: Timestamp) -> impl Iterator<Item = (u64, u64)> + '_ {
        let (bucket, buckets) = (window.bucket(now), window.buckets);
        let latest = self.latest.iter().copied();
        latest.filter(move |(at, _)| *at <= bucket && at + buckets > bucket)
    }
}

/// Watches all requests; each names its code and its owner.
#[derive(Clone, Debug, Default)]
pub struct RateMonitor {
    window: Window,
    all: Counts,
    codes: BTreeMap<Code, Counts>,
    owners: BTreeMap<Owner, Counts>,
}

impl RateMonitor {
    pub fn new(window: Window) -> Self {
        Self {
            window,
            ..Self::default()
        }
    }

    pub fn arrived(&mut self, code: Code, owner: Owner, now: Timestamp) {
        self.all.add(&self.window, now);
        self.codes.entry(code).or_default().add(&self.window, now);
        self.owners.entry(owner).or_default().add(&self.window, now);
    }

    /// Requests a second, all together.
    pub fn rate(&self, now: Timestamp) -> f64 {
        self.all.rate(&self.window, now)
    }

    pub fn rate_of(&self, code: Code, now: Timestamp) -> f64 {
        self.codes
            .get(&code)
            .map_or(0.0, |counts| counts.rate(&self.window, now))
    }

    pub fn rate_for(&self, owner: Owner, now: Timestamp) -> f64 {
        self.owners
            .get(&owner)
            .map_or(0.0, |counts| counts.rate(&self.window, now))
    }

    pub fn all(&self) -> &Counts {
        &self.all
    }

    pub fn codes(&self) -> impl Iterator<Item = (Code, &Counts)> {
        self.codes.iter().map(|(code, counts)| (*code, counts))
    }

    /// Forgets codes and owners without requests in the window, whose counts would pile up for ever.
    pub fn forget_idle(&mut self, now: Timestamp) {
        let window = self.window;
        self.codes.retain(|_, counts| counts.within(&window, now) > 0);
        self.owners.retain(|_, counts| counts.within(&window, now) > 0);
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
pub(crate) fn to_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(seconds: u64) -> Timestamp {
        Timestamp::from_micros(seconds * 1_000_000)
    }

    /// 04/T-D9: every arrival has a code, and the counts of the codes sum to the count of all.
    #[test]
    fn t_d9_the_counts_of_codes_sum_to_the_count_of_all() {
        let mut monitor = RateMonitor::default();
        for step in 0..5000u64 {
            monitor.arrived(Code(step * step % 17), Owner(step % 3), second(1000 + step / 7));
        }
        let sum: u64 = monitor.codes().map(|(_, counts)| counts.total()).sum();
        assert_eq!((sum, monitor.all().total()), (5000, 5000));
        let now = second(1000 + 5000 / 7);
        let rates: f64 = (0..17).map(|code| monitor.rate_of(Code(code), now)).sum();
        assert!((rates - monitor.rate(now)).abs() < 1e-9);
        let rates: f64 = (0..3).map(|owner| monitor.rate_for(Owner(owner), now)).sum();
        assert!((rates - monitor.rate(now)).abs() < 1e-9);
    }

    #[test]
    fn what_lies_before_the_window_is_forgotten() {
        let mut monitor = RateMonitor::default();
        (0..300).for_each(|_| monitor.arrived(Code(1), Owner(1), second(1000)));
        assert!((monitor.rate(second(1000)) - 1.0).abs() < 1e-9);
        assert!(
            (monitor.rate(second(1300)) - 1.0).abs() < 1e-9,
            "they came within the last five minutes"
        );
        assert!(
            (monitor.rate(second(1305)) - 0.5).abs() < 1e-9,
            "half of their bucket lies before"
        );
        assert_eq!(monitor.rate(second(1310)).to_bits(), 0);
        monitor.forget_idle(second(1310));
        assert_eq!(monitor.codes().count(), 0);
    }

    #[test]
    fn a_steady_rate_is_steady_however_few_buckets_there_are() {
        for buckets in [1, 2, 30] {
            let window = Window {
                bucket_seconds: 10,
                buckets,
            };
            let (mut counts, began) = (Counts::default(), 10 * (buckets + 1));
            for at in 0..2 * began {
                counts.add_many(&window, 4, second(at));
                if at >= began {
                    let rate = counts.rate(&window, second(at));
                    assert!(
                        (rate - 4.0).abs() <= 0.4 + 1e-9,
                        "{rate} a second at {at} with {buckets} buckets"
                    );
                }
            }
        }
    }
}
