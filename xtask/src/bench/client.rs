//! One kept connection to a node, with as little of its own between the clock and the socket as can be.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bowline_foundation::clock::Clock;

/// The event of every measured invocation.
pub const EVENT: &[u8] = br#"{"name": "ada"}"#;

/// A connection that is used for one invocation after the other.
pub struct Connection {
    stream: BufReader<TcpStream>,
    clock: Clock,
}

impl Connection {
    /// Connects and sends one request that is not measured, so that the connection is set up.
    pub fn open(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("cannot connect to `{address}`"))?;
        stream.set_nodelay(true)?;
        let mut connection = Self {
            stream: BufReader::new(stream),
            clock: Clock::system(),
        };
        connection.exchange(b"GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n")?;
        Ok(connection)
    }

    /// Invokes a function and returns how long it took until the whole answer was read.
    pub fn invoke(&mut self, name: &str, qualifier: &str) -> Result<Duration> {
        let mut request = format!(
            "POST /2015-03-31/functions/{name}/invocations{qualifier} HTTP/1.1\r\nHost: node\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            EVENT.len()
        )
        .into_bytes();
        request.extend_from_slice(EVENT);
        let begin = self.clock.monotonic();
        let (head, body) = self.exchange(&request)?;
        let took = self.clock.monotonic().since(begin);
        let failed = !head.starts_with("http/1.1 200") || head.contains("x-amz-function-error");
        ensure!(!failed, "`{name}` failed: {head}{}", String::from_utf8_lossy(&body));
        Ok(took)
    }

    /// Sends a request and reads the answer: its head in lower case, and its body.
    fn exchange(&mut self, request: &[u8]) -> Result<(String, Vec<u8>)> {
        self.stream.get_mut().write_all(request)?;
        let mut head = String::new();
        loop {
            let from = head.len();
            ensure!(self.stream.read_line(&mut head)? > 0, "the node closed the connection");
            if head[from..].trim().is_empty() {
                break;
            }
        }
        head.make_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length: usize = length.context("an answer without a length")?.trim().parse()?;
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok((head, body))
    }
}
