//! WebAssembly modules and components: any bytes are accepted or refused, the same way twice.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let first = bowline_sandbox_wasm::accept(bytes).is_ok();
    assert_eq!(
        first,
        bowline_sandbox_wasm::accept(bytes).is_ok(),
        "acceptance depends on the bytes alone"
    );
});
