//! Traces of calls replayed through the capacity policies and through those they are compared with.
//!
//! A trace says for each function in which minutes it was called, and how often. All policies are
//! judged by the same rules: a minute with a call whose function is not warm is a cold start; a minute in
//! which a function is warm and not called is wasted; a start ahead of a call costs its duration too.

pub mod baseline;
pub mod compare;
pub mod cost;
pub mod forecast;
pub mod generate;
pub mod picture;
pub mod placement;
pub mod score;
pub mod trace;
