//! Links to what this node serves itself, by the name that the caller reached it under.

use http::header::HOST;

use crate::auth::sigv4::{Presign, presigned_query};
use crate::dispatch::Call;

/// How long a link can be followed without a signature of one's own, as in the service.
const SECONDS: u32 = 600;

/// A link to a path with a query. Where requests are signed it carries the caller's signature.
pub fn to(call: &Call<'_>, target: &str) -> String {
    let host = call.headers.get(HOST).and_then(|host| host.to_str().ok());
    let host = host.map_or_else(|| call.node.local_addr.to_string(), str::to_owned);
    let scheme = call.node.scheme;
    let Some(key) = &call.key else {
        return format!("{scheme}://{host}{target}");
    };
    let presign = Presign {
        host: &host,
        target,
        region: call.node.auth.region(),
        at: call.node.clock.now(),
        expires_seconds: SECONDS,
    };
    format!("{scheme}://{host}{}", presigned_query(key, &presign))
}
