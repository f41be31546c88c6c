//! All policies over one trace, and how ours stands to each of them.

use crate::baseline::{clairvoyant, fixed, hybrid};
use crate::forecast::{forecast, prices};
use crate::score::{Curve, Score};
use crate::trace::Trace;

/// The keep-alive that everything is measured by, in minutes.
pub const TEN_MINUTES: u32 = 10;
/// Times of the fixed keep-alive's curve, in minutes.
const FIXED: [u32; 10] = [1, 2, 5, 10, 15, 20, 30, 60, 120, 240];
/// Ranges of the hybrid histogram policy, in minutes; the last is the published one.
const RANGES: [u32; 4] = [30, 60, 120, 240];
const CLAIRVOYANT_POINTS: usize = 300;

/// Every policy's scores over one trace.
#[derive(Clone, Debug)]
pub struct Comparison {
    pub trace: String,
    pub ours: Curve,
    pub fixed: Vec<Score>,
    pub hybrid: Vec<Score>,
    pub clairvoyant: Curve,
}

impl Comparison {
    pub fn of(trace: &Trace) -> Self {
        Self {
            trace: trace.name.clone(),
            ours: Curve::new(forecast(trace, &prices())),
            fixed: FIXED.iter().map(|minutes| fixed(trace, *minutes)).collect(),
            hybrid: RANGES.iter().map(|range| hybrid(trace, *range)).collect(),
            clairvoyant: Curve::new(clairvoyant(trace, CLAIRVOYANT_POINTS)),
        }
    }

    /// The fixed keep-alive of ten minutes.
    pub fn ten_minutes(&self) -> &Score {
        let mut scores = self.fixed.iter();
        scores
            .find(|score| score.setting.total_cmp(&f64::from(TEN_MINUTES)).is_eq())
            .expect("ten minutes are among the fixed times")
    }

    /// The hybrid histogram policy as it was published.
    pub fn published_hybrid(&self) -> &Score {
        self.hybrid.last().expect("there are several ranges")
    }

    pub fn all(&self) -> impl Iterator<Item = &Score> {
        let ours = self.ours.scores().iter().chain(&self.fixed).chain(&self.hybrid);
        ours.chain(self.clairvoyant.scores())
    }
}

/// All scores as CSV, a line each.
pub fn csv(comparisons: &[Comparison]) -> String {
    let mut text =
        "trace,policy,setting,cold_starts,cold_share,cold_share_p75,wasted_minutes,started_ahead\n".to_owned();
    for comparison in comparisons {
        for score in comparison.all() {
            text += &format!(
                "\"{}\",{},{:.6},{:.0},{:.8},{:.6},{:.1},{}\n",
                comparison.trace.replace('"', "'"),
                score.policy,
                score.setting,
                score.cold,
                score.cold_share,
                score.cold_share_p75,
                score.wasted_minutes,
                score.started_ahead
            );
        }
    }
    text
}
