//! Several nodes on one database, clients that append through all of them while something goes wrong, and
//! readers that follow at all of them; what was acknowledged is then counted against what was read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bowline_test_postgres::is_installed;
use bowline_tests::node::Settings;
use bowline_tests::{Lambda, Node, patience, skip};
use serde_json::{Value, json};

/// How long a node of these tests may be silent, in seconds.
pub const LEASE_SECONDS: u64 = 2;
/// How long anything may take to come right again.
const PATIENCE: Duration = Duration::from_secs(60);
const EVENTS: &str = "/v1/streams/orders/events";

/// Whether there is a database to test with; says loudly if there is none.
pub fn has_postgres() -> bool {
    if !is_installed() {
        skip("there is no PostgreSQL");
    }
    is_installed()
}

/// A node that keeps its records in `url` and its packages in `blobs`.
pub fn member(url: &str, blobs: &Path) -> Result<Node> {
    Node::start_with(Settings {
        environment: vec![
            ("BOWLINE_STORE".into(), url.into()),
            ("BOWLINE_BLOBS".into(), blobs.into()),
            ("BOWLINE_LEASE_SECONDS".into(), LEASE_SECONDS.to_string().into()),
        ],
        ..Settings::default()
    })
}

/// Makes the stream; the chains are the node's.
pub fn create_stream(node: &Node) -> Result<()> {
    node.lambda()
        .post("/v1/streams", &json!({ "name": "orders" }))?
        .expect(201)?;
    Ok(())
}

/// What clients were told.
#[derive(Default)]
pub struct Told {
    /// The events that were acknowledged; each was sent until it was.
    pub acked: BTreeSet<String>,
    /// How often each refusal came, by its code.
    pub refusals: BTreeMap<String, usize>,
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} acknowledged, refused {:?}", self.acked.len(), self.refusals)
    }
}

impl Told {
    /// How often an append was refused.
    pub fn refused(&self) -> usize {
        self.refusals.values().sum()
    }
}

/// Sends one event with an identifier of its own until it is acknowledged.
fn append(lambda: &Lambda, name: &str, number: u128, told: &mut Told) -> Result<()> {
    let event = json!({ "events": [{ "id": format!("{number:032x}"), "body": name }] });
    let taken = patience::until(PATIENCE, || {
        let reply = match lambda.post(EVENTS, &event) {
            Ok(reply) => reply,
            Err(error) => return Some(Err(error)),
        };
        if reply.status == 200 || reply.status == 201 {
            return Some(Ok(()));
        }
        let problem = reply.json();
        if problem["retry"] != true {
            return Some(Err(anyhow::anyhow!("not retryable: {problem}")));
        }
        let code = problem["code"].as_str().unwrap_or("none").to_owned();
        *told.refusals.entry(code).or_default() += 1;
        None
    });
    taken.with_context(|| format!("event {name} was not taken within {PATIENCE:?}: {:?}", told.refusals))??;
    told.acked.insert(name.to_owned());
    Ok(())
}

/// Appends events through one node until it is over.
fn write(at: usize, lambda: &Lambda, is_over: &AtomicBool) -> Result<Told> {
    let (mut told, mut number) = (Told::default(), 0);
    while !is_over.load(Ordering::Acquire) {
        append(
            lambda,
            &format!("{at}-{number}"),
            (at as u128 + 1) << 32 | number,
            &mut told,
        )?;
        number += 1;
    }
    Ok(told)
}

/// One event through one node; how often it was refused before.
pub fn append_one(node: &Node, number: u128) -> Result<usize> {
    let mut told = Told::default();
    append(&node.lambda(), &format!("one-{number}"), number << 64, &mut told)?;
    Ok(told.refused())
}

/// Appends through each node while `trouble` goes on, and follows the stream at each; then every node must
/// show exactly what was acknowledged, once and in one order, and so must every follower have seen it.
/// Returns what the clients of each node were told.
pub fn append_during(nodes: &[&Node], trouble: impl FnOnce() -> Result<()>) -> Result<Vec<Told>> {
    let (is_over, is_read) = (AtomicBool::new(false), AtomicBool::new(false));
    let (told, followed) = std::thread::scope(|scope| {
        let (over, read) = (&is_over, &is_read);
        let begun = nodes.iter().enumerate().map(|(at, node)| {
            let (writing, following) = (node.lambda(), node.lambda());
            (
                scope.spawn(move || write(at, &writing, over)),
                scope.spawn(move || follow(&following, read)),
            )
        });
        let begun: Vec<_> = begun.collect();
        let ended = trouble();
        is_over.store(true, Ordering::Release);
        if ended.is_err() {
            is_read.store(true, Ordering::Release);
        }
        let (writers, followers): (Vec<_>, Vec<_>) = begun.into_iter().unzip();
        let told: Result<Vec<_>> = writers
            .into_iter()
            .map(|writer| writer.join().expect("no panic"))
            .collect();
        // What was acknowledged last is waited for by the followers too.
        let told = told.and_then(|told| settle(nodes, &told).map(|()| told));
        is_read.store(true, Ordering::Release);
        let followed: Result<Vec<_>> = followers
            .into_iter()
            .map(|follower| follower.join().expect("no panic"))
            .collect();
        ended?;
        Ok::<_, anyhow::Error>((told?, followed?))
    })?;
    let mut last = read_all(&nodes[0].lambda())?;
    last.retain(|body| !body.starts_with("one-"));
    for seen in &followed {
        let seen: Vec<_> = seen.iter().filter(|body| !body.starts_with("one-")).collect();
        ensure!(
            last.iter().take(seen.len()).eq(seen.iter().copied()),
            "a follower saw another order than there is"
        );
    }
    Ok(told)
}

/// Waits until every node shows all that was acknowledged; fails if anything is missing, doubled, or in
/// another order elsewhere.
fn settle(nodes: &[&Node], told: &[Told]) -> Result<()> {
    let acked: BTreeSet<&String> = told.iter().flat_map(|told| &told.acked).collect();
    let ours = |body: &String| !body.starts_with("one-");
    let mut first: Option<Vec<String>> = None;
    for node in nodes {
        let lambda = node.lambda();
        let mut last = Vec::new();
        let all = patience::until(PATIENCE, || {
            last = read_all(&lambda).unwrap_or_default();
            (last.iter().filter(|body| ours(body)).count() >= acked.len()).then_some(())
        });
        let read: Vec<String> = last.into_iter().filter(ours).collect();
        let there: BTreeSet<&String> = read.iter().collect();
        ensure!(
            there.len() == read.len(),
            "events are there twice at {}",
            node.endpoint()
        );
        let lost: Vec<_> = acked.difference(&there).collect();
        let strange: Vec<_> = there.difference(&acked).collect();
        ensure!(
            all.is_some() && lost.is_empty() && strange.is_empty(),
            "at {} are lost {lost:?}, and nobody appended {strange:?}",
            node.endpoint()
        );
        match &first {
            None => first = Some(read),
            Some(first) => ensure!(*first == read, "nodes disagree on the order"),
        }
    }
    Ok(())
}

fn page(lambda: &Lambda, from: &str, wait_ms: u64) -> Result<Option<(Vec<String>, Value)>> {
    let reply = lambda.get(&format!("{EVENTS}?from={from}&limit=1000&wait_ms={wait_ms}"))?;
    let page = reply.json();
    if reply.status != 200 {
        ensure!(page["retry"] == true, "not retryable: {page}");
        return Ok(None);
    }
    let events = page["events"].as_array().context("no events")?;
    let bodies = events
        .iter()
        .filter_map(|event| event["body"].as_str().map(str::to_owned));
    Ok(Some((bodies.collect(), page)))
}

/// The bodies of all events, in their order.
pub fn read_all(lambda: &Lambda) -> Result<Vec<String>> {
    let (mut from, mut bodies) = ("oldest".to_owned(), Vec::new());
    loop {
        let Some((found, page)) = page(lambda, &from, 0)? else {
            bail!("the stream cannot be read now");
        };
        bodies.extend(found);
        from = page["next"].as_str().context("no `next`")?.to_owned();
        if page["more"] != true {
            return Ok(bodies);
        }
    }
}

/// Follows the stream until told to stop and nothing more is there; what came, in its order.
fn follow(lambda: &Lambda, is_read: &AtomicBool) -> Result<Vec<String>> {
    let (mut from, mut bodies) = ("oldest".to_owned(), Vec::new());
    loop {
        let stop = is_read.load(Ordering::Acquire);
        match page(lambda, &from, 100)? {
            Some((found, page)) => {
                let is_end = found.is_empty();
                bodies.extend(found);
                from = page["next"].as_str().context("no `next`")?.to_owned();
                if stop && is_end {
                    return Ok(bodies);
                }
            }
            None if stop => bail!("the stream cannot be read to its end"),
            None => patience::rest(Duration::from_millis(50)),
        }
    }
}
