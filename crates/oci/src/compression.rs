//! How an archive or a layer is compressed, told by its first bytes: media types are claims.

use std::io::{self, BufRead, Read};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// Magic numbers of frames without content.
const SKIPPED: std::ops::RangeInclusive<u32> = 0x184d_2a50..=0x184d_2a5f;

/// Whether bytes that begin so are compressed.
pub fn is_compressed(head: &[u8]) -> bool {
    head.starts_with(GZIP) || head.starts_with(ZSTD)
}

/// The uncompressed bytes of whatever this is.
pub fn plain<'a, R: BufRead + 'a>(mut bytes: R) -> io::Result<Box<dyn Read + 'a>> {
    let head = bytes.fill_buf()?;
    if head.starts_with(GZIP) {
        Ok(Box::new(MultiGzDecoder::new(bytes)))
    } else if head.starts_with(ZSTD) {
        Ok(Box::new(Frames::Between(bytes)))
    } else {
        Ok(Box::new(bytes))
    }
}

/// Zstandard frames, one after the other.
enum Frames<R: Read> {
    Between(R),
    Within(Box<StreamingDecoder<Headed<R>, FrameDecoder>>),
    Ended,
}

/// A frame whose first bytes have been read already.
struct Headed<R> {
    head: [u8; 4],
    given: usize,
    rest: R,
}

impl<R: Read> Read for Headed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.given == self.head.len() {
            return self.rest.read(buffer);
        }
        let given = (&self.head[self.given..]).read(buffer)?;
        self.given += given;
        Ok(given)
    }
}

impl<R: Read> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match std::mem::replace(self, Self::Ended) {
                Self::Ended => return Ok(0),
                Self::Within(mut frame) => {
                    let read = frame.read(buffer)?;
                    if read > 0 || buffer.is_empty() {
                        *self = Self::Within(frame);
                        return Ok(read);
                    }
                    *self = Self::Between(frame.into_inner().rest);
                }
                Self::Between(source) => *self = Self::next(source)?,
            }
        }
    }
}

impl<R: Read> Frames<R> {
    /// Begins the next frame, behind those that are there to be skipped.
    fn next(mut source: R) -> io::Result<Self> {
        loop {
            let mut head = [0; 4];
            if source.read(&mut head[..1])? == 0 {
                return Ok(Self::Ended);
            }
            source.read_exact(&mut head[1..])?;
            if !SKIPPED.contains(&u32::from_le_bytes(head)) {
                let headed = Headed {
                    head,
                    given: 0,
                    rest: source,
                };
                let frame = StreamingDecoder::new(headed).map_err(|error| {
                    let text = error.to_string();
                    io::Error::new(io::ErrorKind::InvalidData, text)
                })?;
                return Ok(Self::Within(Box::new(frame)));
            }
            let mut length = [0; 4];
            source.read_exact(&mut length)?;
            let length = u64::from(u32::from_le_bytes(length));
            io::copy(&mut source.by_ref().take(length), &mut io::sink())?;
        }
    }
}
