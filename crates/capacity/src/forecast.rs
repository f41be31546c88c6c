//! How likely is each function called in the coming minute? Several forecasts, weighed into one.
//!
//! ```text
//! called ──▶ the slot's calls ──advance──▶ every forecast and the mixer learn from what happened
//!                                             │
//!                                             ▼
//!                  gaps · rhythm · season · recurrence · rates · followers ──mixer──▶ chance
//! ```
//! Which slots have a call does not depend on what is kept warm, so forecasts can be learned once and
//! judged at any price. A forecast of a slot is made from the slots before it alone.

mod follower;
mod gap;
mod habits;
mod history;
mod odds;
mod rhythm;
mod schedule;
mod season;

use serde::{Deserialize, Serialize};

use crate::slot::{SLOTS_PER_DAY, Slot};
use follower::{Beginnings, Following, LEADERS_MAX, PAUSE, Suspect};
use gap::Gaps;
use history::{History, RATES};
use odds::{Mixer, Table, stretch};
use rhythm::Rhythm;
use season::Season;

pub use habits::{Habits, Led, Teaching};
pub use schedule::{Schedule, ScheduleError};

/// The opinion that never changes, by which the mixer learns what to add to all others.
const BIAS: f32 = 0.5;
/// How many opinions there are beside the rates, the bias among them.
const OPINIONS: usize = 9 + RATES;
/// Functions are told apart by how many gaps of them are known.
const EXPERIENCE: [u16; 5] = [0, 1, 3, 8, 25];
const EXPERIENCES: usize = EXPERIENCE.len() + 1;
/// The mixer tells apart how long the last call lies back.
const AGES: [u32; 7] = [1, 3, 10, 30, 120, 720, 2880];
/// Slots that nobody watched, as while the node was down, are skipped from this many on.
const SKIPPED_MIN: u32 = SLOTS_PER_DAY;
/// A minute is waited for at most this long ahead by [`Forecaster::outlook`].
const OUTLOOK_MAX: u32 = SLOTS_PER_DAY;

/// A function's place among those that are forecast.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FunctionIndex(pub u32);

impl FunctionIndex {
    fn at(self) -> usize {
        self.0 as usize
    }
}

/// What calls a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trigger {
    /// A timer, exact to the minute.
    Timer,
    /// Anything else.
    Other,
}

/// How long a function is worth keeping after now, and when it is worth starting again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outlook {
    /// Slots from now on.
    pub keep: u32,
    /// Slots until it is worth starting ahead of its call, within a day.
    pub start_in: Option<u32>,
}

/// Forecasts the calls of many functions, one slot ahead.
#[derive(Clone, Debug)]
pub struct Forecaster {
    slot: Slot,
    series: Vec<Series>,
    learned: Learned,
    beginnings: Beginnings,
}

/// One function.
#[derive(Clone, Debug)]
struct Series {
    trigger: Trigger,
    calls: u32,
    last: Option<Slot>,
    /// Gaps after a call that followed closely on another, and after one that did not.
    gaps: [Gaps; 2],
    all_gaps: Gaps,
    ran_on: bool,
    rhythm: Rhythm,
    season: Season,
    history: History,
    following: Following,
    schedule: Schedule,
    view: View,
    chance: f32,
}

/// What all functions together have taught.
#[derive(Clone, Debug)]
struct Learned {
    ages: Table,
    rhythms: Table,
    recurrences: Table,
    followings: Table,
    mixer: Mixer<OPINIONS>,
}

/// A slot, how far it lies ahead of the one that is watched, and how long after the last call.
#[derive(Clone, Copy, Debug)]
struct Moment {
    slot: Slot,
    ahead: u32,
    age: u32,
}

/// What a function looks like before a slot: the contexts of the tables and the opinions for the mixer.
#[derive(Clone, Debug)]
struct View {
    age: usize,
    rhythm: usize,
    recurrence: usize,
    following: usize,
    mixer: [usize; 2],
    opinions: [f32; OPINIONS],
}

impl Forecaster {
    /// A forecaster that begins to watch at `start`.
    pub fn new(start: Slot) -> Self {
        Self {
            slot: start,
            series: Vec::new(),
            learned: Learned::new(),
            beginnings: Beginnings::default(),
        }
    }

    /// Takes a function in. Its chance is nought until the next slot.
    pub fn add(&mut self, trigger: Trigger) -> FunctionIndex {
        let index = FunctionIndex(u32::try_from(self.series.len()).expect("there are far fewer functions"));
        self.series.push(Series::new(trigger));
        index
    }

    /// Gives the function's declared schedule in place of the one before.
    pub fn declare(&mut self, function: FunctionIndex, schedule: Schedule) {
        self.series[function.at()].schedule = schedule;
    }

    /// Forgets all about a function, whose place another may take.
    pub fn reset(&mut self, function: FunctionIndex, trigger: Trigger) {
        self.series[function.at()] = Series::new(trigger);
    }

    /// A function is expected to be called as `from` was.
    pub fn inherit(&mut self, function: FunctionIndex, from: FunctionIndex) {
        let calls = self.series[function.at()].calls;
        self.series[function.at()] = Series {
            calls,
            ..self.series[from.at()].clone()
        };
    }

    /// The slot that is being watched.
    pub fn slot(&self) -> Slot {
        self.slot
    }

    /// How many functions there are.
    pub fn len(&self) -> usize {
        self.series.len()
    }

    /// Whether there are no functions.
    pub fn is_empty(&self) -> bool {
        self.series.is_empty()
    }

    /// Takes note of calls within the slot that is being watched.
    pub fn called(&mut self, function: FunctionIndex) {
        let series = &mut self.series[function.at()];
        series.calls = series.calls.saturating_add(1);
    }

    /// The chance of at least one call within the slot that is being watched, as seen before it began.
    pub fn chance(&self, function: FunctionIndex) -> f32 {
        self.series[function.at()].chance
    }

    /// Whom a function follows, and how surely.
    pub fn leaders(&self, function: FunctionIndex) -> impl Iterator<Item = (FunctionIndex, f32)> + '_ {
        let leaders = self.series[function.at()].following.leaders();
        leaders.map(|(leader, sure)| (FunctionIndex(leader), sure))
    }

    /// Closes the slot, learns from it, and forecasts the next; goes on so up to `slot`.
    pub fn advance(&mut self, slot: Slot) {
        if slot.since(self.slot) >= SKIPPED_MIN {
            self.close();
            self.slot = slot.minus(1);
        }
        while self.slot < slot {
            self.close();
            self.slot = self.slot.plus(1);
            self.open();
        }
    }

    /// What is known of a function up to the slot that is being watched.
    pub fn habits(&self, function: FunctionIndex) -> Habits {
        let series = &self.series[function.at()];
        let (week, rates, watched) = series.history.parts();
        Habits {
            until: self.slot,
            last: series.last,
            gaps: [&series.gaps[0], &series.gaps[1], &series.all_gaps].map(Gaps::counts),
            ran_on: series.ran_on,
            rhythm: series.rhythm.parts(),
            hours: series.season.parts(),
            week,
            rates,
            watched,
            leaders: series.following.parts(),
        }
    }

    /// A function is expected to be called as it was when its habits were kept; what nobody has watched since then says
    /// nothing. Whether they are such habits as are known here; if not, all stays as it is.
    pub fn recall(&mut self, function: FunctionIndex, habits: &Habits) -> bool {
        let known = self.series.len();
        let of_known = |led: &Led| led.leader.at() < known;
        let slot = self.slot;
        let series = &mut self.series[function.at()];
        let recalled = Series::recalled(series, habits).filter(|_| habits.leaders.iter().all(of_known));
        let Some(mut recalled) = recalled else { return false };
        recalled.history.skip(habits.until, slot);
        recalled.season.skip(habits.until, slot);
        recalled.last = habits.last.map(|last| last.min(slot.minus(1)));
        *series = recalled;
        true
    }

    /// What all functions together have taught.
    pub fn teaching(&self) -> Teaching {
        let learned = &self.learned;
        Teaching {
            odds: learned.tables().map(Table::parts),
            weights: learned.mixer.parts(),
        }
    }

    /// Goes on from what was taught before; whether it is of the kind that is taught here.
    pub fn learn_from(&mut self, teaching: &Teaching) -> bool {
        let mut learned = self.learned.clone();
        let Learned {
            ages,
            rhythms,
            recurrences,
            followings,
            mixer,
        } = &mut learned;
        let tables = [ages, rhythms, recurrences, followings];
        let fits = tables
            .into_iter()
            .zip(&teaching.odds)
            .all(|(table, kept)| table.set(kept))
            && mixer.set(&teaching.weights);
        if fits {
            self.learned = learned;
        }
        fits
    }

    /// Forecasts the slot that is being watched anew, from what is known now.
    pub fn look_again(&mut self) {
        self.open();
    }

    fn close(&mut self) {
        for index in 0..self.series.len() {
            let is_active = self.series[index].calls > 0;
            self.learned.learn(&self.series[index].view, is_active);
            let was_led = self.led(index, self.slot);
            let series = &mut self.series[index];
            series
                .following
                .add(is_active, |suspect| was_led.contains(&Some(suspect)));
            if is_active {
                self.take_call(index);
            }
        }
        for series in &mut self.series {
            let is_active = series.calls > 0;
            series.history.add(self.slot, is_active);
            series.season.add(self.slot, is_active);
            series.calls = 0;
        }
    }

    /// The leaders of a function that were called as long before `slot` as they use to be.
    fn led(&self, index: usize, slot: Slot) -> [Option<Suspect>; LEADERS_MAX] {
        let mut found = [None; LEADERS_MAX];
        let leaders = self.series[index].following.suspects();
        let led = leaders.filter(|suspect| {
            let leader = self.series.get(suspect.function as usize);
            leader.is_some_and(|leader| leader.history.was_active(slot.minus(suspect.lag)))
        });
        led.zip(&mut found).for_each(|(suspect, place)| *place = Some(suspect));
        found
    }

    fn take_call(&mut self, index: usize) {
        let slot = self.slot;
        let series = &mut self.series[index];
        let gap = series.last.map(|last| slot.since(last));
        if gap.is_none_or(|gap| gap >= PAUSE) {
            series.following.begin(self.beginnings.before(slot));
            let function = u32::try_from(index).expect("indices are made from 32 bits");
            self.beginnings.add(slot, function);
        }
        if let Some(gap) = gap {
            series.gaps[usize::from(series.ran_on)].add(gap);
            series.all_gaps.add(gap);
            series.rhythm.add(gap);
            series.ran_on = gap < PAUSE;
        }
        series.last = Some(slot);
    }

    fn open(&mut self) {
        for index in 0..self.series.len() {
            let led = self.led(index, self.slot);
            let series = &self.series[index];
            let following = series.following.context(|suspect| led.contains(&Some(suspect)));
            let view = series.view(self.slot, 0, following, &self.learned);
            let chance = self.learned.chance(&view).max(series.schedule.chance(self.slot));
            let series = &mut self.series[index];
            (series.view, series.chance) = (view, chance);
        }
    }

    /// Looks ahead from the slot that is being watched, on the supposition that no call comes: for how
    /// long is the chance at least `chance_min`, and when is it so again?
    pub fn outlook(&self, function: FunctionIndex, chance_min: f32) -> Outlook {
        let series = &self.series[function.at()];
        let worth = |ahead: &u32| {
            let slot = self.slot.plus(*ahead);
            let view = series.view(slot, *ahead, 0, &self.learned);
            self.learned.chance(&view).max(series.schedule.chance(slot)) >= chance_min
        };
        let keep = (1..OUTLOOK_MAX).find(|ahead| !worth(ahead)).unwrap_or(OUTLOOK_MAX) - 1;
        let start_in = (keep + 1..OUTLOOK_MAX).find(worth);
        Outlook { keep, start_in }
    }
}

impl Series {
    fn new(trigger: Trigger) -> Self {
        Self {
            trigger,
            calls: 0,
            last: None,
            gaps: [Gaps::default(), Gaps::default()],
            all_gaps: Gaps::default(),
            ran_on: false,
            rhythm: Rhythm::default(),
            season: Season::default(),
            history: History::default(),
            following: Following::default(),
            schedule: Schedule::default(),
            view: View::blank(),
            chance: 0.0,
        }
    }

    /// The same function with habits that were kept; `None` if they are none.
    fn recalled(&self, habits: &Habits) -> Option<Self> {
        let Habits {
            gaps: [first, second, all],
            ..
        } = habits;
        Some(Self {
            trigger: self.trigger,
            calls: self.calls,
            last: habits.last,
            gaps: [Gaps::of(first)?, Gaps::of(second)?],
            all_gaps: Gaps::of(all)?,
            ran_on: habits.ran_on,
            rhythm: Rhythm::of(habits.rhythm)?,
            season: Season::of(&habits.hours)?,
            history: History::of(&habits.week, habits.rates, habits.watched)?,
            following: Following::of(&habits.leaders)?,
            schedule: self.schedule.clone(),
            view: View::blank(),
            chance: 0.0,
        })
    }

    /// How it looks before `slot`, `ahead` slots after the last that was watched.
    fn view(&self, slot: Slot, ahead: u32, following: usize, learned: &Learned) -> View {
        // A call in the slot that is still open counts, when one looks ahead.
        let last = if ahead > 0 && self.calls > 0 {
            Some(slot.minus(ahead))
        } else {
            self.last
        };
        let Some(last) = last else { return View::blank() };
        let age = slot.since(last);
        let is_timer = self.trigger == Trigger::Timer;
        let experience = EXPERIENCE.partition_point(|bound| *bound < self.all_gaps.total());
        let kind = usize::from(is_timer) * EXPERIENCES + experience;
        let mut view = View {
            age: kind * gap::BINS + gap::bin_of(age),
            rhythm: self.rhythm.context(age, is_timer),
            recurrence: self.history.recurrence(slot),
            following,
            mixer: [kind, AGES.partition_point(|bound| *bound < age)],
            opinions: [0.0; OPINIONS],
        };
        view.opinions = self.opinions(Moment { slot, ahead, age }, &view, learned);
        view
    }

    fn opinions(&self, moment: Moment, view: &View, learned: &Learned) -> [f32; OPINIONS] {
        let Moment { slot, ahead, age } = moment;
        let usual = self.history.usual();
        let others = learned.ages.chance(view.age);
        let rates = self.history.rates(ahead).map(stretch);
        let first = [
            BIAS,
            stretch(self.all_gaps.hazard(age, others)),
            stretch(self.gaps[usize::from(self.ran_on)].hazard(age, others)),
            stretch(others),
            stretch(learned.rhythms.chance(view.rhythm)),
            stretch(self.season.chance(slot, usual)),
            stretch(self.season.chance(slot.minus(90), usual)),
            stretch(learned.recurrences.chance(view.recurrence)),
            stretch(learned.followings.chance(view.following)),
        ];
        let mut opinions = [0.0; OPINIONS];
        opinions[..first.len()].copy_from_slice(&first);
        opinions[first.len()..].copy_from_slice(&rates);
        opinions
    }
}

impl View {
    /// Of a function that was never called: nothing is said of it, and nothing learned from it.
    fn blank() -> Self {
        Self {
            age: usize::MAX,
            rhythm: 0,
            recurrence: 0,
            following: 0,
            mixer: [0, 0],
            opinions: [0.0; OPINIONS],
        }
    }

    fn is_blank(&self) -> bool {
        self.age == usize::MAX
    }
}

impl Learned {
    fn new() -> Self {
        // At first the gaps, their age and the rhythm count; the rest has to prove itself.
        let mut weights = [0.0; OPINIONS];
        weights[1..5].copy_from_slice(&[0.3, 0.2, 0.2, 0.3]);
        Self {
            ages: Table::new(2 * EXPERIENCES * gap::BINS, 0.01),
            rhythms: Table::new(Rhythm::CONTEXTS, 0.02),
            recurrences: Table::new(History::CONTEXTS, 0.02),
            followings: Table::new(Following::CONTEXTS, 0.02),
            mixer: Mixer::new([2 * EXPERIENCES, AGES.len() + 1], weights),
        }
    }

    fn tables(&self) -> [&Table; 4] {
        [&self.ages, &self.rhythms, &self.recurrences, &self.followings]
    }

    fn chance(&self, view: &View) -> f32 {
        if view.is_blank() {
            return 0.0;
        }
        self.mixer.chance(view.mixer, &view.opinions)
    }

    fn learn(&mut self, view: &View, is_active: bool) {
        if view.is_blank() {
            return;
        }
        self.mixer.learn(view.mixer, &view.opinions, is_active);
        self.ages.learn(view.age, is_active);
        self.rhythms.learn(view.rhythm, is_active);
        self.recurrences.learn(view.recurrence, is_active);
        self.followings.learn(view.following, is_active);
    }
}

#[cfg(test)]
mod tests;
