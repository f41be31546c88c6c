//! Whether a store is up, judged from its answers: pure policy, no input or output, no clock of its own.
//!
//! ```text
//!            failures in a row, or too large a part of the window
//!   Up ─────────────────────────────────────────────────────────▶ Down
//!    ▲                                                            │ ▲
//!    │ weight has grown to the normal share     a success         │ │ any failure
//!    └──────────────────────────────────── Recovering ◀───────────┘ │
//!                                              └────────────────────┘
//! ```

use std::collections::VecDeque;
use std::time::Duration;

use bowline_foundation::clock::Monotonic;

/// The numbers of the policy.
#[derive(Clone, Debug, PartialEq)]
pub struct DetectorOptions {
    /// Down after this many failures in a row.
    pub failures_in_a_row: u32,
    /// Down when this part of the window's calls failed.
    pub error_rate_max: f64,
    /// A smaller number of calls in the window says nothing about the rate.
    pub calls_min: usize,
    /// How far back the rate looks.
    pub window: Duration,
    /// Most calls the window remembers.
    pub window_calls_max: usize,
    /// A slower answer counts as a failure.
    pub latency_max: Duration,
    /// The weight with which a store begins again.
    pub first_weight: f64,
    /// By what the weight grows with each step.
    pub growth: f64,
    /// How long a step of success lasts.
    pub step: Duration,
}

impl Default for DetectorOptions {
    fn default() -> Self {
        Self {
            failures_in_a_row: 5,
            error_rate_max: 0.5,
            calls_min: 10,
            window: Duration::from_secs(10),
            window_calls_max: 1000,
            latency_max: Duration::from_secs(1),
            first_weight: 0.05,
            growth: 2.0,
            step: Duration::from_secs(10),
        }
    }
}

/// How one call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The store answered, whatever it said.
    Answered,
    Failed,
}

/// What the policy thinks of a store.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Health {
    Up,
    /// Takes a part of its share that grows.
    Recovering,
    Down,
}

#[derive(Clone, Copy, Debug)]
struct Call {
    at: Monotonic,
    outcome: Outcome,
    latency: Duration,
}

/// The judgement on one store.
#[derive(Clone, Debug)]
pub struct Detector {
    options: DetectorOptions,
    normal_weight: f64,
    health: Health,
    weight: f64,
    since: Monotonic,
    /// When the weight last changed while recovering.
    step_began: Monotonic,
    failures: u32,
    calls: VecDeque<Call>,
}

impl Detector {
    /// A store that is thought to be up, with its normal share.
    pub fn new(options: DetectorOptions, normal_weight: f64, now: Monotonic) -> Self {
        Self {
            options,
            normal_weight,
            health: Health::Up,
            weight: normal_weight,
            since: now,
            step_began: now,
            failures: 0,
            calls: VecDeque::new(),
        }
    }

    /// Takes the end of a call into account; the new health if it changed.
    pub fn observe(&mut self, now: Monotonic, outcome: Outcome, latency: Duration) -> Option<Health> {
        let slow = latency > self.options.latency_max;
        let outcome = if slow { Outcome::Failed } else { outcome };
        self.remember(Call {
            at: now,
            outcome,
            latency,
        });
        let before = self.health;
        match outcome {
            Outcome::Failed => self.failed(now),
            Outcome::Answered => self.answered(now),
        }
        (self.health != before).then_some(self.health)
    }

    /// The share of creates that the store is to get.
    pub fn weight(&self) -> f64 {
        self.weight
    }

    pub fn health(&self) -> Health {
        self.health
    }

    /// Since when the health is what it is.
    pub fn since(&self) -> Monotonic {
        self.since
    }

    /// The part of the window's calls that failed; none if there were none.
    pub fn error_rate(&self, now: Monotonic) -> Option<f64> {
        let (calls, failures) = self.counts(now);
        (calls > 0).then(|| failures as f64 / calls as f64)
    }

    /// The mean latency of the window's calls; none if there were none.
    pub fn latency(&self, now: Monotonic) -> Option<Duration> {
        let recent = self
            .calls
            .iter()
            .filter(|call| now.since(call.at) <= self.options.window);
        let (count, sum) = recent.fold((0u32, Duration::ZERO), |(count, sum), call| {
            (count + 1, sum + call.latency)
        });
        (count > 0).then(|| sum / count)
    }

    /// When a call last ended, so that a quiet store is probed.
    pub fn last_call(&self) -> Option<Monotonic> {
        self.calls.back().map(|call| call.at)
    }

    fn remember(&mut self, call: Call) {
        let window = self.options.window;
        while self.calls.front().is_some_and(|first| call.at.since(first.at) > window) {
            self.calls.pop_front();
        }
        if self.calls.len() == self.options.window_calls_max {
            self.calls.pop_front();
        }
        self.calls.push_back(call);
    }

    fn counts(&self, now: Monotonic) -> (usize, usize) {
        let recent = self
            .calls
            .iter()
            .filter(|call| now.since(call.at) <= self.options.window);
        recent.fold((0, 0), |(calls, failures), call| {
            (calls + 1, failures + usize::from(call.outcome == Outcome::Failed))
        })
    }

    fn failed(&mut self, now: Monotonic) {
        self.failures += 1;
        let (calls, failures) = self.counts(now);
        let rate_reached =
            calls >= self.options.calls_min && failures as f64 >= self.options.error_rate_max * calls as f64;
        let down = match self.health {
            Health::Up => self.failures >= self.options.failures_in_a_row || rate_reached,
            Health::Recovering => true,
            Health::Down => false,
        };
        if down {
            self.turn(Health::Down, 0.0, now);
        }
    }

    fn answered(&mut self, now: Monotonic) {
        self.failures = 0;
        match self.health {
            Health::Up => {}
            Health::Down => {
                // What failed before it went down is no part of how it does now.
                self.calls.clear();
                let weight = self.options.first_weight.min(self.normal_weight);
                self.turn(Health::Recovering, weight, now);
                self.step_began = now;
            }
            Health::Recovering => self.grow(now),
        }
    }

    /// One failure ends the recovery, so a step that has lasted long enough was one of success.
    fn grow(&mut self, now: Monotonic) {
        if now.since(self.step_began) < self.options.step {
            return;
        }
        self.weight = (self.weight * self.options.growth).min(self.normal_weight);
        self.step_began = now;
        if self.weight >= self.normal_weight {
            self.turn(Health::Up, self.normal_weight, now);
        }
    }

    fn turn(&mut self, health: Health, weight: f64, now: Monotonic) {
        self.health = health;
        self.weight = weight;
        self.since = now;
    }
}

/// Which of `weights` a `draw` in `0..1` falls on when they are laid end to end; none if all are zero.
pub fn pick(weights: &[f64], draw: f64) -> Option<usize> {
    let total: f64 = weights.iter().sum();
    let mut left = draw * total;
    let mut last = None;
    for (index, &weight) in weights.iter().enumerate() {
        if weight <= 0.0 {
            continue;
        }
        if left < weight {
            return Some(index);
        }
        left -= weight;
        // Rounding may leave a crumb beyond the end.
        last = Some(index);
    }
    last
}

#[cfg(test)]
mod tests;
