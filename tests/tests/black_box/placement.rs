//! Nodes of a cluster run invocations for each other: where they run, and what happens when a node dies, stands
//! still or is restarted. Each with the nodes left to themselves as the control.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bowline_foundation::clock::{Clock, Monotonic};
use bowline_test_postgres::Server;
use bowline_tests::node::{Settings, binary};
use bowline_tests::{Artifact, Lambda, Node, Reply, patience, place, skip};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::crash::encoded;
use crate::crowd::{LEASE_SECONDS, has_postgres};

/// How long things may take to come right.
const RIGHT_MAX: Duration = Duration::from_secs(60);
/// How long accepted events may take after a death.
const WORKED_OFF_MAX: Duration = Duration::from_secs(150);
/// How long a call may take while a node is dead or stands still: what is waited for it, and a cold start.
const CALL_MAX: Duration = Duration::from_secs(20);
const NODES: usize = 3;
const OUTCOMES: &str = "outcomes";

/// Nodes on one database.
pub struct Cluster {
    pub nodes: Vec<Node>,
    pub server: Server,
    pub shared: TempDir,
}

impl Cluster {
    /// Starts the nodes, and waits until they know each other.
    pub fn start(placement: &str) -> Result<Self> {
        Self::start_with(placement, |_| Settings::default())
    }

    /// The same with settings of each node's own.
    pub fn start_with(placement: &str, own: impl Fn(usize) -> Settings) -> Result<Self> {
        let (server, shared) = (Server::start()?, tempfile::tempdir()?);
        let member = |index| {
            let mut settings = own(index);
            let own = std::mem::take(&mut settings.environment);
            settings.environment.extend([
                ("BOWLINE_STORE".into(), server.url().into()),
                ("BOWLINE_BLOBS".into(), shared.path().into()),
                ("BOWLINE_LEASE_SECONDS".into(), LEASE_SECONDS.to_string().into()),
                ("BOWLINE_PLACEMENT".into(), placement.into()),
            ]);
            settings.environment.extend(own);
            Node::start_with(settings)
        };
        let cluster = Self {
            nodes: (0..NODES).map(member).collect::<Result<_>>()?,
            server,
            shared,
        };
        cluster.know_each_other()?;
        Ok(cluster)
    }

    /// Waits until each node knows all others.
    pub fn know_each_other(&self) -> Result<()> {
        self.nodes.iter().try_for_each(|node| knows(node, NODES))
    }

    /// Creates a function and waits until every node has it.
    pub fn deploy(&self, name: &str, artifact: &Artifact, settings: Value) -> Result<()> {
        self.nodes[0].lambda().deploy(name, artifact, settings)?;
        for node in &self.nodes {
            let lambda = node.lambda();
            let path = format!("/2015-03-31/functions/{name}");
            let seen = patience::until(RIGHT_MAX, || lambda.get(&path).ok().filter(|reply| reply.status == 200));
            seen.context("a node does not see the function")?;
            lambda.wait_until_active(name)?;
        }
        Ok(())
    }

    /// Which of the nodes holds the function warm, as the first one sees it.
    fn holder(&self, name: &str) -> Result<usize> {
        let found = patience::until(RIGHT_MAX, || {
            let id = listed(&self.nodes[0])
                .ok()?
                .into_iter()
                .find(|node| holds(node, name))?["id"]
                .clone();
            self.nodes
                .iter()
                .position(|node| own(node).is_ok_and(|own| own["id"] == id))
        });
        found.context("nobody holds it warm")
    }
}

fn listed(node: &Node) -> Result<Vec<Value>> {
    let page = node.lambda().get("/v1/nodes")?.expect(200)?.json();
    page["items"].as_array().cloned().context("no items")
}

pub fn own(node: &Node) -> Result<Value> {
    listed(node)?
        .into_iter()
        .find(|node| node["here"] == true)
        .context("it does not list itself")
}

fn holds(node: &Value, function: &str) -> bool {
    let warm = node["warm"].as_array().into_iter().flatten();
    warm.into_iter().any(|held| held["function"] == function)
}

/// Waits until the node sees so many that are ready, itself included.
fn knows(node: &Node, count: usize) -> Result<()> {
    let ready = |nodes: Vec<Value>| nodes.iter().filter(|node| node["state"] == "ready").count();
    let known = patience::until(RIGHT_MAX, || (ready(listed(node).ok()?) == count).then_some(()));
    known.with_context(|| format!("a node does not know {count}: {:?}\n{}", listed(node), node.log()))
}

/// The sum of a counter over the nodes.
fn sum(nodes: &[Node], counter: &str) -> Result<u64> {
    let mut sum = 0;
    for node in nodes {
        let text = String::from_utf8(node.lambda().get("/metrics")?.expect(200)?.body)?;
        let lines = text.lines().filter(|line| line.starts_with(counter));
        sum += lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .sum::<u64>();
    }
    Ok(sum)
}

fn was_forwarded(reply: &Reply) -> bool {
    !reply.header("x-bowline-node").is_empty()
}

/// Calls a function thirty times, each node in turn; how many calls were forwarded, and the highest count that
/// one sandbox has come to.
fn call_in_turns(cluster: &Cluster) -> Result<(usize, u64)> {
    let (mut forwarded, mut served_max) = (0, 0);
    for number in 0..30 {
        let reply = cluster.nodes[number % NODES]
            .lambda()
            .invoke("hello", &json!({"name": "ada"}))?
            .expect(200)?;
        let answer = reply.json();
        ensure!(answer["message"] == "hello, ada", "{answer}");
        ensure!(
            !reply.header("x-amz-log-result").is_empty(),
            "the log's tail is missing"
        );
        ensure!(reply.header("x-amz-executed-version") == "$LATEST");
        forwarded += usize::from(was_forwarded(&reply));
        served_max = served_max.max(answer["served"].as_u64().context("no count")?);
    }
    Ok((forwarded, served_max))
}

#[test]
fn calls_to_any_node_find_the_one_warm_sandbox() -> Result<()> {
    if !has_postgres() {
        return Ok(());
    }
    let cluster = Cluster::start("cluster")?;
    cluster.deploy("hello", &Artifact::reactor()?, json!({}))?;
    let (forwarded, served_max) = call_in_turns(&cluster)?;
    ensure!(
        served_max == 30,
        "one sandbox serves all calls, here at most {served_max}"
    );
    ensure!(
        forwarded == 20,
        "two of three nodes have no sandbox: {forwarded} were forwarded"
    );
    ensure!(sum(&cluster.nodes, "bowline_cold_starts_total")? == 1);
    ensure!(
        sum(&cluster.nodes, "bowline_invocations_total")? == 30,
        "each is counted once"
    );
    ensure!(sum(&cluster.nodes, "bowline_invocations_forwarded_total")? == forwarded as u64);
    ensure!(sum(&cluster.nodes, "bowline_invocations_received_total")? == forwarded as u64);
    let failed = cluster.nodes[1]
        .lambda()
        .invoke("hello", &json!({"name": ""}))?
        .expect(200)?;
    ensure!(
        failed.header("x-amz-function-error") == "Unhandled",
        "{}",
        failed.json()
    );
    let unread = cluster.nodes[1]
        .lambda()
        .send("POST", "/2015-03-31/functions/hello/invocations", &[], b"no JSON")?;
    ensure!(unread.error() == "InvalidRequestContentException", "{}", unread.error());
    shown(&cluster)?;

    let control = Cluster::start("node")?;
    control.deploy("hello", &Artifact::reactor()?, json!({}))?;
    let (forwarded, served_max) = call_in_turns(&control)?;
    ensure!((forwarded, served_max) == (0, 10), "control: {forwarded}, {served_max}");
    ensure!(sum(&control.nodes, "bowline_cold_starts_total")? == NODES as u64);
    Ok(())
}

/// The command line and the API tell who holds what.
fn shown(cluster: &Cluster) -> Result<()> {
    cluster.holder("hello")?;
    // Each node hears from the others what they hold, a moment later than they know it.
    let tells = || {
        let listed = listed_by_command(&cluster.nodes[1]).ok()?;
        (listed.iter().filter(|node| holds(node, "hello")).count() == 1).then_some(listed)
    };
    let listed = patience::until(RIGHT_MAX, tells)
        .with_context(|| format!("one should hold it: {:?}", listed_by_command(&cluster.nodes[1])))?;
    let ids: BTreeSet<u64> = listed.iter().filter_map(|node| node["id"].as_u64()).collect();
    ensure!(ids.len() == NODES && listed[0]["here"] == true, "{listed:?}");
    Ok(())
}

/// What `nodes ls` tells, asking this node.
fn listed_by_command(node: &Node) -> Result<Vec<Value>> {
    let output = Command::new(binary()?)
        .args(["--json", "nodes", "ls", "--endpoint", &node.endpoint()])
        .output()?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`nodes ls`: {told}");
    let listed: Value = serde_json::from_slice(&output.stdout).context("no JSON")?;
    listed["nodes"].as_array().cloned().context("no nodes")
}

#[test]
fn a_streamed_answer_and_a_new_version_come_from_another_node() -> Result<()> {
    if !has_postgres() {
        return Ok(());
    }
    let cluster = Cluster::start("cluster")?;
    cluster.deploy("said", &Artifact::answering("\"one\"")?, json!({}))?;
    let path = "/2021-11-15/functions/said/response-streaming-invocations";
    let mut forwarded = 0;
    for node in &cluster.nodes {
        let reply = node.lambda().send("POST", path, &[], b"{}")?.expect(200)?;
        let text = String::from_utf8_lossy(&reply.body).into_owned();
        ensure!(text.contains("\"one\"") && text.contains("InvokeComplete"), "{text:?}");
        forwarded += usize::from(was_forwarded(&reply));
    }
    ensure!(forwarded == NODES - 1, "{forwarded} were forwarded");

    // Who has just changed the code gets the new one, although the others do not know of it yet.
    for round in 0..6 {
        let lambda = cluster.nodes[round % NODES].lambda();
        let text = format!("\"round {round}\"");
        let code = json!({ "ZipFile": encoded(&Artifact::answering(&text)?.code) });
        // A node that has not seen the last change yet refuses another one.
        let changed = || {
            let reply = lambda.put("/2015-03-31/functions/said/code", &code).ok()?;
            (reply.status == 200).then_some(())
        };
        patience::until(RIGHT_MAX, changed).context("the code cannot be changed")?;
        lambda.wait_until_active("said")?;
        let answer = lambda.invoke("said", &json!({}))?.expect(200)?.json();
        ensure!(answer == format!("round {round}").as_str(), "{answer} in round {round}");
    }
    Ok(())
}

/// A function that takes its time, and tells a stream of every event that it has worked off.
fn deploy_slow(cluster: &Cluster) -> Result<()> {
    let lambda = cluster.nodes[0].lambda();
    lambda.post("/v1/streams", &json!({"name": OUTCOMES}))?.expect(201)?;
    cluster.deploy("slow", &Artifact::python()?, json!({}))?;
    let arn = format!("arn:bowline:stream:us-east-1:000000000000:{OUTCOMES}");
    let settings = json!({ "DestinationConfig": { "OnSuccess": { "Destination": arn } } });
    let path = "/2019-09-25/functions/slow/event-invoke-config";
    lambda.put(path, &settings)?.expect(200)?;
    // A node that has not seen it yet works events off and tells nobody.
    for node in &cluster.nodes {
        let lambda = node.lambda();
        let seen = patience::until(RIGHT_MAX, || lambda.get(path).ok().filter(|reply| reply.status == 200));
        seen.context("a node does not see the destination")?;
    }
    Ok(())
}

fn event() -> Value {
    json!({"do": "sleep", "seconds": 0.05})
}

/// Leaves an event with a node, as often as it takes until one is accepted; its number.
fn leave(lambda: &Lambda) -> Option<String> {
    let path = "/2015-03-31/functions/slow/invocations";
    let body = event().to_string();
    patience::until(RIGHT_MAX, || {
        let reply = lambda
            .send("POST", path, &[("x-amz-invocation-type", "Event")], body.as_bytes())
            .ok()?;
        (reply.status == 202).then(|| reply.header("x-amzn-requestid").to_owned())
    })
}

/// Waits until every accepted event has been worked off.
fn all_are_worked_off(node: &Node, accepted: &BTreeSet<String>) -> Result<()> {
    let path = format!("/v1/streams/{OUTCOMES}/events?from=oldest&limit=1000");
    let left = || -> Option<BTreeSet<String>> {
        let page = node.lambda().get(&path).ok()?.json();
        let events = page["events"].as_array()?;
        let done: BTreeSet<String> = events
            .iter()
            .filter_map(|event| serde_json::from_str::<Value>(event["body"].as_str()?).ok())
            .filter_map(|record| Some(record["requestContext"]["requestId"].as_str()?.to_owned()))
            .collect();
        Some(accepted.difference(&done).cloned().collect())
    };
    let (clock, begin) = now();
    let done = patience::until(WORKED_OFF_MAX, || left()?.is_empty().then_some(()));
    eprintln!("worked off after {:?}", clock.monotonic().since(begin));
    done.with_context(|| format!("accepted and not worked off: {:?} of {}", left(), accepted.len()))
}

fn now() -> (Clock, Monotonic) {
    let clock = Clock::system();
    let begin = clock.monotonic();
    (clock, begin)
}

/// What callers were told, by status and error.
#[derive(Default)]
struct Told {
    answers: BTreeMap<String, usize>,
    forwarded: usize,
    longest: Duration,
}

/// Calls through a node until told to stop.
fn call_until(node: &Node, stop: &AtomicBool, answered: &AtomicUsize) -> Told {
    let (lambda, mut told) = (node.lambda(), Told::default());
    while !stop.load(Ordering::Relaxed) {
        let (clock, begin) = now();
        let key = match lambda.invoke("slow", &event()) {
            Ok(reply) => {
                told.forwarded += usize::from(was_forwarded(&reply));
                format!("{} {}", reply.status, reply.error())
            }
            Err(error) => format!("{error:#}"),
        };
        *told.answers.entry(key).or_default() += 1;
        told.longest = told.longest.max(clock.monotonic().since(begin));
        answered.fetch_add(1, Ordering::Relaxed);
    }
    told
}

/// Has two callers at each of the nodes while `meanwhile` runs; it is told how many answers there were so far.
fn under_load(nodes: &[&Node], meanwhile: impl FnOnce(&AtomicUsize) -> Result<()>) -> Result<Vec<Told>> {
    let (stop, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let callers: Vec<_> = (nodes.iter().chain(nodes))
            .map(|node| scope.spawn(|| call_until(node, &stop, &answered)))
            .collect();
        let done = meanwhile(&answered);
        stop.store(true, Ordering::Relaxed);
        let told = callers
            .into_iter()
            .map(|caller| caller.join().expect("callers do not panic"));
        let told = told.collect();
        done.map(|()| told)
    })
}

fn wait_for(answered: &AtomicUsize, more: usize) -> Result<()> {
    let goal = answered.load(Ordering::Relaxed) + more;
    let reached = || (answered.load(Ordering::Relaxed) >= goal).then_some(());
    patience::until(RIGHT_MAX, reached).context("the callers get no more answers")
}

/// Only answers and what callers try again; how many of the latter.
fn retryable(told: &[Told]) -> Result<usize> {
    let mut count = 0;
    for told in told {
        for (answer, times) in &told.answers {
            match answer.as_str() {
                "200 " => {}
                "503 ServiceException" => count += times,
                other => anyhow::bail!("{times} callers were told `{other}`"),
            }
        }
        ensure!(told.longest < CALL_MAX, "a call took {:?}", told.longest);
    }
    Ok(count)
}

#[test]
fn a_node_killed_under_load_costs_retryable_errors_and_no_accepted_event() -> Result<()> {
    if !has_postgres() || !place::is_installed("python3") {
        skip("there is no PostgreSQL or no python3");
        return Ok(());
    }
    for placement in ["cluster", "node"] {
        let mut cluster = Cluster::start(placement)?;
        deploy_slow(&cluster)?;
        cluster.nodes[1].lambda().invoke("slow", &event())?.expect(200)?;
        let mut victim = {
            let at = cluster.holder("slow")?;
            cluster.nodes.remove(at)
        };
        let mut accepted: BTreeSet<String> = (0..20).filter_map(|_| leave(&victim.lambda())).collect();
        let told = under_load(&cluster.nodes.iter().collect::<Vec<_>>(), |answered| {
            wait_for(answered, 20)?;
            victim.kill()?;
            accepted.extend((0..20).filter_map(|_| leave(&cluster.nodes[0].lambda())));
            wait_for(answered, 40)
        })?;
        let (errors, forwarded) = (retryable(&told)?, told.iter().map(|told| told.forwarded).sum::<usize>());
        // Two callers at each of two nodes: so many calls can be at the victim at most.
        ensure!(errors <= 4, "{errors} errors");
        ensure!(accepted.len() == 40, "{} events were accepted", accepted.len());
        all_are_worked_off(&cluster.nodes[0], &accepted)?;
        if placement == "cluster" {
            ensure!(forwarded > 0, "nothing was forwarded, so the test says nothing");
        } else {
            ensure!((errors, forwarded) == (0, 0), "control: {errors}, {forwarded}");
        }
    }
    Ok(())
}

#[test]
fn a_node_that_stands_still_is_waited_for_a_moment_only() -> Result<()> {
    if !has_postgres() {
        return Ok(());
    }
    let cluster = Cluster::start("cluster")?;
    cluster.deploy("hello", &Artifact::reactor()?, json!({}))?;
    cluster.nodes[1].lambda().invoke("hello", &json!({}))?.expect(200)?;
    let holder = cluster.holder("hello")?;
    let other = &cluster.nodes[(holder + 1) % NODES];
    let before = other.lambda().invoke("hello", &json!({}))?.expect(200)?;
    ensure!(
        was_forwarded(&before),
        "control: it goes to the holder as long as that runs"
    );

    cluster.nodes[holder].freeze()?;
    let (clock, begin) = now();
    let mut answers = Vec::new();
    for _ in 0..5 {
        answers.push(other.lambda().invoke("hello", &json!({}))?.expect(200)?.json());
    }
    let took = clock.monotonic().since(begin);
    cluster.nodes[holder].thaw()?;
    ensure!(took < Duration::from_secs(10), "five calls took {took:?}");
    ensure!(
        sum(std::slice::from_ref(other), "bowline_invocation_fallbacks_total")? > 0,
        "nothing fell back"
    );
    // What the frozen node was asked and not told to do it has not done: its sandbox has served two calls.
    let own = cluster.nodes[holder]
        .lambda()
        .invoke("hello", &json!({}))?
        .expect(200)?;
    if !was_forwarded(&own) {
        ensure!(own.json()["served"] == 3, "{} after {answers:?}", own.json());
    }
    knows(other, NODES)
}

#[test]
fn a_rolling_restart_loses_no_accepted_event_and_no_call() -> Result<()> {
    if !has_postgres() || !place::is_installed("python3") {
        skip("there is no PostgreSQL or no python3");
        return Ok(());
    }
    let mut cluster = Cluster::start("cluster")?;
    deploy_slow(&cluster)?;
    let mut accepted = BTreeSet::new();
    let mut told = Vec::new();
    for turn in 0..NODES {
        let mut leaving = cluster.nodes.remove(0);
        accepted.extend((0..10).filter_map(|_| leave(&leaving.lambda())));
        told.extend(under_load(&cluster.nodes.iter().collect::<Vec<_>>(), |answered| {
            wait_for(answered, 10)?;
            leaving.terminate()?;
            leaving.wait_for_end()?;
            wait_for(answered, 10)?;
            leaving.start_again()?;
            knows(&leaving, NODES)?;
            accepted.extend((0..5).filter_map(|_| leave(&leaving.lambda())));
            wait_for(answered, 10)
        })?);
        ensure!(
            accepted.len() == 15 * (turn + 1),
            "{} events were accepted",
            accepted.len()
        );
        cluster.nodes.push(leaving);
    }
    ensure!(
        retryable(&told)? == 0,
        "a node that is asked to stop ends what it runs for others"
    );
    ensure!(
        told.iter().any(|told| told.forwarded > 0),
        "control: nothing was forwarded"
    );
    all_are_worked_off(&cluster.nodes[0], &accepted)
}
