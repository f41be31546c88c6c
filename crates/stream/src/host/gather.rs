//! The moment that callers who were just answered get to come back with their next appends.
//!
//! Whoever was answered often appends again at once. Without the moment the first of them goes alone, and all
//! others wait for its sync, or for its way to another host. It takes at most twice as long as what was answered took; those who come back
//! later than that had better go apart.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bowline_foundation::clock::Clock;
use parking_lot::Mutex;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;
use tokio::sync::Notify;

/// How long a moment may be, in times of what was answered.
const TIMES: u32 = 2;
/// How long it may be at most: what took seconds, because the store was away, says nothing of who comes back.
const MOMENT_MAX: Duration = Duration::from_millis(20);
/// Most moments in a row that are left out because earlier ones were in vain.
const LEFT_OUT_MAX: u32 = 64;

/// Where appends gather.
#[derive(Debug, Default)]
pub(super) struct Gather {
    /// How many are waited for; 0: nobody waits.
    wanted: AtomicUsize,
    came: Notify,
    hope: Mutex<Hope>,
}

impl Gather {
    /// So many wait by now.
    pub fn arrived(&self, waiting: usize) {
        let wanted = self.wanted.load(Ordering::Acquire);
        if wanted != 0 && waiting >= wanted {
            self.came.notify_one();
        }
    }

    /// After appends were answered at once, which took so long: gives them the moment until `wanted` wait.
    /// `waiting` says how many do.
    pub async fn wait(&self, wanted: usize, took: Duration, clock: &Clock, waiting: impl Fn() -> usize) {
        // A lone caller has nobody to go with, and after what took no time nothing is gained.
        if wanted < 2 || took.is_zero() || !self.hope.lock().is_worth_it() {
            return;
        }
        self.wanted.store(wanted, Ordering::Release);
        let all = async {
            while waiting() < wanted {
                self.came.notified().await;
            }
        };
        let all_came = tokio::select! {
            biased;
            () = all => true,
            () = nap(clock, (took * TIMES).min(MOMENT_MAX)) => false,
        };
        self.wanted.store(0, Ordering::Release);
        self.hope.lock().learn(all_came);
    }
}

/// Whether a moment is worth its time, by how the last ones ended. Pure.
#[derive(Debug, Default)]
struct Hope {
    /// How many moments are left out after one that was in vain,
    pause: u32,
    /// and how many of them are still to come.
    left_out: u32,
}

impl Hope {
    fn is_worth_it(&mut self) -> bool {
        let is_left_out = self.left_out > 0;
        self.left_out = self.left_out.saturating_sub(1);
        !is_left_out
    }

    fn learn(&mut self, all_came: bool) {
        if all_came {
            self.pause /= 2;
        } else {
            self.pause = (self.pause * 2).clamp(1, LEFT_OUT_MAX);
            self.left_out = self.pause;
        }
    }
}

/// Whether the runtime has one thread.
pub(super) fn is_alone() -> bool {
    Handle::current().metrics().num_workers() == 1
}

/// Sleeps to the microsecond, where the runtime's timers know milliseconds only.
async fn nap(clock: &Clock, time: Duration) {
    if clock.is_system()
        && let Ok(timer) = timer(time)
        && timer.readable().await.is_ok()
    {
        return;
    }
    tokio::time::sleep(time).await;
}

#[allow(
    deprecated,
    reason = "what it was given up for, a number that changes, an `OwnedFd` does not do; its successor is `unsafe`"
)]
fn timer(time: Duration) -> io::Result<AsyncFd<OwnedFd>> {
    let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
    let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
    // Set to nothing it would never ring.
    let value = Timespec::try_from(time.max(Duration::from_nanos(1))).map_err(|_| io::ErrorKind::InvalidInput)?;
    let once = Itimerspec {
        it_interval: Timespec::default(),
        it_value: value,
    };
    rustix::time::timerfd_settime(&timer, TimerfdTimerFlags::empty(), &once)?;
    AsyncFd::with_interest(timer, Interest::READABLE)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bowline_foundation::clock::Timestamp;

    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    /// How long, in simulated milliseconds, the moment for so many is after what took so long, when they come at
    /// these milliseconds.
    async fn moment(gather: &Arc<Gather>, wanted: usize, took: Duration, come_at: &[u32]) -> u128 {
        let clock = Clock::fake(Timestamp::default());
        let waiting = Arc::new(AtomicUsize::new(0));
        let (comes, others) = (come_at.to_vec(), (Arc::clone(gather), Arc::clone(&waiting)));
        let arrivals = tokio::spawn(async move {
            let (gather, waiting) = others;
            let mut at = 0;
            for next in comes {
                tokio::time::sleep(MILLI * (next - at)).await;
                at = next;
                gather.arrived(waiting.fetch_add(1, Ordering::SeqCst) + 1);
            }
        });
        // Those who come at once are there before it begins.
        tokio::task::yield_now().await;
        let began = tokio::time::Instant::now();
        gather
            .wait(wanted, took, &clock, || waiting.load(Ordering::SeqCst))
            .await;
        let lasted = began.elapsed().as_millis();
        arrivals.abort();
        lasted
    }

    #[tokio::test(start_paused = true)]
    async fn callers_get_a_moment_to_come_back_and_no_longer() {
        let cases: [(usize, u32, &[u32], u128); 9] = [
            (3, 5, &[1, 4, 9], 9),
            (3, 5, &[0, 0, 3], 3),
            (3, 5, &[0, 0, 0], 0),
            (3, 5, &[1, 4], 10),
            (3, 5, &[], 10),
            (3, 5000, &[], 20),
            (1, 5, &[], 0),
            (3, 0, &[], 0),
            (2, 5, &[0, 2], 2),
        ];
        for (wanted, took, come_at, expected) in cases {
            let lasted = moment(&Arc::default(), wanted, MILLI * took, come_at).await;
            assert_eq!(
                lasted, expected,
                "{wanted} are wanted after {took} ms, and come at {come_at:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn moments_in_vain_become_rare_and_one_that_is_not_brings_them_back() {
        let gather = Arc::default();
        let mut in_vain = 0;
        for _ in 0..1000 {
            in_vain += u32::from(moment(&gather, 3, MILLI * 5, &[]).await == 10);
        }
        assert_eq!(
            in_vain,
            7 + 14,
            "with 1, 2, 4, 8, 16, 32 and then always 64 left out between"
        );
        let mut used = 0;
        for _ in 0..1000 {
            used += u32::from(moment(&gather, 2, MILLI * 5, &[1, 2]).await == 2);
        }
        assert!(used > 900, "{used} of 1000");
    }

    #[tokio::test]
    async fn a_nap_is_shorter_than_the_runtimes_timers_can_be() {
        let (clock, nap_time) = (Clock::system(), Duration::from_micros(50));
        let mut shortest = Duration::MAX;
        for _ in 0..200 {
            let began = clock.monotonic();
            nap(&clock, nap_time).await;
            let took = clock.monotonic().since(began);
            assert!(took >= nap_time, "{took:?}");
            shortest = shortest.min(took);
        }
        assert!(shortest < MILLI, "{shortest:?}");
    }
}
