//! Functions of the instrumented module that save frames. Places that save about as many values share one: a call with the
//! values as arguments is a third of the code that would store them one by one. What is missing to one of few counts is passed
//! as zeros, since an engine compiles an entry for each type of function. Savers in turn share what stores.
//!
//! ```text
//!  saver(narrow values, wide values, site)          finish(end, site)
//!    base = frames.top                                frames[end] = site, word == unwinding
//!    base = store(base, some of the values) ...       frames.top = end + header; word = unwinding
//!    finish(base, site)
//! ```
//!
//! Floats come as their bits, vectors as two halves, references as their places in a table.

use wasm_encoder::{Function, GlobalType, Instruction as I, MemArg};
use wasmparser::{FuncType, ValType};

use crate::ValueType;
use crate::body::{Body, PlaceOf};
use crate::frame::{Extent, HEADER_BYTES, TOP, WORD_UNWINDING};

/// How many values functions store that savers share.
const STORED: [u32; 4] = [8, 4, 2, 1];

/// A function that saves frames of so many values.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Saver(Extent);

/// A function that stores values behind each other and says where the next one goes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Storer {
    ty: ValType,
    count: u32,
}

/// Where the module's own functions find what they write to.
#[derive(Clone, Copy)]
pub(super) struct Places {
    pub word_memory: u32,
    pub frames_memory: u32,
    pub finisher: u32,
    pub unwinding: u32,
}

impl Saver {
    /// The one for a place's frame, `None` if code has to save it by itself.
    pub(super) fn of(body: &Body<'_>, place: &PlaceOf) -> Option<Self> {
        let extent = extent(body, place);
        extent.is_small().then(|| Self(extent.filled()))
    }

    pub(super) fn ty(self) -> FuncType {
        let narrow = (0..self.0.narrow).map(|_| ValType::I32);
        let wide = (0..self.0.wide).map(|_| ValType::I64);
        FuncType::new(narrow.chain(wide).chain([ValType::I32]), [])
    }

    /// What stores its values, in their order.
    pub(super) fn storers(self) -> Vec<Storer> {
        let mut storers = Vec::new();
        for (ty, mut left) in [(ValType::I32, self.0.narrow), (ValType::I64, self.0.wide)] {
            for count in STORED {
                while left >= count {
                    storers.push(Storer { ty, count });
                    left -= count;
                }
            }
        }
        storers
    }

    /// Its body; `storers` are the indices of [`Saver::storers`].
    pub(super) fn code(self, places: Places, storers: &[u32]) -> Function {
        let site = self.0.narrow + self.0.wide;
        let mut code = Function::new([]);
        code.instruction(&I::I32Const(0))
            .instruction(&I::I32Load(aligned(places.frames_memory, TOP)));
        let mut value = 0;
        for (storer, &index) in self.storers().iter().zip(storers) {
            for _ in 0..storer.count {
                code.instruction(&I::LocalGet(value));
                value += 1;
            }
            code.instruction(&I::Call(index));
        }
        code.instruction(&I::LocalGet(site))
            .instruction(&I::Call(places.finisher))
            .instruction(&I::End);
        code
    }
}

impl Storer {
    pub(super) fn signature(self) -> FuncType {
        let values = (0..self.count).map(|_| self.ty);
        FuncType::new(std::iter::once(ValType::I32).chain(values), [ValType::I32])
    }

    pub(super) fn code(self, places: Places) -> Function {
        let bytes = saved(self.ty).saved_bytes();
        let base = 0;
        let mut code = Function::new([]);
        for value in 0..self.count {
            code.instruction(&I::LocalGet(base))
                .instruction(&I::LocalGet(value + 1))
                .instruction(&store(self.ty, packed(places.frames_memory, bytes * value)));
        }
        code.instruction(&I::LocalGet(base))
            .instruction(&I::I32Const((bytes * self.count).cast_signed()))
            .instruction(&I::I32Add)
            .instruction(&I::End);
        code
    }
}

/// What the values of a place's frame take by themselves.
pub(super) fn extent(body: &Body<'_>, place: &PlaceOf) -> Extent {
    let kept = body.kept_at(place);
    let kept = kept.iter().map(|&local| body.locals[local as usize]);
    Extent::of(kept.chain(place.stack.iter().copied()).map(saved))
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
        .instruction(&I::I32Const(1))
        .instruction(&I::GlobalSet(places.unwinding))
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
        .instruction(&I::I32Const(0))
        .instruction(&I::I32Load(aligned(places.frames_memory, TOP)))
        .instruction(&I::LocalGet(site))
        .instruction(&I::Call(places.finisher))
        .instruction(&I::End);
    code
}

/// What the leaver takes.
pub(super) fn leaver_type() -> FuncType {
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
