//! What a policy's run comes to, and curves of such scores.

use serde::Serialize;

use crate::trace::Trace;

/// How long the start of a sandbox takes, in minutes: what a start ahead of its call costs.
pub const START_MINUTES: f64 = 10.0 / 60.0;

/// The outcome of one policy, with one setting, over one trace.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Score {
    pub policy: &'static str,
    pub setting: f64,
    /// Cold starts.
    pub cold: f64,
    /// Cold starts as a share of all invocations.
    pub cold_share: f64,
    /// Three quarters of the functions have at most this share.
    pub cold_share_p75: f64,
    /// Time that sandboxes of 128 MiB stood idle, in minutes.
    pub wasted_minutes: f64,
    /// Starts ahead of a call.
    pub started_ahead: u64,
}

/// Adds up a score.
#[derive(Clone, Debug)]
pub struct Tally {
    cold: Vec<u32>,
    wasted: f64,
    started_ahead: u64,
}

impl Tally {
    pub fn new(functions: usize) -> Self {
        Self {
            cold: vec![0; functions],
            wasted: 0.0,
            started_ahead: 0,
        }
    }

    pub fn cold(&mut self, function: usize) {
        self.cold[function] += 1;
    }

    /// Idle minutes of a sandbox of `units` times 128 MiB.
    pub fn waste(&mut self, minutes: f64, units: f64) {
        self.wasted += minutes * units;
    }

    pub fn start_ahead(&mut self, units: f64) {
        self.started_ahead += 1;
        self.waste(START_MINUTES, units);
    }

    pub fn score(self, policy: &'static str, setting: f64, trace: &Trace) -> Score {
        let shares = self.cold.iter().zip(&trace.functions);
        let mut shares: Vec<f64> = shares
            .filter(|(_, function)| function.invocations > 0)
            .map(|(cold, function)| f64::from(*cold) / to_f64(function.invocations))
            .collect();
        shares.sort_by(f64::total_cmp);
        let cold: f64 = self.cold.iter().map(|cold| f64::from(*cold)).sum();
        Score {
            policy,
            setting,
            cold,
            cold_share: cold / to_f64(trace.invocations().max(1)),
            cold_share_p75: shares.get(shares.len() * 3 / 4).copied().unwrap_or(0.0),
            wasted_minutes: self.wasted,
            started_ahead: self.started_ahead,
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
pub fn to_f64(count: u64) -> f64 {
    count as f64
}

/// Scores of one policy with many settings.
#[derive(Clone, Debug)]
pub struct Curve(Vec<Score>);

impl Curve {
    /// The scores, sorted by memory; those that another beats on both axes are left out.
    pub fn new(mut scores: Vec<Score>) -> Self {
        scores.sort_by(|a, b| a.wasted_minutes.total_cmp(&b.wasted_minutes));
        let mut best = f64::INFINITY;
        scores.retain(|score| {
            let better = score.cold < best;
            best = best.min(score.cold);
            better
        });
        Self(scores)
    }

    pub fn scores(&self) -> &[Score] {
        &self.0
    }

    /// The score at this much memory, by straight lines between the points; `None` outside of them.
    pub fn at_waste(&self, minutes: f64) -> Option<Score> {
        self.between(|score| score.wasted_minutes, minutes)
    }

    /// The score at so many cold starts.
    pub fn at_cold(&self, cold: f64) -> Option<Score> {
        self.between(|score| -score.cold, -cold)
    }

    fn between(&self, axis: impl Fn(&Score) -> f64, value: f64) -> Option<Score> {
        let pair = self
            .0
            .windows(2)
            .find(|pair| axis(&pair[0]) <= value && value <= axis(&pair[1]))?;
        let [low, high] = pair else { return None };
        let length = axis(high) - axis(low);
        let share = if length > 0.0 {
            (value - axis(low)) / length
        } else {
            0.0
        };
        let mix = |of: fn(&Score) -> f64| of(low) + share * (of(high) - of(low));
        Some(Score {
            policy: low.policy,
            setting: mix(|score| score.setting),
            cold: mix(|score| score.cold),
            cold_share: mix(|score| score.cold_share),
            cold_share_p75: mix(|score| score.cold_share_p75),
            wasted_minutes: mix(|score| score.wasted_minutes),
            started_ahead: low.started_ahead,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(cold: f64, wasted_minutes: f64) -> Score {
        Score {
            policy: "p",
            setting: 0.0,
            cold,
            cold_share: 0.0,
            cold_share_p75: 0.0,
            wasted_minutes,
            started_ahead: 0,
        }
    }

    #[test]
    fn a_curve_is_read_on_both_axes_and_not_beyond_its_ends() {
        let curve = Curve::new(vec![score(10.0, 300.0), score(30.0, 100.0), score(50.0, 200.0)]);
        assert_eq!(curve.scores().len(), 2, "what is beaten on both axes is left out");
        assert!((curve.at_waste(200.0).unwrap().cold - 20.0).abs() < 1e-9);
        assert!((curve.at_cold(20.0).unwrap().wasted_minutes - 200.0).abs() < 1e-9);
        assert!(curve.at_waste(99.0).is_none() && curve.at_cold(9.0).is_none());
    }
}
