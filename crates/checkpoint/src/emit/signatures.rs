//! The types of a module that is written: each signature once, in the order of their first use.

use std::collections::HashMap;

use wasm_encoder::{BlockType, TypeSection};
use wasmparser::{FuncType, ValType};

use super::encoded;

/// Function types by index.
#[derive(Default)]
pub(super) struct Signatures {
    list: Vec<FuncType>,
    index: HashMap<FuncType, u32>,
}

impl Signatures {
    /// Begins with the types of a module, so that their indices stay.
    pub(super) fn of_module(types: &[FuncType]) -> Self {
        let mut signatures = Self::default();
        for ty in types {
            signatures.push(ty.clone());
        }
        signatures
    }

    fn push(&mut self, ty: FuncType) -> u32 {
        let index = u32::try_from(self.list.len()).expect("a module has fewer than 2^32 types");
        self.index.entry(ty.clone()).or_insert(index);
        self.list.push(ty);
        index
    }

    /// The index of a function type.
    pub(super) fn of(&mut self, ty: &FuncType) -> u32 {
        match self.index.get(ty) {
            Some(&index) => index,
            None => self.push(ty.clone()),
        }
    }

    /// The type of a block.
    pub(super) fn of_block(&mut self, params: &[ValType], results: &[ValType]) -> BlockType {
        match (params, results) {
            ([], []) => BlockType::Empty,
            ([], [result]) => BlockType::Result(encoded(*result)),
            _ => BlockType::FunctionType(self.of(&FuncType::new(params.iter().copied(), results.iter().copied()))),
        }
    }

    pub(super) fn section(&self) -> TypeSection {
        let mut section = TypeSection::new();
        for ty in &self.list {
            let params = ty.params().iter().map(|&ty| encoded(ty));
            let results = ty.results().iter().map(|&ty| encoded(ty));
            section
                .ty()
                .function(params.collect::<Vec<_>>(), results.collect::<Vec<_>>());
        }
        section
    }
}
