//! References of an instance and the values that stand for them in a checkpoint.

use std::collections::HashMap;

use wasmtime::{AsContextMut, ExternRef, Func, Ref, Table, Val};

use super::CaptureError;
use crate::Value;

/// What every external reference of a guest wraps that shall be checkpointed: a number by which the host finds
/// the object again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handle(pub u64);

/// The functions of an instance by their identity in its store.
pub(super) struct Functions(HashMap<usize, u32>);

impl Functions {
    /// `references` are the module's functions that lie at the beginning of `table`.
    pub(super) fn of(mut store: impl AsContextMut, table: Table, references: &[u32]) -> Self {
        let mut known = HashMap::new();
        for (place, &function) in (0..).zip(references) {
            if let Some(Ref::Func(Some(reference))) = table.get(&mut store, place) {
                known.insert(identity(reference, &mut store), function);
            }
        }
        Self(known)
    }

    /// What stands for a reference.
    pub(super) fn save(&self, mut store: impl AsContextMut, reference: Ref) -> Result<Value, CaptureError> {
        match reference {
            Ref::Func(None) => Ok(Value::Function(None)),
            Ref::Func(Some(function)) => {
                let index = self.0.get(&identity(function, &mut store)).copied();
                index
                    .map(|index| Value::Function(Some(index)))
                    .ok_or(CaptureError::ForeignFunction)
            }
            Ref::Extern(None) => Ok(Value::Extern(None)),
            Ref::Extern(Some(object)) => {
                let context = store.as_context_mut();
                let data = object.data(&context).ok().flatten();
                let handle = data.and_then(|data| data.downcast_ref::<Handle>());
                handle
                    .map(|handle| Value::Extern(Some(handle.0)))
                    .ok_or(CaptureError::ForeignObject)
            }
            _ => Err(CaptureError::ForeignObject),
        }
    }

    /// What stands for a value of a global.
    pub(super) fn save_value(&self, store: impl AsContextMut, value: Val) -> Result<Value, CaptureError> {
        Ok(match value {
            Val::I32(bits) => Value::I32(bits.cast_unsigned()),
            Val::I64(bits) => Value::I64(bits.cast_unsigned()),
            Val::F32(bits) => Value::F32(bits),
            Val::F64(bits) => Value::F64(bits),
            Val::V128(bits) => Value::V128(bits.as_u128()),
            Val::FuncRef(function) => self.save(store, Ref::Func(function))?,
            Val::ExternRef(object) => self.save(store, Ref::Extern(object))?,
            _ => return Err(CaptureError::ForeignObject),
        })
    }
}

/// Equal for equal functions of a store, and for these only.
fn identity(function: Func, store: impl AsContextMut) -> usize {
    function.to_raw(store).addr()
}

/// Makes references out of what stands for them.
pub(super) struct Remade<'r> {
    pub table: Table,
    pub references: &'r [u32],
}

impl Remade<'_> {
    /// The reference that a value stands for; `None` if it is a number.
    pub(super) fn reference(&self, mut store: impl AsContextMut, value: Value) -> wasmtime::Result<Option<Ref>> {
        Ok(match value {
            Value::Function(None) => Some(Ref::Func(None)),
            Value::Function(Some(function)) => {
                let place = self
                    .references
                    .binary_search(&function)
                    .expect("the checkpoint was checked");
                self.table.get(&mut store, place as u64)
            }
            Value::Extern(None) => Some(Ref::Extern(None)),
            Value::Extern(Some(handle)) => Some(Ref::Extern(Some(ExternRef::new(&mut store, Handle(handle))?))),
            _ => None,
        })
    }

    /// The value of a global.
    pub(super) fn value(&self, store: impl AsContextMut, value: Value) -> wasmtime::Result<Val> {
        Ok(match value {
            Value::I32(bits) => Val::I32(bits.cast_signed()),
            Value::I64(bits) => Val::I64(bits.cast_signed()),
            Value::F32(bits) => Val::F32(bits),
            Value::F64(bits) => Val::F64(bits),
            Value::V128(bits) => Val::V128(bits.into()),
            reference => match self.reference(store, reference)? {
                Some(Ref::Extern(object)) => Val::ExternRef(object),
                Some(Ref::Func(function)) => Val::FuncRef(function),
                _ => Val::FuncRef(None),
            },
        })
    }
}
