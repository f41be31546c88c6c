//! Reads a function's code into steps, blocks and places.

use std::collections::HashMap;

use wasmparser::{
    AbstractHeapType, BlockType, FuncValidator, FuncValidatorAllocations, HeapType, Operator, ValType,
    ValidatorResources, VisitOperator, VisitSimdOperator,
};

use super::saves::Saves;
use super::{Block, Body, PlaceKind, PlaceOf, Shape, Step};
use crate::calls::{Calls, Work, is_bulk, is_short};
use crate::outline::{Outline, invalid};
use crate::{Refusal, liveness};

/// Values that all blocks and calls of a function together lie on, take and return.
const VALUES_MAX: usize = 4_000_000;

impl<'a> Body<'a> {
    /// Reads the function whose body is the `index`th of the module.
    pub(crate) fn read(module: &'a [u8], outline: &Outline, calls: &Calls, index: usize) -> Result<Self, Refusal> {
        let code = &outline.bodies[index];
        let function = outline.function_of_body(index);
        let mut reader = Reader::new(
            code.validator(FuncValidatorAllocations::default()),
            outline,
            calls,
            function,
        );
        // Most operators take two bytes.
        reader.body.steps.reserve(code.range.len() / 2);
        reader.body.offsets.reserve(code.range.len() / 2);
        reader.body.code = &module[code.range.clone()];
        let body = code.body(module);
        let mut locals = body.get_locals_reader().map_err(invalid)?;
        for _ in 0..locals.get_count() {
            let offset = locals.original_position();
            let (count, ty) = locals.read().map_err(invalid)?;
            reader.validator.define_locals(offset, count, ty).map_err(invalid)?;
            reader.body.locals.extend(std::iter::repeat_n(ty, count as usize));
        }
        let mut operators = body.get_operators_reader().map_err(invalid)?;
        reader.at = operators.original_position();
        if reader.work == Work::Much {
            reader.open_whole();
        }
        while !operators.eof() {
            reader.at = operators.original_position();
            operators
                .visit_operator(&mut reader)
                .map_err(invalid)?
                .map_err(|refusal| *refusal)?;
        }
        operators.finish().map_err(invalid)?;
        // The function's own end is none of the steps.
        reader.body.offsets.push(reader.offset());
        let mut body = reader.body;
        body.kept_locals = body.locals.len();
        body.settle_places();
        if !body.places.is_empty() {
            body.check_continuations()?;
            liveness::mark(&mut body).map_err(|what| body.too_large(what))?;
            body.add_locals()?;
            body.keep_operands()?;
            body.saves = Saves::of(&body);
            body.is_leaf = body.is_simple();
        }
        Ok(body)
    }
}

struct Reader<'r, 'a> {
    validator: FuncValidator<ValidatorResources>,
    outline: &'r Outline,
    calls: &'r Calls,
    body: Body<'a>,
    /// The blocks that are open.
    open: Vec<u32>,
    /// Values that blocks and calls may still lie on, take and return.
    values_left: usize,
    /// The function may be stopped, so places are wanted.
    wants_places: bool,
    work: Work,
    /// Where the operator begins that is being read, and where the code does.
    at: usize,
    start: usize,
}

macro_rules! read_each {
    ($(@$proposal:ident $operator:ident $({ $($part:ident: $type:ty),* })? => $visit:ident ($($more:tt)*))*) => {
        $(
            #[allow(clippy::clone_on_copy, reason = "some operators have parts that are no plain numbers")]
            fn $visit(&mut self $($(, $part: $type)*)?) -> Self::Output {
                let operator = Operator::$operator $({ $($part: $part.clone()),* })?;
                match simple_step(&operator) {
                    Some(step) => {
                        self.validator.visitor(self.at).$visit($($($part),*)?).map_err(invalid)?;
                        self.push(step);
                        Ok(())
                    }
                    None => Ok(self.step(operator)?),
                }
            }
        )*
    };
}

macro_rules! read_each_vector {
    ($(@$proposal:ident $operator:ident $({ $($part:ident: $type:ty),* })? => $visit:ident ($($more:tt)*))*) => {
        $(
            fn $visit(&mut self $($(, $part: $type)*)?) -> Self::Output {
                Ok(self.step(Operator::$operator $({ $($part),* })?)?)
            }
        )*
    };
}

impl<'a> VisitOperator<'a> for Reader<'_, '_> {
    // As small as a pointer: it is handed on for each operator.
    type Output = Result<(), Box<Refusal>>;

    fn simd_visitor(&mut self) -> Option<&mut dyn VisitSimdOperator<'a, Output = Self::Output>> {
        Some(self)
    }

    wasmparser::for_each_visit_operator!(read_each);
}

impl VisitSimdOperator<'_> for Reader<'_, '_> {
    wasmparser::for_each_visit_simd_operator!(read_each_vector);
}

impl<'r, 'a> Reader<'r, 'a> {
    fn new(
        validator: FuncValidator<ValidatorResources>,
        outline: &'r Outline,
        calls: &'r Calls,
        function: u32,
    ) -> Self {
        let ty = outline.type_of(function);
        let mut reader = Self {
            validator,
            outline,
            calls,
            body: Body {
                function,
                parameters: ty.params().len(),
                results: ty.results().to_vec(),
                locals: ty.params().to_vec(),
                steps: Vec::new(),
                turns: Vec::new(),
                code: &[],
                offsets: Vec::new(),
                tables: Vec::new(),
                blocks: Vec::new(),
                places: Vec::new(),
                saves: Saves::default(),
                is_leaf: false,
                stack_locals: HashMap::default(),
                kept_locals: 0,
                condition_local: 0,
                base_local: 0,
                site_local: 0,
            },
            open: Vec::new(),
            values_left: VALUES_MAX,
            wants_places: calls.may_stop[function as usize],
            work: calls.work[function as usize],
            at: 0,
            start: outline.bodies[outline.body_index(function)].range.start,
        };
        if calls.polls_at_entry[function as usize] {
            reader.add_place(PlaceKind::Entry, Vec::new());
        }
        reader
    }

    fn step(&mut self, operator: Operator<'_>) -> Result<(), Refusal> {
        let before = match operator {
            Operator::Block { .. } | Operator::Loop { .. } | Operator::If { .. } | Operator::TryTable { .. } => {
                self.operands()?
            }
            _ => None,
        };
        let reached = self.is_reached();
        self.validator.op(self.at, &operator).map_err(invalid)?;
        match operator {
            Operator::Block { blockty } => self.open(Shape::Block, blockty, before)?,
            Operator::Loop { blockty } => self.open(Shape::Loop, blockty, before)?,
            Operator::If { blockty } => self.open(Shape::If, blockty, before)?,
            Operator::TryTable { try_table } => self.open(Shape::Try(try_table.catches), try_table.ty, before)?,
            Operator::Else => {
                let block = *self.open.last().expect("`else` lies in a block");
                self.body.blocks[block as usize].otherwise = Some(self.body.steps.len());
                self.push(Step::Else);
            }
            Operator::End => {
                // The function's own `end` is written by whoever emits the body.
                if let Some(block) = self.open.pop() {
                    self.body.blocks[block as usize].end = self.body.steps.len();
                    self.push(Step::End(block));
                    if self.work == Work::Much && self.open.is_empty() {
                        self.close_whole();
                    }
                }
            }
            Operator::Return if self.work == Work::Much => {
                let depth = u32::try_from(self.open.len() - 1).expect("code has fewer than 2^32 blocks");
                self.push(Step::Branch(depth));
            }
            Operator::Return => self.push(Step::Return),
            Operator::BrTable { targets } => {
                let others = targets.targets().map(|target| target.expect("the code was validated"));
                let mut targets: Vec<u32> = others.chain([targets.default()]).collect();
                targets.sort_unstable();
                targets.dedup();
                let table = u32::try_from(self.body.tables.len()).expect("code has fewer than 2^32 tables");
                self.body.tables.push(targets);
                self.push(Step::BranchTable(table));
            }
            other => self.plain(&other, reached)?,
        }
        Ok(())
    }

    /// Opens a block around all code of the function, in which branches that leave the function lead to its end.
    fn open_whole(&mut self) {
        let results = self.body.results.clone();
        self.push_block(Shape::Block, (Vec::new(), results), Some(Vec::new()));
    }

    /// The block has ended: all that is left is to return. Where calls gave what is returned, one of them may have stopped.
    fn close_whole(&mut self) {
        let (results, polls) = (self.body.results.len(), true);
        self.call(PlaceKind::Call { results, polls }, self.body.results.clone());
    }

    #[inline]
    fn push(&mut self, step: Step) {
        if step.is_turn() {
            let index = u32::try_from(self.body.steps.len()).expect("code has fewer than 2^32 steps");
            self.body.turns.push(index);
        }
        self.body.steps.push(step);
        self.body.offsets.push(self.offset());
    }

    fn offset(&self) -> u32 {
        u32::try_from(self.at - self.start).expect("code is smaller than 4 GiB")
    }

    /// Adds a step with a place behind it.
    fn call(&mut self, kind: PlaceKind, stack: Vec<ValType>) {
        let place = u32::try_from(self.body.places.len()).expect("code has fewer than 2^32 places");
        self.push(Step::Call(place));
        self.add_place(kind, stack);
    }

    fn is_reached(&self) -> bool {
        let dead = self
            .open
            .last()
            .is_some_and(|&block| self.body.blocks[block as usize].dead);
        let frame = self.validator.get_control_frame(0);
        !dead && frame.is_some_and(|frame| !frame.unreachable)
    }

    /// The operands of the current block, `None` where the code is not reached.
    fn operands(&mut self) -> Result<Option<Vec<ValType>>, Refusal> {
        let Some(frame) = self.validator.get_control_frame(0).filter(|_| self.is_reached()) else {
            return Ok(None);
        };
        let count = self.validator.operand_stack_height() as usize - frame.height;
        self.take_values(count)?;
        Ok((0..count)
            .rev()
            .map(|depth| self.validator.get_operand_type(depth).flatten().map(widest))
            .collect())
    }

    /// Counts values that are about to be kept.
    fn take_values(&mut self, count: usize) -> Result<(), Refusal> {
        let left = self.values_left.checked_sub(count);
        self.values_left = left.ok_or_else(|| self.body.too_large("its blocks and calls lie on too many operands"))?;
        Ok(())
    }

    fn open(&mut self, shape: Shape, ty: BlockType, before: Option<Vec<ValType>>) -> Result<(), Refusal> {
        let (params, results) = self.signature(ty)?;
        let own = params.len() + usize::from(matches!(shape, Shape::If));
        let outer = before.map(|mut operands| {
            operands.truncate(operands.len() - own);
            operands
        });
        let place = (matches!(shape, Shape::Loop) && outer.is_some() && self.wants_places).then(|| params.clone());
        let index = self.push_block(shape, (params, results), outer);
        if let Some(params) = place {
            let place = self.add_place(PlaceKind::Loop(None), params);
            self.body.blocks[index as usize].place = Some(place);
        }
        Ok(())
    }

    /// Opens a block above operands of these types; without them it is never reached.
    fn push_block(&mut self, shape: Shape, ty: (Vec<ValType>, Vec<ValType>), outer: Option<Vec<ValType>>) -> u32 {
        let (params, results) = ty;
        let index = u32::try_from(self.body.blocks.len()).expect("code has fewer than 2^32 blocks");
        self.body.blocks.push(Block {
            shape,
            params,
            results,
            parent: self.open.last().copied(),
            dead: outer.is_none(),
            outer: outer.unwrap_or_default(),
            outer_locals: Vec::new(),
            keeper: None,
            open: self.body.steps.len(),
            otherwise: None,
            end: usize::MAX,
            holds_places: false,
            place: None,
        });
        self.open.push(index);
        self.push(Step::Open(index));
        index
    }

    fn plain(&mut self, operator: &Operator<'_>, reached: bool) -> Result<(), Refusal> {
        let kind = self.place_behind(operator).filter(|_| reached && self.wants_places);
        let Some(kind) = kind else {
            self.push(simple_step(operator).unwrap_or(Step::Long));
            return Ok(());
        };
        let stack = self.operands()?.expect("an operator that is reached is passed");
        self.call(kind, stack);
        Ok(())
    }

    /// The place that is wanted behind an operator.
    fn place_behind(&self, operator: &Operator<'_>) -> Option<PlaceKind> {
        let (calls, polls) = (self.calls, self.work == Work::TooMuch);
        let callee = match *operator {
            Operator::Call { function_index } if polls || calls.may_stop[function_index as usize] => {
                self.outline.type_of(function_index)
            }
            Operator::CallIndirect { type_index, .. } if polls || calls.indirect_may_stop[type_index as usize] => {
                &self.outline.types[type_index as usize]
            }
            _ => return (polls && is_bulk(operator)).then_some(PlaceKind::Bulk),
        };
        let results = callee.results().len();
        Some(PlaceKind::Call { results, polls })
    }

    /// Adds a place before the next step.
    fn add_place(&mut self, kind: PlaceKind, stack: Vec<ValType>) -> u32 {
        self.body.places.push(PlaceOf {
            kind,
            block: self.open.last().copied(),
            after: self.body.steps.len(),
            stack,
            kept: Vec::new(),
        });
        u32::try_from(self.body.places.len() - 1).expect("code has fewer than 2^32 places")
    }

    fn signature(&mut self, ty: BlockType) -> Result<(Vec<ValType>, Vec<ValType>), Refusal> {
        Ok(match ty {
            BlockType::Empty => (Vec::new(), Vec::new()),
            BlockType::Type(ty) => (Vec::new(), vec![ty]),
            BlockType::FuncType(index) => {
                let ty = &self.outline.types[index as usize];
                self.take_values(ty.params().len() + ty.results().len())?;
                (ty.params().to_vec(), ty.results().to_vec())
            }
        })
    }
}

/// What an operator is; nothing if it has to do with blocks or tables of branches, or may have a place.
// Where it is called it is clear which operator it is, and so what the answer is.
#[inline(always)]
fn simple_step(operator: &Operator<'_>) -> Option<Step> {
    Some(match *operator {
        Operator::Block { .. }
        | Operator::Loop { .. }
        | Operator::If { .. }
        | Operator::TryTable { .. }
        | Operator::Else
        | Operator::End
        | Operator::BrTable { .. }
        | Operator::Return => return None,
        Operator::LocalGet { local_index } => Step::Get(local_index),
        Operator::LocalSet { local_index } => Step::Set(local_index),
        Operator::LocalTee { local_index } => Step::Tee(local_index),
        Operator::I32Const { value } => Step::Const(value),
        Operator::I32Add => Step::Add,
        Operator::Nop => Step::Nop,
        Operator::Br { relative_depth } => Step::Branch(relative_depth),
        Operator::BrIf { relative_depth } => Step::BranchIf(relative_depth),
        Operator::Unreachable => Step::Unreachable,
        Operator::Throw { .. } | Operator::ThrowRef => Step::Throw,
        Operator::ReturnCall { .. } | Operator::ReturnCallIndirect { .. } => Step::TailCall,
        Operator::DataDrop { .. } | Operator::ElemDrop { .. } => Step::Drop,
        _ => return is_short(operator).then_some(Step::Plain),
    })
}

/// The type that a value may be kept as. The validator knows more of a reference than modules without typed
/// references can make use of.
fn widest(ty: ValType) -> ValType {
    let ValType::Ref(reference) = ty else { return ty };
    match reference.heap_type() {
        HeapType::Abstract {
            ty: AbstractHeapType::Extern | AbstractHeapType::NoExtern,
            ..
        } => ValType::EXTERNREF,
        HeapType::Abstract {
            ty: AbstractHeapType::Exn | AbstractHeapType::NoExn,
            ..
        } => ValType::EXNREF,
        _ => ValType::FUNCREF,
    }
}
