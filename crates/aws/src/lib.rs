//! Clients of services beside the node that speak AWS's wires: objects (S3) and queues (SQS).
//!
//! The operator names an endpoint for each; every request is signed (Signature Version 4) with one pair of
//! keys. Nothing here knows what the objects or messages mean.

mod access;
mod call;
mod endpoint;
pub mod s3;
pub mod sign;
pub mod sqs;
mod trust;

pub use access::Access;
pub use call::{CallError, Refusal};
pub use endpoint::{Endpoint, InvalidEndpoint};
pub use sign::Credentials;
pub use trust::{Trust, TrustError};
