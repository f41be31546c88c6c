//! Wall-clock and monotonic time behind one handle, with a fake that a test moves by hand.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::macros::format_description;

/// A moment on the wall clock, in microseconds since the Unix epoch (UTC).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(u64);

impl Timestamp {
    /// A timestamp `micros` microseconds after the Unix epoch.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Microseconds since the Unix epoch.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// Milliseconds since the Unix epoch, rounded down.
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000
    }

    /// The moment `duration` later; saturates at the end of the representable range.
    pub fn after(self, duration: Duration) -> Self {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(micros))
    }

    /// The moment `duration` earlier; the epoch if that would be before it.
    pub fn before(self, duration: Duration) -> Self {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        Self(self.0.saturating_sub(micros))
    }

    /// The time from `earlier` to `self`, zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// The form AWS Lambda uses for `LastModified`: `2026-11-20T23:24:39.123+0000`.
    pub fn to_lambda_string(self) -> String {
        let nanos = i128::from(self.0) * 1_000;
        let moment = OffsetDateTime::from_unix_timestamp_nanos(nanos).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]+0000");
        moment
            .format(&format)
            .expect("every component of the format exists for any date")
    }
}

/// A reading of the monotonic clock: the time since an arbitrary origin fixed at process start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Monotonic(Duration);

impl Monotonic {
    /// The time from `earlier` to `self`, zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// The moment `duration` later.
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }
}

/// Time that somebody else drives: a simulation's, with its own skew, drift and steps.
pub trait TimeSource: fmt::Debug + Send + Sync + 'static {
    /// The wall-clock time; may step either way.
    fn now(&self) -> Timestamp;
    /// The time since an origin that never changes; never goes back.
    fn monotonic(&self) -> Duration;
}

/// A cheap handle to a source of time.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System { origin: Instant },
    Fake(Arc<FakeTime>),
    Driven(Arc<dyn TimeSource>),
}

#[derive(Debug)]
struct FakeTime {
    wall_micros: AtomicU64,
    monotonic_micros: AtomicU64,
}

impl Clock {
    /// The operating system's clock. All of a process have one origin, so that what one of them read means the same to
    /// the others: a deadline is made by one part of it and kept by another.
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the system clock")]
    pub fn system() -> Self {
        static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
        Self(Source::System { origin: *ORIGIN })
    }

    /// A clock that stands at `start` until [`Clock::advance`] moves it.
    pub fn fake(start: Timestamp) -> Self {
        Self(Source::Fake(Arc::new(FakeTime {
            wall_micros: AtomicU64::new(start.as_micros()),
            monotonic_micros: AtomicU64::new(0),
        })))
    }

    /// A clock that shows what `source` says.
    pub fn driven_by(source: Arc<dyn TimeSource>) -> Self {
        Self(Source::Driven(source))
    }

    /// The wall-clock time.
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the system clock")]
    pub fn now(&self) -> Timestamp {
        match &self.0 {
            Source::System { .. } => {
                let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                Timestamp(u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX))
            }
            Source::Fake(fake) => Timestamp(fake.wall_micros.load(Ordering::Acquire)),
            Source::Driven(source) => source.now(),
        }
    }

    /// The monotonic time; comparable only with readings of the same clock.
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the system clock")]
    pub fn monotonic(&self) -> Monotonic {
        match &self.0 {
            Source::System { origin } => Monotonic(origin.elapsed()),
            Source::Fake(fake) => Monotonic(Duration::from_micros(fake.monotonic_micros.load(Ordering::Acquire))),
            Source::Driven(source) => Monotonic(source.monotonic()),
        }
    }

    /// Whether it is the operating system's, so that the system's timers keep its time.
    pub fn is_system(&self) -> bool {
        matches!(self.0, Source::System { .. })
    }

    /// Moves a fake clock forward, wall and monotonic alike.
    ///
    /// # Panics
    /// On any other clock, which is not ours to move.
    pub fn advance(&self, by: Duration) {
        let Source::Fake(fake) = &self.0 else {
            panic!("only a fake clock can be advanced")
        };
        let micros = u64::try_from(by.as_micros()).expect("a test advances by less than 584,000 years");
        fake.wall_micros.fetch_add(micros, Ordering::AcqRel);
        fake.monotonic_micros.fetch_add(micros, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_of_the_system_agree_whenever_they_were_made() {
        let first = Clock::system();
        let begin = first.monotonic();
        while first.monotonic().since(begin) < Duration::from_millis(2) {}
        let before = first.monotonic();
        assert!(Clock::system().monotonic() >= before);
    }

    #[test]
    fn a_fake_clock_stands_until_it_is_advanced() {
        let clock = Clock::fake(Timestamp::from_micros(1_000_000));
        let (wall, monotonic) = (clock.now(), clock.monotonic());
        assert_eq!(clock.now(), wall);
        clock.clone().advance(Duration::from_millis(5));
        assert_eq!(clock.now().since(wall), Duration::from_millis(5));
        assert_eq!(clock.monotonic().since(monotonic), Duration::from_millis(5));
    }

    #[test]
    fn lambda_strings_have_milliseconds_and_a_numeric_zone() {
        let moment = Timestamp::from_micros(1_795_217_079_123_456);
        assert_eq!(moment.to_lambda_string(), "2026-11-20T23:24:39.123+0000");
    }

    #[test]
    fn durations_between_moments_never_go_below_zero() {
        let (early, late) = (Timestamp::from_micros(5), Timestamp::from_micros(9));
        assert_eq!(early.since(late), Duration::ZERO);
        assert_eq!(late.since(early), Duration::from_micros(4));
        assert_eq!(early.after(Duration::from_micros(4)), late);
    }
}
