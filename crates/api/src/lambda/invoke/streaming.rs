//! InvokeWithResponseStream: the answer as messages of an event stream, each sent when the function wrote it.

use std::task::{Context, Poll, ready};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bowline_foundation::id::RequestId;
use bowline_functions::{Interruption, ResponsePiece, ResponseStream, StreamEnd};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use serde::Serialize;

use super::{
    EXECUTED_VERSION, INVOCATION_TYPE, TRACE_ID, dry_run, name_node, read, refuse_modes, request, text, trace_header,
    version_value,
};
use crate::body::{Body, BrokenOff, Pieces};
use crate::dispatch::Call;
use crate::error::ApiError;
use crate::event_stream;
use crate::reply;

const EVENT_STREAM: HeaderValue = HeaderValue::from_static(event_stream::CONTENT_TYPE);

const MESSAGE_TYPE: &str = ":message-type";
const CONTENT_TYPE: &str = ":content-type";
const PAYLOAD_CHUNK: [(&str, &str); 3] = [
    (MESSAGE_TYPE, "event"),
    (":event-type", "PayloadChunk"),
    (CONTENT_TYPE, "application/octet-stream"),
];
const INVOKE_COMPLETE: [(&str, &str); 3] = [
    (MESSAGE_TYPE, "event"),
    (":event-type", "InvokeComplete"),
    (CONTENT_TYPE, "application/json"),
];
const SERVICE_EXCEPTION: [(&str, &str); 3] = [
    (MESSAGE_TYPE, "exception"),
    (":exception-type", "ServiceException"),
    (CONTENT_TYPE, "application/json"),
];

/// `InvokeWithResponseStream`.
pub async fn invoke(call: &Call<'_>, payload: Bytes) -> Result<Response<Body>, ApiError> {
    let target = call.qualified_function()?;
    let is_dry_run = is_dry_run(call.headers)?;
    refuse_modes(call.headers)?;
    let request = request(call, payload)?;
    if is_dry_run {
        return dry_run(call, &target);
    }
    let trace_id = trace_header(&request);
    let started = call.node.functions.invoke_streaming(&target, request).await?;
    let node = started.node;
    let messages = Messages {
        stream: started.body,
        request_id: call.request_id,
    };
    let mut response = reply::made(StatusCode::OK, EVENT_STREAM, Box::new(messages));
    let headers = response.headers_mut();
    headers.insert(EXECUTED_VERSION, version_value(started.executed_version));
    name_node(headers, node);
    if let Some(trace_id) = trace_id {
        headers.insert(TRACE_ID, trace_id);
    }
    Ok(response)
}

fn is_dry_run(headers: &HeaderMap) -> Result<bool, ApiError> {
    match text(headers, &INVOCATION_TYPE)? {
        None | Some("RequestResponse") => Ok(false),
        Some("DryRun") => Ok(true),
        Some(other) => Err(read::invalid(
            other,
            "invocationType",
            "Member must satisfy enum value set: [RequestResponse, DryRun]",
        )),
    }
}

/// The body: a message for each piece of the answer, and one for its end.
struct Messages {
    stream: ResponseStream,
    request_id: RequestId,
}

impl Pieces for Messages {
    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, BrokenOff>>> {
        let piece = ready!(self.stream.poll_next(context));
        Poll::Ready(piece.map(|piece| {
            Ok(match piece {
                ResponsePiece::Data(bytes) => event_stream::encode(&PAYLOAD_CHUNK, &bytes),
                ResponsePiece::End(end) => self.end(end),
            })
        }))
    }
}

#[derive(Default, Serialize)]
#[serde(rename_all = "PascalCase")]
struct InvokeComplete {
    #[serde(skip_serializing_if = "Option::is_none")]
    error_code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error_details: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    log_result: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct ServiceException {
    #[serde(rename = "Type")]
    fault: &'static str,
    message: String,
}

impl Messages {
    fn end(&self, end: StreamEnd) -> Bytes {
        let mut complete = InvokeComplete {
            log_result: end.log_tail.map(|tail| STANDARD.encode(tail)),
            ..InvokeComplete::default()
        };
        match end.result {
            Ok(()) => {}
            Err(Interruption::Function(error)) => {
                complete.error_code = Some(error.error_type);
                complete.error_details = Some(String::from_utf8_lossy(&error.payload).into_owned());
            }
            Err(Interruption::Service(error)) => {
                tracing::error!(request_id = %self.request_id, ?error, "a streamed answer broke off");
                let exception = ServiceException {
                    fault: "Service",
                    message: error.to_string(),
                };
                return message(&SERVICE_EXCEPTION, &exception);
            }
        }
        message(&INVOKE_COMPLETE, &complete)
    }
}

fn message(headers: &[(&str, &str)], payload: &impl Serialize) -> Bytes {
    let payload = serde_json::to_vec(payload).expect("texts always serialise");
    event_stream::encode(headers, &payload)
}
