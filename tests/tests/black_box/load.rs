//! Load with deaths: many clients of many functions, whose sandboxes are killed at random meanwhile.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{Cursor, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bowline_foundation::clock::Clock;
use bowline_foundation::entropy::Entropy;
use bowline_tests::artifact::zip_of;
use bowline_tests::node::binary;
use bowline_tests::{Artifact, Lambda, Node, Reply, patience};
use serde_json::json;

use crate::traces::{self, Traces};

const CLIENTS: usize = 500;
const FUNCTIONS: usize = 50;
/// One function in so many is of Python, whose sandboxes come from the pool; the others are native programs.
const PYTHON_EVERY: usize = 25;
/// What many systems let a process open unless it asks for more.
const DESCRIPTORS: u32 = 1024;
/// How long nothing is killed: then nothing may fail.
const CALM: Duration = Duration::from_secs(10);
const STORM: Duration = Duration::from_secs(50);
const BETWEEN_KILLS: Duration = Duration::from_millis(250);
const KILLS_AT_ONCE: usize = 5;
const PYTHON: &[u8] = b"def handler(event, context):\n    return event['name']\n";
/// The spawner and the pool: two cells for Python with two processes each, and two for programs with one each.
const PROCESSES_AT_REST: usize = 7;
const ACCOUNT: &str = "000000000000";
const SEED: u64 = 50_500;
/// How long it may take until what was used is given back: cells that wait are one too many once nobody has taken any for a
/// minute, and end when they have waited for one.
const SETTLED_MAX: Duration = Duration::from_secs(180);
/// The clients' threads only wait.
const STACK_BYTES: usize = 256 * 1024;

/// What clients were told.
#[derive(Default)]
struct Told {
    succeeded: usize,
    /// The function's process was killed, as its error says.
    killed: usize,
    /// The platform could not make or reach a sandbox.
    refused: usize,
    /// The requests' identifiers, each of one answer.
    ids: BTreeSet<String>,
}

impl Told {
    fn failed(&self) -> usize {
        self.killed + self.refused
    }

    /// Takes an answer; an error if it is not one that this request may get.
    fn take(&mut self, token: &str, reply: &Reply) -> Result<()> {
        let id = reply.header("x-amzn-requestid").to_owned();
        let body = String::from_utf8_lossy(&reply.body);
        match (reply.status, reply.header("x-amz-function-error")) {
            (200, "") if body.contains(token) => self.succeeded += 1,
            (200, "Unhandled") if died(reply, &id) => self.killed += 1,
            (500, _) if reply.error() == "ServiceException" => self.refused += 1,
            (status, error) => bail!("{token} was answered by {status} {error} {}: {body}", reply.error()),
        }
        ensure!(!id.is_empty() && self.ids.insert(id), "an identifier came twice");
        Ok(())
    }

    fn add(&mut self, other: Self) -> Result<()> {
        self.succeeded += other.succeeded;
        self.killed += other.killed;
        self.refused += other.refused;
        let expected = self.ids.len() + other.ids.len();
        self.ids.extend(other.ids);
        ensure!(self.ids.len() == expected, "two clients got the same answer");
        Ok(())
    }
}

impl fmt::Debug for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            succeeded,
            killed,
            refused,
            ..
        } = self;
        write!(
            f,
            "{succeeded} succeeded, {killed} were killed, {refused} had no sandbox"
        )
    }
}

/// Whether an error is that of a function that was killed, during the request or while it initialised.
fn died(reply: &Reply, id: &str) -> bool {
    let error = reply.json();
    let message = error["errorMessage"].as_str().unwrap_or_default();
    let is_own = message.starts_with("Error: ") || message.starts_with(&format!("RequestId: {id} "));
    error["errorType"] == "Runtime.ExitError" && message.ends_with("signal: killed") && is_own
}

/// What the functions are made of.
struct Programs {
    native: Vec<u8>,
    python: Artifact,
}

impl Programs {
    fn build() -> Result<Self> {
        let mut native = Vec::new();
        let mut archive = zip::ZipArchive::new(Cursor::new(Artifact::native()?.code))?;
        archive.by_name("bootstrap")?.read_to_end(&mut native)?;
        Ok(Self {
            native,
            python: Artifact::python_source(PYTHON)?,
        })
    }

    /// A package that no other function has.
    fn package(&self, number: usize) -> Result<Artifact> {
        let mark = number.to_string();
        let mark = ("number", mark.as_bytes());
        if number.is_multiple_of(PYTHON_EVERY) {
            return Ok(Artifact {
                code: zip_of(&[("app.py", PYTHON), mark])?,
                ..self.python.clone()
            });
        }
        Ok(Artifact::provided(zip_of(&[("bootstrap", &self.native), mark])?))
    }

    fn deploy(&self, lambda: &Lambda, number: usize) -> Result<String> {
        let name = format!("loaded-{number}");
        lambda.deploy(&name, &self.package(number)?, json!({"MemorySize": 128}))?;
        Ok(name)
    }
}

/// All clients ask, each its own function, until it is over.
fn ask(node: &Node, names: &[String], meanwhile: impl FnOnce() -> Result<()>) -> Result<Told> {
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let over = &is_over;
        let clients = (0..CLIENTS).map(|client| {
            let work = move || one_client(node, &names[client % names.len()], client, over);
            let thread = thread::Builder::new().stack_size(STACK_BYTES);
            thread.spawn_scoped(scope, work).context("cannot start a client")
        });
        let clients: Result<Vec<_>> = clients.collect();
        let over = Over(&is_over);
        let done = if clients.is_ok() { meanwhile() } else { Ok(()) };
        drop(over);
        let mut told = Told::default();
        for client in clients? {
            told.add(client.join().expect("a client does not panic")?)?;
        }
        done.map(|()| told)
    })
}

/// Ends the clients, also when what runs beside them panics.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

fn one_client(node: &Node, function: &str, client: usize, is_over: &AtomicBool) -> Result<Told> {
    // A connection of its own.
    let lambda = node.lambda();
    let (mut told, mut number) = (Told::default(), 0);
    while !is_over.load(Ordering::Acquire) {
        let token = format!("client-{client}-{number}.");
        let reply = lambda.invoke(function, &json!({"name": token}))?;
        told.take(&token, &reply)?;
        number += 1;
    }
    Ok(told)
}

/// Kills sandboxes' processes, seeded, for a while; returns how many.
fn kill_for(node: &Node, time: Duration) -> Result<usize> {
    let (clock, entropy) = (Clock::system(), Entropy::seeded(SEED));
    let (begin, mut killed) = (clock.monotonic(), 0);
    while clock.monotonic().since(begin) < time {
        let processes = traces::sandbox_processes(node)?;
        ensure!(!processes.is_empty(), "there is no sandbox under load");
        let drawn = (0..KILLS_AT_ONCE).map(|_| processes[entropy.number() as usize % processes.len()]);
        killed += drawn.filter(|process| traces::kill(*process)).count();
        patience::rest(BETWEEN_KILLS);
    }
    Ok(killed)
}

/// Waits until a node has nothing that it had not before.
fn wait_until_nothing_is_left(node: &Node, before: &Traces) -> Result<()> {
    let mut more = None;
    let settled = patience::until(SETTLED_MAX, || {
        more = Traces::of(node).ok()?.beyond(before);
        more.is_none().then_some(())
    });
    settled.with_context(|| format!("after {SETTLED_MAX:?} there are still {more:?}"))
}

/// The node's program, begun as a careless system would.
fn careless(folder: &Path) -> Result<PathBuf> {
    let script = folder.join("bowline");
    let program = binary()?;
    let text = format!(
        "#!/bin/sh\nulimit -S -n {DESCRIPTORS}\nexec '{}' \"$@\"\n",
        program.display()
    );
    std::fs::write(&script, text)?;
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))?;
    Ok(script)
}

#[test]
fn every_request_has_one_answer_and_nothing_is_left_though_sandboxes_are_killed() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut node = Node::start_program(&careless(folder.path())?)?;
    let lambda = node.lambda();
    let programs = Programs::build()?;
    // Whatever is made once and kept is made before the first look.
    for number in [0, 1] {
        let name = programs.deploy(&lambda, number)?;
        lambda.invoke(&name, &json!({"name": "first"}))?.expect(200)?;
        let log = node.data().join("logs").join(ACCOUNT).join(format!("{name}.log"));
        patience::until(SETTLED_MAX, || log.exists().then_some(())).context("the function has no log")?;
        lambda.delete(&format!("/2015-03-31/functions/{name}"))?.expect(200)?;
    }
    let at_rest = || {
        Traces::of(&node)
            .ok()
            .filter(|traces| traces.processes == PROCESSES_AT_REST)
    };
    let before = patience::until(SETTLED_MAX, at_rest).context("the node does not come to rest")?;

    let deployed = (0..FUNCTIONS).map(|number| programs.deploy(&lambda, number));
    let names: Vec<String> = deployed.collect::<Result<_>>()?;
    let calm = ask(&node, &names, || {
        patience::rest(CALM);
        Ok(())
    })?;
    println!("while nothing was killed: {calm:?}");
    ensure!(calm.failed() == 0 && calm.succeeded > CLIENTS, "control: {calm:?}");
    let loaded = Traces::of(&node)?;
    ensure!(loaded.beyond(&before).is_some(), "control: the load is seen");

    let mut kills = 0;
    let storm = ask(&node, &names, || {
        kills = kill_for(&node, STORM)?;
        Ok(())
    })?;
    println!("while {kills} processes were killed: {storm:?}");
    ensure!(storm.killed > 0, "control: no kill was felt");
    ensure!(
        storm.failed() <= kills,
        "one death fails one request: {kills} kills, {storm:?}"
    );

    for name in &names {
        lambda.delete(&format!("/2015-03-31/functions/{name}"))?.expect(200)?;
    }
    wait_until_nothing_is_left(&node, &before)?;
    let (data, spawner) = (node.data(), traces::spawner_of(&node)?);
    node.terminate()?;
    ensure!(node.wait_for_end()?.success(), "a clean stop failed:\n{}", node.log());
    traces::check_nothing_is_left(&data, spawner)
}
