//! What is known of calls in a form that can be kept: taken from a forecaster, and given to a later one.
//!
//! Whoever reads it back trusts nothing: lengths, ranges and counts that no forecaster has are refused as a whole.

use serde::{Deserialize, Serialize};

use super::FunctionIndex;
use super::history::RATES;
use crate::slot::Slot;

/// How one function uses to be called; `L` names other functions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Habits<L = FunctionIndex> {
    /// The first slot of which it does not tell.
    pub until: Slot,
    /// The slot of the last call.
    pub last: Option<Slot>,
    /// Histograms of the gaps after a call that followed closely on another, after one that did not, and of all.
    pub gaps: [Vec<u16>; 3],
    /// Whether the last call followed closely on another.
    pub ran_on: bool,
    /// The exact gap, the one before, and how often it was confirmed.
    pub rhythm: [u32; 3],
    /// Slots with a call and slots that were watched: by the hour of working days, of weekends, and of this hour.
    pub hours: Vec<[f32; 2]>,
    /// A bit for each slot of the last week.
    pub week: Vec<u64>,
    /// The share of slots with a call, from lately to usually.
    pub rates: [f32; RATES],
    /// For how many slots it was watched.
    pub watched: f32,
    pub leaders: Vec<Led<L>>,
}

/// Another function that this one follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Led<L = FunctionIndex> {
    pub leader: L,
    /// Slots from its call to ours.
    pub lag: u32,
    pub trials: u16,
    pub hits: u16,
    pub calls: u16,
}

/// What all functions together have taught.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Teaching {
    /// The tables: a chance and the number of outcomes for each context.
    pub odds: [Vec<[f32; 2]>; 4],
    /// Both sets of the mixer: weights, and the number of updates behind them, for each context.
    pub weights: [Vec<Vec<f32>>; 2],
}

impl<L> Habits<L> {
    /// The same with functions named otherwise; leaders without such a name are left out.
    pub fn renamed<M>(self, name: impl Fn(L) -> Option<M>) -> Habits<M> {
        let renamed = |led: Led<L>| {
            Some(Led {
                leader: name(led.leader)?,
                lag: led.lag,
                trials: led.trials,
                hits: led.hits,
                calls: led.calls,
            })
        };
        Habits {
            until: self.until,
            last: self.last,
            gaps: self.gaps,
            ran_on: self.ran_on,
            rhythm: self.rhythm,
            hours: self.hours,
            week: self.week,
            rates: self.rates,
            watched: self.watched,
            leaders: self.leaders.into_iter().filter_map(renamed).collect(),
        }
    }
}
