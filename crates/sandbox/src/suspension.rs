//! Stopping one invocation where it stands, and going on with it later, perhaps elsewhere.
//!
//! ```text
//!   platform ── Control::ask ──▶ the guest stops at its next place
//!                                   ├─ Wish::Copy ──▶ Keeper::keep(Frozen) ──▶ it goes on
//!                                   ├─ Wish::Leave ─▶ Outcome::Suspended(Frozen)
//!                                   └─ Wish::End ───▶ nothing is kept: its time is over, or nobody waits
//!   Suspension { from } ──▶ Sandbox::invoke ──▶ it goes on where it stood
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::machine::MachineNeeds;

/// The variable of a function's environment that asks for checkpoints: `on`, or how often one is taken while an
/// invocation runs (`500ms`, `5s`, `2m`).
pub const CHECKPOINT_VARIABLE: &str = "BOWLINE_CHECKPOINT";
/// The shortest time between two periodic checkpoints.
pub const CHECKPOINT_EVERY_MIN: Duration = Duration::from_millis(100);

/// What is wanted of a guest; a later one outranks those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wish {
    /// A checkpoint; then it goes on.
    Copy,
    /// A checkpoint; then it gives up its place.
    Leave,
    /// That it ends.
    End,
}

/// Asks one running guest to stop. The platform and the sandbox have it in common.
#[derive(Default)]
pub struct Control {
    state: Mutex<State>,
    /// Told whenever something begins to run.
    attached: Notify,
}

type Stop = Box<dyn Fn() + Send>;

#[derive(Default)]
struct State {
    wish: Option<Wish>,
    /// Stops what runs now.
    stop: Option<Stop>,
}

impl Control {
    /// Asks for something; never waits for it.
    pub fn ask(&self, wish: Wish) {
        let mut state = self.state.lock();
        state.wish = state.wish.max(Some(wish));
        if let Some(stop) = &state.stop {
            stop();
        }
    }

    /// Says how to stop what runs from now on. What was asked before is asked at once.
    pub fn attach(&self, stop: Stop) {
        let mut state = self.state.lock();
        if state.wish.is_some() {
            stop();
        }
        state.stop = Some(stop);
        self.attached.notify_one();
    }

    /// Waits until something begins to run, if nothing has begun since the last call. For one caller at a time.
    pub async fn attached(&self) {
        self.attached.notified().await;
    }

    /// What is asked for.
    pub fn wish(&self) -> Option<Wish> {
        self.state.lock().wish
    }

    /// Nothing runs any more. Takes what was asked for, if anything was.
    pub fn take(&self) -> Option<Wish> {
        let mut state = self.state.lock();
        state.stop = None;
        state.wish.take()
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Control").field(&self.state.lock().wish).finish()
    }
}

/// A stopped invocation as bytes: whole and signed.
#[derive(Clone, PartialEq, Eq)]
pub struct Frozen {
    pub bytes: Bytes,
    /// Of the guest's memory, what is not zero.
    pub resident_bytes: u64,
    /// From the request until the bytes were there.
    pub took: Duration,
    /// What it needs to go on, if it is a whole machine.
    pub machine: Option<Box<MachineNeeds>>,
}

impl std::fmt::Debug for Frozen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Frozen({} bytes)", self.bytes.len())
    }
}

/// What becomes of a guest whose checkpoint was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    GoOn,
    /// It runs elsewhere by now: it must not go on here.
    GiveUp,
}

/// Keeps the checkpoints of one invocation while it runs.
#[async_trait]
pub trait Keeper: Send + Sync + 'static {
    /// Keeps a checkpoint; the guest waits for the answer.
    async fn keep(&self, frozen: Frozen) -> Kept;

    /// Says that no checkpoint could be taken, and why; the invocation goes on.
    fn not_taken(&self, _reason: &str) {}
}

/// The way of one invocation to be suspended and resumed.
pub struct Suspension {
    pub control: Arc<Control>,
    pub keeper: Arc<dyn Keeper>,
    /// Where it goes on; at its beginning if there is none.
    pub from: Option<Bytes>,
}

impl std::fmt::Debug for Suspension {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Suspension")
            .field("resumed", &self.from.is_some())
            .finish()
    }
}

/// Whether invocations of a version can be suspended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Suspendable {
    /// Its owner has not asked for it.
    Unasked,
    Yes,
    /// Its owner has, but it cannot be done; the text says why.
    Refused(String),
}

/// What a checkpoint says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointFacts {
    /// The digest of the original module.
    pub module: String,
    pub format_version: u32,
    pub pass_version: u32,
    /// The size of the guest's memory, zeros included.
    pub memory_bytes: u64,
    /// Pages of 4 KiB that are not zero.
    pub pages: u64,
    pub frames: u64,
    pub globals: u64,
}

/// How a version's owner wants checkpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointMode {
    /// How often one is taken while an invocation runs; only on request if there is none.
    pub every: Option<Duration>,
}

/// The value of [`CHECKPOINT_VARIABLE`] means nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{CHECKPOINT_VARIABLE}` is `{0}`, expected `on`, `off`, or a time from 100ms on, `500ms`, `5s` or `2m` say")]
pub struct InvalidMode(String);

impl CheckpointMode {
    /// What a version's environment asks for.
    pub fn of(environment: &BTreeMap<String, String>) -> Result<Option<Self>, InvalidMode> {
        let Some(text) = environment.get(CHECKPOINT_VARIABLE) else {
            return Ok(None);
        };
        match text.as_str() {
            "off" => Ok(None),
            "on" => Ok(Some(Self { every: None })),
            text => {
                let every = duration(text).filter(|every| *every >= CHECKPOINT_EVERY_MIN);
                let every = every.ok_or_else(|| InvalidMode(text.to_owned()))?;
                Ok(Some(Self { every: Some(every) }))
            }
        }
    }
}

fn duration(text: &str) -> Option<Duration> {
    let units = [("ms", 1), ("s", 1_000), ("m", 60_000)];
    let (number, millis) = units
        .into_iter()
        .find_map(|(unit, millis)| Some((text.strip_suffix(unit)?, millis)))?;
    let number: u32 = number.parse().ok()?;
    Some(Duration::from_millis(u64::from(number) * millis))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn a_mode_is_a_word_or_a_time() {
        let of = |text: &str| {
            let environment = BTreeMap::from([(CHECKPOINT_VARIABLE.to_owned(), text.to_owned())]);
            CheckpointMode::of(&environment).map(|mode| mode.map(|mode| mode.every))
        };
        assert_eq!(CheckpointMode::of(&BTreeMap::new()), Ok(None));
        assert_eq!(of("off"), Ok(None));
        assert_eq!(of("on"), Ok(Some(None)));
        assert_eq!(of("500ms"), Ok(Some(Some(Duration::from_millis(500)))));
        assert_eq!(of("2m"), Ok(Some(Some(Duration::from_secs(120)))));
        for bad in ["", "yes", "5", "99ms", "-1s", "1.5s", "5h", "99999999999s"] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_asked_before_a_guest_runs_stops_it_when_it_does() {
        let control = Control::default();
        let stops = Arc::new(AtomicU32::new(0));
        let attach = || {
            let stops = stops.clone();
            control.attach(Box::new(move || {
                stops.fetch_add(1, Ordering::Relaxed);
            }));
        };
        attach();
        assert_eq!(stops.load(Ordering::Relaxed), 0, "the control: nobody has asked");
        control.ask(Wish::Leave);
        control.ask(Wish::Copy);
        assert_eq!(stops.load(Ordering::Relaxed), 2);
        assert_eq!(control.take(), Some(Wish::Leave), "the stronger wish counts");
        assert_eq!(control.take(), None);
        assert_eq!(control.wish(), None);
        control.ask(Wish::Copy);
        assert_eq!(control.wish(), Some(Wish::Copy), "it is not taken");
        assert_eq!(stops.load(Ordering::Relaxed), 2, "nothing runs");
        attach();
        assert_eq!(stops.load(Ordering::Relaxed), 3);
    }
}
