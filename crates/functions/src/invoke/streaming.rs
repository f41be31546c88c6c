//! An invocation whose answer is taken while the function still writes it.
//!
//! ```text
//!   enter ─▶ run, polled by the caller ─┬─ ended ──────────────▶ all pieces and the end are there
//!                                       └─ the answer begins ──▶ run goes on as a task of its own
//! ```
//! Up to its first piece the invocation runs where the caller waits, as a buffered one does. From then on
//! it must not depend on how fast the caller reads: its deadline and its log go on.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use bowline_foundation::limits::STREAMED_BYTES_MAX;
use bowline_sandbox::FunctionError;
use bowline_sandbox::answer::{self, AnswerStream};
use bytes::Bytes;
use tokio::sync::oneshot;

use super::pace::Pace;
use super::run::{Finish, Outlet, run};
use crate::error::Error;
use crate::name::FunctionRef;
use crate::service::{Inner, InvocationRequest, InvocationResponse, StreamingResponse};

/// How an invocation ended.
type Ended = Result<InvocationResponse, Error>;

impl Inner {
    pub async fn invoke_streaming(
        self: &Arc<Self>,
        target: &FunctionRef,
        request: InvocationRequest,
    ) -> Result<StreamingResponse, Error> {
        let job = self.enter(target, request).await?;
        let executed_version = job.pool.parts.version;
        let (sink, mut pieces) = answer::channel(STREAMED_BYTES_MAX);
        let outlet = Outlet::new(sink);
        let ran_on = outlet.ran_on.clone();
        let mut running = Finish::new(run(self.clone(), job, Some(outlet)), self.runtime.clone());
        let ended = poll_fn(|cx| match Pin::new(&mut running).poll(cx) {
            Poll::Ready(ended) => Poll::Ready(Some(ended)),
            Poll::Pending => match pieces.poll_begin(cx) {
                Poll::Ready(Some(_)) => Poll::Ready(None),
                // Without a sink nothing begins any more: the end is near, and woken for.
                Poll::Ready(None) | Poll::Pending => Poll::Pending,
            },
        })
        .await;
        let content_type = pieces.content_type();
        let end = match ended {
            Some(Err(error)) if content_type.is_none() => return Err(error),
            Some(ended) => End::Known(Box::new(ended)),
            None => {
                let (tell, told) = oneshot::channel();
                // Nobody may listen any more: the log and the metrics have it all the same.
                self.runtime.spawn(async move { drop(tell.send(running.await)) });
                End::Awaited(told)
            }
        };
        Ok(StreamingResponse {
            executed_version,
            content_type,
            node: Some(ran_on.load(Ordering::Acquire)).filter(|node| *node != 0),
            body: ResponseStream {
                pieces,
                end,
                pace: self
                    .stream_bytes_per_second
                    .map(|rate| Pace::new(self.clock.clone(), rate)),
            },
        })
    }
}

/// The body of a streamed answer; dropped before its end, it leaves the invocation running.
pub struct ResponseStream {
    pieces: AnswerStream,
    end: End,
    /// Holds the answer to its bandwidth, if that is limited.
    pace: Option<Pace>,
}

enum End {
    /// The invocation still runs.
    Awaited(oneshot::Receiver<Ended>),
    /// It has ended; there may be pieces left.
    Known(Box<Ended>),
    Told,
}

/// A part of a streamed answer.
#[derive(Debug)]
pub enum ResponsePiece {
    /// Bytes of the answer, at least one.
    Data(Bytes),
    /// The invocation has ended; nothing follows.
    End(StreamEnd),
}

/// How a streamed answer ended.
#[derive(Debug)]
pub struct StreamEnd {
    /// Whether the answer is whole.
    pub result: Result<(), Interruption>,
    /// The last 4 KiB of the invocation's log, if wanted.
    pub log_tail: Option<Vec<u8>>,
}

/// Why an answer is not whole.
#[derive(Debug)]
pub enum Interruption {
    /// The function failed.
    Function(FunctionError),
    /// The platform failed.
    Service(Error),
}

impl ResponseStream {
    /// The next part; `None` after the end was told.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<ResponsePiece>> {
        if let Some(pace) = &mut self.pace {
            ready!(pace.poll_ready(cx));
        }
        let next = ready!(self.poll_unpaced(cx));
        if let (Some(pace), Some(ResponsePiece::Data(piece))) = (&mut self.pace, &next) {
            pace.spend(piece.len());
        }
        Poll::Ready(next)
    }

    fn poll_unpaced(&mut self, cx: &mut Context<'_>) -> Poll<Option<ResponsePiece>> {
        loop {
            if let Poll::Ready(Some(piece)) = self.pieces.poll_next(cx) {
                return Poll::Ready(Some(ResponsePiece::Data(piece)));
            }
            match &mut self.end {
                End::Awaited(ended) => {
                    // The sender goes away without a word only when the node stops at once.
                    let lost = |_| Err(Error::Service("the invocation was lost".into()));
                    let ended = ready!(Pin::new(ended).poll(cx)).unwrap_or_else(lost);
                    // Pieces may have come between the two looks.
                    self.end = End::Known(Box::new(ended));
                }
                End::Known(_) => return Poll::Ready(self.conclude()),
                End::Told => return Poll::Ready(None),
            }
        }
    }

    /// The next part; `None` after the end was told.
    pub async fn next(&mut self) -> Option<ResponsePiece> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// What is left once all streamed pieces are taken: an answer in one piece, then the end.
    fn conclude(&mut self) -> Option<ResponsePiece> {
        let End::Known(ended) = &mut self.end else {
            return None;
        };
        if let Ok(response) = &mut **ended
            && let Ok(answer) = &mut response.result
            && !answer.is_empty()
        {
            return Some(ResponsePiece::Data(std::mem::take(answer)));
        }
        let End::Known(ended) = std::mem::replace(&mut self.end, End::Told) else {
            return None;
        };
        Some(ResponsePiece::End(match *ended {
            Ok(response) => StreamEnd {
                result: response.result.map(drop).map_err(Interruption::Function),
                log_tail: response.log_tail,
            },
            Err(error) => StreamEnd {
                result: Err(Interruption::Service(error)),
                log_tail: None,
            },
        }))
    }
}
