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
    let plan = match Plan::instrument(bytes, Options::default()) {
        Ok((plan, instrumented)) => {
            assert_valid(&instrumented);
            plan
        }
        Err(refusal) => {
            let only_code = Plan::new(bytes, Options::default()).is_ok();
            assert!(!only_code || matches!(refusal, Refusal::TooLarge { .. }), "{refusal}");
            return;
        }
    };
    for site in plan.sites().take(MANY) {
        assert_valid(&plan.continuation(site).expect("the place exists"));
    }
});
