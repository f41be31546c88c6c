//! The workers of an event source mapping: batches of a stream's events, each to its function until it is
//! processed or given up.
//!
//! ```text
//!   gather (window) ─▶ session, ordered by key ─▶ filter ─▶ invoke ─▶ acknowledged
//!                                                   ▲         │ the function's error, or what it reports
//!                                                   └─ pause ◀┤ halves, or the rest, or all again
//!                                                             └ tries or age used up ─▶ on-failure
//! ```
//! A batch stays with its worker until it is over; its keys are withheld from all other workers, at this
//! node and others, so events of one key are processed in order. After a crash the batch is given out again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bowline_foundation::clock::Timestamp;
use bowline_foundation::id::RequestId;
use bowline_stream::session::{self, Batch, Order, ReadError, ReadRequest, SessionId, Start};
use bowline_stream::{Event, Log as _, Position, ReadLimit, StreamId};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::arn::{self, Source};
use super::attempt::Ending;
use super::batch::{self, Answer, Frame, SHARD};
use super::engine::Engine;
use super::outcome::{BatchCondition, LostBatch, Response, Verdict};
use super::policy::{self, AfterBatchError};
use crate::error::Error;
use crate::metrics::{Counted, EventCounts};
use crate::model::events::{Mapping, MappingSettings, MappingStart};
use crate::name::FunctionRef;
use crate::operations::mappings;
use crate::pattern::Pattern;
use crate::registry::MappingEntry;
use crate::service::{Inner, InvocationRequest, InvocationResponse};

/// Events of one batch, at most: what a session gives at once.
const BATCH_EVENTS_MAX: u32 = 1000;
/// Bytes of a batch's keys and bodies: as base64, with what surrounds them, they fit in an event.
const BATCH_BYTES_MAX: usize = 3_500_000;
/// How often a gathering worker looks whether there is more.
const GATHER_EVERY: Duration = Duration::from_millis(100);

pub(super) const FAILED: &str = "PROBLEM: Function call failed";
const THROTTLED: &str = "PROBLEM: Function call was throttled";
const ABSENT: &str = "PROBLEM: Function not found";
const NOT_NOW: &str = "PROBLEM: Function cannot be called now";

/// What a mapping says of a batch that waits because of this.
pub(super) fn waiting(error: &Error) -> &'static str {
    match error {
        Error::Throttled(_) => THROTTLED,
        Error::NotFound(_) => ABSENT,
        _ => NOT_NOW,
    }
}

/// One worker's tools.
struct Worker {
    engine: Arc<Engine>,
    id: String,
    function: FunctionRef,
    settings: MappingSettings,
    filters: Vec<Pattern>,
    frame: Frame,
    stream: StreamId,
    session: SessionId,
    counts: EventCounts,
    until: Until,
}

/// Some consecutive events of a batch on their way.
struct Part {
    events: std::ops::Range<usize>,
    /// Invocations that ended in the function's error.
    tries: u32,
    /// What the last one gave.
    response: Option<Response>,
}

/// What one invocation gave.
enum Tried {
    /// Done but for the events from this index of the part.
    Processed(Option<usize>),
    Failed(Response),
    NotNow(Error),
    TooLarge,
}

impl Inner {
    /// Starts, changes or stops the workers of a mapping as its record says.
    pub(crate) fn mapping_changed(self: &Arc<Self>, id: &str) {
        let Some(engine) = &self.events else { return };
        let (stop, stopped) = watch::channel(false);
        let old = engine.workers.lock().insert(id.to_owned(), stop);
        if let Some(old) = old {
            old.send_replace(true);
        }
        engine.spawn(self.clone().run_mapping(engine.clone(), id.to_owned(), stopped));
    }

    /// Ends what a deleted mapping leaves.
    pub(crate) async fn mapping_gone(self: &Arc<Self>, old: &MappingEntry) {
        let Some(engine) = self.events.clone() else { return };
        if let Some(stop) = engine.workers.lock().remove(&old.mapping.id) {
            stop.send_replace(true);
        }
        engine.turns.lock().remove(&old.mapping.id);
        self.metrics.mappings.forget(&old.mapping.id);
        let Some(session) = old
            .session
            .as_ref()
            .and_then(|session| session.parse::<SessionId>().ok())
        else {
            return;
        };
        let caller = session::Caller {
            who: old.mapping.account.to_string(),
            request_id: old.mapping.id.clone(),
        };
        // A session that stays harms nobody, and expires.
        if let Err(error) = engine.sessions.delete(&caller, &session).await {
            tracing::warn!(mapping = old.mapping.id, %error, "the session of a deleted mapping stays");
        }
    }

    async fn run_mapping(self: Arc<Self>, engine: Arc<Engine>, id: String, mut stop: watch::Receiver<bool>) {
        let mut failures = 0;
        loop {
            let Some(entry) = self.registry.mappings.get(&id) else {
                engine.turns.lock().remove(&id);
                self.metrics.mappings.forget(&id);
                return;
            };
            let until = Until {
                engine: engine.clone(),
                stop: stop.clone(),
            };
            match self.run_enabled(&engine, &entry, until).await {
                Ok(()) => return,
                Err(error) => {
                    tracing::warn!(
                        mapping = id,
                        error = &error as &dyn std::error::Error,
                        "a mapping cannot start yet"
                    );
                    self.registry
                        .mappings
                        .note(&id, "PROBLEM: The event source cannot be read");
                }
            }
            failures += 1;
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                runs = engine.pause(engine.backoff().after(failures)) => if !runs { return },
            }
        }
    }

    /// Works a mapping's source off as long as it is enabled.
    async fn run_enabled(
        self: &Arc<Self>,
        engine: &Arc<Engine>,
        entry: &MappingEntry,
        until: Until,
    ) -> Result<(), Error> {
        let is_enabled = entry.mapping.settings.is_enabled;
        match arn::source(&entry.mapping.source_arn)? {
            Source::Stream(stream) => {
                let worker = self.worker(engine, entry, until, &stream).await?;
                if is_enabled {
                    self.clone().run_workers(worker).await;
                }
            }
            Source::Queue(queue) => {
                let poller = self.poller(entry, until, &queue).await?;
                if is_enabled {
                    self.clone().run_poller(poller).await;
                }
            }
        }
        Ok(())
    }

    /// Makes the mapping's session if there is none yet.
    async fn worker(
        self: &Arc<Self>,
        engine: &Arc<Engine>,
        entry: &MappingEntry,
        until: Until,
        stream: &str,
    ) -> Result<Worker, Error> {
        let mapping = &entry.mapping;
        let stream = self.stream(stream).await?;
        let known = entry.session.as_ref().and_then(|session| session.parse().ok());
        let session = match known {
            Some(session) => session,
            None => {
                let start = match mapping.start {
                    MappingStart::TrimHorizon => Start::Oldest,
                    MappingStart::Latest => Start::Latest,
                    MappingStart::AtTimestamp(at) => Start::AtTime(at),
                };
                let made = engine.session(&stream, &mapping.id, start, Order::PerKey).await;
                let session = made.map_err(Error::service)?;
                self.crash.reach("mapping.session-made");
                mappings::settle(self, &mapping.id, session.to_string()).await?;
                session
            }
        };
        Ok(Worker {
            engine: engine.clone(),
            id: mapping.id.clone(),
            function: mapping.function.clone(),
            settings: mapping.settings.clone(),
            filters: filters(mapping)?,
            frame: Frame {
                source_arn: mapping.source_arn.clone(),
                region: self.region().to_owned(),
                role: self
                    .entry(&mapping.function)
                    .map(|entry| entry.latest.role.clone())
                    .unwrap_or_default(),
            },
            stream,
            session,
            counts: self.metrics.mappings.of(&mapping.id, mapping.settings.counts_events),
            until,
        })
    }

    async fn run_workers(self: Arc<Self>, worker: Worker) {
        let mut running = JoinSet::new();
        let worker = Arc::new(worker);
        for _ in 0..worker.settings.parallelization {
            running.spawn(self.clone().run_worker(worker.clone()));
        }
        while running.join_next().await.is_some() {}
    }

    async fn run_worker(self: Arc<Self>, worker: Arc<Worker>) {
        let mut failures = 0;
        while worker.until.runs() {
            worker.gather().await;
            match worker.read().await {
                Ok(None) => failures = 0,
                Ok(Some(batch)) => {
                    failures = 0;
                    let work = self.clone().process(&worker, &batch);
                    let left = worker.engine.holding(&worker.session, &batch, work).await;
                    self.crash.reach("batch.processed");
                    worker
                        .engine
                        .settle(&worker.session, &batch, left, Duration::ZERO)
                        .await;
                    self.crash.reach("batch.acknowledged");
                }
                Err(error) => {
                    failures += 1;
                    tracing::warn!(mapping = worker.id, %error, "a mapping's stream cannot be read");
                    worker.until.pause(worker.engine.backoff().after(failures)).await;
                }
            }
        }
    }

    /// Works a batch off; returns the events that are left to another worker.
    async fn process(self: Arc<Self>, worker: &Worker, batch: &Batch) -> Vec<Position> {
        let passing: Vec<&Event> = batch
            .events
            .iter()
            .filter(|event| batch::passes(&worker.filters, event))
            .collect();
        let filtered = batch.events.len() - passing.len();
        self.metrics.events.batch(worker.function.name.as_str(), filtered);
        worker.counts.add(Counted::Polled, batch.events.len());
        worker.counts.add(Counted::FilteredOut, filtered);
        let mut parts = VecDeque::new();
        if !passing.is_empty() {
            parts.push_back(Part {
                events: 0..passing.len(),
                tries: 0,
                response: None,
            });
        }
        let mut throttles = 0;
        while let Some(mut part) = parts.pop_front() {
            if !worker.until.runs() {
                parts.push_front(part);
                break;
            }
            if self.give_up_old(worker, &passing, &mut part).await == Ending::Left {
                parts.push_front(part);
                break;
            }
            if part.events.is_empty() {
                continue;
            }
            let tried = self.try_part(worker, &passing[part.events.clone()]).await;
            worker.count(&tried, part.events.len());
            match tried {
                Tried::Processed(rest) => {
                    throttles = 0;
                    self.registry.mappings.note(&worker.id, "OK");
                    if let Some(from) = rest {
                        part.events.start += from;
                        part.tries = 1;
                        worker.until.pause(worker.engine.backoff().after(1)).await;
                        parts.push_front(part);
                    }
                }
                Tried::Failed(response) => {
                    throttles = 0;
                    self.registry.mappings.note(&worker.id, FAILED);
                    part.response = Some(response);
                    part.tries += 1;
                    self.part_failed(worker, &passing, &mut parts, part).await;
                }
                Tried::NotNow(error) => {
                    tracing::debug!(
                        mapping = worker.id,
                        error = &error as &dyn std::error::Error,
                        "a batch waits"
                    );
                    self.registry.mappings.note(&worker.id, waiting(&error));
                    throttles += 1;
                    worker.until.pause(worker.engine.backoff().after(throttles)).await;
                    parts.push_front(part);
                }
                Tried::TooLarge => halve(&mut parts, part),
            }
        }
        let left = parts.into_iter().flat_map(|part| part.events);
        left.map(|at| passing[at].position).collect()
    }

    /// Cuts in two, tries again, or gives up.
    async fn part_failed(
        self: &Arc<Self>,
        worker: &Worker,
        passing: &[&Event],
        parts: &mut VecDeque<Part>,
        part: Part,
    ) {
        match policy::after_batch_error(&worker.settings, part.events.len(), part.tries) {
            AfterBatchError::Bisect(_) => halve(
                parts,
                Part {
                    tries: part.tries - 1,
                    ..part
                },
            ),
            AfterBatchError::Retry => {
                self.metrics.events.retried(worker.function.name.as_str());
                worker.until.pause(worker.engine.backoff().after(part.tries)).await;
                parts.push_front(part);
            }
            AfterBatchError::Exhausted => {
                let events = &passing[part.events.clone()];
                let told = self
                    .give_up(worker, events, &part, BatchCondition::RetryAttemptsExhausted)
                    .await;
                if told == Ending::Left {
                    parts.push_front(part);
                }
            }
        }
    }

    /// Gives up the events at the head of a part that are too old.
    async fn give_up_old(self: &Arc<Self>, worker: &Worker, passing: &[&Event], part: &mut Part) -> Ending {
        let arrivals: Vec<Timestamp> = passing[part.events.clone()]
            .iter()
            .map(|event| batch::arrival(event))
            .collect();
        let old = policy::too_old(&worker.settings, &arrivals, self.clock.now());
        if old == 0 {
            return Ending::Over;
        }
        let events = &passing[part.events.start..part.events.start + old];
        let told = self
            .give_up(worker, events, part, BatchCondition::RecordAgeExceeded)
            .await;
        if told == Ending::Over {
            part.events.start += old;
        }
        told
    }

    async fn give_up(
        self: &Arc<Self>,
        worker: &Worker,
        events: &[&Event],
        part: &Part,
        condition: BatchCondition,
    ) -> Ending {
        let (Some(first), Some(last)) = (events.first(), events.last()) else {
            return Ending::Over;
        };
        let place = |event: &Event| (batch::sequence_number(event.position), batch::arrival(event));
        let function = &worker.function;
        let arn = worker.settings.on_failure.as_deref();
        let lost = LostBatch {
            request_id: RequestId::random(&self.entropy).to_string(),
            function_arn: self.arn(&function.account, &function.name, function.qualifier.as_ref()),
            condition,
            invocations: part.tries,
            response: part.response.clone(),
            at: self.clock.now(),
            stream_arn: worker.frame.source_arn.clone(),
            shard: SHARD,
            first: place(first),
            last: place(last),
            events: events.len(),
            mapping: worker.id.clone(),
            payload: arn
                .is_some_and(arn::is_bucket)
                .then(|| batch::payload(&worker.frame, events)),
        };
        tracing::warn!(
            mapping = worker.id,
            ?condition,
            events = events.len(),
            first = lost.first.0,
            "events of a stream are given up"
        );
        self.metrics.events.dropped(function.name.as_str(), "batch");
        let told = match arn {
            None => Ending::Over,
            Some(arn) => self.tell_lost(arn, (function, &worker.until), &lost).await,
        };
        self.crash.reach("batch.told");
        if told == Ending::Over {
            worker.counts.add(Counted::Dropped, events.len());
        }
        told
    }

    async fn try_part(self: &Arc<Self>, worker: &Worker, events: &[&Event]) -> Tried {
        let request = InvocationRequest {
            request_id: RequestId::random(&self.entropy),
            payload: batch::payload(&worker.frame, events),
            client_context: None,
            trace_id: None,
            log_tail: false,
            is_strict: false,
        };
        let response = match self.invoke(&worker.function, request).await {
            Ok(response) => response,
            Err(Error::RequestTooLarge(_)) if events.len() > 1 => return Tried::TooLarge,
            Err(error) => return Tried::NotNow(error),
        };
        self.crash.reach("batch.invoked");
        judge(worker, response, events)
    }
}

/// What an answer means for the events it is about.
fn judge(worker: &Worker, response: InvocationResponse, events: &[&Event]) -> Tried {
    let executed_version = response.executed_version.to_string();
    let failed = |payload, verdict| {
        Tried::Failed(Response {
            executed_version,
            failed: verdict,
            payload,
        })
    };
    match response.result {
        Err(error) => failed(error.payload, Verdict::Failed),
        Ok(_) if !worker.settings.reports_failures => Tried::Processed(None),
        Ok(payload) => match batch::answer(&payload, events) {
            Answer::Processed => Tried::Processed(None),
            Answer::FailedFrom(0) | Answer::Unintelligible => failed(payload, Verdict::Succeeded),
            Answer::FailedFrom(from) => Tried::Processed(Some(from)),
        },
    }
}

/// The patterns of a mapping.
pub(super) fn filters(mapping: &Mapping) -> Result<Vec<Pattern>, Error> {
    let parsed = mapping.settings.filters.iter().map(|filter| Pattern::parse(filter));
    parsed.collect::<Result<_, _>>().map_err(Error::service)
}

/// The two halves of a part take its place.
fn halve(parts: &mut VecDeque<Part>, part: Part) {
    let middle = part.events.start + (part.events.len() / 2).max(1);
    let half = |events| Part {
        events,
        tries: part.tries,
        response: part.response.clone(),
    };
    if middle < part.events.end {
        parts.push_front(half(middle..part.events.end));
    }
    parts.push_front(half(part.events.start..middle));
}

/// How long a mapping's workers go on: until the mapping changes or the node stops.
#[derive(Clone)]
pub(super) struct Until {
    pub engine: Arc<Engine>,
    pub stop: watch::Receiver<bool>,
}

impl Until {
    pub fn runs(&self) -> bool {
        !*self.stop.borrow() && !self.engine.is_stopping()
    }

    pub async fn stopped(&self) {
        let mut stop = self.stop.clone();
        tokio::select! {
            // A sender that is gone belongs to a mapping that is gone.
            _ = stop.wait_for(|stop| *stop) => {}
            () = self.engine.stopped() => {}
        }
    }

    pub async fn pause(&self, time: Duration) {
        tokio::select! {
            () = self.stopped() => {}
            () = tokio::time::sleep(time) => {}
        }
    }
}

impl Worker {
    /// Counts what a try of so many events gave.
    fn count(&self, tried: &Tried, events: usize) {
        let (invoked, failed) = match tried {
            Tried::Processed(rest) => (events, rest.map_or(0, |from| events - from)),
            Tried::Failed(_) => (events, events),
            Tried::NotNow(_) => (0, events),
            Tried::TooLarge => (0, 0),
        };
        self.counts.add(Counted::Invoked, invoked);
        self.counts.add(Counted::Failed, failed);
    }

    async fn read(&self) -> Result<Option<Batch>, ReadError> {
        let request = ReadRequest {
            events_max: self.settings.batch_size.min(BATCH_EVENTS_MAX) as usize,
            bytes_max: BATCH_BYTES_MAX,
            wait: self.engine.timing.wait,
            worker: self.id.clone(),
            ..ReadRequest::default()
        };
        tokio::select! {
            () = self.until.stopped() => Ok(None),
            read = self.engine.sessions.read(&self.session, request) => read,
        }
    }

    /// Waits until there is a whole batch to be read, or the window after the first event is over.
    async fn gather(&self) {
        if self.settings.window_seconds == 0 {
            return;
        }
        let window = Duration::from_secs(self.settings.window_seconds.into());
        let mut first_seen = None;
        while self.until.runs() {
            let Ok((events, bytes)) = self.waiting().await else {
                return;
            };
            if events >= self.settings.batch_size.min(BATCH_EVENTS_MAX) as usize || bytes >= BATCH_BYTES_MAX {
                return;
            }
            if events > 0 {
                let first_seen = *first_seen.get_or_insert_with(Instant::now);
                if first_seen.elapsed() >= window {
                    return;
                }
            }
            self.until.pause(GATHER_EVERY.min(window)).await;
        }
    }

    /// How much could be read now.
    async fn waiting(&self) -> Result<(usize, usize), String> {
        let shown = self.engine.sessions.show(&self.session).await;
        let shown = shown.map_err(|error| error.to_string())?;
        let events_max = self.settings.batch_size.min(BATCH_EVENTS_MAX) as usize;
        let (mut events, mut bytes, mut after) = (0, 0, shown.cursor);
        // A page ends where the host has looked last; whether there is more is known at the next one.
        while events < events_max && bytes < BATCH_BYTES_MAX {
            let limit = ReadLimit {
                events: events_max - events,
                bytes: BATCH_BYTES_MAX - bytes,
            };
            let page = self.engine.host.read(&self.stream, after, limit).await;
            let page = page.map_err(|error| error.to_string())?;
            events += page.events.len();
            bytes += page.events.iter().map(|event| event.body.len()).sum::<usize>();
            if !page.more || page.next <= after {
                break;
            }
            after = page.next;
        }
        Ok((events, bytes))
    }
}
