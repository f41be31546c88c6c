//! What the work on events shares: the streams, the sessions, and the tasks that run.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bowline_aws::s3::S3;
use bowline_aws::sqs::Sqs;
use bowline_stream::session::{self, CreateError as SessionCreateError, SessionId, Start};
use bowline_stream::{CreateError, Handle, Settings as StreamSettings, StreamId};
use parking_lot::Mutex;
use tokio::runtime::Handle as RuntimeHandle;
use tokio::sync::{RwLock, Semaphore, watch};
use tokio::task::JoinSet;

use super::arn::{AUDIT_STREAM, Purpose, Target};
use super::away::Away;
use super::outside::Outside;
use super::policy::Backoff;
use super::post::IN_HAND_BYTES_MAX;
use super::pump::Pump;
use crate::error::Error;
use crate::model::Settings;
use crate::operations::{policies, refusals};
use crate::service::Inner;
use bowline_foundation::id::AccountId;

/// Chains a stream of the platform begins with.
const CHAINS: u32 = 2;
/// How long events of the platform's streams are kept: longer than any event may wait.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long the audit stream keeps rows.
const AUDIT_KEPT: Duration = Duration::from_secs(90 * 24 * 3600);
/// How long a session lives without a reader.
const SESSION_KEPT: Duration = Duration::from_secs(366 * 24 * 3600);
/// How often making a stream whose outcome is unknown is tried again.
const CREATE_TRIES: u32 = 3;

/// What keeps and delivers events.
#[derive(Clone)]
pub struct Options {
    pub host: Handle,
    pub sessions: session::Handle,
    pub timing: Timing,
    /// Where queues are, if the node is configured with a place.
    pub queues: Option<Sqs>,
    /// Where buckets are, if the node is configured with a place.
    pub buckets: Option<S3>,
    /// Folders of this machine whose files are uploads.
    pub folders: Vec<super::Folder>,
}

/// How long things wait.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Before the first and the second retry of an event whose function failed.
    pub retry_delays: [Duration; 2],
    /// Before a throttled function is tried again; doubled each time.
    pub backoff_first: Duration,
    /// See `backoff_first`.
    pub backoff_longest: Duration,
    /// How long a set of events may be in the hands of a node that has died.
    pub lease: Duration,
    /// How long a reader waits for events at a time.
    pub wait: Duration,
    /// How often a node looks for functions' streams that other nodes have made.
    pub look_every: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            retry_delays: [Duration::from_secs(60), Duration::from_secs(120)],
            backoff_first: Duration::from_secs(1),
            backoff_longest: Duration::from_secs(300),
            lease: Duration::from_secs(60),
            wait: Duration::from_secs(20),
            look_every: Duration::from_secs(5),
        }
    }
}

/// The work on events at this node.
pub(crate) struct Engine {
    pub host: Handle,
    pub sessions: session::Handle,
    pub timing: Timing,
    pub outside: Outside,
    folders: Vec<super::Folder>,
    /// Streams that have been seen, by name.
    streams: Mutex<HashMap<String, StreamId>>,
    /// What runs for each function's stream.
    pub pumps: Mutex<BTreeMap<String, Arc<Pump>>>,
    /// Streams of records that wait for a destination, on which somebody works.
    pub lines: Mutex<HashSet<String>>,
    pub away: Away,
    /// Bytes of payloads that may be in hand for destinations.
    pub in_hand: Semaphore,
    /// What stops the workers of each mapping.
    pub workers: Mutex<HashMap<String, watch::Sender<bool>>>,
    /// Keep the pollers of each mapping apart.
    pub turns: Mutex<HashMap<String, Arc<RwLock<()>>>>,
    pub stopping: watch::Sender<bool>,
    tasks: Mutex<JoinSet<()>>,
    runtime: RuntimeHandle,
}

impl Engine {
    pub fn new(options: Options) -> Self {
        Self {
            host: options.host,
            sessions: options.sessions,
            timing: options.timing,
            outside: Outside::new(options.queues, options.buckets),
            folders: options.folders,
            streams: Mutex::default(),
            pumps: Mutex::default(),
            lines: Mutex::default(),
            away: Away::default(),
            in_hand: Semaphore::new(IN_HAND_BYTES_MAX as usize),
            workers: Mutex::default(),
            turns: Mutex::default(),
            stopping: watch::Sender::new(false),
            tasks: Mutex::default(),
            runtime: RuntimeHandle::current(),
        }
    }

    /// Runs a task that ends soon after the engine is told to stop.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock();
        while tasks.try_join_next().is_some() {}
        if !self.is_stopping() {
            tasks.spawn_on(task, &self.runtime);
        }
    }

    pub fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Completes when the engine is told to stop.
    pub async fn stopped(&self) {
        // The sender lives as long as the engine.
        let _ = self.stopping.subscribe().wait_for(|stopping| *stopping).await;
    }

    /// Waits; says whether the engine still runs.
    pub async fn pause(&self, time: Duration) -> bool {
        tokio::select! {
            () = self.stopped() => false,
            () = tokio::time::sleep(time) => !self.is_stopping(),
        }
    }

    pub fn backoff(&self) -> Backoff {
        Backoff {
            first: self.timing.backoff_first,
            longest: self.timing.backoff_longest,
        }
    }

    /// Takes nothing new up from now on.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Waits for everything that was taken up.
    pub async fn join(&self) {
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        while tasks.join_next().await.is_some() {}
    }

    /// A stream of this name, if there is one.
    pub async fn find(&self, name: &str) -> Result<Option<StreamId>, Error> {
        if let Some(known) = self.streams.lock().get(name) {
            return Ok(Some(known.clone()));
        }
        let listed = self.host.list().await.map_err(Error::service)?;
        let found = listed.into_iter().find(|stream| stream.name() == name);
        if let Some(stream) = &found {
            self.streams.lock().insert(name.to_owned(), stream.clone());
        }
        Ok(found)
    }

    /// A stream that was there is there no more, or is another one.
    pub fn forget(&self, name: &str) {
        self.streams.lock().remove(name);
    }

    /// A stream of the platform, made if it is missing.
    pub async fn own_stream(&self, name: &str) -> Result<StreamId, Error> {
        if let Some(known) = self.streams.lock().get(name) {
            return Ok(known.clone());
        }
        let stream = StreamId::new(name, CHAINS).map_err(Error::service)?;
        let settings = StreamSettings {
            age_max: Some(if name == AUDIT_STREAM { AUDIT_KEPT } else { KEPT }),
            ..StreamSettings::default()
        };
        let mut tries = 0;
        let stream = loop {
            tries += 1;
            match self.host.create(&stream, settings).await {
                Ok(()) => break stream,
                Err(CreateError::Exists { existing }) => break existing,
                Err(CreateError::Unknown { .. }) if tries < CREATE_TRIES => {}
                Err(error) => return Err(Error::service(error)),
            }
        };
        self.streams.lock().insert(name.to_owned(), stream.clone());
        Ok(stream)
    }

    /// The session of this name, made if it is missing.
    pub async fn session(
        &self,
        stream: &StreamId,
        token: &str,
        start: Start,
        order: session::Order,
    ) -> Result<SessionId, SessionCreateError> {
        let request = session::CreateRequest {
            stream: stream.clone(),
            start,
            settings: session::Settings {
                mode: session::Mode::AtLeastOnce,
                order,
                lease: self.timing.lease,
                attempts_max: None,
                idle_ttl: SESSION_KEPT,
                filter: None,
                name: token.to_owned(),
            },
            client_token: Some(token.to_owned()),
        };
        let caller = session::Caller {
            who: "bowline".to_owned(),
            request_id: token.to_owned(),
        };
        match self.sessions.create(&caller, request).await {
            Err(SessionCreateError::TokenReused(session)) => Ok(session),
            created => created,
        }
    }
}

impl Inner {
    /// The work on events, if this node has streams.
    pub(crate) fn streams(&self) -> Result<&Arc<Engine>, Error> {
        self.events.as_ref().ok_or_else(refusals::no_streams)
    }

    /// The stream of this name; refused if there is none.
    pub(crate) async fn stream(&self, name: &str) -> Result<StreamId, Error> {
        let engine = self.streams()?;
        if name == AUDIT_STREAM {
            return engine.own_stream(name).await;
        }
        engine
            .find(name)
            .await?
            .ok_or_else(|| Error::InvalidParameter(format!("Stream not found: {name}")))
    }

    /// Refuses a destination that is not there; an empty ARN names none.
    pub(crate) async fn check_destination(
        &self,
        arn: &str,
        purpose: Purpose,
        caller: &AccountId,
    ) -> Result<Option<Target>, Error> {
        if arn.is_empty() {
            return Ok(None);
        }
        let engine = self.streams()?;
        let target = Target::parse(arn, purpose, caller, engine.outside.beside())?;
        let invalid = |why: String| Error::InvalidParameter(format!("The destination ARN {arn} is invalid: {why}"));
        match &target {
            Target::Stream(name) => {
                if engine.find(name).await?.is_none() {
                    return Err(invalid(missing_stream(name, arn)));
                }
            }
            Target::Queue(queue) => engine.outside.check_queue(arn, queue).await?,
            Target::Bucket(bucket) => engine.outside.check_bucket(arn, bucket).await?,
            Target::Function(function) => {
                policies::authorize(self, caller, "InvokeFunction", function)?;
                let found = self
                    .entry(function)
                    .and_then(|entry| self.target(&entry, function).map(drop));
                found.map_err(|error| invalid(error.to_string()))?;
            }
        }
        Ok(Some(target))
    }

    /// Refuses a dead-letter target that could not take anything.
    pub(crate) async fn check_dead_letters(&self, settings: &Settings, account: &AccountId) -> Result<(), Error> {
        let config = settings.inert.get("DeadLetterConfig");
        let arn = config.and_then(|config| config.get("TargetArn")?.as_str());
        match arn {
            None => Ok(()),
            Some(arn) => self
                .check_destination(arn, Purpose::DeadLetter, account)
                .await
                .map(drop),
        }
    }

    /// Begins the work on what earlier runs and other nodes have left.
    pub(crate) fn start_events(self: &Arc<Self>) {
        let Some(engine) = &self.events else { return };
        for lane in 0..engine.timing.retry_delays.len() {
            engine.spawn(self.clone().relay(lane));
        }
        engine.spawn(self.clone().look_for_streams());
        engine.spawn(self.clone().publish_audit());
        for folder in &engine.folders {
            engine.spawn(self.clone().watch_folder(folder.clone()));
        }
        for entry in self.registry.mappings.all() {
            self.mapping_changed(&entry.mapping.id);
        }
    }

    /// Starts what works on functions' events and on records that wait, and measures pumps.
    async fn look_for_streams(self: Arc<Self>) {
        let Some(engine) = self.events.clone() else { return };
        loop {
            match engine.host.list().await {
                Ok(streams) => {
                    for name in streams.iter().map(StreamId::name) {
                        self.pump_if_function(name);
                        self.post_if_line(name);
                    }
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(error, "streams of events cannot be looked for");
                }
            }
            self.measure_pumps().await;
            if !engine.pause(engine.timing.look_every).await {
                return;
            }
        }
    }
}

/// What to do about a destination's stream that is not there.
fn missing_stream(name: &str, arn: &str) -> String {
    let queues = match arn.split(':').nth(2) {
        Some("sqs") => ", or start the node with --sqs-endpoint http://HOST:PORT if it is to be a queue",
        _ => "",
    };
    format!("Stream not found: {name}. Make it with `bowline stream create {name}`{queues}.")
}
