//! The agent's end of the control channel: beats back, runs services, and watches the lease.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::{Shared, Stopped, lease_tick};
use crate::message::{Hello, NotParted, Part, Welcome};
use crate::service::{Serve, ServiceNews, Supervisor};
use crate::wire::{self, Framed, Kind, PROTOCOL, WireError};

/// News of services on their way to the channel.
const NEWS_MAX: usize = 16;

pub(super) struct Control {
    shared: Arc<Shared>,
    framed: Framed,
    epoch: u64,
    lease: Duration,
    /// Whether it was told of services.
    serves: bool,
}

/// What the supervisor is told; it works beside the control channel, for services may start slowly.
enum Errand {
    Serve(Serve),
    Restart(String),
}

impl Control {
    pub fn new(shared: Arc<Shared>, framed: Framed, hello: &Hello) -> Self {
        Self {
            shared,
            framed,
            epoch: hello.epoch,
            lease: Duration::from_millis(hello.lease_ms),
            serves: false,
        }
    }

    pub async fn run(mut self) -> Stopped {
        let welcome = Welcome {
            protocol: PROTOCOL,
            kinds: self.shared.backends.iter().map(|backend| backend.kind()).collect(),
        };
        self.framed.put_json(Kind::Welcome, &welcome);
        let (news_sender, news) = mpsc::channel(NEWS_MAX);
        let (errands, errands_receiver) = mpsc::unbounded_channel();
        let supervisor = Supervisor::new(self.shared.log_dir.clone(), news_sender);
        let services = tokio::spawn(supervise(supervisor, errands_receiver));
        let stopped = self.attend(news, errands).await;
        // The supervisor is dropped with its task, and the services with it.
        services.abort();
        let _ = services.await;
        stopped.unwrap_or_else(|error| {
            tracing::warn!(%error, "the control channel broke off");
            Stopped::NodeGone
        })
    }

    async fn attend(
        &mut self,
        mut news: mpsc::Receiver<ServiceNews>,
        errands: mpsc::UnboundedSender<Errand>,
    ) -> io::Result<Stopped> {
        let mut tick = tokio::time::interval(lease_tick(self.lease));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.framed.flush().await?;
        loop {
            tokio::select! {
                biased;
                _ = tick.tick() => {
                    let news = self.shared.made_ahead();
                    if !news.is_empty() {
                        self.framed.put_json(Kind::MadeAhead, &news);
                    }
                }
                told = news.recv() => if let Some(told) = told {
                    self.framed.put_json(Kind::ServiceNews, &told);
                },
                frame = self.framed.next() => match frame? {
                    None => return Ok(Stopped::NodeGone),
                    // Whoever was stopped for longer than its lease believes nothing that was said meanwhile.
                    Some(_) if !self.shared.is_current(self.epoch) => {}
                    Some(frame) if frame.kind == Kind::Stop => return Ok(Stopped::Told),
                    Some(frame) if frame.kind == Kind::Part => {
                        if self.part(&frame).await? {
                            return Ok(Stopped::Parted);
                        }
                    }
                    Some(frame) => self.take(&frame, &errands)?,
                },
            }
            if !self.shared.is_current(self.epoch) {
                return Ok(Stopped::LeaseOver);
            }
            self.framed.flush().await?;
        }
    }

    /// Lets an invocation part, if it can; all is said then.
    async fn part(&mut self, frame: &wire::Frame) -> io::Result<bool> {
        let part: Part = wire::json(&frame.body, "an invocation that is to part")?;
        let parted = match self.serves {
            true => Err("its instance has services, which cannot be taken along".to_owned()),
            false => self.shared.part(&part.run).await,
        };
        match &parted {
            Ok(()) => self.framed.put(Kind::Parted, b""),
            Err(reason) => {
                let reason = reason.clone();
                self.framed.put_json(Kind::NotParted, &NotParted { reason });
            }
        }
        self.framed.flush().await?;
        Ok(parted.is_ok())
    }

    fn take(&mut self, frame: &wire::Frame, errands: &mpsc::UnboundedSender<Errand>) -> Result<(), WireError> {
        let errand = match frame.kind {
            Kind::Beat => {
                self.shared.heard();
                self.framed.put(Kind::Beat, &frame.body);
                return Ok(());
            }
            Kind::Serve => {
                let serve: Serve = wire::json(&frame.body, "services")?;
                self.serves |= !serve.services.is_empty();
                Errand::Serve(serve)
            }
            Kind::Restart => Errand::Restart(String::from_utf8_lossy(&frame.body).into_owned()),
            kind => {
                let wanted = "a beat or services";
                return Err(WireError::Unexpected { kind, wanted });
            }
        };
        // Its receiver lives as long as this channel.
        let _ = errands.send(errand);
        Ok(())
    }
}

async fn supervise(mut supervisor: Supervisor, mut errands: mpsc::UnboundedReceiver<Errand>) {
    while let Some(errand) = errands.recv().await {
        match errand {
            Errand::Serve(serve) => supervisor.serve(serve).await,
            Errand::Restart(service) => supervisor.restart(&service).await,
        }
    }
}
