//! A component's response on its way to the caller while the component still writes it.

use bowline_sandbox::AnswerSink;
use bowline_sandbox::answer::HTTP_CONTENT_TYPE;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use tokio::sync::oneshot;
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;

use super::{NoAnswer, Response, broke_off, event};

/// Passes a response on: its head as JSON, then its body frame by frame.
pub(super) async fn pass_on(
    receiver: oneshot::Receiver<Result<Response, ErrorCode>>,
    mut sink: AnswerSink,
) -> Result<Bytes, NoAnswer> {
    let response = receiver.await.map_err(|_| NoAnswer::Silent)?;
    let (head, mut body) = response.map_err(NoAnswer::Error)?.into_parts();
    sink.begin(HTTP_CONTENT_TYPE);
    let refuse = |refused: bowline_sandbox::AnswerTooLarge| NoAnswer::Body(refused.into());
    sink.send(event::prelude(&head)).await.map_err(refuse)?;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| NoAnswer::Body(broke_off(&error)))?;
        if let Ok(piece) = frame.into_data() {
            sink.send(piece).await.map_err(refuse)?;
        }
    }
    Ok(Bytes::new())
}
