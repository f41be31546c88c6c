//! Modules that a generator made up, stopped everywhere. The seeds are fixed; `BOWLINE_CHECKPOINT_SEEDS` takes
//! `FIRST..LAST` for more of them.

use std::ops::Range;
use std::sync::Arc;

use bowline_checkpoint::{Options, Plan};
use wasmparser::{Validator, WasmFeatures};
use wasmtime::ExternType;

use crate::generate;
use crate::run::{Compiled, Subject, engine};

const SEEDS: Range<u64> = 0..120;
/// Blocks and calls after which a generated function gives up.
const FUEL: u32 = 60;

fn seeds() -> Range<u64> {
    let Some(range) = std::env::var_os("BOWLINE_CHECKPOINT_SEEDS") else {
        return SEEDS;
    };
    let range = range.into_string().ok();
    let parsed = range.as_deref().and_then(|range| {
        let (first, last) = range.split_once("..")?;
        Some(first.parse().ok()?..last.parse().ok()?)
    });
    parsed.expect("BOWLINE_CHECKPOINT_SEEDS is FIRST..LAST")
}

/// The continuation of every place is a valid module, whether a run ever stops there or not.
fn assert_continuations_are_valid(plan: &Plan, seed: u64) {
    let features = WasmFeatures::default().union(WasmFeatures::THREADS);
    for site in plan.sites() {
        let continuation = plan.continuation(site).expect("the place exists");
        let valid = Validator::new_with_features(features).validate_all(&continuation);
        assert!(
            valid.is_ok(),
            "seed {seed}, {site:?}: {}",
            valid.err().expect("it is not")
        );
    }
}

#[test]
fn generated_modules_end_alike_however_they_are_stopped() {
    let (mut runs, mut hops, mut refused) = (0, 0, 0);
    for seed in seeds() {
        let Some(bytes) = generate::module(seed, FUEL) else {
            continue;
        };
        match Plan::new(bytes.as_slice(), Options::default()) {
            Ok(plan) => assert_continuations_are_valid(&plan, seed),
            Err(refusal) => {
                assert!(!refusal.to_string().contains("not valid"), "seed {seed}: {refusal}");
                refused += 1;
                continue;
            }
        }
        let Some(compiled) = Compiled::if_valid(engine(), engine(), bytes).map(Arc::new) else {
            continue;
        };
        for export in compiled.plain().exports() {
            let ExternType::Func(function) = export.ty() else {
                continue;
            };
            let Some(arguments) = generate::arguments(&function, seed) else {
                continue;
            };
            println!("seed {seed}, `{}`", export.name());
            let subject = Subject::of(&compiled, export.name(), &arguments);
            if subject.plain().end == Err("wasm trap: call stack exhausted".to_owned()) {
                continue;
            }
            runs += 1;
            hops += subject.check();
        }
    }
    println!("{runs} runs, {hops} hops, {refused} modules refused");
    if seeds() == SEEDS {
        assert!(runs > 100, "{runs} runs are too few to say anything");
        assert!(hops > 1_000, "{hops} hops are too few to say anything");
    }
}
