//! Runs that are suspended, lost to another node, or left behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bowline_foundation::clock::Clock;
use bowline_foundation::units::Mebibytes;
use bowline_functions::InvocationResponse;
use bowline_functions::error::Error;
use bowline_functions::suspend::{Phase, RunView, TakeRequest};
use bowline_sandbox::suspension::CHECKPOINT_VARIABLE;
use bowline_store::blob::Blobs;
use bowline_store::{CommitError, Condition, Entry, Key, MemoryStore, ReadError, Store, Version, Write};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::watch;

use crate::fake::PATIENCE;
use crate::world::{World, WorldSettings, caller, creation, request, target};

const RUNS: &str = "checkpoint/run/";

async fn deploy(world: &World, timeout_seconds: i64) {
    let mut creation = creation("f", "one");
    creation.settings.environment = Some([(CHECKPOINT_VARIABLE.to_owned(), "on".to_owned())].into());
    creation.settings.timeout_seconds = Some(timeout_seconds);
    world.handle.create_function(&caller(), creation).await.unwrap();
    world.handle.settled(&target("f")).await.unwrap();
}

type Running = tokio::task::JoinHandle<Result<InvocationResponse, Error>>;

fn invoke(world: &World, event: Value) -> Running {
    let handle = world.handle.clone();
    tokio::spawn(async move { handle.invoke(&target("f"), request(event)).await })
}

async fn response(running: Running) -> Result<InvocationResponse, Error> {
    let ended = tokio::time::timeout(PATIENCE, running).await;
    ended.expect("the invocation ends").unwrap()
}

/// The one run there is, once it is in a phase.
async fn run_in(world: &World, phase: Phase) -> RunView {
    let looking = async {
        loop {
            let run = world.handle.list_runs().await.unwrap().into_iter().next();
            if let Some(run) = run.filter(|run| run.phase == phase) {
                return run;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.expect("it comes to that")
}

/// It neither waits for itself nor keeps the node from stopping.
#[tokio::test]
async fn a_run_that_was_taken_away_ends_here() {
    for is_taken in [false, true] {
        let mut world = World::new().await;
        deploy(&world, 60).await;
        let running = invoke(&world, json!({"do": "checkpoint"}));
        world.fake.until(|counts| counts.kept == 1).await;
        let run = run_in(&world, Phase::Running).await;
        if is_taken {
            let key = Key::from(format!("{RUNS}{}", run.run));
            world.store.commit(Vec::new(), vec![Write::Delete(key)]).await.unwrap();
        }
        world.fake.hold_invocations(false);
        let response = response(running).await;
        assert_eq!(response.is_err(), is_taken, "{:?}", response.err());
        tokio::time::timeout(PATIENCE, world.stop())
            .await
            .expect("the node stops");
    }
}

#[tokio::test]
async fn a_resumed_run_without_a_place_keeps_its_deadline() {
    for is_full in [false, true] {
        let settings = WorldSettings {
            concurrency_max: 1,
            ..WorldSettings::default()
        };
        let world = World::with(settings).await;
        deploy(&world, 1).await;
        let running = invoke(&world, json!({"do": "leave"}));
        let run = run_in(&world, Phase::Suspended).await;
        let other = invoke(&world, json!({"do": "hold"}));
        world.fake.until(|counts| counts.invoked == 2).await;
        if !is_full {
            world.fake.hold_invocations(false);
            assert!(response(other).await.is_ok());
        }
        let resumed = world.handle.resume_run(&run.run).await;
        let result = response(running).await.unwrap().result;
        match is_full {
            false => assert_eq!(result.unwrap(), "\"went on\""),
            true => assert_eq!(result.unwrap_err().error_type, "Sandbox.Timedout", "{resumed:?}"),
        }
        world.fake.hold_invocations(false);
    }
}

/// Its caller waits on. Without a checkpoint there is nothing to go back to.
#[tokio::test]
async fn a_run_whose_sandbox_breaks_goes_back_to_its_checkpoint() {
    for way in ["break", "checkpoint-break"] {
        let world = World::new().await;
        deploy(&world, 60).await;
        let response = response(invoke(&world, json!({ "do": way }))).await;
        match way {
            "break" => assert!(response.is_err(), "the control"),
            _ => assert_eq!(response.unwrap().result.unwrap(), "\"went on\""),
        }
        assert!(
            world.handle.list_runs().await.unwrap().is_empty(),
            "{way}: it has one end"
        );
    }
}

/// It does not turn in a circle, and what its caller was told is not the last word: the node tries again later.
#[tokio::test]
async fn a_run_that_breaks_again_at_the_same_place_is_given_back_to_its_caller() {
    let world = World::with(WorldSettings {
        lease: Duration::from_millis(100),
        ..WorldSettings::default()
    })
    .await;
    deploy(&world, 60).await;
    let response = response(invoke(&world, json!({"do": "checkpoint-break", "again": true}))).await;
    assert!(response.is_err(), "its caller is told");
    let told_after = world.fake.count().invoked;
    world.fake.until(|counts| counts.invoked > told_after).await;
    let run = run_in(&world, Phase::Running).await;
    let resumed = run.decisions.iter().find(|decision| decision.what == "resume").unwrap();
    assert_eq!(resumed.why, "broken");
    assert!(resumed.values.contains_key("error"), "{resumed:?}");
}

/// What it had is another's meanwhile; without that the other one is refused.
#[tokio::test]
async fn a_suspended_run_gives_back_its_sandbox_and_its_memory() {
    for is_suspended in [false, true] {
        let world = World::with(WorldSettings {
            memory_budget: Mebibytes(128),
            ..WorldSettings::default()
        })
        .await;
        deploy(&world, 60).await;
        let mut other = creation("other", "two");
        other.settings.timeout_seconds = Some(1);
        world.handle.create_function(&caller(), other).await.unwrap();
        world.handle.settled(&target("other")).await.unwrap();
        let way = if is_suspended { "leave" } else { "hold" };
        let mut wanted = request(json!({"do": way, "print": "before\n"}));
        wanted.log_tail = true;
        let handle = world.handle.clone();
        let running: Running = tokio::spawn(async move { handle.invoke(&target("f"), wanted).await });
        world.fake.until(|counts| counts.invoked == 1).await;
        if is_suspended {
            run_in(&world, Phase::Suspended).await;
        }
        let served = world.invoke("other", json!({})).await;
        match is_suspended {
            true => assert!(served.is_ok(), "{:?}", served.err()),
            false => assert!(
                matches!(served, Err(Error::Throttled(_))),
                "the control: it has all there is"
            ),
        }
        world.fake.hold_invocations(false);
        if is_suspended {
            let run = run_in(&world, Phase::Suspended).await;
            // It may be over before it can be shown.
            let _ = world.handle.resume_run(&run.run).await;
        }
        let ended = response(running).await.unwrap();
        let tail = String::from_utf8(ended.log_tail.unwrap()).unwrap();
        assert_eq!(tail.matches("START").count(), 1, "{tail}");
        assert_eq!(tail.matches("before").count(), 1, "it is one log: {tail}");
        assert!(ended.result.is_ok(), "{:?}", ended.result);
        let living = world.fake.count().living() + world.wasm.count().living();
        assert_eq!(living, 1, "there is room for one");
    }
}

/// With the priority of the other one it stays, and the other one is refused.
#[tokio::test]
async fn a_run_of_lower_priority_yields_and_goes_on_by_itself() {
    for is_lower in [false, true] {
        let world = World::with(WorldSettings {
            memory_budget: Mebibytes(128),
            ..WorldSettings::default()
        })
        .await;
        deploy(&world, 60).await;
        let mut other = creation("other", "two");
        other.settings.timeout_seconds = Some(5);
        if is_lower {
            other.tags = [("bowline:priority".to_owned(), "1".to_owned())].into();
        } else {
            other.settings.timeout_seconds = Some(1);
        }
        world.handle.create_function(&caller(), other).await.unwrap();
        world.handle.settled(&target("other")).await.unwrap();
        let running = invoke(&world, json!({"do": "until-asked"}));
        world.fake.until(|counts| counts.invoked == 1).await;
        let served = world.invoke("other", json!({})).await;
        if is_lower {
            assert!(served.is_ok(), "{:?}", served.err());
        } else {
            assert!(matches!(served, Err(Error::Throttled(_))), "the control");
            let run = run_in(&world, Phase::Running).await;
            let request = TakeRequest {
                suspend: true,
                reason: "test".to_owned(),
            };
            world.handle.take_checkpoint(&run.run, request).await.unwrap();
            let _ = world.handle.resume_run(&run.run).await;
        }
        let answer = response(running).await.unwrap().result.unwrap();
        assert_eq!(&answer[..], b"\"went on\"");
    }
}

/// Nobody wants it to rest, so that it goes on by itself; but not in a circle.
#[tokio::test]
async fn a_run_that_cannot_be_taken_up_is_tried_again_with_a_pause() {
    let folder = Arc::new(TempDir::new().unwrap());
    let store = Arc::new(Refusing::default());
    let settings = WorldSettings {
        memory_budget: Mebibytes(128),
        ..WorldSettings::default()
    };
    let world = World::over(store.clone(), Blobs::in_memory(), folder, settings).await;
    deploy(&world, 60).await;
    let mut other = creation("other", "two");
    other.settings.timeout_seconds = Some(60);
    other.tags = [("bowline:priority".to_owned(), "1".to_owned())].into();
    world.handle.create_function(&caller(), other).await.unwrap();
    world.handle.settled(&target("other")).await.unwrap();
    let running = invoke(&world, json!({"do": "until-asked"}));
    world.fake.until(|counts| counts.invoked == 1).await;
    let handle = world.handle.clone();
    let other: Running =
        tokio::spawn(async move { handle.invoke(&target("other"), request(json!({"do": "hold"}))).await });
    world.fake.until(|counts| counts.invoked == 2).await;

    run_in(&world, Phase::Suspended).await;
    store.refuses.store(true, Ordering::Release);
    let clock = Clock::system();
    let begun = clock.monotonic();
    world.fake.hold_invocations(false);
    assert!(response(other).await.is_ok());
    let mut refused = store.refused.subscribe();
    let thrice = refused.wait_for(|refused| *refused >= 3);
    tokio::time::timeout(PATIENCE, thrice)
        .await
        .expect("it is tried again")
        .unwrap();
    let took = clock.monotonic().since(begun);
    assert!(took >= Duration::from_millis(1900), "three tries within {took:?}");
    store.refuses.store(false, Ordering::Release);
    let answer = response(running).await.unwrap().result.unwrap();
    assert_eq!(&answer[..], b"\"went on\"", "the control: it goes on once it can");
}

/// The end of a run is that it is removed. The store is away then once, or does it and its answer is lost.
#[tokio::test]
async fn an_end_that_is_not_written_at_once_is_written_later() {
    for loses in [Loses::End, Loses::AnswerOfEnd] {
        let folder = Arc::new(TempDir::new().unwrap());
        let store = Arc::new(Refusing::default());
        let world = World::over(store.clone(), Blobs::in_memory(), folder, WorldSettings::default()).await;
        deploy(&world, 60).await;
        world.fake.hold_invocations(true);
        let running = invoke(&world, json!({"do": "checkpoint"}));
        world.fake.until(|counts| counts.kept == 1).await;
        *store.loses.lock() = Some(loses);
        world.fake.hold_invocations(false);
        let answer = response(running).await.unwrap();
        assert!(answer.result.is_ok(), "{loses:?}: {:?}", answer.result);
        assert_eq!(*store.refused.borrow(), 1, "the control: {loses:?}");
        assert!(world.handle.list_runs().await.unwrap().is_empty(), "{loses:?}");
    }
}

/// What goes wrong once.
#[derive(Clone, Copy, Debug)]
enum Loses {
    End,
    AnswerOfEnd,
}

/// Refuses to write runs, when told to.
#[derive(Default)]
struct Refusing {
    memory: MemoryStore,
    refuses: AtomicBool,
    loses: Mutex<Option<Loses>>,
    refused: watch::Sender<usize>,
}

#[async_trait]
impl Store for Refusing {
    async fn get(&self, key: &Key) -> Result<Option<Entry>, ReadError> {
        self.memory.get(key).await
    }

    async fn scan(&self, prefix: &Key, after: Option<&Key>, limit: usize) -> Result<Vec<(Key, Entry)>, ReadError> {
        self.memory.scan(prefix, after, limit).await
    }

    async fn commit(&self, conditions: Vec<Condition>, writes: Vec<Write>) -> Result<Version, CommitError> {
        let is_run = |write: &Write| matches!(write, Write::Put(key, _) if key.starts_with(RUNS.as_bytes()));
        if self.refuses.load(Ordering::Acquire) && writes.iter().any(is_run) {
            self.refused.send_modify(|refused| *refused += 1);
            return Err(CommitError::Unavailable("refused".to_owned()));
        }
        let is_end = |write: &Write| matches!(write, Write::Delete(key) if key.starts_with(RUNS.as_bytes()));
        let loses = writes.iter().any(is_end).then(|| self.loses.lock().take()).flatten();
        if loses.is_some() {
            self.refused.send_modify(|refused| *refused += 1);
        }
        match loses {
            None => self.memory.commit(conditions, writes).await,
            Some(Loses::End) => Err(CommitError::Unavailable("away".to_owned())),
            Some(Loses::AnswerOfEnd) => {
                self.memory.commit(conditions, writes).await?;
                Err(CommitError::Unknown("cut off".to_owned()))
            }
        }
    }
}

/// Recovery and lists do not end at a record that is damaged.
#[tokio::test]
async fn a_damaged_record_hides_no_other() {
    let world = World::new().await;
    deploy(&world, 60).await;
    let damaged = Write::Put(format!("{RUNS}0").into(), "damaged".into());
    world.store.commit(Vec::new(), vec![damaged]).await.unwrap();
    let running = invoke(&world, json!({"do": "leave"}));
    let run = run_in(&world, Phase::Suspended).await;
    world.handle.remove_run(&run.run).await.unwrap();
    let removed = response(running).await.unwrap().result.unwrap_err();
    assert_eq!(removed.error_type, "Checkpoint.Removed");
}
