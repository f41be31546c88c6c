//! The instrumented module: the original one with places in its code, the save memory, the table of
//! functions, and exports of all that a continuation or a capture needs.

use std::collections::BTreeSet;
use std::convert::Infallible;

use wasm_encoder::reencode::{Error, Reencode};
use wasm_encoder::{
    BlockType, BranchHint, BranchHints, CodeSection, ConstExpr, DataCountSection, DataSection, ElementSection,
    Elements, ExportKind, ExportSection, Function, FunctionSection, GlobalSection, GlobalType, ImportSection,
    MemorySection, MemoryType, Module, RefType, TableSection, TableType, TagSection, ValType as Encoded,
};
use wasmparser::{FuncType, Operator, Parser, Payload, ValType};

use super::signatures::Signatures;
use super::{Target, Writer, sound};
use crate::body::{Body, PlaceKind, Step};
use crate::plan::Analysis;
use crate::segments::Segment;
use crate::{Refusal, names};

/// The largest code of a function that readers allow.
const CODE_BYTES_MAX: usize = 7_654_321;

/// What the layouts of all functions say about the save memory.
#[derive(Clone, Copy)]
pub(crate) struct Needs {
    pub frames_pages: u64,
    /// Some frame holds an external reference.
    pub externs: bool,
}

/// Writes the instrumented module.
pub(crate) fn instrumented(analysis: &Analysis, needs: Needs) -> Result<Vec<u8>, Refusal> {
    let mut main = Main {
        analysis,
        signatures: Signatures::of_module(&analysis.outline.types),
        called: BTreeSet::new(),
    };
    let mut parts = Parts::default();
    parts.copy(&mut main);
    for index in 0..analysis.outline.bodies.len() {
        let body = analysis.body_at(index)?;
        parts.function(&mut main, &body)?;
    }
    parts.add_helpers(&mut main);
    parts.add_state(&main, needs);
    parts.add_exports(&main, needs);
    Ok(parts.finish(&main))
}

/// The index spaces of the instrumented module: memories move by one, behind the word; the rest stays.
struct Main<'s> {
    analysis: &'s Analysis,
    signatures: Signatures,
    /// Functions that code with places calls by their index.
    called: BTreeSet<u32>,
}

impl Reencode for Main<'_> {
    type Error = Infallible;

    fn memory_index(&mut self, memory: u32) -> Result<u32, Error<Infallible>> {
        Ok(memory + 1)
    }
}

impl Target for Main<'_> {
    fn signature(&mut self, params: &[ValType], results: &[ValType]) -> BlockType {
        self.signatures.of_block(params, results)
    }

    fn function_signature(&mut self, results: &[ValType]) -> u32 {
        self.signatures.of(&FuncType::new([], results.iter().copied()))
    }

    fn word_memory(&mut self) -> u32 {
        0
    }

    fn frames_memory(&mut self) -> u32 {
        index(self.analysis.outline.memories.len()) + 1
    }

    fn functions_table(&mut self) -> u32 {
        index(self.analysis.outline.tables.len())
    }

    fn externs_table(&mut self) -> u32 {
        index(self.analysis.outline.tables.len()) + 1
    }

    fn rewrite(&mut self, operator: &Operator<'_>, code: &mut Function) -> bool {
        let segment = match *operator {
            Operator::DataDrop { data_index } => Segment::Data(data_index),
            Operator::ElemDrop { elem_index } => Segment::Element(elem_index),
            _ => return false,
        };
        self.analysis.segments.write_drop(segment, code);
        true
    }
}

/// The sections that are written.
#[derive(Default)]
struct Parts {
    imports: ImportSection,
    functions: FunctionSection,
    tables: TableSection,
    memories: MemorySection,
    tags: TagSection,
    globals: GlobalSection,
    exports: ExportSection,
    elements: ElementSection,
    data_count: Option<u32>,
    hints: BranchHints,
    code: CodeSection,
    data: DataSection,
}

impl Parts {
    /// Takes over the sections of the original module, but its code.
    fn copy(&mut self, main: &mut Main<'_>) {
        let module = &main.analysis.module;
        for payload in Parser::new(0).parse_all(module) {
            match payload.expect("the module was validated") {
                Payload::ImportSection(section) => sound(main.parse_import_section(&mut self.imports, section)),
                Payload::FunctionSection(section) => sound(main.parse_function_section(&mut self.functions, section)),
                Payload::TableSection(section) => sound(main.parse_table_section(&mut self.tables, section)),
                Payload::MemorySection(section) => sound(main.parse_memory_section(&mut self.memories, section)),
                Payload::TagSection(section) => sound(main.parse_tag_section(&mut self.tags, section)),
                Payload::GlobalSection(section) => sound(main.parse_global_section(&mut self.globals, section)),
                Payload::ExportSection(section) => sound(main.parse_export_section(&mut self.exports, section)),
                Payload::ElementSection(section) => sound(main.parse_element_section(&mut self.elements, section)),
                Payload::DataCountSection { count, .. } => self.data_count = Some(count),
                Payload::DataSection(section) => sound(main.parse_data_section(&mut self.data, section)),
                // The start function is run by the engine: not again when a run is resumed.
                _ => {}
            }
        }
        let word = MemoryType {
            minimum: 1,
            maximum: Some(1),
            memory64: false,
            shared: true,
            page_size_log2: None,
        };
        self.imports.import(names::IMPORT_MODULE, names::WORD, word);
    }

    fn function(&mut self, main: &mut Main<'_>, body: &Body<'_>) -> Result<(), Refusal> {
        if !body.places.is_empty() {
            main.called.extend(body.steps.iter().filter_map(called_function));
        }
        let poll = main.analysis.options.poll;
        let mut writer = Writer::new(body, main, poll, &body.locals[body.parameters..]);
        if body.places.is_empty() {
            writer.steps(0..body.steps.len());
            writer.put(&wasm_encoder::Instruction::End);
        } else {
            writer.unwindable(|writer| {
                if matches!(body.places[0].kind, PlaceKind::Entry) {
                    writer.place(0);
                }
                writer.steps(0..body.steps.len());
            });
        }
        if writer.code.byte_len() > CODE_BYTES_MAX {
            return Err(Refusal::TooLarge {
                function: body.function,
                what: "its code would exceed what engines read",
            });
        }
        let hints = writer.unlikely.iter().map(|&branch_func_offset| BranchHint {
            branch_func_offset,
            branch_hint_value: 0,
        });
        if !writer.unlikely.is_empty() {
            self.hints.function_hints(body.function, hints.collect::<Vec<_>>());
        }
        self.code.function(&writer.code);
        Ok(())
    }

    /// Functions behind those of the module.
    fn add_helpers(&mut self, main: &mut Main<'_>) {
        let analysis = main.analysis;
        let mut next = index(analysis.outline.functions.len());
        for &helper in &analysis.segments.helpers {
            self.functions
                .function(main.signatures.of(&helper.ty(&analysis.outline)));
            self.code
                .function(&helper.code(&analysis.segments, |memory| memory + 1));
            self.exports.export(&helper.name(), ExportKind::Func, next);
            next += 1;
        }
        self.functions.function(main.signatures.of(&FuncType::new([], [])));
        self.code.function(&analysis.segments.settle());
        self.exports.export(names::SETTLE, ExportKind::Func, next);
    }

    /// The save memory, the markers, and the tables of references.
    fn add_state(&mut self, main: &Main<'_>, needs: Needs) {
        let analysis = main.analysis;
        self.memories.memory(MemoryType {
            minimum: needs.frames_pages,
            maximum: Some(needs.frames_pages),
            memory64: false,
            shared: false,
            page_size_log2: None,
        });
        for _ in &analysis.segments.markers {
            let flag = GlobalType {
                val_type: Encoded::I32,
                mutable: true,
                shared: false,
            };
            self.globals.global(flag, &ConstExpr::i32_const(0));
        }
        let references = &analysis.references;
        self.tables
            .table(reference_table(RefType::FUNCREF, references.len() as u64));
        if !references.is_empty() {
            let table = index(analysis.outline.tables.len());
            let elements = Elements::Functions(references.as_slice().into());
            self.elements.active(Some(table), &ConstExpr::i32_const(0), elements);
        }
        if needs.externs {
            self.tables.table(reference_table(RefType::EXTERNREF, 0));
        }
    }

    fn add_exports(&mut self, main: &Main<'_>, needs: Needs) {
        let outline = &main.analysis.outline;
        let exports = &mut self.exports;
        let tables = index(outline.tables.len());
        exports.export(names::WORD, ExportKind::Memory, 0);
        exports.export(names::FRAMES, ExportKind::Memory, index(outline.memories.len()) + 1);
        exports.export(names::FUNCTIONS, ExportKind::Table, tables);
        if needs.externs {
            exports.export(names::EXTERNS, ExportKind::Table, tables + 1);
        }
        if let Some(start) = outline.start {
            exports.export(names::START, ExportKind::Func, start);
        }
        for &function in &main.called {
            exports.export(&names::function(function), ExportKind::Func, function);
        }
        for memory in 0..index(outline.memories.len()) {
            exports.export(&names::memory(memory), ExportKind::Memory, memory + 1);
        }
        for table in 0..tables {
            exports.export(&names::table(table), ExportKind::Table, table);
        }
        for global in 0..index(outline.globals.len() + main.analysis.segments.markers.len()) {
            exports.export(&names::global(global), ExportKind::Global, global);
        }
        for tag in 0..index(outline.tags.len()) {
            exports.export(&names::tag(tag), ExportKind::Tag, tag);
        }
    }

    fn finish(self, main: &Main<'_>) -> Vec<u8> {
        let mut module = Module::new();
        module
            .section(&main.signatures.section())
            .section(&self.imports)
            .section(&self.functions)
            .section(&self.tables)
            .section(&self.memories);
        if !self.tags.is_empty() {
            module.section(&self.tags);
        }
        module
            .section(&self.globals)
            .section(&self.exports)
            .section(&self.elements);
        if let Some(count) = self.data_count {
            module.section(&DataCountSection { count });
        }
        if !self.hints.is_empty() {
            module.section(&self.hints);
        }
        module.section(&self.code).section(&self.data);
        module.finish()
    }
}

fn called_function(step: &Step<'_>) -> Option<u32> {
    match step {
        Step::Plain(operator) | Step::Call(operator, _) => match *operator {
            Operator::Call { function_index } | Operator::ReturnCall { function_index } => Some(function_index),
            _ => None,
        },
        _ => None,
    }
}

fn reference_table(element_type: RefType, minimum: u64) -> TableType {
    TableType {
        element_type,
        table64: false,
        minimum,
        maximum: None,
        shared: false,
    }
}

fn index(place: usize) -> u32 {
    u32::try_from(place).expect("a module has fewer than 2^32 of anything")
}
