//! How an invocation comes by a sandbox: a warm one, or one that is made, once there is room for it.
//!
//! ```text
//!   memory of the node: a claim ── none left ─▶ the least worthy idle one ends │ all are busy: wait, be throttled
//!   place where it belongs, an instance say ── full ─▶ the same, of what is idle there
//! ```

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bowline_foundation::units::Mebibytes;
use bowline_sandbox::{CreateError, Crowded as CrowdedPlace, FunctionError, NoRoom, VersionSpec};
use tokio::time::{Instant, timeout_at};

use super::mounted;
use super::pool::{Created, Pool, Slot};
use super::room::Claim;
use super::rung::Rung;
use crate::error::{Error, Throttle};
use crate::logs::{SandboxLog, Sink};
use crate::service::Inner;

/// How long an invocation waits for memory that others use.
const ROOM_WAIT_MAX: Duration = Duration::from_secs(10);
/// How often an invocation that waits for a place looks again, whatever it was told.
const PLACE_TICK: Duration = Duration::from_secs(1);
/// So often a creation has idle sandboxes make way: others may take what came free.
const PUSHES_MAX: u32 = 16;

/// A sandbox for an invocation, and where it came from.
pub(super) struct Got {
    pub slot: Slot,
    /// How long it took to make it, if it was made for the invocation.
    pub init: Option<Duration>,
    pub rung: Rung,
}

/// The newest idle sandbox that still lives.
pub(super) fn warm(pool: &Arc<Pool>) -> Option<Got> {
    loop {
        let (mut slot, rung) = pool.take()?;
        if slot.sandbox.is_alive() {
            let init = None;
            return Some(Got { slot, init, rung });
        }
        tracing::debug!(function = %pool.parts.spec.function, "an idle sandbox has died");
        tokio::spawn(pool.clone().destroy(slot));
    }
}

/// Why there is no sandbox.
pub(super) enum NotCreated {
    /// The function failed while it initialised.
    Init(FunctionError, Arc<SandboxLog>, Duration),
    Refused(Error),
}

impl NotCreated {
    fn no_room(full: &NoRoom) -> Self {
        let throttle = match full.crowded.is_empty() {
            true => Throttle::AccountConcurrency,
            false => Throttle::Memory,
        };
        Self::Refused(Error::Throttled(throttle))
    }

    /// Whether there was no memory for it where it belongs.
    fn is_of_room(&self) -> bool {
        matches!(self, Self::Refused(Error::Throttled(Throttle::Memory)))
    }
}

/// Creates a sandbox for an invocation that waits for it, once there is room. While there is none, one that
/// becomes idle meanwhile will do too.
pub(super) async fn cold(inner: &Arc<Inner>, pool: &Arc<Pool>, crowded: Crowded) -> Result<Got, NotCreated> {
    let until = Instant::now() + room_wait(pool);
    loop {
        // What moves from here on is not missed.
        let _waits = inner.room.wait();
        let mut moved = pin!(inner.room.moved.notified());
        moved.as_mut().enable();
        let spec = pool.spec();
        let claim = match inner.room.try_claim(spec.memory) {
            Some(claim) => claim,
            None => match make_room(inner, pool, spec.memory, crowded).await? {
                Room::Claimed(claim) => claim,
                Room::Spared(got) => return Ok(*got),
            },
        };
        let failure = match create(inner, pool, (spec, claim), Push::Idle).await {
            Ok(created) => return Ok(made_for_call(inner, pool, created)),
            Err(failure) => failure,
        };
        if !failure.is_of_room() {
            return Err(failure);
        }
        if crowded == Crowded::Wait && Instant::now() < until {
            // All are busy where it belongs. It may change without a word here too: another instance has come.
            let _ = timeout_at(until.min(Instant::now() + PLACE_TICK), moved).await;
            match warm(pool) {
                Some(got) => return Ok(got),
                None => continue,
            }
        }
        if crowded == Crowded::Wait {
            tracing::warn!(function = %pool.parts.spec.function, "no room for a sandbox: all are busy where it belongs");
            inner.metrics.throttled(&pool.parts.spec.function, Throttle::Memory);
        }
        return Err(failure);
    }
}

/// How long an invocation waits for room.
fn room_wait(pool: &Pool) -> Duration {
    pool.parts.spec.timeout.min(ROOM_WAIT_MAX)
}

fn made_for_call(inner: &Inner, pool: &Arc<Pool>, created: Created) -> Got {
    let init = created.init;
    pool.parts.metrics.cold_starts.inc();
    pool.parts.metrics.init_durations.observe(init.as_secs_f64());
    let slot = pool.created(created);
    inner.foresight.arrived(pool);
    Got {
        rung: Rung::made_on(slot.sandbox.ground()),
        slot,
        init: Some(init),
    }
}

/// Creates a sandbox before it is called for; `None` if there is no room that nobody uses, or no sandbox.
pub(super) async fn create_ahead(inner: &Arc<Inner>, pool: &Arc<Pool>) -> Option<Slot> {
    if pool.is_retired() {
        return None;
    }
    let spec = pool.spec();
    let claim = inner.room.try_claim(spec.memory)?;
    match create_in_turn(inner, pool, (spec, claim), Push::Nobody).await {
        Ok(created) => {
            let slot = pool.created_ahead(created);
            inner.foresight.arrived(pool);
            Some(slot)
        }
        Err(failure) => {
            if matches!(failure, NotCreated::Init(..)) {
                // Whoever calls it is to be told.
                pool.stands();
            }
            tracing::debug!(function = %pool.parts.spec.function, "a sandbox cannot be started ahead of its call");
            None
        }
    }
}

/// A sandbox for a run that was suspended: a warm one, or one that is made for it.
pub(crate) async fn seat_for_run(inner: &Arc<Inner>, pool: &Arc<Pool>) -> Result<Slot, String> {
    let seated = match own_seat(inner, pool).await {
        Ok(None) => match warm(pool) {
            Some(got) => Ok(got.slot),
            None => cold(inner, pool, Crowded::Wait).await.map(|got| got.slot),
        },
        Ok(Some(slot)) => Ok(slot),
        Err(error) => Err(error),
    };
    match seated {
        Ok(slot) => Ok(slot),
        Err(NotCreated::Init(error, ..)) => Err(error.error_type),
        Err(NotCreated::Refused(error)) => Err(error.to_string()),
    }
}

/// A seat that a run brings its own sandbox to, where that is how its kind goes on; once there is room for it.
async fn own_seat(inner: &Arc<Inner>, pool: &Arc<Pool>) -> Result<Option<Slot>, NotCreated> {
    let (spec, log) = (pool.spec(), inner.sandbox_log(pool));
    let Some(sandbox) = pool.parts.backend.seat(&spec, Arc::new(Sink(log.clone()))) else {
        return Ok(None);
    };
    inner.ensure_prepared(pool).await.map_err(NotCreated::Refused)?;
    let claim = loop {
        if let Some(claim) = inner.room.try_claim(spec.memory) {
            break claim;
        }
        match make_room(inner, pool, spec.memory, Crowded::Wait).await? {
            Room::Claimed(claim) => break claim,
            // What has become idle is of no use but for its memory.
            Room::Spared(got) => pool.clone().destroy(got.slot).await,
        }
    };
    let init = Duration::ZERO;
    Ok(Some(pool.created(Created {
        sandbox,
        log,
        claim,
        init,
    })))
}

/// Creates a sandbox that is to be kept; idle ones make room for it, if that is enough.
pub(super) async fn create_to_keep(inner: &Arc<Inner>, pool: &Arc<Pool>) -> Result<Slot, NotCreated> {
    let spec = pool.kept_spec();
    let mut freed = 0;
    let claim = loop {
        if let Some(claim) = inner.room.try_claim(spec.memory) {
            break claim;
        }
        // What is freed may be for others, who have waited for it.
        let victim = if freed < spec.memory.0 && inner.sweeper.can_make_room(spec.memory) {
            inner.foresight.victim(None)
        } else {
            None
        };
        let Some((owner, slot)) = victim else {
            return Err(NotCreated::Refused(Error::Throttled(Throttle::Memory)));
        };
        freed += slot.memory().0;
        owner.destroy(slot).await;
    };
    let created = create_in_turn(inner, pool, (spec, claim), Push::Idle).await?;
    let slot = pool.created_to_keep(created);
    inner.foresight.arrived(pool);
    Ok(slot)
}

/// What came of waiting for room.
enum Room {
    Claimed(Claim),
    /// A sandbox of the version has become idle.
    Spared(Box<Got>),
}

/// What becomes of an invocation for which there is no room because all sandboxes are busy.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Crowded {
    Wait,
    /// The node that handed it on runs it.
    HandBack,
}

impl Crowded {
    pub fn of(is_forwarded: bool) -> Self {
        if is_forwarded { Self::HandBack } else { Self::Wait }
    }
}

/// Drops idle sandboxes, the least worthy first, until there is room; if all are busy, waits for a while.
async fn make_room(
    inner: &Arc<Inner>,
    pool: &Arc<Pool>,
    wanted: Mebibytes,
    crowded: Crowded,
) -> Result<Room, NotCreated> {
    let full = || {
        inner.metrics.throttled(&pool.parts.spec.function, Throttle::Memory);
        NotCreated::Refused(Error::Throttled(Throttle::Memory))
    };
    if wanted > inner.room.budget() {
        tracing::warn!(function = %pool.parts.spec.function, memory_mib = wanted.0,
            budget_mib = inner.room.budget().0, "a function needs more memory than the whole budget");
        return Err(full());
    }
    let (_waits_here, _waits) = (pool.wait(), inner.room.wait());
    // As long as nobody waits: who does has what is left already.
    let left = inner.room.budget().0.saturating_sub(inner.room.claimed().0);
    let missing = Mebibytes(wanted.0.saturating_sub(left).max(1));
    let mut claim = pin!(inner.room.claim(wanted));
    let mut timeout = pin!(tokio::time::sleep(room_wait(pool)));
    let mut has_asked = false;
    loop {
        if let Some(got) = warm(pool) {
            return Ok(Room::Spared(Box::new(got)));
        }
        if let Poll::Ready(claim) = poll_fn(|cx| Poll::Ready(claim.as_mut().poll(cx))).await {
            return Ok(Room::Claimed(claim));
        }
        if let Some((owner, slot)) = inner.foresight.victim(None) {
            owner.destroy(slot).await;
            continue;
        }
        if crowded == Crowded::HandBack {
            return Err(NotCreated::Refused(Error::Throttled(Throttle::Memory)));
        }
        if !std::mem::replace(&mut has_asked, true) {
            inner.make_way(pool, missing);
        }
        tokio::select! {
            biased;
            claim = &mut claim => return Ok(Room::Claimed(claim)),
            () = pool.freed.notified() => {}
            () = inner.room.idled.notified() => {}
            () = &mut timeout => {
                tracing::warn!(function = %pool.parts.spec.function, "no room for a sandbox: all are busy");
                return Err(full());
            }
        }
    }
}

/// What a sandbox is made from: what it must know, and its memory.
type Wanted = (Arc<VersionSpec>, Claim);

/// Creates a sandbox that nobody waits for: what the function does meanwhile in folders that it writes alone, it does in its
/// turn.
async fn create_in_turn(inner: &Arc<Inner>, pool: &Pool, wanted: Wanted, push: Push) -> Result<Created, NotCreated> {
    let turns = mounted::turns(inner, &wanted.0).await.map_err(NotCreated::Refused)?;
    let mut created = create(inner, pool, wanted, push).await?;
    if !turns.is_empty() {
        created.sandbox.idle().await;
    }
    Ok(created)
}

/// Whom a sandbox may push out for which there is no room.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Push {
    Nobody,
    /// Those that are idle, the least worthy first.
    Idle,
}

/// Creates a sandbox; if its backend has no room, at the cost of idle ones: those where it would be made, if that is known, or
/// else the one that has been idle longest.
async fn create(inner: &Arc<Inner>, pool: &Pool, (spec, claim): Wanted, push: Push) -> Result<Created, NotCreated> {
    let begin = inner.clock.monotonic();
    inner.ensure_prepared(pool).await.map_err(NotCreated::Refused)?;
    inner.moor_first(pool);
    let log = inner.sandbox_log(pool);
    let mut rounds = 0..PUSHES_MAX;
    loop {
        let sink = Arc::new(Sink(log.clone()));
        let failure = match pool.parts.backend.create(spec.clone(), sink).await {
            Ok(sandbox) => {
                let init = inner.clock.monotonic().since(begin);
                return Ok(Created {
                    sandbox,
                    log,
                    claim,
                    init,
                });
            }
            Err(failure) => failure,
        };
        match failure {
            CreateError::Init(error) => {
                return Err(NotCreated::Init(error, log, inner.clock.monotonic().since(begin)));
            }
            CreateError::Exhausted(full) => {
                let round = rounds.next().filter(|_| push == Push::Idle);
                let made = match round {
                    Some(_) if !full.crowded.is_empty() => make_place(inner, &full.crowded).await,
                    Some(0) => end_one(inner, pool).await,
                    _ => false,
                };
                if !made {
                    tracing::debug!(function = %pool.parts.spec.function, reason = full.reason, "no room for a sandbox");
                    return Err(NotCreated::no_room(&full));
                }
            }
            CreateError::Away(reason) => return Err(NotCreated::Refused(Error::Away(reason))),
            error @ CreateError::Backend(_) => return Err(NotCreated::Refused(Error::service(error))),
        }
    }
}

/// Drops idle sandboxes where that makes room, the least worthy first; none if all of them would not be enough.
async fn make_place(inner: &Arc<Inner>, crowded: &[CrowdedPlace]) -> bool {
    let Some(at) = inner.sweeper.roomy(crowded) else {
        return false;
    };
    let mut freed = 0;
    while freed < at.missing.0
        && let Some((owner, slot)) = inner.foresight.victim(Some(&at.site))
    {
        freed += slot.memory().0;
        owner.destroy(slot).await;
    }
    freed > 0
}

/// Drops the sandbox that has been idle longest; another kind's end would make no room for this one.
async fn end_one(inner: &Arc<Inner>, pool: &Pool) -> bool {
    let Some((owner, slot)) = inner.sweeper.evict(pool.parts.backend.kind()) else {
        return false;
    };
    owner.destroy(slot).await;
    true
}
