//! How much of its processors the node wants: the time that its threads have run, or waited for a processor, by what the
//! kernel keeps of each. Whoever wants all that there is and gets half of it still wants all.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use bowline_functions::suspend::Meter;
use parking_lot::Mutex;

/// Where the kernel lists this process's threads.
const THREADS: &str = "/proc/self/task";

/// Adds up what each thread wants; those that end keep what they had.
#[derive(Default)]
pub struct ThreadMeter(Mutex<State>);

#[derive(Default)]
struct State {
    known: HashMap<String, Duration>,
    total: Duration,
}

impl Meter for ThreadMeter {
    fn wanted(&self) -> io::Result<Duration> {
        let mut state = self.0.lock();
        let mut known = HashMap::with_capacity(state.known.len());
        for entry in fs::read_dir(THREADS)? {
            let entry = entry?;
            let thread = entry.file_name().to_string_lossy().into_owned();
            // It may have ended meanwhile.
            let Some(wanted) = of_thread(&entry.path()) else {
                continue;
            };
            let before = state.known.get(&thread).copied().unwrap_or_default();
            state.total += wanted.saturating_sub(before);
            known.insert(thread, wanted);
        }
        state.known = known;
        Ok(state.total)
    }
}

fn of_thread(folder: &Path) -> Option<Duration> {
    parse(&fs::read_to_string(folder.join("schedstat")).ok()?)
}

/// `RUN WAITED SLICES`, the first two in nanoseconds.
fn parse(schedstat: &str) -> Option<Duration> {
    let mut fields = schedstat.split_whitespace().map(str::parse::<u64>);
    let (ran, waited) = (fields.next()?.ok()?, fields.next()?.ok()?);
    Some(Duration::from_nanos(ran.saturating_add(waited)))
}

#[cfg(test)]
mod tests {
    use bowline_foundation::clock::Clock;

    use super::*;

    #[test]
    fn what_the_kernel_writes_is_read() {
        assert_eq!(parse("120 30 7\n"), Some(Duration::from_nanos(150)));
        for other in ["", "120", "x 30 7"] {
            assert_eq!(parse(other), None);
        }
    }

    /// However little of a processor it gets: what it waits for counts.
    #[test]
    fn a_thread_that_computes_wants_one_processor_and_keeps_its_time_when_it_ends() {
        let (meter, clock) = (ThreadMeter::default(), Clock::system());
        let before = meter.wanted().unwrap();
        let began = clock.monotonic();
        let busy = std::thread::spawn(move || {
            while clock.monotonic().since(began) < Duration::from_millis(200) {
                std::hint::spin_loop();
            }
        });
        while !busy.is_finished() {
            meter.wanted().unwrap();
            std::thread::yield_now();
        }
        busy.join().unwrap();
        let wanted = meter.wanted().unwrap().saturating_sub(before);
        assert!(wanted >= Duration::from_millis(150), "{wanted:?}");
    }
}
