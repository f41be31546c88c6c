//! The continuation of a frame: a module with one function that loads the frame's values and runs the rest of
//! the original function.
//!
//! Each block around the place is entered again. A loop gets its unfinished round first, then follows whole,
//! so that it soon runs in code as good as the original's:
//!
//! ```text
//!  block $behind
//!    block $back            a branch to the loop's head leaves this block
//!      <rest of the round>
//!      br $behind
//!    end
//!    loop <whole body> end
//!  end
//! ```

use std::collections::HashMap;
use std::convert::Infallible;

use wasm_encoder::reencode::{Error, Reencode, RoundtripReencoder};
use wasm_encoder::{
    BlockType, BranchHint, BranchHints, CodeSection, EntityType, ExportKind, ExportSection, Function, FunctionSection,
    ImportSection, Instruction, MemoryType, Module, RefType, TableType, TagType,
};
use wasmparser::{FuncType, Operator, ValType};

use super::save::{Saver, finisher_type, site_type, unwinding_type};
use super::signatures::Signatures;
use super::{Manner, Target, Writer, sound, word_type};
use crate::body::{Block, PlaceKind, Shape};
use crate::plan::Analysis;
use crate::{Refusal, Site, names};

/// Writes the module that continues a frame which stopped at `site`, a place that exists.
/// `first_site` is the number of its function's first place.
pub(crate) fn continuation(analysis: &Analysis, site: Site, first_site: u32) -> Result<Vec<u8>, Refusal> {
    let body = analysis.body_of(site.function)?;
    let mut resume = Resume::new(analysis);
    let ty = resume.signatures.of(&FuncType::new([], body.results.iter().copied()));
    let manner = Manner {
        poll: analysis.options.poll,
        first_site,
    };
    let mut writer = Writer::new(&body, &mut resume, manner, &body.locals);
    writer.unwindable(|writer| writer.rest(site));
    let code = writer.code;
    let hints: Vec<BranchHint> = writer
        .unlikely
        .iter()
        .map(|&branch_func_offset| BranchHint {
            branch_func_offset,
            branch_hint_value: 0,
        })
        .collect();
    Ok(resume.finish(ty, &code, hints))
}

impl<T: Target> Writer<'_, '_, T> {
    /// Loads the frame and writes the function from the place on.
    fn rest(&mut self, site: Site) {
        let body = self.body;
        let place = &body.places[site.place as usize];
        self.load_frame(site.place);
        if matches!(place.kind, PlaceKind::Dead) {
            self.resume_place(site.place, site.stop);
            self.put(&Instruction::Unreachable);
            return;
        }
        let chain = body.chain(place);
        let mut behind = Vec::new();
        for &block in &chain {
            behind.push(self.reenter(&body.blocks[block as usize]));
        }
        self.resume_place(site.place, site.stop);
        let mut next = place.after;
        for (&index, behind) in chain.iter().zip(behind).rev() {
            let block = &body.blocks[index as usize];
            // From the first arm of a condition, the other one is passed over.
            let stop = match block.otherwise {
                Some(otherwise) if next <= otherwise => otherwise,
                _ => block.end,
            };
            self.steps(next..stop);
            self.leave_reentered(block, behind);
            next = block.end + 1;
        }
        self.steps(next..body.steps.len());
    }

    /// Opens what stands for a block that is entered in its middle; the answer is where its end lies.
    fn reenter(&mut self, block: &Block) -> u32 {
        for &local in &block.outer_locals {
            self.put(&Instruction::LocalGet(local));
        }
        let results = self.target.signature(&[], &block.results);
        let (behind, label) = match &block.shape {
            Shape::Block | Shape::If => {
                let depth = self.open(&Instruction::Block(results));
                (depth, depth)
            }
            Shape::Try(catches) => {
                let catches = self.catches(catches);
                let depth = self.open(&Instruction::TryTable(results, catches.into()));
                (depth, depth)
            }
            Shape::Loop => {
                let behind = self.open(&Instruction::Block(results));
                let params = self.target.signature(&[], &block.params);
                (behind, self.open(&Instruction::Block(params)))
            }
        };
        self.labels.push(label);
        behind
    }

    fn leave_reentered(&mut self, block: &Block, behind: u32) {
        if matches!(block.shape, Shape::Loop) {
            self.branch_to(behind);
            self.labels.pop();
            self.close();
            self.begin(block);
            if let Some(place) = block.place {
                self.place(place);
            }
            self.steps(block.open + 1..block.end);
            self.close();
        }
        self.labels.pop();
        self.close();
    }
}

/// The index spaces of a continuation's module: everything is imported from the main one, at its first use.
struct Resume<'s> {
    analysis: &'s Analysis,
    signatures: Signatures,
    imports: ImportSection,
    known: HashMap<String, u32>,
    counts: HashMap<Kind, u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Function,
    Table,
    Memory,
    Global,
    Tag,
}

impl<'s> Resume<'s> {
    fn new(analysis: &'s Analysis) -> Self {
        Self {
            analysis,
            signatures: Signatures::default(),
            imports: ImportSection::new(),
            known: HashMap::new(),
            counts: HashMap::new(),
        }
    }

    fn import(&mut self, kind: Kind, name: String, ty: impl Into<EntityType>) -> u32 {
        if let Some(&index) = self.known.get(&name) {
            return index;
        }
        self.imports.import(names::IMPORT_MODULE, &name, ty.into());
        let count = self.counts.entry(kind).or_default();
        let index = *count;
        *count += 1;
        self.known.insert(name, index);
        index
    }

    fn import_function(&mut self, name: String, ty: &FuncType) -> u32 {
        let ty = self.signatures.of(ty);
        self.import(Kind::Function, name, EntityType::Function(ty))
    }

    fn import_references(&mut self, name: &str, element_type: RefType) -> u32 {
        let ty = TableType {
            element_type,
            table64: false,
            minimum: 0,
            maximum: None,
            shared: false,
        };
        self.import(Kind::Table, name.to_owned(), ty)
    }

    fn finish(self, ty: u32, code: &Function, hints: Vec<BranchHint>) -> Vec<u8> {
        let own = self.counts.get(&Kind::Function).copied().unwrap_or_default();
        let mut functions = FunctionSection::new();
        functions.function(ty);
        let mut exports = ExportSection::new();
        exports.export(names::CONTINUE, ExportKind::Func, own);
        let mut codes = CodeSection::new();
        codes.function(code);
        let mut unlikely = BranchHints::new();
        unlikely.function_hints(own, hints);
        let mut module = Module::new();
        module
            .section(&self.signatures.section())
            .section(&self.imports)
            .section(&functions)
            .section(&exports)
            .section(&unlikely)
            .section(&codes);
        module.finish()
    }
}

impl Reencode for Resume<'_> {
    type Error = Infallible;

    fn function_index(&mut self, function: u32) -> Result<u32, Error<Infallible>> {
        unreachable!("function {function} is called through its switch")
    }

    fn type_index(&mut self, ty: u32) -> Result<u32, Error<Infallible>> {
        let analysis = self.analysis;
        Ok(self.signatures.of(&analysis.outline.types[ty as usize]))
    }

    fn memory_index(&mut self, memory: u32) -> Result<u32, Error<Infallible>> {
        let ty = RoundtripReencoder.memory_type(self.analysis.outline.memories[memory as usize]);
        Ok(self.import(Kind::Memory, names::memory(memory), sound(ty)))
    }

    fn table_index(&mut self, table: u32) -> Result<u32, Error<Infallible>> {
        let ty = RoundtripReencoder.table_type(self.analysis.outline.tables[table as usize]);
        Ok(self.import(Kind::Table, names::table(table), sound(ty)))
    }

    fn global_index(&mut self, global: u32) -> Result<u32, Error<Infallible>> {
        let ty = RoundtripReencoder.global_type(self.analysis.outline.globals[global as usize]);
        Ok(self.import(Kind::Global, names::global(global), sound(ty)))
    }

    fn tag_index(&mut self, tag: u32) -> Result<u32, Error<Infallible>> {
        let analysis = self.analysis;
        let ty = &analysis.outline.types[analysis.outline.tags[tag as usize] as usize];
        let ty = TagType {
            kind: wasm_encoder::TagKind::Exception,
            func_type_idx: self.signatures.of(ty),
        };
        Ok(self.import(Kind::Tag, names::tag(tag), ty))
    }
}

impl Target for Resume<'_> {
    const HAS_SAME_INDICES: bool = false;

    fn signature(&mut self, params: &[ValType], results: &[ValType]) -> BlockType {
        self.signatures.of_block(params, results)
    }

    fn function_signature(&mut self, results: &[ValType]) -> u32 {
        self.signatures.of(&FuncType::new([], results.iter().copied()))
    }

    fn word_memory(&mut self) -> u32 {
        self.import(Kind::Memory, names::WORD.to_owned(), word_type())
    }

    fn frames_memory(&mut self) -> u32 {
        let ty = MemoryType {
            minimum: 1,
            maximum: None,
            memory64: false,
            shared: false,
            page_size_log2: None,
        };
        self.import(Kind::Memory, names::FRAMES.to_owned(), ty)
    }

    fn functions_table(&mut self) -> u32 {
        self.import_references(names::FUNCTIONS, RefType::FUNCREF)
    }

    fn externs_table(&mut self) -> u32 {
        self.import_references(names::EXTERNS, RefType::EXTERNREF)
    }

    fn saver(&mut self, _: Saver) -> u32 {
        unreachable!("a saver of the main module would have to be exported, and so get an entry for the host")
    }

    fn last_finisher(&mut self, _results: &[ValType]) -> u32 {
        unreachable!("continuations finish behind their code")
    }

    fn closer(&mut self) -> u32 {
        unreachable!("continuations finish where their values end")
    }

    fn finisher(&mut self) -> u32 {
        self.import_function(names::FINISH.to_owned(), &finisher_type())
    }

    fn leaver(&mut self) -> u32 {
        self.import_function(names::LEAVE.to_owned(), &site_type())
    }

    fn unwinding(&mut self) -> u32 {
        self.import(Kind::Global, names::UNWINDING.to_owned(), unwinding_type())
    }

    fn rewrite(&mut self, operator: &Operator<'_>, code: &mut Function) -> bool {
        let analysis = self.analysis;
        if let Operator::RefFunc { function_index } = *operator {
            // Taken from the table, so that it is the same reference as in the main module.
            let place = analysis.reference_place(function_index);
            let table = self.functions_table();
            code.instruction(&Instruction::I32Const(place.cast_signed()));
            code.instruction(&Instruction::TableGet(table));
            return true;
        }
        if let Operator::Call { function_index } | Operator::ReturnCall { function_index } = *operator {
            let (switch, place) = analysis.switches.place(function_index);
            let ty = analysis.switches.list[switch as usize].own_type();
            let switch = self.import_function(names::switch(switch), &ty);
            code.instruction(&Instruction::I32Const(place.cast_signed()));
            code.instruction(&match operator {
                Operator::ReturnCall { .. } => Instruction::ReturnCall(switch),
                _ => Instruction::Call(switch),
            });
            return true;
        }
        let Some(helper) = analysis.segments.helper_for(operator) else {
            return false;
        };
        let function = self.import_function(helper.name(), &helper.ty(&analysis.outline));
        code.instruction(&Instruction::Call(function));
        true
    }
}
