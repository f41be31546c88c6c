//! What an instance really uses, from what its meters say one time after the other.

use std::time::Duration;

use bowline_agent::{Maxima, Reading};
use bowline_capacity::draining::{Level, Measured};
use bowline_foundation::clock::Monotonic;

/// What is known of one instance.
#[derive(Debug, Default)]
pub(super) struct Metering {
    /// The processor time at the last reading.
    last: Option<(Monotonic, Duration)>,
    pub measured: Measured,
}

impl Metering {
    /// Takes a reading in; without limits there is nothing to be near to.
    pub fn take(&mut self, reading: Reading, maxima: Option<Maxima>, now: Monotonic) {
        let Some(maxima) = maxima else { return };
        if let Some(cpu) = reading.cpu {
            self.spend(cpu, maxima.cpu_millis, now);
        }
        if let Some(used) = reading.memory_bytes {
            let most = maxima.memory_mib << 20;
            self.measured.memory = Level { used, most };
        }
    }

    fn spend(&mut self, cpu: Duration, limit_millis: u64, now: Monotonic) {
        if let Some((at, before)) = self.last {
            let elapsed = micros(now.since(at));
            if elapsed == 0 {
                return;
            }
            self.measured.processors = Level {
                // Another server has taken its place and counts from nought.
                used: micros(cpu.saturating_sub(before)),
                most: elapsed.saturating_mul(limit_millis) / 1000,
            };
        }
        self.last = Some((now, cpu));
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
