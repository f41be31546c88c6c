//! Parting over a port, as in a virtual machine: the other side of the port is another one afterwards.

use std::os::unix::net::UnixStream as StdStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bowline_foundation::clock::{Clock, Timestamp};
use bowline_foundation::digest::Digest;
use bowline_foundation::entropy::Entropy;
use bowline_foundation::id::{AccountId, RequestId};
use bowline_foundation::units::Mebibytes;
use bowline_sandbox::{
    Backend, CodeDir, CreateError, Deadline, Invocation, LogSink, MemoryLog, Outcome, PrepareError, Report, Runtime,
    Sandbox, SandboxKind, Usage, VersionSpec,
};
use bytes::Bytes;
use tokio::net::UnixStream;
use tokio::sync::{Notify, mpsc};

use crate::link::LinkNews;
use crate::mux::{self, MuxDial};
use crate::{CodeWay, Host, HostOptions, Leg, Link, LinkOptions, Lost, Remote, RemoteSandbox};

/// Sandboxes that answer when they are let.
#[derive(Default)]
struct Patient {
    go: Notify,
    began: Notify,
}

struct PatientBackend(Arc<Patient>);

struct PatientSandbox {
    patient: Arc<Patient>,
    log: Arc<dyn LogSink>,
}

#[async_trait]
impl Backend for PatientBackend {
    fn kind(&self) -> SandboxKind {
        SandboxKind::Linux
    }

    async fn check(&self, _: &VersionSpec) -> Result<(), PrepareError> {
        Ok(())
    }

    async fn prepare(&self, _: &VersionSpec) -> Result<(), PrepareError> {
        Ok(())
    }

    async fn create(&self, _: Arc<VersionSpec>, log: Arc<dyn LogSink>) -> Result<Box<dyn Sandbox>, CreateError> {
        let patient = self.0.clone();
        Ok(Box::new(PatientSandbox { patient, log }))
    }
}

#[async_trait]
impl Sandbox for PatientSandbox {
    async fn invoke(&mut self, invocation: Invocation) -> Report {
        self.log.write(b"begun\n");
        self.patient.began.notify_one();
        self.patient.go.notified().await;
        self.log.write(b"over\n");
        Report {
            outcome: Outcome::Success(invocation.payload),
            usage: Usage::default(),
            reusable: true,
        }
    }

    fn is_alive(&mut self) -> bool {
        true
    }

    fn resident_bytes(&self) -> u64 {
        0
    }

    async fn destroy(self: Box<Self>) {}
}

fn version() -> Arc<VersionSpec> {
    Arc::new(VersionSpec {
        account: AccountId::default_account(),
        region: "us-east-1".to_owned(),
        function: "hashes".to_owned(),
        version: "$LATEST".to_owned(),
        runtime: Runtime::ProvidedAl2023,
        handler: "app.handler".to_owned(),
        code: CodeDir {
            digest: Digest::of(b"code"),
            path: PathBuf::from("/none"),
        },
        layers: None,
        image: None,
        mounts: Vec::new(),
        processors: None,
        kind: SandboxKind::Linux,
        memory: Mebibytes(128),
        ephemeral_storage: Mebibytes(512),
        timeout: Duration::from_secs(60),
        environment: Default::default(),
        logging: bowline_sandbox::Logging::default(),
    })
}

fn invocation(number: u64) -> Invocation {
    let clock = Clock::system();
    let budget = Duration::from_secs(60);
    Invocation {
        request_id: RequestId::random(&Entropy::seeded(number)),
        payload: Bytes::from_static(b"{\"the\":\"answer\"}"),
        deadline: Deadline {
            wall: Timestamp::from_micros(u64::MAX / 2),
            monotonic: clock.monotonic().after(budget),
            budget,
        },
        invoked_arn: "arn".to_owned(),
        client_context: None,
        trace_id: None,
        sink: None,
        platform: None,
        suspension: None,
    }
}

/// An agent behind a port.
struct World {
    patient: Arc<Patient>,
    port: StdStream,
    log: Arc<MemoryLog>,
}

impl World {
    fn new() -> Self {
        let (port, its_port) = StdStream::pair().unwrap();
        let patient = Arc::new(Patient::default());
        let host = Host::new(HostOptions {
            clock: Clock::system(),
            backends: vec![Arc::new(PatientBackend(patient.clone()))],
            code: None,
            log_dir: PathBuf::from("/none"),
        });
        let mut accept = mux::acceptor(stream(its_port));
        tokio::spawn(async move { host.run(&mut accept).await });
        let log = Arc::default();
        Self { patient, port, log }
    }

    /// The node's side of the port, from this channel on.
    fn dial(&self, channel: u32) -> MuxDial {
        mux::dialer_from(stream(self.port.try_clone().unwrap()), channel)
    }

    async fn sandbox(&self, link: &Link) -> RemoteSandbox {
        let remote = Remote::new(link, SandboxKind::Linux);
        remote.make(&version(), self.log.clone()).await.unwrap()
    }
}

fn stream(stream: StdStream) -> UnixStream {
    stream.set_nonblocking(true).unwrap();
    UnixStream::from_std(stream).unwrap()
}

async fn connect(dial: &MuxDial, epoch: u64) -> (Link, mpsc::Receiver<LinkNews>) {
    let options = LinkOptions {
        dial: Arc::new(dial.clone()),
        epoch,
        lease: Duration::from_secs(60),
        clock: Clock::system(),
        code: CodeWay::Shared,
        memory_mib: None,
        maxima: None,
        made_ahead: None,
    };
    Link::connect(options).await.unwrap()
}

fn outcome(leg: Leg) -> Outcome {
    match leg {
        Leg::Over(report) => report.outcome,
        Leg::Parted => panic!("it parted"),
    }
}

#[tokio::test]
async fn an_invocation_parts_ends_meanwhile_and_its_answer_comes_by_another_link() {
    let world = World::new();
    let dial = world.dial(1);
    let (link, mut news) = connect(&dial, 7).await;
    let mut sandbox = world.sandbox(&link).await;
    let _left_behind = world.sandbox(&link).await;
    let event = invocation(1);
    let run = event.request_id;
    let following = tokio::spawn(async move { sandbox.send(event).await });
    world.patient.began.notified().await;
    let parted = link.part(run.as_str()).await.map_err(|_| "refused").unwrap();
    assert!(matches!(following.await.unwrap(), Leg::Parted));
    let channel = dial.halt().await;
    assert!(
        news.try_recv().is_err(),
        "the holder is not told while the machine is saved"
    );
    drop(parted);
    assert_eq!(news.recv().await, Some(LinkNews::Lost(Lost::Parted)));

    world.patient.go.notify_one();
    let dial = world.dial(channel);
    let (link, _news) = connect(&dial, 8).await;
    let left = Duration::from_secs(60);
    let remote = Remote::new(&link, SandboxKind::Linux);
    let attached = remote.attach(run.as_str(), (&version(), left), world.log.clone()).await;
    let answer = outcome(attached.unwrap().follow(run).await);
    assert_eq!(answer, Outcome::Success(Bytes::from_static(b"{\"the\":\"answer\"}")));
    assert_eq!(world.log.text(), "begun\nover\n", "no line is lost or comes twice");

    // It parted once, and is attached once.
    let again = remote.attach(run.as_str(), (&version(), left), world.log.clone()).await;
    assert!(matches!(outcome(again.unwrap().follow(run).await), Outcome::Broken(_)));
}

#[tokio::test]
async fn one_of_two_invocations_does_not_part_and_both_go_on() {
    let world = World::new();
    let (link, _news) = connect(&world.dial(1), 7).await;
    let mut following = Vec::new();
    for number in [1, 2] {
        let mut sandbox = world.sandbox(&link).await;
        let event = invocation(number);
        following.push((event.request_id, tokio::spawn(async move { sandbox.send(event).await })));
        world.patient.began.notified().await;
    }
    let (first, second) = (following[0].0, following[1].0);
    let refused = link.part(first.as_str()).await.map(|_| ()).unwrap_err();
    assert!(
        refused.contains(second.as_str()) && !refused.contains(first.as_str()),
        "{refused}"
    );
    let refused = link.part("nobody").await.map(|_| ()).unwrap_err();
    assert!(refused.contains(second.as_str()), "{refused}");
    for (_, following) in following {
        world.patient.go.notify_one();
        assert!(matches!(outcome(following.await.unwrap()), Outcome::Success(_)));
    }
    let late = link.part(first.as_str()).await.map(|_| ()).unwrap_err();
    assert!(late.contains("has just ended"), "{late}");
}
