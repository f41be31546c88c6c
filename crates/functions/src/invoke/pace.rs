//! The bandwidth of one streamed answer: a bucket of bytes that fills as time goes by.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bowline_foundation::clock::{Clock, Monotonic};
use bowline_foundation::limits::STREAM_BURST_BYTES;
use tokio::time::Sleep;

/// Lets the first bytes pass at once and the others at a rate.
pub(crate) struct Pace {
    clock: Clock,
    bytes_per_second: u32,
    /// What may pass now; below zero after a piece that was larger than that.
    balance: i64,
    /// When the balance was right.
    at: Monotonic,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    pub fn new(clock: Clock, bytes_per_second: u32) -> Self {
        Self {
            at: clock.monotonic(),
            clock,
            bytes_per_second,
            balance: STREAM_BURST_BYTES.into(),
            sleep: None,
        }
    }

    /// Takes what has passed from the balance.
    pub fn spend(&mut self, bytes: usize) {
        self.balance = self.balance.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Waits until something may pass.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(sleep) = &mut self.sleep {
                ready!(sleep.as_mut().poll(cx));
                self.sleep = None;
            }
            let wait = self.wait();
            if wait.is_zero() {
                return Poll::Ready(());
            }
            self.sleep = Some(Box::pin(tokio::time::sleep(wait)));
        }
    }

    /// How long until something may pass.
    fn wait(&mut self) -> Duration {
        let now = self.clock.monotonic();
        let earned = now.since(self.at).as_micros() * u128::from(self.bytes_per_second) / 1_000_000;
        if earned > 0 {
            let earned = i64::try_from(earned).unwrap_or(i64::MAX);
            self.balance = self.balance.saturating_add(earned).min(STREAM_BURST_BYTES.into());
            self.at = now;
        }
        if self.balance > 0 {
            return Duration::ZERO;
        }
        let missing = self.balance.unsigned_abs() + 1;
        Duration::from_micros((missing * 1_000_000).div_ceil(self.bytes_per_second.into()))
    }
}

#[cfg(test)]
mod tests {
    use bowline_foundation::clock::Timestamp;

    use super::*;

    const BURST: usize = STREAM_BURST_BYTES as usize;

    #[test]
    fn the_burst_passes_at_once_and_the_rest_at_the_rate() {
        let clock = Clock::fake(Timestamp::from_micros(0));
        let mut pace = Pace::new(clock.clone(), 1_000_000);
        assert_eq!(pace.wait(), Duration::ZERO);
        pace.spend(BURST - 1);
        assert_eq!(pace.wait(), Duration::ZERO, "one byte of the burst is left");
        pace.spend(1 + 500_000);
        assert_eq!(pace.wait(), Duration::from_micros(500_001));
        clock.advance(Duration::from_micros(500_000));
        assert!(!pace.wait().is_zero());
        clock.advance(Duration::from_micros(1));
        assert!(pace.wait().is_zero());
    }

    #[test]
    fn what_is_saved_is_no_more_than_the_burst() {
        let clock = Clock::fake(Timestamp::from_micros(0));
        let mut pace = Pace::new(clock.clone(), 1_000_000);
        pace.spend(BURST);
        assert!(!pace.wait().is_zero());
        clock.advance(Duration::from_secs(3600));
        assert!(pace.wait().is_zero());
        pace.spend(BURST);
        assert!(!pace.wait().is_zero(), "an hour earned one burst");
    }

    #[test]
    fn short_looks_lose_no_time() {
        let clock = Clock::fake(Timestamp::from_micros(0));
        let mut pace = Pace::new(clock.clone(), 32 * 1024);
        pace.spend(BURST + 32 * 1024);
        for _ in 0..1_000_000 {
            // A byte takes thirty of these steps.
            clock.advance(Duration::from_micros(1));
            pace.wait();
        }
        assert!(pace.wait() < Duration::from_millis(40), "{:?}", pace.wait());
    }
}
