//! Lines of a bounded length from a stream: what both channels speak.

use std::io;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

/// Longest line that either channel carries, with its end.
pub const LINE_BYTES_MAX: u64 = 256 * 1024;

/// Reads lines; not cancel-safe, so it belongs to a task of its own.
pub struct Lines<R>(BufReader<R>);

impl<R: AsyncRead + Unpin> Lines<R> {
    pub fn new(source: R) -> Self {
        Self(BufReader::new(source))
    }

    /// The next line without its end; `None` at the end of the stream. A line that is too long is an error, and
    /// so is one that the stream's end cuts off.
    pub async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        let mut bounded = (&mut self.0).take(LINE_BYTES_MAX);
        bounded.read_until(b'\n', &mut line).await?;
        match line.pop() {
            None => Ok(None),
            Some(b'\n') => Ok(Some(line)),
            Some(_) if line.len() + 1 < LINE_BYTES_MAX as usize => Err(io::ErrorKind::UnexpectedEof.into()),
            Some(_) => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a line is longer than {LINE_BYTES_MAX} bytes"),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(text: &[u8]) -> Vec<String> {
        let mut lines = Lines::new(text);
        let mut found = Vec::new();
        loop {
            match lines.next().await {
                Ok(Some(line)) => found.push(String::from_utf8(line).unwrap()),
                Ok(None) => return found,
                Err(error) => {
                    found.push(format!("{:?}", error.kind()));
                    return found;
                }
            }
        }
    }

    #[tokio::test]
    async fn lines_end_and_have_an_end() {
        assert_eq!(read(b"a\n\nbc\n").await, ["a", "", "bc"]);
        assert_eq!(read(b"a\nb").await, ["a", "UnexpectedEof"]);
        let longest = [vec![b'x'; LINE_BYTES_MAX as usize - 1], vec![b'\n']].concat();
        assert_eq!(read(&longest).await[0].len(), LINE_BYTES_MAX as usize - 1);
        let endless = vec![b'x'; LINE_BYTES_MAX as usize + 1];
        assert_eq!(read(&endless).await, ["InvalidData"]);
    }
}
