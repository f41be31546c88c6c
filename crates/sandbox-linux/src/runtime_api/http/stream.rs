//! The body of a streamed answer, handed out as it arrives.

use bowline_sandbox::FunctionError;
use bowline_sandbox::answer::STREAM_PIECE_BYTES;
use bytes::{Bytes, BytesMut};

use super::chunks::{Chunks, Step};
use super::{BodyReader, Reject};

/// Pieces up to this size are copied: a small one would keep the whole buffer that it came in.
const COPIED_BYTES_MAX: usize = STREAM_PIECE_BYTES / 4;

/// A part of a streamed answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Some bytes of it, at most [`STREAM_PIECE_BYTES`].
    Piece(Bytes),
    /// It is over; with the error if the function says that it failed after all.
    End(Option<FunctionError>),
}

/// A body on its way.
#[derive(Debug)]
pub(super) struct StreamReader {
    framing: Framing,
    /// Bytes at the buffer's front that are data.
    data: usize,
}

#[derive(Debug)]
enum Framing {
    /// So many bytes are still to come.
    Length(u64),
    Chunked(Chunks),
}

impl StreamReader {
    /// Reads what `body`, of which nothing was read yet, would have read.
    pub(super) fn new(body: BodyReader) -> Self {
        let framing = match body {
            BodyReader::Length(length) => Framing::Length(length as u64),
            BodyReader::Discard { total, .. } => Framing::Length(total),
            BodyReader::Chunked(collected) => Framing::Chunked(collected.chunks),
        };
        Self { framing, data: 0 }
    }

    /// The next part, if it has arrived; nothing must be asked for after the end.
    pub(super) fn take(&mut self, buffer: &mut BytesMut) -> Result<Option<Part>, Reject> {
        if self.data == 0 {
            match &mut self.framing {
                Framing::Length(0) => return Ok(Some(Part::End(None))),
                Framing::Length(left) => {
                    self.data = usize::try_from(*left).map_or(buffer.len(), |left| left.min(buffer.len()));
                    *left -= self.data as u64;
                }
                Framing::Chunked(chunks) => match chunks.step(buffer)? {
                    Step::Wait => {}
                    Step::Data(bytes) => self.data = bytes,
                    Step::End => return Ok(Some(Part::End(std::mem::take(chunks).late_error()))),
                },
            }
        }
        if self.data == 0 {
            return Ok(None);
        }
        let bytes = self.data.min(STREAM_PIECE_BYTES);
        self.data -= bytes;
        let piece = buffer.split_to(bytes);
        Ok(Some(Part::Piece(if bytes <= COPIED_BYTES_MAX {
            Bytes::copy_from_slice(&piece)
        } else {
            piece.freeze()
        })))
    }
}
