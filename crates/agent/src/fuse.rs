//! Folders of the node in a virtual machine, by the kernel's own protocol of file systems that are programs.
//!
//! ```text
//!   sandbox ─▶ the guest's kernel ─▶ relay ═ a channel of the port ═▶ node ─ socket ─▶ a process of the node ─▶ the folder
//!                                                                                     Request ─▶ Folder ─▶ Answer
//! ```
//! Requests and answers go as the kernel says and takes them, each with its length first. So the guest's side understands
//! none of them, and nothing that it might keep could be old: neither data nor names nor attributes are kept there.
//!
//! What comes is a hostile guest's. It is carried out by a process of its own with the rights of the folder's owner, never
//! by the node ([`process`]); [`folder`] keeps it beneath the folder, and [`Limits`] bounds what it may hold.
//!
//! The protocol is that of Linux 5.4 (7.31), `include/uapi/linux/fuse.h`.

mod answer;
pub mod folder;
pub mod process;
mod relay;
pub mod request;
mod tree;

pub use folder::{Access, Folder, Limits};
pub use process::{FOLDER_ARGUMENT, Served, folder_main};
pub use relay::{Shows, relay};

/// The most data of one read or write.
pub const DATA_BYTES_MAX: usize = 128 * 1024;
/// The longest request: the data of a write, with what is said of it.
pub const REQUEST_BYTES_MAX: usize = DATA_BYTES_MAX + 4096;
/// The longest answer.
pub const ANSWER_BYTES_MAX: usize = DATA_BYTES_MAX + ANSWER_HEAD_BYTES;

/// What is said of each request before it.
const REQUEST_HEAD_BYTES: usize = 40;
/// And of each answer.
const ANSWER_HEAD_BYTES: usize = 16;
/// The folder's name at the top of what the guest mounts.
const DATA: &std::ffi::CStr = c"data";

/// What no kernel says: the connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FuseError {
    #[error("message of `{actual}` bytes; at least `{min}` and at most `{max}` are possible")]
    Length { actual: usize, min: usize, max: usize },
}

impl From<FuseError> for std::io::Error {
    fn from(error: FuseError) -> Self {
        Self::new(std::io::ErrorKind::InvalidData, error)
    }
}

/// How long a message is, of which the first bytes are these.
fn length(first: [u8; 4], (min, max): (usize, usize)) -> Result<usize, FuseError> {
    let actual = u32::from_le_bytes(first) as usize;
    match (min..=max).contains(&actual) {
        true => Ok(actual),
        false => Err(FuseError::Length { actual, min, max }),
    }
}
