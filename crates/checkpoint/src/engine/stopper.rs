//! Asks a running guest to stop, from any thread.
//!
//! The word lies in shared memory, and a host writes to that only through unsafe code. So a second guest does
//! it: a module of one function that has the same memory and a store of its own.

use std::sync::Arc;

use parking_lot::Mutex;
use wasm_encoder::{
    CodeSection, ExportKind, ExportSection, Function, FunctionSection, ImportSection, Instruction, MemArg, TypeSection,
    ValType,
};
use wasmtime::{Engine, Instance, Module, SharedMemory, Store, TypedFunc};

use crate::emit::word_type;
use crate::frame::{WORD_REQUESTED, WORD_UNWINDING};
use crate::names;

const SET: &str = "set";
const PUT: &str = "put";

/// Stops one guest. Clones stop the same one.
#[derive(Clone)]
pub struct Stopper(Arc<Mutex<Setter>>);

struct Setter {
    store: Store<()>,
    /// Asks for a stop if nothing was asked; the answer is what the word was.
    set: TypedFunc<(), u32>,
    put: TypedFunc<u32, ()>,
    /// Somebody asked after the guest had stopped.
    asked_again: bool,
}

impl Stopper {
    pub(super) fn new(engine: &Engine, module: &Module, word: &SharedMemory) -> wasmtime::Result<Self> {
        let mut store = Store::new(engine, ());
        let instance = Instance::new(&mut store, module, &[word.clone().into()])?;
        let set = instance.get_typed_func(&mut store, SET)?;
        let put = instance.get_typed_func(&mut store, PUT)?;
        Ok(Self(Arc::new(Mutex::new(Setter {
            store,
            set,
            put,
            asked_again: false,
        }))))
    }

    /// Asks the guest to stop at its next place. It may finish before it comes to one.
    pub fn request(&self) -> wasmtime::Result<()> {
        let setter = &mut *self.0.lock();
        let was = setter.set.call(&mut setter.store, ())?;
        setter.asked_again |= was == WORD_UNWINDING;
        Ok(())
    }

    /// Lets the guest run again, to its next place if somebody asked for another stop meanwhile.
    pub(super) fn clear(&self) -> wasmtime::Result<()> {
        let setter = &mut *self.0.lock();
        let word = match std::mem::take(&mut setter.asked_again) {
            true => WORD_REQUESTED,
            false => 0,
        };
        setter.put.call(&mut setter.store, word)
    }
}

/// Compiles the module that sets the word, if nobody has.
pub(super) fn compile(engine: &Engine) -> wasmtime::Result<Module> {
    let mut types = TypeSection::new();
    types.ty().function([], [ValType::I32]);
    types.ty().function([ValType::I32], []);
    let mut imports = ImportSection::new();
    imports.import(names::IMPORT_MODULE, names::WORD, word_type());
    let mut functions = FunctionSection::new();
    functions.function(0).function(1);
    let mut exports = ExportSection::new();
    exports.export(SET, ExportKind::Func, 0);
    exports.export(PUT, ExportKind::Func, 1);
    let at = MemArg {
        offset: 0,
        align: 2,
        memory_index: 0,
    };
    let mut set = Function::new([]);
    set.instruction(&Instruction::I32Const(0))
        .instruction(&Instruction::I32Const(0))
        .instruction(&Instruction::I32Const(WORD_REQUESTED.cast_signed()))
        .instruction(&Instruction::I32AtomicRmwCmpxchg(at))
        .instruction(&Instruction::End);
    let mut put = Function::new([]);
    put.instruction(&Instruction::I32Const(0))
        .instruction(&Instruction::LocalGet(0))
        .instruction(&Instruction::I32AtomicStore(at))
        .instruction(&Instruction::End);
    let mut code = CodeSection::new();
    code.function(&set).function(&put);
    let mut module = wasm_encoder::Module::new();
    module
        .section(&types)
        .section(&imports)
        .section(&functions)
        .section(&exports)
        .section(&code);
    Module::from_binary(engine, &module.finish())
}
