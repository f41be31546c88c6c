//! The bytes of an archive: written frame by frame, read by a parser without input or output.

use std::io;

use bowline_foundation::digest::{Digest, Hasher};
use bytes::{BufMut, BytesMut};

use super::Summary;
use crate::limits::{BLOB_BYTES_MAX, KEY_BYTES_MAX, VALUE_BYTES_MAX};

const MAGIC: &[u8; 16] = b"bowline-archive\n";
/// The newest format that this build reads: with blobs in pieces.
const FORMAT: u32 = 3;
/// With cold parts, each blob in one piece.
const FORMAT_COLD: u32 = 2;
/// Without cold parts.
const FORMAT_PLAIN: u32 = 1;
const HEADER_BYTES: usize = 20;
const BLOB: u8 = b'B';
const COLD: u8 = b'C';
const BLOB_HEAD_BYTES: usize = 1 + 32 + 4;
const PIECE: u8 = b'P';
const PIECE_HEAD_BYTES: usize = 1 + 32 + 1 + 4;
/// Bits of a piece's flags.
const IS_LAST: u8 = 1;
const IS_COLD: u8 = 2;
/// Most bytes of a piece.
pub(super) const PIECE_BYTES_MAX: usize = 8 * 1024 * 1024;
const RECORD: u8 = b'R';
const RECORD_HEAD_BYTES: usize = 1 + 4 + 4;
const END: u8 = b'E';
const COUNTS_BYTES: usize = 1 + 8 + 8;
const TRAILER_BYTES: usize = COUNTS_BYTES + 32;

/// Why an archive cannot be used. Places are offsets in bytes.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    #[error("not a bowline archive")]
    NotAnArchive,
    #[error("archive has format `{found}`, this build knows up to `{FORMAT}`: use a newer build")]
    NewerFormat { found: u32 },
    #[error("archive is cut off after `{bytes}` bytes")]
    Truncated { bytes: u64 },
    #[error("archive is damaged at byte `{at}`: a frame of unknown kind `{kind}`")]
    UnknownFrame { kind: u8, at: u64 },
    #[error("archive is damaged at byte `{at}`: `{actual}` bytes of a {what}, at most `{max}`")]
    TooLarge {
        what: &'static str,
        actual: usize,
        max: usize,
        at: u64,
    },
    #[error("archive is damaged at byte `{at}`: the frame is out of order")]
    OutOfOrder { at: u64 },
    #[error("archive is damaged: the blob `{expected}` has the digest `{actual}`")]
    DamagedBlob { expected: Digest, actual: Digest },
    #[error("archive is damaged: it holds `{found}` {what}, its trailer says `{told}`")]
    WrongCount { what: &'static str, found: u64, told: u64 },
    #[error("archive is damaged: its digest is `{actual}`, its trailer says otherwise")]
    WrongDigest { actual: Digest },
    #[error("archive has more bytes after its end at `{at}`")]
    TrailingBytes { at: u64 },
    #[error("archive cannot be read")]
    Io(#[from] io::Error),
}

/// One part of an archive.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame<'a> {
    Blob(Digest, &'a [u8]),
    Cold(Digest, &'a [u8]),
    Piece(Piece, &'a [u8]),
    Record(&'a [u8], &'a [u8]),
}

/// A part of a blob that is too large for one frame; its parts follow one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Of the whole blob.
    pub digest: Digest,
    pub is_cold: bool,
    pub is_last: bool,
}

/// What an archive has in it, which its format follows from.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Content {
    pub has_cold: bool,
    pub has_pieces: bool,
}

/// What has been written or read so far.
#[derive(Debug)]
struct Tally {
    blobs: u64,
    records: u64,
    bytes: u64,
    chain: Digest,
}

impl Tally {
    fn new(format: u32) -> Self {
        Self {
            blobs: 0,
            records: 0,
            bytes: 0,
            chain: Digest::of(&header(format)),
        }
    }

    /// Takes a frame's bytes into account.
    fn add(&mut self, frame: &Frame<'_>, encoded: &[u8]) {
        match frame {
            Frame::Blob(_, bytes) | Frame::Cold(_, bytes) => {
                self.blobs += 1;
                self.bytes += bytes.len() as u64;
            }
            Frame::Piece(piece, bytes) => {
                self.blobs += u64::from(piece.is_last);
                self.bytes += bytes.len() as u64;
            }
            Frame::Record(key, value) => {
                self.records += 1;
                self.bytes += (key.len() + value.len()) as u64;
            }
        }
        self.link(encoded);
    }

    fn link(&mut self, encoded: &[u8]) {
        let mut both = [0; 64];
        both[..32].copy_from_slice(self.chain.as_bytes());
        both[32..].copy_from_slice(Digest::of(encoded).as_bytes());
        self.chain = Digest::of(&both);
    }

    fn summary(&self) -> Summary {
        Summary {
            blobs: self.blobs,
            records: self.records,
            bytes: self.bytes,
            digest: self.chain,
        }
    }
}

fn header(format: u32) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..16].copy_from_slice(MAGIC);
    bytes[16..].copy_from_slice(&format.to_be_bytes());
    bytes
}

/// Makes an archive's bytes: [`Encoder::header`], any number of [`Encoder::frame`], [`Encoder::trailer`].
pub(super) struct Encoder(Tally, u32);

impl Encoder {
    pub fn new(content: Content) -> Self {
        let format = match content {
            Content { has_pieces: true, .. } => FORMAT,
            Content { has_cold: true, .. } => FORMAT_COLD,
            _ => FORMAT_PLAIN,
        };
        Self(Tally::new(format), format)
    }

    pub fn header(&self) -> [u8; HEADER_BYTES] {
        header(self.1)
    }

    /// Appends a frame to `out`.
    pub fn frame(&mut self, frame: &Frame<'_>, out: &mut BytesMut) {
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("the store's limits are far below 4 GiB");
        let begin = out.len();
        match frame {
            Frame::Blob(digest, bytes) | Frame::Cold(digest, bytes) => {
                let is_cold = matches!(frame, Frame::Cold(..));
                out.put_u8(if is_cold { COLD } else { BLOB });
                out.put_slice(digest.as_bytes());
                out.put_u32(length(bytes));
                out.put_slice(bytes);
            }
            Frame::Piece(piece, bytes) => {
                out.put_u8(PIECE);
                out.put_slice(piece.digest.as_bytes());
                out.put_u8(u8::from(piece.is_last) * IS_LAST + u8::from(piece.is_cold) * IS_COLD);
                out.put_u32(length(bytes));
                out.put_slice(bytes);
            }
            Frame::Record(key, value) => {
                out.put_u8(RECORD);
                out.put_u32(length(key));
                out.put_u32(length(value));
                out.put_slice(key);
                out.put_slice(value);
            }
        }
        self.0.add(frame, &out[begin..]);
    }

    pub fn summary(&self) -> Summary {
        self.0.summary()
    }

    pub fn trailer(mut self) -> (BytesMut, Summary) {
        let mut out = BytesMut::with_capacity(TRAILER_BYTES);
        out.put_u8(END);
        out.put_u64(self.0.blobs);
        out.put_u64(self.0.records);
        self.0.link(&out);
        out.put_slice(self.0.chain.as_bytes());
        (out, self.0.summary())
    }
}

/// What comes next in an archive's bytes.
#[derive(Debug)]
pub(super) enum Step<'a> {
    /// The parser needs to see so many bytes in all.
    Need(usize),
    /// The header, of so many bytes.
    Header(usize),
    /// A frame, of so many bytes.
    Frame(Frame<'a>, usize),
    /// The trailer, of so many bytes; nothing may follow.
    End(Summary, usize),
}

/// Reads an archive's bytes: each step looks at what is left and says how much of it is done.
pub(super) struct Decoder {
    tally: Tally,
    format: u32,
    /// The offset of the next byte.
    at: u64,
    /// The key or digest before, so that order and uniqueness show.
    last: Option<Last>,
    /// A blob of which more pieces must follow.
    open: Option<(Piece, Hasher)>,
}

#[derive(PartialEq, PartialOrd)]
enum Last {
    Blob(Digest),
    Cold(Digest),
    Record(Vec<u8>),
}

impl Decoder {
    pub fn new() -> Self {
        Self {
            tally: Tally::new(FORMAT_PLAIN),
            format: FORMAT_PLAIN,
            at: 0,
            last: None,
            open: None,
        }
    }

    /// How many bytes have been stepped over.
    pub fn at(&self) -> u64 {
        self.at
    }

    pub fn summary(&self) -> Summary {
        self.tally.summary()
    }

    /// Parses what `bytes` begins with, the part after all earlier steps.
    pub fn step<'a>(&mut self, bytes: &'a [u8]) -> Result<Step<'a>, ArchiveError> {
        let step = match bytes.first() {
            _ if self.at == 0 => self.read_header(bytes)?,
            None => Step::Need(1),
            Some(&BLOB) => self.read_blob(bytes, Frame::Blob)?,
            Some(&COLD) if self.format >= FORMAT_COLD => self.read_blob(bytes, Frame::Cold)?,
            Some(&PIECE) if self.format >= FORMAT => self.read_piece(bytes)?,
            Some(&RECORD) => self.read_record(bytes)?,
            Some(&END) => self.read_trailer(bytes)?,
            Some(&kind) => return Err(ArchiveError::UnknownFrame { kind, at: self.at }),
        };
        match &step {
            Step::Need(_) => {}
            Step::Frame(frame, length) => {
                self.check_order(frame)?;
                self.tally.add(frame, &bytes[..*length]);
                self.at += *length as u64;
            }
            Step::Header(length) | Step::End(_, length) => self.at += *length as u64,
        }
        Ok(step)
    }

    fn read_header<'a>(&mut self, bytes: &'a [u8]) -> Result<Step<'a>, ArchiveError> {
        let seen = bytes.len().min(MAGIC.len());
        if bytes[..seen] != MAGIC[..seen] {
            return Err(ArchiveError::NotAnArchive);
        }
        let Some(format) = bytes.get(MAGIC.len()..HEADER_BYTES) else {
            return Ok(Step::Need(HEADER_BYTES));
        };
        match u32::from_be_bytes(format.try_into().expect("four bytes")) {
            0 => Err(ArchiveError::NotAnArchive),
            found @ FORMAT_PLAIN..=FORMAT => {
                self.format = found;
                self.tally = Tally::new(found);
                Ok(Step::Header(HEADER_BYTES))
            }
            found => Err(ArchiveError::NewerFormat { found }),
        }
    }

    fn read_blob<'a>(
        &self,
        bytes: &'a [u8],
        frame: impl Fn(Digest, &'a [u8]) -> Frame<'a>,
    ) -> Result<Step<'a>, ArchiveError> {
        let Some(head) = bytes.get(..BLOB_HEAD_BYTES) else {
            return Ok(Step::Need(BLOB_HEAD_BYTES));
        };
        let length = self.length("blob", &head[33..], BLOB_BYTES_MAX)?;
        let end = BLOB_HEAD_BYTES + length;
        let Some(content) = bytes.get(BLOB_HEAD_BYTES..end) else {
            return Ok(Step::Need(end));
        };
        let actual = Digest::of(content);
        if actual.as_bytes()[..] != head[1..33] {
            let expected = digest(&head[1..33]);
            return Err(ArchiveError::DamagedBlob { expected, actual });
        }
        Ok(Step::Frame(frame(actual, content), end))
    }

    fn read_piece<'a>(&self, bytes: &'a [u8]) -> Result<Step<'a>, ArchiveError> {
        let Some(head) = bytes.get(..PIECE_HEAD_BYTES) else {
            return Ok(Step::Need(PIECE_HEAD_BYTES));
        };
        let flags = head[33];
        if flags & !(IS_LAST | IS_COLD) != 0 {
            return Err(ArchiveError::UnknownFrame {
                kind: PIECE,
                at: self.at,
            });
        }
        let length = self.length("piece", &head[34..], PIECE_BYTES_MAX)?;
        let end = PIECE_HEAD_BYTES + length;
        let Some(content) = bytes.get(PIECE_HEAD_BYTES..end) else {
            return Ok(Step::Need(end));
        };
        let piece = Piece {
            digest: digest(&head[1..33]),
            is_cold: flags & IS_COLD != 0,
            is_last: flags & IS_LAST != 0,
        };
        Ok(Step::Frame(Frame::Piece(piece, content), end))
    }

    fn read_record<'a>(&self, bytes: &'a [u8]) -> Result<Step<'a>, ArchiveError> {
        let Some(head) = bytes.get(..RECORD_HEAD_BYTES) else {
            return Ok(Step::Need(RECORD_HEAD_BYTES));
        };
        let key_bytes = self.length("key", &head[1..5], KEY_BYTES_MAX)?;
        let value_bytes = self.length("value", &head[5..9], VALUE_BYTES_MAX)?;
        let end = RECORD_HEAD_BYTES + key_bytes + value_bytes;
        let Some(content) = bytes.get(RECORD_HEAD_BYTES..end) else {
            return Ok(Step::Need(end));
        };
        let (key, value) = content.split_at(key_bytes);
        Ok(Step::Frame(Frame::Record(key, value), end))
    }

    fn read_trailer<'a>(&mut self, bytes: &'a [u8]) -> Result<Step<'a>, ArchiveError> {
        let Some(trailer) = bytes.get(..TRAILER_BYTES) else {
            return Ok(Step::Need(TRAILER_BYTES));
        };
        if self.open.is_some() {
            return Err(ArchiveError::OutOfOrder { at: self.at });
        }
        let number = |from: usize| u64::from_be_bytes(trailer[from..from + 8].try_into().expect("eight bytes"));
        for (what, found, told) in [
            ("blobs", self.tally.blobs, number(1)),
            ("records", self.tally.records, number(9)),
        ] {
            if found != told {
                return Err(ArchiveError::WrongCount { what, found, told });
            }
        }
        self.tally.link(&trailer[..COUNTS_BYTES]);
        let actual = self.tally.chain;
        if actual.as_bytes()[..] != trailer[COUNTS_BYTES..] {
            return Err(ArchiveError::WrongDigest { actual });
        }
        Ok(Step::End(self.tally.summary(), TRAILER_BYTES))
    }

    /// A length of four bytes, within its limit before anything is read or kept because of it.
    fn length(&self, what: &'static str, bytes: &[u8], max: usize) -> Result<usize, ArchiveError> {
        let number = u32::from_be_bytes(bytes.try_into().expect("lengths have four bytes"));
        let actual = usize::try_from(number).expect("a pointer has 32 bits at least");
        if actual > max {
            return Err(ArchiveError::TooLarge {
                what,
                actual,
                max,
                at: self.at,
            });
        }
        Ok(actual)
    }

    /// Blobs come before cold parts, these before records, and each kind in ascending order without repetition; the pieces
    /// of a blob follow one another, and are together what its digest says.
    fn check_order(&mut self, frame: &Frame<'_>) -> Result<(), ArchiveError> {
        match (self.open.take(), frame) {
            (None, Frame::Piece(piece, content)) => {
                self.check_place(frame)?;
                self.take_piece((*piece, Hasher::default()), content)
            }
            (None, _) => self.check_place(frame),
            (Some((before, hasher)), Frame::Piece(piece, content))
                if before.digest == piece.digest && before.is_cold == piece.is_cold =>
            {
                self.take_piece((*piece, hasher), content)
            }
            (Some(_), _) => Err(ArchiveError::OutOfOrder { at: self.at }),
        }
    }

    fn take_piece(&mut self, (piece, mut hasher): (Piece, Hasher), content: &[u8]) -> Result<(), ArchiveError> {
        hasher.update(content);
        if !piece.is_last {
            self.open = Some((piece, hasher));
            return Ok(());
        }
        let (expected, actual) = (piece.digest, hasher.finish());
        if actual != expected {
            return Err(ArchiveError::DamagedBlob { expected, actual });
        }
        Ok(())
    }

    fn check_place(&mut self, frame: &Frame<'_>) -> Result<(), ArchiveError> {
        let next = match frame {
            Frame::Piece(piece, _) if piece.is_cold => Last::Cold(piece.digest),
            Frame::Piece(piece, _) => Last::Blob(piece.digest),
            Frame::Blob(digest, _) => Last::Blob(*digest),
            Frame::Cold(digest, _) => Last::Cold(*digest),
            Frame::Record(key, _) => Last::Record(key.to_vec()),
        };
        if self.last.as_ref().is_some_and(|last| *last >= next) {
            return Err(ArchiveError::OutOfOrder { at: self.at });
        }
        self.last = Some(next);
        Ok(())
    }
}

fn digest(bytes: &[u8]) -> Digest {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.parse().expect("32 bytes are 64 digits")
}

/// Reads a whole archive, which must end where `bytes` does.
pub fn parse(bytes: &[u8]) -> Result<Summary, ArchiveError> {
    let mut decoder = Decoder::new();
    let mut rest = bytes;
    loop {
        match decoder.step(rest)? {
            Step::Need(_) if bytes.is_empty() => return Err(ArchiveError::NotAnArchive),
            Step::Need(_) => {
                return Err(ArchiveError::Truncated {
                    bytes: bytes.len() as u64,
                });
            }
            Step::Header(length) | Step::Frame(_, length) => rest = &rest[length..],
            Step::End(summary, length) if rest.len() == length => return Ok(summary),
            Step::End(..) => return Err(ArchiveError::TrailingBytes { at: decoder.at() }),
        }
    }
}
