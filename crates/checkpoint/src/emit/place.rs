//! The code of a place: the poll, and behind an unlikely branch the saving of what lives.
//!
//! ```text
//!  poll                                    hot: one load and one branch
//!  if (operands) -> (operands)             unlikely
//!    saver(values)
//!    number; br                            to what saves the rest, and finishes the frame
//!  end
//! ```
//!
//! Places that save the same values share what saves them ([`super::shared`]). Continuations store their values themselves:
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
//! Loops that count their short rounds poll once in a few of them ([`Counter`]):
//!
//! ```text
//!  if bits of the counter are zero         unlikely
//!    poll, as above
//!  end
//! ```
//!
//! The load is atomic where an engine might use again what an ordinary one found before: in loops, and behind operators that it does
//! not carry out by calls. Behind a call it need not be: nothing that is known before a call holds behind it. Most calls do not poll but
//! look at a global, which is cheaper, and says only whether the callee has stopped.

use wasm_encoder::{Function, Instruction, MemArg};
use wasmparser::ValType;

use super::save::{Saver, aligned, packed, store};
use super::{CODE_BYTES_MAX, Target, Writer, zero};
use crate::body::saves::Node;
use crate::body::{Counter, Look, PlaceKind, passes_operand};
use crate::frame::{BASE, CALL_VALUES_MAX, COUNT, CURSOR, HEADER_BYTES, TOP, filled};
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
        // Where a test counts polls, all are wanted.
        let counter = match place.kind {
            PlaceKind::Loop(counter) if self.poll == Poll::Word => counter,
            _ => None,
        };
        if let Some(Counter { local, mask }) = counter {
            self.put(&Instruction::LocalGet(local));
            self.put(&Instruction::I32Const(signed(mask)));
            self.put(&Instruction::I32And);
            self.put(&Instruction::I32Eqz);
            self.hint();
            self.open(&Instruction::If(wasm_encoder::BlockType::Empty));
            self.looked_at(index);
            self.close();
        } else {
            self.looked_at(index);
        }
    }

    /// A place that polls whenever it is passed.
    fn looked_at(&mut self, index: u32) {
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
        match self.unwind {
            Some(unwind) => self.save_here(index, unwind),
            None if self.body.is_leaf => self.save_last(index),
            None => self.save_place(index),
        }
        self.close();
    }

    /// Says that the branch that is written next is unlikely.
    pub(super) fn hint(&mut self) {
        self.unlikely.push(offset_in(&self.code));
    }

    /// Saves what a node does, whose operands lie on the stack, by calls: narrow values, then wide ones.
    pub(super) fn pass_values(&mut self, node: &Node) {
        let body = self.body;
        let on_stack = passes_operand(&node.operands);
        if !on_stack {
            self.operands_to_locals(&node.operands);
        }
        let (narrow, wide): (Vec<u32>, Vec<u32>) = body
            .locals_of(node)
            .partition(|&local| body.saved_type(local).is_narrow());
        let narrow = narrow.into_iter().map(|local| (local, 0)).collect::<Vec<_>>();
        let wide = wide.into_iter().flat_map(|local| {
            let halves = if body.saved_type(local) == ValueType::V128 {
                2
            } else {
                1
            };
            (0..halves).map(move |half| (local, half))
        });
        let wide = wide.collect::<Vec<_>>();
        if narrow.len() + wide.len() <= CALL_VALUES_MAX as usize {
            self.pass(&narrow, &wide, on_stack);
            return;
        }
        let mut on_stack = on_stack;
        for narrow in narrow.chunks(CALL_VALUES_MAX as usize) {
            self.pass(narrow, &[], std::mem::take(&mut on_stack));
        }
        for wide in wide.chunks(CALL_VALUES_MAX as usize) {
            self.pass(&[], wide, false);
        }
    }

    /// Calls a saver with values, each a variable or half of one; the first one may lie on the stack.
    fn pass(&mut self, narrow: &[(u32, u8)], wide: &[(u32, u8)], mut first_is_on_stack: bool) {
        let mut counts = [0, 0];
        for (values, (ty, count)) in [narrow, wide]
            .into_iter()
            .zip([ValType::I32, ValType::I64].into_iter().zip(&mut counts))
        {
            for &(local, half) in values {
                if !std::mem::take(&mut first_is_on_stack) {
                    self.put(&Instruction::LocalGet(local));
                }
                self.as_number(self.body.locals[local as usize], half);
            }
            let given = u32::try_from(values.len()).expect("a call takes few values");
            *count = filled(given);
            for _ in given..*count {
                self.put(&zero(ty));
            }
        }
        let [narrow, wide] = counts;
        let saver = self.target.saver(Saver { narrow, wide });
        self.put(&Instruction::Call(saver));
    }

    /// Makes the value on the stack what a saver takes.
    fn as_number(&mut self, ty: ValType, half: u8) {
        match ty {
            ValType::I32 | ValType::I64 => {}
            ValType::F32 => self.put(&Instruction::I32ReinterpretF32),
            ValType::F64 => self.put(&Instruction::I64ReinterpretF64),
            ValType::V128 => self.put(&Instruction::I64x2ExtractLane(half)),
            ValType::Ref(_) => self.reference_to_table(ty),
        }
    }

    /// Puts a reference into a table; its index there stays on the stack.
    fn reference_to_table(&mut self, ty: ValType) {
        let table = self.table_of(ty).expect("references have a table");
        self.put(&Instruction::I32Const(1));
        self.put(&Instruction::TableGrow(table));
    }

    fn operands_to_locals(&mut self, operands: &[ValType]) {
        for (height, &ty) in operands.iter().enumerate().rev() {
            self.put(&Instruction::LocalSet(self.body.stack_local(height, ty)));
        }
    }

    /// Saves, and goes on with what finishes frames of the function.
    fn save_here(&mut self, index: u32, unwind: u32) {
        self.store_values(index);
        self.put(&Instruction::LocalSet(self.body.base_local));
        self.put(&Instruction::I32Const(signed(self.first_site + index)));
        self.put(&Instruction::LocalSet(self.body.site_local));
        self.branch_to(unwind);
    }

    /// Saves, and ends with a call: a function without any other keeps neither a frame nor registers for it.
    fn save_last(&mut self, index: u32) {
        self.store_values(index);
        self.put(&Instruction::I32Const(signed(self.first_site + index)));
        let finisher = self.target.last_finisher(&self.body.results);
        self.put(&Instruction::ReturnCall(finisher));
    }

    /// Stores the values of a frame; where they end stays on the stack.
    fn store_values(&mut self, index: u32) {
        let body = self.body;
        self.operands_to_locals(&body.places[index as usize].stack);
        let top = self.frames_at(TOP);
        self.put(&Instruction::I32Const(0));
        self.put(&Instruction::I32Load(top));
        self.put(&Instruction::LocalSet(body.base_local));
        let (values, bytes) = self.values(index);
        for (local, offset) in values {
            let ty = body.locals[local as usize];
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
    }

    /// Variable and offset of each value that a place saves, and the bytes of all.
    fn values(&mut self, index: u32) -> (Vec<(u32, u32)>, u32) {
        let locals = self.body.saved_locals(&self.body.places[index as usize]);
        let (offsets, bytes) = self.body.offsets(index, &mut self.lies_at);
        (locals.zip(offsets).collect(), bytes)
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
        match ValueType::of(ty)? {
            ValueType::Function => Some(self.target.functions_table()),
            ValueType::Extern => Some(self.target.externs_table()),
            _ => None,
        }
    }

    /// Loads the values of the frame that is resumed next, and takes it off.
    pub(super) fn load_frame(&mut self, index: u32) {
        let body = self.body;
        let (values, bytes) = self.values(index);
        let cursor = self.frames_at(CURSOR);
        self.put(&Instruction::I32Const(0));
        self.put(&Instruction::I32Const(0));
        self.put(&Instruction::I32Load(cursor));
        self.put(&Instruction::I32Const(signed(bytes + HEADER_BYTES)));
        self.put(&Instruction::I32Sub);
        self.put(&Instruction::LocalTee(body.base_local));
        self.put(&Instruction::I32Store(cursor));
        for (local, offset) in values {
            let ty = body.locals[local as usize];
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
