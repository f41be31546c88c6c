//! Programs that are moved at random times of their runs, each time as signed bytes into a new instance.

use crate::hops::{Fault, Hops, Itinerary, Way, travel};
use crate::run::{Seen, Subject};

/// How often a run is moved, more or less.
const MOVES_A_RUN: u64 = 10;
/// A run is measured by stopping it again and again after this many polls, or after fewer if it is a short one.
const STRIDE: u32 = 1 << 18;

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moves {
    pub moves: u64,
    pub runs: u64,
}

/// Runs a program again and again until it has been moved so often. The first run that does not end as the one that nobody
/// moves comes back instead.
pub fn move_about(
    subject: &Subject,
    plain: &Seen,
    (moves, seed): (u64, u64),
    fault: Option<Fault>,
) -> Result<Moves, Box<Seen>> {
    let apart_max = (polls_of(subject) * 2 / MOVES_A_RUN).max(1);
    let mut done = Moves::default();
    while done.moves < moves {
        let (before, seed) = (done.moves, mixed(seed, done.runs));
        let itinerary = Itinerary {
            polls: |hop: u64| match before + hop < moves {
                true => 1 + (mixed(seed, hop) % apart_max) as u32,
                false => u32::MAX,
            },
            way: |_| Way::Written,
            fault: fault.map(|fault| (fault, 0)),
        };
        let mut hops = Hops::default();
        let seen = travel(subject, &itinerary, &mut hops);
        if seen != *plain {
            return Err(Box::new(seen));
        }
        done.moves += hops.all();
        done.runs += 1;
    }
    Ok(done)
}

/// How many polls a run makes, or up to twice as many.
fn polls_of(subject: &Subject) -> u64 {
    let mut stride = STRIDE;
    loop {
        let (_, stops) = subject.staying(stride, |_, _| {});
        if stops > 0 || stride == 1 {
            return (stops as u64 + 1) * u64::from(stride);
        }
        stride /= 8;
    }
}

/// A number that follows from two.
pub fn mixed(seed: u64, other: u64) -> u64 {
    let number = (seed ^ other.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (number ^ number >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 16
}
