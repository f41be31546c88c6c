//! The instrumented module: the original one with places in its code, the save memory, the table of
//! functions, and exports of all that a continuation or a capture needs.

use std::collections::HashMap;
use std::convert::Infallible;

use wasm_encoder::reencode::Reencode;
use wasm_encoder::{
    BlockType, BranchHint, BranchHints, CodeSection, ConstExpr, DataCountSection, DataSection, ElementSection,
    Elements, ExportKind, ExportSection, Function, FunctionSection, GlobalSection, GlobalType, ImportSection,
    MemorySection, MemoryType, Module, RefType, TableSection, TableType, TagSection, ValType as Encoded,
};
use wasmparser::{FuncType, Operator, Parser, Payload, ValType};

use super::save::{self, Places, Saver};
use super::signatures::Signatures;
use super::{CODE_BYTES_MAX, Manner, Target, Writer, sound, word_type};
use crate::body::{Body, PlaceKind};
use crate::plan::Analysis;
use crate::segments::Segment;
use crate::{Refusal, names};

/// What the layouts of all functions say about the save memory.
#[derive(Clone, Copy)]
pub(crate) struct Needs {
    pub frames_pages: u64,
    /// Some frame holds an external reference.
    pub externs: bool,
}

/// The instrumented module, while it is written.
pub(crate) struct Instrumented<'s> {
    main: Main<'s>,
    parts: Parts,
}

impl<'s> Instrumented<'s> {
    pub(crate) fn new(analysis: &'s Analysis) -> Self {
        let mut main = Main {
            analysis,
            signatures: Signatures::of_module(&analysis.outline.types),
            savers: HashMap::new(),
            last_finishers: HashMap::new(),
            saving: Vec::new(),
        };
        let mut parts = Parts::default();
        parts.copy(&mut main);
        Self { main, parts }
    }

    /// Writes the next function. `first_site` is the number of its first place.
    pub(crate) fn function(&mut self, body: &Body<'_>, first_site: u32) -> Result<(), Refusal> {
        self.parts.function(&mut self.main, body, first_site)
    }

    /// Writes the rest.
    pub(crate) fn finish(mut self, needs: Needs) -> Vec<u8> {
        self.parts.add_helpers(&mut self.main);
        self.parts.add_state(&self.main, needs);
        self.parts.add_exports(&self.main, needs);
        self.parts.finish(&self.main)
    }
}

/// The index spaces of the instrumented module: what the pass adds comes last everywhere, so that the guest's own indices stay
/// as they are, and as short.
struct Main<'s> {
    analysis: &'s Analysis,
    signatures: Signatures,
    savers: HashMap<Saver, u32>,
    /// By the results that they give.
    last_finishers: HashMap<Vec<ValType>, u32>,
    /// Type and code of each of these.
    saving: Vec<(u32, Function)>,
}

impl Main<'_> {
    /// The index of the function that drops segments again; others of the pass follow.
    fn settler(&self) -> u32 {
        let analysis = self.analysis;
        index(analysis.outline.functions.len() + analysis.segments.helpers.len())
    }

    fn finisher_index(&self) -> u32 {
        self.settler() + 1
    }

    fn leaver_index(&self) -> u32 {
        self.settler() + 2
    }

    fn closer_index(&self) -> u32 {
        self.settler() + 3
    }

    /// The index of the next function that saves; of the first switch, when all of them are known.
    fn next_saving(&self) -> u32 {
        self.settler() + 4 + index(self.saving.len())
    }

    fn unwinding_index(&self) -> u32 {
        let analysis = self.analysis;
        index(analysis.outline.globals.len() + analysis.segments.markers.len())
    }

    fn add_saving(&mut self, ty: &FuncType, code: Function) -> u32 {
        let function = self.next_saving();
        self.saving.push((self.signatures.of(ty), code));
        function
    }

    fn places(&mut self) -> Places {
        Places {
            word_memory: self.word_memory(),
            frames_memory: self.frames_memory(),
            finisher: self.finisher_index(),
            closer: self.closer_index(),
            unwinding: self.unwinding_index(),
        }
    }
}

impl Reencode for Main<'_> {
    type Error = Infallible;
}

impl Target for Main<'_> {
    const HAS_SAME_INDICES: bool = true;

    fn signature(&mut self, params: &[ValType], results: &[ValType]) -> BlockType {
        self.signatures.of_block(params, results)
    }

    fn function_signature(&mut self, results: &[ValType]) -> u32 {
        self.signatures.of(&FuncType::new([], results.iter().copied()))
    }

    fn word_memory(&mut self) -> u32 {
        index(self.analysis.outline.memories.len())
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

    fn saver(&mut self, saver: Saver) -> u32 {
        if let Some(&index) = self.savers.get(&saver) {
            return index;
        }
        let parts: Vec<u32> = saver.parts().into_iter().map(|part| self.saver(part)).collect();
        let code = saver.code(self.places(), &parts);
        let function = self.add_saving(&saver.signature(), code);
        self.savers.insert(saver, function);
        function
    }

    fn finisher(&mut self) -> u32 {
        self.finisher_index()
    }

    fn last_finisher(&mut self, results: &[ValType]) -> u32 {
        if let Some(&index) = self.last_finishers.get(results) {
            return index;
        }
        let code = save::finish_last(self.places(), results);
        let function = self.add_saving(&save::last_finisher_type(results), code);
        self.last_finishers.insert(results.to_vec(), function);
        function
    }

    fn closer(&mut self) -> u32 {
        self.closer_index()
    }

    fn leaver(&mut self) -> u32 {
        self.leaver_index()
    }

    fn unwinding(&mut self) -> u32 {
        self.unwinding_index()
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
    }

    fn function(&mut self, main: &mut Main<'_>, body: &Body<'_>, first_site: u32) -> Result<(), Refusal> {
        let manner = Manner {
            poll: main.analysis.options.poll,
            first_site,
        };
        let locals = if body.is_leaf {
            body.locals.len()
        } else {
            body.kept_locals
        };
        let mut writer = Writer::new(body, main, manner, &body.locals[body.parameters..locals]);
        writer.sharing(Writer::entry_and_steps);
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
            self.code.function(&helper.code(&analysis.segments));
            self.exports.export(&helper.name(), ExportKind::Func, next);
            next += 1;
        }
        self.functions.function(main.signatures.of(&FuncType::new([], [])));
        self.code.function(&analysis.segments.settle());
        self.exports.export(names::SETTLE, ExportKind::Func, next);
        self.functions.function(main.signatures.of(&save::finisher_type()));
        self.code.function(&save::finish(main.places()));
        self.exports
            .export(names::FINISH, ExportKind::Func, main.finisher_index());
        self.functions.function(main.signatures.of(&save::site_type()));
        self.code.function(&save::leave(main.places()));
        self.exports.export(names::LEAVE, ExportKind::Func, main.leaver_index());
        self.functions.function(main.signatures.of(&save::site_type()));
        self.code.function(&save::close(main.places()));
        for (ty, code) in &main.saving {
            self.functions.function(*ty);
            self.code.function(code);
        }
        self.add_switches(main);
    }

    fn add_switches(&mut self, main: &mut Main<'_>) {
        let analysis = main.analysis;
        let first = main.next_saving();
        for (number, switch) in (0..).zip(&analysis.switches.list) {
            self.functions.function(main.signatures.of(&switch.own_type()));
            let arguments = main.signature(&[], switch.ty.params());
            self.code
                .function(&switch.code(arguments, analysis.calls.has_tail_calls));
            self.exports
                .export(&names::switch(number), ExportKind::Func, first + number);
        }
    }

    /// The word, the save memory, the markers, and the tables of references.
    fn add_state(&mut self, main: &Main<'_>, needs: Needs) {
        let analysis = main.analysis;
        self.memories.memory(word_type());
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
        self.globals.global(save::unwinding_type(), &ConstExpr::i32_const(0));
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
        let memories = index(outline.memories.len());
        exports.export(names::WORD, ExportKind::Memory, memories);
        exports.export(names::FRAMES, ExportKind::Memory, memories + 1);
        exports.export(names::FUNCTIONS, ExportKind::Table, tables);
        if needs.externs {
            exports.export(names::EXTERNS, ExportKind::Table, tables + 1);
        }
        if let Some(start) = outline.start {
            exports.export(names::START, ExportKind::Func, start);
        }
        for memory in 0..memories {
            exports.export(&names::memory(memory), ExportKind::Memory, memory);
        }
        for table in 0..tables {
            exports.export(&names::table(table), ExportKind::Table, table);
        }
        for global in 0..index(outline.globals.len() + main.analysis.segments.markers.len()) {
            exports.export(&names::global(global), ExportKind::Global, global);
        }
        exports.export(names::UNWINDING, ExportKind::Global, main.unwinding_index());
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

impl<T: Target> Writer<'_, '_, T> {
    fn entry_and_steps(&mut self) {
        let places = &self.body.places;
        if places
            .first()
            .is_some_and(|place| matches!(place.kind, PlaceKind::Entry))
        {
            self.place(0);
        }
        self.steps(0..self.body.steps.len());
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
