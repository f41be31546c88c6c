//! Modules that a generator made up, stopped everywhere. The seeds are fixed; `BOWLINE_CHECKPOINT_SEEDS` takes
//! `FIRST..LAST` for more of them.

use std::ops::Range;

use arbitrary::Unstructured;
use bowline_checkpoint::{Options, Plan, Site, Stop};
use wasm_smith::Config;
use wasmparser::{Validator, WasmFeatures};
use wasmtime::{ExternType, Module, Val, ValType};

use crate::run::{Subject, engine};

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

/// Bytes that follow from a seed (splitmix64).
fn bytes(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let words = (0..1024).map(|_| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    });
    words.flat_map(u64::to_le_bytes).collect()
}

fn config(seed: u64) -> Config {
    Config {
        export_everything: true,
        min_funcs: 3,
        max_funcs: 8,
        max_imports: 0,
        max_instructions: 200,
        max_memories: 2,
        min_memories: 1,
        max_memory32_bytes: 1 << 18,
        max_memory64_bytes: 1 << 18,
        memory_max_size_required: true,
        max_tables: 2,
        max_table_elements: 50,
        table_max_size_required: true,
        memory64_enabled: seed.is_multiple_of(4),
        exceptions_enabled: seed.is_multiple_of(3),
        tail_call_enabled: seed.is_multiple_of(2),
        simd_enabled: seed % 5 < 2,
        relaxed_simd_enabled: false,
        reference_types_enabled: true,
        bulk_memory_enabled: true,
        multi_value_enabled: true,
        gc_enabled: false,
        threads_enabled: false,
        shared_everything_threads_enabled: false,
        custom_page_sizes_enabled: false,
        wide_arithmetic_enabled: false,
        canonicalize_nans: false,
        ..Config::default()
    }
}

fn module(seed: u64) -> Option<Vec<u8>> {
    let bytes = bytes(seed);
    let mut module = wasm_smith::Module::new(config(seed), &mut Unstructured::new(&bytes)).ok()?;
    module.ensure_termination(FUEL).ok()?;
    Some(module.to_bytes())
}

/// Arguments of a function, if all its parameters are numbers.
fn arguments(function: &wasmtime::FuncType, seed: u64) -> Option<Vec<Val>> {
    let number = |(index, ty): (u64, ValType)| {
        let bits = seed.wrapping_mul(31).wrapping_add(index);
        Some(match ty {
            ValType::I32 => Val::I32(bits as i32),
            ValType::I64 => Val::I64(bits as i64),
            ValType::F32 => Val::F32((bits as f32).to_bits()),
            ValType::F64 => Val::F64((bits as f64).to_bits()),
            ValType::V128 => Val::V128(u128::from(bits).into()),
            ValType::Ref(_) => return None,
        })
    };
    (0..).zip(function.params()).map(number).collect()
}

/// The continuation of every place is a valid module, whether a run ever stops there or not.
fn assert_continuations_are_valid(plan: &Plan, seed: u64) {
    let functions = u32::try_from(plan.functions().0).expect("generated modules are small");
    for function in 0..functions {
        for place in (0..).take_while(|&place| plan.layout(function, place).is_some()) {
            for stop in [Stop::Here, Stop::Inside] {
                let site = Site { function, place, stop };
                let Some(continuation) = plan.continuation(site) else {
                    continue;
                };
                let features = WasmFeatures::default().union(WasmFeatures::THREADS);
                let valid = Validator::new_with_features(features).validate_all(&continuation);
                assert!(
                    valid.is_ok(),
                    "seed {seed}, {site:?}: {}",
                    valid.err().expect("it is not")
                );
            }
        }
    }
}

#[test]
fn generated_modules_end_alike_however_they_are_stopped() {
    let (mut runs, mut hops, mut refused) = (0, 0, 0);
    for seed in seeds() {
        let Some(bytes) = module(seed) else { continue };
        match Plan::new(bytes.as_slice(), Options::default()) {
            Ok(plan) => assert_continuations_are_valid(&plan, seed),
            Err(refusal) => {
                assert!(!refusal.to_string().contains("not valid"), "seed {seed}: {refusal}");
                refused += 1;
                continue;
            }
        }
        let Ok(compiled) = Module::from_binary(engine(), &bytes) else {
            continue;
        };
        for export in compiled.exports() {
            let ExternType::Func(function) = export.ty() else {
                continue;
            };
            let Some(arguments) = arguments(&function, seed) else {
                continue;
            };
            println!("seed {seed}, `{}`", export.name());
            let subject = Subject::binary(bytes.clone(), export.name(), &arguments);
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
