//! Full instances: idle sandboxes make room for those that are needed, whoever's version they are of; busy ones do not.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bowline_foundation::clock::Clock;
use bowline_tests::{Artifact, Reply, patience};
use serde_json::json;

use super::{Fleet, PATIENCE, file, node};

/// So many sandboxes fill the instance.
const FILL: u32 = 4;
const MEMORY_MIB: u32 = 128;
/// How long those run that are to run at once.
const TOGETHER_SECONDS: f64 = 1.5;

fn source(answer: &str) -> Vec<u8> {
    format!("import time\ndef handler(event, context):\n    time.sleep(event['seconds'])\n    return '{answer}'\n")
        .into_bytes()
}

impl Fleet {
    /// Gives the account an instance with room for [`FILL`] sandboxes, and a function.
    fn with_little_room(&self, name: &str, answer: &str, timeout: u32) -> Result<()> {
        self.make("shop", &file("shop", FILL * MEMORY_MIB, ""))?;
        self.running("shop")?;
        self.with_function(name, answer, timeout)
    }

    fn with_function(&self, name: &str, answer: &str, timeout: u32) -> Result<()> {
        let settings = json!({"MemorySize": MEMORY_MIB, "Timeout": timeout, "Publish": true});
        self.lambda
            .deploy(name, &Artifact::python_source(&source(answer))?, settings)
    }

    /// So many calls at once, each of which runs so long.
    fn together(&self, name: &str, count: u32, seconds: f64) -> Result<Vec<Reply>> {
        std::thread::scope(|scope| {
            let call = || self.lambda.invoke(name, &json!({ "seconds": seconds }));
            let callers: Vec<_> = (0..count).map(|_| scope.spawn(call)).collect();
            let replies = callers
                .into_iter()
                .map(|caller| caller.join().expect("a caller panicked"));
            replies.collect()
        })
    }

    fn sandboxes(&self) -> Result<u32> {
        let shown = self.show("shop")?;
        let count = shown["sandboxes"].as_u64().with_context(|| shown.to_string())?;
        Ok(u32::try_from(count)?)
    }

    /// How many sandboxes of a version there are.
    fn loaded(&self, version: &str) -> Result<u32> {
        let inventory = self.inventory("shop")?;
        let all = inventory["sandboxes"].as_array().context("no sandboxes")?;
        let of_version = all.iter().filter(|sandbox| sandbox["version"] == version);
        Ok(u32::try_from(of_version.count())?)
    }

    fn evicted(&self) -> Result<u32> {
        let metrics = String::from_utf8(self.lambda.get("/metrics")?.expect(200)?.body)?;
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix("bowline_keeper_evicted_total "));
        Ok(line.context("no count of evictions")?.parse()?)
    }
}

fn all_answered(replies: Vec<Reply>, answer: &str) -> Result<()> {
    for reply in replies {
        let reply = reply.expect(200)?;
        ensure!(reply.json() == answer, "{}", reply.json());
    }
    Ok(())
}

/// A roll-out on a full instance: the idle sandboxes of the older version make way for those of the newer one.
#[test]
fn idle_sandboxes_of_an_older_version_make_room_on_a_full_instance() -> Result<()> {
    let node = node()?;
    let fleet = Fleet::of(&node);
    fleet.with_little_room("f", "one", 30)?;
    all_answered(fleet.together("f:1", FILL, TOGETHER_SECONDS)?, "one")?;
    ensure!(
        fleet.sandboxes()? == FILL,
        "the instance is full: {}",
        fleet.show("shop")?
    );
    fleet.publish("f", &Artifact::python_source(&source("two"))?.code)?;
    ensure!(
        (fleet.loaded("1")?, fleet.evicted()?) == (FILL, 0),
        "nothing made room yet"
    );
    all_answered(fleet.together("f:2", FILL, TOGETHER_SECONDS)?, "two")?;
    ensure!(
        (fleet.loaded("1")?, fleet.loaded("2")?) == (0, FILL),
        "{}",
        fleet.show("shop")?
    );
    ensure!(fleet.evicted()? == FILL, "one for each: {}", fleet.evicted()?);
    ensure!(fleet.show("shop")?["held_mib"] == FILL * MEMORY_MIB);
    Ok(())
}

/// Those of another function make room too, and no more of them than are needed.
#[test]
fn an_idle_sandbox_of_another_function_makes_room_and_no_more_than_that() -> Result<()> {
    let node = node()?;
    let fleet = Fleet::of(&node);
    fleet.with_little_room("old", "old", 30)?;
    fleet.with_function("new", "new", 30)?;
    all_answered(fleet.together("old", FILL, TOGETHER_SECONDS)?, "old")?;
    ensure!(fleet.sandboxes()? == FILL, "{}", fleet.show("shop")?);
    all_answered(fleet.together("new", 1, 0.0)?, "new")?;
    ensure!(fleet.evicted()? == 1, "{} made room", fleet.evicted()?);
    ensure!(fleet.sandboxes()? == FILL, "the others stay: {}", fleet.show("shop")?);
    Ok(())
}

/// The control: where all are busy, nothing is taken from anybody. The call waits for its function's time, and is throttled.
#[test]
fn busy_sandboxes_on_a_full_instance_are_left_alone_and_a_call_waits_or_is_throttled() -> Result<()> {
    let node = node()?;
    let fleet = Fleet::of(&node);
    fleet.with_little_room("busy", "busy", 60)?;
    fleet.with_function("hasty", "hasty", 2)?;
    fleet.with_function("patient", "patient", 60)?;
    let runs = Duration::from_secs(6);
    std::thread::scope(|scope| {
        let busy = scope.spawn(|| fleet.together("busy", FILL, runs.as_secs_f64()));
        let clock = Clock::system();
        let began = clock.monotonic();
        let is_full = || fleet.sandboxes().ok().filter(|count| *count == FILL);
        patience::until(PATIENCE, is_full).context("the instance is not full")?;
        let refused = fleet.lambda.invoke("hasty", &json!({"seconds": 0}))?.expect(429)?;
        let reason = refused.json()["Reason"].clone();
        ensure!(reason == "ConcurrentInvocationLimitExceeded", "{}", refused.json());
        ensure!(
            clock.monotonic().since(began) < runs,
            "it was refused while all were busy"
        );
        all_answered(fleet.together("patient", 1, 0.0)?, "patient")?;
        ensure!(
            clock.monotonic().since(began) > runs / 2,
            "and answered once one was not"
        );
        all_answered(busy.join().expect("a caller panicked")?, "busy")
    })?;
    ensure!(fleet.evicted()? == 1, "{} made room", fleet.evicted()?);
    all_answered(fleet.together("hasty", 1, 0.0)?, "hasty")
}
