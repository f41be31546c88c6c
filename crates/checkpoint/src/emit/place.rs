//! The code of a place: the poll, and behind an unlikely branch the saving of what lives.
//!
//! ```text
//!  poll                                    hot: one atomic load and one branch
//!  if (operands) -> (operands)             unlikely
//!    operands to variables
//!    base = frames.top
//!    frames[base ..] = values              no calls: they would cost the hot code its registers
//!    place = number; base += size
//!    br unwind
//!  end
//!  ...
//!  unwind:                                 once a function
//!    frames[base] = function, place, word == unwinding
//!    frames.top = base + header; word = unwinding
//!    return zeros
//! ```
//!
//! The load is atomic because an engine may take an ordinary one out of a loop that stores nothing.

use wasm_encoder::{Function, Instruction, MemArg};
use wasmparser::ValType;

use super::{Target, Writer, zero};
use crate::frame::{BASE, COUNT, CURSOR, HEADER_BYTES, TOP, WORD_UNWINDING};
use crate::{Poll, Stop, ValueType};

impl<T: Target> Writer<'_, '_, T> {
    /// Opens the block that every place leaves when it has saved its values.
    fn begin_unwindable(&mut self) {
        self.unwind = self.open(&Instruction::Block(wasm_encoder::BlockType::Empty));
    }

    /// Writes the whole body of a function with places; `inside` writes what comes before its end.
    pub(super) fn unwindable(&mut self, inside: impl FnOnce(&mut Self)) {
        self.begin_unwindable();
        inside(self);
        self.put(&Instruction::Return);
        self.close();
        self.finish_frame();
        self.put(&Instruction::End);
    }

    /// Polls, and saves if the guest shall stop.
    pub(super) fn place(&mut self, index: u32) {
        let body = self.body;
        let place = &body.places[index as usize];
        self.poll();
        self.unlikely.push(offset_in(&self.code));
        let ty = self.target.signature(&place.stack, &place.stack);
        self.open(&Instruction::If(ty));
        for (height, &ty) in place.stack.iter().enumerate().rev() {
            self.put(&Instruction::LocalSet(body.stack_local(height, ty)));
        }
        let top = self.frames_at(TOP);
        self.put(&Instruction::I32Const(0));
        self.put(&Instruction::I32Load(top));
        self.put(&Instruction::LocalSet(body.base_local));
        let bytes = self.save(&body.saved_locals(place));
        self.put(&Instruction::LocalGet(body.base_local));
        self.put(&Instruction::I32Const(signed(bytes)));
        self.put(&Instruction::I32Add);
        self.put(&Instruction::LocalSet(body.base_local));
        self.put(&Instruction::I32Const(signed(index)));
        self.put(&Instruction::LocalSet(body.place_local));
        self.branch_to(self.unwind);
        self.close();
    }

    fn poll(&mut self) {
        if self.poll == Poll::Countdown {
            let count = self.frames_at(COUNT);
            let left = self.body.place_local;
            self.put(&Instruction::I32Const(0));
            self.put(&Instruction::I32Const(0));
            self.put(&Instruction::I32Load(count));
            self.put(&Instruction::I32Const(1));
            self.put(&Instruction::I32Sub);
            self.put(&Instruction::LocalTee(left));
            self.put(&Instruction::I32Store(count));
            self.put(&Instruction::LocalGet(left));
            self.put(&Instruction::I32Eqz);
        }
        self.load_word();
        if self.poll == Poll::Countdown {
            self.put(&Instruction::I32Or);
        }
    }

    fn load_word(&mut self) {
        let word = aligned(self.target.word_memory(), 0);
        self.put(&Instruction::I32Const(0));
        self.put(&Instruction::I32AtomicLoad(word));
    }

    /// Stores variables from the base on; the answer is how many bytes they took.
    fn save(&mut self, locals: &[u32]) -> u32 {
        let mut offset = 0;
        for &local in locals {
            let ty = self.body.locals[local as usize];
            let saved = ValueType::of(ty).expect("layouts have only types that can be saved");
            self.put(&Instruction::LocalGet(self.body.base_local));
            self.put(&Instruction::LocalGet(local));
            let table = match saved {
                ValueType::Function => Some(self.target.functions_table()),
                ValueType::Extern => Some(self.target.externs_table()),
                _ => None,
            };
            if let Some(table) = table {
                // A reference goes to a table, and its index there to the frame.
                self.put(&Instruction::I32Const(1));
                self.put(&Instruction::TableGrow(table));
            }
            let at = packed(self.target.frames_memory(), offset);
            self.put(&store(ty, at));
            offset += saved.saved_bytes();
        }
        offset
    }

    /// Writes the header of the frame that was saved, and returns.
    fn finish_frame(&mut self) {
        let body = self.body;
        let frames = self.target.frames_memory();
        self.put(&Instruction::LocalGet(body.base_local));
        self.put(&Instruction::I32Const(signed(body.function)));
        self.put(&Instruction::I32Store(packed(frames, 0)));
        self.put(&Instruction::LocalGet(body.base_local));
        self.put(&Instruction::LocalGet(body.place_local));
        self.put(&Instruction::I32Store(packed(frames, 4)));
        self.put(&Instruction::LocalGet(body.base_local));
        self.load_word();
        self.put(&Instruction::I32Const(signed(WORD_UNWINDING)));
        self.put(&Instruction::I32Eq);
        self.put(&Instruction::I32Store(packed(frames, 8)));
        let top = self.frames_at(TOP);
        self.put(&Instruction::I32Const(0));
        self.put(&Instruction::LocalGet(body.base_local));
        self.put(&Instruction::I32Const(signed(HEADER_BYTES)));
        self.put(&Instruction::I32Add);
        self.put(&Instruction::I32Store(top));
        let word = aligned(self.target.word_memory(), 0);
        self.put(&Instruction::I32Const(0));
        self.put(&Instruction::I32Const(signed(WORD_UNWINDING)));
        self.put(&Instruction::I32AtomicStore(word));
        for &ty in &body.results {
            self.put(&zero(ty));
        }
    }

    /// Loads the values of the frame that is resumed next, and takes it off.
    pub(super) fn load_frame(&mut self, index: u32) {
        let body = self.body;
        let locals = body.saved_locals(&body.places[index as usize]);
        let types = locals.iter().map(|&local| body.locals[local as usize]);
        let values: u32 = types
            .map(|ty| ValueType::of(ty).map_or(0, ValueType::saved_bytes))
            .sum();
        let cursor = self.frames_at(CURSOR);
        self.put(&Instruction::I32Const(0));
        self.put(&Instruction::I32Const(0));
        self.put(&Instruction::I32Load(cursor));
        self.put(&Instruction::I32Const(signed(values + HEADER_BYTES)));
        self.put(&Instruction::I32Sub);
        self.put(&Instruction::LocalTee(body.base_local));
        self.put(&Instruction::I32Store(cursor));
        let mut offset = 0;
        for local in locals {
            let ty = body.locals[local as usize];
            let saved = ValueType::of(ty).expect("layouts have only types that can be saved");
            let at = packed(self.target.frames_memory(), offset);
            self.put(&Instruction::LocalGet(body.base_local));
            self.put(&load(ty, at));
            match saved {
                ValueType::Function => {
                    let table = self.target.functions_table();
                    self.put(&Instruction::TableGet(table));
                }
                ValueType::Extern => {
                    let table = self.target.externs_table();
                    self.put(&Instruction::TableGet(table));
                }
                _ => {}
            }
            self.put(&Instruction::LocalSet(local));
            offset += saved.saved_bytes();
        }
    }

    /// Continues as the place that was saved: pushes its operands, after resuming what it had called.
    pub(super) fn resume_place(&mut self, index: u32, stop: Stop) {
        let body = self.body;
        let place = &body.places[index as usize];
        let results = match (stop, &place.kind) {
            (Stop::Inside, crate::body::PlaceKind::Call { results }) => *results,
            _ => 0,
        };
        let own = place.stack.len() - results;
        for (height, &ty) in place.stack[..own].iter().enumerate() {
            self.put(&Instruction::LocalGet(body.stack_local(height, ty)));
        }
        if stop == Stop::Inside {
            self.resume_inner(&place.stack[own..]);
            self.place(index);
        }
    }

    /// Calls the continuation of the next frame, whose slot the frame's header has.
    fn resume_inner(&mut self, results: &[ValType]) {
        let type_index = self.target.function_signature(results);
        let table_index = self.target.functions_table();
        let cursor = self.frames_at(CURSOR);
        let slot = packed(self.target.frames_memory(), 0);
        self.put(&Instruction::I32Const(0));
        self.put(&Instruction::I32Load(cursor));
        self.put(&Instruction::I32Const(signed(HEADER_BYTES)));
        self.put(&Instruction::I32Sub);
        self.put(&Instruction::I32Load(slot));
        self.put(&Instruction::CallIndirect {
            type_index,
            table_index,
        });
    }

    /// A word of the save memory's head.
    fn frames_at(&mut self, offset: u32) -> MemArg {
        debug_assert!(offset < BASE, "only the head is addressed so");
        aligned(self.target.frames_memory(), offset)
    }
}

/// An operand of 32 bits that WebAssembly reads as signed.
fn signed(number: u32) -> i32 {
    number.cast_signed()
}

fn offset_in(code: &Function) -> u32 {
    u32::try_from(code.byte_len()).expect("a function has fewer than 2^32 bytes")
}

fn aligned(memory_index: u32, offset: u32) -> MemArg {
    MemArg {
        offset: u64::from(offset),
        align: 2,
        memory_index,
    }
}

fn packed(memory_index: u32, offset: u32) -> MemArg {
    MemArg {
        offset: u64::from(offset),
        align: 0,
        memory_index,
    }
}

fn store(ty: ValType, at: MemArg) -> Instruction<'static> {
    match ty {
        ValType::I64 => Instruction::I64Store(at),
        ValType::F32 => Instruction::F32Store(at),
        ValType::F64 => Instruction::F64Store(at),
        ValType::V128 => Instruction::V128Store(at),
        ValType::I32 | ValType::Ref(_) => Instruction::I32Store(at),
    }
}

fn load(ty: ValType, at: MemArg) -> Instruction<'static> {
    match ty {
        ValType::I64 => Instruction::I64Load(at),
        ValType::F32 => Instruction::F32Load(at),
        ValType::F64 => Instruction::F64Load(at),
        ValType::V128 => Instruction::V128Load(at),
        ValType::I32 | ValType::Ref(_) => Instruction::I32Load(at),
    }
}
