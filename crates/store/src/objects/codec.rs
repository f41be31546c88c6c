//! How records lie in a value: a tag of the kind, a format number, then fields of fixed order.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Why stored bytes are no record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// A later build wrote the record.
    #[error("record has format `{found}`, this build knows up to `{known}`: start a newer build")]
    NewerFormat { found: u8, known: u8 },
    /// The bytes are not what their format says.
    #[error("record is damaged at `{0}`")]
    Damaged(&'static str),
}

/// The one format of all records so far.
pub(super) const FORMAT: u8 = 1;

/// Writes the fields of one record.
pub(super) struct Encoder(BytesMut);

impl Encoder {
    pub fn new(tag: u8) -> Self {
        let mut bytes = BytesMut::with_capacity(128);
        bytes.put_slice(&[tag, FORMAT]);
        Self(bytes)
    }

    pub fn tag(&mut self, tag: u8) {
        self.0.put_u8(tag);
    }

    pub fn number(&mut self, number: u64) {
        self.0.put_u64(number);
    }

    pub fn wide(&mut self, number: u128) {
        self.0.put_u128(number);
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.length(bytes.len());
        self.0.put_slice(bytes);
    }

    /// The number of elements, then each of them.
    pub fn list<T>(&mut self, list: &[T], element: impl Fn(&mut Self, &T)) {
        self.length(list.len());
        list.iter().for_each(|each| element(self, each));
    }

    pub fn finish(self) -> Bytes {
        self.0.freeze()
    }

    fn length(&mut self, length: usize) {
        self.0
            .put_u32(u32::try_from(length).expect("a value of a store is far below 4 GiB"));
    }
}

/// Reads the fields of one record in the order in which they were written.
pub(super) struct Decoder(Bytes);

impl Decoder {
    pub fn new(mut bytes: Bytes, tag: u8) -> Result<Self, RecordError> {
        if bytes.len() < 2 || bytes[0] != tag {
            return Err(RecordError::Damaged("head"));
        }
        let found = bytes[1];
        if found > FORMAT {
            return Err(RecordError::NewerFormat { found, known: FORMAT });
        }
        bytes.advance(2);
        Ok(Self(bytes))
    }

    pub fn tag(&mut self) -> Result<u8, RecordError> {
        self.0.try_get_u8().map_err(|_| RecordError::Damaged("tag"))
    }

    pub fn number(&mut self) -> Result<u64, RecordError> {
        self.0.try_get_u64().map_err(|_| RecordError::Damaged("number"))
    }

    pub fn wide(&mut self) -> Result<u128, RecordError> {
        self.0.try_get_u128().map_err(|_| RecordError::Damaged("wide number"))
    }

    pub fn bytes(&mut self) -> Result<Bytes, RecordError> {
        let length = self.length()?;
        if length > self.0.len() {
            return Err(RecordError::Damaged("bytes"));
        }
        Ok(self.0.split_to(length))
    }

    pub fn text(&mut self) -> Result<String, RecordError> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| RecordError::Damaged("text"))
    }

    pub fn list<T>(&mut self, element: impl Fn(&mut Self) -> Result<T, RecordError>) -> Result<Vec<T>, RecordError> {
        // No capacity ahead: the length is whatever the bytes say.
        (0..self.length()?).map(|_| element(self)).collect()
    }

    pub fn finish(self) -> Result<(), RecordError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(RecordError::Damaged("end"))
        }
    }

    fn length(&mut self) -> Result<usize, RecordError> {
        let length = self.0.try_get_u32().map_err(|_| RecordError::Damaged("length"))?;
        Ok(length as usize)
    }
}
