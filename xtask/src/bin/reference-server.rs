//! The benchmarks' measuring rod: a bare hyper HTTP/1.1 server that answers every request with its body, and
//! `/zeros/N` with N bytes, streamed.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};

use anyhow::{Context, Result};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let address: SocketAddr = address.parse().context("usage: reference-server ADDRESS:PORT")?;
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on `{address}`"))?;
    println!("listening on http://{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            // A client that goes away is no event worth telling.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service_fn(echo))
                .await;
        });
    }
}

/// What is left of a streamed answer.
struct Zeros(usize);

static PIECE: [u8; 64 * 1024] = [0; 64 * 1024];

impl Body for Zeros {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let bytes = self.0.min(PIECE.len());
        self.0 -= bytes;
        Poll::Ready((bytes > 0).then(|| Ok(Frame::data(Bytes::from_static(&PIECE).slice(..bytes)))))
    }
}

async fn echo(request: Request<Incoming>) -> Result<Response<Either<Full<Bytes>, Zeros>>, Infallible> {
    let asked = request.uri().path().strip_prefix("/zeros/");
    if let Some(bytes) = asked.and_then(|bytes| bytes.parse().ok()) {
        return Ok(Response::new(Either::Right(Zeros(bytes))));
    }
    let body = match request.into_body().collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => Bytes::new(),
    };
    Ok(Response::new(Either::Left(Full::new(body))))
}
