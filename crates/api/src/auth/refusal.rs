//! Why a signature is refused, in the service's terms.

use crate::error::{ApiError, Exception};

/// Why it is not known who asks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("Missing Authentication Token")]
    Missing,
    /// What is missing or wrong in the form.
    #[error("{0}")]
    Incomplete(String),
    /// Why a signature that is formed well cannot be good.
    #[error("{0}")]
    Invalid(String),
    #[error(
        "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access \
         Key and signing method. Consult the service documentation for details."
    )]
    Mismatch,
    #[error("The security token included in the request is invalid.")]
    UnknownKey,
    #[error("The security token included in the request is invalid: this node gives out no temporary credentials.")]
    SessionToken,
}

impl Refusal {
    /// What the service calls it.
    pub fn exception(&self) -> Exception {
        match self {
            Self::Missing => Exception::MissingAuthenticationToken,
            Self::Incomplete(_) => Exception::IncompleteSignature,
            Self::Invalid(_) | Self::Mismatch => Exception::InvalidSignature,
            Self::UnknownKey | Self::SessionToken => Exception::UnrecognizedClient,
        }
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.exception(), refusal.to_string())
    }
}
