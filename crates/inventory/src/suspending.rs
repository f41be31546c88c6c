//! A sandbox on an instance that is a virtual machine, whose invocation is suspended with the machine around it.
//!
//! ```text
//!   on the instance's machine ── asked: the invocation parts, the instance does without the machine from now on
//!        │                            ├─ Copy: written down, goes on ──▶ on a machine of its own ─▶ its end, and the machine's
//!        ▼                            └─ Leave: written down, ended ───▶ nothing is left here
//!   its end: the machine is the instance's as before                     later, anywhere: thawed ──▶ on a machine of its own
//! ```
//! An invocation parts only if it is the machine's only one. From then on the machine is the invocation's.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bowline_agent::{CodeWay, Leg, Link, LinkOptions, Parted, Remote, RemoteSandbox};
use bowline_foundation::id::RequestId;
use bowline_sandbox::suspension::Kept;
use bowline_sandbox::{
    Deadline, Frozen, FunctionError, Ground, Invocation, LogSink, Outcome, Report, Sandbox, SandboxKind, Site, Stand,
    Suspension, Usage, VersionSpec, Wish,
};
use bowline_sandbox_vm::After;
use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::vm::{Freezing, VmProvider, Whole};

/// How long the second of two words of a parting may take.
const WORD_MAX: Duration = Duration::from_secs(20);

/// What sandboxes of a version are made of.
#[derive(Clone)]
pub(crate) struct Making {
    pub machines: Arc<VmProvider>,
    pub version: Arc<VersionSpec>,
    pub kind: SandboxKind,
    pub ground: Ground,
    pub stand: Option<Stand>,
    pub log: Arc<dyn LogSink>,
}

/// A sandbox with the machine that it is in, if there is one.
pub(crate) struct Suspending {
    making: Making,
    place: Option<Place>,
}

struct Place {
    sandbox: RemoteSandbox,
    link: Link,
    whole: Arc<Whole>,
    /// The machine is the invocation's own, and ends with it.
    is_own: bool,
}

/// The invocation that is carried.
struct Run<'a> {
    id: RequestId,
    deadline: Deadline,
    suspension: &'a Suspension,
}

/// How a leg ended.
enum Left {
    Over(Report),
    Parted(Parted),
}

impl Suspending {
    /// Makes a sandbox on an instance that is such a machine.
    pub async fn create(making: Making, link: &Link, whole: Arc<Whole>) -> Result<Self, bowline_sandbox::CreateError> {
        let remote = Remote::new(link, making.kind).on(making.ground).standing(making.stand);
        let sandbox = remote.make(&making.version, making.log.clone()).await?;
        let place = Place {
            sandbox,
            link: link.clone(),
            whole,
            is_own: false,
        };
        Ok(Self {
            making,
            place: Some(place),
        })
    }

    /// A seat for an invocation that goes on from a checkpoint: its machine comes with that.
    pub fn seat(making: Making) -> Self {
        Self { making, place: None }
    }

    /// The invocation's machine, begun again from its bytes.
    async fn thaw(&mut self, bytes: Bytes, run: &Run<'_>) -> Result<(), String> {
        if let Some(place) = self.place.take() {
            place.destroy().await;
        }
        let (whole, label) = self.making.machines.thaw(bytes).await?;
        if label.run != run.id.as_str() {
            return Err(format!("it is invocation `{}`'s", label.run));
        }
        self.join(whole, label.epoch, run).await
    }

    /// Takes an invocation up that has parted, by a link of its own.
    async fn join(&mut self, whole: Arc<Whole>, epoch: u64, run: &Run<'_>) -> Result<(), String> {
        let Making { machines, version, .. } = &self.making;
        let options = LinkOptions {
            dial: VmProvider::dial(&whole),
            epoch: epoch + 1,
            lease: machines.lease(),
            clock: machines.clock().clone(),
            code: CodeWay::Carried,
            memory_mib: None,
            maxima: None,
            made_ahead: None,
        };
        // Without services there is no news but the end, which the channel tells too.
        let (link, _) = Link::connect(options).await.map_err(|error| error.to_string())?;
        let left = run.deadline.monotonic.since(machines.clock().monotonic());
        let remote = Remote::new(&link, self.making.kind).on(self.making.ground);
        let attached = remote
            .attach(run.id.as_str(), (version, left), self.making.log.clone())
            .await;
        self.place = Some(Place {
            sandbox: attached.map_err(|error| error.to_string())?,
            link,
            whole,
            is_own: true,
        });
        Ok(())
    }

    /// Follows an invocation over all its legs here.
    async fn travel(&mut self, mut event: Option<Invocation>, run: &Run<'_>) -> Report {
        loop {
            let Some(place) = &mut self.place else {
                return broken("a place for an invocation that was suspended has none to go on with");
            };
            let left = place.leg(event.take(), run, &self.making.machines).await;
            let is_own = place.is_own;
            let parted = match left {
                Left::Parted(parted) => parted,
                Left::Over(mut report) => {
                    report.reusable &= !is_own;
                    return report;
                }
            };
            if let ControlFlow::Break(report) = self.freeze(parted, run).await {
                return report;
            }
        }
    }

    /// Writes the machine down, and ends it or goes on with it as is wished.
    async fn freeze(&mut self, parted: Parted, run: &Run<'_>) -> ControlFlow<Report> {
        let Suspension { control, keeper, .. } = run.suspension;
        let Some(Place {
            sandbox, link, whole, ..
        }) = self.place.take()
        else {
            return ControlFlow::Break(broken("it has no machine"));
        };
        drop(sandbox);
        whole.take();
        let wish = control.take();
        if wish == Some(Wish::End) {
            whole.end().await;
            return ControlFlow::Break(broken("the invocation was ended"));
        }
        let after = match wish {
            Some(Wish::Leave) => After::Stand,
            _ => After::GoOn,
        };
        let epoch = link.epoch();
        let freezing = Freezing {
            run: run.id.as_str(),
            epoch,
            after,
        };
        let frozen = match self.making.machines.freeze(&whole, freezing).await {
            Ok(frozen) if after == After::Stand => {
                whole.end().await;
                // Only now does its instance get another machine.
                drop(parted);
                return ControlFlow::Break(suspended(frozen));
            }
            Ok(frozen) => Some(frozen),
            Err(reason) => {
                keeper.not_taken(&reason);
                None
            }
        };
        drop(parted);
        if let Err(reason) = self.join(whole.clone(), epoch, run).await {
            whole.end().await;
            return ControlFlow::Break(broken(&format!("its virtual machine does not go on: {reason}")));
        }
        let Some(frozen) = frozen else {
            return ControlFlow::Continue(());
        };
        match keeper.keep(frozen).await {
            Kept::GoOn => ControlFlow::Continue(()),
            Kept::GiveUp => {
                whole.end().await;
                ControlFlow::Break(broken("the invocation goes on elsewhere"))
            }
        }
    }
}

impl Place {
    /// Follows an invocation until it ends, or has parted because somebody asked for that.
    async fn leg(&mut self, event: Option<Invocation>, run: &Run<'_>, machines: &VmProvider) -> Left {
        let control = &run.suspension.control;
        let asked = Arc::new(Notify::new());
        let heed = || {
            let asked = asked.clone();
            control.attach(Box::new(move || asked.notify_one()));
        };
        heed();
        let (sandbox, link, whole) = (&mut self.sandbox, &self.link, &self.whole);
        let following = async {
            match event {
                Some(event) => sandbox.send(event).await,
                None => sandbox.follow(run.id).await,
            }
        };
        let obeying = async {
            loop {
                asked.notified().await;
                match control.wish() {
                    None => {}
                    Some(Wish::End) => return None,
                    Some(Wish::Copy | Wish::Leave) => match whole.part(link, run.id.as_str()).await {
                        Ok(parted) => return Some(parted),
                        Err(reason) => {
                            control.take();
                            run.suspension.keeper.not_taken(&reason);
                            heed();
                        }
                    },
                }
            }
        };
        let left = run.deadline.monotonic.since(machines.clock().monotonic());
        // The guest's clock stood still while it was suspended: its own deadline is a later one.
        let late = sleep(left);
        tokio::pin!(following, obeying, late);
        let left = tokio::select! {
            biased;
            leg = &mut following => match leg {
                Leg::Over(report) => Left::Over(report),
                Leg::Parted => match timeout(WORD_MAX, obeying).await {
                    Ok(Some(parted)) => return Left::Parted(parted),
                    _ => Left::Over(broken("the invocation parted, but its machine cannot be saved")),
                },
            },
            parted = &mut obeying => match parted {
                None => Left::Over(broken("the invocation was ended")),
                Some(parted) => match following.await {
                    Leg::Parted => return Left::Parted(parted),
                    Leg::Over(report) => Left::Over(report),
                },
            },
            () = &mut late, if self.is_own => {
                let outcome = Outcome::Failed(FunctionError::timed_out(run.id, run.deadline.budget));
                Left::Over(Report { outcome, usage: Usage::default(), reusable: false })
            }
        };
        control.take();
        left
    }

    async fn destroy(self) {
        if self.is_own {
            self.whole.end().await;
        } else {
            Box::new(self.sandbox).destroy().await;
        }
    }
}

fn broken(reason: &str) -> Report {
    Report {
        outcome: Outcome::Broken(reason.to_owned()),
        usage: Usage::default(),
        reusable: false,
    }
}

fn suspended(frozen: Frozen) -> Report {
    Report {
        outcome: Outcome::Suspended(frozen),
        usage: Usage::default(),
        reusable: false,
    }
}

#[async_trait]
impl Sandbox for Suspending {
    async fn invoke(&mut self, mut invocation: Invocation) -> Report {
        let Some(suspension) = invocation.suspension.take() else {
            return match &mut self.place {
                Some(place) => place.sandbox.invoke(invocation).await,
                None => broken("a place for an invocation that was suspended takes no other one"),
            };
        };
        let run = Run {
            id: invocation.request_id,
            deadline: invocation.deadline,
            suspension: &suspension,
        };
        let event = match suspension.from.clone() {
            None => Some(invocation),
            Some(bytes) => match self.thaw(bytes, &run).await {
                Ok(()) => None,
                Err(reason) => return broken(&format!("the checkpoint cannot be resumed: {reason}")),
            },
        };
        self.travel(event, &run).await
    }

    fn is_settled(&self) -> bool {
        self.place.as_ref().is_none_or(|place| place.sandbox.is_settled())
    }

    async fn settle(&mut self) -> bool {
        match &mut self.place {
            Some(place) => place.sandbox.settle().await,
            None => false,
        }
    }

    /// A seat that nobody sits in is of no use to others.
    fn is_alive(&mut self) -> bool {
        self.place
            .as_mut()
            .is_some_and(|place| !place.is_own && place.sandbox.is_alive())
    }

    async fn idle(&mut self) {
        if let Some(place) = &mut self.place {
            place.sandbox.idle().await;
        }
    }

    fn resident_bytes(&self) -> u64 {
        self.place.as_ref().map_or(0, |place| place.sandbox.resident_bytes())
    }

    fn ground(&self) -> Ground {
        self.making.ground
    }

    fn stand(&self) -> Option<Stand> {
        self.making.stand
    }

    fn site(&self) -> Option<&Site> {
        self.place.as_ref()?.sandbox.site()
    }

    async fn destroy(mut self: Box<Self>) {
        if let Some(place) = self.place.take() {
            place.destroy().await;
        }
    }
}
