//! One instance's driver: brings its record and its server together, step by step, until it is removed.
//!
//! ```text
//!   REQUESTED ─▶ CONFIGURING ─▶ SPINNING_UP ─▶ RUNNING ─▶ ERROR ─▶ REPAIRING ─▶ RUNNING
//!                                                            └─▶ replacement:
//!     Detected ─fence─▶ Fenced ─(storm? file?)─▶ Created ─start─▶ Started ─CMDB─▶ the new one is the server
//! ```
//! Each arrow is a commit that comes before what it says is done, or after what it says was done; whoever reads the record
//! after a crash does the step again. Only the driver writes its instance's record.

mod boot;
mod replace;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bowline_agent::link::LinkNews;
use bowline_agent::service::ServiceNews;
use bowline_agent::{Link, Lost};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep;

use crate::book::{BookError, Caller, Change, Kept};
use crate::decide::{self, Failure, Verdict};
use crate::model::{Hold, Instance, Replacement, Server, State, Step};
use crate::ports::Ports;
use crate::provider::ProvideError;
use crate::roster::{Origin, Owner, Standing};
use crate::service::{DEFAULT_INSTANCE, Shared};

/// The wait after the store or the provider failed.
const PAUSE: Duration = Duration::from_millis(500);

/// What a driver is told. Each is answered with the instance as it then is.
pub(crate) enum Order {
    Drain {
        caller: Caller,
        draining: bool,
        /// Whether it is for little use, not a person's wish.
        surplus: bool,
        done: oneshot::Sender<Instance>,
    },
    Report {
        caller: Caller,
        reason: String,
        repairable: bool,
        done: oneshot::Sender<Instance>,
    },
    Efficiency {
        caller: Caller,
        efficiency: f64,
        done: oneshot::Sender<Instance>,
    },
    Resume {
        caller: Caller,
        done: oneshot::Sender<Instance>,
    },
}

/// Why a step could not be taken; it is tried again.
#[derive(Debug, thiserror::Error)]
enum DriveError {
    #[error(transparent)]
    Book(#[from] BookError),
    #[error(transparent)]
    Provide(#[from] ProvideError),
}

/// What a step came to.
enum Next {
    Again,
    Removed,
}

pub(crate) struct Driver {
    shared: Arc<Shared>,
    kept: Kept<Instance>,
    caller: Caller,
    orders: mpsc::Receiver<Order>,
    removing: watch::Receiver<bool>,
    link: Option<(Link, mpsc::Receiver<LinkNews>)>,
    /// Those of the server behind the link that the node listens at.
    ports: Option<Ports>,
    /// Closed, but what is behind it has not ended yet.
    closed: Vec<Link>,
    /// Where the server behind the link came from.
    origin: Origin,
    /// Whether it counts among those that run.
    counted: AtomicBool,
}

impl Driver {
    pub fn new(
        shared: Arc<Shared>,
        kept: Kept<Instance>,
        orders: mpsc::Receiver<Order>,
        removing: watch::Receiver<bool>,
    ) -> Self {
        let caller = Caller {
            account: kept.record.account.clone(),
            request_id: "orchestrator".to_owned(),
        };
        Self {
            shared,
            kept,
            caller,
            orders,
            removing,
            link: None,
            ports: None,
            closed: Vec::new(),
            origin: Origin::Made,
            counted: AtomicBool::new(false),
        }
    }

    /// Works until the instance is removed.
    pub async fn run(&mut self) {
        loop {
            match self.step().await {
                Ok(Next::Again) => {}
                Ok(Next::Removed) => return,
                Err(error) => {
                    let instance = &self.kept.record.name;
                    tracing::warn!(
                        instance,
                        error = &error as &dyn std::error::Error,
                        "a step of an instance is tried again"
                    );
                    sleep(PAUSE).await;
                    self.read_again().await;
                }
            }
        }
    }

    /// What a commit of unknown fate left.
    async fn read_again(&mut self) {
        let instance = &self.kept.record;
        if let Ok(Some(kept)) = self.shared.book.instance(&instance.account, &instance.name).await {
            self.kept = kept;
        }
    }

    async fn step(&mut self) -> Result<Next, DriveError> {
        let instance = &self.kept.record;
        if *self.removing.borrow() || instance.removing {
            return self.remove().await;
        }
        if instance.hold.is_some() {
            self.stand(Standing::Held);
            return self.wait().await;
        }
        if instance.replacement.is_some() {
            self.stand(Standing::Coming);
            self.replace().await?;
            return Ok(Next::Again);
        }
        match (instance.server.state, self.link.is_some()) {
            (State::Running, true) => self.watch().await?,
            (State::Repairing, true) => self.repair().await?,
            _ => {
                self.stand(Standing::Coming);
                self.begin().await?;
            }
        }
        Ok(Next::Again)
    }

    fn stand(&self, standing: Standing) {
        let instance = &self.kept.record;
        let runs = matches!(standing, Standing::Ready(..) | Standing::Draining(..));
        let (roster, fleet) = (&self.shared.roster, instance.current().effective.fleet);
        roster.belong(&instance.account, &instance.name, fleet);
        roster.set(&instance.account, &instance.name, Some(standing));
        self.count(runs);
    }

    fn count(&self, runs: bool) {
        match (self.counted.swap(runs, Ordering::AcqRel), runs) {
            (false, true) => self.shared.metrics.running.inc(),
            (true, false) => self.shared.metrics.running.dec(),
            _ => 0,
        };
    }

    /// Commits what became of the instance.
    async fn commit(&mut self, action: &str, new: Instance, change: Change) -> Result<(), BookError> {
        self.commit_for(&self.caller.clone(), action, new, change).await
    }

    async fn commit_for(
        &mut self,
        caller: &Caller,
        action: &str,
        new: Instance,
        change: Change,
    ) -> Result<(), BookError> {
        self.kept = self
            .shared
            .book
            .commit((caller, action), Some(&self.kept), new, change)
            .await?;
        Ok(())
    }

    /// The server with another state, from now on.
    fn moved(&self, server: &Server, state: State) -> Server {
        Server {
            state,
            since: self.shared.clock.now(),
            ..server.clone()
        }
    }

    /// Starts the instance's server, for the first time or again after the node's own start.
    async fn begin(&mut self) -> Result<(), DriveError> {
        let server = self.kept.record.server.clone();
        match self.boot(server).await? {
            Err(failure) => self.detect(failure).await?,
            Ok(server) => {
                let mut new = self.kept.record.clone();
                let from = self.shared.clock.now();
                let known = self.shared.book.assignment(&new.account, &new.name, &server.id).await?;
                let assignment = known.unwrap_or_else(|| replace::assignment(&new, &server, from));
                let server = self.moved(&server, State::Running);
                let change = Change::default()
                    .event("running", &server)
                    .assign(&new, &server, &assignment);
                new.server = server;
                new.failure = None;
                self.commit("StartInstance", new, change).await?;
                self.serve();
            }
        }
        Ok(())
    }

    /// Lets the account's sandboxes in.
    fn serve(&self) {
        if let Some((link, _)) = &self.link {
            self.stand(match self.kept.record.draining {
                true => Standing::Draining(link.clone(), self.owner()),
                false => Standing::Ready(link.clone(), self.origin, self.owner()),
            });
        }
    }

    fn owner(&self) -> Owner {
        let instance = &self.kept.record;
        let is_unasked = instance.file == DEFAULT_INSTANCE && instance.server.effective.is_plain();
        match is_unasked && !instance.is_drained_by_person() {
            true => Owner::Node,
            false => Owner::Person,
        }
    }

    /// Looks after a server that runs, until something happens.
    async fn watch(&mut self) -> Result<(), DriveError> {
        let Some((_, news)) = &mut self.link else { return Ok(()) };
        tokio::select! {
            told = news.recv() => match told {
                Some(LinkNews::Lost(Lost::Parted)) => self.parted().await?,
                told => if let Some(failure) = failure_of(told) {
                    self.failed(failure).await?;
                },
            },
            order = self.orders.recv() => if let Some(order) = order {
                self.obey(order).await?;
            },
            () = removal(&mut self.removing) => {}
        }
        Ok(())
    }

    /// The server's machine was taken away with an invocation: the server begins again with another one.
    async fn parted(&mut self) -> Result<(), DriveError> {
        self.stand(Standing::Coming);
        let server = self.kept.record.server.clone();
        let change = Change::default().told("parted", &server, Lost::Parted);
        self.commit("SuspendServer", self.kept.record.clone(), change).await?;
        self.link = None;
        Ok(())
    }

    /// Waits until somebody does something about an instance that is held.
    async fn wait(&mut self) -> Result<Next, DriveError> {
        tokio::select! {
            order = self.orders.recv() => if let Some(order) = order {
                self.obey(order).await?;
            },
            () = removal(&mut self.removing) => {}
        }
        Ok(Next::Again)
    }

    async fn obey(&mut self, order: Order) -> Result<(), DriveError> {
        let mut new = self.kept.record.clone();
        let server = new.server.clone();
        let done = match order {
            Order::Drain {
                caller,
                draining,
                surplus,
                done,
            } => {
                // What a person drained is that person's to take back.
                if !(surplus && new.is_drained_by_person()) {
                    new.draining = draining;
                    new.surplus = draining && surplus;
                    let what = if draining { "drain" } else { "undrain" };
                    self.commit_for(&caller, "DrainInstance", new, Change::default().event(what, &server))
                        .await?;
                    self.serve();
                }
                done
            }
            Order::Report {
                caller,
                reason,
                repairable,
                done,
            } => {
                let change = Change::default().told("report", &server, &reason);
                self.commit_for(&caller, "ReportInstance", new, change).await?;
                if self.link.is_some() {
                    self.failed(Failure::Reported { reason, repairable }).await?;
                }
                done
            }
            Order::Efficiency {
                caller,
                efficiency,
                done,
            } => {
                let change = Change::default().told("efficiency", &server, efficiency);
                self.commit_for(&caller, "ReportEfficiency", new, change).await?;
                if let (Some(failure), Some(_)) =
                    (decide::inefficient(efficiency, self.kept.record.policy()), &self.link)
                {
                    self.failed(failure).await?;
                }
                done
            }
            Order::Resume { caller, done } => {
                new.hold = None;
                new.replaced_at.clear();
                self.commit_for(
                    &caller,
                    "ResumeInstance",
                    new,
                    Change::default().event("resume", &server),
                )
                .await?;
                done
            }
        };
        // Whoever asked may have gone.
        let _ = done.send(self.kept.record.clone());
        Ok(())
    }

    /// Something is wrong with a server that ran: it is repaired, or replaced.
    async fn failed(&mut self, failure: Failure) -> Result<(), DriveError> {
        let instance = &self.kept.record;
        tracing::warn!(instance = instance.name, server = instance.server.id, %failure, "a server is in error");
        self.stand(Standing::Coming);
        let quiet = self.shared.clock.now().since(instance.server.since);
        let window = Duration::from_secs(instance.policy().window_seconds.into());
        let repairs = if quiet > window { 0 } else { instance.server.repairs };
        match decide::judge(&failure, repairs, instance.policy()) {
            Verdict::Replace => self.detect(failure).await,
            Verdict::Repair => {
                let mut new = instance.clone();
                let error = Change::default().told("error", &new.server, &failure);
                new.server = self.moved(&new.server, State::Error);
                new.failure = Some(failure);
                self.commit("DetectError", new.clone(), error).await?;
                let mut new = self.kept.record.clone();
                new.server = self.moved(&new.server, State::Repairing);
                new.server.repairs = repairs + 1;
                let change = Change::default().event("repair", &new.server);
                self.commit("RepairInstance", new, change).await?;
                Ok(())
            }
        }
    }

    /// Tries to make a server well: its service, or all of them, are started again.
    async fn repair(&mut self) -> Result<(), DriveError> {
        let instance = self.kept.record.clone();
        let limit = Duration::from_secs(instance.policy().repair_seconds.into());
        let service = instance.failure.as_ref().and_then(Failure::service).map(str::to_owned);
        if let Some(ports) = &mut self.ports {
            ports.close(service.as_deref()).await;
        }
        let Some((link, news)) = &mut self.link else {
            return Ok(());
        };
        match &service {
            Some(service) => link.restart(service),
            None => link.serve(boot::services(&instance, &instance.server)),
        }
        let repaired = tokio::time::timeout(limit, async {
            loop {
                match news.recv().await {
                    Some(LinkNews::Service(ServiceNews::Ready { service: ready, .. }))
                        if Some(&ready) == service.as_ref() =>
                    {
                        return None;
                    }
                    Some(LinkNews::Service(ServiceNews::AllReady)) if service.is_none() => return None,
                    told => {
                        if let Some(failure) = failure_of(told) {
                            return Some(failure);
                        }
                    }
                }
            }
        });
        let failure = match repaired.await {
            Ok(None) => match self.open_ports().await {
                Ok(()) => return self.repaired(instance).await,
                Err(failure) => failure,
            },
            Ok(Some(failure)) => failure,
            Err(_) => Failure::Service {
                service: service.unwrap_or_default(),
                reason: format!("it was not well again within {limit:?}"),
            },
        };
        match decide::judge(&failure, instance.server.repairs, instance.policy()) {
            Verdict::Replace => self.detect(failure).await,
            Verdict::Repair => {
                let mut new = instance;
                new.server.repairs += 1;
                let change = Change::default().told("repair", &new.server, &failure);
                new.failure = Some(failure);
                self.commit("RepairInstance", new, change).await?;
                Ok(())
            }
        }
    }

    async fn repaired(&mut self, mut new: Instance) -> Result<(), DriveError> {
        new.server = self.moved(&new.server, State::Running);
        new.failure = None;
        let change = Change::default().event("repaired", &new.server);
        self.commit("RepairInstance", new, change).await?;
        self.shared.metrics.repairs.inc();
        self.serve();
        Ok(())
    }

    /// Writes down that the server must be replaced.
    async fn detect(&mut self, failure: Failure) -> Result<(), DriveError> {
        let mut new = self.kept.record.clone();
        let change = Change::default().told("error", &new.server, &failure);
        new.server = self.moved(&new.server, State::Error);
        new.replacement = Some(Replacement {
            failed: new.server.id.clone(),
            reason: failure.reason().to_owned(),
            step: Step::Detected,
            fenced_at: None,
            digest_used: None,
            new: None,
            attempts: 0,
        });
        new.failure = Some(failure);
        self.commit("DetectError", new, change).await?;
        self.shared.crash.at("after_detect");
        Ok(())
    }

    /// Ends everything that the instance has.
    async fn remove(&mut self) -> Result<Next, DriveError> {
        let mut new = self.kept.record.clone();
        self.count(false);
        self.shared.roster.set(&new.account, &new.name, None);
        if !new.removing {
            new.removing = true;
            let change = Change::default().event("remove", &new.server);
            self.commit("RemoveInstance", new.clone(), change).await?;
        }
        let mut servers = vec![new.server.clone()];
        servers.extend(new.replacement.iter().filter_map(|replacement| replacement.new.clone()));
        let mut change = Change::default();
        for server in &servers {
            self.end(server).await?;
            change = self.retire(change, server).await?;
        }
        let mut new = self.kept.record.clone();
        new.server = self.moved(&new.server, State::Destroyed);
        self.commit("RemoveInstance", new, change).await?;
        self.shared
            .book
            .forget((&self.caller, "RemoveInstance"), &self.kept)
            .await?;
        Ok(Next::Removed)
    }

    /// Ends access to a server and removes what was made for it.
    async fn end(&mut self, server: &Server) -> Result<(), DriveError> {
        self.fence(server).await?;
        if let Some(provider) = self.shared.provider(server.effective.kind) {
            provider.destroy(&server.id).await?;
        }
        Ok(())
    }

    /// Ends access to a server: nothing of it runs or counts any more.
    async fn fence(&mut self, server: &Server) -> Result<(), DriveError> {
        if let Some((link, _)) = self.link.take() {
            link.close();
            self.closed.push(link);
        }
        if let Some(mut ports) = self.ports.take() {
            ports.close(None).await;
        }
        if let Some(provider) = self.shared.provider(server.effective.kind) {
            provider.fence(&server.id).await?;
        }
        self.closed.drain(..).for_each(|link| link.fenced());
        Ok(())
    }

    /// A fenced server has neither claims nor a role any longer.
    async fn retire(&self, change: Change, server: &Server) -> Result<Change, DriveError> {
        let held = self.shared.book.held_by(&self.kept.record.account, server).await?;
        let change = change.release(held);
        self.retire_role(change, server).await
    }

    /// Gives the instance up until somebody does something.
    async fn hold(&mut self, hold: Hold) -> Result<(), DriveError> {
        let mut new = self.kept.record.clone();
        let detail = match &hold {
            Hold::Storm { replacements } => format!("{replacements} replacements within the window"),
            Hold::File { reason } => reason.clone(),
        };
        tracing::error!(instance = new.name, account = %new.account, detail, "an instance is held: it needs somebody's attention");
        self.shared.metrics.held.inc();
        let change = Change::default().told("held", &new.server, detail);
        new.hold = Some(hold);
        self.commit("HoldInstance", new, change).await?;
        Ok(())
    }
}

/// Waits until the instance is to be removed.
async fn removal(removing: &mut watch::Receiver<bool>) {
    if removing.wait_for(|removing| *removing).await.is_err() {
        // Nobody can say so any more: the node stops.
        std::future::pending::<()>().await;
    }
}

/// What is wrong, if the news say so.
fn failure_of(told: Option<LinkNews>) -> Option<Failure> {
    match told {
        Some(LinkNews::Service(ServiceNews::Failed { service, reason })) => Some(Failure::Service { service, reason }),
        Some(LinkNews::Service(ServiceNews::Unstartable { service, reason })) => {
            Some(Failure::Unstartable { service, reason })
        }
        Some(LinkNews::Lost(lost)) => Some(Failure::Unreachable {
            reason: lost.to_string(),
        }),
        None => Some(Failure::Unreachable {
            reason: "the link has ended".to_owned(),
        }),
        Some(LinkNews::Service(ServiceNews::Ready { .. } | ServiceNews::AllReady)) => None,
    }
}
