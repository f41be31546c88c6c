//! When something that failed is tried again, and when it is given up. Pure: times are passed in.

use std::time::Duration;

use bowline_foundation::clock::Timestamp;

use crate::model::events::{EventInvokeSettings, MappingSettings};

/// How often an event is tried again after the function's error unless its configuration says otherwise.
pub(crate) const RETRIES_DEFAULT: u32 = 2;
/// How old an event may be unless its configuration says otherwise.
pub(crate) const AGE_SECONDS_DEFAULT: u32 = 21_600;
/// How often an outcome may cause the next invocation before the chain is cut.
pub(crate) const HOPS_MAX: u32 = 16;

/// What an event's configuration permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EventPolicy {
    pub retries_max: u32,
    pub age_max: Duration,
}

/// What follows the function's error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AfterError {
    /// Try again; this is the retry of this number, from 0.
    Retry(usize),
    Exhausted,
}

impl EventPolicy {
    pub fn of(settings: Option<&EventInvokeSettings>) -> Self {
        let retries = settings.and_then(|settings| settings.retries_max);
        let age = settings.and_then(|settings| settings.age_seconds_max);
        Self {
            retries_max: retries.unwrap_or(RETRIES_DEFAULT),
            age_max: Duration::from_secs(age.unwrap_or(AGE_SECONDS_DEFAULT).into()),
        }
    }

    /// Whether an event is too old to be tried.
    pub fn is_too_old(&self, accepted_at: Timestamp, now: Timestamp) -> bool {
        now.since(accepted_at) > self.age_max
    }

    /// What follows when the function has failed for the `tries`-th time.
    pub fn after_error(&self, tries: u32) -> AfterError {
        if tries > self.retries_max {
            return AfterError::Exhausted;
        }
        AfterError::Retry(tries.saturating_sub(1) as usize)
    }
}

/// The pause before the next try of something that fails again and again: doubled each time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Backoff {
    pub first: Duration,
    pub longest: Duration,
}

impl Backoff {
    /// The pause after so many failures in a row, from 1.
    pub fn after(self, failures: u32) -> Duration {
        let doubled = 1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
        self.first.saturating_mul(doubled).min(self.longest)
    }
}

/// What becomes of a batch whose function has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AfterBatchError {
    /// Try its two halves, the first of so many events; the tries count on.
    Bisect(usize),
    /// Try it again.
    Retry,
    /// Its tries are used up.
    Exhausted,
}

/// What follows when the function has failed for the `tries`-th time over a batch of so many events.
/// Cutting in two uses no try up, so that a single bad event is found however few tries there are.
pub(crate) fn after_batch_error(settings: &MappingSettings, events: usize, tries: u32) -> AfterBatchError {
    if settings.bisects && events > 1 {
        return AfterBatchError::Bisect(events / 2);
    }
    match settings.retries_max {
        Some(max) if tries > max => AfterBatchError::Exhausted,
        _ => AfterBatchError::Retry,
    }
}

/// How many of a batch's events, from the first, are older than the mapping permits.
pub(crate) fn too_old(settings: &MappingSettings, arrivals: &[Timestamp], now: Timestamp) -> usize {
    let Some(seconds) = settings.age_seconds_max else {
        return 0;
    };
    let age_max = Duration::from_secs(seconds.into());
    arrivals
        .iter()
        .take_while(|arrived| now.since(**arrived) > age_max)
        .count()
}

#[cfg(test)]
mod tests {
    use bowline_foundation::clock::Clock;

    use super::*;

    fn policy(retries_max: Option<u32>, age_seconds_max: Option<u32>) -> EventPolicy {
        EventPolicy::of(Some(&EventInvokeSettings {
            retries_max,
            age_seconds_max,
            ..EventInvokeSettings::default()
        }))
    }

    #[test]
    fn an_event_is_tried_three_times_by_default() {
        let default = EventPolicy::of(None);
        assert_eq!(default.after_error(1), AfterError::Retry(0));
        assert_eq!(default.after_error(2), AfterError::Retry(1));
        assert_eq!(default.after_error(3), AfterError::Exhausted);
        assert_eq!(policy(Some(1), None).after_error(1), AfterError::Retry(0));
        assert_eq!(policy(Some(1), None).after_error(2), AfterError::Exhausted);
        assert_eq!(policy(Some(0), None).after_error(1), AfterError::Exhausted);
    }

    #[test]
    fn an_event_lives_six_hours_by_default() {
        let clock = Clock::fake(Timestamp::from_micros(1_795_217_079_123_456));
        let accepted = clock.now();
        let (default, short) = (EventPolicy::of(None), policy(None, Some(60)));
        clock.advance(Duration::from_secs(60));
        assert!(!short.is_too_old(accepted, clock.now()));
        clock.advance(Duration::from_micros(1));
        assert!(short.is_too_old(accepted, clock.now()));
        assert!(!default.is_too_old(accepted, clock.now()));
        clock.advance(Duration::from_secs(6 * 3600));
        assert!(default.is_too_old(accepted, clock.now()));
    }

    #[test]
    fn pauses_double_up_to_five_minutes() {
        let backoff = Backoff {
            first: Duration::from_secs(1),
            longest: Duration::from_secs(300),
        };
        let pauses: Vec<u64> = (1..12).map(|failures| backoff.after(failures).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(backoff.after(u32::MAX), backoff.longest);
    }

    #[test]
    fn a_batch_is_cut_in_two_until_one_event_is_left() {
        let bisecting = MappingSettings {
            bisects: true,
            retries_max: Some(1),
            ..MappingSettings::default()
        };
        assert_eq!(after_batch_error(&bisecting, 7, 9), AfterBatchError::Bisect(3));
        assert_eq!(after_batch_error(&bisecting, 1, 1), AfterBatchError::Retry);
        assert_eq!(after_batch_error(&bisecting, 1, 2), AfterBatchError::Exhausted);
        let whole = MappingSettings {
            bisects: false,
            ..bisecting
        };
        assert_eq!(after_batch_error(&whole, 7, 1), AfterBatchError::Retry);
        assert_eq!(after_batch_error(&whole, 7, 2), AfterBatchError::Exhausted);
        let endless = MappingSettings::default();
        assert_eq!(after_batch_error(&endless, 7, 1_000_000), AfterBatchError::Retry);
    }

    #[test]
    fn only_events_at_the_head_of_a_batch_grow_too_old() {
        let clock = Clock::fake(Timestamp::from_micros(1_795_217_079_123_456));
        let first = clock.now();
        clock.advance(Duration::from_secs(30));
        let arrivals = [first, clock.now()];
        let settings = MappingSettings {
            age_seconds_max: Some(60),
            ..MappingSettings::default()
        };
        assert_eq!(too_old(&settings, &arrivals, clock.now()), 0);
        clock.advance(Duration::from_secs(31));
        assert_eq!(too_old(&settings, &arrivals, clock.now()), 1);
        clock.advance(Duration::from_secs(60));
        assert_eq!(too_old(&settings, &arrivals, clock.now()), 2);
        assert_eq!(too_old(&MappingSettings::default(), &arrivals, clock.now()), 0);
    }
}
