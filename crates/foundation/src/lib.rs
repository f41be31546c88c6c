//! The ground every other crate stands on: time, randomness, identifiers, units and limits.
//!
//! This is the only crate that reads the operating system's clock or its entropy. Everything above
//! takes a [`clock::Clock`] and an [`entropy::Entropy`], so a test can replace both.

pub mod clock;
pub mod digest;
pub mod entropy;
pub mod id;
pub mod limits;
pub mod units;
