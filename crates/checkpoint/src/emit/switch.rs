//! Functions of the main module through which continuations call the others. An engine gives every exported function an
//! entry for the host, which takes longer to compile than many a function; so those that continuations may call are not
//! exported one by one: those of a type share one function, which takes the place among them as its last argument.
//!
//! ```text
//!  switch(arguments, place)
//!    block block ... arguments, br_table place      each block ends with the arguments on the stack
//!    end  call function 0, return
//!    end  call function 1, return
//!    ...
//! ```
//!
//! The host's functions are called so as well: they look at the instance that calls them, which has to be the main one.

use std::collections::{BTreeSet, HashMap};

use wasm_encoder::{BlockType, Function, Instruction as I};
use wasmparser::{FuncType, ValType};

use crate::outline::Outline;

/// Functions that share one switch, at most.
const FUNCTIONS_MAX: usize = 256;

/// The switches of a module.
pub(crate) struct Switches {
    pub list: Vec<Switch>,
    /// Of each function, which switch and which place in it.
    places: HashMap<u32, (u32, u32)>,
}

/// Functions of one type.
pub(crate) struct Switch {
    pub ty: FuncType,
    functions: Vec<u32>,
}

impl Switches {
    /// `called` are the functions that code with places calls by their index.
    pub(crate) fn of(outline: &Outline, called: &BTreeSet<u32>) -> Self {
        let mut list: Vec<Switch> = Vec::new();
        let mut places = HashMap::new();
        let mut open: HashMap<&FuncType, usize> = HashMap::new();
        for &function in called {
            let ty = outline.type_of(function);
            let switch = match open.get(ty) {
                Some(&switch) if list[switch].functions.len() < FUNCTIONS_MAX => switch,
                _ => {
                    list.push(Switch {
                        ty: ty.clone(),
                        functions: Vec::new(),
                    });
                    open.insert(ty, list.len() - 1);
                    list.len() - 1
                }
            };
            let functions = &mut list[switch].functions;
            places.insert(function, (index(switch), index(functions.len())));
            functions.push(function);
        }
        Self { list, places }
    }

    /// The number of the switch through which a function is called, and its place there.
    pub(crate) fn place(&self, function: u32) -> (u32, u32) {
        self.places[&function]
    }
}

impl Switch {
    /// The type of the switch itself.
    pub(crate) fn own_type(&self) -> FuncType {
        let params = self.ty.params().iter().copied().chain([ValType::I32]);
        FuncType::new(params, self.ty.results().iter().copied())
    }

    /// The body; `arguments` is the type of a block that ends with them. In a module with tail calls it leaves no frame
    /// of its own.
    pub(crate) fn code(&self, arguments: BlockType, has_tail_calls: bool) -> Function {
        let mut code = Function::new([]);
        for _ in &self.functions {
            code.instruction(&I::Block(arguments));
        }
        let place = index(self.ty.params().len());
        for argument in 0..place {
            code.instruction(&I::LocalGet(argument));
        }
        let last = index(self.functions.len() - 1);
        code.instruction(&I::LocalGet(place))
            .instruction(&I::BrTable((0..last).collect(), last));
        for &function in &self.functions {
            code.instruction(&I::End);
            if has_tail_calls {
                code.instruction(&I::ReturnCall(function));
            } else {
                code.instruction(&I::Call(function)).instruction(&I::Return);
            }
        }
        code.instruction(&I::End);
        code
    }
}

fn index(place: usize) -> u32 {
    u32::try_from(place).expect("a module has fewer than 2^32 functions")
}
