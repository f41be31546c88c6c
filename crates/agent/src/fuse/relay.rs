//! The guest's side: what its kernel asks of a folder goes to the node, and what that says comes back.

use std::io;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};

use super::{ANSWER_BYTES_MAX, ANSWER_HEAD_BYTES, REQUEST_BYTES_MAX, length};
use crate::channel::Channel;

/// How an agent shows its sandboxes folders that the node has.
#[async_trait]
pub trait Shows: Send + Sync + 'static {
    /// Mounts a folder; gives the kernel's end of it, where each reading is one request and each writing one answer. What is
    /// mounted is of no use once that is dropped.
    async fn show(&self, share: &str) -> io::Result<Channel>;

    /// Unmounts it.
    async fn hide(&self, share: &str) -> io::Result<()>;
}

/// Carries requests and answers until either side ends.
pub async fn relay(kernel: Channel, node: &mut Channel) -> io::Result<()> {
    let (from_kernel, to_kernel) = split(kernel);
    let (from_node, to_node) = split(node);
    tokio::select! {
        ended = requests(from_kernel, to_node) => ended,
        ended = answers(from_node, to_kernel) => ended,
    }
}

async fn requests(mut kernel: impl AsyncRead + Unpin, mut node: impl AsyncWrite + Unpin) -> io::Result<()> {
    let mut request = vec![0; REQUEST_BYTES_MAX];
    loop {
        let bytes = match kernel.read(&mut request).await {
            Ok(0) => return Ok(()),
            Ok(bytes) => bytes,
            // Whoever asked was ended meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        node.write_all(&request[..bytes]).await?;
    }
}

async fn answers(mut node: impl AsyncRead + Unpin, mut kernel: impl AsyncWrite + Unpin) -> io::Result<()> {
    let mut answer = Vec::new();
    loop {
        let mut first = [0; 4];
        match node.read_exact(&mut first).await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            read => read?,
        };
        let bytes = length(first, (ANSWER_HEAD_BYTES, ANSWER_BYTES_MAX))?;
        answer.clear();
        answer.extend(first);
        answer.resize(bytes, 0);
        node.read_exact(&mut answer[first.len()..]).await?;
        // The kernel takes an answer whole, or not at all.
        match kernel.write(&answer).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    #[tokio::test]
    async fn whole_messages_go_both_ways_until_one_side_ends() {
        let (kernel, mut guest) = duplex(1024);
        let (node, mut host) = duplex(1024);
        let relaying = tokio::spawn(async move {
            let mut node: Channel = Box::new(node);
            relay(Box::new(kernel), &mut node).await
        });
        guest.write_all(b"a request").await.unwrap();
        let mut read = [0; 9];
        host.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"a request");
        let answer = [&20_u32.to_le_bytes()[..], &[1; 16]].concat();
        for piece in answer.chunks(7) {
            host.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
        }
        let mut read = [0; 64];
        assert_eq!(
            guest.read(&mut read).await.unwrap(),
            20,
            "at once, though it came in pieces"
        );
        assert_eq!(&read[..20], &answer[..]);
        drop(host);
        assert!(relaying.await.unwrap().is_ok());
        assert_eq!(guest.read(&mut read).await.unwrap(), 0, "the kernel's end is dropped");
    }

    #[tokio::test]
    async fn an_answer_that_is_none_ends_it() {
        let (kernel, _guest) = duplex(1024);
        let (node, mut host) = duplex(1024);
        host.write_all(&u32::MAX.to_le_bytes()).await.unwrap();
        let mut node: Channel = Box::new(node);
        let ended = relay(Box::new(kernel), &mut node).await;
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
