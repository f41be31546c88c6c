//! How many invocations of a function run at once: so many sandboxes of it have work at the same time.

/// The numbers of sandboxes that are told apart: each one at first, then rising by a fifth to a half.
const LEVELS: [u32; 31] = [
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 20, 24, 32, 40, 48, 64, 96, 128, 192, 256, 384, 512, 640,
    768, 1024,
];
/// Old slots fade by this share with each new one that had a call.
const FADE: f32 = 1.0 / 60.0;

/// Among the slots with a call, the share of those in which at least so many ran at once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Crowd {
    at_least: [f32; LEVELS.len()],
    seen: f32,
}

impl Crowd {
    /// The shares, and behind them the number of slots, for whoever keeps them.
    pub fn parts(&self) -> Vec<f32> {
        self.at_least.iter().copied().chain([self.seen]).collect()
    }

    /// Of parts that were kept; `None` if they are none.
    pub fn of(kept: &[f32]) -> Option<Self> {
        let (seen, shares) = kept.split_last()?;
        let at_least: [f32; LEVELS.len()] = shares.try_into().ok()?;
        let is_sound = *seen >= 0.0 && seen.is_finite() && at_least.iter().all(|share| (0.0..=1.0).contains(share));
        is_sound.then_some(Self { at_least, seen: *seen })
    }

    /// Takes note of a slot with a call; at most `peak` ran at once.
    pub fn add(&mut self, peak: u32) {
        self.seen += 1.0;
        let fade = FADE.max(1.0 / self.seen);
        for (share, level) in self.at_least.iter_mut().zip(LEVELS) {
            *share += (f32::from(u8::from(peak >= level)) - *share) * fade;
        }
    }

    /// The chance that at least `sandboxes` are busy at once within a slot that has a call.
    pub fn share(&self, sandboxes: u32) -> f32 {
        if sandboxes <= 1 {
            return 1.0;
        }
        let level = LEVELS.partition_point(|level| *level < sandboxes);
        self.at_least.get(level).copied().unwrap_or(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ran_at_once_is_expected_again_and_fades() {
        let mut crowd = Crowd::default();
        assert!(crowd.share(1) > 0.99, "one is always needed");
        assert_eq!(crowd.share(2).to_bits(), 0);
        (0..30).for_each(|_| crowd.add(5));
        assert!(crowd.share(5) > 0.99 && crowd.share(6) < 0.01);
        (0..300).for_each(|_| crowd.add(1));
        assert!(crowd.share(2) < 0.02);
    }

    #[test]
    fn more_sandboxes_are_never_likelier() {
        let mut crowd = Crowd::default();
        [1, 9, 2, 700, 40, 3].into_iter().for_each(|peak| crowd.add(peak));
        for sandboxes in 1..2000 {
            assert!(crowd.share(sandboxes + 1) <= crowd.share(sandboxes));
        }
    }
}
