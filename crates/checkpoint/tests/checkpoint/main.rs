//! Runs that are stopped at every place and go on in new instances must end as if nothing had happened.

mod asked;
mod asyncify;
mod chain;
mod compiled;
mod features;
mod forged;
mod generate;
mod guest;
mod limits;
mod random;
mod run;
mod tampered;
mod world;
