//! Cells hold what they promise: each property with a control outside the cell or inside its limit.
// The lint's exception for tests does not reach the harness.
#![allow(clippy::unwrap_used)]

mod companions;
mod harness;
mod isolation;
mod life;
mod limits;
mod privilege;
