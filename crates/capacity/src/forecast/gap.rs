//! The histogram of a function's gaps: how likely is a call now, so long after the last one?

/// How many bins; the last one ends beyond two weeks.
pub const BINS: usize = 56;
/// Gaps up to this have a bin of their own; beyond it a bin is a fifth wider than the one before.
const EXACT: u32 = 16;
/// The last gap of each bin.
const UPPER: [u32; BINS] = bounds();
/// With so many gaps counted, all counts are halved, so that old habits fade.
const TOTAL_MAX: u16 = 400;
/// How many gaps the opinion of all functions together weighs.
const PRIOR_GAPS: f32 = 2.0;

const fn bounds() -> [u32; BINS] {
    let mut upper = [0; BINS];
    let (mut bin, mut last) = (0, 0);
    while bin < BINS {
        let step = last / 5;
        last += if last < EXACT || step == 0 { 1 } else { step };
        upper[bin] = last;
        bin += 1;
    }
    upper
}

/// The bin of a gap of `slots` slots, of which one is the least.
pub fn bin_of(slots: u32) -> usize {
    UPPER.partition_point(|upper| *upper < slots).min(BINS - 1)
}

fn width_of(bin: usize) -> u32 {
    let before = if bin == 0 { 0 } else { UPPER[bin - 1] };
    UPPER[bin] - before
}

/// Counts of gaps.
#[derive(Clone, Debug)]
pub struct Gaps {
    counts: [u16; BINS],
    total: u16,
}

impl Default for Gaps {
    fn default() -> Self {
        Self {
            counts: [0; BINS],
            total: 0,
        }
    }
}

impl Gaps {
    pub fn add(&mut self, slots: u32) {
        if self.total >= TOTAL_MAX {
            self.counts.iter_mut().for_each(|count| *count /= 2);
            self.total = self.counts.iter().sum();
        }
        self.counts[bin_of(slots)] += 1;
        self.total += 1;
    }

    /// The counts, for whoever keeps them.
    pub fn counts(&self) -> Vec<u16> {
        self.counts.to_vec()
    }

    /// Of counts that were kept; `None` if they are none.
    pub fn of(kept: &[u16]) -> Option<Self> {
        let counts: [u16; BINS] = kept.try_into().ok()?;
        let total: u32 = counts.iter().copied().map(u32::from).sum();
        let total = u16::try_from(total).ok().filter(|total| *total <= TOTAL_MAX)?;
        Some(Self { counts, total })
    }

    pub fn total(&self) -> u16 {
        self.total
    }

    /// The chance that a gap that has lasted to `age` ends there; `prior` is what others' gaps say.
    pub fn hazard(&self, age: u32, prior: f32) -> f32 {
        let bin = bin_of(age);
        let width = f32::from(u16::try_from(width_of(bin)).unwrap_or(u16::MAX));
        let lasted: u16 = self.counts[bin..].iter().sum();
        let ended = f32::from(self.counts[bin]) + PRIOR_GAPS * (prior * width).min(1.0);
        // Within a wide bin gaps end evenly, so that on average half of them have ended already.
        let open = f32::from(lasted) + PRIOR_GAPS - ended * (width - 1.0) / (2.0 * width);
        (ended / (open * width)).min(0.999)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_gap_has_the_bin_that_covers_it() {
        for gap in 1..=20_000 {
            let bin = bin_of(gap);
            assert!(
                gap <= UPPER[bin] && (bin == 0 || gap > UPPER[bin - 1]),
                "{gap} in {bin}"
            );
        }
        assert_eq!(bin_of(u32::MAX), BINS - 1);
    }

    #[test]
    fn a_gap_that_always_ends_at_five_is_expected_to() {
        let mut gaps = Gaps::default();
        (0..50).for_each(|_| gaps.add(5));
        assert!(gaps.hazard(5, 0.01) > 0.9);
        assert!(gaps.hazard(4, 0.01) < 0.02);
        assert!(gaps.hazard(6, 0.01) < 0.02);
    }

    #[test]
    fn without_gaps_of_its_own_it_believes_the_others() {
        let hazard = Gaps::default().hazard(3, 0.25);
        assert!((hazard - 0.25).abs() < 1e-6, "{hazard}");
    }

    #[test]
    fn old_gaps_fade() {
        let mut gaps = Gaps::default();
        (0..300).for_each(|_| gaps.add(5));
        (0..2000).for_each(|_| gaps.add(9));
        assert!(gaps.hazard(5, 0.0) < 0.02 && gaps.hazard(9, 0.0) > 0.9);
    }
}
