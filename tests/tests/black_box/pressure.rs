//! Nodes that are short of memory or of processors: invocations leave them by themselves, the least important first, and go
//! where they find more; where nothing is short, or nowhere is better, nothing moves.

use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, ensure};
use bowline_tests::node::Settings;
use bowline_tests::{Node, Reply, patience};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde_json::{Value, json};

use crate::checkpoints::{PATIENCE, answer, chain_of, reply};
use crate::crowd::has_postgres;
use crate::placement::{Cluster, own};

/// How long a node of these tests is short before it does something about it.
const PRESSURE_SECONDS: &str = "2";
/// The runs last several times as long.
const LINES: u64 = 1_000;
/// One function's sandbox, of the memory that a node has.
const MEMORY_MIB: u32 = 128;

const FUNCTIONS: [(&str, &str); 2] = [("lower", "-1"), ("higher", "1")];

fn suspendable(priority: &str) -> Value {
    json!({
        "Timeout": 300,
        "MemorySize": MEMORY_MIB,
        "Environment": {"Variables": {"BOWLINE_CHECKPOINT": "on"}},
        "Tags": {"bowline:priority": priority},
    })
}

/// What is started from this thread meanwhile has one processor.
fn on_one_processor<T>(start: impl FnOnce() -> Result<T>) -> Result<T> {
    let all = sched_getaffinity(None)?;
    let first = (0..CpuSet::MAX_CPU).find(|cpu| all.is_set(*cpu));
    let mut one = CpuSet::new();
    one.set(first.context("there is a processor")?);
    sched_setaffinity(None, &one)?;
    let started = start();
    sched_setaffinity(None, &all)?;
    started
}

/// A cluster whose first node runs the functions.
struct Scene {
    cluster: Cluster,
    expected: String,
}

impl Scene {
    fn set(budget_mib: u32) -> Result<Self> {
        let cluster = Cluster::start_with("node", |_| Settings {
            environment: vec![
                ("BOWLINE_PRESSURE_SECONDS".into(), PRESSURE_SECONDS.into()),
                ("BOWLINE_MEMORY_BUDGET".into(), format!("{budget_mib}MiB").into()),
            ],
            ..Settings::default()
        })?;
        let code = chain_of(LINES)?;
        cluster.deploy("plain", &code, json!({"Timeout": 300}))?;
        let expected = answer(&cluster.nodes[1].lambda().invoke("plain", &json!({}))?)?;
        for (name, priority) in FUNCTIONS {
            cluster.deploy(name, &code, suspendable(priority))?;
        }
        Ok(Self { cluster, expected })
    }

    fn invoke(&self, name: &'static str) -> JoinHandle<Result<Reply>> {
        let lambda = self.cluster.nodes[0].lambda();
        thread::spawn(move || lambda.invoke(name, &json!({})))
    }

    fn runs(&self) -> Result<Vec<Value>> {
        let list = self.cluster.nodes[0]
            .lambda()
            .get("/v1/checkpoints")?
            .expect(200)?
            .json();
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// Lets invocations run to their end; gives the decisions that were seen of them meanwhile.
    fn watch(&self, running: Vec<JoinHandle<Result<Reply>>>) -> Result<Vec<(String, Value)>> {
        let mut seen: Vec<(String, Value)> = Vec::new();
        let over = patience::until(PATIENCE, || {
            for run in self.runs().unwrap_or_default() {
                for decision in run["decisions"].as_array().into_iter().flatten() {
                    let name = run["function"].as_str().unwrap_or_default().to_owned();
                    if decision["what"] == "move" && !seen.iter().any(|(_, known)| known == decision) {
                        seen.push((name, decision.clone()));
                    }
                }
            }
            running.iter().all(JoinHandle::is_finished).then_some(())
        });
        over.context("the invocations do not come to their end")?;
        for one in running {
            ensure!(answer(&reply(one)?)? == self.expected, "a wrong answer");
        }
        Ok(seen)
    }

    fn id(&self, node: usize) -> Result<String> {
        Ok(own(&self.cluster.nodes[node])?["id"].to_string())
    }

    /// The one move there was: of the less important one, for a reason, with what was looked at.
    fn check(&self, moved: &[(String, Value)], why: &str) -> Result<()> {
        let [(function, decision)] = moved else {
            anyhow::bail!("one moves, once: {moved:?}\n{}", self.cluster.nodes[0].log());
        };
        ensure!(function == "lower", "{function}");
        ensure!(decision["why"] == why, "{decision}");
        let values = &decision["values"];
        let measured = values[why].as_str().context("what was measured")?;
        let lasted = measured
            .split_once(" % for ")
            .and_then(|(_, time)| time.strip_suffix(" ms")?.parse().ok());
        ensure!(lasted >= Some(2_000), "{values}");
        ensure!(values["priority"] == "-1", "{values}");
        ensure!(values["to"].is_string() && values["to"] != self.id(0)?, "{values}");
        for node in [1, 2] {
            ensure!(
                values[&self.id(node)?].is_string(),
                "all that could take it were looked at: {values}"
            );
        }
        Ok(())
    }
}

#[test]
fn a_node_that_is_short_of_memory_moves_the_least_important_run_away() -> Result<()> {
    if !has_postgres() {
        return Ok(());
    }
    let scene = Scene::set(2 * MEMORY_MIB)?;
    let alone = scene.watch(vec![scene.invoke("lower")])?;
    ensure!(
        alone.is_empty(),
        "the control: half of the memory is no shortage: {alone:?}"
    );
    let moved = scene.watch(vec![scene.invoke("lower"), scene.invoke("higher")])?;
    scene.check(&moved, "memory")
}

/// The nodes have one processor each, which is the same one: what is measured is what their threads want of it.
#[test]
fn a_node_whose_processor_is_over_used_moves_the_least_important_run_away() -> Result<()> {
    if !has_postgres() {
        return Ok(());
    }
    let scene = on_one_processor(|| Scene::set(16 * MEMORY_MIB))?;
    let alone = scene.watch(vec![scene.invoke("lower")])?;
    ensure!(
        alone.is_empty(),
        "the control: alone it is nowhere better off: {alone:?}"
    );
    let moved = scene.watch(vec![scene.invoke("lower"), scene.invoke("higher")])?;
    scene.check(&moved, "processors")
}

/// Alone on its node the less important one is nowhere better off: it rests until the other one has ended. Of the same
/// priority both go on.
#[test]
fn a_run_rests_for_a_more_important_one_and_goes_on_by_itself() -> Result<()> {
    let node = on_one_processor(|| {
        Node::start_with(Settings {
            environment: vec![("BOWLINE_PRESSURE_SECONDS".into(), PRESSURE_SECONDS.into())],
            ..Settings::default()
        })
    })?;
    let lambda = node.lambda();
    let code = chain_of(LINES)?;
    for (name, priority) in FUNCTIONS {
        lambda.deploy(name, &code, suspendable(priority))?;
    }
    for (more, is_more) in [("lower", false), ("higher", true)] {
        let caller = lambda.clone();
        let running = ["lower", more].map(|name| {
            let lambda = caller.clone();
            thread::spawn(move || lambda.invoke(name, &json!({})))
        });
        let mut rested: Vec<Value> = Vec::new();
        let over = patience::until(PATIENCE, || {
            let list = lambda.get("/v1/checkpoints").ok()?.json();
            let resting = list["items"]
                .as_array()?
                .iter()
                .filter(|run| run["phase"] == "suspended");
            rested.extend(resting.cloned());
            let last = lambda.get("/v1/checkpoints").ok()?.json();
            for run in last["items"].as_array()? {
                if run["decisions"]
                    .as_array()
                    .is_some_and(|all| all.iter().any(|one| one["what"] == "resume"))
                {
                    rested.push(run.clone());
                }
            }
            running.iter().all(JoinHandle::is_finished).then_some(())
        });
        over.context("the invocations do not come to their end")?;
        let [one, other] = running.map(|one| answer(&reply(one)?));
        ensure!(one? == other?, "both have the right answer");
        ensure!(rested.is_empty() != is_more, "{more}: {rested:?}\n{}", node.log());
        if is_more {
            ensure!(rested.iter().all(|run| run["function"] == "lower"), "{rested:?}");
            let decisions: Vec<&Value> = rested
                .iter()
                .flat_map(|run| run["decisions"].as_array())
                .flatten()
                .collect();
            for (what, part) in [("suspend", " % for "), ("resume", " % after ")] {
                let decision = decisions.iter().find(|one| one["what"] == what);
                let decision = decision.with_context(|| format!("no decision to {what}: {rested:?}"))?;
                ensure!(decision["why"] == "processors", "{decision}");
                let measured = decision["values"]["processors"].as_str().unwrap_or_default();
                ensure!(measured.contains(part), "{decision}");
            }
        }
    }
    Ok(())
}
