//! The agent of an instance and the node's way to it.
//!
//! ```text
//!   node                                                   instance
//!   Remote (a Backend) ─┐                             ┌─ Host ─▶ Backend of the kind
//!   Link (lease, epoch) ┼─ channel ═ frames ═ channel ┼─ lease
//!   Services            ┘                             └─ Supervisor ─▶ service processes
//! ```
//! A *channel* is any stream of bytes. The first frame of one says what it is for: control, one sandbox, or one
//! question. [`mux`] makes them of the one stream that there is: a socket, or a virtual machine's port.
//! A folder that a machine is shown has a channel too ([`fuse`]).
//! A sandbox's channel is written and read by whoever invokes: no task stands between.

pub mod carry;
pub mod channel;
pub mod code;
mod contents;
pub mod folders;
pub mod fuse;
pub mod host;
pub mod link;
pub mod message;
pub mod mux;
mod output;
mod remote;
pub mod service;
pub mod wire;

pub use channel::{Accept, ByteStream, Channel, Dial, Reading, UnixAccept, UnixDial};
pub use contents::{CodeThere, Inventory, SandboxThere};
pub use folders::{Folder, FolderWay, Lent};
pub use fuse::{Access, FOLDER_ARGUMENT, Served, Shows, folder_main};
pub use host::{Host, HostOptions, Stopped};
pub use link::{CodeWay, Link, LinkError, LinkOptions, Lost, Maxima, OnMadeAhead, Parted};
pub use remote::{Leg, Remote, RemoteSandbox};
