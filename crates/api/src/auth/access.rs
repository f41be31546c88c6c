//! Who can reach the node.

use std::net::IpAddr;

/// Whether anything but this machine reaches the node's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposure {
    Loopback,
    Network,
}

impl Exposure {
    /// That of an address the node listens on.
    pub fn of(address: IpAddr) -> Self {
        if address.is_loopback() {
            Self::Loopback
        } else {
            Self::Network
        }
    }
}
