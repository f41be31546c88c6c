//! Growth by performance: what a host measures of its appends to a stream, and when it adds a chain. Pure.
//!
//! Measurements go into windows of `over` (10 s). At the end of a window in which the p99 of the latency,
//! the share of conflicts or the rate was above its limit, one chain is added; so there is at most one new
//! chain a window.

use std::time::Duration;

use bowline_foundation::clock::Monotonic;

use crate::config::Growth;

/// Bounds of the latency classes, in microseconds: doubling from 128 µs to 67 s.
const CLASSES: usize = 20;

/// What happened since the window began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    since: Option<Monotonic>,
    batches: u64,
    events: u64,
    conflicts: u64,
    latencies: [u64; CLASSES],
}

/// Why a chain is added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    Latency,
    Conflicts,
    Rate,
}

impl Load {
    /// A batch of so many events took so long.
    pub fn batch(&mut self, events: u64, took: Duration) {
        self.batches += 1;
        self.events += events;
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let class = (64 - (micros >> 7).leading_zeros()) as usize;
        self.latencies[class.min(CLASSES - 1)] += 1;
    }

    /// A batch was not stored because somebody else wrote first, or the store failed.
    pub fn conflict(&mut self) {
        self.conflicts += 1;
    }

    /// The upper bound of the class in which the p99 lies.
    pub fn latency_p99(&self) -> Duration {
        let above = self.batches / 100;
        let mut slower = 0;
        for class in (0..CLASSES).rev() {
            slower += self.latencies[class];
            if slower > above {
                return Duration::from_micros(128 << class);
            }
        }
        Duration::ZERO
    }

    /// Judges the window if it is over, and begins the next one.
    pub fn judge(&mut self, now: Monotonic, growth: &Growth) -> Option<Reason> {
        let Some(since) = self.since else {
            self.since = Some(now);
            return None;
        };
        let length = now.since(since);
        if length < growth.over {
            return None;
        }
        let reason = self.reason(length, growth);
        *self = Self {
            since: Some(now),
            ..Self::default()
        };
        reason
    }

    fn reason(&self, length: Duration, growth: &Growth) -> Option<Reason> {
        if self.batches == 0 {
            return None;
        }
        let rate = self.events as f64 / length.as_secs_f64();
        let conflicts = self.conflicts as f64 / self.batches as f64;
        // The class is at most twice the latency; half of its bound is a latency that was reached.
        if self.latency_p99() / 2 >= growth.latency_max {
            Some(Reason::Latency)
        } else if conflicts > growth.conflicts_max {
            Some(Reason::Conflicts)
        } else if rate > growth.events_per_second_max {
            Some(Reason::Rate)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn judged(fill: impl Fn(&mut Load)) -> Option<Reason> {
        let (mut load, begin) = (Load::default(), Monotonic::default());
        assert_eq!(load.judge(begin, &Growth::default()), None);
        fill(&mut load);
        assert_eq!(
            load.judge(begin.after(SECOND * 9), &Growth::default()),
            None,
            "the window is not over"
        );
        load.judge(begin.after(SECOND * 10), &Growth::default())
    }

    #[test]
    fn each_measure_above_its_limit_adds_a_chain() {
        let times = |count: usize, took: Duration| move |load: &mut Load| (0..count).for_each(|_| load.batch(1, took));
        assert_eq!(judged(|_| {}), None);
        assert_eq!(judged(times(1000, SECOND / 1000)), None);
        assert_eq!(judged(times(1000, SECOND / 5)), Some(Reason::Latency));
        assert_eq!(judged(|load| load.batch(600_000, SECOND / 1000)), Some(Reason::Rate));
        let conflicting = |load: &mut Load| {
            times(100, SECOND / 1000)(load);
            (0..6).for_each(|_| load.conflict());
        };
        assert_eq!(judged(conflicting), Some(Reason::Conflicts));
    }

    #[test]
    fn a_few_slow_batches_are_no_reason() {
        let slow = |count: u64| {
            judged(move |load| {
                (0..1000 - count).for_each(|_| load.batch(1, SECOND / 1000));
                (0..count).for_each(|_| load.batch(1, SECOND / 5));
            })
        };
        assert_eq!(slow(9), None);
        assert_eq!(slow(11), Some(Reason::Latency));
    }

    #[test]
    fn a_window_leaves_nothing_to_the_next() {
        let (mut load, begin) = (Load::default(), Monotonic::default());
        load.judge(begin, &Growth::default());
        load.batch(1, SECOND / 5);
        assert!(load.judge(begin.after(SECOND * 10), &Growth::default()).is_some());
        load.batch(1, SECOND / 1000);
        assert_eq!(load.judge(begin.after(SECOND * 20), &Growth::default()), None);
    }
}
