//! [The moment](super::gather) that an owner gives the callers of its last batch where it has several threads: it looks
//! for them again and again. Pure.
//!
//! To be woken takes longer than to look. The moment ends when as many wait as were answered, when nobody has come
//! for a while, or when it has taken too much of what a batch takes; half of the callers come back while the other
//! half's batch is under way.

use std::time::Duration;

use bowline_foundation::clock::Monotonic;

/// At most this part of the time that the last batch took is spent on waiting,
const PART: u32 = 2;
/// and this part of it since the last caller came.
const GAP_PART: u32 = 16;
/// At most so many looks: in simulated time a moment never ends.
const LOOKS_MAX: u32 = 1000;

#[derive(Debug)]
pub(super) struct Linger {
    callers: usize,
    took: Duration,
    began: Monotonic,
    waiting: usize,
    last_came: Monotonic,
    looks: u32,
}

impl Linger {
    /// After a batch of so many appends, which took so long.
    pub fn after(callers: usize, took: Duration, now: Monotonic) -> Self {
        Self {
            callers,
            took,
            began: now,
            waiting: 0,
            last_came: now,
            looks: 0,
        }
    }

    /// Whether to look once more, now that so many appends wait. A lone caller has nobody to go with.
    pub fn goes_on(&mut self, waiting: usize, now: Monotonic) -> bool {
        self.looks += 1;
        if waiting > self.waiting {
            (self.waiting, self.last_came) = (waiting, now);
        }
        self.callers > 1
            && waiting < self.callers
            && now.since(self.began) < self.took / PART
            && now.since(self.last_came) < self.took / GAP_PART
            && self.looks < LOOKS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    /// How long, after a batch of 160 ms, callers that come at these milliseconds are waited for.
    fn lingers(callers: usize, come_at: &[u32]) -> u32 {
        let begin = Monotonic::default();
        let mut linger = Linger::after(callers, MILLI * 160, begin);
        let waiting = |ms: u32| come_at.iter().filter(|at| **at <= ms).count();
        (0..)
            .find(|&ms| !linger.goes_on(waiting(ms), begin.after(MILLI * ms)))
            .expect("it ends")
    }

    #[test]
    fn callers_get_a_moment_to_come_back_and_no_longer() {
        assert_eq!(lingers(3, &[1, 4, 9]), 9, "all have come");
        assert_eq!(lingers(3, &[1, 4]), 14, "the third does not come");
        assert_eq!(lingers(3, &[]), 10, "nobody does");
        assert_eq!(lingers(3, &[0, 0, 0]), 0, "they are there already");
        assert_eq!(lingers(1, &[]), 0, "a lone caller is not waited for");
        let trickle: Vec<u32> = (0..50).map(|number| number * 9).collect();
        assert_eq!(lingers(100, &trickle), 80, "half of the batch's time is enough");
    }

    #[test]
    fn it_ends_where_time_stands_still() {
        let mut linger = Linger::after(3, MILLI, Monotonic::default());
        assert!((0..LOOKS_MAX).any(|_| !linger.goes_on(1, Monotonic::default())));
    }
}
