//! Nodes on PostgreSQL: several on one database, and the way there from the embedded store and back.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bowline_test_postgres::{PASSWORD, Server, is_installed};
use bowline_tests::node::{Settings, binary};
use bowline_tests::{Artifact, Lambda, Node, patience, skip};
use serde_json::{Value, json};

/// How long another node may take to see a change: it looks twice a second.
const SEEN_MAX: Duration = Duration::from_secs(20);

fn database() -> Result<Option<Server>> {
    if !is_installed() {
        skip("there is no PostgreSQL");
        return Ok(None);
    }
    Server::start().map(Some)
}

/// A node that keeps its records in `url` and its packages in `blobs`.
fn member(url: &str, blobs: &Path) -> Result<Node> {
    Node::start_with(Settings {
        environment: vec![
            ("BOWLINE_STORE".into(), url.into()),
            ("BOWLINE_BLOBS".into(), blobs.into()),
        ],
        ..Settings::default()
    })
}

fn answer(lambda: &Lambda, name: &str) -> Result<Value> {
    let reply = lambda.invoke(name, &json!({"name": "ada"}))?.expect(200)?;
    ensure!(reply.header("x-amz-function-error").is_empty(), "{}", reply.json());
    Ok(reply.json())
}

fn sees(node: &Node, name: &str) -> bool {
    let lambda = node.lambda();
    patience::until(SEEN_MAX, || answer(&lambda, name).ok()).is_some()
}

#[test]
fn nodes_on_one_database_are_one_cluster() -> Result<()> {
    let Some(server) = database()? else { return Ok(()) };
    let shared = tempfile::tempdir()?;
    let mut first = member(&server.url(), shared.path())?;
    let second = member(&server.url(), shared.path())?;
    let stranger = Node::start()?;
    first.lambda().deploy("hello", &Artifact::command()?, json!({}))?;
    ensure!(
        sees(&second, "hello"),
        "the second node does not see it: {}",
        second.log()
    );
    let control = stranger.lambda().invoke("hello", &json!({}))?;
    ensure!(
        control.status == 404,
        "control: a node elsewhere has it too: {}",
        control.status
    );

    first.kill()?;
    ensure!(
        answer(&second.lambda(), "hello").is_ok(),
        "the second node needs the first"
    );
    second.lambda().deploy("later", &Artifact::reactor()?, json!({}))?;
    first.start_again()?;
    ensure!(answer(&first.lambda(), "hello").is_ok() && answer(&first.lambda(), "later").is_ok());
    for node in [&first, &second] {
        ensure!(!node.log().contains(PASSWORD), "the log tells the password");
    }
    Ok(())
}

/// Runs `bowline store` and gives what it printed.
fn store(words: &[&str], url: &str) -> Result<Value> {
    let mut command = Command::new(binary()?);
    let output = command
        .args(["--json", "store"])
        .args(words)
        .env("BOWLINE_STORE", url)
        .output()?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`store {}`: {told}", words.join(" "));
    ensure!(!told.contains(PASSWORD), "the password is told: {told}");
    serde_json::from_slice(&output.stdout).context("no JSON")
}

/// Makes a stream with cold parts; its events.
fn cold_stream(node: &Node) -> Result<Vec<String>> {
    let lambda = node.lambda();
    let made = json!({ "name": "orders", "chains": 2, "retention": { "tier_after_ms": 1 } });
    lambda.post("/v1/streams", &made)?.expect(201)?;
    for round in 0..40 {
        let body = format!("{round} {}", "x".repeat(4000));
        let events = json!({ "events": [{ "body": body }, { "body": "between" }] });
        lambda.post("/v1/streams/orders/events", &events)?.expect(201)?;
    }
    let cold = node.data().join("blobs/cold");
    let tiered = || std::fs::read_dir(&cold).ok()?.next().map(|_| ());
    patience::until(SEEN_MAX, tiered).context("nothing becomes cold")?;
    let all = patience::until(SEEN_MAX, || bodies(node).ok().filter(|bodies| bodies.len() == 80));
    all.context("not all events are seen")
}

#[test]
fn everything_moves_to_postgres_and_back() -> Result<()> {
    let Some(server) = database()? else { return Ok(()) };
    let mut node = Node::start()?;
    node.lambda().deploy("hello", &Artifact::command()?, json!({}))?;
    let before = answer(&node.lambda(), "hello")?;
    let events = cold_stream(&node)?;
    let data = node.data();
    let data = data.to_str().context("the path is text")?.to_owned();
    node.terminate()?;
    node.wait_for_end()?;

    let moved = store(&["migrate", "--data", &data, "--to", &server.url()], "embedded")?;
    ensure!(
        moved["packages"].as_u64() > Some(1) && moved["records"].as_u64() > Some(1),
        "{moved}"
    );
    let checked = store(&["check", "--data", &data], &server.url())?;
    ensure!(
        checked["sound"] == true && checked["records"] == moved["records"],
        "{checked}"
    );

    let blobs = Path::new(&data).join("blobs");
    let mut clustered = member(&server.url(), &blobs)?;
    ensure!(answer(&clustered.lambda(), "hello")? == before);
    ensure!(bodies(&clustered)? == events, "the stream has changed on the way");
    clustered.lambda().deploy("more", &Artifact::reactor()?, json!({}))?;
    clustered.terminate()?;
    clustered.wait_for_end()?;

    let back = tempfile::tempdir()?;
    let folder = back.path().join("data");
    let folder = folder.to_str().context("the path is text")?;
    let to = ["migrate", "--data", &data, "--to", "embedded", "--to-data", folder];
    store(&to, &server.url())?;
    let node = Node::start_with(Settings {
        data: Some(folder.into()),
        ..Settings::default()
    })?;
    ensure!(answer(&node.lambda(), "hello")? == before);
    answer(&node.lambda(), "more")?;
    ensure!(bodies(&node)? == events, "the stream has changed on the way back");
    Ok(())
}

/// The bodies of a stream's events, as a node tells them.
fn bodies(node: &Node) -> Result<Vec<String>> {
    let path = "/v1/streams/orders/events?from=oldest&limit=1000";
    let page = node.lambda().get(path)?.expect(200)?.json();
    let events = page["events"].as_array().context("no events")?;
    Ok(events
        .iter()
        .filter_map(|event| event["body"].as_str().map(str::to_owned))
        .collect())
}

/// Appends an event with an identifier of its own until a node takes it; none takes it twice.
fn append(node: &Node, number: usize) -> Result<()> {
    let event = json!({"events": [{"id": format!("{number:032x}"), "body": number.to_string()}]});
    let taken = patience::until(SEEN_MAX, || {
        let reply = node.lambda().post("/v1/streams/orders/events", &event).ok()?;
        (reply.status == 200 || reply.status == 201).then_some(())
    });
    taken.with_context(|| format!("no node takes event {number}:\n{}", node.log()))
}

#[test]
fn a_stream_is_written_on_all_nodes_and_read_alike_after_one_is_killed() -> Result<()> {
    let Some(server) = database()? else { return Ok(()) };
    let shared = tempfile::tempdir()?;
    let start = |_| member(&server.url(), shared.path());
    let mut nodes: Vec<Node> = (0..4).map(start).collect::<Result<_>>()?;
    nodes[0]
        .lambda()
        .post("/v1/streams", &json!({"name": "orders"}))?
        .expect(201)?;
    for number in 0..40 {
        append(&nodes[number % nodes.len()], number)?;
    }
    nodes[0].kill()?;
    let dead = nodes.remove(0);
    for number in 40..52 {
        append(&nodes[number % nodes.len()], number)?;
    }
    // What was taken twice is there once: the control of the identifiers.
    append(&nodes[0], 51)?;
    let all: Vec<String> = (0..52).map(|number| number.to_string()).collect();
    let seen = patience::until(SEEN_MAX, || {
        let read: Vec<_> = nodes.iter().filter_map(|node| bodies(node).ok()).collect();
        (read.iter().all(|bodies| bodies.len() == all.len())).then_some(read)
    });
    let seen = seen.context("not every node sees every event")?;
    ensure!(
        seen.windows(2).all(|pair| pair[0] == pair[1]),
        "nodes disagree on the order: {seen:?}"
    );
    let mut sorted = seen[0].clone();
    sorted.sort_by_key(|body| body.parse::<usize>().unwrap_or(usize::MAX));
    ensure!(sorted == all, "events are lost or doubled: {sorted:?}");
    drop(dead);
    Ok(())
}
