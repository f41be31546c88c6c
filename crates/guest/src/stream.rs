//! Answers that go out while the handler still makes them.

use std::io;

use crate::event::Event;
use crate::interface;

const HTTP: &str = "application/vnd.awslambda.http-integration-response";
/// Separates the head of an HTTP response from its body.
const SEPARATOR: [u8; 8] = [0; 8];

/// The way of a streamed answer to the caller. What is written goes out at once; a caller that reads slowly
/// holds the handler back.
///
/// Once a handler has opened its stream, what it returns counts only if it is an error.
#[derive(Debug)]
pub struct ResponseStream(());

impl Event<'_> {
    /// Begins a streamed answer of this content type.
    pub fn stream(&self, content_type: &str) -> ResponseStream {
        interface::begin_stream(content_type);
        ResponseStream(())
    }

    /// Begins a streamed answer that is an HTTP response: `head` is JSON with `statusCode`, `headers` and
    /// `cookies`; what is written is the body.
    pub fn http_stream(&self, head: &str) -> ResponseStream {
        let stream = self.stream(HTTP);
        interface::write_stream(head.as_bytes());
        interface::write_stream(&SEPARATOR);
        stream
    }
}

impl io::Write for ResponseStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        interface::write_stream(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
