//! Records of events that are over, on their way to destinations; those that are not taken now wait on disk.
//!
//! ```text
//!   an event is over ─▶ sent at once ── taken, or never will be ─▶ nothing is left
//!                          │ not now, not in time, too much in hand, the node stops
//!                          ▼
//!                  bowline.waiting.DESTINATION ─▶ sent again, 1 s to 5 min ── taken ─▶ acknowledged
//! ```
//! An event whose record lies there is over, so a destination that is away holds up nobody but itself: neither other
//! events of the function nor other destinations, and memory holds one set of each line at most. A node that cannot
//! deliver gives the set back, and any other one may try. Records are kept as long as events of the platform's streams.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bowline_foundation::digest::Digest;
use bowline_store::CommitError;
use bowline_store::limits::VALUE_BYTES_MAX;
use bowline_stream::session::Batch;
use bowline_stream::{BODY_BYTES_MAX, Position, Record, StreamId};
use bytes::Bytes;
use tokio::sync::SemaphorePermit;
use tokio::task::JoinSet;

use super::arn::INTERNAL;
use super::attempt::Ending;
use super::content::Content;
use super::deliver::{Failure, Sending};
use super::engine::Engine;
use super::parcel::{Head, Parcel, What};
use super::queue::HEAD_BYTES_MAX;
use super::set::Reader;
use crate::error::Error;
use crate::name::{Qualifier, Version};
use crate::service::Inner;

/// Bytes of payloads that are in hand for destinations at one node.
pub(super) const IN_HAND_BYTES_MAX: u32 = 64 * 1024 * 1024;
/// How long an event waits for its destination before its record waits on disk instead.
const AT_ONCE_MAX: Duration = Duration::from_secs(10);
/// How long a record that has waited may take; services have shorter limits of their own.
const LATER_MAX: Duration = Duration::from_secs(120);
const READER: Reader = Reader {
    session: "bowline-post",
    worker: "post",
    events_max: 16,
    bytes_max: 1024 * 1024,
};
const LINE: &str = "waiting.";

/// The stream in which records wait for a destination.
fn line_name(arn: &str) -> String {
    let digest = Digest::of(arn.as_bytes()).to_string();
    format!("{INTERNAL}{LINE}{}", &digest[..32])
}

/// What became of a record.
enum Sent {
    Over,
    /// Not taken now; where it goes.
    NotNow(String),
}

/// What became of a record that waits.
enum Waited {
    /// It is over, and these parts of it beside its stream, too.
    Over(Vec<String>),
    On,
}

/// What became of a set of them.
struct Posted {
    left: Vec<Position>,
    overflow: Vec<String>,
}

impl Inner {
    /// Sends a record where the configuration says, or has it wait on disk.
    pub(super) async fn hand_over(self: &Arc<Self>, parcel: Parcel) -> Ending {
        let Some(engine) = self.events.clone() else {
            return Ending::Left;
        };
        let sent = match engine.in_hand.try_acquire_many(permits(&parcel.head)) {
            Ok(_permit) => self.send(&engine, &parcel.head, &parcel.payload, AT_ONCE_MAX).await,
            Err(_) => match self.place(&parcel.head) {
                Some(arn) => Sent::NotNow(arn),
                None => self.unwanted(&parcel.head),
            },
        };
        self.crash.reach("event.told");
        match sent {
            Sent::Over => Ending::Over,
            Sent::NotNow(arn) => self.lay_by(&engine, parcel, &line_name(&arn)).await,
        }
    }

    async fn send(self: &Arc<Self>, engine: &Engine, head: &Head, whole: &Bytes, limit: Duration) -> Sent {
        let Some(arn) = self.place(head) else {
            return self.unwanted(head);
        };
        let line = line_name(&arn);
        if !engine.away.admits(&line) {
            return Sent::NotNow(arn);
        }
        let sent = tokio::select! {
            biased;
            () = engine.stopped() => return Sent::NotNow(arn),
            sent = tokio::time::timeout(limit, self.send_once(head, whole, &arn)) => sent,
        };
        let function = &head.function;
        let reason = match sent {
            Ok(Ok(())) => {
                engine.away.answered(&line);
                return Sent::Over;
            }
            Ok(Err(Failure::Never(reason))) => {
                engine.away.answered(&line);
                self.metrics.events.undelivered(function);
                tracing::warn!(
                    function,
                    arn,
                    reason,
                    "a destination does not take a record; it is given up"
                );
                return Sent::Over;
            }
            Ok(Err(Failure::Later(reason))) => reason,
            Err(_) => format!("it has not answered for {} s", limit.as_secs()),
        };
        if engine.away.failed(&line, engine.backoff()) {
            tracing::warn!(
                function,
                arn,
                reason,
                "a destination does not take records now; they wait for it on disk"
            );
        } else {
            tracing::debug!(function, arn, reason, "a destination does not take records yet");
        }
        Sent::NotNow(arn)
    }

    async fn send_once(self: &Arc<Self>, head: &Head, whole: &Bytes, arn: &str) -> Result<(), Failure> {
        let target = head.target().map_err(|error| Failure::Never(error.to_string()))?;
        let latest = Qualifier::Version(Version::Latest);
        let qualifier = target.qualifier.as_ref().unwrap_or(&latest);
        let function_arn = self.arn(&target.account, &target.name, Some(qualifier));
        let outcome = head.outcome(function_arn, whole);
        let content = match head.what {
            What::Outcome => Content::Outcome(&outcome, &head.function),
            What::Letter => Content::Event {
                request_id: &head.request_id,
                payload: &outcome.request,
                trouble: &head.trouble,
            },
        };
        let sending = Sending {
            account: &head.account,
            purpose: head.purpose(),
            content,
            id: head.id(),
            hops: head.hops,
        };
        self.deliver_once(&sending, arn).await
    }

    fn unwanted(&self, head: &Head) -> Sent {
        let function = &head.function;
        tracing::warn!(function, "a record has no destination any more; it is dropped");
        self.metrics.events.undelivered(function);
        Sent::Over
    }

    /// Has a record wait for its destination; once this returns `Over`, it is on disk. The same record is stored once.
    async fn lay_by(self: &Arc<Self>, engine: &Arc<Engine>, mut parcel: Parcel, line: &str) -> Ending {
        let id = parcel.head.id();
        let mut failures = 0;
        loop {
            let laid = async {
                let stream = engine.own_stream(line).await?;
                self.fit(&mut parcel).await.map_err(Error::service)?;
                let record = Record {
                    id: Some(id),
                    key: None,
                    body: parcel.encode(),
                };
                self.append(&stream, record).await.map_err(Error::service)
            };
            match laid.await {
                Ok(()) => {
                    self.crash.reach("event.laid-by");
                    self.metrics.events.laid_by(&parcel.head.function);
                    self.post_if_line(line);
                    return Ending::Over;
                }
                Err(error) => {
                    tracing::warn!(
                        request_id = parcel.head.request_id,
                        error = &error as &dyn std::error::Error,
                        "a record for a destination cannot be stored yet"
                    );
                }
            }
            failures += 1;
            if !engine.pause(engine.backoff().after(failures)).await {
                return Ending::Left;
            }
        }
    }

    /// Moves what does not fit in an event of a stream elsewhere.
    async fn fit(&self, parcel: &mut Parcel) -> Result<(), CommitError> {
        let room = BODY_BYTES_MAX - HEAD_BYTES_MAX;
        while parcel.payload.len() > room {
            // From the end, so that what is left is the beginning whenever this stops.
            let from = parcel.payload.len().saturating_sub(VALUE_BYTES_MAX).max(room);
            let Head {
                request_id,
                what,
                overflow,
                ..
            } = &parcel.head;
            let name = format!("{request_id}-{what:?}-{}", overflow.len());
            let kept = self.registry.put_overflow(&name, parcel.payload.slice(from..)).await?;
            parcel.payload.truncate(from);
            parcel.head.overflow.insert(0, kept);
        }
        Ok(())
    }

    /// Starts the work on a stream in which records wait, unless it is done already.
    pub(super) fn post_if_line(self: &Arc<Self>, name: &str) {
        let Some(engine) = &self.events else { return };
        let is_line = name.strip_prefix(INTERNAL).is_some_and(|name| name.starts_with(LINE));
        let Ok(stream) = StreamId::new(name, 2) else { return };
        if is_line && engine.lines.lock().insert(name.to_owned()) {
            engine.spawn(self.clone().work_line(engine.clone(), stream));
        }
    }

    /// Sends what waits for a destination until the node stops.
    async fn work_line(self: Arc<Self>, engine: Arc<Engine>, stream: StreamId) {
        let (mut session, mut failures) = (None, 0);
        let line = stream.name();
        while !engine.is_stopping() {
            if let Some(closed) = engine.away.closed_for(line) {
                engine.pause(closed.min(engine.timing.look_every)).await;
                continue;
            }
            match engine.next_set(&mut session, &stream, READER).await {
                Ok(None) => failures = 0,
                Ok(Some((session, batch))) => {
                    failures = 0;
                    let work = self.send_all(&engine, line, &batch);
                    let Posted { left, overflow } = engine.holding(&session, &batch, work).await;
                    self.crash.reach("waiting.sent");
                    let delay = match engine.is_stopping() {
                        true => Duration::ZERO,
                        // Another node may reach what this one does not.
                        false => engine.timing.backoff_first,
                    };
                    if engine.settle(&session, &batch, left, delay).await {
                        // Not before: a record that comes again must be whole.
                        for name in &overflow {
                            self.registry.delete_overflow(name).await;
                        }
                    }
                }
                Err(reason) => {
                    failures += 1;
                    tracing::warn!(line, reason, "what waits for a destination cannot be read");
                    engine.pause(engine.backoff().after(failures)).await;
                }
            }
        }
    }

    async fn send_all(self: &Arc<Self>, engine: &Arc<Engine>, line: &str, batch: &Batch) -> Posted {
        let mut sending = JoinSet::new();
        // One whose work panics stays, too.
        let mut left: BTreeSet<Position> = batch.events.iter().map(|event| event.position).collect();
        // Where only one is let through, it is another one each time: one that is never taken holds up no others.
        let count = batch.events.len();
        let first = usize::try_from(self.entropy.number()).unwrap_or_default() % count.max(1);
        for event in batch.events.iter().cycle().skip(first).take(count) {
            match Parcel::decode(&event.body) {
                Ok(parcel) => {
                    let (inner, engine) = (self.clone(), engine.clone());
                    let (line, position) = (line.to_owned(), event.position);
                    sending.spawn(async move { (position, inner.send_waiting(&engine, parcel, &line).await) });
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(line, position = %event.position, error, "a record cannot be read; it stays");
                }
            }
        }
        let mut overflow = Vec::new();
        while let Some(sent) = sending.join_next().await {
            match sent {
                Ok((position, Waited::Over(parts))) => {
                    left.remove(&position);
                    overflow.extend(parts);
                }
                Ok((_, Waited::On)) => {}
                Err(error) => tracing::error!(%error, "the work on a waiting record has panicked"),
            }
        }
        Posted {
            left: left.into_iter().collect(),
            overflow,
        }
    }

    async fn send_waiting(self: &Arc<Self>, engine: &Arc<Engine>, parcel: Parcel, line: &str) -> Waited {
        let sent = {
            let Some(_permit) = engine.take_in_hand(&parcel.head).await else {
                return Waited::On;
            };
            match self.whole_parcel(&parcel).await {
                Ok(whole) => self.send(engine, &parcel.head, &whole, LATER_MAX).await,
                Err(error) => {
                    tracing::warn!(line, %error, "a waiting record cannot be read yet");
                    return Waited::On;
                }
            }
        };
        match sent {
            Sent::Over => Waited::Over(parcel.head.overflow),
            Sent::NotNow(arn) if line_name(&arn) == line => Waited::On,
            // Another place has been named meanwhile, which is away, too.
            Sent::NotNow(arn) => match self.lay_by(engine, parcel, &line_name(&arn)).await {
                Ending::Over => Waited::Over(Vec::new()),
                Ending::Left => Waited::On,
            },
        }
    }

    /// All payloads of a record. Of one whose end is gone, as it has waited for too long, what is left.
    async fn whole_parcel(&self, parcel: &Parcel) -> Result<Bytes, bowline_store::ReadError> {
        if parcel.head.overflow.is_empty() {
            return Ok(parcel.payload.clone());
        }
        let mut whole = parcel.payload.to_vec();
        for name in &parcel.head.overflow {
            match self.registry.overflow(name).await? {
                Some(part) => whole.extend_from_slice(&part),
                None => {
                    let request_id = parcel.head.request_id.as_str();
                    tracing::error!(request_id, "the end of a record that has waited is gone");
                    break;
                }
            }
        }
        Ok(whole.into())
    }
}

impl Engine {
    /// Waits until a record may be in hand; `None` if the node stops first.
    async fn take_in_hand(&self, head: &Head) -> Option<SemaphorePermit<'_>> {
        tokio::select! {
            () = self.stopped() => None,
            permit = self.in_hand.acquire_many(permits(head)) => permit.ok(),
        }
    }
}

/// How much of what may be in hand a record takes.
fn permits(head: &Head) -> u32 {
    u32::try_from(head.bytes()).unwrap_or(u32::MAX).min(IN_HAND_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_destination_has_a_line_of_its_own() {
        let name = line_name("arn:aws:s3:::failures");
        assert_eq!(name, line_name("arn:aws:s3:::failures"));
        assert_ne!(name, line_name("arn:aws:s3:::failure"));
        assert!(StreamId::new(&name, 2).is_ok(), "{name}");
    }
}
