//! Request lines of guests about shared state: any two texts are read or refused, and what was read is a good key.
#![no_main]

use bowline_functions::state::{GuestCall, KEY_BYTES_MAX};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &str| {
    let Some((method, target)) = data.split_once(' ') else {
        return;
    };
    if let Ok(GuestCall::Get { state, key } | GuestCall::Put { state, key, .. }) = GuestCall::parse(method, target) {
        assert!(key.len() <= KEY_BYTES_MAX && !key.contains('/'));
        assert!(target.contains(state.as_str()) && target.contains(&key));
    }
});
