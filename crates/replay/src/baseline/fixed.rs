//! The fixed keep-alive: a sandbox stays for the same time after every call.

use crate::score::{Score, Tally};
use crate::trace::Trace;

/// Keeps every function for `minutes` after each run.
pub fn fixed(trace: &Trace, minutes: u32) -> Score {
    let mut tally = Tally::new(trace.functions.len());
    for (index, function) in trace.functions.iter().enumerate() {
        let units = function.units();
        for (place, now) in function.minutes.iter().enumerate() {
            let before = place.checked_sub(1).map(|before| function.minutes[before]);
            match before.map(|before| function.idle_between(before, *now)) {
                Some(idle) => {
                    tally.waste(f64::from(idle.min(minutes)), units);
                    if idle >= minutes {
                        tally.cold(index);
                    }
                }
                None => tally.cold(index),
            }
        }
        if let Some(last) = function.minutes.last() {
            let left = (trace.minutes() - last - 1).saturating_sub(function.runs_on);
            tally.waste(f64::from(left.min(minutes)), units);
        }
    }
    tally.score("fixed keep-alive", f64::from(minutes), trace)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Function;
    use bowline_capacity::forecast::Trigger;

    #[test]
    fn a_call_within_the_time_is_warm_and_one_after_it_cold() {
        let mut function = Function::new(Trigger::Other);
        function.minutes = vec![0, 10, 21];
        function.invocations = 3;
        let trace = Trace {
            days: 1,
            functions: vec![function],
            ..Trace::default()
        };
        let score = fixed(&trace, 10);
        // Nine idle minutes are survived, ten are not: the sandbox goes before the call of the eleventh.
        assert!((score.cold - 2.0).abs() < 1e-9, "{score:?}");
        assert!((score.wasted_minutes - 29.0).abs() < 1e-9, "{score:?}");
    }
}
