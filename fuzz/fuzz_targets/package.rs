//! Deployment packages: any bytes are accepted or refused, without a crash and within bounded memory.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = bowline_functions::package::check(bytes);
});
