//! An event on its way to a sandbox.

use std::time::Duration;

use bowline_foundation::clock::{Clock, Timestamp};
use bowline_foundation::id::RequestId;
use bowline_sandbox::{AnswerSink, Deadline, Invocation, Platform};
use bytes::{BufMut, Bytes, BytesMut};
use std::sync::Arc;

use super::{byte, long, put_text, take_text};
use crate::wire::WireError;

const WHAT: &str = "an event";
const REQUEST_ID_BYTES: usize = 36;
/// Stands for an invocation without a sink.
const NO_SINK: u64 = u64::MAX;

/// What an event's frame says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvokeMessage {
    pub request_id: RequestId,
    pub wall: Timestamp,
    pub budget: Duration,
    /// The longest streamed answer, if the caller takes it so.
    pub stream_bytes_max: Option<u64>,
    /// Whether the guest may ask the platform.
    pub asks: bool,
    pub invoked_arn: String,
    pub client_context: Option<String>,
    pub trace_id: Option<String>,
    pub payload: Bytes,
}

/// Writes an invocation without copying anything but its bytes.
pub fn put(out: &mut BytesMut, invocation: &Invocation) {
    out.extend_from_slice(invocation.request_id.as_str().as_bytes());
    out.put_u64_le(invocation.deadline.wall.as_micros());
    out.put_u64_le(micros(invocation.deadline.budget));
    // One less than no limit is no limit either.
    let stream = invocation.sink.as_ref().map(|sink| sink.bytes_max().min(NO_SINK - 1));
    out.put_u64_le(stream.unwrap_or(NO_SINK));
    out.put_u8(invocation.platform.is_some().into());
    put_text(out, Some(&invocation.invoked_arn));
    put_text(out, invocation.client_context.as_deref());
    put_text(out, invocation.trace_id.as_deref());
    out.extend_from_slice(&invocation.payload);
}

/// Reads one.
pub fn take(mut body: Bytes) -> Result<InvokeMessage, WireError> {
    let wrong = || WireError::Body(WHAT);
    if body.len() < REQUEST_ID_BYTES {
        return Err(wrong());
    }
    let id = body.split_to(REQUEST_ID_BYTES);
    let id = std::str::from_utf8(&id).ok().and_then(|text| text.parse().ok());
    Ok(InvokeMessage {
        request_id: id.ok_or_else(wrong)?,
        wall: Timestamp::from_micros(long(&mut body, WHAT)?),
        budget: Duration::from_micros(long(&mut body, WHAT)?),
        stream_bytes_max: Some(long(&mut body, WHAT)?).filter(|max| *max != NO_SINK),
        asks: match byte(&mut body, WHAT)? {
            0 => false,
            1 => true,
            _ => return Err(wrong()),
        },
        invoked_arn: take_text(&mut body)?.ok_or_else(wrong)?,
        client_context: take_text(&mut body)?,
        trace_id: take_text(&mut body)?,
        payload: body,
    })
}

impl InvokeMessage {
    /// The invocation that it asks for, on this machine's clock.
    pub fn invocation(
        self,
        clock: &Clock,
        sink: Option<AnswerSink>,
        platform: Option<Arc<dyn Platform>>,
    ) -> Invocation {
        Invocation {
            request_id: self.request_id,
            payload: self.payload,
            deadline: Deadline {
                wall: self.wall,
                monotonic: clock.monotonic().after(self.budget),
                budget: self.budget,
            },
            invoked_arn: self.invoked_arn,
            client_context: self.client_context,
            trace_id: self.trace_id,
            sink,
            platform,
            // What can be suspended runs in the node.
            suspension: None,
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use bowline_foundation::entropy::Entropy;
    use bowline_sandbox::answer;

    use super::*;

    fn invocation(sink: Option<AnswerSink>, client_context: Option<&str>) -> Invocation {
        let clock = Clock::fake(Timestamp::from_micros(7_000_000));
        let budget = Duration::from_millis(2500);
        Invocation {
            request_id: RequestId::random(&Entropy::seeded(3)),
            payload: Bytes::from_static(br#"{"knot":"bowline"}"#),
            deadline: Deadline {
                wall: clock.now().after(budget),
                monotonic: clock.monotonic().after(budget),
                budget,
            },
            invoked_arn: "arn:aws:lambda:us-east-1:000000000000:function:knots".to_owned(),
            client_context: client_context.map(str::to_owned),
            trace_id: None,
            sink,
            platform: None,
            suspension: None,
        }
    }

    #[test]
    fn an_event_comes_out_as_it_went_in() {
        let (sink, _stream) = answer::channel(4096);
        for (given, stream) in [
            (invocation(None, None), None),
            (invocation(None, Some(r#"{"a":1}"#)), None),
            (invocation(Some(sink), None), Some(4096)),
        ] {
            let mut body = BytesMut::new();
            put(&mut body, &given);
            let read = take(body.clone().freeze()).unwrap();
            assert_eq!(read.request_id, given.request_id);
            assert_eq!((read.wall, read.budget), (given.deadline.wall, given.deadline.budget));
            assert_eq!(read.stream_bytes_max, stream);
            assert_eq!(read.client_context, given.client_context);
            assert_eq!((read.trace_id, read.asks), (None, false));
            assert_eq!(
                (read.invoked_arn, read.payload),
                (given.invoked_arn, given.payload.clone())
            );
            for cut in 0..body.len() - given.payload.len() {
                assert!(take(body.clone().freeze().slice(..cut)).is_err(), "cut at {cut}");
            }
        }
    }
}
