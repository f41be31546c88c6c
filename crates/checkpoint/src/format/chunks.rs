//! The body in chunks of 1 MiB, so that they can be packed, sent and unpacked side by side.
//!
//! A chunk is its method (0 plain, 1 Zstandard), its stored length and its bytes. Each but the last one
//! unpacks to a whole chunk.

use super::ReadError;
use super::decode::Bytes;
use crate::pieces::{self, PIECE_BYTES};

pub(super) const CHUNK_BYTES: usize = PIECE_BYTES;
/// What stands before a chunk's bytes: method and length.
const HEAD_BYTES: usize = 5;
const PLAIN: u8 = 0;
const ZSTD: u8 = 1;
/// The fastest level; the next ones gain a tenth for twice the time.
const LEVEL: i32 = 1;

/// Adds the packed chunks of a body.
pub(super) fn pack(body: &[u8], into: &mut Vec<u8>) {
    let packed = pieces::map(body.chunks(CHUNK_BYTES).collect(), |_, chunk: &[u8]| {
        let packed = zstd::bulk::compress(chunk, LEVEL).ok();
        packed.filter(|packed| packed.len() < chunk.len())
    });
    let stored = body.chunks(CHUNK_BYTES).zip(&packed).map(|(chunk, packed)| match packed {
        Some(packed) => (ZSTD, packed.as_slice()),
        None => (PLAIN, chunk),
    });
    into.reserve(stored.clone().map(|(_, stored)| HEAD_BYTES + stored.len()).sum());
    for (method, stored) in stored {
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
    let mut chunks = Vec::new();
    // Nothing is reserved before the chunks are there that fill it.
    for begin in (0..body_bytes).step_by(CHUNK_BYTES) {
        let wanted = (body_bytes - begin).min(CHUNK_BYTES);
        let method = packed.u8()?;
        let length = packed.u32()? as usize;
        let stored = packed.take(length)?;
        match method {
            ZSTD => {}
            PLAIN if length == wanted => {}
            _ => {
                return Err(ReadError::Malformed(
                    "a chunk has an unknown method or the wrong length",
                ));
            }
        }
        chunks.push((method, stored));
    }
    packed.end()?;
    let mut body = vec![0; body_bytes];
    let places = chunks.into_iter().zip(body.chunks_mut(CHUNK_BYTES)).collect();
    let unpacked = pieces::map(places, |_, ((method, stored), place): ((u8, &[u8]), &mut [u8])| {
        if method == PLAIN {
            place.copy_from_slice(stored);
            return Ok(());
        }
        let unpacked = zstd::bulk::decompress_to_buffer(stored, place);
        let bytes = unpacked.map_err(|_| ReadError::Malformed("a chunk cannot be unpacked"))?;
        if bytes != place.len() {
            return Err(ReadError::Malformed("a chunk has the wrong length"));
        }
        Ok(())
    });
    unpacked.into_iter().collect::<Result<(), _>>()?;
    Ok(body)
}
