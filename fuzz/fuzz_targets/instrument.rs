//! Modules to be instrumented: any bytes are taken or refused, and what is written is valid, the continuation
//! of every place included.
#![no_main]

use bowline_checkpoint::{Options, Plan, Refusal, Site, Stop};
use libfuzzer_sys::fuzz_target;
use wasmparser::{Validator, WasmFeatures};

/// Functions and places of each whose continuations are looked at.
const MANY: u32 = 64;

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
    for function in 0..MANY {
        for place in 0..MANY {
            for stop in [Stop::Here, Stop::Inside] {
                if let Some(continuation) = plan.continuation(Site { function, place, stop }) {
                    assert_valid(&continuation);
                }
            }
        }
    }
});
