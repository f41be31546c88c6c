//! Functions on instances.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bowline_foundation::entropy::Entropy;
use bowline_tests::node::binary;
use bowline_tests::sign::Key;
use bowline_tests::{Artifact, Lambda, Node, Reply, patience};
use serde_json::{Value, json};

use super::{Fleet, PATIENCE, agent_pid, file, node, node_with, processes_of, signal};

#[test]
fn an_accounts_functions_run_on_its_instance() -> Result<()> {
    let node = node()?;
    let fleet = Fleet::of(&node);
    fleet.lambda.deploy("hello", &Artifact::command()?, json!({}))?;
    let well = fleet.lambda.invoke("hello", &json!({"name": "ada"}))?.expect(200)?;
    fleet.make("shop", &file("shop", 1024, ""))?;
    fleet.running("shop")?;
    fleet.lambda.deploy("other", &Artifact::command()?, json!({}))?;
    fleet
        .lambda
        .deploy("native", &Artifact::native()?, json!({"MemorySize": 128}))?;
    for name in ["other", "native"] {
        for _ in 0..3 {
            let reply = fleet.lambda.invoke(name, &json!({"name": "ada"}))?.expect(200)?;
            ensure!(
                reply.header("x-amz-function-error").is_empty(),
                "{name}: {}",
                reply.json()
            );
            ensure!(
                name == "native" || reply.body == well.body,
                "the same answer as in the node"
            );
        }
    }
    let shown = fleet.show("shop")?;
    ensure!(
        shown["sandboxes"] == 2 && shown["held_mib"].as_u64() >= Some(256),
        "both run there: {shown}"
    );
    let server = shown["server"].as_str().context("no server")?;
    ensure!(processes_of(server).len() > 1, "the cell lies in the instance's groups");

    // Drained, it keeps nothing and gets nothing.
    let drained = fleet
        .lambda
        .post("/v1/instances/shop/drain", &json!({"draining": true}))?
        .expect(200)?
        .json();
    ensure!(drained["draining"] == true);
    fleet.lambda.invoke("other", &json!({"name": "ada"}))?.expect(200)?;
    fleet.lambda.invoke("native", &json!({"name": "ada"}))?.expect(200)?;
    let empty = patience::until(PATIENCE, || (fleet.show("shop").ok()?["sandboxes"] == 0).then_some(()));
    empty.with_context(|| format!("a drained instance keeps its sandboxes: {:?}", fleet.show("shop")))?;
    fleet
        .lambda
        .post("/v1/instances/shop/drain", &json!({"draining": false}))?
        .expect(200)?;
    fleet.lambda.delete("/v1/instances/shop")?.expect(204)?;
    fleet.lambda.invoke("other", &json!({"name": "ada"}))?.expect(200)?;
    ensure!(processes_of(server).is_empty());
    Ok(())
}

#[test]
fn a_function_goes_on_after_its_instance_was_killed() -> Result<()> {
    let node = node()?;
    let fleet = Fleet::of(&node);
    fleet.make("shop", &file("shop", 1024, ""))?;
    let old = fleet.running("shop")?;
    fleet.lambda.deploy("hello", &Artifact::reactor()?, json!({}))?;
    let ask = || fleet.lambda.invoke("hello", &json!({"name": "ada"}));
    ask()?.expect(200)?;
    signal(agent_pid(&old)?, "-KILL")?;
    let back = patience::until(PATIENCE, || ask().ok().filter(|reply| reply.status == 200));
    back.context("it never came back")?;
    let new = fleet.replaced("shop", &old)?;
    ensure!(new["sandboxes"].as_u64() <= Some(1), "{new}");
    Ok(())
}

#[test]
fn an_agent_that_stands_still_is_passed_and_the_next_instance_serves() -> Result<()> {
    let node = node()?;
    let fleet = Fleet::of(&node);
    fleet.make("large", &file("large", 1024, ""))?;
    fleet.make("small", &file("small", 512, ""))?;
    let (large, _) = (fleet.running("large")?, fleet.running("small")?);
    let provisioned = |name: &str| -> Result<String> {
        let reply = fleet.lambda.invoke(name, &json!({"name": "ada"}))?.expect(200)?;
        Ok(reply.header("x-bowline-provisioned").to_owned())
    };
    for name in ["one", "two"] {
        fleet.lambda.deploy(name, &Artifact::reactor()?, json!({}))?;
    }
    ensure!(provisioned("one")? == "instance" && provisioned("one")? == "warm");
    let there = |name: &str| -> Result<Value> { Ok(fleet.show(name)?["sandboxes"].clone()) };
    ensure!(there("large")? == 1, "the control: the larger one is asked first");
    signal(agent_pid(&large)?, "-STOP")?;
    let rung = provisioned("two")?;
    ensure!(rung == "instance", "it was made on the other one: `{rung}`");
    ensure!(there("small")? == 1, "{}", fleet.show("small")?);
    let metrics = String::from_utf8(fleet.lambda.get("/metrics")?.expect(200)?.body)?;
    ensure!(
        metrics.contains("bowline_instances_passed_total 1"),
        "it was counted: {metrics}"
    );
    // Beyond its lease the one that stood still is cut off and replaced.
    fleet.replaced("large", &large)?;
    Ok(())
}

#[test]
fn a_node_of_process_instances_makes_one_for_each_account() -> Result<()> {
    let node = node_with(&[("BOWLINE_INSTANCES", "process")])?;
    let fleet = Fleet::of(&node);
    let none = fleet.lambda.get("/v1/instances")?.json();
    ensure!(none["items"] == json!([]), "the control: nobody has one before: {none}");
    fleet.lambda.deploy("hello", &Artifact::reactor()?, json!({}))?;
    waiting(&node, "process", 1)?;
    let rungs = || -> Result<String> {
        let reply = fleet.lambda.invoke("hello", &json!({"name": "ada"}))?.expect(200)?;
        Ok(reply.header("x-bowline-provisioned").to_owned())
    };
    let rungs = [rungs()?, rungs()?, rungs()?];
    ensure!(rungs == ["warming-pool", "warm", "warm"], "{rungs:?}");
    let shown = fleet.show("default")?;
    ensure!(shown["state"] == "RUNNING" && shown["sandboxes"] == 1, "{shown}");
    let metrics = String::from_utf8(fleet.lambda.get("/metrics")?.expect(200)?.body)?;
    for line in [
        "bowline_instances_warmed_total{kind=\"process\"} 1\n",
        "bowline_provisioned_total{rung=\"warming-pool\"} 1\n",
    ] {
        ensure!(metrics.contains(line), "no `{line}` in {metrics}");
    }
    // Another one waits for the next account.
    waiting(&node, "process", 1)
}

/// Waits until so many servers of a kind wait for an account.
pub(super) fn waiting(node: &Node, kind: &str, count: u64) -> Result<()> {
    let line = format!("bowline_instances_warming{{kind=\"{kind}\"}} {count}\n");
    let waits = patience::until(PATIENCE, || {
        let reply = node.lambda().get("/metrics").ok()?;
        String::from_utf8_lossy(&reply.body).contains(&line).then_some(())
    });
    waits.with_context(|| format!("there never were {count} servers that wait: {}", node.log()))
}

#[test]
fn servers_that_wait_end_with_a_killed_node() -> Result<()> {
    let mut node = node_with(&[("BOWLINE_INSTANCES", "process")])?;
    waiting(&node, "process", 1)?;
    let folder = node.data().canonicalize()?.join("instances").display().to_string();
    let agents = || {
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
        lines
            .filter(|line| String::from_utf8_lossy(line).contains(&folder))
            .count()
    };
    ensure!(agents() > 0, "the control: an agent runs");
    node.kill()?;
    let ended = patience::until(PATIENCE, || (agents() == 0).then_some(()));
    ended.context("an agent that waits outlives its node")?;
    node.start_again()?;
    waiting(&node, "process", 1)?;
    // The first call of an account finds it.
    let fleet = Fleet::of(&node);
    fleet.lambda.deploy("hello", &Artifact::reactor()?, json!({}))?;
    let reply = fleet.lambda.invoke("hello", &json!({"name": "ada"}))?.expect(200)?;
    ensure!(reply.header("x-bowline-provisioned") == "warming-pool");
    Ok(())
}

/// Somebody with an access key.
struct Person {
    lambda: Lambda,
    host: String,
    key: Key,
}

impl Person {
    /// Makes a key of an account; from the first one on every request must be signed.
    fn of(node: &Node, account: &str) -> Result<Self> {
        let mut create = Command::new(binary()?);
        create
            .args(["keys", "create", "--json", "--account", account, "--data"])
            .arg(node.data());
        let output = create.output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let made: Value = serde_json::from_slice(&output.stdout)?;
        let part = |name: &str| made[name].as_str().map(str::to_owned).context("a key without a part");
        Ok(Self {
            lambda: node.lambda(),
            host: node.address(),
            key: Key {
                id: part("access_key_id")?,
                secret: part("secret_access_key")?,
            },
        })
    }

    fn send(&self, method: &str, path: &str, body: &[u8]) -> Result<Reply> {
        let headers = self.key.headers(method, (&self.host, path), body);
        let headers: Vec<_> = headers.iter().filter_map(|header| header.split_once(": ")).collect();
        self.lambda.send(method, path, &headers, body)
    }

    fn deploy(&self, name: &str, artifact: &Artifact) -> Result<()> {
        let body = json!({
            "FunctionName": name, "Runtime": artifact.runtime, "Handler": artifact.handler, "Timeout": 30,
            "Role": "arn:aws:iam::000000000000:role/test", "Code": {"ZipFile": BASE64_STANDARD.encode(&artifact.code)},
        });
        self.send("POST", "/2015-03-31/functions", body.to_string().as_bytes())?
            .expect(201)?;
        let path = format!("/2015-03-31/functions/{name}");
        let active = patience::until(PATIENCE, || {
            let shown = self.send("GET", &path, &[]).ok()?.json();
            (shown["Configuration"]["State"] == "Active").then_some(())
        });
        active.with_context(|| format!("`{name}` is not active"))
    }

    fn call(&self, name: &str) -> Result<()> {
        let path = format!("/2015-03-31/functions/{name}/invocations");
        let reply = self.send("POST", &path, b"{\"name\":\"ada\"}")?.expect(200)?;
        ensure!(
            reply.header("x-amz-function-error").is_empty(),
            "{name}: {}",
            reply.json()
        );
        Ok(())
    }
}

const CALLS: usize = 1000;
const FUNCTIONS: [&str; 3] = ["one", "two", "three"];

#[test]
fn t_e4_no_instance_serves_two_accounts_in_a_thousand_calls() -> Result<()> {
    let node = node_with(&[("BOWLINE_INSTANCES", "process")])?;
    let operator = Person::of(&node, "000000000000")?;
    let accounts = ["111111111111", "222222222222"];
    let people = [Person::of(&node, accounts[0])?, Person::of(&node, accounts[1])?];
    let artifact = Artifact::reactor()?;
    for (person, name) in people.iter().flat_map(|person| FUNCTIONS.map(|name| (person, name))) {
        person.deploy(name, &artifact)?;
    }
    let entropy = Entropy::seeded(54);
    let mut called = [BTreeSet::new(), BTreeSet::new()];
    let mut servers = BTreeSet::new();
    for number in 0..CALLS {
        let drawn = entropy.number() as usize;
        let (who, name) = (drawn % 2, FUNCTIONS[drawn / 2 % 3]);
        people[who].call(name)?;
        called[who].insert(name);
        // Each has as many sandboxes on its own instance as it has called functions: none is anywhere else.
        for (account, called) in accounts.iter().zip(&called).filter(|(_, called)| !called.is_empty()) {
            let shown = operator
                .send("GET", &format!("/v1/instances/default?account={account}"), &[])?
                .expect(200)?
                .json();
            ensure!(shown["sandboxes"] == called.len(), "call {number}: {shown}");
            servers.insert(shown["server"].to_string());
        }
    }
    ensure!(servers.len() == 2, "two accounts, two servers: {servers:?}");
    let refused = people[0].send("GET", "/v1/instances", &[])?;
    ensure!(
        refused.status == 403,
        "instances are the operator's: {}",
        refused.status
    );
    Ok(())
}

#[test]
fn an_instance_inside_the_node_has_limits_and_is_replaced() -> Result<()> {
    let node = node()?;
    let fleet = Fleet::of(&node);
    let inline = |rest: &str| file("shop", 256, rest).replace("\"process\"", "\"inline\"");
    let volume = inline("[[volumes]]\nsource = \"orders\"\nmount = \"/data\"\n");
    fleet.put("shop", &volume)?;
    let refused = fleet
        .lambda
        .post("/v1/instances", &json!({ "file": "shop" }))?
        .expect(409)?;
    ensure!(refused.error() == "infeasible", "it has no volumes: {}", refused.json());
    fleet.make("shop", &inline(""))?;
    let old = fleet.running("shop")?;
    let deploy = |name: &str, memory: u32| {
        fleet
            .lambda
            .deploy(name, &Artifact::reactor()?, json!({ "MemorySize": memory }))
    };
    deploy("small", 128)?;
    deploy("big", 512)?;
    let ask = |name: &str| fleet.lambda.invoke(name, &json!({"name": "ada"}));
    ask("small")?.expect(200)?;
    let shown = fleet.show("shop")?;
    ensure!(shown["sandboxes"] == 1 && shown["held_mib"] == 128, "{shown}");
    ensure!(ask("big")?.status != 200, "more than the instance has");
    let report = json!({ "error": "it smells", "repairable": false });
    fleet.lambda.post("/v1/instances/shop/report", &report)?.expect(200)?;
    fleet.replaced("shop", &old)?;
    ask("small")?.expect(200)?;
    ensure!(fleet.show("shop")?["sandboxes"] == 1);
    Ok(())
}
