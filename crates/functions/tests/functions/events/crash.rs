//! A node that is killed at a named point loses no accepted event.
//!
//! The test starts itself anew as a child that sends events, says of each that it was accepted, and works
//! on them; it kills itself at a named point. Then the parent opens what is left: every accepted event ends
//! where its function's configuration says, once.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bowline_foundation::clock::Clock;
use bowline_functions::model::events::{MappingChange, PutEventInvoke, PutMode};
use bowline_functions::{CrashPoints, Service};
use bowline_sandbox::SandboxKind;
use bowline_store::Key;
use bowline_stream::{Log as _, Position, ReadLimit, StreamId};
use rustix::process::{Signal, getpid, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::harness::{Events, Streams};
use crate::fake::{Fake, FakeBackend, PATIENCE};
use crate::world::{WorldSettings, caller, open, options, request, target};

const FOLDER: &str = "BOWLINE_EVENT_CRASH_FOLDER";
/// `NAME:COUNT`: the child kills itself when it reaches the point for that time.
const POINT: &str = "BOWLINE_EVENT_CRASH_POINT";
const EVENTS: usize = 12;
/// Numbers from here on are of events whose destination is not there.
const WAITING: usize = 100;
/// A payload of so many bytes does not fit in an event of a stream as it waits, and fits in one as it is sent.
const LARGE_BYTES: usize = 985_000;

/// Not a test of its own: the child of the tests below, which ends at once if nobody asked for it.
#[test]
fn child() {
    run_until_killed(work);
}

/// The same for a record that waits for a destination which is there again.
#[test]
fn sending_child() {
    run_until_killed(send);
}

/// Works in the folder until the named point is reached for that time.
fn run_until_killed(work: impl AsyncFnOnce(&Path, CrashPoints)) {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let point = std::env::var(POINT).unwrap_or_default();
    let (name, count) = point.split_once(':').unwrap();
    let (name, left) = (name.to_owned(), AtomicUsize::new(count.parse().unwrap()));
    let crash = CrashPoints::with(move |reached| {
        if reached == name && left.fetch_sub(1, Ordering::SeqCst) == 1 {
            kill_process(getpid(), Signal::KILL).unwrap();
        }
    });
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(work(Path::new(&folder), crash));
}

/// Sends events and appends records until it is killed or has sent them all and they are over.
async fn work(folder: &Path, crash: CrashPoints) {
    let (store, blobs) = open(folder);
    let streams = Streams::start(store.clone(), Clock::system()).await;
    let mut options = options(store, blobs, folder, WorldSettings::default());
    options.events = Some(streams.options());
    let fake = Fake::new(SandboxKind::Linux);
    options.backends = vec![Arc::new(FakeBackend(fake.clone()))];
    let service = Service::start_with(options, crash).await.unwrap();
    let handle = service.handle();
    let waiting = (WAITING..WAITING + EVENTS / 2).map(|n| ("g", n));
    for (function, n) in (0..EVENTS).map(|n| ("f", n)).chain(waiting) {
        let event = match function {
            "f" => event(n),
            _ => json!({ "n": n }),
        };
        handle.accept(&target(function), request(event)).await.unwrap();
        let mut out = std::io::stdout().lock();
        writeln!(out, "accepted {n}").unwrap();
        out.flush().unwrap();
    }
    // Long enough for everything to be over, if the point is not reached.
    fake.until(|counts| counts.ended >= EVENTS * 5 / 2).await;
    let lost = StreamId::new("lost", 2).unwrap();
    let mut after = Position::START;
    let mut given_up = 0;
    while given_up < EVENTS / 4 {
        let limit = ReadLimit {
            events: 100,
            bytes: 1_000_000,
        };
        let page = streams.host.read(&lost, after, limit).await.unwrap();
        given_up += page.events.len();
        after = page.next;
        streams.host.wait(&lost, after).await;
    }
    // What waits for a destination is tried again and again.
    let _ = tokio::time::timeout(PATIENCE, std::future::pending::<()>()).await;
    service.shut_down().await;
    streams.stop().await;
}

/// Sends what waits for the stream `later`, which it makes anew, until it is killed.
async fn send(folder: &Path, crash: CrashPoints) {
    let (store, blobs) = open(folder);
    let streams = Streams::start(store.clone(), Clock::system()).await;
    let later = StreamId::new("later", 2).unwrap();
    streams.host.create(&later, Default::default()).await.unwrap();
    let mut options = options(store, blobs, folder, WorldSettings::default());
    options.events = Some(streams.options());
    options.backends = vec![Arc::new(FakeBackend(Fake::new(SandboxKind::Linux)))];
    let service = Service::start_with(options, crash).await.unwrap();
    let _ = tokio::time::timeout(PATIENCE, std::future::pending::<()>()).await;
    service.shut_down().await;
    streams.stop().await;
}

/// Every third event fails for good, every third one fails once.
fn event(n: usize) -> Value {
    match n % 3 {
        0 => json!({ "n": n, "do": "fail" }),
        1 => json!({ "n": n, "fails": 1 }),
        _ => json!({ "n": n }),
    }
}

/// A folder with a function `f`, whose outcomes go to streams, a function `g`, whose outcomes go to one that is not there,
/// and a mapping.
async fn prepare() -> Arc<TempDir> {
    let events = Events::new().await;
    events.world.deploy("f").await;
    events.world.deploy("g").await;
    events.world.deploy("reader").await;
    events.goes_to_one_that_is_away("g", "later").await;
    let (good, bad) = (events.stream("good").await, events.stream("bad").await);
    let put = PutEventInvoke {
        on_success: Some(good),
        on_failure: Some(bad),
        // One failure may be forgotten with the node that dies.
        retries_max: Some(2),
        ..PutEventInvoke::default()
    };
    let (caller, target) = (caller(), target("f"));
    let put = events
        .world
        .handle
        .put_event_invoke(&caller, &target, put, PutMode::Replace);
    put.await.unwrap();
    let lost = events.stream("lost").await;
    events.stream("s").await;
    let bodies = (0..EVENTS).map(|n| match n % 4 {
        0 => json!({ "n": n, "do": "fail" }).to_string(),
        _ => json!({ "n": n }).to_string(),
    });
    for (n, body) in bodies.enumerate() {
        events.append("s", Some(&format!("k{}", n % 2)), &body).await;
    }
    let strict = MappingChange {
        retries_max: Some(1),
        batch_size: Some(2),
        bisects: Some(true),
        on_failure: Some(lost),
        is_enabled: Some(false),
        ..MappingChange::default()
    };
    let request = bowline_functions::model::events::CreateMapping {
        function: crate::world::target("reader"),
        source_arn: super::harness::source("s"),
        start: Some(bowline_functions::model::events::MappingStart::TrimHorizon),
        settings: strict,
        tags: Default::default(),
    };
    let mapping = events.world.handle.create_mapping(&caller, request).await.unwrap();
    let disabled = bowline_functions::model::events::MappingState::Disabled;
    events.until_mapping(&mapping.id, disabled).await;
    let on = MappingChange {
        is_enabled: Some(true),
        ..MappingChange::default()
    };
    // The last thing the node does: its child goes on with it.
    let updated = events.world.handle.update_mapping(&caller, &mapping.id, on);
    updated.await.unwrap();
    events.stop().await
}

/// Runs a child until it dies; returns what was accepted, and whether it was killed.
fn run_child(name: &str, folder: &Path, point: &str) -> (BTreeSet<usize>, bool) {
    let name = format!("events::crash::{name}");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &name, "--nocapture", "--test-threads=1"])
        .env(FOLDER, folder)
        .env(POINT, point)
        .env_remove("NEXTEST")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let accepted = out.lines().map_while(Result::ok).filter_map(|line| {
        let (_, number) = line.split_once("accepted ")?;
        number.parse().ok()
    });
    let accepted = accepted.collect();
    (accepted, !child.wait().unwrap().success())
}

#[tokio::test]
async fn a_kill_at_any_named_point_loses_no_accepted_event() {
    let points = CrashPoints::EVENT_NAMES.iter().filter(|name| {
        // Those of mappings' creation and of the audit trail belong to other tests.
        !matches!(
            **name,
            "create-mapping.committed" | "mapping.session-made" | "audit.published"
        )
    });
    for point in points {
        for count in [1, 3] {
            let context = format!("{point}:{count}");
            let folder = prepare().await;
            let path = folder.path().to_owned();
            let at = context.clone();
            let (accepted, killed) = tokio::task::spawn_blocking(move || run_child("child", &path, &at))
                .await
                .unwrap();
            assert!(killed, "the child never reaches {context}");
            let events = Events::over(folder, Clock::system(), Vec::new()).await;
            check(&events, &accepted, &context).await;
            events.stop().await;
        }
    }
}

/// Everything accepted has come to its end, once; everything in the stream was processed or given up.
async fn check(events: &Events, accepted: &BTreeSet<usize>, context: &str) {
    let (waiting, sent): (Vec<usize>, Vec<usize>) = accepted.iter().partition(|n| **n >= WAITING);
    let (bad, good): (Vec<usize>, Vec<usize>) = sent.into_iter().partition(|n| n % 3 == 0);
    events.stream("later").await;
    for (stream, expected) in [("good", good), ("bad", bad), ("later", waiting)] {
        let mut wanted = expected.len();
        loop {
            let told = events.read_until(stream, wanted).await;
            let ended: Vec<usize> = told
                .iter()
                .map(|told| told["requestPayload"]["n"].as_u64().unwrap() as usize)
                .collect();
            let once: BTreeSet<usize> = ended.iter().copied().collect();
            assert_eq!(once.len(), ended.len(), "{context}: told twice: {ended:?}");
            if expected.iter().all(|n| once.contains(n)) {
                break;
            }
            // The event whose acceptance the child could not tell any more came first.
            wanted = ended.len() + 1;
        }
    }
    let told = events.read_until("lost", EVENTS / 4).await;
    let sizes: Vec<u64> = told
        .iter()
        .map(|told| told["KinesisBatchInfo"]["batchSize"].as_u64().unwrap())
        .collect();
    assert_eq!(sizes, vec![1; EVENTS / 4], "{context}: only the bad ones, each once");
}

/// How many parts of records that wait lie beside their stream.
async fn parts(folder: &Path) -> usize {
    let (store, _) = open(folder);
    let all = store.scan(&Key::from("functions/overflow/"), None, 100).await.unwrap();
    let names = all.iter().map(|(key, _)| String::from_utf8_lossy(key.as_ref()));
    names.filter(|name| name.ends_with("-Outcome-0")).count()
}

/// The destination has had it, and loses it; so what comes again is all that it has, to the last byte.
#[tokio::test]
async fn a_large_record_that_was_sent_and_not_acknowledged_comes_again_whole() {
    let events = Events::new().await;
    events.world.deploy("g").await;
    events.goes_to_one_that_is_away("g", "later").await;
    let event = json!({ "n": WAITING, "text": "x".repeat(LARGE_BYTES) });
    events.send("g", event.clone()).await;
    events
        .until_metric("event_destination_waits_total{function=\"g\"}", 1.0)
        .await;
    let folder = events.stop().await;
    assert_eq!(
        parts(folder.path()).await,
        1,
        "the control: it does not fit in one event"
    );

    let path = folder.path().to_owned();
    let child = move || run_child("sending_child", &path, "waiting.sent:1");
    let (_, killed) = tokio::task::spawn_blocking(child).await.unwrap();
    assert!(killed, "the child never sends it");
    assert_eq!(
        parts(folder.path()).await,
        1,
        "its end is kept until it is acknowledged"
    );
    let streams = Streams::start(open(folder.path()).0, Clock::system()).await;
    let later = StreamId::new("later", 2).unwrap();
    let limit = ReadLimit {
        events: 10,
        bytes: 10_000_000,
    };
    let page = streams.host.read(&later, Position::START, limit).await.unwrap();
    assert_eq!(page.events.len(), 1, "the control: it was sent");
    let who = bowline_stream::session::Caller {
        who: "test".to_owned(),
        request_id: "test".to_owned(),
    };
    streams.host.delete(&who, &later).await.unwrap();
    streams.stop().await;

    let events = Events::over(folder, Clock::system(), Vec::new()).await;
    events.stream("later").await;
    let told = events.read_until("later", 1).await;
    assert!(told[0]["requestPayload"] == event, "it comes again whole");
    let over = async {
        let prefix = Key::from("functions/overflow/");
        while !events.world.store.scan(&prefix, None, 1).await.unwrap().is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, over)
        .await
        .expect("nothing of it is left beside the stream");
    events.stop().await;
}
