//! Filter patterns of event source mappings over foreign events: the first line is the pattern.
#![no_main]

use bowline_functions::pattern;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut parts = data.splitn(2, |byte| *byte == b'\n');
    let (Some(text), Some(event)) = (parts.next(), parts.next()) else {
        return;
    };
    let Ok(text) = std::str::from_utf8(text) else { return };
    // Only that it ends and does not panic: what is right is tested by tables.
    let _ = pattern::check(text, event);
});
