//! A guest's memory as host functions see it: every address is checked.

use wasmtime::{Caller, Extern, Result, bail};

use super::{HasWasi, Wasi};

/// An address outside the guest's memory.
#[derive(Debug)]
pub(super) struct Fault;

/// The memory and the world of one guest.
pub(super) struct View<'a> {
    pub bytes: &'a mut [u8],
    pub wasi: &'a mut Wasi,
}

impl<'a> View<'a> {
    pub fn of<T: HasWasi>(caller: &'a mut Caller<'_, T>) -> Result<Self> {
        // A continuation is an instance of its own, without that export.
        let memory = match caller.data_mut().wasi().memory {
            Some(memory) => memory,
            None => match caller.get_export("memory") {
                Some(Extern::Memory(memory)) => memory,
                _ => bail!("the module exports no memory"),
            },
        };
        let (bytes, host) = memory.data_and_store_mut(caller);
        Ok(Self {
            bytes,
            wasi: host.wasi(),
        })
    }

    pub fn range(&mut self, at: u32, length: u32) -> Result<&mut [u8], Fault> {
        let start = at as usize;
        let end = start.checked_add(length as usize).ok_or(Fault)?;
        self.bytes.get_mut(start..end).ok_or(Fault)
    }

    pub fn put(&mut self, at: u32, bytes: &[u8]) -> Result<(), Fault> {
        let length = u32::try_from(bytes.len()).map_err(|_| Fault)?;
        self.range(at, length)?.copy_from_slice(bytes);
        Ok(())
    }

    pub fn put_u32(&mut self, at: u32, value: u32) -> Result<(), Fault> {
        self.put(at, &value.to_le_bytes())
    }

    pub fn put_u64(&mut self, at: u32, value: u64) -> Result<(), Fault> {
        self.put(at, &value.to_le_bytes())
    }

    pub fn get<const N: usize>(&mut self, at: u32) -> Result<[u8; N], Fault> {
        let length = u32::try_from(N).map_err(|_| Fault)?;
        let found = self.range(at, length)?;
        Ok(std::array::from_fn(|index| found[index]))
    }

    pub fn get_u32(&mut self, at: u32) -> Result<u32, Fault> {
        self.get(at).map(u32::from_le_bytes)
    }

    /// The buffers of a scatter or gather list: where each begins and how long it is.
    pub fn vectors(&mut self, list: u32, count: u32) -> Result<Vec<(u32, u32)>, Fault> {
        let vector = |index: u32| {
            let at = index.checked_mul(8).and_then(|offset| list.checked_add(offset));
            let at = at.ok_or(Fault)?;
            Ok((self.get_u32(at)?, self.get_u32(at.checked_add(4).ok_or(Fault)?)?))
        };
        (0..count).map(vector).collect()
    }
}
