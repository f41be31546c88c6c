//! Modules that follow from a seed, and arguments for their functions.

use arbitrary::Unstructured;
use wasm_smith::Config;
use wasmtime::{Val, ValType};

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

/// What a module may import: what the tests' world has, which logs what it is called with.
fn imports() -> Vec<u8> {
    let text = "(module (import \"host\" \"log\" (func (param i32))) (import \"host\" \"object\" (func (param i64) (result externref)))
        (import \"host\" \"number\" (func (param externref) (result i64))))";
    wat::parse_str(text).expect("the text is a module")
}

fn config(seed: u64) -> Config {
    Config {
        export_everything: true,
        min_funcs: 3,
        max_funcs: 8,
        available_imports: Some(imports()),
        max_imports: if seed.is_multiple_of(2) { 4 } else { 0 },
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

/// The module of a seed, if there is one; each of its functions gives up after so many blocks and calls.
pub fn module(seed: u64, fuel: u32) -> Option<Vec<u8>> {
    let bytes = bytes(seed);
    let mut module = wasm_smith::Module::new(config(seed), &mut Unstructured::new(&bytes)).ok()?;
    module.ensure_termination(fuel).ok()?;
    Some(module.to_bytes())
}

/// Arguments of a function, if all its parameters are numbers.
pub fn arguments(function: &wasmtime::FuncType, seed: u64) -> Option<Vec<Val>> {
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
