//! Writes code: the instrumented module, and the continuations of frames.

mod continuation;
mod module;
mod place;
mod save;
mod shared;
mod signatures;
mod switch;

use std::convert::Infallible;

use wasm_encoder::reencode::{Error, Reencode};
use wasm_encoder::{BlockType, Catch, Function, HeapType, Instruction, MemoryType, ValType as Encoded};
use wasmparser::{Operator, ValType};

pub(crate) use continuation::continuation;
pub(crate) use module::{Instrumented, Needs};
use save::Saver;
use shared::Shared;
pub(crate) use switch::Switches;

use crate::Poll;
use crate::body::{Block, Body, Shape, Step};

/// The largest code of a function that readers allow.
const CODE_BYTES_MAX: usize = 7_654_321;

/// The module that code is written into: it knows under which index things are found there.
trait Target: Reencode<Error = Infallible> {
    /// Whether everything of the original module has the same index here.
    const HAS_SAME_INDICES: bool;
    /// A block's type; signatures of several values get a type of the module.
    fn signature(&mut self, params: &[ValType], results: &[ValType]) -> BlockType;
    /// The index of the type of a function without parameters.
    fn function_signature(&mut self, results: &[ValType]) -> u32;
    /// The shared memory of the word.
    fn word_memory(&mut self) -> u32;
    /// The save memory.
    fn frames_memory(&mut self) -> u32;
    fn functions_table(&mut self) -> u32;
    fn externs_table(&mut self) -> u32;
    /// The function that saves such values.
    fn saver(&mut self, saver: Saver) -> u32;
    /// The function that finishes a frame: takes where its values end, and the site.
    fn finisher(&mut self) -> u32;
    /// The same, for a function that ends with this call: gives its results, which nobody looks at.
    fn last_finisher(&mut self, results: &[ValType]) -> u32;
    /// The function that finishes a frame whose values savers have saved: takes the site.
    fn closer(&mut self) -> u32;
    /// The function that leaves a function behind a call that is not meant to return: takes the site.
    fn leaver(&mut self) -> u32;
    /// The global that is set while frames are written.
    fn unwinding(&mut self) -> u32;
    /// Writes an operator that has another form in this module; whether it had.
    fn rewrite(&mut self, operator: &Operator<'_>, code: &mut Function) -> bool;
}

/// How a function's places are written.
#[derive(Clone, Copy)]
struct Manner {
    poll: Poll,
    first_site: u32,
}

/// Writes the code of one function.
struct Writer<'w, 'a, T> {
    body: &'w Body<'a>,
    target: &'w mut T,
    poll: Poll,
    /// The number of the function's first site.
    first_site: u32,
    code: Function,
    /// Blocks that are open in the code that is written.
    depth: u32,
    /// For each label of the original code, outermost first, the depth of the block it leads to.
    labels: Vec<u32>,
    /// The depth of the block behind which a frame is finished that code saves itself.
    unwind: Option<u32>,
    /// The code that places share.
    shared: Shared,
    /// Room for where each variable lies in a frame.
    lies_at: Vec<u32>,
    /// Offsets of branches that are unlikely.
    unlikely: Vec<u32>,
}

impl<'w, 'a, T: Target> Writer<'w, 'a, T> {
    fn new(body: &'w Body<'a>, target: &'w mut T, manner: Manner, locals: &[ValType]) -> Self {
        let locals: Vec<Encoded> = locals.iter().map(|&ty| encoded(ty)).collect();
        Self {
            body,
            target,
            poll: manner.poll,
            first_site: manner.first_site,
            code: Function::new_with_locals_types(locals),
            depth: 0,
            labels: vec![0],
            unwind: None,
            shared: Shared::default(),
            lies_at: vec![0; body.locals.len()],
            unlikely: Vec::new(),
        }
    }

    fn put(&mut self, instruction: &Instruction<'_>) {
        self.code.instruction(instruction);
    }

    fn open(&mut self, instruction: &Instruction<'_>) -> u32 {
        self.put(instruction);
        self.depth += 1;
        self.depth
    }

    fn close(&mut self) {
        self.put(&Instruction::End);
        self.depth -= 1;
    }

    /// Branches to the end, or the head, of the block that was opened at `depth`.
    fn branch_to(&mut self, depth: u32) {
        self.put(&Instruction::Br(self.depth - depth));
    }

    /// The depth to branch by, for one of the original code.
    fn label(&self, original: u32) -> u32 {
        self.depth - self.labels[self.labels.len() - 1 - original as usize]
    }

    /// Writes the steps of a range, whole blocks only.
    fn steps(&mut self, range: std::ops::Range<usize>) {
        let body = self.body;
        let mut index = range.start;
        while index < range.end {
            let copied = self.copied(index..range.end);
            if copied > 0 {
                index += copied;
                continue;
            }
            match body.steps[index] {
                Step::Call(place) => {
                    if !body.bytes(index).is_empty() {
                        self.operator(index);
                    }
                    self.place(place);
                }
                Step::Open(block) => {
                    let block = &body.blocks[block as usize];
                    if block.holds_places {
                        self.keep_outer(block);
                    }
                    self.begin(block);
                    if let Some(place) = block.place {
                        self.place(place);
                    }
                }
                Step::Else => self.put(&Instruction::Else),
                Step::End(_) => {
                    self.labels.pop();
                    self.close();
                }
                Step::Branch(depth) => self.put(&Instruction::Br(self.label(depth))),
                Step::BranchIf(depth) => self.put(&Instruction::BrIf(self.label(depth))),
                Step::BranchTable(_) => self.branch_table(index),
                _ => self.operator(index),
            }
            index += 1;
        }
    }

    /// Copies the first steps of a range whose bytes are the same in the module that is written; how many.
    fn copied(&mut self, range: std::ops::Range<usize>) -> usize {
        if !T::HAS_SAME_INDICES {
            return 0;
        }
        let body = self.body;
        let same = range.clone().take_while(|&index| body.is_same_anywhere(index)).count();
        let bytes = body.bytes_of(range.start..range.start + same);
        self.code.raw(bytes.iter().copied());
        same
    }

    /// Opens a block of the original code as it was.
    fn begin(&mut self, block: &Block) {
        let ty = self.target.signature(&block.params, &block.results);
        let instruction = match &block.shape {
            Shape::Block => Instruction::Block(ty),
            Shape::Loop => Instruction::Loop(ty),
            Shape::If => Instruction::If(ty),
            Shape::Try(catches) => Instruction::TryTable(ty, self.catches(catches).into()),
        };
        let depth = self.open(&instruction);
        self.labels.push(depth);
    }

    /// The clauses of a try table, whose labels count from outside of it.
    fn catches(&mut self, catches: &[wasmparser::Catch]) -> Vec<Catch> {
        let one = |writer: &mut Self, catch: &wasmparser::Catch| match *catch {
            wasmparser::Catch::One { tag, label } => Catch::One {
                tag: sound(writer.target.tag_index(tag)),
                label: writer.label(label),
            },
            wasmparser::Catch::OneRef { tag, label } => Catch::OneRef {
                tag: sound(writer.target.tag_index(tag)),
                label: writer.label(label),
            },
            wasmparser::Catch::All { label } => Catch::All {
                label: writer.label(label),
            },
            wasmparser::Catch::AllRef { label } => Catch::AllRef {
                label: writer.label(label),
            },
        };
        catches.iter().map(|catch| one(self, catch)).collect()
    }

    /// Copies the operands below a block to variables, so that places inside find them there. The engine
    /// sees other names for the same values.
    fn keep_outer(&mut self, block: &Block) {
        if block.outer.is_empty() {
            return;
        }
        let condition = matches!(block.shape, Shape::If).then_some(self.body.condition_local);
        let params: Vec<u32> = (0..)
            .zip(&block.params)
            .map(|(height, &ty)| self.body.stack_local(height, ty))
            .collect();
        let kept: Vec<u32> = block
            .outer_locals
            .iter()
            .copied()
            .chain(params)
            .chain(condition)
            .collect();
        for &local in kept.iter().rev() {
            self.put(&Instruction::LocalSet(local));
        }
        for &local in &kept {
            self.put(&Instruction::LocalGet(local));
        }
    }

    fn operator(&mut self, step: usize) {
        let operator = self.body.operator(step);
        if !self.target.rewrite(&operator, &mut self.code) {
            let instruction = sound(self.target.instruction(operator));
            self.put(&instruction);
        }
    }

    fn branch_table(&mut self, step: usize) {
        let Operator::BrTable { targets } = self.body.operator(step) else {
            unreachable!("the step was read as a table of branches");
        };
        let labels: Vec<u32> = targets
            .targets()
            .map(|target| self.label(target.expect("the code was validated")))
            .collect();
        let default = self.label(targets.default());
        self.put(&Instruction::BrTable(labels.into(), default));
    }
}

/// The shared memory of the word that stops a guest.
pub(crate) fn word_type() -> MemoryType {
    MemoryType {
        minimum: 1,
        maximum: Some(1),
        memory64: false,
        shared: true,
        page_size_log2: None,
    }
}

/// Takes the result of writing what has been validated.
fn sound<V>(written: Result<V, Error<Infallible>>) -> V {
    written.expect("the module was validated, and its types are taken")
}

/// A value type in the encoder's terms; only types that the pass takes have one.
fn encoded(ty: ValType) -> Encoded {
    sound(wasm_encoder::reencode::RoundtripReencoder.val_type(ty))
}

/// The value that a function returns while it unwinds.
fn zero(ty: ValType) -> Instruction<'static> {
    match ty {
        ValType::I32 => Instruction::I32Const(0),
        ValType::I64 => Instruction::I64Const(0),
        ValType::F32 => Instruction::F32Const(0.0.into()),
        ValType::F64 => Instruction::F64Const(0.0.into()),
        ValType::V128 => Instruction::V128Const(0),
        ValType::Ref(reference) => Instruction::RefNull(heap_of(reference)),
    }
}

fn heap_of(reference: wasmparser::RefType) -> HeapType {
    sound(wasm_encoder::reencode::RoundtripReencoder.heap_type(reference.heap_type()))
}
