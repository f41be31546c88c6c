//! The imports by which a reactor asks the platform, as a Linux sandbox does by its loopback.

use std::sync::Arc;

use bowline_sandbox::{PLATFORM_BODY_BYTES_MAX, Platform, PlatformRequest, PlatformResponse};
use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use wasmtime::{Caller, Linker, Memory, Result};

use crate::accept::{SDK_ANSWER, SDK_ASK, SDK_MODULE};
use crate::failure::ProtocolViolation;
use crate::guest::Guest;

/// The longest method.
const METHOD_BYTES_MAX: u32 = 16;
/// The longest path with its query.
const TARGET_BYTES_MAX: u32 = 8 * 1024;

/// The way of one invocation's guest to the platform.
pub(crate) struct Way {
    platform: Arc<dyn Platform>,
    /// The node's own, on which the platform works: a guest may have moved to another.
    runtime: Handle,
}

impl Way {
    /// Must be called where the node works.
    pub(crate) fn new(platform: Arc<dyn Platform>) -> Self {
        Self {
            platform,
            runtime: Handle::current(),
        }
    }
}

/// A request on its way; given up with the guest.
struct Asked(JoinHandle<PlatformResponse>);

impl Drop for Asked {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Defines the imports.
pub(crate) fn define(linker: &mut Linker<Guest>) -> Result<()> {
    linker.func_wrap_async(SDK_MODULE, SDK_ASK, |caller, parameters| {
        Box::new(ask(caller, parameters))
    })?;
    linker.func_wrap(SDK_MODULE, SDK_ANSWER, answer)?;
    Ok(())
}

/// Addresses and lengths of the method, the target and the body.
type Parts = (u32, u32, u32, u32, u32, u32);

/// Asks, waits, and says what came: the status and how long the answer is.
async fn ask(mut caller: Caller<'_, Guest>, parts: Parts) -> Result<u64> {
    let response = match request(&mut caller, parts)? {
        Err(refused) => refused,
        Ok(request) => match &caller.data().way {
            None => refused(
                403,
                "AccessDeniedException",
                "there is no invocation that may ask the platform",
            ),
            Some(way) => {
                let platform = way.platform.clone();
                let mut asked = Asked(way.runtime.spawn(async move { platform.ask(request).await }));
                let answered = (&mut asked.0).await;
                answered.unwrap_or_else(|_| refused(500, "ServiceException", "the platform did not answer"))
            }
        },
    };
    let packed = u64::from(response.status) << 32 | response.body.len() as u64;
    caller.data_mut().told = response.body;
    Ok(packed)
}

/// Reads what the guest asks; what is too large is refused by an answer.
fn request(
    caller: &mut Caller<'_, Guest>,
    parts: Parts,
) -> Result<std::result::Result<PlatformRequest, PlatformResponse>> {
    let (method, method_bytes, target, target_bytes, body, body_bytes) = parts;
    if method_bytes > METHOD_BYTES_MAX || target_bytes > TARGET_BYTES_MAX {
        return Ok(Err(refused(
            414,
            "RequestTooLargeException",
            "the method or the path is too long",
        )));
    }
    if body_bytes as usize > PLATFORM_BODY_BYTES_MAX {
        return Ok(Err(refused(413, "RequestTooLargeException", "the body is too large")));
    }
    let method = text(caller, method, method_bytes)?;
    let target = text(caller, target, target_bytes)?;
    let body = Bytes::copy_from_slice(range(caller, body, body_bytes)?);
    Ok(Ok(PlatformRequest { method, target, body }))
}

/// Copies the last answer to the guest.
fn answer(mut caller: Caller<'_, Guest>, address: u32) -> Result<()> {
    let answer = std::mem::take(&mut caller.data_mut().told);
    let memory = memory(&caller)?;
    let start = address as usize;
    let place = start.checked_add(answer.len());
    let place = place.and_then(|end| memory.data_mut(&mut caller).get_mut(start..end));
    let place = place.ok_or(ProtocolViolation("the guest wants an answer outside its memory"))?;
    place.copy_from_slice(&answer);
    Ok(())
}

fn text(caller: &mut Caller<'_, Guest>, address: u32, bytes: u32) -> Result<String> {
    Ok(String::from_utf8_lossy(range(caller, address, bytes)?).into_owned())
}

fn range<'a>(caller: &'a mut Caller<'_, Guest>, address: u32, bytes: u32) -> Result<&'a [u8]> {
    let memory = memory(caller)?;
    let start = address as usize;
    let end = start.checked_add(bytes as usize);
    let found = end.and_then(|end| memory.data(&*caller).get(start..end));
    found.ok_or_else(|| ProtocolViolation("what the guest asks lies outside its memory").into())
}

fn memory(caller: &Caller<'_, Guest>) -> Result<Memory> {
    let memory = caller.data().memory;
    memory.ok_or_else(|| ProtocolViolation("the guest asks before it was set up").into())
}

fn refused(status: u16, exception: &'static str, message: &str) -> PlatformResponse {
    PlatformResponse {
        status,
        exception: Some(exception.into()),
        // Neither text has anything to escape.
        body: format!(r#"{{"error":"{exception}","message":"{message}"}}"#).into(),
    }
}
