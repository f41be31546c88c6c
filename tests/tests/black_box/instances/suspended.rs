//! Native invocations that are suspended with the virtual machine around them: each ends once, with the right answer.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bowline_foundation::entropy::Entropy;
use bowline_test_postgres::Server;
use bowline_tests::lambda::Reply;
use bowline_tests::node::Settings;
use bowline_tests::{Artifact, Lambda, patience};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::machines::{data, node_on, qemu, well};
use super::{Fleet, Ground, leftovers, runs, signal};
use crate::crowd::{LEASE_SECONDS, has_postgres};

/// Translated Python begins slowly, and more so on a busy machine.
const LONG: Duration = Duration::from_secs(240);
/// Enough that a test can get hold of the function while it runs in a translated machine; in the node it takes no second.
const ROUNDS: u64 = 300_000;

/// A chain of hashes, and one that waits.
const HASHES: &[u8] = b"import hashlib, os, time
def handler(event, context):
    value = b'bowline'
    for number in range(event.get('rounds', 0)):
        value = hashlib.sha256(value + number.to_bytes(8, 'little')).digest()
        if number % 10000 == 0:
            print('at', number, flush=True)
    for second in range(event.get('seconds', 0)):
        print(event['name'], 'waits', second, flush=True)
        time.sleep(1)
    return {'hash': value.hex(), 'kernel': os.uname().release}
";

/// The instance `shop`, a virtual machine, and the function `hashes` on it.
struct Stage {
    fleet: Fleet,
    lambda: Lambda,
    machine: u32,
    /// What an uninterrupted run in the node itself answers.
    expected: Value,
}

impl Stage {
    fn set(node: &Ground) -> Result<Self> {
        Self::set_with(node, "")
    }

    /// The same with `rest` in the instance's file.
    fn set_with(node: &Ground, rest: &str) -> Result<Self> {
        let fleet = Fleet::of(node);
        let lambda = fleet.lambda.clone();
        let code = Artifact::python_source(HASHES)?;
        lambda.deploy("plain", &code, json!({"Timeout": 60}))?;
        let expected = well(lambda.invoke("plain", &json!({"rounds": ROUNDS}))?)?;
        let file = format!("id = \"shop\"\nkind = \"vm\"\n[resources]\nmemory_mib = 768\n{rest}");
        fleet.make("shop", &file)?;
        let machine = qemu(&fleet.running("shop")?)?;
        let settings = json!({
            "Timeout": 900, "MemorySize": 192, "Environment": {"Variables": {"BOWLINE_CHECKPOINT": "on"}},
        });
        lambda.deploy("hashes", &code, settings)?;
        Ok(Self {
            fleet,
            lambda,
            machine,
            expected,
        })
    }

    fn invoke(&self, event: Value) -> JoinHandle<Result<Reply>> {
        let lambda = self.lambda.clone();
        thread::spawn(move || lambda.invoke("hashes", &event))
    }

    /// So many runs that are as they should be.
    fn runs(&self, count: usize, is: impl Fn(&Value) -> bool) -> Result<Vec<String>> {
        let found = patience::until(LONG, || {
            let list = self.lambda.get("/v1/checkpoints").ok()?.json();
            let good = list["items"].as_array()?.iter().filter(|run| is(run));
            let names: Vec<_> = good.filter_map(|run| Some(run["run"].as_str()?.to_owned())).collect();
            (names.len() == count).then_some(names)
        });
        found.with_context(|| format!("{:?}", self.lambda.get("/v1/checkpoints").map(|reply| reply.json())))
    }

    /// The run of one invocation, once the function has said how far it is, and a while after that.
    fn under_way(&self) -> Result<String> {
        self.under_way_again(1)
    }

    /// The same of so many invocations one after the other.
    fn under_way_again(&self, times: usize) -> Result<String> {
        let run = self.runs(1, |run| run["phase"] == "running")?.remove(0);
        self.says_often("at 10000\n", times)?;
        patience::rest(Duration::from_millis(Entropy::system().number() % 1000));
        Ok(run)
    }

    /// Waits until the function has said something.
    fn says(&self, what: &str) -> Result<()> {
        self.says_often(what, 1)
    }

    fn says_often(&self, what: &str, times: usize) -> Result<()> {
        let says = || {
            let log = self.lambda.get("/v1/functions/hashes/logs").ok()?.body;
            (String::from_utf8_lossy(&log).matches(what).count() >= times).then_some(())
        };
        patience::until(LONG, says).with_context(|| format!("the function never says `{what}` for the {times}. time"))
    }

    fn post(&self, run: &str, what: &str, body: Value) -> Result<Reply> {
        self.lambda.post(&format!("/v1/checkpoints/{run}/{what}"), &body)
    }

    fn show(&self, run: &str) -> Result<Value> {
        Ok(self.lambda.get(&format!("/v1/checkpoints/{run}"))?.expect(200)?.json())
    }

    fn suspend(&self, run: &str) -> Result<Value> {
        let taken = self.post(run, "take", json!({"suspend": true}))?.expect(200)?.json();
        ensure!(
            taken["phase"] == "suspended" && taken["checkpoint"]["kind"] == "vm",
            "{taken}"
        );
        Ok(taken)
    }

    /// The answer is that of the uninterrupted run, and was made in a machine.
    fn is_right(&self, answer: &Value) -> Result<()> {
        ensure!(answer["hash"] == self.expected["hash"], "{answer}");
        ensure!(
            answer["kernel"] != self.expected["kernel"],
            "the control: a machine ran it"
        );
        Ok(())
    }
}

/// The file of a blob.
fn blob(folder: &Path, digest: &str) -> Option<PathBuf> {
    for entry in std::fs::read_dir(folder).ok()?.flatten() {
        let path = entry.path();
        let found = match path.is_dir() {
            true => blob(&path, digest),
            false => std::fs::read(&path)
                .ok()
                .filter(|bytes| blake3::hash(bytes).to_string() == digest)
                .map(|_| path),
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

#[test]
fn a_python_invocation_is_suspended_with_its_machine_and_goes_on_in_another_one() -> Result<()> {
    let data = data()?;
    let node = node_on(&data)?;
    let stage = Stage::set(&node)?;
    let running = stage.invoke(json!({"rounds": ROUNDS}));
    let run = stage.under_way()?;
    ensure!(runs(stage.machine), "the control: the machine is there");
    let taken = stage.suspend(&run)?;
    ensure!(!runs(stage.machine), "nothing of the machine is left");
    ensure!(!running.is_finished(), "its caller waits on");
    let (kept, needs) = (&taken["checkpoint"], &taken["checkpoint"]["needs"]);
    ensure!(needs["machine"] == "microvm" && needs["memory_mib"] == 768, "{needs}");
    ensure!(needs["qemu"].is_string() && needs["image"].is_string(), "{needs}");
    let (bytes, resident) = (kept["bytes"].as_u64(), kept["resident_bytes"].as_u64());
    ensure!(
        bytes < resident && resident < Some(700 << 20),
        "zeros are dropped, the rest is compressed: {kept}"
    );
    let content = stage
        .lambda
        .get(&format!("/v1/checkpoints/{run}/content"))?
        .expect(200)?
        .body;
    ensure!(kept["digest"] == blake3::hash(&content).to_string(), "{kept}");

    // The instance is there for others, by another machine, and nothing is wrong with it.
    let again = stage.fleet.until("shop", "running again", |shown| {
        shown["state"] == "RUNNING" && shown["machine"]["process"] != stage.machine
    })?;
    ensure!(again["replacements"] == 0, "{again}");
    ensure!(stage.fleet.events("shop")?.iter().any(|(what, _)| what == "parted"));

    // A byte of what was kept is another one: it is found, and nothing has happened.
    let file = blob(
        &node.data().join("blobs"),
        kept["digest"].as_str().context("no digest")?,
    )
    .context("no blob")?;
    let mut other = content.to_vec();
    other[content.len() / 2] ^= 1;
    std::fs::write(&file, &other)?;
    let refused = stage.post(&run, "resume", json!({}))?.expect(409)?.json();
    ensure!(refused["detail"].to_string().contains("digest"), "{refused}");
    ensure!(stage.show(&run)?["phase"] == "suspended" && !running.is_finished());
    std::fs::write(&file, &content)?;

    stage.post(&run, "resume", json!({}))?.expect(200)?;
    stage.is_right(&well(running.join().expect("the client's thread does not panic")?)?)?;
    let left = stage.lambda.get("/v1/checkpoints")?.json();
    ensure!(left["items"] == json!([]), "nothing is left of it: {left}");
    stage.lambda.delete("/v1/instances/shop")?.expect(204)?;
    // The invocation's own machine goes when its caller has had its answer.
    let gone = patience::until(LONG, || leftovers(&node.data()).is_empty().then_some(()));
    gone.with_context(|| format!("{:?}", leftovers(&node.data())))?;
    Ok(())
}

/// A QEMU that says to be of another version while the file `other` lies beside it.
fn two_faced() -> Result<TempDir> {
    let folder = tempfile::Builder::new().prefix("bowline-test-").tempdir()?;
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
    let path = folder.path().join("qemu-system-x86_64");
    let other = folder.path().join("other");
    let script = format!(
        "#!/bin/sh\nif [ \"$1\" = --version ] && [ -e {} ]; then echo 'QEMU emulator version 0.1.2'; exit; fi\n\
         exec /usr/bin/qemu-system-x86_64 \"$@\"\n",
        other.display()
    );
    std::fs::write(&path, script)?;
    std::fs::set_permissions(&path, Permissions::from_mode(0o755))?;
    Ok(folder)
}

#[test]
fn a_suspended_machine_outlives_its_node_and_goes_on_only_where_it_fits() -> Result<()> {
    let (data, tools) = (data()?, two_faced()?);
    let path = std::env::var("PATH").unwrap_or_default();
    let mut node = Ground::start(Settings {
        data: Some(data.path().to_owned()),
        environment: vec![("PATH".into(), format!("{}:{path}", tools.path().display()).into())],
        ..Settings::default()
    })?;
    let stage = Stage::set(&node)?;
    let running = stage.invoke(json!({"rounds": ROUNDS}));
    let run = stage.under_way()?;
    // One that goes on at once: its machine is its own from then on.
    let copied = stage.post(&run, "take", json!({}))?.expect(200)?.json();
    ensure!(
        copied["phase"] == "running" && copied["checkpoint"]["kind"] == "vm",
        "{copied}"
    );
    ensure!(!running.is_finished());
    let taken = stage.suspend(&run)?;
    ensure!(taken["checkpoint"]["number"] == 2, "{taken}");

    node.kill()?;
    ensure!(
        running.join().expect("the client's thread does not panic").is_err(),
        "its caller is gone"
    );
    std::fs::write(tools.path().join("other"), "")?;
    node.start_again()?;
    let refused = stage.post(&run, "resume", json!({}))?.expect(409)?.json();
    ensure!(refused["code"] == "unfit", "{refused}");
    let detail = refused["detail"].to_string();
    ensure!(detail.contains("clause `qemu`") && detail.contains("0.1.2"), "{detail}");
    let shown = stage.show(&run)?;
    ensure!(
        shown["phase"] == "suspended" && shown["checkpoint"]["number"] == 2,
        "{shown}"
    );
    ensure!(shown["epoch"] == taken["epoch"], "nobody has gone on with it: {shown}");

    node.kill()?;
    std::fs::remove_file(tools.path().join("other"))?;
    node.start_again()?;
    stage.post(&run, "resume", json!({}))?.expect(200)?;
    let ended = stage.runs(1, |run| run["phase"] == "finished")?;
    ensure!(ended == [run.clone()], "it keeps its name");
    stage.is_right(&well(stage.lambda.get(&format!("/v1/checkpoints/{run}/outcome"))?)?)
}

#[test]
fn a_machine_with_two_invocations_is_not_suspended_and_both_go_on() -> Result<()> {
    let data = data()?;
    let node = node_on(&data)?;
    let stage = Stage::set(&node)?;
    let waiting = ["ada", "bob"].map(|name| stage.invoke(json!({"name": name, "seconds": 600})));
    for name in ["ada", "bob"] {
        stage.says(&format!("{name} waits 1\n"))?;
    }
    let both = stage.runs(2, |run| run["phase"] == "running")?;
    let refused = stage
        .post(&both[0], "take", json!({"suspend": true}))?
        .expect(409)?
        .json();
    ensure!(refused["code"] == "not_kept", "{refused}");
    ensure!(
        refused["detail"].to_string().contains(&both[1]),
        "the other one is named: {refused}"
    );
    let log = stage.lambda.get("/v1/functions/hashes/logs")?.expect(200)?.body;
    let lines = String::from_utf8_lossy(&log).lines().count();
    for name in ["ada", "bob"] {
        // Later than anything that was said before.
        stage.says(&format!("{name} waits {lines}\n"))?;
    }
    ensure!(stage.runs(2, |run| run["phase"] == "running")? == both, "both go on");
    ensure!(runs(stage.machine) && qemu(&stage.fleet.show("shop")?)? == stage.machine);
    stage.lambda.delete("/v1/instances/shop")?.expect(204)?;
    for running in waiting {
        let ended = running.join().expect("the client's thread does not panic")?;
        ensure!(ended.status != 200, "its machine is gone");
    }
    Ok(())
}

#[test]
fn a_machine_with_a_volume_is_not_suspended_and_its_invocation_goes_on() -> Result<()> {
    let data = data()?;
    let node = node_on(&data)?;
    let volume = "storage_mib = 16\n[[volumes]]\nsource = \"orders\"\nmount = \"/data\"\n";
    let stage = Stage::set_with(&node, volume)?;
    let waiting = stage.invoke(json!({"name": "ada", "seconds": 600}));
    stage.says("ada waits 1\n")?;
    let run = stage.runs(1, |run| run["phase"] == "running")?.remove(0);
    let refused = stage.post(&run, "take", json!({"suspend": true}))?.expect(409)?.json();
    ensure!(
        refused["code"] == "not_kept" && refused["detail"].to_string().contains("volumes"),
        "{refused}"
    );
    let log = stage.lambda.get("/v1/functions/hashes/logs")?.expect(200)?.body;
    let lines = String::from_utf8_lossy(&log).lines().count();
    stage.says(&format!("ada waits {lines}\n"))?;
    ensure!(runs(stage.machine) && stage.show(&run)?["phase"] == "running");
    stage.lambda.delete("/v1/instances/shop")?.expect(204)?;
    waiting.join().expect("the client's thread does not panic")?;
    Ok(())
}

/// How much a machine's state has flowed when the machine is killed: the most of it is still to come.
const FLOWED_BYTES: u64 = 16 << 20;

/// What a process has written so far.
fn written(process: u32) -> Option<u64> {
    let counters = std::fs::read_to_string(format!("/proc/{process}/io")).ok()?;
    counters
        .lines()
        .find_map(|line| line.strip_prefix("wchar: "))?
        .parse()
        .ok()
}

/// Kills a machine in the middle of its next saving.
fn dies_while_it_is_saved(machine: u32) -> Result<JoinHandle<Result<()>>> {
    let before = written(machine).context("the machine is there")?;
    Ok(thread::spawn(move || {
        let flows = patience::until(LONG, || (written(machine)? > before + FLOWED_BYTES).then_some(()));
        flows.context("it is never saved")?;
        signal(machine, "-KILL")
    }))
}

/// Whether no checkpoint's bytes are left in a folder of blobs.
fn is_bare(blobs: &Path) -> bool {
    let found = std::fs::read_dir(blobs.join("checkpoints"));
    found.map_or(true, |mut entries| entries.next().is_none())
}

#[test]
fn a_machine_that_dies_while_it_is_saved_costs_its_caller_a_retry_or_nothing() -> Result<()> {
    let data = data()?;
    let node = node_on(&data)?;
    let stage = Stage::set(&node)?;
    let blobs = node.data().join("blobs");
    let refused = |run: &str, machine: u32| -> Result<()> {
        let dies = dies_while_it_is_saved(machine)?;
        let refused = stage.post(run, "take", json!({"suspend": true}))?.expect(409)?.json();
        dies.join().expect("the thread does not panic")?;
        ensure!(refused["code"] == "not_kept", "{refused}");
        ensure!(
            refused["detail"].to_string().contains("has ended"),
            "it says what happened: {refused}"
        );
        Ok(())
    };

    // There is nothing to go back to: it has one end, which says that it may be tried again.
    let running = stage.invoke(json!({"rounds": ROUNDS}));
    let run = stage.under_way()?;
    refused(&run, stage.machine)?;
    let told = running.join().expect("the client's thread does not panic")?;
    ensure!(
        told.status == 500 && told.json()["Type"] == "Service",
        "{}: {}",
        told.status,
        told.json()
    );
    let left = stage.lambda.get("/v1/checkpoints")?.json();
    ensure!(
        left["items"] == json!([]) && is_bare(&blobs),
        "no half checkpoint is left: {left}"
    );

    // The instance gets another machine. The next run has a checkpoint, goes back to it, and has the one answer.
    let again = stage.fleet.until("shop", "running again", |shown| {
        shown["state"] == "RUNNING" && shown["machine"]["process"] != stage.machine
    })?;
    let running = stage.invoke(json!({"rounds": ROUNDS}));
    let run = stage.under_way_again(2)?;
    let copied = stage.post(&run, "take", json!({}))?.expect(200)?.json();
    ensure!(
        copied["phase"] == "running" && !is_bare(&blobs),
        "the control: {copied}"
    );
    refused(&run, qemu(&again)?)?;
    stage.runs(1, |run| run["phase"] == "running" && run["epoch"] == 2)?;
    let decisions = stage.show(&run)?["decisions"].clone();
    let resumed = decisions
        .as_array()
        .context("decisions")?
        .iter()
        .find(|one| one["what"] == "resume");
    ensure!(resumed.is_some_and(|one| one["why"] == "broken"), "{decisions}");
    stage.is_right(&well(running.join().expect("the client's thread does not panic")?)?)?;
    let left = stage.lambda.get("/v1/checkpoints")?.json();
    ensure!(
        left["items"] == json!([]) && is_bare(&blobs),
        "nothing is left of it: {left}"
    );
    Ok(())
}

#[test]
fn a_stopping_node_leaves_its_machines_for_when_it_is_back() -> Result<()> {
    let data = data()?;
    let mut node = node_on(&data)?;
    let stage = Stage::set(&node)?;
    let running = stage.invoke(json!({"rounds": ROUNDS}));
    let run = stage.under_way()?;
    node.terminate()?;
    ensure!(node.wait_for_end()?.success(), "it stops in time");
    let told = running.join().expect("the client's thread does not panic")?;
    ensure!(told.status != 200, "its caller is told: {}", told.json());
    ensure!(
        leftovers(&node.data()).is_empty() && !runs(stage.machine),
        "nothing runs any more"
    );
    node.start_again()?;
    let ended = stage.runs(1, |run| run["phase"] == "finished")?;
    ensure!(ended == [run.clone()], "it keeps its name");
    let decision = stage.show(&run)?["decisions"][0].clone();
    ensure!(
        decision["what"] == "suspend" && decision["why"] == "shutdown",
        "{decision}"
    );
    stage.is_right(&well(stage.lambda.get(&format!("/v1/checkpoints/{run}/outcome"))?)?)
}

/// Two nodes that share a database and blobs; the second one's QEMU is of another version at first.
struct Pair {
    source: Ground,
    target: Ground,
    shared: TempDir,
    /// While the file `other` lies there the second one does not fit.
    tools: TempDir,
    _folders: [TempDir; 2],
    _server: Server,
}

impl Pair {
    fn start() -> Result<Self> {
        let (server, shared) = (Server::start()?, tempfile::tempdir()?);
        let (folders, tools) = ([data()?, data()?], two_faced()?);
        std::fs::write(tools.path().join("other"), "")?;
        let path = std::env::var("PATH").unwrap_or_default();
        let member = |data: &TempDir, path: String| {
            Ground::start(Settings {
                data: Some(data.path().to_owned()),
                environment: vec![
                    ("BOWLINE_STORE".into(), server.url().into()),
                    ("BOWLINE_BLOBS".into(), shared.path().into()),
                    ("BOWLINE_LEASE_SECONDS".into(), LEASE_SECONDS.to_string().into()),
                    ("PATH".into(), path.into()),
                ],
                ..Settings::default()
            })
        };
        Ok(Self {
            source: member(&folders[0], path.clone())?,
            target: member(&folders[1], format!("{}:{path}", tools.path().display()))?,
            shared,
            tools,
            _folders: folders,
            _server: server,
        })
    }

    /// The run as the second node sees it, once it is as it should be.
    fn there(&self, run: &str, is: impl Fn(&Value) -> bool) -> Result<Value> {
        let there = self.target.lambda();
        let found = patience::until(LONG, || {
            let shown = there.get(&format!("/v1/checkpoints/{run}")).ok()?.json();
            is(&shown).then_some(shown)
        });
        found.with_context(|| format!("it does not come to that there: {}", self.target.log()))
    }
}

#[test]
fn a_suspended_machine_goes_on_on_another_node_of_a_cluster_if_it_fits() -> Result<()> {
    if !has_postgres() {
        return Ok(());
    }
    let mut pair = Pair::start()?;
    let stage = Stage::set(&pair.source)?;
    let running = stage.invoke(json!({"rounds": ROUNDS}));
    let run = stage.under_way()?;
    let taken = stage.suspend(&run)?;
    ensure!(
        !is_bare(pair.shared.path()),
        "the control: its bytes lie where both nodes find them"
    );

    // Refused with the clause that fails; nothing has happened to it.
    let there = pair.target.lambda();
    let resume = format!("/v1/checkpoints/{run}/resume");
    let refused = there.post(&resume, &json!({}))?.expect(409)?.json();
    let detail = refused["detail"].to_string();
    ensure!(
        refused["code"] == "unfit" && detail.contains("clause `qemu`"),
        "{refused}"
    );
    let shown = stage.show(&run)?;
    ensure!(
        shown["phase"] == "suspended" && shown["epoch"] == taken["epoch"],
        "{shown}"
    );

    pair.target.terminate()?;
    ensure!(pair.target.wait_for_end()?.success());
    std::fs::remove_file(pair.tools.path().join("other"))?;
    pair.target.start_again()?;
    there.post(&resume, &json!({}))?.expect(200)?;
    let resumed = pair.there(&run, |run| run["phase"] == "running" && run["here"] == true)?;
    ensure!(resumed["node"] != taken["node"] && resumed["epoch"] == 2, "{resumed}");
    stage.is_right(&well(running.join().expect("the client's thread does not panic")?)?)?;
    let none_is_left = || {
        let left = there.get("/v1/checkpoints").ok()?.json();
        (left["items"] == json!([]) && is_bare(pair.shared.path())).then_some(())
    };
    patience::until(LONG, none_is_left).context("it has one end")?;

    // A node that stops leaves its run to the other one, by itself.
    let running = stage.invoke(json!({"rounds": ROUNDS}));
    let run = stage.under_way_again(2)?;
    pair.source.terminate()?;
    ensure!(pair.source.wait_for_end()?.success(), "it stops in time");
    let told = running.join().expect("the client's thread does not panic");
    ensure!(told.is_ok_and(|told| told.status != 200), "its caller is told");
    let ended = pair.there(&run, |run| run["phase"] == "finished")?;
    ensure!(
        ended["decisions"][0]["why"] == "shutdown" && ended["node"] == resumed["node"],
        "{ended}"
    );
    stage.is_right(&well(there.get(&format!("/v1/checkpoints/{run}/outcome"))?)?)
}
