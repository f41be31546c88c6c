//! What a node does for others: tells what it holds, and runs what they hand to it.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bowline_foundation::limits::STREAMED_BYTES_MAX;
use bowline_sandbox::answer::{self, AnswerStream};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::line::Line;
use super::wire::{Asked, Ending, Errand, Outcome, Refusal, Told};
use crate::error::Error;
use crate::invoke::{Finish, Job, Outlet, run};
use crate::service::{Inner, InvocationRequest, InvocationResponse};

/// Conversations that are held at once; further connections are closed.
const CONVERSATIONS_MAX: usize = 2048;
/// How long the word may be waited for: a sender that has given up says none.
const GO_MAX: Duration = Duration::from_secs(5);
/// How long a conversation may pause between questions.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// Answers all who come, until nobody can come any more.
pub(super) async fn answer(inner: Arc<Inner>, mut connections: mpsc::Receiver<TcpStream>) {
    let mut conversations = JoinSet::new();
    while let Some(connection) = connections.recv().await {
        while conversations.try_join_next().is_some() {}
        if conversations.len() >= CONVERSATIONS_MAX {
            continue;
        }
        let inner = inner.clone();
        conversations.spawn(async move {
            if let Err(error) = converse(&inner, Line::new(connection)).await {
                tracing::debug!(%error, "a conversation with another node ended");
            }
        });
    }
    while conversations.join_next().await.is_some() {}
}

async fn converse(inner: &Arc<Inner>, mut line: Line) -> io::Result<()> {
    // One who pauses too long finds the connection closed and makes another.
    while let Ok(asked) = timeout(PAUSE_MAX, line.asked()).await {
        match asked? {
            None => break,
            Some(Asked::Tell) => line.tell(&Told::Advert(inner.advert())).await?,
            Some(Asked::Facts) => line.tell(&Told::Facts(inner.own_facts(false))).await?,
            Some(Asked::Prepare(checkpoint)) => {
                inner.read_ahead(checkpoint);
                line.tell(&Told::Taken).await?;
            }
            Some(Asked::Offer(offer)) => {
                let told = inner.take_offered(*offer).await;
                line.tell(&told).await?;
            }
            Some(Asked::Invoke(errand)) => run_errand(inner, &mut line, *errand).await?,
            Some(Asked::Go) => return Err(io::Error::new(io::ErrorKind::InvalidData, "nothing waits for the word")),
        }
    }
    Ok(())
}

/// Runs an invocation for another node. Whatever is told of it is told before the node may end.
async fn run_errand(inner: &Arc<Inner>, line: &mut Line, errand: Errand) -> io::Result<()> {
    let _answering = inner.cluster.as_ref().and_then(|cluster| cluster.answering.enter());
    let wants = errand.wants;
    let job = match inner.enter_errand(errand) {
        Ok(job) => job,
        Err(refusal) => return line.tell(&Told::Refused(refusal)).await,
    };
    line.tell(&Told::Taken).await?;
    match timeout(GO_MAX, line.asked()).await {
        Ok(Ok(Some(Asked::Go))) => {}
        Ok(Ok(None)) => return Ok(()),
        Ok(Ok(Some(_))) => return Err(io::Error::new(io::ErrorKind::InvalidData, "not the word")),
        Ok(Err(error)) => return Err(error),
        Err(_) => return Err(io::ErrorKind::TimedOut.into()),
    }
    inner.metrics.cluster.received.inc();
    let ended = if wants.pieces {
        run_in_pieces(inner, line, job).await?
    } else {
        Finish::new(run(inner.clone(), job, None), inner.runtime.clone()).await
    };
    line.tell(&told(ended)).await
}

/// Runs an invocation whose answer is told while the function still writes it.
async fn run_in_pieces(inner: &Arc<Inner>, line: &mut Line, job: Job) -> io::Result<Result<InvocationResponse, Error>> {
    let (sink, mut pieces) = answer::channel(STREAMED_BYTES_MAX);
    let running = inner.runtime.spawn(run(inner.clone(), job, Some(Outlet::new(sink))));
    tell_pieces(line, &mut pieces).await?;
    let lost = |_| Err(Error::Service("the invocation was lost".into()));
    Ok(running.await.unwrap_or_else(lost))
}

async fn tell_pieces(line: &mut Line, pieces: &mut AnswerStream) -> io::Result<()> {
    let Some(content_type) = poll_fn(|cx| pieces.poll_begin(cx)).await else {
        return Ok(());
    };
    line.tell(&Told::Begun(content_type.into())).await?;
    while let Some(piece) = pieces.next().await {
        line.tell(&Told::Piece(piece)).await?;
    }
    Ok(())
}

fn told(ended: Result<InvocationResponse, Error>) -> Told {
    let (result, log_tail) = match ended {
        Ok(response) => {
            let result = match response.result {
                Ok(answer) => Outcome::Answer(answer),
                Err(error) => Outcome::Failed {
                    error_type: error.error_type,
                    payload: error.payload,
                },
            };
            (result, response.log_tail.map(Into::into))
        }
        // There was no room for a sandbox, so that nothing has begun.
        Err(Error::Throttled(_) | Error::MountFailed(_) | Error::Away(_) | Error::MountBusy(_)) => {
            return Told::Refused(Refusal::Full);
        }
        Err(Error::Service(cause)) => (Outcome::Broken(cause.to_string()), None),
        Err(error) => (Outcome::Broken(error.to_string()), None),
    };
    Told::Ended(Ending { result, log_tail })
}

impl Inner {
    /// Lets an invocation in that another node hands on.
    fn enter_errand(&self, errand: Errand) -> Result<Job, Refusal> {
        let request = InvocationRequest {
            request_id: errand.request_id,
            payload: errand.payload,
            client_context: errand.client_context,
            trace_id: errand.trace_id,
            log_tail: errand.wants.log_tail,
            // The other node has chosen the version.
            is_strict: true,
        };
        self.admit_errand((&errand.account, &errand.function, errand.version), errand.identity)
            .map(|admitted| admitted.forwarded_job(errand.invoked_arn, request))
    }
}
