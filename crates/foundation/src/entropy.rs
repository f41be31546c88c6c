//! Random bytes and numbers from the operating system or from a seed.

use std::sync::{Arc, Mutex, PoisonError};

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

/// A cheap handle to a source of randomness.
#[derive(Clone, Debug)]
pub struct Entropy(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    Seeded(Arc<Mutex<StdRng>>),
}

impl Entropy {
    /// A cryptographic generator seeded by the operating system, one a thread.
    pub fn system() -> Self {
        Self(Source::System)
    }

    /// A generator that yields the same sequence for the same seed.
    pub fn seeded(seed: u64) -> Self {
        Self(Source::Seeded(Arc::new(Mutex::new(StdRng::seed_from_u64(seed)))))
    }

    /// Fills `bytes` with random bytes.
    pub fn fill(&self, bytes: &mut [u8]) {
        self.with(|rng| rng.fill_bytes(bytes));
    }

    /// A number in `0..1`.
    pub fn unit(&self) -> f64 {
        let mut value = 0.0;
        self.with(|rng| value = rng.random::<f64>());
        value
    }

    /// A uniformly distributed 64-bit number.
    pub fn number(&self) -> u64 {
        let mut value = 0;
        self.with(|rng| value = rng.next_u64());
        value
    }

    #[allow(clippy::disallowed_methods, reason = "the one place that reads the system's entropy")]
    fn with(&self, f: impl FnOnce(&mut dyn Rng)) {
        match &self.0 {
            Source::System => f(&mut rand::rng()),
            Source::Seeded(rng) => f(&mut *rng.lock().unwrap_or_else(PoisonError::into_inner)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_one_sequence() {
        let draw = |seed| {
            let entropy = Entropy::seeded(seed);
            (entropy.number(), entropy.number(), entropy.unit())
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn the_system_source_does_not_repeat() {
        let entropy = Entropy::system();
        assert_ne!(entropy.number(), entropy.number());
    }
}
