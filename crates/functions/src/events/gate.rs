//! A function's pause after it was throttled or the platform failed: all its events wait for it together.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::policy::Backoff;

/// Open, or closed until a moment.
#[derive(Default)]
pub(crate) struct Gate(Mutex<State>);

#[derive(Default)]
struct State {
    /// In a row.
    failures: u32,
    until: Option<Instant>,
}

impl Gate {
    /// How long it stays closed.
    pub fn closed_for(&self) -> Option<Duration> {
        let until = self.0.lock().until?;
        let left = until.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }

    /// The function could not be invoked. Several events that ran into the same limit close it once.
    pub fn close(&self, backoff: Backoff) {
        let mut state = self.0.lock();
        let now = Instant::now();
        if state.until.is_some_and(|until| until > now) {
            return;
        }
        state.failures = state.failures.saturating_add(1);
        state.until = Some(now + backoff.after(state.failures));
    }

    /// The function could be invoked.
    pub fn open(&self) {
        *self.0.lock() = State::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_until_an_invocation_gets_through() {
        let backoff = Backoff {
            first: Duration::from_secs(1),
            longest: Duration::from_secs(300),
        };
        let gate = Gate::default();
        assert_eq!(gate.closed_for(), None);
        gate.close(backoff);
        gate.close(backoff);
        assert_eq!(gate.closed_for(), Some(Duration::from_secs(1)), "one limit, one pause");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(gate.closed_for(), None);
        gate.close(backoff);
        assert_eq!(gate.closed_for(), Some(Duration::from_secs(2)));
        gate.open();
        assert_eq!(gate.closed_for(), None);
        gate.close(backoff);
        assert_eq!(gate.closed_for(), Some(Duration::from_secs(1)));
    }
}
