//! All readers of one session at this node, served together.
//!
//! A lane is a task that lives while somebody reads. It belongs to no reader, so one that stalls or goes away
//! holds up nobody:
//!
//! ```text
//! readers ──▶ queue ──▶ read the session and its markers ──▶ plan ──▶ one commit ──▶ replies
//!                           ▲                │ nothing to give         │ conflict or failure
//!                           │                ▼                         │
//!                           ├── wait: an append, a lease that ends,    │
//!                           │   a new reader or acknowledgement,       │
//!                           │   POLL for what other nodes did          │
//!                           └──────────────── again, a bounded number of times
//! ```

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::ahead::Ahead;
use super::crash::CrashPoints;
use super::deliver::{Batch, ReadRequest};
use super::error::{Fault, Gone, LogFault, ReadError, RetryLater};
use super::filter::Filter;
use super::id::{BatchToken, SessionId};
use super::limits::{COMMIT_ATTEMPTS_MAX, READERS_MAX, READERS_PER_SESSION_MAX, WAIT_MAX};
use super::plan::{Plan, Planner};
use super::service::{Inner, stopped};
use super::state::{Verdict, View};
use crate::{Position, StreamId};

/// How often a waiting lane looks for what other nodes did: acknowledged, failed, sought.
const POLL: Duration = Duration::from_secs(1);
/// How long the search for an event that the filter lets pass goes on beyond a reader's wait.
const SEARCH_MAX: Duration = Duration::from_secs(2);
/// Pause before the stream is waited for again if it called too early.
const HINT_PAUSE: Duration = Duration::from_millis(10);

type Reply = Result<Option<Batch>, ReadError>;

/// Where readers queue.
#[derive(Default)]
pub(super) struct Lane {
    queue: parking_lot::Mutex<Vec<Reader>>,
    /// Something has happened that may make an idle lane give out a set.
    nudge: Notify,
    /// Readers in the queue or being served.
    seated: Arc<AtomicUsize>,
}

struct Reader {
    request: ReadRequest,
    deadline: Instant,
    reply: oneshot::Sender<Reply>,
    _seats: [Seat; 2],
}

/// A place among those who wait, given up when dropped.
struct Seat(Arc<AtomicUsize>);

impl Seat {
    fn take(seated: &Arc<AtomicUsize>, max: usize) -> Result<Self, RetryLater> {
        let seat = Self(Arc::clone(seated));
        if seated.fetch_add(1, Ordering::Relaxed) < max {
            return Ok(seat);
        }
        Err(RetryLater {
            reason: format!("`{max}` readers wait already"),
        })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a waiting lane waits for.
struct Idle {
    stream: StreamId,
    tail: Option<Position>,
    due_in: Option<Duration>,
}

enum Round {
    /// Something was given out or recorded: there may be more at once.
    Served,
    Idle(Idle),
}

impl Inner {
    pub async fn read(self: &Arc<Self>, id: &SessionId, request: ReadRequest) -> Reply {
        self.alive()?;
        let request = request.bounded()?;
        let answer = self.enqueue(id, request)?;
        answer.await.unwrap_or_else(|_| Err(stopped().into()))
    }

    fn enqueue(self: &Arc<Self>, id: &SessionId, request: ReadRequest) -> Result<oneshot::Receiver<Reply>, RetryLater> {
        let (reply, answer) = oneshot::channel();
        let mut lanes = self.lanes.lock();
        let known = lanes.get(id).cloned();
        let lane = known.clone().unwrap_or_default();
        let seats = [
            Seat::take(&self.readers, READERS_MAX)?,
            Seat::take(&lane.seated, READERS_PER_SESSION_MAX)?,
        ];
        lane.queue.lock().push(Reader {
            deadline: Instant::now() + request.wait.min(WAIT_MAX),
            request,
            reply,
            _seats: seats,
        });
        lane.nudge.notify_one();
        if known.is_none() {
            lanes.insert(id.clone(), Arc::clone(&lane));
            tokio::spawn(Arc::clone(self).serve(id.clone(), lane));
        }
        Ok(answer)
    }

    /// Something happened to a session at this node that its readers may wait for.
    pub fn nudge(&self, id: &SessionId) {
        if let Some(lane) = self.lanes.lock().get(id) {
            lane.nudge.notify_one();
        }
    }

    /// Serves a lane until nobody waits.
    async fn serve(self: Arc<Self>, id: SessionId, lane: Arc<Lane>) {
        let _open = Open {
            inner: &self,
            id: &id,
            lane: &lane,
        };
        let mut stopped = self.stopped.subscribe();
        let mut server = Server {
            inner: &self,
            id: &id,
            lane: &lane,
            waiting: Vec::new(),
            filter: None,
            perhaps_done: HashSet::new(),
            ahead: Ahead::default(),
            is_busy: false,
        };
        tokio::select! {
            biased;
            _ = stopped.wait_for(|stopped| *stopped) => {}
            () = server.run() => {}
        }
    }
}

/// An open lane. However its task ends, the lane closes, and readers who queue then open another.
struct Open<'a> {
    inner: &'a Inner,
    id: &'a SessionId,
    lane: &'a Arc<Lane>,
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        let mut lanes = self.inner.lanes.lock();
        if lanes.get(self.id).is_some_and(|lane| Arc::ptr_eq(lane, self.lane)) {
            lanes.remove(self.id);
        }
        self.lane.queue.lock().clear();
    }
}

struct Server<'a> {
    inner: &'a Inner,
    id: &'a SessionId,
    lane: &'a Lane,
    waiting: Vec<Reader>,
    /// The session's filter with its text.
    filter: Option<(String, Filter)>,
    /// Sets that a commit of unknown outcome may have acknowledged.
    perhaps_done: HashSet<BatchToken>,
    /// Read while the last commit was under way; forgotten before the lane waits or tries again.
    ahead: Ahead,
    /// It has served readers, and others have come since: more are likely to come.
    is_busy: bool,
}

impl Server<'_> {
    async fn run(&mut self) {
        let mut hint_failed = false;
        loop {
            // Readers that were answered together come back together: the first of them must not go alone.
            tokio::task::yield_now().await;
            if !self.collect() {
                return;
            }
            match self.round().await {
                Ok(Round::Served) => {
                    hint_failed = false;
                    self.is_busy = true;
                    self.answer_late(SEARCH_MAX);
                }
                Ok(Round::Idle(idle)) => {
                    self.ahead = Ahead::default();
                    self.is_busy = false;
                    self.answer_late(Duration::ZERO);
                    if !self.waiting.is_empty() {
                        hint_failed = self.wait(idle, hint_failed).await;
                    }
                }
                Err(error) => {
                    self.ahead = Ahead::default();
                    self.is_busy = false;
                    self.answer_all(&error);
                }
            }
        }
    }

    /// Takes over the queue. Says no, and closes the lane, once nobody waits.
    fn collect(&mut self) -> bool {
        let mut lanes = self.inner.lanes.lock();
        self.waiting.append(&mut self.lane.queue.lock());
        self.waiting.retain(|reader| !reader.reply.is_closed());
        let claimed: HashSet<BatchToken> = self.waiting.iter().filter_map(|reader| reader.request.done).collect();
        self.perhaps_done.retain(|token| claimed.contains(token));
        if self.waiting.is_empty() {
            lanes.remove(self.id);
        }
        !self.waiting.is_empty()
    }

    /// Serves as many waiting readers as can be served now.
    async fn round(&mut self) -> Result<Round, ReadError> {
        let mut reason = String::new();
        for attempt in 0..COMMIT_ATTEMPTS_MAX {
            match self.attempt().await {
                Ok(Ok(round)) => return Ok(round),
                Ok(Err(again)) => reason = again,
                Err(ReadError::RetryLater(fault)) => reason = fault.reason,
                Err(error) => return Err(error),
            }
            self.inner.alive()?;
            self.inner.pause(attempt).await;
        }
        Err(RetryLater { reason }.into())
    }

    async fn attempt(&mut self) -> Result<Result<Round, String>, ReadError> {
        let view = self.inner.view(self.id).await?;
        if self.inner.clock.now() >= view.session.record.expires_at() {
            return Err(Gone(self.id.clone()).into());
        }
        let mut plan = self.plan(&view).await?;
        self.ahead = std::mem::take(&mut plan.ahead);
        if plan.change.is_empty() && plan.answers.is_empty() {
            let now = self.inner.clock.now();
            return Ok(Ok(Round::Idle(Idle {
                stream: view.session.record.stream,
                tail: plan.tail,
                due_in: plan.due.map(|due| due.since(now)),
            })));
        }
        self.carry_out(plan, &view.session.record.stream).await
    }

    async fn plan(&mut self, view: &View) -> Result<Plan, ReadError> {
        let text = view.session.record.filter.as_deref();
        if self.filter.as_ref().map(|(text, _)| text.as_str()) != text {
            let filter = self.inner.filter_of(text)?;
            self.filter = text.map(str::to_owned).zip(filter);
        }
        let filter = self.filter.as_ref().map(|(_, filter)| filter);
        let requests: Vec<&ReadRequest> = self.waiting.iter().map(|reader| &reader.request).collect();
        let ahead = std::mem::take(&mut self.ahead);
        let planner = Planner::new(self.inner, view, filter, (&self.perhaps_done, ahead));
        let plan = planner.plan(&requests).await;
        plan.map_err(|fault| match fault {
            LogFault::Trimmed(next_available) => ReadError::Trimmed { next_available },
            fault => fault.into(),
        })
    }

    async fn carry_out(&mut self, plan: Plan, stream: &StreamId) -> Result<Result<Round, String>, ReadError> {
        self.inner.reach(CrashPoints::AFTER_SELECT)?;
        if !plan.change.is_empty() {
            let read_ahead = async {
                if self.is_busy && plan.tail.is_none() {
                    let from = (stream, plan.cursor);
                    self.ahead.fill(&*self.inner.log, from, plan.given).await;
                }
                std::future::pending::<()>().await;
            };
            let verdict = tokio::select! {
                biased;
                verdict = self.inner.commit(plan.change) => verdict,
                () = read_ahead => unreachable!("it has no end"),
            };
            if !matches!(verdict, Ok(Verdict::Applied)) {
                self.ahead = Ahead::default();
            }
            match verdict {
                Ok(Verdict::Applied) => {}
                Ok(Verdict::Again(reason)) => return Ok(Err(reason)),
                // Nor does a store that cannot be asked tell.
                Ok(Verdict::Unproven(reason) | Verdict::Unknown(reason))
                | Err(Fault::RetryLater(RetryLater { reason })) => {
                    let tokens = plan.done.iter().filter_map(|&reader| self.waiting[reader].request.done);
                    self.perhaps_done.extend(tokens);
                    return Ok(Err(reason));
                }
                Err(fault) => return Err(fault.into()),
            }
        }
        for reader in plan.done {
            self.waiting[reader].request.done = None;
        }
        self.inner.reach(CrashPoints::AFTER_MARKER)?;
        self.inner.reach(CrashPoints::AFTER_CURSOR)?;
        let mut answers = plan.answers;
        answers.sort_by_key(|(reader, _)| std::cmp::Reverse(*reader));
        for (reader, answer) in answers {
            // The others keep their order, and so their places in the plan.
            let reader = self.waiting.remove(reader);
            let _ = reader.reply.send(answer.into_reply());
        }
        self.inner.reach(CrashPoints::AFTER_SEND)?;
        Ok(Ok(Round::Served))
    }

    /// Readers whose wait has been over for this long get nothing.
    fn answer_late(&mut self, grace: Duration) {
        let now = Instant::now();
        for reader in self.waiting.extract_if(.., |reader| reader.deadline + grace <= now) {
            let _ = reader.reply.send(Ok(None));
        }
    }

    fn answer_all(&mut self, error: &ReadError) {
        for reader in self.waiting.drain(..) {
            let _ = reader.reply.send(Err(error.clone()));
        }
    }

    /// Waits until another round may find something; says whether it was the stream that called.
    async fn wait(&self, idle: Idle, hint_failed: bool) -> bool {
        let deadline = self.waiting.iter().map(|reader| reader.deadline).min();
        let timers = [deadline, idle.due_in.map(|due| Instant::now() + due)];
        let wake = timers.into_iter().flatten().fold(Instant::now() + POLL, Instant::min);
        let appended = async {
            match idle.tail {
                None => std::future::pending().await,
                Some(tail) => {
                    if hint_failed {
                        tokio::time::sleep(HINT_PAUSE).await;
                    }
                    self.inner.log.wait(&idle.stream, tail).await;
                }
            }
        };
        tokio::select! {
            biased;
            () = self.lane.nudge.notified() => false,
            () = tokio::time::sleep_until(wake) => false,
            () = appended => true,
        }
    }
}
