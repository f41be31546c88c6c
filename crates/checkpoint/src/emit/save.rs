//! Functions of the instrumented module that save frames, a piece each: a call with the values as arguments is a third of the code
//! that would store them one by one. What is missing to one of few counts is passed as zeros, since an engine compiles an entry for
//! each type of function. Savers of many values call those of fewer.
//!
//! ```text
//!  saver(values)                            finish(end, site)
//!    base = frames.top                        frames[end] = site, word == unwinding
//!    frames[base ..] = values                 frames.top = end + header; word = unwinding
//!    frames.top = base + bytes
//! ```
//!
//! Floats come as their bits, vectors as two halves, references as their places in a table.

use wasm_encoder::{Function, GlobalType, Instruction as I, MemArg};
use wasmparser::{FuncType, ValType};

use super::zero;
use crate::frame::{HEADER_BYTES, TOP, WORD_UNWINDING};

/// How many values functions store by themselves.
const STORED: [u32; 4] = [8, 4, 2, 1];

/// A function that saves values behind each other: so many of 4 bytes, then so many of 8.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Saver {
    pub narrow: u32,
    pub wide: u32,
}

/// Where the module's own functions find what they write to.
#[derive(Clone, Copy)]
pub(super) struct Places {
    pub word_memory: u32,
    pub frames_memory: u32,
    pub finisher: u32,
    pub closer: u32,
    pub unwinding: u32,
}

impl Saver {
    pub(super) fn signature(self) -> FuncType {
        let narrow = (0..self.narrow).map(|_| ValType::I32);
        let wide = (0..self.wide).map(|_| ValType::I64);
        FuncType::new(narrow.chain(wide), [])
    }

    fn values(self) -> u32 {
        self.narrow + self.wide
    }

    /// The savers that do its work; nothing if it does it itself.
    pub(super) fn parts(self) -> Vec<Self> {
        let mut parts = Vec::new();
        if self.values() <= STORED[0] && (self.narrow == 0 || self.wide == 0) {
            return parts;
        }
        let Self { mut narrow, mut wide } = self;
        for count in STORED {
            while narrow >= count {
                parts.push(Self { narrow: count, wide: 0 });
                narrow -= count;
            }
        }
        for count in STORED {
            while wide >= count {
                parts.push(Self { narrow: 0, wide: count });
                wide -= count;
            }
        }
        parts
    }

    /// Its body; `parts` are the indices of [`Saver::parts`].
    pub(super) fn code(self, places: Places, parts: &[u32]) -> Function {
        if parts.is_empty() {
            return self.stores(places);
        }
        let mut code = Function::new([]);
        let mut value = 0;
        for (part, &index) in self.parts().iter().zip(parts) {
            for _ in 0..part.values() {
                code.instruction(&I::LocalGet(value));
                value += 1;
            }
            code.instruction(&I::Call(index));
        }
        code.instruction(&I::End);
        code
    }

    fn stores(self, places: Places) -> Function {
        let (ty, bytes) = match self.narrow {
            0 => (ValType::I64, 8),
            _ => (ValType::I32, 4),
        };
        let base = self.values();
        let top = aligned(places.frames_memory, TOP);
        let mut code = Function::new([(1, wasm_encoder::ValType::I32)]);
        code.instruction(&I::I32Const(0))
            .instruction(&I::I32Load(top))
            .instruction(&I::LocalSet(base));
        for value in 0..self.values() {
            code.instruction(&I::LocalGet(base))
                .instruction(&I::LocalGet(value))
                .instruction(&store(ty, packed(places.frames_memory, bytes * value)));
        }
        code.instruction(&I::I32Const(0))
            .instruction(&I::LocalGet(base))
            .instruction(&I::I32Const((bytes * self.values()).cast_signed()))
            .instruction(&I::I32Add)
            .instruction(&I::I32Store(top))
            .instruction(&I::End);
        code
    }
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
        .instruction(&I::I32Const(1))
        .instruction(&I::GlobalSet(places.unwinding))
        .instruction(&I::End);
    code
}

/// The body of the function that does so as the last deed of a function with such results.
pub(super) fn finish_last(places: Places, results: &[ValType]) -> Function {
    let (end, site) = (0, 1);
    let mut code = Function::new([]);
    code.instruction(&I::LocalGet(end))
        .instruction(&I::LocalGet(site))
        .instruction(&I::Call(places.finisher));
    for &ty in results {
        code.instruction(&zero(ty));
    }
    code.instruction(&I::End);
    code
}

/// The body of the function that finishes a frame whose values are saved.
pub(super) fn close(places: Places) -> Function {
    let site = 0;
    let mut code = Function::new([]);
    code.instruction(&I::I32Const(0))
        .instruction(&I::I32Load(aligned(places.frames_memory, TOP)))
        .instruction(&I::LocalGet(site))
        .instruction(&I::Call(places.finisher))
        .instruction(&I::End);
    code
}

/// The body of the function that leaves another one behind a call that is not meant to return.
pub(super) fn leave(places: Places) -> Function {
    let site = 0;
    let mut code = Function::new([]);
    code.instruction(&I::GlobalGet(places.unwinding))
        .instruction(&I::I32Eqz)
        .instruction(&I::If(wasm_encoder::BlockType::Empty))
        .instruction(&I::Unreachable)
        .instruction(&I::End)
        .instruction(&I::LocalGet(site))
        .instruction(&I::Call(places.closer))
        .instruction(&I::End);
    code
}

/// What the closer and the leaver take.
pub(super) fn site_type() -> FuncType {
    FuncType::new([ValType::I32], [])
}

/// The global that is set while frames are written.
pub(super) fn unwinding_type() -> GlobalType {
    GlobalType {
        val_type: wasm_encoder::ValType::I32,
        mutable: true,
        shared: false,
    }
}

/// What the finisher takes.
pub(super) fn finisher_type() -> FuncType {
    last_finisher_type(&[])
}

/// The same, with what it gives for the function that ends with it.
pub(super) fn last_finisher_type(results: &[ValType]) -> FuncType {
    FuncType::new([ValType::I32, ValType::I32], results.iter().copied())
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
