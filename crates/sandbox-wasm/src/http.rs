//! `wasi:http` components: an event becomes a request, its response becomes the answer.
//!
//! Each invocation has an instance of its own. Requests that the guest wants to send are refused: a
//! function has no network.

mod event;
mod streaming;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use async_trait::async_trait;
use bowline_foundation::limits::SYNC_PAYLOAD_BYTES_MAX;
use bowline_sandbox::{FunctionError, Invocation, LogSink, Outcome};
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use tokio::io::AsyncWrite;
use tokio::sync::oneshot;
use wasmtime::component::{Linker, ResourceTable};
use wasmtime::{Engine, Result, Store};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};
use wasmtime_wasi_http::p2::body::HyperOutgoingBody;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView};

use crate::failure::Scene;
use crate::guest::{Limits, Surroundings};
use crate::store;

/// The response as the component gave it.
type Response = http::Response<HyperOutgoingBody>;

/// The state of one component instance.
pub(crate) struct HttpGuest {
    limits: Limits,
    table: ResourceTable,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: NoNetwork,
}

impl WasiView for HttpGuest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl WasiHttpView for HttpGuest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            hooks: &mut self.hooks,
            table: &mut self.table,
            ctx: &mut self.http,
        }
    }
}

/// Refuses every outgoing request.
struct NoNetwork;

/// A future that says how a transfer went.
type Transfer = Box<dyn Future<Output = Result<(), Error>> + Send>;
/// A future that gives the response of an outgoing request.
type Sending = Box<dyn Future<Output = Result<(http::Response<WasiBody>, Transfer), Error>> + Send>;

impl WasiHttpHooks for NoNetwork {
    fn send_request(&mut self, _: http::Request<WasiBody>, _: Option<RequestOptions>, _: Transfer) -> Sending {
        Box::new(async { Err(Error::DestinationIpProhibited) })
    }
}

/// A linker with everything a component may import.
pub(crate) fn linker(engine: &Engine) -> Result<Linker<HttpGuest>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    Ok(linker)
}

impl HttpGuest {
    /// A guest with these variables.
    pub(crate) fn new(surroundings: &Arc<Surroundings>, environment: &[(String, String)]) -> Self {
        let log = GuestLog(surroundings.log.clone());
        Self {
            limits: Limits::new(surroundings.clone()),
            table: ResourceTable::new(),
            wasi: WasiCtx::builder()
                .envs(environment)
                .stdout(log.clone())
                .stderr(log)
                .build(),
            http: WasiHttpCtx::new(),
            hooks: NoNetwork,
        }
    }
}

/// Why a component gave no answer.
enum NoAnswer {
    /// It ended without a response.
    Silent,
    /// It answered with an error of `wasi:http`.
    Error(ErrorCode),
    /// Its body broke off or is too large.
    Body(FunctionError),
}

/// Runs one invocation in an instance of its own.
pub(crate) async fn serve(program: &ProxyPre<HttpGuest>, guest: HttpGuest, mut invocation: Invocation) -> Outcome {
    let sink = invocation.sink.take();
    let memory = guest.limits.memory();
    let request = event::request(&invocation.payload).map(|body| body.map_err(|never| match never {}).boxed_unsync());
    let mut store = Store::new(program.engine(), guest);
    store.limiter(|guest| &mut guest.limits);
    store::give_way_at_ticks(&mut store);
    let (sender, receiver) = oneshot::channel();
    let handle = async move {
        let result = handle(program, &mut store, request, sender).await;
        let memory_refused = store.data().limits.refused();
        // The store goes before the result is known: what waits for a response then stops waiting.
        drop(store);
        result.map_err(|error| (error, memory_refused))
    };
    let answer = async {
        match sink {
            None => collect(receiver).await,
            Some(sink) => streaming::pass_on(receiver, sink).await,
        }
    };
    let (handled, answer) = tokio::join!(handle, answer);
    match (handled, answer) {
        (_, Ok(answer)) => Outcome::Success(answer),
        (Err((error, memory_refused)), _) => {
            let scene = Scene {
                request_id: invocation.request_id,
                memory,
                memory_refused,
            };
            scene.outcome(error)
        }
        (Ok(()), Err(NoAnswer::Silent)) => Outcome::Failed(FunctionError::new(
            "Runtime.NoResponse",
            "the component ended without a response",
        )),
        (Ok(()), Err(NoAnswer::Error(code))) => {
            Outcome::Failed(FunctionError::new("Runtime.HttpError", &format!("{code:?}")))
        }
        (Ok(()), Err(NoAnswer::Body(error))) => Outcome::Failed(error),
    }
}

async fn handle(
    program: &ProxyPre<HttpGuest>,
    store: &mut Store<HttpGuest>,
    request: http::Request<WasiBody>,
    sender: oneshot::Sender<Result<Response, ErrorCode>>,
) -> Result<()> {
    let request = store.data_mut().http().new_incoming_request(Scheme::Http, request)?;
    let response = store.data_mut().http().new_response_outparam(sender)?;
    let proxy = program.instantiate_async(&mut *store).await?;
    proxy
        .wasi_http_incoming_handler()
        .call_handle(&mut *store, request, response)
        .await
}

async fn collect(receiver: oneshot::Receiver<Result<Response, ErrorCode>>) -> Result<Bytes, NoAnswer> {
    let response = receiver.await.map_err(|_| NoAnswer::Silent)?;
    let (head, body) = response.map_err(NoAnswer::Error)?.into_parts();
    let body = Limited::new(body, SYNC_PAYLOAD_BYTES_MAX).collect().await;
    let body = body.map_err(|error| {
        NoAnswer::Body(if error.is::<LengthLimitError>() {
            FunctionError::response_too_large(SYNC_PAYLOAD_BYTES_MAX as u64 + 1, SYNC_PAYLOAD_BYTES_MAX)
        } else {
            broke_off(&error)
        })
    })?;
    let answer = event::answer(&head, &body.to_bytes());
    if answer.len() > SYNC_PAYLOAD_BYTES_MAX {
        let error = FunctionError::response_too_large(answer.len() as u64, SYNC_PAYLOAD_BYTES_MAX);
        return Err(NoAnswer::Body(error));
    }
    Ok(answer)
}

fn broke_off(error: &dyn std::fmt::Display) -> FunctionError {
    FunctionError::new("Runtime.HttpError", &format!("the response broke off: {error}"))
}

/// Standard output and error of a component: both go to the log.
#[derive(Clone)]
struct GuestLog(Arc<dyn LogSink>);

/// Bytes a component may write at once.
const WRITE_BYTES_MAX: usize = 64 * 1024;

impl IsTerminal for GuestLog {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for GuestLog {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl Pollable for GuestLog {
    async fn ready(&mut self) {}
}

impl OutputStream for GuestLog {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.0.write(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES_MAX)
    }
}

impl AsyncWrite for GuestLog {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.0.write(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
