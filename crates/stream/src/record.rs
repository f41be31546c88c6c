//! What streams keep in the store: binary records, each with its format in the first byte.
//!
//! Numbers are big-endian. A record of a newer format is refused with [`Damaged::NewerFormat`], never
//! guessed at. Domain types live beside their codec, one file a record.

mod directory;
mod doomed;
mod head;
mod member;
mod node;
mod run;
#[cfg(test)]
mod tests;
pub(crate) mod wire;

pub(crate) use self::directory::{ChainInfo, Directory};
pub use self::directory::{ChainState, Settings};
pub(crate) use self::doomed::Doomed;
pub(crate) use self::head::Head;
pub(crate) use self::member::{Beat, Member, MemberState};
pub(crate) use self::node::{Node, Pack, Packed, Stored};
pub(crate) use self::run::{Draft, Item, Run, RunReader};
pub(crate) use self::wire::Damaged;
