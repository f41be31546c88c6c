//! kill -9 at any moment leaves the old state or the new one, whole, with code and record together.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bowline_foundation::entropy::Entropy;
use bowline_tests::{Artifact, Lambda, Node, patience};
use serde_json::{Value, json};

const KILLS: u64 = 12;
const FUNCTIONS: u64 = 3;
/// A kill falls after this many acknowledged changes of a round, at most.
const CHANGES_MAX: u64 = 24;

/// A module that answers with `mark`.
fn answering(mark: u8) -> Result<Artifact> {
    Artifact::answering(&format!("\"{}\"", char::from(mark)))
}

/// One change of one function, the `step`th; which one follows from the step alone.
fn change(lambda: &Lambda, step: u64) -> Result<u16> {
    let name = format!("f{}", step % FUNCTIONS);
    let path = format!("/2015-03-31/functions/{name}");
    let mark = b'a' + u8::try_from(step % 20).expect("less than 20");
    let reply = match (step / FUNCTIONS) % 8 {
        0 => lambda.create(&name, &answering(mark)?, json!({"Publish": true})),
        1 | 5 => {
            let body = json!({"ZipFile": encoded(&answering(mark)?.code)});
            lambda.put(&format!("{path}/code"), &body)
        }
        2 | 6 => lambda.post(&format!("{path}/versions"), &json!({})),
        3 => lambda.post(
            &format!("{path}/aliases"),
            &json!({"Name": "live", "FunctionVersion": "1"}),
        ),
        4 => lambda.put(
            &format!("{path}/configuration"),
            &json!({"Description": format!("step {step}")}),
        ),
        _ => lambda.delete(&path),
    }?;
    Ok(reply.status)
}

pub fn encoded(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::prelude::BASE64_STANDARD.encode(bytes)
}

/// Changes functions until the node dies; counts what was acknowledged.
fn change_until_death(lambda: &Lambda, first: u64, acknowledged: &AtomicU64) {
    let mut step = first;
    while let Ok(status) = change(lambda, step) {
        assert!(status < 500, "step {step} was answered {status}");
        acknowledged.fetch_add(1, Ordering::AcqRel);
        step += 1;
    }
}

/// Every function and version that is listed is whole: it settles, its code is there, and it answers.
fn check_whole(lambda: &Lambda) -> Result<BTreeMap<String, Value>> {
    let mut state = BTreeMap::new();
    for name in lambda.functions()? {
        lambda.wait_until_active(&name)?;
        let path = format!("/2015-03-31/functions/{name}");
        let versions = lambda.get(&format!("{path}/versions"))?.expect(200)?.json();
        for version in versions["Versions"].as_array().context("a list of versions")? {
            let number = version["Version"].as_str().context("a version's number")?;
            let qualified = format!("{name}:{number}");
            let reply = lambda.invoke(&qualified, &json!({}))?.expect(200)?;
            ensure!(
                reply.header("x-amz-function-error").is_empty(),
                "`{qualified}` is listed but does not run: {}",
                reply.json()
            );
            state.insert(qualified, version["CodeSha256"].clone());
        }
        let aliases = lambda.get(&format!("{path}/aliases"))?.expect(200)?.json();
        for alias in aliases["Aliases"].as_array().context("a list of aliases")? {
            let target = format!("{name}:{}", alias["FunctionVersion"].as_str().context("a version")?);
            ensure!(
                state.contains_key(&target),
                "the alias `live` points to `{target}`, which is not there"
            );
        }
    }
    Ok(state)
}

#[test]
fn a_killed_node_comes_back_whole() -> Result<()> {
    let entropy = Entropy::seeded(0x0b0b);
    let mut node = Node::start()?;
    let lambda = node.lambda();
    let mut step = 0;
    for round in 0..KILLS {
        let acknowledged = AtomicU64::new(0);
        // Small moments after an acknowledgement decide where in the next change the kill falls.
        let changes = entropy.number() % CHANGES_MAX;
        let delay = Duration::from_micros(entropy.number() % 4_000);
        thread::scope(|scope| {
            scope.spawn(|| change_until_death(&lambda, step, &acknowledged));
            let reached = || (acknowledged.load(Ordering::Acquire) >= changes).then_some(());
            patience::until(Duration::from_secs(60), reached).context("changes are acknowledged")?;
            patience::pass(delay);
            node.kill()
        })?;
        node.start_again().with_context(|| format!("after kill {round}"))?;
        let state = check_whole(&lambda).with_context(|| format!("after kill {round}"))?;
        println!(
            "kill {round} after {changes} changes and {delay:?}: {} versions are whole",
            state.len()
        );
        // Nothing changes by a second restart: what was shown was durable.
        if round % 4 == 0 {
            node.kill()?;
            node.start_again()?;
            ensure!(
                check_whole(&lambda)? == state,
                "round {round}: a restart without changes changed the state"
            );
        }
        step += acknowledged.load(Ordering::Acquire);
    }
    Ok(())
}

#[test]
fn what_was_acknowledged_survives_a_kill() -> Result<()> {
    let mut node = Node::start()?;
    let lambda = node.lambda();
    for round in 0..5 {
        let name = format!("kept{round}");
        lambda
            .create(&name, &answering(b'k')?, json!({"Description": "kept"}))?
            .expect(201)?;
        node.kill()?;
        node.start_again()?;
        lambda.wait_until_active(&name)?;
        let reply = lambda.invoke(&name, &json!({}))?.expect(200)?;
        ensure!(reply.json() == "k", "`{name}` answered {}", reply.json());
        lambda.delete(&format!("/2015-03-31/functions/{name}"))?;
        node.kill()?;
        node.start_again()?;
        ensure!(lambda.functions()?.is_empty(), "a deleted function came back");
    }
    Ok(())
}
