//! Signatures of requests to a node: what each claims, and how the node's own clients make them.
//!
//! The form is the one of all services but S3: paths are encoded twice and normalised.

pub mod claim;
mod sign;

pub use bowline_aws::sign::{ALGORITHM, Paths, Scope, Signable, SigningKey, TERMINATOR, hash, string_to_sign};

pub use claim::CONTENT_HASH;
pub use sign::{Credentials, Presign, authorization, authorization_of, presigned_query};

/// The one service that a node is.
pub const SERVICE: &str = "lambda";

#[cfg(test)]
mod tests;
