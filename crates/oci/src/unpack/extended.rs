//! What stands before an entry because its header has no room for it: long names, in GNU's way and in POSIX's.

use std::io::{self, Read};

use tar::{Entry, EntryType};

/// Longest extension that is read into memory.
const BYTES_MAX: u64 = 64 * 1024;

/// What was said of the entry to come.
#[derive(Default)]
pub(super) struct Extended {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    /// Why the entry to come cannot be taken.
    pub refusal: Option<&'static str>,
}

impl Extended {
    /// Takes an entry that only says something of the next one; whether it is such.
    pub fn take<R: Read>(&mut self, entry: &mut Entry<'_, R>) -> io::Result<bool> {
        match entry.header().entry_type() {
            EntryType::GNULongName => self.path = Some(text(entry)?),
            EntryType::GNULongLink => self.link = Some(text(entry)?),
            EntryType::XHeader => self.records(&bytes(entry)?)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Records `LENGTH KEY=VALUE\n`, of which LENGTH counts the whole.
    fn records(&mut self, mut rest: &[u8]) -> io::Result<()> {
        let malformed = || io::Error::new(io::ErrorKind::InvalidData, "malformed extended header");
        while !rest.is_empty() {
            let space = rest.iter().position(|byte| *byte == b' ').ok_or_else(malformed)?;
            let digits = str::from_utf8(&rest[..space]).map_err(|_| malformed())?;
            let length: usize = digits.parse().map_err(|_| malformed())?;
            let record = rest.get(space + 1..length).ok_or_else(malformed)?;
            let record = record.strip_suffix(b"\n").ok_or_else(malformed)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(malformed)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"path" => self.path = Some(value.to_owned()),
                b"linkpath" => self.link = Some(value.to_owned()),
                b"size" => self.refusal = Some("is larger than a header can say"),
                _ if key.starts_with(b"GNU.sparse.") => self.refusal = Some("is sparse"),
                _ => {}
            }
            rest = &rest[length..];
        }
        Ok(())
    }
}

fn bytes<R: Read>(entry: &mut Entry<'_, R>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    entry.take(BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "extended header is too long",
        ));
    }
    Ok(bytes)
}

/// A text that ends with a zero byte.
fn text<R: Read>(entry: &mut Entry<'_, R>) -> io::Result<Vec<u8>> {
    let mut text = bytes(entry)?;
    if let Some(end) = text.iter().position(|byte| *byte == 0) {
        text.truncate(end);
    }
    Ok(text)
}
