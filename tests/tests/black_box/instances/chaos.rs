//! Agents and the node are killed, and an agent is made to stand still, at random moments under load: no accepted event
//! is lost, and who waits for an answer gets one, or is told to try again.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bowline_foundation::entropy::Entropy;
use bowline_tests::{Artifact, Lambda, patience};
use serde_json::{Value, json};

use super::{Fleet, Ground, PATIENCE, agent_pid, file, node, processes_of, signal};

const CALLERS: usize = 3;
/// Fewer than a resource of shared state has entries.
const EVENTS_MAX: usize = 500;
/// What is done, in an order that the dice say.
const BLOWS: [Blow; 6] = [
    Blow::KillAgent,
    Blow::KillAgent,
    Blow::KillAgent,
    Blow::StopAgent,
    Blow::KillNode,
    Blow::KillNode,
];
/// Longer than an event waits for its retry.
const RETRIED: Duration = Duration::from_secs(240);
const INSTANCES: [&str; 2] = ["large", "small"];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Blow {
    KillAgent,
    /// For longer than its lease.
    StopAgent,
    KillNode,
}

/// What came of the load.
#[derive(Default)]
struct Load {
    over: AtomicBool,
    answered: AtomicUsize,
    /// Refused with what asks for another try, or not answered because the node was gone.
    retryable: AtomicUsize,
    accepted: AtomicUsize,
}

impl Load {
    /// Calls until it is over.
    fn call(&self, lambda: &Lambda) -> Result<()> {
        while !self.over.load(Ordering::Acquire) {
            let Ok(reply) = lambda.invoke("hello", &json!({"name": "ada"})) else {
                self.retryable.fetch_add(1, Ordering::Relaxed);
                patience::rest(Duration::from_millis(20));
                continue;
            };
            if matches!(reply.status, 429 | 500 | 502 | 503) {
                self.retryable.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let text = String::from_utf8_lossy(&reply.body);
            ensure!(reply.status == 200, "{}: {text}", reply.status);
            ensure!(reply.header("x-amz-function-error").is_empty(), "{text}");
            ensure!(reply.json()["message"] == "hello, ada", "{text}");
            self.answered.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Leaves events, each with a key of its own; returns the keys of those that were accepted.
    fn send(&self, lambda: &Lambda) -> Result<BTreeSet<String>> {
        let mut accepted = BTreeSet::new();
        for number in 0..EVENTS_MAX {
            if self.over.load(Ordering::Acquire) {
                break;
            }
            let key = format!("k{number}");
            let event = json!({"do": "put", "state": "kept", "key": key, "bytes": 1}).to_string();
            let path = "/2015-03-31/functions/keeps/invocations";
            let headers = [("x-amz-invocation-type", "Event")];
            if let Ok(reply) = lambda.send("POST", path, &headers, event.as_bytes())
                && reply.status == 202
            {
                accepted.insert(key);
                self.accepted.fetch_add(1, Ordering::Relaxed);
            }
            patience::rest(Duration::from_millis(40));
        }
        Ok(accepted)
    }

    /// Waits until the load has done something more.
    fn goes_on(&self) -> Result<()> {
        let done = || self.answered.load(Ordering::Relaxed);
        let before = done();
        let more = patience::until(PATIENCE, || (done() > before + 20).then_some(()));
        more.context("nothing is answered any more")
    }
}

/// The agent of an instance that runs, and how the instance was shown; right after a start of the node that may still be how
/// it was before.
fn agent_of(fleet: &Fleet, name: &str) -> Result<(u32, Value)> {
    let found = patience::until(PATIENCE, || {
        let shown = fleet.running(name).ok()?;
        let agent = agent_pid(&shown).ok()?;
        let is_there = processes_of(shown["server"].as_str()?).contains(&agent);
        is_there.then_some((agent, shown))
    });
    found.with_context(|| format!("`{name}` has no agent"))
}

/// Two instances, and two functions on them: one that answers, and one whose runs leave a key each.
fn set_up(fleet: &Fleet) -> Result<()> {
    let policy = "[policy]\nreplacements_max = 100\nbackoff_ms = 10\n";
    for (name, memory_mib) in INSTANCES.into_iter().zip([1024, 512]) {
        fleet.make(name, &file(name, memory_mib, policy))?;
        fleet.running(name)?;
    }
    let lambda = &fleet.lambda;
    lambda.deploy("hello", &Artifact::reactor()?, json!({}))?;
    lambda.deploy("keeps", &Artifact::counter()?, json!({}))?;
    let state = json!({"name": "kept", "writers": "any"});
    lambda.post("/v1/state", &state)?.expect(201)?;
    lambda.put("/v1/state/kept/functions/keeps", &json!({}))?.expect(200)?;
    Ok(())
}

/// Strikes all blows, each once the load has gone on after the one before.
fn beat(node: &mut Ground, fleet: &Fleet, load: &Load) -> Result<()> {
    let dice = Entropy::seeded(16);
    let mut blows = BLOWS.to_vec();
    while !blows.is_empty() {
        load.goes_on()?;
        let blow = blows.swap_remove(dice.number() as usize % blows.len());
        let name = INSTANCES[dice.number() as usize % INSTANCES.len()];
        match blow {
            Blow::KillNode => {
                node.kill()?;
                node.start_again()?;
            }
            Blow::KillAgent => signal(agent_of(fleet, name)?.0, "-KILL")?,
            Blow::StopAgent => {
                let (agent, shown) = agent_of(fleet, name)?;
                signal(agent, "-STOP")?;
                fleet.replaced(name, &shown)?;
            }
        }
    }
    load.goes_on()
}

#[test]
fn kills_at_random_under_load_lose_no_accepted_event() -> Result<()> {
    let mut node = node()?;
    let fleet = Fleet::of(&node);
    set_up(&fleet)?;
    let load = Load::default();
    let accepted = thread::scope(|scope| -> Result<BTreeSet<String>> {
        let callers: Vec<_> = (0..CALLERS).map(|_| scope.spawn(|| load.call(&fleet.lambda))).collect();
        let sender = scope.spawn(|| load.send(&fleet.lambda));
        let beaten = beat(&mut node, &fleet, &load);
        load.over.store(true, Ordering::Release);
        for caller in callers {
            caller.join().expect("callers do not panic")?;
        }
        let accepted = sender.join().expect("the sender does not panic")?;
        beaten.map(|()| accepted)
    })?;
    for name in INSTANCES {
        fleet.running(name)?;
    }
    let (answered, retryable) = (load.answered.into_inner(), load.retryable.into_inner());
    ensure!(
        accepted.len() > 20,
        "the control: {} events were accepted",
        accepted.len()
    );
    ensure!(
        retryable > 0,
        "the control: nobody noticed anything, {answered} answers"
    );
    let missing = || -> Vec<String> {
        let is_there = |key: &&String| {
            let path = format!("/v1/state/kept/keys/{key}");
            fleet.lambda.get(&path).is_ok_and(|reply| reply.status == 200)
        };
        accepted.iter().filter(|key| !is_there(key)).cloned().collect()
    };
    let all = patience::until(RETRIED, || missing().is_empty().then_some(()));
    all.with_context(|| format!("{:?} of {} accepted events have no run", missing(), accepted.len()))?;
    let last: Value = fleet
        .lambda
        .invoke("hello", &json!({"name": "ada"}))?
        .expect(200)?
        .json();
    ensure!(last["message"] == "hello, ada", "{last}");
    Ok(())
}
