//! Shared state of WebAssembly functions, by the guest SDK: in the node and on process instances, beside Linux functions.

use anyhow::{Context, Result, ensure};
use bowline_tests::node::Settings;
use bowline_tests::{Artifact, Lambda, Node};
use serde_json::{Value, json};

const CALLERS: usize = 8;
const CALLS_EACH: usize = 5;

fn create(lambda: &Lambda, name: &str, writers: &str) -> Result<()> {
    let body = json!({ "name": name, "writers": writers });
    lambda.post("/v1/state", &body)?.expect(201).map(drop)
}

fn attach(lambda: &Lambda, name: &str, function: &str, access: &str) -> Result<()> {
    let path = format!("/v1/state/{name}/functions/{function}");
    lambda.put(&path, &json!({ "access": access }))?.expect(200).map(drop)
}

fn call(lambda: &Lambda, function: &str, event: &Value) -> Result<Value> {
    let reply = lambda.invoke(function, event)?.expect(200)?;
    ensure!(reply.header("x-amz-function-error").is_empty(), "{}", reply.json());
    Ok(reply.json())
}

/// The type of the error that a call ends with.
fn refusal(lambda: &Lambda, function: &str, event: &Value) -> Result<String> {
    let reply = lambda.invoke(function, event)?.expect(200)?;
    ensure!(!reply.header("x-amz-function-error").is_empty(), "{}", reply.json());
    let told = reply.json();
    told["errorType"]
        .as_str()
        .map(str::to_owned)
        .context("an error without a type")
}

fn count(lambda: &Lambda, function: &str) -> Result<Value> {
    call(
        lambda,
        function,
        &json!({"do": "count", "state": "counter", "lease": true}),
    )
}

/// Counts by two functions at many callers at once; what the counter is then.
fn count_at_once(lambda: &Lambda, lease: bool) -> Result<u64> {
    let event = json!({"do": "count", "state": "counter", "lease": lease});
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|caller| {
                let event = &event;
                scope.spawn(move || {
                    let function = ["one", "two"][caller % 2];
                    (0..CALLS_EACH).try_for_each(|_| call(lambda, function, event).map(drop))
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

fn node(instances: &str) -> Result<Node> {
    Node::start_with(Settings {
        environment: vec![("BOWLINE_INSTANCES".into(), instances.into())],
        ..Settings::default()
    })
}

/// 01/T-A4, T-A8: what one function wrote another one counts on from, under the lease without loss; without it some are lost.
#[test]
fn t_a8_web_assembly_functions_count_together_under_the_lease() -> Result<()> {
    for (instances, writers, lease) in [
        ("inline", "one", true),
        ("process", "one", true),
        ("inline", "any", false),
    ] {
        let node = node(instances)?;
        let lambda = node.lambda();
        create(&lambda, "counter", writers)?;
        for name in ["one", "two"] {
            lambda.deploy(name, &Artifact::counter()?, json!({}))?;
            attach(&lambda, "counter", name, "write")?;
        }
        let counted = count_at_once(&lambda, lease)?;
        let all = (CALLERS * CALLS_EACH) as u64;
        if lease {
            ensure!(counted == all, "{counted} of {all} on {instances}");
        } else {
            ensure!(
                counted < all,
                "control: without a lease increments get lost, here none did"
            );
        }
    }
    Ok(())
}

/// 01/T-A7: only what is attached is there, only as it is attached, and with the limits that all have.
#[test]
fn t_a7_a_web_assembly_function_reaches_what_is_attached_and_nothing_else() -> Result<()> {
    let node = node("inline")?;
    let lambda = node.lambda();
    lambda.deploy("one", &Artifact::counter()?, json!({}))?;
    for name in ["counter", "other"] {
        create(&lambda, name, "one")?;
    }
    let counting = json!({"do": "count", "state": "counter", "lease": true});
    ensure!(
        refusal(&lambda, "one", &counting)? == "AccessDeniedException",
        "nothing is attached"
    );
    attach(&lambda, "counter", "one", "write")?;
    ensure!(count(&lambda, "one")?["n"] == 1, "the control: attached, it is there");
    let told = |event: Value| call(&lambda, "one", &event);
    let refused = |event: Value| refusal(&lambda, "one", &event);
    ensure!(refused(json!({"do": "count", "state": "other", "lease": true}))? == "NotAttached");
    ensure!(refused(json!({"do": "count", "state": "Not a name", "lease": true}))? == "UnknownOperationException");
    ensure!(
        refused(json!({"do": "count", "state": "counter"}))? == "NoLease",
        "it was given back"
    );
    let put =
        |key: &str, bytes: usize| json!({"do": "put", "state": "counter", "key": key, "bytes": bytes, "lease": true});
    ensure!(told(put("small", 262_142))?["version"] == 2, "256 KiB with the quotes");
    ensure!(refused(put("large", 262_143))? == "TooLarge");
    ensure!(refused(put("huge", 13_000_000))? == "RequestTooLargeException");
    ensure!(refused(put("a/b", 1))? == "UnknownOperationException", "that is no key");
    ensure!(told(json!({"do": "keys", "state": "counter"}))?["keys"] == json!(["n", "small"]));
    let delete = json!({"do": "delete", "state": "counter", "key": "small", "lease": true});
    ensure!(told(delete.clone())?["deleted"] == true && told(delete)?["deleted"] == false);
    attach(&lambda, "counter", "one", "read")?;
    ensure!(told(json!({"do": "keys", "state": "counter"}))?["keys"] == json!(["n"]));
    ensure!(refused(counting.clone())? == "ReadOnly");
    lambda.delete("/v1/state/counter/functions/one")?.expect(204)?;
    ensure!(refused(counting)? == "AccessDeniedException", "detached, it is gone");
    Ok(())
}
