//! The one task that commits: everything that waits goes to the server as one statement, one transaction
//! and one sync.
//!
//! Whoever was just answered often commits again at once. So before the next group goes, those of the last
//! one get a moment to come back; else the first of them would go alone, and the others wait for its sync.
//! A second group goes beside one in flight only when it is full: two halves need two syncs.
//!
//! ```text
//!   commit ──▶ bounded channel ──▶ waiting ── a lane is free ──▶ group ──▶ apply_1() ──▶ answers
//!                                     ▲  what touches a key of a group in flight stays │
//!                                     └────────────────────────────────────────────────┘
//! ```
//! A group of one commit with few keys goes to `commit_1()`, which costs the server half as much.
//!
//! An error that the server reports means that it rolled the group back. If the connection breaks or the
//! answer does not come in time, nobody knows, and every commit of the group hears so.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bowline_foundation::clock::Clock;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tokio_postgres::Row;

use super::failure;
use super::group::{self, Group, LOCKED_KEYS_MAX};
use super::link::{Link, Session};
use super::order::Touched;
use crate::limits::{WAITING_BYTES_MAX, WAITING_COMMITS_MAX};
use crate::{CommitError, Condition, Version, Write, WriterStats};

/// Bytes of keys and values after which a group takes no further commit.
const GROUP_BYTES_MAX: usize = 4 * 1024 * 1024;
/// At most this part of the time that the last group took is spent on waiting for its callers to return.
const LINGER_PART: u32 = 8;
/// Commits that are looked at for one group; those behind them wait for the next.
const LOOKED_AT_MAX: usize = 1024;

/// The handle to the committing task, which does what it was given even if this is dropped.
pub(super) struct Committer {
    requests: mpsc::Sender<Request>,
    counters: Arc<Counters>,
    /// One permit a byte that waits.
    room: Arc<Semaphore>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Counters {
    commits: AtomicU64,
    groups: AtomicU64,
}

struct Request {
    conditions: Vec<Condition>,
    writes: Vec<Write>,
    bytes: usize,
    reply: oneshot::Sender<Outcome>,
    _room: OwnedSemaphorePermit,
}

impl Request {
    /// How many keys it names, repeated ones counted again.
    fn keys(&self) -> usize {
        self.conditions.len() + self.writes.len()
    }
}

type Outcome = Result<Version, CommitError>;

impl Committer {
    /// Starts the task, with one lane for each of `links`.
    pub fn start(links: Vec<Arc<Link>>, clock: &Clock) -> Self {
        let (requests, incoming) = mpsc::channel(WAITING_COMMITS_MAX);
        let counters = Arc::new(Counters::default());
        let dispatcher = Dispatcher {
            idle: links,
            waiting: VecDeque::new(),
            waiting_keys: 0,
            touched: Touched::default(),
            in_flight: JoinSet::new(),
            clock: clock.clone(),
            last: (0, Duration::ZERO),
            counters: Arc::clone(&counters),
        };
        Self {
            requests,
            counters,
            room: Arc::new(Semaphore::new(WAITING_BYTES_MAX)),
            task: tokio::spawn(dispatcher.run(incoming)),
        }
    }

    pub async fn commit(&self, conditions: Vec<Condition>, writes: Vec<Write>, bytes: usize) -> Outcome {
        let permits = u32::try_from(bytes).expect("a commit is far smaller than 4 GiB");
        let room = Arc::clone(&self.room).try_acquire_many_owned(permits).map_err(|_| {
            CommitError::Unavailable(format!("commits of `{WAITING_BYTES_MAX}` bytes are waiting already"))
        })?;
        let (reply, answer) = oneshot::channel();
        let request = Request {
            conditions,
            writes,
            bytes,
            reply,
            _room: room,
        };
        self.requests.try_send(request).map_err(|error| match error {
            TrySendError::Full(_) => {
                CommitError::Unavailable(format!("`{WAITING_COMMITS_MAX}` commits are waiting already"))
            }
            TrySendError::Closed(_) => CommitError::Unavailable("the committer has stopped".to_owned()),
        })?;
        answer
            .await
            .unwrap_or_else(|_| Err(CommitError::Unknown("the committer stopped while it worked".to_owned())))
    }

    pub fn stats(&self) -> WriterStats {
        WriterStats {
            commits: self.counters.commits.load(Ordering::Relaxed),
            groups: self.counters.groups.load(Ordering::Relaxed),
        }
    }

    /// Waits until everything that was handed over is settled.
    pub async fn close(self) {
        drop(self.requests);
        if self.task.await.is_err() {
            tracing::error!("the store's committer had panicked");
        }
    }
}

struct Dispatcher {
    /// Lanes without a group in flight.
    idle: Vec<Arc<Link>>,
    waiting: VecDeque<Request>,
    /// Conditions and writes of what waits.
    waiting_keys: usize,
    /// What the groups in flight touch.
    touched: Touched,
    in_flight: JoinSet<Settled>,
    clock: Clock,
    /// The size of the last group that was answered, and how long it took.
    last: (usize, Duration),
    counters: Arc<Counters>,
}

/// A group that is through.
struct Settled {
    link: Arc<Link>,
    requests: Vec<Request>,
    outcomes: Vec<Outcome>,
    took: Duration,
}

impl Dispatcher {
    async fn run(mut self, mut incoming: mpsc::Receiver<Request>) {
        let mut arrived = Vec::new();
        let mut is_open = true;
        while is_open || !self.waiting.is_empty() || !self.in_flight.is_empty() {
            let has_room = self.waiting.len() < WAITING_COMMITS_MAX;
            tokio::select! {
                count = incoming.recv_many(&mut arrived, WAITING_COMMITS_MAX), if is_open && has_room => {
                    is_open = count > 0;
                    arrived.drain(..).for_each(|request| self.enqueue(request));
                }
                Some(done) = self.in_flight.join_next() => {
                    // Lanes are aborted when the runtime ends, and this task with them.
                    let Ok(group) = done else { return };
                    self.answer(group);
                    self.linger(&mut incoming).await;
                }
            }
            self.dispatch();
        }
    }

    fn enqueue(&mut self, request: Request) {
        self.waiting_keys += request.keys();
        self.waiting.push_back(request);
    }

    /// Gives the callers of the last group a moment to come back. A lone one has nobody to go with.
    async fn linger(&mut self, incoming: &mut mpsc::Receiver<Request>) {
        let (expected, took) = self.last;
        if expected < 2 {
            return;
        }
        let begin = self.clock.monotonic();
        while self.waiting.len() < expected && self.clock.monotonic().since(begin) < took / LINGER_PART {
            tokio::task::yield_now().await;
            while let Ok(request) = incoming.try_recv() {
                self.enqueue(request);
            }
        }
    }

    /// Whether what waits may go now, given the groups in flight.
    fn is_due(&self) -> bool {
        !self.waiting.is_empty() && (self.in_flight.is_empty() || self.waiting_keys >= LOCKED_KEYS_MAX)
    }

    /// Gives groups to idle lanes as long as there is something that may go.
    fn dispatch(&mut self) {
        while !self.idle.is_empty() && self.is_due() {
            let requests = self.gather();
            if requests.is_empty() {
                return;
            }
            let link = self.idle.pop().expect("a lane is idle");
            let clock = self.clock.clone();
            self.in_flight.spawn(async move {
                let begin = clock.monotonic();
                let outcomes = settle(&link, &requests).await;
                let took = clock.monotonic().since(begin);
                Settled {
                    link,
                    requests,
                    outcomes,
                    took,
                }
            });
        }
    }

    /// Takes the next group from what waits. A commit that shares a key with a group in flight, or with a
    /// commit before it that must stay, stays as well.
    fn gather(&mut self) -> Vec<Request> {
        let (mut group, mut kept, mut before) = (Vec::new(), VecDeque::new(), Touched::default());
        let (mut keys, mut bytes) = (0, 0);
        for _ in 0..LOOKED_AT_MAX {
            let Some(request) = self.waiting.pop_front() else { break };
            let (conditions, writes) = (&request.conditions[..], &request.writes[..]);
            let more = request.keys();
            let fits = group.is_empty() || (keys + more <= LOCKED_KEYS_MAX && bytes + request.bytes <= GROUP_BYTES_MAX);
            if fits && self.touched.admits(conditions, writes) && before.admits(conditions, writes) {
                keys += more;
                bytes += request.bytes;
                group.push(request);
            } else {
                before.add(conditions, writes);
                kept.push_back(request);
            }
        }
        kept.append(&mut self.waiting);
        self.waiting = kept;
        for request in &group {
            self.waiting_keys -= request.keys();
            self.touched.add(&request.conditions, &request.writes);
        }
        group
    }

    fn answer(&mut self, group: Settled) {
        self.idle.push(group.link);
        self.last = (group.requests.len(), group.took);
        let applied = group.outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        self.counters.commits.fetch_add(applied as u64, Ordering::Relaxed);
        self.counters
            .groups
            .fetch_add(u64::from(applied > 0), Ordering::Relaxed);
        for (request, outcome) in group.requests.into_iter().zip(group.outcomes) {
            self.touched.remove(&request.conditions, &request.writes);
            // Whoever gave up waiting does not want the answer.
            let _ = request.reply.send(outcome);
        }
    }
}

/// Carries one group out.
async fn settle(link: &Arc<Link>, requests: &[Request]) -> Vec<Outcome> {
    let session = match link.session().await {
        Ok(session) => session,
        Err(reason) => return fail_all(requests, &CommitError::Unavailable(reason)),
    };
    let answers = match apply(link, &session, requests).await {
        Ok(answers) => answers,
        Err(error) => {
            tracing::warn!(%error, commits = requests.len(), "a group of commits failed");
            return fail_all(requests, &error);
        }
    };
    let outcomes = requests.iter().zip(answers);
    outcomes
        .map(|(request, answer)| group::outcome(answer, &request.conditions))
        .collect()
}

fn fail_all(requests: &[Request], error: &CommitError) -> Vec<Outcome> {
    requests.iter().map(|_| Err(error.clone())).collect()
}

async fn apply(link: &Link, session: &Arc<Session>, requests: &[Request]) -> Result<Vec<i64>, CommitError> {
    let commits = requests
        .iter()
        .map(|request| (&request.conditions[..], &request.writes[..]));
    let group = Group::of(link.schema(), commits);
    let limit = link.limits().answer();
    // The rows end with the server's word that the transaction is over, so they are read to the end.
    let Ok(answer) = timeout(limit, send(session, &group)).await else {
        link.abandon(session).await;
        return Err(CommitError::Unknown(format!("no answer within `{limit:?}`")));
    };
    let rows = answer.map_err(|error| {
        let reason = failure::text(&error);
        if failure::is_rolled_back(&error) {
            CommitError::Unavailable(reason)
        } else {
            CommitError::Unknown(reason)
        }
    })?;
    let answers = rows.first().and_then(|row| match group.is_small() {
        true => row.try_get(0).map(|answer| vec![answer]).ok(),
        false => row.try_get(0).ok(),
    });
    match answers.filter(|answers: &Vec<i64>| answers.len() == requests.len()) {
        Some(answers) => Ok(answers),
        None => Err(CommitError::Unknown(
            "the database's answer has another form".to_owned(),
        )),
    }
}

async fn send(session: &Session, group: &Group<'_>) -> Result<Vec<Row>, tokio_postgres::Error> {
    if group.is_small() {
        session.client.query(&session.commit, &group.commit_arguments()).await
    } else {
        session.client.query(&session.apply, &group.arguments()).await
    }
}
