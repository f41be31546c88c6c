//! The Lambda Runtime API over one plain connection.
//!
//! An answer and the question for the next event go out in one write: the platform need not be waited
//! for in between, and each invocation costs one read and one write.

use std::fmt::Display;
use std::io::{self, Read, Write};
use std::net::TcpStream;

const READ_BYTES: usize = 16 * 1024;

/// What the platform sent: the head as text, the body, and how many bytes both took.
struct Response<'a> {
    head: &'a str,
    body: &'a [u8],
    bytes: usize,
}

/// Answers events with `handler` until the platform hangs up.
pub fn serve<E: Display>(mut handler: impl FnMut(&[u8]) -> Result<Vec<u8>, E>) -> io::Result<()> {
    let address = std::env::var("AWS_LAMBDA_RUNTIME_API").map_err(io::Error::other)?;
    let mut stream = TcpStream::connect(&address)?;
    stream.set_nodelay(true)?;
    let next = format!("GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: {address}\r\n\r\n");
    stream.write_all(next.as_bytes())?;
    let mut received = Vec::with_capacity(READ_BYTES);
    while receive(&mut stream, &mut received)? {
        let response = parse(&received)?.expect("a whole response was received");
        // Only events carry an id; the rest are receipts for answers.
        if let Some(id) = field(response.head, "Lambda-Runtime-Aws-Request-Id") {
            let mut message = match handler(response.body) {
                Ok(answer) => post(&address, id, "response", &answer),
                Err(error) => post(&address, id, "error", &error_payload(&error)),
            };
            message.extend_from_slice(next.as_bytes());
            stream.write_all(&message)?;
        }
        let bytes = response.bytes;
        received.drain(..bytes);
    }
    Ok(())
}

/// Reads until a whole response is there; false if the platform hung up.
fn receive(stream: &mut TcpStream, received: &mut Vec<u8>) -> io::Result<bool> {
    while parse(received)?.is_none() {
        let length = received.len();
        received.resize(length + READ_BYTES.max(length), 0);
        let bytes = stream.read(&mut received[length..])?;
        received.truncate(length + bytes);
        if bytes == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

fn parse(received: &[u8]) -> io::Result<Option<Response<'_>>> {
    let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = std::str::from_utf8(&received[..end]).map_err(io::Error::other)?;
    let length = field(head, "Content-Length").unwrap_or("0");
    let bytes = end + 4 + length.parse::<usize>().map_err(io::Error::other)?;
    let body = received.get(end + 4..bytes);
    Ok(body.map(|body| Response { head, body, bytes }))
}

fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let fields = head.lines().filter_map(|line| line.split_once(':'));
    let mut found = fields.filter(|(found, _)| found.eq_ignore_ascii_case(name));
    found.next().map(|(_, value)| value.trim())
}

fn post(address: &str, id: &str, kind: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "POST /2018-06-01/runtime/invocation/{id}/{kind} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

fn error_payload(error: &impl Display) -> Vec<u8> {
    let payload = serde_json::json!({
        "errorType": "HandlerError",
        "errorMessage": error.to_string(),
        "stackTrace": [],
    });
    payload.to_string().into_bytes()
}
