//! A node that is killed at a named point loses nothing that was checkpointed, and repeats nothing of it.
//!
//! The test starts itself anew as a child that starts executions and kills itself at a named point. Then the
//! parent opens what is left: every execution that the child was told of ends well, and each step is recorded
//! once, as the execution ends with it.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bowline_functions::durable::{Callback, Data, EventType, ExecutionArn, ExecutionStatus, Paging};
use bowline_functions::{CrashPoints, Handle, Service};
use bowline_sandbox::SandboxKind;
use rustix::process::{Signal, getpid, kill_process};
use serde_json::{Value, json};

use super::{Node, ended, guest, latest, timing};
use crate::fake::{Fake, FakeBackend};
use crate::world::{WorldSettings, open, options, request};

const FOLDER: &str = "BOWLINE_DURABLE_CRASH_FOLDER";
/// `NAME:COUNT`: the child kills itself when it reaches the point for that time.
const POINT: &str = "BOWLINE_DURABLE_CRASH_POINT";

/// Not a test of its own: the child of the test below, which ends at once if nobody asked for it.
#[test]
fn child() {
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

async fn service(folder: &Path, crash: CrashPoints) -> (Service, Arc<Fake>) {
    let (store, blobs) = open(folder);
    let mut options = options(store, blobs, folder, WorldSettings::default());
    options.durable.timing = timing();
    let fake = Fake::new(SandboxKind::Linux);
    options.backends = vec![Arc::new(FakeBackend(fake.clone()))];
    let service = Service::start_with(options, crash).await.unwrap();
    guest::serve(&fake, &service.handle());
    (service, fake)
}

/// Starts executions, says which, and helps them until they are over or this process is.
async fn work(folder: &Path, crash: CrashPoints) {
    let (service, _fake) = service(folder, crash).await;
    let handle = service.handle();
    let mut started = Vec::new();
    for n in 0..3 {
        let program = json!(["step", { "chain": "plain" }, "callback", "step"]);
        let event = request(json!({ "program": program, "n": n }));
        let arn = handle.accept(&latest("f"), event).await.unwrap().unwrap();
        let mut out = std::io::stdout().lock();
        writeln!(out, "started {arn}").unwrap();
        out.flush().unwrap();
        started.push(arn);
    }
    // One of another kind: it is stopped.
    let event = request(json!({ "program": ["callback"] }));
    let arn = handle.accept(&latest("f"), event).await.unwrap().unwrap();
    guest::callback_id(&handle, &arn).await;
    handle.stop_execution(&arn, None).await.unwrap();
    for arn in &started {
        help(&handle, arn).await;
    }
    service.shut_down().await;
}

/// Answers an execution's callback, and waits for its end.
async fn help(handle: &Handle, arn: &ExecutionArn) {
    let id = guest::callback_id(handle, arn).await;
    // It may have been answered before the crash.
    let _ = handle.complete_callback(&id, Callback::Success("1".into())).await;
    ended(handle, arn).await;
}

async fn check(handle: &Handle, arn: &ExecutionArn, point: &str) {
    let view = ended(handle, arn).await;
    assert_eq!(view.status, ExecutionStatus::Succeeded, "{point}: {:?}", view.error);
    let results: Vec<Value> = serde_json::from_str(&view.result.unwrap()).unwrap();
    let paging = Paging {
        items_max: Some(1000),
        ..Paging::default()
    };
    let history = handle
        .execution_history(arn, Data::Included, false, &paging)
        .await
        .unwrap();
    let numbers: Vec<u64> = history.items.iter().map(|view| view.event.number).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>(), "{point}");
    let mut recorded = HashMap::new();
    for view in history
        .items
        .iter()
        .filter(|view| view.event.kind == EventType::StepSucceeded)
    {
        let earlier = recorded.insert(view.event.id.clone().unwrap(), view.result.clone().unwrap());
        assert!(earlier.is_none(), "{point}: a step succeeded twice");
    }
    assert_eq!(recorded.len(), 2, "{point}");
    for (id, result) in recorded {
        let at: usize = id[1..].parse().unwrap();
        assert_eq!(results[at], result.as_str(), "{point}: the step was run again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_killed_at_any_point_goes_on() {
    let mut reached = 0;
    let points = CrashPoints::DURABLE_NAMES
        .iter()
        .flat_map(|name| [1, 4].map(|count| format!("{name}:{count}")));
    for point in points {
        let folder = tempfile::tempdir().unwrap();
        let (store, blobs) = open(folder.path());
        let node = Node::over(store, blobs, bowline_store::Sharing::Exclusive).await;
        node.deploy("f", true).await;
        node.deploy("plain", false).await;
        node.service.shut_down().await;
        node.fake.durable.send_replace(None);
        drop(node.handle);
        let (started, killed) = run_child(folder.path(), &point);
        reached += usize::from(killed);
        let (service, fake) = service(folder.path(), CrashPoints::default()).await;
        let handle = service.handle();
        for arn in &started {
            help(&handle, arn).await;
            check(&handle, arn, &point).await;
        }
        fake.durable.send_replace(None);
        drop(handle);
        service.shut_down().await;
    }
    // The control: most points are passed, so that most children died there.
    assert!(
        reached >= CrashPoints::DURABLE_NAMES.len(),
        "only {reached} children died"
    );
}

/// Runs the child; returns the executions it was told of, and whether it killed itself.
fn run_child(folder: &Path, point: &str) -> (Vec<ExecutionArn>, bool) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "durable::crash::child", "--nocapture"])
        .env(FOLDER, folder)
        .env(POINT, point)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let started = lines
        .map_while(Result::ok)
        .filter_map(|line| line.strip_prefix("started ").map(|arn| arn.parse().unwrap()))
        .collect();
    let status = child.wait().unwrap();
    (started, !status.success())
}
