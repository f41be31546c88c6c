//! A peer: streams of `redis-server`, which is started with `appendfsync always`.

use anyhow::{Result, ensure};
use async_trait::async_trait;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::load::{Client, Shape, Subject};

pub struct Redis {
    pub address: String,
}

#[async_trait]
impl Subject for Redis {
    fn name(&self) -> &'static str {
        "redis"
    }

    async fn clients(&mut self, shape: &Shape) -> Result<Vec<Box<dyn Client>>> {
        let add = |body: &Vec<u8>| command(&[b"XADD", shape.stream().as_bytes(), b"*", b"body", body]);
        let request: Vec<u8> = shape.bodies().iter().flat_map(add).collect();
        let mut clients: Vec<Box<dyn Client>> = Vec::new();
        for _ in 0..shape.clients {
            clients.push(Box::new(Pipeline {
                stream: connect(&self.address).await?,
                request: request.clone(),
                commands: shape.batch,
                read: Vec::new(),
            }));
        }
        Ok(clients)
    }

    /// It keeps everything in memory.
    async fn clear(&mut self) -> Result<()> {
        let mut stream = connect(&self.address).await?;
        stream.write_all(&command(&[b"FLUSHALL"])).await?;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).await?;
        ensure!(&answer == b"+OK\r\n", "redis-server does not forget");
        Ok(())
    }
}

async fn connect(address: &str) -> Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut text = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        text.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        text.extend_from_slice(word);
        text.extend_from_slice(b"\r\n");
    }
    text
}

/// Sends all events of an append at once, as the server's own clients do, and waits for all answers.
struct Pipeline {
    stream: TcpStream,
    request: Vec<u8>,
    commands: usize,
    read: Vec<u8>,
}

#[async_trait]
impl Client for Pipeline {
    async fn append(&mut self) -> Result<usize> {
        self.stream.write_all(&self.request).await?;
        self.read.clear();
        // Each answer is an identifier: a line with its length, and itself.
        while self.read.iter().filter(|byte| **byte == b'\n').count() < self.commands * 2 {
            let count = self.stream.read_buf(&mut self.read).await?;
            ensure!(count > 0, "redis-server closed the connection");
            ensure!(
                self.read[0] == b'$',
                "redis-server said {}",
                String::from_utf8_lossy(&self.read)
            );
        }
        Ok(self.commands)
    }
}
