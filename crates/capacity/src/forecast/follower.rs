//! Functions that are called after others: who leads, how long before, and how surely.
//!
//! A follower looks for its leaders itself. At a call after a pause it notes who had begun a little
//! before; whoever was there the last time too becomes a leader, whose every call is then a trial.

use super::FunctionIndex;
use super::habits::Led;
use crate::slot::Slot;

/// A leader is called at most so many slots before its follower.
pub const LAG_MAX: u32 = 3;
/// Calls after at least so many slots of silence are beginnings.
pub const PAUSE: u32 = 3;
/// How many leaders one function has.
pub const LEADERS_MAX: usize = 4;
const SUSPECTS_MAX: usize = 16;
/// A leader is given up if so many trials show less than this.
const TRIALS_MIN: u16 = 8;
const CONFIDENCE_MIN: f32 = 0.1;
/// With so many trials all counts are halved.
const TRIALS_MAX: u16 = 200;
const SURENESS: [f32; 7] = [0.1, 0.2, 0.35, 0.5, 0.7, 0.85, 0.95];
const TRIED: [u16; 2] = [2, 12];

/// A function that this one may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suspect {
    pub function: u32,
    /// Slots from its call to ours.
    pub lag: u32,
}

#[derive(Clone, Copy, Debug)]
struct Leader {
    suspect: Suspect,
    trials: u16,
    hits: u16,
    /// Calls of ours since it became a leader, foreseen or not.
    calls: u16,
}

impl Leader {
    /// How likely we follow its call.
    fn confidence(&self) -> f32 {
        (f32::from(self.hits) + 0.3) / (f32::from(self.trials) + 1.5)
    }

    /// How much of our calls it explains.
    fn recall(&self) -> f32 {
        f32::from(self.hits) / (f32::from(self.calls) + 1.0)
    }
}

/// Whom one function follows.
#[derive(Clone, Debug, Default)]
pub struct Following {
    leaders: Vec<Leader>,
    suspects: Vec<Suspect>,
}

impl Following {
    /// How many contexts [`Following::context`] has.
    pub const CONTEXTS: usize = 1 + 2 * (SURENESS.len() + 1) * (TRIED.len() + 1);

    /// The leaders, for whoever keeps them.
    pub fn parts(&self) -> Vec<Led> {
        let led = |leader: &Leader| Led {
            leader: FunctionIndex(leader.suspect.function),
            lag: leader.suspect.lag,
            trials: leader.trials,
            hits: leader.hits,
            calls: leader.calls,
        };
        self.leaders.iter().map(led).collect()
    }

    /// Of leaders that were kept; `None` if they are none.
    pub fn of(kept: &[Led]) -> Option<Self> {
        let is_sound = |led: &Led| {
            let counts = led.trials.max(led.calls) < TRIALS_MAX && led.hits <= led.trials.min(led.calls);
            counts && led.lag <= LAG_MAX
        };
        if kept.len() > LEADERS_MAX || !kept.iter().all(is_sound) {
            return None;
        }
        let leader = |led: &Led| Leader {
            suspect: Suspect {
                function: led.leader.0,
                lag: led.lag,
            },
            trials: led.trials,
            hits: led.hits,
            calls: led.calls,
        };
        Some(Self {
            leaders: kept.iter().map(leader).collect(),
            suspects: Vec::new(),
        })
    }

    /// Takes note of a beginning of ours, and of those that began shortly `before`.
    pub fn begin(&mut self, before: impl Iterator<Item = Suspect>) {
        let now: Vec<Suspect> = before.take(SUSPECTS_MAX).collect();
        for suspect in now.iter().filter(|suspect| self.suspects.contains(suspect)) {
            let known = self.leaders.iter().any(|leader| leader.suspect == *suspect);
            if !known && self.leaders.len() < LEADERS_MAX {
                self.leaders.push(Leader {
                    suspect: *suspect,
                    trials: 1,
                    hits: 1,
                    calls: 1,
                });
            }
        }
        self.suspects = now;
    }

    /// Takes note of a slot that has passed. `was_led` says whether a suspect was called so long before it.
    pub fn add(&mut self, was_active: bool, was_led: impl Fn(Suspect) -> bool) {
        for leader in &mut self.leaders {
            let led = was_led(leader.suspect);
            leader.trials += u16::from(led);
            leader.hits += u16::from(led && was_active);
            leader.calls += u16::from(was_active);
            if leader.trials.max(leader.calls) >= TRIALS_MAX {
                leader.trials /= 2;
                leader.hits /= 2;
                leader.calls /= 2;
            }
        }
        self.leaders
            .retain(|leader| leader.trials < TRIALS_MIN || leader.confidence() >= CONFIDENCE_MIN);
    }

    /// The context of a slot: the surest leader that was called, else how much is missed by its silence.
    pub fn context(&self, was_led: impl Fn(Suspect) -> bool) -> usize {
        let mut best: Option<(bool, f32, &Leader)> = None;
        for leader in &self.leaders {
            let led = was_led(leader.suspect);
            let weight = if led { leader.confidence() } else { leader.recall() };
            if best.is_none_or(|(was, sure, _)| (led, weight) > (was, sure)) {
                best = Some((led, weight, leader));
            }
        }
        let Some((led, weight, leader)) = best else { return 0 };
        let sure = SURENESS.partition_point(|bound| *bound < weight);
        let tried = TRIED.partition_point(|bound| *bound < leader.trials);
        1 + (usize::from(led) * (SURENESS.len() + 1) + sure) * (TRIED.len() + 1) + tried
    }

    /// Whose calls are to be watched.
    pub fn suspects(&self) -> impl Iterator<Item = Suspect> + '_ {
        self.leaders.iter().map(|leader| leader.suspect)
    }

    /// Whom it follows, and how surely.
    pub fn leaders(&self) -> impl Iterator<Item = (u32, f32)> + '_ {
        let leaders = self.leaders.iter();
        leaders.map(|leader| (leader.suspect.function, leader.confidence()))
    }
}

/// Who began lately, newest last.
#[derive(Clone, Debug, Default)]
pub struct Beginnings(std::collections::VecDeque<(Slot, u32)>);

impl Beginnings {
    /// More than these are not remembered.
    const MAX: usize = 256;

    pub fn add(&mut self, slot: Slot, function: u32) {
        if self.0.len() == Self::MAX {
            self.0.pop_front();
        }
        self.0.push_back((slot, function));
    }

    /// Who began within [`LAG_MAX`] slots before `slot`, the latest first.
    pub fn before(&self, slot: Slot) -> impl Iterator<Item = Suspect> + '_ {
        let latest = self.0.iter().rev().skip_while(move |(began, _)| *began >= slot);
        let recent = latest.take_while(move |(began, _)| slot.since(*began) <= LAG_MAX);
        recent.map(move |(began, function)| Suspect {
            function: *function,
            lag: slot.since(*began),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEADER: Suspect = Suspect { function: 7, lag: 2 };

    #[test]
    fn who_was_there_twice_is_a_leader_and_proves_itself() {
        let mut following = Following::default();
        let stranger = |function| Suspect { function, lag: 1 };
        following.begin([stranger(1), LEADER].into_iter());
        assert_eq!(following.leaders().count(), 0, "once is chance");
        following.begin([LEADER, stranger(2)].into_iter());
        (0..20).for_each(|_| following.add(true, |suspect| suspect == LEADER));
        let (who, sure) = following.leaders().next().expect("there is one leader");
        assert!(who == 7 && sure > 0.9, "{who} {sure}");
        let (led, unled) = (following.context(|_| true), following.context(|_| false));
        assert!(led != unled && led < Following::CONTEXTS && unled < Following::CONTEXTS);
    }

    #[test]
    fn a_leader_that_leads_nowhere_is_given_up() {
        let mut following = Following::default();
        (0..2).for_each(|_| following.begin([LEADER].into_iter()));
        (0..100).for_each(|_| following.add(false, |_| true));
        assert_eq!(following.leaders().count(), 0);
        assert_eq!(following.context(|_| true), 0);
    }

    #[test]
    fn only_those_shortly_before_are_suspects() {
        let mut beginnings = Beginnings::default();
        for (slot, function) in [(1, 1), (5, 2), (7, 3), (8, 4)] {
            beginnings.add(Slot(slot), function);
        }
        let found: Vec<Suspect> = beginnings.before(Slot(8)).collect();
        assert_eq!(
            found,
            [Suspect { function: 3, lag: 1 }, Suspect { function: 2, lag: 3 }]
        );
    }
}
