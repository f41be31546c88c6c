//! What a guest may ask of the platform while it works on an invocation, over HTTP on its own loopback.

use std::borrow::Cow;
use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;

/// Where every kind of sandbox that has a loopback serves the Runtime API, and the platform beside it.
pub const RUNTIME_API: &str = "127.0.0.1:9001";

/// The largest body of a guest's request: a payload of 6 MiB with every byte escaped, and what is around it.
pub const PLATFORM_BODY_BYTES_MAX: usize = 2 * 6 * 1024 * 1024 + 64 * 1024;

/// A request of a guest.
#[derive(Clone, PartialEq, Eq)]
pub struct PlatformRequest {
    pub method: String,
    /// The path and the query, as they came.
    pub target: String,
    pub body: Bytes,
}

/// The answer to a guest: JSON.
#[derive(Clone, PartialEq, Eq)]
pub struct PlatformResponse {
    pub status: u16,
    /// The name of the exception, if it is a refusal.
    pub exception: Option<Cow<'static, str>>,
    pub body: Bytes,
}

/// The way of one invocation to the platform: it allows what concerns that invocation, and nothing else.
#[async_trait]
pub trait Platform: Send + Sync + 'static {
    /// Answers one request; never fails otherwise than by an answer. Dropping the future may leave open
    /// whether the request had its effect.
    async fn ask(&self, request: PlatformRequest) -> PlatformResponse;
}

impl fmt::Debug for dyn Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Platform")
    }
}
