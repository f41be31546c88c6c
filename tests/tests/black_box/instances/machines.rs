//! Instances that are virtual machines: translated where KVM is of no use, all from one image and few golden snapshots,
//! which are kept beside the build for the next run.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use bowline_tests::node::{Settings, binary};
use bowline_tests::{Artifact, Reply, patience, place};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Fleet, Ground, PATIENCE, leftovers, place as place_of, runs, shell, signal};

/// What a Python function sees of the machine that it runs in.
const LOOKS: &[u8] = b"import os
def handler(event, context):
    with open('/proc/meminfo') as file:
        kib = int(file.readline().split()[1])
    return {'kernel': os.uname().release, 'memory_mib': kib // 1024, 'random': os.urandom(8).hex()}
";

/// A node's data with the shared images in it, built with Python for this very program.
pub(super) fn data() -> Result<TempDir> {
    let data = tempfile::Builder::new().prefix("bowline-test-").tempdir()?;
    let shared = place::shared("vm-instances")?;
    std::os::unix::fs::symlink(&shared, data.path().join("vm"))?;
    place::exclusively("vm-instances", || {
        let mut build = Command::new(binary()?);
        build.args(["vm", "image", "build", "--with", "python", "--json", "--data"]);
        let output = build.arg(data.path()).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let built: Value = serde_json::from_slice(&output.stdout)?;
        forget_others(&shared, built["folder"].as_str().context("no folder")?)
    })?;
    Ok(data)
}

/// Removes images of earlier builds of the program, and the snapshots that were made of them.
fn forget_others(shared: &Path, image: &str) -> Result<()> {
    let image = Path::new(image).file_name().context("no name")?;
    let mut changed = false;
    for entry in std::fs::read_dir(shared)?.flatten() {
        if entry.path().join("image.json").is_file() && entry.file_name() != image {
            std::fs::remove_dir_all(entry.path())?;
            changed = true;
        }
    }
    if changed {
        let _ = std::fs::remove_dir_all(shared.join("golden"));
    }
    Ok(())
}

pub(super) fn node_on(data: &TempDir) -> Result<Ground> {
    Ground::start(Settings {
        data: Some(data.path().to_owned()),
        ..Settings::default()
    })
}

/// A file of a virtual machine with `rest` behind its resources.
pub(super) fn file(rest: &str) -> String {
    format!("id = \"shop\"\nkind = \"vm\"\n[resources]\nmemory_mib = 2560\n{rest}")
}

/// The process of an instance's QEMU.
pub(super) fn qemu(shown: &Value) -> Result<u32> {
    let pid = shown["machine"]["process"].as_u64().context("no process")?;
    Ok(u32::try_from(pid)?)
}

pub(super) fn well(reply: Reply) -> Result<Value> {
    let reply = reply.expect(200)?;
    ensure!(reply.header("x-amz-function-error").is_empty(), "{}", reply.json());
    Ok(reply.json())
}

fn kernel() -> Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned())
}

#[test]
fn a_virtual_machine_serves_its_accounts_functions_dies_and_is_replaced() -> Result<()> {
    let data = data()?;
    let node = node_on(&data)?;
    let fleet = Fleet::of(&node);
    let looks = Artifact::python_source(LOOKS)?;
    fleet.lambda.deploy("looks", &looks, json!({"MemorySize": 128}))?;
    let ask = |name: &str| fleet.lambda.invoke(name, &json!({"name": "ada"}));
    let here = well(ask("looks")?)?;
    ensure!(
        here["kernel"] == kernel()?.as_str(),
        "the control: without an instance it runs in the node"
    );

    // Its service dies once, and is started again on the same server.
    let once = "if [ -e /tmp/once ]; then exec sleep 100000; fi; touch /tmp/once; sleep 1; exit 1";
    let services = format!("[[services]]\nname = \"mayfly\"\ncommand = {}\n", shell(once));
    fleet.make("shop", &file(&services))?;
    let old = fleet.running("shop")?;
    let server = old["server"].as_str().context("no server")?.to_owned();
    let repaired = patience::until(PATIENCE, || {
        place_of(&fleet.events("shop").ok()?, "repaired", &server).ok()
    });
    repaired.with_context(|| format!("{:?}", fleet.events("shop")))?;
    let old = fleet.running("shop")?;
    ensure!(old["server"] == server.as_str() && old["replacements"] == 0, "{old}");
    is_described(&fleet, &old)?;

    let (wasm, native) = (Artifact::answering("\"ahoy\"")?, Artifact::native()?);
    // Another one, for the node keeps the sandbox that it has of the first; with a processor of its own, for translated
    // Python begins slowly.
    fleet.lambda.deploy("sees", &looks, json!({"MemorySize": 1769}))?;
    fleet.lambda.deploy("wasm", &wasm, json!({"MemorySize": 128}))?;
    fleet.lambda.deploy("native", &native, json!({"MemorySize": 128}))?;
    let answers = || -> Result<Value> {
        ensure!(well(ask("wasm")?)? == "ahoy");
        well(ask("native")?)?;
        let seen = well(ask("sees")?)?;
        ensure!(
            seen["kernel"] != kernel()?.as_str(),
            "it runs in a kernel of its own: {seen}"
        );
        let mib = seen["memory_mib"].as_u64().context("no memory")?;
        ensure!(
            (2300..=2560).contains(&mib),
            "the server's memory is what the file says: {seen}"
        );
        Ok(seen)
    };
    let before = answers()?;
    let shown = fleet.show("shop")?;
    ensure!(shown["sandboxes"] == 3 && shown["held_mib"] == 2025, "{shown}");

    let killed = qemu(&old)?;
    signal(killed, "-KILL")?;
    let new = fleet.replaced("shop", &old)?;
    ensure!(new["replaces"] == server.as_str() && qemu(&new)? != killed, "{new}");
    ensure!(new["machine"]["golden_was_kept"] == true, "{new}");
    let events = fleet.events("shop")?;
    let created = place_of(&events, "create", new["server"].as_str().context("no server")?)?;
    ensure!(place_of(&events, "fence", &server)? < created, "{events:?}");
    let after = answers()?;
    ensure!(
        before["random"] != after["random"],
        "two machines of one snapshot draw the same: {after}"
    );

    fleet.lambda.delete("/v1/instances/shop")?.expect(204)?;
    ensure!(!runs(qemu(&new)?), "nothing of it runs");
    ensure!(leftovers(&node.data()).is_empty(), "{:?}", leftovers(&node.data()));
    let here = well(ask("sees")?)?;
    ensure!(here["kernel"] == kernel()?.as_str(), "it runs in the node again");
    Ok(())
}

/// What runs a machine is told by the API and by the command line.
fn is_described(fleet: &Fleet, shown: &Value) -> Result<()> {
    let machine = &shown["machine"];
    let accelerator = machine["accelerator"].as_str().context("no accelerator")?;
    let why = machine["why_not_kvm"].as_str();
    ensure!(
        (accelerator == "kvm" && why.is_none()) || (accelerator == "tcg" && why.is_some_and(|why| !why.is_empty())),
        "{machine}"
    );
    ensure!(machine["kind"] == "microvm" && machine["processors"] == 1, "{machine}");
    let snapshot = machine["golden_snapshot"].as_str().context("no snapshot")?;
    ensure!(runs(qemu(shown)?));
    let mut show = Command::new(binary()?);
    show.args(["instance", "show", "shop", "--endpoint", &fleet.endpoint]);
    let text = String::from_utf8(show.output()?.stdout)?;
    for told in [snapshot, accelerator, why.unwrap_or_default(), "microvm"] {
        ensure!(text.contains(told), "`{told}` is not in {text}");
    }
    let told: Value = serde_json::from_slice(&show.arg("--json").output()?.stdout)?;
    ensure!(told["machine"] == *machine, "{told}");
    Ok(())
}

#[test]
fn what_no_virtual_machine_can_be_is_refused_and_its_limits_hold() -> Result<()> {
    let data = data()?;
    let node = node_on(&data)?;
    let fleet = Fleet::of(&node);
    let refused = |text: &str, says: &str| -> Result<()> {
        fleet.put("shop", text)?;
        let refused = fleet.lambda.post("/v1/instances", &json!({ "file": "shop" }))?;
        let refused = refused.expect(409)?;
        let detail = refused.json()["detail"].to_string();
        ensure!(refused.error() == "infeasible" && detail.contains(says), "{detail}");
        Ok(())
    };
    let volume = |number: u32| format!("[[volumes]]\nsource = \"v{number}\"\nmount = \"/v{number}\"\n");
    refused(&file(&(0..9).map(volume).collect::<String>()), "`9` volumes")?;
    refused(&file("").replace("2560", "127"), "127")?;
    let mine = file("machine = \"q35\"\n").replace("\"vm\"", "\"process\"");
    let path = "/v1/instance-files/shop";
    let reply = fleet
        .lambda
        .send("PUT", path, &[("content-type", "application/toml")], mine.as_bytes())?;
    ensure!(reply.expect(400)?.json()["detail"].to_string().contains("line 5"));

    // A hundred processes are more than it may have; the control has room for them.
    let many = "i=0; while [ $i -lt 100 ]; do sleep 100000 & i=$((i+1)); done; echo made; exec sleep 100000";
    let with = |processes: u32| {
        let services = format!("[[services]]\nname = \"many\"\ncommand = {}\n", shell(many));
        let policy = "[policy]\nrepair_attempts = 0\nreplacements_max = 0\n";
        file(&format!("processes = {processes}\n{services}{policy}"))
    };
    fleet.make("shop", &with(80))?;
    let held = fleet.until("shop", "held", |shown| shown["state"] == "HELD")?;
    ensure!(held["error"].to_string().contains("many"), "{held}");
    fleet.put("shop", &with(1024))?;
    fleet.lambda.delete("/v1/instances/shop")?.expect(204)?;
    fleet.create(json!({ "file": "shop" }))?;
    let well = fleet.running("shop")?;
    patience::rest(std::time::Duration::from_secs(2));
    let still = fleet.show("shop")?;
    ensure!(
        still["state"] == "RUNNING" && still["server"] == well["server"],
        "{still}"
    );

    // A machine that stands still for longer than its lease is fenced.
    signal(qemu(&well)?, "-STOP")?;
    let lost = fleet.until("shop", "held", |shown| shown["state"] == "HELD")?;
    ensure!(lost["error"].to_string().contains("silent"), "{lost}");
    ensure!(!runs(qemu(&well)?), "it is ended, not left standing");
    Ok(())
}

#[test]
fn a_killed_nodes_virtual_machines_end_and_come_back_with_it() -> Result<()> {
    let data = data()?;
    let mut node = node_on(&data)?;
    let fleet = Fleet::of(&node);
    fleet.make("shop", &file(""))?;
    let old = fleet.running("shop")?;
    fleet
        .lambda
        .deploy("native", &Artifact::native()?, json!({"MemorySize": 128}))?;
    let ask = || well(fleet.lambda.invoke("native", &json!({"name": "ada"}))?);
    let before = ask()?;
    node.kill()?;
    let process = qemu(&old)?;
    let ended = patience::until(PATIENCE, || (!runs(process)).then_some(()));
    ended.context("QEMU outlives its node")?;
    node.start_again()?;
    let new = fleet.until("shop", "back", |shown| {
        shown["state"] == "RUNNING" && shown["machine"]["process"] != process
    })?;
    ensure!(
        new["server"] == old["server"] && new["replacements"] == 0,
        "the same server, started again: {new}"
    );
    ensure!(ask()? == before);
    Ok(())
}

#[test]
fn without_qemu_a_virtual_machine_is_refused_with_the_package_that_brings_it() -> Result<()> {
    let nothing = tempfile::tempdir()?;
    let node = super::node_with(&[("PATH", &nothing.path().to_string_lossy())])?;
    let fleet = Fleet::of(&node);
    fleet.put("shop", &file(""))?;
    let refused = fleet.lambda.post("/v1/instances", &json!({ "file": "shop" }))?;
    let refused = refused.expect(409)?;
    let detail = refused.json()["detail"].to_string();
    ensure!(
        refused.error() == "infeasible" && detail.contains("apt-get install qemu-system-x86"),
        "{detail}"
    );
    ensure!(fleet.lambda.get("/v1/instances")?.json()["items"] == json!([]));
    Ok(())
}

/// 05/E7 with machines: one waits before anybody has called, and the first call runs on it.
#[test]
fn e_e7_a_machine_that_waited_serves_an_accounts_first_call() -> Result<()> {
    let data = data()?;
    let node = Ground::start(Settings {
        data: Some(data.path().to_owned()),
        environment: vec![("BOWLINE_INSTANCES".into(), "vm".into())],
        ..Settings::default()
    })?;
    let fleet = Fleet::of(&node);
    fleet
        .lambda
        .deploy("hello", &Artifact::answering("\"ahoy\"")?, json!({}))?;
    super::functions::waiting(&node, "vm", 1)?;
    let reply = fleet.lambda.invoke("hello", &json!({}))?.expect(200)?;
    ensure!(reply.header("x-bowline-provisioned") == "warming-pool" && reply.json() == "ahoy");
    let shown = fleet.running("default")?;
    ensure!(shown["kind"] == "vm" && shown["sandboxes"] == 1, "{shown}");
    ensure!(runs(qemu(&shown)?), "the control: a machine runs it");
    Ok(())
}
