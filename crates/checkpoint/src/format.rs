//! Checkpoints and deltas as bytes: signed, compressed in chunks, read with limits. `docs/checkpoint-format.md`
//! has every byte.
//!
//! ```text
//!  header (72 bytes) | of a delta: mark of its base (32 bytes) | chunk | chunk | ... | signature (32 bytes)
//!                                                                └── the state, then the pages: 1 MiB a chunk, each plain or compressed
//! ```

mod chunks;
mod decode;
mod encode;
mod header;

use bytes::Bytes;
use ring::hmac;

use crate::pieces::PIECE_BYTES;
use crate::{Checkpoint, Delta, Frame, Identity, Mark, Page, TableImage, Value};
use header::{Header, Kind};

/// The version of checkpoints that is written, and the only one that is read.
pub const FORMAT_VERSION: u32 = 2;
/// The same for deltas.
pub const DELTA_VERSION: u32 = 2;

/// Bytes of the signature at the end: HMAC-SHA256 of the BLAKE3 digest of all that comes before.
pub(crate) const SIGNATURE_BYTES: usize = 32;

/// Signs checkpoints and tells its own from others.
#[derive(Clone)]
pub struct SigningKey(hmac::Key);

impl SigningKey {
    /// The key of 32 secret bytes.
    pub fn new(secret: &[u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// What stands at the end of a checkpoint or delta whose other bytes these are.
    pub fn seal(&self, bytes: &[u8]) -> [u8; SIGNATURE_BYTES] {
        self.sign(digest(bytes).as_bytes())
    }

    /// The HMAC-SHA256 of these bytes.
    pub fn sign(&self, bytes: &[u8]) -> [u8; SIGNATURE_BYTES] {
        let signature = hmac::sign(&self.0, bytes);
        signature.as_ref().try_into().expect("HMAC-SHA256 has 32 bytes")
    }
}

impl SigningKey {
    /// Whether a signature is that of these bytes.
    pub fn verifies(&self, bytes: &[u8], signature: &[u8]) -> bool {
        hmac::verify(&self.0, bytes, signature).is_ok()
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningKey")
    }
}

/// How much a reader takes.
#[derive(Clone, Copy, Debug)]
pub struct ReadLimits {
    /// The most that state and pages take when they are unpacked, in bytes.
    pub body_bytes_max: u64,
}

/// Why bytes are no checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// They do not begin as one.
    #[error("these bytes are no checkpoint: they do not begin with `BWLNCKPT`")]
    NotACheckpoint,
    /// They do not begin as a delta.
    #[error("these bytes are no delta of a checkpoint: they do not begin with `BWLNDLTA`")]
    NotADelta,
    /// They were written by a later version of the platform, or are damaged.
    #[error("the checkpoint has format version `{found}`, this node reads version `{read}`")]
    Version { found: u32, read: u32 },
    /// Another key signed them, or they were changed.
    #[error("the checkpoint's signature does not match: it was changed, or signed with another key")]
    Signature,
    /// More than the reader takes.
    #[error("the checkpoint unpacks to {bytes} bytes, at most {max} are allowed")]
    TooLarge { bytes: u64, max: u64 },
    /// A part is damaged in a way that the signature cannot tell, since the signer wrote it so.
    #[error("the checkpoint is malformed: {0}")]
    Malformed(&'static str),
}

/// What is written of a run.
pub(crate) struct Content<'a> {
    pub memories: Vec<Image<'a>>,
    pub globals: &'a [Value],
    pub tables: &'a [TableImage],
    pub frames: &'a [Frame],
    pub host: &'a [u8],
}

/// What is written of a memory.
pub(crate) struct Image<'a> {
    pub size_pages: u64,
    /// Of a delta: the pages that are all zero now.
    pub zeroed: Option<&'a [u64]>,
    /// Index and content.
    pub pages: Vec<(u64, &'a [u8])>,
}

impl<'a> Image<'a> {
    fn new(size_pages: u64, zeroed: Option<&'a [u64]>, pages: &'a [Page]) -> Self {
        let pages = pages.iter().map(|page| (page.index, &page.bytes[..])).collect();
        Self {
            size_pages,
            zeroed,
            pages,
        }
    }
}

impl<'a> Content<'a> {
    fn of(checkpoint: &'a Checkpoint) -> Self {
        let memories = checkpoint.memories.iter();
        Self {
            memories: memories
                .map(|memory| Image::new(memory.size_pages, None, &memory.pages))
                .collect(),
            globals: &checkpoint.globals,
            tables: &checkpoint.tables,
            frames: &checkpoint.frames,
            host: &checkpoint.host,
        }
    }
}

impl Checkpoint {
    /// The checkpoint as signed bytes.
    pub fn write(&self, key: &SigningKey) -> Bytes {
        write(self.identity, &Content::of(self), key)
    }

    /// Reads signed bytes, which the pages may share. The signature is judged before anything is unpacked.
    pub fn read(bytes: &Bytes, key: &SigningKey, limits: ReadLimits) -> Result<Self, ReadError> {
        let (header, packed) = open(Kind::Checkpoint, bytes, key, limits)?;
        let unpacked = chunks::unpack(packed, bytes, (header.state_bytes, header.pages))?;
        decode::checkpoint(&unpacked, header.identity)
    }
}

impl Delta {
    /// The delta as signed bytes.
    pub fn write(&self, key: &SigningKey) -> Bytes {
        let memories = self.memories.iter();
        let content = Content {
            memories: memories
                .map(|memory| Image::new(memory.size_pages, Some(&memory.zeroed), &memory.pages))
                .collect(),
            globals: &self.globals,
            tables: &self.tables,
            frames: &self.frames,
            host: &self.host,
        };
        seal(Kind::Delta, self.identity, Some(self.base), &content, key)
    }

    /// Reads signed bytes, which the pages may share. The signature is judged before anything is unpacked.
    pub fn read(bytes: &Bytes, key: &SigningKey, limits: ReadLimits) -> Result<Self, ReadError> {
        let (header, rest) = open(Kind::Delta, bytes, key, limits)?;
        let (base, packed) = rest
            .split_first_chunk()
            .ok_or(ReadError::Malformed("it ends too early"))?;
        let unpacked = chunks::unpack(packed, bytes, (header.state_bytes, header.pages))?;
        decode::delta(&unpacked, header.identity, Mark(*base))
    }
}

/// Writes a checkpoint whose memories are elsewhere.
pub(crate) fn write(identity: Identity, content: &Content<'_>, key: &SigningKey) -> Bytes {
    seal(Kind::Checkpoint, identity, None, content, key)
}

fn seal(kind: Kind, identity: Identity, base: Option<Mark>, content: &Content<'_>, key: &SigningKey) -> Bytes {
    let state = encode::state(content);
    let pages = content.memories.iter().flat_map(|image| &image.pages);
    let pages: Vec<&[u8]> = pages.map(|(_, content)| *content).collect();
    let header = Header {
        identity,
        state_bytes: state.len() as u64,
        pages: pages.len() as u64,
    };
    let mut bytes = header.encode(kind);
    if let Some(Mark(base)) = base {
        bytes.extend_from_slice(&base);
    }
    chunks::pack(&state, &pages, &mut bytes);
    bytes.extend_from_slice(&key.seal(&bytes));
    bytes.into()
}

/// What is signed of so many bytes. Over a large memory an HMAC alone would take four times as long.
fn digest(bytes: &[u8]) -> blake3::Hash {
    match bytes.len() {
        0..PIECE_BYTES => blake3::hash(bytes),
        _ => blake3::Hasher::new().update_rayon(bytes).finalize(),
    }
}

/// Judges kind, version, signature and size; the header and what lies between it and the signature come back.
fn open<'b>(
    kind: Kind,
    bytes: &'b [u8],
    key: &SigningKey,
    limits: ReadLimits,
) -> Result<(Header, &'b [u8]), ReadError> {
    kind.check(bytes)?;
    let end = bytes.len().checked_sub(SIGNATURE_BYTES).ok_or(ReadError::Signature)?;
    let (signed, signature) = bytes.split_at(end);
    if !key.verifies(digest(signed).as_bytes(), signature) {
        return Err(ReadError::Signature);
    }
    let (header, rest) = Header::decode(signed)?;
    let page_bytes = header.pages.saturating_mul(Page::BYTES as u64);
    let bytes = header.state_bytes.saturating_add(page_bytes);
    if bytes > limits.body_bytes_max {
        return Err(ReadError::TooLarge {
            bytes,
            max: limits.body_bytes_max,
        });
    }
    Ok((header, rest))
}

#[cfg(test)]
mod tests;
