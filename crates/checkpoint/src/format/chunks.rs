//! State and pages in chunks of 1 MiB, so that they can be packed, sent and unpacked side by side.
//!
//! A chunk is its method (0 plain, 1 Zstandard), its stored length and its bytes. Those of the state come first; each
//! but the last one unpacks to a whole chunk, and so do those of the pages. A page lies in one chunk, so that a plain
//! one is read without a copy.

use bytes::Bytes as Shared;

use super::decode::Bytes;
use super::{ReadError, SIGNATURE_BYTES};
use crate::Page;
use crate::pieces::{self, PIECE_BYTES, PIECE_PAGES};

pub(super) const CHUNK_BYTES: usize = PIECE_BYTES;
/// What stands before a chunk's bytes: method and length.
const HEAD_BYTES: usize = 5;
const PLAIN: u8 = 0;
const ZSTD: u8 = 1;
/// The fastest level; the next ones gain a tenth for twice the time.
const LEVEL: i32 = 1;
/// Of a chunk of pages one in so many is packed first; if that gains nothing, the others stay as they are.
const SAMPLED: usize = 16;

/// Adds the packed chunks of state and pages, and has room for the signature after it.
pub(super) fn pack(state: &[u8], pages: &[&[u8]], into: &mut Vec<u8>) {
    let state: Vec<&[u8]> = state.chunks(CHUNK_BYTES).collect();
    let chunks = state.chunks(1).chain(pages.chunks(PIECE_PAGES));
    let packed = pieces::map(chunks.collect(), |_, parts: &[&[u8]]| (parts, packed(parts)));
    let stored_bytes = |(parts, packed): &(&[&[u8]], Option<Vec<u8>>)| match packed {
        Some(packed) => packed.len(),
        None => parts.iter().map(|part| part.len()).sum(),
    };
    let chunks = packed.iter().map(|chunk| HEAD_BYTES + stored_bytes(chunk));
    into.reserve(chunks.sum::<usize>() + SIGNATURE_BYTES);
    for chunk in &packed {
        let length = u32::try_from(stored_bytes(chunk)).expect("a chunk is at most 1 MiB");
        into.push(if chunk.1.is_some() { ZSTD } else { PLAIN });
        into.extend_from_slice(&length.to_le_bytes());
        match chunk {
            (_, Some(packed)) => into.extend_from_slice(packed),
            (parts, None) => parts.iter().for_each(|part| into.extend_from_slice(part)),
        }
    }
}

/// A chunk packed, if that is shorter.
fn packed(parts: &[&[u8]]) -> Option<Vec<u8>> {
    let shorter = |plain: &[u8]| {
        let packed = zstd::bulk::compress(plain, LEVEL).ok();
        packed.filter(|packed| packed.len() < plain.len())
    };
    if let [part] = parts {
        return shorter(part);
    }
    let sample: Vec<&[u8]> = parts.iter().copied().step_by(SAMPLED).collect();
    shorter(&sample.concat())?;
    shorter(&parts.concat())
}

/// What has been read of the chunks: the state, and the chunks of pages.
pub(super) struct Unpacked {
    pub state: Vec<u8>,
    pages: Vec<Shared>,
    count: usize,
}

impl Unpacked {
    /// The pages, in their order.
    pub(super) fn pages(&self) -> impl Iterator<Item = Shared> {
        (0..self.count).map(|page| {
            let begin = page % PIECE_PAGES * Page::BYTES;
            self.pages[page / PIECE_PAGES].slice(begin..begin + Page::BYTES)
        })
    }
}

/// Unpacks the chunks, a part of `whole`, of a state of so many bytes and so many pages, which the caller has compared with its limit.
pub(super) fn unpack(packed: &[u8], whole: &Shared, (state_bytes, pages): (u64, u64)) -> Result<Unpacked, ReadError> {
    let too_long = |_| ReadError::Malformed("its body is too long");
    let state_bytes = usize::try_from(state_bytes).map_err(too_long)?;
    let count = usize::try_from(pages).map_err(too_long)?;
    let mut packed = Bytes(packed);
    // Nothing is reserved for chunks before they are there.
    let of_state = stored(&mut packed, state_bytes)?;
    let of_pages = stored(&mut packed, count * Page::BYTES)?;
    packed.end()?;
    let state = pieces::map(of_state, |_, chunk| chunk.unpacked(whole));
    let pages = pieces::map(of_pages, |_, chunk| chunk.unpacked(whole));
    Ok(Unpacked {
        state: state.into_iter().collect::<Result<Vec<_>, _>>()?.concat(),
        pages: pages.into_iter().collect::<Result<_, _>>()?,
        count,
    })
}

/// A chunk as it is stored.
struct Chunk<'a> {
    method: u8,
    stored: &'a [u8],
    /// What it unpacks to.
    bytes: usize,
}

/// Reads the chunks of so many bytes.
fn stored<'a>(packed: &mut Bytes<'a>, bytes: usize) -> Result<Vec<Chunk<'a>>, ReadError> {
    let mut chunks = Vec::new();
    for begin in (0..bytes).step_by(CHUNK_BYTES) {
        let method = packed.u8()?;
        let length = packed.u32()? as usize;
        chunks.push(Chunk {
            method,
            stored: packed.take(length)?,
            bytes: (bytes - begin).min(CHUNK_BYTES),
        });
    }
    Ok(chunks)
}

impl Chunk<'_> {
    fn unpacked(&self, whole: &Shared) -> Result<Shared, ReadError> {
        match self.method {
            PLAIN if self.stored.len() == self.bytes => Ok(whole.slice_ref(self.stored)),
            ZSTD => {
                let chunk = zstd::bulk::decompress(self.stored, self.bytes)
                    .map_err(|_| ReadError::Malformed("a chunk cannot be unpacked"))?;
                if chunk.len() != self.bytes {
                    return Err(ReadError::Malformed("a chunk has the wrong length"));
                }
                Ok(chunk.into())
            }
            _ => Err(ReadError::Malformed(
                "a chunk has an unknown method or the wrong length",
            )),
        }
    }
}
