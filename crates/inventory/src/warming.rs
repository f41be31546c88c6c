//! Servers that are ready before an account needs one: they belong to nobody until then, and to one account after.
//!
//! ```text
//!   fill ─▶ each fleet: the trend of what is taken ─▶ WarmingPool: boot, stop
//!   files' schedules ─▶ at least so many at these hours, from a boot before
//!   configure ─▶ the order's fleet: one is ready? ─▶ given to the order; spin_up hands over its agent
//! ```
//! A *fleet* is all servers of one configuration: each of them can stand for any other. One fleet always has a server ready,
//! that of the instances which accounts get without asking; another one while servers of it are taken often enough.
//!
//! A spare is a server of the provider behind this one, under an identifier of its own. Which of them serves which order is
//! soft state: whatever is there when the node starts is ended as an orphan.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bowline_capacity::trend::{Sources, Trend};
use bowline_capacity::warming::{Adjustment, ThresholdRule, WarmingPool, WarmingRules};
use bowline_foundation::clock::{Clock, Timestamp};
use bowline_foundation::entropy::Entropy;
use bowline_foundation::id::AccountId;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use crate::file::{Effective, Kind, Schedule};
use crate::metrics::Metrics;
use crate::provider::{Declared, Offer, ProvideError, Provider, Reached, ServerOrder, Waiting};

/// How often it is looked whether there are enough.
const TICK: Duration = Duration::from_secs(1);
/// How long a server may take until its agent listens; an image may have to be built first.
const BOOT_MAX: Duration = Duration::from_secs(15 * 60);
/// How soon it is looked again whether an agent listens, at first and at last: one that died at once never will.
const LISTENS_TICK: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// The wait after one did not boot.
const PAUSE: Duration = Duration::from_secs(30);
/// Fleets of one kind; servers of more configurations are made when they are wanted.
const FLEETS_MAX: usize = 8;
/// Servers of a fleet that wait or boot.
const SPARES_MAX: u32 = 4;
/// Servers a second beyond which a fleet has some ready that is none of defaults: more than two a minute.
const OFTEN: f64 = 2.0 / 60.0;
/// From here on two replace each that is taken: one in five seconds.
const RUSH: f64 = 0.2;

/// How a fleet is filled.
fn rules(stands: bool) -> WarmingRules {
    let rule = |above, refill| ThresholdRule { above, refill };
    WarmingRules {
        refill: u32::from(stands),
        thresholds: match stands {
            true => vec![rule(RUSH, 2)],
            false => vec![rule(OFTEN, 1), rule(RUSH, 2)],
        },
        count_min: u32::from(stands),
        count_max: SPARES_MAX,
        ..WarmingRules::default()
    }
}

/// Keeps servers of the provider behind it ready.
pub struct Warming {
    behind: Arc<dyn Provider>,
    clock: Clock,
    entropy: Entropy,
    metrics: Metrics,
    state: Mutex<State>,
    wake: Notify,
}

struct State {
    fleets: Vec<Fleet>,
    declared: Vec<Declared>,
    /// By the server of the order.
    given: HashMap<String, Given>,
}

/// Servers of one configuration.
struct Fleet {
    server: Effective,
    /// Whether it always has one ready.
    stands: bool,
    pool: WarmingPool,
    trend: Trend,
    ready: VecDeque<Spare>,
    /// Boots that removals have asked for.
    due: u32,
    /// How many are to wait by what was declared.
    scheduled: u32,
}

struct Spare {
    id: String,
    reached: Reached,
}

/// A spare that is an order's server now.
struct Given {
    id: String,
    /// Until it is spun up.
    reached: Option<Reached>,
}

impl Fleet {
    fn new(server: Effective, stands: bool, now: Timestamp) -> Self {
        Self {
            server,
            stands,
            pool: WarmingPool::new(rules(stands)),
            trend: Trend::new(now),
            ready: VecDeque::new(),
            due: 0,
            scheduled: 0,
        }
    }

    /// Whether an order for `wanted` may have one of its servers.
    fn fits(&self, wanted: &Effective) -> bool {
        let server = &self.server;
        wanted.is_plain()
            && wanted.memory_mib == server.memory_mib
            && wanted.cpu_millis == server.cpu_millis
            && wanted.processes == server.processes
            && wanted.machine == server.machine
            && wanted.fleet == server.fleet
    }

    /// Whether nothing of it is there and nobody wants it.
    fn is_forgotten(&self, now: Timestamp) -> bool {
        !self.stands && self.pool.ready() + self.pool.booting() == 0 && self.trend.current(now) < OFTEN / 2.0
    }

    /// How many are to boot, and which are to go.
    fn adjust(&mut self, now: Timestamp) -> (u32, Vec<Spare>) {
        self.trend.pass(now);
        let expected = self.trend.expected(now, rules(self.stands).boot, Sources::ALL);
        let target = match self.stands || self.trend.current(now) > OFTEN {
            true => self.pool.target(expected),
            false => 0,
        };
        let target = target.max(self.scheduled);
        let due = std::mem::take(&mut self.due);
        match self.pool.follow(target) {
            Adjustment::Boot(count) => (due + count, Vec::new()),
            Adjustment::Stop(count) => {
                let left = self.ready.len().saturating_sub(count as usize);
                (due, self.ready.split_off(left).into())
            }
            Adjustment::Nothing => (due, Vec::new()),
        }
    }

    /// What its spares may use of memory in all.
    fn memory_mib(&self) -> u64 {
        u64::from(self.server.memory_mib) * u64::from(self.pool.ready() + self.pool.booting())
    }
}

impl State {
    /// The fleet that an order belongs to; a new one if there is none.
    fn fleet_for(&mut self, wanted: &Effective, now: Timestamp) -> Option<&mut Fleet> {
        if !wanted.is_plain() {
            return None;
        }
        if let Some(place) = self.fleets.iter().position(|fleet| fleet.fits(wanted)) {
            return self.fleets.get_mut(place);
        }
        self.fleets.retain(|fleet| !fleet.is_forgotten(now));
        if self.fleets.len() >= FLEETS_MAX {
            return None;
        }
        self.fleets.push(Fleet::new(wanted.clone(), false, now));
        self.fleets.last_mut()
    }

    /// Has each fleet know how many of it were declared for now, or for when a server that boots now is ready.
    fn follow_schedules(&mut self, now: Timestamp) {
        self.fleets.iter_mut().for_each(|fleet| fleet.scheduled = 0);
        let moments = [now, now.after(rules(false).boot)];
        for Declared { server, schedules } in self.declared.clone() {
            let of_one = |schedule: &Schedule| moments.map(|moment| schedule.servers_at(moment));
            let wanted = schedules.iter().flat_map(of_one).max().unwrap_or(0);
            if wanted > 0
                && let Some(fleet) = self.fleet_for(&server, now)
            {
                fleet.scheduled = fleet.scheduled.max(wanted.min(SPARES_MAX));
            }
        }
    }

    /// What is to boot, and which are to go. What waits may together use `memory_mib`, unless it is a fleet's only one
    /// that always has one.
    fn adjust(&mut self, memory_mib: u64, now: Timestamp) -> (Vec<Effective>, Vec<Spare>) {
        self.follow_schedules(now);
        let (mut boots, mut surplus) = (Vec::new(), Vec::new());
        let mut held: u64 = self.fleets.iter().map(Fleet::memory_mib).sum();
        for fleet in &mut self.fleets {
            let before = fleet.memory_mib();
            let (mut due, gone) = fleet.adjust(now);
            held = held + fleet.memory_mib() - before;
            surplus.extend(gone);
            while due > 0 && held > memory_mib && fleet.pool.ready() + fleet.pool.booting() > u32::from(fleet.stands) {
                fleet.pool.failed();
                due -= 1;
                held -= u64::from(fleet.server.memory_mib);
            }
            boots.extend((0..due).map(|_| fleet.server.clone()));
        }
        (boots, surplus)
    }
}

/// What fills the fleets of a kind.
pub struct Filling {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Filling {
    /// Boots nothing any more; what waits is ended with all servers.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        let _ = self.task.await;
    }
}

impl Warming {
    /// Of the servers that `standing` describes one is always ready.
    pub fn new(
        (clock, entropy): (&Clock, &Entropy),
        behind: Arc<dyn Provider>,
        standing: Option<Effective>,
        metrics: Metrics,
    ) -> Self {
        let fleet = |server| Fleet::new(server, true, clock.now());
        Self {
            behind,
            clock: clock.clone(),
            entropy: entropy.clone(),
            metrics,
            state: Mutex::new(State {
                fleets: standing.into_iter().map(fleet).collect(),
                declared: Vec::new(),
                given: HashMap::new(),
            }),
            wake: Notify::new(),
        }
    }

    /// Keeps enough of them ready; begins once nothing of an earlier life is left.
    pub fn fill(self: Arc<Self>) -> Filling {
        let stop = watch::Sender::new(false);
        let mut stopped = stop.subscribe();
        let task = tokio::spawn(async move {
            let mut boots = JoinSet::new();
            tokio::select! {
                () = self.keep(&mut boots) => {}
                _ = stopped.wait_for(|stopped| *stopped) => {}
            }
            boots.shutdown().await;
        });
        Filling { stop, task }
    }

    async fn keep(self: &Arc<Self>, boots: &mut JoinSet<()>) {
        loop {
            let (due, surplus) = self.adjust();
            for server in due {
                boots.spawn(self.clone().boot(server));
            }
            for spare in surplus {
                self.end(&spare.id).await;
            }
            while boots.try_join_next().is_some() {}
            let _ = timeout(TICK, self.wake.notified()).await;
        }
    }

    fn adjust(&self) -> (Vec<Effective>, Vec<Spare>) {
        let mut state = self.state.lock();
        let adjusted = state.adjust(self.behind.offer().memory_mib, self.clock.now());
        self.count(&state);
        adjusted
    }

    fn count(&self, state: &State) {
        let ready: usize = state.fleets.iter().map(|fleet| fleet.ready.len()).sum();
        let ready = i64::try_from(ready).unwrap_or(i64::MAX);
        self.metrics.warming(self.kind()).set(ready);
        let scheduled = state.fleets.iter().map(|fleet| i64::from(fleet.scheduled)).sum();
        self.metrics.scheduled(self.kind()).set(scheduled);
    }

    /// Whether a server of this configuration fits this machine at all.
    fn can_make(&self, server: &Effective) -> bool {
        let offer = self.offer();
        u64::from(server.memory_mib) <= offer.memory_mib
            && u64::from(server.cpu_millis) <= offer.cpu_millis
            && self.objection(server).is_none()
    }

    async fn boot(self: Arc<Self>, server: Effective) {
        let id = format!("{:016x}", self.entropy.number());
        let booted = timeout(BOOT_MAX, self.try_boot(&id, &server)).await;
        let failure = match booted {
            Ok(Ok(reached)) => {
                let mut state = self.state.lock();
                // A fleet stays while one of its servers boots.
                if let Some(fleet) = state.fleets.iter_mut().find(|fleet| fleet.fits(&server)) {
                    fleet.pool.booted();
                    fleet.ready.push_back(Spare { id, reached });
                }
                return self.count(&state);
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("its agent did not listen within {BOOT_MAX:?}"),
        };
        tracing::warn!(failure, "a server that was to wait for an account did not boot");
        self.end(&id).await;
        tokio::time::sleep(PAUSE).await;
        let mut state = self.state.lock();
        if let Some(fleet) = state.fleets.iter_mut().find(|fleet| fleet.fits(&server)) {
            fleet.pool.failed();
        }
    }

    async fn try_boot(&self, id: &str, server: &Effective) -> Result<Reached, ProvideError> {
        let order = ServerOrder {
            server: id.to_owned(),
            // It has no volumes, which alone would be the account's.
            account: AccountId::default_account(),
            instance: "warming".to_owned(),
            address: None,
            effective: server.clone(),
        };
        self.behind.configure(&order).await?;
        let reached = self.behind.spin_up(&order).await?;
        let (mut tick, longest) = LISTENS_TICK;
        while reached.dial.dial().await.is_err() {
            tokio::time::sleep(tick).await;
            tick = longest.min(2 * tick);
        }
        Ok(reached)
    }

    async fn end(&self, id: &str) {
        let ended = async {
            self.behind.fence(id).await?;
            self.behind.destroy(id).await
        };
        if let Err(error) = ended.await {
            let error = &error as &dyn std::error::Error;
            tracing::error!(server = id, error, "a server that nobody has cannot be ended");
        }
    }

    /// Takes a spare of the order's fleet whose agent still listens.
    async fn take(&self, wanted: &Effective) -> Option<Spare> {
        let mut spare = self.next_ready(wanted)?;
        while spare.reached.dial.dial().await.is_err() {
            tracing::warn!(server = spare.id, "a server that waited for an account has died");
            self.end(&spare.id).await;
            spare = self.next_ready(wanted)?;
        }
        Some(spare)
    }

    /// Takes the one that has waited longest, and has as many boot as the rate asks for.
    fn next_ready(&self, wanted: &Effective) -> Option<Spare> {
        let now = self.clock.now();
        let mut state = self.state.lock();
        let fleet = state.fleet_for(wanted, now)?;
        fleet.trend.arrived(now);
        let removal = fleet.pool.take(fleet.trend.current(now));
        fleet.due += removal.boot;
        let spare = fleet.ready.pop_front();
        self.count(&state);
        drop(state);
        tracing::debug!(
            kind = %self.kind(),
            was_ready = spare.is_some(),
            rate = removal.rate,
            refill_per_removal = removal.refill_per_removal,
            boots = removal.boot,
            "a server was taken out of its fleet"
        );
        self.wake.notify_one();
        spare
    }
}

#[async_trait]
impl Provider for Warming {
    fn kind(&self) -> Kind {
        self.behind.kind()
    }

    fn offer(&self) -> Offer {
        self.behind.offer()
    }

    fn objection(&self, effective: &Effective) -> Option<String> {
        self.behind.objection(effective)
    }

    fn progress(&self, server: &str) -> Option<String> {
        self.behind.progress(server)
    }

    fn declare(&self, mut declared: Vec<Declared>) {
        declared.retain(|declared| declared.server.kind == self.kind() && self.can_make(&declared.server));
        self.state.lock().declared = declared;
        self.wake.notify_one();
    }

    fn waiting(&self, effective: &Effective) -> Option<Waiting> {
        let state = self.state.lock();
        let fleet = state.fleets.iter().find(|fleet| fleet.fits(effective))?;
        Some(Waiting {
            ready: u32::try_from(fleet.ready.len()).unwrap_or(u32::MAX),
            scheduled: fleet.scheduled,
        })
    }

    async fn configure(&self, order: &ServerOrder) -> Result<(), ProvideError> {
        let Some(Spare { id, reached }) = self.take(&order.effective).await else {
            return self.behind.configure(order).await;
        };
        self.metrics.warmed(self.kind()).inc();
        let given = Given {
            id,
            reached: Some(reached),
        };
        self.state.lock().given.insert(order.server.clone(), given);
        Ok(())
    }

    async fn spin_up(&self, order: &ServerOrder) -> Result<Reached, ProvideError> {
        let reached = {
            let mut state = self.state.lock();
            let given = state.given.get_mut(&order.server);
            given.and_then(|given| given.reached.take())
        };
        match reached {
            Some(reached) => Ok(Reached {
                has_waited: true,
                ..reached
            }),
            None => self.behind.spin_up(order).await,
        }
    }

    async fn fence(&self, server: &str) -> Result<(), ProvideError> {
        let spare = self.state.lock().given.get(server).map(|given| given.id.clone());
        if let Some(id) = spare {
            self.behind.fence(&id).await?;
            self.behind.destroy(&id).await?;
            self.state.lock().given.remove(server);
        }
        self.behind.fence(server).await
    }

    async fn destroy(&self, server: &str) -> Result<(), ProvideError> {
        self.behind.destroy(server).await
    }

    async fn list(&self) -> io::Result<Vec<String>> {
        self.behind.list().await
    }
}

#[cfg(test)]
mod tests;
