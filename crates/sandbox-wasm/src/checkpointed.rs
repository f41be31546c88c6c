//! Commands that can be stopped anywhere and go on elsewhere.
//!
//! ```text
//!   Library ── prepare, once a module ──▶ Program ── CheckpointedSandbox::invoke ──▶ Leg ── stopped ──▶ checkpoint
//!                                                                                     ▲                    │
//!                                                                                     └──── goes on ◀──────┘
//! ```
//! A *leg* is what runs from a beginning to a stop, in a store of its own, on a thread of low priority: there is no
//! epoch, so nothing but the word stops it.

mod leg;
mod library;
mod sandbox;

pub(crate) use library::{Library, Verdict};
pub(crate) use sandbox::CheckpointedSandbox;
