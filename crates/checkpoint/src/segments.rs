//! Passive segments: a continuation, which lies in another module, reaches them through helpers of the main
//! module, and markers remember which are dropped.

use wasm_encoder::Function;
use wasm_encoder::Instruction as I;
use wasmparser::{FuncType, Operator, ValType};

use crate::calls::Touched;
use crate::outline::Outline;

/// The helpers and markers of a module.
pub(crate) struct Segments {
    pub helpers: Vec<Helper>,
    /// Segments that code drops; each has a global behind those of the module.
    pub markers: Vec<Segment>,
    /// The first marker's index.
    first_marker: u32,
}

/// A segment that can be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Segment {
    Data(u32),
    Element(u32),
}

/// A function of the main module that does one operator for a continuation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Helper {
    MemoryInit { segment: u32, memory: u32 },
    TableInit { segment: u32, table: u32 },
    Drop(Segment),
}

impl Segments {
    pub(crate) fn of(outline: &Outline, touched: &Touched) -> Self {
        let data = touched.dropped_data.iter().map(|&segment| Segment::Data(segment));
        let elements = touched
            .dropped_elements
            .iter()
            .map(|&segment| Segment::Element(segment));
        let markers: Vec<Segment> = data.chain(elements).collect();
        let memory_inits = touched.memory_inits.iter();
        let table_inits = touched.table_inits.iter();
        let helpers = memory_inits
            .map(|&(segment, memory)| Helper::MemoryInit { segment, memory })
            .chain(table_inits.map(|&(segment, table)| Helper::TableInit { segment, table }))
            .chain(markers.iter().map(|&segment| Helper::Drop(segment)))
            .collect();
        Self {
            helpers,
            markers,
            first_marker: index_of(outline.globals.len()),
        }
    }

    /// The helper that does what an operator does.
    pub(crate) fn helper_for(&self, operator: &Operator<'_>) -> Option<Helper> {
        let wanted = match *operator {
            Operator::MemoryInit { data_index, mem } => Helper::MemoryInit {
                segment: data_index,
                memory: mem,
            },
            Operator::TableInit { elem_index, table } => Helper::TableInit {
                segment: elem_index,
                table,
            },
            Operator::DataDrop { data_index } => Helper::Drop(Segment::Data(data_index)),
            Operator::ElemDrop { elem_index } => Helper::Drop(Segment::Element(elem_index)),
            _ => return None,
        };
        Some(wanted)
    }

    /// The global that says whether a segment is dropped.
    pub(crate) fn marker(&self, segment: Segment) -> u32 {
        let place = self.markers.iter().position(|&marked| marked == segment);
        self.first_marker + index_of(place.expect("every segment that is dropped has a marker"))
    }

    /// Drops a segment and marks it.
    pub(crate) fn write_drop(&self, segment: Segment, code: &mut Function) {
        code.instruction(&segment.drop());
        code.instruction(&I::I32Const(1));
        code.instruction(&I::GlobalSet(self.marker(segment)));
    }

    /// The body of the function that drops again what the markers say.
    pub(crate) fn settle(&self) -> Function {
        let mut code = Function::new([]);
        for &segment in &self.markers {
            code.instruction(&I::GlobalGet(self.marker(segment)));
            code.instruction(&I::If(wasm_encoder::BlockType::Empty));
            code.instruction(&segment.drop());
            code.instruction(&I::End);
        }
        code.instruction(&I::End);
        code
    }
}

impl Segment {
    fn drop(self) -> I<'static> {
        match self {
            Self::Data(segment) => I::DataDrop(segment),
            Self::Element(segment) => I::ElemDrop(segment),
        }
    }
}

impl Helper {
    pub(crate) fn name(self) -> String {
        match self {
            Self::MemoryInit { segment, memory } => format!("ck:mi{segment}.{memory}"),
            Self::TableInit { segment, table } => format!("ck:ti{segment}.{table}"),
            Self::Drop(Segment::Data(segment)) => format!("ck:dd{segment}"),
            Self::Drop(Segment::Element(segment)) => format!("ck:ed{segment}"),
        }
    }

    pub(crate) fn ty(self, outline: &Outline) -> FuncType {
        let target = match self {
            Self::MemoryInit { memory, .. } => outline.memories[memory as usize].index_type(),
            Self::TableInit { table, .. } => outline.tables[table as usize].index_type(),
            Self::Drop(_) => return FuncType::new([], []),
        };
        FuncType::new([target, ValType::I32, ValType::I32], [])
    }

    /// The helper's body in the main module.
    pub(crate) fn code(self, segments: &Segments) -> Function {
        let mut code = Function::new([]);
        if !matches!(self, Self::Drop(_)) {
            (0..3).for_each(|parameter| {
                code.instruction(&I::LocalGet(parameter));
            });
        }
        match self {
            Self::MemoryInit { segment, memory } => {
                code.instruction(&I::MemoryInit {
                    mem: memory,
                    data_index: segment,
                });
            }
            Self::TableInit { segment, table } => {
                code.instruction(&I::TableInit {
                    elem_index: segment,
                    table,
                });
            }
            Self::Drop(segment) => segments.write_drop(segment, &mut code),
        }
        code.instruction(&I::End);
        code
    }
}

fn index_of(place: usize) -> u32 {
    u32::try_from(place).expect("a module has fewer than 2^32 of anything")
}
