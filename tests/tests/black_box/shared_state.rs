//! Shared state: what one run leaves, later runs see, in other sandboxes, of other functions, on other nodes and
//! after a crash. The labels are those of system 01.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bowline_test_postgres::Server;
use bowline_tests::node::Settings;
use bowline_tests::{Artifact, Lambda, Node, patience, place, skip};
use serde_json::{Value, json};

use crate::crowd::{has_postgres, member};

/// How long a node may take to see what another one has changed.
const SEEN_MAX: Duration = Duration::from_secs(30);
const CALLERS: usize = 10;
const CALLS_EACH: usize = 5;

const SOURCE: &[u8] = br#"
import json, os, urllib.error, urllib.request, uuid

SANDBOX = str(uuid.uuid4())
BASE = "http://" + os.environ["AWS_LAMBDA_RUNTIME_API"] + "/v1/state/"


def ask(method, path, value=None):
    body = None if value is None else json.dumps(value).encode()
    request = urllib.request.Request(BASE + path, data=body, method=method)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def handler(event, context):
    state = event.get("state", "counter")
    if event["do"] == "ask":
        status, answer = ask(event["method"], event["path"], event.get("value"))
        return {"status": status, "answer": answer, "sandbox": SANDBOX}
    if event["do"] == "fill":
        ask("POST", state + "/lease")
        number = 0
        while True:
            number += 1
            status, answer = ask("PUT", state + "/keys/pair", {"a": number, "pad": "x" * 20000, "b": number})
            assert status == 200, answer
    if event.get("lease", True):
        status, answer = ask("POST", state + "/lease")
    status, seen = ask("GET", state + "/keys/n")
    number = (seen["value"] if status == 200 else 0) + 1
    status, answer = ask("PUT", state + "/keys/n", number)
    return {"n": number, "written": status, "sandbox": SANDBOX, "why": answer}
"#;

fn can_run() -> bool {
    if !place::is_installed("python3") {
        skip("there is no python3");
    }
    place::is_installed("python3")
}

fn deploy(lambda: &Lambda, name: &str) -> Result<()> {
    lambda.deploy(name, &Artifact::python_source(SOURCE)?, json!({}))
}

fn create(lambda: &Lambda, name: &str, writers: &str) -> Result<()> {
    lambda
        .post("/v1/state", &json!({ "name": name, "writers": writers }))?
        .expect(201)?;
    Ok(())
}

fn attach(lambda: &Lambda, name: &str, function: &str, access: &str) -> Result<()> {
    let path = format!("/v1/state/{name}/functions/{function}");
    lambda.put(&path, &json!({ "access": access }))?.expect(200)?;
    Ok(())
}

fn call(lambda: &Lambda, function: &str, event: &Value) -> Result<Value> {
    let reply = lambda.invoke(function, event)?.expect(200)?;
    ensure!(reply.header("x-amz-function-error").is_empty(), "{}", reply.json());
    Ok(reply.json())
}

fn count(lambda: &Lambda, function: &str) -> Result<Value> {
    call(lambda, function, &json!({"do": "count"}))
}

/// Has the function begin in a new sandbox.
fn renew(lambda: &Lambda, function: &str, round: usize) -> Result<()> {
    let change = json!({ "Environment": { "Variables": { "ROUND": round.to_string() } } });
    lambda
        .put(&format!("/2015-03-31/functions/{function}/configuration"), &change)?
        .expect(200)?;
    lambda.wait_until_active(function)
}

#[test]
fn t_a1_t_a2_runs_in_other_sandboxes_count_on_and_without_state_each_begins_anew() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let node = Node::start()?;
    let lambda = node.lambda();
    deploy(&lambda, "count")?;
    create(&lambda, "counter", "one")?;
    attach(&lambda, "counter", "count", "write")?;
    let mut sandboxes = BTreeSet::new();
    for round in 1..=5 {
        renew(&lambda, "count", round)?;
        let told = count(&lambda, "count")?;
        ensure!(told["n"] == round && told["written"] == 200, "{told} in round {round}");
        sandboxes.insert(told["sandbox"].to_string());
    }
    ensure!(sandboxes.len() == 5, "{sandboxes:?}");
    let entry = lambda.get("/v1/state/counter/keys/n")?.expect(200)?.json();
    ensure!(entry["value"] == 5, "{entry}");

    lambda.delete("/v1/state/counter/functions/count")?.expect(204)?;
    for _ in 0..3 {
        let told = count(&lambda, "count")?;
        ensure!(told["n"] == 1 && told["written"] != 200, "control: {told}");
    }
    Ok(())
}

#[test]
fn t_a4_another_function_reads_what_one_wrote_and_may_not_write_it() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let node = Node::start()?;
    let lambda = node.lambda();
    deploy(&lambda, "writes")?;
    deploy(&lambda, "reads")?;
    create(&lambda, "shared", "any")?;
    attach(&lambda, "shared", "writes", "write")?;
    let path = "shared/keys/letter";
    let value = json!({"text": "\u{17e}lu\u{165}", "numbers": [1, 2.5, null]});
    let write = json!({"do": "ask", "method": "PUT", "path": path, "value": value});
    let read = json!({"do": "ask", "method": "GET", "path": path});
    ensure!(call(&lambda, "writes", &write)?["status"] == 200);
    let unattached = call(&lambda, "reads", &read)?;
    ensure!(
        unattached["status"] != 200,
        "control: not attached, and yet {unattached}"
    );
    attach(&lambda, "shared", "reads", "read")?;
    let seen = call(&lambda, "reads", &read)?;
    ensure!(seen["answer"]["value"] == value, "{seen}");
    let refused = call(&lambda, "reads", &write)?;
    ensure!(
        refused["status"] == 403 && refused["answer"]["error"] == "ReadOnly",
        "{refused}"
    );
    Ok(())
}

#[test]
fn t_a7_state_of_one_account_is_not_there_for_another() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let node = Node::start()?;
    let lambda = node.lambda();
    deploy(&lambda, "count")?;
    create(&lambda, "counter", "any")?;
    attach(&lambda, "counter", "count", "write")?;
    ensure!(count(&lambda, "count")?["n"] == 1);
    let other = "arn:aws:lambda:us-east-1:111111111111:function:count";
    let refused = lambda.put(&format!("/v1/state/counter/functions/{other}"), &json!({}))?;
    ensure!(refused.status == 404, "{} {}", refused.status, refused.json());
    let entry = lambda.get("/v1/state/counter/keys/n")?.expect(200)?.json();
    ensure!(entry["value"] == 1, "{entry}");
    Ok(())
}

/// Counts at many callers at once; what the counter is then.
fn count_at_once(lambda: &Lambda, lease: bool) -> Result<u64> {
    let event = json!({"do": "count", "lease": lease});
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..CALLS_EACH {
                        let told = call(lambda, "count", &event)?;
                        ensure!(told["written"] == 200, "{told}");
                    }
                    Ok(())
                })
            })
            .collect();
        callers
            .into_iter()
            .try_for_each(|caller| caller.join().expect("callers do not panic"))
    })?;
    let entry = lambda.get("/v1/state/counter/keys/n")?.expect(200)?.json();
    entry["value"].as_u64().context("no number")
}

#[test]
fn t_a8_concurrent_increments_under_the_lease_are_all_there_and_without_it_not() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    for (writers, lease) in [("one", true), ("any", false)] {
        let node = Node::start()?;
        let lambda = node.lambda();
        deploy(&lambda, "count")?;
        create(&lambda, "counter", writers)?;
        attach(&lambda, "counter", "count", "write")?;
        let counted = count_at_once(&lambda, lease)?;
        let all = (CALLERS * CALLS_EACH) as u64;
        if lease {
            ensure!(counted == all, "{counted} of {all}");
        } else {
            ensure!(
                counted < all,
                "control: without a lease increments get lost, here none did"
            );
        }
    }
    Ok(())
}

#[test]
fn t_a9_a_node_killed_in_the_middle_of_writes_leaves_a_whole_value() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let mut node = Node::start()?;
    let lambda = node.lambda();
    lambda.deploy("fills", &Artifact::python_source(SOURCE)?, json!({"Timeout": 10}))?;
    create(&lambda, "counter", "one")?;
    attach(&lambda, "counter", "fills", "write")?;
    for _ in 0..2 {
        let before = lambda.get("/v1/state/counter")?.expect(200)?.json()["version"].as_u64();
        let writer = lambda.clone();
        let writing = std::thread::spawn(move || writer.invoke("fills", &json!({"do": "fill"})));
        let begun = patience::until(SEEN_MAX, || {
            let version = lambda.get("/v1/state/counter").ok()?.json()["version"].as_u64();
            (version > before.map(|before| before + 3)).then_some(())
        });
        if begun.is_none() {
            let told = writing
                .join()
                .expect("it does not panic")
                .map(|reply| (reply.status, reply.json()));
            anyhow::bail!("nothing is written: {told:?}\n{}", node.log());
        }
        node.kill()?;
        let _cut = writing.join().expect("it does not panic");
        node.start_again()?;
        let entry = lambda.get("/v1/state/counter/keys/pair")?.expect(200)?.json();
        ensure!(entry["value"]["a"] == entry["value"]["b"], "torn: {entry}");
        let version = lambda.get("/v1/state/counter")?.expect(200)?.json()["version"].clone();
        ensure!(entry["version"] == version, "{entry} at {version}");
        // The lease of the dead invocation ends with its time, so that the next one needs more.
        let longer = json!({ "Timeout": 40 });
        lambda
            .put("/2015-03-31/functions/fills/configuration", &longer)?
            .expect(200)?;
        lambda.wait_until_active("fills")?;
    }
    Ok(())
}

#[test]
fn t_a3_t_a10_detached_state_outlives_functions_and_nodes() -> Result<()> {
    if !can_run() || !has_postgres() {
        return Ok(());
    }
    let (server, shared) = (Server::start()?, tempfile::tempdir()?);
    let mut first = member(&server.url(), shared.path())?;
    let second = member(&server.url(), shared.path())?;
    let lambda = first.lambda();
    deploy(&lambda, "count")?;
    create(&lambda, "counter", "one")?;
    attach(&lambda, "counter", "count", "write")?;
    ensure!(count(&lambda, "count")?["n"] == 1);
    let in_use = lambda.delete("/v1/state/counter")?;
    ensure!(in_use.status == 409, "it is attached: {}", in_use.json());
    lambda.delete("/2015-03-31/functions/count")?.expect(200)?;
    first.terminate()?;
    first.wait_for_end()?;

    let lambda = second.lambda();
    let gone = || {
        lambda
            .get("/2015-03-31/functions/count")
            .ok()
            .filter(|reply| reply.status == 404)
    };
    patience::until(SEEN_MAX, gone).context("the function stays on the second node")?;
    deploy(&lambda, "count")?;
    ensure!(
        count(&lambda, "count")?["written"] != 200,
        "control: a new function has no state"
    );
    attach(&lambda, "counter", "count", "write")?;
    let told = count(&lambda, "count")?;
    ensure!(told["n"] == 2 && told["written"] == 200, "{told}");

    lambda.delete("/v1/state/counter/functions/count")?.expect(204)?;
    lambda.delete("/v1/state/counter")?.expect(204)?;
    ensure!(lambda.get("/v1/state/counter")?.status == 404);
    Ok(())
}

#[test]
fn a_token_makes_state_once_and_bad_requests_are_refused() -> Result<()> {
    let node = Node::start_with(Settings::default())?;
    let lambda = node.lambda();
    let body = json!({"name": "once"}).to_string();
    let headers = [("content-type", "application/json"), ("idempotency-key", "token-1")];
    let first = lambda
        .send("POST", "/v1/state", &headers, body.as_bytes())?
        .expect(201)?
        .json();
    let again = lambda
        .send("POST", "/v1/state", &headers, body.as_bytes())?
        .expect(201)?
        .json();
    ensure!(first == again, "{first} and {again}");
    let other = lambda.post("/v1/state", &json!({"name": "once"}))?;
    ensure!(
        other.status == 409,
        "control: without the token it exists: {}",
        other.status
    );
    ensure!(lambda.post("/v1/state", &json!({"name": "Not Good"}))?.status == 400);
    ensure!(lambda.get("/v1/state/none")?.status == 404);
    ensure!(lambda.put("/v1/state/once/functions/none", &json!({}))?.status == 404);
    let listed = lambda.get("/v1/state")?.expect(200)?.json();
    ensure!(
        listed["items"].as_array().is_some_and(|items| items.len() == 1),
        "{listed}"
    );
    Ok(())
}
