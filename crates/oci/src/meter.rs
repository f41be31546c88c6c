//! Readers that count, hash and stop.

use std::io::{self, Read};

use bowline_foundation::digest::{Digest, Hasher};

/// Hashes what passes, and breaks off after so many bytes.
pub(crate) struct Meter<R> {
    inner: R,
    hasher: Hasher,
    left: u64,
    is_over: bool,
}

impl<R: Read> Meter<R> {
    pub fn new(inner: R, bytes_max: u64) -> Self {
        Self {
            inner,
            hasher: Hasher::default(),
            left: bytes_max,
            is_over: false,
        }
    }

    /// Whether there was more than may pass.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// Reads to the end; the digest of all that passed, and how many bytes might have followed.
    pub fn finish(mut self) -> io::Result<(Digest, u64)> {
        io::copy(&mut self, &mut io::sink())?;
        Ok((self.hasher.finish(), self.left))
    }
}

impl<R: Read> Read for Meter<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        match self.left.checked_sub(read as u64) {
            Some(left) => self.left = left,
            None => {
                self.is_over = true;
                return Err(io::Error::from(io::ErrorKind::FileTooLarge));
            }
        }
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}
