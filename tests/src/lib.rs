//! The harness of the black-box tests: start the real binary, speak to it, kill it, start it again.

pub mod artifact;
pub mod lambda;
pub mod node;
pub mod node_packages;
pub mod patience;
pub mod place;
pub mod python;
pub mod sign;
pub mod suite;

pub use artifact::Artifact;
pub use lambda::{Lambda, Reply};
pub use node::Node;

/// Says loudly that a test did not run, and why.
pub fn skip(why: &str) {
    eprintln!("SKIPPED: {why}");
}
