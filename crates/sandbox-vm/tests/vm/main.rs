//! Virtual machines under QEMU: what they promise, each with a control. They need `qemu-system-x86` and Debian's
//! package lists; without them they fail.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod golden;
mod harness;
mod image;
mod life;
mod memory;
mod save;
mod volumes;
