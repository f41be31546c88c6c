//! Reading and writing the fields of records.

use bytes::{BufMut, Bytes};

/// Why a record could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Damaged {
    #[error("{what} has format `{found}`, this build knows up to `{known}`: start a newer build")]
    NewerFormat { what: &'static str, found: u8, known: u8 },
    #[error("{what} ends too early or holds an impossible value")]
    Malformed { what: &'static str },
}

/// A place in a record's bytes.
pub(crate) struct Fields<'a> {
    what: &'static str,
    bytes: &'a Bytes,
    at: usize,
}

impl<'a> Fields<'a> {
    /// Begins after the format byte, which must be `format`, the only one there has been so far.
    pub fn new(what: &'static str, format: u8, bytes: &'a Bytes) -> Result<Self, Damaged> {
        let mut fields = Self { what, bytes, at: 0 };
        match fields.u8()? {
            found if found == format => Ok(fields),
            found if found > format => Err(Damaged::NewerFormat {
                what,
                found,
                known: format,
            }),
            _ => Err(fields.malformed()),
        }
    }

    pub fn malformed(&self) -> Damaged {
        Damaged::Malformed { what: self.what }
    }

    pub fn u8(&mut self) -> Result<u8, Damaged> {
        Ok(self.array::<1>()?[0])
    }

    pub fn u32(&mut self) -> Result<u32, Damaged> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Result<u64, Damaged> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Damaged> {
        let found = self.bytes.get(self.at..self.at + N).ok_or_else(|| self.malformed())?;
        self.at += N;
        Ok(found.try_into().expect("the slice has the array's length"))
    }

    /// The next `length` bytes, shared with the record.
    pub fn take(&mut self, length: usize) -> Result<Bytes, Damaged> {
        if self.bytes.len() - self.at < length {
            return Err(self.malformed());
        }
        let taken = self.bytes.slice(self.at..self.at + length);
        self.at += length;
        Ok(taken)
    }

    pub fn text(&mut self) -> Result<String, Damaged> {
        let length = self.u32()? as usize;
        String::from_utf8(self.take(length)?.into()).map_err(|_| self.malformed())
    }

    pub fn is_at_end(&self) -> bool {
        self.at == self.bytes.len()
    }

    /// The record must have been read to its end.
    pub fn end(self) -> Result<(), Damaged> {
        if self.is_at_end() {
            Ok(())
        } else {
            Err(self.malformed())
        }
    }

    pub fn rest(&mut self) -> Bytes {
        let rest = self.bytes.slice(self.at..);
        self.at = self.bytes.len();
        rest
    }
}

/// Writes a text with its length.
pub(crate) fn put_text(text: &str, out: &mut impl BufMut) {
    out.put_u32(u32::try_from(text.len()).expect("texts in records are short"));
    out.put_slice(text.as_bytes());
}
