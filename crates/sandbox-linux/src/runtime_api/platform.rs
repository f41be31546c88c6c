//! A guest's requests to the platform: passed on while the guest works on an invocation that may make them.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bowline_sandbox::{Platform, PlatformRequest, PlatformResponse};

use super::http::{Asked, Body};

/// A request that waits for its answer.
pub(crate) struct Pending(Pin<Box<dyn Future<Output = PlatformResponse> + Send>>);

impl Pending {
    /// Passes a request on; one that nobody takes is refused at once.
    pub(crate) fn new(platform: Option<Arc<dyn Platform>>, asked: Asked, body: Body) -> Self {
        Self(Box::pin(async move {
            let Some(platform) = platform else {
                return refused(
                    403,
                    "AccessDeniedException",
                    "The sandbox has no invocation that may use this operation.",
                );
            };
            let Body::Whole(body) = body else {
                return refused(
                    413,
                    "RequestTooLargeException",
                    "The request is larger than a checkpoint may be.",
                );
            };
            let request = PlatformRequest {
                method: asked.method.into(),
                target: asked.target.into(),
                body,
            };
            platform.ask(request).await
        }))
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<PlatformResponse> {
        self.0.as_mut().poll(cx)
    }
}

fn refused(status: u16, exception: &'static str, message: &str) -> PlatformResponse {
    let body = format!("{{\"Type\":\"User\",\"Message\":\"{message}\"}}");
    PlatformResponse {
        status,
        exception: Some(exception.into()),
        body: body.into(),
    }
}

/// Writes an answer.
pub(crate) fn write(out: &mut Vec<u8>, response: &PlatformResponse) {
    let exception = response
        .exception
        .as_ref()
        .map(|name| format!("x-amzn-ErrorType: {name}\r\n"));
    let head = format!(
        "HTTP/1.1 {} {}\r\nContent-Type: application/json\r\n{}Content-Length: {}\r\n\r\n",
        response.status,
        if response.status == 200 { "OK" } else { "Refused" },
        exception.unwrap_or_default(),
        response.body.len()
    );
    out.extend_from_slice(head.as_bytes());
    out.extend_from_slice(&response.body);
}
