//! The clairvoyant keep-alive: it knows every gap, and covers the cheapest ones first.
//!
//! It is the best that keeping alive alone can do; starting ahead of a call can be better.

use crate::score::{Score, Tally};
use crate::trace::Trace;

/// The scores of covering more and more gaps, `points` of them.
pub fn clairvoyant(trace: &Trace, points: usize) -> Vec<Score> {
    let mut gaps: Vec<(f64, usize)> = Vec::new();
    let mut firsts = Tally::new(trace.functions.len());
    for (index, function) in trace.functions.iter().enumerate() {
        if !function.minutes.is_empty() {
            firsts.cold(index);
        }
        let pairs = function.minutes.windows(2);
        let idle = pairs.map(|pair| function.idle_between(pair[0], pair[1]));
        gaps.extend(idle.map(|idle| (f64::from(idle) * function.units(), index)));
    }
    gaps.sort_by(|a, b| a.0.total_cmp(&b.0));
    let free = gaps.partition_point(|(cost, _)| *cost <= 0.0);
    (0..=points)
        .map(|point| {
            // Most of what is of interest lies where few of the gaps are left.
            let covered = free + (gaps.len() - free) * point / points;
            let mut tally = firsts.clone();
            gaps[..covered].iter().for_each(|(cost, _)| tally.waste(*cost, 1.0));
            gaps[covered..].iter().for_each(|(_, index)| tally.cold(*index));
            tally.score("clairvoyant keep-alive", crate::score::to_f64(covered as u64), trace)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::baseline::fixed;
    use crate::generate::{Plan, generate};
    use crate::score::Curve;

    #[test]
    fn it_is_never_worse_than_any_fixed_time() {
        let trace = generate(&Plan {
            seed: 3,
            days: 2,
            functions: 40,
        });
        let curve = Curve::new(clairvoyant(&trace, 400));
        for minutes in [2, 10, 30, 120] {
            let fixed = fixed(&trace, minutes);
            let best = curve
                .at_waste(fixed.wasted_minutes)
                .expect("the curve spans everything");
            assert!(best.cold <= fixed.cold + 1.0, "{minutes}: {best:?} {fixed:?}");
        }
    }
}
