//! Newtypes for sizes, so that bytes and mebibytes cannot be mixed up.

use serde::{Deserialize, Serialize};

/// An amount of memory or storage in mebibytes (Lambda's "MB").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Mebibytes(pub u32);

impl Mebibytes {
    /// The same amount in bytes.
    pub const fn bytes(self) -> u64 {
        self.0 as u64 * 1024 * 1024
    }
}
