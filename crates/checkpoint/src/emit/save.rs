//! Functions of the instrumented module that save frames. Places that save as many values share one: a call with the
//! values as arguments is a third of the code that would store them one by one.
//!
//! ```text
//!  saver(narrow values, wide values, site)          finish(end, site)
//!    base = frames.top                                frames[end] = site, word == unwinding
//!    frames[base ..] = values                         frames.top = end + header; word = unwinding
//!    finish(base + size, site)
//! ```
//!
//! Floats come as their bits, vectors as two halves, references as their places in a table.

use wasm_encoder::{Function, Instruction as I, MemArg};
use wasmparser::{FuncType, ValType};

use crate::ValueType;
use crate::body::{Body, PlaceOf};
use crate::frame::{HEADER_BYTES, TOP, WORD_UNWINDING};

/// Arguments that a saver may take.
const VALUES_MAX: u32 = 100;

/// How many values a saver takes, besides the site.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Saver {
    /// Of 32 bits, which come first.
    narrow: u32,
    /// Of 64 bits.
    wide: u32,
}

/// Where a saver finds what it writes to.
#[derive(Clone, Copy)]
pub(super) struct Places {
    pub word_memory: u32,
    pub frames_memory: u32,
    pub finisher: u32,
}

impl Saver {
    pub(super) fn of(body: &Body<'_>, place: &PlaceOf) -> Self {
        let kept = body.kept_at(place);
        let kept = kept.iter().map(|&local| body.locals[local as usize]);
        let (mut narrow, mut wide) = (0, 0);
        for ty in kept.chain(place.stack.iter().copied()) {
            match saved(ty).saved_bytes() {
                4 => narrow += 1,
                bytes => wide += bytes / 8,
            }
        }
        Self { narrow, wide }
    }

    pub(super) fn is_small(self) -> bool {
        self.narrow + self.wide <= VALUES_MAX
    }

    pub(super) fn ty(self) -> FuncType {
        let narrow = (0..self.narrow).map(|_| ValType::I32);
        let wide = (0..self.wide).map(|_| ValType::I64);
        FuncType::new(narrow.chain(wide).chain([ValType::I32]), [])
    }

    pub(super) fn code(self, places: Places) -> Function {
        let site = self.narrow + self.wide;
        let base = site + 1;
        let mut code = Function::new([(1, wasm_encoder::ValType::I32)]);
        code.instruction(&I::I32Const(0))
            .instruction(&I::I32Load(aligned(places.frames_memory, TOP)))
            .instruction(&I::LocalSet(base));
        for value in 0..self.narrow {
            code.instruction(&I::LocalGet(base))
                .instruction(&I::LocalGet(value))
                .instruction(&I::I32Store(packed(places.frames_memory, 4 * value)));
        }
        let narrow_bytes = 4 * self.narrow;
        for value in 0..self.wide {
            code.instruction(&I::LocalGet(base))
                .instruction(&I::LocalGet(self.narrow + value))
                .instruction(&I::I64Store(packed(places.frames_memory, narrow_bytes + 8 * value)));
        }
        let bytes = narrow_bytes + 8 * self.wide;
        code.instruction(&I::LocalGet(base))
            .instruction(&I::I32Const(bytes.cast_signed()))
            .instruction(&I::I32Add)
            .instruction(&I::LocalGet(site))
            .instruction(&I::Call(places.finisher))
            .instruction(&I::End);
        code
    }
}

/// What such a value is in a frame.
pub(super) fn saved(ty: ValType) -> ValueType {
    ValueType::of(ty).expect("layouts have only types that can be saved")
}

/// The body of the function that finishes a frame.
pub(super) fn finish(places: Places) -> Function {
    let (end, site) = (0, 1);
    let word = aligned(places.word_memory, 0);
    let mut code = Function::new([]);
    code.instruction(&I::LocalGet(end))
        .instruction(&I::LocalGet(site))
        .instruction(&I::I32Store(packed(places.frames_memory, 0)))
        .instruction(&I::LocalGet(end))
        .instruction(&I::I32Const(0))
        .instruction(&I::I32AtomicLoad(word))
        .instruction(&I::I32Const(WORD_UNWINDING.cast_signed()))
        .instruction(&I::I32Eq)
        .instruction(&I::I32Store(packed(places.frames_memory, 4)))
        .instruction(&I::I32Const(0))
        .instruction(&I::LocalGet(end))
        .instruction(&I::I32Const(HEADER_BYTES.cast_signed()))
        .instruction(&I::I32Add)
        .instruction(&I::I32Store(aligned(places.frames_memory, TOP)))
        .instruction(&I::I32Const(0))
        .instruction(&I::I32Const(WORD_UNWINDING.cast_signed()))
        .instruction(&I::I32AtomicStore(word))
        .instruction(&I::End);
    code
}

/// What the finisher takes.
pub(super) fn finisher_type() -> FuncType {
    FuncType::new([ValType::I32, ValType::I32], [])
}

pub(super) fn aligned(memory_index: u32, offset: u32) -> MemArg {
    MemArg {
        offset: u64::from(offset),
        align: 2,
        memory_index,
    }
}

pub(super) fn packed(memory_index: u32, offset: u32) -> MemArg {
    MemArg {
        offset: u64::from(offset),
        align: 0,
        memory_index,
    }
}

pub(super) fn store(ty: ValType, at: MemArg) -> I<'static> {
    match ty {
        ValType::I64 => I::I64Store(at),
        ValType::F32 => I::F32Store(at),
        ValType::F64 => I::F64Store(at),
        ValType::V128 => I::V128Store(at),
        ValType::I32 | ValType::Ref(_) => I::I32Store(at),
    }
}
