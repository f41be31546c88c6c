//! What operators and clients do with runs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bowline_foundation::clock::Timestamp;
use bowline_foundation::id::RequestId;
use bowline_sandbox::{CheckpointFacts, SandboxKind, Suspendable, Unmet, VersionSpec, Wish};
use bytes::Bytes;

use super::carry::Chain;
use super::ledger::LedgerError;
use super::live::{Live, Turn};
use super::moving::MoveRequest;
use super::record::{Decision, Ended, Kept, Phase, RunRecord};
use crate::error::Error;
use crate::invoke::Finish;
use crate::name::FunctionRef;
use crate::service::{Handle, Inner};

/// How long a guest may take to stop and to be kept.
const TAKE_WAIT_MAX: Duration = Duration::from_secs(60);

/// Why an operation on a run is refused.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// There is no such run.
    #[error("no invocation with request id `{0}` runs here or has a checkpoint")]
    NoSuchRun(String),
    /// It does not run.
    #[error("invocation `{0}` does not run on this node: it is suspended, has ended, or runs elsewhere")]
    NotRunning(RequestId),
    /// It is not suspended.
    #[error("invocation `{0}` is not suspended")]
    NotSuspended(RequestId),
    /// It has none.
    #[error("invocation `{0}` has no checkpoint yet")]
    NoCheckpoint(RequestId),
    /// The checkpoint could not be taken or kept; the run goes on.
    #[error("no checkpoint of invocation `{run}` could be kept: {reason}")]
    NotKept { run: RequestId, reason: String },
    /// Somebody else has changed it at the same time.
    #[error("invocation `{0}` has changed meanwhile; look at it again")]
    Contended(RequestId),
    /// It needs what is not here; it is as it was.
    #[error("invocation `{run}` does not fit here and stays suspended: {unmet}")]
    Unfit { run: RequestId, unmet: Unmet },
    /// There is no other node.
    #[error("this node is alone: invocations move between nodes that share a PostgreSQL store")]
    NoCluster,
    /// No other node is called that.
    #[error("no other node has the identifier or address `{0}`; `bowline nodes ls` lists all")]
    NoSuchNode(String),
    /// It fits nowhere; it is as it was.
    #[error("invocation `{run}` fits nowhere: {verdicts}")]
    NobodyFits { run: RequestId, verdicts: String },
    /// The node has not taken it; it is as it was.
    #[error("invocation `{run}` was not moved and is as it was: {reason}")]
    NotTaken { run: RequestId, reason: String },
    /// The store failed.
    #[error("the runs cannot be read: {0}")]
    Unavailable(String),
}

impl From<LedgerError> for Refused {
    fn from(error: LedgerError) -> Self {
        Self::Unavailable(Chain(&error).to_string())
    }
}

/// How a checkpoint is to be taken.
#[derive(Clone, Debug)]
pub struct TakeRequest {
    /// Whether the run gives up its place.
    pub suspend: bool,
    pub reason: String,
}

/// A run as it is shown.
#[derive(Clone, Debug)]
pub struct RunView {
    pub run: String,
    pub account: String,
    pub function: String,
    pub version: String,
    pub phase: Phase,
    /// Whether this node has it in hand.
    pub is_here: bool,
    pub node: Option<String>,
    pub epoch: u64,
    pub started: Timestamp,
    pub deadline: Timestamp,
    pub checkpoint: Option<Kept>,
    /// Why the last checkpoint could not be kept.
    pub failure: Option<String>,
    pub outcome: Option<Ended>,
    pub decisions: Vec<Decision>,
}

impl RunView {
    fn of_record(record: RunRecord) -> Self {
        let millis = |millis: u64| Timestamp::from_micros(millis.saturating_mul(1_000));
        Self {
            run: record.run,
            account: record.account,
            function: record.function,
            version: record.version,
            phase: record.phase,
            is_here: false,
            node: Some(record.node),
            epoch: record.epoch,
            started: millis(record.started_ms),
            deadline: millis(record.deadline_ms),
            checkpoint: Some(record.checkpoint),
            failure: None,
            outcome: record.outcome,
            decisions: record.decisions,
        }
    }

    /// A run without a record is only here.
    fn of_live(live: &Live, record: Option<RunRecord>) -> Self {
        let known = record.map(Self::of_record);
        let bare = || Self {
            run: live.run.to_string(),
            account: live.account.clone(),
            function: live.function.clone(),
            version: live.version.clone(),
            phase: live.phase(),
            is_here: true,
            node: None,
            epoch: 0,
            started: live.started,
            deadline: live.deadline,
            checkpoint: None,
            failure: None,
            outcome: None,
            decisions: Vec::new(),
        };
        Self {
            is_here: true,
            failure: live.failure(),
            // One that makes way is not running, though its record has it so for whoever would take it over.
            phase: match live.phase() {
                Phase::Suspended => Phase::Suspended,
                _ => known.as_ref().map_or_else(|| live.phase(), |known| known.phase),
            },
            ..known.unwrap_or_else(bare)
        }
    }
}

fn parse(run: &str) -> Result<RequestId, Refused> {
    run.parse().map_err(|_| Refused::NoSuchRun(run.to_owned()))
}

impl Inner {
    /// Takes a checkpoint of a run that is in hand here; returns when it is kept.
    pub(super) async fn checkpoint_live(&self, live: &Live, wish: Wish, decision: Decision) -> Result<(), Refused> {
        let leaves = wish == Wish::Leave;
        let before = live.taken_count();
        live.ask(wish, decision);
        let done = live.until(|live| {
            let is_taken = live.taken_count() > before || live.failure().is_some();
            is_taken && (!leaves || live.phase() == Phase::Suspended || live.failure().is_some())
        });
        let in_time = tokio::time::timeout(TAKE_WAIT_MAX, done).await.is_ok();
        let not_kept = |reason| Err(Refused::NotKept { run: live.run, reason });
        match live.failure() {
            // What it ran in may have ended by that.
            Some(reason) => not_kept(reason),
            None if live.phase() == Phase::Finished => Err(Refused::NotRunning(live.run)),
            None if in_time => Ok(()),
            None => not_kept("the guest has not come to a place where it can stop".to_owned()),
        }
    }
}

impl Inner {
    /// Refuses a run that needs a machine which is not here; nothing is begun or ended for it.
    async fn fits_here(&self, run: RequestId, record: Option<&RunRecord>) -> Result<(), Refused> {
        match record {
            Some(record) => self
                .unmet_of_run(record)
                .await
                .map_or(Ok(()), |unmet| Err(Refused::Unfit { run, unmet })),
            None => Ok(()),
        }
    }

    /// What the machine of a run's checkpoint needs that is not here, if it is one.
    pub(super) async fn unmet_of_run(&self, record: &RunRecord) -> Option<Unmet> {
        let needs = record.checkpoint.machine.as_ref()?;
        self.backend(SandboxKind::Linux).unmet(needs).await
    }
}

impl Handle {
    /// All runs that are in hand here or have a checkpoint, by request id.
    pub async fn list_runs(&self) -> Result<Vec<RunView>, Refused> {
        let suspends = &self.inner().suspends;
        let mut records: BTreeMap<String, RunRecord> = BTreeMap::new();
        for loaded in suspends.ledger.all().await? {
            records.insert(loaded.record.run.clone(), loaded.record);
        }
        let live = suspends.all();
        let here: BTreeSet<String> = live.iter().map(|live| live.run.to_string()).collect();
        let mut views: Vec<RunView> = live
            .iter()
            .map(|live| RunView::of_live(live, records.remove(live.run.as_str())))
            .collect();
        views.extend(
            records
                .into_values()
                .filter(|record| !here.contains(&record.run))
                .map(RunView::of_record),
        );
        views.sort_by(|one, other| one.run.cmp(&other.run));
        Ok(views)
    }

    pub async fn show_run(&self, run: &str) -> Result<RunView, Refused> {
        let id = parse(run)?;
        let suspends = &self.inner().suspends;
        let record = suspends.ledger.load(&id).await?.map(|loaded| loaded.record);
        match (suspends.get(&id), record) {
            (Some(live), record) => Ok(RunView::of_live(&live, record)),
            (None, Some(record)) => Ok(RunView::of_record(record)),
            (None, None) => Err(Refused::NoSuchRun(run.to_owned())),
        }
    }

    /// Takes a checkpoint of a run; returns when it is kept.
    pub async fn take_checkpoint(&self, run: &str, request: TakeRequest) -> Result<RunView, Refused> {
        let id = parse(run)?;
        let inner = self.inner();
        let Some(live) = inner.suspends.get(&id) else {
            return match inner.suspends.ledger.load(&id).await? {
                Some(_) => Err(Refused::NotRunning(id)),
                None => Err(Refused::NoSuchRun(run.to_owned())),
            };
        };
        if live.phase() != Phase::Running {
            return Err(Refused::NotRunning(id));
        }
        let (wish, what) = match request.suspend {
            true => (Wish::Leave, "suspend"),
            false => (Wish::Copy, "take"),
        };
        let decision = Decision {
            at_ms: inner.clock.now().as_millis(),
            what: what.to_owned(),
            why: request.reason,
            values: BTreeMap::new(),
        };
        inner.checkpoint_live(&live, wish, decision).await?;
        self.show_run(run).await
    }

    /// Lets a suspended run go on.
    pub async fn resume_run(&self, run: &str) -> Result<RunView, Refused> {
        let id = parse(run)?;
        let inner = self.inner();
        match inner.suspends.get(&id) {
            Some(live) if live.phase() == Phase::Suspended => {
                let record = live.loaded.lock().await.as_ref().map(|loaded| loaded.record.clone());
                inner.fits_here(id, record.as_ref()).await?;
                live.give_turn(Turn::Resume);
                self.resumed(&live).await?;
            }
            Some(_) => return Err(Refused::NotSuspended(id)),
            None => {
                let loaded = inner.suspends.ledger.load(&id).await?;
                let loaded = loaded.ok_or_else(|| Refused::NoSuchRun(run.to_owned()))?;
                if loaded.record.phase != Phase::Suspended {
                    return Err(Refused::NotSuspended(id));
                }
                inner.fits_here(id, Some(&loaded.record)).await?;
                inner.adopt_run(id, loaded, Some(Turn::Resume), None);
            }
        }
        match self.show_run(run).await {
            // It had so little left to do.
            Err(Refused::NoSuchRun(_)) => Err(Refused::NotSuspended(id)),
            shown => shown,
        }
    }

    async fn resumed(&self, live: &Arc<Live>) -> Result<(), Refused> {
        let done = live.until(|live| live.phase() != Phase::Suspended || live.failure().is_some());
        // What takes longer goes on by itself.
        let _ = tokio::time::timeout(TAKE_WAIT_MAX, done).await;
        match live.failure() {
            Some(reason) if live.phase() == Phase::Suspended => Err(Refused::NotKept { run: live.run, reason }),
            _ => Ok(()),
        }
    }

    /// Removes a run: one that is suspended ends with an error, an outcome that nobody has fetched is gone.
    pub async fn remove_run(&self, run: &str) -> Result<(), Refused> {
        let id = parse(run)?;
        let suspends = &self.inner().suspends;
        if let Some(live) = suspends.get(&id) {
            if live.phase() != Phase::Suspended {
                return Err(Refused::NotSuspended(id));
            }
            live.give_turn(Turn::Remove);
            live.until(|live| live.phase() != Phase::Suspended).await;
            return match live.phase() {
                Phase::Finished => Ok(()),
                // It was resumed at the same time.
                _ => Err(Refused::NotSuspended(id)),
            };
        }
        let loaded = suspends.ledger.load(&id).await?;
        let loaded = loaded.ok_or_else(|| Refused::NoSuchRun(run.to_owned()))?;
        if loaded.record.phase == Phase::Running {
            return Err(Refused::NotSuspended(id));
        }
        match suspends.ledger.remove(&id, &loaded).await {
            Err(LedgerError::Fenced) => Err(Refused::Contended(id)),
            removed => Ok(removed?),
        }
    }

    /// A run's last checkpoint as signed bytes, with what it says of itself.
    pub async fn read_checkpoint(&self, run: &str) -> Result<(Bytes, Option<CheckpointFacts>), Refused> {
        let id = parse(run)?;
        let inner = self.inner();
        let loaded = inner.suspends.ledger.load(&id).await?;
        let loaded = match (loaded, inner.suspends.get(&id)) {
            (Some(loaded), _) => loaded,
            (None, Some(_)) => return Err(Refused::NoCheckpoint(id)),
            (None, None) => return Err(Refused::NoSuchRun(run.to_owned())),
        };
        let bytes = inner.suspends.ledger.checkpoint(&loaded.record.checkpoint).await?;
        let backends = inner.backends.clone();
        let read = bytes.clone();
        let facts = tokio::task::spawn_blocking(move || {
            let facts = backends.iter().map(|backend| backend.inspect(&read));
            facts.filter_map(Result::ok).next()
        });
        Ok((bytes, facts.await.ok().flatten()))
    }

    /// The outcome of a run whose caller is gone: its answer, or its error with the type.
    pub async fn read_outcome(&self, run: &str) -> Result<(Bytes, Option<String>), Refused> {
        let id = parse(run)?;
        let loaded = self.inner().suspends.ledger.load(&id).await?;
        let record = loaded.ok_or_else(|| Refused::NoSuchRun(run.to_owned()))?.record;
        let ended = record.outcome.ok_or(Refused::NoCheckpoint(id))?;
        let bytes = self.inner().suspends.ledger.get(&ended.payload).await?;
        Ok((bytes.slice(record.run.len().min(bytes.len())..), ended.error_type))
    }

    /// Whether invocations of a version can be suspended; prepares it first.
    pub async fn suspendable(&self, target: &FunctionRef) -> Result<Suspendable, Error> {
        let inner = self.inner();
        let entry = inner.entry(target)?;
        let spec = VersionSpec {
            mounts: entry.mounts(),
            ..inner.spec(inner.target(&entry, target)?.configuration)
        };
        Ok(inner.backend(spec.kind).suspendable(&spec))
    }

    /// Takes a run to another node, and returns when it goes on there; without a node in `request` this one may be
    /// chosen too. Whatever goes wrong, the run goes on as it did.
    pub async fn move_run(&self, run: &str, request: MoveRequest) -> Result<RunView, Refused> {
        let id = parse(run)?;
        let inner = self.inner().clone();
        let Some(live) = inner.suspends.get(&id) else {
            return match inner.suspends.ledger.load(&id).await? {
                Some(_) => Err(Refused::NotRunning(id)),
                None => Err(Refused::NoSuchRun(run.to_owned())),
            };
        };
        // To its end, though whoever asks goes away.
        let moving = async move { inner.move_live(&live, &request).await };
        Finish::new(moving, self.inner().runtime.clone()).await?;
        self.show_run(run).await
    }

    /// Offers what can be suspended to other nodes, so that this one may stop.
    pub async fn move_all_away(&self) {
        self.inner().move_all_away().await;
    }

    /// Lets all runs that can be suspended stop where they are, so that the node may stop.
    pub fn suspend_all(&self) {
        self.inner().suspends.stop();
    }
}
