//! `application/vnd.amazon.eventstream`: messages with headers and checksums, one after the other.
//!
//! ```text
//!   total length u32 │ headers length u32 │ CRC-32 of these 8 bytes │ headers │ payload │ CRC-32 of all before
//!   a header: name length u8 │ name │ type u8 (7: text) │ value length u16 │ value
//! ```
//! All numbers are big-endian; the checksums are those of Ethernet and zip.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The content type of such a body.
pub const CONTENT_TYPE: &str = "application/vnd.amazon.eventstream";

/// What frames a message beside its headers and payload.
const FRAME_BYTES: usize = 16;
/// The lengths and their checksum.
const PRELUDE_BYTES: usize = 12;
/// Largest headers of a message that a client takes.
pub const HEADERS_BYTES_MAX: usize = 128 * 1024;
/// Largest payload of a message that a client takes.
pub const PAYLOAD_BYTES_MAX: usize = 24 * 1024 * 1024;

const TEXT: u8 = 7;

/// A message as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Names and values of the headers that are text; others are passed over.
    pub headers: Vec<(Box<str>, Box<str>)>,
    /// What the message carries.
    pub payload: Bytes,
}

impl Message {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(found, _)| &**found == name);
        found.map(|(_, value)| &**value)
    }
}

/// Writes a message.
///
/// # Panics
/// If a name has more than 255 bytes, or a value more than 65,535.
pub fn encode(headers: &[(&str, &str)], payload: &[u8]) -> Bytes {
    let sizes = headers.iter().map(|(name, value)| 4 + name.len() + value.len());
    let headers_bytes = sizes.sum::<usize>();
    let total = FRAME_BYTES + headers_bytes + payload.len();
    let fit = |length: usize| u32::try_from(length).expect("a message has less than four gigabytes");
    let mut message = BytesMut::with_capacity(total);
    message.put_u32(fit(total));
    message.put_u32(fit(headers_bytes));
    message.put_u32(crc32fast::hash(&message));
    for (name, value) in headers {
        message.put_u8(u8::try_from(name.len()).expect("names are short"));
        message.put_slice(name.as_bytes());
        message.put_u8(TEXT);
        message.put_u16(u16::try_from(value.len()).expect("values are short"));
        message.put_slice(value.as_bytes());
    }
    message.put_slice(payload);
    message.put_u32(crc32fast::hash(&message));
    message.freeze()
}

/// Why bytes are no messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A checksum does not fit.
    #[error("checksum `{found:#010x}` should be `{expected:#010x}`")]
    Checksum {
        /// What stands in the message.
        found: u32,
        /// What its bytes give.
        expected: u32,
    },
    /// The lengths contradict each other or are larger than any client takes.
    #[error("message of `{total}` bytes cannot have `{headers}` bytes of headers")]
    Lengths {
        /// The whole message.
        total: u32,
        /// Its headers.
        headers: u32,
    },
    /// The headers do not fill their part of the message, or are of no known type.
    #[error("headers are malformed")]
    Headers,
}

/// Reads messages out of bytes as they arrive.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: BytesMut,
}

impl Decoder {
    /// Takes bytes that arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether bytes of a message are left that is not whole.
    pub fn is_within_message(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// The next message, if it is there whole.
    ///
    /// # Errors
    /// If the bytes can never become a message; the decoder is of no use then.
    pub fn next_message(&mut self) -> Result<Option<Message>, DecodeError> {
        let Some(mut prelude) = self.buffer.get(..PRELUDE_BYTES) else {
            return Ok(None);
        };
        let checked = crc32fast::hash(&prelude[..8]);
        let (total, headers) = (prelude.get_u32(), prelude.get_u32());
        check(prelude.get_u32(), checked)?;
        let lengths = DecodeError::Lengths { total, headers };
        let (total, headers) = (total as usize, headers as usize);
        let payload = total.checked_sub(FRAME_BYTES + headers).ok_or(lengths)?;
        if headers > HEADERS_BYTES_MAX || payload > PAYLOAD_BYTES_MAX {
            return Err(lengths);
        }
        if self.buffer.len() < total {
            self.buffer.reserve(total - self.buffer.len());
            return Ok(None);
        }
        let mut message = self.buffer.split_to(total).freeze();
        let mut end = message.split_off(total - 4);
        let mut crc = crc32fast::Hasher::new();
        crc.update(&message);
        check(end.get_u32(), crc.finalize())?;
        message.advance(PRELUDE_BYTES);
        Ok(Some(Message {
            headers: read_headers(message.split_to(headers)).ok_or(DecodeError::Headers)?,
            payload: message,
        }))
    }
}

fn check(found: u32, expected: u32) -> Result<(), DecodeError> {
    if found != expected {
        return Err(DecodeError::Checksum { found, expected });
    }
    Ok(())
}

fn read_headers(mut bytes: Bytes) -> Option<Vec<(Box<str>, Box<str>)>> {
    let mut headers = Vec::new();
    while !bytes.is_empty() {
        let name = bytes.try_get_u8().ok()?;
        let name = take(&mut bytes, name.into())?;
        let kind = bytes.try_get_u8().ok()?;
        let length = match kind {
            // True, false; numbers of 8, 16, 32 and 64 bits.
            0 | 1 => 0,
            2 => 1,
            3 => 2,
            4 => 4,
            // A number or a time.
            5 | 8 => 8,
            // A UUID.
            9 => 16,
            // Bytes, text.
            6 | TEXT => bytes.try_get_u16().ok()?.into(),
            _ => return None,
        };
        let value = take(&mut bytes, length)?;
        if kind == TEXT {
            let text = |bytes: Bytes| std::str::from_utf8(&bytes).map(Box::from).ok();
            headers.push((text(name)?, text(value)?));
        }
    }
    Some(headers)
}

fn take(bytes: &mut Bytes, length: usize) -> Option<Bytes> {
    (length <= bytes.len()).then(|| bytes.split_to(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A `PayloadChunk` of `hello`, which the public clients decode.
    const HELLO: &str = "0000006f0000005af5fe871f0d3a6d6573736167652d747970650700056576656e740b3a6576656e742d747970650700\
                         0c5061796c6f61644368756e6b0d3a636f6e74656e742d747970650700186170706c69636174696f6e2f6f6374657\
                         42d73747265616d68656c6c6f4fe061f2";
    const HEADERS: [(&str, &str); 3] = [
        (":message-type", "event"),
        (":event-type", "PayloadChunk"),
        (":content-type", "application/octet-stream"),
    ];

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn decode(bytes: &[u8]) -> Result<Vec<Message>, DecodeError> {
        let mut decoder = Decoder::default();
        decoder.push(bytes);
        let mut messages = Vec::new();
        while let Some(message) = decoder.next_message()? {
            messages.push(message);
        }
        Ok(messages)
    }

    #[test]
    fn messages_are_those_of_the_public_clients() {
        let hello = encode(&HEADERS, b"hello");
        assert_eq!(hex(&hello), HELLO);
        // The smallest message there is, from the format's description: no headers, no payload.
        assert_eq!(hex(&encode(&[], b"")), "000000100000000005c248eb7d98c8ff");
        let [message] = &decode(&hello).unwrap()[..] else {
            panic!("one message");
        };
        assert_eq!(message.payload, "hello");
        assert_eq!(message.header(":event-type"), Some("PayloadChunk"));
        assert_eq!(message.header(":nothing"), None);
    }

    #[test]
    fn messages_are_read_however_they_are_cut() {
        let bytes = [encode(&HEADERS, b"one"), encode(&[], b""), encode(&HEADERS, b"two")].concat();
        for size in 1..bytes.len() {
            let mut decoder = Decoder::default();
            let mut payloads = Vec::new();
            for piece in bytes.chunks(size) {
                decoder.push(piece);
                while let Some(message) = decoder.next_message().unwrap() {
                    payloads.push(message.payload);
                }
            }
            assert_eq!(payloads, ["one", "", "two"], "pieces of {size}");
            assert!(!decoder.is_within_message());
        }
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let bytes = encode(&HEADERS, b"hello");
        for at in 0..bytes.len() {
            let mut changed = bytes.to_vec();
            changed[at] ^= 0x10;
            assert!(
                !matches!(decode(&changed), Ok(messages) if messages.len() == 1),
                "byte {at}"
            );
        }
    }

    /// A message with these raw headers and right checksums.
    fn raw(total: u32, headers: &[u8], payload: &[u8]) -> Vec<u8> {
        let mut message = Vec::new();
        message.put_u32(total);
        message.put_u32(headers.len() as u32);
        message.put_u32(crc32fast::hash(&message));
        message.put_slice(headers);
        message.put_slice(payload);
        message.put_u32(crc32fast::hash(&message));
        message
    }

    #[test]
    fn headers_of_every_type_are_passed_over() {
        let mut headers = Vec::new();
        for (kind, value) in [
            (0, &b""[..]),
            (1, b""),
            (2, b"1"),
            (3, b"12"),
            (4, b"1234"),
            (5, b"12345678"),
            (6, b"\x00\x02ab"),
            (8, b"12345678"),
            (9, b"1234567812345678"),
            (7, b"\x00\x02ok"),
        ] {
            headers.extend([1, b'n', kind]);
            headers.extend(value);
        }
        let message = raw(16 + headers.len() as u32, &headers, b"");
        let messages = decode(&message).unwrap();
        assert_eq!(messages[0].headers, [("n".into(), "ok".into())]);
        for bad in [
            &[1, b'n', 10][..],
            &[5, b'n'],
            &[1, b'n', 7, 0, 9, b'x'],
            &[1, 0xff, 7, 0, 0],
        ] {
            let message = raw(16 + bad.len() as u32, bad, b"");
            assert_eq!(decode(&message), Err(DecodeError::Headers), "{bad:?}");
        }
    }

    #[test]
    fn lengths_that_cannot_be_are_refused_at_once() {
        for total in [0, 15, u32::MAX, (PAYLOAD_BYTES_MAX + FRAME_BYTES + 1) as u32] {
            assert!(
                matches!(decode(&raw(total, b"", b"")), Err(DecodeError::Lengths { .. })),
                "{total}"
            );
        }
        let just = raw((PAYLOAD_BYTES_MAX + FRAME_BYTES) as u32, b"", b"");
        assert_eq!(decode(&just), Ok(vec![]), "the control: it may still come");
    }
}
