//! The imports by which a reactor streams its answer.

use bytes::Bytes;
use wasmtime::{Caller, Linker, Result};

use crate::accept::{SDK_BEGIN, SDK_MODULE, SDK_WRITE};
use crate::failure::ProtocolViolation;
use crate::guest::Guest;
use crate::outlet;

/// What is read of a content type; the sink takes none that is longer.
const CONTENT_TYPE_BYTES_MAX: u32 = 1024;

/// Defines the imports.
pub(crate) fn define(linker: &mut Linker<Guest>) -> Result<()> {
    linker.func_wrap(SDK_MODULE, SDK_BEGIN, begin)?;
    linker.func_wrap_async(SDK_MODULE, SDK_WRITE, |caller, parameters| {
        Box::new(write(caller, parameters))
    })?;
    Ok(())
}

/// Says of which type the answer is that the guest is about to write.
fn begin(mut caller: Caller<'_, Guest>, address: u32, bytes: u32) -> Result<()> {
    let bytes = bytes.min(CONTENT_TYPE_BYTES_MAX);
    let content_type = String::from_utf8_lossy(range(&mut caller, address, bytes)?).into_owned();
    caller.data_mut().outlet.begin(&content_type);
    Ok(())
}

/// Takes bytes of the answer; returns when the caller keeps up.
async fn write(mut caller: Caller<'_, Guest>, (mut address, mut left): (u32, u32)) -> Result<()> {
    while left > 0 {
        let piece = Bytes::copy_from_slice(outlet::piece(range(&mut caller, address, left)?));
        // No longer than what is left, and that has 32 bits.
        let bytes = piece.len() as u32;
        (address, left) = (address.wrapping_add(bytes), left - bytes);
        caller.data_mut().outlet.write(piece).await?;
    }
    Ok(())
}

fn range<'a>(caller: &'a mut Caller<'_, Guest>, address: u32, bytes: u32) -> Result<&'a [u8]> {
    let memory = caller.data().memory;
    let memory = memory.ok_or(ProtocolViolation("the guest answers before it was set up"))?;
    let start = address as usize;
    let end = start.checked_add(bytes as usize);
    let found = end.and_then(|end| memory.data(&*caller).get(start..end));
    found.ok_or_else(|| ProtocolViolation("what the guest writes lies outside its memory").into())
}
