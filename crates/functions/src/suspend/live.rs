//! A run that this node has in hand: it runs here, or waits here to be resumed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bowline_foundation::clock::{Monotonic, Timestamp};
use bowline_foundation::id::RequestId;
use bowline_sandbox::{Control, Outcome, Wish};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::ledger::Loaded;
use super::pressure::Resource;
use super::record::{Decision, Phase};
use crate::invoke::Pool;

/// What is to become of a run that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Resume,
    Remove,
    /// Another node has it, or is to have it.
    LetGo,
    /// The node stops: the run goes on when it is back.
    Stop,
}

/// One run.
pub(crate) struct Live {
    pub run: RequestId,
    pub account: String,
    pub function: String,
    pub version: String,
    pub started: Timestamp,
    pub deadline: Timestamp,
    /// Whether somebody waits for the answer here.
    pub has_caller: bool,
    pub control: Arc<Control>,
    /// Somebody else has gone on with it: nothing that happens here counts any more.
    pub(super) lost: AtomicBool,
    /// The node stops: what the guest leaves is for whoever comes next.
    pub(super) stopping: AtomicBool,
    /// Nobody wants it to rest: it has left its sandbox to go on elsewhere, or here when there is room.
    pub(super) passing: AtomicBool,
    /// The node that its next checkpoint is for.
    pub(super) bound_for: Mutex<Option<u64>>,
    /// It makes way for another: it ends its sandbox, and goes on by itself.
    pub(super) yields: AtomicBool,
    /// What it rests for, by a rule, and since when; it goes on by itself.
    pub(super) rests: Mutex<Option<Rest>>,
    /// Where it runs, once that is known.
    pub(super) pool: OnceLock<Arc<Pool>>,
    /// Held while the record is changed.
    pub(super) loaded: tokio::sync::Mutex<Option<Loaded>>,
    state: Mutex<State>,
    /// Counts the changes of the state.
    changes: watch::Sender<u64>,
}

/// A rest by a rule.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rest {
    pub of: Resource,
    pub since: Monotonic,
}

struct State {
    phase: Phase,
    turn: Option<Turn>,
    /// Why the next checkpoint is taken.
    why: Decision,
    /// How many checkpoints were taken here.
    taken: u64,
    failure: Option<String>,
    /// Whether it has been taken up here.
    went_on: bool,
    /// Why it is taken up here, for the record.
    taken_for: Option<Decision>,
    /// `Some(None)` if it has gone elsewhere.
    outcome: Option<Option<Outcome>>,
}

impl Live {
    pub(super) fn new(about: About, has_caller: bool, loaded: Option<Loaded>) -> Arc<Self> {
        let phase = loaded.as_ref().map_or(Phase::Running, |loaded| loaded.record.phase);
        Arc::new(Self {
            run: about.run,
            account: about.account,
            function: about.function,
            version: about.version,
            started: about.started,
            deadline: about.deadline,
            has_caller,
            control: Arc::default(),
            lost: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            passing: AtomicBool::new(false),
            bound_for: Mutex::default(),
            yields: AtomicBool::new(false),
            rests: Mutex::default(),
            pool: OnceLock::new(),
            loaded: tokio::sync::Mutex::new(loaded),
            state: Mutex::new(State {
                phase,
                turn: None,
                why: Decision {
                    at_ms: 0,
                    what: "copy".to_owned(),
                    why: "periodic".to_owned(),
                    values: Default::default(),
                },
                taken: 0,
                failure: None,
                went_on: false,
                taken_for: None,
                outcome: None,
            }),
            changes: watch::Sender::new(0),
        })
    }

    fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let result = change(&mut self.state.lock());
        self.changes.send_modify(|changes| *changes += 1);
        result
    }

    pub(super) fn phase(&self) -> Phase {
        self.state.lock().phase
    }

    pub(super) fn set_phase(&self, phase: Phase) {
        self.change(|state| state.phase = phase);
    }

    /// It runs again: what was said of its rest is over, unless the node stops.
    pub(super) fn goes_on(&self) {
        self.passing.store(false, Ordering::SeqCst);
        *self.rests.lock() = None;
        self.change(|state| {
            state.phase = Phase::Running;
            state.went_on = true;
            state.turn = state.turn.filter(|turn| *turn == Turn::Stop);
        });
    }

    /// Whether it has been taken up here.
    pub(super) fn went_on(&self) -> bool {
        self.state.lock().went_on
    }

    /// Says why it will be taken up here.
    pub(super) fn set_taken_for(&self, decision: Option<Decision>) {
        self.change(|state| state.taken_for = decision);
    }

    pub(super) fn take_taken_for(&self) -> Option<Decision> {
        self.state.lock().taken_for.take()
    }

    /// Asks the guest for a checkpoint, with the reason that it will bear.
    pub(super) fn ask(&self, wish: Wish, why: Decision) {
        self.change(|state| {
            state.why = why;
            state.failure = None;
        });
        self.control.ask(wish);
    }

    /// Why the checkpoint that has just been taken was wanted; the next one is periodic, unless somebody asks.
    pub(super) fn why(&self, now: Timestamp) -> Decision {
        let periodic = Decision {
            at_ms: now.as_millis(),
            what: "copy".to_owned(),
            why: "periodic".to_owned(),
            values: Default::default(),
        };
        std::mem::replace(&mut self.state.lock().why, periodic)
    }

    pub(super) fn taken(&self, failure: Option<String>) {
        self.change(|state| {
            state.taken += u64::from(failure.is_none());
            state.failure = failure;
        });
    }

    pub(super) fn taken_count(&self) -> u64 {
        self.state.lock().taken
    }

    /// Why the last checkpoint could not be kept.
    pub(super) fn failure(&self) -> Option<String> {
        self.state.lock().failure.clone()
    }

    /// Why it has ended here without an end of its own.
    pub(super) fn broken(&self) -> Option<String> {
        match &self.state.lock().outcome {
            Some(Some(Outcome::Broken(reason))) => Some(reason.clone()),
            _ => None,
        }
    }

    pub(super) fn give_turn(&self, turn: Turn) {
        self.change(|state| {
            // Who has gone on meanwhile is not let go at its next rest. That the node stops outranks all.
            let is_late = turn == Turn::LetGo && state.phase != Phase::Suspended;
            if state.turn != Some(Turn::Stop) && !is_late {
                state.turn = Some(turn);
            }
            state.failure = None;
        });
    }

    /// Waits until it is told what becomes of it.
    pub(super) async fn turn(&self) -> Turn {
        let mut changes = self.changes.subscribe();
        loop {
            if let Some(turn) = self.state.lock().turn.take() {
                return turn;
            }
            // The sender lives as long as `self`.
            let _ = changes.changed().await;
        }
    }

    /// Nothing more happens to it here; without an outcome it has gone elsewhere.
    pub(super) fn end(&self, outcome: Option<Outcome>) {
        self.change(|state| {
            state.phase = Phase::Finished;
            state.outcome = Some(outcome);
        });
    }

    /// Waits for its end; gives none if it has gone elsewhere.
    pub(super) async fn ended(&self) -> Option<Outcome> {
        let mut changes = self.changes.subscribe();
        loop {
            if let Some(outcome) = self.state.lock().outcome.clone() {
                return outcome;
            }
            let _ = changes.changed().await;
        }
    }

    /// Waits until something is true of the run, or it has ended.
    pub(super) async fn until(&self, condition: impl Fn(&Self) -> bool) {
        let mut changes = self.changes.subscribe();
        while !condition(self) && self.phase() != Phase::Finished {
            let _ = changes.changed().await;
        }
    }
}

/// What a run is about.
pub(super) struct About {
    pub run: RequestId,
    pub account: String,
    pub function: String,
    pub version: String,
    pub started: Timestamp,
    pub deadline: Timestamp,
}

#[cfg(test)]
mod tests {
    use bowline_foundation::entropy::Entropy;

    use super::*;

    fn live() -> Arc<Live> {
        let about = About {
            run: RequestId::random(&Entropy::seeded(1)),
            account: String::new(),
            function: String::new(),
            version: String::new(),
            started: Timestamp::from_micros(0),
            deadline: Timestamp::from_micros(0),
        };
        Live::new(about, true, None)
    }

    #[test]
    fn what_was_said_of_a_rest_ends_with_it_but_for_the_node_s_stop() {
        for (turn, left) in [
            (Turn::Remove, None),
            (Turn::Resume, None),
            (Turn::Stop, Some(Turn::Stop)),
        ] {
            let live = live();
            live.give_turn(turn);
            assert_eq!(live.state.lock().turn, Some(turn), "the control");
            live.goes_on();
            assert_eq!((live.phase(), live.state.lock().turn), (Phase::Running, left));
        }
    }

    /// A target that gives up on a run which goes on in that moment has it all the same.
    #[test]
    fn a_run_that_has_gone_on_is_not_let_go_at_its_next_rest() {
        let live = live();
        live.set_phase(Phase::Suspended);
        live.give_turn(Turn::LetGo);
        assert_eq!(live.state.lock().turn, Some(Turn::LetGo), "the control");
        live.goes_on();
        live.give_turn(Turn::LetGo);
        live.set_phase(Phase::Suspended);
        assert_eq!(live.state.lock().turn, None);
    }

    #[test]
    fn a_new_request_is_not_answered_by_an_old_failure() {
        let live = live();
        live.taken(Some("full".to_owned()));
        assert_eq!(live.failure().as_deref(), Some("full"), "the control");
        let why = live.why(Timestamp::from_micros(0));
        live.ask(Wish::Copy, why);
        assert_eq!(live.failure(), None);
        live.taken(Some("full".to_owned()));
        live.give_turn(Turn::Resume);
        assert_eq!(live.failure(), None);
    }
}
