//! The pollers of a mapping that reads a queue: messages, in batches, to their function.
//!
//! ```text
//!   receive (window) ─▶ filter ─▶ invoke ─▶ processed: deleted
//!                          │         └────▶ failed: left, and visible again when their time is over
//!                          └─▶ does not pass: deleted
//! ```
//! What a queue gives is withheld from others for its visibility timeout; whatever is not deleted by then
//! comes again, so nothing of a batch is kept here. The queue counts the receipts and has its own place for
//! messages that fail too often.

mod record;

use std::sync::Arc;
use std::time::Duration;

use bowline_aws::CallError;
use bowline_aws::sqs::{MESSAGES_MAX, Message, Queue, Sqs};
use bowline_foundation::id::RequestId;
use bowline_store::Sharing;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::arn::QueueName;
use super::batch;
use super::mapping::{self, Until};
use super::turn::Candidate;
use crate::error::Error;
use crate::metrics::{Counted, EventCounts};
use crate::model::events::MappingSettings;
use crate::name::FunctionRef;
use crate::operations::mappings;
use crate::pattern::Pattern;
use crate::registry::MappingEntry;
use crate::service::{Inner, InvocationRequest};
use record::Frame;

/// Requests for messages that wait at once where no window gathers them.
const POLLERS: usize = 5;
/// Invocations at once of a mapping without a limit of its own.
const CONCURRENCY_MAX: usize = 1000;
/// Bytes of the bodies of a batch after which no more is received: escaped, they fit in an event.
const BATCH_BYTES_MAX: usize = 3_000_000;

/// What reads one queue for one function.
#[derive(Clone)]
pub(super) struct Poller {
    id: String,
    function: FunctionRef,
    settings: MappingSettings,
    filters: Vec<Pattern>,
    frame: Frame,
    sqs: Sqs,
    queue: Queue,
    is_ordered: bool,
    /// How long messages are withheld from others.
    visibility: Duration,
    counts: EventCounts,
    until: Until,
}

/// What became of the messages of one invocation.
enum Tried {
    /// All are done but those of these identifiers.
    Processed(Vec<String>),
    /// None is done; they come again.
    Failed,
    /// What there is to say of it.
    NotNow(&'static str),
    TooLarge,
}

impl Inner {
    /// Finds the mapping's queue.
    pub(super) async fn poller(
        self: &Arc<Self>,
        entry: &MappingEntry,
        until: Until,
        name: &QueueName,
    ) -> Result<Poller, Error> {
        let mapping = &entry.mapping;
        let sqs = until.engine.outside.queues()?.clone();
        let (queue, visibility) = find(&sqs, name).await?;
        if entry.session.as_ref() != Some(&queue.url) {
            mappings::settle(self, &mapping.id, queue.url.clone()).await?;
        }
        Ok(Poller {
            id: mapping.id.clone(),
            function: mapping.function.clone(),
            settings: mapping.settings.clone(),
            filters: mapping::filters(mapping)?,
            frame: Frame {
                source_arn: mapping.source_arn.clone(),
                region: self.region().to_owned(),
            },
            sqs,
            queue,
            is_ordered: name.is_ordered(),
            visibility,
            counts: self.metrics.mappings.of(&mapping.id, mapping.settings.counts_events),
            until,
        })
    }

    /// Polls until the mapping changes or the node stops, then waits for what was taken up. Where a limit on the
    /// mapping's invocations is to hold, one node polls at a time.
    pub(super) async fn run_poller(self: Arc<Self>, poller: Poller) {
        let limit = poller.settings.concurrency_max;
        let Some(_local) = poller.until.local_turn(&poller.id, limit.is_some()).await else {
            return;
        };
        match (limit, self.registry.sharing) {
            (None, _) => self.poll_with(poller, CONCURRENCY_MAX).await,
            (Some(limit), Sharing::Exclusive) => self.poll_with(poller, limit as usize).await,
            (Some(limit), Sharing::Shared) => self.poll_in_turn(poller, limit as usize).await,
        }
    }

    /// Polls whenever it is this node's turn.
    async fn poll_in_turn(self: Arc<Self>, poller: Poller, concurrency: usize) {
        let lease = poller.until.engine.timing.lease;
        let candidate = || {
            let holder = RequestId::random(&self.entropy).to_string();
            Candidate::new((&self.registry, &poller.id), holder, lease)
        };
        let mut waiting = candidate();
        while poller.until.runs() {
            let mut turn = match waiting.look().await {
                Ok(turn) => turn,
                Err(candidate) => {
                    poller.until.pause(candidate.pause()).await;
                    waiting = candidate;
                    continue;
                }
            };
            let (stop, stopped) = watch::channel(false);
            let mine = Poller {
                until: Until {
                    stop: stopped,
                    ..poller.until.clone()
                },
                ..poller.clone()
            };
            let keep = async {
                tokio::select! {
                    () = turn.keep() => {}
                    () = poller.until.stopped() => {}
                }
                stop.send_replace(true);
                // Nobody else begins before what was taken up has ended.
                loop {
                    turn.keep().await;
                }
            };
            tokio::select! {
                () = self.clone().poll_with(mine, concurrency) => {}
                () = keep => {}
            }
            turn.give_back().await;
            waiting = candidate();
        }
    }

    /// Polls with at most so many invocations at once.
    async fn poll_with(self: Arc<Self>, poller: Poller, concurrency: usize) {
        let permits = Arc::new(Semaphore::new(concurrency));
        let poller = Arc::new(poller);
        let mut running = JoinSet::new();
        // One alone gathers what comes within a window; several would each get a part of it.
        let pollers = match poller.settings.window_seconds {
            0 => POLLERS.min(concurrency),
            _ => 1,
        };
        for _ in 0..pollers {
            running.spawn(self.clone().poll(poller.clone(), permits.clone()));
        }
        while running.join_next().await.is_some() {}
    }

    async fn poll(self: Arc<Self>, poller: Arc<Poller>, permits: Arc<Semaphore>) {
        let mut failures = 0;
        let mut processing = JoinSet::new();
        while poller.until.runs() {
            let permit = tokio::select! {
                () = poller.until.stopped() => break,
                permit = permits.clone().acquire_owned() => permit.expect("the semaphore is never closed"),
            };
            match poller.gather().await {
                Ok(messages) => {
                    failures = 0;
                    while processing.try_join_next().is_some() {}
                    if !messages.is_empty() {
                        let work = self.clone().process_messages(poller.clone(), messages);
                        let work = async move {
                            work.await;
                            drop(permit);
                        };
                        // The queue withholds what comes after messages in hand: asking earlier is in vain.
                        if poller.is_ordered {
                            work.await;
                        } else {
                            processing.spawn(work);
                        }
                    }
                }
                Err(error) => {
                    failures += 1;
                    tracing::warn!(
                        mapping = poller.id,
                        error = &error as &dyn std::error::Error,
                        "a mapping's queue cannot be read"
                    );
                    let note = "PROBLEM: The queue cannot be read";
                    self.registry.mappings.note(&poller.id, note);
                    drop(permit);
                    poller.until.pause(poller.until.engine.backoff().after(failures)).await;
                }
            }
        }
        while processing.join_next().await.is_some() {}
    }

    /// Hands messages to the function and deletes those that are done.
    async fn process_messages(self: Arc<Self>, poller: Arc<Poller>, messages: Vec<Message>) {
        let received = Instant::now();
        let (passing, others): (Vec<_>, Vec<_>) = messages
            .iter()
            .partition(|message| record::passes(&poller.filters, message));
        let function = poller.function.name.as_str();
        self.metrics.events.batch(function, others.len());
        poller.counts.add(Counted::Polled, messages.len());
        poller.counts.add(Counted::FilteredOut, others.len());
        poller.delete(&others).await;
        let mut parts = vec![&passing[..]];
        let mut throttles = 0;
        while let Some(part) = parts.pop() {
            if part.is_empty() || !poller.until.runs() {
                continue;
            }
            let tried = self.try_messages(&poller, part).await;
            poller.count(&tried, part.len());
            match tried {
                Tried::Processed(failed) => {
                    self.registry.mappings.note(&poller.id, "OK");
                    let is_done = |message: &&&Message| !failed.contains(&message.message_id);
                    let done: Vec<_> = part.iter().filter(is_done).copied().collect();
                    let deleted = poller.delete(&done).await;
                    poller.counts.add(Counted::Deleted, deleted);
                }
                Tried::Failed => self.registry.mappings.note(&poller.id, mapping::FAILED),
                Tried::TooLarge => {
                    let (first, second) = part.split_at(part.len() / 2);
                    parts.extend([second, first]);
                }
                Tried::NotNow(problem) => {
                    self.registry.mappings.note(&poller.id, problem);
                    throttles += 1;
                    let pause = poller.until.engine.backoff().after(throttles);
                    // What would be visible to others before it is done is left to them.
                    if received.elapsed() + pause < poller.visibility / 2 {
                        poller.until.pause(pause).await;
                        parts.push(part);
                    }
                }
            }
        }
    }

    async fn try_messages(self: &Arc<Self>, poller: &Poller, messages: &[&Message]) -> Tried {
        let request = InvocationRequest {
            request_id: RequestId::random(&self.entropy),
            payload: record::payload(&poller.frame, messages),
            client_context: None,
            trace_id: None,
            log_tail: false,
            is_strict: false,
        };
        let response = match self.invoke(&poller.function, request).await {
            Ok(response) => response,
            Err(Error::RequestTooLarge(_)) if messages.len() > 1 => return Tried::TooLarge,
            Err(error) => {
                tracing::debug!(
                    mapping = poller.id,
                    error = &error as &dyn std::error::Error,
                    "a batch waits"
                );
                return Tried::NotNow(mapping::waiting(&error));
            }
        };
        match response.result {
            Err(_) => Tried::Failed,
            Ok(_) if !poller.settings.reports_failures => Tried::Processed(Vec::new()),
            Ok(answer) => judge(&answer, messages),
        }
    }
}

/// What an answer that may name failures means.
fn judge(answer: &[u8], messages: &[&Message]) -> Tried {
    let is_here = |name: &String| messages.iter().any(|message| message.message_id == *name);
    match batch::failures(answer) {
        Some(failed) if failed.iter().all(is_here) => Tried::Processed(failed),
        _ => Tried::Failed,
    }
}

/// The queue of a name, with its visibility timeout.
pub(crate) async fn find(sqs: &Sqs, name: &QueueName) -> Result<(Queue, Duration), Error> {
    let refused = |error: CallError| match error {
        CallError::Refused(refusal) => Error::InvalidParameter(format!(
            "Error occurred while GetQueueUrl. SQS Error Code: {}. SQS Error Message: {}",
            refusal.code, refusal.message
        )),
        error => Error::InvalidParameter(format!("The queue service cannot be asked: {error}")),
    };
    let queue = sqs.queue(name.account.as_str(), &name.name).await.map_err(refused)?;
    let visibility = sqs.visibility_timeout(&queue).await.map_err(refused)?;
    Ok((queue, visibility))
}

impl Poller {
    /// A batch: what comes within the window after the first message, up to the batch's size.
    async fn gather(&self) -> Result<Vec<Message>, CallError> {
        let size = self.settings.batch_size as usize;
        let window = Duration::from_secs(self.settings.window_seconds.into());
        let mut messages = self.receive(size, self.until.engine.timing.wait).await?;
        let first = Instant::now();
        let mut bytes: usize = messages.iter().map(|message| message.body.len()).sum();
        while !messages.is_empty() && messages.len() < size && bytes < BATCH_BYTES_MAX && self.until.runs() {
            let left = window.saturating_sub(first.elapsed());
            if left.is_zero() {
                break;
            }
            // What came already is not lost to a request that fails.
            let Ok(more) = self.receive(size - messages.len(), left).await else {
                break;
            };
            if more.is_empty() && left < Duration::from_secs(1) {
                break;
            }
            bytes += more.iter().map(|message| message.body.len()).sum::<usize>();
            messages.extend(more);
        }
        Ok(messages)
    }

    async fn receive(&self, messages_max: usize, wait: Duration) -> Result<Vec<Message>, CallError> {
        tokio::select! {
            () = self.until.stopped() => Ok(Vec::new()),
            received = self.sqs.receive(&self.queue, messages_max.min(MESSAGES_MAX), wait) => received,
        }
    }

    /// Counts what a try of so many messages gave.
    fn count(&self, tried: &Tried, messages: usize) {
        let (invoked, failed) = match tried {
            Tried::Processed(failed) => (messages, failed.len().min(messages)),
            Tried::Failed => (messages, messages),
            Tried::NotNow(_) => (0, messages),
            Tried::TooLarge => (0, 0),
        };
        self.counts.add(Counted::Invoked, invoked);
        self.counts.add(Counted::Failed, failed);
    }

    /// Deletes messages from the queue; returns how many of them.
    async fn delete(&self, messages: &[&Message]) -> usize {
        let receipts: Vec<&str> = messages.iter().map(|message| message.receipt_handle.as_str()).collect();
        match self.sqs.delete(&self.queue, &receipts).await {
            Ok(0) => messages.len(),
            Ok(left) => {
                tracing::warn!(mapping = self.id, left, "messages that are done come again");
                messages.len().saturating_sub(left)
            }
            Err(error) => {
                tracing::warn!(
                    mapping = self.id,
                    error = &error as &dyn std::error::Error,
                    "messages that are done come again"
                );
                0
            }
        }
    }
}
