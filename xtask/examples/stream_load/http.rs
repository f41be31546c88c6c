//! A node's API over kept connections, with as little between the load and the socket as can be.

use anyhow::{Context, Result, ensure};
use async_trait::async_trait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::load::{Client, Shape, Subject};

/// An answer as it came.
pub struct Reply {
    pub status: u16,
    /// The lines of the head, in lower case.
    head: String,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        (found == name).then(|| value.trim())
    })
}

pub struct Connection {
    pub stream: TcpStream,
    read: Vec<u8>,
}

impl Connection {
    pub async fn open(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await;
        let stream = stream.with_context(|| format!("cannot connect to `{address}`"))?;
        stream.set_nodelay(true)?;
        let read = Vec::with_capacity(64 * 1024);
        Ok(Self { stream, read })
    }

    /// Sends a request and reads the whole answer, which has a length.
    pub async fn exchange(&mut self, request: &[u8]) -> Result<Reply> {
        self.stream.write_all(request).await?;
        self.read.clear();
        let head_bytes = loop {
            self.more().await?;
            if let Some(at) = self.read.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
        };
        let head = String::from_utf8_lossy(&self.read[..head_bytes]).to_ascii_lowercase();
        let status = head.split(' ').nth(1).context("an answer without a status")?.parse()?;
        let length: usize = header(&head, "content-length")
            .context("an answer without a length")?
            .parse()?;
        while self.read.len() < head_bytes + length {
            self.more().await?;
        }
        let body = self.read[head_bytes..].to_vec();
        Ok(Reply { status, head, body })
    }

    async fn more(&mut self) -> Result<()> {
        let count = self.stream.read_buf(&mut self.read).await?;
        ensure!(count > 0, "the node closed the connection");
        Ok(())
    }
}

/// Makes a stream; one that is there is as good.
pub async fn create(address: &str, stream: &str) -> Result<()> {
    let body = format!(r#"{{"name":"{stream}"}}"#);
    let mut connection = Connection::open(address).await?;
    let reply = connection
        .exchange(&post("/v1/streams", "application/json", body.as_bytes()))
        .await?;
    let text = String::from_utf8_lossy(&reply.body);
    ensure!(matches!(reply.status, 201 | 409), "the node refused the stream: {text}");
    Ok(())
}

/// An append of these bodies, one event a line.
pub fn append_of(stream: &str, bodies: &[Vec<u8>]) -> Vec<u8> {
    let mut lines = Vec::new();
    for body in bodies {
        lines.extend_from_slice(br#"{"body":""#);
        lines.extend_from_slice(body);
        lines.extend_from_slice(b"\"}\n");
    }
    post(&format!("/v1/streams/{stream}/events"), "application/x-ndjson", &lines)
}

fn post(path: &str, content_type: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: node\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// Appends through nodes, the clients spread over them.
pub struct Http {
    pub name: &'static str,
    pub addresses: Vec<String>,
}

#[async_trait]
impl Subject for Http {
    fn name(&self) -> &'static str {
        self.name
    }

    async fn clients(&mut self, shape: &Shape) -> Result<Vec<Box<dyn Client>>> {
        let (stream, bodies) = (shape.stream(), shape.bodies());
        create(&self.addresses[0], &stream).await?;
        let mut clients: Vec<Box<dyn Client>> = Vec::new();
        for number in 0..shape.clients {
            let address = &self.addresses[number % self.addresses.len()];
            let mut connection = Connection::open(address).await?;
            // The first exchange sets the connection up.
            connection
                .exchange(b"GET /healthz HTTP/1.1\r\nHost: node\r\n\r\n")
                .await?;
            clients.push(Box::new(Appender {
                connection,
                request: append_of(&stream, &bodies),
                events: shape.batch,
            }));
        }
        Ok(clients)
    }
}

struct Appender {
    connection: Connection,
    request: Vec<u8>,
    events: usize,
}

#[async_trait]
impl Client for Appender {
    async fn append(&mut self) -> Result<usize> {
        let reply = self.connection.exchange(&self.request).await?;
        let text = String::from_utf8_lossy(&reply.body);
        ensure!(reply.status == 201, "the node answered {}: {text}", reply.status);
        Ok(self.events)
    }
}
