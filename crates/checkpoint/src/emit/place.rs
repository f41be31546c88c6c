//! The code of a place: the poll, and behind an unlikely branch the saving of what lives.
//!
//! ```text
//!  poll                                    hot: one load and one branch
//!  if (operands) -> (operands)             unlikely
//!    saver(values, site)                   nothing lives behind the call, so it costs no registers
//!    return zeros
//!  end
//! ```
//!
//! Places that save the same values share what saves them ([`super::shared`]). Very large frames, and continuations, store their values themselves:
//!
//! ```text
//!  if (operands) -> (operands)
//!    operands to variables
//!    base = frames.top
//!    frames[base ..] = values
//!    site = number; base += size
//!    br unwind
//!  end
//!  ...
//!  unwind:                                 once a function
//!    finish(base, site)
//!    return zeros
//! ```
//!
//! Behind a call that is not meant to return nothing is asked, and nothing but the site is saved:
//!
//! ```text
//!  leave(site)                             traps if the callee has returned, as the code behind it would
//!  return zeros
//! ```
//!
//! In a loop the load is atomic because an engine may take an ordinary one out of a loop that stores nothing. Behind a
//! call it need not be: nothing that is known before a call of a guest's function holds behind it. Most calls do not poll but
//! look at a global, which is cheaper, and says only whether the callee has stopped.

use wasm_encoder::{Function, Instruction, MemArg};
use wasmparser::ValType;

use super::save::{Saver, aligned, extent, packed, saved, store};
use super::{CODE_BYTES_MAX, Target, Writer, zero};
use crate::body::{Look, PlaceKind, PlaceOf};
use crate::frame::{BASE, COUNT, CURSOR, Extent, HEADER_BYTES, TOP, offsets};
use crate::{Poll, Stop, ValueType};

impl<T: Target> Writer<'_, '_, T> {
    /// Writes the whole body of a function with places that save by themselves; `inside` writes what comes before
    /// its end.
    pub(super) fn unwindable(&mut self, inside: impl FnOnce(&mut Self)) {
        let unwind = self.open(&Instruction::Block(wasm_encoder::BlockType::Empty));
        self.unwind = Some(unwind);
        inside(self);
        self.put(&Instruction::Return);
        self.close();
        self.put(&Instruction::LocalGet(self.body.base_local));
        self.put(&Instruction::LocalGet(self.body.site_local));
        let finisher = self.target.finisher();
        self.put(&Instruction::Call(finisher));
        self.put_zeros();
        self.put(&Instruction::End);
    }

    /// Polls, and saves if the guest shall stop.
    pub(super) fn place(&mut self, index: u32) {
        if self.code.byte_len() > CODE_BYTES_MAX {
            // It is refused, with what follows or without.
            return;
        }
        let place = &self.body.places[index as usize];
        if self.shared_place(index) {
            return;
        }
        let site = self.first_site + index;
        let Some(look) = place.kind.looks_at() else {
            let leaver = self.target.leaver();
            self.put(&Instruction::I32Const(signed(site)));
            self.put(&Instruction::Call(leaver));
            self.put_zeros();
            self.put(&Instruction::Return);
            return;
        };
        self.poll(look);
        self.hint();
        let ty = self.target.signature(&place.stack, &place.stack);
        self.open(&Instruction::If(ty));
        match Saver::of(self.body, place).and_then(|saver| self.target.saver(saver)) {
            Some(saver) => {
                self.pass_values(place);
                self.put(&Instruction::I32Const(signed(site)));
                self.put(&Instruction::Call(saver));
                self.put_zeros();
                self.put(&Instruction::Return);
            }
            None => self.save_here(place, site),
        }
        self.close();
    }

    /// Says that the branch that is written next is unlikely.
    pub(super) fn hint(&mut self) {
        self.unlikely.push(offset_in(&self.code));
    }

    /// Pushes the values for a saver, in the order in which they lie in the frame.
    pub(super) fn pass_values(&mut self, place: &PlaceOf) {
        let body = self.body;
        let own = extent(body, place);
        let filled = own.filled();
        let mut operands = Vec::new();
        if place.passes_operand() {
            self.as_number(place.stack[0], None);
        } else {
            operands = self.operands_to_locals(place);
        }
        operands.extend(body.kept_at(place));
        let is_narrow = |local: &u32| saved(body.locals[*local as usize]).is_narrow();
        let (narrow, wide): (Vec<u32>, Vec<u32>) = operands.into_iter().partition(is_narrow);
        for local in narrow {
            self.pass(local);
        }
        for _ in own.narrow..filled.narrow {
            self.put(&Instruction::I32Const(0));
        }
        for local in wide {
            self.pass(local);
        }
        for _ in own.wide..filled.wide {
            self.put(&Instruction::I64Const(0));
        }
    }

    fn pass(&mut self, local: u32) {
        self.put(&Instruction::LocalGet(local));
        self.as_number(self.body.locals[local as usize], Some(local));
    }

    /// Makes the value on the stack, which lies in a variable as well if it is wide, what a saver takes.
    fn as_number(&mut self, ty: ValType, local: Option<u32>) {
        match ty {
            ValType::I32 | ValType::I64 => {}
            ValType::F32 => self.put(&Instruction::I32ReinterpretF32),
            ValType::F64 => self.put(&Instruction::I64ReinterpretF64),
            ValType::V128 => {
                let local = local.expect("a vector is no narrow operand");
                self.put(&Instruction::I64x2ExtractLane(0));
                self.put(&Instruction::LocalGet(local));
                self.put(&Instruction::I64x2ExtractLane(1));
            }
            ValType::Ref(_) => self.reference_to_table(ty),
        }
    }

    /// Puts a reference into a table; its index there stays on the stack.
    fn reference_to_table(&mut self, ty: ValType) {
        let table = self.table_of(ty).expect("references have a table");
        self.put(&Instruction::I32Const(1));
        self.put(&Instruction::TableGrow(table));
    }

    fn operands_to_locals(&mut self, place: &PlaceOf) -> Vec<u32> {
        let operands = place.stack.iter().enumerate();
        let operands: Vec<u32> = operands
            .map(|(height, &ty)| self.body.stack_local(height, ty))
            .collect();
        for &local in operands.iter().rev() {
            self.put(&Instruction::LocalSet(local));
        }
        operands
    }

    fn save_here(&mut self, place: &PlaceOf, site: u32) {
        let body = self.body;
        self.operands_to_locals(place);
        let top = self.frames_at(TOP);
        self.put(&Instruction::I32Const(0));
        self.put(&Instruction::I32Load(top));
        self.put(&Instruction::LocalSet(body.base_local));
        let (values, bytes) = self.values(place);
        for (local, ty, offset) in values {
            self.put(&Instruction::LocalGet(body.base_local));
            self.put(&Instruction::LocalGet(local));
            if ty.is_reference_type() {
                self.reference_to_table(ty);
            }
            let at = packed(self.target.frames_memory(), offset);
            self.put(&store(ty, at));
        }
        self.put(&Instruction::LocalGet(body.base_local));
        self.put(&Instruction::I32Const(signed(bytes)));
        self.put(&Instruction::I32Add);
        self.put(&Instruction::LocalSet(body.base_local));
        self.put(&Instruction::I32Const(signed(site)));
        self.put(&Instruction::LocalSet(body.site_local));
        let unwind = self
            .unwind
            .expect("a function with such a place is written to be unwound");
        self.branch_to(unwind);
    }

    /// Variable, type and offset of each value that a place saves, and the bytes of all.
    fn values(&self, place: &PlaceOf) -> (Vec<(u32, ValType, u32)>, u32) {
        let locals = self.body.saved_locals(place);
        let types: Vec<ValType> = locals.iter().map(|&local| self.body.locals[local as usize]).collect();
        let values: Vec<ValueType> = types.iter().map(|&ty| saved(ty)).collect();
        let bytes = Extent::of(values.iter().copied()).filled().bytes();
        let offsets = offsets(&values, place.stack.len());
        let values = locals.into_iter().zip(types).zip(offsets);
        (values.map(|((local, ty), offset)| (local, ty, offset)).collect(), bytes)
    }

    pub(super) fn poll(&mut self, look: Look) {
        if self.poll == Poll::Countdown {
            let count = self.frames_at(COUNT);
            let left = self.body.condition_local;
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
        let word = aligned(self.target.word_memory(), 0);
        match look {
            Look::Unwinding => {
                let unwinding = self.target.unwinding();
                self.put(&Instruction::GlobalGet(unwinding));
            }
            Look::WordBehindCall => {
                self.put(&Instruction::I32Const(0));
                self.put(&Instruction::I32Load(word));
            }
            Look::Word => {
                self.put(&Instruction::I32Const(0));
                self.put(&Instruction::I32AtomicLoad(word));
            }
        }
        if self.poll == Poll::Countdown {
            self.put(&Instruction::I32Or);
        }
    }

    pub(super) fn put_zeros(&mut self) {
        for &ty in &self.body.results {
            self.put(&zero(ty));
        }
    }

    /// The table that references of this type are saved in.
    fn table_of(&mut self, ty: ValType) -> Option<u32> {
        match saved(ty) {
            ValueType::Function => Some(self.target.functions_table()),
            ValueType::Extern => Some(self.target.externs_table()),
            _ => None,
        }
    }

    /// Loads the values of the frame that is resumed next, and takes it off.
    pub(super) fn load_frame(&mut self, index: u32) {
        let body = self.body;
        let (values, bytes) = self.values(&body.places[index as usize]);
        let cursor = self.frames_at(CURSOR);
        self.put(&Instruction::I32Const(0));
        self.put(&Instruction::I32Const(0));
        self.put(&Instruction::I32Load(cursor));
        self.put(&Instruction::I32Const(signed(bytes + HEADER_BYTES)));
        self.put(&Instruction::I32Sub);
        self.put(&Instruction::LocalTee(body.base_local));
        self.put(&Instruction::I32Store(cursor));
        for (local, ty, offset) in values {
            let at = packed(self.target.frames_memory(), offset);
            self.put(&Instruction::LocalGet(body.base_local));
            self.put(&load(ty, at));
            if let Some(table) = self.table_of(ty) {
                self.put(&Instruction::TableGet(table));
            }
            self.put(&Instruction::LocalSet(local));
        }
    }

    /// Continues as the place that was saved: pushes its operands, after resuming what it had called.
    pub(super) fn resume_place(&mut self, index: u32, stop: Stop) {
        let body = self.body;
        let place = &body.places[index as usize];
        let results = match (stop, &place.kind) {
            (Stop::Inside, PlaceKind::Call { results, .. }) => *results,
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

fn load(ty: ValType, at: MemArg) -> Instruction<'static> {
    match ty {
        ValType::I64 => Instruction::I64Load(at),
        ValType::F32 => Instruction::F32Load(at),
        ValType::F64 => Instruction::F64Load(at),
        ValType::V128 => Instruction::V128Load(at),
        ValType::I32 | ValType::Ref(_) => Instruction::I32Load(at),
    }
}
