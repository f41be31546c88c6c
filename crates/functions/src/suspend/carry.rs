//! One run from its beginning to its end, over all its suspensions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bowline_foundation::clock::Monotonic;
use bowline_foundation::id::RequestId;
use bowline_sandbox::{Deadline, Frozen, FunctionError, Invocation, Outcome, Report, Suspension, Usage, Wish};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::engine::Registered;
use super::keep::{KeeperOf, RecordSeed};
use super::ledger::{LedgerError, Loaded};
use super::live::{About, Live, Turn};
use super::record::{Kept, Phase, RunRecord};
use super::seat::{Left, Seat};
use crate::invoke::{Admission, Pool, Slot};
use crate::service::Inner;

/// How often a node that waits for another one's answer looks for it.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often a run that was resumed asks for its place again.
const ADMIT_EVERY: Duration = Duration::from_millis(20);
/// How often one asks for a sandbox that has got none, or is taken up again that could not be.
const SIT_EVERY: Duration = Duration::from_secs(1);
/// How long the end of a run may take to be written.
const END_MAX: Duration = Duration::from_secs(60);

/// What an invocation begins with, every time it is taken up.
pub(crate) struct Seed {
    pub request_id: RequestId,
    pub payload: Bytes,
    pub deadline: Deadline,
    pub invoked_arn: String,
    pub client_context: Option<String>,
    pub trace_id: Option<String>,
}

/// Where a run is.
enum Found {
    Fresh,
    /// Its last checkpoint is here, and this node may go on.
    Ours(Box<Loaded>),
    /// Another task of this node has it.
    Here(Arc<Live>),
    /// Another node has it.
    Elsewhere,
    Over(Outcome),
}

/// Why a run does not go on here.
enum Halt {
    Over(Outcome),
    /// Somebody else goes on with it: what happened here does not count.
    Gone,
}

/// What the run stands on.
struct Way<'a> {
    inner: &'a Arc<Inner>,
    pool: &'a Arc<Pool>,
    seed: Seed,
    live: Arc<Live>,
    /// The last checkpoint's bytes, while it is uncertain who goes on with it.
    own_copy: Mutex<Option<Bytes>>,
}

impl Inner {
    /// Runs an invocation that can be suspended. It gives up its place while it is suspended.
    pub(crate) async fn carry(
        self: &Arc<Self>,
        pool: &Arc<Pool>,
        slot: Slot,
        seed: Seed,
        place: &mut Option<Admission>,
    ) -> (Report, Left) {
        let began = self.clock.monotonic();
        let mut seat = Seat::taken(slot);
        let outcome = match self.find_run(&seed.request_id).await {
            Ok(found) => self.carry_found(pool, &mut seat, (seed, found), place).await,
            Err(error) => Outcome::Broken(format!("{:#}", Chain(&error))),
        };
        let mut report = self.run_report(began, outcome);
        report.reusable &= seat.reusable;
        let mut left = seat.end(self, pool);
        if let Ok(slot) = &mut left {
            // A guest whose time is over may still be on its way out.
            report.reusable &= slot.sandbox.is_alive();
        }
        (report, left)
    }

    /// Whether an invocation is carried: if its sandbox can suspend it, or if it was suspended before.
    pub(crate) async fn carries(&self, run: &RequestId, can_suspend: bool) -> bool {
        // A store that is away is `carry`'s to report.
        can_suspend || self.suspends.get(run).is_some() || !matches!(self.suspends.ledger.load(run).await, Ok(None))
    }

    async fn carry_found(
        self: &Arc<Self>,
        pool: &Arc<Pool>,
        seat: &mut Seat,
        (seed, found): (Seed, Found),
        place: &mut Option<Admission>,
    ) -> Outcome {
        let loaded = match found {
            Found::Over(outcome) => return outcome,
            Found::Here(_) | Found::Elsewhere => return self.wait_apart(&seed.request_id, (pool, seat), place).await,
            Found::Fresh => None,
            Found::Ours(loaded) => Some(*loaded),
        };
        if loaded.is_some() && !seat.can_suspend() {
            seat.leave(self, pool);
        }
        let run = seed.request_id;
        let live = Live::new(self.about_run(pool, &seed), true, loaded);
        match self.suspends.register(live) {
            Err(_) => self.wait_apart(&run, (pool, seat), place).await,
            Ok(registered) => self.go_on(pool, seat, (seed, registered), place).await,
        }
    }

    /// Waits for the end of a run that somebody else has, without place and sandbox.
    async fn wait_apart(
        self: &Arc<Self>,
        run: &RequestId,
        (pool, seat): (&Arc<Pool>, &mut Seat),
        place: &mut Option<Admission>,
    ) -> Outcome {
        *place = None;
        seat.leave(self, pool);
        self.await_run(run).await
    }

    /// Runs a run that is in hand to its end.
    pub(super) async fn go_on(
        self: &Arc<Self>,
        pool: &Arc<Pool>,
        seat: &mut Seat,
        (seed, registered): (Seed, Registered<'_>),
        place: &mut Option<Admission>,
    ) -> Outcome {
        let _ = registered.live.pool.set(pool.clone());
        let way = Way {
            inner: self,
            pool,
            seed,
            live: registered.live.clone(),
            own_copy: Mutex::default(),
        };
        let halt = way.travel(seat, place).await;
        let live = registered.live.clone();
        match halt {
            Halt::Over(outcome) => {
                drop(registered);
                live.end(Some(outcome.clone()));
                outcome
            }
            Halt::Gone => {
                // From here on the run is looked for like any other's; it must not be found here.
                drop(registered);
                live.end(None);
                match live.has_caller {
                    true => self.wait_apart(&live.run, (pool, seat), place).await,
                    // Its outcome stays for whoever asks.
                    false => Outcome::Broken("the run goes on elsewhere".to_owned()),
                }
            }
        }
    }

    fn run_report(&self, began: Monotonic, outcome: Outcome) -> Report {
        Report {
            reusable: !matches!(outcome, Outcome::Broken(_)),
            outcome,
            usage: Usage {
                duration: self.clock.monotonic().since(began),
                ..Usage::default()
            },
        }
    }

    fn about_run(&self, pool: &Pool, seed: &Seed) -> About {
        let spec = &pool.parts.spec;
        About {
            run: seed.request_id,
            account: spec.account.to_string(),
            function: spec.function.clone(),
            version: spec.version.clone(),
            started: self.clock.now(),
            deadline: seed.deadline.wall,
        }
    }

    /// Where a run is of which the store may know.
    async fn find_run(&self, run: &RequestId) -> Result<Found, LedgerError> {
        if let Some(live) = self.suspends.get(run) {
            return Ok(Found::Here(live));
        }
        let Some(loaded) = self.suspends.ledger.load(run).await? else {
            return Ok(Found::Fresh);
        };
        if let Some(outcome) = self.run_outcome(&loaded.record).await? {
            self.suspends.ledger.remove(run, &loaded).await?;
            return Ok(Found::Over(outcome));
        }
        match self.may_take_run(&loaded.record) {
            true => Ok(Found::Ours(Box::new(loaded))),
            false => Ok(Found::Elsewhere),
        }
    }

    /// Whether no other node has the run.
    pub(super) fn may_take_run(&self, record: &RunRecord) -> bool {
        let alone = self.suspends.sharing == bowline_store::Sharing::Exclusive;
        alone || record.phase == Phase::Suspended || record.lease_ms < self.clock.now().as_millis()
    }

    /// The outcome that a record has.
    pub(super) async fn run_outcome(&self, record: &RunRecord) -> Result<Option<Outcome>, LedgerError> {
        let Some(ended) = &record.outcome else { return Ok(None) };
        let bytes = self.suspends.ledger.get(&ended.payload).await?;
        // The run's name stands before it, see `finish`.
        let payload = bytes.slice(record.run.len().min(bytes.len())..);
        Ok(Some(match &ended.error_type {
            None => Outcome::Success(payload),
            Some(error_type) => Outcome::Failed(FunctionError {
                error_type: error_type.clone(),
                payload,
            }),
        }))
    }

    /// Waits for the end of a run that another task or node has, wherever it goes.
    async fn await_run(self: &Arc<Self>, run: &RequestId) -> Outcome {
        loop {
            if self.running.is_closing() {
                return stopping();
            }
            match self.find_run(run).await {
                Ok(Found::Over(outcome)) => return outcome,
                Ok(Found::Here(live)) => {
                    // One that has gone elsewhere is looked for again.
                    if let Some(outcome) = live.ended().await {
                        // What was written for whoever asks is fetched by this.
                        return match self.find_run(run).await {
                            Ok(Found::Over(outcome)) => outcome,
                            _ => outcome,
                        };
                    }
                }
                Ok(Found::Elsewhere) => {}
                Ok(Found::Fresh) => return Outcome::Broken("the run was ended elsewhere".to_owned()),
                // Nobody has it: the node that takes such runs over is this one or another, soon.
                Ok(Found::Ours(_)) => {}
                Err(error) => tracing::warn!(error = %Chain(&error), "a run cannot be looked for"),
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

fn stopping() -> Outcome {
    Outcome::Broken("the node stops; the invocation goes on when it is back".to_owned())
}

/// An error with its causes, on one line.
pub(super) struct Chain<'a>(pub &'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

impl Way<'_> {
    async fn travel(&self, seat: &mut Seat, place: &mut Option<Admission>) -> Halt {
        let mut from = match self.first(seat, place).await {
            Ok(from) => from,
            Err(halt) => return halt,
        };
        // The checkpoint that it has gone back to: none serves twice.
        let mut gone_back_to = 0;
        loop {
            let outcome = self.leg(seat, from.take()).await;
            if self.live.lost.load(Ordering::SeqCst) {
                return Halt::Gone;
            }
            if let Outcome::Broken(reason) = &outcome
                && let Some(number) = self.checkpoint_after(gone_back_to).await
            {
                gone_back_to = number;
                from = match self.go_back(reason, seat, place).await {
                    Ok(bytes) => Some(bytes),
                    Err(halt) => return halt,
                };
                continue;
            }
            let Outcome::Suspended(frozen) = outcome else {
                return self.finish(outcome).await;
            };
            let bytes = frozen.bytes.clone();
            match self.keep(frozen, Phase::Suspended).await {
                Ok(()) => {}
                Err(LedgerError::Fenced) => return Halt::Gone,
                Err(error) => {
                    // Nothing is lost: it goes on here as if nobody had asked.
                    tracing::warn!(run = %self.live.run, error = %Chain(&error), "a suspended run goes on at once");
                    from = Some(bytes);
                    continue;
                }
            }
            // Whoever passes on may have to come back; who makes way or rests has no memory.
            let passes = self.live.passing.load(Ordering::SeqCst);
            let rests = self.live.yields.load(Ordering::SeqCst) || self.live.rests.lock().is_some();
            *self.own_copy.lock() = (passes && !rests).then_some(bytes);
            from = match self.rest(seat, place).await {
                Ok(from) => Some(from),
                Err(halt) => return halt,
            };
        }
    }

    /// Where the run begins in this process: at its beginning, or at its last checkpoint.
    async fn first(&self, seat: &mut Seat, place: &mut Option<Admission>) -> Result<Option<Bytes>, Halt> {
        let phase = self.live.loaded.lock().await.as_ref().map(|loaded| loaded.record.phase);
        match phase {
            None => Ok(None),
            Some(Phase::Suspended) => self.rest(seat, place).await.map(Some),
            Some(_) => self.go_on_from_last(seat, place).await.map(Some),
        }
    }

    /// The number of the run's last checkpoint, if that is a later one.
    async fn checkpoint_after(&self, number: u64) -> Option<u64> {
        let held = self.live.loaded.lock().await;
        let last = held.as_ref()?.record.checkpoint.number;
        (last > number).then_some(last)
    }

    /// Takes the run up again, in another sandbox, after the one that it ran in has broken.
    async fn go_back(&self, reason: &str, seat: &mut Seat, place: &mut Option<Admission>) -> Result<Bytes, Halt> {
        tracing::warn!(run = %self.live.run, reason, "a run goes back to its last checkpoint");
        let values = BTreeMap::from([("error".to_owned(), reason.to_owned())]);
        let decision = self.inner.decision("resume", "broken", values);
        self.live.set_taken_for(Some(decision));
        seat.reusable = false;
        seat.leave(self.inner, self.pool);
        self.go_on_from_last(seat, place).await
    }

    async fn go_on_from_last(&self, seat: &mut Seat, place: &mut Option<Admission>) -> Result<Bytes, Halt> {
        self.go_up(seat, place, true).await?.map_err(|error| {
            let reason = format!("the run cannot go on: {}", Chain(&error));
            Halt::Over(Outcome::Broken(reason))
        })
    }

    /// Waits, without place and sandbox, until the run is resumed; gives what it goes on from.
    async fn rest(&self, seat: &mut Seat, place: &mut Option<Admission>) -> Result<Bytes, Halt> {
        self.live.set_phase(Phase::Suspended);
        let yields = self.live.yields.swap(false, Ordering::SeqCst);
        // Its memory is for whoever waits for it, not for its own next sandbox.
        seat.reusable &= !yields;
        let mut may = yields;
        loop {
            *place = None;
            seat.leave(self.inner, self.pool);
            match self.go_up(seat, place, may).await? {
                Ok(bytes) => return Ok(bytes),
                Err(error) => {
                    tracing::error!(run = %self.live.run, error = %Chain(&error), "a run cannot be resumed");
                    self.live.taken(Some(Chain(&error).to_string()));
                    // What nobody wants to rest is tried again by itself; anything else when it is asked for again.
                    may = yields || self.live.passing.load(Ordering::SeqCst);
                    seat.leave(self.inner, self.pool);
                    *place = None;
                    tokio::time::sleep(SIT_EVERY).await;
                }
            }
        }
    }

    /// Waits until the run may go on, has a place and a sandbox, then takes it up. It is taken up last: until then
    /// nobody has to be kept away.
    async fn go_up(
        &self,
        seat: &mut Seat,
        place: &mut Option<Admission>,
        may: bool,
    ) -> Result<Result<Bytes, LedgerError>, Halt> {
        let mut may = may;
        loop {
            let left = self.seed.deadline.monotonic.since(self.inner.clock.monotonic());
            let turn = tokio::select! {
                biased;
                turn = self.live.turn() => turn,
                () = self.gone() => return Err(Halt::Gone),
                () = tokio::time::sleep(left) => {
                    let (run, limit) = (self.live.run, self.seed.deadline.budget);
                    let outcome = Outcome::Failed(FunctionError::timed_out(run, limit));
                    return Err(self.finish(outcome).await);
                }
                () = self.sit_down(seat, place), if may => break,
            };
            match turn {
                Turn::Resume => may = true,
                Turn::LetGo => return Err(Halt::Gone),
                Turn::Stop => {
                    if may || self.live.passing.load(Ordering::SeqCst) {
                        self.leave_to_the_next().await;
                    }
                    return Err(Halt::Over(stopping()));
                }
                Turn::Remove => {
                    let message = format!("RequestId: {} Error: its checkpoint was removed", self.live.run);
                    let outcome = Outcome::Failed(FunctionError::new("Checkpoint.Removed", &message));
                    return Err(self.finish(outcome).await);
                }
            }
        }
        match self.take_up().await {
            Err(LedgerError::Fenced) => Err(Halt::Gone),
            taken => Ok(taken),
        }
    }

    /// Lets whoever comes next go on with a run that was resumed and has found no place.
    async fn leave_to_the_next(&self) {
        let mut held = self.live.loaded.lock().await;
        let Some(loaded) = held.as_mut() else { return };
        let change = |record: &mut RunRecord| {
            record.phase = Phase::Running;
            record.lease_ms = 0;
        };
        let left = self.inner.suspends.ledger.change(&self.live.run, loaded, change);
        if let Err(error) = left.await {
            tracing::warn!(run = %self.live.run, error = %Chain(&error), "a run that waits for its place was not left to others");
        }
    }

    /// Returns when another node has gone on with the run.
    async fn gone(&self) {
        let suspends = &self.inner.suspends;
        if suspends.sharing == bowline_store::Sharing::Exclusive {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let held = self.live.loaded.lock().await;
            let own = held.as_ref().map(|loaded| loaded.record.epoch);
            if let Ok(found) = suspends.ledger.load(&self.live.run).await
                && found.map(|loaded| loaded.record.epoch) != own
            {
                return;
            }
        }
    }

    /// Fences everybody else off, then reads the checkpoint.
    async fn take_up(&self) -> Result<Bytes, LedgerError> {
        let suspends = &self.inner.suspends;
        let mut held = self.live.loaded.lock().await;
        let loaded = held.as_mut().ok_or(LedgerError::Fenced)?;
        let bytes = self.checkpoint(&loaded.record.checkpoint).await?;
        self.inner.crash.reach("take.read");
        let lease_ms = self.inner.clock.now().after(suspends.lease).as_millis();
        let taken_for = self.live.take_taken_for();
        let change = |record: &mut RunRecord| {
            taken_for.into_iter().for_each(|decision| record.decided(decision));
            record.phase = Phase::Running;
            record.epoch += 1;
            record.node.clone_from(&suspends.node);
            record.lease_ms = lease_ms;
        };
        suspends.ledger.change(&self.live.run, loaded, change).await?;
        self.inner.crash.reach("take.committed");
        self.live.goes_on();
        Ok(bytes)
    }

    /// The bytes of the run's last checkpoint. What the store has lost or damaged meanwhile is put there again from the
    /// copy that a source keeps while it looks for a target.
    async fn checkpoint(&self, kept: &Kept) -> Result<Bytes, LedgerError> {
        let ledger = &self.inner.suspends.ledger;
        let own = self.own_copy.lock().take();
        if let Some(bytes) = self.inner.suspends.ahead.take(&kept.digest).await {
            return Ok(bytes);
        }
        match (ledger.checkpoint(kept).await, own) {
            (Err(error), Some(own)) if kept.naming.name(&own) == kept.digest => {
                tracing::warn!(run = %self.live.run, error = %Chain(&error), "a checkpoint is put again");
                ledger.put_again(kept, own.clone()).await?;
                Ok(own)
            }
            (found, _) => found,
        }
    }

    /// Waits for a place and a sandbox.
    async fn sit_down(&self, seat: &mut Seat, place: &mut Option<Admission>) {
        loop {
            self.admit(place).await;
            let Err(reason) = seat.sit(self.inner, self.pool).await else {
                return;
            };
            tracing::warn!(run = %self.live.run, reason, "there is no sandbox for a run");
            *place = None;
            self.live.taken(Some(format!("there is no sandbox for it: {reason}")));
            tokio::time::sleep(SIT_EVERY).await;
        }
    }

    /// Waits until the function may run one more.
    async fn admit(&self, place: &mut Option<Admission>) {
        while place.is_none() {
            *place = self.inner.readmit_run(self.pool);
            if place.is_none() {
                tokio::time::sleep(ADMIT_EVERY).await;
            }
        }
    }

    /// Runs in the sandbox until it ends or leaves.
    async fn leg(&self, seat: &mut Seat, from: Option<Bytes>) -> Outcome {
        let suspension = Suspension {
            control: self.live.control.clone(),
            keeper: Arc::new(KeeperOf {
                inner: self.inner.clone(),
                live: self.live.clone(),
                about: self.record_seed(),
            }),
            from,
        };
        let seed = &self.seed;
        let invocation = Invocation {
            request_id: seed.request_id,
            payload: seed.payload.clone(),
            deadline: seed.deadline,
            invoked_arn: seed.invoked_arn.clone(),
            client_context: seed.client_context.clone(),
            trace_id: seed.trace_id.clone(),
            sink: None,
            platform: None,
            suspension: Some(suspension),
        };
        let every = self.pool.suspend_mode().and_then(|mode| mode.every);
        let over = Notify::new();
        let running = async {
            let outcome = tokio::select! {
                outcome = seat.invoke(invocation) => outcome,
                () = self.ask_again(every) => unreachable!("it never ends"),
            };
            over.notify_one();
            outcome
        };
        // A renewal that is under way is not dropped: whether it was written would be unknown.
        tokio::join!(running, self.renew(&over)).0
    }

    /// Asks for a checkpoint now and then. The guest has the whole time between two of them: it counts from when the
    /// guest runs.
    async fn ask_again(&self, every: Option<Duration>) {
        let Some(every) = every else {
            return std::future::pending().await;
        };
        loop {
            self.live.control.attached().await;
            while tokio::time::timeout(every, self.live.control.attached()).await.is_ok() {}
            self.live.control.ask(Wish::Copy);
        }
    }

    /// Keeps other nodes away until the guest's run is `over`.
    async fn renew(&self, over: &Notify) {
        let suspends = &self.inner.suspends;
        if suspends.sharing == bowline_store::Sharing::Exclusive {
            return;
        }
        loop {
            tokio::select! {
                () = tokio::time::sleep(suspends.lease / 3) => {}
                () = over.notified() => return,
            }
            let mut held = self.live.loaded.lock().await;
            let Some(loaded) = held.as_mut() else { continue };
            let lease_ms = self.inner.clock.now().after(suspends.lease).as_millis();
            let renewed = suspends
                .ledger
                .change(&self.live.run, loaded, |record| record.lease_ms = lease_ms);
            match renewed.await {
                Ok(()) => {}
                Err(LedgerError::Fenced) => {
                    self.live.lost.store(true, Ordering::SeqCst);
                    return self.live.control.ask(Wish::End);
                }
                Err(error) => tracing::warn!(run = %self.live.run, error = %Chain(&error), "a lease was not renewed"),
            }
        }
    }

    fn record_seed(&self) -> RecordSeed {
        let spec = &self.pool.parts.spec;
        RecordSeed {
            code: spec.code.digest,
            invoked_arn: self.seed.invoked_arn.clone(),
            deadline_ms: self.seed.deadline.wall.as_millis(),
            limit_ms: u64::try_from(self.seed.deadline.budget.as_millis()).unwrap_or(u64::MAX),
        }
    }

    async fn keep(&self, frozen: Frozen, phase: Phase) -> Result<(), LedgerError> {
        self.inner
            .keep_run(&self.live, &self.record_seed(), frozen, phase)
            .await
    }

    /// The one end of the run. What a node says that is fenced off does not count. Until the end is written another node
    /// may go on with the run, so that a store which is away is waited for.
    async fn finish(&self, outcome: Outcome) -> Halt {
        let began = self.inner.clock.monotonic();
        let mut is_uncertain = false;
        loop {
            let mut held = self.live.loaded.lock().await;
            let Some(loaded) = held.as_mut() else {
                return Halt::Over(outcome);
            };
            let finished = self.inner.finish_run(&self.live, loaded, &outcome).await;
            drop(held);
            match finished {
                Ok(()) => return Halt::Over(outcome),
                // It was removed by the try whose answer did not come.
                Err(LedgerError::Fenced) if is_uncertain && self.is_removed().await => return Halt::Over(outcome),
                Err(LedgerError::Fenced) => return Halt::Gone,
                Err(error) => {
                    tracing::error!(run = %self.live.run, error = %Chain(&error), "a run's end was not written");
                }
            }
            let waited = self.inner.clock.monotonic().since(began);
            if waited >= END_MAX || self.inner.running.is_closing() {
                let reason = "the end of the invocation could not be written".to_owned();
                return Halt::Over(Outcome::Broken(reason));
            }
            is_uncertain = true;
            tokio::time::sleep(SIT_EVERY).await;
        }
    }

    /// Whether no record of the run is left: nobody but its caller's node removes it.
    async fn is_removed(&self) -> bool {
        let found = self.inner.suspends.ledger.load(&self.live.run).await;
        self.live.has_caller && found.is_ok_and(|found| found.is_none())
    }
}
