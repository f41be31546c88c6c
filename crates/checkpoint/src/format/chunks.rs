//! The body in chunks of 1 MiB, so that they can be packed, sent and unpacked side by side.
//!
//! A chunk is its method (0 plain, 1 Zstandard), its stored length and its bytes. Each but the last one
//! unpacks to a whole chunk.

use super::ReadError;
use super::decode::Bytes;

pub(super) const CHUNK_BYTES: usize = 1 << 20;
const PLAIN: u8 = 0;
const ZSTD: u8 = 1;
/// The fastest level; the next ones gain a tenth for twice the time.
const LEVEL: i32 = 1;

pub(super) fn pack(body: &[u8], into: &mut Vec<u8>) {
    for chunk in body.chunks(CHUNK_BYTES) {
        let packed = zstd::bulk::compress(chunk, LEVEL).ok();
        let (method, stored) = match &packed {
            Some(packed) if packed.len() < chunk.len() => (ZSTD, packed.as_slice()),
            _ => (PLAIN, chunk),
        };
        let length = u32::try_from(stored.len()).expect("a chunk is at most 1 MiB");
        into.push(method);
        into.extend_from_slice(&length.to_le_bytes());
        into.extend_from_slice(stored);
    }
}

/// Unpacks a body of `body_bytes`, which the caller has compared with its limit.
pub(super) fn unpack(packed: &[u8], body_bytes: u64) -> Result<Vec<u8>, ReadError> {
    let mut packed = Bytes(packed);
    let body_bytes = usize::try_from(body_bytes).map_err(|_| ReadError::Malformed("its body is too long"))?;
    let mut body = Vec::new();
    while body.len() < body_bytes {
        let wanted = (body_bytes - body.len()).min(CHUNK_BYTES);
        let method = packed.u8()?;
        let length = packed.u32()? as usize;
        let stored = packed.take(length)?;
        match method {
            PLAIN if length == wanted => body.extend_from_slice(stored),
            ZSTD => {
                let chunk = zstd::bulk::decompress(stored, wanted)
                    .map_err(|_| ReadError::Malformed("a chunk cannot be unpacked"))?;
                if chunk.len() != wanted {
                    return Err(ReadError::Malformed("a chunk has the wrong length"));
                }
                body.extend_from_slice(&chunk);
            }
            _ => {
                return Err(ReadError::Malformed(
                    "a chunk has an unknown method or the wrong length",
                ));
            }
        }
    }
    packed.end()?;
    Ok(body)
}
