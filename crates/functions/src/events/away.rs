//! Which destinations are away: while one is, it is asked by one record at a time, and seldom.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::policy::Backoff;

/// How long it may take until it is known what became of a try.
const TRY_MAX: Duration = Duration::from_secs(150);
/// Destinations that are remembered; beyond that those that nobody has asked for long are forgotten.
const REMEMBERED_MAX: usize = 4096;
/// What is long.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3600);

/// The destinations that did not take what they were sent last, by name.
#[derive(Default)]
pub(crate) struct Away(Mutex<HashMap<String, State>>);

struct State {
    /// In a row.
    failures: u32,
    /// Nobody asks before.
    until: Instant,
    /// Whether somebody is asking.
    is_asked: bool,
}

impl Away {
    /// Whether a record may be sent now. Who asks a destination that is away says what became of it.
    pub fn admits(&self, name: &str) -> bool {
        let mut away = self.0.lock();
        let Some(state) = away.get_mut(name) else { return true };
        let now = Instant::now();
        if state.until > now {
            return false;
        }
        state.until = now + TRY_MAX;
        state.is_asked = true;
        true
    }

    /// How long nobody asks it.
    pub fn closed_for(&self, name: &str) -> Option<Duration> {
        let until = self.0.lock().get(name)?.until;
        let left = until.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// A destination did not take a record; says whether that is news. What several were told at once counts once.
    pub fn failed(&self, name: &str, backoff: Backoff) -> bool {
        let mut away = self.0.lock();
        let now = Instant::now();
        if let Some(state) = away.get_mut(name) {
            if state.is_asked || state.until <= now {
                state.failures = state.failures.saturating_add(1);
                state.until = now + backoff.after(state.failures);
                state.is_asked = false;
            }
            return false;
        }
        if away.len() >= REMEMBERED_MAX {
            away.retain(|_, state| state.until + FORGOTTEN_AFTER > now);
        }
        let state = State {
            failures: 1,
            until: now + backoff.after(1),
            is_asked: false,
        };
        away.insert(name.to_owned(), state);
        true
    }

    /// It answers.
    pub fn answered(&self, name: &str) {
        self.0.lock().remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff {
        first: Duration::from_secs(1),
        longest: Duration::from_secs(300),
    };

    #[tokio::test(start_paused = true)]
    async fn a_destination_that_is_away_is_asked_by_one_at_a_time() {
        let away = Away::default();
        assert!(away.admits("d") && away.admits("d"), "all is well");
        assert!(
            away.failed("d", BACKOFF) && !away.failed("d", BACKOFF),
            "it is news once"
        );
        assert_eq!(away.closed_for("d"), Some(Duration::from_secs(1)), "at once is once");
        assert!(!away.admits("d") && away.admits("other"));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(away.closed_for("d").is_none());
        assert!(away.admits("d") && !away.admits("d"), "one asks");
        assert!(!away.failed("d", BACKOFF));
        assert_eq!(away.closed_for("d"), Some(Duration::from_secs(2)), "pauses grow");
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(away.admits("d"));
        away.answered("d");
        assert!(away.admits("d") && away.admits("d"), "it is back");
        assert!(away.failed("d", BACKOFF), "that is news again");
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_and_says_nothing_is_not_waited_for_without_end() {
        let away = Away::default();
        away.failed("d", BACKOFF);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(away.admits("d"));
        tokio::time::advance(TRY_MAX - Duration::from_secs(1)).await;
        assert!(!away.admits("d"));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(away.admits("d"));
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_asks_for_long_is_forgotten() {
        let away = Away::default();
        for number in 0..REMEMBERED_MAX {
            away.failed(&number.to_string(), BACKOFF);
        }
        tokio::time::advance(FORGOTTEN_AFTER * 2).await;
        away.failed("one more", BACKOFF);
        assert_eq!(away.0.lock().len(), 1);
    }
}
