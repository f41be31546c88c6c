//! Streams, sessions and objects of the real binary, by HTTP and by the command line, across `kill -9`.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bowline_tests::{Artifact, Lambda, Node, node, patience};
use serde_json::{Value, json};

const EVENTS: usize = 30;
const SEEN_MAX: Duration = Duration::from_secs(20);

fn command(node: &Node, words: &[&str]) -> Result<Command> {
    let mut command = Command::new(node::binary()?);
    command.args(words).env("BOWLINE_ENDPOINT", node.endpoint());
    Ok(command)
}

/// Runs a command that must succeed; returns what it printed.
fn bowline(node: &Node, words: &[&str]) -> Result<String> {
    let output = command(node, words)?.output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        bail!("`bowline {}` ended with {}: {said}", words.join(" "), output.status);
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// Runs a command that must fail; returns what it said.
fn refused(node: &Node, words: &[&str]) -> Result<String> {
    let output = command(node, words)?.output()?;
    ensure!(
        output.status.code() == Some(2),
        "`bowline {}` did not fail",
        words.join(" ")
    );
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

fn bodies(page: &Value) -> Vec<String> {
    let events = page["events"].as_array().into_iter().flatten();
    let bodies = events.map(|event| event["body"].as_str().unwrap_or_default().to_owned());
    bodies.collect()
}

fn all_events() -> Vec<String> {
    (0..EVENTS).map(|number| format!("event {number}")).collect()
}

/// Waits until readers see `last` as the newest event, which may be a moment after its acknowledgement.
fn seen(http: &Lambda, last: &str) -> Result<()> {
    let newest = "/v1/streams/orders/events?order=backward&limit=1";
    let look = || {
        let page = http.get(newest).ok()?.json();
        (bodies(&page) == [last]).then_some(())
    };
    patience::until(SEEN_MAX, look).with_context(|| format!("`{last}` is not seen"))
}

/// Appends [`all_events`] by HTTP to a new stream `orders`.
fn filled(node: &Node) -> Result<Lambda> {
    let http = node.lambda();
    http.post("/v1/streams", &json!({ "name": "orders" }))?.expect(201)?;
    let lines: Vec<String> = all_events()
        .iter()
        .map(|body| json!({ "body": body }).to_string())
        .collect();
    let headers = [("content-type", "application/x-ndjson")];
    let path = "/v1/streams/orders/events";
    http.send("POST", path, &headers, lines.join("\n").as_bytes())?
        .expect(201)?;
    seen(&http, &format!("event {}", EVENTS - 1))?;
    Ok(http)
}

#[test]
fn a_stream_is_walked_by_http_and_by_the_command_line() -> Result<()> {
    let mut node = Node::start()?;
    let http = filled(&node)?;
    let mut pipe = command(&node, &["stream", "append", "orders", "--key", "k"])?
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    pipe.stdin
        .take()
        .context("a pipe")?
        .write_all(b"from a pipe\nand another\n")?;
    ensure!(pipe.wait()?.success(), "the pipe was not appended");
    seen(&http, "and another")?;
    let mut expected = all_events();
    expected.extend(["from a pipe".to_owned(), "and another".to_owned()]);
    let read = |node: &Node| -> Result<Vec<String>> {
        Ok(bowline(node, &["stream", "read", "orders"])?
            .lines()
            .map(str::to_owned)
            .collect())
    };
    ensure!(read(&node)? == expected, "{:?}", read(&node)?);
    node.kill()?;
    node.start_again()?;
    seen(&http, "and another")?;
    ensure!(read(&node)? == expected, "the order changed: {:?}", read(&node)?);
    let page = http
        .get("/v1/streams/orders/events?order=backward&limit=2")?
        .expect(200)?
        .json();
    ensure!(bodies(&page) == ["and another", "from a pipe"], "{page}");
    let until = page["next"].as_str().context("a place")?.to_owned();
    bowline(&node, &["stream", "trim", "orders", "--until", &until])?;
    ensure!(read(&node)? == ["and another"], "{:?}", read(&node)?);
    let said = refused(&node, &["stream", "read", "orders", "--from", &"0".repeat(56)])?;
    ensure!(
        said.contains("(trimmed, HTTP 410)") && said.contains("--from oldest"),
        "{said}"
    );
    let said = refused(&node, &["stream", "read", "order"])?;
    ensure!(said.contains("`bowline stream ls`"), "{said}");
    Ok(())
}

#[test]
fn a_followed_stream_prints_what_comes() -> Result<()> {
    let node = Node::start()?;
    filled(&node)?;
    let mut tail = command(&node, &["stream", "tail", "orders", "-n", "1", "-f"])?
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(tail.stdout.take().context("a pipe")?).lines();
    let first = lines.next().context("the newest event")??;
    ensure!(first == format!("event {}", EVENTS - 1), "{first}");
    bowline(&node, &["stream", "append", "orders", "late"])?;
    let second = lines.next().context("the event that came")??;
    tail.kill()?;
    tail.wait()?;
    ensure!(second == "late", "{second}");
    // The control: without -f it ends by itself.
    ensure!(bowline(&node, &["stream", "tail", "orders", "-n", "2"])? == format!("{first}\nlate\n"));
    Ok(())
}

#[test]
fn a_loop_of_reads_acknowledges_each_batch_by_the_next() -> Result<()> {
    let node = Node::start()?;
    let http = filled(&node)?;
    let session = bowline(&node, &["session", "create", "orders"])?.trim().to_owned();
    let read = |done: Option<&str>| -> Result<Value> {
        let mut words = vec!["--json", "session", "read", &session, "-n", "7"];
        words.extend(done.into_iter().flat_map(|token| ["--done", token]));
        Ok(serde_json::from_str(&bowline(&node, &words)?)?)
    };
    let (mut seen, mut token) = (Vec::new(), None::<String>);
    loop {
        let batch = read(token.as_deref())?;
        if bodies(&batch).is_empty() {
            break;
        }
        seen.extend(bodies(&batch));
        token = batch["token"].as_str().map(str::to_owned);
    }
    ensure!(seen.len() == EVENTS, "{} of {EVENTS} events", seen.len());
    let shown = http.get(&format!("/v1/sessions/{session}"))?.json();
    ensure!(shown["in_flight"] == json!([]), "{shown}");
    let token = token.context("a token")?;
    let said = refused(&node, &["session", "read", &session, "--done", &token])?;
    ensure!(said.contains("stale_token"), "{said}");
    Ok(())
}

#[test]
fn a_session_goes_on_where_it_was_after_kill_nine() -> Result<()> {
    let mut node = Node::start()?;
    let http = filled(&node)?;
    let make = ["session", "create", "orders", "--lease-seconds", "1"];
    let session = bowline(&node, &make)?.trim().to_owned();
    let control = bowline(&node, &make)?.trim().to_owned();
    let acknowledged = bowline(&node, &["session", "read", &session, "-n", "10", "--ack"])?;
    let unsettled = http
        .post(&format!("/v1/sessions/{session}/batches"), &json!({ "limit": 5 }))?
        .json();
    http.post(&format!("/v1/sessions/{control}/batches"), &json!({ "limit": 10 }))?
        .expect(200)?;
    node.kill()?;
    node.start_again()?;
    let (mut seen, mut again) = (Vec::new(), None);
    while seen.len() < EVENTS - 10 {
        let asked = json!({ "limit": 7, "wait_ms": 20_000 });
        let batch = http
            .post(&format!("/v1/sessions/{session}/batches"), &asked)?
            .expect(200)?
            .json();
        if batch["batch"] == unsettled["batch"] {
            again = batch["attempt"].as_u64();
        }
        let token = batch["token"].as_str().context("a token")?;
        let path = format!("/v1/sessions/{session}/batches/{token}/ack");
        if http.post(&path, &json!({}))?.status == 204 {
            seen.extend(bodies(&batch));
        }
    }
    ensure!(
        again >= Some(2),
        "the batch that nobody settled came with attempt {again:?}"
    );
    let before: BTreeSet<String> = acknowledged.lines().map(str::to_owned).collect();
    let after: BTreeSet<String> = seen.iter().cloned().collect();
    ensure!(
        after.len() == seen.len(),
        "an event came twice after its acknowledgement: {seen:?}"
    );
    ensure!(before.is_disjoint(&after), "an acknowledged event came again");
    ensure!(before.union(&after).count() == EVENTS, "an event was lost");
    // The control: a session that acknowledged nothing gets its first batch again, as soon as its lease is over.
    let asked = json!({ "limit": 1, "wait_ms": 20_000 });
    let first_again = || {
        let batch = http.post(&format!("/v1/sessions/{control}/batches"), &asked).ok()?;
        (bodies(&batch.json()) == all_events()[..10]).then_some(())
    };
    patience::until(SEEN_MAX, first_again).context("the first batch does not come again")?;
    bowline(&node, &["session", "rm", &session])?;
    let said = refused(&node, &["session", "show", &session])?;
    ensure!(said.contains("no_such_session"), "{said}");
    Ok(())
}

#[test]
fn objects_survive_kill_nine_with_their_versions_and_keys() -> Result<()> {
    let mut node = Node::start()?;
    let create = |body: &str, key: &str, node: &Node| -> Result<String> {
        let index = format!("by-name={key}");
        Ok(bowline(node, &["object", "create", body, "--index", &index])?
            .trim()
            .to_owned())
    };
    let (kept, gone) = (create("first", "ada", &node)?, create("other", "ada", &node)?);
    bowline(&node, &["object", "update", &kept, "second", "--if-version", "1"])?;
    bowline(&node, &["object", "rm", &gone])?;
    node.kill()?;
    node.start_again()?;
    ensure!(bowline(&node, &["object", "get", &kept])? == "second\n");
    let found = bowline(&node, &["object", "find", "by-name", "ada", "--json"])?;
    let found: Value = serde_json::from_str(&found)?;
    ensure!(
        found["objects"] == json!([{ "key": "ada", "object": kept, "version": 2 }]),
        "{found}"
    );
    let said = refused(&node, &["object", "update", &kept, "third", "--if-version", "1"])?;
    ensure!(
        said.contains("object has version `2`") && said.contains("`bowline object get ID`"),
        "{said}"
    );
    let said = refused(&node, &["object", "get", &gone])?;
    ensure!(said.contains("no_such_object"), "{said}");
    ensure!(bowline(&node, &["object", "events", &gone])?.contains("delete"));
    let stores: Value = serde_json::from_str(&bowline(&node, &["stores", "status", "--json"])?)?;
    ensure!(stores["stores"].as_array().map(Vec::len) == Some(2), "{stores}");
    Ok(())
}

#[test]
fn a_stream_is_changed_and_deleted_by_the_command_line() -> Result<()> {
    let mut node = Node::start()?;
    let http = filled(&node)?;
    let set = ["stream", "set", "orders", "--bytes-max", "100000", "--chains-max", "6"];
    bowline(&node, &set)?;
    bowline(
        &node,
        &[
            "stream",
            "set",
            "orders",
            "--bytes-max",
            "none",
            "--age-max-seconds",
            "3600",
        ],
    )?;
    node.kill()?;
    node.start_again()?;
    let shown: Value = serde_json::from_str(&bowline(&node, &["stream", "show", "orders", "--json"])?)?;
    ensure!(
        shown["retention"] == json!({ "age_max_ms": 3_600_000 }) && shown["chains_max"] == 6,
        "{shown}"
    );
    http.deploy("hello", &Artifact::command()?, json!({}))?;
    let mapping = json!({
        "FunctionName": "hello",
        "EventSourceArn": "arn:aws:kinesis:us-east-1:000000000000:stream/orders",
        "StartingPosition": "LATEST",
    });
    let mapping = http
        .post("/2015-03-31/event-source-mappings", &mapping)?
        .expect(202)?
        .json();
    let id = mapping["UUID"].as_str().context("an id")?;
    let said = refused(&node, &["stream", "rm", "orders"])?;
    ensure!(said.contains("stream_in_use") && said.contains(id), "{said}");
    http.delete(&format!("/2015-03-31/event-source-mappings/{id}"))?
        .expect(202)?;
    let session = bowline(&node, &["session", "create", "orders"])?.trim().to_owned();
    bowline(&node, &["stream", "rm", "orders"])?;
    for _before_and_after_a_kill in 0..2 {
        let said = refused(&node, &["stream", "read", "orders"])?;
        ensure!(said.contains("no_such_stream"), "{said}");
        let said = refused(&node, &["session", "read", &session])?;
        ensure!(said.contains("no_such_session"), "{said}");
        node.kill()?;
        node.start_again()?;
    }
    bowline(&node, &["stream", "create", "orders"])?;
    bowline(&node, &["stream", "append", "orders", "anew"])?;
    seen(&http, "anew")?;
    ensure!(bowline(&node, &["stream", "read", "orders"])? == "anew\n");
    let said = refused(&node, &["stream", "rm", "bowline.audit"])?;
    ensure!(said.contains("reserved_name"), "{said}");
    Ok(())
}
