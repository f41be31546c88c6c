//! A backend that does what the event tells it, and lets a test hold it up at will.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bowline_capacity::fleet::Class;
use bowline_foundation::clock::Timestamp;
use bowline_sandbox::answer::{AnswerSink, STREAM_CONTENT_TYPE};
use bowline_sandbox::suspension::{CHECKPOINT_VARIABLE, Kept};
use bowline_sandbox::{
    Backend, Berth, CreateError, Frozen, FunctionError, Invocation, LogSink, NoRoom, Outcome, PrepareError, Report,
    Sandbox, SandboxKind, Stand, Suspendable, Usage, VersionSpec,
};
use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;

/// How long a test waits for what must come.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub prepared: usize,
    pub created: usize,
    pub destroyed: usize,
    pub idled: usize,
    pub invoked: usize,
    pub ended: usize,
    pub settled: usize,
    /// Checkpoints that were kept of guests that went on.
    pub kept: usize,
}

impl Counts {
    pub fn living(&self) -> usize {
        self.created - self.destroyed
    }
}

/// What the next steps do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Script {
    Invalid,
    Missing,
    InitError,
    Broken,
}

/// What a durable function does with its event.
pub type DurableGuest = Arc<dyn Fn(Value) -> Pin<Box<dyn Future<Output = Value> + Send>> + Send + Sync>;

/// The controls of a fake backend; the backend itself is [`Fake::backend`].
pub struct Fake {
    kind: SandboxKind,
    pub counts: watch::Sender<Counts>,
    prepare_held: watch::Sender<bool>,
    create_held: watch::Sender<bool>,
    /// Invocations of `{"do": "hold"}` wait as long as this is set; those of `{"do": "linger"}` are answered
    /// but not settled, and sandboxes of `{"do": "never-settle"}` must then be destroyed.
    held: watch::Sender<bool>,
    streamed: watch::Sender<usize>,
    preparing: Mutex<Option<Script>>,
    creating: Mutex<Option<Script>>,
    /// All events, in the order in which their invocations began.
    seen: Mutex<Vec<Value>>,
    room: Mutex<Option<usize>>,
    /// Where sandboxes belong, and whether the fleet they are made in has room.
    berth: Mutex<Option<(Berth, bool)>>,
    /// What was told of calls.
    told: Mutex<Vec<(Timestamp, u64)>>,
    /// Answers the events of durable executions.
    pub durable: watch::Sender<Option<DurableGuest>>,
}

impl Fake {
    pub fn new(kind: SandboxKind) -> Arc<Self> {
        Arc::new(Self {
            kind,
            counts: watch::Sender::default(),
            prepare_held: watch::Sender::new(false),
            create_held: watch::Sender::new(false),
            held: watch::Sender::new(true),
            streamed: watch::Sender::default(),
            preparing: Mutex::default(),
            creating: Mutex::default(),
            seen: Mutex::default(),
            room: Mutex::default(),
            berth: Mutex::default(),
            told: Mutex::default(),
            durable: watch::Sender::new(None),
        })
    }

    pub fn count(&self) -> Counts {
        *self.counts.borrow()
    }

    /// Waits until the counts are as wanted.
    pub async fn until(&self, wanted: impl FnMut(&Counts) -> bool) -> Counts {
        let mut counts = self.counts.subscribe();
        let reached = tokio::time::timeout(PATIENCE, counts.wait_for(wanted)).await;
        *reached
            .unwrap_or_else(|_| panic!("stuck at {:?}", self.count()))
            .unwrap()
    }

    /// Bytes that streaming sandboxes have handed over so far.
    pub fn streamed(&self) -> watch::Receiver<usize> {
        self.streamed.subscribe()
    }

    pub fn seen(&self) -> Vec<Value> {
        self.seen.lock().clone()
    }

    pub fn hold_prepares(&self, hold: bool) {
        self.prepare_held.send_replace(hold);
    }

    /// Whether sandboxes are begun and do not come.
    pub fn hold_creations(&self, hold: bool) {
        self.create_held.send_replace(hold);
    }

    pub fn hold_invocations(&self, hold: bool) {
        self.held.send_replace(hold);
    }

    /// What every preparation does from now on.
    pub fn prepare_as(&self, script: Option<Script>) {
        *self.preparing.lock() = script;
    }

    /// What every creation does from now on.
    pub fn create_as(&self, script: Option<Script>) {
        *self.creating.lock() = script;
    }

    /// How many sandboxes may live at once.
    pub fn set_room(&self, sandboxes: usize) {
        *self.room.lock() = Some(sandboxes);
    }

    /// Where sandboxes belong from now on, in a fleet that has room or not; `None` if there are no fleets.
    pub fn moor(&self, berth: Option<(Berth, bool)>) {
        *self.berth.lock() = berth;
    }

    /// What was told of calls: since when, and how many.
    pub fn told(&self) -> Vec<(Timestamp, u64)> {
        self.told.lock().clone()
    }

    fn stand(&self) -> Option<Stand> {
        let (Berth { fleet, .. }, has_room) = (*self.berth.lock())?;
        let fleet = match (fleet, has_room) {
            (fleet, true) => fleet,
            (Class::Low, false) => Class::High,
            (_, false) => Class::Low,
        };
        Some(Stand {
            fleet,
            is_spilled: !has_room,
        })
    }

    fn bump(&self, change: impl FnOnce(&mut Counts)) {
        self.counts.send_modify(change);
    }
}

/// The backend that the service sees.
pub struct FakeBackend(pub Arc<Fake>);

#[async_trait]
impl Backend for FakeBackend {
    fn kind(&self) -> SandboxKind {
        self.0.kind
    }

    async fn check(&self, _: &VersionSpec) -> Result<(), PrepareError> {
        match &*self.0.preparing.lock() {
            Some(Script::Missing) => Err(PrepareError::MissingRuntime("no interpreter".to_owned())),
            _ => Ok(()),
        }
    }

    async fn prepare(&self, version: &VersionSpec) -> Result<(), PrepareError> {
        let mut held = self.0.prepare_held.subscribe();
        held.wait_for(|held| !held).await.unwrap();
        self.0.bump(|counts| counts.prepared += 1);
        assert!(version.code.path.is_dir(), "the code is not unpacked");
        match &*self.0.preparing.lock() {
            Some(Script::Invalid) => Err(PrepareError::InvalidCode("bad code".to_owned())),
            Some(Script::Missing) => Err(PrepareError::MissingRuntime("no interpreter".to_owned())),
            _ => Ok(()),
        }
    }

    fn has_fleets(&self) -> bool {
        self.0.berth.lock().is_some()
    }

    fn berth(&self, _: &VersionSpec) -> Option<Berth> {
        self.0.berth.lock().map(|(berth, has_room)| Berth { has_room, ..berth })
    }

    fn called(&self, _: &VersionSpec, count: u64, since: Timestamp) {
        self.0.told.lock().push((since, count));
    }

    fn suspendable(&self, version: &VersionSpec) -> Suspendable {
        match version.environment.contains_key(CHECKPOINT_VARIABLE) {
            true => Suspendable::Yes,
            false => Suspendable::Unasked,
        }
    }

    async fn create(&self, version: Arc<VersionSpec>, log: Arc<dyn LogSink>) -> Result<Box<dyn Sandbox>, CreateError> {
        let mut held = self.0.create_held.subscribe();
        held.wait_for(|held| !held).await.unwrap();
        match &*self.0.creating.lock() {
            Some(Script::InitError) => {
                log.write(b"init goes wrong\n");
                return Err(CreateError::Init(FunctionError::new(
                    "Runtime.ImportModuleError",
                    "no module",
                )));
            }
            Some(Script::Broken) => return Err(CreateError::Backend(io::Error::other("broken"))),
            _ => {}
        }
        let room = self.0.room.lock().unwrap_or(usize::MAX);
        if self.0.count().living() >= room {
            return Err(CreateError::Exhausted(NoRoom {
                reason: "full".to_owned(),
                crowded: Vec::new(),
            }));
        }
        self.0.bump(|counts| counts.created += 1);
        let number = self.0.count().created;
        log.write(b"init\n");
        Ok(Box::new(FakeSandbox {
            fake: self.0.clone(),
            version,
            log,
            number,
            served: 0,
            alive: true,
            lingers: false,
            settles: true,
            stand: self.0.stand(),
        }))
    }
}

struct FakeSandbox {
    fake: Arc<Fake>,
    version: Arc<VersionSpec>,
    log: Arc<dyn LogSink>,
    number: usize,
    served: usize,
    alive: bool,
    lingers: bool,
    settles: bool,
    stand: Option<Stand>,
}

impl FakeSandbox {
    fn code(&self) -> String {
        std::fs::read_to_string(self.version.code.path.join("code")).unwrap_or_default()
    }

    /// The texts of the files at the top of `/opt`, by name.
    fn opt(&self) -> Value {
        let Some(layers) = &self.version.layers else {
            return Value::Null;
        };
        let files = std::fs::read_dir(&layers.path).expect("the layers are laid out");
        let files = files.map(|entry| {
            let entry = entry.unwrap();
            let text = std::fs::read_to_string(entry.path()).unwrap();
            (entry.file_name().into_string().unwrap(), Value::from(text))
        });
        Value::Object(files.collect())
    }

    /// What the first event of a batch that asks for something asks for.
    async fn act_on_batch(&self, records: &[Value]) -> Outcome {
        for record in records {
            let body = STANDARD.decode(record["kinesis"]["data"].as_str().unwrap()).unwrap();
            let body: Value = serde_json::from_slice(&body).unwrap_or_default();
            match body["do"].as_str() {
                Some("fail") => return Outcome::Failed(FunctionError::new("Oops", "as asked")),
                Some("hold") => {
                    let mut held = self.fake.held.subscribe();
                    held.wait_for(|held| !held).await.unwrap();
                }
                Some("report") => {
                    let failed = json!({ "itemIdentifier": record["kinesis"]["sequenceNumber"] });
                    let answer = json!({ "batchItemFailures": [failed] });
                    return Outcome::Success(Bytes::from(answer.to_string()));
                }
                _ => {}
            }
        }
        Outcome::Success(Bytes::from_static(b"{}"))
    }

    /// Streams as many pieces of `bytes` bytes as asked for; waits after the first if it is to be held.
    async fn stream(&self, event: &Value, sink: &mut AnswerSink) -> Outcome {
        sink.begin(event["type"].as_str().unwrap_or(STREAM_CONTENT_TYPE));
        let bytes = event["bytes"].as_u64().unwrap_or(1) as usize;
        for piece in 0..event["pieces"].as_u64().unwrap_or(1) {
            if let Err(refused) = sink.send(Bytes::from(vec![b'x'; bytes])).await {
                return Outcome::Failed(refused.into());
            }
            self.fake.streamed.send_modify(|streamed| *streamed += bytes);
            if piece == 0 && event["held"] == true {
                let mut held = self.fake.held.subscribe();
                held.wait_for(|held| !held).await.unwrap();
            }
        }
        match event["then"].as_str() {
            Some("fail") => Outcome::Failed(FunctionError::new("Oops", "as asked")),
            Some("break") => Outcome::Broken("as asked".to_owned()),
            _ => Outcome::Success(Bytes::new()),
        }
    }

    /// Leaves a checkpoint, one or two.
    async fn suspend(&self, way: &str, invocation: &mut Invocation) -> Option<Outcome> {
        let suspension = invocation.suspension.take()?;
        let frozen = || Frozen {
            bytes: invocation.payload.clone(),
            resident_bytes: 0,
            took: Duration::ZERO,
            machine: None,
        };
        if way == "until-asked" {
            let asked = Arc::new(tokio::sync::Notify::new());
            let told = asked.clone();
            suspension.control.attach(Box::new(move || told.notify_one()));
            asked.notified().await;
            suspension.control.take();
        }
        if way == "leave" || way == "until-asked" {
            return Some(Outcome::Suspended(frozen()));
        }
        suspension.keeper.keep(frozen()).await;
        self.fake.bump(|counts| counts.kept += 1);
        if way == "checkpoint-break" {
            return Some(Outcome::Broken("as asked".to_owned()));
        }
        let mut held = self.fake.held.subscribe();
        held.wait_for(|held| !held).await.unwrap();
        match suspension.keeper.keep(frozen()).await {
            Kept::GoOn => None,
            Kept::GiveUp => Some(Outcome::Broken("it goes on elsewhere".to_owned())),
        }
    }

    async fn act(&mut self, invocation: &mut Invocation) -> Outcome {
        if let Some(from) = invocation
            .suspension
            .as_ref()
            .and_then(|suspension| suspension.from.as_ref())
        {
            return going_on(from);
        }
        let event: Value = serde_json::from_slice(&invocation.payload).unwrap();
        if event["DurableExecutionArn"].is_string() {
            let mut guests = self.fake.durable.subscribe();
            let guest = guests.wait_for(Option::is_some).await.unwrap().clone().unwrap();
            return Outcome::Success(Bytes::from(guest(event).await.to_string()));
        }
        let earlier = {
            let mut seen = self.fake.seen.lock();
            let earlier = seen.iter().filter(|earlier| **earlier == event).count();
            seen.push(event.clone());
            earlier
        };
        if let Some(records) = event["Records"].as_array() {
            return self.act_on_batch(records).await;
        }
        if event["fails"].as_u64().is_some_and(|fails| earlier < fails as usize) {
            return Outcome::Failed(FunctionError::new("Oops", "as often as asked"));
        }
        if let Some(text) = event["print"].as_str() {
            self.log.write(text.as_bytes());
        }
        match event["do"].as_str() {
            Some("stream") => {
                if let Some(mut sink) = invocation.sink.take() {
                    return self.stream(&event, &mut sink).await;
                }
            }
            Some("hold") => {
                let mut held = self.fake.held.subscribe();
                held.wait_for(|held| !held).await.unwrap();
            }
            Some(way @ ("checkpoint" | "leave" | "checkpoint-break" | "until-asked")) => {
                if let Some(outcome) = self.suspend(way, invocation).await {
                    return outcome;
                }
            }
            Some("fail") => return Outcome::Failed(FunctionError::new("Oops", "as asked")),
            Some("time-out") => {
                return Outcome::Failed(FunctionError::timed_out(
                    invocation.request_id,
                    invocation.deadline.budget,
                ));
            }
            Some("exhaust") => return Outcome::Failed(FunctionError::new("Runtime.OutOfMemory", "as asked")),
            Some("break") => return Outcome::Broken("as asked".to_owned()),
            Some("die-later") => self.alive = false,
            Some("linger") => self.lingers = true,
            Some("never-settle") => (self.lingers, self.settles) = (true, false),
            _ => {}
        }
        let answer = json!({
            "code": self.code(),
            "version": self.version.version,
            "sandbox": self.number,
            "served": self.served,
            "arn": invocation.invoked_arn,
            "variables": self.version.environment,
            "opt": self.opt(),
            "memory": self.version.memory.0,
        });
        Outcome::Success(Bytes::from(answer.to_string()))
    }
}

/// What it was asked for is in its checkpoint.
fn going_on(checkpoint: &[u8]) -> Outcome {
    let event: Value = serde_json::from_slice(checkpoint).unwrap();
    match event["again"] == true {
        true => Outcome::Broken("again".to_owned()),
        false => Outcome::Success(Bytes::from_static(b"\"went on\"")),
    }
}

#[async_trait]
impl Sandbox for FakeSandbox {
    async fn invoke(&mut self, mut invocation: Invocation) -> Report {
        self.fake.bump(|counts| counts.invoked += 1);
        self.served += 1;
        let outcome = self.act(&mut invocation).await;
        self.fake.bump(|counts| counts.ended += 1);
        Report {
            reusable: !matches!(&outcome, Outcome::Failed(error) if error.error_type == "Sandbox.Timedout"),
            outcome,
            usage: Usage {
                duration: Duration::from_micros(1_500),
                memory_bytes_max: 3 * 1024 * 1024,
                cpu: Duration::ZERO,
            },
        }
    }

    fn is_settled(&self) -> bool {
        !self.lingers
    }

    async fn settle(&mut self) -> bool {
        let mut held = self.fake.held.subscribe();
        held.wait_for(|held| !held).await.unwrap();
        self.lingers = false;
        self.fake.bump(|counts| counts.settled += 1);
        self.settles
    }

    fn is_alive(&mut self) -> bool {
        self.alive
    }

    async fn idle(&mut self) {
        self.fake.bump(|counts| counts.idled += 1);
    }

    fn resident_bytes(&self) -> u64 {
        1024 * 1024
    }

    fn stand(&self) -> Option<Stand> {
        self.stand
    }

    async fn destroy(self: Box<Self>) {
        self.fake.bump(|counts| counts.destroyed += 1);
    }
}
