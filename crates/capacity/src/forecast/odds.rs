//! Probabilities that learn: tables of odds by context, and the mixer that weighs opinions.

/// The farthest a probability goes, as a logarithm of odds: about one in three thousand.
const STRETCH_MAX: f32 = 9.0;

/// The logarithm of the odds of `p`.
pub fn stretch(p: f32) -> f32 {
    let p = p.clamp(1e-6, 1.0 - 1e-6);
    (p / (1.0 - p)).ln().clamp(-STRETCH_MAX, STRETCH_MAX)
}

/// The inverse of [`stretch`].
pub fn squash(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// How often something happened in one context: a mean of the latest outcomes.
#[derive(Clone, Copy, Debug)]
struct Odds {
    p: f32,
    seen: f32,
}

/// Odds for each of a number of contexts, learned from all functions together.
#[derive(Clone, Debug)]
pub struct Table {
    odds: Vec<Odds>,
}

impl Table {
    /// From this many outcomes on, old ones fade.
    const SEEN_MAX: f32 = 1000.0;

    /// A table of `contexts` that all begin with the chance `p`.
    pub fn new(contexts: usize, p: f32) -> Self {
        Self {
            odds: vec![Odds { p, seen: 0.0 }; contexts],
        }
    }

    /// The odds, for whoever keeps them.
    pub fn parts(&self) -> Vec<[f32; 2]> {
        self.odds.iter().map(|odds| [odds.p, odds.seen]).collect()
    }

    /// Takes odds that were kept; whether they are those of such a table.
    pub fn set(&mut self, kept: &[[f32; 2]]) -> bool {
        let is_sound = |[p, seen]: &[f32; 2]| (0.0..=1.0).contains(p) && (0.0..=Self::SEEN_MAX).contains(seen);
        let fits = kept.len() == self.odds.len() && kept.iter().all(is_sound);
        if fits {
            self.odds = kept.iter().map(|[p, seen]| Odds { p: *p, seen: *seen }).collect();
        }
        fits
    }

    pub fn chance(&self, context: usize) -> f32 {
        self.odds[context].p
    }

    pub fn learn(&mut self, context: usize, happened: bool) {
        let odds = &mut self.odds[context];
        let outcome = f32::from(u8::from(happened));
        odds.p += (outcome - odds.p) / (odds.seen + 2.0);
        odds.seen = (odds.seen + 1.0).min(Self::SEEN_MAX);
    }
}

/// Weighs `N` opinions into one chance: a logistic regression that learns with each outcome.
///
/// Two sets of weights, chosen by two contexts, are averaged. The method is that of the context-mixing
/// compressors, whose task is the same: to say how likely the next bit is.
#[derive(Clone, Debug)]
pub struct Mixer<const N: usize> {
    weights: [Vec<Weights<N>>; 2],
}

#[derive(Clone, Debug)]
struct Weights<const N: usize> {
    of: [f32; N],
    updates: f32,
}

impl<const N: usize> Mixer<N> {
    const RATE_FIRST: f32 = 0.02;
    const RATE_LAST: f32 = 0.0006;
    /// After so many updates the rate has halved.
    const RATE_HALF: f32 = 3000.0;

    /// A mixer with so many contexts of either sort, that begins with `weights`.
    pub fn new(contexts: [usize; 2], weights: [f32; N]) -> Self {
        let set = |count| {
            vec![
                Weights {
                    of: weights,
                    updates: 0.0
                };
                count
            ]
        };
        Self {
            weights: contexts.map(set),
        }
    }

    /// Each set of weights with the number of its updates behind them, for whoever keeps them.
    pub fn parts(&self) -> [Vec<Vec<f32>>; 2] {
        let part = |weights: &Weights<N>| weights.of.iter().copied().chain([weights.updates]).collect();
        self.weights.each_ref().map(|set| set.iter().map(part).collect())
    }

    /// Takes weights that were kept; whether they are those of such a mixer.
    pub fn set(&mut self, kept: &[Vec<Vec<f32>>; 2]) -> bool {
        let part = |kept: &Vec<f32>| {
            let (updates, of) = kept.split_last()?;
            let is_sound = *updates >= 0.0 && kept.iter().all(|value| value.is_finite());
            let of = of.try_into().ok().filter(|_| is_sound)?;
            Some(Weights { of, updates: *updates })
        };
        let set = |kept: &Vec<Vec<f32>>| kept.iter().map(part).collect::<Option<Vec<_>>>();
        let [Some(first), Some(second)] = kept.each_ref().map(set) else {
            return false;
        };
        let fits = [first.len(), second.len()] == self.weights.each_ref().map(Vec::len);
        if fits {
            self.weights = [first, second];
        }
        fits
    }

    pub fn chance(&self, contexts: [usize; 2], opinions: &[f32; N]) -> f32 {
        squash(
            self.sum(0, contexts[0], opinions)
                .midpoint(self.sum(1, contexts[1], opinions)),
        )
    }

    fn sum(&self, set: usize, context: usize, opinions: &[f32; N]) -> f32 {
        let weights = &self.weights[set][context].of;
        weights
            .iter()
            .zip(opinions)
            .map(|(weight, opinion)| weight * opinion)
            .sum()
    }

    /// Learns what came of `opinions`; each set learns for itself.
    pub fn learn(&mut self, contexts: [usize; 2], opinions: &[f32; N], happened: bool) {
        let outcome = f32::from(u8::from(happened));
        for (set, context) in contexts.into_iter().enumerate() {
            let error = outcome - squash(self.sum(set, context, opinions));
            let weights = &mut self.weights[set][context];
            let rate = (Self::RATE_FIRST / (1.0 + weights.updates / Self::RATE_HALF)).max(Self::RATE_LAST);
            weights.updates += 1.0;
            for (weight, opinion) in weights.of.iter_mut().zip(opinions) {
                *weight += rate * error * opinion;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretching_is_undone_by_squashing() {
        for p in [0.001, 0.02, 0.5, 0.98] {
            assert!((squash(stretch(p)) - p).abs() < 1e-4, "{p}");
        }
    }

    #[test]
    fn a_table_comes_to_what_it_sees() {
        let mut table = Table::new(2, 0.5);
        (0..2000).for_each(|round| table.learn(1, round % 10 == 0));
        assert!((table.chance(1) - 0.1).abs() < 0.02);
        assert!(
            (table.chance(0) - 0.5).abs() < f32::EPSILON,
            "the other context is untouched"
        );
    }

    #[test]
    fn a_mixer_learns_whom_to_believe() {
        let mut mixer = Mixer::<2>::new([1, 1], [0.5, 0.5]);
        for round in 0..20_000_u32 {
            let happens = round.is_multiple_of(3);
            let opinions = [
                stretch(if happens { 0.9 } else { 0.1 }),
                stretch(if round.is_multiple_of(2) { 0.9 } else { 0.1 }),
            ];
            mixer.learn([0, 0], &opinions, happens);
        }
        let believes = |first, second| mixer.chance([0, 0], &[stretch(first), stretch(second)]);
        assert!(believes(0.9, 0.1) > 0.95 && believes(0.1, 0.9) < 0.05);
    }
}
