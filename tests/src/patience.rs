//! Waiting for another process, which gives no event to wait on: asking again until it is so.

use std::time::Duration;

use bowline_foundation::clock::Clock;

const BETWEEN_QUESTIONS: Duration = Duration::from_millis(10);

/// Asks until `question` gives a value; `None` once `longest` has gone by.
#[allow(clippy::disallowed_methods, reason = "a foreign process can only be asked again")]
pub fn until<T>(longest: Duration, mut question: impl FnMut() -> Option<T>) -> Option<T> {
    let clock = Clock::system();
    let begin = clock.monotonic();
    loop {
        if let Some(value) = question() {
            return Some(value);
        }
        if clock.monotonic().since(begin) > longest {
            return None;
        }
        std::thread::sleep(BETWEEN_QUESTIONS);
    }
}

/// Gives what happens in the background `time` to happen; for measurements, never for order in a test.
#[allow(clippy::disallowed_methods, reason = "there is no event to wait for")]
pub fn rest(time: Duration) {
    std::thread::sleep(time);
}

/// Lets `time` go by on this thread, to the microsecond: it decides where a kill falls, it waits for nothing.
pub fn pass(time: Duration) {
    let clock = Clock::system();
    let begin = clock.monotonic();
    while clock.monotonic().since(begin) < time {
        std::hint::spin_loop();
    }
}

/// The median of some durations.
pub fn median(mut times: Vec<Duration>) -> Duration {
    assert!(!times.is_empty(), "there is no median of nothing");
    times.sort();
    times[times.len() / 2]
}
