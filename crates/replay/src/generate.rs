//! Traces made up from a seed: what functions of a platform are called by, and how their habits change.
//!
//! The mix follows what has been published of large platforms: rates over many orders of magnitude, about
//! half of the functions called at most once an hour and four fifths at most once a minute; people by day,
//! timers to the minute, queues in bursts, jobs at night, functions that call others; and a part of them
//! change in the middle of it all.

use bowline_capacity::forecast::Trigger;
use bowline_foundation::entropy::Entropy;

use crate::trace::{DAY, Function, Trace};

/// What to make up.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub seed: u64,
    pub days: u32,
    pub functions: usize,
}

/// Periods of timers in minutes, each as often as it stands here.
const PERIODS: &[u32] = &[
    1, 1, 2, 5, 5, 10, 10, 15, 15, 20, 30, 30, 60, 60, 120, 180, 360, 720, 1440, 1440, 10_080,
];
/// Of a hundred functions so many are of each sort; the rest is called by people.
const TIMERS: u64 = 16;
const QUEUES: u64 = 24;
const CHAINED: u64 = 12;
const JOBS: u64 = 5;
/// The middle and the spread of the rates of people and queues, as powers of ten of calls a minute.
const RATE_MIDDLE: f64 = -1.7;
const RATE_SPREAD: f64 = 1.6;
const RATE_MAX: f64 = 2000.0;

/// Makes the trace of a plan up; the same plan gives the same trace.
pub fn generate(plan: &Plan) -> Trace {
    let dice = Dice(Entropy::seeded(plan.seed));
    let minutes = plan.days * DAY;
    let mut counts: Vec<Vec<u32>> = Vec::with_capacity(plan.functions);
    let functions = (0..plan.functions).map(|_| {
        let sort = dice.below(100);
        let (trigger, calls) = match sort {
            sort if sort < TIMERS => (Trigger::Timer, timer(&dice, minutes)),
            sort if sort < TIMERS + QUEUES => (Trigger::Other, queue(&dice, minutes)),
            sort if sort < TIMERS + QUEUES + JOBS => (Trigger::Other, job(&dice, minutes)),
            sort if sort < TIMERS + QUEUES + JOBS + CHAINED && !counts.is_empty() => {
                let leader = &counts[dice.index(counts.len())];
                (Trigger::Other, chained(&dice, leader))
            }
            _ => (Trigger::Other, people(&dice, minutes)),
        };
        let function = function_of(trigger, &calls);
        counts.push(calls);
        function
    });
    Trace {
        name: format!("seed {}", plan.seed),
        days: plan.days,
        functions: functions.collect(),
    }
}

fn function_of(trigger: Trigger, calls: &[u32]) -> Function {
    let mut function = Function::new(trigger);
    for (minute, count) in (0..).zip(calls).filter(|(_, count)| **count > 0) {
        function.minutes.push(minute);
        function.invocations += u64::from(*count);
    }
    function
}

/// Calls every so many minutes; some timers are late now and then, some miss a beat.
fn timer(dice: &Dice, minutes: u32) -> Vec<u32> {
    let period = PERIODS[dice.index(PERIODS.len())];
    let phase = dice.minute(period);
    let late = if dice.happens(0.15) { 0.3 } else { 0.0 };
    let missed = if dice.happens(0.15) { 0.03 } else { 0.0 };
    let each = if dice.happens(0.75) { 1 } else { 1 + dice.minute(5) };
    let mut calls = vec![0; minutes as usize];
    let mut at = phase;
    while at < minutes {
        let shift = u32::from(dice.happens(late));
        if let Some(place) = calls.get_mut((at + shift) as usize).filter(|_| !dice.happens(missed)) {
            *place += each;
        }
        at += period;
    }
    calls
}

/// People: two humps by day, fewer at the week's end, a level that wanders from day to day.
fn people(dice: &Dice, minutes: u32) -> Vec<u32> {
    let rate = dice.rate();
    let (morning, hours) = (dice.between(0.0, 24.0), dice.between(2.0, 7.0));
    let (floor, weekend) = (dice.between(0.02, 0.7), dice.between(0.05, 1.0));
    let mut habit = Habit::draw(dice, minutes / DAY);
    let mut level = 1.0;
    let mut calls = Vec::with_capacity(minutes as usize);
    for minute in 0..minutes {
        let day = minute / DAY;
        if minute % DAY == 0 {
            level *= (0.15 * dice.normal()).exp();
            habit.wake(day);
        }
        let hour = f64::from(minute % DAY) / 60.0 + habit.shift;
        let hump = |at: f64| {
            let apart = (hour - at).rem_euclid(24.0);
            let apart = apart.min(24.0 - apart);
            (-apart * apart / (2.0 * hours * hours)).exp()
        };
        let shape = floor + hump(morning).max(0.8 * hump(morning + 5.0));
        let rest = if day % 7 >= 5 { weekend } else { 1.0 };
        calls.push(dice.poisson(rate * level * shape * rest * habit.factor));
    }
    calls
}

/// A habit that may change on one day.
struct Habit {
    day: u32,
    after: (f64, f64),
    factor: f64,
    shift: f64,
}

impl Habit {
    fn draw(dice: &Dice, days: u32) -> Self {
        let day = days / 4 + dice.minute(days.max(2) / 2);
        let (before, after) = match dice.below(8) {
            0 => (1.0, (dice.between(2.0, 5.0), 0.0)),
            1 => (1.0, (0.0, 0.0)),
            2 => (0.0, (1.0, 0.0)),
            3 => (1.0, (1.0, dice.between(3.0, 20.0))),
            _ => (1.0, (1.0, 0.0)),
        };
        Self {
            day,
            after,
            factor: before,
            shift: 0.0,
        }
    }

    fn wake(&mut self, day: u32) {
        if day >= self.day {
            (self.factor, self.shift) = self.after;
        }
    }
}

/// Queues and events: bursts of some minutes with heavy-tailed silences between them.
fn queue(dice: &Dice, minutes: u32) -> Vec<u32> {
    let (rate, burst) = (dice.rate().max(0.02) * 5.0, dice.between(1.0, 15.0));
    let silence = burst * 10f64.powf(dice.between(0.2, 2.0));
    let heavy = dice.happens(0.4);
    let mut calls = Vec::with_capacity(minutes as usize);
    let (mut is_on, mut left) = (false, 0.0);
    for _ in 0..minutes {
        if left <= 0.0 {
            is_on = !is_on;
            let mean = if is_on { burst } else { silence };
            left = mean
                * if heavy && !is_on {
                    dice.pareto()
                } else {
                    dice.exponential()
                };
        }
        left -= 1.0;
        calls.push(if is_on { dice.poisson(rate) } else { 0 });
    }
    calls
}

/// Jobs: a busy stretch at the same time of each day, or of each working day.
fn job(dice: &Dice, minutes: u32) -> Vec<u32> {
    let (begin, length) = (dice.minute(DAY), 1 + dice.minute(40));
    let (jitter, weekends) = (dice.minute(6), dice.happens(0.5));
    let rate = dice.between(0.2, 20.0);
    let mut calls = vec![0; minutes as usize];
    for day in (0..minutes / DAY).filter(|day| weekends || day % 7 < 5) {
        let from = day * DAY + begin + dice.minute(jitter + 1);
        for minute in from..from + length {
            if let Some(place) = calls.get_mut(minute as usize) {
                *place = dice.poisson(rate);
            }
        }
    }
    calls
}

/// A function that another calls: some minutes later, for a part of its calls.
fn chained(dice: &Dice, leader: &[u32]) -> Vec<u32> {
    let (share, lag) = (dice.between(0.3, 1.0), dice.index(4));
    let mut calls = vec![0; leader.len()];
    for (place, count) in calls[lag..].iter_mut().zip(leader) {
        let expected = f64::from(*count) * share;
        *place = if *count <= 50 {
            (0..*count).map(|_| u32::from(dice.happens(share))).sum()
        } else {
            dice.poisson(expected)
        };
    }
    calls
}

struct Dice(Entropy);

impl Dice {
    fn below(&self, count: u64) -> u64 {
        self.0.number() % count
    }

    fn index(&self, count: usize) -> usize {
        usize::try_from(self.below(count as u64)).expect("it is below a usize")
    }

    fn minute(&self, count: u32) -> u32 {
        u32::try_from(self.below(u64::from(count))).expect("it is below a u32")
    }

    fn happens(&self, chance: f64) -> bool {
        self.0.unit() < chance
    }

    fn between(&self, low: f64, high: f64) -> f64 {
        low + self.0.unit() * (high - low)
    }

    fn exponential(&self) -> f64 {
        -(1.0 - self.0.unit()).ln()
    }

    /// Mean one, with a tail that falls as the power two and a half.
    fn pareto(&self) -> f64 {
        let least = 1.0 / 3.0;
        least * (1.0 - self.0.unit()).powf(-1.0 / 1.5)
    }

    fn normal(&self) -> f64 {
        let radius = (2.0 * self.exponential()).sqrt();
        radius * (std::f64::consts::TAU * self.0.unit()).cos()
    }

    fn rate(&self) -> f64 {
        10f64.powf(RATE_MIDDLE + RATE_SPREAD * self.normal()).min(RATE_MAX)
    }

    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "rounded, and never negative"
    )]
    fn poisson(&self, mean: f64) -> u32 {
        if mean > 30.0 {
            return (mean + mean.sqrt() * self.normal()).round().max(0.0) as u32;
        }
        let (limit, mut product, mut count) = ((-mean).exp(), self.0.unit(), 0);
        while product > limit {
            product *= self.0.unit();
            count += 1;
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: Plan = Plan {
        seed: 11,
        days: 7,
        functions: 300,
    };

    #[test]
    fn one_seed_gives_one_trace() {
        let plan = |seed| Plan {
            seed,
            days: 2,
            functions: 50,
        };
        assert_eq!(generate(&plan(4)).functions, generate(&plan(4)).functions);
        assert_ne!(generate(&plan(4)).functions, generate(&plan(5)).functions);
    }

    #[test]
    fn the_mix_is_that_of_the_large_platforms() {
        let trace = generate(&PLAN);
        let share = |calls_a_minute: f64| {
            let rare = |function: &&Function| {
                crate::score::to_f64(function.invocations) <= calls_a_minute * f64::from(trace.minutes())
            };
            let count = trace.functions.iter().filter(rare).count();
            100 * count / trace.functions.len()
        };
        let (hourly, minutely) = (share(1.0 / 60.0), share(1.0));
        assert!((35..=60).contains(&hourly), "{hourly} % at most once an hour");
        assert!((70..=92).contains(&minutely), "{minutely} % at most once a minute");
    }
}
