//! The Runtime API's requests, as a hostile guest would write them to its socket.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = bowline_sandbox_linux::runtime_api::parse_request(bytes);
});
