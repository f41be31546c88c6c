//! Invocations that move between nodes while they run. Whoever dies or stands still on the way, each ends once, with
//! the right answer.

use std::process::Command;
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, ensure};
use bowline_tests::node::binary;
use bowline_tests::{Reply, patience};
use serde_json::{Value, json};

use crate::checkpoints::{EVERY, PATIENCE, answer, chain, reply};
use crate::crowd::has_postgres;
use crate::placement::{Cluster, own};

/// Nodes with a function that can be suspended, and what it answers.
pub struct Stage {
    pub cluster: Cluster,
    pub expected: String,
}

impl Stage {
    fn set(mode: &str) -> Result<Self> {
        Self::set_on(Cluster::start("node")?, mode)
    }

    pub fn set_on(cluster: Cluster, mode: &str) -> Result<Self> {
        let code = chain()?;
        cluster.deploy("plain", &code, json!({"Timeout": 300}))?;
        let environment = json!({"Variables": {"BOWLINE_CHECKPOINT": mode}});
        cluster.deploy("chain", &code, json!({"Timeout": 300, "Environment": environment}))?;
        let expected = answer(&cluster.nodes[0].lambda().invoke("plain", &json!({}))?)?;
        Ok(Self { cluster, expected })
    }

    /// Calls the function at the first node.
    pub fn invoke(&self) -> JoinHandle<Result<Reply>> {
        let lambda = self.cluster.nodes[0].lambda();
        thread::spawn(move || lambda.invoke("chain", &json!({})))
    }

    pub fn id(&self, node: usize) -> Result<String> {
        Ok(own(&self.cluster.nodes[node])?["id"].to_string())
    }

    /// The one run there is, as a node sees it, once `good` is true of it.
    pub fn run(&self, node: usize, good: impl Fn(&Value) -> bool) -> Result<Value> {
        let lambda = self.cluster.nodes[node].lambda();
        let found = patience::until(PATIENCE, || {
            let list = lambda.get("/v1/checkpoints").ok()?.json();
            let run = list["items"].as_array()?.first()?.clone();
            good(&run).then_some(run)
        });
        found.with_context(|| format!("no run came to that:\n{}", self.cluster.nodes[node].log()))
    }

    /// Waits until the guest has said something where the run begins, then orders the move.
    fn order(&self, to: &str) -> Result<(Value, Reply)> {
        let run = self.under_way()?;
        let name = run["run"].as_str().context("a run has a name")?;
        let path = format!("/v1/checkpoints/{name}/move");
        let moved = self.cluster.nodes[0].lambda().post(&path, &json!({"to": to}))?;
        Ok((run, moved))
    }

    /// The run, once the guest has said something where it begins.
    pub fn under_way(&self) -> Result<Value> {
        let run = self.run(0, |run| run["phase"] == "running" && run["here"] == true)?;
        let begun = patience::until(PATIENCE, || self.steps(0).ok().filter(|steps| !steps.is_empty()));
        begun.context("the guest says nothing")?;
        Ok(run)
    }

    /// How far the guest has said it is, on one node.
    pub fn steps(&self, node: usize) -> Result<Vec<u64>> {
        let log = self.cluster.nodes[node].lambda().get("/v1/functions/chain/logs")?;
        let text = String::from_utf8_lossy(&log.expect(200)?.body).into_owned();
        Ok(text.lines().filter_map(|line| line.trim().parse().ok()).collect())
    }
}

#[test]
fn an_invocation_moves_to_another_node_and_its_caller_gets_the_one_answer() -> Result<()> {
    if !has_postgres() {
        return Ok(());
    }
    let stage = Stage::set("on")?;
    let target = stage.id(1)?;
    let running = stage.invoke();
    let (_, nowhere) = stage.order("12345")?;
    assert_eq!(nowhere.expect(404)?.json()["code"], "no_such_node");
    let (_, moved) = stage.order(&target)?;
    let moved = moved.expect(200)?.json();
    assert_eq!(moved["node"], target, "{moved}");
    assert_eq!(moved["epoch"], 2, "who went on raised the epoch");
    let decisions = moved["decisions"].as_array().context("decisions")?;
    let decision = decisions.iter().find(|one| one["what"] == "move").context("it moved")?;
    assert_eq!(decision["why"], "operator");
    let verdict = decision["values"][&target].as_str().context("a value")?;
    assert!(verdict.starts_with("fits: load "), "{verdict}");
    assert!(!running.is_finished(), "its caller waits on");
    assert_eq!(answer(&reply(running)?)?, stage.expected);
    let (first, second) = (stage.steps(0)?, stage.steps(1)?);
    assert!(!first.is_empty() && !second.is_empty(), "it ran on both");
    let all: Vec<u64> = (1..=200).map(|line| line * EVERY).collect();
    assert_eq!([first, second].concat(), all, "no step is missing, none was made twice");
    let left = stage.cluster.nodes[2].lambda().get("/v1/checkpoints")?.json();
    assert_eq!(left["items"], json!([]), "nothing is left of it");
    Ok(())
}

/// What `bowline` prints, asked of a node.
fn told(stage: &Stage, node: usize, words: &[&str]) -> Result<String> {
    let output = Command::new(binary()?)
        .args(words)
        .env("BOWLINE_ENDPOINT", stage.cluster.nodes[node].endpoint())
        .output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`bowline {}`: {error}", words.join(" "));
    Ok(String::from_utf8(output.stdout)?)
}

/// The value of a line that `bowline checkpoint show` prints.
fn field<'a>(shown: &'a str, label: &str) -> Option<&'a str> {
    let mut lines = shown.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines.find_map(|words| (words.first() == Some(&label)).then(|| *words.last().expect("it has a first")))
}

#[test]
fn the_command_line_moves_a_run_and_shows_where_it_is() -> Result<()> {
    if !has_postgres() {
        return Ok(());
    }
    let stage = Stage::set("on")?;
    let (source, target) = (stage.id(0)?, stage.id(1)?);
    let running = stage.invoke();
    let run = stage.under_way()?;
    let name = run["run"].as_str().context("a run has a name")?;
    let listed = told(&stage, 0, &["checkpoint", "ls"])?;
    ensure!(
        listed.contains(name) && listed.contains("running"),
        "the control: {listed}"
    );
    let before = told(&stage, 0, &["checkpoint", "show", name])?;
    ensure!(field(&before, "node").is_none(), "the control: {before}");
    let nowhere = told(&stage, 0, &["checkpoint", "move", name, "--to", "12345"]);
    let nowhere = nowhere.err().context("there is no such node")?.to_string();
    ensure!(
        nowhere.contains("no other node has the identifier or address `12345`"),
        "{nowhere}"
    );
    // The node may be given by its address, too, as `bowline nodes ls` shows it.
    let address = own(&stage.cluster.nodes[1])?["address"]
        .as_str()
        .context("an address")?
        .to_owned();
    let moved = told(
        &stage,
        0,
        &["checkpoint", "move", name, "--to", &address, "--reason", "repairs"],
    )?;
    for (label, value) in [("run", name), ("node", &target), ("epoch", "2"), ("phase", "running")] {
        ensure!(
            field(&moved, label) == Some(value),
            "`{label}` is not `{value}`: {moved}"
        );
    }
    ensure!(moved.contains(" move repairs "), "{moved}");
    // Both know where it is; the target alone has it in hand.
    for (node, is_here) in [(0, false), (1, true)] {
        let listed: Value = serde_json::from_str(&told(&stage, node, &["checkpoint", "ls", "--json"])?)?;
        let listed = &listed["runs"][0];
        ensure!(
            listed["run"] == name && listed["node"] == target && listed["here"] == is_here,
            "{listed}"
        );
        let shown: Value = serde_json::from_str(&told(&stage, node, &["checkpoint", "show", name, "--json"])?)?;
        ensure!(shown["node"] == target && shown["epoch"] == 2, "{shown}");
        let decisions = shown["decisions"].as_array().context("decisions")?;
        let decision = decisions.iter().find(|one| one["what"] == "move").context("it moved")?;
        ensure!(
            decision["why"] == "repairs" && decision["values"]["to"] == target,
            "{decision}"
        );
    }
    // Whoever has let it go is no more asked.
    let gone = told(&stage, 0, &["checkpoint", "move", name, "--to", &source]);
    ensure!(gone.is_err(), "the source has it no more: {gone:?}");
    assert_eq!(answer(&reply(running)?)?, stage.expected);
    Ok(())
}

#[test]
fn a_target_that_stands_still_takes_nothing_and_the_source_goes_on() -> Result<()> {
    if !has_postgres() {
        return Ok(());
    }
    let stage = Stage::set("on")?;
    let target = stage.id(1)?;
    stage.cluster.nodes[1].freeze()?;
    let running = stage.invoke();
    let (_, refused) = stage.order(&target)?;
    let refused = refused.expect(409)?.json();
    assert_eq!(refused["code"], "not_moved", "{refused}");
    let ended = reply(running)?;
    stage.cluster.nodes[1].thaw()?;
    assert_eq!(answer(&ended)?, stage.expected);
    let all: Vec<u64> = (1..=200).map(|line| line * EVERY).collect();
    assert_eq!(stage.steps(0)?, all, "the source had it all the time");
    Ok(())
}

/// Dead or still: its lease runs out, another one goes on, and what it does when it wakes does not count.
#[test]
fn a_target_that_is_lost_after_it_took_the_run_costs_no_answer() -> Result<()> {
    if !has_postgres() {
        return Ok(());
    }
    for is_killed in [true, false] {
        let mut stage = Stage::set("100ms")?;
        let target = stage.id(1)?;
        let running = stage.invoke();
        let (_, moved) = stage.order(&target)?;
        assert_eq!(moved.expect(200)?.json()["node"], target);
        match is_killed {
            true => stage.cluster.nodes[1].kill()?,
            false => stage.cluster.nodes[1].freeze()?,
        }
        let taken = stage.run(0, |run| run["epoch"].as_u64() > Some(2));
        if !is_killed {
            stage.cluster.nodes[1].thaw()?;
        }
        assert_ne!(taken?["node"], target, "another one has it");
        assert_eq!(answer(&reply(running)?)?, stage.expected);
        let left = stage.cluster.nodes[0].lambda().get("/v1/checkpoints")?.json();
        assert_eq!(left["items"], json!([]), "it has one end");
    }
    Ok(())
}

#[test]
fn a_node_that_stops_hands_its_runs_over() -> Result<()> {
    if !has_postgres() {
        return Ok(());
    }
    let mut stage = Stage::set("on")?;
    let source = stage.id(0)?;
    let running = stage.invoke();
    let run = stage.run(0, |run| run["phase"] == "running" && run["here"] == true)?;
    stage.cluster.nodes[0].terminate()?;
    assert!(stage.cluster.nodes[0].wait_for_end()?.success());
    // Its caller has the answer when the run ended while the node still listened, else an error: never a wrong answer.
    if let Ok(told) = reply(running)
        && told.status == 200
    {
        assert_eq!(answer(&told)?, stage.expected);
        return Ok(());
    }
    let ended = stage.run(1, |run| run["phase"] == "finished")?;
    assert_eq!((&ended["run"], &ended["epoch"]), (&run["run"], &json!(2)));
    assert_ne!(ended["node"], source);
    let decisions = ended["decisions"].as_array().context("decisions")?;
    let decision = decisions.iter().find(|one| one["what"] == "move").context("it moved")?;
    assert_eq!(decision["why"], "shutdown");
    let own = decision["values"][&source]
        .as_str()
        .context("the source is looked at too")?;
    assert!(own.starts_with("clause `stopping`"), "{own}");
    let name = run["run"].as_str().context("a run has a name")?;
    let outcome = stage.cluster.nodes[1].lambda();
    let outcome = outcome.get(&format!("/v1/checkpoints/{name}/outcome"))?;
    assert_eq!(answer(&outcome)?, stage.expected);
    Ok(())
}

#[test]
fn a_source_that_dies_after_the_move_costs_its_caller_alone() -> Result<()> {
    if !has_postgres() {
        return Ok(());
    }
    let mut stage = Stage::set("on")?;
    let target = stage.id(1)?;
    let running = stage.invoke();
    let (run, moved) = stage.order(&target)?;
    assert_eq!(moved.expect(200)?.json()["node"], target);
    stage.cluster.nodes[0].kill()?;
    ensure!(reply(running).is_err(), "its caller is gone");
    let ended = stage.run(1, |run| run["phase"] == "finished")?;
    assert_eq!(
        (&ended["run"], &ended["epoch"]),
        (&run["run"], &json!(2)),
        "nobody else had it"
    );
    let name = run["run"].as_str().context("a run has a name")?;
    let outcome = stage.cluster.nodes[1].lambda();
    let outcome = outcome.get(&format!("/v1/checkpoints/{name}/outcome"))?;
    assert_eq!(answer(&outcome)?, stage.expected);
    Ok(())
}
