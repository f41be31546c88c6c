//! Runs that are stopped at every place and go on in new instances must end as if nothing had happened.

mod asked;
mod asyncify;
mod chain;
mod compiled;
mod features;
mod forged;
mod generate;
mod guest;
#[allow(dead_code, reason = "the fuzzing uses more of it")]
mod hops;
mod limits;
mod moves;
mod places;
mod planted;
mod random;
#[allow(dead_code, reason = "the fuzzing uses more of it")]
mod run;
mod sharing;
mod tampered;
mod world;
