//! A module without its code: what there is, under which index, and what of it the pass refuses.

use std::collections::BTreeSet;
use std::ops::Range;

use wasmparser::{
    ConstExpr, Element, ElementItems, Export, ExternalKind, FuncToValidate, FuncType, FuncValidator,
    FuncValidatorAllocations, FunctionBody, GlobalType, Import, MemoryType, Operator, Parser, Payload, RefType,
    TableInit, TableType, TypeRef, ValType, ValidPayload, Validator, ValidatorResources,
};

use crate::{Refusal, features, names};

/// Everything of a module but its code.
#[derive(Default)]
pub(crate) struct Outline {
    pub types: Vec<FuncType>,
    /// The type of each function, imported ones first.
    pub functions: Vec<u32>,
    pub imported_functions: u32,
    pub tables: Vec<TableType>,
    pub memories: Vec<MemoryType>,
    pub globals: Vec<GlobalType>,
    /// The type of each tag.
    pub tags: Vec<u32>,
    pub exported_tables: BTreeSet<u32>,
    /// Functions that a reference may lead to: named by element segments, by `ref.func`, or exported.
    pub addressed: BTreeSet<u32>,
    pub start: Option<u32>,
    /// The code of each defined function.
    pub bodies: Vec<Code>,
}

/// Where a function's code lies, and what is needed to validate it.
pub(crate) struct Code {
    pub range: Range<usize>,
    to_validate: FuncToValidate<ValidatorResources>,
}

impl Outline {
    /// Reads a module and validates it but for its code, which [`Body::read`](crate::body::Body::read) does.
    pub(crate) fn read(module: &[u8]) -> Result<Self, Refusal> {
        let mut outline = Self::default();
        let mut validator = Validator::new_with_features(features::TAKEN);
        for payload in Parser::new(0).parse_all(module) {
            let payload = payload.map_err(invalid)?;
            if let ValidPayload::Func(to_validate, body) = validator.payload(&payload).map_err(invalid)? {
                let range = body.range();
                outline.bodies.push(Code { range, to_validate });
            }
            outline.section(payload)?;
        }
        outline.check_state()?;
        Ok(outline)
    }

    fn section(&mut self, payload: Payload<'_>) -> Result<(), Refusal> {
        match payload {
            Payload::TypeSection(types) => {
                for ty in types.into_iter_err_on_gc_types() {
                    self.types.push(ty.map_err(invalid)?);
                }
            }
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    self.import(&import.map_err(invalid)?)?;
                }
            }
            Payload::FunctionSection(functions) => {
                for ty in functions {
                    self.functions.push(ty.map_err(invalid)?);
                }
            }
            Payload::TableSection(tables) => {
                for table in tables {
                    let table = table.map_err(invalid)?;
                    self.tables.push(table.ty);
                    if let TableInit::Expr(init) = table.init {
                        self.address(&init)?;
                    }
                }
            }
            Payload::MemorySection(memories) => {
                for memory in memories {
                    self.memories.push(memory.map_err(invalid)?);
                }
            }
            Payload::TagSection(tags) => {
                for tag in tags {
                    self.tags.push(tag.map_err(invalid)?.func_type_idx);
                }
            }
            other => self.later_section(other)?,
        }
        Ok(())
    }

    fn later_section(&mut self, payload: Payload<'_>) -> Result<(), Refusal> {
        match payload {
            Payload::GlobalSection(globals) => {
                for global in globals {
                    let global = global.map_err(invalid)?;
                    self.globals.push(global.ty);
                    self.address(&global.init_expr)?;
                }
            }
            Payload::ExportSection(exports) => {
                for export in exports {
                    self.export(&export.map_err(invalid)?)?;
                }
            }
            Payload::StartSection { func, .. } => self.start = Some(func),
            Payload::ElementSection(elements) => {
                for element in elements {
                    self.element(element.map_err(invalid)?)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn import(&mut self, import: &Import<'_>) -> Result<(), Refusal> {
        if import.module == names::IMPORT_MODULE {
            return Err(Refusal::ReservedName(import.module.to_owned()));
        }
        match import.ty {
            TypeRef::Func(ty) => {
                self.functions.push(ty);
                self.imported_functions += 1;
            }
            TypeRef::Tag(tag) => self.tags.push(tag.func_type_idx),
            TypeRef::Global(global) if !global.mutable => self.globals.push(global),
            TypeRef::Global(_) => return Err(Refusal::ImportedState("a mutable global")),
            TypeRef::Memory(_) => return Err(Refusal::ImportedState("a memory")),
            TypeRef::Table(_) => return Err(Refusal::ImportedState("a table")),
            TypeRef::FuncExact(_) => return Err(Refusal::TypedReferences),
        }
        Ok(())
    }

    fn export(&mut self, export: &Export<'_>) -> Result<(), Refusal> {
        if export.name.starts_with(names::PREFIX) {
            return Err(Refusal::ReservedName(export.name.to_owned()));
        }
        match export.kind {
            ExternalKind::Func => {
                self.addressed.insert(export.index);
            }
            ExternalKind::Table => {
                self.exported_tables.insert(export.index);
            }
            _ => {}
        }
        Ok(())
    }

    fn element(&mut self, element: Element<'_>) -> Result<(), Refusal> {
        match element.items {
            ElementItems::Functions(functions) => {
                for function in functions {
                    self.addressed.insert(function.map_err(invalid)?);
                }
            }
            ElementItems::Expressions(_, expressions) => {
                for expression in expressions {
                    self.address(&expression.map_err(invalid)?)?;
                }
            }
        }
        Ok(())
    }

    fn address(&mut self, expression: &ConstExpr<'_>) -> Result<(), Refusal> {
        for operator in expression.get_operators_reader() {
            if let Operator::RefFunc { function_index } = operator.map_err(invalid)? {
                self.addressed.insert(function_index);
            }
        }
        Ok(())
    }

    /// Refuses state that cannot be saved.
    fn check_state(&self) -> Result<(), Refusal> {
        let in_globals = self.globals.iter().any(|global| is_exception(global.content_type));
        let in_tables = self
            .tables
            .iter()
            .any(|table| is_exception(ValType::Ref(table.element_type)));
        if in_globals || in_tables {
            return Err(Refusal::StoredException);
        }
        Ok(())
    }

    /// The type of a function.
    pub(crate) fn type_of(&self, function: u32) -> &FuncType {
        &self.types[self.functions[function as usize] as usize]
    }

    /// The place of a defined function among the bodies.
    pub(crate) fn body_index(&self, function: u32) -> usize {
        (function - self.imported_functions) as usize
    }

    /// The index of the function whose body has this place.
    pub(crate) fn function_of_body(&self, body: usize) -> u32 {
        self.imported_functions + u32::try_from(body).expect("a module has fewer than 2^32 functions")
    }
}

impl Code {
    /// The code, read again from the module it came from.
    pub(crate) fn body<'a>(&self, module: &'a [u8]) -> FunctionBody<'a> {
        let bytes = &module[self.range.clone()];
        FunctionBody::new(wasmparser::BinaryReader::new(bytes, self.range.start))
    }

    /// What validates it, operator by operator.
    pub(crate) fn validator(&self, allocations: FuncValidatorAllocations) -> FuncValidator<ValidatorResources> {
        let FuncToValidate {
            resources,
            index,
            ty,
            features,
        } = &self.to_validate;
        let again = FuncToValidate {
            resources: resources.clone(),
            index: *index,
            ty: *ty,
            features: *features,
        };
        again.into_validator(allocations)
    }
}

fn is_exception(ty: ValType) -> bool {
    ty.is_reference_type() && !matches!(ty, ValType::Ref(RefType::FUNCREF | RefType::EXTERNREF))
}

pub(crate) fn invalid(error: wasmparser::Error) -> Refusal {
    Refusal::Invalid(error.to_string())
}
