//! Standard output of a command whose answer is taken while it is written.

use bytes::Bytes;
use wasmtime::{Caller, Linker, Result};

use super::{MODULE, STDOUT, VECTORS_MAX, View, code, errno, fd_write};
use crate::guest::Guest;
use crate::outlet;

/// Replaces what writes; the linker has all of preview 1 already.
pub(crate) fn redefine(linker: &mut Linker<Guest>) -> Result<()> {
    linker.allow_shadowing(true);
    linker.func_wrap_async(MODULE, "fd_write", |caller, parameters| {
        Box::new(fd_write_streaming(caller, parameters))
    })?;
    Ok(())
}

/// Writes to the outlet piece by piece, and waits while the reader is behind.
async fn fd_write_streaming(
    mut caller: Caller<'_, Guest>,
    (descriptor, list, count, written_at): (i32, u32, u32, u32),
) -> Result<i32> {
    if descriptor != STDOUT {
        return fd_write(caller, descriptor, list, count, written_at);
    }
    if count > VECTORS_MAX {
        return Ok(errno::INVAL);
    }
    let mut total = 0_u32;
    for index in 0..count {
        let Ok((mut at, mut left)) = View::of(&mut caller)?.vector(list, index) else {
            return Ok(errno::FAULT);
        };
        while left > 0 {
            let piece = match View::of(&mut caller)?.range(at, left) {
                Ok(bytes) => Bytes::copy_from_slice(outlet::piece(bytes)),
                Err(_) => return Ok(errno::FAULT),
            };
            // No longer than what is left, and that has 32 bits.
            let bytes = piece.len() as u32;
            (at, left) = (at.wrapping_add(bytes), left - bytes);
            total = total.wrapping_add(bytes);
            caller.data_mut().outlet.write(piece).await?;
        }
    }
    let mut view = View::of(&mut caller)?;
    Ok(code(view.put_u32(written_at, total)))
}
