//! Our own policy, at many prices at once, and as the keeper itself runs it.

use bowline_capacity::forecast::{Forecaster, FunctionIndex};
use bowline_capacity::keeper::{Keeper, Terms, worth};
use bowline_capacity::slot::Slot;

use crate::score::{Score, Tally};
use crate::trace::{Function, Trace};

/// The first minute of a trace: a Monday.
const START: Slot = Slot(4 * 1440);

/// How many prices a curve has, and the ends between which they lie.
const PRICES: i32 = 40;
const PRICE_MIN: f32 = 0.0004;
const PRICE_MAX: f32 = 0.7;

/// The prices of a curve, ascending, each by the same factor higher than the one before.
pub fn prices() -> Vec<f32> {
    let step = (PRICE_MAX / PRICE_MIN).powf(1.0 / 39.0);
    (0..PRICES).map(|power| PRICE_MIN * step.powi(power)).collect()
}

/// Goes through a function's calls and runs, minute by minute.
struct Cursor<'trace> {
    function: &'trace Function,
    next: usize,
    /// The last minute of the runs so far, and one more.
    busy_until: u32,
}

impl<'trace> Cursor<'trace> {
    fn all(trace: &'trace Trace) -> Vec<Self> {
        let functions = trace.functions.iter();
        let cursor = |function| Self {
            function,
            next: 0,
            busy_until: 0,
        };
        functions.map(cursor).collect()
    }

    /// Whether there is a call in `minute`; asked minute after minute.
    fn is_called(&mut self, minute: u32) -> bool {
        let called = self.function.minutes.get(self.next) == Some(&minute);
        if called {
            self.next += 1;
            self.busy_until = minute + 1 + self.function.runs_on;
        }
        called
    }

    fn is_busy(&self, minute: u32) -> bool {
        minute < self.busy_until
    }
}

/// Replays the trace once and judges it at each of the prices.
pub fn forecast(trace: &Trace, prices: &[f32]) -> Vec<Score> {
    let functions = trace.functions.len();
    let mut forecaster = Forecaster::new(START);
    for function in &trace.functions {
        forecaster.add(function.kept.trigger);
    }
    let terms: Vec<Terms> = prices.iter().map(|price| terms(*price)).collect();
    let mut tallies = vec![Tally::new(functions); prices.len()];
    let mut warm = vec![vec![false; functions]; prices.len()];
    let mut cursors = Cursor::all(trace);
    for minute in 0..trace.minutes() {
        forecaster.advance(START.plus(minute));
        for (index, cursor) in cursors.iter_mut().enumerate() {
            let place = index_of(index);
            let worth = worth(forecaster.chance(place), &cursor.function.kept);
            let was_busy = cursor.is_busy(minute);
            let is_called = cursor.is_called(minute);
            if is_called {
                forecaster.called(place);
            }
            let units = cursor.function.units();
            for ((terms, tally), warm) in terms.iter().zip(&mut tallies).zip(&mut warm) {
                let was_warm = warm[index];
                let is_warm = was_busy || terms.accept(worth, was_warm);
                if is_warm && !was_warm {
                    tally.start_ahead(units);
                }
                match is_called {
                    true if !is_warm => tally.cold(index),
                    false if is_warm && !was_busy => tally.waste(1.0, units),
                    _ => {}
                }
                warm[index] = is_warm || is_called;
            }
        }
    }
    let scores = prices.iter().zip(tallies);
    scores
        .map(|(price, tally)| tally.score("bowline", f64::from(*price), trace))
        .collect()
}

/// Replays the trace through a keeper, as a node would, at one price.
pub fn keep(trace: &Trace, price: f32) -> Score {
    let mut keeper = Keeper::new(terms(price), START.start());
    for function in &trace.functions {
        keeper.add(function.kept.clone());
    }
    let mut tally = Tally::new(trace.functions.len());
    let mut cursors = Cursor::all(trace);
    let mut running = vec![false; trace.functions.len()];
    for minute in 0..trace.minutes() {
        for (index, cursor) in cursors.iter().enumerate() {
            if running[index] && !cursor.is_busy(minute) {
                keeper.ended(index_of(index));
                running[index] = false;
            }
        }
        let before: Vec<bool> = (0..cursors.len())
            .map(|index| keeper.is_warm(index_of(index)))
            .collect();
        keeper.turn(START.plus(minute).start());
        for (index, cursor) in cursors.iter_mut().enumerate() {
            let (place, units) = (index_of(index), cursor.function.units());
            let is_warm = keeper.is_warm(place);
            if is_warm && !before[index] {
                tally.start_ahead(units);
            }
            let was_busy = cursor.is_busy(minute);
            if cursor.is_called(minute) {
                if !keeper.called(place, &mut Vec::new()) {
                    tally.cold(index);
                }
                if running[index] {
                    keeper.ended(place);
                }
                running[index] = true;
            } else if is_warm && !was_busy {
                tally.waste(1.0, units);
            }
        }
    }
    tally.score("bowline", f64::from(price), trace)
}

fn terms(price: f32) -> Terms {
    Terms {
        price,
        ..Terms::default()
    }
}

fn index_of(index: usize) -> FunctionIndex {
    FunctionIndex(u32::try_from(index).expect("there are far fewer functions"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::baseline::fixed;
    use crate::generate::{Plan, generate};

    fn trace(seed: u64) -> Trace {
        let mut trace = generate(&Plan {
            seed,
            days: 3,
            functions: 60,
        });
        // Some functions run on for minutes.
        trace
            .functions
            .iter_mut()
            .step_by(7)
            .for_each(|function| function.runs_on = 3);
        trace
    }

    #[test]
    fn the_keeper_does_what_the_curve_says() {
        let trace = trace(5);
        for price in [0.005, 0.05, 0.3] {
            let [point] = &forecast(&trace, &[price])[..] else {
                panic!("one price, one score")
            };
            assert_eq!(*point, keep(&trace, price));
        }
    }

    #[test]
    fn a_replay_repeats_itself() {
        let trace = trace(6);
        assert_eq!(forecast(&trace, &prices()), forecast(&trace, &prices()));
    }

    #[test]
    fn a_higher_price_saves_memory_and_costs_cold_starts() {
        let trace = trace(7);
        let [cheap, dear] = &forecast(&trace, &[0.003, 0.3])[..] else {
            panic!("two prices, two scores")
        };
        assert!(cheap.cold < dear.cold && cheap.wasted_minutes > dear.wasted_minutes);
    }

    #[test]
    fn it_beats_the_fixed_time_within_days() {
        let trace = trace(8);
        let fixed = fixed(&trace, 10);
        let curve = crate::score::Curve::new(forecast(&trace, &prices()));
        let ours = curve.at_waste(fixed.wasted_minutes).expect("the curve spans it");
        assert!(ours.cold < 0.8 * fixed.cold, "{} instead of {}", ours.cold, fixed.cold);
    }
}
