//! The hybrid histogram policy of the literature (Shahrad et al., "Serverless in the Wild", 2020).
//!
//! Each function has a histogram of its idle times in bins of a minute over a bounded range. If the
//! histogram is representative, the function is unloaded after its run, loaded again a little before
//! the head of the histogram, and kept to a little beyond its tail. If most idle times lie beyond the
//! range, a time series model forecasts the next one. Otherwise, and at first, it is kept for the whole
//! range. The published policy works on applications; here each function is one.

use super::arima;
use crate::score::{Score, Tally, to_f64};
use crate::trace::{Function, Trace};

/// The head and the tail of the histogram, as percentiles.
const HEAD: f64 = 0.05;
const TAIL: f64 = 0.99;
/// Both windows are widened by this share.
const MARGIN: f64 = 0.1;
/// A histogram whose counts vary less than this, as standard deviation by mean, is not representative.
const VARIATION_MIN: f64 = 2.0;
/// With fewer idle times than these nothing is learned.
const TIMES_MIN: u64 = 5;
/// If more than this share lies out of range, the time series decides.
const OUT_OF_RANGE_MAX: f64 = 0.5;
/// The margin of the time series' forecast, to both sides.
const SERIES_MARGIN: f64 = 0.15;

/// Runs the policy with a histogram over `range` minutes.
pub fn hybrid(trace: &Trace, range: u32) -> Score {
    let mut tally = Tally::new(trace.functions.len());
    for (index, function) in trace.functions.iter().enumerate() {
        replay(trace, function, index, range, &mut tally);
    }
    tally.score("hybrid histogram", f64::from(range), trace)
}

fn replay(trace: &Trace, function: &Function, index: usize, range: u32, tally: &mut Tally) {
    let Some(first) = function.minutes.first() else { return };
    tally.cold(index);
    let mut times = Times::new(range);
    let end = trace.minutes();
    let (mut last, units) = (*first, function.units());
    for now in function.minutes.iter().skip(1).copied().chain([end]) {
        let idle = function.idle_between(last, now);
        let window = times.window();
        if idle > 0 {
            let loaded = idle.min(window.until).saturating_sub(window.from);
            tally.waste(f64::from(loaded), units);
            if window.from > 0 && idle >= window.from {
                tally.start_ahead(units);
            }
        }
        if now < end {
            let is_warm = idle == 0 || (window.from <= idle && idle < window.until);
            if !is_warm {
                tally.cold(index);
            }
            times.add(idle);
            last = now;
        }
    }
}

/// From and until which idle minute the function is loaded; the call after `n` idle minutes finds it
/// loaded if `from <= n < until`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Window {
    from: u32,
    until: u32,
}

struct Times {
    range: u32,
    bins: Vec<u32>,
    in_range: u64,
    out_of_range: u64,
    /// All times, for the time series.
    series: Vec<f64>,
}

impl Times {
    fn new(range: u32) -> Self {
        Self {
            range,
            bins: vec![0; range as usize],
            in_range: 0,
            out_of_range: 0,
            series: Vec::new(),
        }
    }

    fn add(&mut self, idle: u32) {
        self.series.push(f64::from(idle));
        match self.bins.get_mut(idle as usize) {
            Some(bin) => {
                *bin += 1;
                self.in_range += 1;
            }
            None => self.out_of_range += 1,
        }
    }

    fn window(&self) -> Window {
        let whole_range = Window {
            from: 0,
            until: self.range,
        };
        let all = self.in_range + self.out_of_range;
        if all < TIMES_MIN {
            return whole_range;
        }
        if to_f64(self.out_of_range) > OUT_OF_RANGE_MAX * to_f64(all) {
            return self.forecast().unwrap_or(whole_range);
        }
        if self.variation() < VARIATION_MIN {
            return whole_range;
        }
        let from = whole(f64::from(self.percentile(HEAD)) * (1.0 - MARGIN));
        let until = whole((f64::from(self.percentile(TAIL) + 1) * (1.0 + MARGIN)).ceil());
        Window {
            from,
            until: until.max(from + 1),
        }
    }

    fn forecast(&self) -> Option<Window> {
        let next = arima::forecast(&self.series)?.max(1.0);
        let from = whole(next * (1.0 - SERIES_MARGIN));
        let until = whole((next * (1.0 + SERIES_MARGIN)).ceil()) + 1;
        Some(Window { from, until })
    }

    /// The bin below which this share of the times in range lies.
    fn percentile(&self, share: f64) -> u32 {
        let wanted = share * to_f64(self.in_range);
        let mut sum = 0.0;
        let found = self.bins.iter().position(|bin| {
            sum += f64::from(*bin);
            sum >= wanted
        });
        u32::try_from(found.unwrap_or_default()).unwrap_or(self.range)
    }

    /// The coefficient of variation of the bins' counts.
    fn variation(&self) -> f64 {
        let bins = f64::from(self.range);
        let mean = to_f64(self.in_range) / bins;
        let squares: f64 = self.bins.iter().map(|bin| (f64::from(*bin) - mean).powi(2)).sum();
        if mean > 0.0 {
            (squares / bins).sqrt() / mean
        } else {
            0.0
        }
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "minutes, and never negative"
)]
fn whole(minutes: f64) -> u32 {
    minutes.clamp(0.0, 1e6) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use bowline_capacity::forecast::Trigger;

    fn window_after(idle: &[u32]) -> Window {
        let mut times = Times::new(240);
        idle.iter().for_each(|idle| times.add(*idle));
        times.window()
    }

    #[test]
    fn it_keeps_the_whole_range_until_it_knows_better() {
        assert_eq!(window_after(&[30; 3]), Window { from: 0, until: 240 });
        let evenly: Vec<u32> = (0..240).collect();
        assert_eq!(
            window_after(&evenly),
            Window { from: 0, until: 240 },
            "not representative"
        );
    }

    #[test]
    fn a_narrow_histogram_unloads_and_loads_again() {
        let window = window_after(&[59; 20]);
        assert_eq!(window, Window { from: 53, until: 66 });
    }

    #[test]
    fn times_out_of_range_are_forecast() {
        let window = window_after(&[999; 20]);
        assert!(
            window.from < 999 && 999 < window.until && window.from > 800,
            "{window:?}"
        );
    }

    #[test]
    fn a_timer_costs_it_one_cold_start_and_the_margins() {
        let mut function = Function::new(Trigger::Timer);
        function.minutes = (0..24).map(|hour| hour * 60).collect();
        function.invocations = 24;
        let trace = Trace {
            days: 1,
            functions: vec![function],
            ..Trace::default()
        };
        let score = hybrid(&trace, 240);
        assert!((score.cold - 1.0).abs() < 1e-9, "{score:?}");
        // Five hours are kept whole while it learns, then six minutes before each call.
        let expected = 5.0 * 59.0 + 18.0 * 6.0 + 19.0 * crate::score::START_MINUTES + 6.0;
        assert!(
            (score.wasted_minutes - expected).abs() < 10.0,
            "{score:?}, not {expected}"
        );
    }
}
