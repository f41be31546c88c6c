//! Modules to be instrumented: any bytes are taken or refused, and what is written is valid, the continuation
//! of every place included.
#![no_main]

use bowline_checkpoint::{Options, Plan, Refusal};
use libfuzzer_sys::fuzz_target;
use wasmparser::{Validator, WasmFeatures};

/// Sites whose continuations are looked at.
const MANY: usize = 4_096;

fn assert_valid(module: &[u8]) {
    let features = WasmFeatures::default().union(WasmFeatures::THREADS);
    let valid = Validator::new_with_features(features).validate_all(module).map(|_| ());
    assert!(valid.is_ok(), "{valid:?}");
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(plan) = Plan::new(bytes, Options::default()) else {
        return;
    };
    match plan.instrument() {
        Ok(instrumented) => assert_valid(&instrumented),
        Err(refusal) => {
            assert!(matches!(refusal, Refusal::TooLarge { .. }), "{refusal}");
            return;
        }
    }
    for site in plan.sites().take(MANY) {
        assert_valid(&plan.continuation(site).expect("the place exists"));
    }
});
