//! The values a checkpoint holds, and their types.

use wasmparser::{RefType, ValType};

/// The type of a value that can be saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ValueType {
    I32,
    I64,
    F32,
    F64,
    V128,
    /// `funcref`
    Function,
    /// `externref`
    Extern,
}

impl ValueType {
    /// The saved type of a WebAssembly type, `None` for exceptions, which cannot be saved.
    pub(crate) fn of(ty: ValType) -> Option<Self> {
        Some(match ty {
            ValType::I32 => Self::I32,
            ValType::I64 => Self::I64,
            ValType::F32 => Self::F32,
            ValType::F64 => Self::F64,
            ValType::V128 => Self::V128,
            ValType::Ref(RefType::FUNCREF) => Self::Function,
            ValType::Ref(RefType::EXTERNREF) => Self::Extern,
            ValType::Ref(_) => return None,
        })
    }

    /// Whether it takes the least room in a frame of the save memory.
    pub(crate) fn is_narrow(self) -> bool {
        self.saved_bytes() == 4
    }

    /// Bytes of such a value in a frame of the save memory; references are indices of a table there.
    pub(crate) fn saved_bytes(self) -> u32 {
        match self {
            Self::I32 | Self::F32 | Self::Function | Self::Extern => 4,
            Self::I64 | Self::F64 => 8,
            Self::V128 => 16,
        }
    }
}

/// A value, by its bits: a NaN keeps its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    I32(u32),
    I64(u64),
    F32(u32),
    F64(u64),
    V128(u128),
    /// The index of a function in the original module, `None` for the null reference.
    Function(Option<u32>),
    /// A handle that the host gave to the object, `None` for the null reference.
    Extern(Option<u64>),
}

impl Value {
    /// The value's type.
    pub fn ty(self) -> ValueType {
        match self {
            Self::I32(_) => ValueType::I32,
            Self::I64(_) => ValueType::I64,
            Self::F32(_) => ValueType::F32,
            Self::F64(_) => ValueType::F64,
            Self::V128(_) => ValueType::V128,
            Self::Function(_) => ValueType::Function,
            Self::Extern(_) => ValueType::Extern,
        }
    }
}
