//! From a record to a server that runs: configure, spin up, connect, start the services.

use std::sync::Arc;
use std::time::Duration;

use bowline_agent::link::{LinkNews, LinkOptions};
use bowline_agent::service::{Serve, ServiceNews};
use bowline_agent::{Link, LinkError, Maxima, OnMadeAhead};
use bowline_sandbox::MadeAhead;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout_at};

use super::{DriveError, Driver, failure_of, removal};
use crate::book::Change;
use crate::decide::Failure;
use crate::file::{Effective, Kind};
use crate::model::{Hold, Instance, Server, State};
use crate::ports::Ports;
use crate::provider::{Reached, ServerOrder};
use crate::roster::Origin;

/// How often an agent that is not there yet is looked for.
const CONNECT_TICK: Duration = Duration::from_millis(20);
/// Addresses that are tried before it is said that none is free.
const ADDRESS_TRIES: u32 = 8;

/// A link with its news.
type Connected = (Link, mpsc::Receiver<LinkNews>);

/// What an agent is told to run.
pub(super) fn services(instance: &Instance, server: &Server) -> Serve {
    Serve {
        instance: instance.name.clone(),
        address: server.address.clone(),
        hosts: server.hosts(),
        services: server.effective.services.clone(),
    }
}

impl Driver {
    /// Brings a server to where it runs; the driver holds the link then. What an earlier try left is ended first.
    pub(super) async fn boot(&mut self, server: Server) -> Result<Result<Server, Failure>, DriveError> {
        let Some(provider) = self.shared.provider(server.effective.kind).cloned() else {
            let reason = format!("this node makes no instances of kind `{}`", server.effective.kind);
            return Ok(Err(Failure::NotStarted { reason }));
        };
        self.fence(&server).await?;
        let Some(server) = self.configure(server).await? else {
            return Ok(Err(Failure::NotStarted {
                reason: "what it needs is held by another server".to_owned(),
            }));
        };
        let order = self.order(&server);
        let mut removing = self.removing.clone();
        let configured = tokio::select! {
            configured = provider.configure(&order) => configured,
            () = removal(&mut removing) => return Ok(Err(being_removed())),
        };
        if let Err(error) = configured {
            return Ok(Err(not_started(&error)));
        }
        let mut server = self.moved(&server, State::SpinningUp);
        server.epoch += 1;
        self.put(server.clone(), Change::default().event("spin_up", &server))
            .await?;
        let deadline = Instant::now() + Duration::from_secs(server.effective.policy.boot_seconds.into());
        let start = async {
            let reached = provider.spin_up(&order).await.map_err(|error| not_started(&error))?;
            let connected = self.start(&server, &reached).await?;
            Ok((reached, connected))
        };
        let started = tokio::select! {
            started = timeout_at(deadline, start) => started.unwrap_or(Err(Failure::BootDeadline)),
            () = removal(&mut removing) => Err(being_removed()),
        };
        let (reached, connected) = match started {
            Ok(started) => started,
            Err(failure) => return Ok(Err(failure)),
        };
        self.link = Some(connected);
        self.origin = match reached.has_waited {
            true => Origin::Waited,
            false => Origin::Made,
        };
        server.detail = reached.detail;
        server.machine = reached.machine;
        Ok(self.open_ports().await.map(|()| server))
    }

    /// Opens the ports of the server's services that are not open, if it has none of its own.
    pub(super) async fn open_ports(&mut self) -> Result<(), Failure> {
        let Some((link, _)) = &self.link else { return Ok(()) };
        let server = self.kept.record.current();
        if self.ports.is_none() {
            self.ports = Ports::of(server, link, &self.shared.metrics);
        }
        let Some(ports) = &mut self.ports else { return Ok(()) };
        let opened = ports.open(&server.effective.services).await;
        opened.map_err(|reason| Failure::NotStarted { reason })
    }

    fn order(&self, server: &Server) -> ServerOrder {
        let instance = &self.kept.record;
        ServerOrder {
            server: server.id.clone(),
            account: instance.account.clone(),
            instance: instance.name.clone(),
            address: server.address.clone(),
            effective: server.effective.clone(),
        }
    }

    /// Writes down that the server's resources are being set up, with its claims; `None` if another server has one.
    async fn configure(&mut self, server: Server) -> Result<Option<Server>, DriveError> {
        if server.state != State::Requested {
            return Ok(Some(server));
        }
        let mut server = self.moved(&server, State::Configuring);
        for _ in 0..ADDRESS_TRIES {
            let change = Change::default()
                .claim(&self.kept.record.account, &server)
                .event("configure", &server);
            match self.put(server.clone(), change).await {
                Ok(()) => return Ok(Some(server)),
                Err(DriveError::Book(error)) if error.is_conflict() => self.read_again().await,
                Err(error) => return Err(error),
            }
            for volume in &server.effective.volumes {
                if let Some(holder) = self
                    .shared
                    .book
                    .holder(&self.kept.record.account, &volume.source)
                    .await?
                {
                    let reason = format!("volume `{}` is written by server `{holder}`", volume.source);
                    self.hold(Hold::File { reason }).await?;
                    return Ok(None);
                }
            }
            // Otherwise it is the address that somebody has.
            server.address = server.address.map(|_| self.shared.new_address());
        }
        Ok(None)
    }

    /// Commits the server that is made or used now.
    pub(super) async fn put(&mut self, server: Server, change: Change) -> Result<(), DriveError> {
        let mut new = self.kept.record.clone();
        match &mut new.replacement {
            Some(replacement) if replacement.new.is_some() => replacement.new = Some(server),
            _ => new.server = server,
        }
        Ok(self.commit("StartInstance", new, change).await?)
    }

    /// Connects to the agent and has it start the services.
    async fn start(&self, server: &Server, reached: &Reached) -> Result<Connected, Failure> {
        let (link, mut news) = self.connect(server, reached).await?;
        link.serve(services(&self.kept.record, server));
        loop {
            match news.recv().await {
                Some(LinkNews::Service(ServiceNews::AllReady)) => return Ok((link, news)),
                told => {
                    if let Some(failure) = failure_of(told) {
                        return Err(failure);
                    }
                }
            }
        }
    }

    /// Who is told of what agents make ahead; those in the node have the node's own.
    fn made_ahead(&self, kind: Kind) -> Option<OnMadeAhead> {
        let counted = self.shared.metrics.made_ahead.clone();
        (kind != Kind::Inline).then(|| Arc::new(move |more: &MadeAhead| counted.add(more)) as _)
    }

    async fn connect(&self, server: &Server, reached: &Reached) -> Result<Connected, Failure> {
        loop {
            let options = LinkOptions {
                dial: reached.dial.clone(),
                epoch: server.epoch,
                lease: self.shared.lease,
                clock: self.shared.clock.clone(),
                code: reached.code.clone(),
                memory_mib: Some(reached.room_mib.unwrap_or(server.effective.memory_mib.into())),
                maxima: maxima(&server.effective),
                made_ahead: self.made_ahead(server.effective.kind),
            };
            match Link::connect(options).await {
                Ok(connected) => return Ok(connected),
                // It may not listen yet.
                Err(LinkError::Io(_) | LinkError::Silent(_)) => sleep(CONNECT_TICK).await,
                Err(error) => {
                    return Err(Failure::NotStarted {
                        reason: error.to_string(),
                    });
                }
            }
        }
    }
}

/// What a server has in all; one inside the node has nothing of its own.
fn maxima(effective: &Effective) -> Option<Maxima> {
    (effective.kind != Kind::Inline).then(|| Maxima {
        memory_mib: effective.memory_mib.into(),
        cpu_millis: effective.cpu_millis.into(),
    })
}

fn being_removed() -> Failure {
    Failure::Reported {
        reason: "it is being removed".to_owned(),
        repairable: false,
    }
}

fn not_started(error: &dyn std::error::Error) -> Failure {
    let mut reason = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        reason.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    Failure::NotStarted { reason }
}
