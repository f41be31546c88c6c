//! Native invocations that are suspended with the virtual machine around them: each ends once, with the right answer.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bowline_foundation::digest::Digest;
use bowline_foundation::entropy::Entropy;
use bowline_tests::lambda::Reply;
use bowline_tests::node::Settings;
use bowline_tests::{Artifact, Lambda, patience};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::machines::{data, node_on, qemu, well};
use super::{Fleet, Ground, leftovers, runs};

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
        let run = self.runs(1, |run| run["phase"] == "running")?.remove(0);
        self.says("at 10000")?;
        patience::rest(Duration::from_millis(Entropy::system().number() % 1000));
        Ok(run)
    }

    /// Waits until the function has said something.
    fn says(&self, what: &str) -> Result<()> {
        let says = || {
            let log = self.lambda.get("/v1/functions/hashes/logs").ok()?.body;
            String::from_utf8_lossy(&log).contains(what).then_some(())
        };
        patience::until(LONG, says).with_context(|| format!("the function never says `{what}`"))
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
                .filter(|bytes| Digest::of(bytes).to_string() == digest)
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
    ensure!(kept["digest"] == Digest::of(&content).to_string(), "{kept}");

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
