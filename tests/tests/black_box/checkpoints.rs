//! Invocations that are suspended, killed with their node and resumed: each ends once, with the right answer.

use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bowline_tests::artifact::zip_of;
use bowline_tests::lambda::Reply;
use bowline_tests::{Artifact, Lambda, Node, patience};
use serde_json::{Value, json};

pub const PATIENCE: Duration = Duration::from_secs(150);
/// A guest says how far it is after so many steps.
pub const EVERY: u64 = 1 << 22;
/// Enough that a test can get hold of the guest while it runs.
const LINES: u64 = 200;
const STEPS: u64 = EVERY * LINES;

/// A chain of numbers, each made from the one before; progress goes to the log, the last one is the answer.
pub fn chain() -> Result<Artifact> {
    chain_of(LINES)
}

/// The same with so many lines of progress.
pub fn chain_of(lines: u64) -> Result<Artifact> {
    let steps = EVERY * lines;
    let text = format!(
        r#"(module
        (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 2)
        (func $print (param $stream i32) (param $number i64) (local $at i32)
            (local.set $at (i32.const 63))
            (i32.store8 (i32.const 63) (i32.const 10))
            (loop $digits
                (local.set $at (i32.sub (local.get $at) (i32.const 1)))
                (i32.store8 (local.get $at)
                    (i32.add (i32.const 48) (i32.wrap_i64 (i64.rem_u (local.get $number) (i64.const 10)))))
                (local.set $number (i64.div_u (local.get $number) (i64.const 10)))
                (br_if $digits (i64.ne (local.get $number) (i64.const 0))))
            (i32.store (i32.const 64) (local.get $at))
            (i32.store (i32.const 68) (i32.sub (i32.const 64) (local.get $at)))
            (drop (call $write (local.get $stream) (i32.const 64) (i32.const 1) (i32.const 72))))
        (func (export "_start") (local $step i64) (local $number i64)
            (local.set $number (i64.const 88172645463325252))
            (loop $chain
                (local.set $number (i64.xor (local.get $number) (i64.shl (local.get $number) (i64.const 13))))
                (local.set $number (i64.xor (local.get $number) (i64.shr_u (local.get $number) (i64.const 7))))
                (local.set $number (i64.xor (local.get $number) (i64.shl (local.get $number) (i64.const 17))))
                (local.set $step (i64.add (local.get $step) (i64.const 1)))
                (if (i64.eqz (i64.rem_u (local.get $step) (i64.const {EVERY})))
                    (then (call $print (i32.const 2) (local.get $step))))
                (br_if $chain (i64.lt_u (local.get $step) (i64.const {steps}))))
            (call $print (i32.const 1) (i64.shr_u (local.get $number) (i64.const 1)))))"#
    );
    let module = wat::parse_str(text)?;
    Ok(Artifact::provided(zip_of(&[("bootstrap.wasm", &module)])?))
}

/// A node with the function `plain`, and `chain`, which is the same with checkpoints.
struct Stage {
    node: Node,
    lambda: Lambda,
    /// What an uninterrupted run answers.
    expected: String,
}

impl Stage {
    fn set(mode: &str) -> Result<Self> {
        let node = Node::start()?;
        let lambda = node.lambda();
        let code = chain()?;
        lambda.deploy("plain", &code, json!({"Timeout": 300}))?;
        lambda.deploy(
            "chain",
            &code,
            json!({"Timeout": 300, "Environment": {"Variables": {"BOWLINE_CHECKPOINT": mode}}}),
        )?;
        let expected = answer(&lambda.invoke("plain", &json!({}))?)?;
        Ok(Self { node, lambda, expected })
    }

    fn invoke(&self) -> JoinHandle<Result<Reply>> {
        let lambda = self.lambda.clone();
        thread::spawn(move || lambda.invoke("chain", &json!({})))
    }

    /// The one run there is, once `good` is true of it.
    fn run(&self, good: impl Fn(&Value) -> bool) -> Result<Value> {
        let found = patience::until(PATIENCE, || {
            let list = self.lambda.get("/v1/checkpoints").ok()?.json();
            let run = list["items"].as_array()?.first()?.clone();
            good(&run).then_some(run)
        });
        found.with_context(|| format!("no run came to that:\n{}", self.node.log()))
    }

    fn post(&self, run: &Value, what: &str, body: Value) -> Result<Reply> {
        let run = run["run"].as_str().context("a run has a name")?;
        self.lambda.post(&format!("/v1/checkpoints/{run}/{what}"), &body)
    }

    /// How far the guest has said it is, line by line.
    fn progress(&self) -> Result<Vec<u64>> {
        let log = self.lambda.get("/v1/functions/chain/logs")?.expect(200)?;
        let text = String::from_utf8_lossy(&log.body).into_owned();
        Ok(text.lines().filter_map(|line| line.trim().parse().ok()).collect())
    }
}

pub fn answer(reply: &Reply) -> Result<String> {
    ensure!(reply.status == 200, "{}", String::from_utf8_lossy(&reply.body));
    ensure!(
        reply.header("x-amz-function-error").is_empty(),
        "{}",
        String::from_utf8_lossy(&reply.body)
    );
    Ok(String::from_utf8_lossy(&reply.body).trim().to_owned())
}

pub fn reply(running: JoinHandle<Result<Reply>>) -> Result<Reply> {
    running.join().expect("the client's thread does not panic")
}

#[test]
fn a_suspended_invocation_goes_on_where_it_stood() -> Result<()> {
    let stage = Stage::set("on")?;
    let running = stage.invoke();
    let run = stage.run(|run| run["phase"] == "running")?;
    let started = patience::until(PATIENCE, || stage.progress().ok().filter(|lines| !lines.is_empty()));
    ensure!(started.is_some(), "the guest says nothing");
    let taken = stage.post(&run, "take", json!({"suspend": true}))?.expect(200)?.json();
    assert_eq!(taken["phase"], "suspended");
    assert_eq!(taken["decisions"][0]["why"], "operator");
    let stood = stage.progress()?;
    assert!(stood.len() < 200, "the control: it was not over yet");
    let name = run["run"].as_str().context("a run has a name")?;
    let bytes = stage
        .lambda
        .get(&format!("/v1/checkpoints/{name}/content"))?
        .expect(200)?;
    assert_eq!(taken["checkpoint"]["digest"], blake3::hash(&bytes.body).to_string());
    assert_eq!(taken["checkpoint"]["digest_kind"], "blake3");
    let shown = stage
        .lambda
        .get(&format!("/v1/checkpoints/{name}"))?
        .expect(200)?
        .json();
    assert_eq!(shown["content"]["frames"], 1, "{shown}");
    assert_eq!(shown["content"]["memory_bytes"], 2 * 64 * 1024);
    let again = stage.post(&run, "take", json!({}))?.expect(409)?;
    assert_eq!(again.json()["code"], "not_running");
    // Other invocations of the node are not held up by one that waits.
    assert_eq!(answer(&stage.lambda.invoke("plain", &json!({}))?)?, stage.expected);
    assert!(!running.is_finished(), "its caller waits on");
    assert_eq!(stage.progress()?, stood, "it does not run");
    stage.post(&run, "resume", json!({}))?.expect(200)?;
    assert_eq!(answer(&reply(running)?)?, stage.expected);
    let steps: Vec<u64> = (1..=200).map(|line| line * EVERY).collect();
    assert_eq!(stage.progress()?, steps, "no step is missing, none was made twice");
    let left = stage.lambda.get("/v1/checkpoints")?.json();
    assert_eq!(left["items"], json!([]), "nothing is left of it");
    Ok(())
}

#[test]
fn a_removed_invocation_ends_with_an_error_and_others_do_not() -> Result<()> {
    let stage = Stage::set("on")?;
    let running = stage.invoke();
    let run = stage.run(|run| run["phase"] == "running")?;
    let name = run["run"].as_str().context("a run has a name")?;
    let busy = stage.lambda.delete(&format!("/v1/checkpoints/{name}"))?.expect(409)?;
    assert_eq!(busy.json()["code"], "not_suspended");
    // What a client gives as its reason is text, even where the node gives the same one.
    let taken = stage
        .post(&run, "take", json!({"suspend": true, "reason": "shutdown"}))?
        .expect(200)?;
    assert_eq!(taken.json()["phase"], "suspended");
    stage.lambda.delete(&format!("/v1/checkpoints/{name}"))?.expect(204)?;
    let ended = reply(running)?;
    assert_eq!(ended.json()["errorType"], "Checkpoint.Removed");
    let gone = stage.post(&run, "resume", json!({}))?.expect(404)?;
    assert_eq!(gone.json()["code"], "no_such_checkpoint");
    Ok(())
}

#[test]
fn a_killed_node_goes_on_from_the_last_periodic_checkpoint() -> Result<()> {
    let mut stage = Stage::set("100ms")?;
    let running = stage.invoke();
    let run = stage.run(|run| run["checkpoint"]["number"].as_u64() > Some(2))?;
    stage.node.kill()?;
    assert!(reply(running).is_err(), "its caller is gone");
    assert!(stage.progress().is_err(), "the control: nobody runs it");
    stage.node.start_again()?;
    let ended = stage.run(|run| run["phase"] == "finished")?;
    assert_eq!(ended["run"], run["run"], "it keeps its name");
    assert!(
        ended["epoch"].as_u64() > run["epoch"].as_u64(),
        "who went on raised the epoch"
    );
    let name = ended["run"].as_str().context("a run has a name")?;
    let outcome = stage.lambda.get(&format!("/v1/checkpoints/{name}/outcome"))?;
    assert_eq!(answer(&outcome)?, stage.expected);
    let after = stage.progress()?;
    assert_eq!(after.last(), Some(&STEPS));
    Ok(())
}

#[test]
fn a_stopping_node_does_not_wait_for_what_can_go_on_later() -> Result<()> {
    let mut stage = Stage::set("on")?;
    let running = stage.invoke();
    stage.run(|run| run["phase"] == "running")?;
    stage.node.terminate()?;
    assert!(stage.node.wait_for_end()?.success());
    assert_ne!(reply(running)?.status, 200, "its caller is told");
    stage.node.start_again()?;
    let ended = stage.run(|run| run["phase"] == "finished")?;
    assert_eq!(ended["decisions"][0]["why"], "shutdown");
    let name = ended["run"].as_str().context("a run has a name")?;
    let outcome = stage.lambda.get(&format!("/v1/checkpoints/{name}/outcome"))?;
    assert_eq!(answer(&outcome)?, stage.expected);
    Ok(())
}

#[test]
fn a_module_that_cannot_be_checkpointed_runs_and_says_why() -> Result<()> {
    let node = Node::start()?;
    let lambda = node.lambda();
    let mode = |mode: &str| json!({"Environment": {"Variables": {"BOWLINE_CHECKPOINT": mode}}});
    let of = |name: &str| -> Result<Value> {
        let path = format!("/v1/functions/{name}/checkpointing");
        Ok(lambda.get(&path)?.expect(200)?.json())
    };
    lambda.deploy("reactor", &Artifact::reactor()?, mode("on"))?;
    let refused = of("reactor")?;
    assert_eq!(refused["Checkpointing"], "refused");
    let reason = refused["Reason"].as_str().context("it says why")?;
    assert!(reason.contains("only commands can be checkpointed"), "{reason}");
    lambda.invoke("reactor", &json!({"do": "echo"}))?.expect(200)?;
    lambda.deploy("command", &Artifact::command()?, mode("5s"))?;
    assert_eq!(of("command")?["Checkpointing"], "on");
    lambda.deploy("plain", &Artifact::command()?, json!({}))?;
    assert_eq!(of("plain")?["Checkpointing"], "off");
    let bad = lambda.create("bad", &Artifact::command()?, mode("sometimes"))?;
    assert_eq!(bad.status, 400, "{}", String::from_utf8_lossy(&bad.body));
    Ok(())
}
