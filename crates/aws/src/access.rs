//! What requests are made with, whichever service they are for.

use bowline_foundation::clock::Clock;

use crate::sign::Credentials;
use crate::trust::Trust;

/// Everything of a client but where it speaks to.
#[derive(Clone, Debug)]
pub struct Access {
    /// The region that requests are signed for.
    pub region: String,
    pub credentials: Credentials,
    pub clock: Clock,
    /// Whom an endpoint with `https://` is believed to be.
    pub trust: Trust,
}
