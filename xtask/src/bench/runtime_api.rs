//! The least Runtime API that a public client can be started against: it hands out one event and notes when.

use std::convert::Infallible;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use bowline_foundation::clock::{Clock, Monotonic};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;

use super::client::EVENT;

const LONGEST: Duration = Duration::from_secs(30);
const REQUEST_ID: &str = "8476a536-e9f4-11e8-9739-2dfe598c3fcd";

/// How long a started client took.
#[derive(Clone, Copy, Debug)]
pub struct FirstInvocation {
    /// From starting the process to its first request for an event.
    pub taken: Duration,
    /// From starting the process to its answer.
    pub answered: Duration,
}

enum Moment {
    Taken(Monotonic),
    Answered(Monotonic),
}

struct Server {
    clock: Clock,
    moments: UnboundedSender<Moment>,
}

/// Starts `command` with the address of a fresh server, waits for its first answer and ends it.
pub fn first_invocation(command: &mut Command) -> Result<FirstInvocation> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (moments, told) = unbounded_channel();
        let clock = Clock::system();
        let server = Arc::new(Server {
            clock: clock.clone(),
            moments,
        });
        let serving = tokio::spawn(serve(listener, server));
        let result = run(command.env("AWS_LAMBDA_RUNTIME_API", address.to_string()), &clock, told).await;
        serving.abort();
        result
    })
}

async fn run(command: &mut Command, clock: &Clock, mut told: UnboundedReceiver<Moment>) -> Result<FirstInvocation> {
    let begin = clock.monotonic();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start `{}`", command.get_program().to_string_lossy()))?;
    let mut taken = None;
    let answered = timeout(LONGEST, async {
        loop {
            match told.recv().await? {
                Moment::Taken(at) => taken = taken.or(Some(at)),
                Moment::Answered(at) => break Some(at),
            }
        }
    })
    .await;
    child.kill()?;
    child.wait()?;
    let answered = answered.ok().flatten().context("the client gave no answer")?;
    Ok(FirstInvocation {
        taken: taken.context("the client answered without asking")?.since(begin),
        answered: answered.since(begin),
    })
}

async fn serve(listener: TcpListener, server: Arc<Server>) {
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let server = server.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(server.clone(), request));
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(server: Arc<Server>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.method() == Method::GET {
        let _ = server.moments.send(Moment::Taken(server.clock.monotonic()));
        return Ok(event());
    }
    // The answer counts once all of it is here.
    let _ = request.into_body().collect().await;
    let _ = server.moments.send(Moment::Answered(server.clock.monotonic()));
    let mut response = Response::new(Full::new(Bytes::from_static(b"{\"status\":\"OK\"}")));
    *response.status_mut() = StatusCode::ACCEPTED;
    Ok(response)
}

fn event() -> Response<Full<Bytes>> {
    Response::builder()
        .header("Lambda-Runtime-Aws-Request-Id", REQUEST_ID)
        .header("Lambda-Runtime-Deadline-Ms", "4102444800000")
        .header(
            "Lambda-Runtime-Invoked-Function-Arn",
            "arn:aws:lambda:us-east-1:000000000000:function:reference",
        )
        .header("Lambda-Runtime-Trace-Id", "Root=1-00000000-000000000000000000000000")
        .header("Content-Type", "application/json")
        .body(Full::new(Bytes::from_static(EVENT)))
        .expect("all parts are constant and valid")
}
