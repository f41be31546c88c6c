//! Shared memory and volumes: folders that functions have in common, as their sandboxes see them. The labels are those of
//! system 01.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bowline_test_postgres::Server;

use bowline_tests::node::{Settings, binary};
use bowline_tests::{Artifact, Lambda, Node, Reply, patience, place, skip};
use serde_json::{Value, json};

use crate::crowd::{has_postgres, member};

/// How long what happens in the background, or on another node, may take.
const SEEN_MAX: Duration = Duration::from_secs(60);
const CALLERS: usize = 5;
const CALLS_EACH: usize = 5;
const MIB: u64 = 1024 * 1024;
/// What a node may write beside: its records and its log.
const NOISE_BYTES: u64 = 16 * MIB;

pub(crate) const SOURCE: &[u8] = br#"
import errno, hashlib, os, threading, time, uuid

SANDBOX = str(uuid.uuid4())


def written_bytes():
    with open("/proc/self/io") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes:"))


def fill(path, mib):
    before, digest = written_bytes(), hashlib.sha256()
    with open(path, "wb") as file:
        for number in range(mib):
            block = hashlib.sha256(str(number).encode()).digest() * 32768
            digest.update(block)
            file.write(block)
    return {"sum": digest.hexdigest(), "to_disk": written_bytes() - before}


def linger(path):
    while True:
        with open(path, "a") as file:
            file.write("x")
        time.sleep(0.005)


def handler(event, context):
    do, path = event["do"], event.get("path", "/mnt/shared/file")
    told = {"sandbox": SANDBOX}
    try:
        if do == "fill":
            told.update(fill(path, event["mib"]))
        if do == "sum":
            with open(path, "rb") as file:
                told["sum"] = hashlib.sha256(file.read()).hexdigest()
        if do == "list":
            told["mnt"] = sorted(os.listdir("/mnt"))
            told["files"] = {name: sorted(os.listdir("/mnt/" + name)) for name in told["mnt"]}
        if do == "linger":
            threading.Thread(target=linger, args=(path,), daemon=True).start()
        if do == "watch":
            before = os.path.getsize(path)
            time.sleep(0.3)
            told["grew"] = os.path.getsize(path) - before
        if do == "write":
            end = time.time() + event["seconds"]
            while time.time() < end:
                with open(path, "a") as file:
                    file.write("x")
                time.sleep(0.005)
        if do == "journal":
            # What is said to be written is: a block, and then its number.
            log = os.open("/mnt/shared/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            said = os.open("/mnt/shared/said", os.O_WRONLY | os.O_CREAT)
            for number in range(1, 1000000):
                os.write(log, b"%08d" % number * 512)
                os.pwrite(said, b"%08d" % number, 0)
        if do == "judge":
            blocks = open("/mnt/shared/log", "rb").read()
            told["said"] = int(open("/mnt/shared/said").read())
            told["whole"] = all(
                blocks[at : at + 4096] == b"%08d" % (at // 4096 + 1) * 512 for at in range(0, len(blocks), 4096)
            )
            told["blocks"] = len(blocks) // 4096
        if do == "count":
            # Another writer may just have emptied it.
            number = int(open(path).read() or 0) if os.path.exists(path) else 0
            time.sleep(event.get("pause", 0))
            with open(path, "w") as file:
                file.write(str(number + 1))
            told["n"] = number + 1
    except OSError as error:
        told["error"] = errno.errorcode[error.errno]
    return told
"#;

pub(crate) fn can_run() -> bool {
    let is_installed = place::is_installed("python3");
    if !is_installed {
        skip("there is no python3");
    }
    is_installed
}

/// Whether volumes can be made here: they are mounted.
pub(crate) fn can_mount() -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root || !fs::exists("/dev/loop-control").unwrap_or(false) {
        skip("volumes need root and loop devices");
        return false;
    }
    if !["/usr/sbin", "/sbin"]
        .iter()
        .any(|folder| fs::exists(format!("{folder}/mkfs.ext4")).unwrap_or(false))
    {
        skip("volumes need mkfs.ext4");
        return false;
    }
    can_run()
}

pub(crate) fn deploy(lambda: &Lambda, names: &[&str]) -> Result<()> {
    for name in names {
        let settings = json!({"Timeout": 30, "MemorySize": 256});
        lambda.deploy(name, &Artifact::python_source(SOURCE)?, settings)?;
    }
    Ok(())
}

pub(crate) fn create(lambda: &Lambda, name: &str, kind: &str, mib: u32, writers: &str) -> Result<Value> {
    let body = json!({"name": name, "kind": kind, "size_mib": mib, "writers": writers});
    Ok(lambda.post("/v1/state", &body)?.expect(201)?.json())
}

pub(crate) fn attach(lambda: &Lambda, name: &str, function: &str, more: &Value) -> Result<Value> {
    let path = format!("/v1/state/{name}/functions/{function}");
    Ok(lambda.put(&path, more)?.expect(200)?.json())
}

pub(crate) fn detach(lambda: &Lambda, name: &str, function: &str) -> Result<()> {
    lambda
        .delete(&format!("/v1/state/{name}/functions/{function}"))?
        .expect(204)?;
    Ok(())
}

pub(crate) fn told(reply: Reply) -> Result<Value> {
    let reply = reply.expect(200)?;
    ensure!(reply.header("x-amz-function-error").is_empty(), "{}", reply.json());
    Ok(reply.json())
}

pub(crate) fn call(lambda: &Lambda, function: &str, event: &Value) -> Result<Value> {
    told(lambda.invoke(function, event)?)
}

pub(crate) fn fill(lambda: &Lambda, function: &str, mib: u64) -> Result<Value> {
    call(lambda, function, &json!({"do": "fill", "mib": mib}))
}

pub(crate) fn sum(lambda: &Lambda, function: &str) -> Result<Value> {
    Ok(call(lambda, function, &json!({"do": "sum"}))?["sum"].clone())
}

/// One function may only read what is shared, and a strange one, the control, has nothing of it.
pub(crate) fn each_has_what_it_may(lambda: &Lambda) -> Result<()> {
    let refused = fill(lambda, "reads", 1)?;
    ensure!(refused["error"] == "EROFS", "it may only read: {refused}");
    let strange = call(lambda, "strange", &json!({"do": "list"}))?;
    ensure!(strange["mnt"] == json!([]), "not attached, and yet {strange}");
    Ok(())
}

/// What a process has had written to disks.
fn written_bytes(pid: u32) -> Result<u64> {
    let io = fs::read_to_string(format!("/proc/{pid}/io"))?;
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    Ok(line.context("no write_bytes")?.parse()?)
}

#[test]
fn t_a5_another_function_sees_what_one_wrote_in_shared_memory_and_no_disk_is_written() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let node = Node::start()?;
    let lambda = node.lambda();
    deploy(&lambda, &["writes", "reads", "strange"])?;
    create(&lambda, "shared", "memory", 80, "any")?;
    attach(&lambda, "shared", "writes", &json!({}))?;
    attach(&lambda, "shared", "reads", &json!({"access": "read"}))?;
    let before = written_bytes(node.pid())?;
    let filled = fill(&lambda, "writes", 64)?;
    let seen = sum(&lambda, "reads")?;
    let node_wrote = written_bytes(node.pid())? - before;
    ensure!(
        filled["sum"].is_string() && filled["sum"] == seen,
        "{filled}, but {seen} is read"
    );
    ensure!(filled["to_disk"] == 0, "{filled}");
    ensure!(
        node_wrote < NOISE_BYTES,
        "the node wrote {node_wrote} bytes to its disk"
    );
    each_has_what_it_may(&lambda)
}

/// An account that drives a node by the command line.
struct Account<'a> {
    node: &'a Node,
    credentials: std::path::PathBuf,
}

impl<'a> Account<'a> {
    fn create(node: &'a Node, id: &str) -> Result<Self> {
        let data = node.data();
        let words = ["keys", "create", "--account", id, "--json", "--data"];
        let output = Command::new(binary()?).args(words).arg(&data).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let key: Value = serde_json::from_slice(&output.stdout)?;
        let credentials = data.join(format!("credentials-{id}"));
        let of = |member: &str| key[member].as_str().unwrap_or_default().to_owned();
        let text = format!(
            "[default]\naws_access_key_id = {}\naws_secret_access_key = {}\n",
            of("access_key_id"),
            of("secret_access_key")
        );
        fs::write(&credentials, text)?;
        Ok(Self { node, credentials })
    }

    fn run(&self, words: &[&str]) -> Result<Output> {
        let mut command = Command::new(binary()?);
        command
            .env_clear()
            .env("AWS_SHARED_CREDENTIALS_FILE", &self.credentials);
        command.args(words).args(["--endpoint", &self.node.endpoint()]);
        Ok(command.output()?)
    }

    fn does(&self, words: &[&str]) -> Result<Value> {
        let output = self.run(words)?;
        ensure!(
            output.status.success(),
            "{words:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(serde_json::from_slice(&output.stdout).unwrap_or(Value::Null))
    }
}

#[test]
fn t_a7_a_folder_of_one_account_is_not_there_for_another() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    is_not_there_for_another(&Node::start()?)
}

/// 01/T-A7, wherever the node runs the accounts' functions.
pub(crate) fn is_not_there_for_another(node: &Node) -> Result<()> {
    let source = node.data().join("app.py");
    fs::write(&source, SOURCE)?;
    let source = source.to_str().context("a path of text")?;
    let (owner, stranger) = (
        Account::create(node, "111111111111")?,
        Account::create(node, "222222222222")?,
    );
    for account in [&owner, &stranger] {
        let words = ["deploy", source, "--name", "f", "--handler", "app.handler"];
        account.does(&[&words[..], &["--timeout", "60"]].concat())?;
    }
    let invoke = |account: &Account<'_>, event: &str| account.does(&["invoke", "f", "-d", event]);
    owner.does(&["state", "create", "shared", "--kind", "memory", "--size", "4"])?;
    owner.does(&["state", "attach", "shared", "f"])?;
    let fill = r#"{"do": "fill", "mib": 1}"#;
    let (filled, sum, list) = (invoke(&owner, fill)?, r#"{"do": "sum"}"#, r#"{"do": "list"}"#);
    ensure!(filled["sum"].is_string(), "{filled}");

    let refused = stranger.run(&["state", "attach", "shared", "f"])?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success() && said.contains("does not exist"), "{said}");
    let arn = "arn:aws:lambda:us-east-1:222222222222:function:f";
    ensure!(!owner.run(&["state", "attach", "shared", arn])?.status.success());
    let nothing = invoke(&stranger, list)?;
    ensure!(nothing["mnt"] == json!([]), "{nothing}");
    stranger.does(&["state", "create", "shared", "--kind", "memory", "--size", "4"])?;
    stranger.does(&["state", "attach", "shared", "f"])?;
    let own = invoke(&stranger, list)?;
    ensure!(
        own["files"] == json!({"shared": []}),
        "its own of the name is another: {own}"
    );
    ensure!(invoke(&owner, sum)?["sum"] == filled["sum"], "control: it is unchanged");
    Ok(())
}

#[test]
fn control_root_what_is_written_in_a_volume_is_written_to_a_disk() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let node = Node::start()?;
    let lambda = node.lambda();
    deploy(&lambda, &["writes"])?;
    create(&lambda, "shared", "volume", 128, "any")?;
    attach(&lambda, "shared", "writes", &json!({}))?;
    let filled = fill(&lambda, "writes", 64)?;
    ensure!(filled["to_disk"].as_u64() >= Some(60 * MIB), "{filled}");
    Ok(())
}

#[test]
fn a_sandbox_from_before_an_attachment_does_not_serve_after_it() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let node = Node::start()?;
    let lambda = node.lambda();
    deploy(&lambda, &["lists"])?;
    create(&lambda, "shared", "memory", 16, "one")?;
    let list = || call(&lambda, "lists", &json!({"do": "list"}));
    let (first, again) = (list()?, list()?);
    ensure!(first["mnt"] == json!([]), "{first}");
    ensure!(first["sandbox"] == again["sandbox"], "control: a warm one serves again");
    attach(&lambda, "shared", "lists", &json!({"mount_path": "/mnt/My_Place.1"}))?;
    let with = list()?;
    ensure!(with["mnt"] == json!(["My_Place.1"]), "{with}");
    ensure!(
        with["sandbox"] == list()?["sandbox"],
        "control: it stays warm with its folder"
    );
    detach(&lambda, "shared", "lists")?;
    let without = list()?;
    ensure!(without["mnt"] == json!([]), "{without}");
    Ok(())
}

/// More than its size does not fit in a folder, and less does.
fn size_is_kept(kind: &str) -> Result<()> {
    let node = Node::start()?;
    let lambda = node.lambda();
    deploy(&lambda, &["writes"])?;
    create(&lambda, "shared", kind, 32, "one")?;
    attach(&lambda, "shared", "writes", &json!({}))?;
    let small = fill(&lambda, "writes", 16)?;
    ensure!(small["sum"].is_string(), "control: it fits: {small}");
    let large = fill(&lambda, "writes", 40)?;
    ensure!(large["error"] == "ENOSPC", "{large}");
    let again = fill(&lambda, "writes", 16)?;
    ensure!(again["sum"] == small["sum"], "it can be used on: {again}");
    Ok(())
}

#[test]
fn shared_memory_holds_no_more_than_its_size() -> Result<()> {
    if can_run() { size_is_kept("memory") } else { Ok(()) }
}

#[test]
fn root_a_volume_holds_no_more_than_its_size() -> Result<()> {
    if can_mount() { size_is_kept("volume") } else { Ok(()) }
}

#[test]
fn t_a10_memory_that_ended_with_its_node_is_told_of_until_it_is_attached_again() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let mut node = Node::start()?;
    let lambda = node.lambda();
    deploy(&lambda, &["writes", "reads"])?;
    create(&lambda, "shared", "memory", 16, "any")?;
    attach(&lambda, "shared", "writes", &json!({}))?;
    attach(&lambda, "shared", "reads", &json!({}))?;
    let filled = fill(&lambda, "writes", 1)?;
    ensure!(sum(&lambda, "reads")? == filled["sum"], "control: it is there");

    for round in 0..2 {
        if round == 0 {
            node.kill()?;
        } else {
            node.terminate()?;
            node.wait_for_end()?;
        }
        node.start_again()?;
        for function in ["writes", "reads"] {
            let refused = lambda.invoke(function, &json!({"do": "list"}))?;
            ensure!(
                refused.status == 403 && refused.error() == "EFSMountFailureException",
                "{} {} {}",
                refused.status,
                refused.error(),
                refused.json()
            );
            let text = refused.json()["Message"].to_string();
            ensure!(text.contains("was lost when its node ended"), "{text}");
        }
        let shown = lambda.get("/v1/state/shared")?.expect(200)?.json();
        ensure!(shown["attached"][0]["lost"] == true, "{shown}");
        ensure!(shown["lifetime"] == "instance" && shown["status"] == "ready", "{shown}");
        let shown = attach(&lambda, "shared", "writes", &json!({}))?;
        ensure!(shown["attached"][1].get("lost").is_none(), "{shown}");
        let anew = call(&lambda, "writes", &json!({"do": "list"}))?;
        ensure!(anew["files"] == json!({"shared": []}), "{anew}");
        ensure!(
            lambda.invoke("reads", &json!({"do": "list"}))?.status == 403,
            "the other one is told until it is attached again itself"
        );
        attach(&lambda, "shared", "reads", &json!({}))?;
        let filled = fill(&lambda, "writes", 1)?;
        ensure!(sum(&lambda, "reads")? == filled["sum"]);
    }
    Ok(())
}

#[test]
fn t_a10_root_a_volume_outlives_functions_and_kills_of_its_node() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut node = Node::start()?;
    let lambda = node.lambda();
    deploy(&lambda, &["writes"])?;
    let made = create(&lambda, "shared", "volume", 64, "one")?;
    ensure!(made["lifetime"] == "detached" && made["status"] == "ready", "{made}");
    attach(&lambda, "shared", "writes", &json!({}))?;
    let filled = fill(&lambda, "writes", 32)?;
    for round in 0..3 {
        if round == 1 {
            node.terminate()?;
            node.wait_for_end()?;
        } else {
            node.kill()?;
        }
        node.start_again()?;
        ensure!(sum(&lambda, "writes")? == filled["sum"], "in round {round}");
    }
    lambda.delete("/2015-03-31/functions/writes")?.expect(200)?;
    deploy(&lambda, &["reads"])?;
    attach(&lambda, "shared", "reads", &json!({"access": "read"}))?;
    ensure!(sum(&lambda, "reads")? == filled["sum"]);
    Ok(())
}

/// Two functions count in one file, for many callers at once, with a pause between reading and writing; what the counter is then.
pub(crate) fn count_at_once(lambda: &Lambda, pause_seconds: f64) -> Result<u64> {
    let event = json!({"do": "count", "pause": pause_seconds});
    std::thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|caller| {
                let (event, function) = (&event, ["count", "also"][caller % 2]);
                scope.spawn(move || {
                    for _ in 0..CALLS_EACH {
                        let told = call(lambda, function, event)?;
                        ensure!(told["n"].is_u64(), "{told}");
                    }
                    Ok(())
                })
            })
            .collect();
        let mut ended = callers.into_iter();
        ended.try_for_each(|caller| caller.join().expect("callers do not panic"))
    })?;
    let last = call(lambda, "count", &json!({"do": "count"}))?;
    Ok(last["n"].as_u64().context("no number")? - 1)
}

/// Counts where one may write at a time, and where any may: nothing is lost in the one, and something in the other, the control.
pub(crate) fn one_writer_loses_nothing(count: fn(&str) -> Result<u64>) -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let all = (CALLERS * CALLS_EACH) as u64;
    let one = count("one")?;
    ensure!(one == all, "{one} of {all}");
    let any = count("any")?;
    ensure!(any < all, "control: many writers lose some, here none was lost");
    Ok(())
}

#[test]
fn t_a8_concurrent_increments_of_a_file_are_all_there_with_one_writer_and_not_with_any() -> Result<()> {
    one_writer_loses_nothing(|writers| {
        let node = Node::start()?;
        let lambda = node.lambda();
        deploy(&lambda, &["count", "also"])?;
        create(&lambda, "shared", "memory", 4, writers)?;
        attach(&lambda, "shared", "count", &json!({}))?;
        attach(&lambda, "shared", "also", &json!({}))?;
        count_at_once(&lambda, 0.02)
    })
}

#[test]
fn one_who_waits_too_long_for_another_writer_is_throttled_and_a_reader_does_not_wait() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let node = Node::start()?;
    let lambda = node.lambda();
    deploy(&lambda, &["holds", "reads"])?;
    lambda.deploy("waits", &Artifact::python_source(SOURCE)?, json!({"Timeout": 3}))?;
    create(&lambda, "shared", "memory", 4, "one")?;
    attach(&lambda, "shared", "holds", &json!({}))?;
    attach(&lambda, "shared", "waits", &json!({}))?;
    attach(&lambda, "shared", "reads", &json!({"access": "read"}))?;
    let count = json!({"do": "count"});
    ensure!(call(&lambda, "waits", &count)?["n"] == 1, "control: nobody else writes");
    let holder = lambda.clone();
    let holding = std::thread::spawn(move || {
        let begun = json!({"do": "fill", "mib": 1, "path": "/mnt/shared/begun"});
        call(&holder, "holds", &begun)?;
        call(
            &holder,
            "holds",
            &json!({"do": "count", "pause": 12, "path": "/mnt/shared/other"}),
        )
    });
    let throttled = patience::until(SEEN_MAX, || {
        let reply = lambda.invoke("waits", &count).ok()?;
        (reply.status == 429 || holding.is_finished()).then_some(reply)
    });
    let throttled = throttled.context("it neither waits nor ends")?;
    ensure!(throttled.status == 429, "{} {}", throttled.status, throttled.json());
    ensure!(throttled.error() == "TooManyRequestsException", "{}", throttled.error());
    let text = throttled.json()["message"].to_string();
    ensure!(text.contains("another invocation writes"), "{text}");
    if !holding.is_finished() {
        let seen = call(&lambda, "reads", &json!({"do": "list"}))?;
        ensure!(seen["files"]["shared"] == json!(["begun", "file"]), "{seen}");
    }
    let _held = holding.join().expect("it does not panic");
    ensure!(call(&lambda, "waits", &count)?["n"].is_u64(), "the turn comes back");
    Ok(())
}

/// Whether a function's thread writes on after its invocation, while another function is at its turn.
fn lingers(lambda: &Lambda) -> Result<bool> {
    call(lambda, "lingers", &json!({"do": "linger"}))?;
    let seen = call(lambda, "watches", &json!({"do": "watch"}))?;
    Ok(seen["grew"].as_u64().with_context(|| seen.to_string())? > 0)
}

#[test]
fn root_what_a_writer_left_running_writes_in_nobody_elses_turn() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let node = Node::start()?;
    let lambda = node.lambda();
    deploy(&lambda, &["lingers", "watches"])?;
    let share = |name: &str, writers: &str| -> Result<()> {
        create(&lambda, name, "memory", 4, writers)?;
        for function in ["lingers", "watches"] {
            attach(&lambda, name, function, &json!({"mount_path": "/mnt/shared"}))?;
        }
        call(&lambda, "lingers", &json!({"do": "count"}))?;
        Ok(())
    };
    share("any", "any")?;
    let control = patience::until(SEEN_MAX, || lingers(&lambda).ok().filter(|lingers| *lingers));
    control.context("control: where all may write it writes on")?;
    for function in ["lingers", "watches"] {
        detach(&lambda, "any", function)?;
    }
    share("one", "one")?;
    for _ in 0..5 {
        ensure!(!lingers(&lambda)?, "it writes in another's turn");
    }
    Ok(())
}

/// The loop devices over files in the node's data folder.
fn loops(node: &Node) -> BTreeSet<String> {
    let data = node.data().display().to_string();
    let devices = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let files = devices.filter_map(|device| fs::read_to_string(device.path().join("loop/backing_file")).ok());
    files.filter(|file| file.contains(&data)).collect()
}

fn volume_files(node: &Node) -> Vec<String> {
    let entries = fs::read_dir(node.data().join("state")).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

#[test]
fn root_nothing_is_left_of_a_volume_that_was_removed_also_after_kills() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut node = Node::start()?;
    let lambda = node.lambda();
    deploy(&lambda, &["writes"])?;
    for is_killed in [false, true] {
        create(&lambda, "shared", "volume", 16, "one")?;
        attach(&lambda, "shared", "writes", &json!({}))?;
        ensure!(fill(&lambda, "writes", 1)?["sum"].is_string());
        ensure!(loops(&node).len() == 1 && volume_files(&node).len() == 1, "control");
        let in_use = lambda.delete("/v1/state/shared")?;
        ensure!(in_use.status == 409, "it is attached: {}", in_use.json());
        if is_killed {
            node.kill()?;
            // The kernel ends what the node had, and nothing else does: no other node has been started.
            let gone = patience::until(SEEN_MAX, || loops(&node).is_empty().then_some(()));
            gone.with_context(|| format!("left after a kill: {:?}", loops(&node)))?;
            let stray = node.data().join("state/stray.ext4");
            fs::write(&stray, b"of a creation that was cut off")?;
            node.start_again()?;
            ensure!(!stray.exists() && volume_files(&node).len() == 1);
        }
        detach(&lambda, "shared", "writes")?;
        lambda.delete("/v1/state/shared")?.expect(204)?;
        let gone = patience::until(SEEN_MAX, || loops(&node).is_empty().then_some(()));
        gone.with_context(|| format!("left: {:?}", loops(&node)))?;
        ensure!(volume_files(&node).is_empty(), "{:?}", volume_files(&node));
        ensure!(lambda.get("/v1/state/shared")?.status == 404);
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let data = node.data().display().to_string();
    ensure!(!mounts.contains(&data), "the host has never seen any of it: {mounts}");
    Ok(())
}

#[test]
fn root_a_store_that_knows_nothing_of_a_nodes_volumes_has_none_of_them_removed() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let mut node = Node::start()?;
    deploy(&node.lambda(), &["writes"])?;
    create(&node.lambda(), "shared", "volume", 16, "one")?;
    attach(&node.lambda(), "shared", "writes", &json!({}))?;
    let written = fill(&node.lambda(), "writes", 1)?["sum"].clone();
    ensure!(written.is_string() && volume_files(&node).len() == 1, "control");
    node.kill()?;
    let aside = tempfile::tempdir()?;
    move_store(&node.data(), aside.path())?;
    node.start_again()?;
    let found = node.lambda().get("/v1/state/shared")?;
    ensure!(
        found.status == 404,
        "this store has never heard of it: {}",
        found.json()
    );
    ensure!(
        volume_files(&node).len() == 1,
        "what it does not know is not its to remove"
    );
    // Nor is the code of functions, though this store comes to have its own, and starts with it.
    deploy(&node.lambda(), &["other"])?;
    call(&node.lambda(), "other", &json!({"do": "none"}))?;
    node.kill()?;
    node.start_again()?;
    node.kill()?;
    let other = tempfile::tempdir()?;
    move_store(&node.data(), other.path())?;
    move_store(aside.path(), &node.data())?;
    node.start_again()?;
    ensure!(sum(&node.lambda(), "writes")? == written, "it is as it was");
    Ok(())
}

/// Moves the store of a node that does not run.
pub(crate) fn move_store(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from)? {
        let name = entry?.file_name();
        if name.to_string_lossy().starts_with("bowline.db") {
            fs::rename(from.join(&name), to.join(&name))?;
        }
    }
    Ok(())
}

#[test]
fn what_cannot_be_a_folder_is_refused() -> Result<()> {
    let node = Node::start_with(Settings {
        environment: vec![("BOWLINE_MEMORY_BUDGET".into(), "512MiB".into())],
        ..Settings::default()
    })?;
    let lambda = node.lambda();
    let make = |body: Value| -> Result<(u16, Value)> {
        let reply = lambda.post("/v1/state", &body)?;
        Ok((reply.status, reply.json()))
    };
    for body in [
        json!({"name": "a", "kind": "memory"}),
        json!({"name": "a", "kind": "memory", "size_mib": 0}),
        json!({"name": "a", "kind": "volume", "size_mib": 15}),
        json!({"name": "a", "kind": "keys", "size_mib": 16}),
        json!({"name": "a", "kind": "other", "size_mib": 16}),
    ] {
        let (status, told) = make(body.clone())?;
        ensure!(status == 400, "{body}: {status} {told}");
    }
    let (status, told) = make(json!({"name": "a", "kind": "memory", "size_mib": 513}))?;
    ensure!(status == 409 && told["code"] == "no_room", "{status} {told}");
    let (status, told) = make(json!({"name": "a", "kind": "memory", "size_mib": 1}))?;
    ensure!(status == 201, "control: {status} {told}");

    lambda.deploy("wasm", &Artifact::reactor()?, json!({}))?;
    let refused = lambda.put("/v1/state/a/functions/wasm", &json!({}))?;
    ensure!(refused.status == 409, "{} {}", refused.status, refused.json());
    let text = refused.json()["detail"].to_string();
    ensure!(text.contains("WebAssembly"), "{text}");
    Ok(())
}

#[test]
fn t_a11_root_functions_run_on_the_node_that_has_their_volume() -> Result<()> {
    if !can_mount() || !has_postgres() {
        return Ok(());
    }
    let (server, shared) = (Server::start()?, tempfile::tempdir()?);
    let mut first = member(&server.url(), shared.path())?;
    let second = member(&server.url(), shared.path())?;
    let (there, here) = (first.lambda(), second.lambda());
    deploy(&there, &["writes", "free"])?;
    create(&there, "shared", "volume", 16, "one")?;
    attach(&there, "shared", "writes", &json!({}))?;
    let filled = fill(&there, "writes", 1)?;
    let seen = patience::until(SEEN_MAX, || {
        let shown = here.get("/v1/state/shared").ok()?.json();
        let reply = here.invoke("writes", &json!({"do": "sum"})).ok()?;
        (shown["status"] == "ready" && reply.status == 200 && reply.json()["sum"] == filled["sum"]).then_some(())
    });
    seen.context("the other node does not see it")?;
    let node_of = |reply: &Reply| reply.header("x-bowline-node").to_owned();
    let mut ran_on = BTreeSet::new();
    let count = json!({"do": "count", "path": "/mnt/shared/n"});
    for number in 1..=20 {
        // Where a busy machine makes a node late nothing has begun, and the same is asked again.
        let reply = patience::until(SEEN_MAX, || {
            let reply = here.invoke("writes", &count);
            (!reply.as_ref().is_ok_and(|reply| reply.status == 503)).then_some(reply)
        });
        let reply = reply.context("its node takes nothing")??;
        ran_on.insert(node_of(&reply));
        ensure!(told(reply)?["n"] == number);
    }
    ensure!(
        ran_on.len() == 1 && !ran_on.contains(""),
        "all twenty run elsewhere: {ran_on:?}"
    );

    first.kill()?;
    let away = here.invoke("writes", &json!({"do": "sum"}))?;
    ensure!(
        away.status == 503 && away.error() == "ServiceException",
        "{} {}",
        away.status,
        away.json()
    );
    ensure!(
        away.json()["Message"].to_string().contains("is away"),
        "{}",
        away.json()
    );
    let free = patience::until(SEEN_MAX, || {
        let reply = here.invoke("free", &json!({"do": "list"})).ok()?;
        (reply.status == 200).then_some(())
    });
    free.context("control: a function without a volume runs on")?;
    first.start_again()?;
    let back = patience::until(SEEN_MAX, || {
        let reply = here.invoke("writes", &json!({"do": "sum"})).ok()?;
        (reply.status == 200 && reply.json()["sum"] == filled["sum"]).then_some(())
    });
    back.context("it is not there again once its node is")?;
    Ok(())
}
