//! The engine's configuration: what makes an instance cheap to make and to drop.

use std::hash::{Hash, Hasher};

use bowline_foundation::digest::Digest;
use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, Result};

/// Memory of a dropped instance that stays mapped for the next one; more is given back to the system.
const KEEP_RESIDENT_BYTES: usize = 256 * 1024;
/// The largest linear memory of a module with 32-bit addresses.
const MEMORY_BYTES_MAX: usize = 1 << 32;
/// Core modules a component is made of: its own, adapters and the glue between them.
const CORE_MODULES_PER_COMPONENT: u32 = 8;
const TABLE_ELEMENTS_MAX: usize = 65_536;
/// A guest may use 512 KiB of this; the rest is for host functions it calls.
const STACK_BYTES: usize = 1 << 20;

/// Makes the engine with room for `slots` instances.
pub(crate) fn new(slots: u32) -> Result<Engine> {
    let mut config = Config::new();
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool(slots)))
        .cranelift_opt_level(OptLevel::Speed)
        .epoch_interruption(true)
        .memory_init_cow(true)
        .async_stack_size(STACK_BYTES)
        .generate_address_map(false)
        .native_unwind_info(false)
        .wasm_tail_call(true)
        .wasm_extended_const(true)
        .wasm_multi_memory(false)
        .wasm_memory64(false)
        .wasm_component_model(true)
        // As without the engine's feature, which another crate of the workspace turns on.
        .gc_support(false);
    Engine::new(&config)
}

/// The native stack of a guest that can be suspended; a quarter more than others have, for continuations are a
/// little larger than what they continue.
pub(crate) const CHECKPOINTED_STACK_BYTES: u32 = 640 * 1024;

/// Makes the engine of guests that can be suspended: instead of epochs one word stops them.
pub(crate) fn checkpointed() -> Result<Engine> {
    let mut config = Config::new();
    bowline_checkpoint::engine::configure(&mut config)
        .cranelift_opt_level(OptLevel::Speed)
        .memory_init_cow(true)
        .max_wasm_stack(CHECKPOINTED_STACK_BYTES as usize)
        .generate_address_map(false)
        .native_unwind_info(false)
        .wasm_tail_call(true)
        .wasm_extended_const(true)
        .wasm_memory64(false)
        .gc_support(false);
    Engine::new(&config)
}

fn pool(slots: u32) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_core_instances(slots.saturating_mul(CORE_MODULES_PER_COMPONENT))
        .total_component_instances(slots)
        .total_memories(slots)
        .total_tables(slots.saturating_mul(2))
        .total_stacks(slots)
        .table_elements(TABLE_ELEMENTS_MAX)
        .max_memory_size(MEMORY_BYTES_MAX)
        .max_core_instances_per_component(CORE_MODULES_PER_COMPONENT)
        .linear_memory_keep_resident(KEEP_RESIDENT_BYTES)
        .table_keep_resident(KEEP_RESIDENT_BYTES)
        .pagemap_scan(Enabled::Auto);
    pool
}

/// Names the engine's version and configuration: images made under one name load under the same only.
pub(crate) fn compatibility(engine: &Engine) -> String {
    let mut collected = Collected::default();
    engine.precompile_compatibility_hash().hash(&mut collected);
    let mut name = Digest::of(&collected.0).to_string();
    name.truncate(16);
    name
}

/// Takes down what is hashed, because the standard hashers promise no stable result.
#[derive(Default)]
struct Collected(Vec<u8>);

impl Hasher for Collected {
    fn write(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn finish(&self) -> u64 {
        0
    }
}
