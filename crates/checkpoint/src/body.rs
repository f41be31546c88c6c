//! The code of one function with its places: where it may stop, and which values live there.

mod counters;
mod origins;
mod places;
mod read;
mod rounds;
pub(crate) mod saves;
pub(crate) mod ways;

use std::collections::HashMap;
use std::ops::Range;

use foldhash::fast::RandomState;
use wasmparser::{BinaryReader, Catch, Operator, OperatorsReader, ValType};

pub(crate) use counters::Counter;
use saves::Saves;

use crate::liveness::SAVED_VALUES_MAX;
use crate::{Layout, Place, Refusal, ValueType};

/// Local variables that the format's readers allow a function.
const LOCALS_MAX: usize = 50_000;
/// Values that a block may take or return.
const BLOCK_VALUES_MAX: usize = 1_000;
/// Steps that a continuation may hold besides those of its function.
const STEPS_AGAIN_MAX: usize = 1 << 22;

/// One function's code. The steps are a flat list; blocks refer to their ends by index.
pub(crate) struct Body<'a> {
    /// Index of the function in the module.
    pub function: u32,
    pub parameters: usize,
    pub results: Vec<ValType>,
    /// Parameters, the function's own variables, and those that the pass adds.
    pub locals: Vec<ValType>,
    pub steps: Vec<Step>,
    /// Those of them that do more than to go on to the next one ([`Step::is_turn`]): about a third.
    turns: Vec<u32>,
    /// The code as it lies in the module.
    code: &'a [u8],
    /// Where each step's operator begins there, and at last where the last one ends.
    offsets: Vec<u32>,
    /// The depths of the labels that a table of branches leads to, by rising depth, each once.
    tables: Vec<Vec<u32>>,
    pub blocks: Vec<Block>,
    pub places: Vec<PlaceOf>,
    pub saves: Saves,
    /// Its places store what they save, and it ends there with a call.
    pub is_leaf: bool,
    /// Variables for values of the operand stack, by height and type.
    stack_locals: HashMap<(usize, ValType), u32, RandomState>,
    /// How many of the variables code needs that saves by calls: the others come last.
    pub kept_locals: usize,
    /// A condition, while the operands below it are copied.
    pub condition_local: u32,
    /// Where the current frame begins.
    pub base_local: u32,
    /// The number of the site that is saved.
    pub site_local: u32,
}

/// One operator: where it leads, and which variable it has to do with. The rest lies in the module's bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// Goes on to the next step, as what follows does up to [`Step::Call`].
    Plain,
    Nop,
    Get(u32),
    Set(u32),
    Tee(u32),
    /// A constant of 32 bits.
    Const(i32),
    /// Adds two numbers of 32 bits.
    Add,
    /// Drops a segment.
    Drop,
    /// Calls a function, or takes long otherwise.
    Long,
    /// The same, with a place behind it; with no operator at all where code ends that leads there.
    Call(u32),
    Branch(u32),
    BranchIf(u32),
    /// Which of the tables.
    BranchTable(u32),
    Return,
    Unreachable,
    Throw,
    /// Calls what takes the frame's place.
    TailCall,
    Open(u32),
    Else,
    End(u32),
}

impl Step {
    /// Whether it does more than to go on to the next one: is all or part of a block, leads elsewhere or may have a place; or is
    /// nothing at all.
    fn is_turn(self) -> bool {
        !matches!(
            self,
            Self::Plain
                | Self::Get(_)
                | Self::Set(_)
                | Self::Tee(_)
                | Self::Const(_)
                | Self::Add
                | Self::Drop
                | Self::Long
        )
    }
}

/// What kind of block it is.
#[derive(Clone, Debug)]
pub(crate) enum Shape {
    Block,
    Loop,
    If,
    Try(Vec<Catch>),
}

/// A block, loop, condition or try table.
pub(crate) struct Block {
    pub shape: Shape,
    pub params: Vec<ValType>,
    pub results: Vec<ValType>,
    pub parent: Option<u32>,
    /// Types of the operands below the block that the enclosing block has pushed.
    pub outer: Vec<ValType>,
    /// Variables that keep these operands while the block runs.
    pub outer_locals: Vec<u32>,
    /// The innermost of it and the blocks around that has such variables.
    pub keeper: Option<u32>,
    /// Index of its first step, of the step `else` and of its last one.
    pub open: usize,
    pub otherwise: Option<usize>,
    pub end: usize,
    /// Never reached.
    pub dead: bool,
    pub holds_places: bool,
    /// The place at a loop's head.
    pub place: Option<u32>,
}

/// Where a function may stop.
pub(crate) struct PlaceOf {
    pub kind: PlaceKind,
    /// The innermost block around it; a loop's head lies in the loop.
    pub block: Option<u32>,
    /// The step with which the function goes on.
    pub after: usize,
    /// Types of the operands that the innermost block has pushed, a call's results included.
    pub stack: Vec<ValType>,
    /// Variables that a frame saves here, but for those of the operands above: whose values are needed later, and those that keep
    /// operands of the blocks around.
    pub kept: Vec<u32>,
}

/// What kind of place it is.
pub(crate) enum PlaceKind {
    Entry,
    /// At a loop's head, which may look but once in a few rounds if something counts them.
    Loop(Option<Counter>),
    /// After a call with so many results, which polls, or only sees whether the callee has stopped.
    Call {
        results: usize,
        polls: bool,
    },
    /// Behind an operator that goes over much memory.
    Bulk,
    /// After a call that is not meant to return: nothing is needed any more.
    Dead,
}

/// What a place looks at to see whether its function shall stop.
#[derive(Clone, Copy)]
pub(crate) enum Look {
    /// The word, which may change at any time.
    Word,
    /// The word, behind a call.
    WordBehindCall,
    /// Whether frames are being written.
    Unwinding,
}

impl PlaceKind {
    /// What it looks at; nothing behind a call that is not meant to return.
    pub(crate) fn looks_at(&self) -> Option<Look> {
        match self {
            // An engine may not know such an operator for a call.
            Self::Entry | Self::Loop(_) | Self::Bulk => Some(Look::Word),
            Self::Call { polls: true, .. } => Some(Look::WordBehindCall),
            Self::Call { polls: false, .. } => Some(Look::Unwinding),
            Self::Dead => None,
        }
    }
}

/// Whether these operands are but one, which a call can take from where it lies.
pub(crate) fn passes_operand(operands: &[ValType]) -> bool {
    match *operands {
        [ty] => ValueType::of(ty).is_some_and(ValueType::is_narrow),
        _ => false,
    }
}

impl Body<'_> {
    /// The steps that do more than to go on, each with its index.
    fn turning_steps(&self) -> impl DoubleEndedIterator<Item = (usize, &Step)> {
        let indices = self.turns.iter().map(|&index| index as usize);
        indices.map(|index| (index, &self.steps[index]))
    }

    /// The variable for an operand of the current block at `height`.
    pub(crate) fn stack_local(&self, height: usize, ty: ValType) -> u32 {
        self.stack_locals[&(height, ty)]
    }

    /// The bytes of a step's operator.
    pub(crate) fn bytes(&self, step: usize) -> &[u8] {
        self.bytes_of(step..step + 1)
    }

    /// The bytes of the operators of some steps.
    pub(crate) fn bytes_of(&self, steps: Range<usize>) -> &[u8] {
        &self.code[self.offsets[steps.start] as usize..self.offsets[steps.end] as usize]
    }

    /// Whether a step's operator is written the same wherever the same indices hold, as short as it can be: linkers fill up what they
    /// know late to five bytes.
    pub(crate) fn is_same_anywhere(&self, step: usize) -> bool {
        let has_own_form = matches!(
            self.steps[step],
            Step::Open(_)
                | Step::Else
                | Step::End(_)
                | Step::Call(_)
                | Step::Branch(_)
                | Step::BranchIf(_)
                | Step::BranchTable(_)
                | Step::Drop
        );
        !has_own_form && self.bytes(step).len() <= 5
    }

    /// A step's operator; of a block or its end, only in the order of all steps.
    pub(crate) fn operator(&self, step: usize) -> Operator<'_> {
        let operator = OperatorsReader::new(BinaryReader::new(self.bytes(step), 0)).read();
        operator.expect("the code was read before")
    }

    /// The blocks around a place, outermost first.
    pub(crate) fn chain(&self, place: &PlaceOf) -> Vec<u32> {
        let mut chain: Vec<u32> =
            std::iter::successors(place.block, |&block| self.blocks[block as usize].parent).collect();
        chain.reverse();
        chain
    }

    /// The variables that a frame saves at a place, in the order of its layout.
    pub(crate) fn saved_locals(&self, place: &PlaceOf) -> impl Iterator<Item = u32> {
        let stack = place.stack.iter().enumerate();
        let operands = stack.map(|(height, &ty)| self.stack_local(height, ty));
        place.kept.iter().copied().chain(operands)
    }

    /// Adds the variables that keep operands of the blocks around to those that each place saves; refuses too much.
    fn keep_operands(&mut self) -> Result<(), Refusal> {
        let mut saved = 0;
        let mut keepers = Vec::new();
        for place in &mut self.places {
            if !matches!(place.kind, PlaceKind::Dead) {
                let keeper_of = |block: u32| self.blocks[block as usize].keeper;
                keepers.extend(std::iter::successors(place.block.and_then(keeper_of), |&keeper| {
                    self.blocks[keeper as usize].parent.and_then(keeper_of)
                }));
                for keeper in keepers.drain(..).rev() {
                    place.kept.extend(&self.blocks[keeper as usize].outer_locals);
                }
            }
            saved += place.kept.len() + place.stack.len();
            if saved > SAVED_VALUES_MAX {
                return Err(self.too_large("its places save too many values"));
            }
        }
        Ok(())
    }

    /// The layout of each place; refuses what cannot be saved.
    pub(crate) fn layouts(&self) -> Result<Vec<Layout>, Refusal> {
        let mut layouts = Vec::with_capacity(self.places.len());
        let mut lies_at = vec![0; self.locals.len()];
        for (index, place) in (0..).zip(&self.places) {
            let values = self.value_types(self.saved_locals(place).map(|local| self.locals[local as usize]))?;
            let kind = match place.kind {
                PlaceKind::Entry => Place::Entry,
                PlaceKind::Loop(_) => Place::Loop,
                PlaceKind::Bulk => Place::Bulk,
                PlaceKind::Dead => Place::Call(Vec::new()),
                PlaceKind::Call { results, .. } => {
                    let results = &place.stack[place.stack.len() - results..];
                    Place::Call(self.value_types(results.iter().copied())?)
                }
            };
            let (offsets, bytes) = self.offsets(index, &mut lies_at);
            layouts.push(Layout {
                place: kind,
                values,
                offsets,
                bytes,
            });
        }
        Ok(layouts)
    }

    /// A continuation holds each loop around its place once more: so many steps in all.
    fn check_continuations(&self) -> Result<(), Refusal> {
        let mut again: Vec<usize> = Vec::with_capacity(self.blocks.len());
        for block in &self.blocks {
            let around = block.parent.map_or(0, |parent| again[parent as usize]);
            let own = match block.shape {
                Shape::Loop => block.end - block.open,
                _ => 0,
            };
            again.push(around.saturating_add(own));
            if block.holds_places && again[again.len() - 1] > STEPS_AGAIN_MAX {
                return Err(self.too_large("loops in loops make it too long to continue in their midst"));
            }
        }
        Ok(())
    }

    fn value_types(&self, types: impl Iterator<Item = ValType>) -> Result<Vec<ValueType>, Refusal> {
        types
            .map(ValueType::of)
            .collect::<Option<_>>()
            .ok_or(Refusal::LiveException {
                function: self.function,
            })
    }

    fn too_large(&self, what: &'static str) -> Refusal {
        Refusal::TooLarge {
            function: self.function,
            what,
        }
    }

    /// Adds the variables that saving and resuming need.
    fn add_locals(&mut self) -> Result<(), Refusal> {
        let mut by_height: HashMap<(usize, ValType), u32> = HashMap::new();
        self.condition_local = add(&mut self.locals, ValType::I32);
        // How many operands lie below what a block pushes itself. It comes before the blocks inside.
        let mut heights: Vec<usize> = Vec::with_capacity(self.blocks.len());
        for index in 0..self.blocks.len() {
            let block = &self.blocks[index];
            let parent = block.parent.map(|parent| parent as usize);
            let below = parent.map_or(0, |parent| heights[parent]);
            heights.push(below + block.outer.len());
            if !block.holds_places {
                continue;
            }
            let mut locals = Vec::new();
            for (height, ty) in (below..).zip(block.outer.clone()) {
                let local = *by_height
                    .entry((height, ty))
                    .or_insert_with(|| add(&mut self.locals, ty));
                locals.push(local);
            }
            self.blocks[index].keeper = match locals.is_empty() {
                true => parent.and_then(|parent| self.blocks[parent].keeper),
                false => Some(u32::try_from(index).expect("code has fewer than 2^32 blocks")),
            };
            self.blocks[index].outer_locals = locals;
            if !self.blocks[index].outer.is_empty() {
                self.add_stack_locals(&self.blocks[index].params.clone())?;
            }
        }
        for place in 0..self.places.len() {
            if !passes_operand(&self.places[place].stack) {
                self.add_stack_locals(&self.places[place].stack.clone())?;
            }
        }
        self.kept_locals = self.locals.len();
        for place in 0..self.places.len() {
            self.add_stack_locals(&self.places[place].stack.clone())?;
        }
        self.base_local = add(&mut self.locals, ValType::I32);
        self.site_local = add(&mut self.locals, ValType::I32);
        if self.locals.len() > LOCALS_MAX {
            return Err(self.too_large("it has too many local variables"));
        }
        Ok(())
    }

    fn add_stack_locals(&mut self, types: &[ValType]) -> Result<(), Refusal> {
        if types.len() > BLOCK_VALUES_MAX {
            return Err(self.too_large("its operand stack is too high"));
        }
        for (height, &ty) in types.iter().enumerate() {
            let locals = &mut self.locals;
            self.stack_locals.entry((height, ty)).or_insert_with(|| add(locals, ty));
        }
        Ok(())
    }
}

fn add(locals: &mut Vec<ValType>, ty: ValType) -> u32 {
    locals.push(ty);
    u32::try_from(locals.len() - 1).expect("a function has fewer than 2^32 variables")
}
