//! Random bytes and numbers from the operating system or from a seed.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rand::rngs::{StdRng, ThreadRng};
use rand::{Rng, RngExt, SeedableRng};

/// How often this process was told that its generators are known elsewhere.
static RENEWALS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// The last of them that this thread has followed.
    static FOLLOWED: Cell<u64> = const { Cell::new(0) };
}

/// Has every thread's generator begin anew before it is used again: this process may be the copy of another, as in a
/// virtual machine that goes on from a snapshot, and must not draw what that draws.
pub fn renew() {
    RENEWALS.fetch_add(1, Ordering::AcqRel);
}

/// This thread's generator, as new as it was told to be.
#[allow(clippy::disallowed_methods, reason = "the one place that reads the system's entropy")]
fn of_thread() -> ThreadRng {
    let mut rng = rand::rng();
    let renewals = RENEWALS.load(Ordering::Acquire);
    if FOLLOWED.replace(renewals) != renewals {
        rng.reseed().expect("the system gives randomness, as it did before");
    }
    rng
}

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

    fn with(&self, f: impl FnOnce(&mut dyn Rng)) {
        match &self.0 {
            Source::System => f(&mut of_thread()),
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
    fn a_renewed_generator_begins_anew() {
        let (mut before, mut after) = ([0; 8], [0; 8]);
        Entropy::system().fill(&mut before);
        let followed = FOLLOWED.get();
        renew();
        Entropy::system().fill(&mut after);
        assert!(FOLLOWED.get() > followed, "this thread has followed");
        assert_ne!(before, after);
    }

    #[test]
    fn the_system_source_does_not_repeat() {
        let entropy = Entropy::system();
        assert_ne!(entropy.number(), entropy.number());
    }
}
