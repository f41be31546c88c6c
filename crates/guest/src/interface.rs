//! The interface with the host, version 1; the [`handler!`](crate::handler) macro calls it.
//!
//! The host writes a request to the buffer of [`reserve`] and calls [`invoke`]. A request is a head of 64
//! bytes, then event, ARN, client context and trace id one after the other; the head holds their lengths
//! (32 bits each, `u32::MAX` for one that is absent), the deadline in milliseconds (64 bits) and the
//! request id (36 characters). An answer is its address in the high half of 64 bits and its length in the
//! low 31, with bit 31 set for an error. All numbers are little-endian. A streamed answer goes to the host
//! by two imports, one for its content type and one for its bytes; only an error is answered after it. Two more ask the
//! platform: one gives the status and the length of an answer, the other the answer.
#![allow(unsafe_code)]

use std::panic::PanicHookInfo;

use crate::context::Context;
use crate::error::Error;
use crate::event::Event;

const HEAD_BYTES: usize = 64;
const ABSENT: u32 = u32::MAX;
const ERROR_BIT: u64 = 1 << 31;

#[cfg(target_arch = "wasm32")]
#[link(wasm_import_module = "bowline_v1")]
unsafe extern "C" {
    fn fail(address: *const u8, bytes: usize) -> !;
    fn begin(address: *const u8, bytes: usize);
    fn write(address: *const u8, bytes: usize);
    #[link_name = "ask"]
    fn ask_platform(
        method: *const u8,
        method_bytes: usize,
        target: *const u8,
        target_bytes: usize,
        body: *const u8,
        body_bytes: usize,
    ) -> u64;
    fn answer(address: *mut u8);
}

/// What lives between calls of the host. A module has one thread, and the host never calls into a call.
struct State {
    /// In words of eight bytes, for alignment.
    request: Vec<u64>,
    answer: Vec<u8>,
}

struct Single(std::cell::UnsafeCell<State>);

// SAFETY: a module has one thread. A lock would do as well but costs each call.
unsafe impl Sync for Single {}

static STATE: Single = Single(std::cell::UnsafeCell::new(State {
    request: Vec::new(),
    answer: Vec::new(),
}));

/// An initialiser that does nothing.
pub fn nothing() {}

/// Makes panics reach the caller, then runs the function's own initialiser.
pub fn initialise(init: fn()) {
    std::panic::set_hook(Box::new(report_panic));
    init();
}

fn report_panic(info: &PanicHookInfo<'_>) {
    let payload = info.payload();
    let message = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "the handler panicked".to_owned());
    eprintln!("{info}");
    let mut error = Error::new("Runtime.Panic", message);
    if let Some(place) = info.location() {
        error = error.at(place.to_string());
    }
    end_with(&error.to_json());
}

#[cfg(target_arch = "wasm32")]
fn end_with(error: &[u8]) {
    // SAFETY: the host copies the bytes and never returns.
    unsafe { fail(error.as_ptr(), error.len()) }
}

#[cfg(not(target_arch = "wasm32"))]
fn end_with(_error: &[u8]) {}

/// Begins a streamed answer.
#[cfg(target_arch = "wasm32")]
pub(crate) fn begin_stream(content_type: &str) {
    // SAFETY: the host copies the text before it returns.
    unsafe { begin(content_type.as_ptr(), content_type.len()) }
}

/// Sends bytes of a streamed answer.
#[cfg(target_arch = "wasm32")]
pub(crate) fn write_stream(bytes: &[u8]) {
    // SAFETY: the host copies the bytes before it returns.
    unsafe { write(bytes.as_ptr(), bytes.len()) }
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn begin_stream(_content_type: &str) {}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn write_stream(_bytes: &[u8]) {}

/// Asks the platform; the status and the body of its answer.
#[cfg(target_arch = "wasm32")]
pub(crate) fn ask(method: &str, target: &str, body: &[u8]) -> (u16, Vec<u8>) {
    // SAFETY: the host copies the three texts before it returns.
    let packed = unsafe {
        ask_platform(
            method.as_ptr(),
            method.len(),
            target.as_ptr(),
            target.len(),
            body.as_ptr(),
            body.len(),
        )
    };
    let mut found = vec![0; packed as u32 as usize];
    // SAFETY: the host writes as many bytes as it said, and nothing is asked in between.
    unsafe { answer(found.as_mut_ptr()) };
    ((packed >> 32) as u16, found)
}

#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn ask(_method: &str, _target: &str, _body: &[u8]) -> (u16, Vec<u8>) {
    (
        403,
        br#"{"error":"NoPlatform","message":"only a sandbox has a platform"}"#.to_vec(),
    )
}

/// A buffer of at least `bytes`, valid until the next call.
pub fn reserve(bytes: u32) -> u32 {
    // SAFETY: one thread, and no other reference into the state lives while the host calls.
    let state = unsafe { &mut *STATE.0.get() };
    let words = (bytes as usize).div_ceil(size_of::<u64>());
    // The old contents are of no use: do not copy them into a larger buffer.
    state.request = Vec::new();
    state.request = vec![0; words];
    state.request.as_ptr() as usize as u32
}

/// Serves the request of `bytes` bytes in the buffer; the answer is valid until the next call.
pub fn invoke(bytes: u32, serve: impl FnOnce(Event<'_>) -> Result<Vec<u8>, Error>) -> u64 {
    // SAFETY: one thread, and the host does not call while a call runs. The request stays borrowed while
    // the handler runs; the answer is stored after that.
    let state = unsafe { &mut *STATE.0.get() };
    let (answer, mark) = match read(&state.request, bytes as usize).and_then(serve) {
        Ok(answer) => (answer, 0),
        Err(error) => (error.to_json(), ERROR_BIT),
    };
    state.answer = answer;
    let address = state.answer.as_ptr() as usize as u64;
    address << 32 | mark | state.answer.len() as u64
}

fn read(request: &[u64], bytes: usize) -> Result<Event<'_>, Error> {
    // SAFETY: every byte of a word is initialised, and the words outlive the result.
    let request = unsafe { std::slice::from_raw_parts(request.as_ptr().cast::<u8>(), size_of_val(request)) };
    let malformed = || Error::new("Runtime.Interface", "the host sent a malformed request");
    let request = request.get(..bytes).ok_or_else(malformed)?;
    let (head, mut rest) = request.split_at_checked(HEAD_BYTES).ok_or_else(malformed)?;
    let length = |index: usize| u32::from_le_bytes(std::array::from_fn(|byte| head[4 * index + byte]));
    let mut take = |length: u32| {
        let length = if length == ABSENT { 0 } else { length as usize };
        let (part, after) = rest.split_at_checked(length).ok_or_else(malformed)?;
        rest = after;
        Ok::<_, Error>(part)
    };
    let parts = [take(length(0))?, take(length(1))?, take(length(2))?, take(length(3))?];
    let text = |part: &'static str, bytes| {
        std::str::from_utf8(bytes).map_err(|_| Error::new("Runtime.Interface", format!("the {part} is not UTF-8")))
    };
    let optional = |index: usize, value| (length(index) != ABSENT).then_some(value);
    Ok(Event {
        payload: parts[0],
        context: Context {
            request_id: text("request id", &head[24..60])?,
            deadline_ms: u64::from_le_bytes(std::array::from_fn(|byte| head[16 + byte])),
            invoked_arn: text("ARN", parts[1])?,
            client_context: optional(2, text("client context", parts[2])?),
            trace_id: optional(3, text("trace id", parts[3])?),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(lengths: [u32; 4], texts: &str) -> (Vec<u64>, usize) {
        let mut bytes: Vec<u8> = lengths.iter().flat_map(|length| length.to_le_bytes()).collect();
        bytes.extend(1234_u64.to_le_bytes());
        bytes.extend(b"00000000-0000-4000-8000-000000000000");
        bytes.extend([0; 4]);
        bytes.extend(texts.as_bytes());
        let length = bytes.len();
        bytes.resize(length.next_multiple_of(8), 0);
        let words = bytes.chunks(8);
        let words = words.map(|word| u64::from_ne_bytes(std::array::from_fn(|index| word[index])));
        (words.collect(), length)
    }

    #[test]
    fn a_request_is_read_part_by_part() {
        let (words, length) = request([2, 3, ABSENT, 4], "{}arnroot");
        let event = read(&words, length).unwrap();
        assert_eq!(event.bytes(), b"{}");
        let context = event.context();
        assert_eq!((context.invoked_arn(), context.trace_id()), ("arn", Some("root")));
        assert_eq!(context.client_context(), None);
        assert_eq!(context.deadline_ms(), 1234);
        assert_eq!(context.request_id(), "00000000-0000-4000-8000-000000000000");
    }

    #[test]
    fn a_short_request_is_an_error() {
        let (words, length) = request([2, 3, 0, 4], "{}arnroot");
        for short in [0, 63, length - 1, length + 8] {
            assert!(read(&words, short).is_err(), "{short}");
        }
        let (words, length) = request([1000, 0, 0, 0], "{}");
        assert!(read(&words, length).is_err());
    }
}
