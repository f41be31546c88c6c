//! `poll_oneoff`: waiting, which ends at once when the guest is asked to stop.
//!
//! The guest is then told that the time is over, and the host remembers for how long it still has to wait: it does
//! before it lets the guest go on. So no guest sees an interrupted wait, which few programs expect.

use std::time::Duration;

use wasmtime::{Caller, Result};

use super::{Errno, clock_of, code, errno};
use crate::wasi::HasWasi;
use crate::wasi::view::{Fault, View};

const KIND_CLOCK: u8 = 0;
const SUBSCRIPTION_BYTES: u32 = 48;
const EVENT_BYTES: u32 = 32;
/// More subscriptions than descriptors and clocks could ever need.
const SUBSCRIPTIONS_MAX: u32 = 1024;

/// One thing that is waited for.
struct Subscription {
    user_data: [u8; 8],
    kind: u8,
    /// How long until it happens; an error if what was asked for does not exist.
    wait: Result<Duration, i32>,
}

impl Subscription {
    fn due(&self) -> Duration {
        self.wait.unwrap_or_default()
    }
}

pub(super) fn poll_oneoff<T: HasWasi>(
    mut caller: Caller<'_, T>,
    list: u32,
    events: u32,
    count: u32,
    happened_at: u32,
) -> Result<i32> {
    if count == 0 || count > SUBSCRIPTIONS_MAX {
        return Ok(errno::INVAL);
    }
    let mut view = View::of(&mut caller)?;
    let Ok(waited) = subscriptions(&mut view, list, count) else {
        return Ok(errno::FAULT);
    };
    let shortest = waited.iter().map(Subscription::due).min().unwrap_or_default();
    if shortest > Duration::ZERO {
        wait(&mut view, shortest);
    }
    Ok(code(report(&mut view, &waited, shortest, (events, happened_at))))
}

/// Waits; what is left when the guest is asked to stop is owed.
fn wait(view: &mut View<'_>, time: Duration) {
    let before = view.wasi.clocks.now();
    if !view.wasi.interrupt.wait(time) {
        let waited = view.wasi.clocks.now().since(before);
        view.wasi.clocks.owe(time.saturating_sub(waited));
    }
}

fn report(
    view: &mut View<'_>,
    waited: &[Subscription],
    shortest: Duration,
    (events, happened_at): (u32, u32),
) -> Result<(), Errno> {
    let mut happened = 0_u32;
    for one in waited.iter().filter(|one| one.due() <= shortest) {
        let mut event = [0_u8; EVENT_BYTES as usize];
        event[..8].copy_from_slice(&one.user_data);
        if let Err(error) = one.wait {
            event[8..10].copy_from_slice(&(error as u16).to_le_bytes());
        }
        event[10] = one.kind;
        let offset = happened.checked_mul(EVENT_BYTES).ok_or(Fault)?;
        view.put(events.checked_add(offset).ok_or(Fault)?, &event)?;
        happened += 1;
    }
    Ok(view.put_u32(happened_at, happened)?)
}

fn subscriptions(view: &mut View<'_>, list: u32, count: u32) -> Result<Vec<Subscription>, Fault> {
    let read = |index: u32| {
        let offset = index.checked_mul(SUBSCRIPTION_BYTES).ok_or(Fault)?;
        let raw: [u8; SUBSCRIPTION_BYTES as usize] = view.get(list.checked_add(offset).ok_or(Fault)?)?;
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|index| raw[at + index]));
        let kind = raw[8];
        let target = (word(16) & 0xffff_ffff) as u32;
        let wait = if kind == KIND_CLOCK {
            clock_of(target.cast_signed()).ok_or(errno::INVAL).map(|clock| {
                let nanos = match raw[40] & 1 {
                    1 => word(24).saturating_sub(view.wasi.clocks.read(clock)),
                    _ => word(24),
                };
                Duration::from_nanos(nanos)
            })
        } else {
            // Streams and files never block.
            let known = view.wasi.descriptors.contains_key(&target);
            if known { Ok(Duration::ZERO) } else { Err(errno::BADF) }
        };
        Ok(Subscription {
            user_data: std::array::from_fn(|index| raw[index]),
            kind,
            wait,
        })
    };
    (0..count).map(read).collect()
}
